# SPDX-License-Identifier: Apache-2.0
"""A program on a terminal of the test's own: its screen, keys, signals, and terminal modes before and after."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PATIENCE_S = 30.0
_PIECE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])|([^\x1b]+)|(\x1b[^\[]?)")


class Display:
    """The part of a terminal that the program uses; any other sequence is an error.

    Attributes:
        alternate: True if the alternate screen is shown.
        cursor: True if the cursor is shown.
        wraps: True if text wraps at the right margin.
        before: the text on the normal screen.
        said: all text, on either screen.
    """

    def __init__(self) -> None:
        self.alternate, self.cursor, self.wraps = False, True, True
        self._rows: dict[int, str] = {}
        self._row = 0
        self.before = self.said = ""
        self.colours: set[str] = set()

    def feed(self, text: str) -> None:
        """Take the program's output."""
        for private, parameters, final, plain, odd in _PIECE.findall(text):
            assert not odd, f"a sequence that is none: {odd!r}"
            if plain:
                self._put(plain)
            elif private:
                self._switch(parameters, on=final == "h")
            elif final == "H":
                self._row = int(parameters.partition(";")[0])
            elif final == "J":
                self._rows = {}
            elif final == "K":
                assert parameters == "2"
                self._rows[self._row] = ""
            else:
                assert final == "m"
                self.colours.add(parameters)

    def _put(self, text: str) -> None:
        self.said += text
        if self.alternate:
            self._rows[self._row] = self._rows.get(self._row, "") + text
        else:
            self.before += text

    def _switch(self, parameters: str, *, on: bool) -> None:
        name = {"1049": "alternate", "25": "cursor", "7": "wraps"}[parameters]
        setattr(self, name, on)
        if name == "alternate":
            self._rows = {}

    @property
    def rows(self) -> list[str]:
        """Return the rows of the screen, from the top."""
        return [self._rows.get(row, "") for row in range(1, max(self._rows, default=0) + 1)]

    @property
    def text(self) -> str:
        """Return the text on the screen."""
        return "\n".join(self.rows)


class Teletype:
    """A program on a terminal.

    Args:
        process: the program.
        ours: our end of the terminal.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", ours: int) -> None:
        self.process = process
        self.display = Display()
        self.ours = ours
        self.modes: list[Any] = termios.tcgetattr(ours)

    def press(self, keys: bytes) -> None:
        """Type these keys."""
        os.write(self.ours, keys)

    def resize(self, rows: int, columns: int) -> None:
        """Change the size; the kernel sends SIGWINCH to the program."""
        termios.tcsetwinsize(self.ours, (rows, columns))

    def see(self, pattern: str) -> None:
        """Wait until the screen shows this text."""
        self._wait(lambda: re.search(pattern, self.display.text), pattern)

    def hear(self, condition: Any) -> None:
        """Wait until this is true of the program's output."""
        self._wait(condition, "what was waited for")

    def _wait(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, (
                f"{what} does not come; there is:\n{self.display.text}{self.display.before}"
            )
            assert self._read(0.05) or condition(), f"it ended, and there is:\n{self.display.before}"

    def _read(self, timeout_s: float) -> bool:
        if select.select([self.ours], [], [], timeout_s)[0]:
            try:
                data = os.read(self.ours, 1 << 16)
            except OSError:  # the other end is closed
                return False
            self.display.feed(data.decode())
        return True

    def end(self) -> int:
        """Return the exit of the program, after all its output has been read."""
        while self._read(PATIENCE_S):
            pass
        return self.process.wait(PATIENCE_S)


@contextmanager
def on_a_terminal(
    *arguments: str, before: Sequence[str] = (), rows: int = 24, columns: int = 80, **environment: str
) -> Iterator[Teletype]:
    """Run the command line, behind the words `before`, with a terminal as its controlling terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (rows, columns))
    inherited = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
    command = [sys.executable, "-m", "agent", *arguments]
    with subprocess.Popen(
        ["setsid", "--ctty", *before, *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=inherited | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"} | environment,
    ) as process:
        modes = termios.tcgetattr(theirs)
        os.close(theirs)
        teletype = Teletype(process, ours)
        teletype.modes = modes
        try:
            yield teletype
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE_S)
            os.close(ours)
