# SPDX-License-Identifier: Apache-2.0
"""The newest part of a recording that a daemon writes: a question about it waits until it is on disk."""

import time
from typing import Final

from agent.recorder import folderlock
from agent.recorder.instant import ClockTime, Time
from agent.recorder.recording import Recording

_PATIENCE_S: Final = 3.0  # a daemon that has nothing to do states each second that nothing has happened
_POLL_S: Final = 0.1


def awaited(recording: Recording, *moments: Time) -> Recording:
    """Return a recording once it has some points in time; as it is where they do not come.

    Only times that have been are waited for, and only while a writer has the folder.

    Args:
        recording: as it was opened.
        moments: the points in time.
    """
    wanted_ns = max((each.realtime_ns for each in moments if isinstance(each, ClockTime)), default=0)
    deadline_s = time.monotonic() + _PATIENCE_S
    while (
        recording.until_ns < wanted_ns <= time.time_ns()
        and time.monotonic() < deadline_s
        and folderlock.is_written(recording.folder)
    ):
        time.sleep(_POLL_S)
        recording = Recording(recording.folder)
    return recording


def ended_ns(recording: Recording) -> int | None:
    """Return CLOCK_REALTIME of the end of a recording, ns; None: a daemon goes on to write it."""
    return None if folderlock.is_written(recording.folder) else recording.until_ns
