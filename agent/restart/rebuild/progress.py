# SPDX-License-Identifier: Apache-2.0
"""The progress of long work on standard error: one line that changes on a terminal, else lines that become rarer."""

import sys
import time
from collections.abc import Callable
from typing import Final

LOOK_S: Final = 0.5
"""Seconds between two looks at the progress."""
_PATIENCE_S: Final = 2.0
"""Seconds after which progress is written to a standard error that is no terminal; each further wait is doubled."""


class Progress:
    """The progress of one work.

    Args:
        text: returns how far the work is.
    """

    def __init__(self, text: Callable[[], str]) -> None:
        self._text = text
        self._begin = time.monotonic()
        self._patience = _PATIENCE_S
        self._shown = False

    def show(self) -> None:
        """Write how far the work is, unless that was written not long ago."""
        if sys.stderr is None:
            return
        seconds = time.monotonic() - self._begin
        terminal = sys.stderr.isatty()
        if not terminal and seconds < self._patience:
            return
        self._patience = 2 * seconds
        sys.stderr.write(f"\r{self._text()}" if terminal else f"{self._text()}\n")
        sys.stderr.flush()
        self._shown = terminal

    def end(self) -> None:
        """End the line on a terminal, so that what follows begins a new one."""
        if self._shown:
            sys.stderr.write("\n")
            self._shown = False
