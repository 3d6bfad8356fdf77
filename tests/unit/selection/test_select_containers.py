# SPDX-License-Identifier: Apache-2.0
"""Containers in a selection: their namespaces, leaks, and tasks that have entered from outside."""

import pytest

from agent.errors import RefusedError
from agent.model import (
    Namespace,
)
from agent.selection import select
from agent.table.objects import CLONE_NEWPID
from tests.support.kernelobjects import Thread
from tests.support.selected import a_container, ids, selected, watched_from_now
from tests.support.watched import Watched


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
