# SPDX-License-Identifier: Apache-2.0
"""A rebuild under way: the shell around the helper that makes a planned tree.

The helper is the guard of the tree. The guard and this process, its coordinator, talk over one socket. If the socket
ends without a message, each takes the other for dead. The guard then takes the tree down, so no half of a tree stays if
the coordinator is killed.
"""

import _socket as socket  # the module `socket` makes enumerations of constants: 4 ms
import errno
import mmap
import os
import select
import signal
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agent.errors import HostError
from agent.restart.planning.plan import Plan
from agent.restart.rebuild import guardprocess, helperabi, helperprogram, orphans, terminals
from agent.restart.rebuild.beginning import Begin
from agent.restart.rebuild.failure import RebuildError, failure, remedy
from agent.restart.rebuild.helperabi import Message, Program, Run, Said
from agent.restart.rebuild.progress import LOOK_S, Progress
from agent.restart.rebuild.timenamespace import NO_NAMESPACES, MadeNamespaces
from agent.restart.rebuild.userids import UserIds

_NO_WORK: Final[Iterator[bool]] = iter(())
_NO_PAUSE_S, _SOON_S = 0.0, 0.0005
HELPER: Final = Path(__file__).parents[1] / "helper" / "ckptree-rebuild"


class Rebuild:
    """A tree that is being made, stands, or runs.

    Use it as a context: the end of the context takes a tree down that has not been detached.

    Args:
        plan: the plan to carry out.
        ids: of those actors that take other ids than the caller's before they exit.
        any_numbers: let the kernel choose all numbers.
        no_stdio: give the tasks /dev/null for their standard streams.
        begin: the session and group that the tree begins in.
        keep_rights: leave the rights of the caller to tasks that hold.
        keyring: give the tree a session keyring of its own.
        no_terminal: give the tasks no terminal of the caller: a new session, and other streams in place of terminals.
        stage: the memory that the tree is forked with, as `Stage.section` has it; empty: none.
        namespaces: those that the tree gets beside those of pids.
        helper: path of the helper's program.

    Attributes:
        plan: the plan.
        pids: for each actor the pid as this process sees it, once it stands; 0 for threads that /proc does not show.
        numbers: for each actor its numbers, from the root's namespace inward.
        guard: pid of the guard; 0 before build().
        root_status: raw wait status of the root, once it has ended by itself.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        ids: Mapping[int, UserIds] = helperprogram.NO_IDS,
        any_numbers: bool = False,
        no_stdio: bool = False,
        begin: Begin = Begin.HERE,
        keep_rights: bool = False,
        keyring: bool = False,
        no_terminal: bool = False,
        stage: bytes = b"",
        namespaces: MadeNamespaces = NO_NAMESPACES,
        helper: Path = HELPER,
    ) -> None:
        self.plan = plan
        self.any_numbers = any_numbers
        self.pids: tuple[int, ...] = ()
        self.numbers: tuple[tuple[int, ...], ...] = tuple(actor.numbers for actor in plan.actors)
        self.root_status: int | None = None
        self.guard = 0
        new_session = no_terminal or begin is Begin.APART or (begin is not Begin.HERE and os.getsid(0) == 0)
        self._code = helperprogram.encode(
            plan,
            ids=ids,
            any_numbers=any_numbers,
            no_stdio=no_stdio,
            new_session=new_session,
            keep_rights=keep_rights,
            ipcns=namespaces.ipc,
            keyring=keyring,
            pid_max=int(Path("/proc/sys/kernel/pid_max").read_text()),
        )
        self._stage = stage
        if stage:
            page = helperabi.run_offset(self._code, len(plan.actors)) // mmap.PAGESIZE
            self._code = helperprogram.with_stage(self._code, page)
        self._helper, self._clocks, self._relayed = helper, namespaces.clocks, no_terminal and not no_stdio
        self._relay: terminals.Relay | None = None
        self._group = os.getsid(0) if begin is Begin.LEADERS_GROUP and not new_session else None
        self._over = False
        self._detached = False
        self._file = -1
        self._first: int | None = None
        self._kept: set[int] = set()
        self._failed: Message | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def build(self, meanwhile: Callable[[], None] = lambda: None, work: Iterator[bool] = _NO_WORK) -> None:
        """Start the guard, and wait until all actors are born and in place.

        Args:
            meanwhile: called while the guard is at work; it may raise.
            work: gone on with meanwhile, piece by piece; yields False where nothing can be done for now. It may raise.

        Raises:
            HostError: the host permits no such tree, or the helper is missing.
            RebuildError: a step failed.
        """
        self._spawn()
        meanwhile()
        self._await(Said.STANDING, work)
        self._read_pids()

    def activate(self, work: Iterator[bool] = _NO_WORK) -> None:
        """Give every task its turn, in tree order; zombies, dead leaders and ghosts exit.

        Args:
            work: as of `build`.
        """
        self._send(Message(Said.GO))
        self._await(Said.ACTIVE, work)

    def release(self, programs: Mapping[int, Program] | None = None) -> None:
        """Let the tasks hold for ever, or run their programs by actor; then stop those that were stopped."""
        if programs:
            actors = len(self.plan.actors)
            section = helperabi.run_section(programs, actors)
            self.put([(0, section)])
            self._release_with(Run.SECTION, len(section))
        else:
            self._send(Message(Said.RELEASE, value=Run.HOLD))
            self._await(Said.RELEASED)

    def born(self) -> int:
        """Return the pid of a process of the tree with the memory that all of them have; 0: there is none yet.

        A task other than the first actor begins when that has set up what all inherit.
        """
        actors = self.plan.actors
        if self.pids:
            return self.pids[next(index for index in self.plan.tasks if actors[index].leader == index)]
        index = next((index for index in self.plan.tasks if index and actors[index].leader == index), 0)
        known = all(len(actor.numbers) == actor.depth + 1 for actor in actors if actor.tag) and not self.any_numbers
        return self._outer(index) if index and known else 0

    def put(self, pieces: Iterable[tuple[int, bytes]]) -> int:
        """Write a fill section once a process is born; return its offset in the shared file.

        Args:
            pieces: of the section, each with its offset; between them are zeros.
        """
        offset = helperabi.run_offset(self._code, len(self.plan.actors))
        os.ftruncate(self._file, offset)  # the stage was there
        for at, content in pieces:
            os.pwrite(self._file, content, offset + at)
        return offset

    def fill(self, mapped: int, work: Iterator[bool] = _NO_WORK) -> None:
        """Let the tasks take their contents by the fill section.

        They are in the restorer when this returns, and wait for the resumer.

        Args:
            mapped: bytes of the section's begin, by which each task finds its own part.
            work: as of `build`.
        """
        self._release_with(Run.FILL, mapped, work)

    @property
    def file(self) -> int:
        """The descriptor of the file that is shared with all tasks."""
        return self._file

    def _release_with(self, how: Run, size: int, work: Iterator[bool] = _NO_WORK) -> None:
        offset = helperabi.run_offset(self._code, len(self.plan.actors))
        self._send(Message(Said.RELEASE, value=how, offset=offset, size=size))
        self._await(Said.RELEASED, work)

    def signal(self, number: int) -> None:
        """Send a signal to the root."""
        self._send(Message(Said.SIGNAL, value=number))

    def end(self) -> None:
        """Have the guard kill all tasks; wait() returns when they are gone."""
        self._send(Message(Said.KILL))

    def detach(self, pidfile: Path | None = None) -> None:
        """Leave the tree to its guard, which stays with it, and removes `pidfile` at its end."""
        if pidfile is None:
            self._send(Message(Said.DETACH))
        else:
            name = os.fsencode(os.path.realpath(pidfile)) + b"\0"
            offset = helperabi.next_page(os.fstat(self._file).st_size)
            os.pwrite(self._file, name, offset)
            self._send(Message(Said.DETACH, offset=offset, size=len(name)))
        self._over = True
        self._detached = True
        self._close()

    def wait(self, bell: int = -1, rung: Callable[[], None] = lambda: None) -> int | None:
        """Wait for the end of the tree, and return the root's raw wait status; None if it is not known.

        Args:
            bell: a descriptor that a signal makes readable, also a signal just before this call; -1: none.
            rung: called when `bell` is readable; it may raise.

        Raises:
            CkptreeError: the rebuild failed, or the guard was killed.
        """
        while not self._over:
            ready = select.select([self._socket.fileno(), *([bell] if bell >= 0 else [])], [], [])[0]
            if bell in ready:
                os.read(bell, 64)
                rung()
            if ready != [bell]:
                self._receive()
        if self._failed:
            raise failure(self._failed, self.plan, self._helper)
        return self.root_status

    def kill(self) -> None:
        """Take the tree down, and wait until no task is left; SIGINT and SIGTERM are blocked meanwhile."""
        if not self.guard or self._detached:
            return
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            if not self._over:
                self._send(Message(Said.KILL))
            with suppress(RebuildError):
                while not self._over:
                    self._receive()
            os.waitpid(self.guard, 0)
            self._detached = True
            self._close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    @property
    def building_ns(self) -> int:
        """Nanoseconds from the first clone() until all stood."""
        first, standing, *_ = self._answer()
        return standing - first

    @property
    def proc_error(self) -> int:
        """The errno that kept the tree from a /proc of its own; 0 if it has one."""
        return self._answer()[2]

    def _answer(self) -> tuple[int, int, int, int]:
        first, standing, error, user = helperabi.ANSWER.unpack_from(self._memory, helperabi.answer_offset(self._code))
        return first, standing, error, user

    def _spawn(self) -> None:
        if not os.access(self._helper, os.X_OK):
            raise HostError(f"{self._helper} is missing: {remedy()}")
        start = helperabi.answer_offset(self._code)
        size = start + helperabi.ANSWER.size + helperabi.PID_BYTES * len(self.plan.actors)
        self._file = os.memfd_create("ckptree-program")
        os.ftruncate(self._file, size)
        os.pwrite(self._file, self._code, 0)
        if self._stage:
            os.pwrite(self._file, self._stage, helperabi.run_offset(self._code, len(self.plan.actors)))
        self._memory = mmap.mmap(self._file, size)
        if not self.plan.pidns:
            orphans.adopt(wanted=True)
            self._kept = orphans.children()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with closing(theirs):
            self._relay = terminals.Relay() if self._relayed else None
            streams = self._relay.ends if self._relay else {}
            self.guard = guardprocess.spawned(
                self._helper, self._file, theirs.fileno(), self._group, streams, self._clocks
            )
            if self._relay:
                self._relay.start()

    def _close(self) -> None:
        self._socket.close()
        if self._relay:
            self._relay.finish()
        if self._file >= 0:
            if not self.plan.pidns:
                orphans.adopt(wanted=False)
            os.close(self._file)
            self._file = -1
        if self._first is not None:
            os.close(self._first)
            self._first = None

    def _send(self, message: Message) -> None:
        try:
            self._socket.send(helperabi.MESSAGE.pack(*message))
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.EBADF):
                raise

    def _receive(self) -> Message:
        try:
            data = self._socket.recv(helperabi.MESSAGE.size)
        except ConnectionResetError:
            # The guard ended with unread messages of ours. The socket reports that once, before its last message.
            data = self._socket.recv(helperabi.MESSAGE.size)
        if len(data) != helperabi.MESSAGE.size:
            self._over = True
            if not self.plan.pidns:
                os.waitid(os.P_PID, self.guard, os.WEXITED | os.WNOWAIT)
                orphans.kill_all_but(self._kept | {self.guard})
            gone = "the guard of the tree was killed"
            # Before the tree stands no task has changed its ids, so the kernel has killed it with the guard.
            if self.plan.pidns and self.pids and (self._first is None or not orphans.ended(self._first)):
                raise RebuildError(f"{gone}; if process {self.pids[0]} is still there, kill it: the tree goes with it")
            raise RebuildError(f"{gone}, and the tree with it")
        message = Message(*helperabi.MESSAGE.unpack(data))
        if message.kind == Said.GONE:
            self._over = True
            self.root_status = message.value if message.value >= 0 else None
        elif message.kind == Said.FAILED:
            self._failed = message
        return message

    def _await(self, kind: Said, work: Iterator[bool] = _NO_WORK) -> None:
        progress = Progress(self._progress)
        pause = _NO_PAUSE_S
        while True:
            if select.select([self._socket], [], [], pause)[0]:
                message = self._receive()
                progress.end()
                if message.kind == kind:
                    return
                if self._over:
                    break
            else:
                if pause == LOOK_S and kind is Said.STANDING:
                    progress.show()
                done = next(work, None)
                pause = LOOK_S if done is None else _NO_PAUSE_S if done else _SOON_S
        if self._failed:
            raise failure(self._failed, self.plan, self._helper)
        if kind is Said.RELEASED:
            return  # the tree ended before all its tasks had begun
        raise RebuildError("the root of the tree ended before its time")

    def _outer(self, index: int) -> int:
        """Return the pid of an actor as this process sees it; 0: the guard has not told it yet."""
        at = helperabi.answer_offset(self._code) + helperabi.ANSWER.size + helperabi.PID_BYTES * index
        return int(struct.unpack_from("=i", self._memory, at)[0])

    def _progress(self) -> str:
        at = helperabi.answer_offset(self._code) + helperabi.ANSWER.size
        pids = struct.unpack_from(f"={len(self.plan.actors)}i", self._memory, at)
        processes = sum(actor.leader == index for index, actor in enumerate(self.plan.actors))
        return f"ckptree: {sum(pid > 0 for pid in pids)} of {processes} processes made"

    def _read_pids(self) -> None:
        """Set `pids` and `numbers` from the guard's answer; find the pids of threads in /proc by their numbers."""
        actors = self.plan.actors
        at = helperabi.answer_offset(self._code) + helperabi.ANSWER.size
        pids = list(struct.unpack_from(f"={len(actors)}i", self._memory, at))
        count = sum(
            len(actor.numbers) if actor.numbers and not self.any_numbers else actor.depth + 1 for actor in actors
        )
        place = len(self._code) - helperabi.PID_BYTES * count
        found = struct.unpack_from(f"={count}i", self._memory, place)
        numbers = []
        start = 0
        for actor in actors:
            numbers.append(found[start : start + actor.depth + 1])
            start += actor.depth + 1
        self.numbers = tuple(numbers)
        groups: dict[int, list[int]] = {}
        for index, actor in enumerate(actors):
            if actor.leader != index:
                groups.setdefault(actor.leader, []).append(index)
        for leader, members in groups.items():
            tids = orphans.threads(pids[leader], actors[leader].depth + 1)
            for index in members:
                pids[index] = tids.get(self.numbers[index], 0)
        self.pids = tuple(pids)
        if self.plan.pidns:
            self._first = orphans.opened(pids[0], self.guard)
