# SPDX-License-Identifier: Apache-2.0
"""The part of a plan about process groups.

The owner of a group founds it, and the other members join. An owner that belongs to another group leaves its own group
once all members are there. Where owners wait for each other in a circle, a holder keeps one group alive meanwhile. A
process that has no number for its group in its namespace is put there by its parent.
"""

from agent.restart.planning.cast import Cast, Node
from agent.restart.planning.plan import NO_TAG, Op, Role
from agent.restart.planning.script import Script


def founders(cast: Cast) -> set[Node]:
    """Return the owners of groups that setpgid() has to found, not setsid()."""
    used = {node.pgid for node in cast.nodes if node.leader is node and not node.pgid.leads_session}
    return used - {cast.outside}


class Groups:
    """The steps that found, join and leave process groups.

    Args:
        script: gets the steps; every birth is written already.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._cast = script.cast
        self._founders = founders(script.cast)
        self._holders: list[Node] = []

    def write(self) -> None:
        """Write all steps."""
        movers: list[Node] = []
        for node in self._script.actors:
            if node.leader is node and node in self._founders:
                self._script.found(node)
        for node in list(self._script.actors):
            if (
                node.leader is not node
                or node.leads_session
                or node.role is Role.HELPER
                or node.pgid is self._cast.outside
            ):
                continue
            task = self._script.task(node)
            if task.pgid is self._script.task(node.pgid).pid:
                continue
            if node in self._founders:
                movers.append(node)
            else:
                self._join(node)
        self._move_owners(movers)

    def _join(self, node: Node) -> None:
        if self._cast.sees(node.space, node.pgid):
            self._script.step(Op.SETPGID, node, node, node.pgid.index)
            return
        parent = self._script.parent_of(node)
        self._script.step(Op.SETPGID, parent, node, node.pgid.index, "it cannot see that group's number itself")

    def _move_owners(self, movers: list[Node]) -> None:
        """Move owners that belong to other groups, each once its own group has all its members."""
        waiting = dict.fromkeys(movers)
        missing = dict.fromkeys(movers, 0)  # members of its group that are still to come
        for node in movers:
            if node.pgid in missing:
                missing[node.pgid] += 1
        ready = [node for node in movers if not missing[node]]
        while waiting:
            if ready:
                node = ready.pop()
            else:
                node = next(iter(waiting))
                self._holders.append(self._holder(node))
            self._join(node)
            del waiting[node]
            group = node.pgid
            if group in waiting:
                missing[group] -= 1
                if not missing[group]:
                    ready.append(group)
        for holder in self._holders:
            self._script.leave(holder)

    def _holder(self, owner: Node) -> Node:
        """Make a helper that stays in a group while its owner has left and its last members are not there yet."""
        holder = Node(Role.HELPER, NO_TAG, (), owner.space)
        holder.sid, holder.pgid, holder.maker = owner.sid, owner, owner
        holder.why = f"keeps group {'/'.join(map(str, owner.numbers))} while its owner leaves it"
        self._script.enter(holder)
        self._script.step(Op.CLONE, owner, holder)
        return holder
