# SPDX-License-Identifier: Apache-2.0
"""A model of CRIU's restore of a tree: what it forks, in which order, in which sessions and groups.

CRIU forks the tree from its root down. Before that it reshapes it:

1. A child of the root in another session than the root's, which it does not lead, was reparented. If that session's
   leader is in the tree, a *helper*, a task that exits at the end of the restore, is put below the leader; else the
   helper leads the session itself, below the root. All such children of one session move below its helper.
2. Any other task in another session than its parent's, which it does not lead, was born before its parent called
   setsid(). All tasks between it and the leader of its session get that session as their session of birth.
3. A group without its owner gets one: a helper below the first member.

Then each task forks the children that were born in its own session of birth, calls setsid() if it leads a session,
forks the other children, and joins its group, for which it waits until the owner has made it. At the end all helpers
exit, and their children fall to the namespace's init.

The siblings in CRIU's images are in the order of their birth, and its restore reverses them; a snapshot has them by
number. That order changes which helper is made first, and not what becomes of the tree.
"""

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from agent.model import CKPT_PID_ROOT, OUTSIDE, Snapshot, Tag, Task, TaskState

if TYPE_CHECKING:
    from collections.abc import Iterator

Outcome = Literal["refused", "hangs", "wrong"]

_INHERITED: Final = -1  # in place of a number: session or group of the criu that restores
_INIT: Final = 1
_ASK: Final = "ckptree plan tells whether ckptree restart rebuilds it"
_RESERVED: Final = 300  # helpers get higher numbers


class Forecast(NamedTuple):
    """A task that CRIU refuses, hangs at or gets wrong.

    Attributes:
        tag: of its pid object; 0 for the tree as a whole.
        pid: its number in the root's namespace.
        kind: the object that it is about: ``session``, ``group``, ``namespace``, ``thread``, ``zombie``, ``process``.
        id: the number of that object in the root's namespace.
        rule: short name, which never changes.
        text: what happens, and what to do about it, for people.
        outcome: what CRIU does.
    """

    tag: Tag
    pid: int
    kind: str
    id: int
    rule: str
    text: str
    outcome: Outcome


class _Item:
    """A process of CRIU's restore, a helper, or the number of a group or session that no task has yet.

    Attributes:
        pid: its number.
        task: its row in the snapshot; None for a helper.
        sid, pgid: numbers that it is to have.
        parent, children: as CRIU forks them, the children in the order of forking.
        is_there: True for a task or a helper.
        is_helper: it exits at the end.
        born: the session of its birth where that is not its own; None: its own.
        session, group: numbers that it has while the tree is forked.
    """

    __slots__ = (
        "born",
        "children",
        "group",
        "is_helper",
        "is_there",
        "parent",
        "pgid",
        "pid",
        "session",
        "sid",
        "task",
    )

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.task: Task | None = None
        self.sid = self.pgid = 0
        self.parent: _Item | None = None
        self.children: list[_Item] = []
        self.is_there = self.is_helper = False
        self.born: int | None = None
        self.session = self.group = _INHERITED

    def help(self, parent: "_Item", sid: int, pgid: int) -> None:
        """Make it a helper."""
        self.is_there = self.is_helper = True
        self.parent, self.sid, self.pgid = parent, sid, pgid

    def walk(self) -> "Iterator[_Item]":
        """Yield it and its descendants, parents first. Children that come meanwhile are walked, too."""
        todo = [self]
        while todo:
            item = todo.pop()
            yield item
            todo += reversed(item.children)


def restore(snapshot: Snapshot) -> list[Forecast]:
    """Return what CRIU refuses, hangs at or gets wrong while it makes the tree again.

    Args:
        snapshot: a tree that CRIU can dump.
    """
    root = next((task for task in snapshot.tasks if task.pid == task.tgid), None)
    return [] if root is None else _Restore(snapshot).outcome()


def _is_zombie(item: _Item) -> bool:
    return item.task is not None and item.task.state is TaskState.ZOMBIE


def _said(session: int) -> str:
    """Return the name of a session: the one that the root inherited has no number that stays."""
    return "that the root inherited" if session == _INHERITED else str(session)


class _Restore:
    """One restore on the model."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._items: dict[int, _Item] = {}
        self._found: list[Forecast] = []
        self._last = _RESERVED  # number of the last helper
        self._leading: list[_Item] = []  # helpers that lead sessions
        self._numbers = {snapshot.number(task.pid) for task in snapshot.tasks}
        self._read()

    def outcome(self) -> list[Forecast]:
        """Restore the tree; return the findings. CRIU stops at the first step that fails."""
        for step in (self._reparented, self._birth_sessions, self._groups, self._fork, self._join):
            step()
            if any(each.outcome != "wrong" for each in self._found):
                return self._found
        self._end()
        return self._found

    # ---- the tree as the images have it ----------------------------------------------------------------------------

    def _read(self) -> None:
        snapshot = self._snapshot
        rows = [task for task in snapshot.tasks if task.pid == task.tgid]
        leaders = {task.pid: task.tgid for task in snapshot.tasks}
        self._root = self._item(snapshot.number(rows[0].pid))
        # Of a root that leads neither session nor group, --shell-job gives both up for those of criu.
        group = snapshot.number(rows[0].pgid) if rows[0].pgid > 0 and rows[0].sid == CKPT_PID_ROOT else 0
        self._outer_group = group if group != self._root.pid else 0
        for task in rows:
            item = self._item(snapshot.number(task.pid))
            item.task, item.is_there = task, True
            item.sid, item.pgid = self._number(task.sid), self._number(task.pgid)
            for number in (item.sid, item.pgid):
                self._item(number)
            if task.ppid != OUTSIDE:
                item.parent = self._item(snapshot.number(leaders[task.ppid]))
                item.parent.children.insert(0, item)
            if task.pgid > 0 and snapshot.number(task.pgid) == self._outer_group:
                text = f"the root does not lead its group {self._outer_group}: CRIU makes it that of the criu that restores"
                self._tell(item, "group", self._outer_group, "inherited-group", text, "wrong")

    def _item(self, number: int) -> _Item:
        return self._items.setdefault(number, _Item(number))

    def _number(self, tag: Tag) -> int:
        """Return the number of a session or group: what the root inherited is criu's own after --shell-job."""
        number = self._snapshot.number(tag) if tag > 0 else _INHERITED
        return _INHERITED if number == self._outer_group else number

    # ---- what CRIU adds to it --------------------------------------------------------------------------------------

    def _reparented(self) -> None:
        """Put reparented children of the root below helpers of their sessions."""
        root = self._root
        strangers: dict[int, list[_Item]] = {}
        for child in root.children:
            if child.sid not in (root.sid, child.pid):
                strangers.setdefault(child.sid, []).append(child)
        root.children = [child for child in root.children if child.sid in (root.sid, child.pid)]
        for sid, children in strangers.items():
            leader = self._items[sid]
            if leader.is_there:
                helper = self._item(self._free())
                helper.help(leader, sid, leader.pgid)
                leader.children.insert(0, helper)
            else:
                helper = leader
                helper.help(root, sid, sid)
                self._leading.append(helper)
            for child in children:
                child.parent = helper
                helper.children.insert(0, child)

    def _free(self) -> int:
        self._last += 1
        while self._last in self._items or self._last in self._numbers:
            self._last += 1
        return self._last

    def _birth_sessions(self) -> None:
        """Find out which tasks were born before a setsid() of theirs. Tasks below a helper that leads are not seen."""
        for item in self._root.walk():
            if item.parent is None or item.is_helper or item.sid in (item.pid, item.parent.sid):
                continue
            above: _Item | None = item.parent
            while above is not None and above.pid != item.sid:
                if above.born not in (None, item.sid):
                    text = (
                        f"CRIU cannot tell in which session {above.pid} was born: it has children of the sessions "
                        f"{_said(above.born or 0)} and {_said(item.sid)} that are not its own; {_ASK}"
                    )
                    self._tell(above, "session", item.sid, "two-birth-sessions", text, "refused")
                    break
                above.born = item.sid
                above = above.parent
            if above is None:
                text = (
                    f"CRIU finds no way into session {_said(item.sid)}: its leader is no ancestor, and the parent "
                    f"{item.parent.pid} is in session {_said(item.parent.sid)}; {_ASK}"
                )
                self._tell(item, "session", item.sid, "no-session-leader", text, "refused")
        self._root.children[:0] = self._leading

    def _groups(self) -> None:
        """Give each group without an owner a helper that owns it."""
        for item in self._root.walk():
            owner = self._items[item.pgid]
            if item.pgid not in (_INHERITED, item.pid) and not owner.is_there:
                owner.help(item, item.sid, item.pgid)
                item.children.insert(0, owner)

    # ---- the forks -------------------------------------------------------------------------------------------------

    def _fork(self) -> None:
        """Fork the tree. A task gets session and group of its parent as they are at its fork."""
        root = self._root
        if root.sid == root.pid:
            root.session = root.group = root.pid
        todo = [root]
        while todo:
            item = todo.pop()
            early = {child for child in item.children if self._is_early(item, child)}
            for child in early:
                child.session, child.group = item.session, item.group
                if child.born is not None and child.born != item.session:
                    self._mismatch(child, child.born, item.session)
            if item is not root:
                self._enter_session(item)
            for child in item.children:
                if child not in early:
                    child.session, child.group = item.session, item.group
            todo += item.children

    @staticmethod
    def _is_early(item: _Item, child: _Item) -> bool:
        """Return True for a child that a task forks before it calls setsid()."""
        return item.born is not None and item.born == (child.sid if child.born is None else child.born)

    def _enter_session(self, item: _Item) -> None:
        if item.pid == item.sid:
            item.session = item.group = item.pid
        elif item.session != item.sid:
            self._mismatch(item, item.sid, item.session)
            item.session = item.sid  # its descendants are told only if they differ, too

    def _mismatch(self, item: _Item, wanted: int, had: int) -> None:
        text = f"CRIU forks it in session {_said(had)}, and it needs {_said(wanted)}; {_ASK}"
        self._tell(item, "session", wanted, "birth-session", text, "refused")

    def _join(self) -> None:
        """Let each task join its group."""
        for item in self._root.walk():
            if item.pgid in (item.group, item.pid, _INHERITED):
                continue
            owner = self._items[item.pgid]
            if owner.pgid != owner.pid or owner.group == owner.pid:
                text = (
                    f"CRIU waits for ever until {owner.pid} makes its group, and {owner.pid} is in group {owner.pgid}; "
                    f"by chance it fails with EPERM instead; {_ASK}"
                )
                self._tell(item, "group", item.pgid, "owner-left-group", text, "hangs")
            elif owner.session != item.session:
                text = f"CRIU cannot join group {item.pgid} of session {owner.session} from session {item.session}"
                self._tell(item, "group", item.pgid, "group-in-session", text, "refused")

    def _end(self) -> None:
        """Let the helpers exit: their children fall to the init, or out of the tree."""
        root = self._root
        for item in root.walk():
            if item.task is None or item.parent is None or not item.parent.is_helper:
                continue
            leader = item.parent.parent
            if _is_zombie(item) and root.pid != _INIT:
                text = (
                    f"CRIU makes this zombie below a helper, whose end gives it to a parent outside the tree, and "
                    f"{root.pid} waits for it for ever; {_ASK}"
                )
                self._tell(item, "zombie", item.pid, "zombie-outside", text, "hangs")
            elif root.pid != _INIT:
                text = (
                    f"{root.pid} had adopted it as a subreaper; CRIU makes it below a helper, and restores the flag of "
                    f"{root.pid} after that has exited, so it leaves the tree; {_ASK}"
                )
                self._tell(item, "process", item.pid, "orphan-outside", text, "wrong")
            elif _is_zombie(item) and leader is not None and _is_zombie(leader):
                text = (
                    f"CRIU makes this zombie below a helper of the zombie {leader.pid}, and {root.pid} may wait for it "
                    f"for ever: that depends on which of them exits first; {_ASK}"
                )
                self._tell(item, "zombie", item.pid, "zombie-below-zombie", text, "hangs")

    def _tell(self, item: _Item, kind: str, number: int, rule: str, text: str, outcome: "Outcome") -> None:
        tag = item.task.pid if item.task is not None else OUTSIDE
        self._found.append(Forecast(tag, item.pid, kind, max(number, 0), rule, text, outcome))
