# SPDX-License-Identifier: Apache-2.0
"""The rivals: other ways to list all tasks, each with rows for the judge and its duration."""

import ctypes as ct
import errno
import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.bench.compiled import compiled
from tests.bench.judge import Capture, Row

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Scan(NamedTuple):
    """One capture whose rows are not yet decoded, because decoding would disturb the storm.

    Attributes:
        begun_ns, ended_ns: CLOCK_BOOTTIME around it.
        rows: a function that decodes the rows.
        closed: its rows all claim to be of the storm's tree, see Capture.
        elapsed_ns: the maker's own measure of the duration, if it is less than the whole.
        complete: its maker calls it complete.
    """

    begun_ns: int
    ended_ns: int
    rows: Callable[[], list[Row]]
    closed: bool = False
    elapsed_ns: int | None = None
    complete: bool = True

    @property
    def duration_ns(self) -> int:
        """Return the duration in ns."""
        return self.ended_ns - self.begun_ns if self.elapsed_ns is None else self.elapsed_ns

    def capture(self) -> Capture:
        """Return the capture for the judge."""
        return Capture(self.rows(), self.begun_ns, self.ended_ns, self.closed)


class IteratorRead(NamedTuple):
    """The bytes of a BPF iterator; the author of the iterator must decode them."""

    data: bytes
    begun_ns: int
    ended_ns: int


class _Row(ct.Structure):
    _fields_ = (
        ("start_ticks", ct.c_uint64),
        *((name, ct.c_int32) for name in ("tid", "tgid", "ppid", "sid", "pgid", "state", "depth", "number")),
    )


class _Rows(ct.Structure):
    _fields_ = (
        *((name, ct.c_uint64) for name in ("begun_ns", "ended_ns", "count", "room", "level")),
        ("row", ct.POINTER(_Row)),
    )


@cache
def _library() -> ct.CDLL:
    library = ct.CDLL(str(compiled("scanners", "-shared", "-fPIC")))
    library.scan_iterator.restype = ct.c_long
    library.scan_iterator.argtypes = (
        ct.c_int,
        ct.c_char_p,
        ct.c_uint64,
        ct.POINTER(ct.c_uint64),
        ct.POINTER(ct.c_uint64),
    )
    return library


@cache
def _rows() -> _Rows:
    return _Rows()


@cache
def _room() -> "ct.Array[ct.c_char]":
    return ct.create_string_buffer(64 << 20)


def _ticked(ticks: int) -> tuple[int, int]:
    """Return the interval of start times that /proc rounds down to this many ticks."""
    return ticks * TICK_NS, (ticks + 1) * TICK_NS


def _proc_rows(data: bytes, init: int) -> list[Row]:
    raw = list(struct.iter_unpack("<Q8i", data))
    rows = [
        Row(tid, tgid, ppid, sid, pgid, state in b"ZX", *_ticked(ticks))
        for ticks, tid, tgid, ppid, sid, pgid, state, _, _ in raw
    ]
    return _counted_within(rows, {fields[1]: fields[8] for fields in raw}, init) if init else rows


def _counted_within(rows: Iterable[Row], numbers: Mapping[int, int], init: int) -> list[Row]:
    """Return rows by the numbers one level below; a task without such a number is left out, also as a reference.

    The rows do not name the namespace. Other inits than the given one are left out, and the judge skips rows whose
    start is that of no task of the log.
    """

    def inner(number: int | None) -> int | None:
        return numbers.get(number or 0) or None

    return [
        Row(numbers[row.tid], inner(row.tgid), inner(row.ppid), inner(row.sid), inner(row.pgid), *row[5:])
        for row in rows
        if numbers.get(row.tid, 0) > 1 or row.tid == init
    ]


def scan_proc(init: int = 0) -> Scan:
    """Read stat and status of every thread, in C; with `init`, by the numbers of the namespace of that init."""
    rows = _rows()
    rows.level = int(init > 0)
    if _library().scan_proc(ct.byref(rows)) < 0:
        raise OSError("/proc cannot be read")
    data = ct.string_at(rows.row, rows.count * ct.sizeof(_Row))
    return Scan(rows.begun_ns, rows.ended_ns, partial(_proc_rows, data, init))


def scan_iterator(link_fd: int) -> IteratorRead:
    """Read a BPF task iterator in C, through its link."""
    begun, ended = ct.c_uint64(), ct.c_uint64()
    room = _room()
    got = int(_library().scan_iterator(link_fd, room, len(room), ct.byref(begun), ct.byref(ended)))
    if got < 0:
        raise OSError(-got, errno.errorcode.get(-got, "BPF_ITER_CREATE"))
    return IteratorRead(ct.string_at(room, got), begun.value, ended.value)


def _namespaced_pid(tid: int, level: int) -> int:
    """Return the number that a psutil user must read by hand; 0: the task has no number on that level."""
    with Path(f"/proc/{tid}/status").open() as file:
        numbers = next((line for line in file if line.startswith("NSpid:")), "").split()[1:]
    return int(numbers[level]) if level < len(numbers) else 0


def _psutil_process(process: psutil.Process, numbers: dict[int, int], init: int) -> Iterator[Row]:
    with process.oneshot():
        pid = process.pid
        ppid = process.ppid()
        zombie = process.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
        sid, pgid = os.getsid(pid), os.getpgid(pid)
        numbers[pid] = _namespaced_pid(pid, int(init > 0))
        started = process._proc.create_time(monotonic=True)  # type: ignore[attr-defined]  # psutil's own identity
        ticks = round(started * 1e9 / TICK_NS)
        yield Row(pid, pid, ppid, sid, pgid, zombie, *_ticked(ticks))
        for thread in process.threads():
            if thread.id != pid:
                if init:
                    numbers[thread.id] = _namespaced_pid(thread.id, 1)
                yield Row(thread.id, pid)


def scan_psutil(init: int = 0) -> Scan:
    """List tasks by psutil's process_iter, with threads, session, group and the namespaced number."""
    numbers: dict[int, int] = {}
    begun = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    rows: list[Row] = []
    for process in psutil.process_iter():
        try:
            rows += list(_psutil_process(process, numbers, init))  # all of it or nothing
        except (psutil.NoSuchProcess, psutil.ZombieProcess, ProcessLookupError, FileNotFoundError):
            continue
    ended = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return Scan(begun, ended, partial(_counted_within, rows, numbers, init) if init else rows.copy)


def _ps_rows(text: bytes) -> list[Row]:
    rows = []
    for line in text.splitlines():
        pid, tid, ppid, sid, pgid, state = line.split()
        rows.append(Row(int(tid), int(pid), int(ppid), int(sid), int(pgid), state[:1] in (b"Z", b"X")))
    return rows


def scan_ps() -> Scan:
    """List tasks by ps with threads, as a whole process; its rows have no exact start to tell uses of a number
    apart.
    """
    command = ("ps", "-eLo", "pid=,lwp=,ppid=,sid=,pgid=,stat=")
    begun = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    ended = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return Scan(begun, ended, partial(_ps_rows, ran.stdout))
