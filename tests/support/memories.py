# SPDX-License-Identifier: Apache-2.0
"""Memories of a simulated kernel's table, as bytes and as the objects in them."""

import zlib
from typing import Any

import msgpack

from agent.capture import memorywriter
from agent.capture.memoryreader import load
from agent.capture.memorywriter import Memory, Place
from agent.table.wire import LOST_NUMBERS
from tests.support.watched import Watched

PLACE = Place("bpf-map:7", 4711, (3, tuple(range(LOST_NUMBERS))), (9, 12))
TOTALS = (2, 5, 1)


def memory_of(pair: Watched) -> Memory:
    """Return the memory of a pair."""
    return Memory(PLACE, TOTALS, pair.table, pair.stream)


def read(data: bytes) -> Memory:
    """Read a memory, as the daemon that wrote it would."""
    return load(data, len(TOTALS))


def body_of(data: bytes) -> list[Any]:
    """Return the objects of a memory."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(data[memorywriter.FRAME.size :])
    return list(unpacker)


def framed(body: list[Any], version: int = memorywriter.VERSION) -> bytes:
    """Return the objects with a correct checksum."""
    packed = b"".join(map(msgpack.packb, body))
    return memorywriter.FRAME.pack(memorywriter.MAGIC, version, zlib.crc32(packed), len(packed)) + packed
