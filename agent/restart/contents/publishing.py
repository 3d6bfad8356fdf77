# SPDX-License-Identifier: Apache-2.0
"""The writing of later parts of programs into the file that is shared with all tasks, which wait for them meanwhile."""

import ctypes
import mmap
import os
from typing import Final

from agent.restart.contents import fillabi
from agent.restart.contents.fillsection import FillProgram
from agent.restart.contents.syscalls import CALLS
from agent.restart.rebuild.helperabi import next_page

_FUTEX_WAKE: Final = 1
_ALL: Final = 0x7FFFFFFF
_READY: Final = fillabi.WORD
"""Bytes of `ready`, the first member of a struct fill_part."""


class Publisher:
    """The writer of parts.

    Args:
        file: the descriptor of the shared file.
        state: offset and size of the fill's state in it.
    """

    def __init__(self, file: int, state: tuple[int, int]) -> None:
        self._file = file
        self._at, size = state
        self._state = mmap.mmap(file, size, offset=self._at)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._state))
        self._libc = ctypes.CDLL(None)
        self._end = os.fstat(file).st_size

    def publish(self, word: int, address: int, content: bytes) -> None:
        """Write a part behind all others, and wake the tasks that wait for it.

        Args:
            word: of `FillProgram.part`.
            address: the place of the part in its process.
            content: the part, whole pages.
        """
        offset = next_page(self._end)
        os.pwrite(self._file, content, offset)
        self._end = offset + len(content)
        place = FillProgram.word_offset(word)
        entry = fillabi.PART.pack(1, 0, offset, len(content), address)
        # The other members must be there before `ready`, also for a processor that sees writes in another order.
        os.pwrite(self._file, entry[_READY:], self._at + place + _READY)
        os.pwrite(self._file, entry[:_READY], self._at + place)
        self._libc.syscall(CALLS["futex"], ctypes.c_void_p(self._base + place), _FUTEX_WAKE, _ALL, None)
