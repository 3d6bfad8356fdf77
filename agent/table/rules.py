# SPDX-License-Identifier: Apache-2.0
"""The kernel's rules for tasks, pid objects and namespaces: each rule once, named as the kernel names it.

Theory
------
A pid object lives while it has users: tasks as their own pid, thread groups as pgid or as sid. Its numbers are taken at
every level as long as it lives, so a dead session leader's number stays taken.

A task lives through ``birth -> exit -> release``:

* *exit* (do_exit, exit_notify): it stops running; its children get a new parent: a living thread of its own group, else
  the nearest living subreaper above on the same namespace level, else the init of its namespace.
* A thread that is no leader is released at once, unless it is traced. A leader stays, first as *dead leader* while
  other threads of its group live, then as *zombie* until its parent waits, or at once where the parent ignores SIGCHLD.
* *release* (release_task): it gives up its pid objects and is gone.

exec by a thread that is no leader (de_thread) ends the other threads. The thread takes over its leader's pid object,
place in the tree and start time; the thread's own number becomes free.

agent.table.departure has the rules for a task that is released without a wait call, and for its exit signal.

Every function leaves the objects consistent, in whatever order they are called: a lossy event stream must not break
them. Sources: kernel/exit.c, kernel/pid.c, kernel/fork.c, fs/exec.c of Linux 6.18.
"""

from collections.abc import Iterator
from typing import Final

from agent.table.objects import (
    EXITED,
    IO_WORKER,
    KERNEL,
    NO_STATUS,
    NOBODY,
    SUBREAPER,
    UNDER_SUBREAPER,
    Pid,
    PidNamespace,
    TaskStruct,
)

SIGCHLD: Final = 17
WORKER: Final = KERNEL | IO_WORKER
"""The flags of tasks that no rebuild can make, see `is_kernel_worker`."""


# ---- pid objects: kernel/pid.c -------------------------------------------------------------------------------------


def hash_pid(pid: Pid) -> None:
    """Take the numbers of a pid object at every level, as alloc_pid() does."""
    namespace: PidNamespace | None = pid.namespace
    for number in reversed(pid.numbers):
        if namespace is None:
            return
        namespace.numbers[number] = pid
        namespace = namespace.parent


def attach_pid(pid: Pid) -> None:
    """Count one more user of a pid object."""
    pid.users += 1


def detach_pid(pid: Pid) -> None:
    """Count one user less; without users the numbers become free at every level, as in free_pid()."""
    pid.users -= 1
    if pid.users > 0:
        return
    namespace: PidNamespace | None = pid.namespace
    for number in reversed(pid.numbers):
        if namespace is None:
            return
        if namespace.numbers.get(number) is pid:
            del namespace.numbers[number]
        namespace = namespace.parent


# ---- sessions and groups: kernel/sys.c -----------------------------------------------------------------------------


def leads_session(leader: TaskStruct) -> bool:
    """Return True if a process has called setsid(), or is an init that has: signal->leader."""
    return leader.sid is leader.pid


def may_setsid(leader: TaskStruct) -> bool:
    """Return False for a session leader, and while any process has the caller's pid as its group: EPERM of
    ksys_setsid().
    """
    return not leads_session(leader) and leader.pid.users == 1


def setsid(leader: TaskStruct) -> None:
    """Make a process the leader of a new session and of a new group, both under its own pid, as ksys_setsid() does."""
    change_sid(leader, leader.pid)
    change_pgid(leader, leader.pid)


def may_setpgid(caller: TaskStruct, leader: TaskStruct, member: TaskStruct | None) -> bool:
    """Return True if setpgid() permits a move: of the caller or its child, no session leader, within the session.

    Args:
        caller: leader of the calling group.
        leader: leader of the group that is moved.
        member: any process of the group to join; None where that is the moved leader's own new group.
    """
    own = leader is caller or (leader.parent is not None and leader.parent.leader is caller)
    return (
        own and leader.sid is caller.sid and not leads_session(leader) and (member is None or member.sid is leader.sid)
    )


# ---- the tree: kernel/fork.c, kernel/exit.c ------------------------------------------------------------------------


def lineage(task: TaskStruct | None) -> Iterator[TaskStruct]:
    """Yield the groups above a thread, by their leaders, its own first."""
    while task is not None:
        yield task.leader
        task = task.leader.parent


def descends_from(task: TaskStruct | None, leader: TaskStruct) -> bool:
    """Return True if a thread belongs to a leader's group, or to a group below it."""
    return any(each is leader for each in lineage(task))


def may_have(parent: TaskStruct, child: TaskStruct) -> bool:
    """Return True if a task can be the parent of another: the child is in the parent's pid namespace or one below it."""
    space, own = parent.pid.namespace, child.pid.namespace
    return space is own or own.ancestor(space.level) is space


def put_child(leader: TaskStruct, parent: TaskStruct) -> None:
    """Put a group first on the list of a parent's children. The parent must not stand below the group."""
    first = parent.first_child
    leader.parent = parent
    leader.next = first
    leader.previous = None
    if first is not None:
        first.previous = leader
    parent.first_child = leader


def _has_below(leader: TaskStruct) -> bool:
    return leader.first_child is not None or bool(leader.threads)


def link_child(leader: TaskStruct, parent: TaskStruct | None) -> None:
    """Make a group the child of a thread; None: the parent is not known.

    After loss a record may name a parent that the table still has below this group. No tree has a circle, so the parent
    then counts as not known, and every walk up the tree ends.
    """
    if parent is not None and (parent.leader is leader or (_has_below(leader) and descends_from(parent, leader))):
        parent = None
    leader.parent = None
    if parent is not None:
        put_child(leader, parent)


def unlink_child(leader: TaskStruct) -> None:
    """Take a group off its parent's list."""
    parent = leader.parent
    if parent is None:
        return
    if leader.previous is not None:
        leader.previous.next = leader.next
    else:
        parent.first_child = leader.next
    if leader.next is not None:
        leader.next.previous = leader.previous
    leader.parent = leader.next = leader.previous = None


def change_pgid(leader: TaskStruct, pgid: Pid) -> None:
    """Give a process another group: change_pid(PIDTYPE_PGID)."""
    attach_pid(pgid)
    if leader.pgid is not None:
        detach_pid(leader.pgid)
    leader.pgid = pgid


def change_sid(leader: TaskStruct, sid: Pid) -> None:
    """Give a process another session: change_pid(PIDTYPE_SID)."""
    attach_pid(sid)
    if leader.sid is not None:
        detach_pid(leader.sid)
    leader.sid = sid


def add_process(task: TaskStruct, parent: TaskStruct | None, pgid: Pid, sid: Pid) -> None:
    """Enter a new group with one task: copy_process() without CLONE_THREAD."""
    pid = task.pid
    pid.task = task
    pid.users += 1
    task.pgid = pgid
    pgid.users += 1
    task.sid = sid
    sid.users += 1
    link_child(task, parent)
    if pid.numbers[-1] == 1 and pid.namespace.reaper is None:
        pid.namespace.reaper = task  # is_child_reaper(): the first one in its namespace


def add_thread(task: TaskStruct, leader: TaskStruct) -> None:
    """Enter a task as a thread of a group: copy_process() with CLONE_THREAD."""
    task.pid.task = task
    attach_pid(task.pid)
    task.leader = leader
    task.exit_signal = -1
    if leader.threads is None:
        leader.threads = {}
    leader.threads[task] = None


# ---- death: kernel/exit.c ------------------------------------------------------------------------------------------


def is_alone(leader: TaskStruct) -> bool:
    """Return True if no other thread of the group is left: thread_group_empty()."""
    return not leader.threads


def is_zombie(task: TaskStruct) -> bool:
    """Return True if a task has exited and is not reaped yet; a dead leader of living threads is no zombie."""
    return bool(task.flags & EXITED) and (task.leader is not task or is_alone(task))


def find_alive_thread(task: TaskStruct) -> TaskStruct | None:
    """Return a thread of the group that has not exited, io workers included: the kernel checks PF_EXITING alone."""
    leader = task.leader
    if not leader.flags & EXITED:
        return leader
    if leader.threads:
        for thread in leader.threads:
            if not thread.flags & EXITED:
                return thread
    return None


def find_child_reaper(father: TaskStruct) -> TaskStruct | None:
    """Return the task that adopts orphans in father's namespace; a living thread of father's group takes over from
    father.

    Without such a thread zap_pid_ns_processes() kills the namespace, whose tasks stay children of the dying init to the
    end.
    """
    namespace = father.pid.namespace
    reaper = namespace.reaper
    # A table that met the init after its leader's exit takes that leader for the reaper.
    if reaper is father or (reaper is not None and reaper.flags & EXITED and reaper.leader is father.leader):
        namespace.reaper = find_alive_thread(father) or father
    return namespace.reaper


def find_new_reaper(father: TaskStruct) -> TaskStruct | None:
    """Return the new parent of father's children; None where it is not known, or where the whole namespace dies."""
    reaper = find_child_reaper(father)
    thread = find_alive_thread(father)
    if thread is not None:
        return thread
    if father.leader.flags & UNDER_SUBREAPER:
        level = father.pid.level
        above = father.leader.parent
        while above is not None and above.pid.level == level:
            if above.leader.flags & SUBREAPER:
                thread = find_alive_thread(above)
                if thread is not None:
                    return thread
            above = above.leader.parent
    return reaper


def reparent_children(father: TaskStruct) -> TaskStruct | None:
    """Give the children of a task that exits a new parent, as forget_original_parent() does.

    Returns:
        The new parent; None where it is not known: the children then have none until the kernel is asked about them.
    """
    if father.first_child is None:
        if father.pid.namespace.reaper is father:
            find_child_reaper(father)
        return None
    reaper = find_new_reaper(father)
    if reaper is father:
        return father
    # A child that stands above the reaper, possible only after loss, cannot be put below it. A child without children
    # or threads stands above no task, and a thread of father's own group is no such reaper: so mostly no walk up is
    # needed.
    above: set[TaskStruct] | None = None
    for child in father.children():
        unlink_child(child)
        if above is None and reaper is not None and reaper.leader is not father.leader and _has_below(child):
            above = set(lineage(reaper))
        if reaper is not None and (above is None or child not in above):
            put_child(child, reaper)
        if reaper is None or reaper.leader is not father.leader:
            child.exit_signal = SIGCHLD  # reparent_leader()
    return reaper


def exit_task(task: TaskStruct) -> TaskStruct | None:
    """Mark a task as exited and give its children a new parent: do_exit() up to exit_notify().

    Returns:
        The new parent of its children, as reparent_children() does.
    """
    task.flags |= EXITED
    return reparent_children(task)


def release_task(task: TaskStruct) -> None:
    """Take a task off its pid objects, group and tree. Afterwards only births may refer to its object."""
    pid = task.pid
    if pid.task is not task:
        return  # gone already
    if pid.namespace.reaper is task:
        pid.namespace.reaper = None
    if task.first_child is not None:  # only after loss, or of a namespace's init
        reparent_children(task)
    pid.task = None
    leader = task.leader
    if leader is task:
        unlink_child(task)
        if task.threads:
            for thread in tuple(task.threads):  # only after loss: a leader outlives its threads
                release_task(thread)
        task.threads = None
        if task.pgid is not None:
            detach_pid(task.pgid)
        if task.sid is not None:
            detach_pid(task.sid)
        task.pgid = task.sid = None
    else:
        if leader.threads is not None:
            leader.threads.pop(task, None)
            if not leader.threads:
                leader.threads = None
    task.leader = NOBODY
    detach_pid(pid)
    task.flags |= EXITED


# ---- subreapers: kernel/sys.c --------------------------------------------------------------------------------------


def propagate_has_child_subreaper(leader: TaskStruct) -> list[TaskStruct]:
    """Mark each group below as prctl(PR_SET_CHILD_SUBREAPER, 1) does, but no namespace init and no group below one.

    Returns:
        The leaders that were not marked before.
    """
    marked: list[TaskStruct] = []
    below = [leader]
    while below:
        for thread in below.pop().group():
            for child in thread.children():
                if not child.flags & UNDER_SUBREAPER and child.pid.numbers[-1] != 1:
                    child.flags |= UNDER_SUBREAPER
                    below.append(child)
                    marked.append(child)
    return marked


# ---- exec: fs/exec.c -----------------------------------------------------------------------------------------------


def de_thread(thread: TaskStruct) -> TaskStruct:
    """Make a thread that calls exec the leader, under the leader's number and start time.

    The leader's Task stays, for its process lives on. It takes the thread's address, flags, children and the namespace
    of its next child. The thread's Task stays only for the births that run through it.

    Returns:
        The leader's Task.
    """
    leader = thread.leader
    leader.exit_signal = SIGCHLD
    if leader is thread:
        return leader
    leader.address = thread.address
    leader.flags = thread.flags & ~EXITED
    leader.child_namespace = thread.child_namespace
    leader.exit_code = NO_STATUS
    for child in thread.children():
        unlink_child(child)
        link_child(child, leader)
    if leader.pid.namespace.reaper is thread:
        leader.pid.namespace.reaper = leader
    if leader.threads:
        for other in tuple(leader.threads):
            release_task(other)
    return leader


def is_kernel_worker(task: TaskStruct) -> bool:
    """Return True for a kernel thread or an io worker: no rebuild can make one."""
    return bool(task.flags & WORKER)
