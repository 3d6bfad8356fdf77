# SPDX-License-Identifier: Apache-2.0
"""The first part of a plan: all actors are born, helpers and ghosts too, and none exits.

A process makes its threads, then the children that must be born into its first session. It calls setsid() if it leads a
session, and makes its other children. A task that is born into an existing namespace waits until the init is there.
"""

from collections import deque
from collections.abc import Iterator

from agent.errors import NotRebuildableError
from agent.restart.planning.cast import Cast, Node
from agent.restart.planning.groups import founders
from agent.restart.planning.lineage import Route, Way
from agent.restart.planning.plan import NO_TAG, CloneBits, Op, Role
from agent.restart.planning.script import Script
from agent.table import rules

_WAIT = "wait"
"""Yielded by a life that cannot go on yet."""


class BirthOrder:
    """The births of all actors, in an order that the kernel accepts.

    Args:
        script: gets the steps.
        routes: the route of each process to its parent, from agent.restart.planning.solver.

    Attributes:
        helpers: by maker, birth session, receiver of their children, namespace, and exit signal that they hand on.
    """

    def __init__(self, script: Script, routes: dict[Node, Route]) -> None:
        self._script = script
        self._cast: Cast = script.cast
        self._routes = routes
        self._made: dict[Node, list[Node]] = {}
        self.helpers: dict[tuple[Node, Node | None, Node | None, int, int | None], Node] = {}
        self._founders: set[Node] = set()
        self._patient = True  # a child that can enter its group only at birth waits until the group is there
        self._assign_helpers()

    def _assign_helpers(self) -> None:
        """Put a helper between maker and child where the route needs one; several children share it."""
        for node, way in self._routes.items():
            maker = node.maker or self._cast.top
            if way.way in (Way.LIFTED, Way.NEPHEW):
                maker = self._helper(node, maker, way)
            node.sibling = way.way in (Way.SIBLING, Way.NEPHEW)
            node.maker = maker
            self._made.setdefault(maker, []).append(node)
        self._founders = founders(self._cast)
        for node in self._routes:
            self._pass_on(node)

    def _pass_on(self, node: Node) -> None:
        """Set `birth_pgid` of the makers of a process that inherits its group since neither sees the group's number."""
        group = _first_group(node)
        maker = node.maker.leader if node.maker is not None else None
        if self._cast.sees(node.space, group):
            return
        while maker is not None and maker.birth_pgid is None and not self._cast.sees(maker.space, group):
            if group in (maker.pgid, maker) or maker.role is Role.REAPER:
                return
            maker.birth_pgid = group
            maker = maker.maker.leader if maker.maker is not None else None

    def _helper(self, node: Node, maker: Node, way: Route) -> Node:
        parent = node.parent if way.way is Way.LIFTED else maker
        space = way.space
        signal = node.exit_signal if way.way is Way.NEPHEW else None
        key = (maker, node.birth_sid, parent, space, signal)
        helper = self.helpers.get(key)
        if helper is None:
            helper = self.helpers[key] = Node(Role.HELPER, NO_TAG, (), space)
            helper.maker = maker
            helper.exit_signal = signal
            helper.parent = parent.leader if parent is not None else None
            helper.birth_sid = node.birth_sid
            helper.sid = node.birth_sid or maker.leader.sid
            helper.pgid = helper.sid
            helper.order = node.order
            to = "/".join(map(str, helper.parent.numbers)) if helper.parent else ""
            does = (
                "leaves its children to" if parent is not maker else "bears in a namespace below what are children of"
            )
            helper.why = f"{does} {to or 'the reaper'}"
            self._made.setdefault(maker, []).append(helper)
        return helper

    def write(self) -> None:
        """Write all births.

        Raises:
            NotRebuildableError: two births wait for each other.
            CallRefusedError: the kernel would refuse a step.
        """
        top = self._cast.top
        lives: deque[tuple[Node, Iterator[str | Node]]] = deque([(top, self._life(top))])
        idle = 0
        while lives:
            node, life = lives.popleft()
            for event in life:
                if isinstance(event, Node):
                    if self._has_steps(event):
                        lives.append((event, self._life(event)))
                    idle = 0
                    continue
                lives.append((node, life))
                idle += 1
                break
            if lives and idle > len(lives) and self._patient:
                self._patient = False
                idle = 0
            if lives and idle > len(lives):
                name = "/".join(map(str, lives[0][0].numbers))
                raise NotRebuildableError(lives[0][0].tag, "circular-births", f"{name} waits for one that waits for it")

    def _has_steps(self, node: Node) -> bool:
        """Return True if a life has steps; most tasks of a tree only get born."""
        return node in self._made or (node.leader is node and (bool(node.threads) or node.leads_session))

    def _life(self, node: Node) -> Iterator[str | Node]:
        """Write a thread's steps until all are born; yield each node that it has made, and _WAIT while it waits."""
        leader = node.leader
        if leader is node:
            for thread in node.threads:
                self._script.enter(thread)
                self._script.step(Op.CLONE, node, thread, CloneBits.THREAD)
                yield thread
        children = sorted(self._made.get(node, ()), key=self._turn)
        early = [one for one in children if self._is_early(leader, one)]
        yield from self._bear_all(node, early)
        if leader is node and leader.leads_session:
            while any(not self._has_borne_early(thread) for thread in node.threads):
                yield _WAIT
            self._script.step(Op.SETSID, node)
        elif leader.leads_session:
            while len(early) < len(children) and not self._is_session_leader(leader):
                yield _WAIT
        yield from self._bear_all(node, [one for one in children if not self._is_early(leader, one)])

    def _turn(self, child: Node) -> tuple[bool, bool, tuple[int, int]]:
        """Return the sort key of a child: ghosts first, then children in the outside group, then by order of birth."""
        group = _first_group(child)
        return child.role is not Role.GHOST, group is not self._cast.outside, child.order

    def _bear_all(self, maker: Node, children: list[Node]) -> Iterator[str | Node]:
        """Bear children in their order, except that those that have to wait come later."""
        while children:
            later = []
            for child in children:
                if self._can_bear(maker, child):
                    yield from self._bear(maker, child)
                else:
                    later.append(child)
            if len(later) == len(children):
                yield _WAIT
            children = later

    def _can_bear(self, maker: Node, child: Node) -> bool:
        if not self._cast.sees(child.space, _first_group(child)):
            if self._founds_for(maker, child) and not self._has_passed_on(maker.leader):
                return False
            if self._patient and self._is_put_by_others(child) and not self._script.is_born(_first_group(child)):
                return False
        if child.space == maker.space or child.is_init:
            return True
        return self._script.is_born(self._cast.inits[child.space])

    def _has_passed_on(self, founder: Node) -> bool:
        """Return True if all children are born that must inherit the group of a founder before it founds its own."""
        return all(
            one.index >= 0
            for thread in (founder, *founder.threads)
            for one in self._made.get(thread, ())
            if not self._founds_for(thread, one) and not self._cast.sees(one.space, _first_group(one))
        )

    def _has_borne_early(self, thread: Node) -> bool:
        return all(one.index >= 0 for one in self._made.get(thread, ()) if self._is_early(thread.leader, one))

    def _is_early(self, leader: Node, child: Node) -> bool:
        """Return True for a child that is born before its maker calls setsid()."""
        return leader.leads_session and child.birth_sid is not None and child.birth_sid is not leader

    def _is_session_leader(self, leader: Node) -> bool:
        return rules.leads_session(self._script.task(leader))

    def _bear(self, maker: Node, child: Node) -> Iterator[Node]:
        cast = self._cast
        bits = CloneBits.PARENT if child.sibling else 0
        nested = child.is_init and child.space != maker.space
        entered = child.space != maker.space and not nested
        if entered:
            self._script.step(Op.ENTER, maker, cast.inits[child.space], why="its next child is born there")
        joins = self._cast.sees(child.space, _first_group(child))  # by itself, as most do
        if not joins:
            if self._founds_for(maker, child):
                self._script.found(maker.leader)
            self._put_maker(maker.leader, child)
        self._script.enter(child)
        self._script.step(Op.CLONE, maker, child, bits | (CloneBits.NEWPID if nested else 0))
        if entered:
            self._script.step(Op.ENTER, maker, maker, why="back to its own")
        if not joins:
            self._join_early(child)
        yield child

    def _founds_for(self, maker: Node, child: Node) -> bool:
        """Return True if a maker must found its own group before a birth: the child inherits it, and cannot join it."""
        group = _first_group(child)
        return maker.leader is group and group in self._founders and not self._cast.sees(child.space, group)

    def _is_put_by_others(self, child: Node) -> bool:
        """Return True for a process whose namespace has no number for its first group, so that it cannot join it."""
        group = _first_group(child)
        return child.leader is child and group is not self._cast.outside and not self._cast.sees(child.space, group)

    def _put_maker(self, maker: Node, child: Node) -> None:
        """Put a maker into the group that its child is to inherit, if its own parent sees the group's number."""
        group = _first_group(child)
        if (
            not self._is_put_by_others(child)
            or group not in (maker.birth_pgid, maker.pgid)
            or self._cast.sees(maker.space, group)
            or not self._script.is_born(group)
        ):
            return
        task, owner = self._script.task(maker), self._script.task(group)
        if task.pgid is owner.pid or task.sid is not owner.sid or rules.leads_session(task):
            return
        parent = self._script.parent_of(maker)
        if self._cast.sees(parent.space, group):
            if group in self._founders:
                self._script.found(group)
            self._script.step(Op.SETPGID, parent, maker, group.index, "its children are to be born into that group")

    def _join_early(self, child: Node) -> None:
        """Have its parent put a child into its first group, if the child was not born into it and cannot join it."""
        group = _first_group(child)
        task = self._script.task(child)
        if (
            child.leader is not child
            or group is self._cast.outside
            or self._cast.sees(child.space, group)
            or (child.leads_session and child.birth_pgid is None)
            or group.index < 0
        ):
            return
        if task.pgid is not self._script.task(group).pid:
            if group in self._founders:
                self._script.found(group)
            parent = self._script.parent_of(child)  # of a sibling, not its maker
            if self._cast.sees(parent.space, group):
                self._script.step(Op.SETPGID, parent, child, group.index, "it cannot see that group's number itself")


def _first_group(node: Node) -> Node:
    """Return the owner of the group that a node is in before it changes its group itself."""
    return node.birth_pgid or node.pgid
