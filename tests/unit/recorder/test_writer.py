# SPDX-License-Identifier: Apache-2.0
"""The writer of a recording where another process has the folder."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.daemon import recording
from agent.daemon.journal import Journal
from agent.daemon.recording import Recorder
from agent.recorder import folder, folderlock
from agent.recorder.recording import Recording
from agent.recorder.retention import Retention
from agent.recorder.segmentoutput import RemovedError
from tests.support.taped import Taped, a_recording

_PATIENCE_S = 180.0
_IMPATIENT = (
    "from agent.recorder import folderlock, writer; "
    "folderlock._PATIENCE_S = folderlock._USUAL_S = {patience_s}; sys.exit(writer.main(sys.argv[1:]))"
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder whose lock this process holds."""
    place = tmp_path / "recording"
    folder.make(place)
    lock = folderlock.lock(place)
    assert folderlock.hold(lock)
    yield place
    os.close(lock)


@contextmanager
def a_recorder(place: Path, log: Path) -> Iterator[Recorder]:
    """Yield a recorder without a watch, and end it."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)
    recorder = Recorder(place, 1 << 20, 0, Journal(descriptor))
    try:
        yield recorder
    finally:
        recorder.end(goes_on=False)
        os.close(descriptor)


def until(recorder: Recorder, is_so: Callable[[], bool]) -> None:
    """Tend a recorder until something is so."""
    deadline = time.monotonic() + _PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, recorder.figures()
        recorder.tend()
        time.sleep(0.01)


def reason(place: Path) -> str:
    """Return what is said of the folder."""
    return f"{place}: another daemon records there, its writer is process {os.getpid()}"


def test_a_lock_tells_the_process_that_holds_it(place: Path) -> None:
    """Where the kernel's list cannot be read, the answer is 0."""
    lock = folderlock.lock(place)
    assert not folderlock.hold(lock)
    assert folderlock.holder(lock) == os.getpid()
    assert folderlock.holder(lock, place / "missing") == 0
    os.close(lock)


def test_a_reader_who_may_not_open_the_lock_knows_that_a_daemon_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member of the group that may read is one."""

    def refuse(_path: Path, _flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    lock = folderlock.lock(tmp_path)
    monkeypatch.setattr(os, "open", refuse)
    assert not folderlock.is_written(tmp_path)
    assert folderlock.hold(lock)
    assert folderlock.is_written(tmp_path)
    os.close(lock)
    assert not folderlock.is_written(tmp_path)


def test_a_writer_that_waits_for_the_folder_is_not_said_to_record(place: Path, tmp_path: Path) -> None:
    """Status has the reason at once, the log after the time that a daemon's end takes; this daemon's end does not wait."""
    log = tmp_path / "log"
    with a_recorder(place, log) as recorder:
        until(recorder, lambda: recorder.figures()["state"] == f"waiting: {reason(place)}")
        assert recorder.figures()["active"] == 0
        assert log.read_text() == "", "a daemon that has just ended may still write its end"
        until(recorder, lambda: "nothing is recorded yet" in log.read_text())
    assert log.read_text().splitlines() == [  # nothing is said of a writer that did not end in time
        f"ckptree: nothing is recorded yet: {reason(place)}",
        f"ckptree: the end is not recorded: {reason(place)}",
    ]


def test_a_writer_that_gives_up_has_said_why(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that the writer has not read resets the connection, and hides none of its own."""
    monkeypatch.setattr(recording, "_PROGRAM", _IMPATIENT.format(patience_s=0.2))
    log = tmp_path / "log"
    with a_recorder(place, log) as recorder:
        recorder._control.send(b"keyframe")
        until(recorder, lambda: str(recorder.figures()["state"]).startswith("stopped: " + os.fspath(place)))
        assert recorder.figures()["state"] == f"stopped: {reason(place)}"
        assert recorder.figures()["active"] == 0
    assert f"ckptree: nothing is recorded: {reason(place)}" in log.read_text()


def test_a_segment_that_cannot_be_removed_ends_no_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a file system that an error has made one that can only be read: a write tells that."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Retention, "trim", refuse)
    truths = a_recording(tmp_path, 3, runs=1)
    assert Recording(tmp_path).runs[-1].last.order >= truths[-1].order


def test_what_another_daemon_has_recorded_meanwhile_is_not_recorded_twice(tmp_path: Path) -> None:
    """The recording begins anew once the writer has the folder, and the gap before it ends later than it begins."""
    first = Taped(tmp_path, 1)
    first.mark(continues=False)
    for _ in range(5):
        first.step()
    first.end()
    second = Taped(tmp_path, 2)  # it has begun when the first one had
    second.mark(continues=False)
    second.step()
    assert second.told() == [{"overlaps": True}]
    second.mark(continues=True)
    second.step()
    assert len(folder.stored(tmp_path)) == 1
    second.wait(1_000_000_000)
    second.mark(continues=False, why="the daemon began")
    second.step()
    second.end()
    recording = Recording(tmp_path)
    assert len(recording.segments) == 2
    (gap,) = recording.gaps
    assert gap.from_ns < gap.until_ns


def test_a_recorder_warns_of_a_folder_that_has_files_of_others(tmp_path: Path) -> None:
    """Of a recording there are segments, the lock, and where a relay was in a followed recording."""
    place = tmp_path / "recording"
    folder.make(place)
    a_recording(place, 1, runs=1, steps=3)
    (place / "lock").touch()
    with a_recorder(place, tmp_path / "own"):
        pass
    (place / "a tree.ckpt").touch()
    with a_recorder(place, tmp_path / "log"):
        pass
    assert "other files" not in (tmp_path / "own").read_text()
    said = f"{place}: it has other files, as 'a tree.ckpt': better name a folder of its own"
    assert said in (tmp_path / "log").read_text()


def test_a_folder_that_is_renamed_has_what_the_writer_was_given_until_it_noticed(tmp_path: Path) -> None:
    """In a block: the index states no more than there is."""
    place = tmp_path / "recording"
    folder.make(place)
    taped = Taped(place, 4)
    taped.mark(continues=False)
    for _ in range(20):
        taped.step()
    taped.flush()
    taped.step()
    taped._writer._take()
    place.rename(tmp_path / "away")
    with pytest.raises(RemovedError):
        taped._writer._sync(0.0)
    taped.end(orderly=False)
    recording = Recording(tmp_path / "away")
    assert (recording.gaps, recording.runs[-1].last.order) == ((), taped.next)
