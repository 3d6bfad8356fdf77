# SPDX-License-Identifier: Apache-2.0
"""The inputs of a plan, and the refusals."""

import gc
from typing import Any

import pytest

from agent.errors import NotRebuildableError
from agent.model import Birth, Creator, Obstacle, Tag, Task, TaskState
from agent.restart.planning.plan import Op, Phase
from agent.restart.planning.search import decide, make_plan, obstacles, prove
from agent.restart.planview import PlanView
from tests.support.builders import a_snapshot, a_task


def test_a_zombie_whose_status_nobody_may_read_is_rebuilt_with_0() -> None:
    """A reader without the right to the status has null there."""
    snapshot = a_snapshot([(1,), (5,)], [a_task(1, 0), a_task(2, 1, state=TaskState.ZOMBIE)], mode="container")

    assert obstacles(snapshot) == ()
    (end,) = [step for step in make_plan(snapshot).steps if step.op is Op.EXIT]
    assert end.value == 0


def test_a_core_that_was_dumped_is_not_rebuilt_and_the_plan_says_so() -> None:
    """No call makes a zombie report a core dump; the note has the numbers of the tasks."""
    core: dict[str, Any] = {"state": TaskState.ZOMBIE, "exit_code": 11 | 0x80}
    rows = [a_task(1, 0), *[a_task(tag, 1, **core) for tag in range(2, 14)]]
    snapshot = a_snapshot([(1,), *[(number,) for number in range(302, 314)]], rows, mode="container")
    plain = a_snapshot(
        [(1,), (5,)], [a_task(1, 0), a_task(2, 1, state=TaskState.ZOMBIE, exit_code=11)], mode="container"
    )
    (note,) = make_plan(snapshot).notes

    assert note.startswith("that a core was dumped is not rebuilt: a parent that waits for 302, 303, ")
    assert "311 and 2 more sees the same signal" in note
    assert make_plan(plain).notes == ()


def test_a_dead_namespace_that_waits_for_a_child_is_made_and_dies_with_its_init() -> None:
    """A helper becomes the init of the namespace, exits, and is reaped."""
    rows = [a_task(1, 0), a_task(2, 1, child_namespace=-1, child_namespace_dead=True)]
    snapshot = a_snapshot([(1,), (302,)], rows, mode="container")
    plan = make_plan(snapshot)

    assert plan.notes == ()
    assert [PlanView(plan, snapshot).sentence(step) for step in plan.steps if step.phase is Phase.BUILD][-4:] == [
        "302 unshares the pid namespace of its children",
        "302 forks helper 1 into its new pid namespace",
        "helper 1 exits",
        "302 reaps helper 1",
    ]


def test_a_plan_that_leaves_a_dead_namespace_alive_is_not_proven() -> None:
    """The model knows if the next fork fails."""
    rows = [a_task(1, 0), a_task(2, 1, child_namespace=-1)]
    alive = a_snapshot([(1,), (302,)], rows, mode="container")
    dead = a_snapshot([(1,), (302,)], [rows[0], rows[1]._replace(child_namespace_dead=True)], mode="container")
    for made, wanted in ((alive, dead), (dead, alive)):
        with pytest.raises(NotRebuildableError, match="302 has dead next pid namespace"):
            prove(wanted, make_plan(made))


def test_nobody_lives_where_the_init_is_said_to_be_dead() -> None:
    """No kernel is in that state."""
    rows = [
        a_task(1, 0),
        a_task(2, 1, depth=1),
        a_task(3, 1, child_namespace=1, child_namespace_dead=True),
    ]
    snapshot = a_snapshot([(100,), (101, 1), (102,)], rows)
    with pytest.raises(NotRebuildableError) as caught:
        make_plan(snapshot)

    assert (caught.value.tag, caught.value.rule) == (3, "dying-namespace")
    assert "101/1 lives in the pid namespace that waits for a child of 102, which is dead" in caught.value.text


def dying(*rows: Task, numbers: list[tuple[int, ...]]) -> NotRebuildableError:
    """Return the refusal of a tree with the root, tag 1, an init that has exited, tag 2, and these tasks."""
    init = a_task(2, 1, depth=1, state=TaskState.ZOMBIE, exit_code=0)
    with pytest.raises(NotRebuildableError) as caught:
        make_plan(a_snapshot([(100,), (101, 1), *numbers], [a_task(1, 0), init, *rows]))
    return caught.value


@pytest.mark.parametrize("state", [TaskState.RUNNING, TaskState.STOPPED])
def test_who_lives_where_the_init_has_exited_is_refused(state: TaskState) -> None:
    """zap_pid_ns_processes() kills all; a tracer may hold a task within its exit, so the refusal claims no more."""
    error = dying(a_task(3, 1, depth=1, state=state), numbers=[(102, 2)])

    assert (error.tag, error.rule, error.proven) == (3, "dying-namespace", False)
    assert "lives in the pid namespace of 101/1" in error.text
    assert error.text.endswith(NotRebuildableError.LIMIT)


def test_a_zombie_of_an_init_that_has_exited_is_refused() -> None:
    """The init reaps zombies, except one that a tracer holds; a dead init below, which waits as well, is no
    zombie yet.
    """
    corpse: dict[str, Any] = {"state": TaskState.ZOMBIE, "exit_code": 0}
    error = dying(a_task(3, 2, depth=1, **corpse), numbers=[(102, 2)])
    assert (error.tag, error.rule, error.proven) == (3, "dying-namespace", False)
    below = [a_task(3, 2, depth=2, **corpse), a_task(4, 1, depth=2, **corpse)]
    root = [a_task(1, 0), a_task(2, 1, depth=1, **corpse)]

    assert obstacles(a_snapshot([(100,), (101, 1), (102, 2, 1), (103, 3, 2)], [*root, *below])) == ()


def test_a_limit_says_that_it_is_one() -> None:
    """The refusal claims no proof."""
    thread = a_task(2, 0, tgid=1, state=TaskState.ZOMBIE, exit_code=0)
    with pytest.raises(NotRebuildableError, match=NotRebuildableError.LIMIT) as caught:
        make_plan(a_snapshot([(100,), (101,)], [a_task(1, 0), thread]))

    assert not caught.value.proven


def test_what_stands_in_the_way_is_one_task_and_one_rule() -> None:
    """A task in a namespace before its init is an example."""
    snapshot = a_snapshot([(1,), (5, 3)], [a_task(1, 0), a_task(2, 1, depth=1)], mode="container")
    (found,) = obstacles(snapshot)

    assert isinstance(found, Obstacle)
    assert (found.tag, found.rule) == (2, "namespace-without-init")
    assert found.text.startswith("5/3 ")


@pytest.mark.parametrize("numbers", [(6,), (5, 3)], ids=["a plan", "none"])
@pytest.mark.parametrize("wanted", [True, False])
def test_garbage_is_looked_for_afterwards_as_it_was_before(numbers: tuple[int, ...], *, wanted: bool) -> None:
    """The state of the garbage collector is restored, with a plan or without."""
    tasks = [a_task(1, 0), a_task(2, 1, depth=len(numbers) - 1)]
    snapshot = a_snapshot([(1,), numbers], tasks, mode="container")
    before = gc.isenabled()
    try:
        (gc.enable if wanted else gc.disable)()
        assert bool(obstacles(snapshot)) == (len(numbers) > 1)
        assert gc.isenabled() == wanted
    finally:
        (gc.enable if before else gc.disable)()


# ---- exit signals and ends -----------------------------------------------------------------------------------------


def test_a_ghost_has_the_exit_signal_that_it_hands_on() -> None:
    """3 was made by the dead leader of its session, with CLONE_PARENT."""
    tasks = [a_task(1, 0), a_task(2, 1, sid=3, pgid=3, exit_signal=10)]
    plan = make_plan(a_snapshot([(1,), (6,), (5,)], tasks, mode="container"))

    assert [actor.exit_signal for actor in plan.actors if actor.tag in (2, 3)] == [10, 10]


def test_whom_a_ghost_makes_for_two_signals_is_lifted_where_that_is_sigchld() -> None:
    """One helper can pass on only one exit signal."""
    tasks = [
        *(a_task(1, 0), a_task(2, 1), a_task(3, 2, sid=5, pgid=5, exit_signal=10)),
        a_task(4, 2, sid=5, pgid=5, exit_signal=17),
    ]
    plan = make_plan(a_snapshot([(1,), (2,), (6,), (7,), (5,)], tasks, mode="container"))

    assert any(step.op is Op.SUBREAPER for step in plan.steps)


@pytest.mark.parametrize("nothing", [None, -1])
def test_what_an_image_does_not_say_is_not_asked_for(nothing: int | None) -> None:
    """Then any exit signal is right."""
    tasks = [a_task(1, 0), a_task(2, 1, exit_signal=10), a_task(3, 1, sid=4, pgid=4, exit_signal=nothing)]

    assert obstacles(a_snapshot([(1,), (2,), (6,), (5,)], tasks, mode="container")) == ()


def refused(*tasks: Task, numbers: list[tuple[int, ...]] | None = None, pidns: bool = True) -> tuple[int, str, bool]:
    """Return tag and rule of the refusal, and True if it claims a proof."""
    with pytest.raises(NotRebuildableError) as caught:
        make_plan(a_snapshot(numbers or [(100 + n,) for n in range(len(tasks))], tasks), pidns=pidns)
    return caught.value.tag, caught.value.rule, caught.value.proven


@pytest.mark.parametrize("pidns", [True, False])
@pytest.mark.parametrize("number", [1, 100])
def test_a_root_that_has_exited_is_refused(number: int, *, pidns: bool) -> None:
    """The rule is the same for any place of the root, and for an init."""
    root = a_task(1, 0, state=TaskState.ZOMBIE, exit_code=9)

    assert refused(root, numbers=[(number,)], pidns=pidns) == (1, "dead-root", False)


def test_a_root_whose_leader_alone_has_exited_is_planned() -> None:
    """Its thread lives."""
    tasks = [a_task(1, 0, state=TaskState.DEAD_LEADER, exit_code=0), a_task(2, 0, tgid=1)]

    assert obstacles(a_snapshot([(100,), (101,)], tasks)) == ()


@pytest.mark.parametrize("signal", [9, 19])
def test_a_root_whose_end_the_guard_would_not_outlive_is_refused(signal: int) -> None:
    """The parent is the guard, or a reaper that is no init."""
    root = a_task(1, 0, exit_signal=signal)

    assert refused(root, numbers=[(1,)]) == (1, "exit-signal", False)
    assert refused(root, pidns=False) == (1, "exit-signal", False)
    assert obstacles(a_snapshot([(100,)], [root])) == ()


def test_a_zombie_that_sends_sigkill_is_refused_with_what_its_parent_has_outlived_that_by() -> None:
    """The init of a namespace is immune to it."""
    zombie = a_task(3, 2, exit_signal=9, state=TaskState.ZOMBIE, exit_code=0)
    tasks = [a_task(1, 0), a_task(2, 1), zombie]
    found = obstacles(a_snapshot([(100,), (101,), (102,)], tasks))

    assert [(one.tag, one.rule) for one in found] == [(3, "exit-signal")]
    assert "sends SIGKILL to its parent 101" in found[0].text
    assert "there it has called exec() since that birth, or a tracer holds the zombie" in found[0].text
    inner = [tasks[0], tasks[1]._replace(depth=1), zombie._replace(depth=1)]
    assert obstacles(a_snapshot([(100,), (101, 1), (102, 2)], inner)) == ()


@pytest.mark.parametrize(("status", "init"), [(15, True), (6, True), (17, False), (65, False), (0x109, False)])
def test_an_end_that_nobody_can_be_made_to_have_is_refused(status: int, *, init: bool) -> None:
    """An init is immune to most signals; some signals kill no process."""
    number = (101, 1) if init else (101,)
    end = a_task(2, 1, depth=int(init), state=TaskState.ZOMBIE, exit_code=status)

    assert refused(a_task(1, 0), end, numbers=[(100,), number]) == (2, "exit-status", False)


@pytest.mark.parametrize("status", [0, 7 << 8, 9, 4, 5, 7, 8, 11, 31, 31 | 0x80])
def test_an_init_ends_by_exit_by_sigkill_or_by_a_fault(status: int) -> None:
    """SIGSYS is such a fault."""
    end = a_task(2, 1, depth=1, state=TaskState.ZOMBIE, exit_code=status)

    assert obstacles(a_snapshot([(100,), (101, 1)], [a_task(1, 0), end])) == ()


def test_a_zombie_that_would_kill_its_parent_is_refused_by_name() -> None:
    """Only the init of a namespace can ignore SIGKILL."""
    end = a_task(3, 2, state=TaskState.ZOMBIE, exit_code=0, exit_signal=9)
    tasks = [a_task(1, 0), a_task(2, 1), end]

    assert refused(*tasks) == (3, "exit-signal", False)
    of_the_root = [a_task(1, 0), end._replace(pid=Tag(2), tgid=Tag(2), ppid=Tag(1))]
    assert obstacles(a_snapshot([(1,), (2,)], of_the_root, mode="container")) == ()
    assert refused(*of_the_root, numbers=[(1,), (2,)], pidns=False) == (2, "exit-signal", False)
    within = [tasks[0], *[task._replace(depth=1) for task in tasks[1:]]]
    assert obstacles(a_snapshot([(100,), (101, 1), (102, 2)], within)) == ()


# ---- plan and restart ----------------------------------------------------------------------------------------------


def test_plan_and_restart_decide_alike_on_the_number_of_the_init() -> None:
    """In the caller's namespace the number is taken; with any numbers the root becomes a subreaper there."""
    snapshot = a_snapshot([(1,), (5,)], [a_task(1, 0), a_task(2, 1)], mode="container")
    with pytest.raises(NotRebuildableError, match="--no-pids") as caught:
        decide(snapshot, pidns=False, any_numbers=False)
    wanted, plan = decide(snapshot, pidns=False, any_numbers=True)

    assert (caught.value.rule, caught.value.proven) == ("number-of-the-init", True)
    assert (wanted.tasks[0].subreaper, plan.pidns) == (True, False)
    assert decide(snapshot, pidns=True, any_numbers=False)[0] is snapshot


def born(creator: int, *, sid: int, sibling: bool = False) -> Birth:
    """Return a birth that was observed, into the session and the group of one leader."""
    flags = ("CLONE_PARENT",) if sibling else ()
    return Birth(Creator(Tag(creator), None), observed=True, sid=Tag(sid), pgid=Tag(sid), flags=flags, order=None)


def test_a_sibling_with_the_signal_that_its_maker_had_is_refused_with_what_has_changed_it() -> None:
    """No call but exec() and no end but a parent's gives the maker SIGCHLD, and a rebuild has neither."""
    sibling = born(2, sid=2, sibling=True)
    tasks = [a_task(1, 0), a_task(2, 1, sid=2, pgid=2, birth=born(1, sid=1))]
    tasks.append(a_task(3, 1, sid=2, pgid=2, exit_signal=10, birth=sibling))
    found = obstacles(a_snapshot([(1,), (2,), (3,)], tasks, mode="container"))

    assert [(one.tag, one.rule) for one in found] == [(3, "exit-signal")]
    assert "has the exit signal SIGUSR1, which its maker 2 handed on with CLONE_PARENT" in found[0].text
    kept = [tasks[0], tasks[1]._replace(exit_signal=10), tasks[2]]
    assert obstacles(a_snapshot([(1,), (2,), (3,)], kept, mode="container")) == ()


def test_below_such_a_sibling_too_it_is_named() -> None:
    """4 was born before its parent, which is the sibling, led a session of its own."""
    sibling = born(2, sid=2, sibling=True)
    tasks = [a_task(1, 0), a_task(2, 1, sid=2, pgid=2, birth=born(1, sid=1))]
    tasks.append(a_task(3, 1, sid=3, pgid=3, exit_signal=10, birth=sibling))
    tasks.append(a_task(4, 3, sid=2, pgid=2, exit_signal=9, birth=born(3, sid=2)))
    found = obstacles(a_snapshot([(1,), (2,), (3,), (4,)], tasks, mode="container"))

    assert [(one.tag, one.rule) for one in found] == [(3, "exit-signal")]
