# SPDX-License-Identifier: Apache-2.0
"""The messages between a coordinator and its guard, and their shared file: the mirror of control.h.

Messages are single packets of one layout. The shared file begins with the program. Behind it the guard writes its
answer with the pids that it sees. Behind that the coordinator writes the run section, before it releases tasks that run
programs.
"""

import mmap
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Final

from agent.model import Capabilities, ProgramFile
from agent.record import NamedTuple

# (field, struct code), in the order of the header.
MESSAGE_FIELDS = (
    *(("kind", "I"), ("reason", "I"), ("actor", "I"), ("place", "I"), ("error", "i"), ("value", "i")),
    *(("offset", "Q"), ("size", "Q")),
)
ANSWER_FIELDS = (("first_clone_ns", "Q"), ("standing_ns", "Q"), ("proc_error", "i"), ("user_namespace", "i"))
RUN_ENTRY_FIELDS = (
    *(("path", "Q"), ("argv", "Q"), ("envp", "Q"), ("cwd", "Q"), ("groups", "Q")),
    *(("inheritable", "Q"), ("permitted", "Q"), ("effective", "Q"), ("bounding", "Q"), ("ambient", "Q")),
    *(("flags", "I"), ("umask", "I"), ("uid", "I"), ("euid", "I"), ("gid", "I"), ("egid", "I")),
    *(("group_count", "I"), ("device_major", "I"), ("device_minor", "I"), ("reserved", "I")),
    *(("inode", "Q"), ("changed_ns", "q"), ("cwd_major", "I"), ("cwd_minor", "I"), ("cwd_inode", "Q")),
)

MESSAGE: Final = struct.Struct("=" + "".join(code for _, code in MESSAGE_FIELDS))
ANSWER: Final = struct.Struct("=" + "".join(code for _, code in ANSWER_FIELDS))
RUN_ENTRY: Final = struct.Struct("=" + "".join(code for _, code in RUN_ENTRY_FIELDS))

# run_entry.flags
RIGHTS_GIVEN: Final = 1  # it takes the rights that the entry has
RIGHTS_GROUPS: Final = 2  # the groups too
RIGHTS_NO_NEW_PRIVS: Final = 4
RIGHTS_IDS: Final = 8  # it runs nothing, and takes the ids
RIGHTS_BOUND: Final = 16  # it keeps its ids, and of its capabilities those of the bounding set
RUN_OPENED: Final = 32  # it executes the file that it has opened, not what its path leads to by then

_FIELDS: Final = [name for name, _ in RUN_ENTRY_FIELDS]
_RIGHTS_FIELDS: Final = _FIELDS[_FIELDS.index("groups") : _FIELDS.index("device_major")]
_FILE_FIELDS: Final = _FIELDS[_FIELDS.index("device_major") : _FIELDS.index("cwd_major")]
_ALIGNMENT: Final = 8  # of the answer, bytes
PID_BYTES: Final = 4
_OFFSET_BYTES: Final = 8
_GROUP_BYTES: Final = 4

FD_PROGRAM: Final = 3
FD_CONTROL: Final = 4


class Said(IntEnum):
    """Kinds of message; from GO on they are the coordinator's."""

    STANDING = 1
    ACTIVE = 2
    RELEASED = 3
    FAILED = 4
    GONE = 5
    GO = 16
    RELEASE = 17
    SIGNAL = 18
    KILL = 19
    DETACH = 20


class Reason(IntEnum):
    """The reasons of a failure; see control.h."""

    STEP = 1
    DIED = 2
    STUCK = 3
    SETUP = 4
    RUN = 5
    NUMBERS = 6
    SPARE = 7
    UNKNOWN = 8
    SURVIVED = 9


class Setup(IntEnum):
    """The action that failed before any step."""

    PROGRAM = 1
    USERNS = 2
    IDMAP = 3
    SOCKETS = 4
    CLONE = 5
    PRIVATE = 6
    STDIO = 7
    SESSION = 8
    WATCHER = 9
    STAGE = 10
    KEYRING = 11


class Run(IntEnum):
    """The way in which the tasks are released: to hold, to run the programs of a section, or to be filled by it."""

    HOLD = 1
    SECTION = 2
    FILL = 3


class Doing(IntEnum):
    """The call that failed in a task that was to run its program."""

    MMAP = 1
    CAPGET = 2
    SETGROUPS = 3
    SETRESGID = 4
    CAPBSET_DROP = 5
    KEEPCAPS = 6
    SETRESUID = 7
    CAPSET = 8
    CAP_AMBIENT = 9
    NO_NEW_PRIVS = 10
    PDEATHSIG = 11
    CHDIR = 12
    EXECVE = 13
    DUMPABLE = 14
    OPEN = 15
    COMPARE = 16
    FOLDER = 17


class Message(NamedTuple):
    """One packet; control.h documents the fields of each kind."""

    kind: int
    reason: int = 0
    actor: int = 0
    place: int = 0
    error: int = 0
    value: int = 0
    offset: int = 0
    size: int = 0


class Rights(NamedTuple):
    """The rights of a task that runs its program.

    Attributes:
        uid, euid, gid, egid: real and effective ids; exec() sets the saved ids, and those for files, to the effective
            ones.
        groups: supplementary groups; None: the task keeps its groups.
        caps: the capabilities before exec().
        no_new_privs: PR_SET_NO_NEW_PRIVS of prctl().
        umask: the mask of the permissions of new files.
        ids_only: the task runs nothing, and takes ids and groups; it then has no capabilities.
        bound_only: the task keeps its ids and groups, and those of its capabilities that `caps.bounding` has.
    """

    uid: int
    euid: int
    gid: int
    egid: int
    groups: tuple[int, ...] | None
    caps: Capabilities
    no_new_privs: bool
    umask: int
    ids_only: bool = False
    bound_only: bool = False


class Program(NamedTuple):
    """The program that a task is to run.

    Attributes:
        path: path of the file, which is not searched for; empty: the task runs no program, and holds.
        argv: the arguments, the program's name first.
        env: the environment, as NAME=value.
        cwd: the working directory; None: the guard's.
        rights: the rights; None: the guard's.
        file: the identity of the file that the path must lead to; None: any.
        opened: True: the task executes that file, which it has open; False: the path, after a look at its file.
        cwd_id: device and inode of the folder that `cwd` must lead to; None: any.
    """

    path: bytes
    argv: Sequence[bytes]
    env: Sequence[bytes]
    cwd: bytes | None = None
    rights: Rights | None = None
    file: ProgramFile | None = None
    opened: bool = False
    cwd_id: tuple[int, ...] | None = None


def answer_offset(program: bytes) -> int:
    """Return the offset of the guard's answer in the shared file, bytes."""
    return -(-len(program) // _ALIGNMENT) * _ALIGNMENT


def run_offset(program: bytes, actors: int) -> int:
    """Return the offset of the run section in the shared file, bytes: the first page behind the answer."""
    return next_page(answer_offset(program) + ANSWER.size + PID_BYTES * actors)


def next_page(size: int) -> int:
    """Return a size rounded up to whole pages, bytes."""
    return (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE


def run_section(programs: Mapping[int, Program], actors: int) -> bytes:
    """Encode the programs by actor as a run section; actors without one hold. Each string is written once."""
    lists: list[Iterable[bytes]] = []
    for each in programs.values():
        lists += [each.argv, each.env]
    texts = {text for one in lists for text in one}
    texts |= {text for each in programs.values() for text in (each.path, each.cwd) if text}
    arrays_at = RUN_ENTRY.size * actors
    groups_at = arrays_at + _OFFSET_BYTES * sum(len(each.argv) + len(each.env) + 2 for each in programs.values())
    texts_at = groups_at + _GROUP_BYTES * sum(
        len(each.rights.groups or ()) for each in programs.values() if each.rights
    )
    places: dict[bytes, int] = {}
    data = bytearray()
    for text in texts:
        places[text] = texts_at + len(data)
        data += text + b"\0"
    entries = bytearray(arrays_at)
    arrays = bytearray()
    groups = bytearray()
    for actor, each in programs.items():
        at = []
        for one in (each.argv, each.env):
            at.append(arrays_at + len(arrays))
            arrays += struct.pack(f"={len(one) + 1}Q", *(places[text] for text in one), 0)
        cwd = places[each.cwd] if each.cwd else 0
        rights = _packable(each, groups_at + len(groups))
        path = places[each.path] if each.path else 0
        RUN_ENTRY.pack_into(
            entries, RUN_ENTRY.size * actor, path, *at, cwd, *rights, *_file(each.file), *_folder(each.cwd_id)
        )
        mine = (each.rights.groups if each.rights else None) or ()
        groups += struct.pack(f"={len(mine)}I", *mine)
    return bytes(entries + arrays + groups + data)


def _file(file: ProgramFile | None) -> tuple[int, ...]:
    """Return the fields of an entry from `device_major` on."""
    if file is None:
        return (0,) * len(_FILE_FIELDS)
    return os.major(file.device), os.minor(file.device), 0, file.inode, file.changed_ns or 0


def _folder(identity: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the fields of an entry from `cwd_major` on."""
    return (os.major(identity[0]), os.minor(identity[0]), identity[1]) if identity is not None else (0, 0, 0)


def _packable(program: Program, groups_at: int) -> tuple[int, ...]:
    """Return the fields of an entry from `groups` to `group_count`."""
    rights = program.rights
    opened = RUN_OPENED if program.opened else 0
    if rights is None:
        return tuple(opened if name == "flags" else 0 for name in _RIGHTS_FIELDS)
    flags = opened | (
        (RIGHTS_IDS if rights.ids_only else RIGHTS_BOUND if rights.bound_only else RIGHTS_GIVEN)
        | (RIGHTS_GROUPS if rights.groups is not None else 0)
        | (RIGHTS_NO_NEW_PRIVS if rights.no_new_privs else 0)
    )
    caps = rights.caps
    return (
        *(groups_at, caps.inheritable, caps.permitted, caps.effective, caps.bounding, caps.ambient, flags),
        *(rights.umask, rights.uid, rights.euid, rights.gid, rights.egid, len(rights.groups or ())),
    )
