# SPDX-License-Identifier: Apache-2.0
"""Checkpoint images made by hand from the format's description, as a reference for reader and writer."""

import struct
import zlib
from collections.abc import Sequence

import msgpack

from agent.model import PidObject, Snapshot
from tests.support.builders import A_HEADER, a_bare_task

# A container of four tasks: init (1); 5, in the group of 9, which is gone; its child 7, init of a namespace below; and
# 6, a thread of 5. Written from the format's description, record by record.
GOLDEN = bytes.fromhex(
    "01000000 48000000 00d2a2c0 0ced fe00"  # 0: HEADER, 72 long; 8: magic
    "0200 0600 0100 0000 0600 000000000000"  # 16: x86-64, kernel 6.1.0, rev 6; 26: nothing
    "1000 2c00 4000 4100 4100 4100 4100 4100 4100 1000 0010 1300"  # 32: constants, 65 the strings' (42, 44, 46)
    "e02d3266 00000000 00000000 00000000"  # 56: 2024-05-01 11:56:16 UTC; 64: no subtree
    "04000000 49000000 362e312e30"
    + "00" * 60  # 72: BUFFER "6.1.0"
    + "04000000 49000000 233120534d50"
    + "00" * 59  # 145: BUFFER "#1 SMP"
    + "04000000 49000000 7838365f3634"
    + "00" * 59  # 218: BUFFER "x86_64"
    + "02000000 10000000 0100 0100 880a 0000"  # 291: ARCH: fxsr, xsave, 2696
    "03000000 08000000"  # 307: CONTAINER
    "04000000 13000000 6c736d5f6e6f6e65 000000"  # 315: BUFFER "lsm_none"
    "07000000 0d000000 64756d6d79"  # 334: LSM_INFO "dummy"
    "65000000 18000000 05000000 01000000 00000000 00000000"  # 347: PIDS: 5, 1 nested, offset 0
    "04000000 34000000"  # 371: BUFFER, 44 bytes of pids
    "00000000 01000000"  # 379: tag 1: 1
    "00000000 05000000"  # 387: tag 2: 5
    "00000000 09000000"  # 395: tag 3: 9
    "01000000 07000000 01000000"  # 403: tag 4: 7, and 1 below
    "00000000 06000000"  # 415: tag 5: 6
    "66000000 10000000 04000000 00000000"  # 423: TREE: 4
    "04000000 68000000"  # 439: BUFFER, 96 bytes of tasks
    "01000000 00000000 01000000 01000000 01000000 00000000"  # 447: init
    "02000000 01000000 02000000 03000000 01000000 00000000"  # 471: 5, child of 1, group 9
    "04000000 02000000 04000000 04000000 04000000 01000000"  # 495: 7, child of 5, a session of its own
    "05000000 01000000 02000000 03000000 01000000 00000000"  # 519: 6, thread of 5
    "29230000 10000000 00efde c00c2a2d00"  # 543: TAIL; 551: magic
)
TAIL_AT = 543
GOLDEN_SNAPSHOT = Snapshot(
    mode="container",
    time_ns=1_714_564_576 * 10**9,
    pids=tuple(PidObject(numbers, ()) for numbers in [(1,), (5,), (9,), (7, 1), (6,)]),
    tasks=tuple(
        a_bare_task(*ids) for ids in [(1, 0, 1, 1, 1, 0), (2, 1, 2, 3, 1, 0), (4, 2, 4, 4, 4, 1), (5, 1, 2, 3, 1, 0)]
    ),
    header=A_HEADER,
)


def patched(data: bytes, at: int, layout: str, value: int) -> bytes:
    """Return the same bytes with one field changed."""
    field = struct.pack(layout, value)
    return data[:at] + field + data[at + len(field) :]


def a_record(kind: int, body: bytes = b"") -> bytes:
    """Return one record, as the format describes it."""
    return struct.pack("<II", kind, 8 + len(body)) + body


def with_records(*records: bytes) -> bytes:
    """Return the golden image with records before TAIL."""
    return GOLDEN[:TAIL_AT] + b"".join(records) + GOLDEN[TAIL_AT:]


def an_extension(known: object, version: int = 1) -> bytes:
    """Return an EXTENSION record around a document, or around raw bytes."""
    payload = known if isinstance(known, bytes) else msgpack.packb(known)
    return a_record(8101, struct.pack("<II", version, zlib.crc32(payload)) + payload)


def an_image(
    pids: Sequence[tuple[int, ...]], tasks: Sequence[tuple[int, ...]], offset: int = 0, nested: int | None = None
) -> bytes:
    """Return the golden image's head, then the given pids and tasks, without EXTENSION."""
    packed = b"".join(struct.pack(f"<I{len(numbers)}i", len(numbers) - 1, *numbers) for numbers in pids)
    deep = sum(len(numbers) - 1 for numbers in pids) if nested is None else nested
    return b"".join(
        [
            GOLDEN[:347],
            a_record(101, struct.pack("<4I", len(pids), deep, offset, 0)),
            a_record(4, packed),
            a_record(102, struct.pack("<II", len(tasks), 0)),
            a_record(4, b"".join(struct.pack("<5iI", *task) for task in tasks)),
            GOLDEN[TAIL_AT:],
        ]
    )


def records_of(data: bytes) -> list[tuple[int, bytes]]:
    """Return types and bodies of all records of a file."""
    found = []
    while data:
        kind, length = struct.unpack_from("<II", data)
        found.append((kind, data[8:length]))
        data = data[length:]
    return found


def some_facts(**changed: object) -> dict[str, object]:
    """Return a document of EXTENSION that fits the golden image."""
    rows: list[dict[str, object]] = [{"comm": b"a"}, {}, {}, {}]
    return {"time_ns": GOLDEN_SNAPSHOT.time_ns + 5, "pids": [{}] * 5, "tasks": rows} | changed


def repaired(data: bytes) -> bytes:
    """Return the same image with a correct checksum, so that the data behind it is reached."""
    out = bytearray(data)
    at = data.find(struct.pack("<I", 8101), TAIL_AT)
    if 0 <= at <= len(data) - 16:
        length = struct.unpack_from("<I", data, at + 4)[0]
        struct.pack_into("<I", out, at + 12, zlib.crc32(data[at + 16 : at + length]))
    return bytes(out)
