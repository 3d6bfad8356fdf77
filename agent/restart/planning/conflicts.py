# SPDX-License-Identifier: Apache-2.0
"""Conflicts of steps: two steps keep their order if they touch one thing and at least one of them changes it.

Two changes that commute (`Touched.adds`) may come in any order, but a step that reads the thing keeps its place among
them. Steps of one actor are in order anyway. So are the steps of an actor and those that its creator made before the
birth.
"""

from collections.abc import Iterable

from agent.restart.planning.plan import NOBODY, Op, Phase, Step

Thing = tuple[str, object]


class Touched:
    """The things that a call reads and changes.

    Attributes:
        reads: things whose state the call depends on.
        adds: changes that commute with each other: another child, another member of a group.
        writes: all other changes.
    """

    __slots__ = ("adds", "reads", "writes")

    def __init__(self, reads: Iterable[Thing] = (), adds: Iterable[Thing] = (), writes: Iterable[Thing] = ()) -> None:
        self.reads = list(reads)
        self.adds = list(adds)
        self.writes = list(writes)


class Conflicts:
    """The steps so far, and the things that they have read and changed."""

    def __init__(self) -> None:
        self._writer: dict[Thing, int] = {}
        self._readers: dict[Thing, list[int]] = {}
        self._adders: dict[Thing, list[int]] = {}
        self._steps: list[tuple[int, Phase]] = []
        self._born: dict[int, int] = {}  # actor -> the step that made it
        self._turn = NOBODY

    def enter(self, index: int, step: Step, touched: Touched) -> tuple[int, ...]:
        """Note a step, and return the earlier steps that it has to wait for: at most one of each other actor."""
        if step.op is Op.ACTIVATE:
            return self._activated(index, step)
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

    def _activated(self, index: int, step: Step) -> tuple[int, ...]:
        """Note a turn, which touches nothing: it waits for the turn before it alone."""
        turn, self._turn = self._turn, index
        self._steps.append((step.by, step.phase))
        return (turn,) if turn != NOBODY and self._steps[turn][0] != step.by else ()

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
