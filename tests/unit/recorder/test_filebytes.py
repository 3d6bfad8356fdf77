# SPDX-License-Identifier: Apache-2.0
"""The bytes of a file that may be cut short, removed or replaced while it is read."""

import errno
import gc
import os
from pathlib import Path
from typing import Any

import pytest

from agent.recorder import filebytes, folder, segment
from agent.recorder.filebytes import DroppedError, FileBytes
from agent.recorder.history import NumberHistory
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from tests.support.taped import a_recording

_DATA = bytes(range(256)) * 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file."""
    made = tmp_path / "file"
    made.write_bytes(_DATA)
    return made


def test_its_parts_are_those_of_bytes(path: Path) -> None:
    """Up to its end as of the first look: it may grow."""
    found = FileBytes(path)
    with path.open("ab") as file:
        file.write(b"more")
    for part in (slice(0, 10), slice(5, 5), slice(9, 3), slice(10_000, 20_000), slice(None, None), slice(20_000, None)):
        assert found[part] == _DATA[part]
    assert len(found) == len(_DATA)


def test_what_was_cut_off_is_missing(path: Path) -> None:
    """A mapping would end the process."""
    found = FileBytes(path)
    os.truncate(path, 100)
    assert (found[90:120], found[200:300], len(found)) == (_DATA[90:100], b"", len(_DATA))


def test_a_file_that_was_removed_is_read_on(path: Path) -> None:
    """As retention does it."""
    found = FileBytes(path)
    path.unlink()
    assert found[0:10] == _DATA[:10]


def test_few_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is opened again, if it is the same; none stays open behind its reader."""
    gc.collect()
    monkeypatch.setattr(filebytes, "_MOST_OPEN", 3)
    before = len(os.listdir("/proc/self/fd"))
    files = []
    for number in range(10):
        path = tmp_path / f"{number}"
        path.write_bytes(b"%d" % number)
        files.append(FileBytes(path))
    assert len(os.listdir("/proc/self/fd")) == before + 3
    assert [each[0:1] for each in files] == [b"%d" % number for number in range(10)]
    (tmp_path / "other").write_bytes(b"x")
    (tmp_path / "other").rename(tmp_path / "1")
    assert (files[1][0:1], len(files[1])) == (b"", 1)
    del files
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_read_has_no_bytes(tmp_path: Path) -> None:
    """A folder has a size all the same."""
    assert FileBytes(tmp_path)[0:10] == b""


def test_what_is_dropped_before_it_is_read_is_missed(tmp_path: Path) -> None:
    """A history would lack a life without a word. What was opened by then is read on."""
    a_recording(tmp_path, 7, runs=1, steps=80, marks=0.05)

    def lives(recording: Recording, number: int) -> list[Any]:
        span = (recording.runs[0].first, recording.runs[-1].last)
        return NumberHistory(recording, span, number, Enquirer()).lives()

    opened, unopened = Recording(tmp_path), Recording(tmp_path)
    told = [lives(opened, number) for number in range(1, 40)]
    first = folder.stored(tmp_path)[0].path
    first.unlink()

    assert [lives(opened, number) for number in range(1, 40)] == told
    with pytest.raises(DroppedError, match=f"{first}: it was removed while the recording was read, .*: ask again"):
        lives(unopened, 1)
    assert Recording(tmp_path).segments


def test_a_hole_is_passed_over(tmp_path: Path) -> None:
    """A file of a terabyte that has nothing but a block at its end is searched at once."""
    head, stored = segment.block(segment.TAPE, b"bytes", 5, (1, 2), (0, 0, 0))
    path, at = tmp_path / "sparse", 1 << 40
    try:
        path.touch()
        os.truncate(path, at)
        with path.open("ab") as file:
            file.write(head + bytes(stored))
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        pytest.skip("no file of this file system may have a terabyte")
    data = FileBytes(path)
    found = list(segment.blocks(data, 0, data.data_from))
    assert [each and each.begin for each in found] == [None, at]


@pytest.mark.parametrize("before", [0, 1, (1 << 20) - 4, (1 << 20) - 40, 1 << 20, (3 << 20) + 5])
def test_a_head_is_found_wherever_it_lies(before: int) -> None:
    """Damage is searched in windows."""
    head, stored = segment.block(segment.TAPE, b"bytes", 5, (1, 2), (0, 0, 0))
    data = b"x" * before + head + bytes(stored)
    found = [each.begin for each in segment.blocks(b"x" + data, 0) if each is not None]
    assert found == [before + 1]


def test_a_block_of_the_tape_is_no_larger_than_a_writer_makes_it() -> None:
    """A few bytes could become a gigabyte."""
    for size, fits in ((segment.MOST_TAPE_BYTES, True), (segment.MOST_TAPE_BYTES + 1, False)):
        head, _ = segment.block(segment.TAPE, b"bytes", size, (1, 2), (0, 0, 0))
        assert (segment.block_at(head, 0) is not None) is fits
