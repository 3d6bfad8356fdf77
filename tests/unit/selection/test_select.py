# SPDX-License-Identifier: Apache-2.0
"""The selection of tasks and pid objects for a snapshot, and their tags."""

import pytest

from agent.errors import HostError
from agent.model import (
    CKPT_PID_ROOT,
    Birth,
    Creator,
    OutsidePid,
    PidObject,
    Tag,
    Task,
    TaskState,
    WaitStatus,
)
from agent.selection import select
from agent.table.objects import CLONE_NEWPID, EXITED, IO_WORKER, KERNEL, MOVING_NOWHERE, SUBREAPER
from tests.support.selected import a_root, ids, selected
from tests.support.watched import Watched

# ---- order and tags ------------------------------------------------------------------------------------------------


def test_pid_objects_are_tagged_in_the_order_in_which_the_tasks_name_them(pair: Watched) -> None:
    """For each task the order is pid, tgid, pgrp, session, each if it is new."""
    root = a_root(pair)
    child = pair.kernel.fork(root)
    thread = pair.kernel.thread(child)
    pair.kernel.setpgid(root, child.group, child.pid)
    selection = selected(pair, root)

    assert ids(selection) == [(1, 0, 1, 1, 1), (2, 1, 2, 2, 1), (3, 1, 2, 2, 1)]
    assert selection.pids == tuple(PidObject((t.tid,), (0,)) for t in (root, child, thread))
    assert [task.exit_signal for task in selection.tasks] == [17, 17, -1]


def test_each_fact_of_a_task_stands_in_its_own_field(pair: Watched) -> None:
    """No two facts of this thread are equal, so a row whose values stood in another order would differ."""
    kernel = pair.kernel
    root = a_root(pair)
    leads_session, leads_group = kernel.fork(root), kernel.fork(root)
    kernel.setsid(leads_session)
    kernel.setsid(leads_group)
    parent = kernel.fork(leads_session)
    group = kernel.fork(parent)
    kernel.setpgid(parent, group.group, group.pid)
    kernel.setpgid(parent, parent.group, group.pid)
    leader = kernel.fork(parent, CLONE_NEWPID)
    thread = kernel.thread(leader)
    live = pair.task(thread)
    live.start_ns, live.exit_code, live.exit_signal = 101, WaitStatus(102), 103
    live.ids, live.comm = (104, 105), b"called\0\0"
    live.child_namespace = (106, 107)
    live.flags |= EXITED | MOVING_NOWHERE
    live.leader.flags |= SUBREAPER
    selection = selected(pair, root)
    tag = selection.inside
    row = selection.tasks[list(tag).index(live)]

    assert row == Task(
        pid=tag[live],
        ppid=tag[pair.task(parent)],
        tgid=tag[pair.task(leader)],
        pgid=tag[pair.task(group)],
        sid=tag[pair.task(leads_session)],
        depth=1,
        start_ns=101,
        state=TaskState.ZOMBIE,
        exit_code=WaitStatus(102),
        exit_signal=103,
        comm=b"called",
        uid=104,
        gid=105,
        subreaper=True,
        child_namespace=-1,
        child_namespace_dead=True,
        birth=row.birth,
    )
    assert row.birth is not None
    known = [value for value in row[:-2] if value is not None]
    assert len(known) == len(set(known)) + 1  # the depth, 1, is equal to True


def test_tags_start_where_they_are_told_to(pair: Watched) -> None:
    """The two dialects start at different tags."""
    root = a_root(pair)
    pair.kernel.fork(root)

    assert ids(selected(pair, root, first_tag=2)) == [(2, 0, 2, 2, 2), (3, 2, 3, 2, 2)]


def test_a_leader_is_followed_by_its_descendants_then_by_its_threads_and_theirs(pair: Watched) -> None:
    """Siblings and threads are in the order of numbers; the parent is the thread that forked."""
    root = a_root(pair)
    thread = pair.kernel.thread(root)
    of_thread = pair.kernel.fork(thread)
    other = pair.kernel.thread(root)
    first, second = pair.kernel.fork(root), pair.kernel.fork(root)
    below = pair.kernel.fork(first)
    selection = selected(pair, root)
    numbers = [selection.pids[task.pid - 1].numbers[0] for task in selection.tasks]
    tag = {selection.pids[task.pid - 1].numbers[0]: task.pid for task in selection.tasks}
    parent = {task.pid: task.ppid for task in selection.tasks}

    assert numbers == [t.tid for t in (root, first, below, second, thread, of_thread, other)]
    assert parent[tag[of_thread.tid]] == tag[thread.tid]
    assert parent[tag[thread.tid]] == 0


def test_an_id_from_outside_the_namespace_has_tag_0_and_one_that_is_the_roots_own_session_a_special_one(
    pair: Watched,
) -> None:
    """A group may be CKPT_PID_ROOT too: the leader of the session leads a group of that number."""
    root = pair.kernel.fork(pair.kernel.init)
    child = pair.kernel.fork(root)
    pair.kernel.setpgid(child, child.group, child.pid)
    inside = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    subtree = select.select(pair.task(inside), "subtree")

    assert ids(selected(pair, root)) == [
        (1, 0, 1, CKPT_PID_ROOT, CKPT_PID_ROOT),
        (2, 1, 2, 2, CKPT_PID_ROOT),
    ]
    assert ids(subtree) == [(1, 0, 1, 0, 0)]


def test_a_group_from_outside_that_is_not_the_inherited_session_comes_back_as_a_ghost(pair: Watched) -> None:
    """It has a tag and no task."""
    other = pair.kernel.fork(pair.kernel.init)
    pair.kernel.setpgid(other, other.group, other.pid)
    root = pair.kernel.fork(pair.kernel.init)
    pair.kernel.setpgid(root, root.group, other.pid)
    selection = selected(pair, root)

    assert ids(selection) == [(1, 0, 1, 2, CKPT_PID_ROOT)]
    assert selection.pids[1].numbers == (other.tid,)


def test_a_dead_session_leader_inside_is_a_ghost(pair: Watched) -> None:
    """Its number is in use without a task."""
    root = a_root(pair)
    leader = pair.kernel.fork(root)
    pair.kernel.setsid(leader)
    pair.kernel.subreaper(root)
    member = pair.kernel.fork(leader)
    pair.kernel.exit(leader)
    pair.kernel.wait(root, leader)
    selection = selected(pair, root)

    assert ids(selection) == [(1, 0, 1, 1, 1), (2, 1, 2, 3, 3)]
    assert selection.pids[1:] == (PidObject((member.tid,), (0,)), PidObject((leader.tid,), (0,)))


def test_ids_that_become_one_are_named_where_they_were_several(pair: Watched) -> None:
    """The group and session of a namespace's init are both from outside."""
    creator = pair.kernel.fork(pair.kernel.init)
    pair.kernel.setpgid(creator, creator.group, creator.pid)
    init = pair.kernel.fork(creator, CLONE_NEWPID)
    several = select.select(pair.task(init), "subtree").squashed
    one = select.select(pair.task(creator), "subtree").squashed

    assert set(several) == {"1 became 0", f"{creator.tid} became 0"}
    assert one == ()


# ---- tasks ---------------------------------------------------------------------------------------------------------


def test_states_and_exit_codes_are_those_of_the_cut(pair: Watched) -> None:
    """A dead leader with living threads is no zombie yet."""
    root = a_root(pair)
    zombie, dead, stopped = (pair.kernel.fork(root) for _ in range(3))
    pair.kernel.thread(dead)
    pair.kernel.exit(zombie, 3 << 8)
    pair.kernel.exit(dead, 4 << 8)
    stopped.stopped = True
    pair.sweep()

    assert [(task.state, task.exit_code) for task in selected(pair, root).tasks] == [
        (TaskState.RUNNING, None),
        (TaskState.ZOMBIE, 3 << 8),
        (TaskState.DEAD_LEADER, 4 << 8),
        (TaskState.RUNNING, None),
        (TaskState.STOPPED, None),
    ]


def test_a_threads_subreaper_flag_is_its_groups(pair: Watched) -> None:
    """The flag is signal->is_child_subreaper."""
    root = a_root(pair)
    pair.kernel.thread(root)
    pair.kernel.fork(root)
    pair.kernel.subreaper(root)

    assert [task.subreaper for task in selected(pair, root).tasks] == [True, False, True]


@pytest.mark.parametrize("kind", [KERNEL, IO_WORKER])
def test_kernel_workers_are_left_out_and_counted_and_no_root(pair: Watched, kind: int) -> None:
    """A rebuild cannot make them."""
    root = a_root(pair)
    worker = pair.task(pair.kernel.thread(root))
    worker.flags |= kind
    selection = selected(pair, root)

    assert (ids(selection), selection.kernel_workers) == ([(1, 0, 1, 1, 1)], 1)
    with pytest.raises(HostError, match="kernel thread"):
        select.members(worker)


# ---- births --------------------------------------------------------------------------------------------------------


def test_a_birth_names_its_creator_by_tag_and_the_session_and_group_at_birth(pair: Watched) -> None:
    """Session and group are those at birth and not the present ones; flags have names."""
    root = a_root(pair)
    creator = pair.kernel.thread(root)
    child = pair.kernel.fork(creator, CLONE_NEWPID)
    pair.kernel.setsid(child)
    grandchild = pair.kernel.fork(child)
    births = {task.pid: task.birth for task in selected(pair, root).tasks}
    orders = {thread: pair.task(thread).order for thread in (root, creator, child, grandchild)}

    first = births[Tag(1)]
    assert first is not None
    assert (first.creator, first.observed) == (None, True)
    assert births[Tag(2)] == Birth(Creator(Tag(1), None), True, Tag(1), Tag(1), ("CLONE_THREAD",), orders[creator])
    assert births[Tag(3)] == Birth(Creator(Tag(2), None), True, Tag(1), Tag(1), ("CLONE_NEWPID",), orders[child])
    assert births[Tag(4)] == Birth(Creator(Tag(3), None), True, Tag(3), Tag(3), (), orders[grandchild])


def test_a_creator_that_is_gone_is_an_ancestor_with_a_birth_and_deeds(pair: Watched) -> None:
    """The tree is a daemon: fork, setsid, fork, exit."""
    root = a_root(pair)
    pair.kernel.subreaper(root)
    middle = pair.kernel.fork(root)
    pair.kernel.setsid(middle)
    daemon = pair.kernel.fork(middle)
    pair.kernel.exit(middle)
    pair.kernel.wait(root, middle)
    selection = selected(pair, root)
    ancestor = selection.ancestors[0]

    assert len(selection.ancestors) == 1
    assert selection.tasks[1].birth is not None
    assert selection.tasks[1].birth.creator == Creator(None, 0)
    assert (ancestor.id, ancestor.numbers, ancestor.namespaces) == (0, (middle.tid,), (0,))
    assert ancestor.birth.creator == Creator(Tag(1), None)
    assert [(event.event, event.value) for event in ancestor.events] == [("setsid", 3), ("exit", None)]
    assert selection.pids[2].numbers == (middle.tid,)
    assert selection.tasks[1].birth.sid == selection.tasks[1].sid == 3
    assert ids(selection)[1][0] == 2
    assert daemon.tid == selection.pids[1].numbers[0]


def test_a_session_at_birth_that_nobody_uses_now_is_told_by_its_numbers(pair: Watched) -> None:
    """Such a session has no tag."""
    root = a_root(pair)
    pair.kernel.subreaper(root)
    middle = pair.kernel.fork(root)
    pair.kernel.setsid(middle)
    child = pair.kernel.fork(middle)
    pair.kernel.setsid(child)
    pair.kernel.exit(middle)
    pair.kernel.wait(root, middle)
    birth = selected(pair, root).tasks[1].birth

    assert birth is not None
    assert birth.sid == birth.pgid == OutsidePid((middle.tid,), (0,))


def test_a_birth_that_was_not_seen_is_told_as_such(pair: Watched) -> None:
    """It was before the watch began, or its record was lost."""
    root = a_root(pair)
    with pair.losing():
        pair.kernel.fork(root)
    pair.sweep()

    assert selected(pair, root).tasks[1].birth == Birth(None, False, None, None, (), None)


def test_a_task_whose_parent_is_not_known_makes_the_selection_incomplete(pair: Watched) -> None:
    """The reason names the task."""
    root = a_root(pair)
    child = pair.task(pair.kernel.fork(root))
    child.parent = None

    assert selected(pair, root).unknown == (f"{child.pid.numbers[0]} (task): its parent is not known",)
