# SPDX-License-Identifier: Apache-2.0
"""The ways by which a task comes to the parent that it must have, given its maker.

No task exits while all are born, so the maker of a task stands above it, and so do the makers of makers. There are four
ways to a parent P:

* P makes the task;
* a nephew: the task is the init of a namespace two levels down or more, so P forks a helper into the namespace above
  it, and the helper makes the task with CLONE_PARENT;
* a sibling: another child of P makes it with CLONE_PARENT;
* it is lifted: its maker forks a helper, the helper forks it and exits, and it goes to the nearest subreaper above the
  helper on the level of the helper's pid namespace, else to that namespace's init. P is made subreaper for that moment.

Each way decides the exit signal of the task. A maker that is its parent chooses the signal. A sibling hands its own
signal on. A task that is lifted has SIGCHLD: reparent_leader(), kernel/exit.c.

Helpers exit from the bottom up, so every task above another one at its birth is still there when that one is lifted.
"""

from collections.abc import Iterable, Iterator
from enum import Enum
from itertools import chain
from typing import NamedTuple

from agent.restart.planning.cast import Cast, Node
from agent.restart.planning.plan import Role
from agent.table.rules import SIGCHLD


class Way(Enum):
    """The four ways to a parent; see the module."""

    DIRECT = "direct"
    SIBLING = "sibling"
    NEPHEW = "nephew"
    LIFTED = "lifted"


class Route(NamedTuple):
    """A way; `space` is the helper's namespace for a lift and a nephew."""

    way: Way
    space: int = 0


class Paths:
    """The paths from makers upward with the present makers, and the budget left for walking them.

    Args:
        budget: steps; each goes from a process to its maker, or looks at one process.
    """

    def __init__(self, budget: int) -> None:
        self.budget = self.left = budget
        self._leads: dict[Node, dict[Node, bool]] = {}

    def forget(self) -> None:
        """Forget all known paths; to be called when a node has got another maker."""
        self._leads.clear()

    def lead_to(self, receiver: Node, maker: Node) -> bool:
        """Return True if a receiver stands above a maker's children, and all makers in between share one namespace."""
        leads = self._leads.setdefault(receiver, {})
        walked: list[Node] = []
        found = False
        for above in chain((maker,), makers(maker)):
            if above.space != maker.space:
                break
            known = leads.get(above)
            if known is not None:
                found = known
                break
            walked.append(above)
            if above.leader is receiver:
                found = above.leader is not maker.leader or above.role is not Role.HELPER
                break
        self.left -= len(walked) + 1
        leads.update(dict.fromkeys(walked, found))
        return found


def makers(node: Node) -> Iterator[Node]:
    """Yield the maker of a node, the maker of that, and so on; stop where they run in a circle."""
    seen = set()
    at = node.leader.maker
    while at is not None and at not in seen:
        seen.add(at)
        yield at
        at = at.leader.maker


def depths(nodes: Iterable[Node]) -> dict[Node, int]:
    """Return the number of makers above each node, and above each of its makers; they must not run in a circle."""
    found: dict[Node, int] = {}
    for node in nodes:
        walked: list[Node] = []
        at: Node | None = node
        while at is not None and at not in found:
            walked.append(at)
            at = at.leader.maker
        depth = found[at] if at is not None else -1
        for below in reversed(walked):
            depth += 1
            found[below] = depth
    return found


def sessions(node: Node) -> set[Node]:
    """Return the sessions that a thread is in at some time."""
    leader = node.leader
    found = {leader.birth_sid} if leader.birth_sid is not None else set()
    if leader.sid is leader:
        found.add(leader)
    elif leader.birth_sid is None:
        found.add(leader.sid)
    return found


def may_make(cast: Cast, maker: Node, node: Node) -> bool:
    """Return True if a thread can have children in the namespace of a node."""
    return maker.space in cast.chain(node.space)


def route(cast: Cast, maker: Node, node: Node, paths: Paths) -> Route | None:
    """Return the route by which a node made by `maker` comes to its parent; None if there is none."""
    parent = node.parent
    if not may_make(cast, maker, node):
        return None
    is_init = maker.space != node.space and node.is_init
    above = cast.spaces[node.space] if is_init else None
    nested = above is not None and above != maker.space  # takes a helper in between
    liftable = node.exit_signal in (None, SIGCHLD)
    if nested and above is not None and liftable and (parent is None or cast.inits.get(above) is parent.leader):
        return Route(Way.LIFTED, above) if parent is None or _receives(parent) else None
    if nested and above is not None and parent is maker:
        return Route(Way.NEPHEW, above)
    if parent is None or parent is maker:
        return Route(Way.DIRECT)
    can_be_sibling = (
        parent_of(maker) is parent
        and cast.inits.get(maker.space) is not maker.leader
        and hands_on(maker.leader, node.exit_signal)
    )
    if node.sibling and can_be_sibling and not nested:
        return Route(Way.SIBLING)
    receiver = parent.leader if _receives(parent) and liftable else None
    if receiver is not None and not nested:
        if _adopts(cast, maker, receiver, paths):
            return Route(Way.LIFTED, maker.space)
        if maker.space != node.space and not is_init and cast.inits.get(node.space) is receiver:
            return Route(Way.LIFTED, node.space)
    if can_be_sibling and not nested:
        return Route(Way.SIBLING)
    return None


def hands_on(leader: Node, exit_signal: int | None) -> bool:
    """Return True if a child made with CLONE_PARENT has this exit signal, which is that of its maker; None is any."""
    return leader.exit_signal is None or exit_signal is None or leader.exit_signal == exit_signal


def parent_of(node: Node) -> Node | None:
    """Return the parent of a thread once all are born; the parent of a ghost is its maker."""
    leader = node.leader
    return leader.maker if leader.role is Role.GHOST else leader.parent


def _receives(parent: Node) -> bool:
    """Return True if orphans that come to a process become children of this thread: the first that lives.

    The kernel's source of the rule: find_alive_thread(), kernel/exit.c.
    """
    leader = parent.leader
    return parent is leader or (leader.exits and bool(leader.threads) and leader.threads[0] is parent)


def _adopts(cast: Cast, maker: Node, receiver: Node, paths: Paths) -> bool:
    """Return True if the children of a helper that `maker` forked go to `receiver` when the helper exits."""
    if cast.inits.get(maker.space) is receiver and (cast.pidns or maker.space):
        return True
    return paths.lead_to(receiver, maker)
