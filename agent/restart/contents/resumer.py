# SPDX-License-Identifier: Apache-2.0
"""The resumer: the helper process that traces all threads of a tree, and lets them run with their registers.

It sends a message when all threads are filled, and waits for an answer before it lets them run. If it ends earlier, the
kernel kills them all (PTRACE_O_EXITKILL).
"""

import _socket as socket  # the module `socket` makes enumerations of constants: 4 ms
import fcntl
import os
import select
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, Self

from agent.errors import CkptreeError, HostError
from agent.record import NamedTuple
from agent.restart.contents import fillabi
from agent.restart.contents.fillabi import ResumeMessage
from agent.restart.contents.registers import Registers
from agent.restart.rebuild.failure import remedy
from agent.restart.rebuild.progress import LOOK_S

PROGRAM: Final = Path(__file__).parents[1] / "helper" / "ckptree-resume"
_OUT_OF_THE_WAY: Final = 100
_PLACES: Final = (3, 4, 5)
_ALIGNMENT: Final = 8
SUSPEND_SECCOMP: Final = 1 << 21
"""PTRACE_O_SUSPEND_SECCOMP: no filter acts while the thread is traced."""


class ThreadState(NamedTuple):
    """The state of a thread that the resumer sets.

    Attributes:
        actor: its index in the plan.
        registers: its registers.
        mask: its blocked signals.
        stop_signal: for the first thread of a process that is stopped, the signal that stops it; else 0.
        region: address and size of the region to unmap, for the first thread of a process; else 0, 0.
    """

    actor: int
    registers: Registers
    mask: int
    stop_signal: int
    region: tuple[int, int]


class Resumer:
    """The resumer of a tree; use it as a context.

    Args:
        threads: all threads, without their states: of a process's first one the address of the region.
        pids: of the plan's actors, as this process sees them.
        shared: the file that is shared with all tasks.
        state: offset and size of the fill's state in it.
        suspends: True if a thread has seccomp filters, which must not act before the threads run.
    """

    def __init__(
        self,
        threads: Sequence[ThreadState],
        pids: Sequence[int],
        shared: int,
        state: tuple[int, int],
        *,
        suspends: bool = False,
    ) -> None:
        if not os.access(PROGRAM, os.X_OK):
            raise HostError(f"{PROGRAM} is missing: {remedy()}")
        self._about = pids, state, SUSPEND_SECCOMP if suspends else 0
        self._file = os.memfd_create("ckptree-resume")
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._write(threads)
        with closing(theirs):
            try:
                self._pid = _spawned((self._file, shared, theirs.fileno()))
            except OSError as error:  # as where a cgroup has no room for one more process
                raise HostError(f"the process that resumes the tree cannot be started: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def receive(self, waiting: Callable[[], None] = lambda: None) -> ResumeMessage:
        """Wait for the next message of the resumer.

        Args:
            waiting: called every half a second meanwhile.

        Raises:
            CkptreeError: it was killed.
        """
        while not select.select([self._socket], [], [], LOOK_S)[0]:
            waiting()
        try:
            data = self._socket.recv(fillabi.RESUME_MESSAGE.size)
        except ConnectionResetError:
            # It ended with an unread message of ours. The socket reports that once, before its last message.
            data = self._socket.recv(fillabi.RESUME_MESSAGE.size)
        if len(data) != fillabi.RESUME_MESSAGE.size:
            raise CkptreeError("the process that resumes the tree was killed, and the tree with it")
        return ResumeMessage(*fillabi.RESUME_MESSAGE.unpack(data))

    def complete(self, states: Sequence[ThreadState]) -> None:
        """Give the resumer the states of all threads, in the order of `threads`, once all programs are written."""
        self._write(states)
        self._tell()

    def go(self) -> None:
        """Have the resumer let all threads run."""
        self._tell()

    def close(self) -> None:
        """End the resumer; threads that do not run yet die with it."""
        if self._pid:
            self._socket.close()
            os.close(self._file)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def _tell(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended: `receive` tells why
            self._socket.send(b"!")

    def _write(self, states: Sequence[ThreadState]) -> None:
        with os.fdopen(self._file, "wb", closefd=False) as file:
            file.seek(0)
            file.write(table(states, *self._about))


def table(states: Sequence[ThreadState], pids: Sequence[int], state: tuple[int, int], options: int) -> bytes:
    """Return the resumer's table."""
    threads, tail = bytearray(), bytearray()
    first = fillabi.RESUME_HEAD.size + fillabi.RESUME_THREAD.size * len(states)
    for one in states:
        general = first + len(tail)
        floating = general + len(one.registers.general)
        tail += one.registers.general + one.registers.floating
        tail += bytes(-len(tail) % _ALIGNMENT)
        threads += fillabi.RESUME_THREAD.pack(
            *(pids[one.actor], one.stop_signal, *one.region, one.mask),
            *(general, floating, one.registers.features, one.registers.components, 0),
        )
    head = fillabi.RESUME_HEAD.pack(first + len(tail), *state, len(states), options)
    return bytes(head + threads + tail)


def _spawned(descriptors: Sequence[int]) -> int:
    """Start the resumer with its descriptors at 3, 4 and 5; return its pid."""
    # First move all out of the way: each may have the number that another one is to get.
    high = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for each in descriptors]
    moves = [(os.POSIX_SPAWN_DUP2, each, place) for each, place in zip(high, _PLACES, strict=True)]
    try:
        return os.posix_spawn(PROGRAM, [os.fspath(PROGRAM)], os.environ, file_actions=moves)
    finally:
        for each in high:
            os.close(each)
