# SPDX-License-Identifier: Apache-2.0
"""CRIU images -> Snapshot: the tree of a folder that CRIU dumped, or that the format criu wrote.

    pstree.img      pid, parent, group, session and threads of each process
    core-TID.img    state, wait status, name, subreaper flag, credentials
    ids-PID.img     what processes share: descriptors, folders, memory
    creds-PID.img   credentials, where they are not in core-TID.img
    userns-N.img    ids of the user namespace that the credentials are of

The images say nothing of births, start times, exit signals, or which thread is a parent. All numbers are those of the
root's pid namespace: CRIU dumps no tree with another one below it. A session or group of the number 0 is from outside.
A root that does not lead its session has inherited it, as a job of a shell has. The time of the snapshot is the one at
which pstree.img was written, for CRIU tells none.
"""

import os
from contextlib import closing
from io import UnsupportedOperation
from typing import Any, Final

from agent.errors import FormatError
from agent.model import (
    CKPT_PID_ROOT,
    OUTSIDE,
    Header,
    PidObject,
    Shares,
    Snapshot,
    Tag,
    Task,
    TaskState,
    WaitStatus,
)
from agent.record import NamedTuple
from exporters.content.soundness import PID_NUMBER_MAX
from exporters.criu import imagefile, imagefolder
from exporters.criu.criuschema import ALIVE, DEAD, MACHINES, STOPPED, ZOMBIE
from exporters.criu.imagefolder import ImageFiles

INVENTORY: Final = "inventory.img"
PSTREE: Final = "pstree.img"
STATISTICS: Final = "stats-dump"
_OF_A_TREE: Final = ("pstree", "core")
"""The kinds of files that the format criu writes."""
FAILED: Final = (
    "the folder has no such file, and other files of a dump: criu writes it after all others, so the dump failed, and "
    "what it dumped may run on: see the end of CRIU's log"
)
"""The fault of a folder without an inventory that a dump has left."""
UNFINISHED: Final = (
    "the folder has no such file, which criu writes when a dump has succeeded: without --work-dir of criu, as a container "
    "runtime gives it, the dump failed, and what it dumped may run on: see the end of CRIU's log"
)
"""The doubt about a folder without statistics: cr_dump_finish() of CRIU 3.17 to 4.2 writes them last, into its work
folder.
"""

_STATES: Final = {
    ALIVE: TaskState.RUNNING,
    STOPPED: TaskState.STOPPED,
    DEAD: TaskState.ZOMBIE,
    ZOMBIE: TaskState.ZOMBIE,
}
_COMM_BYTES: Final = 15
_MACHINES: Final = {number: name for name, number in MACHINES.items()}


class TreeEntry(NamedTuple):
    """An entry of pstree.img: a process.

    Attributes:
        pid, ppid, pgid, sid: numbers in the root's pid namespace; 0: from outside.
        threads: numbers of all threads, the leader's first.
    """

    pid: int
    ppid: int
    pgid: int
    sid: int
    threads: tuple[int, ...]


def is_dump(files: ImageFiles) -> bool:
    """Return True for a folder that CRIU wrote, False for one that ckptree wrote, which has the tree alone."""
    return _has(files, INVENTORY)


def has_failed(files: ImageFiles) -> bool:
    """Return True for a folder that a failed dump has left: CRIU writes the inventory after all other images."""
    if _has(files, INVENTORY):
        return False
    kinds = [imagefile.kind_of(name) for name in files.names()]
    return any(kind is not None and kind.stem not in _OF_A_TREE for kind in kinds)


def is_in_doubt(files: ImageFiles, tree: Snapshot | None) -> bool:
    """Return True for a folder of a dump that may have failed after its images were written.

    Args:
        files: of the folder.
        tree: of the file beside the images, which says that CRIU's action script has succeeded if it is complete; else
            None.
    """
    return (tree is None or not tree.completeness.complete) and is_dump(files) and not _has(files, STATISTICS)


def _is_pre_dump(files: ImageFiles) -> bool:
    """Return True for a folder of ``criu pre-dump``, which has memory and no tree."""
    found: Any = imagefolder.optional(files, INVENTORY)
    return found is not None and bool(found.HasField("pre_dump_mode"))


def _has(files: ImageFiles, name: str) -> bool:
    opened = files.open(name)
    if opened is None:
        return False
    opened.close()
    return True


def require(files: ImageFiles) -> None:
    """Refuse a folder without a tree.

    Raises:
        FormatError: it has none; the text tells why, as far as the folder shows it.
    """
    if _has(files, PSTREE):
        return
    if _is_pre_dump(files):
        raise FormatError(PSTREE, "the folder has no such file: criu pre-dump wrote it: name that of the last dump")
    text = "the folder has no such file, which all folders of CRIU images have: did the dump fail? See dump.log"
    raise FormatError(PSTREE, f"{text}, or where else CRIU's log goes")


def tree_entries(files: ImageFiles) -> list[TreeEntry]:
    """Return the entries of pstree.img, in their order, which has parents first.

    Raises:
        FormatError: there is no such file, it is no image, or its entries make no tree.
        HostError: no protobuf library is installed.
    """
    require(files)
    found: list[TreeEntry] = []
    leaders: set[int] = set()
    taken: set[int] = set()
    for entry in imagefolder.entries(files, PSTREE):
        row: Any = entry.message
        # The first thread is the leader. Of a zombie CRIU 4.1 writes a number there that it has not set.
        each = TreeEntry(row.pid, row.ppid, row.pgid, row.sid, (row.pid, *row.threads[1:]))
        if wrong := _wrong(each, leaders, taken):
            raise FormatError(f"{PSTREE}: pstree_entry of {each.pid}", wrong, entry.offset)
        found.append(each)
        leaders.add(each.pid)
        taken.update(each.threads)
    if not found:
        raise FormatError(PSTREE, "the file has no entry, and a tree has at least its root")
    return found


def _wrong(entry: TreeEntry, leaders: set[int], taken: set[int]) -> str | None:
    """Return the fault of an entry, given the processes and tasks before it; None for a sound one."""
    for number in entry.threads:
        field = "pid" if number == entry.pid else "thread"
        if not 1 <= number <= PID_NUMBER_MAX:
            return f"{field} is {number}, and pids are 1 to {PID_NUMBER_MAX}"
        if number in taken:
            return f"{field} {number} is already that of another task"
    for field, number in (("pgid", entry.pgid), ("sid", entry.sid)):
        if number > PID_NUMBER_MAX:
            return f"{field} is {number}, and pids are 1 to {PID_NUMBER_MAX}"
    if len(set(entry.threads)) != len(entry.threads):
        return "two of its threads have one number"
    if not leaders and entry.ppid:
        return f"ppid is {entry.ppid}; the first entry is the root, whose parent is 0"
    if leaders and entry.ppid not in leaders:
        return f"ppid is {entry.ppid}, and no entry before it has that pid"
    return None


def load(files: ImageFiles) -> Snapshot:
    """Read the tree of a folder.

    Raises:
        FormatError: a file that the tree needs is missing or no image, or the entries make no tree.
        CkptreeError: a file cannot be opened.
        HostError: no protobuf library is installed.
    """
    return _TreeReader(files).snapshot()


class _TreeReader:
    """A snapshot in the making."""

    def __init__(self, files: ImageFiles) -> None:
        self._files = files
        self._names = frozenset(files.names())
        self._entries = tree_entries(files)
        self._root = self._entries[0]
        self._taken = {tid for entry in self._entries for tid in entry.threads}
        self._tags: dict[int, Tag] = {}
        self._users: dict[int, Any] = {}

    def snapshot(self) -> Snapshot:
        """Return the snapshot."""
        rows = self._rows()
        # The tags are given in the order of an image: task by task, each one's pid, group of threads, group, session.
        for tid, entry in rows:
            for number in (tid, entry.pid, entry.pgid, entry.sid):
                self._tag(number)
        cores = {tid: self._core(tid, entry) for tid, entry in rows}
        ids = {entry.pid: self._ids(entry.pid, cores[entry.pid]) for entry in self._entries}
        shares = _shared(ids)
        tasks = []
        for tid, entry in rows:
            facts = self._process(tid, entry, cores) if tid == entry.pid else self._thread(tid, entry, cores)
            uid, gid = self._user(entry.pid, cores[tid], ids[entry.pid])
            tasks.append(
                Task(
                    pid=self._tag(tid),
                    ppid=self._tag(entry.ppid) if entry.ppid else OUTSIDE,
                    tgid=self._tag(entry.pid),
                    pgid=self._tag(entry.pgid),
                    sid=self._tag(entry.sid),
                    depth=0,
                    uid=uid,
                    gid=gid,
                    shares=shares.get(entry.pid),
                )._replace(**facts)
            )
        machine = _MACHINES.get(cores[self._root.pid].mtype, "")
        return Snapshot(
            mode="container" if self._root.pid == 1 else "subtree",
            time_ns=self._time_ns(),
            pids=tuple([PidObject((number,), ()) for number in self._tags]),
            tasks=tuple(tasks),
            header=Header(machine=machine),
        )

    def _rows(self) -> list[tuple[int, TreeEntry]]:
        """Return the tasks in an image's order: a leader, its descendants, its other threads; siblings by number."""
        children: dict[int, list[TreeEntry]] = {}
        for entry in self._entries:
            children.setdefault(entry.ppid, []).append(entry)
        rows: list[tuple[int, TreeEntry]] = []
        todo = [(self._root.pid, self._root)]
        while todo:
            tid, entry = todo.pop()
            rows.append((tid, entry))
            if tid == entry.pid:
                below = [(child.pid, child) for child in sorted(children.get(tid, ()))]
                todo += reversed([*below, *((thread, entry) for thread in sorted(entry.threads[1:]))])
        return rows

    def _tag(self, number: int) -> Tag:
        """Return the tag of a number; a special one for a session or group from outside."""
        root = self._root
        if number == 0:
            # Our own writer has 0 for the session that a root inherited, too.
            return CKPT_PID_ROOT if root.sid == 0 and root.pid != 1 else OUTSIDE
        if number == root.sid and number not in self._taken:
            return CKPT_PID_ROOT
        return self._tags.setdefault(number, Tag(len(self._tags) + 1))

    def _core(self, tid: int, entry: TreeEntry) -> Any:
        name = f"core-{tid}.img"
        core: Any = imagefolder.one(self._files, name)
        part = "tc" if tid == entry.pid else "thread_core"
        if not core.HasField(part):
            raise FormatError(name, f"the entry lacks {part}, and {tid} is a {'process' if part == 'tc' else 'thread'}")
        return core

    def _ids(self, pid: int, core: Any) -> Any:
        """Return the ids of what a process shares; None for a zombie, which has none."""
        if core.HasField("ids"):
            return core.ids
        name = f"ids-{pid}.img"
        return imagefolder.one(self._files, name) if name in self._names else None

    def _process(self, tid: int, entry: TreeEntry, cores: dict[int, Any]) -> dict[str, Any]:
        """Return the facts of a process that its core has."""
        own = cores[tid].tc
        state = _STATES.get(own.task_state)
        if state is None:
            raise FormatError(f"core-{tid}.img: tc.task_state", f"is {own.task_state}, and no state has that number")
        code = None
        if state is TaskState.ZOMBIE:
            code = WaitStatus(own.exit_code & 0xFFFF)
            state = TaskState.DEAD_LEADER if len(entry.threads) > 1 else state
        return {
            "state": state,
            "exit_code": code,
            "comm": own.comm[:_COMM_BYTES],
            "subreaper": own.child_subreaper if own.HasField("child_subreaper") else None,
        }

    def _thread(self, tid: int, entry: TreeEntry, cores: dict[int, Any]) -> dict[str, Any]:
        """Return the facts of another thread: CRIU dumps no dead ones, and those of a stopped process are stopped."""
        own, leader = cores[tid].thread_core, cores[entry.pid].tc
        return {
            "state": TaskState.STOPPED if leader.task_state == STOPPED else TaskState.RUNNING,
            "exit_signal": -1,
            "comm": own.comm[:_COMM_BYTES] if own.HasField("comm") else None,
            "subreaper": leader.child_subreaper if leader.HasField("child_subreaper") else None,
        }

    def _user(self, pid: int, core: Any, ids: Any) -> tuple[int | None, int | None]:
        """Return the real user and group of a task."""
        name = f"creds-{pid}.img"
        if core.HasField("thread_core") and core.thread_core.HasField("creds"):
            creds = core.thread_core.creds
        elif name in self._names:
            creds = imagefolder.one(self._files, name)
        else:
            return None, None
        namespace = ids.user_ns_id if ids is not None and ids.HasField("user_ns_id") else 0
        if namespace not in self._users:
            self._users[namespace] = imagefolder.optional(self._files, f"userns-{namespace}.img")
        known = self._users[namespace]
        if known is None:
            return creds.uid, creds.gid
        return _outer(creds.uid, known.uid_map), _outer(creds.gid, known.gid_map)

    def _time_ns(self) -> int:
        opened = self._files.open(PSTREE)
        if opened is None:
            return 0
        with closing(opened):
            try:
                return os.fstat(opened.fileno()).st_mtime_ns
            except UnsupportedOperation:  # a file in memory
                return 0


def _outer(inner: int, extents: Any) -> int | None:
    """Return an id of a user namespace as the namespace around it has it; None where it is not mapped."""
    for extent in extents:
        if extent.first <= inner < extent.first + extent.count:
            return int(extent.lower_first + inner - extent.first)
    return None


def _shared(ids: dict[int, Any]) -> dict[int, Shares]:
    """Return what processes share with others, by pid: an object with one user is not shared."""
    users: dict[tuple[str, int], list[int]] = {}
    for pid, own in ids.items():
        for field in ("vm_id", "fs_id", "files_id"):
            if own is not None:
                users.setdefault((field, getattr(own, field)), []).append(pid)
    found: dict[int, dict[str, int]] = {}
    counts = {"vm_id": 1, "fs_id": 1, "files_id": 1}
    for (field, _), pids in users.items():
        if len(pids) > 1:
            for pid in pids:
                found.setdefault(pid, {})[field.removesuffix("_id")] = counts[field]
            counts[field] += 1
    return {pid: Shares(**fields) for pid, fields in found.items()}
