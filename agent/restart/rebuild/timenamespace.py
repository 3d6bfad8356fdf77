# SPDX-License-Identifier: Apache-2.0
"""A time namespace for the tasks of a tree: the helper is started so that all that it makes are in it."""

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.errors import HostError
from agent.record import NamedTuple

OFFSETS: Final = "timens_offsets"
_CLONE_NEWTIME: Final = 0x80
_NS_PER_S: Final = 10**9
_FAILED: Final = 127


class ClockOffsets(NamedTuple):
    """Nanoseconds by which clocks of a time namespace are ahead of this process's."""

    monotonic: int = 0
    boottime: int = 0


NO_OFFSETS: Final = ClockOffsets()


class MadeNamespaces(NamedTuple):
    """The namespaces that a tree gets beside those of its pids.

    Attributes:
        clocks: how far the clocks of a time namespace are ahead of this process's; without a difference none is made.
        ipc: True: an IPC namespace.
    """

    clocks: ClockOffsets = NO_OFFSETS
    ipc: bool = False


NO_NAMESPACES: Final = MadeNamespaces()


def sums(own: str, offsets: ClockOffsets) -> str:
    """Return the offsets of a new namespace, from those of this one: the kernel counts both from the initial one."""
    lines = []
    for line in own.splitlines():
        name, seconds, nanoseconds = line.split()
        value = int(seconds) * _NS_PER_S + int(nanoseconds) + offsets._asdict().get(name, 0)
        lines.append("{} {} {}\n".format(name, *divmod(value, _NS_PER_S)))
    return "".join(lines)


def spawned(
    program: Path, arguments: list[str], moves: Mapping[int, int], group: int | None, offsets: ClockOffsets
) -> int:
    """Start a program whose children are in a new time namespace, and return its pid.

    Before Linux 6.0 no process that shares memory with its parent, as one of posix_spawn(), can enter such a namespace.

    Args:
        program: its path.
        arguments: its arguments, the first one too.
        moves: the descriptor of this process for each of the program's.
        group: the process group to start it in, if there is one; None: this process's.
        offsets: of the clocks.

    Raises:
        HostError: the kernel refuses the namespace.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    path = Path("/proc/self", OFFSETS)
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    held = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = os.fork()
    if not pid:
        try:
            if libc.unshare(_CLONE_NEWTIME):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), "unshare(CLONE_NEWTIME)")  # noqa: TRY301 - told to the parent
            path.write_text(sums(path.read_text(), offsets))
            for place, descriptor in moves.items():
                os.dup2(descriptor, place)
            if group is not None:
                with suppress(PermissionError):  # a session whose leader is gone may have no such group
                    os.setpgid(0, group)
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            os.execv(program, arguments)  # noqa: S606 - no shell is wanted
        except OSError as error:
            os.write(theirs, f"{error.filename or path}: {error.strerror}".encode())
        os._exit(_FAILED)
    signal.pthread_sigmask(signal.SIG_SETMASK, held)
    os.close(theirs)
    with open(ours, "rb") as end:
        fault = end.read().decode()
    if fault:
        os.waitpid(pid, 0)
        raise HostError(f"no time namespace for the tree: {fault}")
    return pid
