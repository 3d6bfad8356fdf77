# SPDX-License-Identifier: Apache-2.0
"""The search for a plan that is proven to build a snapshot.

The search follows the observed births first. If that fails, it uses the kernel's rules alone. A plan is accepted when
the model of the kernel, run anew from the first step, ends in the snapshot.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from agent.errors import CkptreeError, NotRebuildableError
from agent.model import Obstacle, Snapshot, Tag
from agent.restart.planning import guest, simulate
from agent.restart.planning.cast import Cast
from agent.restart.planning.losses import losses
from agent.restart.planning.plan import Plan
from agent.restart.planning.refusals import refuse_hopeless
from agent.restart.planning.replay import replay
from agent.restart.planning.schedule import Scheduler
from agent.restart.planning.solver import Solver


def make_plan(snapshot: Snapshot, *, pidns: bool = True, with_contents: bool = False) -> Plan:
    """Find a plan.

    Args:
        snapshot: one that the readers of exporters have checked.
        pidns: give the tree a pid namespace of its own.
        with_contents: its tasks get contents.

    Raises:
        NotRebuildableError: no plan exists, or none was found; the error names the task and the rule.
    """
    notes = (*[f"squashed: {line}" for line in snapshot.squashed], *losses(snapshot, with_contents=with_contents))
    if not pidns and guest.is_init(snapshot):
        snapshot = guest.as_guest(snapshot)
        notes += (guest.NOTE,)
    with _no_collections():
        plan = _found(snapshot, pidns=pidns)
    return plan._replace(notes=notes)


def decide(snapshot: Snapshot, *, pidns: bool, any_numbers: bool, with_contents: bool = False) -> tuple[Snapshot, Plan]:
    """Find the plan that the verb `plan` shows and the verb `restart` carries out.

    Args:
        snapshot: of the original.
        pidns: give the tree a pid namespace of its own.
        any_numbers: let the kernel choose all numbers.
        with_contents: its tasks get contents.

    Returns:
        The snapshot that the rebuilt tree is to have, and the plan that makes it.

    Raises:
        NotRebuildableError: as for make_plan(); also if a task needs the number 1, which the caller's init has.
    """
    if pidns:
        return snapshot, make_plan(snapshot, with_contents=with_contents)
    wanted = guest.as_guest(snapshot) if guest.is_init(snapshot) else snapshot
    plan = make_plan(snapshot, pidns=False, with_contents=with_contents)
    taken = next((actor for actor in plan.actors if actor.numbers[:1] == (1,)), None)
    if taken is not None and not any_numbers:
        text = "the number 1 is taken by the init of the caller's namespace: take any numbers with --no-pids"
        raise NotRebuildableError(taken.tag, "number-of-the-init", text, proven=True)
    return wanted, plan


@contextmanager
def _no_collections() -> Iterator[None]:
    """Switch the garbage collector off: a plan has no garbage before its end, and collecting doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _found(snapshot: Snapshot, *, pidns: bool) -> Plan:
    try:
        return _attempt(snapshot, pidns=pidns, observed=_has_births(snapshot))
    except NotRebuildableError as error:
        if not _has_births(snapshot):
            raise
        try:
            return _attempt(snapshot, pidns=pidns, observed=False)
        except NotRebuildableError:
            raise error from None  # the error of the observed births says more


def obstacles(snapshot: Snapshot) -> tuple[Obstacle, ...]:
    """Return the obstacles to a rebuild in a pid namespace of its own; empty if there is a plan."""
    try:
        make_plan(snapshot)
    except NotRebuildableError as error:
        return (Obstacle(Tag(error.tag), error.rule, error.text),)
    return ()


def _has_births(snapshot: Snapshot) -> bool:
    return any(task.birth is not None and task.birth.observed for task in snapshot.tasks)


def _attempt(snapshot: Snapshot, *, pidns: bool, observed: bool) -> Plan:
    cast = Cast(snapshot, pidns=pidns)
    refuse_hopeless(cast)
    if observed:
        replay(cast)
    solver = Solver(cast)
    solver.solve()
    plan = Scheduler(cast, solver.routes).plan()
    prove(snapshot, plan)
    return plan


def prove(snapshot: Snapshot, plan: Plan) -> None:
    """Run a plan on the model of the kernel, and compare the result with the snapshot.

    Raises:
        NotRebuildableError: the plan ends in another tree.
    """
    machine = simulate.run(plan)
    try:
        made = simulate.result(plan, machine, snapshot.mode)
    except CkptreeError as error:
        raise NotRebuildableError(
            0, "simulation", f"the tree that the plan builds cannot be captured: {error}"
        ) from error
    difference = simulate.difference(snapshot, made)
    if difference is not None:
        raise NotRebuildableError(0, "simulation", f"the plan comes to another tree: {difference}")
