# SPDX-License-Identifier: Apache-2.0
"""The making of deleted files, and the process that does it: it deletes them again also when the restart is killed.

A user may change some of the folders meanwhile. So a folder is opened without following a link, and all that is done to
a file is done by descriptors of the two.
"""

import ctypes
import errno
import os
import signal
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, NoReturn

from agent.errors import CkptreeError, HostError
from agent.restart.contents.holder import AT_FDCWD
from agent.restart.contents.syscalls import CALLS

_NO_SYMLINKS: Final = 4
_NS_PER_US: Final = 1000
_NS_PER_S: Final = 1_000_000_000
_STREAMS: Final = 3
_ALL_MADE: Final = b"\0"


class MadeFiles:
    """Files that are made for a time."""

    def __init__(self) -> None:
        self._made: list[tuple[int, bytes, bool]] = []

    def make(self, path: bytes, content: Iterator[tuple[Any, bytes]]) -> None:
        """Make a file of an image.

        Args:
            path: of the file.
            content: the ghost_file_entry, and each ghost_chunk_entry, with its bytes.

        Raises:
            OSError: it cannot be made.
        """
        folder, name = self._folder(os.path.dirname(path)), os.path.basename(path)
        about, first = next(content)
        mode = int(about.mode)
        flags = os.O_CLOEXEC | os.O_NOFOLLOW
        if stat.S_ISREG(mode):
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, 0o600, dir_fd=folder)
            self._made.append((folder, name, False))
        elif stat.S_ISDIR(mode):
            os.mkdir(name, 0o700, dir_fd=folder)
            self._made.append((folder, name, True))
            file = os.open(name, os.O_RDONLY | os.O_DIRECTORY | flags, dir_fd=folder)
        else:
            if stat.S_ISLNK(mode):
                os.symlink(bytes(about.symlnk_target), name, dir_fd=folder)
            else:
                os.mknod(name, stat.S_IFMT(mode) | 0o600, int(about.rdev), dir_fd=folder)
            self._made.append((folder, name, False))
            file = _opened_as_made(folder, name, mode, int(about.rdev))
        try:
            if stat.S_ISREG(mode):
                _write(file, 0, first)
                for chunk, data in content:
                    _write(file, int(chunk.off), data)
                if about.HasField("size"):
                    os.ftruncate(file, int(about.size))
            itself = f"/proc/self/fd/{file}"
            os.chown(itself, int(about.uid), int(about.gid))
            if not stat.S_ISLNK(mode):
                os.chmod(itself, stat.S_IMODE(mode))
            if about.HasField("atim") and about.HasField("mtim"):
                os.utime(itself, ns=(_nanoseconds(about.atim), _nanoseconds(about.mtim)))
        finally:
            os.close(file)

    def remove(self) -> None:
        """Delete all that was made, the last first."""
        while self._made:
            folder, name, is_folder = self._made.pop()
            with suppress(OSError):
                (os.rmdir if is_folder else os.unlink)(name, dir_fd=folder)
            os.close(folder)

    def _folder(self, path: bytes) -> int:
        """Open a folder; make it, and those above it, if it is gone."""
        with suppress(FileNotFoundError):
            return opened_folder(path)
        above = self._folder(os.path.dirname(path))
        os.mkdir(os.path.basename(path), 0o700, dir_fd=above)
        self._made.append((above, os.path.basename(path), True))
        return opened_folder(path)


class Maker:
    """A process that makes files, and deletes them at the end of this process, or when it is told to.

    It is in a session of its own, with all signals blocked, so that it outlives what kills this process.

    Args:
        make: makes the files; a CkptreeError ends the making.

    Raises:
        CkptreeError: the files cannot be made, or not all.
    """

    def __init__(self, make: Callable[[MadeFiles], None]) -> None:
        self._process = 0
        told, tell = os.pipe2(os.O_CLOEXEC)
        alive, self._life = os.pipe2(os.O_CLOEXEC)
        held = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            try:
                self._process = os.fork()
                if not self._process:
                    _be_maker(make, tell, alive)
            finally:
                os.close(tell)
                os.close(alive)
                signal.pthread_sigmask(signal.SIG_SETMASK, held)
            _await_made(told)
        except OSError as error:
            self.end()
            raise HostError(f"no process can be made for deleted files: {error.strerror}") from error
        except BaseException:
            self.end()
            raise
        finally:
            os.close(told)

    def end(self) -> None:
        """Have the files deleted, and wait for that."""
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        if self._process:
            os.waitpid(self._process, 0)
            self._process = 0


def _await_made(told: int) -> None:
    """Wait until a maker has made all; CkptreeError: it has not."""
    with open(told, "rb", closefd=False) as answer:
        text = answer.read()
    if text != _ALL_MADE:
        raise CkptreeError(text.decode(errors="replace") or "the process that makes deleted files was killed")


def _be_maker(make: Callable[[MadeFiles], None], tell: int, alive: int) -> NoReturn:
    """Make files, and delete them once the other end of a pipe is closed; run nothing of the parent's behind that."""
    files = MadeFiles()
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(_STREAMS):
            os.dup2(nothing, stream)
        low, high = sorted((tell, alive))
        for first, end in ((_STREAMS, low), (low + 1, high), (high + 1, os.sysconf("SC_OPEN_MAX"))):
            os.closerange(first, end)
        answer = _ALL_MADE
        try:
            make(files)
        except Exception as error:  # noqa: BLE001 - the parent raises it
            answer = str(error).encode(errors="surrogateescape") or repr(error).encode()
        os.write(tell, answer)
        os.close(tell)
        if answer == _ALL_MADE:
            os.read(alive, 1)
    finally:
        files.remove()
        os._exit(0)


def opened_folder(path: bytes) -> int:
    """Open a folder whose path has no link. OSError: it cannot be opened so."""
    how = struct.pack("<3Q", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, 0, _NO_SYMLINKS)
    libc = ctypes.CDLL(None, use_errno=True)
    found = int(libc.syscall(CALLS["openat2"], AT_FDCWD, path or b"/", how, len(how)))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fsdecode(path))
    return found


def _opened_as_made(folder: int, name: bytes, mode: int, device: int) -> int:
    """Open a file that this process has just made, without any right to read or write it.

    A user who may change the folder can put no other file of this kind, device and owner in its place that is not as good.

    Raises:
        OSError: another file is there by now.
    """
    file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    found = os.fstat(file)
    if (stat.S_IFMT(found.st_mode), found.st_rdev, found.st_uid, found.st_nlink) != (
        *(stat.S_IFMT(mode), device, os.geteuid(), 1),
    ):
        os.close(file)
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(name))
    return file


def _write(file: int, offset: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count


def _nanoseconds(time: Any) -> int:
    return int(time.tv_sec) * _NS_PER_S + int(time.tv_usec) * _NS_PER_US
