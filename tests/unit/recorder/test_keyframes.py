# SPDX-License-Identifier: Apache-2.0
"""A keyframe is what the tape before it leads to, whatever the watch has done, and in whatever order."""

import pytest

from tests.support.examples import examples
from tests.support.recorded import beside
from tests.support.tapedwatch import TapedWatch, end_of

_STEPS = 60


def wrong(taped: TapedWatch) -> list[str]:
    """Return the differences of the keyframes from what the tapes before them lead to."""
    pairs = zip(taped.segments, taped.segments[1:], strict=False)
    return [
        f"keyframe {number}: {each}"
        for number, (before, behind) in enumerate(pairs, 1)
        for each in beside(behind.keyframe, end_of(before))
    ]


@pytest.mark.parametrize("seed", range(examples(100)))
def test_a_keyframe_is_what_the_tape_before_it_leads_to(seed: int) -> None:
    """With questions, sweeps, snapshots, losses, late records, marks and handovers in a random order."""
    taped = TapedWatch(seed)
    for _ in range(_STEPS):
        taped.happens()
    taped.mark()
    assert wrong(taped) == [], taped.done


def test_a_question_about_a_task_that_is_gone_is_none_about_the_next_one_of_its_number() -> None:
    """A snapshot may ask about a root that was reaped while the daemon swept."""
    taped = TapedWatch(1)
    kernel, watch = taped.kernel, taped.watch
    child = kernel.fork(kernel.init)
    watch.drain()
    gone = watch.table.task(child.tid)
    assert gone is not None
    kernel.exit(child)
    kernel.wait(kernel.init, child)
    kernel.fork(kernel.init, wanted=(child.tid,))
    watch.drain()
    assert watch.table.task(child.tid) is not gone
    watch.ask([watch.table.question(gone)])
    taped.mark()
    taped.mark()
    assert wrong(taped) == []
