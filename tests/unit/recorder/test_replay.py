# SPDX-License-Identifier: Apache-2.0
"""A replay at each number, where the daemon has lost records and repaired its table."""

import pytest

from agent.recorder import tape
from agent.recorder.replay import Replayer
from tests.support.tapedwatch import TapedWatch


def test_a_loss_is_in_doubt_until_the_sweep_that_repairs_it_has_ended() -> None:
    """While its answers come, the table still lacks the task whose birth was lost."""
    taped = TapedWatch(1)
    kernel = taped.kernel
    with taped.losing():
        lost = kernel.fork(kernel.init)
    number = kernel.writer.seq
    others = [kernel.fork(kernel.init) for _ in range(3)]
    taped.watch.drain()
    taped.watch.sweep("loss")
    kernel.fork(others[0])
    taped.watch.drain()
    end = taped.watch.stream.next
    taped.mark()

    (segment,) = taped.segments
    replayer = Replayer(segment.keyframe, [segment.tape], 0, 0)
    lacking, doubted = [], []
    for order in range(number, end + 1):
        replayer.advance(order)
        lacking += [order] * (replayer.table.task(lost.tid) is None)
        doubted += [order] * bool(replayer.doubts())
    assert lacking
    assert set(lacking) <= set(doubted)
    assert end not in doubted


def test_a_record_that_is_none_leaves_the_time_of_the_last_one() -> None:
    """A caller that keeps the state before it asks for that time."""
    taped = TapedWatch(1)
    taped.kernel.fork(taped.kernel.init)
    taped.watch.drain()
    taped.mark()
    (segment,) = taped.segments
    torn = tape.pack(tape.PART, 1 << 40, 1, bytes(16))
    replayer = Replayer(segment.keyframe, [segment.tape, torn], 0, 0)
    with pytest.raises(tape.TornError):
        replayer.advance(1 << 50)
    whole = Replayer(segment.keyframe, [segment.tape], 0, 0)
    whole.advance(1 << 50)

    assert replayer.time_ns == whole.time_ns
