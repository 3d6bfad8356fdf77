# SPDX-License-Identifier: Apache-2.0
"""A terminal in full-screen mode, restored at every end that a process can handle.

    ends: the block ends or raises · SIGINT, SIGTERM, SIGHUP, SIGQUIT: `Ended` is raised wherever the program is, so
        that
    no wait delays it · SIGTSTP: restored until SIGCONT

Sequences are those of ECMA-48 and of xterm (the alternate screen, 1049), which every terminal of today knows. Only the
rows that have changed are written.
"""

import contextlib
import os
import select
import signal
import socket
import termios
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any, Final, Protocol, Self

from agent.cli.scroll import Keyboard
from agent.errors import CkptreeError

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"  # alternate screen, no cursor, no wrapping, blank
_LEAVE: Final = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_LFLAG, _CC = 3, 6  # places in the list of tcgetattr


class HasFileno(Protocol):
    """An object with a descriptor."""

    def fileno(self) -> int:
        """Return the descriptor."""


class Ended(Exception):  # noqa: N818 - nothing went wrong
    """A signal that ends the program.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Screen:
    """A terminal, for output and keys.

    Args:
        descriptor: of the terminal, open for reading and writing.

    Raises:
        CkptreeError: the descriptor is no terminal's.
    """

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._keyboard = Keyboard()
        self._shown: list[str] = []
        self._before: dict[int, Any] = {}
        try:
            self._mode = termios.tcgetattr(descriptor)
        except termios.error as error:
            raise CkptreeError(f"this is no terminal: {error.args[-1]}") from error

    def __enter__(self) -> Self:
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        handlers: dict[int, Callable[[int, FrameType | None], None]] = dict.fromkeys(_ENDING, self._end)
        handlers |= {signal.SIGTSTP: self._stop, signal.SIGCONT: self._continue, signal.SIGWINCH: lambda *_: None}
        self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        self._wakeup = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for ending in _ENDING:  # a second signal must not interrupt the restoring
            signal.signal(ending, signal.SIG_IGN)
        with contextlib.suppress(OSError, termios.error):  # it may have hung up
            self._give_back()
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._woken.close()
        self._waker.close()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows; 80 and 24 where the terminal does not tell."""
        columns, rows = os.get_terminal_size(self._fd)
        return columns or 80, rows or 24

    def draw(self, lines: Sequence[str]) -> None:
        """Show lines: at most as many as there are rows, none wider than the columns."""
        changed = [
            f"\x1b[{row + 1};1H\x1b[2K{line}\x1b[0m"
            for row, line in enumerate(lines)
            if row >= len(self._shown) or self._shown[row] != line
        ]
        self._shown = list(lines)
        if changed:
            self._write("".join(changed))

    def wait(self, timeout_s: float, also: HasFileno | None = None) -> list[str] | None:
        """Wait for keys, a signal or another descriptor, and return the keys.

        Args:
            timeout_s: bound of the wait, s.
            also: another object to wait for: the wait ends when it becomes readable.

        Returns:
            Keys; None where the terminal has hung up.
        """
        others = [self._woken.fileno(), *([] if also is None else [also.fileno()])]
        ready, _, _ = select.select([self._fd, *others], [], [], max(timeout_s, 0))
        if self._woken.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                if signal.SIGWINCH in self._woken.recv(4096):
                    self._shown = []
                    self._write("\x1b[2J")
        if self._fd not in ready:
            return []
        try:
            data = os.read(self._fd, 1024)
        except OSError:
            return None
        return self._keyboard.feed(data) if data else None

    def _write(self, text: str) -> None:
        data = memoryview(text.encode(errors="replace"))
        while data:
            data = data[os.write(self._fd, data) :]

    def _take(self) -> None:
        mode = termios.tcgetattr(self._fd)
        mode[_LFLAG] &= ~(termios.ICANON | termios.ECHO)
        mode[_CC][termios.VMIN], mode[_CC][termios.VTIME] = 1, 0
        termios.tcsetattr(self._fd, termios.TCSADRAIN, mode)
        self._shown = []
        self._write(_ENTER)

    def _give_back(self) -> None:
        self._write(_LEAVE)
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._mode)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        for each in _ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise Ended(number)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self._give_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # the process stops here
        signal.signal(number, self._stop)
        self._take()

    def _continue(self, _number: int, _frame: FrameType | None) -> None:
        self._take()
