# SPDX-License-Identifier: Apache-2.0
"""The seccomp state of threads: strict mode, and chains of filters.

The resumer traces every thread with PTRACE_O_SUSPEND_SECCOMP, so no filter acts before the thread runs on. A filter needs
CAP_SYS_ADMIN where no_new_privs is not set: filters go before the credentials.
"""

import struct
from collections.abc import Sequence
from typing import Any, Final

from agent.record import NamedTuple
from agent.restart.contents.fillprogram import About, FillScript, ProcessProgram
from agent.restart.contents.images import ProcessImage
from agent.restart.contents.refusals import Refused

STRICT, FILTER = 1, 2
SET_MODE_STRICT, SET_MODE_FILTER = 0, 1
TSYNC, LOG, SPEC_ALLOW = 1, 2, 4
INSTRUCTION: Final = 8
"""Bytes of struct sock_filter."""
_MOST_INSTRUCTIONS: Final = 4096
_MOST_FILTERS: Final = 32768 // 4
"""Filters of a chain: the kernel counts four instructions more for each, and takes 32768 in all."""
_PROGRAM: Final = struct.Struct("<H6xQ")
_POINTER_AT: Final = 8


class SeccompFilter(NamedTuple):
    """A filter: its instructions and the flags that it is installed with."""

    code: bytes
    flags: int


class Filters:
    """All filters of the images.

    Args:
        entries: the seccomp_entry messages of seccomp.img.
    """

    def __init__(self, entries: Sequence[Any]) -> None:
        self._filters = [each for entry in entries for each in entry.seccomp_filters]

    def chain(self, index: int) -> tuple[SeccompFilter, ...]:
        """Return the filters of a thread, the first one that it installed first.

        Args:
            index: of the last one.

        Raises:
            Refused: the chain is broken, or no chain that a kernel takes.
        """
        found: list[SeccompFilter] = []
        at: int | None = index
        while at is not None:
            place = "seccomp", str(at)
            if at >= len(self._filters):
                raise Refused(*place, "missing", "the images do not have this filter")
            if len(found) == _MOST_FILTERS:
                raise Refused(*place, "chain", "the chain of its filters has no end")
            one = self._filters[at]
            if len(one.filter) % INSTRUCTION or not 0 < len(one.filter) // INSTRUCTION <= _MOST_INSTRUCTIONS:
                raise Refused(*place, "filter", f"{len(one.filter)} bytes are no filter")
            if one.flags & ~(TSYNC | LOG | SPEC_ALLOW):
                raise Refused(*place, "filter", f"its flags {one.flags:#x} are not known here")
            found.append(SeccompFilter(bytes(one.filter), int(one.flags)))
            at = int(one.prev) if one.HasField("prev") else None
        return tuple(reversed(found))


def mode(process: ProcessImage, tid: int) -> int:
    """Return the mode of a thread; images before CRIU 3.12 have one mode for all threads of a process."""
    thread = process.cores[tid].thread_core
    return int(thread.seccomp_mode if thread.HasField("seccomp_mode") else process.core.tc.old_seccomp_mode)


def chain(process: ProcessImage, tid: int, filters: Filters) -> tuple[SeccompFilter, ...]:
    """Return the filters of a thread, the first one first; none in another mode.

    Raises:
        Refused: see Filters.chain.
    """
    if mode(process, tid) != FILTER:
        return ()
    thread = process.cores[tid].thread_core
    last = thread.seccomp_filter if thread.HasField("seccomp_mode") else process.core.tc.old_seccomp_filter
    return filters.chain(int(last))


def restore(scripts: Sequence[FillScript], program: ProcessProgram, process: ProcessImage, filters: Filters) -> None:
    """Put the threads of a process into their modes.

    If all have the same filters, the first thread installs them for all: a filter that the program installs later for
    all threads at once needs chains that are the same objects. CRIU's images then have TSYNC in the flags of the first
    thread's filters, and none for the others.
    """
    chains = [chain(process, tid, filters) for tid in process.threads]
    together = TSYNC if len(chains) > 1 and all(each == chains[0] for each in chains) else 0
    for script, tid, own in zip(scripts, process.threads, chains, strict=True):
        script.about = About("seccomp", str(tid))
        if mode(process, tid) == STRICT:
            script.call("seccomp", SET_MODE_STRICT, 0, 0)
        if together and script is not scripts[0]:
            continue
        for one in own:
            head = program.data(_PROGRAM.pack(len(one.code) // INSTRUCTION, 0))
            script.address(head, _POINTER_AT, program.data(one.code))
            script.exact("seccomp", SET_MODE_FILTER, one.flags | together, head, wanted=0)
