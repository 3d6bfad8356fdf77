# SPDX-License-Identifier: Apache-2.0
"""Events of a real watch over a simulated kernel that loses records, and those of a replay of its tape: the same ones."""

from typing import Any

import msgpack
import pytest

from agent.access import Viewer
from agent.capture.watch import Watch
from agent.events.feed import Feed
from agent.events.subscriber import KINDS, Subscriber
from agent.recorder.replay import Replayer
from agent.recorder.settler import Settler
from agent.table.processtable import ProcessTable
from agent.table.stream import Stream
from tests.support.recorded import ALL
from tests.support.tapedwatch import Segment, TapedWatch

Said = dict[str, Any]
_STEPS, _MOST_STEPS = 150, 1500


class _Ear:
    """A subscription to all events of one feed, without their times."""

    def __init__(self, feed: Feed, stream: Stream, table: ProcessTable) -> None:
        self.feed, self._stream = feed, stream
        viewer = Viewer(1, 0, 0, privileged=True)
        self._subscriber = Subscriber(viewer, table.pids.initial, (), KINDS, stream.next, 1 << 60)
        self.feed.add(self._subscriber, int)

    def end(self) -> list[Said]:
        """Return all events, and listen no more."""
        self.feed.remove(self._subscriber)
        taken = b"".join(self._subscriber.take(self._stream.next))
        return [{**each, "time_ns": 0} for each in msgpack.unpackb(taken)["events"]] if taken else []


def replayed(segment: Segment) -> list[Said]:
    """Return the events of a replay of a segment."""
    replayer = Replayer(segment.keyframe, [segment.tape], 0, 0)
    feed = Feed(replayer.stream, replayer.table, lambda: 0, lambda: 0)
    settler = Settler(feed, replayer)
    ear = _Ear(feed, replayer.stream, replayer.table)
    for entry in replayer.steps(ALL):
        settler.note(entry)
    return ear.end()


def _listened(watch: Watch) -> _Ear:
    """Have a watch tell its events as the daemon's does."""
    watch.feed = Feed(watch.stream, watch.table, lambda: 0, lambda: 0)
    return _Ear(watch.feed, watch.stream, watch.table)


@pytest.mark.parametrize("seed", range(12))
def test_a_replay_tells_losses_and_their_ends_where_the_watch_told_them(seed: int) -> None:
    """So it does with all other events: records come late or never, and sweeps end or run out of time."""
    taped = TapedWatch(seed)
    watch, ear = taped.watch, _listened(taped.watch)
    live: list[list[Said]] = []
    unheard: set[int] = set()  # the segments at whose beginning the next daemon swept, before anybody listened
    kinds: set[str] = set()
    for step in range(_MOST_STEPS):
        if step >= _STEPS and {"loss", "resync"} <= kinds:
            break
        taped.happens()
        if len(taped.segments) > len(live):
            live.append(ear.end())
            kinds |= {each["event"] for each in live[-1]} if len(live) - 1 not in unheard else set()
            if taped.watch is not watch:
                unheard.add(len(live))
            watch, ear = taped.watch, _listened(taped.watch)
    heard = [
        (told, replayed(segment))
        for number, (told, segment) in enumerate(zip(live, taped.segments, strict=True))
        if number not in unheard
    ]

    assert {"loss", "resync"} <= kinds
    for told, again in heard:
        assert [each for each in again if each["event"] in ("loss", "resync")] == [
            each for each in told if each["event"] in ("loss", "resync")
        ]
        assert again == told


def test_a_replay_that_begins_within_a_sweep_tells_the_end_of_the_loss() -> None:
    """The loss is before it, and so what it tells is uncertain up to there."""
    taped = TapedWatch(1)
    watch, ear = taped.watch, _listened(taped.watch)
    with taped.losing():
        taped.kernel.fork(taped.kernel.init)
    taped.kernel.fork(taped.kernel.init)
    watch.catch_up()
    watch.mend()
    loss, *_, resync = ear.end()
    taped.mark()
    [segment] = taped.segments
    assert (loss["event"], resync["event"]) == ("loss", "resync")

    replayer = Replayer(segment.keyframe, [segment.tape], 0, 0)
    steps = replayer.steps(ALL)
    for _ in steps:
        if replayer.mends_loss:
            break
    feed = Feed(replayer.stream, replayer.table, lambda: 0, lambda: 0)
    settler = Settler(feed, replayer)
    again = _Ear(feed, replayer.stream, replayer.table)
    for entry in steps:
        settler.note(entry)
    assert again.end()[-1] == resync
