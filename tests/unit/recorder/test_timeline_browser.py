# SPDX-License-Identifier: Apache-2.0
"""The page of a span in a browser: its tree at any instant beside the snapshot of that instant, the cursor, the lanes."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from agent.protocol.replies import event_of
from agent.recorder import past, timeline
from agent.recorder.instant import RecordNumber
from agent.recorder.lives import SpanLives
from agent.recorder.past import Enquirer, WantedTree
from agent.recorder.recording import Recording
from agent.recorder.retelling import EventSpan, Retelling
from agent.rootname import RootName
from exporters.drawing.htmlpage import dumps
from tests.support.browser import Browser, browser
from tests.support.taped import Taped, a_recording

pytestmark = pytest.mark.slow

ROWS: Final = """[...document.querySelectorAll('#rows .row')].map(row => [row.ariaLevel,
row.querySelector('.number')?.textContent ?? row.textContent, row.querySelector('.comm')?.textContent ?? '',
[...row.querySelectorAll('.badge')].map(it => it.textContent)])"""
NUMBER: Final = "document.getElementById('instant-number').textContent.match(/\\d+/)[0]"
COMMAND: Final = "document.getElementById('command').textContent"
CHOSEN: Final = "document.querySelector('#chosen .number')?.textContent ?? null"
Row = tuple[str | None, str, str, tuple[str, ...]]


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    """Yield a browser in which all rows of a small tree are in sight."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip(
            "no browser here: `make packages-browser` installs chromium where the distribution has a package of it"
        )
    with browser() as found:
        found.resize(1400, 4000)
        yield found


def lives_of(recording: Recording, root: int | None = None) -> SpanLives:
    """Return the lives of a recording, from its beginning to its end."""
    name = None if root is None else RootName(namespace=False, number=root)
    span = EventSpan(recording.runs[0].first, recording.runs[-1].last, name, arguments=False, present=True)
    lives = SpanLives(root)
    for batch in Retelling(recording, span, Enquirer()).batches():
        assert all(lives.take(event_of(said)) for said in batch)
    return lives


def opened(window: Browser, place: Path, lives: SpanLives, root: int | None = None, fragment: str = "") -> Browser:
    """Open the page of lives, with threads."""
    path = place / "timeline.html"
    path.write_bytes(timeline.page(lives, timeline.TimelineQuestion(None if root is None else str(root))))
    window.events.clear()
    window.open(path, fragment)
    if window.js("!document.getElementById('threads-label').hidden"):
        window.js("document.getElementById('threads').click()")
    window.js("document.getElementById('lanes').focus()")
    window.settle()
    return window


def rows(window: Browser, *, births: bool) -> list[Row]:
    """Return the rows of the tree: depth, numbers, name and remarks that records tell; `births`: those on births, too."""
    window.wait("document.getElementById('tree').ariaBusy !== 'true'")
    window.settle()
    found = []
    for level, number, name, badges in window.js(ROWS):
        told = [re.sub(r"^pid:\[\d+\] ", "", badge) for badge in badges if not badge.startswith("next child")]
        # A snapshot names the nearest of those that a rebuild needs, the page the creator itself.
        told = [re.sub(r"^born of \d+ \(gone\)", "born of one that is gone", badge) for badge in told]
        if not births:
            told = [badge for badge in told if not re.match(r"born of |birth assumed", badge)]
        found.append((level, number, name, tuple(told)))
    titles = [place for place, row in enumerate(found) if row[1].startswith("Gone")]  # a snapshot has fewer of them
    if titles:
        found = found[: titles[0]]
    return found


def first_tree(found: list[Row]) -> list[Row]:
    """Return the rows of the topmost process: whoever has lost its parent with a record stands beside it."""
    tops = [place for place, row in enumerate(found) if row[0] in ("1", None)]
    return found[: tops[1]] if len(tops) > 1 else found


def snapshot_rows(
    window: Browser, place: Path, recording: Recording, number: int, root: int, *, births: bool
) -> list[Row]:
    """Return the rows of the page of the snapshot of an instant."""
    instant = past.find(recording, RecordNumber(number))
    made, _ = past.snapshot(
        recording, instant, WantedTree(RootName(namespace=False, number=root), "subtree"), Enquirer()
    )
    path = place / "snapshot.html"
    path.write_bytes(dumps(made))
    window.open(path)
    window.js("document.getElementById('threads').click()")
    window.settle()
    return rows(window, births=births)


def a_run(folder: Path, seed: int, steps: int = 25) -> Recording:
    """Make a recording of one run without losses."""
    folder.mkdir()
    taped = Taped(folder, seed)
    taped.mark(continues=False)
    for _ in range(steps):
        taped.step()
    taped.end()
    return Recording(folder)


@pytest.mark.parametrize("seed", range(6))
def test_the_tree_at_the_cursor_is_the_snapshot_of_that_instant(window: Browser, tmp_path: Path, seed: int) -> None:
    """At every seventh stop: each row with its depth, numbers, name, state, session, group and birth."""
    recording = a_run(tmp_path / "recording", seed)
    lives = lives_of(recording)
    page = opened(window, tmp_path, lives)
    seen: list[tuple[int, list[Row]]] = []
    page.press("Home")
    for _ in range(0, len(lives.numbers), 7):
        seen.append((int(page.js(NUMBER)), rows(page, births=True)))
        page.press(*["ArrowRight"] * 7)
    assert page.complaints() == []
    assert page.requests() == []
    assert [number for number, _ in seen] == lives.numbers[::7]
    for number, shown in seen:
        assert shown == snapshot_rows(window, tmp_path, recording, number, 1, births=True), number


@pytest.mark.parametrize("seed", range(3))
def test_the_tree_is_right_behind_gaps_and_losses(window: Browser, tmp_path: Path, seed: int) -> None:
    """Wherever the recording itself is certain; births of before a gap aside, which a snapshot may know of."""
    place = tmp_path / "recording"
    place.mkdir()
    a_recording(place, seed, runs=1)
    recording = Recording(place)
    lives = lives_of(recording)
    assert any(each.kind == "gap" for each in lives.troubles)
    page = opened(window, tmp_path, lives)
    seen: list[tuple[int, list[Row]]] = []
    page.press("Home")
    for _ in range(0, len(lives.numbers), 11):
        if page.js("document.getElementById('instant-trouble').hidden"):
            seen.append((int(page.js(NUMBER)), rows(page, births=False)))
        page.press(*["ArrowRight"] * 11)
    assert page.complaints() == []
    certain = [(number, shown) for number, shown in seen if not recording.table_at(recording.at_order(number)).reasons]
    assert len(certain) > 5
    for number, shown in certain:
        snapshot = snapshot_rows(window, tmp_path, recording, number, 1, births=False)
        assert first_tree(shown) == first_tree(snapshot), number


@pytest.mark.parametrize("seed", range(2))
def test_the_tree_below_a_root_is_that_of_the_root(window: Browser, tmp_path: Path, seed: int) -> None:
    """What leaves it is gone from the lanes, and the session that it has from outside is called that."""
    recording = a_run(tmp_path / "recording", seed, 60)
    everything = lives_of(recording)
    sizes = {each.numbers[0]: 0 for each in everything.lives if each.numbers[0] > 1}
    for each in everything.lives:
        if each.parent >= 0:
            number = everything.lives[each.parent].numbers[0]
            sizes[number] = sizes.get(number, 0) + (number > 1)
    root = max(sizes, key=lambda number: sizes[number])
    lives = lives_of(recording, root)
    page = opened(window, tmp_path, lives, root)
    seen: list[tuple[int, list[Row]]] = []
    page.press("Home")
    for _ in range(0, len(lives.numbers), 3):
        seen.append((int(page.js(NUMBER)), rows(page, births=False)))
        page.press(*["ArrowRight"] * 3)
    assert page.complaints() == []
    there = [(number, shown) for number, shown in seen if shown]
    assert max(len(shown) for _, shown in there) > 1
    for number, shown in there:
        assert shown == snapshot_rows(window, tmp_path, recording, number, root, births=False), number
