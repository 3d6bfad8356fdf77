# SPDX-License-Identifier: Apache-2.0
"""The system call that the kernel had restarted for a thread, by the code that has issued it.

A call that was interrupted before the dump goes on as restart_syscall(2), and the kernel keeps the number of the first one
in no place that a dump has. Most code loads it right before the call. Where it comes from a register, as in syscall(3)
and since glibc 2.41 in all calls that can be cancelled, the arguments tell: four calls go on so, and hardly ever do the
arguments of one of them fit another.
"""

import os
import stat
from collections.abc import Mapping
from typing import Any, Final

from agent.restart.contents import registers
from agent.restart.contents.images import ProcessImage
from agent.restart.contents.syscalls import CALLS
from exporters.criu.memorymessages import FILE_PRIVATE

_SIZE: Final = 7
"""Bytes of the code: the number into EAX, and the call."""
_LOAD, _CALL = b"\xb8", b"\x0f\x05"
_U32: Final = (1 << 32) - 1
_MOST_CLOCK: Final = 11
_CPU_CLOCKS: Final = 1 << 31
"""The lowest number of a clock of processor time, a negative one."""
_MOST_POLLED: Final = 1 << 20
_SHARED_WAITS: Final = (0, 9, 9 | 256)
"""FUTEX_WAIT and FUTEX_WAIT_BITSET, with and without FUTEX_CLOCK_REALTIME."""
_PRIVATE_WAITS: Final = tuple(each | 128 for each in _SHARED_WAITS)
"""The same with FUTEX_PRIVATE_FLAG: no program polls just so many files, with an address in the next register."""


def number(process: ProcessImage, tid: int, files: Mapping[int, Any]) -> int | None:
    """Return the number of a thread's call; None if the kernel had restarted none, or its code does not tell.

    Args:
        process: the thread's.
        tid: of the thread in the root's namespace.
        files: the file_entry of each open file, by its id.
    """
    info = process.cores[tid].thread_info
    if not registers.is_restarted(info):
        return None
    return _loaded(process, int(info.gpregs.ip) - _SIZE, files) or _by_arguments(process, info.gpregs)


def _loaded(process: ProcessImage, at: int, files: Mapping[int, Any]) -> int | None:
    """Return the number that code at an address loads for a call; None if it does not."""
    for vma in process.mm.vmas:
        if vma.status & FILE_PRIVATE and vma.start <= at and at + _SIZE <= vma.end:
            code = _read(bytes(files[int(vma.shmid)].reg.name), int(vma.pgoff) + at - int(vma.start))
            if len(code) == _SIZE and code[:1] == _LOAD and code[-2:] == _CALL:
                return int.from_bytes(code[1:5], "little")
    return None


def _by_arguments(process: ProcessImage, general: Any) -> int | None:
    """Return the number of the only call that goes on by restart_syscall() and can have a thread's arguments."""

    def is_address(value: int, *, optional: bool = False) -> bool:
        return (optional and not value) or any(vma.start <= value < vma.end for vma in process.mm.vmas)

    first, second, third, fourth = (int(getattr(general, name)) for name in ("di", "si", "dx", "r10"))
    private = is_address(first) and second in _PRIVATE_WAITS and is_address(fourth)
    is_clock = first <= _MOST_CLOCK or first & _U32 >= _CPU_CLOCKS
    possible = {
        "clock_nanosleep": is_clock and not second and is_address(third) and is_address(fourth, optional=True),
        "nanosleep": is_address(first) and is_address(second, optional=True),
        "poll": is_address(first, optional=not second) and second <= _MOST_POLLED and 0 < third & _U32 < 1 << 31,
        "futex": is_address(first) and second in _SHARED_WAITS and is_address(fourth),
    }
    found = [name for name, fits in possible.items() if fits]
    return CALLS["futex"] if private else CALLS[found[0]] if len(found) == 1 else None


def _read(path: bytes, offset: int) -> bytes:
    """Read the code from its file; none if that is no regular file, or another one by now."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        return os.pread(file, _SIZE, offset) if stat.S_ISREG(os.fstat(file).st_mode) else b""
    except (OSError, OverflowError):
        return b""
    finally:
        os.close(file)
