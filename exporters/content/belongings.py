# SPDX-License-Identifier: Apache-2.0
"""Maps <-> a task's terminal, owners of files, program, rights and sharing: its facts beside the tree.

    tty      = {name, pgrp: ref | -4096, old_pgrp: ref | -4096}
    fown     = [{fd, pid: ref | -4096, type: "tid" | "pid" | "pgrp"}]
    details  = {exe, deleted_exe, uids, gids: [real, effective, saved, fs], groups, caps, no_new_privs, umask, execed,
                called, argv_unknown, env_unknown, argv_uncertain, env_uncertain, surroundings,
                exe_file: {device, inode, size, modified_ns, changed_ns}, cwd_id: [device, inode]}
    child_namespace_dead = true; the key is absent otherwise
    shares   = {vm, fs, files: ID}, each key only where a task outside the thread group shares the same
    caps     = {inheritable, permitted, effective, bounding, ambient}
    surroundings = {root, root_id: [device, inode], mounts, mount_namespace, user_namespace, own_ids, apart, view,
                    mount_namespace_id, user_namespace_id}

A ref is as in exporters.content.facts. -4096 means that there is no pid object, null that it is not known.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from agent.model import (
    CKPT_PID_NULL,
    CKPT_PID_ROOT,
    Capabilities,
    FileOwner,
    OutsidePid,
    OwnerType,
    PidRef,
    ProcessDetails,
    ProgramFile,
    Shares,
    Surroundings,
    Task,
    Terminal,
)
from exporters.content.fields import S32_MAX, S64_MAX, S64_MIN, U32_MAX, U64_MAX, Fields

_TYPES: tuple[OwnerType, ...] = ("tid", "pid", "pgrp")
_IDS = ("real", "effective", "saved", "fs")
# No key where they are None.
_WHERE_TOLD = (
    "called",
    "argv_unknown",
    "env_unknown",
    "argv_uncertain",
    "env_uncertain",
    "surroundings",
    "exe_file",
    "cwd_id",
)
_UMASK_MAX = 0o777
_SPECIAL = (0, CKPT_PID_NULL, CKPT_PID_ROOT)


class RefReader(Protocol):
    """Reader of a reference to a pid object."""

    def __call__(self, fields: Fields, key: str, special: Sequence[int] = ...) -> PidRef | None:
        """Return the reference; None where it is absent.

        Args:
            fields: the map that holds it.
            key: its key.
            special: values below the first tag that the key may have.

        Raises:
            FormatError: it is no reference, or names a tag that no pid object has.
        """


def ref_document(ref: PidRef | int | None) -> object:
    """Return a reference as a tag, a map or null."""
    return {"namespaces": ref.namespaces, "numbers": ref.numbers} if isinstance(ref, OutsidePid) else ref


def belongings(task: Task) -> dict[str, object]:
    """Return the keys of this module that a task has."""
    found: dict[str, object] = {}
    if task.tty is not None:
        found["tty"] = terminal_document(task.tty)
    if task.fown is not None:
        found["fown"] = owners_document(task.fown)
    if task.details is not None:
        found["details"] = details_document(task.details)
    if task.child_namespace_dead:
        found["child_namespace_dead"] = True
    if task.shares is not None:
        found["shares"] = {key: id_ for key, id_ in sorted(task.shares._asdict().items()) if id_ is not None}
    return found


def terminal_document(terminal: Terminal) -> dict[str, object]:
    """Return the map of a terminal, keys sorted."""
    name, pgrp, old_pgrp = terminal
    return {"name": name, "old_pgrp": ref_document(old_pgrp), "pgrp": ref_document(pgrp)}


def owners_document(owners: Sequence[FileOwner]) -> list[dict[str, object]]:
    """Return the maps of a process's owners of files, keys sorted."""
    return [{"fd": fd, "pid": ref_document(pid), "type": type_} for fd, pid, type_ in owners]


def details_document(details: ProcessDetails) -> dict[str, object]:
    """Return the map of a process's details, keys sorted."""
    found = details._asdict()
    for key, value in (("caps", details.caps), ("surroundings", details.surroundings), ("exe_file", details.exe_file)):
        found[key] = None if value is None else dict(sorted(value._asdict().items()))
    if details.exe_file is not None and details.exe_file.changed_ns is None:
        del found["exe_file"]["changed_ns"]  # as an image of an earlier version has it
    return {key: value for key, value in sorted(found.items()) if value is not None or key not in _WHERE_TOLD}


def read_terminal(fields: Fields, ref: RefReader) -> Terminal:
    """Read a terminal from its map."""
    return Terminal(fields.raw("name"), ref(fields, "pgrp", _SPECIAL), ref(fields, "old_pgrp", _SPECIAL))


def read_owners(rows: Iterable[Fields], ref: RefReader) -> tuple[FileOwner, ...]:
    """Read the owners of files from their maps."""
    return tuple([_owner(fields, ref) for fields in rows])


def _owner(fields: Fields, ref: RefReader) -> FileOwner:
    fd = fields.integer("fd", 0, S32_MAX)
    pid = ref(fields, "pid", _SPECIAL)
    if pid is None:
        raise fields.wrong("pid", "a tag or a map of numbers")
    return FileOwner(fd, pid, fields.word("type", _TYPES))


def read_details(fields: Fields) -> ProcessDetails:
    """Read a process's details from their map."""
    return ProcessDetails(
        exe=fields.raw("exe"),
        deleted_exe=fields.raw("deleted_exe"),
        uids=_four(fields, "uids"),
        gids=_four(fields, "gids"),
        groups=fields.integers("groups", 0, U32_MAX) if fields.has("groups") else None,
        caps=_capabilities(fields.map("caps")) if fields.has("caps") else None,
        no_new_privs=fields.flag("no_new_privs"),
        umask=fields.maybe_integer("umask", 0, _UMASK_MAX),
        execed=fields.flag("execed"),
        called=fields.raw("called"),
        argv_unknown=_text(fields, "argv_unknown"),
        env_unknown=_text(fields, "env_unknown"),
        argv_uncertain=_text(fields, "argv_uncertain"),
        env_uncertain=_text(fields, "env_uncertain"),
        exe_file=_program_file(fields.map("exe_file")) if fields.has("exe_file") else None,
        cwd_id=_pair(fields, "cwd_id"),
        surroundings=_surroundings(fields.map("surroundings")) if fields.has("surroundings") else None,
    )


def _text(fields: Fields, key: str) -> str | None:
    return fields.text(key) if fields.has(key) else None


def _program_file(fields: Fields) -> ProgramFile:
    device, inode, size = (fields.integer(key, 0, U64_MAX) for key in ("device", "inode", "size"))
    modified_ns = fields.integer("modified_ns", S64_MIN, S64_MAX)
    return ProgramFile(device, inode, size, modified_ns, fields.maybe_integer("changed_ns", S64_MIN, S64_MAX))


def _surroundings(fields: Fields) -> Surroundings:
    return Surroundings(
        root=fields.raw("root"),
        root_id=fields.integers("root_id", 0, U64_MAX) if fields.has("root_id") else None,
        mounts=fields.maybe_integer("mounts", 0, U32_MAX),
        mount_namespace=fields.maybe_integer("mount_namespace", 0, U64_MAX),
        user_namespace=fields.maybe_integer("user_namespace", 0, U64_MAX),
        own_ids=fields.flag("own_ids"),
        apart=fields.texts("apart") if fields.has("apart") else None,
        view=_text(fields, "view"),
        mount_namespace_id=fields.maybe_integer("mount_namespace_id", 0, U64_MAX),
        user_namespace_id=fields.maybe_integer("user_namespace_id", 0, U64_MAX),
    )


def read_shares(fields: Fields) -> Shares:
    """Read from its map what a task shares."""
    return Shares(*[fields.maybe_integer(key, 1, U32_MAX) for key in Shares._fields])


def _four(fields: Fields, key: str) -> tuple[int, ...] | None:
    ids = fields.integers(key, 0, U32_MAX) if fields.has(key) else None
    if ids is not None and len(ids) != len(_IDS):
        raise fields.wrong(key, f"the ids {', '.join(_IDS)}")
    return ids


def _pair(fields: Fields, key: str) -> tuple[int, ...] | None:
    numbers = fields.integers(key, 0, U64_MAX) if fields.has(key) else None
    if numbers is not None and len(numbers) != 2:
        raise fields.wrong(key, "a device and an inode")
    return numbers


def _capabilities(fields: Fields) -> Capabilities:
    return Capabilities(*[fields.integer(name, 0, U64_MAX) for name in Capabilities._fields])
