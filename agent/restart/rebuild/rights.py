# SPDX-License-Identifier: Apache-2.0
"""The rights of a process that is to run its program again: which of them this host can give.

Theory
------
A task takes its rights before exec(), and exec() changes them once more. The saved ids, and those for files, become the
effective ones. Root's capabilities become all that the bounding set leaves; those of other users become the ambient
ones. So a process can have had rights that no new program can begin with. This module computes the rights that exec()
would make of the recorded ones. The two must be equal: more rights would be dangerous, and fewer would make another
process. An image has no securebits; they are taken to be 0.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.errors import RefusedError
from agent.model import Capabilities, ProcessDetails, ProgramFile, Surroundings, Task, TaskState
from agent.proc import surroundings
from agent.proc.host import boot_id, own_status
from agent.proc.statfile import program_file
from agent.record import NamedTuple
from agent.restart.rebuild import programpath
from agent.restart.rebuild.helperabi import Program, Rights
from agent.restart.rebuild.programpath import ProgramWay, way
from agent.restart.rebuild.userids import NO_CAPABILITIES
from exporters.content import kernelnames

_ALL: Final = (1 << 64) - 1
_SYS_ADMIN: Final = 21
_DELETED: Final = b" (deleted)"  # a folder's own name may end so, too: it is refused, and never mistaken for another
HELD: Final = Rights(0, 0, 0, 0, None, NO_CAPABILITIES, no_new_privs=True, umask=0, bound_only=True)
"""The rights of a task that holds, beside its ids."""


class Host(NamedTuple):
    """The rights that may be given to tasks here.

    Attributes:
        uids, gids: ranges of ids that exist in this user namespace.
        groups: the only supplementary groups that can be given; None: any.
        bounding: the capabilities that can be given, as a mask.
        no_new_privs: True: it is set for this process, so no task can be without it.
        boot_id: of this boot; empty: not known.
        surroundings: those of a program that is started here.
        ids_made: True: tasks get a user namespace of their own, in which the caller's ids keep their numbers.
    """

    uids: tuple[range, ...]
    gids: tuple[range, ...]
    groups: frozenset[int] | None
    bounding: int
    no_new_privs: bool
    boot_id: str = ""
    surroundings: Surroundings = Surroundings()
    ids_made: bool = False


def this_host(*, pidns: bool, runs: bool = True, proc: Path = Path("/proc")) -> Host:
    """Return the rights that this process may give.

    A caller without CAP_SYS_ADMIN gets a user namespace for the tree, which has the caller's own ids and no others.
    Boot and surroundings are told where recorded programs are to run (`runs`): they matter to those alone.
    """
    lines = own_status(proc)
    bounding, no_new_privs = int(lines["CapBnd"], 16), lines["NoNewPrivs"] == "1"
    here = (boot_id(proc), surroundings.SurroundingsReader(proc).own) if runs else ("", Surroundings())
    if int(lines["CapEff"], 16) >> _SYS_ADMIN & 1:
        return Host(_ranges(proc / "self/uid_map"), _ranges(proc / "self/gid_map"), None, bounding, no_new_privs, *here)
    own = [range(each, each + 1) for each in (os.geteuid(), os.getegid())]
    groups = frozenset(os.getgroups())
    return Host((own[0],), (own[1],), groups, _ALL if pidns else bounding, no_new_privs, *here, ids_made=pidns)


def _ranges(path: Path) -> tuple[range, ...]:
    rows = [tuple(map(int, line.split())) for line in path.read_text().splitlines()]
    return tuple(range(first, first + count) for first, _, count in rows)


_STRANGE: Final = {
    "root": "another root directory",
    "mounts": "other mounts",
    "mounts-unknown": "perhaps other mounts, of which an image of an earlier version does not tell enough",
    "user": "another user namespace",
}


def obstacles(task: Task, host: Host, boot: str = "") -> Iterator[str]:
    """Yield the reasons why a process cannot be started again as it was; none if it can, as far as is known before.

    Args:
        task: of an image.
        host: the rights that may be given here.
        boot: id of the boot in which the image was captured.
    """
    details = task.details
    if details is None:
        yield "nothing is known of its program and rights"
        return
    if task.state == TaskState.DEAD_LEADER:
        yield "its main thread has exited, and exec would bring that back"
        return
    if details.deleted_exe is not None:
        yield f"its program was deleted, or its path leads elsewhere: {os.fsdecode(details.deleted_exe)}"
    if details.surroundings is not None:
        same = same_boot(boot, host)
        if strange := surroundings.strange(
            details.surroundings, host.surroundings, same_boot=same, ids_made=host.ids_made
        ):
            *most, last = [_STRANGE.get(each, each) for each in strange]
            what = f"{', '.join(most)} and {last}" if most else last
            yield f"it ran with {what} than restart has here: run restart where it ran, or another command with --run"
            return
    for what, why in (("arguments", details.argv_unknown), ("environment", details.env_unknown)):
        if why is not None:
            yield f"its {what}: not known: {why}"
    known = {
        "arguments": task.argv if details.argv_unknown is None else (),
        "folder": task.cwd,
        "environment": task.env if details.env_unknown is None else (),
        "program": details.exe or details.deleted_exe,
        "user": details.uids,
        "group": details.gids,
        "groups": details.groups,
        "capabilities": details.caps,
        "no_new_privs": details.no_new_privs,
        "umask": details.umask,
        "exec": details.execed,
    }
    if missing := [name for name, value in known.items() if value is None]:
        yield f"not told: {', '.join(missing)}"
    if details.exe is not None:
        yield from _program(details.exe)
        if same_boot(boot, host) and (other := _other_file(details)):
            yield f"{os.fsdecode(details.exe)} is another file than the program that it ran, which had {other}"
    if task.cwd is not None and task.cwd.endswith(_DELETED):
        yield f"its folder was deleted, or its path leads elsewhere: {os.fsdecode(task.cwd.removesuffix(_DELETED))}"
    elif task.cwd is not None and not Path(os.fsdecode(task.cwd)).is_dir():
        yield f"there is no folder {os.fsdecode(task.cwd)} here"
    elif (
        task.cwd is not None and same_boot(boot, host) and details.cwd_id not in (None, programpath.folder_id(task.cwd))
    ):
        yield f"{os.fsdecode(task.cwd)} is another folder than the one that it was in"
    if details.exe is not None and not missing:
        yield from _not_to_be_had(details, host)
        yield from _changed_by_exec(details)


def same_boot(boot: str, host: Host) -> bool:
    """Return True if a snapshot was captured in the present boot of a host, so that device and inode numbers agree."""
    return bool(boot) and boot == host.boot_id


def doubts(task: Task, host: Host, boot: str = "") -> Iterator[str]:
    """Yield the reasons why a process that can be started again may differ from the original; see obstacles()."""
    details = task.details
    if details is None:
        return
    if not same_boot(boot, host) and details.exe is not None and (other := _other_file(details, elsewhere=True)):
        yield f"{os.fsdecode(details.exe)} is not the file that ran there, or was changed: that had {other}"
    for what, why in (("arguments", details.argv_uncertain), ("environment", details.env_uncertain)):
        if why is not None:
            yield f"its {what}: {why}"
    if None not in (details.exe, details.uids, details.gids, details.groups, details.caps):
        known = _known(details)
        if writer := programpath.written_by(known.exe, _plain_user(known)):
            yield f"{os.fsdecode(known.exe)} can be written over at the last moment, by {writer}"
        yield from _folder_of_others(task, _plain_user(known), known_here=same_boot(boot, host))


def _folder_of_others(task: Task, plain_user: int | None, *, known_here: bool) -> Iterator[str]:
    """Yield a doubt if users who would gain by it can change which folder a process's is, and the image does not tell."""
    if task.cwd is None or (known_here and task.details is not None and task.details.cwd_id is not None):
        return
    users = {os.geteuid()} if plain_user is None else {os.geteuid(), plain_user}
    try:
        where = programpath.changeable_at(task.cwd, users)
    except OSError:
        return
    if where:
        yield f"its folder {os.fsdecode(task.cwd)} may be another one: other users may write to {where}"


def _other_file(details: ProcessDetails, *, elsewhere: bool = False) -> str:
    """Return the difference of the file at a program's path from the file that ran; empty if it is the same, or gone.

    Args:
        details: of the process.
        elsewhere: the image is of another machine or boot: then a copy counts as the same file.
    """
    if details.exe is None:
        return ""
    try:
        return _difference(details.exe_file, program_file(os.stat(details.exe)), elsewhere=elsewhere)
    except OSError:
        return ""


def _difference(was: ProgramFile | None, now: ProgramFile, *, elsewhere: bool = False) -> str:
    if was is None:
        return ""
    if was.size != now.size:
        return f"{was.size} bytes, and this has {now.size}"
    if was.modified_ns != now.modified_ns:
        return "another time of change"
    if (was.device, was.inode) != (now.device, now.inode) and not elsewhere:
        return "another inode"
    if None not in (was.changed_ns, now.changed_ns) and was.changed_ns != now.changed_ns and not elsewhere:
        return "another time of change of its inode"  # the other time can be set, and the content's size be the same
    return ""


def _program(path: bytes) -> Iterator[str]:
    name = os.fsdecode(path)
    if not Path(name).is_file():
        yield f"there is no program {name} here"
    elif not os.access(name, os.X_OK):
        yield f"{name} may not be executed"
    elif "security.capability" in os.listxattr(name):
        yield f"{name} has capabilities of its own, which exec would add"


def _not_to_be_had(details: ProcessDetails, host: Host) -> Iterator[str]:
    known = _known(details)
    for name, ids, ranges in (("user", known.uids, host.uids), ("group", known.gids, host.gids)):
        if strange := sorted({one for one in ids if not any(one in each for each in ranges)}):
            yield f"{name} {_list(strange)} cannot be had here"
    if host.groups is not None:
        if set(known.groups) != host.groups:
            yield f"groups {_list(known.groups) or 'none'} cannot be had here"
    elif strange := [one for one in known.groups if not any(one in each for each in host.gids)]:
        yield f"groups {_list(strange)} cannot be had here"
    caps = known.caps
    if lacking := (caps.bounding | caps.permitted | caps.inheritable) & ~host.bounding:
        yield f"{kernelnames.capabilities(lacking)} cannot be had here"
    if host.no_new_privs and not details.no_new_privs:
        yield "no_new_privs is in force here, and was not for it"


def _changed_by_exec(details: ProcessDetails) -> Iterator[str]:
    """Yield the recorded ids and capabilities that exec() would change."""
    known, caps, fixed = _known(details), _known(details).caps, bool(details.no_new_privs)
    for name, ids in (("user", known.uids), ("group", known.gids)):
        if len(set(ids[1:])) > 1:
            yield f"its {name} ids {_list(ids)} are no program's first: exec makes the last three the same"
    yield from _set_ids(known, fixed=fixed)
    mixed = known.uids[0] != known.uids[1] or known.gids[0] != known.gids[1]
    if mixed and (fixed or caps.ambient):
        # Kernels differ in what counts as a change of ids.
        yield "its real and effective ids differ, which exec would not leave so"
    if 0 in known.uids[:2]:
        permitted = caps.inheritable | caps.bounding | caps.ambient
        if fixed:
            permitted &= caps.permitted
        effective = permitted if known.uids[1] == 0 else caps.ambient
    else:
        permitted = effective = caps.ambient
    for name, was, becomes in (("permitted", caps.permitted, permitted), ("effective", caps.effective, effective)):
        if was != becomes:
            cause = "by capset(), securebits or its file"
            effect = " and ".join(
                f"{verb} {kernelnames.capabilities(some)}"
                for verb, some in (("add", becomes & ~was), ("take away", was & ~becomes))
                if some
            )
            yield f"its {name} capabilities are {kernelnames.capabilities(was)}, {cause}, and exec would {effect}"


def _set_ids(known: "_Known", *, fixed: bool) -> Iterator[str]:
    try:
        status, volume = os.stat(known.exe), os.statvfs(known.exe)
    except OSError:
        return
    if fixed or volume.f_flag & os.ST_NOSUID:
        return
    if status.st_mode & stat.S_ISUID and status.st_uid != known.uids[1]:
        yield f"{os.fsdecode(known.exe)} would make it user {status.st_uid}"
    if status.st_mode & stat.S_ISGID and status.st_mode & stat.S_IXGRP and status.st_gid != known.gids[1]:
        yield f"{os.fsdecode(known.exe)} would make it group {status.st_gid}"


class _Known(NamedTuple):
    """Details of a process of which none is missing."""

    exe: bytes
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    caps: Capabilities


def _known(details: ProcessDetails) -> _Known:
    exe, uids, gids, groups, caps = details.exe, details.uids, details.gids, details.groups, details.caps
    if exe is None or uids is None or gids is None or groups is None or caps is None:
        raise ValueError("details are missing: obstacles() refuses such a process")
    return _Known(exe, uids, gids, groups, caps)


def _list(numbers: "tuple[int, ...] | list[int]") -> str:
    return ", ".join(map(str, numbers))


def recorded(task: Task, host: Host, boot: str = "") -> Program:
    """Return the recorded program of a process with its recorded rights, and the file that it must be; see obstacles().

    Raises:
        RefusedError: the program has gone, or was replaced, since obstacles() looked; or other users can lead the
            process to another one.
        ValueError: details are missing; obstacles() names them.
    """
    details = task.details
    if details is None or task.argv is None or details.umask is None:
        raise ValueError("details are missing: obstacles() refuses such a process")
    known = _known(details)
    rights = Rights(
        uid=known.uids[0],
        euid=known.uids[1],
        gid=known.gids[0],
        egid=known.gids[1],
        groups=known.groups if host.groups is None else None,
        caps=known.caps,
        no_new_privs=bool(details.no_new_privs),
        umask=details.umask,
    )
    folder = details.cwd_id if same_boot(boot, host) else None
    name = os.fsdecode(known.exe)
    found = _way(known, task)
    if found.changeable_at and not found.opened:
        raise RefusedError(
            f"{os.fsdecode(found.path)} can be led to another program at the last moment: other users may write to "
            f"{found.changeable_at}, and the process had more rights than they: let root alone write there"
        )
    try:
        now = program_file(os.stat(found.path))
    except OSError:
        raise RefusedError(f"there is no program {name} here") from None
    if same_boot(boot, host) and (other := _difference(details.exe_file, now)):
        raise RefusedError(f"{name} is another file than the program that it ran, which had {other}")
    return Program(
        found.path,
        task.argv,
        task.env or (),
        task.cwd,
        rights,
        now,
        found.opened,
        folder or programpath.folder_id(task.cwd),
    )


def _way(known: "_Known", task: Task) -> ProgramWay:
    """Choose the way to the program of a process; see programpath.way()."""
    called = task.details.called if task.details is not None else None
    return way(known.exe, None if called is None else os.path.join(task.cwd or b"/", called), _plain_user(known))


def _plain_user(known: "_Known") -> int | None:
    """Return the user of a process that has nothing beyond that user's rights; None if it has more."""
    caps, uid, gid = known.caps, known.uids[0], known.gids[0]
    if {*known.uids} != {uid} or {*known.gids} != {gid}:
        return None
    if caps.permitted | caps.effective | caps.inheritable | caps.ambient:
        return None
    return uid if {gid, *known.groups} <= programpath.groups_of(uid) else None


def bounds(task: Task) -> Rights | None:
    """Return the bound on the rights of a caller's program in the place of a task: the rights that the task could gain.

    Returns:
        None if the image has no capabilities of the task: the program keeps all rights of the caller.
    """
    details = task.details
    if details is None or (details.caps is None and not details.no_new_privs):
        return None
    caps = details.caps or Capabilities(0, 0, 0, _ALL, 0)
    fixed = bool(details.no_new_privs)
    return Rights(0, 0, 0, 0, None, caps, no_new_privs=fixed, umask=0, bound_only=True)
