# SPDX-License-Identifier: Apache-2.0
"""A trace in Perfetto's own trace processor: lives as slices, births as flows, a track for each life of a number."""

from typing import Any

import pytest

from agent.protocol.replies import Event, EventTask
from agent.recorder.tracks import Tracks
from tests.support.traceprocessor import Row, answers

pytestmark = pytest.mark.slow

AHEAD = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


class Story:
    """Events, one a second from the hundredth second after boot on."""

    def __init__(self) -> None:
        self._tracks = Tracks(AHEAD)
        self.now = 100 * SECOND
        self._born: dict[int, int] = {}
        self.trace = self._tracks.head(self.now)

    def tell(self, kind: str, tid: int = 0, comm: bytes = b"sh", pid: int = 0, **details: Any) -> None:
        """Tell an event of a task."""
        self.now += SECOND
        if kind == "birth":
            self._born[tid] = self.now
        task = EventTask(pid or tid, tid, (tid,), self._born[tid], 1000, 1000, comm) if tid else None
        self.trace += self._tracks.event(Event(kind, self.now // SECOND, task, details, AHEAD + self.now))


SLICES = """
select thread.tid as tid, slice.name as name, slice.category as category, ts / 1000000000 as at,
  case when dur < 0 then null else dur / 1000000000 end as lasts
from slice join thread_track on slice.track_id = thread_track.id join thread using (utid) order by ts, slice.id
"""
FLOWS = """
select maker.name as born, made.name as first, child.tid as tid, parent.tid as creator
from flow join slice as maker on slice_out = maker.id join slice as made on slice_in = made.id
join thread_track as to_track on made.track_id = to_track.id join thread as child on child.utid = to_track.utid
join thread_track as from_track on maker.track_id = from_track.id join thread as parent on parent.utid = from_track.utid
order by made.ts
"""


def asked(story: Story, *questions: str) -> list[list[Row]]:
    """Ask about a story; the trace processor must have no complaint about the trace."""
    *found, complaints = answers(
        story.trace, [*questions, "select name, value from stats where value > 0 and severity = 'error'"]
    )
    assert complaints == []
    return found


def test_a_life_is_a_slice_for_each_program_and_one_for_the_zombie() -> None:
    """The shell of the story was there before it, and outlives it."""
    story = Story()
    story.tell("birth", 10, assumed=True, creator=0)
    story.tell("birth", 20, creator=10, parent=10)
    story.tell("exec", 20, b"make", arguments=[b"make", b"-j 2"], old_tid=0)
    story.tell("death", 20, b"make", exit_code=3 << 8, group_dead=True)
    story.tell("reap", 20, b"make")
    slices, flows, words = asked(
        story,
        SLICES,
        FLOWS,
        "select string_value as said from args where key = 'debug.arguments' or key = 'debug.end' order by said",
    )
    assert [tuple(row.values()) for row in slices] == [
        (10, "sh", "birth", 101, None),
        (10, "birth 20", None, 102, 0),
        (20, "sh", "birth", 102, 1),
        (20, "make", "exec", 103, 1),
        (20, "zombie", "death", 104, 1),
    ]
    assert flows == [{"born": "birth 20", "first": "sh", "tid": 20, "creator": 10}]
    assert [row["said"] for row in words] == ["exited 3", "make '-j 2'"]


def test_each_life_of_a_number_has_a_track_of_its_own() -> None:
    """The kernel gives a number out again."""
    story = Story()
    story.tell("birth", 10, creator=0)
    for comm in (b"one", b"two", b"three"):
        story.tell("birth", 20, comm, creator=10)
        story.tell("death", 20, comm, exit_code=9, group_dead=True)
        story.tell("reap", 20, comm)
    (processes,) = asked(
        story,
        "select life.name as name, (life.end_ts - life.start_ts) / 1000000000 as lived, above.pid as parent "
        "from process as life join process as above on life.parent_upid = above.upid "
        "where life.pid = 20 order by life.start_ts",
    )
    assert processes == [{"name": name, "lived": 2, "parent": 10} for name in ("one", "two", "three")]


def test_threads_stand_below_their_process() -> None:
    """A thread ends without a zombie that stays."""
    story = Story()
    story.tell("birth", 10, creator=0)
    story.tell("birth", 11, b"worker", 10, creator=10)
    story.tell("death", 11, b"worker", 10, exit_code=0, group_dead=False)
    story.tell("reap", 11, b"worker", 10)
    threads, flows = asked(
        story,
        "select tid, pid, thread.name as name from thread join process using (upid) where pid > 0 order by tid",
        FLOWS,
    )
    assert threads == [{"tid": 10, "pid": 10, "name": "sh"}, {"tid": 11, "pid": 10, "name": "worker"}]
    assert [row["born"] for row in flows] == ["thread 11"]


def test_sessions_and_gaps_are_instants() -> None:
    """A gap of the recording stands where it was, on a track of its own."""
    story = Story()
    story.tell("birth", 10, creator=0)
    story.tell("setsid", 10, sid=10, pgid=10)
    story.tell("gap", why="the writer fell behind")
    said, tracks = asked(
        story,
        "select slice.name as name, ts / 1000000000 as at from slice where dur = 0 order by ts",
        "select name from track where name = 'recording'",
    )
    assert said == [{"name": "setsid", "at": 102}, {"name": "gap", "at": 103}]
    assert tracks == [{"name": "recording"}]


def test_a_name_is_text_whatever_its_bytes_are() -> None:
    """No byte of a name breaks the trace."""
    story = Story()
    story.tell("birth", 10, b"\xff\x1b[2J", creator=0)
    (slices,) = asked(story, SLICES)
    assert [row["name"] for row in slices] == ["\\xff\\x1b[2J"]
