# SPDX-License-Identifier: Apache-2.0
"""The tape: all inputs of a watch's stream and table, in their order, as entries of bytes. Pure.

Theory
------
The core is a pure function of its inputs: the records, as they came, and the watch's own calls between them
(agent.table.inputs). The tape has both. A part of the ring that was drained at once is one entry, byte for byte as the ring
(kernel/bpf/ringbuf.c) held it, so that taking it costs one copy and no work for each record.

Grammar (little endian; all entries are multiples of 8 bytes)::

    tape    := entry*
    entry   := u32 kind, u32 length, u64 value, u64 ns, payload (length bytes), NULs up to a multiple of 8
    part    := (u32 flags and length, u32, record (bpf/events.h), NULs up to a multiple of 8)*

    kind    value                                           ns              payload
    1..63   the argument of an Input (agent.table.inputs)   0               none
    64      PART: Stream.next after the part                CLOCK_BOOTTIME  part
    65      CLOCK: CLOCK_REALTIME, ns                       CLOCK_BOOTTIME  u64 CLOCK_MONOTONIC, ns; u64 stated
    66      END: Stream.next                                CLOCK_BOOTTIME  u8: 1 if the next daemon goes on from here

``stated`` is a time by CLOCK_BOOTTIME, ns: every record of an earlier time is in the tape before this entry, or lost for
good. 0: that is not known yet. An older program did not write it.
"""

import struct
from collections.abc import Iterator
from typing import Final

from agent.errors import CkptreeError
from agent.record import NamedTuple

PART: Final = 64
CLOCK: Final = 65
END: Final = 66

ENTRY: Final = struct.Struct("<IIQQ")
MONOTONIC: Final = struct.Struct("<Q")
CLOCKS: Final = struct.Struct("<QQ")
"""The payload of a CLOCK: CLOCK_MONOTONIC, ns, and `stated`."""

Data = memoryview | bytes


class TornError(CkptreeError):
    """A tape that is no sequence of whole entries, or whose entries no daemon writes."""


class TapeEntry(NamedTuple):
    """An entry of a tape.

    Attributes:
        kind, value, ns: see the grammar.
        payload: a view into the tape.
    """

    kind: int
    value: int
    ns: int
    payload: memoryview


def padded(length: int) -> int:
    """Return a length with its padding."""
    return (length + 7) & ~7


def stated(entry: TapeEntry) -> int | None:
    """Return the time up to which a CLOCK states that all records are there, CLOCK_BOOTTIME, ns; None: it states none."""
    if len(entry.payload) < CLOCKS.size:
        return None
    told: int = CLOCKS.unpack_from(entry.payload)[1]
    return told


def pack(kind: int, value: int, ns: int = 0, payload: Data = b"") -> bytes:
    """Return an entry as bytes."""
    length = len(payload)
    return ENTRY.pack(kind, length, value, ns) + bytes(payload) + bytes(padded(length) - length)


def entries(tape: Data) -> Iterator[TapeEntry]:
    """Yield the entries of a tape.

    Raises:
        TornError: it ends within an entry.
    """
    view = memoryview(tape)
    at, end = 0, len(view)
    while at < end:
        if end - at < ENTRY.size:
            raise TornError(f"the tape ends within the head of an entry, at byte {at}")
        kind, length, value, ns = ENTRY.unpack_from(view, at)
        at += ENTRY.size
        if end - at < padded(length):
            raise TornError(f"the tape ends within an entry of kind {kind}, at byte {at}")
        yield TapeEntry(kind, value, ns, view[at : at + length])
        at += padded(length)
