# SPDX-License-Identifier: Apache-2.0
"""The selection of tasks and pid objects for a snapshot, and their tags."""

import pytest

from agent.errors import HostError, RefusedError
from agent.model import (
    CKPT_PID_ROOT,
    Birth,
    Creator,
    Namespace,
    OutsidePid,
    PidObject,
    Tag,
    Task,
    TaskState,
    WaitStatus,
)
from agent.selection import select
from agent.selection.select import Selection
from agent.table.objects import CLONE_NEWPID, EXITED, IO_WORKER, KERNEL, MOVING_NOWHERE, SUBREAPER
from tests.support.kernelobjects import Thread
from tests.support.watched import Watched, watched


def selected(pair: Watched, root: Thread, *, first_tag: int = 1, without_entered: bool = False) -> Selection:
    """Return the selection in mode `auto` below a root."""
    task = pair.task(root)
    mode = select.resolve_mode(task, "auto")
    return select.select(task, mode, first_tag=first_tag, without_entered=without_entered)


def ids(selection: Selection) -> list[tuple[int, ...]]:
    """Return (pid, ppid, tgid, pgid, sid) of each task."""
    return [(task.pid, task.ppid, task.tgid, task.pgid, task.sid) for task in selection.tasks]


def watched_from_now(pair: Watched) -> Watched:
    """Return the same kernel with a table that has seen no birth."""
    late = Watched()
    pair.kernel.emit = late.feed
    late.kernel = pair.kernel
    late.stream.give_up_below(late.kernel.writer.seq)
    late.sweep()
    return late


def a_root(pair: Watched) -> Thread:
    """Return a process that leads a session of its own."""
    root = pair.kernel.fork(pair.kernel.init)
    pair.kernel.setsid(root)
    return root


def a_container(pair: Watched) -> Thread:
    """Return an init that leads a session of its own."""
    root = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    pair.kernel.setsid(root)
    return root


@pytest.fixture
def pair() -> Watched:
    """Return a kernel with its init, and a table that watches it."""
    return watched()


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


# ---- containers ----------------------------------------------------------------------------------------------------


def test_namespaces_are_numbered_from_the_roots_own_parents_first(pair: Watched) -> None:
    """Levels count from the root's namespace; two namespaces with one inode number are two."""
    root = a_container(pair)
    left, right = (pair.kernel.fork(root, CLONE_NEWPID) for _ in range(2))
    deep = pair.kernel.fork(left, CLONE_NEWPID)
    selection = selected(pair, root)

    assert selection.namespaces == (
        Namespace(0, root.space.inum, 0, None),
        Namespace(1, left.space.inum, 1, 0),
        Namespace(2, left.space.inum, 1, 0),
        Namespace(3, deep.space.inum, 2, 1),
    )
    assert right.space.inum == left.space.inum
    assert [(pid.numbers, pid.namespaces) for pid in selection.pids] == [
        ((1,), (0,)),
        ((2, 1), (0, 1)),
        ((4, 2, 1), (0, 1, 3)),
        ((3, 1), (0, 2)),
    ]
    assert [task.depth for task in selection.tasks] == [0, 1, 2, 1]


def test_a_pending_namespace_is_told_by_id_or_as_one_without_tasks(pair: Watched) -> None:
    """setns() or unshare() has run, and the next child is not born yet."""
    root = a_container(pair)
    inner = pair.kernel.fork(root, CLONE_NEWPID)
    into, unshared = pair.kernel.fork(root), pair.kernel.fork(root)
    pair.kernel.setns(into, inner.space)
    pair.kernel.unshare(unshared)
    pair.sweep()

    assert [task.child_namespace for task in selected(pair, root).tasks] == [None, None, 1, -1]


def test_a_pending_namespace_without_an_identity_is_not_taken_for_the_initial_one(pair: Watched) -> None:
    """Kernels without ns_id identify a namespace by its init, and this one has none yet."""
    root = pair.kernel.fork(pair.kernel.init)
    pair.task(root).child_namespace = (0, 4026532999)

    assert [task.child_namespace for task in selected(pair, root).tasks] == [-1]


def test_a_group_or_session_from_outside_is_refused_and_every_use_named(pair: Watched) -> None:
    """The init was started without setsid; nothing is written."""
    root = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    child = pair.kernel.fork(root)
    pair.kernel.thread(child)
    with pytest.raises(RefusedError, match="setsid") as refused:
        selected(pair, root)

    assert [(leak.split()[0], leak.split()[3]) for leak in refused.value.leaks] == [
        (f"{root.tid}/1", "group"),
        (f"{root.tid}/1", "session"),
        (f"{child.tid}/2", "group"),
        (f"{child.tid}/2", "session"),
    ]


def test_who_entered_from_outside_is_refused_or_left_out_and_named(pair: Watched) -> None:
    """Its children are treated alike; the rest of the container is unchanged."""
    root = a_container(pair)
    outside = pair.kernel.fork(pair.kernel.init)
    pair.kernel.setns(outside, root.space)
    entered = pair.kernel.fork(outside)
    child = pair.kernel.fork(entered)
    pair.kernel.thread(child)
    names = {f"{t.tid}/{t.pid.numbers[1]} (task)" for t in (entered, child)}
    with pytest.raises(RefusedError, match="--without-entered") as refused:
        selected(pair, root)
    selection = selected(pair, root, without_entered=True)

    assert {leak.partition(": entered")[0] for leak in refused.value.leaks} == names
    assert set(selection.entered) == names
    assert ids(selection) == [(1, 0, 1, 1, 1)]


def left_behind(pair: Watched, root: Thread) -> tuple[Thread, Thread]:
    """Enter, fork a process with a child, and exit; both are in the visitor's session, and the first is the init's
    child.
    """
    outside = pair.kernel.fork(pair.kernel.init)
    pair.kernel.setns(outside, root.space)
    guest = pair.kernel.fork(outside)
    orphan = pair.kernel.fork(guest)
    child = pair.kernel.fork(orphan)
    pair.kernel.exit(guest, 0)
    pair.kernel.wait(outside, guest)
    return orphan, child


@pytest.mark.parametrize("observed", [True, False])
def test_who_was_left_behind_by_one_that_entered_has_entered_too(pair: Watched, *, observed: bool) -> None:
    """The container's init is their parent now, and their session shows their origin even without known births."""
    root = a_container(pair)
    member = pair.kernel.fork(root)
    strays = left_behind(pair, root)
    if not observed:
        pair = watched_from_now(pair)
    with pytest.raises(RefusedError, match="--without-entered") as refused:
        selected(pair, root)
    selection = selected(pair, root, without_entered=True)

    assert "setsid" not in str(refused.value)
    assert {leak.partition(":")[0] for leak in refused.value.leaks} == {
        f"{stray.tid}/{stray.pid.numbers[1]} (task)" for stray in strays
    }
    assert all("left behind by one that entered from outside" in leak for leak in refused.value.leaks)
    assert set(selection.entered) == {leak.partition(":")[0] for leak in refused.value.leaks}
    assert [selection.pids[task.pid - 1].numbers for task in selection.tasks] == [
        thread.pid.numbers[1:] for thread in (root, member)
    ]
    assert selection.kernel_workers == 0


def test_who_was_left_behind_in_a_session_of_its_own_is_known_by_its_birth(pair: Watched) -> None:
    """None of its ids is from outside, but it is no member: it is refused by name, or left out."""
    root = a_container(pair)
    orphan, child = left_behind(pair, root)
    for stray in (child, orphan):
        pair.kernel.setsid(stray)

    with pytest.raises(RefusedError, match="--without-entered") as refused:
        selected(pair, root)

    assert refused.value.leaks == tuple(
        f"{stray.tid}/{stray.pid.numbers[1]} (task): left behind by one that entered from outside"
        for stray in (orphan, child)
    )
    assert len(selected(pair, root, without_entered=True).tasks) == 1
    assert len(selected(pair, root, without_entered=True).entered) == 2


def test_a_child_of_an_init_that_had_a_session_from_outside_has_not_entered(pair: Watched) -> None:
    """It was born before its parent called setsid(), so the leak is the container's own."""
    root = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    pair.kernel.fork(root)
    pair.kernel.setsid(root)
    with pytest.raises(RefusedError, match="start its init with setsid") as refused:
        selected(pair, root, without_entered=True)

    assert "--without-entered" not in str(refused.value)


def test_auto_takes_a_container_only_from_the_init_of_a_namespace(pair: Watched) -> None:
    """The host's init is none."""
    root = a_container(pair)
    child = pair.kernel.fork(root)
    tasks = [pair.task(thread) for thread in (root, child, pair.kernel.init)]

    assert [select.resolve_mode(task, "auto") for task in tasks] == ["container", "subtree", "subtree"]
    assert select.resolve_mode(tasks[0], "subtree") == "subtree"
    for task in tasks[1:]:
        with pytest.raises(RefusedError, match="--mode subtree"):
            select.resolve_mode(task, "container")


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


def test_a_signature_changes_with_whatever_a_selection_depends_on(pair: Watched) -> None:
    """It is equal as long as none of these changes."""
    root = a_root(pair)
    child = pair.kernel.fork(root)
    task = pair.task(root)

    def signature() -> list[object]:
        return select.signature(task, "subtree", select.members(task), selected(pair, root).outsiders)

    seen = [signature()]

    assert signature() == seen[0]

    pair.kernel.fork(pair.kernel.init)

    assert signature() == seen[0]

    for change in (
        lambda: pair.kernel.setpgid(root, child.group, child.pid),
        lambda: pair.kernel.thread(child),
        lambda: pair.kernel.subreaper(child),
        lambda: pair.kernel.setsid(pair.kernel.fork(child)),
        lambda: pair.kernel.exit(child),
    ):
        change()
        seen.append(signature())

    assert all(one != other for index, one in enumerate(seen) for other in seen[:index])
