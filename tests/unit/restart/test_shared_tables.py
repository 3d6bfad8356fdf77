# SPDX-License-Identifier: Apache-2.0
"""Tables of descriptors that processes share: the births that make them share, and the process that keeps a table."""

from types import SimpleNamespace
from typing import Any

from agent.model import Tag
from agent.restart.contents.fillsection import FillProgram
from agent.restart.contents.holder import Holder
from agent.restart.contents.sharedtables import SharedTables
from agent.restart.planning.plan import Actor, CloneBits, Op, Plan, Role, Step


def plan(makers: dict[int, int], roles: dict[int, Role] | None = None) -> Plan:
    """Return a plan in which each actor is made by another one."""
    count = max(makers, default=0) + 1
    actors = tuple(
        Actor((roles or {}).get(each, Role.TASK), Tag(each + 1), (10 + each,), 0, each, None, 17, b"", "")
        for each in range(count)
    )
    steps = tuple(Step(Op.CLONE, maker, born) for born, maker in makers.items())
    return Plan(actors, steps, pidns=True, tasks=tuple(range(count)), notes=())


def tables(tables_of: dict[int, int], made: Plan) -> SharedTables:
    """Return the shared tables of processes by the number of each one's table."""
    processes: Any = {
        10 + actor: SimpleNamespace(lives=True, ids=SimpleNamespace(files_id=number))
        for actor, number in tables_of.items()
    }
    return SharedTables(processes, {10 + actor: actor for actor in tables_of}, made)


def shared_births(made: Plan) -> list[int]:
    """Return the actors that are born with their maker's table."""
    return [step.target for step in made.steps if step.value & CloneBits.FILES]


def test_a_child_is_born_with_the_table_of_its_maker() -> None:
    """A grandchild, too; a child with another table is not."""
    found = tables({0: 1, 1: 1, 2: 1, 3: 2}, plan({1: 0, 2: 1, 3: 0}))

    assert shared_births(found.plan()) == [1, 2]
    assert list(found.faults()) == []


def test_a_helper_between_two_processes_hands_the_table_on() -> None:
    """It is no task of the tree, and goes."""
    found = tables({0: 1, 2: 1}, plan({1: 0, 2: 1}, {1: Role.HELPER}))

    assert shared_births(found.plan()) == [1, 2]


def test_a_process_that_another_one_makes_is_refused() -> None:
    """Only a birth makes two processes share a table."""
    found = tables({0: 1, 1: 2, 2: 1}, plan({1: 0, 2: 1}))
    ((pid, refused),) = found.faults()

    assert (pid, refused.refusal[2]) == (12, "shared")
    assert shared_births(found.plan()) == []


def test_a_tree_without_shared_tables_keeps_its_plan() -> None:
    """Nothing of it is another one."""
    made = plan({1: 0})

    assert tables({0: 1, 1: 2}, made).plan() is made


def test_the_deepest_process_keeps_the_table() -> None:
    """All others see it. Numbers that the others take are of one count with its own."""
    fill = FillProgram()
    image: Any = SimpleNamespace(pid=10)
    holders = {actor: Holder(actor, actor, (10,), image, fill.process((actor,))) for actor in (0, 1)}
    tables({0: 1, 1: 1}, plan({1: 0})).share(fill, holders)

    assert (holders[0].keeper, holders[1].keeper) == (holders[1], None)
    assert [holders[0].number(), holders[1].number(), holders[0].number()] == [32, 33, 34]
