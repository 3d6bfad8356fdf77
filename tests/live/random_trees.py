# SPDX-License-Identifier: Apache-2.0
"""Random process trees.

A program is a list of draws: a verb and three numbers. Playing it turns each draw into a step, choosing among the tasks
that can take that step in the oracle's present state; a draw that nothing can take is skipped. So every list of draws
is a valid program, which lets Hypothesis shrink it freely, and the script played is in ``Tree.log``.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from signal import SIGCHLD, SIGCONT, SIGHUP, SIGKILL, SIGSTOP, SIGTERM, SIGUSR1, SIGWINCH
from typing import NamedTuple, TypeVar

from hypothesis import strategies as st

from tests.live.tasks import Life, Process, Task
from tests.live.treeprog import Tree

T = TypeVar("T")

ROOT = 1
_CODES = (0, 3, 255)
_SIGNALS = ("SIGKILL", "SIGTERM", "SIGSEGV")
_MAX_LEVEL = 6
_HARMLESS = (0, SIGHUP, SIGCHLD, SIGCONT, SIGSTOP, SIGWINCH)
_EXIT_SIGNALS = (
    *(SIGCHLD,) * 6,
    *(0, SIGHUP, SIGKILL, SIGUSR1, SIGTERM, SIGCONT, SIGSTOP, SIGSTOP, SIGWINCH, SIGKILL, 34, 64),
)
WEIGHTS = Counter(
    fork=16, thread=6, setsid=5, setpgid=8, subreaper=3, exit=6, leave=5, wait=6, newpid=3, sibling=3,
    vfork=2, kill=2, exec=3, sigchld=2, stop=2, cont=1, unshare=2, setns=2, reuse=2,
)  # fmt: skip


class Draw(NamedTuple):
    """One random choice: a verb, and three numbers that choose among the tasks that can do it."""

    verb: str
    a: int
    b: int
    c: int


class Program(NamedTuple):
    """A random tree: the kind of its root, the draws, and a number that chooses one of its processes."""

    root: str
    draws: tuple[Draw, ...]
    choice: int = 0


class Player:
    """The player, which turns draws into steps."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.next_node = ROOT + 1
        self._vforked = self._stopping = False

    def play(self, draw: Draw) -> None:
        """Take one step, if a task can take it."""
        actors = [task for task in self._living() if self.tree.can_act(task)]
        if actors:
            step: Callable[[Draw, Task], None] = getattr(self, f"_{draw.verb}")
            step(draw, _pick(actors, draw.a))

    def _living(self) -> list[Task]:
        """Return every unreleased task of the script, in order of birth."""
        tasks = [task for task in self.tree.oracle.unreleased() if task.node > 0]
        return sorted(tasks, key=lambda task: task.node)

    def _processes(self) -> list[Process]:
        return [task.process for task in self._living() if task.is_leader]

    def _child(self) -> int:
        self.next_node += 1
        return self.next_node - 1

    def _fork(self, draw: Draw, actor: Task) -> None:
        self.tree.fork(actor.node, self._child(), *self._signal(draw, actor))

    def _signal(self, draw: Draw, actor: Task) -> list[str]:
        """Return the words for the exit signal of a child; no signal may kill the root."""
        number = _EXIT_SIGNALS[draw.c % len(_EXIT_SIGNALS)]
        if number == SIGSTOP and self._vforked:  # a task that waits for a vfork stops only when that is over
            return []
        self._stopping |= number == SIGSTOP
        root = self.tree.task(ROOT).process
        if actor.process is root and not root.unkillable and number not in _HARMLESS:
            return []
        return [f"signal={int(number)}"]

    def _vfork(self, _draw: Draw, actor: Task) -> None:
        if self._stopping:
            return
        self._vforked = True
        self.tree.fork(actor.node, self._child(), "vfork")

    def _sibling(self, draw: Draw, actor: Task) -> None:
        self.tree.fork(actor.node, self._child(), "sibling", *(["newpid"] if draw.b % 8 == 0 else []))

    def _newpid(self, draw: Draw, actor: Task) -> None:
        if actor.child_namespace.level < _MAX_LEVEL:
            self.tree.fork(actor.node, self._child(), "newpid", *self._signal(draw, actor))

    def _thread(self, _draw: Draw, actor: Task) -> None:
        self.tree.thread(actor.node, self._child())

    def _reuse(self, draw: Draw, actor: Task) -> None:
        """Fork with the numbers of a task that is gone."""
        namespace = actor.child_namespace
        gone = [
            task
            for task in self.tree.oracle.tasks.values()
            if task.node > 0 and task.life is Life.GONE and task.pid.namespace is namespace and task.pid.numbers[-1] > 1
        ]
        if gone:
            self.tree.fork(actor.node, self._child(), f"like={_pick(gone, draw.b).node}")

    def _setsid(self, _draw: Draw, actor: Task) -> None:
        self.tree.setsid(actor.node)

    def _setpgid(self, draw: Draw, actor: Task) -> None:
        """Move itself or a child, into its own group, a living one, or one that lost its leader."""
        children = [each.leader for each in self._processes() if each.parent and each.parent.process is actor.process]
        target = _pick([actor.process.leader, *children], draw.b)
        owners = [each.leader for each in self._processes() if each.sid is actor.process.sid]
        groups = {id(each.pgid) for each in self._processes()}
        owners += [
            each for each in self.tree.oracle.tasks.values() if each.life is Life.GONE and id(each.pid) in groups
        ]
        owners = [each for each in owners if not self.tree.oracle.could_never_end(target, each.pid)]
        self.tree.setpgid(actor.node, target.node, _pick([target, *owners], draw.c).node)

    def _subreaper(self, draw: Draw, actor: Task) -> None:
        self.tree.subreaper(actor.node, int(draw.b % 4 != 0))

    def _sigchld(self, draw: Draw, actor: Task) -> None:
        self.tree.sigchld(actor.node, "default" if draw.b % 4 == 0 else "ignore")

    def _exit(self, draw: Draw, actor: Task) -> None:
        if self._may_end(actor.process):
            self.tree.exit(actor.node, _pick(_CODES, draw.b))

    def _leave(self, draw: Draw, actor: Task) -> None:
        others = [each for each in actor.process.threads if each.life is Life.ALIVE and each is not actor]
        if others or self._may_end(actor.process):
            self.tree.leave(actor.node, _pick(_CODES, draw.b))

    def _kill(self, draw: Draw, _actor: Task) -> None:
        processes = [each for each in self._processes() if each.alive() and self._may_end(each)]
        if processes:
            target = _pick(processes, draw.b)
            blocked = any(task.blocked_by for task in target.threads)
            name = "SIGKILL" if blocked or target.stopped else _pick(_SIGNALS, draw.c)
            self.tree.kill(target.leader.node, name)

    def _stop(self, draw: Draw, actor: Task) -> None:
        """Stop a process, by itself or from outside. A task that waits for a vfork stops only when that is over."""
        if actor.node != ROOT and not any(task.blocked_by for task in actor.process.threads):
            by = actor.node if draw.b % 2 else -1
            self.tree.kill(actor.process.leader.node, "SIGSTOP", by)

    def _cont(self, draw: Draw, _actor: Task) -> None:
        stopped = [each for each in self._processes() if each.stopped]
        if stopped:
            self.tree.kill(_pick(stopped, draw.b).leader.node, "SIGCONT")

    def _wait(self, draw: Draw, _actor: Task) -> None:
        """Have a parent wait for a zombie, or for another child if there is no zombie."""
        children = [each for each in self._processes() if each.parent and self.tree.can_act(each.parent)]
        zombies = [each for each in children if each.is_zombie]
        if not children:
            return
        target = _pick(zombies or children, draw.b)
        assert target.parent is not None
        waiters = [each for each in target.parent.process.threads if self.tree.can_act(each)]
        self.tree.wait(_pick(waiters, draw.a).node, target.leader.node, _pick(("wait4", "waitid"), draw.c))

    def _exec(self, _draw: Draw, actor: Task) -> None:
        self.tree.exec(actor.node)

    def _unshare(self, _draw: Draw, actor: Task) -> None:
        if actor.child_namespace.level < _MAX_LEVEL:
            self.tree.unshare(actor.node)

    def _setns(self, draw: Draw, actor: Task) -> None:
        below = [task for task in self._living() if task.life is Life.ALIVE]
        below = [task for task in below if actor.pid.namespace in task.pid.namespaces]
        self.tree.setns(actor.node, _pick(below, draw.b).node)

    def _may_end(self, process: Process) -> bool:
        """Return False for the root, and for the init of a namespace whose end is an unpredictable race.

        Two races cannot be predicted: several threads of an init exit, and one of them waits within its exit; all tasks
        of a namespace die at once, and their exit signals reach other processes in any order.
        """
        root = self.tree.task(ROOT)
        if process is root.process:
            return False
        namespace = process.leader.pid.namespace
        reaper = namespace.reaper
        if reaper is None or reaper.process is not process:
            return True
        doomed = [each for each in self._processes() if namespace in each.leader.pid.namespaces]
        return (
            root.process not in doomed
            and not any(len(each.threads) > 1 for each in doomed if each.leader.pid.numbers[-1] == 1)
            and not self._is_race([each for each in doomed if each is not process])
        )

    def _is_race(self, dying: Sequence[Process]) -> bool:
        """Return True if the order of the exit signals matters.

        It matters if one process gets two different ones, if several processes get some and one of them dies, and if a
        process is stopped in a group that loses a link to its session: the kernel continues a stopped orphaned group.
        """
        sent = [
            (each.parent.process, each.exit_signal)
            for each in dying
            if each.parent and each.parent.process not in dying
            if self.tree.oracle.heeds(each.parent.process, each.exit_signal)
        ]
        different = {(id(receiver), number) for receiver, number in sent}
        unlinked = {id(each.pgid) for each in dying}
        unlinked |= {id(each.pgid) for each in self._processes() if each.parent and each.parent.process in dying}
        return (
            len({receiver for receiver, _ in different}) < len(different)
            or (len(different) > 1 and any(number not in (SIGSTOP, SIGCONT) for _, number in different))
            or any(number == SIGSTOP and id(receiver.pgid) in unlinked for receiver, number in sent)
        )


def begin(tree: Tree, root: str) -> Player:
    """Make the root, which is node 1 and lives on, and return the player for further draws."""
    tree.fork(0, ROOT, *(["newpid"] if root != "subtree" else []))
    if root != "subtree":
        tree.setsid(ROOT)
    return Player(tree)


def play(tree: Tree, program: Program) -> None:
    """Make the root and carry the program out."""
    player = begin(tree, program.root)
    for draw in program.draws:
        player.play(draw)


def random_draws(seed: int, count: int) -> Iterator[Draw]:
    """Yield draws; the same seed gives the same ones."""
    chance = random.Random(seed)
    verbs = sorted(WEIGHTS.elements())
    for _ in range(count):
        yield Draw(chance.choice(verbs), *(chance.randrange(256) for _ in range(3)))


def chosen(tree: Tree, program: Program) -> Task:
    """Return the leader of one of the tree's processes, dead or alive; it may be the root."""
    leaders = [task for task in tree.oracle.unreleased() if task.node > 0 and task.is_leader]
    return _pick(leaders, program.choice)


def programs(least: int = 10, most: int = 60) -> st.SearchStrategy[Program]:
    """Return a strategy for programs of `least` to `most` draws; births weigh more than deaths, so that trees grow."""
    verbs = st.sampled_from(sorted(WEIGHTS.elements()))
    number = st.integers(0, 255)
    draws = st.lists(st.builds(Draw, verbs, number, number, number), min_size=least, max_size=most)
    return st.builds(Program, st.sampled_from(("container", "subtree")), draws.map(tuple), number)


def _pick(choices: Sequence[T], number: int) -> T:
    return choices[number % len(choices)]
