# SPDX-License-Identifier: Apache-2.0
"""States in the tree: possible ones have no findings, and each kind of impossible one has an error."""

from dataclasses import replace

import pytest

from agent.model import Completeness, Namespace, PidObject, Snapshot, Task, TaskState, WaitStatus
from exporters.checking.check import check
from exporters.documents import jsonfmt
from exporters.image import checkpoint
from tests.support.badimages import ended
from tests.support.builders import a_snapshot, a_task
from tests.support.images import an_extension, an_image, some_facts

ZOMBIE, DEAD_LEADER, STOPPED = TaskState.ZOMBIE, TaskState.DEAD_LEADER, TaskState.STOPPED


def names(data: bytes) -> list[str]:
    """Return the names of all findings."""
    return [found.name for found in check(data)]


def a_process(*, leader: TaskState, **threads: TaskState) -> tuple[Task, ...]:
    """Return process 2 below the root, with threads from 3 on in these states; the exited ones have status 0."""
    states = enumerate([leader, *threads.values()], 2)
    return tuple(
        a_task(tag, 1, tgid=2 if tag > 2 else 0, state=state, exit_code=0 if state in (ZOMBIE, DEAD_LEADER) else None)
        for tag, state in states
    )


RUNNING = TaskState.RUNNING
POSSIBLE = {
    "a zombie": a_process(leader=ZOMBIE),
    "a dead leader of a thread": a_process(leader=DEAD_LEADER, one=RUNNING),
    "a dead leader of a thread that is traced and dead": a_process(leader=DEAD_LEADER, one=ZOMBIE),
    "a leader whose traced thread is dead": a_process(leader=RUNNING, one=ZOMBIE, two=RUNNING),
    "one thread stopped by its tracer": a_process(leader=RUNNING, one=STOPPED),
    "a leader stopped by its tracer": a_process(leader=STOPPED, one=RUNNING),
    "a stopped group with a dead leader": a_process(leader=DEAD_LEADER, one=STOPPED),
    "a child of a dead leader's thread": (*a_process(leader=DEAD_LEADER, one=RUNNING), a_task(4, 3)),
}


@pytest.mark.parametrize("name", POSSIBLE)
def test_what_a_kernel_makes_is_clean(name: str) -> None:
    """This includes traced threads, which stay when they are dead and stop when the others do not."""
    assert names(ended(*POSSIBLE[name])) == []


IMPOSSIBLE = {
    "exited-parent": (*a_process(leader=DEAD_LEADER, one=RUNNING), a_task(4, 2)),
    "zombie-leader": a_process(leader=ZOMBIE, one=ZOMBIE),
    "dead-leader": a_process(leader=RUNNING, one=DEAD_LEADER),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_no_kernel_makes_is_an_error(name: str) -> None:
    """Examples are a child of a dead leader, a zombie with a traced thread, and a thread that is called a dead
    leader."""
    assert names(ended(*IMPOSSIBLE[name])) == [name]


def test_a_child_of_a_traced_thread_that_is_dead_is_an_error() -> None:
    """A thread is a parent until it has exited."""
    assert names(ended(*a_process(leader=RUNNING, one=ZOMBIE), a_task(4, 3))) == ["exited-parent"]


def test_the_threads_of_an_exited_tasks_child_are_not_told_of() -> None:
    """They have the parent of their group, so one finding is enough."""
    zombie = a_task(2, 1, state=ZOMBIE, exit_code=0)

    assert names(ended(zombie, a_task(3, 2), a_task(4, 2, tgid=3))) == ["exited-parent"]


def a_dying_namespace(*tasks: Task) -> Snapshot:
    """Return the root and a namespace below it: an init with a thread and a child."""
    spaces = (Namespace(0, 10, 0, None), Namespace(1, 11, 1, 0))
    pids = [PidObject((100,), (0,)), *[PidObject((100 + n, n), (0, 1)) for n in range(1, len(tasks) + 1)]]
    return replace(a_snapshot(), pids=tuple(pids), namespaces=spaces, tasks=(a_task(1, 0), *tasks))


def test_the_init_of_a_dying_namespace_keeps_its_children_to_the_end() -> None:
    """The init kills and reaps them while it exits; the kernel has no other parent for them."""
    init = a_task(2, 1, depth=1, state=ZOMBIE, exit_code=9)

    assert names(checkpoint.dumps(a_dying_namespace(init, a_task(3, 2, depth=1)))) == []


def test_so_does_the_last_thread_of_such_an_init() -> None:
    """The number of that thread is not 1."""
    init = a_task(2, 1, depth=1, state=DEAD_LEADER, exit_code=9)
    last = a_task(3, 1, tgid=2, depth=1, state=ZOMBIE, exit_code=9)

    assert names(checkpoint.dumps(a_dying_namespace(init, last, a_task(4, 3, depth=1)))) == []


def test_a_dead_leader_may_wait_for_a_thread_that_is_the_kernels_own() -> None:
    """Snapshots leave out such a thread, and count it."""
    snapshot = a_snapshot([(100,), (101,)], [a_task(1, 0), *a_process(leader=DEAD_LEADER)])
    counted = replace(snapshot, completeness=Completeness("numbering", kernel_threads_left_out=1))

    assert names(checkpoint.dumps(snapshot)) == ["dead-leader"]
    assert names(checkpoint.dumps(counted)) == ["workers-left-out"]


def test_where_nothing_is_known_of_states_nothing_is_said() -> None:
    """Neither an image without EXTENSION nor a task without a state has a finding."""
    unknown = a_task(2, 1, state=None)

    assert names(an_image([(1,), (2,)], [(1, 0, 1, 1, 1, 0), (2, 1, 2, 1, 1, 0)])) == []
    assert names(ended(unknown, a_task(3, 2))) == []
    assert names(ended(unknown._replace(exit_code=WaitStatus(1)))) == []


def test_a_tree_that_is_not_sound_is_judged_all_the_same() -> None:
    """Examples are tags that name nothing, and two tasks with one tag."""
    tasks = [(1, 0, 1, 1, 1, 0), (2, 1, 77, 1, 1, 0), (2, 2, 2, 1, 1, 0)]
    rows = [{}, {"state": "zombie", "exit_code": 0}, {"state": "running", "exit_code": 1}]
    bare = an_image([(1,), (2,)], tasks)
    known = an_extension(some_facts(pids=[{}] * 2, tasks=rows))

    assert "tag-range" in names(bare[:-16] + known + bare[-16:])


def test_a_document_is_held_to_the_same_rules() -> None:
    """The findings have paths in the document."""
    snapshot = a_snapshot([(100,), (101,), (102,)], [a_task(1, 0), *a_process(leader=ZOMBIE), a_task(3, 2)])

    assert [(found.name, found.path) for found in check(jsonfmt.dumps(snapshot))] == [
        ("exited-parent", "tasks[2].ppid")
    ]
