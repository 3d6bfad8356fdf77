# SPDX-License-Identifier: Apache-2.0
"""Runs of a plan on the model of the kernel, and the comparison of the result with the snapshot.

The code that selects a snapshot from the live table also selects the result, so a plan that passes builds a tree whose
capture would be the same snapshot.
"""

import signal
from collections.abc import Collection

from agent.errors import CkptreeError
from agent.model import Mode, Snapshot, Tag, Task, TaskState, WaitStatus
from agent.restart.planning.conflicts import Touched
from agent.restart.planning.kernelmodel import CallRefusedError, Kernel
from agent.restart.planning.plan import NOBODY, CloneBits, Op, Plan, Step
from agent.selection.select import Selection, select
from agent.table.objects import TaskStruct

CORE_DUMPED = 0x80
_FIRST_TAG = 1  # of a selection
_IDS = 6  # fields of a row: its tags, and its depth


class PlanError(CkptreeError):
    """A step of a plan that the kernel would refuse."""


class Machine:
    """A model kernel and the actors of a plan that are alive in it.

    Attributes:
        kernel: the model; see agent.restart.planning.kernelmodel.
        tasks: by actor; None before birth.
    """

    def __init__(self, actors: int, *, pidns: bool) -> None:
        self.kernel = Kernel()
        self.tasks: list[TaskStruct | None] = [None] * actors
        self._pidns = pidns

    def task(self, actor: int) -> TaskStruct:
        """Return the task of an actor.

        Raises:
            CallRefusedError: ESRCH, it is not born yet.
        """
        task = self.tasks[actor]
        if task is None:
            raise CallRefusedError("ESRCH", f"actor {actor} is not born yet")
        return task

    def begin(self, numbers: tuple[int, ...], exit_signal: int) -> None:
        """Make actor 0, as the init of a new pid namespace or as a subreaper."""
        kernel = self.kernel
        self.tasks[0] = kernel.clone(kernel.guard, numbers, newpid=self._pidns, exit_signal=exit_signal)
        if not self._pidns:
            kernel.subreaper(self.task(0), on=True)

    def run(self, step: Step, numbers: tuple[int, ...] = (), exit_signal: int = signal.SIGCHLD) -> None:
        """Make the system call of a step; numbers and exit signal are those of the child of a CLONE."""
        kernel, by, value = self.kernel, self.task(step.by), step.value
        if step.op is Op.ACTIVATE:  # half of all steps
            kernel.touched = Touched()
            return
        match step.op:
            case Op.CLONE:
                self.tasks[step.target] = kernel.clone(
                    by,
                    numbers,
                    thread=bool(value & CloneBits.THREAD),
                    parent=bool(value & CloneBits.PARENT),
                    newpid=bool(value & CloneBits.NEWPID),
                    exit_signal=exit_signal,
                )
            case Op.SETSID:
                kernel.setsid(by)
            case Op.SETPGID:
                kernel.setpgid(by, self.task(step.target), self.task(value).leader.pid)
            case Op.SUBREAPER:
                kernel.subreaper(by, on=bool(value))
            case Op.ENTER:
                kernel.setns(by, self.task(step.target))
            case Op.UNSHARE:
                kernel.unshare(by)
            case Op.EXIT:
                kernel.exit(by, WaitStatus(value))
            case Op.REAP:
                kernel.wait(by, self.task(step.target), reap=True)
            case Op.AWAIT:
                kernel.wait(by, self.task(step.target), reap=False)
            case Op.LINGER:
                kernel.linger(self.task(step.target))
            case Op.STOP:
                kernel.stop(by)


def run(plan: Plan) -> Machine:
    """Run a whole plan in its order.

    Raises:
        PlanError: the kernel would refuse a step; the message names it.
    """
    machine = Machine(len(plan.actors), pidns=plan.pidns)
    machine.begin(plan.actors[0].numbers, plan.actors[0].exit_signal)
    for index, step in enumerate(plan.steps):
        try:
            if step.op is Op.CLONE and step.target != NOBODY:
                made = plan.actors[step.target]
                machine.run(step, made.numbers, made.exit_signal)
            else:
                machine.run(step)
        except CallRefusedError as refusal:
            raise PlanError(f"step {index}, {step.op.name} by actor {step.by}: {refusal}") from refusal
    return machine


def result(plan: Plan, machine: Machine, mode: Mode) -> Selection:
    """Return what a capture of the tree would show.

    Raises:
        CkptreeError: the tree cannot be captured.
    """
    return select(machine.task(plan.tasks[0]), mode)


def difference(snapshot: Snapshot, made: Selection) -> str | None:
    """Return the first difference of a result from the snapshot, as text; None if there is none.

    Tasks are compared by their numbers and not by rows, since other writers give tags in another order.
    """
    if _is_same(snapshot, made):
        return None
    unknown = {snapshot.number(task.pid) for task in snapshot.tasks if task.exit_signal is None or task.exit_signal < 0}
    want, have = _rows(snapshot, unknown), _rows(_as_snapshot(snapshot, made), unknown)
    for number, row in want.items():
        if number not in have:
            return f"{number} is missing"
        if have[number] != row:
            names = (
                *("numbers", "parent", "tgid", "pgid", "sid", "depth", "state", "status", "subreaper", "exit signal"),
                "dead next pid namespace",
            )
            which = [
                f"{name} {mine} instead of {theirs}"
                for name, mine, theirs in zip(names, have[number], row, strict=True)
                if mine != theirs
            ]
            return f"{number} has {', '.join(which)}"
    extra = [number for number in have if number not in want]
    if extra:
        return f"{extra[0]} is there in addition"
    return _partition_difference(snapshot, made)


def _is_same(snapshot: Snapshot, made: Selection) -> bool:
    """Return True if a result is that of the snapshot tag by tag, as where this program has given the tags; False: look
    at each row by its number.

    The tags refer to equal numbers in both, so equal tags are equal ids.
    """
    if (
        snapshot.first_tag != _FIRST_TAG
        or len(made.pids) != len(snapshot.pids)
        or len(made.tasks) != len(snapshot.tasks)
    ):
        return False
    if [pid.numbers for pid in made.pids] != [pid.numbers for pid in snapshot.pids]:
        return False
    return _partition_difference(snapshot, made) is None and all(
        want[:_IDS] == have[:_IDS]
        and (want.state or TaskState.RUNNING) == (have.state or TaskState.RUNNING)
        and (want.exit_signal == have.exit_signal or want.exit_signal is None or want.exit_signal < 0)
        and bool(want.subreaper) == bool(have.subreaper)
        and _status(want) == _status(have)
        and _leaves_for_a_dead_namespace(want) == _leaves_for_a_dead_namespace(have)
        for want, have in zip(snapshot.tasks, made.tasks, strict=True)
    )


def _leaves_for_a_dead_namespace(task: Task) -> bool:
    return task.state not in _EXITED and task.child_namespace is not None and bool(task.child_namespace_dead)


def _as_snapshot(snapshot: Snapshot, made: Selection) -> Snapshot:
    return Snapshot(mode=snapshot.mode, time_ns=0, pids=made.pids, tasks=made.tasks, namespaces=made.namespaces)


Row = tuple[object, ...]

_EXITED = (TaskState.ZOMBIE, TaskState.DEAD_LEADER)


def _status(task: Task) -> WaitStatus | None:
    """Return the wait status of an exited task without the core dump's bit; 0 if unknown, None for a living task."""
    if task.exit_code is None:
        return WaitStatus(0) if task.state in _EXITED else None
    return WaitStatus(task.exit_code & ~CORE_DUMPED)


def _rows(snapshot: Snapshot, unknown: Collection[int]) -> dict[int, Row]:
    """Return rows by number in the root's namespace, with ids as numbers, which are unique there, or special values.

    Args:
        snapshot: has the rows.
        unknown: numbers of tasks whose exit signal is not compared.
    """

    def name(tag: Tag) -> int:
        return snapshot.number(tag) if tag >= snapshot.first_tag else tag

    return {
        name(task.pid): (
            snapshot.pids[task.pid - snapshot.first_tag].numbers,
            name(task.ppid),
            name(task.tgid),
            name(task.pgid),
            name(task.sid),
            task.depth,
            task.state or TaskState.RUNNING,
            _status(task),
            bool(task.subreaper),
            task.exit_signal if name(task.pid) not in unknown else None,
            _leaves_for_a_dead_namespace(task),
        )
        for task in snapshot.tasks
    }


def _partition_difference(snapshot: Snapshot, made: Selection) -> str | None:
    """Return text if two pids of one namespace in the snapshot are of two in the result, or the other way round."""
    if not snapshot.namespaces:
        return None
    there = {pid.numbers[0]: pid.namespaces for pid in snapshot.pids}
    forward: dict[int, int] = {}
    backward: dict[int, int] = {}
    # Most pids of a tree are in few namespaces.
    chains = {(pid.namespaces, there.get(pid.numbers[0], ())): pid.numbers[0] for pid in made.pids}
    for (ours, others), number in chains.items():
        for mine, theirs in zip(ours, others, strict=False):
            if forward.setdefault(mine, theirs) != theirs or backward.setdefault(theirs, mine) != mine:
                return f"{number} is in another pid namespace"
    return None
