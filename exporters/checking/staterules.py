# SPDX-License-Identifier: Apache-2.0
"""Rules for the states of tasks in their tree.

A task counts as exited from exit_notify() on (model.TaskState). The rules hold from then on:

* An exited task is no parent: forget_original_parent() gave its children to a living thread of its group, to a
  subreaper or to the namespace's init. An init that exits keeps its children while it kills and reaps them
  (zap_pid_ns_processes()), and so does the last of its threads.
* An exited leader is a dead leader while its group has other threads, and a zombie without them. These threads may have
  exited too: a traced one stays until its tracer has waited for it. Only a leader can be a dead leader. Another thread
  that has exited and is still there is a zombie, because it is traced.
* Only an exited task has an exit code. It may be unknown, because /proc shows it to privileged readers only.

Stopped tasks have no rule: images have called threads stopped that a tracer held, whatever the other threads did.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from agent.model import Snapshot, Tag, TaskState
from exporters.content.soundness import Fault


def state_faults(snapshot: Snapshot, place: Mapping[int, int]) -> Iterator[Fault]:
    """Yield all faults of states.

    Args:
        snapshot: a snapshot that a reader made.
        place: index of the task of a pid's tag.
    """
    ended = (TaskState.ZOMBIE, TaskState.DEAD_LEADER)
    tasks = snapshot.tasks
    exited = {task.pid: index for index, task in enumerate(tasks) if task.state in ended}
    for index, task in enumerate(tasks):
        if task.exit_code is not None and task.state is not None and task.pid not in exited:
            text = f"is {task.exit_code}, but the task is {task.state}; only an exited task has one"
            yield Fault("exit-code", "tasks", index, "exit_code", text, (task.pid,))
    if not exited:
        return
    yield from _leader_faults(snapshot, exited)
    yield from _parent_faults(snapshot, exited, place)
    silent = [index for index in exited.values() if tasks[index].exit_code is None]
    if silent:
        tags = tuple([tasks[index].pid for index in silent])
        text = f"is not known, of {len(silent)} that have exited: they cannot be made to exit in the same way"
        yield Fault("exit-code-unknown", "tasks", silent[0], "exit_code", text, tags)


def _leader_faults(snapshot: Snapshot, exited: Mapping[Tag, int]) -> Iterator[Fault]:
    members = Counter([task.tgid for task in snapshot.tasks])
    for tag, index in exited.items():
        task = snapshot.tasks[index]
        dead_leader = task.state is TaskState.DEAD_LEADER
        if tag != task.tgid:
            if dead_leader:
                text = (
                    f"is dead-leader, but the leader of its group is {task.tgid}; a thread that has exited is a zombie"
                )
                yield Fault("dead-leader", "tasks", index, "state", text, (tag, task.tgid))
        elif members[tag] > 1 and not dead_leader:
            text = f"is zombie, but {members[tag] - 1} threads of its group are there: it is a dead leader"
            yield Fault("zombie-leader", "tasks", index, "state", text, (tag,))
        # Snapshots leave out the kernel's own threads, which keep a dead leader from becoming a zombie all the same.
        elif members[tag] == 1 and dead_leader and not snapshot.completeness.kernel_threads_left_out:
            text = "is dead-leader, but no other thread of its group is there: it is a zombie"
            yield Fault("dead-leader", "tasks", index, "state", text, (tag,))


def _parent_faults(snapshot: Snapshot, exited: Mapping[Tag, int], place: Mapping[int, int]) -> Iterator[Fault]:
    inits = {tag for tag, pid in snapshot.tagged() if pid.numbers[-1:] == (1,)}
    for index, task in enumerate(snapshot.tasks):
        if task.ppid not in exited or (task.pid != task.tgid and task.tgid in place):
            continue  # the leader's row is judged
        parent = snapshot.tasks[exited[task.ppid]]
        if parent.tgid in inits:
            continue
        text = f"is {task.ppid}, but that task is {parent.state}, and an exited task is no parent"
        yield Fault("exited-parent", "tasks", index, "ppid", text, (task.pid, task.ppid))
