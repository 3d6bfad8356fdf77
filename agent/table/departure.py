# SPDX-License-Identifier: Apache-2.0
"""The kernel's rules for a task that has exited: its release where no wait call tells of it, and its exit signal.

Theory
------
Mostly a zombie's parent waits for it, and that call is an event. Three releases have no event:

* A thread that is no leader is released at its exit, unless it is traced: exit_notify().
* A zombie is released at once if its parent ignores SIGCHLD: do_notify_parent().
* All tasks of a dying namespace are killed and released, and its init waits within its exit for that:
  zap_pid_ns_processes().

Sources: kernel/exit.c, kernel/pid_namespace.c, kernel/signal.c of Linux 6.18.
"""

from agent.table import rules
from agent.table.objects import AUTOREAP, EXITED, PTRACED, TaskStruct


def dies_unwaited(task: TaskStruct) -> bool:
    """Return True for a thread that the kernel releases at its exit with no wait call: no leader, and not traced.

    The last thread of a namespace's init may wait in zap_pid_ns_processes(): it is gone only when a record or an answer
    says so.
    """
    return task.leader is not task and not task.flags & PTRACED and not is_last_of_init(task)


def lingers(task: TaskStruct) -> bool:
    """Return True if a task has exited as the last of a namespace's init, and may wait in zap_pid_ns_processes().

    It waits until the numbers of the namespace's other tasks are free. A thread is then released without an event. A
    leader becomes a zombie, or is released too where its parent ignores SIGCHLD by then.
    """
    return task.flags & (EXITED | PTRACED) == EXITED and (
        task.leader is not task
        or (rules.is_alone(task) and is_last_of_init(task) and len(task.pid.namespace.numbers) > 1)
    )


def is_last_of_init(task: TaskStruct) -> bool:
    """Return True if a namespace dies with this thread, whose exit has begun."""
    pid = task.leader.pid
    return pid.level > 0 and pid.numbers[-1] == 1 and all(each is task or each.flags & EXITED for each in task.group())


def may_vanish(task: TaskStruct) -> bool:
    """Return True if a task that has exited may be released with no wait call and no event.

    do_notify_parent() releases at once a child whose parent ignores SIGCHLD. zap_pid_ns_processes() reaps the tasks of
    a dying namespace within the kernel, and afterwards lets the thread go on that waits there, unless its parent has to
    reap it.
    """
    if not task.flags & EXITED:
        return False
    if task.leader is not task:
        return is_last_of_init(task)
    if not rules.is_alone(task):
        return False
    namespace = task.pid.namespace
    dying = namespace.level > 0 and (namespace.reaper is None or bool(namespace.reaper.flags & EXITED))
    return dying or bool(task.flags & AUTOREAP)


def is_immune(leader: TaskStruct) -> bool:
    """Return True for a namespace's init, which gets no signal that it has no handler for.

    SIGKILL and SIGSTOP arrive all the same where a process above that namespace sends them with kill(). The signals
    that the kernel itself sends at an exit do not: SIGNAL_UNKILLABLE, sig_task_ignored().
    """
    pid = leader.pid
    return (pid.level > 0 and pid.numbers[-1] == 1) or pid.namespace.reaper is leader
