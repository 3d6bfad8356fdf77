# SPDX-License-Identifier: Apache-2.0
"""A plan while it is written: each step is tried on the model of the kernel at once."""

from agent.model import WaitStatus
from agent.restart.planning.cast import Cast, Node
from agent.restart.planning.conflicts import Conflicts
from agent.restart.planning.kernelmodel import CallRefusedError
from agent.restart.planning.plan import NOBODY, Actor, Op, Phase, Plan, Step
from agent.restart.planning.simulate import Machine
from agent.table.objects import TaskStruct
from agent.table.rules import SIGCHLD


class Script:
    """The actors and steps so far, and the state that they have led to.

    Args:
        cast: the nodes; the top is there from the start.

    Attributes:
        actors: in the order in which they are born.
        phase: of the steps to come.
    """

    def __init__(self, cast: Cast) -> None:
        self.cast = cast
        self.actors: list[Node] = []
        self.phase = Phase.BUILD
        self._steps: list[Step] = []
        self._machine = Machine(0, pidns=cast.pidns)
        self._conflicts = Conflicts()
        self._by_task: dict[TaskStruct, Node] = {}
        self.enter(cast.top)
        self._machine.begin(cast.top.numbers, exit_signal(cast.top))
        self._by_task[self.task(cast.top)] = cast.top

    def plan(self) -> Plan:
        """Return the plan that consists of the steps so far."""
        return Plan(
            tuple([self._actor(node) for node in self.actors]),
            tuple(self._steps),
            self.cast.pidns,
            tuple([node.index for node in self.cast.tasks]),
        )

    def _actor(self, node: Node) -> Actor:
        row = node.task
        status = (row.exit_code or WaitStatus(0)) if row is not None and node.exits else None
        comm = (row.comm or b"")[:15] if row is not None else b"ckptree"
        depth, leader = self.cast.level(node.space), node.leader.index
        return Actor(node.role, node.tag, node.numbers, depth, leader, status, exit_signal(node), comm, node.why)

    def enter(self, node: Node) -> None:
        """Add an actor, which is not born yet."""
        node.index = len(self.actors)
        self.actors.append(node)
        self._machine.tasks.append(None)

    def step(self, op: Op, by: Node, target: Node | None = None, value: int = 0, why: str = "") -> None:
        """Add a step, and make it on the model of the kernel.

        Raises:
            CallRefusedError: the kernel would refuse the step.
        """
        about = target.index if target is not None else NOBODY
        step = Step(op, by.index, about, value, self.phase, (), why)
        if op is Op.CLONE and target is not None:
            self._machine.run(step, target.numbers, exit_signal(target))
            self._by_task[self.task(target)] = target
        else:
            self._machine.run(step)
        after = self._conflicts.enter(len(self._steps), step, self._machine.kernel.touched)
        self._steps.append(Step(op, by.index, about, value, self.phase, after, why) if after else step)

    def is_born(self, node: Node) -> bool:
        """Return True if the CLONE of a node is written."""
        return node.index >= 0 and self._machine.tasks[node.index] is not None

    def task(self, node: Node) -> TaskStruct:
        """Return the task of a node as it is after the steps so far."""
        return self._machine.task(node.index)

    def parent_of(self, node: Node) -> Node:
        """Return the parent of a node after the steps so far.

        Raises:
            CallRefusedError: ECHILD, the parent is no actor.
        """
        parent = self.task(node).leader.parent
        if parent is None or parent not in self._by_task:
            raise CallRefusedError("ECHILD", f"no task of the tree is the parent of {node!r}")
        return self._by_task[parent]

    def leave(self, node: Node) -> None:
        """Write the exit of a node, and its reaping by its present parent."""
        self.step(Op.EXIT, node)
        self.step(Op.REAP, self.parent_of(node), node)

    def found(self, owner: Node) -> None:
        """Have a process found its group, if it has not done so yet."""
        task = self.task(owner)
        if task.pgid is not task.pid:
            self.step(Op.SETPGID, owner, owner, owner.index)


def exit_signal(node: Node) -> int:
    """Return the signal that the parent of a process gets at its exit; -1 for a thread."""
    if node.leader is not node:
        return -1
    return SIGCHLD if node.exit_signal is None else node.exit_signal
