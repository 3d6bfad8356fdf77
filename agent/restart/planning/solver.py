# SPDX-License-Identifier: Apache-2.0
"""The search for a maker of each task whose birth was not observed.

Theory
------
A task is born into its maker's session, and its parent must stand above its maker (agent.restart.planning.lineage).
Only a session leader can be born into one session and end in another. Only a session leader or a ghost can be made at
several places of the tree. So:

* if the parent P of a task is in the task's session at some time, P makes the task;
* else, if the leader L of its session stands below P, L makes the task, and it is lifted to P;
* else there are two arrangements to try:
  - P leads a session of its own: P may have been born into the session in question, and forked before setsid();
  - L may have been made below P, and lifted away afterwards (a dead L has no parent to go to).

Each arrangement may need others. The search tries them in that order, and takes back those that lead nowhere. It ends,
for it arranges each node at most once in each way. A bound on its steps protects it from hostile images.
"""

from typing import NamedTuple

from agent.errors import NotRebuildableError
from agent.model.signalnames import signal_name
from agent.restart.planning.cast import Cast, Node
from agent.restart.planning.lineage import Paths, Route, Way, makers, route, sessions
from agent.restart.planning.plan import Role
from agent.restart.planning.refusals import name

WORK = 2_000_000
"""Steps that a search may take, besides WORK_EACH for each process. A step looks at a process, or goes to its maker."""

WORK_EACH = 200
"""Further steps for each process; the tree of a real system takes a few rounds."""


class Arrangement(NamedTuple):
    """An assumption about a node: it is born into `session`, and made by `maker` unless that is None."""

    node: Node
    maker: Node | None
    session: Node


class Solver:
    """One search.

    Args:
        cast: its nodes that have a maker already were observed, and stay as they are.

    Attributes:
        routes: of each process but the top, once solved.
    """

    def __init__(self, cast: Cast) -> None:
        self._cast = cast
        self._observed = {node for node in cast.nodes if node.maker is not None}
        self._arranged: dict[Node, Arrangement] = {}
        self._processes = [node for node in cast.nodes if node.leader is node and node is not cast.top]
        self._children: dict[Node, list[Node]] = {}
        for node in self._processes:
            if node.parent is not None:
                self._children.setdefault(node.parent.leader, []).append(node)
        self._paths = Paths(WORK + WORK_EACH * len(self._processes))
        self._sound: set[Node] = set()  # processes whose makers lead to the top, with the present arrangements
        self.routes: dict[Node, Route] = {}

    def solve(self) -> None:
        """Give every process a maker and a birth session.

        Raises:
            NotRebuildableError: no way is known; the error names the first task without one.
        """
        for node in self._processes:
            self._assign(node)
        stuck = self._search()
        if stuck is not None:
            raise self._refusal(stuck)
        unplaced = [node for node in self._processes if node.role is Role.GHOST and node.maker is None]
        for node in unplaced:
            self._place_ghost(node)
        if unplaced:  # which may make others
            self._sound.clear()
            self._paths.forget()
            self.routes = {}
        for node in self._processes:
            found = self.routes.get(node) or self._route(node)
            if found is None:
                raise self._refusal(node)
            self.routes[node] = found
        self._forget_signals()

    def _assign(self, node: Node) -> None:
        """Set birth session and maker of a node, as far as observed births and arrangements decide them."""
        if node in self._observed:
            if node.birth_sid is None:  # a session without members: that of its maker will do
                maker = node.maker
                node.birth_sid = maker.leader.sid if maker is not None else None
            return
        arranged = self._arranged.get(node)
        parent = node.parent
        if node.role is Role.GHOST:
            node.maker, node.birth_sid = (arranged.maker, arranged.session) if arranged else (None, None)
            return
        if parent is None:
            return
        session = arranged.session if arranged else parent.leader.sid if node.leads_session else node.sid
        node.birth_sid = session
        if arranged and arranged.maker is not None:
            node.maker = arranged.maker
        else:
            node.maker = parent if session in sessions(parent) else session

    def _search(self) -> Node | None:
        """Arrange until all nodes can be made; return None then, else the first node that cannot be made."""
        processes = [node for node in self._processes if node.role is Role.TASK or node.maker is not None]
        stack: list[tuple[list[Arrangement], Arrangement]] = []
        first_stuck: Node | None = None
        at, clean = 0, 0
        while clean < len(processes):
            node = processes[at]
            if self._paths.left < 0:
                raise self._exhausted(first_stuck or node)
            found = self._route(node)
            if found is not None:
                self.routes[node] = found
                at = (at + 1) % len(processes)
                clean += 1
                continue
            first_stuck = first_stuck or node
            clean = 0
            options = self._arrangements(node)
            while not options and stack:
                options, taken_back = stack.pop()
                del self._arranged[taken_back.node]
                self._reassign(taken_back.node)
            if not options:
                return first_stuck
            chosen, *others = options
            stack.append((others, chosen))
            self._arranged[chosen.node] = chosen
            self._reassign(chosen.node)
        return None

    def _reassign(self, node: Node) -> None:
        self.routes.clear()
        self._sound.clear()
        self._paths.forget()
        self._assign(node)
        children = self._children.get(node, ())
        self._paths.left -= len(children) + 1
        for child in children:
            self._assign(child)

    def _route(self, node: Node) -> Route | None:
        """Return the route of a task with the present arrangements; None if there is none."""
        maker, session = node.maker, node.birth_sid
        self._paths.left -= 1
        if maker is None or maker is self._cast.outside or maker.leader is node:
            return None
        if session is not None and session not in sessions(maker):
            return None
        if self._runs_in_a_circle(node):
            return None  # it would have to be there before itself
        return route(self._cast, maker, node, self._paths)

    def _runs_in_a_circle(self, node: Node) -> bool:
        """Return True if a process is among its own makers; a process below a sound one is not looked at again."""
        walked = [node]
        for above in makers(node):
            leader = above.leader
            if leader is node:
                return True
            if leader in self._sound:
                break
            walked.append(leader)
        else:
            self._paths.left -= len(walked)
            at = walked[-1].maker
            if at is not None and at.leader in walked:
                return False  # it stands below a circle, which is found for a member of the circle
        self._paths.left -= len(walked)
        self._sound.update(walked)
        return False

    def _arrangements(self, node: Node) -> list[Arrangement]:
        """Return the arrangements that may allow a node to be made, in the order in which to try them."""
        parent, session, cast = node.parent, node.birth_sid, self._cast
        if parent is None or session is None:
            return []
        above = parent.leader
        found = []
        if self._is_free(session) and session.role is Role.GHOST:
            found.append(Arrangement(session, parent, above.sid))
        if self._is_free(above) and above.leads_session and above not in (cast.top, session):
            found.append(Arrangement(above, None, session))
        if self._is_free(session) and session.role in (Role.TASK, Role.KEEPER):
            births = dict.fromkeys(birth for birth in (above.sid, above.birth_sid) if birth is not None)
            found += [Arrangement(session, parent, birth) for birth in births if birth is not session]
        return found

    def _is_free(self, node: Node) -> bool:
        return node not in self._arranged and node not in self._observed

    def _place_ghost(self, ghost: Node) -> None:
        """Give a ghost a maker: any process of its session that can have children in its namespace.

        Raises:
            NotRebuildableError: there is none.
        """
        cast = self._cast
        if ghost.maker is not None:
            return
        if ghost.leads_session:
            ghost.maker, ghost.birth_sid = self._anybody(ghost, None), None
            ghost.birth_sid = ghost.maker.leader.sid if ghost.maker else None
        else:
            ghost.birth_sid = ghost.sid
            ghost.maker = self._anybody(ghost, ghost.sid)
        if ghost.maker is None:
            text = (
                f"no process of its session can make {'/'.join(map(str, ghost.numbers))}, whose number is still in use"
            )
            raise NotRebuildableError(ghost.tag, "ghost-without-maker", text)
        if not cast.pidns and ghost.maker is cast.outside:
            raise NotRebuildableError(ghost.tag, "outside-id", "a group of the session outside cannot be made")

    def _anybody(self, ghost: Node, session: Node | None) -> Node | None:
        cast = self._cast
        if session is not None and session not in (cast.outside, ghost) and session.space in cast.chain(ghost.space):
            return session
        best: Node | None = None
        for node in cast.nodes:
            fits = session is None or session in sessions(node)  # at some time
            if fits and node is not ghost and node.leader is node and node.space in cast.chain(ghost.space):
                if (node.role is Role.GHOST and node.maker is None) or any(one.leader is ghost for one in makers(node)):
                    continue
                if not node.exits:
                    return node
                best = best or node
        return best

    def _forget_signals(self) -> None:
        """Leave the exit signal open for ghosts that make no siblings: no task inherits it."""
        used = {
            node.maker.leader for node, way in self.routes.items() if way.way is Way.SIBLING and node.maker is not None
        }
        for ghost in self._cast.ghosts:
            if ghost not in used:
                ghost.exit_signal = None

    def _exhausted(self, node: Node) -> NotRebuildableError:
        text = (
            f"{name(node)}: no order of births was found in {self._paths.budget} steps, which is as many as are tried for "
            f"{len(self._processes)} processes"
        )
        return NotRebuildableError(node.tag, "search-bound", text)

    def _refusal(self, node: Node) -> NotRebuildableError:
        for each in filter(None, (node, node.parent, node.birth_sid)):
            if each.leader.changed is not None:
                return _of_changed(each.leader, each.leader.changed)
        name = "/".join(map(str, node.numbers))
        parent = (
            "/".join(map(str, node.parent.numbers)) if node.parent is not None and node.parent.numbers else "outside"
        )
        session = node.birth_sid
        of = (
            "outside"
            if session is None or session is self._cast.outside
            else "/".join(map(str, session.numbers)) or "?"
        )
        text = (
            f"{name} was born into session {of} and has the parent {parent}: no order of births known here leads there"
        )
        return NotRebuildableError(node.tag, "session-of-another-line", text)


def _of_changed(node: Node, maker: Node) -> NotRebuildableError:
    sent = signal_name(node.exit_signal or 0)
    text = (
        f"{name(node)} has the exit signal {sent}, which its maker {name(maker)} handed on with CLONE_PARENT: "
        f"that one has called exec() since, or has got another parent, and so has SIGCHLD itself"
    )
    return NotRebuildableError(node.tag, "exit-signal", text)
