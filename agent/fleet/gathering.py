# SPDX-License-Identifier: Apache-2.0
"""The phases in which a requester gathers a set from many hosts, without a network or a clock.

    arming ── ready ──▶ waiting ── all are ready, or half of the time is over ──▶ cutting ──▶ fetching ──▶ here
       └───────────────────────── refused, late, gone ─────────────────────────────────────────────────▶ missing

Each host stands in one of these phases. `Gathering.due` says which messages are to be sent now, the first time or again:
an answer may be lost, and the relay's work is the same for a request that comes twice. `Gathering.answered` takes
answers in any order, however late or repeated. Nothing goes on after the deadline.

Times are of one clock of the requester's, which nobody sets (CLOCK_MONOTONIC), plus an amount that makes them
CLOCK_REALTIME at the beginning.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple

from agent.fleet import messages
from agent.fleet.clocks import Offset
from agent.fleet.manifest import FleetSet, HostImage, Missing, hash_of
from agent.fleet.messages import Message

MS: Final = 1_000_000
_AGAIN_NS: Final = 500 * MS
_ABSENT_NS: Final = 2000 * MS
"""So long a relay may be away, while it or the server is started again, before its host counts as missing."""
_LEAD_NS: Final = 20 * MS
_MOST_FETCHING: Final = 32
MOST_IMAGE: Final = 256 << 20
_LATE: Final = "the relay has not answered by the deadline"
_ABSENT: Final = "no relay of that name is connected"


class HostPhase(Enum):
    """A host's phase."""

    ARMING = "arming"
    READY = "ready"
    CUTTING = "cutting"
    FETCHING = "fetching"
    HERE = "here"
    MISSING = "missing"


_ASKED: Final = {HostPhase.ARMING: messages.ARM, HostPhase.CUTTING: messages.CUT, HostPhase.FETCHING: messages.IMAGE}
"""The verb with which a host is asked in a phase."""


class Wanted(NamedTuple):
    """A set that is asked for.

    Attributes:
        id: of the request; relays do the work of an id once.
        roots: ROOT by host, of every host that is expected.
        deadline_ns: from the beginning until all must be there.
        require_all: give up as soon as one host is missing.
        mode: of the snapshots, as ``ckptree snapshot`` has it.
        with_argv: have the relays add arguments and environment, as far as their rights go.
        job: the job that has these hosts; empty for none.
    """

    id: str
    roots: Mapping[str, str]
    deadline_ns: int
    require_all: bool = False
    mode: str = "auto"
    with_argv: bool = False
    job: str = ""


class Ask(NamedTuple):
    """A message to a host.

    Attributes:
        host: its name.
        verb: of agent.fleet.messages.
        message: the request.
        number: to give back with the answer.
    """

    host: str
    verb: str
    message: Message
    number: int


class Gathered(NamedTuple):
    """The result of a gathering.

    Attributes:
        made: the set; its hosts have their images here.
        images: bytes by hash.
        abandoned: True where `require_all` forbids to write the set.
    """

    made: FleetSet
    images: dict[str, bytes]
    abandoned: bool


class _Expected:
    """A host, and how far it is."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.phase = HostPhase.ARMING
        self.asked_ns: int | None = None
        self.absent_ns: int | None = None
        self.clock: Offset | None = None
        self.reason = ""
        self.facts: Message = {}
        self.data = bytearray()

    def enter(self, phase: HostPhase) -> None:
        self.phase, self.asked_ns, self.absent_ns = phase, None, None

    def is_due(self, now_ns: int) -> bool:
        return self.asked_ns is None or now_ns - self.asked_ns >= _AGAIN_NS


class Gathering:
    """A set that is being gathered.

    Args:
        wanted: the request.
        now_ns: the time at the beginning.
    """

    def __init__(self, wanted: Wanted, now_ns: int) -> None:
        self._wanted = wanted
        self._hosts = {host: _Expected(root) for host, root in sorted(wanted.roots.items())}
        self._deadline_ns = now_ns + wanted.deadline_ns
        self._arm_by_ns = now_ns + wanted.deadline_ns // 2
        self._at_ns: int | None = None
        self._sent: dict[int, tuple[str, str, int]] = {}
        self._numbers = 0

    @property
    def done(self) -> bool:
        """True when nothing is to be sent or awaited any more."""
        return self._abandoned() or all(
            each.phase in (HostPhase.HERE, HostPhase.MISSING) for each in self._hosts.values()
        )

    def _abandoned(self) -> bool:
        return self._wanted.require_all and any(each.phase is HostPhase.MISSING for each in self._hosts.values())

    def _in(self, *phases: HostPhase) -> dict[str, _Expected]:
        return {host: each for host, each in self._hosts.items() if each.phase in phases}

    def due(self, now_ns: int) -> list[Ask]:
        """Return the messages that are to be sent now."""
        self._advance(now_ns)
        if self.done:
            return []
        found = []
        for host, each in self._in(HostPhase.ARMING, HostPhase.CUTTING).items():
            if each.is_due(now_ns):
                found.append(self._ask(host, _ASKED[each.phase], self._request(each, now_ns), now_ns))
        for host, each in self._next_fetched(now_ns):
            piece = {"id": self._wanted.id, "offset": len(each.data)}
            found.append(self._ask(host, messages.IMAGE, piece, now_ns))
        return found

    def _next_fetched(self, now_ns: int) -> list[tuple[str, _Expected]]:
        """Return hosts that are to be asked for a piece of their image; one that does not answer holds up no other."""
        fetching = self._in(HostPhase.FETCHING)
        due = [(host, each) for host, each in fetching.items() if each.is_due(now_ns)]
        due.sort(key=lambda pair: pair[1].asked_ns or 0)
        return due[: max(0, _MOST_FETCHING - (len(fetching) - len(due)))]

    def _ask(self, host: str, verb: str, message: Message, now_ns: int) -> Ask:
        self._numbers += 1
        self._sent[self._numbers] = host, verb, now_ns
        self._hosts[host].asked_ns = now_ns
        return Ask(host, verb, message, self._numbers)

    def _request(self, each: _Expected, now_ns: int) -> Message:
        wanted = self._wanted
        request: Message = {
            "id": wanted.id,
            "root": each.root,
            "mode": wanted.mode,
            "with_argv": wanted.with_argv,
            "left_ns": self._deadline_ns - now_ns,
        }
        if each.phase is HostPhase.CUTTING and self._at_ns is not None and each.clock is not None:
            request["at_ns"] = each.clock.there(self._at_ns)
        return request

    def _advance(self, now_ns: int) -> None:
        if now_ns >= self._deadline_ns:
            for each in self._hosts.values():
                if each.phase not in (HostPhase.HERE, HostPhase.MISSING):
                    each.reason = each.reason or (_ABSENT if each.absent_ns is not None else _LATE)
                    each.enter(HostPhase.MISSING)
            return
        if now_ns >= self._arm_by_ns:
            for each in self._in(HostPhase.ARMING).values():
                each.reason = _ABSENT if each.absent_ns is not None else f"{_LATE}, of the first half of the time"
                each.enter(HostPhase.MISSING)
        ready = self._in(HostPhase.READY)
        if ready and self._at_ns is None and not self._in(HostPhase.ARMING) and not self._abandoned():
            # Each must have the message before the instant, with some room.
            bounds = [each.clock.bound_ns for each in ready.values() if each.clock is not None]
            self._at_ns = now_ns + _LEAD_NS + 2 * max(bounds, default=0)
            for each in ready.values():
                each.enter(HostPhase.CUTTING)

    def next_ns(self, now_ns: int) -> int:
        """Return the time at which `due` is to be called again if no answer comes."""
        times = [self._deadline_ns]
        if self._in(HostPhase.ARMING):
            times.append(self._arm_by_ns)
        asking = list(self._in(HostPhase.ARMING, HostPhase.CUTTING).values())
        asking += [each for _, each in self._next_fetched(now_ns)]
        times += [now_ns if each.asked_ns is None else each.asked_ns + _AGAIN_NS for each in asking]
        # The end of each one's patience gives room to those that wait for their turn.
        fetched = [each.asked_ns for each in self._in(HostPhase.FETCHING).values() if each.asked_ns is not None]
        times += [asked_ns + _AGAIN_NS for asked_ns in fetched if asked_ns + _AGAIN_NS > now_ns]
        return max(now_ns, min(times))

    def absent(self, number: int, now_ns: int) -> None:
        """Take the server's word that nobody listens to the subject of a message."""
        if (host := self._host_of(number)) is None:
            return
        each = self._hosts[host]
        if each.absent_ns is None:
            each.absent_ns = now_ns
        elif now_ns - each.absent_ns >= _ABSENT_NS and each.phase in _ASKED:
            each.reason = _ABSENT
            each.enter(HostPhase.MISSING)

    def refused(self, number: int, reason: str) -> None:
        """Take the relay's word that it will not, or cannot, do what a message asks for."""
        host = self._host_of(number)
        if host is not None and self._is_awaited(number):
            self._fail(self._hosts[host], reason)

    def _fail(self, each: _Expected, reason: str) -> None:
        each.reason = reason
        each.enter(HostPhase.MISSING)

    def _host_of(self, number: int) -> str | None:
        return self._sent[number][0] if number in self._sent else None

    def _is_awaited(self, number: int) -> bool:
        host, verb, _ = self._sent[number]
        return _ASKED.get(self._hosts[host].phase) == verb

    def answered(self, number: int, answer: Message, now_ns: int) -> None:
        """Take a relay's answer to a message. One that is not awaited any more changes nothing."""
        if number not in self._sent or now_ns >= self._deadline_ns:
            return
        host, verb, sent_ns = self._sent[number]
        each = self._hosts[host]
        if not self._is_awaited(number):
            return
        try:
            if verb == messages.ARM:
                each.clock = _measured(answer, sent_ns, now_ns)
                each.enter(HostPhase.READY)
            elif verb == messages.CUT:
                self._cut(each, answer, Offset.narrower(_measured(answer, sent_ns, now_ns), each.clock))
            else:
                self._piece(each, answer)
        except (KeyError, TypeError, ValueError) as error:
            self._fail(each, f"its relay answered {verb} without {error}: it is of another version")

    def _cut(self, each: _Expected, answer: Message, clock: Offset) -> None:
        size = _whole(answer, "bytes")
        if not 0 < size <= MOST_IMAGE:
            self._fail(each, f"its image has {size} bytes, and {MOST_IMAGE} are the most that are taken")
            return
        for key in ("before_ns", "after_ns", "tasks"):
            _whole(answer, key)
        each.facts, each.clock = answer, clock
        each.enter(HostPhase.FETCHING)
        data = answer.get("data")
        if isinstance(data, bytes) and data:
            each.data += data
            self._finish(each)

    def _piece(self, each: _Expected, answer: Message) -> None:
        if _whole(answer, "offset") != len(each.data):
            return  # the answer to a question that was asked twice
        data = answer["data"]
        if not isinstance(data, bytes) or not data or len(each.data) + len(data) > each.facts["bytes"]:
            self._fail(each, "its relay sent other bytes than it announced")
            return
        each.data += data
        each.asked_ns = None
        self._finish(each)

    def _finish(self, each: _Expected) -> None:
        if len(each.data) < each.facts["bytes"]:
            return
        if hash_of(bytes(each.data)) != each.facts.get("image"):
            self._fail(each, "the image that came has another hash than its relay announced")
            return
        each.enter(HostPhase.HERE)

    def armed(self) -> list[str]:
        """Return the hosts whose relays may hold something for this request: they may be told to let go of it."""
        return [host for host, each in self._hosts.items() if each.clock is not None]

    def result(self) -> Gathered:
        """Return the result; to be called when all is done."""
        here = self._in(HostPhase.HERE)
        missing = tuple(
            Missing(host, each.reason or "another host was missing before this one's turn")
            for host, each in self._hosts.items()
            if each.phase is not HostPhase.HERE and (each.phase is HostPhase.MISSING or not self._abandoned())
        )
        made = FleetSet(
            self._wanted.id,
            self._at_ns or 0,
            tuple(_image_of(host, each) for host, each in here.items()),
            missing,
            self._wanted.job,
        )
        images = {str(each.facts["image"]): bytes(each.data) for each in here.values()}
        return Gathered(made, images, self._abandoned())


def _measured(answer: Message, sent_ns: int, now_ns: int) -> Offset:
    return Offset.measured(sent_ns, _whole(answer, "received_ns"), _whole(answer, "answered_ns"), now_ns)


def _whole(answer: Message, key: str) -> int:
    value = answer[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a number as {key}")
    return value


def _image_of(host: str, each: _Expected) -> HostImage:
    facts = each.facts
    reasons = facts.get("reasons")
    return HostImage(
        host=host,
        root=each.root,
        image=str(facts["image"]),
        size=facts["bytes"],
        tasks=facts["tasks"],
        before_ns=facts["before_ns"],
        after_ns=facts["after_ns"],
        clock=each.clock or Offset(0, 0),
        complete=facts.get("complete") is True,
        reasons=tuple(map(str, reasons)) if isinstance(reasons, list) else (),
        boot_id=str(facts.get("boot_id", "")),
        kernel=str(facts.get("kernel", "")),
        version=str(facts.get("version", "")),
    )
