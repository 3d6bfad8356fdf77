# SPDX-License-Identifier: Apache-2.0
"""Programs that stand still while they are dumped, restarted and dumped again, and that then answer a question."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.live.dumps import dump, eventually, program, restarted
from tests.live.redump import differences
from tests.support.suitepackages import SUITE

_PAUSE = 34
"""Number of the system call pause()."""
PREAMBLE = """
import ctypes, fcntl, mmap, os, signal, sys, time
PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]

def call(name, *arguments):
    answer = getattr(libc, name)(*(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments))
    if answer == -1:
        raise OSError(ctypes.get_errno(), name)
    return answer

def area(size, prot=3, flags=0x22, at=0, file=-1, offset=0):
    found = libc.mmap(at, size, prot, flags, file, offset)
    if found == 2**64 - 1:
        raise OSError(ctypes.get_errno(), "mmap")
    return found

def write(address, content):
    ctypes.memmove(address, content, len(content))

def stand(name, act):
    def acted(*_):
        with open(f"{name}.part", "w") as file:
            file.write(repr(act()))
        os.rename(f"{name}.part", f"{name}.answer")
    signal.signal(signal.SIGUSR1, acted)
    with open(f"{name}.part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{name}.part", f"{name}.ready")
    while True:
        signal.pause()
"""
"""Words for the programs: `stand` waits for a question under a name, and answers with what `act` returns."""


class Standing(NamedTuple):
    """Programs that stand still.

    Attributes:
        folder: theirs.
        images: of the first dump.
    """

    folder: Path
    images: Path

    def pid(self, name: str) -> int:
        """Return the pid of a process."""
        return int((self.folder / f"{name}.ready").read_text())

    def ask(self, name: str) -> str:
        """Have a process answer once it stands still, and return its answer. A signal just before pause() has no effect."""
        eventually(lambda: _in_pause(self.pid(name)), f"{name} stands still")
        os.kill(self.pid(name), signal.SIGUSR1)
        answer = self.folder / f"{name}.answer"
        eventually(answer.exists, f"{name} answers")
        return answer.read_text()


def _in_pause(pid: int) -> bool:
    return Path(f"/proc/{pid}/syscall").read_text().startswith(f"{_PAUSE} ")


def dumped(
    source: str,
    folder: Path,
    socket: Path,
    names: Sequence[str] = ("one",),
    options: Sequence[str] = (),
    before: Callable[[int], object] = int,
    within: Sequence[str] = (),
) -> Standing:
    """Run a program of Python, and have it dumped when all of its processes stand still.

    Args:
        source: of the program, behind PREAMBLE.
        folder: empty; its working directory.
        socket: of the daemon.
        names: of its processes.
        options: of criu.
        before: called with the root's pid before the dump.
        within: words before the command, as those of unshare(1).
    """
    with program([*within, sys.executable, "-c", PREAMBLE + source], folder) as pid:
        for name in names:
            eventually((folder / f"{name}.ready").exists, f"{name} stands: {(folder / 'out').read_text()}")
        for name in names:
            each = int((folder / f"{name}.ready").read_text())
            eventually(lambda: _in_pause(each), f"{name} stands still")  # noqa: B023 - called at once
        before(pid)
        return Standing(folder, dump(pid, folder / "images", socket, *options))


@contextmanager
def restored(
    standing: Standing, socket: Path, *, compared: bool = True, options: Sequence[str] = ()
) -> Iterator[Standing]:
    """Restart programs with their pids; dump them again and compare both dumps; yield them to be asked.

    Args:
        standing: the programs.
        socket: of the daemon.
        compared: the dumps are compared.
        options: of criu.
    """
    with restarted(standing.images, "--no-pidns") as ready:
        if compared:
            again = dump(ready["tasks"][0]["pid"], standing.folder / "again", socket, "--leave-running", *options)
            found = differences(standing.images, again)
            assert not found, "\n".join(found)
        yield standing


def dumped_at_a_stop(
    pid: int, images: Path, socket: Path, *options: str, suite: str = SUITE, before: Sequence[str] = ()
) -> Path:
    """Have CRIU dump a tree all of whose processes are stopped by SIGSTOP; return the folder of the images.

    Args:
        pid: of the root.
        images: the folder.
        socket: of the daemon.
        options: of criu.
        suite: the suite of Debian whose criu dumps.
        before: words in front of criu's command.
    """
    eventually(lambda: _stop(pid), "all processes are stopped")  # one may end meanwhile, or have a child
    return dump(pid, images, socket, *options, suite=suite, before=before)


@contextmanager
def alike(
    images: Path,
    socket: Path,
    *options: str,
    restart: Sequence[str] = (),
    suite: str = SUITE,
    before: Sequence[str] = (),
) -> Iterator[Mapping[str, Any]]:
    """Restart a tree that was dumped at a stop, with its pids, and yield the ready line once all processes go on.

    They are dumped once more while they are stopped, and both dumps are compared.

    Args:
        images: of the first dump.
        socket: of the daemon.
        options: of criu.
        restart: options of restart.
        suite: the suite of Debian whose criu dumps.
        before: words in front of criu's command.
    """
    with restarted(images, "--no-pidns", *restart) as ready:
        root = int(ready["root"])
        processes = _processes(root)
        for each in processes:
            eventually(lambda: _is_stopped(each), f"process {each} is stopped")  # noqa: B023 - called at once
        folder = images.with_name(f"{images.name}.again")
        again = dump(root, folder, socket, "--leave-running", *options, suite=suite, before=before)
        found = differences(images, again)
        assert not found, "\n".join(found)
        for each in processes:
            os.kill(each, signal.SIGCONT)
        yield ready


def _stop(root: int) -> bool:
    """Stop the processes of a tree, parents first; return True if all were stopped before."""
    running = 0
    for each in _processes(root):
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if not _is_stopped(each):
                running += 1
                os.kill(each, signal.SIGSTOP)
    return not running


def _processes(root: int) -> list[int]:
    """Return the living processes of a tree."""
    living: list[int] = []
    for each in (psutil.Process(root), *psutil.Process(root).children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            if each.status() != psutil.STATUS_ZOMBIE:
                living.append(each.pid)
    return living


def _is_stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED
