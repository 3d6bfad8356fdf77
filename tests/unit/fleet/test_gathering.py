# SPDX-License-Identifier: Apache-2.0
"""The phases of a set, against simulated relays that lose, delay, repeat and reorder messages, and die."""

import heapq
import random
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.fleet import manifest, messages
from agent.fleet.clocks import Offset
from agent.fleet.gathering import Ask, Gathered, Gathering, Wanted
from agent.fleet.manifest import HostContents, Missing, hash_of
from tests.support.examples import patient

MS = 1_000_000
START = 1_800_000_000_000 * MS
DEADLINE = 4000 * MS


@dataclass
class SimulatedRelay:
    """A relay with a clock of its own, and what it has cut.

    Attributes:
        offset: of its clock.
        size: of its image, bytes.
        refuses: the verb that it refuses.
        dies: it answers nothing after so many requests.
        cuts: instant of the cut by id, of the requester's clock.
        contents: of its programs; None: it sends none.
        dumps_ns: time that a dump takes.
    """

    offset: int = 0
    size: int = 300_000
    refuses: str = ""
    dies: int = 1 << 30
    cuts: dict[str, int] = field(default_factory=dict)
    contents: dict[str, Any] | None = None
    dumps_ns: int = 0
    requests: int = 0

    def image(self, host: str) -> bytes:
        """Return the image: every host has another one."""
        return (host.encode() * self.size)[: self.size]

    def answer(self, ask: Ask, now: int) -> tuple[int, dict[str, Any] | str] | None:
        """Return the answer and how long it takes; a text is a refusal; None: it is dead."""
        self.requests += 1
        if self.requests > self.dies:
            return None
        if ask.verb == self.refuses:
            return 0, "it will not"
        received, took = now + self.offset, 0
        facts: dict[str, Any] = {}
        if ask.verb in (messages.CUT, messages.DUMP):
            key = ask.message["id"]
            took = max(0, ask.message["at_ns"] - received)
            at = self.cuts.setdefault(key, now + took)
            image = self.image(ask.host)
            facts = {"image": hash_of(image), "bytes": len(image), "tasks": 3, "complete": True, "reasons": []}
            facts |= {"before_ns": at + self.offset, "after_ns": at + self.offset + MS, "data": b""}
            if len(image) <= messages.MOST_INLINE:
                facts["data"] = image
            if ask.verb == messages.DUMP:
                took += self.dumps_ns
                assert (ask.message["requester"], ask.message["end"]) == ("ops", True)
                facts |= {"contents": self.contents} if self.contents else {}
        elif ask.verb == messages.IMAGE:
            offset = ask.message["offset"]
            facts = {"offset": offset, "data": self.image(ask.host)[offset : offset + messages.PIECE]}
        return took, {"received_ns": received, "answered_ns": received + took, **facts}


@dataclass
class Network:
    """A network that loses, delays and repeats."""

    seed: int
    loss: float = 0.0
    twice: float = 0.0
    most_delay: int = 20 * MS
    sent: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def delays(self) -> list[int]:
        """Return the delay of each copy of a message that arrives."""
        copies = 2 if self.random.random() < self.twice else 1
        return [self.random.randrange(1, self.most_delay) for _ in range(copies) if self.random.random() >= self.loss]


def run(wanted: Wanted, relays: dict[str, SimulatedRelay], network: Network) -> tuple[Gathered, int]:
    """Gather until it is done; return the result and the time it took."""
    now = START
    gathering = Gathering(wanted, now)
    events: list[tuple[int, int, str, Any]] = []
    order = 0

    def later(at: int, what: str, thing: Any) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (at, order, what, thing))

    while not gathering.done:
        for ask in gathering.due(now):
            network.sent += 1
            for delay in network.delays():
                later(now + delay, "request" if ask.host in relays else "nobody", ask)
        if gathering.done:
            break
        wake = gathering.next_ns(now)
        if events and events[0][0] <= wake:
            now, _, what, thing = heapq.heappop(events)
            if what == "request":
                answer = relays[thing.host].answer(thing, now)
                for delay in network.delays() if answer is not None else ():
                    assert answer is not None
                    later(now + answer[0] + delay, "answer", (thing, answer[1]))
            elif what == "nobody":
                gathering.absent(thing.number, now)
            elif isinstance(thing[1], str):
                gathering.refused(thing[0].number, thing[1])
            else:
                gathering.answered(thing[0].number, thing[1], now)
        else:
            assert wake > now or gathering.due(now), "the loop would turn without end"
            now = max(now, wake)
    return gathering.result(), now - START


def check(wanted: Wanted, relays: dict[str, SimulatedRelay], gathered: Gathered, took: int) -> None:
    """Hold what holds whatever happens."""
    made = gathered.made
    here, missing = [each.host for each in made.hosts], [each.host for each in made.missing]

    assert took <= wanted.deadline_ns
    assert gathered.abandoned == (wanted.require_all and bool(missing))
    assert not set(here) & set(missing)
    if not gathered.abandoned:
        assert sorted(here + missing) == sorted(wanted.roots)
    for each in made.hosts:
        relay = relays[each.host]
        assert gathered.images[each.image] == relay.image(each.host)
        assert abs(each.clock.ns - relay.offset) <= each.clock.bound_ns
        at = relay.cuts[wanted.id]
        assert (
            each.clock.here(each.before_ns) - each.clock.bound_ns
            <= at
            <= each.clock.here(each.after_ns) + each.clock.bound_ns
        )
    instants = [relays[host].cuts[wanted.id] for host in here]
    assert not here or max(instants) - min(instants) <= made.skew_ns
    assert all(each.reason for each in made.missing)


def wanted_of(names: list[str], *, require_all: bool = False) -> Wanted:
    """Return a request for some hosts."""
    return Wanted("id", dict.fromkeys(names, "1"), DEADLINE, require_all=require_all)


relays_of = st.dictionaries(
    st.sampled_from([f"n{number}" for number in range(40)]),
    st.builds(
        SimulatedRelay,
        offset=st.integers(-5000 * MS, 5000 * MS),
        size=st.sampled_from([1, 5000, 300_000, 600_000]),
        refuses=st.sampled_from([""] * 8 + [messages.ARM, messages.CUT, messages.IMAGE]),
        dies=st.sampled_from([1 << 30] * 6 + [0, 1, 2, 3]),
    ),
    min_size=1,
    max_size=40,
)


@patient
@given(relays_of, st.integers(0, 1 << 30), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.booleans(), st.booleans())
def test_a_set_is_whole_or_says_who_is_missing(
    relays: dict[str, SimulatedRelay],
    seed: int,
    loss: float,
    require_all: bool,  # noqa: FBT001 - Hypothesis calls it
    unknown: bool,  # noqa: FBT001
) -> None:
    """This holds for any order and any loss of messages, and nothing lasts longer than its deadline."""
    wanted = wanted_of([*relays, *(["nobody"] if unknown else [])], require_all=require_all)
    network = Network(seed, loss, twice=0.3)

    gathered, took = run(wanted, relays, network)

    check(wanted, relays, gathered, took)
    assert network.sent < 2000


@patient
@given(st.integers(1, 60), st.integers(0, 1 << 30), st.booleans())
def test_where_everybody_answers_nobody_is_missing(count: int, seed: int, twice: bool) -> None:  # noqa: FBT001
    """All are cut within a network's delay of the same instant, whatever their clocks show."""
    draw = random.Random(seed)
    relays = {f"n{number}": SimulatedRelay(draw.randrange(-5000 * MS, 5000 * MS)) for number in range(count)}
    wanted = wanted_of(list(relays), require_all=True)

    gathered, took = run(wanted, relays, Network(seed, twice=0.5 if twice else 0.0))

    check(wanted, relays, gathered, took)
    assert len(gathered.made.hosts) == count
    instants = [relay.cuts["id"] for relay in relays.values()]
    assert max(instants) - min(instants) <= 40 * MS


def test_a_third_of_all_messages_may_be_lost() -> None:
    """Each is sent again."""
    relays = {f"n{number}": SimulatedRelay(size=1000) for number in range(5)}
    whole = 0
    for seed in range(40):
        gathered, _ = run(
            wanted_of(list(relays)), {host: SimulatedRelay(size=1000) for host in relays}, Network(seed, 0.3)
        )
        whole += len(gathered.made.hosts) == 5
    assert whole > 20


def test_a_host_that_nobody_knows_is_given_up_before_the_deadline() -> None:
    """The server says that nobody listens."""
    gathered, took = run(wanted_of(["nobody"]), {}, Network(1))

    assert [each.reason for each in gathered.made.missing] == ["no relay of that name is connected"]
    assert 2000 * MS <= took < 2400 * MS


def test_a_relay_that_comes_back_soon_is_not_missing() -> None:
    """It was away for a second, while it was started again."""
    gathering = Gathering(wanted_of(["a"]), START)
    (first,) = gathering.due(START)
    gathering.absent(first.number, START + MS)
    (second,) = gathering.due(START + 1000 * MS)
    answer = {"received_ns": START, "answered_ns": START}
    gathering.answered(second.number, answer, START + 1001 * MS)
    (cut,) = gathering.due(START + 1002 * MS)

    assert (second.verb, cut.verb) == (messages.ARM, messages.CUT)


def test_the_instant_is_told_by_the_hosts_own_clock() -> None:
    """It is five seconds ahead."""
    gathering = Gathering(wanted_of(["a", "b"]), START)
    asks = gathering.due(START)
    for ask, offset in zip(asks, (5000 * MS, 0), strict=True):
        answer = {"received_ns": START + MS + offset, "answered_ns": START + MS + offset}
        gathering.answered(ask.number, answer, START + 2 * MS)
    ahead, right = (ask.message["at_ns"] for ask in gathering.due(START + 2 * MS))

    assert ahead - right == 5000 * MS
    assert right > START + 2 * MS


def test_an_answer_after_the_deadline_changes_nothing() -> None:
    """Its host is missing."""
    gathering = Gathering(wanted_of(["a"]), START)
    (ask,) = gathering.due(START)
    gathering.answered(ask.number, {"received_ns": START, "answered_ns": START}, START + DEADLINE)
    gathering.due(START + DEADLINE)

    assert gathering.done
    assert "has not answered by the deadline" in gathering.result().made.missing[0].reason


def test_an_answer_to_an_earlier_phase_changes_nothing() -> None:
    """A copy of it may come late."""
    gathering = Gathering(wanted_of(["a"]), START)
    (arm,) = gathering.due(START)
    gathering.answered(arm.number, {"received_ns": START, "answered_ns": START}, START + MS)
    gathering.due(START + MS)
    gathering.answered(arm.number, {"received_ns": 0, "answered_ns": 0}, START + 2 * MS)
    gathering.refused(arm.number, "no")

    assert not gathering.done


def answered_cut(**changes: Any) -> Gathering:
    """Return a gathering whose one relay has answered to the cut, with some changes."""
    gathering = Gathering(wanted_of(["a"]), START)
    times = {"received_ns": START, "answered_ns": START}
    (arm,) = gathering.due(START)
    gathering.answered(arm.number, times, START + MS)
    (cut,) = gathering.due(START + MS)
    facts = {
        "image": hash_of(b"x"),
        "bytes": 1,
        "tasks": 1,
        "complete": True,
        "before_ns": 1,
        "after_ns": 2,
        "data": b"x",
    }
    gathering.answered(cut.number, times | facts | changes, START + 2 * MS)
    return gathering


def test_other_bytes_than_announced_are_not_taken() -> None:
    """Nor is an answer of another version, or an image that is too large."""
    assert len(answered_cut().result().made.hosts) == 1
    for change in ({"data": b"y"}, {"data": b"xy"}, {"bytes": 1 << 40}, {"bytes": 0}):
        gathering = answered_cut(**change)
        assert gathering.done
        assert gathering.result().made.missing[0].reason


def test_an_answer_that_is_none_makes_its_own_host_missing() -> None:
    """It ends nothing else. Parts that were not asked for are not in the set."""
    result = answered_cut(boot_id=[[[]]], received_ns=START).result()
    assert result.made.missing[0].reason.startswith("its relay answered cut without ")
    manifest.loads(manifest.dumps(result.made))
    contents = {"store": "oci://elsewhere/a", "list": hash_of(b""), "bytes": 1}
    assert answered_cut(contents=contents).result().made.hosts[0].contents is None


def test_a_host_whose_clock_is_hardly_known_does_not_hold_up_the_others() -> None:
    """All would wait for the instant as long as its time is uncertain."""
    gathering = Gathering(wanted_of(["fast", "slow"]), START)
    fast, slow = gathering.due(START)
    gathering.answered(fast.number, {"received_ns": START, "answered_ns": START}, START + MS)
    gathering.answered(slow.number, {"received_ns": START, "answered_ns": START}, START + DEADLINE // 2 - MS)
    (cut,) = gathering.due(START + DEADLINE // 2 - MS)

    assert (cut.host, cut.verb) == ("fast", messages.CUT)
    assert cut.message["at_ns"] < START + DEADLINE // 2 + 100 * MS
    (missing,) = gathering.result().made.missing[-1:]
    assert missing == Missing("slow", "its relay answered so late that its clock is known to 1.0 s only")


def test_hosts_that_hang_while_they_are_fetched_hold_up_no_other() -> None:
    """More of them hang than are fetched from at once."""
    relays = {f"n{number:03}": SimulatedRelay(dies=2 if number < 150 else 1 << 30) for number in range(170)}

    gathered, _ = run(wanted_of(list(relays)), relays, Network(3, most_delay=2 * MS))

    assert [each.host for each in gathered.made.hosts] == [f"n{number}" for number in range(150, 170)]


def test_the_offset_of_the_narrower_measurement_is_written() -> None:
    """The answer to the cut came faster."""
    made = answered_cut(received_ns=START, answered_ns=START + 950_000).result().made

    assert made.hosts[0].clock == Offset.measured(START + MS, START, START + 950_000, START + 2 * MS)


def test_the_text_of_a_result_has_no_bytes_of_images() -> None:
    """Python's asyncio.run() makes a text of its result: with the images of many hosts that takes seconds."""
    assert len(repr(answered_cut().result())) < 100


def test_an_instant_of_the_past_is_told_by_the_hosts_own_clock() -> None:
    """It is five seconds ahead. The relay is told that the past is meant, from the beginning."""
    gathering = Gathering(wanted_of(["a"])._replace(past_ns=START - 9000 * MS), START)
    (arm,) = gathering.due(START)
    ahead = START + 5000 * MS
    gathering.answered(arm.number, {"received_ns": ahead, "answered_ns": ahead}, START)
    (cut,) = gathering.due(START)

    assert arm.message["past"] is cut.message["past"] is True
    assert cut.message["at_ns"] == START - 4000 * MS
    assert gathering.result().made.at_ns == START - 9000 * MS


CONTENTS = {"store": "nats://dumps", "list": hash_of(b"list"), "bytes": 7}


def test_contents_are_asked_for_in_place_of_a_cut() -> None:
    """A relay that sends none, or such as make no sense, is missing."""
    relays = {
        "a": SimulatedRelay(contents=CONTENTS),
        "b": SimulatedRelay(),
        "c": SimulatedRelay(contents={**CONTENTS, "list": "none"}),
    }
    wanted = Wanted("x", dict.fromkeys(relays, "1"), DEADLINE, requester="ops", end=True)
    gathered, _ = run(wanted, relays, Network(1))

    (host,) = gathered.made.hosts
    assert host.contents == HostContents("nats://dumps", hash_of(b"list"), 7)
    assert [each.host for each in gathered.made.missing] == ["b", "c"]
    assert all("it is of another version" in each.reason for each in gathered.made.missing)


def test_a_long_dump_is_asked_for_a_few_times_only() -> None:
    """A relay awaits it for each of the questions. Some are always younger than a minute, for so long it may answer."""
    relays = {"a": SimulatedRelay(contents=CONTENTS, dumps_ns=600_000 * MS)}
    network = Network(1)
    gathered, _ = run(Wanted("x", {"a": "1"}, 1_000_000 * MS, requester="ops", end=True), relays, network)

    assert [each.host for each in gathered.made.hosts] == ["a"]
    assert 600 / 60 < network.sent < 60
