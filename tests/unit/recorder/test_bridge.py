# SPDX-License-Identifier: Apache-2.0
"""Differences over the gaps of recordings of a simulated kernel, compared with the tables behind them."""

from pathlib import Path

from agent.recorder.facts import Instant
from agent.recorder.retelling import EventSpan
from agent.rootname import RootName
from tests.support.retold import in_pieces, told, whole


def test_a_process_that_left_the_tree_within_a_gap_is_told_a_new_parent_and_no_end(tmp_path: Path) -> None:
    """Ends within the gap have no exit status: nothing tells it."""
    left = ended = 0
    for seed in range(8):
        (tmp_path / str(seed)).mkdir()
        recording = in_pieces(tmp_path / str(seed), seed)
        span = whole(recording)
        tables = {
            gap.next: recording.table_at(Instant(gap.next_run, gap.next, 0, 0, 0)).table for gap in recording.gaps
        }
        for number in {each["tid"] for each in told(recording, span) if each["event"] == "birth"}:
            behind = None
            for each in told(recording, EventSpan(span.since, span.until, RootName(namespace=False, number=number))):
                if "tid" not in each:
                    behind = tables[each["next"]] if each["event"] == "gap" else None
                elif behind is not None:
                    task = behind.task(each["tid"])
                    if task is not None and task.start_ns != each["start_ns"]:
                        task = None
                    if each["event"] == "death":
                        assert each["exit_code"] == (None if task is None else task.exit_code)
                        ended += task is None
                    elif each["event"] == "reap":
                        assert task is None
                    elif each["event"] == "reparent":
                        assert task is not None
                        assert task.parent is not None
                        assert each["parent"] == task.parent.pid.numbers[0]
                        left += 1
    assert left > 5
    assert ended > 10
