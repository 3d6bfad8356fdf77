# SPDX-License-Identifier: Apache-2.0
"""Live events of changes without a record: told when known, marked, and in a sensible order."""

import sys
from types import FrameType
from typing import Any

import msgpack
import pytest

from agent.events.feed import Feed
from agent.table.objects import CLONE_NEWPID
from tests.support.simwatch import ROOT, Scene
from tests.unit.events.test_events import Event, Listener


def _told(events: list[Event]) -> list[tuple[str, int, str]]:
    """Return kind, task and marks of each event."""
    marks = ("assumed", "entered")
    return [(each["event"], each.get("tid", 0), " ".join(mark for mark in marks if each.get(mark))) for each in events]


def test_a_group_that_no_record_named_is_told_before_the_exec_that_shows_it() -> None:
    """The hook did not find a child that another thread forked; the child runs execve() before any question
    about it.
    """
    scene = Scene()
    root = scene.child()
    other = scene.kernel.thread(root)
    listener = Listener(scene, root=root)
    child = scene.kernel.fork(other)
    scene.kernel.setpgid(root, child.group, child.pid)
    scene.kernel.exec(child)
    events = listener.hear()

    assert _told(events) == [("birth", child.tid, ""), ("setpgid", child.tid, "assumed"), ("exec", child.tid, "")]
    assert events[1]["pgid"] == child.tid


def test_a_group_that_the_hook_could_not_name_is_told_by_the_next_answer() -> None:
    """The next sweep is not needed."""
    scene = Scene()
    root = scene.child()
    child = scene.kernel.fork(scene.kernel.thread(root))
    listener = Listener(scene, root=root)
    scene.kernel.setpgid(root, child.group, child.pid)
    scene.watch.tend()

    assert _told(listener.hear()) == [("setpgid", child.tid, "assumed")]


@pytest.mark.parametrize("by_a_sweep", [False, True])
def test_who_founded_a_group_is_told_before_who_joins_it(*, by_a_sweep: bool) -> None:
    """The founder's call had no record, or an answer about the member comes first."""
    scene = Scene()
    joining, founding = scene.child(), scene.child()
    listener = Listener(scene)
    scene.kernel.setpgid(scene.kernel.init, founding.group, founding.pid, quiet=True)
    scene.kernel.setpgid(scene.kernel.init, joining.group, founding.pid, quiet=by_a_sweep)
    if by_a_sweep:
        scene.service.rest()
    told = _told(listener.hear())

    assert told == [
        ("setpgid", founding.tid, "assumed"),
        ("setpgid", joining.tid, "assumed" if by_a_sweep else ""),
    ]


def test_a_session_that_a_child_is_born_into_is_told_before_the_birth() -> None:
    """setsid() by int 0x80 has no record. Its leader stays in it to the end, so no question is necessary."""
    scene = Scene()
    parent = scene.child()
    listener = Listener(scene)
    scene.kernel.setsid(parent, quiet=True)
    child = scene.kernel.fork(parent)
    events = listener.hear()

    assert _told(events) == [("setsid", parent.tid, "assumed"), ("birth", child.tid, "")]
    assert [(each["pgid"], each["sid"]) for each in events] == [(parent.tid, parent.tid)] * 2


def test_all_of_a_subtree_that_enters_are_introduced_parents_first() -> None:
    """A process that entered a container leaves a job: the init adopts the orphan with all its descendants."""
    scene = Scene()
    init = scene.child(flags=CLONE_NEWPID)
    listener = Listener(scene, root=init)
    outside = scene.child()
    scene.kernel.setns(outside, init.space)
    shell = scene.kernel.fork(outside)
    job = scene.kernel.fork(shell)
    scene.kernel.setsid(job)
    child = scene.kernel.fork(job)
    thread = scene.kernel.thread(child)
    scene.kernel.exit(child, 3)
    scene.kernel.exit(shell)
    events = listener.hear()

    assert _told(events) == [
        ("birth", job.tid, "entered"),
        ("birth", child.tid, "entered"),
        ("birth", thread.tid, "entered"),
        ("reparent", job.tid, "entered"),
    ]
    assert [(each["parent"], each["pgid"], each["sid"]) for each in events[:3]] == [
        (init.tid, job.tid, job.tid),
        (job.tid, job.tid, job.tid),
        (job.tid, job.tid, job.tid),
    ]
    assert [each["exit_code"] for each in events[:3]] == [None, 3, None]


def test_several_trees_are_followed_in_one_order_until_the_last_root_is_gone() -> None:
    """A cgroup may have several topmost processes."""
    scene = Scene()
    first, second, beside = scene.child(), scene.child(), scene.child()
    assert not scene.ask(ROOT, "subscribe", roots=[str(first.tid), str(second.tid)], snapshot=True)["ok"]
    assert not scene.ask(ROOT, "subscribe", roots=[], root="1")["ok"]
    assert scene.ask(ROOT, "subscribe", roots=[str(first.tid), second.tid])["snapshot"] is None
    (subscription,) = scene.service.feed.subscribers
    inside = [scene.kernel.fork(parent) for parent in (second, first)]
    scene.kernel.fork(beside)
    for root in (first, second):
        scene.kernel.exit(root)
        scene.kernel.wait(scene.kernel.init, root)
        scene.watch.tend()
        scene.service.feed.settle()
        assert subscription.ended is (root is second)
    events = msgpack.unpackb(b"".join(subscription.take(0)))["events"]

    assert [(each["event"], each.get("tid")) for each in events] == [
        ("birth", inside[0].tid),
        ("birth", inside[1].tid),
        ("death", first.tid),
        ("reparent", inside[1].tid),
        ("reap", first.tid),
        ("death", second.tid),
        ("reparent", inside[0].tid),
        ("reap", second.tid),
        ("end", None),
    ]


def test_who_leaves_a_tree_is_told_of_once_and_whoever_is_below_it_no_more() -> None:
    """Later changes of these tasks are not part of the tree."""
    scene = Scene()
    root = scene.child()
    middle = scene.kernel.fork(root)
    orphan = scene.kernel.fork(middle)
    below = scene.kernel.fork(orphan)
    listener = Listener(scene, root=root)
    scene.kernel.exit(middle)
    scene.kernel.setsid(below)
    scene.kernel.setsid(orphan)

    assert _told(listener.hear()) == [("death", middle.tid, ""), ("reparent", orphan.tid, "")]


def test_a_reap_is_told_whether_a_wait_or_an_answer_shows_it() -> None:
    """A subscriber must not take the zombie for an existing one."""
    scene = Scene()
    waited_for, unwaited = scene.child(), scene.child()
    listener = Listener(scene)
    scene.kernel.exit(waited_for)
    scene.kernel.exit(unwaited)
    scene.kernel.wait(scene.kernel.init, waited_for)
    listener.hear()
    scene.kernel.release(unwaited)
    scene.service.rest()

    assert _told(listener.hear()) == [("reap", unwaited.tid, "assumed")]


@pytest.mark.parametrize("lingers", [False, True])
def test_whoever_an_init_reaps_within_its_exit_is_told_as_reaped(*, lingers: bool) -> None:
    """No record tells these reaps; a question about a task whose parent is gone finds them."""
    scene = Scene()
    scene.kernel.lingers = lingers
    root = scene.child()
    listener = Listener(scene, root=root)
    init = scene.child(root, flags=CLONE_NEWPID)
    child = scene.kernel.fork(init)
    below, zombie = scene.kernel.fork(child), scene.kernel.fork(init)
    scene.kernel.thread(below)
    scene.kernel.exit(zombie, 3)
    inner = scene.kernel.fork(init, CLONE_NEWPID)
    inside = scene.kernel.fork(inner)
    members = {each.tid for each in scene.kernel.threads if init.space in each.pid.spaces}
    assert {child.tid, below.tid, zombie.tid, inner.tid, inside.tid} < members
    scene.kernel.exit_group(init, 9)
    scene.kernel.wait(root, init)
    events = listener.hear() + listener.hear()  # the answers come the next time

    for kind in ("death", "reap"):
        assert {each["tid"] for each in events if each["event"] == kind} == members
    assert {each["parent"] for each in events if each["event"] == "reparent"} <= {init.tid, inner.tid}


def test_whose_new_parent_is_not_known_stays_in_the_tree_until_it_is() -> None:
    """The birth of the adopting init was lost. The orphan has one event, with its parent."""
    scene = Scene()
    root = scene.child()
    listener = Listener(scene, root=root)
    ring = scene.watch.probes.ring.records  # type: ignore[attr-defined]  # the simulated one
    scene.kernel.emit = lambda record: scene.watch.probes.page.lose(record, told=True)  # type: ignore[attr-defined]
    init = scene.child(root, flags=CLONE_NEWPID)
    scene.kernel.emit = ring.append
    outside = scene.child(root)
    scene.kernel.setns(outside, init.space)
    parent = scene.kernel.fork(outside)
    orphan = scene.kernel.fork(parent)
    scene.kernel.exit(parent)
    scene.watch.drain()
    assert [(kind, whom) for kind, whom, _ in _told(listener.told())] == [
        ("loss", 0),
        ("birth", outside.tid),
        ("birth", parent.tid),
        ("birth", orphan.tid),
        ("death", parent.tid),
    ]
    events = listener.hear()

    assert [(each["event"], each.get("tid"), each.get("parent")) for each in events] == [
        ("birth", init.tid, root.tid),
        ("reparent", orphan.tid, init.tid),
        ("resync", None, None),
    ]


def test_a_stranger_that_got_the_number_of_a_task_of_the_tree_is_not_told_of() -> None:
    """The reap was not seen, and the next task with the number is a thread of a process outside the tree."""
    scene = Scene()
    root, stranger = scene.child(), scene.child()
    listener = Listener(scene, root=root)
    child = scene.kernel.fork(root)
    scene.kernel.exit(child)
    listener.hear()
    scene.kernel.release(child)
    thread = scene.kernel.thread(stranger, wanted=(child.tid,))
    assert thread.tid == child.tid
    scene.kernel.exit(thread)
    other = scene.kernel.thread(stranger)
    scene.kernel.exec(other)

    assert _told(listener.hear()) == [("reap", child.tid, "assumed")]


def test_threads_that_go_with_their_leader_are_told_of() -> None:
    """Their exits were lost; the record of the leader's end is the first sign."""
    scene = Scene()
    child = scene.child()
    threads = [scene.kernel.thread(child) for _ in range(5)]
    listener = Listener(scene, root=child)
    ring = scene.watch.probes.ring.records  # type: ignore[attr-defined]  # the simulated one
    scene.kernel.emit = lambda record: scene.watch.probes.page.lose(record, told=True)  # type: ignore[attr-defined]
    scene.kernel.exit_group(child)
    scene.kernel.wait(scene.kernel.init, child)
    scene.kernel.emit = ring.append
    scene.kernel.free(len(scene.kernel.corpses) - 1)
    scene.watch.drain()
    told = _told(listener.told())

    assert {tid for kind, tid, _ in told[1:] if kind == "death"} == {child.tid, *(each.tid for each in threads)}
    assert {tid for kind, tid, _ in told[1:] if kind == "reap"} == {child.tid, *(each.tid for each in threads)}


def test_an_exec_that_no_record_told_is_followed_by_the_stop_that_came_after_it() -> None:
    """A thread runs execve() after its leader has exited, and its group is stopped; an answer shows both."""
    scene = Scene()
    root = scene.child()
    thread = scene.kernel.thread(root)
    listener = Listener(scene, root=root)
    scene.kernel.exit(root)
    listener.hear()
    emit, scene.kernel.emit = scene.kernel.emit, lambda _: None
    seq = scene.kernel.writer.seq
    scene.kernel.exec(thread)
    scene.kernel.writer.seq, scene.kernel.emit = seq, emit
    thread.stopped = True
    scene.service.rest()
    events = listener.hear()

    about = [each for each in events if each["tid"] == thread.tid]
    assert [each["event"] for each in about][-2:] == ["exec", "change"]
    assert about[-1]["stopped"]


def test_what_no_other_kind_tells_is_told_once_an_answer_shows_it() -> None:
    """Examples are a stop and new ids; the question comes from a snapshot or a sweep."""
    scene = Scene()
    child = scene.child()
    listener = Listener(scene)
    child.stopped = True
    child.ids = (7, 8)
    scene.service.snapshots.take(listener.task(child), "subtree")
    (event,) = listener.hear()

    assert _told([event]) == [("change", child.tid, "assumed")]
    assert (event["stopped"], event["uid"], event["gid"]) == (True, 7, 8)


def test_a_birth_has_the_time_of_the_start_and_other_events_that_of_their_reading() -> None:
    """All times are of CLOCK_REALTIME, as that clock is at the reading."""
    scene = Scene()
    feed = scene.service.feed = Feed(scene.watch.stream, scene.watch.table, lambda: 5_000_000, lambda: 1_000_000)
    assert feed.subscribers == {}
    listener = Listener(scene)
    child = scene.child()
    scene.kernel.exec(child)

    assert [each["time_ns"] for each in listener.hear()] == [1_000_000 + child.start_ns, 5_000_000]


def test_that_a_task_of_the_tree_is_somebody_elses_is_told_once_and_nothing_of_it() -> None:
    """A reader that keeps a tree by events must know that some are missing. A subscriber to all tasks knows that
    anyway.
    """
    scene = Scene()
    root = scene.child(ids=(1000, 1000))
    child = scene.child(root)
    scene.watch.catch_up()
    viewer = scene.viewer(root)
    tree, everybody = Listener(scene, viewer, root), Listener(scene, viewer)
    child.ids = (0, 0)
    scene.kernel.exec(child)
    scene.kernel.exit(child)
    scene.kernel.exec(root)

    assert [each["event"] for each in tree.hear()] == ["hidden", "exec"]
    assert [each["event"] for each in everybody.told()] == ["exec"]


def _lines_run(scene: Scene) -> int:
    """Return the number of Python lines that run to apply the waiting records and to make events."""
    count = 0

    def trace(_frame: FrameType, kind: str, _argument: Any) -> Any:
        nonlocal count
        count += kind == "line"
        return trace

    before = sys.gettrace()  # that of coverage
    sys.settrace(trace)
    try:
        scene.watch.drain()
    finally:
        sys.settrace(before)
    return count


def _work(depth: int, subscriptions: int) -> int:
    """Return the cost of four events at the end of a chain, with subscriptions at different roots."""
    scene = Scene()
    chain = [scene.child()]
    for _ in range(depth):
        chain.append(scene.kernel.fork(chain[-1]))
    listeners = [Listener(scene, root=chain[n * depth // subscriptions // 2]) for n in range(subscriptions)]
    last = scene.kernel.fork(chain[-1])
    scene.kernel.setsid(last)
    scene.kernel.exec(last)
    scene.kernel.exit(last)
    lines = _lines_run(scene)

    assert all(len(each.told()) == 4 for each in listeners)
    return lines


def test_an_event_costs_the_same_however_deep_the_tree_is() -> None:
    """The cost for each subscriber is small: a user with a chain of thousands could otherwise block the daemon."""
    shallow, deep = _work(64, 31), _work(2000, 31)

    assert deep < 1.1 * shallow
    assert deep < 4 * 31 * 50
