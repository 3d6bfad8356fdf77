# SPDX-License-Identifier: Apache-2.0
"""The head of a checkpoint image: the records that describe the host, before any pid.

    head      = HEADER release version machine ARCH CONTAINER lsm LSM_INFO
    HEADER    = record 1: u64 magic, u16 arch, major, minor, patch, rev, 6 bytes, 12 x u16 constants,
                          u64 seconds, u64 uflags
    ARCH      = record 2: of x86: u16 has_fxsr, u16 has_xsave, u16 xstate_size, u16; of others up to 192 bytes
    CONTAINER = record 3: nothing
    LSM_INFO  = record 7: up to 192 bytes, which ckptree only keeps

The strings are BUFFERs (record 4), NUL padded: those of uname(2) have the lengths of constants 5 to 7, the LSM's 11
bytes. ``seconds`` is CLOCK_REALTIME. Bit 0 of ``uflags`` means that the root is any task, not a namespace's init.

A conversion keeps all of the head, of any writer, except the six bytes of padding. exporters.content.hostmap has the
defaults, and the keys for foreign values.
"""

import re
import struct
from functools import lru_cache

from agent.model import Header, Mode
from agent.record import NamedTuple
from exporters.content.facts import TIME_NS_MAX
from exporters.content.fields import escape
from exporters.content.findings import Finding
from exporters.content.hostmap import (
    ARCH_AARCH64,
    ARCH_LIMIT,
    ARCH_X86_64,
    CONSTANTS,
    LSM_INFO,
    LSM_INFO_LIMIT,
    REV,
    SUBTREE,
    U16_MAX,
    UTS_CONSTANTS,
    UTS_LIMIT,
    X86_ARCH,
    arch_body,
    arch_id,
    is_x86,
    settled,
)
from exporters.image.records import ARCH, BUFFER, CONTAINER, HEAD_BYTES, HEAD_MAGIC, HEADER, Cursor, record
from exporters.image.records import LSM_INFO as LSM_INFO_RECORD

NS_PER_S = 1_000_000_000

_HEADER = struct.Struct("<Q5H6x12HQQ")
SECONDS = struct.Struct("<Q")
"""The time in the head, whole seconds of CLOCK_REALTIME."""
_SECONDS_AT = HEAD_BYTES + _HEADER.size - 2 * SECONDS.size  # only the flags follow
_LSM_BYTES = 11
_ESCAPE = rb"\\(?:(\\)|x([0-9a-f]{2}))"  # compiled where there is a backslash


class Head(NamedTuple):
    """The contents of the head.

    Attributes:
        mode: of the capture.
        seconds: CLOCK_REALTIME of the snapshot, in whole seconds.
        header: the host.
        notes: oddities that do not touch the tree, in sentences.
    """

    mode: Mode
    seconds: int
    header: Header
    notes: tuple[str, ...]


class _Host(NamedTuple):
    """The host in the form of the records: numbers in range, strings as bytes."""

    arch_id: int = ARCH_X86_64
    version: tuple[int, ...] = (0, 0, 0)
    rev: int = REV
    constants: tuple[int, ...] = CONSTANTS
    uflags: int = 0  # without the mode's bit
    uts: tuple[bytes, ...] = (b"", b"", b"")
    arch: bytes = b""
    lsm: bytes = b""
    lsm_info: bytes = LSM_INFO


@lru_cache(maxsize=4)  # a daemon captures the same host again and again
def write_around_time(header: Header, mode: Mode) -> tuple[bytes, bytes]:
    """Return the records of the head up to the time, which `SECONDS` packs, and from there on."""
    host = _pack(header)
    uflags = host.uflags | (SUBTREE if mode == "subtree" else 0)
    first = record(HEADER, _HEADER.pack(HEAD_MAGIC, host.arch_id, *host.version, host.rev, *host.constants, 0, uflags))
    records = [
        first[_SECONDS_AT + SECONDS.size :],
        *[record(BUFFER, raw) for raw in host.uts],
        record(ARCH, host.arch),
        record(CONTAINER, b""),
        record(BUFFER, host.lsm),
        record(LSM_INFO_RECORD, host.lsm_info),
    ]
    return first[:_SECONDS_AT], b"".join(records)


def as_said(header: Header) -> Header:
    """Return the header as the fixed fields of the base can hold it."""
    return _unpack(_pack(header))


def read_head(cursor: Cursor) -> Head:
    """Read the records of the head; report faults to the cursor."""
    at = cursor.at
    fields = _read_header(cursor)
    host = fields.host
    uts: list[bytes] = []
    for place, size in zip((42, 44, 46), host.constants[UTS_CONSTANTS], strict=True):
        if size > UTS_LIMIT:
            text = f"is {size} and may be {UTS_LIMIT} at most"
            cursor.report(Finding("uts-length", "HEADER.uts_len", text, at + place))
        known = fields.whole and size <= UTS_LIMIT
        uts.append(cursor.record(BUFFER, size if known else None)[1])
    ours = not fields.whole or is_x86(host.arch_id)
    _, arch = cursor.record(ARCH, X86_ARCH.size) if ours else cursor.record(ARCH, limit=ARCH_LIMIT)
    cursor.record(CONTAINER, 0)
    lsm = cursor.record(BUFFER, _LSM_BYTES)[1]
    info = cursor.record(LSM_INFO_RECORD, limit=LSM_INFO_LIMIT)[1]
    header = _unpack(host._replace(uts=tuple(uts), arch=arch, lsm=lsm, lsm_info=info))
    mode: Mode = "subtree" if fields.uflags & SUBTREE else "container"
    return Head(mode, fields.seconds, header, tuple(cursor.notes))


class _HeaderFields(NamedTuple):
    host: _Host = _Host()
    seconds: int = 0
    uflags: int = SUBTREE  # the default is the mode with fewer rules
    whole: bool = False


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
    if arch != ARCH_X86_64:
        text = f"is {arch}; x86-64 is {ARCH_X86_64}"
        if arch == ARCH_AARCH64:
            text = f"is {arch}, as ckptree writes for arm64; the format has no number of its own for that"
        cursor.report(Finding("foreign-arch", "HEADER.arch_id", text, at + 16))
    if rev != REV:
        cursor.report(Finding("foreign-revision", "HEADER.rev", f"is {rev}; known is {REV}", at + 24))
    if uflags & ~SUBTREE:
        text = f"is 0x{uflags:x}; known is bit 0, subtree"
        cursor.report(Finding("unknown-flags", "HEADER.uflags", text, at + 64))
    host = _Host(arch, (major, minor, patch), rev, tuple(constants), uflags & ~SUBTREE)
    return _HeaderFields(host, seconds, uflags, whole=True)


def _pack(header: Header) -> _Host:
    """Return the host in the form of the records; values that do not fit are cut."""
    constants = header.constants or CONSTANTS
    texts = (header.release, header.version, header.machine)
    return _Host(
        arch_id(header),
        tuple([min(number, U16_MAX) for number in header.kernel_version]),
        REV if header.rev is None else header.rev,
        constants,
        header.uflags,
        tuple([_padded(text, size) for text, size in zip(texts, constants[UTS_CONSTANTS], strict=True)]),
        arch_body(header),
        _padded(header.lsm, _LSM_BYTES),
        LSM_INFO if header.lsm_info is None else header.lsm_info,
    )


def _unpack(host: _Host) -> Header:
    """Return the header of a host in the form of the records."""
    fxsr, xsave, xstate = 0, 0, 0
    if is_x86(host.arch_id) and len(host.arch) == X86_ARCH.size:
        fxsr, xsave, xstate, _ = X86_ARCH.unpack(host.arch)
    release, version, machine = [_text(raw) for raw in host.uts]
    major, minor, patch = host.version
    return settled(
        Header(
            release,
            version,
            machine,
            (major, minor, patch),
            fxsr != 0,
            xsave != 0,
            xstate,
            _text(host.lsm),
            host.arch_id,
            host.rev,
            host.constants,
            host.uflags,
            host.arch,
            host.lsm_info,
        )
    )


def _padded(text: str, size: int) -> bytes:
    """Return a string in a C array of `size` bytes. A longer one is cut between characters and ends with a NUL."""
    raw = text.encode("utf-8", "backslashreplace")
    if b"\\" in raw:
        # A backslash that begins no escape stands for itself: other writers do not escape.
        raw = re.sub(_ESCAPE, lambda found: b"\\" if found[1] else bytes.fromhex(found[2].decode("ascii")), raw)
    if len(raw) > size:
        end = max(size - 1, 0)
        while end and raw[end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        raw = raw[:end]
    return raw.ljust(size, b"\0")


def _text(raw: bytes) -> str:
    """Return the text of a C array: all of it, even behind an inner NUL."""
    return escape(raw.rstrip(b"\0"))
