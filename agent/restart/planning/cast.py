# SPDX-License-Identifier: Apache-2.0
"""The cast of a rebuild: a node for each thread to be made, tasks, ghosts and keepers, and for the top above the root.

A node says what its thread has to be in the end (`parent`, `sid`, `pgid`). agent.restart.planning.replay and
agent.restart.planning.solver find how it comes to be so (`maker`, `birth_sid`). The node of its leader represents a
session or group. The node `outside` is no thread: it represents the session and group that the top of the tree inherits
from the process that rebuilds it.

A pid namespace needs an init. If the init of a namespace is no task of the tree, and a task or number of the tree is in
that namespace, then a *keeper* is its init: a child of the reaper that stands above the root.
"""

from collections import Counter
from collections.abc import Iterable

from agent.errors import NotRebuildableError
from agent.model import CKPT_PID_ROOT, Snapshot, Tag, Task, TaskState
from agent.restart.planning.plan import NO_TAG, Role
from agent.table.rules import SIGCHLD


class Node:
    """A thread to be made.

    Attributes:
        role: see agent.restart.planning.plan.Role.
        tag: of its pid object; 0 if the image has no such pid object.
        numbers: from the root's namespace inward; empty: any.
        space: id of its pid namespace, a key of Cast.spaces.
        task: its row in the image; None for a node that is no task of the image.
        leader: of its thread group; itself for a process.
        threads: the other threads of its group, in the order in which they are to be made.
        parent: the thread that must be its parent in the end; None: a process outside of the tree, or any.
        sid, pgid: the leaders of its session and group in the end; valid for a thread group's leader.
        maker: the thread that calls clone() for it; None while not known.
        birth_sid: the leader of the session that it is born into; None while not known, or if any will do.
        birth_pgid: the owner of the group that it must be born into, because it can never join it; None: any.
        sibling: it is made with CLONE_PARENT.
        order: of its birth among those of one maker: the observed order, else the order of the numbers.
        exit_signal: the exit signal of the process; None: any.
        changed: the thread that made it with CLONE_PARENT and handed its exit signal on, and has another one since; else
            None.
        lingers: True for an init that has exited, or the last of its threads, and waits within its exit until no other
            number of its namespace is in use.
        why: the reason for a node that is no task, as text for the user.
        index: of its actor; -1 before Script.enter().
    """

    __slots__ = (
        *(
            "birth_pgid",
            "birth_sid",
            "changed",
            "exit_signal",
            "index",
            "leader",
            "lingers",
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

    def __init__(self, role: Role, tag: Tag, numbers: tuple[int, ...], space: int, task: Task | None = None) -> None:
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
        self.changed: Node | None = None
        self.order = (0, 0)
        signal = task.exit_signal if task is not None else None
        self.exit_signal = signal if signal is not None and signal >= 0 else None
        self.lingers = False
        self.why = ""
        self.index = -1

    def __repr__(self) -> str:
        return f"<{self.role} {'/'.join(map(str, self.numbers)) or 'any'}>"

    @property
    def is_init(self) -> bool:
        """True for the init of a pid namespace."""
        return self.role is Role.KEEPER or self.numbers[-1:] == (1,)

    @property
    def leads_session(self) -> bool:
        """True for a process that leads a session in the end, so calls setsid(), and for its threads."""
        return self.leader.sid is self.leader

    @property
    def waits_in_exit(self) -> bool:
        """True if a thread of its group, the leader included, lingers."""
        return any(thread.lingers for thread in (self.leader, *self.leader.threads))

    @property
    def exits(self) -> bool:
        """True for a thread that has exited when the rebuild is done."""
        if self.task is None:
            return self.lingers or self.role not in (Role.REAPER, Role.KEEPER)
        return self.task.state in (TaskState.ZOMBIE, TaskState.DEAD_LEADER)


class Cast:
    """All nodes of a snapshot.

    Args:
        snapshot: one that the readers of exporters have checked.
        pidns: True: the tree gets a pid namespace of its own.

    Attributes:
        outside: stands for the session and the group that the top inherits.
        top: the reaper if there is one, else the root.
        root: the root of the tree.
        nodes: all but `outside`: the top, tasks in the order of the snapshot, ghosts, keepers.
        keepers: those of outer namespaces before those of inner ones.
        spaces: for each namespace the one above it; None for the root's, which has id 0.
        inits: the init of each namespace; without `pidns`, of each but the caller's, which has id 0.

    Raises:
        NotRebuildableError: the image does not say in which namespace a pid object is.
    """

    def __init__(self, snapshot: Snapshot, *, pidns: bool = True) -> None:
        self.snapshot = snapshot
        self.pidns = pidns
        self.outside = Node(Role.REAPER, NO_TAG, (), -1)
        self.by_tag: dict[Tag, Node] = {}
        chains = _chains(snapshot)
        self.spaces: dict[int, int | None] = {}
        self._chains: dict[int, tuple[int, ...]] = {}
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
        self.top = self._top(snapshot)
        self.ghosts: list[Node] = []
        for tag, pid in snapshot.tagged():
            if tag not in self.by_tag:
                ghost = Node(Role.GHOST, tag, pid.numbers, chains[tag - first][-1])
                self.by_tag[tag] = ghost
                self.ghosts.append(ghost)
        self.keepers: list[Node] = []
        self._relate()
        self.inits = {node.space: node for node in (*self.tasks, *self.ghosts) if node.is_init and node.space}
        if pidns:
            self.inits[0] = self.top
        self._keep_namespaces()
        self.nodes = [*([self.top] if self.top is not self.root else []), *self.tasks, *self.ghosts, *self.keepers]
        self._tell_who_lingers()

    def _top(self, snapshot: Snapshot) -> Node:
        if self.root.numbers == (1,) and self.pidns:
            return self.root
        top = Node(Role.REAPER, NO_TAG, (1,) if self.pidns else (), 0)
        top.why = "init of the new pid namespace" if self.pidns else "adopts orphans"
        top.sid = top.pgid = self.outside
        if self.pidns:
            for tag, pid in snapshot.tagged():
                if pid.numbers == (1,):  # the reaper takes the place of that init
                    top.tag = tag
                    self.by_tag[tag] = top
        return top

    def _id(self, tag: Tag) -> Node:
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
            ghost.exit_signal = _handed_on(user for user in users if user.sid is ghost)
        else:
            ghost.sid = users[0].sid if users else self.top.sid
            ghost.pgid = ghost if users else ghost.sid

    def _keep_namespaces(self) -> None:
        """Give a keeper to each namespace whose init is no task of the tree, or is gone but for its number."""
        crowd = Counter(space for tag in self.by_tag.values() for space in self.chain(tag.space))
        for ghost in tuple(self.ghosts):
            if ghost.is_init and ghost.space and crowd[ghost.space] > 1:
                self.ghosts.remove(ghost)
                ghost.role = Role.KEEPER
                ghost.parent = self.top
                self.keepers.append(ghost)
        for space in self.spaces:
            if space and space not in self.inits:
                keeper = self.inits[space] = Node(Role.KEEPER, NO_TAG, (), space)
                keeper.parent = self.top
                keeper.sid, keeper.pgid = self.top.sid, self.top.pgid
                keeper.order = (-1, self.level(space))
                self.keepers.append(keeper)
        self.keepers.sort(key=lambda keeper: self.level(keeper.space))
        for keeper in self.keepers:
            keeper.why = "init of a pid namespace whose own was none of the tree"

    def _tell_who_lingers(self) -> None:
        """Set `lingers`: for dead inits of namespaces with other numbers, and keepers of those without living tasks."""
        inside: dict[int, list[Node]] = {}
        for node in self.nodes:
            for space in self.chain(node.space):
                inside.setdefault(space, []).append(node)
        awaited = {
            node.task.child_namespace
            for node in self.tasks
            if node.task is not None and not node.exits and not node.task.child_namespace_dead
        }
        for space in sorted(self.inits, key=self.level, reverse=True):  # an init counts in the namespaces above its own
            init = self.inits[space]
            others = [node for node in inside.get(space, ()) if node.leader is not init]
            if init.role is Role.KEEPER:
                init.lingers = space not in awaited and all(node.exits for node in others)
            else:
                last = [
                    thread for thread in (init, *init.threads) if thread.task and thread.task.state is TaskState.ZOMBIE
                ]
                alive = [thread for thread in (init, *init.threads) if not thread.exits]
                if len(last) == 1 and not alive:
                    last[0].lingers = bool(others)

    # ---- namespaces ------------------------------------------------------------------------------------------------

    def chain(self, space: int) -> tuple[int, ...]:
        """Return a namespace and those above it, inner ones first."""
        found = self._chains.get(space)
        if found is None:
            above = self.spaces.get(space)
            found = self._chains[space] = (space,) if above is None else (space, *self.chain(above))
        return found

    def new_space(self, above: int) -> int:
        """Add a namespace below an existing one, and return its id."""
        space = max(self.spaces) + 1
        self.spaces[space] = above
        return space

    def level(self, space: int) -> int:
        """Return the number of levels from the root's namespace down to another one; -1 for that of `outside`."""
        return len(self.chain(space)) - 1 if space >= 0 else -1

    def sees(self, space: int, pid: Node) -> bool:
        """Return True if a pid object has a number in a namespace."""
        return pid is not self.outside and (space == pid.space or space in self.chain(pid.space))


def _handed_on(members: Iterable[Node]) -> int | None:
    """Return the exit signal of a dead session leader, derived from its members; None: any.

    A member born with CLONE_PARENT has inherited that of its creator: copy_process(), kernel/fork.c.
    """
    uncommon = [node for node in members if node.exit_signal not in (None, SIGCHLD)]
    siblings = [node for node in uncommon if node.task and node.task.birth and "CLONE_PARENT" in node.task.birth.flags]
    return next((node.exit_signal for node in (*siblings, *uncommon)), None)


def _chains(snapshot: Snapshot) -> list[tuple[int, ...]]:
    """Return the namespaces of each pid object: those of the image, else those that follow from the tree's shape."""
    if all(len(pid.namespaces) == len(pid.numbers) for pid in snapshot.pids) and snapshot.namespaces:
        if any(-1 in pid.namespaces for pid in snapshot.pids):
            raise NotRebuildableError(0, "namespace-unknown", "the image does not say in which namespace a pid is")
        return [pid.namespaces for pid in snapshot.pids]
    first = snapshot.first_tag
    chains: dict[Tag, tuple[int, ...]] = {}
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
    for tag, pid in snapshot.tagged():
        if tag not in chains:
            if len(pid.numbers) > 1:
                text = f"the image does not say in which namespace {'/'.join(map(str, pid.numbers))} is"
                raise NotRebuildableError(tag, "namespace-unknown", text)
            chains[tag] = (0,)
    return [chains[tag] for tag, _ in snapshot.tagged()]
