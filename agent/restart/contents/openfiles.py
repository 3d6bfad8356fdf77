# SPDX-License-Identifier: Apache-2.0
"""The open files that are opened by a path, pipes and FIFOs."""

import fcntl
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

from agent.restart.contents import buildids
from agent.restart.contents.descriptors import Descriptors, FileKind, OpenFile
from agent.restart.contents.fileowners import F_SETFL, O_PATH
from agent.restart.contents.fillabi import Demand
from agent.restart.contents.holder import O_CLOEXEC, Holder, keep_high, open_high
from agent.restart.contents.pathaccess import open_path
from agent.restart.contents.refusals import Refused

O_CREAT, O_EXCL, O_TRUNC, O_NOCTTY = 0o100, 0o200, 0o1000, 0o400
O_TMPFILE: Final = 0o20200000
_NOT_FOR_OPEN: Final = O_CREAT | O_EXCL | O_TRUNC
F_SETPIPE_SZ: Final = 1031
_PIPE: Final = 1 << 16
"""Bytes of a pipe whose size no program has set."""
_MOST_PIPE: Final = 1 << 31
_MOST_POSITION: Final = (1 << 63) - 1
_TERMINALS: Final = (*range(2, 6), *range(128, 144))
"""Major numbers of devices that are terminals: the kernel's include/uapi/linux/major.h. CRIU has other messages of them."""
_ASKED: Final = {os.O_RDONLY: os.R_OK, os.O_WRONLY: os.W_OK}


def open_flags(flags: int) -> int:
    """Return the flags by which a file is opened again: it is there, and must neither be cut nor become a terminal."""
    if flags & O_TMPFILE == O_TMPFILE:  # of a file that never had a name; it includes O_DIRECTORY
        flags &= ~O_TMPFILE
    return flags & ~_NOT_FOR_OPEN | O_NOCTTY


def differences(entry: Any, *, build: bool) -> Iterator[Refused]:
    """Yield the reasons to refuse a file that is not at its path, or is another one there.

    Args:
        entry: its file_entry.
        build: compare the build of a program, too.
    """
    reg, identity = entry.reg, str(entry.id)
    path = os.fsdecode(bytes(reg.name))
    try:
        found = os.stat(path, follow_symlinks=not reg.flags & os.O_NOFOLLOW)
    except OSError as error:
        yield Refused("file", identity, "missing", f"{path}: {error.strerror}: put the file there that it had open")
        return
    then = "put the file of that time there"
    if reg.HasField("mode") and stat.S_IFMT(found.st_mode) != stat.S_IFMT(reg.mode):
        yield Refused("file", identity, "type", f"{path} is a file of another type than at the dump: {then}")
    elif reg.HasField("size") and found.st_size != reg.size and stat.S_ISREG(found.st_mode):
        text = f"{path} has {found.st_size} bytes, and had {reg.size} at the dump: {then}"
        yield Refused("file", identity, "size", text)
    elif stat.S_ISCHR(found.st_mode) and os.major(found.st_rdev) in _TERMINALS:
        yield Refused("file", identity, "type", f"{path} is a terminal, and was another device at the dump: {then}")
    wanted = buildids.recorded(list(reg.build_id)) if build else b""
    if wanted and stat.S_ISREG(found.st_mode) and not buildids.same(buildids.build_id(Path(path)), wanted):
        yield Refused("file", identity, "build", f"{path} is another build than at the dump: {then}")


def check_access(entry: Any) -> None:
    """Refuse a file that is at its path, and that the caller may not open as it was open.

    The kernel is asked without opening it, which does something to some files. One of the caller's own may be opened in a
    user namespace, where the caller gets all rights over such.

    Raises:
        Refused: the reason.
    """
    flags, path = int(entry.reg.flags), bytes(entry.reg.name)
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # it is looked for elsewhere
        return
    mode = _ASKED.get(flags & os.O_ACCMODE, os.R_OK | os.W_OK)
    is_own = os.geteuid() and (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())
    if not (flags & O_PATH or is_own or os.access(path, mode, effective_ids=True)):
        text = f"the caller may not open {os.fsdecode(path)} as it was open: be its user, or root"
        raise Refused("file", str(entry.id), "access", text)


def _check_pipe(kind: str, identity: int, content: bytes, size: int) -> None:
    """Refuse the size of a pipe that the kernel does not give, and more content than it has room for.

    Raises:
        Refused: the reason.
    """
    rule = text = ""
    if size > _MOST_PIPE or len(content) > (size or _PIPE):
        rule, text = "size", f"{len(content)} bytes are in a pipe of {size or _PIPE} bytes: dump it again"
    elif size > _PIPE:
        reader, writer = os.pipe()
        try:
            fcntl.fcntl(writer, F_SETPIPE_SZ, size)
        except OSError as error:
            rule, text = "size", f"a pipe gets no {size} bytes here: {error.strerror}: raise fs.pipe-max-size"
        finally:
            os.close(reader)
            os.close(writer)
    if rule:
        raise Refused(kind, str(identity), rule, text)


class PathFiles(FileKind):
    """Files, folders and devices, which have a path."""

    def check(self, entry: Any, _numbers: AbstractSet[int]) -> None:
        """Refuse a position that a file cannot have, and a folder that is written."""
        reg, identity = entry.reg, str(entry.id)
        name, flags = os.fsdecode(bytes(reg.name)), int(reg.flags)
        if reg.pos > (0 if flags & O_PATH else _MOST_POSITION):
            text = f"{name} cannot be open at position {reg.pos}: dump it again"
            raise Refused("file", identity, "position", text)
        if stat.S_ISDIR(reg.mode) and flags & os.O_ACCMODE != os.O_RDONLY:
            raise Refused("file", identity, "flags", f"{name} is a folder, which nothing can write to: dump it again")

    def create(self, file: OpenFile) -> int:
        """Open a file by its path, at its position. Not every device has positions."""
        reg = file.entry.reg
        number = open_path(file.holder, bytes(reg.name), open_flags(int(reg.flags)))
        if reg.pos:
            demand = Demand.SUCCESS if reg.HasField("size") else Demand.ANY
            file.script.call("lseek", number, int(reg.pos), os.SEEK_SET, demand=demand)
        return number


class Pipes(FileKind):
    """The pipes of a tree: two open files share one pipe, with the bytes that are in it.

    Args:
        files: the file_entry of each open file.
        contents: the bytes in each pipe and its size, by the pipe's id.
    """

    def __init__(self, files: Mapping[int, Any], contents: Mapping[int, tuple[bytes, int]]) -> None:
        self._contents = contents
        self._ends: dict[int, list[int]] = {}
        for identity, entry in files.items():
            if entry.HasField("pipe"):
                self._ends.setdefault(int(entry.pipe.pipe_id), []).append(identity)

    def check(self, entry: Any, _numbers: AbstractSet[int]) -> None:
        """Refuse a size that no pipe has, or not here."""
        _check_pipe("pipe", int(entry.id), *self._contents.get(int(entry.pipe.pipe_id), (b"", 0)))

    def create(self, file: OpenFile) -> int:
        """Create a pipe when its first end is asked for; both ends are then in one process."""
        identity, pipe = int(file.entry.id), int(file.entry.pipe.pipe_id)
        holder, script, everything = file.holder, file.script, file.everything
        if ("pipe", pipe) not in everything.owned:
            pair = holder.program.data(bytes(8))
            script.call("pipe2", pair, O_CLOEXEC)
            ends = [keep_high(holder, script.loaded(pair, 4 * end)) for end in (0, 1)]
            content, size = self._contents.get(pipe, (b"", 0))
            if size:
                script.call("fcntl", ends[0], F_SETPIPE_SZ, size)
            if content:
                script.exact("write", ends[1], holder.program.data(content), len(content), wanted=len(content))
            self._name_ends(holder, pipe, ends, everything)
        return everything.owned["file", identity][1]

    def together(self, entry: Any) -> Iterable[int]:
        """Return all open files of the pipe of an end."""
        return self._ends[int(entry.pipe.pipe_id)]

    def _name_ends(self, holder: Holder, pipe: int, ends: list[int], everything: Descriptors) -> None:
        """Give each open file of a pipe its number.

        Where an end has several, the others open it anew; so does one for reading and writing, by /proc/PID/fd.
        """
        everything.owned["pipe", pipe] = holder, ends[0]
        used = [False, False]
        for other in self._ends[pipe]:
            flags = int(everything.files[other].pipe.flags)
            end = int(flags & os.O_ACCMODE == os.O_WRONLY)
            number = ends[end]
            if used[end] or flags & os.O_ACCMODE == os.O_RDWR:
                number = open_high(holder, f"/proc/self/fd/{ends[end]}".encode(), open_flags(flags))
            else:
                holder.leader.call("fcntl", number, F_SETFL, flags & ~os.O_ACCMODE)
                used[end] = True
            everything.owned["file", other] = holder, number


class Fifos(FileKind):
    """FIFOs, which have a path and are pipes: the bytes in them come back while somebody holds both ends.

    Args:
        files: the file_entry of each open file.
        contents: the bytes in each pipe and its size, by the pipe's id.
    """

    def __init__(self, files: Mapping[int, Any], contents: Mapping[int, tuple[bytes, int]]) -> None:
        self._files = files
        self._contents = contents
        self._same: dict[int, list[int]] = {}
        for identity, entry in files.items():
            if entry.HasField("fifo"):
                self._same.setdefault(int(entry.fifo.pipe_id), []).append(identity)

    def check(self, entry: Any, _numbers: AbstractSet[int]) -> None:
        """Refuse a FIFO without a path, and a path of another file."""
        described = self._files.get(int(entry.fifo.regf_id))
        if described is None or not described.HasField("reg"):
            raise Refused("fifo", str(entry.id), "missing", "the images do not say which path it has: dump it again")
        path = bytes(described.reg.name)
        if os.path.lexists(path) and not (os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)):
            text = f"{os.fsdecode(path)} is no FIFO any more: put the one there that it had open"
            raise Refused("fifo", str(entry.id), "type", text)
        _check_pipe("fifo", int(entry.id), *self._contents.get(int(entry.fifo.pipe_id), (b"", 0)))

    def together(self, entry: Any) -> Iterable[int]:
        """Return all open files of the FIFO."""
        return self._same[int(entry.fifo.pipe_id)]

    def create(self, file: OpenFile) -> int:
        """Open a FIFO; one that is open for reading and writing lets no other wait, and keeps what is in it."""
        pipe, everything = int(file.entry.fifo.pipe_id), file.everything
        regular = self._files[int(file.entry.fifo.regf_id)].reg
        path = bytes(regular.name)
        if ("fifo", pipe) not in everything.owned:
            both = open_path(file.holder, path, os.O_RDWR | os.O_NONBLOCK)
            everything.owned["fifo", pipe] = file.holder, both
            content, size = self._contents.get(pipe, (b"", 0))
            if size:
                file.script.call("fcntl", both, F_SETPIPE_SZ, size)
            if content:
                file.script.exact("write", both, file.data(content), len(content), wanted=len(content))
        return open_path(file.holder, path, open_flags(int(regular.flags)))
