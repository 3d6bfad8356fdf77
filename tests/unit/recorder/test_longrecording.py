# SPDX-License-Identifier: Apache-2.0
"""The recordings that the measurements ask are true ones: of a host whose table is never in doubt."""

import random
import socket
import time
from pathlib import Path

import pytest
import zstandard

from agent.daemon.recording import keyframe_interval
from agent.recorder import compression, segment, tape, writer
from agent.recorder.channel import Channel
from agent.recorder.facts import Instant
from agent.recorder.history import NumberHistory
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from agent.table.wire import Kind
from tests.bench import longrecording
from tests.support.recorded import unlike

_RECORDS = 6000
_LIVE = 150


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A recording with numbers that are taken again and again."""
    place = tmp_path_factory.mktemp("long")
    longrecording.make(place, _RECORDS, _LIVE, pid_max=1000, interval=700)
    return Recording(place)


def test_a_made_recording_has_all_that_was_asked_for(made: Recording) -> None:
    """Each segment joins the one before it, and the daemon's end is in it."""
    (run,) = made.runs
    assert run.last.order - run.first.order >= _RECORDS
    assert run.ended
    assert not made.gaps
    assert len(made.segments) > 5
    assert unlike(made) == []


def test_a_boot_that_repeats_another_has_its_records_at_later_times(tmp_path: Path) -> None:
    """Each segment is whole, with an index, and a number has had its lives in each boot."""
    longrecording.make(tmp_path, _RECORDS, _LIVE, pid_max=1000, interval=2000)
    longrecording.repeat(tmp_path, 3)
    recording = Recording(tmp_path)
    first, _, last = recording.runs
    assert first.last.time_ns < recording.runs[1].first.time_ns < last.first.time_ns
    assert (last.first.order, last.last.order) == (first.first.order, first.last.order)
    assert [each.why for each in recording.gaps] == ["the daemon began"] * 2
    assert all(each.is_sound and each.index() is not None for each in recording.segments)
    lives = NumberHistory(recording, (first.first, last.last), 500, Enquirer()).lives()
    starts = [[life[0]["start_ns"] for life in lives if life[0]["run"] == run] for run in range(3)]
    assert starts[0] == starts[1] == starts[2]
    assert len(starts[0]) > 1
    times = [life[0]["time_ns"] for life in lives]
    assert times == sorted(times)
    state = [recording.table_at(run.last) for run in recording.runs]
    assert len({len(each.table.tasks()) for each in state}) == 1
    middle = recording.at_time((last.first.time_ns + last.last.time_ns) // 2)
    assert middle.run == 2


def test_no_instant_of_a_made_recording_is_in_doubt(made: Recording) -> None:
    """Every kind of record occurs, and none repairs anything."""
    (run,) = made.runs
    found = made.table_at(run.last)
    table, kinds = found.table, found.stream.kinds
    assert not found.reasons
    assert not table.doubts
    assert not table.unknown
    assert not table.counts.repairs
    assert len(table.tasks()) > _LIVE
    assert all(kinds[each] for each in (Kind.FORK, Kind.EXEC, Kind.EXIT, Kind.SESSION, Kind.GROUP, Kind.WAITED))
    assert kinds[Kind.FREE]
    assert kinds[Kind.FORK] > 1000, "more lives than numbers"


def test_an_instant_of_a_number_is_replayed_once(made: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is there once its time is; a second question about it gets a state of its own."""
    replays: list[int] = []
    replayer = Recording.replayer

    def counted(self: Recording, instant: Instant) -> object:
        before = self._standing
        found = replayer(self, instant)
        if before is None or before[1] is not found:
            replays.append(instant.order)
        return found

    monkeypatch.setattr(Recording, "replayer", counted)
    order = made.runs[0].last.order - 10
    instant = made.at_order(order)
    first, second = made.table_at(instant), made.table_at(instant)
    assert replays == [order, order]
    assert first.table is not second.table
    assert first.stream.next == second.stream.next == order


def test_what_comes_at_leisure_takes_less_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entries are the same: a reader needs not know how much time the writer had."""
    sizes, contents = [], []
    for name, leisure in (("hurried", 0), ("leisurely", 1 << 40)):
        monkeypatch.setattr(compression, "_LEISURE", leisure)
        longrecording.make(tmp_path / name, _RECORDS, _LIVE, pid_max=1000, interval=_RECORDS)
        found = Recording(tmp_path / name)
        tapes = [(each, block) for each in found.segments for block in each.tapes]
        sizes.append(sum(block.stored for _, block in tapes))
        contents.append(b"".join(each.content(block) or b"" for each, block in tapes))
    assert contents[0] == contents[1]
    assert sizes[1] < 0.97 * sizes[0]


def test_a_block_that_comes_fast_takes_little_more_on_disk_than_with_the_librarys_own_level(tmp_path: Path) -> None:
    """An eighth at most, for the time that it saves."""
    longrecording.make(tmp_path, 2 * _RECORDS, _LIVE, pid_max=1000, interval=2 * _RECORDS)
    contents = [each.content(block) or b"" for each in Recording(tmp_path).segments for block in each.tapes]
    ours, theirs = compression.fast(), zstandard.ZstdCompressor()
    blocks = [each for each in contents if len(each) >= compression.BLOCK_BYTES]
    assert blocks
    assert sum(len(ours.compress(each)) for each in blocks) < 1.125 * sum(len(theirs.compress(each)) for each in blocks)


def test_a_writer_hurries_where_more_comes_than_it_has_time_for() -> None:
    """A mebibyte of tape in a second is no hurry, and less in a moment is none either; a block in no time is, and so is
    the rest of one that comes at once behind it. So is one behind which others wait, however long it took: the writer
    was kept from its work.
    """

    def hurries(*blocks: tuple[int, float], waiting: int = 0) -> bool:
        hers = compression.Compression()
        for size, ago_s in blocks:
            hers.note(size, time.monotonic() - ago_s, waiting)
        return hers.hurries

    assert not hurries((10 << 20, 10))
    assert not hurries((1 << 18, 0))
    assert hurries((1 << 19, 0))
    assert hurries((1 << 19, 0), (1 << 18, 0))
    assert not hurries((1 << 19, 10), (1 << 18, 0))
    assert not hurries((1 << 10, 10), waiting=1 << 18)
    assert hurries((1 << 10, 10), waiting=1 << 19)


def test_a_keyframe_is_compressed_thoroughly_at_any_pace() -> None:
    """An index is not."""
    chance = random.Random(1)
    data = b"".join(b"%d %d " % (chance.randrange(300), chance.randrange(9)) for _ in range(20_000))
    hers = compression.Compression()
    sizes = []
    for size in (1, 1 << 19):
        hers.note(size, time.monotonic(), 0)
        sizes.append([len(hers.stored(kind, data)) for kind in (segment.KEYFRAME, segment.INDEX, segment.TAPE)])
    leisurely, hurried = sizes
    assert leisurely[0] == hurried[0] < hurried[1] == hurried[2]


def test_a_writer_naps_no_longer_than_a_block_or_a_message_may_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record behind the nap counts as old as the bell. A nap that did not end would last for an hour here."""
    monkeypatch.setattr(writer, "_NAP_S", 3600.0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel.create(1 << 20)
    hers = writer.TapeWriter(tmp_path, channel, theirs, 1 << 40, 0)
    assert channel.put(tape.PART, 1, 1, bytes(8))
    hers._rung_s = 5.0
    hers._take()
    assert hers._open.since_s == 5.0
    hers._heed_bell()  # the open block is due
    hers._flush()
    ours.send(b"keyframe")
    hers._heed_bell()
    ours.close()
    theirs.close()


def test_a_keyframe_is_due_the_later_the_more_tasks_there_are() -> None:
    """Within bounds: of the time that a replay takes, and of what keyframes cost where there are few tasks."""
    found = [keyframe_interval(tasks) for tasks in (100, 10_000, 12_000, 1_000_000)]
    assert found == sorted(found)
    assert found[0] == 200_000
    assert found[1] == 240_000
    assert found[-1] == 300_000
