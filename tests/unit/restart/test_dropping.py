# SPDX-License-Identifier: Apache-2.0
"""A tree without its processes that only forked: the remaining tasks, their parents, and their births."""

from agent.model import Ancestor, Birth, Creator, Namespace, ProcessDetails, Snapshot, Tag, Task, TaskState
from agent.restart.planning.dropping import without_held
from agent.restart.planning.plan import Role
from agent.restart.planning.search import make_plan
from tests.support.builders import a_snapshot, a_task

RAN, FORKED = ProcessDetails(execed=True), ProcessDetails(execed=False)


def born(tag: int | None, ancestor: int | None = None) -> Birth:
    """Return an observed birth."""
    made = Creator(None if tag is None else Tag(tag), ancestor)
    return Birth(made, observed=True, sid=Tag(1), pgid=Tag(1), flags=(), order=1)


def of(*tasks: Task, numbers: int = 0, ancestors: tuple[Ancestor, ...] = ()) -> Snapshot:
    """Return a container of these tasks, all in the root's session and group."""
    rows = [task._replace(sid=Tag(task.sid if task.sid == task.pid else 1), pgid=Tag(1)) for task in tasks]
    pids = [(number,) for number in range(1, 1 + (numbers or len(tasks)))]
    return a_snapshot(pids, rows, mode="container", ancestors=ancestors)


def left(snapshot: Snapshot) -> tuple[dict[int, int], list[int]]:
    """Return the remaining tasks with their parents, and the dropped ones."""
    kept, dropped = without_held(snapshot)
    return {task.pid: task.ppid for task in kept.tasks}, [task.pid for task in dropped]


def test_workers_go_with_their_threads_and_zombies() -> None:
    """A zombie child of a remaining process stays."""
    snapshot = of(
        a_task(1, 0, details=RAN),
        a_task(2, 1, details=FORKED),
        a_task(3, 1, tgid=2),
        a_task(4, 3, state=TaskState.ZOMBIE, exit_code=0, details=FORKED),
        a_task(5, 1, state=TaskState.ZOMBIE, exit_code=0, details=FORKED),
    )

    assert left(snapshot) == ({1: 0, 5: 1}, [2])


def test_a_program_that_a_worker_started_is_its_next_forefathers_who_stays() -> None:
    """Two workers and a thread may be in between; the birth is then unknown."""
    snapshot = of(
        a_task(1, 0, details=RAN),
        a_task(2, 1, details=FORKED, birth=born(1)),
        a_task(3, 2, details=FORKED, birth=born(2)),
        a_task(4, 1, tgid=3, birth=born(3)),
        a_task(5, 4, details=RAN, birth=born(4)),
        a_task(6, 1, details=RAN, birth=born(1)),
    )
    kept, _ = without_held(snapshot)

    assert left(snapshot) == ({1: 0, 5: 1, 6: 1}, [2, 3])
    assert [task.birth.observed for task in kept.tasks if task.birth is not None] == [False, True]
    assert {actor.tag for actor in make_plan(kept).actors if actor.role is Role.TASK} == {1, 5, 6}


def test_a_birth_that_ran_through_one_who_goes_is_not_known() -> None:
    """Its creator is gone, and a worker made that creator."""
    dead = Ancestor(0, (9,), (0,), born(2), ())
    snapshot = of(
        a_task(1, 0, details=RAN),
        a_task(2, 1, details=FORKED, birth=born(1)),
        a_task(3, 1, details=RAN, birth=born(None, 0)),
        ancestors=(dead,),
    )
    kept, _ = without_held(snapshot)

    assert [task.birth.observed for task in kept.tasks if task.birth is not None] == [False]
    assert kept.ancestors[0].birth.creator is None


def test_the_init_of_a_namespace_stays() -> None:
    """The tasks of the namespace could not exist without it."""
    tasks = [a_task(1, 0, details=RAN), a_task(2, 1, depth=1, details=FORKED), a_task(3, 2, depth=1, details=RAN)]
    namespaces = (Namespace(0, 1, 0, None), Namespace(1, 2, 1, 0))
    snapshot = a_snapshot([(1,), (2, 1), (3, 2)], tasks, mode="container", namespaces=namespaces)

    assert left(snapshot) == ({1: 0, 2: 1, 3: 2}, [])


def test_the_root_stays_and_where_nobody_only_forked_nothing_changes() -> None:
    """The same holds if it is unknown."""
    alone = of(a_task(1, 0, details=FORKED), a_task(2, 1, details=ProcessDetails()), a_task(3, 1))

    assert without_held(alone) == (alone, [])
