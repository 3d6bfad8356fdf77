# SPDX-License-Identifier: Apache-2.0
"""The following of a tree: its requests, the tree that is kept, and the end."""

from collections.abc import Callable

import pytest

from agent.cli.follow import INTERVAL_S, LONGEST_S, SHARE, SOON_S, Follower
from agent.cli.sources import Taken, received
from agent.errors import BusyError, CkptreeError, HostError, NoDaemonError, NoSuchRootError, RefusedError
from agent.protocol.client import Answer, Event
from agent.record import replace
from exporters.image import checkpoint
from tests.support.builders import a_crowd, a_family

IMAGE = checkpoint.dumps(a_family())


def a_snapshot_of(image: bytes) -> Taken:
    """Return a complete snapshot as a daemon sends it."""
    return received(
        Answer(image, complete=True, verified="numbering", reasons=(), squashed=(), entered=(), tasks=6, elapsed_ns=0)
    )


ANSWER = a_snapshot_of(IMAGE)


class Screen:
    """A terminal of 60 columns and a given number of rows; one key comes after the other, then `q`.

    Args:
        keys: the pressed keys; empty: none, until the time is over.
        clock: moves by the time of each wait.
    """

    size = (60, 20)

    def __init__(self, keys: list[str], clock: "Clock") -> None:
        self._keys = [*keys, "q"]
        self._clock = clock
        self.drawn: list[list[str]] = []
        self.waited: list[float] = []

    def draw(self, lines: list[str]) -> None:
        """Keep the picture."""
        self.drawn.append(lines)

    def wait(self, timeout_s: float, _also: object) -> list[str]:
        """Return the next key; an empty one lets time pass."""
        key = self._keys.pop(0)
        if not key:
            self.waited.append(timeout_s)
            self._clock.now += timeout_s
        return [key] if key else []


class Clock:
    """A clock that stands still by itself."""

    now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the system's clock."""
    made = Clock()
    monkeypatch.setattr("time.monotonic", made)
    monkeypatch.setattr("time.process_time", Clock())
    return made


class Events:
    """The events of a daemon; each is there when it is asked for.

    Args:
        kinds: the events of each request; empty: none.
    """

    def __init__(self, *kinds: str) -> None:
        self._kinds = [part for kind in kinds for part in ([kind, ""] if kind else [""])]
        self.asked = 0

    def next_within(self, _timeout_s: float) -> Event | None:
        """Return the next event, or None."""
        self.asked += 1
        kind = self._kinds.pop(0)
        if kind == "gone":
            raise NoDaemonError("it has gone")
        return Event(kind, 1, None, {}) if kind else None


def follow(ask: Callable[[], list[Taken]], keys: list[str], clock: Clock, events: Events | None = None) -> Screen:
    """Follow a tree; return the pictures."""
    screen = Screen(keys, clock)
    follower = Follower("4711", ask, events)  # type: ignore[arg-type]  # as much of one as is used
    follower.refresh()
    follower.run(screen)  # type: ignore[arg-type]  # as much of one as is used
    return screen


def test_it_fills_the_screen_and_says_in_its_last_row_what_there_is_to_know(clock: Clock) -> None:
    """Every row is drawn, so that no old row stays."""
    screen = follow(lambda: [ANSWER], [], clock)

    assert [len(rows) for rows in screen.drawn] == [20]
    assert screen.drawn[0][0].startswith("subtree of 4711")
    assert screen.drawn[0][-1].startswith("\x1b[7m 4711  ")
    assert len(screen.drawn[0][-1]) == len("\x1b[7m") + 60


def test_it_asks_every_second_and_more_seldom_where_that_costs_much(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is a tenth of a CPU, here and in the daemon; waiting for a CPU does not count."""
    work = Clock()
    monkeypatch.setattr("time.process_time", work)
    costs = iter([(0.0, 0.0), (0.3, 0.0), (0.3, 0.2), (9.0, 0.0), (0.0, 0.0)])

    def ask() -> list[Taken]:
        here, there = next(costs)
        work.now += here
        clock.now += 5 * here
        return [replace(ANSWER, elapsed_ns=int(there * 1e9))]

    screen = follow(ask, ["", "", "", ""], clock)

    times = 1 / SHARE - 1
    assert screen.waited == pytest.approx([INTERVAL_S, 0.3 * times, 0.5 * times, LONGEST_S])


def test_after_an_event_it_asks_soon_but_not_at_once_again(clock: Clock) -> None:
    """Without an event it asks after a second, because some changes have no event."""
    screen = follow(lambda: [ANSWER], ["x", "", ""], clock, Events("birth", "", "", ""))

    assert screen.waited == pytest.approx([SOON_S, INTERVAL_S])


@pytest.mark.parametrize("last", ["end", "gone"])
def test_who_has_told_all_is_not_asked_any_more(clock: Clock, last: str) -> None:
    """The next snapshot gives the reason."""
    events = Events(last)
    follow(lambda: [ANSWER], ["", "", ""], clock, events)

    assert events.asked <= 2


@pytest.mark.parametrize(
    "error", [RefusedError("it leaks"), BusyError("too many ask"), CkptreeError("another each time")]
)
def test_a_refusal_that_may_pass_keeps_the_last_tree_and_is_told(clock: Clock, error: CkptreeError) -> None:
    """The next answer removes the message."""
    answers: list[Taken | CkptreeError] = [ANSWER, error, ANSWER]

    def ask() -> list[Taken]:
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
    """The exit code is that of the error."""
    answers = [ANSWER]

    def ask() -> list[Taken]:
        if not answers:
            raise kind("gone")
        return [answers.pop()]

    with pytest.raises(kind):
        follow(ask, ["", ""], clock)


def test_a_refusal_at_once_is_one(clock: Clock) -> None:
    """No tree exists yet that could be kept."""

    def ask() -> list[Taken]:
        raise RefusedError("it leaks")

    with pytest.raises(RefusedError):
        follow(ask, [], clock)


def test_a_tree_that_fits_says_nothing_of_places_and_one_that_does_not_scrolls(clock: Clock) -> None:
    """Keys move by a line or a page."""
    answer = a_snapshot_of(checkpoint.dumps(a_crowd(60)))
    screen = follow(lambda: [answer], ["page-down", "bottom", "x"], clock)
    places = [rows[-1].split("  ")[1] for rows in screen.drawn]
    height = places[0].partition("/")[2]

    assert places[:2] == [f"1-19/{height}", f"19-37/{height}"]
    assert places[2] == places[3] == f"{int(height) - 18}-{height}/{height}"


def test_several_trees_are_shown_one_below_the_other(clock: Clock) -> None:
    """A cgroup may have several topmost processes."""
    one = follow(lambda: [ANSWER], [], clock).drawn[0]
    both = follow(lambda: [ANSWER, ANSWER], [], clock).drawn[0]

    assert (one.count(one[0]), both.count(one[0])) == (1, 2)
