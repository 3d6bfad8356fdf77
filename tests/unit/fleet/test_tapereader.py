# SPDX-License-Identifier: Apache-2.0
"""The times at which a stand-by reads a stream again, and a host that would have it read for ever."""

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from agent.daemon.journal import Journal
from agent.fleet import tapemessages
from agent.fleet.relaysettings import RelaySettings
from agent.fleet.standby import FollowedTree, StandBy
from agent.fleet.tapereader import Rereadings, StoredPiece
from agent.recorder import segment
from agent.recorder.foldertail import Piece


def test_a_stream_is_read_again_less_and_less_often() -> None:
    """At once, then after a minute, two, four, up to an hour; after a calm hour it is a minute again."""
    readings, now_s, taken = Rereadings(), 1000.0, []
    for _ in range(9):
        begin_s = now_s
        while not readings.is_due(now_s):
            now_s += 1
        readings.take(now_s)
        taken.append(now_s - begin_s)
    assert taken == [0, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    now_s += 2 * 3600
    assert readings.is_due(now_s)
    readings.take(now_s)
    assert not readings.is_due(now_s + 59)
    assert readings.is_due(now_s + 60)


def test_holes_of_a_hostile_host_do_not_have_the_stream_read_for_ever(tmp_path: Path) -> None:
    """Two small messages make a segment with a hole. The stream is read again for the first; the others stay gaps."""
    facts = segment.SegmentFacts(1, 1, False, "x", "a" * 36, "ring", 10**9, 10**18, 10**9, 8, 1, "x", {})
    followed = FollowedTree("old", "1", tmp_path / "copy", 1 << 30, 0)
    standby = StandBy(RelaySettings("new"), followed, [sys.executable], Journal())
    with closing(standby._copy) as copy:
        copy.enter("a stream")
        asked = 0
        for number in range(50):
            at = 2 * number + 1
            head = segment.head(replace(facts, sequence=at, boottime_ns=10**9 * at))
            identity = segment.identity(head)
            sent = [Piece(identity, 0, head), Piece(identity, len(head) + 5, b"zz")]
            stored = [StoredPiece(at + of, tapemessages.pack_piece(piece)) for of, piece in enumerate(sent)]
            assert standby._write("a stream", stored) == at + 1
            asked += standby._may_mend()
            assert copy.lacks_from == (-1 if asked and not number else len(head))
        assert asked == 1
        assert copy.gaps == 49
        standby._rereadings._due_s = 0.0  # its time has come
        assert standby._may_mend()
        assert copy.gaps == 48
