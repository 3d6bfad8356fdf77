# SPDX-License-Identifier: Apache-2.0
"""A tree that is followed: how often it is asked for, what is kept of it, and when that ends."""

import dataclasses
from collections.abc import Callable

import pytest

from agent.cli.follow import INTERVAL_S, LONGEST_S, SHARE, SOON_S, Follower
from agent.errors import BusyError, CkptreeError, HostError, NoDaemonError, NoSuchRootError, RefusedError
from agent.protocol.client import Answer, Event
from exporters.image import checkpoint
from tests.support.builders import a_family

IMAGE = checkpoint.dumps(a_family())
ANSWER = Answer(IMAGE, complete=True, verified="numbering", reasons=(), squashed=(), entered=(), tasks=6, elapsed_ns=0)


class Screen:
    """A terminal of 60 columns and as many rows; somebody presses one key after the other, then `q`.

    Args:
        keys: that are pressed; empty: nothing is, until the time is over.
        clock: is moved by what is waited.
    """

    size = (60, 20)

    def __init__(self, keys: list[str], clock: "Clock") -> None:
        self._keys = [*keys, "q"]
        self._clock = clock
        self.drawn: list[list[str]] = []
        self.waited: list[float] = []

    def draw(self, lines: list[str]) -> None:
        """Keep it."""
        self.drawn.append(lines)

    def wait(self, timeout_s: float, _also: object) -> list[str]:
        """A key, and if it is nothing, time passes."""
        key = self._keys.pop(0)
        if not key:
            self.waited.append(timeout_s)
            self._clock.now += timeout_s
        return [key] if key else []


class Clock:
    """One that stands still by itself."""

    now = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In place of the system's."""
    made = Clock()
    monkeypatch.setattr("time.monotonic", made)
    monkeypatch.setattr("time.process_time", Clock())
    return made


class Events:
    """Of a daemon: each is there when it is asked for.

    Args:
        kinds: what has happened by each time that is asked; empty: nothing.
    """

    def __init__(self, *kinds: str) -> None:
        self._kinds = [part for kind in kinds for part in ([kind, ""] if kind else [""])]
        self.asked = 0

    def next_within(self, _timeout_s: float) -> Event | None:
        """The next one, if there is one."""
        self.asked += 1
        kind = self._kinds.pop(0)
        if kind == "gone":
            raise NoDaemonError("it has gone")
        return Event(kind, 1, None, {}) if kind else None


def follow(ask: Callable[[], list[Answer]], keys: list[str], clock: Clock, events: Events | None = None) -> Screen:
    """What was drawn."""
    screen = Screen(keys, clock)
    follower = Follower("4711", ask, events)  # type: ignore[arg-type]  # as much of one as is used
    follower.refresh()
    follower.run(screen)  # type: ignore[arg-type]  # as much of one as is used
    return screen


def test_it_fills_the_screen_and_says_in_its_last_row_what_there_is_to_know(clock: Clock) -> None:
    """Every row is there, so that nothing old stays."""
    screen = follow(lambda: [ANSWER], [], clock)

    assert [len(rows) for rows in screen.drawn] == [20]
    assert screen.drawn[0][0].startswith("subtree of 4711")
    assert screen.drawn[0][-1].startswith("\x1b[7m 4711  ")
    assert len(screen.drawn[0][-1]) == len("\x1b[7m") + 60


def test_it_asks_every_second_and_more_seldom_where_that_costs_much(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of a CPU is the most that goes into it here and in the daemon; to wait for a CPU costs nothing."""
    work = Clock()
    monkeypatch.setattr("time.process_time", work)
    costs = iter([(0.0, 0.0), (0.3, 0.0), (0.3, 0.2), (9.0, 0.0), (0.0, 0.0)])

    def ask() -> list[Answer]:
        here, there = next(costs)
        work.now += here
        clock.now += 5 * here
        return [dataclasses.replace(ANSWER, elapsed_ns=int(there * 1e9))]

    screen = follow(ask, ["", "", "", ""], clock)

    times = 1 / SHARE - 1
    assert screen.waited == pytest.approx([INTERVAL_S, 0.3 * times, 0.5 * times, LONGEST_S])


def test_after_an_event_it_asks_soon_but_not_at_once_again(clock: Clock) -> None:
    """And without one after a second, for what no event tells."""
    screen = follow(lambda: [ANSWER], ["x", "", ""], clock, Events("birth", "", "", ""))

    assert screen.waited == pytest.approx([SOON_S, INTERVAL_S])


@pytest.mark.parametrize("last", ["end", "gone"])
def test_who_has_told_all_is_not_asked_any_more(clock: Clock, last: str) -> None:
    """The next snapshot finds out what that means."""
    events = Events(last)
    follow(lambda: [ANSWER], ["", "", ""], clock, events)

    assert events.asked <= 2


@pytest.mark.parametrize(
    "error", [RefusedError("it leaks"), BusyError("too many ask"), CkptreeError("another each time")]
)
def test_a_refusal_that_may_pass_keeps_the_last_tree_and_is_told(clock: Clock, error: CkptreeError) -> None:
    """And is forgotten when there is an answer again."""
    answers: list[Answer | CkptreeError] = [ANSWER, error, ANSWER]

    def ask() -> list[Answer]:
        answer = answers.pop(0)
        if isinstance(answer, CkptreeError):
            raise answer
        return [answer]

    screen = follow(ask, ["", ""], clock)

    told = [str(error) in rows[-1] for rows in screen.drawn]
    assert told == [False, True, False]
    assert len({rows[0] for rows in screen.drawn}) == 1


@pytest.mark.parametrize("kind", [NoDaemonError, NoSuchRootError, HostError])
def test_what_stays_so_ends_it(clock: Clock, kind: type[CkptreeError]) -> None:
    """With its exit code."""
    answers = [ANSWER]

    def ask() -> list[Answer]:
        if not answers:
            raise kind("gone")
        return [answers.pop()]

    with pytest.raises(kind):
        follow(ask, ["", ""], clock)


def test_a_refusal_at_once_is_one(clock: Clock) -> None:
    """There is nothing yet to keep."""

    def ask() -> list[Answer]:
        raise RefusedError("it leaks")

    with pytest.raises(RefusedError):
        follow(ask, [], clock)


def test_a_tree_that_fits_says_nothing_of_places_and_one_that_does_not_scrolls(clock: Clock) -> None:
    """By keys, a line or a page."""
    family = a_family()
    many = dataclasses.replace(family, squashed=tuple(map(str, range(4000, 4200))))
    answer = dataclasses.replace(ANSWER, data=checkpoint.dumps(many))
    screen = follow(lambda: [answer], ["down", "bottom", "x"], clock)
    places = [rows[-1].split("  ")[1] for rows in screen.drawn]
    height = places[0].partition("/")[2]

    assert places[:2] == [f"1-19/{height}", f"2-20/{height}"]
    assert places[2] == places[3] == f"{int(height) - 18}-{height}/{height}"


def test_several_trees_are_shown_one_below_the_other(clock: Clock) -> None:
    """Of a cgroup that has several topmost processes."""
    one = follow(lambda: [ANSWER], [], clock).drawn[0]
    both = follow(lambda: [ANSWER, ANSWER], [], clock).drawn[0]

    lines = one[: one.index("")] if "" in one else one[:-1]
    assert both.count(lines[0]) == 2
