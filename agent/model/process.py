# SPDX-License-Identifier: Apache-2.0
"""The belongings of a process: terminal, owners of files, shared objects, and all that a new start of it needs."""

from typing import Literal

from agent.model.pids import PidRef
from agent.record import NamedTuple

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
        cwd_id: device and inode of its working directory at the read, with the meaning that those of `exe_file` have.
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
    cwd_id: tuple[int, ...] | None = None
