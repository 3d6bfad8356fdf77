# SPDX-License-Identifier: Apache-2.0
"""The pid in a pid file, and the process that prevents a start."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.errors import CkptreeError
from agent.restart.rebuild import pidfile
from agent.restart.rebuild.coordinator import HELPER
from tests.live.restartverb import soon

_PR_SET_NAME = 15


@contextmanager
def _called_as_a_guard() -> Iterator[int]:
    """Run a child with the name of the helper; yield its pid."""
    pid = os.fork()
    if not pid:
        ctypes.CDLL(None).prctl(_PR_SET_NAME, HELPER.name.encode(), 0, 0, 0)
        signal.pause()
        os._exit(0)
    try:
        assert soon(lambda: Path(f"/proc/{pid}/comm").read_text() == f"{HELPER.name[:15]}\n")
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_guard_that_lives_keeps_its_file(tmp_path: Path) -> None:
    """The message names it, with the remedy."""
    file = tmp_path / "pid"
    with _called_as_a_guard() as guard:
        file.write_text(f"{guard}\n")
        with pytest.raises(CkptreeError, match=f"names the guard {guard} of a tree that stands"):
            pidfile.check(file)


def test_a_guard_that_has_ended_and_nobody_has_waited_for_stops_nobody(tmp_path: Path) -> None:
    """A pid 1 that reaps no children leaves it a zombie for ever."""
    file = tmp_path / "pid"
    with _called_as_a_guard() as guard:
        file.write_text(f"{guard}\n")
        os.kill(guard, signal.SIGKILL)
        os.waitid(os.P_PID, guard, os.WEXITED | os.WNOWAIT)

        pidfile.check(file)
