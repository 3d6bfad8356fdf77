# SPDX-License-Identifier: Apache-2.0
"""The system call that the kernel had restarted for a thread, by the code that has issued it.

A call that was interrupted before the dump goes on as restart_syscall(2), and the kernel keeps the number of the first one
in no place that a dump has. C libraries load it right before the call.
"""

import os
import stat
from collections.abc import Mapping
from typing import Any, Final

from agent.restart.contents import registers
from agent.restart.contents.images import ProcessImage
from exporters.criu.memorymessages import FILE_PRIVATE

_SIZE: Final = 7
"""Bytes of the code: the number into EAX, and the call."""
_LOAD, _CALL = b"\xb8", b"\x0f\x05"


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
    at = int(info.gpregs.ip) - _SIZE
    for vma in process.mm.vmas:
        if vma.status & FILE_PRIVATE and vma.start <= at and at + _SIZE <= vma.end:
            code = _read(bytes(files[int(vma.shmid)].reg.name), int(vma.pgoff) + at - int(vma.start))
            if len(code) == _SIZE and code[:1] == _LOAD and code[-2:] == _CALL:
                return int.from_bytes(code[1:5], "little")
    return None


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
