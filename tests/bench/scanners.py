# SPDX-License-Identifier: Apache-2.0
"""The rivals: other ways to list all tasks, each yielding rows for the judge and its own duration."""

import ctypes as ct
import errno
import os
import struct
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.bench.compiled import compiled
from tests.bench.judge import Capture, Row

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Scan(NamedTuple):
    """One capture, not yet decoded: that would only disturb the storm.

    Attributes:
        begun_ns, ended_ns: CLOCK_BOOTTIME around it.
        rows: decodes it.
        closed: its rows all claim to be of the storm's tree, see Capture.
        elapsed_ns: what its maker says it took, where that is not all of it.
        complete: its maker vouches for it.
    """

    begun_ns: int
    ended_ns: int
    rows: Callable[[], list[Row]]
    closed: bool = False
    elapsed_ns: int | None = None
    complete: bool = True

    @property
    def duration_ns(self) -> int:
        """What it took."""
        return self.ended_ns - self.begun_ns if self.elapsed_ns is None else self.elapsed_ns

    def capture(self) -> Capture:
        """For the judge."""
        return Capture(self.rows(), self.begun_ns, self.ended_ns, self.closed)


class IteratorRead(NamedTuple):
    """What a BPF iterator gave; only who wrote the iterator can decode it."""

    data: bytes
    begun_ns: int
    ended_ns: int


class _Row(ct.Structure):
    _fields_ = (
        ("start_ticks", ct.c_uint64),
        *((name, ct.c_int32) for name in ("tid", "tgid", "ppid", "sid", "pgid", "state", "depth", "inner")),
    )


class _Rows(ct.Structure):
    _fields_ = (
        *((name, ct.c_uint64) for name in ("begun_ns", "ended_ns", "count", "room")),
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
    """The interval of births that /proc rounds down to this many ticks."""
    return ticks * TICK_NS, (ticks + 1) * TICK_NS


def _proc_rows(data: bytes) -> list[Row]:
    return [
        Row(tid, tgid, ppid, sid, pgid, state in b"ZX", *_ticked(ticks))
        for ticks, tid, tgid, ppid, sid, pgid, state, _, _ in struct.iter_unpack("<Q8i", data)
    ]


def scan_proc() -> Scan:
    """stat and status of every thread, in C."""
    rows = _rows()
    if _library().scan_proc(ct.byref(rows)) < 0:
        raise OSError("/proc cannot be read")
    data = ct.string_at(rows.row, rows.count * ct.sizeof(_Row))
    return Scan(rows.begun_ns, rows.ended_ns, partial(_proc_rows, data))


def scan_iterator(link_fd: int) -> IteratorRead:
    """The bare read of a BPF task iterator, in C, given its link."""
    begun, ended = ct.c_uint64(), ct.c_uint64()
    room = _room()
    got = int(_library().scan_iterator(link_fd, room, len(room), ct.byref(begun), ct.byref(ended)))
    if got < 0:
        raise OSError(-got, errno.errorcode.get(-got, "BPF_ITER_CREATE"))
    return IteratorRead(ct.string_at(room, got), begun.value, ended.value)


def _namespaced_pid(tid: int) -> str:
    """What a psutil user must read by hand."""
    with Path(f"/proc/{tid}/status").open() as file:
        return next((line for line in file if line.startswith("NSpid:")), "")


def _psutil_process(process: psutil.Process) -> Iterator[Row]:
    with process.oneshot():
        pid = process.pid
        ppid = process.ppid()
        zombie = process.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
        sid, pgid = os.getsid(pid), os.getpgid(pid)
        _namespaced_pid(pid)
        started = process._proc.create_time(monotonic=True)  # type: ignore[attr-defined]  # psutil's own identity
        ticks = round(started * 1e9 / TICK_NS)
        yield Row(pid, pid, ppid, sid, pgid, zombie, *_ticked(ticks))
        for thread in process.threads():
            if thread.id != pid:
                yield Row(thread.id, pid)


def scan_psutil() -> Scan:
    """psutil's process_iter with threads, session, group and the namespaced number."""
    begun = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    rows: list[Row] = []
    for process in psutil.process_iter():
        try:
            rows += list(_psutil_process(process))  # all of it or nothing
        except (psutil.NoSuchProcess, psutil.ZombieProcess, ProcessLookupError, FileNotFoundError):
            continue
    ended = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return Scan(begun, ended, rows.copy)
