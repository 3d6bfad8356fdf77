# SPDX-License-Identifier: Apache-2.0
"""The head of a checkpoint image: the records that tell of the host, before any pid.

    head      = HEADER release version machine ARCH CONTAINER lsm LSM_INFO
    HEADER    = record 1: u64 magic, u16 arch, major, minor, patch, rev, 6 bytes, 12 x u16 constants,
                          u64 seconds, u64 uflags
    ARCH      = record 2: u16 has_fxsr, u16 has_xsave, u16 xstate_size, u16
    CONTAINER = record 3: nothing
    LSM_INFO  = record 7: up to 192 bytes, none of which we need

The strings are BUFFERs (record 4), NUL padded: those of uname(2) as long as constants 5 to 7 say, the LSM's 11 bytes.
``seconds`` is CLOCK_REALTIME; bit 0 of ``uflags`` means that the root is any task, not a namespace's init.
"""

import struct
from dataclasses import replace
from typing import NamedTuple

from agent.model import Header, Mode, Snapshot
from exporters.facts import TIME_NS_MAX
from exporters.findings import Finding
from exporters.records import ARCH, BUFFER, CONTAINER, HEAD_BYTES, HEADER, LSM_INFO, Cursor, record

HEAD_MAGIC = 0x00FEED0CC0A2D200
NS_PER_S = 1_000_000_000

_HEADER = struct.Struct("<Q5H6x12HQQ")
_ARCH = struct.Struct("<4H")

_ARCH_X86_64 = 2
_REV = 6
# task_comm_len, at_vector_size, signal_nsig; uts sysname, nodename, release, version, machine, domainname;
# rlimit_nlimits, n_tty_buf_size, tty_termios_nccs: of an x86-64 kernel of that time.
_CONSTANTS = (16, 44, 64, 65, 65, 65, 65, 65, 65, 16, 4096, 19)
_UTS_BYTES = 65
_UTS_LIMIT = 1024
_LSM_BYTES = 11
_LSM_INFO_LIMIT = 192
_LSM_INFO = b"dummy"
_SUBTREE = 1  # bit of uflags
_U16_MAX = 0xFFFF


class Head(NamedTuple):
    """What the head says.

    Attributes:
        mode: of the capture.
        seconds: CLOCK_REALTIME of the cut.
        header: the host.
        notes: oddities that do not touch the tree, for people.
    """

    mode: Mode
    seconds: int
    header: Header
    notes: tuple[str, ...]


def write_head(snapshot: Snapshot) -> list[bytes]:
    """The records of the head."""
    header = as_said(snapshot.header)
    uflags = _SUBTREE if snapshot.mode == "subtree" else 0
    version = header.kernel_version
    seconds = snapshot.time_ns // NS_PER_S
    return [
        record(HEADER, _HEADER.pack(HEAD_MAGIC, _ARCH_X86_64, *version, _REV, *_CONSTANTS, seconds, uflags)),
        record(BUFFER, _padded(header.release, _UTS_BYTES)),
        record(BUFFER, _padded(header.version, _UTS_BYTES)),
        record(BUFFER, _padded(header.machine, _UTS_BYTES)),
        record(ARCH, _ARCH.pack(header.has_fxsr, header.has_xsave, header.xstate_size, 0)),
        record(CONTAINER, b""),
        record(BUFFER, _padded(header.lsm, _LSM_BYTES)),
        record(LSM_INFO, _LSM_INFO),
    ]


def as_said(header: Header) -> Header:
    """The header as the base's fixed fields can say it."""
    major, minor, patch = header.kernel_version
    return replace(
        header,
        kernel_version=(min(major, _U16_MAX), min(minor, _U16_MAX), min(patch, _U16_MAX)),
        xstate_size=min(header.xstate_size, _U16_MAX),
        release=_fitted(header.release, _UTS_BYTES),
        version=_fitted(header.version, _UTS_BYTES),
        machine=_fitted(header.machine, _UTS_BYTES),
        lsm=_fitted(header.lsm, _LSM_BYTES),
    )


def read_head(cursor: Cursor) -> Head:
    """Take the records of the head."""
    at = cursor.at
    fields = _read_header(cursor)
    uts: list[str] = []
    for place, size in zip((42, 44, 46), fields.uts, strict=True):
        if size is not None and size > _UTS_LIMIT:
            text = f"is {size} and may be {_UTS_LIMIT} at most"
            cursor.report(Finding("uts-length", "HEADER.uts_len", text, at + place))
            size = None
        uts.append(_unpadded(cursor.record(BUFFER, size)[1]))
    _, arch = cursor.record(ARCH, _ARCH.size)
    fxsr, xsave, xstate, _ = _ARCH.unpack(arch) if len(arch) == _ARCH.size else (0, 0, 0, 0)
    cursor.record(CONTAINER, 0)
    lsm = _unpadded(cursor.record(BUFFER, _LSM_BYTES)[1])
    cursor.record(LSM_INFO, limit=_LSM_INFO_LIMIT)
    release, version, machine = uts
    header = Header(release, version, machine, fields.version, fxsr != 0, xsave != 0, xstate, lsm)
    return Head("subtree" if fields.uflags & _SUBTREE else "container", fields.seconds, header, tuple(cursor.notes))


class _HeaderFields(NamedTuple):
    version: tuple[int, int, int] = (0, 0, 0)
    uts: tuple[int | None, ...] = (None, None, None)
    seconds: int = 0
    uflags: int = _SUBTREE  # the mode that asks less of a tree, where nobody knows


def _read_header(cursor: Cursor) -> _HeaderFields:
    if cursor.ahead(HEAD_BYTES, 8) == HEAD_MAGIC.to_bytes(8, "big"):
        text = "was written by a big-endian machine; only little-endian is read"
        cursor.report(Finding("big-endian", "HEADER.magic", text, HEAD_BYTES))
    at, body = cursor.record(HEADER, _HEADER.size)
    if len(body) != _HEADER.size:
        return _HeaderFields()
    magic, arch, major, minor, patch, rev, *constants, seconds, uflags = _HEADER.unpack(body)
    if magic != HEAD_MAGIC:
        text = f"is 0x{magic:016x}, not 0x{HEAD_MAGIC:016x}: no checkpoint image"
        cursor.report(Finding("head-magic", "HEADER.magic", text, at + 8))
    if seconds > TIME_NS_MAX // NS_PER_S:
        cursor.report(Finding("head-time", "HEADER.time", f"is {seconds} s: no time", at + 56))
    if arch != _ARCH_X86_64:
        text = f"is {arch}; x86-64 is {_ARCH_X86_64}"
        cursor.report(Finding("foreign-arch", "HEADER.arch_id", text, at + 16))
    if rev != _REV:
        cursor.report(Finding("foreign-revision", "HEADER.rev", f"is {rev}; known is {_REV}", at + 24))
    if uflags & ~_SUBTREE:
        text = f"is 0x{uflags:x}; known is bit 0, subtree"
        cursor.report(Finding("unknown-flags", "HEADER.uflags", text, at + 64))
    return _HeaderFields((major, minor, patch), tuple(constants[5:8]), seconds, uflags)


def _fitted(text: str, size: int) -> str:
    return _unpadded(_padded(text, size))


def _padded(text: str, size: int) -> bytes:
    """A string in a C array: cut between characters, always ended by a NUL."""
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) >= size:
        raw = raw[: size - 1].decode("utf-8", "ignore").encode("utf-8")
    return raw.ljust(size, b"\0")


def _unpadded(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "backslashreplace")
