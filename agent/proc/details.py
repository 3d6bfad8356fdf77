# SPDX-License-Identifier: Apache-2.0
"""The details of a process that no task record carries: arguments, working directory, environment, program, rights.

Theory
------
A pid names another process as soon as the first one is gone, so two reads by path may see two processes. A *directory*
of procfs, once opened, stays with the one ``struct pid`` it was opened for: names looked up below it fail with ESRCH
when that is gone. So a process is opened once, its start time is compared through that descriptor, and all other files
are read through it: the details are all of that process.

They are as of the read, not of the cut. Argv and environment are in the process's own memory, which it may have written
over: agent.proc.arguments checks that.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.model import Capabilities, ProcessDetails
from agent.proc import arguments, surroundings
from agent.proc.host import start_ticks
from agent.proc.statfile import UNREADABLE, note, opened, program_file, read_at, stat_fields
from agent.record import NamedTuple
from agent.table.areas import AtExec

_FLAGS, _STARTTIME = 9 - 3, 22 - 3  # fields 9 and 22 of stat; the first one after comm is field 3
_PF_FORKNOEXEC: Final = 0x40  # set by fork, cleared by exec
_DELETED: Final = b" (deleted)"
_CHANGING: Final = 3  # attempts at a process that calls exec meanwhile
_EXEC_S: Final = 0.002  # from the moment when new memory is visible until the hook tells it, mostly
_CAPS: Final = (b"CapInh", b"CapPrm", b"CapEff", b"CapBnd", b"CapAmb")


Compare = Callable[[bytes | None, bytes | None], AtExec]
"""A function that takes the arguments and environment read of a process, and returns those that the exec hook saw."""


def unseen(_arguments: bytes | None, _environment: bytes | None) -> AtExec:
    """Return the answer for a source without records of the exec hook."""
    return AtExec()


class Details(NamedTuple):
    """The details of a process.

    Attributes:
        argv: None where the process is gone, has no memory any more (a zombie), or never had (a kernel thread), and
            where `process` has the reason why it is not known.
        cwd: as the kernel writes it: " (deleted)" is appended where the directory is gone, and also where its path
            leads to another one, or to none. None where the process is gone, or the reader may not read it.
        env: None as cwd is, and for a zombie.
        process: all else that a new start needs; None where the process is gone. A zombie still has its rights.
        denied: names of the other fields that the reader may not read.
    """

    argv: tuple[bytes, ...] | None
    cwd: bytes | None
    env: tuple[bytes, ...] | None
    process: ProcessDetails | None = None
    denied: tuple[str, ...] = ()


NOTHING: Final = Details(None, None, None)


def details(
    pid: int,
    start_ns: int,
    root: Path = Path("/proc"),
    *,
    offset_ns: int = 0,
    compare: Compare = unseen,
    where: surroundings.SurroundingsReader | None = None,
) -> Details:
    """Read the details of the process that has this pid since `start_ns`; all None where that process is gone.

    Args:
        pid: number in the pid namespace of the procfs.
        start_ns: CLOCK_BOOTTIME of the host at birth. It is compared in clock ticks, the resolution of procfs: a pid
            that is taken again within one tick would pass.
        root: mount point of procfs.
        offset_ns: from host.boottime_offset_ns().
        compare: asks about its strings; the answer must include all events before the call.
        where: reads the surroundings; None: do not read them.
    """
    try:
        with opened(root / str(pid)) as process:
            for _ in range(_CHANGING):
                stat = read_at(process, "stat")
                fields = stat_fields(stat) if stat is not None else []
                if not fields or int(fields[_STARTTIME]) != start_ticks(start_ns, offset_ns):
                    return NOTHING
                found = _read(process, fields, compare, where)
                after = read_at(process, "stat")
                if after is None:
                    break
                if arguments.memory_of(stat_fields(after)) == arguments.memory_of(fields):
                    told = found.process
                    if told is None or arguments.MOVED not in (told.argv_unknown, told.env_unknown):
                        break
                    time.sleep(_EXEC_S)  # it may be in the middle of an exec
            return found
    except UNREADABLE:
        return NOTHING


def _read(
    process: int, fields: list[bytes], compare: Compare, where: surroundings.SurroundingsReader | None
) -> Details:
    at = arguments.memory_of(fields)
    denied: list[str] = []
    memory = arguments.ArgumentsReader(process)
    try:
        # Since "exec: Force single empty string when argv is empty" (in v5.18) no process runs without arguments, so an
        # empty file means: no memory, or arguments that are elsewhere now.
        shown = read_at(process, "cmdline", denied)
        environ = read_at(process, "environ", denied) if shown or at.size else None
        area = memory.bytes_at(at.arg_start, at.arg_end - at.arg_start) if at.arg_start else None
        strings = arguments.Strings()
        if shown or at.size:
            stack = memory.stack(at.start_stack) if at.start_stack else None
            words = shown if area is None else area
            strings = arguments.judge(at, words, environ, stack, compare(words, environ))
        called = arguments.called_as(read_at(process, "auxv"), memory)
    finally:
        memory.close()
    lives = where.of(process) if where is not None else None
    shared = lives is not None and lives.apart is not None and not {"root", "mounts"} & set(lives.apart)
    told = _process(process, int(fields[_FLAGS]), shared=shared)
    if told is not None:
        told = told._replace(
            called=called,
            argv_unknown=strings.argv_unknown,
            env_unknown=strings.env_unknown,
            argv_uncertain=strings.argv_uncertain,
            env_uncertain=strings.env_uncertain,
            surroundings=lives,
        )
    cwd = _link(process, b"cwd", denied)
    folder = None if cwd is None else _stat(process, b"cwd")
    if cwd is not None and not _leads_back(process, folder, cwd, shared=shared):
        cwd = cwd.removesuffix(_DELETED) + _DELETED
    elif told is not None and folder is not None:
        told = told._replace(cwd_id=(folder.st_dev, folder.st_ino))
    return Details(strings.argv, cwd, strings.env, told, tuple(denied))


def _link(process: int, name: bytes, denied: list[str] | None = None) -> bytes | None:
    try:
        return os.readlink(name, dir_fd=process)
    except UNREADABLE as error:
        note(error, os.fsdecode(name), denied)
        return None


def _process(process: int, flags: int, *, shared: bool) -> ProcessDetails | None:
    status = read_at(process, "status")
    if not status:
        return None
    # A name has no bare newline there, so it cannot fake a line.
    lines = {key: value.split() for key, _, value in (line.partition(b":") for line in status.split(b"\n"))}

    def numbers(key: bytes, base: int = 10) -> tuple[int, ...] | None:
        return tuple([int(word, base) for word in lines[key]]) if key in lines else None

    exe = _link(process, b"exe")
    file = _stat(process, b"exe")
    deleted = exe is not None and not _leads_back(process, file, exe, shared=shared)
    caps = [each[0] for key in _CAPS if (each := numbers(key, 16))]
    umask, no_new_privs = numbers(b"Umask", 8), numbers(b"NoNewPrivs")
    return ProcessDetails(
        exe=None if deleted else exe,
        deleted_exe=exe.removesuffix(_DELETED) if deleted and exe is not None else None,
        uids=numbers(b"Uid"),
        gids=numbers(b"Gid"),
        groups=numbers(b"Groups"),
        caps=Capabilities(*caps) if len(caps) == len(_CAPS) else None,
        no_new_privs=bool(no_new_privs[0]) if no_new_privs else None,
        umask=umask[0] if umask else None,
        execed=not flags & _PF_FORKNOEXEC,
        exe_file=None if deleted or file is None else program_file(file),
    )


def _stat(process: int, name: bytes) -> os.stat_result | None:
    """Return the status of the file that a link of procfs stands for; None where it is gone or not permitted."""
    try:
        return os.stat(name, dir_fd=process)
    except OSError:
        return None


def _leads_back(process: int, real: os.stat_result | None, path: bytes, *, shared: bool) -> bool:
    """Return True if the path that a link of procfs shows leads to the link's own file.

    The path is only text. An unmount, a mount over it or a removal makes it lead elsewhere, and a file's own name may
    end in the kernel's mark of removed files.

    Args:
        process: its opened directory.
        real: status of the file.
        path: as the link shows it.
        shared: True where the process sees the same files as the reader, so that the reader's view alone decides.
    """
    return real is not None and (_is_at(path, real) or (not shared and _is_at(b"root" + path, real, process)))


def _is_at(path: bytes, real: os.stat_result, directory: int | None = None) -> bool:
    try:
        return os.path.samestat(os.stat(path, dir_fd=directory), real)
    except OSError:
        return False
