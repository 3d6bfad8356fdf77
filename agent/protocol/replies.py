# SPDX-License-Identifier: Apache-2.0
"""Messages of a daemon as a client has them: a class for each kind of message, and its constructor."""

from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from agent.protocol import codec
from agent.record import record

if TYPE_CHECKING:
    from agent.table.areas import AtExec


@record
class Hello:
    """The daemon's description of itself and of the client.

    Attributes:
        protocol: the version of the protocol on this connection.
        version: of the daemon's program.
        boot_id: of the host.
        features: names of the daemon's abilities; a client may pass over one that it does not know.
        formats: of snapshots.
        events: kinds of events that can be subscribed to.
        sees: ``all``, or ``own``: tasks of the client's user and groups.
        pid, uid, gid: the client's ids as the daemon sees them.
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


@record
class Answer:
    """A snapshot as the daemon sends it.

    Attributes:
        data: the bytes of the file.
        complete: False where the snapshot is incomplete, for the `reasons`: exit code 6.
        verified: as in model.Completeness.
        reasons, squashed, entered: for the user.
        tasks: count of tasks.
        elapsed_ns: time within the daemon, from request to bytes.
        order: number of the first event that is not in it; 0 where it is from no daemon.
        workers: threads of the kernel and io workers below the root, which were left out.
        outer: for each pid object, in the file's order, its numbers in the namespaces above the root's, from the
            client's inward; empty where the client did not ask.
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
    outer: tuple[tuple[int, ...], ...] = ()


@record
class EventTask:
    """The task that an event is about.

    Attributes:
        pid, tid: numbers of its process and of itself in the subscriber's pid namespace.
        numbers: its numbers from that namespace inward.
        start_ns: CLOCK_BOOTTIME at birth; with the number it identifies the task.
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


@record
class Event:
    """A change of the tree.

    Attributes:
        kind: of agent.events.subscriber.KINDS; or ``loss``, ``resync``, ``dropped``, ``hidden``, ``end``. A later
            daemon may send others.
        order: its number: larger is later, and as in the births of snapshots.
        task: the task that it is about; None for those five.
        details: the fields of the kind, and ``assumed`` or ``entered`` where they apply.
        time_ns: CLOCK_REALTIME: of a birth the time itself, of any other event a time by which it had happened; None
            from an older daemon.
    """

    kind: str
    order: int
    task: EventTask | None
    details: Mapping[str, Any]
    time_ns: int | None = None


def hello_of(answer: codec.Message) -> Hello:
    """Make a hello of an answer; raise KeyError where a key is missing."""
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


_OF_TASK: Final = ("pid", "tid", "numbers", "start_ns", "uid", "gid", "comm")
_TASK_OF: Final = itemgetter(*_OF_TASK)
_NO_DETAILS: Final = frozenset(("event", "order", "time_ns", *_OF_TASK))


def event_of(said: dict[str, Any]) -> Event:
    """Return the event that a message of the daemon tells; raise KeyError where a key is missing."""
    task = None
    if "tid" in said:
        pid, tid, numbers, *others = _TASK_OF(said)
        task = EventTask(pid, tid, tuple(numbers), *others)
    rest = {key: said[key] for key in said if key not in _NO_DETAILS}
    return Event(said["event"], said["order"], task, rest, said.get("time_ns"))


def said_of(event: Event) -> dict[str, Any]:
    """Return the message of an event, of which `event_of` makes it again."""
    said = {"event": event.kind, "order": event.order, **event.details}
    if event.time_ns is not None:
        said["time_ns"] = event.time_ns
    if event.task is not None:
        said |= {key: getattr(event.task, key) for key in _OF_TASK} | {"numbers": list(event.task.numbers)}
    return said


def answer_of(answer: codec.Message, data: bytes) -> Answer:
    """Return the answer in a message of the daemon and the bytes behind it; raise KeyError where a key is missing."""
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
        outer=tuple(map(tuple, answer.get("outer", ()))),
    )


def at_exec_of(answer: codec.Message) -> "AtExec":
    """Make the areas of an answer to ``strings``; raise KeyError where a key is missing."""
    from agent.table.areas import Area, AtExec

    told = [answer[key] for key in ("arguments", "environment")]
    return AtExec(*[None if area is None else Area(*area) for area in told])
