# SPDX-License-Identifier: Apache-2.0
"""Tables of descriptors that processes share: clone() with CLONE_FILES, without being threads of one process.

Only a birth makes two processes share a table. So each but one of them must be born by another one of them. One, the
keeper, restores all of the table. The others open files at high numbers alone meanwhile, as their memory needs them.
CRIU dumps a table that a process shares with its parent.
"""

from collections.abc import Iterator, Mapping, Sequence

from agent.restart.contents.fillsection import FillProgram
from agent.restart.contents.holder import Holder, TableWords
from agent.restart.contents.images import ProcessImage
from agent.restart.contents.refusals import Refused
from agent.restart.planning.plan import CloneBits, Op, Plan, Role


class SharedTables:
    """The tables that several processes of a tree share.

    Args:
        processes: of the images, by pid.
        leaders: the actor of each process, by pid.
        plan: of the tree.
    """

    def __init__(self, processes: Mapping[int, ProcessImage], leaders: Mapping[int, int], plan: Plan) -> None:
        self._plan = plan
        self._pids = {actor: pid for pid, actor in leaders.items()}
        found: dict[int, list[int]] = {}
        for pid, process in processes.items():
            if process.lives and process.ids.files_id and pid in leaders:
                found.setdefault(int(process.ids.files_id), []).append(leaders[pid])
        self._groups = [actors for actors in found.values() if len(actors) > 1]
        births = (step for step in plan.steps if step.op is Op.CLONE) if self._groups else ()
        self._makers = {step.target: plan.actors[step.by].leader for step in births}

    def faults(self) -> Iterator[tuple[int, Refused]]:
        """Yield the pid of each process that cannot be born with the table that it shares."""
        for actors in self._groups:
            first, *others = [actor for actor in actors if not self._way(actor, actors)]
            for actor in others:
                text = (
                    f"it shares its table of descriptors with process {self._pids[first]}, and no process with that "
                    "table creates it in the tree"
                )
                yield self._pids[actor], Refused("descriptors", "table", "shared", text)

    def plan(self) -> Plan:
        """Return the plan in which the births share their tables."""
        sharing = {born for actors in self._groups for actor in actors for born in self._way(actor, actors)}
        if not sharing:
            return self._plan
        steps = [
            step._replace(value=step.value | CloneBits.FILES)
            if step.op is Op.CLONE and step.target in sharing
            else step
            for step in self._plan.steps
        ]
        return self._plan._replace(steps=tuple(steps))

    def share(self, fill: FillProgram, holders: Mapping[int, Holder]) -> None:
        """Tell processes, by their actors, which of them keep their tables: the deepest, which the others see."""
        for actors in self._groups:
            sharers = [holders[actor] for actor in actors]
            keeper = max(sharers, key=lambda each: each.depth)
            threads = sum(len(each.program.scripts) for each in sharers)
            turns = TableWords(len(sharers) - 1, threads, fill.word(), fill.word(), fill.word(), fill.word())
            for each in sharers:
                each.turns = turns
                each.keeper = None if each is keeper else keeper

    def _way(self, actor: int, actors: Sequence[int]) -> list[int]:
        """Return the births from one of some processes to another, by way of actors that are no tasks."""
        born = [actor]
        while (maker := self._makers.get(born[-1])) is not None:
            if maker in actors:
                return born
            if self._plan.actors[maker].role is Role.TASK:
                break
            born.append(maker)
        return []
