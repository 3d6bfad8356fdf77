# SPDX-License-Identifier: Apache-2.0
"""The file of the present segment, and its removal while it is written."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.recorder import folder, folderlock
from agent.recorder.retention import Retention
from agent.recorder.segmentoutput import RemovedError, SegmentOutput

_NAME = folder.name_of(1, 1)
_SAID = "the recording there was removed, renamed or replaced while it was written"


def renamed(place: Path) -> None:
    """Rename the folder."""
    place.rename(place.with_name("away"))


def replaced(place: Path) -> None:
    """Lay a copy in the place of the folder."""
    renamed(place)
    shutil.copytree(place.with_name("away"), place)


def linked(place: Path) -> None:
    """Lay a link to another folder there."""
    renamed(place)
    place.with_name("other").mkdir()
    place.symlink_to("other")


def without_segment(place: Path) -> None:
    """Remove the segment alone."""
    (place / _NAME).unlink()


def without_lock(place: Path) -> None:
    """Remove the lock alone: another daemon could write there, too."""
    (place / "lock").unlink()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder of a recording."""
    made = tmp_path / "recording"
    folder.make(made)
    return made


def an_output(place: Path) -> SegmentOutput:
    """Return an output that has begun a segment."""
    made = SegmentOutput(place, Retention(place, 1 << 20, 0), lock=folderlock.lock(place))
    made.begin(_NAME, b"head")
    made.sync()
    return made


@pytest.mark.parametrize("away", [shutil.rmtree, renamed, replaced, linked, without_segment, without_lock])
def test_the_removal_of_what_is_written_is_noticed_at_the_next_sync(place: Path, away: Callable[[Path], None]) -> None:
    """It is still written until then: a folder that was renamed has that."""
    output = an_output(place)
    away(place)
    output.write(b"more")
    with pytest.raises(RemovedError, match=f"{place}: {_SAID}"):
        output.sync()
    output.close()


@pytest.mark.parametrize("away", [shutil.rmtree, renamed, replaced, linked, without_lock])
def test_no_segment_is_begun_in_a_folder_that_is_not_locked(place: Path, away: Callable[[Path], None]) -> None:
    """Where nothing was written for a while, and the segment is to be another one."""
    output = an_output(place)
    output.close()
    away(place)
    before = sorted(os.listdir(place)) if place.exists() else []
    with pytest.raises(RemovedError, match=_SAID):
        output.begin(folder.name_of(2, 2), b"head")
    assert (sorted(os.listdir(place)) if place.exists() else []) == before


def test_what_is_there_is_written_on(place: Path) -> None:
    """Under another path, too, that leads there."""
    link = place.with_name("link")
    link.symlink_to("recording")
    output = an_output(link)
    output.write(b"one", b"two")
    output.sync()
    output.close()
    assert (place / _NAME).read_bytes() == b"headonetwo"
    assert (output.size, output.written_bytes) == (10, 10)
