# SPDX-License-Identifier: Apache-2.0
"""The line that tells how far a long answer has come."""

import io
import sys
import time
from itertools import count

import pytest

from agent.cli import progress
from agent.protocol.replies import Event


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _events() -> list[Event]:
    return [Event("resync", order, None, {}, 1_796_093_092_000_000_000) for order in range(2000)]


def _terminal(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    """Make standard error a terminal, and 0.4 s go by between two looks at the clock.

    No fixture: pytest takes standard error anew behind it.
    """
    made, looks = _Terminal(), count()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setattr(time, "monotonic", lambda: next(looks) * 0.4)
    return made


def test_a_terminal_is_told_how_far_the_events_have_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most once a second, in one line, which is cleared behind the last one."""
    terminal = _terminal(monkeypatch)
    assert list(progress.told(_events(), shown=True)) == _events()

    lines = terminal.getvalue().split("\r\x1b[K")
    assert lines[0] == lines[-1] == ""
    assert [line.split(", ")[0] for line in lines[1:-1]] == ["ckptree: 768 events", "ckptree: 1536 events"]
    assert all(", up to 2026-" in line for line in lines[1:-1])


def test_the_line_is_cleared_where_the_answer_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """No message stands behind it."""
    terminal = _terminal(monkeypatch)
    events = progress.told(_events(), shown=True)
    for _ in range(1000):
        next(events)
    events.close()  # type: ignore[attr-defined]  # it is a generator

    assert terminal.getvalue().endswith("\r\x1b[K")


def test_where_lines_are_written_to_the_terminal_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """They tell how far they have come."""
    terminal = _terminal(monkeypatch)
    assert list(progress.told(_events(), shown=False)) == _events()
    assert not terminal.getvalue()


def test_a_file_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log has no use for it."""
    monkeypatch.setattr(sys, "stderr", made := io.StringIO())
    assert list(progress.told(_events(), shown=True)) == _events()
    assert not made.getvalue()
