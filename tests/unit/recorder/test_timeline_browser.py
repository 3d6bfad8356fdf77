# SPDX-License-Identifier: Apache-2.0
"""The page of a span in a browser: its tree at any instant beside the snapshot of that instant, the cursor, the lanes."""

import re
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
from tests.support.browser import Browser, browser, needed
from tests.support.taped import AHEAD_NS, Taped, a_recording
from tests.support.tellings import Story

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
    needed()
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
    for _ in range(0, len(lives.numbers), 7):
        if page.js("document.getElementById('instant-trouble').hidden"):
            seen.append((int(page.js(NUMBER)), rows(page, births=False)))
        page.press(*["ArrowRight"] * 7)
    assert page.complaints() == []
    certain = [(number, shown) for number, shown in seen if not recording.table_at(recording.at_order(number)).reasons]
    assert len(certain) > 5
    for number, shown in certain:
        snapshot = snapshot_rows(window, tmp_path, recording, number, 1, births=False)
        assert first_tree(shown) == first_tree(snapshot), number


@pytest.mark.parametrize("seed", range(2))
def test_the_tree_below_a_root_is_that_of_the_root(window: Browser, tmp_path: Path, seed: int) -> None:
    """A process that leaves it is gone from the lanes, and the session that it has from outside is called that."""
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


def a_job() -> Story:
    """Return a shell with two children, one of which is killed, and a grandchild with a thread."""
    story = Story(10)
    story.tell("birth", 10, b"bash", sid=4, pgid=4, assumed=True, present=True)
    story.tell("birth", 20, b"bash", parent=10, creator=10, sid=4, pgid=4)
    story.tell("exec", 20, b"make", arguments=[b"make", b"-j 2"], arguments_cut=False, old_tid=0, exit_signal=17)
    story.tell("birth", 30, b"make", parent=20, creator=20, sid=4, pgid=4)
    story.tell("setsid", 30, b"make", pgid=30, sid=30)
    story.tell("birth", 31, b"make", pid=30, parent=20, creator=30, sid=30, pgid=30)
    story.tell("death", 20, b"make", exit_code=9, group_dead=True)
    story.tell("reparent", 30, b"make", step=0, parent=10, exit_signal=17)
    story.tell("reap", 20, b"make")
    story.tell("birth", 20, b"again", parent=10, creator=10, sid=4, pgid=4)
    return story


def place_of(window: Browser, seconds: float, lane: int | None = None) -> tuple[float, float]:
    """Return the place of a time, counted from the beginning of a job, on the axis or within a lane."""
    left, top, wide = window.js(
        "(box => [box.left, box.top, box.width])(document.getElementById('painting').getBoundingClientRect())"
    )
    side = round(min(270, max(96, wide * 0.27)))
    air = 0.02 * 8
    x = left + side + (seconds + air) / (8 + 2 * air) * (wide - side)
    return x, top + (10 if lane is None else 26 + 22 * lane + 11)


def test_keys_move_the_cursor_from_event_to_event(window: Browser, tmp_path: Path) -> None:
    """The command names the number, and the root or the chosen process."""
    page = opened(window, tmp_path, a_job().lives, 10)
    page.press("Home", "ArrowRight", "ArrowRight")
    assert [row[1:3] for row in rows(page, births=True)] == [("10", "bash"), ("20", "make")]
    assert page.js(COMMAND) == "ckptree snapshot 10 --at '#1004' -o 10.ckpt"
    page.press("ArrowDown", "ArrowDown")
    assert page.js(CHOSEN) == "20"
    assert page.js(COMMAND) == "ckptree snapshot 20 --at '#1004' -o 20.ckpt"
    slider = page.js(
        "(it => [it.role, it.ariaValueNow, it.ariaValueMax, it.ariaValueText])(document.getElementById('lanes'))"
    )
    assert slider[:3] == ["slider", "2", "8"]
    assert slider[3].endswith("before record 1004")
    page.press("End")
    assert [row[1:3] for row in rows(page, births=True)][:3] == [("10", "bash"), ("20", "again"), ("30", "make")]
    assert page.js("document.getElementById('details').innerText").startswith("20 gone")
    assert page.complaints() == []


def test_the_pointer_drags_the_cursor_and_a_click_at_a_lane_chooses_its_process(
    window: Browser, tmp_path: Path
) -> None:
    """On the axis, at the line of the cursor, and in the overview; with a finger, too."""
    page = opened(window, tmp_path, a_job().lives, 10)
    page.drag(place_of(page, 7.5), place_of(page, 5), place_of(page, 3.5))
    assert page.js(NUMBER) == "1005"
    page.drag(place_of(page, 3.5, 2), place_of(page, 1.5, 3))
    assert page.js(NUMBER) == "1003"
    page.click(*place_of(page, 4.5, 2))
    assert page.js(NUMBER) == "1006"
    assert page.js(CHOSEN) == "30"
    page.touch([place_of(page, 4.5)], [place_of(page, 3)], [place_of(page, 2.5)])
    assert page.js(NUMBER) == "1004"
    box = page.js(
        "(box => [box.left, box.top, box.width])(document.getElementById('overview').getBoundingClientRect())"
    )
    page.drag((box[0] + 5, box[1] + 20), (box[0] + box[2] / 2, box[1] + 20))
    assert page.js(NUMBER) == "1006"
    assert page.complaints() == []


def test_the_deeds_of_a_process_lead_to_their_instants(window: Browser, tmp_path: Path) -> None:
    """Of one that is gone, too."""
    page = opened(window, tmp_path, a_job().lives, 10)
    page.press("End", "/", *"make", "Enter")
    deeds = page.js("[...document.querySelectorAll('.deeds button')].map(it => it.lastChild.textContent)")
    assert deeds == ["born of 10", "runs make '-j 2'", "killed by SIGKILL", "gone"]
    assert page.js("document.getElementById('found').textContent") == "3 found, 1 of them at the cursor"
    page.js("document.querySelectorAll('.deeds button')[2].click()")
    assert ("20", ("zombie, killed by SIGKILL",)) in [(row[1], row[3][:1]) for row in rows(page, births=True)]
    assert page.js(NUMBER) == "1008"


def test_no_text_about_an_end_or_a_gap_is_cut_at_the_edge(window: Browser, tmp_path: Path) -> None:
    """It stands before what it is about, where there is no room behind; one that has no room at all ends in an ellipsis."""
    story = Story(10)
    story.tell("birth", 10, b"bash", sid=4, pgid=4, assumed=True, present=True)
    story.tell("birth", 20, b"make", parent=10, creator=10, sid=4, pgid=4)
    for _ in range(40):
        story.tell("exec", 10, b"bash", arguments=[b"bash"], arguments_cut=False, old_tid=0, exit_signal=17)
    for why in ("the writer fell behind", "the writer could not write: " + "no space left on device, " * 20):
        story.tell("gap", why=why, reboot=False, next=5000, until_ns=AHEAD_NS)
        story.tell("birth", 40 + story.order, parent=10, creator=10, sid=4, pgid=4, assumed=True)
        story.tell("resync", step=0)
    story.tell("reparent", 20, parent=1, exit_signal=17)
    page = opened(window, tmp_path, story.lives, 10)
    page.js(
        """(() => { window.written = []; const pens = CanvasRenderingContext2D.prototype, draw = pens.fillText;
        pens.fillText = function (text, x, y) { draw.call(this, text, x, y);
        if (this.canvas.id === 'painting') window.written.push([text, x, x + this.measureText(text).width]); } })()"""
    )
    page.press("End")
    page.settle()
    width = page.js("document.getElementById('painting').clientWidth")
    written = {text: (begin, end) for text, begin, end in page.js("window.written")}
    about = {text: span for text, span in written.items() if text.startswith(("left the", "no records"))}
    assert all(0 < begin < end <= width for begin, end in about.values()), (about, width)
    assert "left the tree" in about, (written, page.complaints())
    assert any(text.endswith(("UTC: the writer fell behind", "…")) for text in about)
    assert len(about) > 1
    assert page.complaints() == []


def test_an_address_names_an_instant_and_a_process(window: Browser, tmp_path: Path) -> None:
    """It follows the cursor."""
    page = opened(window, tmp_path, a_job().lives, 10, "#at=1006&pid=30")
    assert page.js(NUMBER) == "1006"
    assert page.js(CHOSEN) == "30"
    page.press("ArrowRight")
    page.wait("location.hash === '#at=1007&pid=30'")


def test_a_number_that_another_run_has_too_is_named_by_its_time(window: Browser, tmp_path: Path) -> None:
    """The command line refuses it."""
    story = a_job()
    story.tell("gap", why="no daemon ran", reboot=False, next=3, until_ns=0)
    numbers = story.order
    story.order = 1003
    story.late_s = numbers - 900
    story.tell("birth", 40, b"new", parent=10, creator=10, assumed=True)
    story.tell("resync", step=0)
    page = opened(window, tmp_path, story.lives, 10)
    page.press("Home")
    assert page.js(COMMAND) == "ckptree snapshot 10 --at '#1001' -o 10.ckpt"
    page.press("End", "ArrowLeft", "ArrowLeft")
    assert re.fullmatch(r"ckptree snapshot 10 --at 20\d\d-\S+Z -o 10.ckpt", page.js(COMMAND))
    page.press("End")
    assert page.js(NUMBER) == "1004"
    assert re.fullmatch(r"ckptree snapshot 10 --at 20\d\d-\S+Z -o 10.ckpt", page.js(COMMAND))


@pytest.mark.parametrize(
    "name",
    [b"<img src=x onerror=document.title=1>", b"</script><script>document.title=1</script>", b"<!--<script>",
     b"'\"><svg/onload=document.title=1>", b"{{SCRIPT}}", b"__proto__", b"constructor"],
)  # fmt: skip
def test_hostile_names_are_shown_and_never_executed(window: Browser, tmp_path: Path, name: bytes) -> None:
    """In the lanes, the tree, the deeds and the search."""
    story = Story()
    story.tell("birth", 10, name)
    story.tell("exec", 10, name, arguments=[name, name], arguments_cut=False, old_tid=0, exit_signal=17)
    page = opened(window, tmp_path, story.lives)
    page.press("ArrowDown", "ArrowDown")
    assert page.js("document.querySelector('#chosen .comm').textContent") == name.decode()
    assert page.js("document.getElementById('details').innerText").count(name.decode()) >= 3
    page.press("/", *name.decode()[:9], "Enter", "Escape")
    assert page.js("document.title") == "timeline of all processes"
    assert page.js("document.images.length + document.querySelectorAll('svg, iframe').length") == 0
    assert page.js("document.scripts.length") == 2
    assert page.complaints() == []
    assert page.requests() == []


def a_storm(lives: int) -> Story:
    """Return short lives, a hundred at a time, below one process."""
    story = Story()
    story.tell("birth", 1, b"init", assumed=True, present=True)
    for number in range(2, lives + 1):
        story.tell("birth", number, b"init", parent=1, creator=1, sid=1, pgid=1)
        story.tell(
            "exec", number, b"cc", arguments=[b"cc", b"%d.c" % number], arguments_cut=False, old_tid=0, exit_signal=17
        )
        if number > 101:
            story.tell("death", number - 100, b"cc", exit_code=0, group_dead=True)
            story.tell("reap", number - 100, b"cc")
    return story


def test_fifty_thousand_lives_are_a_page_that_obeys(window: Browser, tmp_path: Path) -> None:
    """Only what is in sight is drawn. The bound of a frame is far above what a quiet machine needs, 20 ms."""
    lives = a_storm(50_000).lives
    page = opened(window, tmp_path, lives)
    assert int(page.js("document.documentElement.dataset.ready")) < 20_000
    assert page.js("document.querySelectorAll('.row').length") <= 202
    left, top = page.js("(box => [box.left, box.top])(document.getElementById('painting').getBoundingClientRect())")
    median = page.js(
        f"""(async () => {{ const canvas = document.getElementById('painting'); canvas.setPointerCapture = () => 0;
        const send = (kind, x) => canvas.dispatchEvent(new PointerEvent(kind, {{ clientX: {left} + x, clientY: {top} + 10,
        pointerId: 7, buttons: 1 }})); const times = []; send('pointerdown', 300);
        for (let x = 300; x < 700; x += 10) {{ const begin = performance.now(); send('pointermove', x);
        await new Promise(requestAnimationFrame); times.push(performance.now() - begin); }} send('pointerup', 700);
        return times.sort((a, b) => a - b)[times.length >> 1]; }})()"""
    )
    assert median < 1000
    page.press("/", *"pid:40000", "Enter")
    assert page.js(CHOSEN) == "40000"
    assert page.complaints() == []
