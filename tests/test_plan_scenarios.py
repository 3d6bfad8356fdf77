# SPDX-License-Identifier: Apache-2.0
"""Trees that are hard to rebuild, by name: each made on a simulated kernel, planned, and played on another one.

With the births as they were observed, and without any; in a pid namespace of its own always, since all of them are rooted
in an init. Some say how it is to be done as well.
"""

from collections.abc import Callable
from itertools import pairwise

import pytest

from agent.errors import NotRebuildableError
from agent.model import Mode, Snapshot
from agent.objects import CLONE_NEWPID, CLONE_PARENT
from agent.restart.plan import CloneBits, Op, Plan, Role
from agent.restart.planning import make_plan
from tests.kernelobjects import Thread
from tests.kernelsim import Kernel
from tests.planned import Stage, rows_of, taken, unobserved
from tests.watched import watched

Scene = Callable[[Kernel, Thread], Thread | None]

SCENES: dict[str, Scene] = {}


def scene(made: Scene) -> Scene:
    """One more tree; it gets an init that leads a session, and may return another root than that."""
    SCENES[made.__name__] = made
    return made


def gone(kernel: Kernel, thread: Thread, waits: Thread) -> None:
    """It exits, and is waited for."""
    kernel.exit_group(thread)
    kernel.wait(waits, thread)


def taken_from(name: str, mode: Mode = "container") -> Snapshot:
    """The snapshot of a scene."""
    pair = watched()
    kernel = pair.kernel
    root = kernel.fork(kernel.init, CLONE_NEWPID)
    kernel.setsid(root)
    root = SCENES[name](kernel, root) or root
    pair.ask()
    pair.agree()
    return taken(pair, root, mode)


# ---- sessions ------------------------------------------------------------------------------------------------------


@scene
def orphan_of_a_dead_session_leader(kernel: Kernel, root: Thread) -> None:
    """3 is in the session of 2, which is no more."""
    leader = kernel.fork(root)
    kernel.setsid(leader)
    kernel.fork(leader)
    gone(kernel, leader, root)


@scene
def orphan_of_a_living_session_leader(kernel: Kernel, root: Thread) -> None:
    """4 is in the session of 2, and a child of the init."""
    leader = kernel.fork(root)
    kernel.setsid(leader)
    middle = kernel.fork(leader)
    kernel.fork(middle)
    gone(kernel, middle, leader)


@scene
def fork_before_setsid(kernel: Kernel, root: Thread) -> None:
    """3 is a child of 2 that 2 has left behind in its first session."""
    leader = kernel.fork(root)
    kernel.fork(leader)
    kernel.setsid(leader)


@scene
def fork_before_setsid_twice(kernel: Kernel, root: Thread) -> None:
    """The last one is of a session two generations up."""
    first = kernel.fork(root)
    second = kernel.fork(first)
    kernel.setsid(first)
    kernel.fork(second)
    kernel.setsid(second)


@scene
def zombie_session_leader_with_a_member(kernel: Kernel, root: Thread) -> None:
    """Nobody has waited for 2."""
    leader = kernel.fork(root)
    kernel.setsid(leader)
    kernel.fork(leader)
    kernel.exit_group(leader, 3 << 8)


@scene
def subreaper_adopts_a_daemon(kernel: Kernel, root: Thread) -> None:
    """4 is a child of 2, in the session of 3, which is no more."""
    reaper = kernel.fork(root)
    kernel.setsid(reaper)
    kernel.subreaper(reaper)
    leader = kernel.fork(reaper)
    kernel.setsid(leader)
    kernel.fork(leader)
    gone(kernel, leader, reaper)


@scene
def subreaper_adopts_of_a_living_leader(kernel: Kernel, root: Thread) -> None:
    """5 is a child of 2, in the session of 3, which is another child of 2."""
    reaper = kernel.fork(root)
    kernel.subreaper(reaper)
    leader = kernel.fork(reaper)
    kernel.setsid(leader)
    middle = kernel.fork(leader)
    kernel.fork(middle)
    gone(kernel, middle, leader)


@scene
def former_subreaper_has_an_orphan(kernel: Kernel, root: Thread) -> None:
    """The flag is off now."""
    subreaper_adopts_a_daemon(kernel, root)
    kernel.subreaper(next(thread for thread in kernel.threads if thread.group.subreaper), on=False)


@scene
def clone_parent_sibling(kernel: Kernel, root: Thread) -> None:
    """4 is a child of 2, in the session of 3, which has made it."""
    leader = kernel.fork(root)
    kernel.setsid(leader)
    child = kernel.fork(leader)
    kernel.setsid(child)
    kernel.fork(child, CLONE_PARENT)


@scene
def session_leader_is_no_ancestor(kernel: Kernel, root: Thread) -> None:
    """An orphaned session leader with a child from before its setsid()."""
    first = kernel.fork(root)
    kernel.setsid(first)
    middle = kernel.fork(first)
    leader = kernel.fork(middle)
    kernel.fork(leader)
    kernel.setsid(leader)
    gone(kernel, middle, first)


@scene
def children_of_two_foreign_sessions(kernel: Kernel, root: Thread) -> None:
    """A subreaper has adopted from two sessions, whose leaders are no more."""
    reaper = kernel.fork(root)
    kernel.subreaper(reaper)
    for _ in range(2):
        leader = kernel.fork(reaper)
        kernel.setsid(leader)
        kernel.fork(leader)
        gone(kernel, leader, reaper)


@scene
def a_thread_bears_before_two_setsids(kernel: Kernel, root: Thread) -> Thread:
    """The last one is of the session outside, though two above it have left that since."""
    outer = kernel.fork(kernel.init, CLONE_NEWPID)
    leader = kernel.fork(kernel.thread(outer))
    kernel.fork(kernel.thread(leader))
    kernel.setsid(outer)
    kernel.setsid(leader)
    return outer


# ---- groups --------------------------------------------------------------------------------------------------------


@scene
def dead_group_leader(kernel: Kernel, root: Thread) -> None:
    """3 is in the group of 2, which is no more."""
    owner = kernel.fork(root)
    kernel.setpgid(owner, owner.group, owner.pid)
    kernel.fork(owner)
    gone(kernel, owner, root)


@scene
def owner_has_left_its_group(kernel: Kernel, root: Thread) -> None:
    """2 lives on in the group of 1, and 3 in that of 2."""
    owner, member = kernel.fork(root), kernel.fork(root)
    kernel.setpgid(owner, owner.group, owner.pid)
    kernel.setpgid(member, member.group, owner.pid)
    kernel.setpgid(owner, owner.group, root.pid)


@scene
def owners_in_each_others_groups(kernel: Kernel, root: Thread) -> None:
    """2 is in the group of 3, and 3 in that of 2."""
    one, other = kernel.fork(root), kernel.fork(root)
    kernel.setpgid(one, one.group, one.pid)
    kernel.setpgid(other, other.group, other.pid)
    third = kernel.fork(one)
    kernel.setpgid(one, one.group, other.pid)
    kernel.setpgid(other, other.group, one.pid)
    gone(kernel, third, one)


@scene
def owners_in_a_row(kernel: Kernel, root: Thread) -> None:
    """Each is in the group of the next."""
    owners = [kernel.fork(root) for _ in range(5)]
    for owner in owners:
        kernel.setpgid(owner, owner.group, owner.pid)
    for owner, following in pairwise(owners):
        kernel.fork(owner)
        kernel.setpgid(owner, owner.group, following.pid)


@scene
def a_group_that_an_inner_init_does_not_see(kernel: Kernel, root: Thread) -> None:
    """And that its children are in as well, though it has one of its own by now."""
    owner = kernel.fork(root)
    kernel.setpgid(owner, owner.group, owner.pid)
    inner = kernel.fork(owner, CLONE_NEWPID)
    kernel.fork(inner)
    kernel.setpgid(owner, inner.group, inner.pid)


@scene
def an_inner_init_has_left_the_group_outside(kernel: Kernel, root: Thread) -> Thread:
    """Its child is still there, and neither of them sees any of the two groups."""
    outer = kernel.fork(kernel.init, CLONE_NEWPID)
    owner = kernel.fork(outer)
    inner = kernel.fork(outer, CLONE_NEWPID)
    kernel.fork(inner)
    kernel.setpgid(owner, owner.group, owner.pid)
    kernel.setpgid(outer, inner.group, owner.pid)
    return outer


@scene
def a_session_leader_passes_a_group_on(kernel: Kernel, root: Thread) -> None:
    """An inner init, whose parent had founded a group, has children in that from before its setsid()."""
    owner = kernel.fork(root)
    kernel.setpgid(owner, owner.group, owner.pid)
    inner = kernel.fork(owner, CLONE_NEWPID)
    kernel.fork(inner)
    kernel.setsid(inner)


@scene
def a_dead_owner_of_a_session_left(kernel: Kernel, root: Thread) -> Thread:
    """An inner init was put into its group; who did that has left their session since."""
    outer = kernel.fork(kernel.init, CLONE_NEWPID)
    inner = kernel.fork(outer, CLONE_NEWPID)
    owner = kernel.fork(outer)
    kernel.setpgid(owner, owner.group, owner.pid)
    kernel.setpgid(outer, inner.group, owner.pid)
    gone(kernel, owner, outer)
    kernel.setsid(outer)
    return outer


# ---- threads and the dead ------------------------------------------------------------------------------------------


@scene
def threads(kernel: Kernel, root: Thread) -> None:
    """Two more."""
    child = kernel.fork(root)
    kernel.thread(kernel.thread(child))


@scene
def child_of_a_thread(kernel: Kernel, root: Thread) -> None:
    """Its parent is the thread itself."""
    kernel.fork(kernel.thread(kernel.fork(root)))


@scene
def dead_leader(kernel: Kernel, root: Thread) -> None:
    """A thread lives on, and has the children."""
    child = kernel.fork(root)
    kernel.fork(child)
    kernel.thread(child)
    kernel.exit(child)


@scene
def zombies(kernel: Kernel, root: Thread) -> None:
    """Nobody has waited for them; one is in a session of its own."""
    kernel.setsid(kernel.fork(root))
    for code in (0, 3 << 8, 9, 11):
        kernel.exit_group(kernel.fork(root), code)
    kernel.exit_group(next(thread for thread in kernel.threads if thread.group.parent is root), 1 << 8)


@scene
def subreaper_with_a_child(kernel: Kernel, root: Thread) -> None:
    """The flag comes back."""
    reaper = kernel.fork(root)
    kernel.fork(reaper)
    kernel.subreaper(reaper)


@scene
def exec_by_a_thread(kernel: Kernel, root: Thread) -> None:
    """It is the leader now."""
    child = kernel.fork(root)
    kernel.fork(child)
    kernel.exec(kernel.thread(child))


@scene
def deep_and_broad(kernel: Kernel, root: Thread) -> None:
    """Three children each."""
    for child in [kernel.fork(root) for _ in range(3)]:
        for grandchild in [kernel.fork(child) for _ in range(3)]:
            kernel.fork(grandchild)


# ---- namespaces ----------------------------------------------------------------------------------------------------


@scene
def nested_namespaces(kernel: Kernel, root: Thread) -> None:
    """One below the other."""
    inner = kernel.fork(root, CLONE_NEWPID)
    kernel.fork(inner)
    kernel.fork(kernel.fork(inner, CLONE_NEWPID))


@scene
def sibling_namespaces(kernel: Kernel, root: Thread) -> None:
    """The same inner numbers twice."""
    for inner in [kernel.fork(root, CLONE_NEWPID) for _ in range(2)]:
        kernel.fork(inner)


@scene
def unshare_then_fork(kernel: Kernel, root: Thread) -> None:
    """The first child is an init, the second one is not."""
    child = kernel.fork(root)
    kernel.unshare(child)
    kernel.fork(child)
    kernel.fork(child)


@scene
def unshare_and_no_child_yet(kernel: Kernel, root: Thread) -> None:
    """The next child will be one."""
    kernel.unshare(kernel.fork(root))


@scene
def entered_from_the_namespace_above(kernel: Kernel, root: Thread) -> None:
    """Its parent is not of its namespace."""
    inner = kernel.fork(root, CLONE_NEWPID)
    child = kernel.fork(root)
    kernel.setns(child, inner.space)
    kernel.fork(child)
    kernel.setns(child, child.space)


@scene
def group_of_a_dead_inner_init(kernel: Kernel, root: Thread) -> None:
    """Of a namespace within one: who takes its number has to be born below the right one."""
    inner = kernel.fork(root, CLONE_NEWPID)
    innermost = kernel.fork(inner, CLONE_NEWPID)
    kernel.setpgid(inner, innermost.group, innermost.pid)
    kernel.setpgid(inner, inner.group, innermost.pid)
    gone(kernel, innermost, inner)


@scene
def subtree_of_a_job(kernel: Kernel, root: Thread) -> Thread:
    """Its root leads a group, in the session of a shell."""
    job = kernel.fork(root)
    kernel.setpgid(job, job.group, job.pid)
    kernel.fork(kernel.fork(job))
    return job


SUBTREES = {
    "subtree_of_a_job",
    "a_thread_bears_before_two_setsids",
    "an_inner_init_has_left_the_group_outside",
    "a_dead_owner_of_a_session_left",
}


@pytest.mark.parametrize("observed", [True, False], ids=["births observed", "births found"])
@pytest.mark.parametrize("name", SCENES)
def test_a_tree_is_planned_and_the_plan_builds_it(name: str, observed: bool) -> None:  # noqa: FBT001
    """On the model that plans are proven on, and on a kernel that knows nothing of it."""
    snapshot = taken_from(name, "subtree" if name in SUBTREES else "container")
    plan = make_plan(snapshot if observed else unobserved(snapshot))
    stage = Stage(plan)
    stage.play()

    assert stage.rows() == rows_of(snapshot)


# ---- how -----------------------------------------------------------------------------------------------------------


def the_plan(name: str) -> Plan:
    """Of a scene, births observed."""
    return make_plan(taken_from(name))


def roles(plan: Plan, role: Role) -> list[int]:
    """Actors of that role."""
    return [index for index, actor in enumerate(plan.actors) if actor.role is role]


def number(plan: Plan, actor: int) -> int:
    """In the root's namespace."""
    return plan.actors[actor].numbers[0]


def test_an_orphan_of_a_living_leader_is_borne_by_a_temporary_child_of_the_leader() -> None:
    """And needs no ghost."""
    plan = the_plan("orphan_of_a_living_session_leader")
    (helper,) = roles(plan, Role.HELPER)
    parents = plan.parents()
    (orphan,) = [child for child, maker in enumerate(parents) if maker == helper]

    assert (number(plan, parents[helper]), number(plan, orphan)) == (2, 4)
    assert roles(plan, Role.GHOST) == []


def test_the_number_of_a_dead_session_leader_is_held_by_a_ghost_until_all_are_there() -> None:
    """It founds the session first, and exits last."""
    plan = the_plan("orphan_of_a_dead_session_leader")
    (ghost,) = roles(plan, Role.GHOST)
    done = [step.op for step in plan.steps if step.by == ghost]

    assert number(plan, ghost) == 2
    assert (done[0], done[-1]) == (Op.SETSID, Op.EXIT)


def test_a_child_from_before_setsid_is_borne_before_setsid() -> None:
    """No helper is needed for it."""
    plan = the_plan("fork_before_setsid")
    (leader,) = [index for index in range(len(plan.actors)) if number(plan, index) == 2]
    done = [step.op for step in plan.steps if step.by == leader and step.op in (Op.CLONE, Op.SETSID)]

    assert done == [Op.CLONE, Op.SETSID]
    assert roles(plan, Role.HELPER) == []


def test_a_subreaper_is_one_for_the_moment_of_the_adoption() -> None:
    """And none in the end, where it was none any more."""
    plan = the_plan("former_subreaper_has_an_orphan")

    assert [(number(plan, step.by), step.value) for step in plan.steps if step.op is Op.SUBREAPER] == [(2, 1), (2, 0)]


def test_a_sibling_is_made_as_one() -> None:
    """With CLONE_PARENT, as it was."""
    plan = the_plan("clone_parent_sibling")
    siblings = [step for step in plan.steps if step.op is Op.CLONE and step.value & CloneBits.PARENT]

    assert [(number(plan, step.by), number(plan, step.target)) for step in siblings] == [(3, 4)]


def test_an_owner_leaves_its_group_once_its_member_is_there() -> None:
    """The other way round there would be no such group."""
    plan = the_plan("owner_has_left_its_group")
    moves = [(number(plan, step.by), number(plan, step.value)) for step in plan.steps if step.op is Op.SETPGID]

    assert moves == [(2, 2), (3, 2), (2, 1)]


def test_owners_in_each_others_groups_need_one_who_stays_meanwhile() -> None:
    """A helper of the owner that leaves first."""
    plan = the_plan("owners_in_each_others_groups")

    assert [plan.actors[helper].why[:11] for helper in roles(plan, Role.HELPER)] == ["keeps group"]


# ---- what cannot be ------------------------------------------------------------------------------------------------


def refused(snapshot: Snapshot, *, pidns: bool = True) -> str:
    """The rule that stands in the way."""
    with pytest.raises(NotRebuildableError) as caught:
        make_plan(snapshot, pidns=pidns)
    return caught.value.rule


def test_a_dead_thread_that_its_tracer_keeps_is_refused() -> None:
    """Nobody traces in a rebuild."""
    pair = watched()
    root = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    pair.kernel.setsid(root)
    thread = pair.kernel.thread(root)
    thread.traced = True
    pair.kernel.exit(thread)
    pair.ask()

    assert refused(taken(pair, root, "container")) == "zombie-thread"


def test_a_dead_init_whose_namespace_is_still_named_is_refused() -> None:
    """It would have to be alive for as long as the number is to be taken."""
    pair = watched()
    kernel = pair.kernel
    root = kernel.fork(kernel.init, CLONE_NEWPID)
    inner = kernel.fork(root, CLONE_NEWPID)
    kernel.setpgid(root, inner.group, inner.pid)
    kernel.setpgid(root, root.group, inner.pid)
    kernel.exit_group(root)
    pair.ask()

    assert refused(taken(pair, root, "subtree")) == "dead-init"


def test_a_number_in_a_namespace_without_an_init_is_refused() -> None:
    """At whatever level: nobody can be born there."""
    pair = watched()
    kernel = pair.kernel
    root = kernel.fork(kernel.init)
    inner = kernel.fork(root, CLONE_NEWPID)
    innermost = kernel.fork(inner, CLONE_NEWPID)
    kernel.setpgid(inner, innermost.group, innermost.pid)
    kernel.setpgid(root, root.group, innermost.pid)
    gone(kernel, innermost, inner)
    gone(kernel, inner, root)
    pair.ask()

    assert refused(taken(pair, root, "subtree")) == "namespace-without-init"


def test_a_root_that_went_back_to_a_group_outside_is_refused() -> None:
    """Its own group has members, and nobody of the tree sees the one outside."""
    pair = watched()
    kernel = pair.kernel
    root = kernel.fork(kernel.init, CLONE_NEWPID)
    kernel.setpgid(kernel.init, root.group, root.pid)
    kernel.fork(root)
    kernel.setpgid(kernel.init, root.group, kernel.init.pid)
    pair.ask()

    assert refused(taken(pair, root, "subtree")) == "outside-id"


def test_a_container_is_built_in_a_namespace_of_its_own_alone() -> None:
    """There is one init in the caller's."""
    assert refused(taken_from("threads"), pidns=False) == "container-without-namespace"
