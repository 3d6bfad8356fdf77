# SPDX-License-Identifier: Apache-2.0
"""A watch over one input at a time: the files that it opens, what else it does to the host, its time and its memory.

Garbage is collected between inputs, which is faster.
"""

import gc
import os
import resource
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

_LONGEST_CPU_S: Final = 5.0
_LONGEST_WALL_S: Final = 60
_MOST_MEMORY: Final = 256 << 20
_MORE_ADDRESSES: Final = 2 << 30
_BETWEEN: Final = 256
"""Inputs between two looks at what the process keeps."""
_NEVER: Final = frozenset(
    (
        *(
            "subprocess.Popen",
            "os.system",
            "os.exec",
            "os.posix_spawn",
            "os.fork",
            "os.forkpty",
            "os.kill",
            "os.killpg",
        ),
        *(
            "os.remove",
            "os.rename",
            "os.rmdir",
            "os.mkdir",
            "os.link",
            "os.symlink",
            "os.chmod",
            "os.chown",
            "os.utime",
        ),
        *("os.truncate", "os.setxattr", "os.removexattr", "socket.connect", "socket.sendto", "shutil.rmtree"),
    )
)
"""Events of Python's audit that no reading of images may cause."""
_WRITES: Final = os.O_CREAT | os.O_TRUNC | os.O_EXCL
_KERNELS: Final = ("/proc/sys/vm/mmap_min_addr", "/proc/self/", "/sys/kernel/mm/hugepages/")


class InputWatch:
    """The watch.

    Args:
        names: tells of a path that the input at hand names.

    Attributes:
        longest_s: processor time of the longest input.
        longest: its number.
        most_bytes: memory that an input has taken at most.
        largest: its number.
    """

    def __init__(self, names: Callable[[bytes], bool]) -> None:
        self._names = names
        self._on = False
        self._baseline = 0
        self._count = 0
        self.longest_s, self.longest = 0.0, 0
        self.most_bytes, self.largest = 0, 0
        self._wrong: list[str] = []
        gc.freeze()
        gc.disable()
        sys.addaudithook(self._hear)
        signal.signal(signal.SIGALRM, _too_long)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (size + _MORE_ADDRESSES, hard))

    @contextmanager
    def over(self, number: int) -> Iterator[None]:
        """Watch over an input.

        Raises:
            AssertionError: it did what no input may, or took too long or too much.
        """
        if self._count % _BETWEEN == 0:
            gc.collect()
            _forget_peak()
            self._baseline = _peak()
        self._count += 1
        self._wrong.clear()
        signal.alarm(_LONGEST_WALL_S)
        begin = time.process_time()
        self._on = True
        try:
            yield
        finally:
            self._on = False
            took = time.process_time() - begin
            signal.alarm(0)
        if took > self.longest_s:
            self.longest_s, self.longest = took, number
        more = _peak() - self._baseline
        if more > self.most_bytes:
            self.most_bytes, self.largest = more, number
        if took > _LONGEST_CPU_S or more > _MOST_MEMORY:
            self._count = 0  # the next input begins with a look at what is there by then
        assert not self._wrong, self._wrong[0]
        assert took <= _LONGEST_CPU_S, f"it took {took:.1f} s of the processor"
        assert more <= _MOST_MEMORY, f"it took {more >> 20} MiB"

    def report(self) -> list[str]:
        """Return a line for the longest input, and one for the largest."""
        return [
            f"longest: {self.longest_s * 1000:.0f} ms of the processor, input {self.longest}",
            f"largest: {self.most_bytes >> 10} KiB of memory, input {self.largest}",
        ]

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open":
            self._hear_open(arguments[0], int(arguments[2] or 0))
        elif event in _NEVER:
            self._wrong.append(f"{event} of {arguments!r}")

    def _hear_open(self, path: object, flags: int) -> None:
        if not isinstance(path, str | bytes):
            return
        text = os.fsdecode(path)
        if flags & _WRITES:
            self._wrong.append(f"{text} is opened with {flags:#o}")
        elif not text.startswith(_KERNELS) and not self._names(os.fsencode(path)):
            self._wrong.append(f"{text} is opened, which no image names")
        elif not flags & (os.O_NONBLOCK | os.O_PATH) and _may_wait(text):
            self._wrong.append(f"{text} is opened, and may wait for ever")


def _may_wait(path: str) -> bool:
    """Return True for a file whose opening may wait, or does something: a FIFO, a device."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _too_long(_signal: int, _frame: object) -> None:
    raise AssertionError(f"it took more than {_LONGEST_WALL_S} s")


def _peak() -> int:
    """Return the most memory that this process has had since `_forget_peak`, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _forget_peak() -> None:
    with suppress(OSError):  # not allowed here: then the peaks are those of all inputs so far
        Path("/proc/self/clear_refs").write_text("5")
