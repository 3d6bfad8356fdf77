# SPDX-License-Identifier: Apache-2.0
"""Which steps must keep their order: those that touch one thing, where at least one of the two changes it.

Two changes that commute (`adds` in restart.kernel) may come in any order, but both before whoever reads, and after.
What an actor does itself is in order anyway, and so is all that its creator did before it was born.
"""

from agent.restart.planning.kernelmodel import Thing, Touched
from agent.restart.planning.plan import NOBODY, Op, Phase, Step


class Conflicts:
    """Takes the steps in order; says for each which ones it has to wait for."""

    def __init__(self) -> None:
        self._writer: dict[Thing, int] = {}
        self._readers: dict[Thing, list[int]] = {}
        self._adders: dict[Thing, list[int]] = {}
        self._steps: list[tuple[int, Phase]] = []
        self._born: dict[int, int] = {}  # actor -> the step that made it
        self._turn = NOBODY

    def enter(self, index: int, step: Step, touched: Touched) -> tuple[int, ...]:
        """Note a step, and tell the earlier steps of other actors that it has to wait for, one for each actor."""
        waits: set[int] = set()
        for thing in touched.reads:
            if (writer := self._writer.get(thing)) is not None:
                waits.add(writer)
            waits.update(self._adders.get(thing, ()))
        for thing in touched.adds:
            if (writer := self._writer.get(thing)) is not None:
                waits.add(writer)
            waits.update(self._readers.get(thing, ()))
        for thing in touched.writes:
            if (writer := self._writer.get(thing)) is not None:
                waits.add(writer)
            waits.update(self._readers.get(thing, ()))
            waits.update(self._adders.get(thing, ()))
        if step.phase is Phase.ACTIVATE:
            if self._turn != NOBODY:
                waits.add(self._turn)
            self._turn = index
        self._note(index, touched)
        self._steps.append((step.by, step.phase))
        if step.op is Op.CLONE:
            self._born[step.target] = index
        return self._needed(step, waits)

    def _note(self, index: int, touched: Touched) -> None:
        for thing in touched.reads:
            self._readers.setdefault(thing, []).append(index)
        for thing in touched.adds:
            self._adders.setdefault(thing, []).append(index)
        for thing in touched.writes:
            self._writer[thing] = index
            self._readers.pop(thing, None)
            self._adders.pop(thing, None)

    def _needed(self, step: Step, waits: set[int]) -> tuple[int, ...]:
        last: dict[int, int] = {}
        for other in waits:
            by, phase = self._steps[other]
            if by != step.by and phase is step.phase:  # a phase waits for the one before it as a whole
                last[by] = max(last.get(by, NOBODY), other)
        if not last:
            return ()
        actor, earliest = step.by, min(last.values())
        while last and (born := self._born.get(actor)) is not None and earliest <= born:
            by = self._steps[born][0]
            if last.get(by, born + 1) <= born:
                del last[by]
            actor = by
        return tuple(sorted(last.values()))
