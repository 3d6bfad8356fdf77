# SPDX-License-Identifier: Apache-2.0
"""Who has to be there for a tree: its tasks, those that hold the numbers of the dead, and what stands above the root.

A node knows what it has to be in the end (`parent`, `sid`, `pgid`); how it comes to be so (`maker`, `birth_sid`) is for
restart.replay and restart.solver to say. Sessions and groups are nodes too: the one that leads them. Two nodes are
nobody: `outside` stands for the session and group that the top of the tree inherits from whoever rebuilds it.
"""

from collections import Counter
from collections.abc import Iterator

from agent.errors import NotRebuildableError
from agent.model import CKPT_PID_ROOT, Snapshot, Task, TaskState
from agent.restart.plan import Role


class Node:
    """A thread to be made.

    Attributes:
        role: see plan.Role.
        tag: of its pid object; 0 for who has none in the image.
        numbers: from the root's namespace inward; empty: any.
        space: id of its pid namespace; `spaces` of the Cast has all.
        task: its row; None for who is no task.
        leader: of its thread group; itself for a process.
        threads: the group's others, in the order in which they are to be made.
        parent: the thread that must be its parent in the end; None: nobody of the tree, or all the same.
        sid, pgid: of the group, in the end; a leader's own are authoritative.
        maker: the thread that calls clone() for it; None while not known.
        birth_sid: the session it is born into; None while not known, or all the same.
        birth_pgid: the group it must be born into, because it can never join it; None: all the same.
        sibling: it is made with CLONE_PARENT.
        order: of its birth among those of one maker; observed ones as they were, else by number.
        why: for people.
        index: of its actor, once it has one.
    """

    __slots__ = (
        *(
            "birth_pgid",
            "birth_sid",
            "index",
            "leader",
            "maker",
            "numbers",
            "order",
            "parent",
            "pgid",
            "role",
            "sibling",
        ),
        *("sid", "space", "tag", "task", "threads", "why"),
    )

    def __init__(self, role: Role, tag: int, numbers: tuple[int, ...], space: int, task: Task | None = None) -> None:
        self.role = role
        self.tag = tag
        self.numbers = numbers
        self.space = space
        self.task = task
        self.leader = self
        self.threads: list[Node] = []
        self.parent: Node | None = None
        self.sid: Node = self
        self.pgid: Node = self
        self.maker: Node | None = None
        self.birth_sid: Node | None = None
        self.birth_pgid: Node | None = None
        self.sibling = False
        self.order = (0, 0)
        self.why = ""
        self.index = -1

    def __repr__(self) -> str:
        return f"<{self.role} {'/'.join(map(str, self.numbers)) or 'any'}>"

    @property
    def leads_session(self) -> bool:
        """It calls setsid() at some time."""
        return self.leader.sid is self.leader

    @property
    def exits(self) -> bool:
        """It will not be alive in the end."""
        if self.task is None:
            return self.role is not Role.REAPER
        return self.task.state in (TaskState.ZOMBIE, TaskState.DEAD_LEADER)


class Cast:
    """All nodes of a snapshot.

    Args:
        snapshot: sound, as the readers leave it.
        pidns: it gets a pid namespace of its own.

    Attributes:
        outside: the session, and the group, that the top inherits.
        top: the reaper where there is one, else the root's.
        root: of the tree.
        nodes: all but `outside`: the top first, tasks in the order of the snapshot, then ghosts.
        spaces: for each namespace the one above it; None for the root's, which has id 0.
        inits: the init of each namespace but that of the top.

    Raises:
        NotRebuildableError: a rule of the kernel stands in the way, whatever the history.
    """

    def __init__(self, snapshot: Snapshot, *, pidns: bool = True) -> None:
        self.snapshot = snapshot
        self.pidns = pidns
        self.outside = Node(Role.REAPER, 0, (), -1)
        self.by_tag: dict[int, Node] = {}
        chains = _chains(snapshot)
        self.spaces: dict[int, int | None] = {}
        for chain in chains:
            for above, space in zip((None, *chain), chain, strict=False):
                self.spaces[space] = above
        first = snapshot.first_tag
        self.tasks: list[Node] = []
        for row in snapshot.tasks:
            numbers = snapshot.pids[row.pid - first].numbers
            node = Node(Role.TASK, row.pid, numbers, chains[row.pid - first][-1], row)
            self.by_tag[row.pid] = node
            self.tasks.append(node)
        self.root = self.tasks[0]
        self.top = self._top(snapshot, first)
        self.ghosts: list[Node] = []
        for tag, pid in enumerate(snapshot.pids, first):
            if tag not in self.by_tag:
                ghost = Node(Role.GHOST, tag, pid.numbers, chains[tag - first][-1])
                self.by_tag[tag] = ghost
                self.ghosts.append(ghost)
        self._relate()
        self.nodes = [*([self.top] if self.top is not self.root else []), *self.tasks, *self.ghosts]
        self.inits = {node.space: node for node in self.nodes if node.numbers[-1:] == (1,) and node.space}
        if pidns:
            self.inits[0] = self.top
        self._refuse_hopeless()

    def _top(self, snapshot: Snapshot, first: int) -> Node:
        if self.root.numbers == (1,) and self.pidns:
            return self.root
        top = Node(Role.REAPER, 0, (1,) if self.pidns else (), 0)
        top.why = "init of the new pid namespace" if self.pidns else "adopts orphans"
        top.sid = top.pgid = self.outside
        if self.pidns:
            for tag, pid in enumerate(snapshot.pids, first):
                if pid.numbers == (1,):  # what the init was to the tree, the reaper is
                    top.tag = tag
                    self.by_tag[tag] = top
        return top

    def _id(self, tag: int) -> Node:
        if tag == 0:
            return self.outside
        if tag == CKPT_PID_ROOT:
            return self.top if self.pidns and self.top is not self.root else self.outside
        return self.by_tag[tag]

    def _relate(self) -> None:
        members: dict[Node, list[Node]] = {}
        for node, row in zip(self.tasks, self.snapshot.tasks, strict=True):
            node.leader = self.by_tag[row.tgid]
            node.parent = self.by_tag[row.ppid] if row.ppid else None
            node.sid, node.pgid = self._id(row.sid), self._id(row.pgid)
            birth = row.birth
            node.order = (0, birth.order) if birth is not None and birth.order is not None else (1, node.numbers[-1])
            if node.leader is not node:
                node.leader.threads.append(node)
            else:
                for owner in {node.sid, node.pgid}:
                    members.setdefault(owner, []).append(node)
        for node in self.tasks:
            node.threads.sort(key=lambda one: one.order)
        if self.top is not self.root:
            self.root.parent = self.top
            for thread in self.root.threads:
                thread.parent = self.top
            if any(node.sid is self.top for node in self.tasks):
                self.top.sid = self.top.pgid = self.top
        self.top.birth_sid = self.outside
        for ghost in self.ghosts:
            self._relate_ghost(ghost, members.get(ghost, []))

    def _relate_ghost(self, ghost: Node, users: list[Node]) -> None:
        leads = any(user.sid is ghost for user in users)
        ghost.why = "its session has members" if leads else "its group has members" if users else "its number is held"
        ghost.order = (1, ghost.numbers[-1])
        if leads:
            ghost.sid = ghost.pgid = ghost
        else:
            ghost.sid = users[0].sid if users else self.top.sid
            ghost.pgid = ghost if users else ghost.sid

    def _refuse_hopeless(self) -> None:
        crowd = Counter(space for node in self.tasks if node.leader is node for space in self.chain(node.space))
        inhabited = {space for node in self.tasks for space in self.chain(node.space)}
        founded = {node.pgid for node in self.nodes if not node.pgid.leads_session}
        for node in self.nodes:
            row = node.task
            name = "/".join(map(str, node.numbers))
            if any(space and space not in self.inits for space in self.chain(node.space)):
                raise NotRebuildableError(
                    node.tag, "namespace-without-init", f"{name} is in a pid namespace that has no init"
                )
            if node.role is Role.GHOST and self._is_init(node) and node.space in inhabited:
                raise NotRebuildableError(
                    node.tag, "dead-init", f"{name} was the init of a pid namespace, which dies with it"
                )
            if row is None:
                continue
            dead = row.state is TaskState.ZOMBIE and node is self.inits.get(node.space)
            if dead and crowd[node.space] > 1:
                text = (
                    f"the init {name} waits within its exit for others of its namespace, whose parents do not reap them"
                )
                raise NotRebuildableError(node.tag, "dying-namespace", text)
            if row.state is TaskState.ZOMBIE and self.inits.get(node.space) is node and self._holds_ghosts(node.space):
                text = f"the init {name} is dead, and numbers of its namespace are held that nobody can take any more"
                raise NotRebuildableError(node.tag, "dead-init", text)
            if node.leader.role is not Role.TASK:
                raise NotRebuildableError(
                    node.tag, "leader-without-task", f"the leader of {name}'s thread group has no task"
                )
            if node.leader is not node and row.state in (TaskState.ZOMBIE, TaskState.DEAD_LEADER):
                raise NotRebuildableError(
                    node.tag, "zombie-thread", f"{name} is a dead thread that only its tracer keeps"
                )
            if self._is_init(node) and node.pgid is not node and node.pgid.space == node.space:
                text = f"the init {name} is in a group of its own namespace, and could never end"
                raise NotRebuildableError(node.tag, "init-in-inner-group", text)
            if node.leader is node and node.pgid is self.outside and node in founded:
                text = f"{name} has founded its group and is in one outside, where nobody of the tree can put it"
                raise NotRebuildableError(node.tag, "outside-id", text)
            if not self.pidns and node.leader is node and self.outside in (node.sid, node.pgid) and row.sid == 0:
                raise NotRebuildableError(
                    node.tag, "outside-id", f"{name}'s session has no number here: that takes a new pid namespace"
                )

    def _is_init(self, node: Node) -> bool:
        """In the caller's namespace nobody of the tree is, whatever the number."""
        return node.numbers[-1] == 1 and (self.pidns or node.space != 0)

    def _holds_ghosts(self, space: int) -> bool:
        return any(space in self.chain(ghost.space) for ghost in self.ghosts)

    # ---- namespaces ------------------------------------------------------------------------------------------------

    def chain(self, space: int) -> Iterator[int]:
        """A namespace and those above it."""
        at: int | None = space
        while at is not None:
            yield at
            at = self.spaces.get(at)

    def level(self, space: int) -> int:
        """How deep a namespace is below the root's; `outside` is -1."""
        return sum(1 for _ in self.chain(space)) - 1 if space >= 0 else -1

    def sees(self, space: int, pid: Node) -> bool:
        """Whether a pid object has a number in a namespace."""
        return pid is not self.outside and space in self.chain(pid.space)


def _chains(snapshot: Snapshot) -> list[tuple[int, ...]]:
    """For each pid object its namespaces; where the image says nothing of them, as the shape of the tree has them."""
    if all(len(pid.namespaces) == len(pid.numbers) for pid in snapshot.pids) and snapshot.namespaces:
        if any(-1 in pid.namespaces for pid in snapshot.pids):
            raise NotRebuildableError(0, "namespace-unknown", "the image does not say in which namespace a pid is")
        return [pid.namespaces for pid in snapshot.pids]
    first = snapshot.first_tag
    chains: dict[int, tuple[int, ...]] = {}
    last = 0
    for row in snapshot.tasks:
        numbers = snapshot.pids[row.pid - first].numbers
        above = chains.get(row.ppid, (0,))
        depth = len(numbers) - 1
        if row.tgid != row.pid and row.tgid in chains:
            chains[row.pid] = chains[row.tgid]
        elif depth and numbers[-1] == 1 and len(above) >= depth:
            last += 1
            chains[row.pid] = (*above[:depth], last)
        elif len(above) > depth:
            chains[row.pid] = above[: depth + 1]
        else:
            text = f"{'/'.join(map(str, numbers))} entered a namespace, and the image does not say which"
            raise NotRebuildableError(row.pid, "namespace-unknown", text)
    for row in snapshot.tasks:
        for tag in (row.tgid, row.pgid, row.sid):
            if tag >= first and tag not in chains:
                depth = len(snapshot.pids[tag - first].numbers)
                if len(chains[row.pid]) >= depth:
                    chains[tag] = chains[row.pid][:depth]
    for tag, pid in enumerate(snapshot.pids, first):
        if tag not in chains:
            if len(pid.numbers) > 1:
                text = f"nobody tells in which namespace {'/'.join(map(str, pid.numbers))} is"
                raise NotRebuildableError(tag, "namespace-unknown", text)
            chains[tag] = (0,)
    return [chains[tag] for tag in range(first, first + len(snapshot.pids))]
