# SPDX-License-Identifier: Apache-2.0
"""Helpers from a simulated kernel to a snapshot of a tree in it, and from a plan to a tree in another one.

That kernel (tests/support/kernelsim.py) shares no line with the model of the planner
(agent/restart/planning/kernelmodel.py). This module checks the conditions of calls that the simulated kernel allows
unchecked, by the manual pages.
"""

import random
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from agent.errors import RefusedError
from agent.model import CKPT_PID_ROOT, Mode, Snapshot, Tag, TaskState
from agent.restart.planning.plan import NOBODY, CloneBits, Op, Plan, Step
from agent.selection.select import select
from agent.table import objects
from tests.support.kernelobjects import Number, Space, Thread
from tests.support.kernelsim import Kernel
from tests.support.watched import Watched

_SPARE = 1 << 20
CORE_DUMPED = 0x80

Row = tuple[Any, ...]


def taken(pair: Watched, root: Thread, mode: Mode) -> Snapshot:
    """Return the snapshot of a tree, with its observed births.

    Raises:
        RefusedError: the tree has a leak.
    """
    found = select(pair.task(root), mode)
    if found.unknown:
        raise RefusedError("a number is not known")
    return Snapshot(
        mode=mode,
        time_ns=0,
        pids=found.pids,
        tasks=found.tasks,
        namespaces=found.namespaces,
        ancestors=found.ancestors,
        squashed=found.squashed,
    )


def unobserved(snapshot: Snapshot) -> Snapshot:
    """Return the same tree without any observed birth."""
    return replace(snapshot, tasks=tuple(task._replace(birth=None) for task in snapshot.tasks), ancestors=())


def interleaved(plan: Plan, chance: random.Random) -> Iterator[int]:
    """Yield the steps in a random order that keeps each actor's order, dependencies and phases; fewer if they get
    stuck.

    An exit counts as made when it has begun, as in a rebuild. It takes effect at any later time, at the latest when a
    task waits for it: its parent, or the last thread of its group that waits within its own exit.
    """
    lingering = plan.lingering()
    queues: list[deque[int]] = [deque() for _ in plan.actors]
    for index, step in enumerate(plan.steps):
        queues[step.by].append(index)
    left = Counter(step.phase for step in plan.steps)
    born, done = {0}, set[int]()
    dying: dict[int, int] = {}  # actor -> its exit that has no effect yet
    # Some actors are slow, which finds more faults than chance alone.
    weight = [chance.choice((1, 1, 10, 100)) for _ in plan.actors]
    while len(done) < len(plan.steps):
        phase = min(phase for phase in left if left[phase])
        heads = [queue[0] for actor, queue in enumerate(queues) if queue and actor in born]
        ready = [one for one in heads if plan.steps[one].phase is phase and done.issuperset(plan.steps[one].after)]
        if not ready:
            return
        index = chance.choices(ready, [weight[plan.steps[one].by] for one in ready])[0]
        step = plan.steps[index]
        queues[step.by].popleft()
        done.add(index)
        left[phase] -= 1
        if step.op is Op.CLONE:
            born.add(step.target)
        if step.op in (Op.REAP, Op.AWAIT, Op.LINGER) and step.target in dying:
            yield dying.pop(step.target)
        if step.op is Op.EXIT:
            if step.by in lingering:
                leader = plan.actors[step.by].leader
                for other in [actor for actor in dying if plan.actors[actor].leader == leader]:
                    yield dying.pop(other)
            dying[step.by] = index
        else:
            yield index
        while dying and chance.random() < 0.3:
            yield dying.pop(chance.choice(list(dying)))
    yield from dying.values()


class Stage:
    """A simulated kernel on which a plan is played.

    Args:
        plan: its steps are made by calls of `make`, in the caller's order.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.kernel = kernel = Kernel(lambda _record: None, pid_max=1 << 22, lingers=True)
        self.threads: list[Thread | None] = [None] * len(plan.actors)
        self._spare = _SPARE
        guard = kernel.fork(kernel.init, wanted=(self._next(),))
        kernel.subreaper(guard)
        guard.group.deaf = True
        top = plan.actors[0]
        flags = objects.CLONE_NEWPID if plan.pidns else 0
        space = guard.space
        wanted = top.numbers or (self._next(),)
        self.threads[0] = kernel.fork(guard, flags, self._above(space, wanted, 1 + plan.pidns), top.exit_signal)
        if not plan.pidns:
            kernel.subreaper(self.thread(0))

    def thread(self, actor: int) -> Thread:
        """Return the thread of an actor."""
        thread = self.threads[actor]
        assert thread is not None, "it is not born yet"
        return thread

    def _next(self) -> int:
        self._spare += 1
        return self._spare

    def _above(self, _space: Space, numbers: tuple[int, ...], depth: int) -> tuple[int, ...]:
        return (*[self._next() for _ in range(depth - len(numbers))], *numbers)

    def play(self) -> None:
        """Make all steps in the order of the plan."""
        for step in self.plan.steps:
            self.make(step)

    def make(self, step: Step) -> None:
        """Make one step; raise AssertionError if a kernel would refuse it."""
        kernel, by = self.kernel, self.thread(step.by)
        target = self.thread(step.target) if step.target != NOBODY and step.op is not Op.CLONE else by
        assert by in kernel.threads, "it is gone"
        match step.op:
            case Op.CLONE:
                self._clone(by, step)
            case Op.SETSID:
                leader = by.group.leader.pid
                assert all(thread.group.pgid is not leader for thread in kernel.threads), "EPERM"
                kernel.setsid(by)
            case Op.SETPGID:
                self._setpgid(by, target, self.thread(step.value).group.leader.pid)
            case Op.SUBREAPER:
                kernel.subreaper(by, on=bool(step.value))
            case Op.ENTER:
                assert by.space in target.pid.spaces, "EINVAL"
                kernel.setns(by, target.space)
            case Op.UNSHARE:
                assert by.pending is None, "EINVAL"
                kernel.unshare(by)
            case Op.EXIT:
                assert not by.exiting, "it is dead"
                self._exit(by, step.value)
            case Op.REAP:
                self._await(by, target)
                kernel.wait(by, target)
            case Op.AWAIT:
                self._await(by, target)
            case Op.LINGER:
                assert target.lingering, "nothing keeps it within its exit"
            case Op.STOP:
                for thread in by.group.threads:
                    thread.stopped = not thread.exited
            case Op.ACTIVATE:
                assert not by.exiting, "it is dead"

    def _exit(self, by: Thread, code: int) -> None:
        """Exit; all other members of a namespace must have exited before its init, which must not reap them."""
        inside = [each for each in self.kernel.threads if by.space in each.pid.spaces and each.group is not by.group]
        dies = by.space.init is by and all(each.exited for each in by.group.threads if each is not by)
        assert not dies or all(each.exited or each.lingering for each in inside), "its namespace dies with it"
        self.kernel.exit(by, code)
        assert not dies or all(each in self.kernel.threads for each in inside), "it goes with its namespace's init"

    def _clone(self, by: Thread, step: Step) -> None:
        assert not by.exiting, "it is dead"
        actor, bits = self.plan.actors[step.target], step.value
        space = by.pending or by.space
        nested = bool(bits & CloneBits.NEWPID)
        if bits & CloneBits.THREAD:
            assert by.pending is None, "EINVAL"
            self.threads[step.target] = self.kernel.thread(by, self._wanted(space, actor.numbers, 0))
            return
        assert not space.closed, "ENOMEM"
        assert not (nested and by.pending), "EINVAL"
        flags = (objects.CLONE_PARENT if bits & CloneBits.PARENT else 0) | (objects.CLONE_NEWPID if nested else 0)
        wanted = self._wanted(space, actor.numbers, int(nested))
        self.threads[step.target] = self.kernel.fork(by, flags, wanted, actor.exit_signal)

    def _wanted(self, space: Space, numbers: tuple[int, ...], more: int) -> tuple[int, ...]:
        levels = len(space.chain()) + more
        assert len(numbers) <= levels, "EINVAL"
        wanted = self._above(space, numbers, levels)
        if (more or space.init is None) and not numbers:
            wanted = (*wanted[:-1], 1)
        return wanted

    def _setpgid(self, by: Thread, target: Thread, pgid: Number) -> None:
        group = target.group
        assert group is by.group or (group.parent is not None and group.parent.group is by.group), "ESRCH"
        assert group.leader.pid.seen_from(by.space), "ESRCH"
        assert pgid.seen_from(by.space), "EPERM"
        assert group.sid is by.group.sid, "EPERM"
        assert group.sid is not group.leader.pid, "EPERM"
        if pgid is not group.leader.pid:
            sessions = {thread.group.sid for thread in self.kernel.threads if thread.group.pgid is pgid}
            assert sessions == {group.sid}, "EPERM"
        self.kernel.setpgid(by, group, pgid)

    def _await(self, by: Thread, target: Thread) -> None:
        assert target.group.parent is not None, "ECHILD"
        assert target.group.parent.group is by.group, "ECHILD"
        assert target in self.kernel.zombies(), "EAGAIN"
        for thread in by.group.threads:
            thread.stopped = False  # SIGCONT of the guard

    # ---- the result ------------------------------------------------------------------------------------------------

    def rows(self) -> dict[int, Row]:
        """Return the tree by number in the root's namespace, in the form of `rows_of`."""
        kernel = self.kernel
        root = self.thread(self.plan.tasks[0])
        inside: dict[Thread, None] = {}
        below = [root]
        while below:
            leader = below.pop()
            for thread in leader.group.threads:
                inside[thread] = None
                below += [group.leader for group in kernel.children(thread)]
        level = len(root.space.chain()) - 1

        def name(pid: Number) -> int:
            inherited = pid is root.group.sid and pid is not root.pid and pid.seen_from(root.space)
            return CKPT_PID_ROOT if inherited else pid.seen_from(root.space)

        def row(thread: Thread) -> Row:
            group = thread.group
            parent = group.parent if group is not root.group else None
            code = thread.code if group.code is None else group.code
            return (
                thread.pid.numbers[level:],
                parent.pid.seen_from(root.space) if parent is not None else 0,
                group.leader.pid.seen_from(root.space),
                name(group.pgid),
                name(group.sid),
                self._state(thread),
                code & ~CORE_DUMPED if thread.exited or thread.lingering else None,
                group.subreaper,
                group.exit_signal if thread.leads else -1,
                not (thread.exited or thread.lingering) and thread.pending is not None and thread.pending.closed,
            )

        return {thread.pid.numbers[level]: row(thread) for thread in inside}

    @staticmethod
    def _state(thread: Thread) -> TaskState:
        if thread.exited or thread.lingering:
            return TaskState.DEAD_LEADER if thread.leads and len(thread.group.threads) > 1 else TaskState.ZOMBIE
        return TaskState.STOPPED if thread.stopped else TaskState.RUNNING


def rows_of(snapshot: Snapshot) -> dict[int, Row]:
    """Return the rows that a rebuild of the snapshot must have, by number."""

    def name(tag: int) -> int:
        return snapshot.number(Tag(tag)) if tag >= snapshot.first_tag else tag

    return {
        snapshot.number(task.pid): (
            snapshot.pids[task.pid - snapshot.first_tag].numbers,
            name(task.ppid),
            name(task.tgid),
            name(task.pgid),
            name(task.sid),
            task.state or TaskState.RUNNING,
            None if task.exit_code is None else task.exit_code & ~CORE_DUMPED,
            bool(task.subreaper),
            task.exit_signal,
            bool(task.child_namespace_dead) and task.state not in (TaskState.ZOMBIE, TaskState.DEAD_LEADER),
        )
        for task in snapshot.tasks
    }
