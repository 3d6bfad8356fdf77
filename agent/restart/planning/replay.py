# SPDX-License-Identifier: Apache-2.0
"""The creator of each task, from the birth history of the snapshot.

A birth names the thread that called clone(). A creator that is gone need not be made again unless it led a session that
still has members: without such a session it spent its life in the session that it was born into, so its own creator can
make its children just as well. The leaders of sessions that still have members are ghosts anyway. A thread that is gone
is replaced by any thread of its group.
"""

from agent.model import Birth, OutsidePid, PidRef, Snapshot, Tag
from agent.restart.planning.cast import Cast, Node
from agent.restart.planning.lineage import hands_on


def replay(cast: Cast) -> None:
    """Fill in maker and birth session of all nodes whose birth was observed; the others keep None."""
    snapshot = cast.snapshot
    for node in cast.tasks:
        birth = node.task.birth if node.task is not None else None
        if node.leader is node and node is not cast.root and birth is not None and birth.observed:
            _follow(cast, node, birth)
    for ancestor in snapshot.ancestors:
        ghost = _session_ghost(cast, snapshot, ancestor.id)
        if ghost is not None and ancestor.birth.observed and ghost.maker is None:
            _follow(cast, ghost, ancestor.birth)
            ghost.order = (0, ancestor.birth.order or 0)


def _follow(cast: Cast, node: Node, birth: Birth) -> None:
    session = _session(cast, birth.sid)
    maker = _maker(cast, birth, session)
    sibling = "CLONE_PARENT" in birth.flags
    if maker is None or maker is node:
        return
    if sibling and not hands_on(maker.leader, node.exit_signal):
        node.changed = maker  # it has called exec() since, or a new parent: each makes its exit signal SIGCHLD
        return
    node.maker = maker
    node.birth_sid = session if node.leads_session else node.sid
    node.sibling = sibling
    group = _session(cast, birth.pgid)
    if group is not None and not cast.sees(node.space, group) and group is not cast.outside:
        node.birth_pgid = group


def _session(cast: Cast, ref: PidRef | None) -> Node | None:
    """Return the leader of a session or group of a birth; None: no task of the image is in it, so any will do."""
    if ref is None or isinstance(ref, OutsidePid):
        return None
    if ref >= cast.snapshot.first_tag:
        return cast.by_tag[ref]
    return cast.outside if ref == 0 else cast.top if cast.top is not cast.root and cast.pidns else cast.outside


def _maker(cast: Cast, birth: Birth, session: Node | None) -> Node | None:
    """Return the nearest creator that is a node; None if the history does not reach one."""
    ancestors = cast.snapshot.ancestors
    creator = birth.creator
    for _ in range(len(ancestors) + 1):
        if creator is None:
            return None
        if creator.tag is not None:
            return cast.by_tag.get(creator.tag)
        ancestor = ancestors[creator.ancestor or 0]
        ghost = _session_ghost(cast, cast.snapshot, ancestor.id)
        if ghost is not None and (session is ghost or session is None):
            return ghost
        if not ancestor.birth.observed:
            return None
        creator = ancestor.birth.creator
    return None


def _session_ghost(cast: Cast, snapshot: Snapshot, ancestor: int) -> Node | None:
    """Return the ghost of an ancestor whose session has members; None if it has none."""
    row = snapshot.ancestors[ancestor]
    for event in row.events:
        if event.event == "setsid" and isinstance(event.value, int) and event.value >= snapshot.first_tag:
            node = cast.by_tag[Tag(event.value)]
            if node.task is None and node.numbers == row.numbers and node.sid is node:
                return node
    return None
