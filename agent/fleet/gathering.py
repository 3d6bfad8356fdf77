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

import heapq
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from agent.fleet import hostanswers, messages
from agent.fleet.clocks import Offset
from agent.fleet.hostanswers import CutAnswer
from agent.fleet.manifest import FleetSet, HostImage, Missing, hash_of
from agent.fleet.messages import Message
from agent.record import NamedTuple

MS: Final = 1_000_000
_AGAIN_NS: Final = 250 * MS
_MOST_DOUBLED, _MOST_DOUBLED_DUMP = 3, 7
"""So often the time doubles after which a message is sent again: a network that is slow must not get more and more. A
dump is awaited once more for each repetition: the permissions of a server may let a relay answer for a minute alone."""
_ABSENT_NS: Final = 2000 * MS
"""So long a relay may be away, while it or the server is started again, before its host counts as missing."""
_LEAD_NS, _LEAD_DUMP_NS = 20 * MS, 2000 * MS
"""Hosts have so long until the instant: a process that dumps is started meanwhile."""
_MOST_FETCHING: Final = 128
"""Pieces that are on their way: 32 MB. The server disconnects a client for whom it has more than 64 MB."""
_MOST_BOUND: Final = 4
_MOST_BOUND_NS: Final = 25_000 * MS
"""All hosts wait for the instant twice as long as the time of any is uncertain: that may be half of what is left, and
less than the minute for which a relay lets a cut wait."""
_MOST_REASON: Final = 4096  # characters of a relay's words
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
        past_ns: the instant, from recordings, by the requester's CLOCK_REALTIME; None: now.
        requester: who asks for contents, too; empty: they are not asked for.
        end: with contents, the programs end.
    """

    id: str
    roots: Mapping[str, str]
    deadline_ns: int
    require_all: bool = False
    mode: str = "auto"
    with_argv: bool = False
    job: str = ""
    past_ns: int | None = None
    requester: str = ""
    end: bool = False


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


@dataclass(frozen=True, slots=True)
class Gathered:
    """The result of a gathering.

    Its text has no bytes of images: asyncio.run() makes a text of its result, as it restores the handler of SIGINT.

    Attributes:
        made: the set; its hosts have their images here.
        images: bytes by hash.
        abandoned: True where `require_all` forbids to write the set.
    """

    made: FleetSet = field(repr=False)
    images: dict[str, bytes] = field(repr=False)
    abandoned: bool


class _Expected:
    """A host, and how far it is."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.phase = HostPhase.ARMING
        self.awaited = 0  # number of the message whose answer is awaited; 0: none is
        self.tries = 0
        self.absent_ns: int | None = None
        self.clock: Offset | None = None
        self.reason = ""
        self.facts: CutAnswer | None = None
        self.data = bytearray()


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
        self._count = Counter({HostPhase.ARMING: len(self._hosts)})
        self._to_ask = deque(self._hosts)
        self._to_fetch: deque[str] = deque()
        self._fetching: set[str] = set()
        self._again: list[tuple[int, int, str]] = []  # a heap: when a message is sent again, its number, its host

    @property
    def done(self) -> bool:
        """True when nothing is to be sent or awaited any more."""
        return self._abandoned() or self._count[HostPhase.HERE] + self._count[HostPhase.MISSING] == len(self._hosts)

    def _abandoned(self) -> bool:
        return self._wanted.require_all and self._count[HostPhase.MISSING] > 0

    def _in(self, *phases: HostPhase) -> dict[str, _Expected]:
        return {host: each for host, each in self._hosts.items() if each.phase in phases}

    def _enter(self, host: str, phase: HostPhase, reason: str = "") -> None:
        each = self._hosts[host]
        self._count[each.phase] -= 1
        self._count[phase] += 1
        self._fetching.discard(host)
        each.phase, each.awaited, each.tries, each.absent_ns = phase, 0, 0, None
        each.reason = reason
        if phase in _ASKED:
            (self._to_fetch if phase is HostPhase.FETCHING else self._to_ask).append(host)

    def due(self, now_ns: int) -> list[Ask]:
        """Return the messages that are to be sent now."""
        self._advance(now_ns)
        if self.done:
            return []
        while self._again and self._again[0][0] <= now_ns:
            _, number, host = heapq.heappop(self._again)
            if self._hosts[host].awaited == number:  # its answer has not come
                self._hosts[host].awaited = 0
                self._fetching.discard(host)
                is_fetched = self._hosts[host].phase is HostPhase.FETCHING
                (self._to_fetch if is_fetched else self._to_ask).append(host)
        found = []
        while self._to_ask:
            host = self._to_ask.popleft()
            each = self._hosts[host]
            if each.phase in (HostPhase.ARMING, HostPhase.CUTTING) and not each.awaited:
                found.append(self._ask(host, self._request(each, now_ns), now_ns))
        # A host that does not answer holds up no other: its place is free after a while.
        while self._to_fetch and len(self._fetching) < _MOST_FETCHING:
            host = self._to_fetch.popleft()
            each = self._hosts[host]
            if each.phase is HostPhase.FETCHING and not each.awaited:
                self._fetching.add(host)
                found.append(self._ask(host, {"id": self._wanted.id, "offset": len(each.data)}, now_ns))
        return found

    def _ask(self, host: str, message: Message, now_ns: int) -> Ask:
        each = self._hosts[host]
        number = len(self._sent) + 1
        self._sent[number] = host, self._verb(each.phase), now_ns
        patience_ns = max(_AGAIN_NS, 8 * each.clock.bound_ns if each.clock is not None else 0)
        doubled = min(each.tries, _MOST_DOUBLED_DUMP if self._wanted.requester else _MOST_DOUBLED)
        heapq.heappush(self._again, (now_ns + (patience_ns << doubled), number, host))
        each.awaited = number
        each.tries += 1
        return Ask(host, self._verb(each.phase), message, number)

    def _verb(self, phase: HostPhase) -> str:
        """Return the verb with which a host is asked in a phase; empty: it is not asked."""
        return messages.DUMP if phase is HostPhase.CUTTING and self._wanted.requester else _ASKED.get(phase, "")

    def _request(self, each: _Expected, now_ns: int) -> Message:
        wanted = self._wanted
        request: Message = {
            "id": wanted.id,
            "root": each.root,
            "mode": wanted.mode,
            "with_argv": wanted.with_argv,
            "past": wanted.past_ns is not None,
            "left_ns": self._deadline_ns - now_ns,
        }
        if wanted.requester:
            request |= {"requester": wanted.requester, "end": wanted.end}
        if each.phase is HostPhase.CUTTING and self._at_ns is not None and each.clock is not None:
            request["at_ns"] = each.clock.there(self._at_ns)
        return request

    def _advance(self, now_ns: int) -> None:
        if now_ns >= self._deadline_ns:
            for host, each in self._hosts.items():
                if each.phase not in (HostPhase.HERE, HostPhase.MISSING):
                    self._enter(host, HostPhase.MISSING, _LATE if each.absent_ns is None else _ABSENT)
            return
        if now_ns >= self._arm_by_ns and self._count[HostPhase.ARMING]:
            for host, each in self._in(HostPhase.ARMING).items():
                late = f"{_LATE}, of the first half of the time"
                self._enter(host, HostPhase.MISSING, late if each.absent_ns is None else _ABSENT)
        if self._at_ns is None and not self._count[HostPhase.ARMING] and self._count[HostPhase.READY]:
            ready = self._in(HostPhase.READY)
            for host, each in ready.items():
                bound_ns = each.clock.bound_ns if each.clock is not None else 0
                if bound_ns > min(_MOST_BOUND_NS, (self._deadline_ns - now_ns) // _MOST_BOUND):
                    self._fail(
                        host, f"its relay answered so late that its clock is known to {bound_ns / 1e9:.1f} s only"
                    )
            ready = self._in(HostPhase.READY)
            if self._abandoned() or not ready:
                return
            # Each must have the message before the instant, with some room.
            bounds = [each.clock.bound_ns for each in ready.values() if each.clock is not None]
            lead_ns = _LEAD_DUMP_NS if self._wanted.requester else _LEAD_NS
            soon_ns = now_ns + lead_ns + 2 * max(bounds, default=0)
            self._at_ns = soon_ns if self._wanted.past_ns is None else self._wanted.past_ns
            for host in ready:
                self._enter(host, HostPhase.CUTTING)

    def next_ns(self, now_ns: int) -> int:
        """Return the time at which `due` is to be called again if no answer comes."""
        times = [self._deadline_ns]
        if self._count[HostPhase.ARMING]:
            times.append(self._arm_by_ns)
        if self._to_ask or (self._to_fetch and len(self._fetching) < _MOST_FETCHING):
            times.append(now_ns)
        if self._again:
            times.append(self._again[0][0])
        return max(now_ns, min(times))

    def absent(self, number: int, now_ns: int) -> None:
        """Take the server's word that nobody listens to the subject of a message."""
        if number not in self._sent or not self._is_awaited(number):
            return
        host = self._sent[number][0]
        each = self._hosts[host]
        if each.absent_ns is None:
            each.absent_ns = now_ns
        elif now_ns - each.absent_ns >= _ABSENT_NS:
            self._enter(host, HostPhase.MISSING, _ABSENT)
            return
        if each.awaited == number:  # no answer will come, and the relay may be back at any moment
            each.tries = 0
            heapq.heappush(self._again, (now_ns + _AGAIN_NS, number, host))

    def refused(self, number: int, reason: str) -> None:
        """Take the relay's word that it will not, or cannot, do what a message asks for."""
        if number in self._sent and self._is_awaited(number):
            self._fail(self._sent[number][0], reason[:_MOST_REASON])

    def _is_awaited(self, number: int) -> bool:
        """Return True if a message is of the phase in which its host is: an answer to an earlier try counts, too."""
        host, verb, _ = self._sent[number]
        return self._verb(self._hosts[host].phase) == verb

    def answered(self, number: int, answer: Message, now_ns: int) -> None:
        """Take a relay's answer to a message. One that is not awaited any more changes nothing."""
        if number not in self._sent or now_ns >= self._deadline_ns or not self._is_awaited(number):
            return
        host, verb, sent_ns = self._sent[number]
        each = self._hosts[host]
        try:
            if verb == messages.ARM:
                each.clock = hostanswers.clock(answer, sent_ns, now_ns)
                self._enter(host, HostPhase.READY)
            elif verb in (messages.CUT, messages.DUMP):
                self._cut(host, answer, hostanswers.clock(answer, sent_ns, now_ns).narrower(each.clock))
            elif each.facts is not None:
                self._piece(host, each.facts, answer)
        except (KeyError, TypeError, ValueError) as error:
            self._fail(host, f"its relay answered {verb} without {error}: it is of another version, or at fault")

    def _fail(self, host: str, reason: str) -> None:
        self._enter(host, HostPhase.MISSING, reason)

    def _cut(self, host: str, answer: Message, clock: Offset) -> None:
        each = self._hosts[host]
        each.facts, each.clock = hostanswers.cut(answer, contents=bool(self._wanted.requester)), clock
        self._enter(host, HostPhase.FETCHING)
        if each.facts.data:
            each.data += each.facts.data
            self._finish(host, each.facts)

    def _piece(self, host: str, facts: CutAnswer, answer: Message) -> None:
        each = self._hosts[host]
        if hostanswers.whole(answer, "offset") != len(each.data):
            return  # the answer to a question that was asked twice
        data = answer["data"]
        if not isinstance(data, bytes) or not data or len(each.data) + len(data) > facts.size:
            self._fail(host, "its relay sent other bytes than it announced")
            return
        each.data += data
        each.awaited = each.tries = 0
        self._fetching.discard(host)
        self._to_fetch.appendleft(host)
        self._finish(host, facts)

    def _finish(self, host: str, facts: CutAnswer) -> None:
        each = self._hosts[host]
        if len(each.data) < facts.size:
            return
        if hash_of(bytes(each.data)) != facts.image:
            self._fail(host, "the image that came has another hash than its relay announced")
            return
        self._enter(host, HostPhase.HERE)

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
            tuple(_image_of(host, each, each.facts) for host, each in here.items() if each.facts is not None),
            missing,
            self._wanted.job,
        )
        images = {each.facts.image: bytes(each.data) for each in here.values() if each.facts is not None}
        return Gathered(made, images, self._abandoned())


def _image_of(host: str, each: _Expected, facts: CutAnswer) -> HostImage:
    return HostImage(
        host=host,
        root=each.root,
        image=facts.image,
        size=facts.size,
        tasks=facts.tasks,
        before_ns=facts.before_ns,
        after_ns=facts.after_ns,
        clock=each.clock or Offset(0, 0),
        complete=facts.complete,
        reasons=facts.reasons,
        boot_id=facts.boot_id,
        kernel=facts.kernel,
        version=facts.version,
        contents=facts.contents,
    )
