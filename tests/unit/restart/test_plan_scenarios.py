# SPDX-License-Identifier: Apache-2.0
"""Trees that are hard to rebuild, by name: made on one simulated kernel, planned, and played on another.

They have the observed births, or none; the root of each is an init. Some tests check the plan's method as well.
"""

from dataclasses import replace

import pytest

from agent.errors import NotRebuildableError
from agent.model import Snapshot
from agent.restart.planning import guest as guests
from agent.restart.planning.plan import CloneBits, Op, Plan, Role
from agent.restart.planning.search import make_plan
from agent.table.objects import CLONE_NEWPID, CLONE_PARENT
from tests.support.initscenes import entered
from tests.support.planned import Stage, rows_of, taken, unobserved
from tests.support.scenes import SCENES, SUBTREES, taken_from
from tests.support.watched import watched

UNUSED = 1 << 21
"""A number that no scene has."""


@pytest.mark.parametrize("observed", [True, False], ids=["births observed", "births found"])
@pytest.mark.parametrize("name", SCENES)
def test_a_tree_is_planned_and_the_plan_builds_it(name: str, observed: bool) -> None:  # noqa: FBT001
    """The plan runs on the model of the planner, and on a kernel that shares nothing with it."""
    snapshot = taken_from(name, "subtree" if name in SUBTREES else "container")
    plan = make_plan(snapshot if observed else unobserved(snapshot))
    stage = Stage(plan)
    stage.play()

    assert stage.rows() == rows_of(snapshot)


# ---- methods -------------------------------------------------------------------------------------------------------


def the_plan(name: str) -> Plan:
    """Return the plan of a scene with observed births."""
    return make_plan(taken_from(name))


def roles(plan: Plan, role: Role) -> list[int]:
    """Return the actors of that role."""
    return [index for index, actor in enumerate(plan.actors) if actor.role is role]


def number(plan: Plan, actor: int) -> int:
    """Return an actor's number in the root's namespace."""
    return plan.actors[actor].numbers[0]


def test_an_orphan_of_a_living_leader_is_borne_by_a_temporary_child_of_the_leader() -> None:
    """No helper holds a number that has no task in the tree."""
    plan = the_plan("orphan_of_a_living_session_leader")
    (helper,) = roles(plan, Role.HELPER)
    parents = plan.parents()
    (orphan,) = [child for child, maker in enumerate(parents) if maker == helper]

    assert (number(plan, parents[helper]), number(plan, orphan)) == (2, 4)
    assert roles(plan, Role.GHOST) == []


def test_the_number_of_a_dead_session_leader_is_held_by_a_ghost_until_all_are_there() -> None:
    """A helper with that number founds the session first and exits last."""
    plan = the_plan("orphan_of_a_dead_session_leader")
    (ghost,) = roles(plan, Role.GHOST)
    done = [step.op for step in plan.steps if step.by == ghost]

    assert number(plan, ghost) == 2
    assert (done[0], done[-1]) == (Op.SETSID, Op.EXIT)


def test_a_child_from_before_setsid_is_borne_before_setsid() -> None:
    """No helper is necessary."""
    plan = the_plan("fork_before_setsid")
    (leader,) = [index for index in range(len(plan.actors)) if number(plan, index) == 2]
    done = [step.op for step in plan.steps if step.by == leader and step.op in (Op.CLONE, Op.SETSID)]

    assert done == [Op.CLONE, Op.SETSID]
    assert roles(plan, Role.HELPER) == []


def test_a_subreaper_is_one_for_the_moment_of_the_adoption() -> None:
    """The flag is off again in the end."""
    plan = the_plan("former_subreaper_has_an_orphan")

    assert [(number(plan, step.by), step.value) for step in plan.steps if step.op is Op.SUBREAPER] == [(2, 1), (2, 0)]


def test_a_sibling_is_made_as_one() -> None:
    """The plan uses CLONE_PARENT, as the creator did."""
    plan = the_plan("clone_parent_sibling")
    siblings = [step for step in plan.steps if step.op is Op.CLONE and step.value & CloneBits.PARENT]

    assert [(number(plan, step.by), number(plan, step.target)) for step in siblings] == [(3, 4)]


def test_an_owner_leaves_its_group_once_its_member_is_there() -> None:
    """In the other order the group would not exist."""
    plan = the_plan("owner_has_left_its_group")
    moves = [(number(plan, step.by), number(plan, step.value)) for step in plan.steps if step.op is Op.SETPGID]

    assert moves == [(2, 2), (3, 2), (2, 1)]


def test_owners_in_each_others_groups_need_one_who_stays_meanwhile() -> None:
    """It is a helper of the owner that leaves first."""
    plan = the_plan("owners_in_each_others_groups")

    assert [plan.actors[helper].why[:11] for helper in roles(plan, Role.HELPER)] == ["keeps group"]


# ---- refusals ------------------------------------------------------------------------------------------------------


def refused(snapshot: Snapshot, *, pidns: bool = True) -> str:
    """Return the rule of the refusal."""
    with pytest.raises(NotRebuildableError) as caught:
        make_plan(snapshot, pidns=pidns)
    return caught.value.rule


def test_a_dead_thread_that_its_tracer_keeps_is_refused() -> None:
    """A rebuild has no tracer."""
    pair = watched()
    root = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    pair.kernel.setsid(root)
    thread = pair.kernel.thread(root)
    thread.traced = True
    pair.kernel.exit(thread)
    pair.ask()

    assert refused(taken(pair, root, "container")) == "zombie-thread"


def test_an_init_in_a_group_of_a_namespace_below_is_refused() -> None:
    """On exit it would wait for that number to be free, and it holds the number itself."""
    pair = watched()
    kernel = pair.kernel
    root = kernel.fork(kernel.init, CLONE_NEWPID)
    inner = kernel.fork(root, CLONE_NEWPID)
    innermost = kernel.fork(inner, CLONE_NEWPID)
    kernel.setpgid(inner, innermost.group, innermost.pid)
    kernel.setpgid(inner, inner.group, innermost.pid)
    pair.ask()

    assert refused(taken(pair, root, "subtree")) == "init-in-inner-group"


def test_a_namespace_whose_init_is_a_child_of_somebody_outside_is_refused() -> None:
    """The root is an init, so no process beside it could be the parent of the other."""
    pair = watched()
    kernel = pair.kernel
    outside = kernel.fork(kernel.init)
    root = kernel.fork(outside, CLONE_NEWPID)
    init = kernel.fork(entered(kernel, outside, root), CLONE_NEWPID | CLONE_PARENT)
    member = entered(kernel, root, init)
    pair.ask()
    assert refused(taken(pair, root, "subtree")) == "namespace-without-init"
    kernel.setpgid(outside, init.group, init.pid)
    kernel.setpgid(root, member.group, init.pid)
    pair.ask()

    assert refused(taken(pair, root, "subtree")) == "dead-init"


def test_a_root_that_went_back_to_a_group_outside_is_refused() -> None:
    """Its own group has members, and no process of the tree sees the group outside."""
    pair = watched()
    kernel = pair.kernel
    root = kernel.fork(kernel.init, CLONE_NEWPID)
    kernel.setpgid(kernel.init, root.group, root.pid)
    kernel.fork(root)
    kernel.setpgid(kernel.init, root.group, kernel.init.pid)
    pair.ask()

    assert refused(taken(pair, root, "subtree")) == "outside-id"


def as_guest_of_another_number(snapshot: Snapshot) -> Snapshot:
    """Return the subtree of a subreaper whose number is free in the caller's namespace."""
    guest = guests.as_guest(snapshot)
    pids = tuple(pid._replace(numbers=(UNUSED,)) if pid.numbers == (1,) else pid for pid in guest.pids)
    return replace(guest, pids=pids)


@pytest.mark.parametrize("observed", [True, False], ids=["births observed", "births found"])
@pytest.mark.parametrize("name", [name for name in SCENES if name not in SUBTREES])
def test_a_container_is_planned_without_a_namespace_of_its_own(name: str, observed: bool) -> None:  # noqa: FBT001
    """The namespace has an init already: the root becomes a subreaper with another number, and all else is the same."""
    snapshot = taken_from(name)
    plan = make_plan(snapshot if observed else unobserved(snapshot), pidns=False)
    actors = [actor._replace(numbers=(UNUSED,)) if actor.numbers == (1,) else actor for actor in plan.actors]
    stage = Stage(plan._replace(actors=tuple(actors)))
    stage.play()

    assert stage.rows() == rows_of(as_guest_of_another_number(snapshot))
    assert guests.NOTE in plan.notes
