# SPDX-License-Identifier: Apache-2.0
"""The list of steps that carries out the births and routes of a cast, each step tried on the model of the kernel.

The order of steps
------------------
1. All actors are born, helpers and ghosts too, and none exits. A process makes its threads, then the children that must
   be born into its first session. It calls setsid() if it leads a session, and makes its other children. A task that is
   born into an existing namespace waits until the init is there.
2. Helpers exit from the bottom up. Before a helper exits, the receiver of its children becomes the only subreaper.
3. Subreaper flags get their final values.
4. The owner of a group founds it, and the other members join. An owner that belongs to another group leaves its own
   last. Where owners wait for each other, a holder keeps a group alive.
5. Tasks enter the pid namespaces of their next children, since no task of the image is to be born any more. If such a
   namespace is a new one whose init has gone, a helper becomes its init, exits, and is reaped.
6. Tasks are activated in tree order; zombies and dead leaders exit in their turn. Ghosts leave. Inits that wait within
   their exit for others of their namespace exit, inner ones first. Stopped tasks stop.
"""

from collections.abc import Collection

from agent.errors import NotRebuildableError
from agent.model import TaskState
from agent.restart.planning.birthorder import BirthOrder
from agent.restart.planning.cast import Cast, Node
from agent.restart.planning.groups import Groups
from agent.restart.planning.kernelmodel import CallRefusedError
from agent.restart.planning.lineage import Route, depths
from agent.restart.planning.plan import NO_TAG, CloneBits, Op, Phase, Plan, Role
from agent.restart.planning.script import Script


class Scheduler:
    """The writer of the plan of one cast.

    Args:
        cast: with makers, as agent.restart.planning.solver leaves it.
        routes: the route of each process to its parent.
    """

    def __init__(self, cast: Cast, routes: dict[Node, Route]) -> None:
        self._cast = cast
        self._routes = routes
        self._script = Script(cast)

    def plan(self) -> Plan:
        """Write all steps, and return the plan.

        Raises:
            NotRebuildableError: the kernel would refuse a step.
        """
        try:
            births = BirthOrder(self._script, self._routes)
            births.write()
            self._lifts(births)
            self._flags()
            Groups(self._script).write()
            self._pending()
            self._endings()
        except CallRefusedError as refusal:
            raise NotRebuildableError(0, "refused-call", str(refusal)) from refusal
        return self._script.plan()

    def _lifts(self, births: BirthOrder) -> None:
        helpers = _deepest_first(births.helpers.values())
        open_ = None
        for helper in helpers:
            receiver = helper.parent
            by_flag = receiver is not None and self._cast.inits.get(helper.space) is not receiver
            if receiver is self._cast.top and not self._cast.pidns:
                by_flag = False  # the reaper of a tree without a namespace is subreaper all the time
            if open_ is not None and (not by_flag or open_ is not receiver):
                self._script.step(Op.SUBREAPER, open_, value=0)
                open_ = None
            if by_flag and receiver is not None and open_ is None:
                self._script.step(Op.SUBREAPER, receiver, value=1, why="to get the children of a helper")
                open_ = receiver
            self._script.leave(helper)
        if open_ is not None:
            self._script.step(Op.SUBREAPER, open_, value=0)

    def _flags(self) -> None:
        for node in self._cast.tasks:
            row = node.task
            if row is None:
                continue
            if row.subreaper and node.leader is node:
                self._script.step(Op.SUBREAPER, node, value=1)

    def _pending(self) -> None:
        for node in self._cast.tasks:
            row = node.task
            if row is None or row.child_namespace is None or node.exits:
                continue
            init = self._cast.inits.get(row.child_namespace) if row.child_namespace >= 0 else None
            if init is not None:  # in a dead namespace the init exits in its turn
                verb = "was to" if row.child_namespace_dead else "will"
                self._script.step(Op.ENTER, node, init, why=f"its next child {verb} be born there")
            elif row.child_namespace_dead:
                self._script.step(Op.UNSHARE, node, why="its next child was to be born into a namespace that is dead")
                self._outlive_init(node)
            else:
                self._script.step(Op.UNSHARE, node, why="its next child will be born into a new namespace")

    def _outlive_init(self, node: Node) -> None:
        """Give the namespace of a task's next child an init that exits: the namespace dies with it."""
        init = Node(Role.HELPER, NO_TAG, (), self._cast.new_space(node.space))
        init.maker = node
        init.why = f"the pid namespace of the next child of {'/'.join(map(str, node.numbers))} dies with it"
        self._script.enter(init)
        self._script.step(Op.CLONE, node, init, CloneBits.FIRST)
        self._script.leave(init)

    def _endings(self) -> None:
        self._script.phase = Phase.ACTIVATE
        for node in self._cast.tasks:
            row = node.task
            if node.lingers:
                continue
            if row is not None and node.exits:
                by_itself = (
                    row.state is TaskState.DEAD_LEADER and node.waits_in_exit
                )  # a signal would kill its thread, too
                self._script.step(Op.EXIT, node, value=0 if by_itself else row.exit_code or 0)
                if row.state is TaskState.ZOMBIE and node is not self._cast.top:
                    self._script.step(Op.AWAIT, self._script.parent_of(node), node)
            else:
                self._script.step(Op.ACTIVATE, node)
        self._script.phase = Phase.LEAVE
        for ghost in _deepest_first(self._cast.ghosts):
            self._script.leave(ghost)
        lingering = [node for node in (*self._cast.tasks, *self._cast.keepers) if node.lingers]
        for node in sorted(lingering, key=lambda one: self._cast.level(one.space), reverse=True):
            self._script.step(Op.EXIT, node, value=(node.task.exit_code or 0) if node.task is not None else 0)
            self._script.step(Op.LINGER, self._script.parent_of(node), node)
        self._script.phase = Phase.STOP
        stopped = set()
        for node in self._cast.tasks:
            if node.task is not None and node.task.state is TaskState.STOPPED and node.leader not in stopped:
                stopped.add(node.leader)
                self._script.step(Op.STOP, node)


def _deepest_first(nodes: Collection[Node]) -> list[Node]:
    depth = depths(nodes)
    return sorted(nodes, key=depth.__getitem__, reverse=True)
