# SPDX-License-Identifier: Apache-2.0
"""The comparison of the oracle with the kernel: where they agree on a tree, the oracle may judge births."""

from collections.abc import Iterator

from tests.live.kernelview import KernelView, TaskView
from tests.live.tasks import Life, Namespace, Pid, Task
from tests.live.treeprog import KEEPER, Tree

CORE_DUMPED = 0x80


def disagreements(tree: Tree, view: KernelView) -> list[str]:
    """Return a line for each field of each task that differs, the kernel's value first; empty if all agree."""
    found = []
    predicted = {task.pid.numbers[0]: task for task in tree.oracle.unreleased() if task.node != KEEPER}
    for number in sorted(view.keys() | predicted.keys()):
        if number not in predicted:
            found.append(f"pid {number}: the kernel has it, the oracle does not: {view[number]}")
        elif number not in view:
            found.append(f"node {predicted[number].node} (pid {number}): the oracle has it, the kernel does not")
        else:
            task, shown = predicted[number], view[number]
            found += [
                f"node {task.node} (pid {number}): {field} is {actual}, predicted {expected}"
                for field, actual, expected in _fields(task, shown)
                if actual != expected
            ]
    for task in predicted.values():
        if task.is_leader and tree.can_act(task) and tree.is_subreaper(task.node) != task.process.subreaper:
            found.append(f"node {task.node}: subreaper is not {task.process.subreaper}")
    return found


def state_letters(task: Task) -> str:
    """Return the state letters that /proc may show of a task."""
    if task.life is Life.DEAD:
        return "Z"
    if task.life is Life.ALIVE and task.process.stopped:
        return "T"
    return "RSD"


def _fields(task: Task, shown: TaskView) -> Iterator[tuple[str, object, object]]:
    process = task.process
    levels = task.pid.namespaces
    dead = task.life is Life.DEAD
    yield "NSpid", shown.numbers, task.pid.numbers
    yield "tgid", shown.tgid, process.leader.pid.numbers[0]
    yield "NStgid", shown.tgids, _seen(process.leader.pid, levels)
    yield "NSpgid", shown.pgids, _seen(process.pgid, levels)
    yield "NSsid", shown.sids, _seen(process.sid, levels)
    yield "parent thread", shown.parent, process.parent.pid.numbers[0] if process.parent else 0
    yield "state", shown.state in state_letters(task), True
    yield "exiting", shown.exiting, task.life is not Life.ALIVE
    yield "exit signal", shown.exit_signal, process.exit_signal if task.is_leader else -1
    yield "threads", shown.threads, len(process.threads)
    if dead and not process.stopped:  # of a stopped group /proc shows the stop instead
        # From SIGNAL_GROUP_EXIT on, which the last thread sets too, /proc shows the group's status for all threads.
        status = task.exit_code if process.status is None else process.status
        yield "exit code", shown.exit_code & ~CORE_DUMPED, status
    yield "namespace", shown.inum, task.pid.namespace.inum
    child = task.child_namespace
    there = task.life is Life.ALIVE and (child.reaper or not child.parent)
    yield "child namespace", shown.child_inum, child.inum if there else None


def _seen(pid: Pid, levels: tuple[Namespace, ...]) -> tuple[int, ...]:
    return tuple(pid.number_in(namespace) for namespace in levels)
