# SPDX-License-Identifier: Apache-2.0
"""Plans made by hand, for tests of their execution."""

from typing import Any

from agent.restart.planning.plan import NOBODY, Actor, CloneBits, Op, Phase, Plan, Role, Step


class PlanWriter:
    """A writer of actors and steps, one call each; the steps keep the order of the calls.

    A step waits for the birth of its target and for the steps in `after`.
    """

    def __init__(self, *, pidns: bool = True) -> None:
        self.pidns = pidns
        self.actors: list[Actor] = []
        self.steps: list[Step] = []

    def actor(self, *numbers: int, role: Role = Role.TASK, **facts: Any) -> int:
        """Add an actor and return its index; its tag is its index + 1."""
        index = len(self.actors)
        depth = facts.pop("depth", max(len(numbers) - 1, 0))
        known: dict[str, Any] = {"leader": index, "status": None, "exit_signal": 17, "why": ""}
        known |= {"comm": b"actor-%d" % index, "tag": index + 1 if role is not Role.HELPER else 0}
        self.actors.append(Actor(role, numbers=numbers, depth=depth, **(known | facts)))
        return index

    def step(
        self,
        op: Op,
        by: int,
        target: int = NOBODY,
        value: int = 0,
        phase: Phase = Phase.BUILD,
        after: tuple[int, ...] = (),
    ) -> int:
        """Add a step and return its index."""
        self.steps.append(Step(op, by, target, value, phase, after))
        return len(self.steps) - 1

    def born(self, by: int, *numbers: int, bits: int = 0, after: tuple[int, ...] = (), **facts: Any) -> int:
        """Add a child of an actor and return its index."""
        if bits & CloneBits.THREAD:
            facts = {"leader": self.actors[by].leader, "exit_signal": -1} | facts
        child = self.actor(*numbers, **facts)
        self.step(Op.CLONE, by, child, bits, after=after)
        return child

    def birth(self, actor: int) -> int:
        """Return the step in which an actor is born."""
        (found,) = (n for n, step in enumerate(self.steps) if step.op is Op.CLONE and step.target == actor)
        return found

    def activated(self) -> "PlanWriter":
        """Add the activation of every task, in order."""
        for index, actor in enumerate(self.actors):
            if actor.role is Role.TASK:
                self.step(Op.ACTIVATE, index, phase=Phase.ACTIVATE)
        return self

    def plan(self) -> Plan:
        """Return the plan."""
        tasks = tuple(index for index, actor in enumerate(self.actors) if actor.role is Role.TASK)
        return Plan(tuple(self.actors), tuple(self.steps), self.pidns, tasks)
