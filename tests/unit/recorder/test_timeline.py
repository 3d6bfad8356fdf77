# SPDX-License-Identifier: Apache-2.0
"""The timeline of a span as text: its stops, its lives, its bounds, and names that try to be more than names."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import UsageError
from agent.protocol.replies import event_of
from agent.recorder import lives as lives_module
from agent.recorder import timeline
from agent.recorder.life import ASSUMED, NONE, Fact
from agent.recorder.lives import SpanLives
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from agent.recorder.retelling import EventSpan, Retelling
from exporters.content.fields import escape
from exporters.content.wording import plain
from tests.support.commandline import here
from tests.support.examples import patient
from tests.support.taped import AHEAD_NS, BOOT_NS, a_recording
from tests.support.tellings import SECOND_NS as SECOND
from tests.support.tellings import Story


def document_of(story: Story) -> dict[str, Any]:
    """Return the document of the page of a story."""
    return embedded(timeline.page(story.lives, timeline.TimelineQuestion()))


def embedded(page: bytes) -> dict[str, Any]:
    """Return the document within a page."""
    found = re.search(r'<script type="application/json" id="image">(.*?)</script>', page.decode(), re.DOTALL)
    assert found
    document: dict[str, Any] = json.loads(found[1])
    return document


def changes(story: Story, index: int) -> list[tuple[int, Fact, int | None]]:
    """Return the changes of a life."""
    flat = story.lives.lives[index].changes
    return [(flat[at] or 0, Fact((flat[at + 1] or 0) % ASSUMED), flat[at + 2]) for at in range(0, len(flat), 3)]


def test_a_stop_has_the_number_behind_the_record_that_made_it() -> None:
    """A process of the beginning is there before the first record."""
    story = Story()
    story.tell("birth", 10, assumed=True, present=True)
    story.tell("birth", 11, step=0, parent=10, creator=10, assumed=True, present=True)
    story.tell("birth", 20, parent=10, creator=10)
    story.tell("death", 20, exit_code=0, group_dead=True)
    assert story.lives.numbers == [1001, 1003, 1004]
    document = document_of(story)
    assert document["numbers"] == [0, 2, 3]
    assert document["runs"] == [[0, "1001"]]
    assert document["times"] == [0, SECOND, SECOND]
    assert document["realtime_ns"] == str(AHEAD_NS + 101 * SECOND)


def test_an_elder_that_is_told_behind_its_child_is_its_parent_all_the_same() -> None:
    """A subreaper may be younger than what it has adopted."""
    story = Story()
    story.tell("birth", 20, parent=10, creator=0, assumed=True, present=True)
    story.tell("birth", 10, step=0, assumed=True, present=True)
    story.lives.finish()
    child, elder = story.lives.lives
    assert (child.parent, elder.parent) == (1, NONE)


def test_a_program_is_a_mark_and_its_arguments_are_those_of_the_children() -> None:
    """A child has the arguments of its creator until it runs a program of its own."""
    story = Story()
    story.tell("birth", 10)
    story.tell("exec", 10, b"make", arguments=[b"make", b"-j 2"], arguments_cut=False, old_tid=0, exit_signal=17)
    story.tell("birth", 20, b"make", parent=10, creator=10)
    story.tell("exec", 20, b"cc", old_tid=0, exit_signal=17)
    texts = story.lives.texts.all
    place = texts.index("make '-j 2'")
    assert (1, Fact.PROGRAM, place) in changes(story, 0)
    assert story.lives.lives[1].first[Fact.ARGUMENTS] == place
    assert (3, Fact.ARGUMENTS, NONE) in changes(story, 1), "they are not known"


def test_each_life_of_a_number_is_one_of_its_own() -> None:
    """The kernel gives a number out again."""
    story = Story()
    story.tell("birth", 10)
    for comm in (b"one", b"two"):
        story.tell("birth", 20, comm, parent=10, creator=10)
        story.tell("death", 20, comm, exit_code=9, group_dead=True)
        story.tell("reap", 20, comm)
    found = [(each.numbers, each.born, each.gone) for each in story.lives.lives]
    assert found == [((10,), 0, None), ((20,), 1, 3), ((20,), 4, 6)]


def test_what_leaves_the_tree_of_a_root_is_gone_with_all_below_it() -> None:
    """It may come back, as another life."""
    story = Story(10)
    story.tell("birth", 10)
    story.tell("birth", 20, parent=10, creator=10)
    story.tell("birth", 30, parent=20, creator=20)
    story.tell("reparent", 20, parent=1, exit_signal=17)
    assert [(each.gone, each.left) for each in story.lives.lives] == [(None, False), (3, True), (3, True)]
    story.tell("birth", 20, parent=10, creator=10, assumed=True, entered=True)
    assert story.lives.lives[3].entered


def test_kernel_workers_are_counted_and_left_out() -> None:
    """As from every snapshot."""
    story = Story()
    story.tell("birth", 10)
    story.tell("birth", 2, b"kthreadd", kernel=True)
    story.tell("death", 2, b"kthreadd", exit_code=0, group_dead=True)
    assert len(story.lives.lives) == 1
    assert document_of(story)["notes"] == ["1 thread of the kernel left out, as from every snapshot"]


def test_gaps_losses_clocks_and_sleeps_have_their_place_and_their_words() -> None:
    """A gap ends with the first state behind it, a loss with the resync."""
    story = Story()
    story.tell("birth", 10)
    story.tell("loss", count=3)
    story.tell("loss", count=4)
    story.tell("resync")
    story.tell("clock", by_ns=-3 * SECOND)
    story.tell("suspend", asleep_ns=SECOND)
    story.tell("gap", why="the writer fell behind", reboot=False, next=5000, until_ns=1_700_000_111 * SECOND)
    story.order = 1010
    story.tell("birth", 30, assumed=True)
    story.tell("resync", step=0)
    document = document_of(story)
    assert document["troubles"] == [
        ["loss", SECOND, 3 * SECOND, "7 events lost: tasks may have changed unseen"],
        ["clock", 4 * SECOND, 4 * SECOND, "the clock was set back by 3 s"],
        ["suspend", 4 * SECOND, 5 * SECOND, "the host slept for 1 s"],
        ["gap", 6 * SECOND, 10 * SECOND, "no records from 22:15:07.000 until 22:15:11.000 UTC: the writer fell behind"],
    ]
    assert document["trust"] == "INCOMPLETE · 1 gap · 1 loss"
    assert [number for _, number in document["runs"]] == ["1002", "1011"]


def test_a_page_that_is_full_ends_at_its_last_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and the events of one record stay together."""
    monkeypatch.setattr(lives_module, "MOST_LIVES", 2)
    story = Story()
    assert story.tell("birth", 10)
    assert story.tell("birth", 20, parent=10, creator=10)
    assert story.tell("birth", 21, step=0, parent=10, creator=10)
    assert not story.tell("birth", 22, parent=10, creator=10)
    assert len(story.lives.lives) == 3
    page = timeline.page(story.lives, timeline.TimelineQuestion(), full=True)
    assert embedded(page)["notes"][0].startswith(
        "The page ends before the span does: it has no room for more than 3 tasks and"
    )


def test_more_tasks_at_the_beginning_than_there_is_room_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page cannot end before its beginning."""
    monkeypatch.setattr(lives_module, "MOST_LIVES", 1)
    story = Story()
    story.tell("birth", 10, assumed=True, present=True)
    with pytest.raises(UsageError, match="name a ROOT"):
        story.tell("birth", 11, step=0, assumed=True, present=True)


@pytest.mark.parametrize(
    "name", [b"</script><b>", b"<!--<script>", b"]]>{{IMAGE}}", b"\"\\u003c'", b"\xe2\x80\xae\x1b[31m", b"&lt;\xff"]
)
def test_foreign_text_stays_text(name: bytes) -> None:
    """No name or argument ends the element that it is in, or takes the place of a part of the page."""
    story, other = Story(), Story()
    other.tell("birth", 10)
    story.tell("birth", 10, name[:15])
    story.tell("exec", 10, name[:15], arguments=[name, name], arguments_cut=True, old_tid=0, exit_signal=17)
    page = timeline.page(story.lives, timeline.TimelineQuestion(names=lambda _: name.decode("latin-1")))
    plain = timeline.page(other.lives, timeline.TimelineQuestion())
    assert page.count(b"<") == plain.count(b"<")
    raw = re.search(rb'<script type="application/json" id="image">(.*?)</script>', page, re.DOTALL)
    assert raw
    assert not set(b"<>&") & set(raw[1])
    assert raw[1].decode("ascii").isprintable()


@given(st.binary(max_size=15), st.lists(st.binary(max_size=40), max_size=4), st.text(max_size=10))
@patient
def test_any_name_comes_as_text(name: bytes, words: list[bytes], user: str) -> None:
    """Printable, and the same as in every other drawing."""
    story = Story()
    story.tell("birth", 10, name)
    story.tell("exec", 10, name, arguments=words, arguments_cut=False, old_tid=0, exit_signal=17)
    page = timeline.page(story.lives, timeline.TimelineQuestion(names=lambda _: user))
    document = embedded(page)
    assert plain(escape(name)) in document["texts"]
    assert all(text.isprintable() for text in (*document["texts"], *document["users"].values()))
    assert page.count(b"</script>") == 2


@pytest.mark.parametrize("seed", range(6))
def test_the_lives_at_the_end_are_the_last_table(tmp_path: Path, seed: int) -> None:
    """Across gaps and losses, with the parent, group and session that each has."""
    a_recording(tmp_path, seed)
    recording = Recording(tmp_path)
    span = EventSpan(recording.runs[0].first, recording.runs[-1].last, present=True)
    lives = SpanLives()
    for batch in Retelling(recording, span, Enquirer()).batches():
        for said in batch:
            assert lives.take(event_of(said))
    table = recording.table_at(recording.runs[-1].last).table
    there = {(each.numbers[0], each.start_ns): each for each in lives.lives if each.gone is None}
    assert set(there) == {(task.pid.numbers[0], task.start_ns) for task in table.tasks()}
    for task in table.tasks():
        if task.leader is task and task.parent and task.pgid and task.sid:
            known = there[task.pid.numbers[0], task.start_ns].now
            numbers = [each.numbers[0] for each in (task.parent.pid, task.pgid, task.sid)]
            assert [known[fact] for fact in (Fact.PARENT, Fact.GROUP, Fact.SESSION)] == numbers
    assert len(lives.times_ns) == len(lives.numbers)
    assert lives.times_ns == sorted(lives.times_ns)
    assert lives.times_ns[0] >= BOOT_NS


def test_the_verb_writes_a_page_and_says_how_to_ask_for_an_instant(tmp_path: Path) -> None:
    """It exits with 6 where the span has a gap, as for events."""
    place = tmp_path / "it's here"
    place.mkdir()
    a_recording(place, 1)
    page = tmp_path / "page.html"
    ran = here("events", "--record", str(place), "-f", "html", "-o", str(page))
    assert (ran.returncode, ran.stderr) == (6, b"")
    document = embedded(page.read_bytes())
    assert document["title"] == "timeline of all processes"
    assert document["ask"] == f" --record '{tmp_path}/it'\"'\"'s here'"
    ran = here("events", "1", "--record", str(place), "-f", "html", "-o", str(page), "--allow-incomplete")
    assert ran.returncode == 0
    assert embedded(page.read_bytes())["root"] == "1"
    ran = here("events", "--record", str(place), "-f", "html", "--kind", "birth")
    assert ran.returncode == 2
    assert b"leave out --kind" in ran.stderr


def test_the_verb_says_where_the_page_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A span that is too long for a page is cut, and not refused."""
    monkeypatch.setattr(lives_module, "MOST_LIVES", 20)
    place = tmp_path / "recording"
    place.mkdir()
    a_recording(place, 1, runs=1)
    ran = here("events", "--record", str(place), "-f", "html", "-o", str(tmp_path / "page.html"))
    assert b"the page ends before the span does" in ran.stderr
    assert len(embedded((tmp_path / "page.html").read_bytes())["lives"]) >= 20
