# SPDX-License-Identifier: Apache-2.0
"""A window on lines of text, and the keys that move it. Pure: agent.cli.screen drives the terminal.

    sequence = ESC "[" parameter* final | ESC "O" final        ECMA-48, and what terminals send in application mode
    key      = sequence | character

A sequence may come in pieces: its beginning is kept until the rest arrives. A single Escape key is also the beginning
of a sequence, so it has no meaning of its own.
"""

import re
from typing import Final

_SEQUENCE: Final = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[@-~])")
_BEGUN: Final = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|O)?\Z")
_NAMES: Final = {
    b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down",
    b"\x1b[5~": "page-up", b"\x1b[6~": "page-down",
    b"\x1b[H": "top", b"\x1b[1~": "top", b"\x1b[7~": "top", b"\x1bOH": "top",
    b"\x1b[F": "bottom", b"\x1b[4~": "bottom", b"\x1b[8~": "bottom", b"\x1bOF": "bottom",
    b"\x1b[C": "right", b"\x1b[D": "left", b"\x1bOC": "right", b"\x1bOD": "left",
    b"\x06": "page-down", b"\x02": "page-up", b"\r": "enter", b"\n": "enter", b"\x7f": "backspace", b"\b": "backspace",
}  # fmt: skip
COMMANDS: Final = {"k": "up", "j": "down", " ": "page-down", "<": "top", ">": "bottom", "h": "?", "Q": "q"}
"""Characters that stand for another key, where no text is typed."""


class Keyboard:
    """A decoder of a terminal's bytes into keys."""

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the keys that these bytes complete, as names or characters; unknown sequences are left out."""
        data, self._kept = self._kept + data, b""
        keys = []
        while data:
            if _BEGUN.match(data):
                self._kept = data
                break
            found = _SEQUENCE.match(data)
            key = found[0] if found else data[:1]
            data = data[len(key) :]
            if key in _NAMES or not found:
                keys.append(_NAMES.get(key) or key.decode("latin-1"))
        return keys


class Viewport:
    """The visible part of the lines, and the line that the cursor is on, which is always visible.

    Attributes:
        top: index of the first visible line; never so large that rows stay empty below the last line.
        cursor: index of the cursor's line.
    """

    def __init__(self) -> None:
        self.top = self.cursor = 0

    def press(self, key: str, height: int, rows: int) -> bool:
        """Move by a key; return False if the key moves nothing.

        Args:
            key: from Keyboard.
            height: count of lines.
            rows: count of visible rows.
        """
        moves = {"up": -1, "down": 1, "page-up": 1 - rows, "page-down": rows - 1, "top": -height, "bottom": height}
        if key not in moves:
            return False
        self.cursor += moves[key]
        if key not in ("up", "down"):
            self.top += moves[key]
        self._hold(height, rows)
        return True

    def seen(self, height: int, rows: int) -> range:
        """Return the indexes of the visible lines."""
        self._hold(height, rows)
        return range(self.top, min(self.top + rows, height))

    def place(self, height: int, rows: int) -> str:
        """Return the range of visible lines as text; empty where all lines are visible."""
        return f"{self.top + 1}-{min(self.top + rows, height)}/{height}" if height > rows else ""

    def _hold(self, height: int, rows: int) -> None:
        """Keep cursor and window within the lines, and the cursor within the window."""
        self.cursor = max(0, min(self.cursor, height - 1))
        self.top = max(self.cursor - rows + 1, min(self.top, self.cursor))
        self.top = max(0, min(self.top, height - rows))
