# SPDX-License-Identifier: Apache-2.0
"""What a daemon says, as a client has it: one class for each kind of message, and how it is made of the message."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent import control


@dataclass(frozen=True, slots=True)
class Hello:
    """What the daemon says of itself and of us.

    Attributes:
        protocol: the version that is spoken.
        version: of the daemon's program.
        boot_id: of the host.
        features: what it can do; a name that is not known here may be passed over.
        formats: of snapshots.
        events: kinds of events that can be subscribed to.
        sees: ``all``, or ``own``: tasks of our own user and groups.
        pid, uid, gid: who we are to it.
    """

    protocol: int
    version: str
    boot_id: str
    features: tuple[str, ...]
    formats: tuple[str, ...]
    events: tuple[str, ...]
    sees: str
    pid: int
    uid: int
    gid: int


Told = tuple[bytes | None, bytes | None]
"""What an exec has put into a process's memory, arguments and environment: agent.arguments.area_of reads it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A snapshot as the daemon sends it.

    Attributes:
        data: the file.
        complete: False: exit code 6, and `reasons` says why.
        verified: as in model.Completeness.
        reasons, squashed, entered: for the user.
        tasks: how many.
        elapsed_ns: what it took within the daemon, from request to bytes.
        order: number of the first event that is not in it; 0 where it is from no daemon.
        workers: threads of the kernel and io workers below the root, which were left out.
        strings: by tag, what the last exec of a process has put into its memory, where that was asked for and seen.
    """

    data: bytes
    complete: bool
    verified: str
    reasons: tuple[str, ...]
    squashed: tuple[str, ...]
    entered: tuple[str, ...]
    tasks: int
    elapsed_ns: int
    order: int = 0
    workers: int = 0
    strings: Mapping[int, Told] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EventTask:
    """Whom an event is about.

    Attributes:
        pid, tid: its process and itself, as the subscriber's pid namespace counts.
        numbers: its numbers from that namespace inward.
        start_ns: CLOCK_BOOTTIME at birth; with the number, who it is.
        uid, gid: real ids in the initial user namespace.
        comm: as of the event; not necessarily UTF-8.
    """

    pid: int
    tid: int
    numbers: tuple[int, ...]
    start_ns: int
    uid: int
    gid: int
    comm: bytes


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        kind: of agent.subscription.KINDS; or ``loss``, ``resync``, ``dropped``, ``hidden``, ``end``. Others
            may come of a later daemon.
        order: its number: larger is later, and as in the births of snapshots.
        task: whom it is about; None for those five.
        details: what is particular to the kind, and ``assumed`` or ``entered`` where that is so.
        time_ns: CLOCK_REALTIME: of a birth when it was, of all else a moment by which it had happened; None of an older
            daemon.
    """

    kind: str
    order: int
    task: EventTask | None
    details: Mapping[str, Any]
    time_ns: int | None = None


def hello_of(answer: control.Message) -> Hello:
    """A hello out of an answer; KeyError where something is missing."""
    peer = answer["peer"]
    return Hello(
        protocol=answer["protocol"],
        version=answer["version"],
        boot_id=answer["boot_id"],
        features=tuple(answer["features"]),
        formats=tuple(answer["formats"]),
        events=tuple(answer["events"]),
        sees=peer["sees"],
        pid=peer["pid"],
        uid=peer["uid"],
        gid=peer["gid"],
    )


_OF_TASK = ("pid", "tid", "numbers", "start_ns", "uid", "gid", "comm")


def event_of(said: dict[str, Any]) -> Event:
    """An event out of a message; KeyError where something is missing."""
    task = None
    if "tid" in said:
        fields = {key: said[key] for key in _OF_TASK}
        task = EventTask(**fields | {"numbers": tuple(fields["numbers"])})
    rest = {key: value for key, value in said.items() if key not in ("event", "order", "time_ns", *_OF_TASK)}
    return Event(said["event"], said["order"], task, rest, said.get("time_ns"))


def answer_of(answer: control.Message, data: bytes) -> Answer:
    """A snapshot out of an answer; KeyError where something is missing."""
    return Answer(
        data=data,
        complete=answer["complete"],
        verified=answer["verified"],
        reasons=tuple(answer["reasons"]),
        squashed=tuple(answer["squashed"]),
        entered=tuple(answer["entered"]),
        tasks=answer["tasks"],
        elapsed_ns=answer["elapsed_ns"],
        order=answer["order"],
        workers=answer.get("kernel_threads_left_out", 0),  # an older daemon does not say
        strings={tag: (arguments, environment) for tag, arguments, environment in answer.get("strings", ())},
    )
