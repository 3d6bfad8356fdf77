# SPDX-License-Identifier: Apache-2.0
"""The signals that a verb handles while it works: those that ask for its end, and those that it forwards."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from agent.record import NamedTuple

_ENDING = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The arrival of a signal that asks for the end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Asked(NamedTuple):
    """The signals so far that ask for the end.

    Attributes:
        numbers: their numbers, in order of arrival.
        bell: the descriptor of `handled`.
    """

    numbers: list[int]
    bell: int

    def check(self) -> None:
        """Raise Interrupted if a signal has come, also one whose exception Python has dropped."""
        if self.numbers:
            raise Interrupted(self.numbers[-1])


@contextmanager
def raising() -> Iterator[Asked]:
    """Note signals that ask for the end, and raise Interrupted.

    They are noted since Python drops exceptions that are raised within some of its callbacks.
    """
    numbers: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        numbers.append(number)
        raise Interrupted(number)

    with handled(_ENDING, interrupt) as bell:
        yield Asked(numbers, bell)


@contextmanager
def handled(numbers: tuple[signal.Signals, ...], handler: "signal._HANDLER") -> Iterator[int]:
    """Handle signals, and yield a descriptor that is readable once one has come, even before its handler has run."""
    bell, rope = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    rope_before = signal.set_wakeup_fd(rope, warn_on_full_buffer=False)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield bell
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(rope_before)
        os.close(bell)
        os.close(rope)
