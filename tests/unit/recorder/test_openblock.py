# SPDX-License-Identifier: Apache-2.0
"""The entries of a channel come into blocks as they were put, each once, in their order."""

import json
import os
import random
import socket
from pathlib import Path

import pytest

from agent.recorder import tape
from agent.recorder.channel import Channel
from agent.recorder.compression import BLOCK_BYTES
from agent.recorder.marks import MARK
from agent.recorder.openblock import OpenBlock
from agent.recorder.writer import TapeWriter
from agent.table.inputs import Input

_CHANNEL_BYTES = 1 << 16
_MOST = 1 << 12
_PART_BYTES = 1 << 15


def block_of(*entries: bytes) -> OpenBlock:
    """Return a block that has taken entries which lie one behind the other, the number before them being 7."""
    block = OpenBlock(64)
    block.first = block.next = 7
    waiting = memoryview(b"".join(entries))
    assert block.take(waiting, 1 << 20) == len(waiting)
    return block


@pytest.mark.parametrize("seed", range(8))
def test_blocks_have_all_entries_that_a_channel_took_whatever_their_sizes(seed: int) -> None:
    """The channel wraps around many times, some entries are larger than a block, and marks lie between them."""
    chance = random.Random(seed)
    channel, block = Channel.create(_CHANNEL_BYTES), OpenBlock(_MOST)
    put: list[bytes] = []
    blocks: list[bytes] = []
    passed = 0

    def take_all() -> None:
        while waiting := channel.waiting():
            if tape.ENTRY.unpack_from(waiting)[0] == MARK:
                channel.took(tape.ENTRY.size)
            else:
                channel.took(block.take(waiting, _MOST))
            channel.free()
            if block.size >= _MOST:
                blocks.append(bytes(block.entries))
                block.clear()

    for number in range(3000):
        kind = chance.choice([tape.PART, tape.PART, tape.CLOCK, Input.TAKE, MARK])
        size = chance.choice([0, 8, 40, 900, 3000, 9000]) if kind == tape.PART else 0
        payload = chance.randbytes(size)
        while not channel.put(kind, number, 1, payload):
            take_all()
        if kind != MARK:
            put.append(tape.pack(kind, number, 1, payload))
        passed += tape.ENTRY.size + size
        if chance.random() < 0.1:
            take_all()
    take_all()
    blocks.append(bytes(block.entries))
    assert b"".join(blocks) == b"".join(put)
    assert all(len(each) >= _MOST for each in blocks[:-1])
    assert all(len(each) < _MOST + tape.ENTRY.size + 9000 for each in blocks)
    assert passed > 20 * _CHANNEL_BYTES
    channel.close()


def test_a_block_knows_the_numbers_and_the_times_of_its_entries() -> None:
    """A late part, and a call that gives nothing up, change no number; a call has no time."""
    block = block_of(
        tape.pack(Input.SUSPECT, 90),
        tape.pack(tape.PART, 20, 1000, bytes(8)),
        tape.pack(tape.PART, 20, 1500, bytes(8)),
        tape.pack(tape.PART, 15, 2000, bytes(8)),
    )
    assert (block.first, block.next, block.first_ns, block.last_ns) == (7, 20, 1000, 2000)
    assert block_of(tape.pack(Input.GIVE_UP, 20)).next == 21
    assert block_of(tape.pack(Input.GIVE_UP_BELOW, 20)).next == 20
    assert block_of(tape.pack(tape.END, 20, 5)).next == 20
    assert block_of(tape.pack(Input.QUESTION, 20)).next == 7
    clock = block_of(tape.pack(tape.CLOCK, 5000, 2000, bytes(16)))
    assert (clock.next, clock.ahead_ns) == (7, 3000)
    block.clear()
    assert (block.size, block.first, block.next, block.first_ns, block.last_ns) == (0, 20, 20, 0, 0)


def test_a_writer_that_keeps_up_leaves_most_of_the_channel_untouched(tmp_path: Path) -> None:
    """However much goes through it: pages that are used again are in a cache, and others take memory."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel.create(1 << 24)
    writer = TapeWriter(tmp_path, channel, theirs, 1 << 40, 0)
    part, through = bytes(_PART_BYTES), 0
    while through < 4 * channel.size:
        for _ in range(2 * BLOCK_BYTES // _PART_BYTES + 3):  # never as many as whole blocks
            assert channel.put(tape.PART, 1, 1, part)
            through += len(part)
        writer._take()
        assert not channel.pending
    assert os.fstat(channel.memory).st_blocks * 512 < 4 << 20
    ours.close()
    theirs.close()


def test_a_channel_that_begins_anew_has_room_for_all_its_bytes() -> None:
    """A writer that gets no processor for a while finds everything once it runs again."""
    channel, block = Channel.create(1 << 22), OpenBlock(1 << 20)
    part, number = bytes(_PART_BYTES), 0

    def take_all() -> list[int]:
        while waiting := channel.waiting():
            channel.took(block.take(waiting, 1 << 30))
            channel.free()
        return [each.value for each in tape.entries(block.entries)]

    for count in (40, 10, 5, 70, 33):  # it begins anew where it is empty behind a megabyte
        for _ in range(count):
            assert channel.put(tape.PART, number, 1, part)
            number += 1
        assert take_all() == list(range(number))
    before = number
    while channel.put(tape.PART, number, 1, part):
        number += 1
    assert number - before >= channel.size // (tape.ENTRY.size + _PART_BYTES) - 1
    assert channel.pending > channel.size - 2 * _PART_BYTES
    assert take_all() == list(range(number))
    assert (channel.pending, channel.unread) == (0, 0)


def test_a_mark_is_taken_where_its_entry_ends(tmp_path: Path) -> None:
    """The segment begins at its number, and what lies behind it is in it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel.create(1 << 20)
    writer = TapeWriter(tmp_path, channel, theirs, 1 << 40, 0)
    facts = ("boottime_ns", "realtime_ns", "monotonic_ns", "head_bytes", "memory")
    said = {"keyframe": 1, "first": 40, "continues": False, "why": "", "boot_id": "", "ring": "", "by": "", "host": {}}
    assert channel.put(tape.PART, 30, 1, bytes(8))
    assert channel.put(MARK, 40, 1, json.dumps(said | dict.fromkeys(facts, 1)).encode())
    assert channel.put(tape.PART, 50, 1, bytes(8))
    writer._take()
    assert not channel.pending
    assert (writer._open.first, writer._open.next) == (40, 50)
    assert bytes(writer._open.entries) == tape.pack(tape.PART, 50, 1, bytes(8))
    writer._output.close()
    ours.close()
    theirs.close()
