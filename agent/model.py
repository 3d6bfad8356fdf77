# SPDX-License-Identifier: Apache-2.0
"""A snapshot: immutable, self-contained, in the image's own terms.

Theory
------
A snapshot has *pid objects* (the kernel's ``struct pid``: one number for each pid namespace that sees it) and *tasks*,
which refer to pid objects by **tag**. Tags count from ``first_tag`` in the order in which the pid objects were
discovered: for each task in tree order its pid, tgid, pgrp and session, each if new. So ``pids[tag - first_tag]`` is
the pid object of a tag, and the first one is the root task's. Two values are no tags:

* ``0``: the id has no number in the root's pid namespace (and, as a parent, "outside": only the root has that);
* ``CKPT_PID_ROOT``: the id is the session that the root itself inherited from outside.

Namespaces are numbered from 0, the root's own, parents before children. ``level`` is relative to the root's.
A *birth* is the edge from a task to the thread that created it, with the session and group it was born into. Ancestors
are tasks that are gone, but through which a living task's birth runs.

Births, terminals and owners of files mention pid objects without collecting them: tags are those of the image, in the
order of its tasks' ids, and a rebuild needs no ghost for a group that only a terminal remembers. Such a *reference* is
a tag where the pid object has one, a special value where one applies, and else the numbers themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, NamedTuple

CKPT_PID_ROOT = -4097
CKPT_PID_NULL = -4096

Mode = Literal["container", "subtree"]
Dialect = Literal["seed", "v23"]
Verified = Literal["sweep", "numbering", "no"]


class TaskState(StrEnum):
    """The state of a task at the cut.

    Stopped is a group, by signal->flags & SIGNAL_STOP_STOPPED: what its parent learns from wait4() with WUNTRACED. What
    a tracer does with one task of it changes neither flag nor state. A task in a ptrace stop (task->__state
    __TASK_TRACED) of a group that runs is running. A task that a tracer lets run (PTRACE_CONT after the group stop) in
    a stopped group is stopped: the flag stays, and __ptrace_unlink() in the kernel's kernel/ptrace.c has the task stop
    again (JOBCTL_STOP_PENDING) as soon as the tracer goes. No rebuilt tree has the tracer, so this is the state that it
    gets.
    """

    RUNNING = "running"
    STOPPED = "stopped"  # by a signal to its whole group; a stop by a tracer does not change the state
    ZOMBIE = "zombie"
    DEAD_LEADER = "dead-leader"  # a leader that has exited while threads of its group live on


class Namespace(NamedTuple):
    """A pid namespace as the snapshot knows it.

    Attributes:
        id: its place in ``Snapshot.namespaces``; 0 is the root task's.
        inum: the inode number of /proc/PID/ns/pid. It is no identity: the kernel gives it to the next namespace at
            once.
        level: depth below the root's namespace, which has 0.
        parent: the id of the namespace above; None for the root's.
    """

    id: int
    inum: int
    level: int
    parent: int | None


class PidObject(NamedTuple):
    """One ``struct pid``, from the root's namespace inward.

    Attributes:
        numbers: one for each level, outermost first.
        namespaces: the ids of the namespaces that the numbers belong to, in the same order. May be empty where a bare
            image names none.
    """

    numbers: tuple[int, ...]
    namespaces: tuple[int, ...]


class OutsidePid(NamedTuple):
    """A pid object without a tag: only a birth, an ancestor, a terminal or an owner of a file mentions it.

    Attributes:
        numbers: as in PidObject; empty where the root's namespace does not see it.
        namespaces: as in PidObject. A namespace that died has no id: -1.
    """

    numbers: tuple[int, ...]
    namespaces: tuple[int, ...]


PidRef = int | OutsidePid
"""A tag (or 0, or CKPT_PID_ROOT), else the numbers themselves."""


class Creator(NamedTuple):
    """The thread that called clone(): exactly one of the two attributes is set.

    Attributes:
        tag: tag of the creating thread's pid object, where that thread is a task of the snapshot.
        ancestor: index into ``Snapshot.ancestors`` otherwise.
    """

    tag: int | None
    ancestor: int | None


class Birth(NamedTuple):
    """The clone() call that made a task.

    Attributes:
        creator: the thread that called clone(); None: not observed (assumed), or outside the tree (the root's).
        observed: False where the birth happened before the watch began, or was lost.
        sid: session at birth; None where not observed.
        pgid: process group at birth; None where not observed.
        flags: names of the clone flags that shape the tree, sorted: CLONE_NEWPID, CLONE_PARENT, CLONE_THREAD,
            CLONE_VFORK.
        order: number of the birth event. Larger is later. None where not observed.
    """

    creator: Creator | None
    observed: bool
    sid: PidRef | None
    pgid: PidRef | None
    flags: tuple[str, ...]
    order: int | None


class AncestorEvent(NamedTuple):
    """A system call of an ancestor that shapes its children's births.

    Attributes:
        event: ``setsid``, ``setpgid``, ``subreaper`` or ``exit``.
        order: number of the event.
        value: the new session or group; for ``subreaper`` 1 or 0; None for ``exit``.
    """

    event: Literal["setsid", "setpgid", "subreaper", "exit"]
    order: int
    value: PidRef | None


class Ancestor(NamedTuple):
    """A task that is gone, kept because a living task's birth runs through it.

    Attributes:
        id: its index in ``Snapshot.ancestors``.
        numbers, namespaces: its pid object, as in OutsidePid.
        birth: its own birth.
        events: in order; of each kind the last one that mattered.
    """

    id: int
    numbers: tuple[int, ...]
    namespaces: tuple[int, ...]
    birth: Birth
    events: tuple[AncestorEvent, ...]


OwnerType = Literal["tid", "pid", "pgrp"]
"""The kinds of owner that fcntl(2) calls F_OWNER_TID, F_OWNER_PID and F_OWNER_PGRP."""


class Terminal(NamedTuple):
    """The controlling terminal of a process, or the remainder of one that hung up.

    Attributes:
        name: path below /dev, as ``pts/0``; None where it hung up, or was not found.
        pgrp: the group in its foreground; CKPT_PID_NULL: there is none; None: not known.
        old_pgrp: the group that was in the foreground when it hung up, from ``signal->tty_old_pgrp`` of the session's
            leader; CKPT_PID_NULL: none; None: not known.
    """

    name: bytes | None
    pgrp: PidRef | None
    old_pgrp: PidRef | None


class FileOwner(NamedTuple):
    """The task, process or group that gets the signals of an open file, as F_SETOWN of fcntl(2) sets it.

    Attributes:
        fd: the descriptor.
        pid: the owner's pid object; 0 also where the owner is gone, as F_GETOWN has it.
        type: the kind of owner that `pid` names.
    """

    fd: int
    pid: PidRef
    type: OwnerType


class Shares(NamedTuple):
    """Memory, folders and descriptors that processes share, or that a thread does not share with its leader.

    Each value is an id: all tasks of the snapshot with the same id in the same field share one object. None: no task of
    the tree shares the object but the threads of the task's own group.

    Attributes:
        vm: memory, as by CLONE_VM; also of a child within vfork().
        fs: root and working directory and umask, as by CLONE_FS.
        files: the table of open files, as by CLONE_FILES.
    """

    vm: int | None = None
    fs: int | None = None
    files: int | None = None


class Obstacle(NamedTuple):
    """A reason why a tree cannot be rebuilt.

    Attributes:
        tag: of the task that stands in the way; 0 for the tree as a whole.
        rule: short name of the rule, which never changes.
        text: description of this case, for people.
    """

    tag: int
    rule: str
    text: str


class Capabilities(NamedTuple):
    """The capability sets of a process, a bit for each capability."""

    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int


class Surroundings(NamedTuple):
    """The root, mounts and user namespace that paths and ids refer to; see agent.proc.surroundings. None: not told.

    Attributes:
        root: path of its root directory, as the reader saw it.
        root_id: device and inode number of `root`.
        mounts: check sum of the list of mounts, which images of earlier versions have in place of `view`.
        mount_namespace, user_namespace: inode numbers.
        own_ids: True where its user namespace maps ids otherwise than the one around it, or gives it capabilities.
        apart: names of the surroundings that it did not share with the reader: ``root``, ``mounts``, ``user``.
        view: digest of the mounts below `root` and of their options; two processes of one boot have the same digest
            where their paths lead to the same files with the same rights.
        mount_namespace_id, user_namespace_id: unique within a boot; kernels before 6.11 tell no id of a mount
            namespace, those before 6.18 none of a user namespace.
    """

    root: bytes | None = None
    root_id: tuple[int, ...] | None = None
    mounts: int | None = None
    mount_namespace: int | None = None
    user_namespace: int | None = None
    own_ids: bool | None = None
    apart: tuple[str, ...] | None = None
    view: str | None = None
    mount_namespace_id: int | None = None
    user_namespace_id: int | None = None


class ProgramFile(NamedTuple):
    """The identity of a program's file.

    Attributes:
        device, inode: numbers, which hold on one machine; devices only within one boot.
        size: bytes.
        modified_ns: CLOCK_REALTIME of the last change of its content, which its owner can set.
        changed_ns: CLOCK_REALTIME of the last change of its inode, which only the kernel sets; None: not told.
    """

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int | None = None


class ProcessDetails(NamedTuple):
    """All that a new start of a process needs beside its arguments, folder and environment. None: not told.

    Ids are those of the reader's user namespace.

    Attributes:
        exe: path of its program; None where that is gone, or the reader may not know.
        deleted_exe: the former path of its program, where that file was removed or replaced; None where the path still
            leads to the program.
        uids, gids: real, effective, saved, and for file systems.
        groups: supplementary ones, in the kernel's order.
        caps: see Capabilities.
        no_new_privs: prctl(PR_SET_NO_NEW_PRIVS) is in force.
        umask: of its main thread; None also where it has exited.
        execed: True where it has called exec since its birth; else it runs its creator's program.
        called: path by which it, or its creator, called its program: a link to `exe`, or a script that `exe`
            interprets.
        argv_unknown, env_unknown: the reason, for people, why its arguments or environment are not known though it has
            some.
        surroundings: see Surroundings.
        argv_uncertain, env_uncertain: the part of its arguments, or environment, that is not certain, for people.
        exe_file: the identity of the file `exe` at the read.
    """

    exe: bytes | None = None
    deleted_exe: bytes | None = None
    uids: tuple[int, ...] | None = None
    gids: tuple[int, ...] | None = None
    groups: tuple[int, ...] | None = None
    caps: Capabilities | None = None
    no_new_privs: bool | None = None
    umask: int | None = None
    execed: bool | None = None
    called: bytes | None = None
    argv_unknown: str | None = None
    env_unknown: str | None = None
    surroundings: Surroundings | None = None
    argv_uncertain: str | None = None
    env_uncertain: str | None = None
    exe_file: ProgramFile | None = None


class Task(NamedTuple):
    """One row of the tree: a thread, leader or not, dead or alive.

    Attributes:
        pid, ppid, tgid, pgid, sid: tags. ppid is the tag of the *thread* that is real_parent; 0 for the root. A thread
            has its group's parent.
        depth: level of its own pid namespace below the root's.
        start_ns: CLOCK_BOOTTIME at birth; None where the image does not say.
        state: see TaskState; None where the image does not say.
        exit_code: raw wait status of a task that has exited, else None.
        exit_signal: signal sent to the parent at exit (17 is SIGCHLD); -1 for a thread; None where unknown.
        comm: at most 15 bytes, not necessarily UTF-8.
        uid, gid: real ids in the initial user namespace.
        subreaper: PR_SET_CHILD_SUBREAPER is in force.
        child_namespace: id of the namespace its next child will be born into where that is not its own (unshare or
            setns pending); -1 for one that holds no task of the tree.
        argv, cwd, env: only where they were asked for.
        tty: of the process, with its leader; None where it has none, or it was not read (see Snapshot.as_of_read).
        fown: the owners of open files, by descriptor, once for each process and table of files: with the leader, or
            with the first thread that has a table of its own. None as in tty.
        details: of the process, with its leader, only where they were asked for.
        shares: see Shares; None where nothing is shared, or it was not read (see Snapshot.as_of_read).
        child_namespace_dead: True where the init of `child_namespace` is gone, and every fork fails; else None.
        birth: see Birth.
    """

    pid: int
    ppid: int
    tgid: int
    pgid: int
    sid: int
    depth: int
    start_ns: int | None = None
    state: TaskState | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    comm: bytes | None = None
    uid: int | None = None
    gid: int | None = None
    subreaper: bool | None = None
    child_namespace: int | None = None
    argv: tuple[bytes, ...] | None = None
    cwd: bytes | None = None
    env: tuple[bytes, ...] | None = None
    tty: Terminal | None = None
    fown: tuple[FileOwner, ...] | None = None
    details: ProcessDetails | None = None
    shares: Shares | None = None
    child_namespace_dead: bool | None = None
    birth: Birth | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """The host, as the records HEADER, HEADER_ARCH, CONTAINER and LSM_INFO of an image describe it.

    Attributes:
        release, version, machine: the bytes that uname(2) gives, as text (exporters.content.fields).
        kernel_version: major, minor, patch out of `release`.
        xstate_size: bytes of extended processor state, 0 where unknown.
        lsm: name of the security module in force; text as above.
        arch_id, rev, constants, uflags, arch, lsm_info: the values of an image that differ from those that ckptree
            writes (exporters.content.hostmap); None, or empty, where they do not.
    """

    release: str = ""
    version: str = ""
    machine: str = ""
    kernel_version: tuple[int, int, int] = (0, 0, 0)
    has_fxsr: bool = False
    has_xsave: bool = False
    xstate_size: int = 0
    lsm: str = "lsm_none"
    arch_id: int | None = None
    rev: int | None = None
    constants: tuple[int, ...] = ()
    uflags: int = 0
    arch: bytes | None = None
    lsm_info: bytes | None = None


@dataclass(frozen=True, slots=True)
class Completeness:
    """The proof that a snapshot is complete, or the reasons why it is not.

    Attributes:
        verified: ``sweep``: compared with every task of the kernel; ``numbering``: the selected tasks were compared,
            and unbroken event numbers prove that they are all; ``no``: neither.
        lost: events lost since the watch began. A snapshot after a repaired loss is complete: each task whose birth was
            lost is marked.
        sweeps: full sweeps so far.
        anomalies: differences between table and kernel that no event explains, repaired, in this snapshot.
        kernel_threads_left_out: kernel threads and io workers under the root; no rebuild can make them.
        reasons: why this is incomplete, for people; empty where it is complete.
        order: number of the first record that is not in it; all records below are. None where there are no records, or
            the image does not say.
    """

    verified: Verified
    lost: int = 0
    sweeps: int = 0
    anomalies: int = 0
    kernel_threads_left_out: int = 0
    reasons: tuple[str, ...] = ()
    order: int | None = None

    @property
    def complete(self) -> bool:
        """True where the snapshot is verified and no number is unknown; False gives exit code 6."""
        return self.verified != "no" and not self.reasons


_NOTHING: Mapping[tuple[str | int, ...], Mapping[str, object]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The tree at one instant.

    Attributes:
        mode: ``container``: the root is a namespace's init and nothing leaks; ``subtree``: any root.
        boot_id: of the host, from /proc/sys/kernel/random/boot_id; empty where the image does not say.
        time_ns: CLOCK_REALTIME of the cut.
        boottime_ns: CLOCK_BOOTTIME of the cut, the clock of `Task.start_ns`; None where the image does not say.
        header: the host.
        namespaces, pids, tasks, ancestors: see the module's theory. ``tasks`` has parents before children.
        squashed: sessions and groups from outside that share one special tag, by name, where more than one.
        entered: tasks that entered the container from outside and were left out on request, by name.
        not_rebuildable: the obstacles to a rebuild, where they were looked for; empty: none known.
        completeness: see Completeness.
        as_of_read: names of the fields of a task that were read a moment after the cut, not at the cut. A field that is
            neither among them nor part of the cut is not known of any task.
        first_tag, dialect: of the image that the snapshot came from, or is to become.
        unknown: keys of a document that this version does not know, each with its value, by the path from the document
            to the map that has them, as in ``("tasks", 3, "birth")``. They say nothing of the tree; a writer of the
            snapshot puts them back. Values are immutable: lists are tuples.
    """

    mode: Mode
    time_ns: int
    pids: tuple[PidObject, ...]
    tasks: tuple[Task, ...]
    namespaces: tuple[Namespace, ...] = ()
    ancestors: tuple[Ancestor, ...] = ()
    squashed: tuple[str, ...] = ()
    entered: tuple[str, ...] = ()
    boot_id: str = ""
    boottime_ns: int | None = None
    header: Header = field(default_factory=Header)
    completeness: Completeness = field(default_factory=lambda: Completeness("no"))
    as_of_read: tuple[str, ...] = ()
    not_rebuildable: tuple[Obstacle, ...] = ()
    first_tag: int = 1
    dialect: Dialect = "seed"
    unknown: Mapping[tuple[str | int, ...], Mapping[str, object]] = field(default_factory=lambda: _NOTHING, hash=False)

    def pid(self, tag: int) -> PidObject | None:
        """Return the pid object of a tag; None for the special values."""
        return self.pids[tag - self.first_tag] if tag >= self.first_tag else None

    def number(self, tag: int) -> int:
        """Return the number of a tag in the root's namespace; 0 for an id from outside it."""
        pid = self.pid(tag)
        return pid.numbers[0] if pid else 0
