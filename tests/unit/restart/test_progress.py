# SPDX-License-Identifier: Apache-2.0
"""The progress of long work on standard error."""

import io
import sys
import time

import pytest

from agent.restart.rebuild.progress import Progress


class Screen(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list of one number, which is the time in seconds."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_after_two_seconds_and_then_ever_fewer(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wait is twice the time so far."""
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    progress = Progress(lambda: f"{clock[0] - 100:.1f} s")
    for _ in range(60):
        clock[0] += 0.5
        progress.show()
    progress.end()

    assert log.getvalue() == "2.0 s\n4.0 s\n8.0 s\n16.0 s\n"


def test_a_terminal_has_one_line_that_changes(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends once, when something was shown."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    progress = Progress(lambda: f"{clock[0] - 100:.1f} s")
    progress.end()
    for _ in range(2):
        clock[0] += 0.5
        progress.show()
    progress.end()
    progress.end()

    assert screen.getvalue() == "\r0.5 s\r1.0 s\n"


def test_without_a_standard_error_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service may have none."""
    monkeypatch.setattr(sys, "stderr", None)
    progress = Progress(lambda: "")
    progress.show()
    progress.end()
