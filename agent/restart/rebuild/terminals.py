# SPDX-License-Identifier: Apache-2.0
"""The terminal of the caller, and the tasks that must not have it.

A task that has a terminal, as its controlling one or as an open file, can put text into its input (TIOCSTI), which the
caller's shell then reads as commands. So a tree with tasks that have fewer rights than the caller begins in a session
without a terminal, and a pipe takes the place of a stream that is one.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.proc.host import own_status
from agent.proc.statfile import stat_fields
from agent.record import NamedTuple
from agent.restart.rebuild.helperabi import Rights

if TYPE_CHECKING:
    from threading import Thread

NOTE: Final = (
    "programs with fewer rights than restart do not get its terminal: their input is /dev/null, and what they write goes "
    "through a pipe to the terminal"
)
_TTY: Final = 7 - 3  # field 7 of stat; the first one after comm is field 3
_SETGID: Final = 6
_PIECE: Final = 65536
_PATIENCE_S: Final = 5.0  # for the rest of the output: a process outside the tree may have got the pipe


class Caller(NamedTuple):
    """The rights of this process, beside which a task may have fewer."""

    uid: int
    gid: int
    groups: frozenset[int]
    permitted: int
    no_new_privs: bool

    def exceeds(self, rights: Rights | None) -> bool:
        """Return True if a program with some rights has fewer; None: it keeps this process's."""
        if rights is None:
            return False
        if rights.no_new_privs and not self.no_new_privs:
            return True
        if rights.bound_only:
            return bool(self.permitted & ~rights.caps.bounding)
        if {rights.uid, rights.euid} != {self.uid} or self.permitted & ~rights.caps.permitted:
            return True
        if self.permitted >> _SETGID & 1:
            return False
        same = rights.groups is None or self.groups <= {*rights.groups}
        return {rights.gid, rights.egid} != {self.gid} or not same


def caller(proc: Path = Path("/proc")) -> Caller:
    """Return the rights of this process."""
    lines = own_status(proc)
    groups = frozenset(os.getgroups())
    return Caller(os.geteuid(), os.getegid(), groups, int(lines["CapPrm"], 16), lines["NoNewPrivs"] == "1")


def any_exceeded(programs: Iterable[Rights | None]) -> bool:
    """Return True if one of some programs has fewer rights than this process."""
    own = caller()
    return any(own.exceeds(each) for each in programs)


def streams() -> list[int]:
    """Return the standard streams that are terminals."""
    return [stream for stream in range(3) if os.isatty(stream)]


def within_reach(proc: Path = Path("/proc")) -> bool:
    """Return True if this process has a terminal: as its controlling one, or as a standard stream."""
    return bool(streams()) or stat_fields((proc / "self/stat").read_bytes())[_TTY] != b"0"


class Relay:
    """The replacements of the standard streams that are terminals: /dev/null as input, and pipes to the terminals.

    Attributes:
        ends: by stream, the descriptor that is to take its place.
    """

    def __init__(self) -> None:
        self.ends: dict[int, int] = {}
        self._threads: list[Thread] = []
        by_terminal: dict[int, int] = {}
        for stream in streams():
            if not stream:
                self.ends[stream] = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
                continue
            terminal = os.fstat(stream).st_rdev
            if terminal not in by_terminal:
                out, by_terminal[terminal] = os.pipe2(os.O_CLOEXEC)
                self._threads.append(_thread(out, stream))
            self.ends[stream] = by_terminal[terminal]

    def start(self) -> None:
        """Let go of the ends, once the helper has them, and copy from the pipes."""
        for end in {*self.ends.values()}:
            os.close(end)
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Wait until everything that the tree has written is on the terminals."""
        for thread in self._threads:
            thread.join(_PATIENCE_S)
        self._threads = []


def _thread(out: int, terminal: int) -> "Thread":
    from threading import Thread  # few restarts have a terminal

    return Thread(target=_copy, args=(out, terminal), daemon=True)


def _copy(out: int, terminal: int) -> None:
    """Copy until the last writer has closed the pipe; after an error, such as a hangup, writers get SIGPIPE."""
    with suppress(OSError):
        while piece := os.read(out, _PIECE):
            while piece:
                piece = piece[os.write(terminal, piece) :]
    os.close(out)
