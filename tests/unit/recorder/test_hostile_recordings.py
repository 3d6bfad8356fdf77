# SPDX-License-Identifier: Apache-2.0
"""Recordings with right check sums and contents that no daemon writes: each question ends, in an answer or an error."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from agent.errors import NoSuchRootError
from agent.recorder import folder, segment, tape
from agent.recorder.history import NumberHistory
from agent.recorder.past import Enquirer
from agent.recorder.recording import NoRecordingError, Recording
from agent.recorder.retelling import EventSpan, Retelling
from agent.recorder.tape import TornError
from tests.fuzz.tapechanges import Piece, parsed
from tests.support.taped import a_recording

_HEAD = struct.Struct("<8sIIII")


def rewrite(path: Path, change: Callable[[Piece], bytes | None]) -> None:
    """Change the contents of a segment's blocks; None leaves one out."""
    whole = parsed(path.read_bytes())
    out = segment.head(segment.SegmentFacts(**whole.facts))  # type: ignore[arg-type]  # they are those of a segment
    for piece in whole.pieces:
        content, block = change(piece), piece.block
        if content is None:
            continue
        packed = zstandard.ZstdCompressor().compress(content) if block.codec == segment.ZSTD else content
        times = block.first_ns, block.last_ns, block.ahead_ns
        made = segment.block(block.kind, packed, len(content), (block.first, block.next), times, block.codec)
        out += b"".join(map(bytes, made))
    path.write_bytes(out)


def ask(place: Path) -> None:
    """Ask a recording for all events, and for the lives of many numbers."""
    recording = Recording(place)
    since, until = recording.runs[0].first, recording.runs[-1].last
    for _ in Retelling(recording, EventSpan(since, until, present=True), Enquirer()).batches():
        pass
    for number in range(1, 60):
        NumberHistory(recording, (since, until), number, Enquirer()).lives()


@pytest.mark.parametrize("text", [b"[" * 60000, b'{"a":' * 9000, b'{"sequence":' + b"9" * 60 + b"}"])
def test_facts_that_are_deep_or_large_are_damaged_ones(text: bytes, tmp_path: Path) -> None:
    """They end a reader neither by their depth nor by their size."""
    head = _HEAD.pack(segment.MAGIC, segment.VERSION, len(text), zlib.crc32(text), 0) + text
    with pytest.raises(segment.DamagedError):
        segment.read_head(head)
    (tmp_path / folder.name_of(1, 1)).write_bytes(head)
    with pytest.raises(NoRecordingError):
        Recording(tmp_path)


def test_a_fifo_with_the_name_of_a_segment_is_none(tmp_path: Path) -> None:
    """Nobody writes into it, and no reader waits for that; a link to one is none either."""
    os.mkfifo(tmp_path / folder.name_of(1, 1))
    (tmp_path / folder.name_of(2, 2)).symlink_to(tmp_path / folder.name_of(1, 1))
    with pytest.raises(NoRecordingError):
        Recording(tmp_path)


def test_a_time_of_more_than_63_bits_is_no_fact(tmp_path: Path) -> None:
    """No clock has it, and no event could tell it."""
    a_recording(tmp_path, 1, runs=1, steps=3)
    path = folder.stored(tmp_path)[0].path
    facts = parsed(path.read_bytes()).facts
    with pytest.raises(segment.DamagedError):
        segment.read_head(segment.head(segment.SegmentFacts(**facts | {"realtime_ns": 1 << 63})))  # type: ignore[arg-type]


def test_events_end_in_front_of_a_keyframe_that_is_none(tmp_path: Path) -> None:
    """The gap in front of it would be crossed for ever: each replay behind it begins in front of it."""
    a_recording(tmp_path, 3, runs=1, steps=12, marks=0.4)
    first, *others = Recording(tmp_path).segments
    assert all(each.facts.continues for each in others)
    for each in others:
        rewrite(each.path, lambda piece: b"none" if piece.block.kind == segment.KEYFRAME else None)
    block = next(block for block in first.all_tapes if block.next > block.first)
    data = bytearray(first.path.read_bytes())
    data[block.at] ^= 1
    first.path.write_bytes(data)
    with pytest.raises(TornError, match="cannot be read"):
        ask(tmp_path)


def test_records_that_no_kernel_writes_are_told_as_torn(tmp_path: Path) -> None:
    """Records of a part are cut short, and the clock's entry has nothing in it."""

    def cut(piece: Piece) -> bytes:
        if piece.block.kind != segment.TAPE:
            return piece.content
        found = b""
        for entry in tape.entries(piece.content):
            payload = bytes(entry.payload)
            found += tape.pack(entry.kind, entry.value, entry.ns, payload[:-40] if entry.kind == tape.PART else b"")
        return found

    a_recording(tmp_path, 1, runs=1, steps=4)
    for each in folder.stored(tmp_path):
        rewrite(each.path, cut)
    recording = Recording(tmp_path)
    since, until = recording.runs[0].first, recording.runs[-1].last
    told = 0
    for number in range(1, 60):
        try:
            NumberHistory(recording, (since, until), number, Enquirer()).lives()
        except TornError:
            told += 1
        except NoSuchRootError:
            continue
    assert told
    with pytest.raises(TornError):
        list(Retelling(recording, EventSpan(since, until), Enquirer()).batches())
