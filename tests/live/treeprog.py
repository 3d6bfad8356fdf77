# SPDX-License-Identifier: Apache-2.0
"""The driver of treeprog.c: it makes process trees step by step, and tells the oracle of each call that succeeded.

A node is a task, named by a small number that the script chooses. Node 0 exists from the start, outside of every tree
that a script makes, and adopts its orphans. After each step the driver waits until /proc shows the predicted state of
every task that the step ended, stopped or continued: a step that returns has happened.

Scripts are text, one system call a line or between semicolons::

    fork 0 1 newpid; setsid 1; fork 1 2; thread 2 3; exit 2 7; wait 1 2
"""

import os
import shlex
import signal
import struct
import time
from collections.abc import Callable, Sequence
from errno import EEXIST, errorcode
from pathlib import Path
from termios import TIOCSPGRP
from types import TracebackType
from typing import Self

from tests.live.kernelview import KernelView, kernel_view
from tests.live.mailbox import CALL, CLONE, EXEC, SCRATCH, SYS, TIMEOUT_S, Mailbox, Result, TreeError
from tests.live.oracle import Oracle
from tests.live.settling import settle
from tests.live.tasks import CLONE_BITS, NEWPID, PARENT, THREAD, VFORK, Life, Pid, Task

KEEPER = -1

_WORDS = {"newpid": NEWPID, "sibling": PARENT, "vfork": VFORK}
_AT_FDCWD = -100
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
_WNOHANG, _WEXITED, _WNOWAIT, _WNOTHREAD, _WALL = 1, 4, 0x1000000, 0x20000000, 0x40000000
_P_PID = 1
_CLD_EXITED = 1
_CORE_DUMPED = 0x80
_F_SETOWN_EX, _F_GETOWN_EX = 15, 16
_OWNER_TYPES = ("tid", "pid", "pgrp")  # F_OWNER_*
_NOBODY = -99999  # a number that no task has


class Tree:
    """A process tree under a script's control, and the oracle that goes with it.

    Attributes:
        oracle: the predicted state.
        log: the steps so far, each with its outcome; a failing test prints it.
    """

    def __init__(self, nodes: int = 1024, *, strict: bool = True) -> None:
        """Make node 0. With `strict`, a system call that fails is an error; else it is logged and has no effect."""
        self._strict = strict
        self._changed: list[Task] = []
        self.oracle = Oracle(self._changed.append)
        self.log: list[str] = []
        self._mailbox = Mailbox(nodes)
        self._masters: dict[int, int] = {}  # of pseudo-terminals, by the node that opened the other end
        self._terminals: dict[int, int] = {}  # the descriptor there
        self._owned = False
        self.oracle.initial.inum = Path("/proc/self/ns/pid").stat().st_ino
        keeper = self.oracle.found(KEEPER, self._mailbox.keeper, None)
        self.oracle.found(0, self._mailbox[0].tid, keeper)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note("script so far: " + "; ".join(self.log))
        self.close()

    def close(self) -> None:
        """End every task of the tree."""
        self._mailbox.close()
        for node in tuple(self._masters):
            self.hangup(node)

    def task(self, node: int) -> Task:
        """Return the task that serves a node, or did."""
        try:
            return self.oracle.tasks[node]
        except KeyError:
            raise TreeError(f"node {node} was never born") from None

    def number(self, node: int) -> int:
        """Return the number of a node in the initial namespace."""
        return self.task(node).pid.numbers[0]

    def can_act(self, task: Task) -> bool:
        """Return True if a task can carry out an order now."""
        return task.life is Life.ALIVE and not task.process.stopped and task.blocked_by is None

    def view(self) -> KernelView:
        """Return the kernel's view of every task below the keeper."""
        return kernel_view(self)

    def run(self, script: str) -> None:
        """Carry out a script."""
        for line in script.replace(";", "\n").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                verb, *rest = words
                method: Callable[..., Result] = getattr(self, verb)
                method(*(int(word) if word.lstrip("-").isdigit() else word for word in rest))

    def fork(self, parent: int, child: int, *words: str, set_tid: Sequence[int] = ()) -> Result:
        """Make a process by clone3().

        Args:
            parent: the creating thread.
            child: the node of the new one.
            words: ``newpid``, ``sibling`` (CLONE_PARENT), ``vfork`` (with CLONE_VM: the parent is blocked until the
                child execs or exits), ``like=N``: with the numbers that node N has or had, and ``signal=N``: that is
                sent to its parent when it exits (a sibling has its creator's).
            set_tid: the numbers to ask for, outermost first.
        """
        flags = frozenset(_WORDS[word] for word in words if "=" not in word)
        exit_signal = int(signal.SIGCHLD)
        for word in words:
            name, _, value = word.partition("=")
            if name == "like":
                set_tid = self.task(int(value)).pid.numbers
            elif name == "signal":
                exit_signal = int(value)
        text = f"fork {parent} {child} {' '.join(words)}".rstrip()
        return self._clone(text, parent, child, flags, set_tid, exit_signal)

    def thread(self, parent: int, child: int) -> Result:
        """Make a thread by clone3()."""
        return self._clone(f"thread {parent} {child}", parent, child, frozenset({THREAD}), ())

    def setsid(self, node: int) -> Result:
        """Call setsid()."""
        result = self._call(f"setsid {node}", node, "setsid")
        if not result.errno:
            self.oracle.setsid(self.task(node))
        return self._settled(result)

    def setpgid(self, node: int, target: int, group: int) -> Result:
        """Call setpgid(target, group) by `node`, with their numbers in its namespace."""
        caller, moved, pid = self.task(node), self.task(target), self.task(group).pid
        if moved.life is Life.GONE or self.oracle.could_never_end(moved, pid):
            raise TreeError(f"setpgid {node} {target} {group}: the target is gone, or could never end in that group")
        numbers = [each.number_in(caller.pid.namespace) for each in (moved.pid, pid)]
        if 0 in numbers:  # one has no number there; 0 itself would mean the caller
            numbers = [-1, -1]
        result = self._call(f"setpgid {node} {target} {group}", node, "setpgid", *numbers)
        if not result.errno:
            # Should the number have been freed and used again, the group is that of the new owner.
            group_pid = next(each for each in self.oracle.held() if each.number_in(caller.pid.namespace) == numbers[1])
            self.oracle.setpgid(moved, group_pid)
        return self._settled(result)

    def subreaper(self, node: int, value: int = 1) -> Result:
        """Call prctl(PR_SET_CHILD_SUBREAPER, value)."""
        result = self._call(f"subreaper {node} {value}", node, "prctl", _PR_SET_CHILD_SUBREAPER, value)
        if not result.errno:
            self.oracle.subreaper(self.task(node), value)
        return self._settled(result)

    def sigchld(self, node: int, action: str) -> Result:
        """Set SIGCHLD to ``ignore`` (children then reap themselves) or to ``default``."""
        self._mailbox.write(node, struct.pack("4Q", int(action == "ignore"), 0, 0, 0))
        result = self._call(f"sigchld {node} {action}", node, "rt_sigaction", signal.SIGCHLD, SCRATCH, 0, 8)
        if not result.errno:
            self.task(node).process.ignores_sigchld = action == "ignore"
        return self._settled(result)

    def exit(self, node: int, code: int = 0) -> Result:
        """Call exit_group(), which ends the whole process."""
        self._call(f"exit {node} {code}", node, "exit_group", code, returns=False)
        self.oracle.end(self.task(node).process, code << 8)
        return self._settled(self._mailbox[node].outcome())

    def leave(self, node: int, code: int = 0) -> Result:
        """Call exit(), which ends this thread alone."""
        self._call(f"leave {node} {code}", node, "exit", code, returns=False)
        self.oracle.leave(self.task(node), code)
        return self._settled(self._mailbox[node].outcome())

    def kill(self, target: int, name: str = "SIGKILL", by: int = KEEPER) -> Result:
        """Send SIGSTOP, SIGCONT, or a deadly signal to a process: from outside, or by a node."""
        number, process = signal.Signals[name], self.task(target).process
        sender = self.task(by)
        if self.task(target).life is Life.GONE:
            raise TreeError(f"kill {target}: another task may have its number by now")
        forced = process.leader.pid.namespace not in sender.pid.namespaces
        acts = not process.unkillable or (forced and number in (signal.SIGKILL, signal.SIGSTOP))
        if process.alive() is None or (process.stopped and number not in (signal.SIGKILL, signal.SIGCONT)):
            acts = False
        text = f"kill {target} {name} {by}"
        if by == KEEPER:
            os.kill(process.leader.pid.numbers[0], number)
            self.log.append(text)
            result = Result(0, 0, 0, 0)
        else:
            seen = process.leader.pid.number_in(sender.pid.namespace) or _NOBODY
            result = self._call(text, by, "kill", seen, number, returns=not acts or sender.process is not process)
        if not result.errno:
            if number == signal.SIGCONT:
                self.oracle.stop(process, stopped=False)
            elif acts and number == signal.SIGSTOP:
                self.oracle.stop(process, stopped=True)
            elif acts:
                self.oracle.end(process, int(number))
        return self._settled(result)

    def wait(self, node: int, target: int, how: str = "wait4") -> Result:
        """Reap a zombie, by ``wait4`` or ``waitid``; the value is 0 if there is none to reap yet."""
        caller, process = self.task(node), self.task(target).process
        pid = process.leader.pid.number_in(caller.pid.namespace) or _NOBODY
        self._mailbox.write(node, bytes(32))
        text = f"wait {node} {target} {how}"
        if how == "wait4":
            result = self._call(text, node, "wait4", pid, SCRATCH, _WNOHANG | _WALL, 0)
            status = self._mailbox.read(node, "i")[0]
        else:
            result = self._call(text, node, "waitid", _P_PID, pid, SCRATCH, _WNOHANG | _WALL | _WEXITED, 0)
            _, _, reason, _, reaped, _, value = self._mailbox.read(node, "7i")
            status = value << 8 if reason == _CLD_EXITED else value
            result = result._replace(value=reaped)
        expected = process.is_zombie and process.parent is not None and process.parent.process is caller.process
        if expected != (result.value == pid) or (expected and status & ~_CORE_DUMPED != process.status):
            raise TreeError(f"{text}: {result}, status {status}; expected {expected}, status {process.status}")
        if expected:
            self.oracle.reaped(process)
        elif self._strict:
            raise TreeError(f"{text}: nothing to reap")
        return self._settled(result)

    def exec(self, node: int) -> Result:
        """Call execve() of the interpreter again: the node's thread survives, with the leader's number."""
        text = f"exec {node}"
        result = self._checked(text, self._post(text, node, EXEC))
        if not result.errno:
            self.oracle.exec(self.task(node))
        return self._settled(result)

    def unshare(self, node: int) -> Result:
        """Call unshare(CLONE_NEWPID)."""
        result = self._call(f"unshare {node}", node, "unshare", CLONE_BITS[NEWPID])
        if not result.errno:
            self.oracle.unshare(self.task(node))
        return self._settled(result)

    def setns(self, node: int, target: int) -> Result:
        """Call setns(CLONE_NEWPID) to the namespace that `target` lives in."""
        path = f"/proc/{self.number(target)}/ns/pid".encode()
        self._mailbox.write(node, path + b"\0")
        fd = self._call(f"openat {node}", node, "openat", _AT_FDCWD, SCRATCH, os.O_RDONLY | os.O_CLOEXEC)
        if fd.errno:
            return self._settled(fd)
        result = self._call(f"setns {node} {target}", node, "setns", fd.value, CLONE_BITS[NEWPID])
        self._call(f"close {node}", node, "close", fd.value)
        if not result.errno:
            self.oracle.setns(self.task(node), self.task(target))
        return self._settled(result)

    def terminal(self, node: int) -> Result:
        """Open a new pseudo-terminal, which becomes that of the node's session."""
        master, slave = os.openpty()
        path = os.ttyname(slave).encode()
        os.close(slave)
        self._masters[node] = master
        self._mailbox.write(node, path + b"\0")
        result = self._call(f"terminal {node}", node, "openat", _AT_FDCWD, SCRATCH, os.O_RDWR)
        self._terminals[node] = result.value
        return result

    def foreground(self, node: int, group: int) -> Result:
        """Call tcsetpgrp() by the node that opened the terminal."""
        number = self.task(group).pid.number_in(self.task(node).pid.namespace)
        self._mailbox.write(node, struct.pack("i", number))
        return self._call(f"foreground {node} {group}", node, "ioctl", self._terminals[node], TIOCSPGRP, SCRATCH)

    def hangup(self, node: int) -> None:
        """Close the other end of the terminal that the node opened."""
        os.close(self._masters.pop(node))

    def ignore(self, node: int, name: str) -> Result:
        """Ignore a signal other than SIGCHLD; later children ignore it, too."""
        self._mailbox.write(node, struct.pack("4Q", 1, 0, 0, 0))
        self.task(node).process.ignored.add(int(signal.Signals[name]))
        return self._call(f"ignore {node} {name}", node, "rt_sigaction", signal.Signals[name], SCRATCH, 0, 8)

    def own(self, node: int, kind: str, target: int) -> Result:
        """Open a file and make a ``tid``, ``pid`` or ``pgrp`` its owner (F_SETOWN_EX)."""
        self._owned = True
        pipe = self._call(f"pipe2 {node}", node, "pipe2", SCRATCH, 0)
        if pipe.errno:
            return pipe
        fd = self._mailbox.read(node, "i")[0]
        number = self.task(target).pid.number_in(self.task(node).pid.namespace)
        self._mailbox.write(node, struct.pack("ii", _OWNER_TYPES.index(kind), number))
        return self._call(f"own {node} {kind} {target}", node, "fcntl", fd, _F_SETOWN_EX, SCRATCH)

    def owners(self, node: int) -> dict[int, tuple[str, int]]:
        """Ask the kernel (F_GETOWN_EX) for the owners of a node's files, by descriptor, in the node's namespace."""
        found = {}
        for name in os.listdir(f"/proc/{self.number(node)}/fd") if self._owned else ():
            if not self._call("", node, "fcntl", int(name), _F_GETOWN_EX, SCRATCH).errno:
                kind, number = self._mailbox.read(node, "ii")
                # The kernel answers with a thread's number 0 without an owner, and for one without a number here.
                if number or kind:
                    found[int(name)] = (_OWNER_TYPES[kind], number)
        return found

    def is_child_of_thread(self, node: int, child: Pid) -> bool:
        """Ask the kernel whether this thread is a child's parent, by waitid() with __WNOTHREAD and WNOWAIT."""
        seen = child.number_in(self.task(node).pid.namespace)
        options = _WNOHANG | _WNOWAIT | _WNOTHREAD | _WALL | _WEXITED
        return bool(seen) and not self._call("", node, "waitid", _P_PID, seen, 0, options, 0).errno

    def is_subreaper(self, node: int) -> bool:
        """Ask the kernel for the subreaper flag of a node."""
        self._call("", node, "prctl", _PR_GET_CHILD_SUBREAPER, SCRATCH)
        return bool(self._mailbox.read(node, "i")[0])

    def _clone(
        self,
        text: str,
        parent: int,
        child: int,
        flags: frozenset[str],
        set_tid: Sequence[int],
        exit_signal: int = signal.SIGCHLD,
    ) -> Result:
        if child in self.oracle.tasks or not 0 < child < len(self._mailbox):
            raise TreeError(f"{text}: node {child} is not free")
        creator, arguments = self.task(parent), [sum(CLONE_BITS[flag] for flag in flags), child, exit_signal]
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            innermost_first = tuple(reversed(set_tid))
            vfork = child if VFORK in flags else None
            result = self._post(text, parent, CLONE, *arguments, set_tid=innermost_first, or_ready=vfork)
            # A task that reaps itself leaves /proc a moment before its number is free.
            if (
                result.errno != EEXIST
                or time.monotonic() > deadline
                or self.oracle.holds(creator.child_namespace, set_tid)
            ):
                break
            self.log.pop()
        if result.errno:
            return self._settled(self._checked(text, result))
        self._mailbox.until_ready(child)
        folder = Path(f"/proc/{self._mailbox[child].tgid}/task/{self._mailbox[child].tid}")
        status = (folder / "status").read_text(encoding="utf-8", errors="replace")
        numbers = tuple(int(word) for word in status.partition("\nNSpid:")[2].partition("\n")[0].split())
        task = self.oracle.born(creator, child, numbers, flags, exit_signal)
        namespace = task.pid.namespace
        if namespace.inum is None:
            namespace.inum = (folder / "ns/pid").stat().st_ino
        return self._settled(result._replace(value=task.pid.number_in(creator.pid.namespace)))

    def _call(self, text: str, node: int, name: str, *arguments: int, returns: bool = True) -> Result:
        return self._checked(text, self._post(text, node, CALL, *arguments, number=SYS[name], returns=returns))

    def _post(
        self,
        text: str,
        node: int,
        order: int,
        *arguments: int,
        number: int = 0,
        set_tid: Sequence[int] = (),
        returns: bool = True,
        or_ready: int | None = None,
    ) -> Result:
        """Give an order and wait for its answer; with `or_ready`, at most until that node is ready."""
        task = self.task(node)
        if not self.can_act(task):
            raise TreeError(f"{text}: node {node} is {task.life}, stopped or blocked")
        self._mailbox.post(node, order, number, arguments, set_tid)
        if or_ready is not None:
            returns = not self._mailbox.until_either(node, or_ready)
        if returns:
            self._mailbox.until_answered(node)
        result = self._mailbox[node].outcome() if returns else Result(0, 0, self._mailbox[node].before_ns, 0)
        if text:
            self.log.append(text + (f" -> {errorcode.get(result.errno, '?')}" if result.errno else ""))
        return result

    def _checked(self, text: str, result: Result) -> Result:
        """Raise TreeError for a failed order of a strict script; an order without text is a question and may fail."""
        if result.errno and text and self._strict:
            raise TreeError(f"{text}: {os.strerror(result.errno)}")
        return result

    def _settled(self, result: Result) -> Result:
        """Wait until /proc shows the predicted state of every task that has changed."""
        settle(self._changed)
        return result
