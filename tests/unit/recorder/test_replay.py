# SPDX-License-Identifier: Apache-2.0
"""A replay at each number, where the daemon has lost records and repaired its table."""

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
