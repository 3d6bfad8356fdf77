# SPDX-License-Identifier: Apache-2.0
"""The work for subscribers of the same events is done once: seen from within, with other functions and bounds."""

from collections import Counter
from typing import Any

import msgpack
import pytest

from agent.events import eventpack, hearers
from agent.events.subscriber import BACKLOG_BYTES
from tests.support.simwatch import Scene
from tests.unit.events.test_events import Listener
from tests.unit.events.test_hearers import tids


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the events that are packed, by kind."""
    count = Counter[str]()
    whole = eventpack.event

    def event(kind: str, *rest: Any) -> bytes:
        count[kind] += 1
        return whole(kind, *rest)

    monkeypatch.setattr(eventpack, "event", event)
    return count


def test_an_event_is_packed_once_for_all_that_are_alike(packed: Counter[str]) -> None:
    """The work for a birth does not depend on the number of subscribers."""
    scene = Scene()
    listeners = [Listener(scene) for _ in range(20)]
    births = [scene.child().tid for _ in range(5)]
    scene.watch.tend()
    assert [tids(listener.told()) for listener in listeners] == [births] * 20
    assert packed == {"birth": 5}


def test_for_subscribers_that_are_all_behind_no_event_is_packed(
    packed: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them counts it, and is told the next one after it has fetched."""
    monkeypatch.setattr(hearers, "_BATCH_BYTES", 1)
    scene = Scene()
    slow = [Listener(scene) for _ in range(3)]
    for listener in slow:
        listener.unsent = BACKLOG_BYTES + 1
    for _ in range(5):
        scene.child()
    scene.watch.tend()
    assert packed["birth"] == 1  # by which it was found that none of them has room
    assert [[event["count"] for event in listener.told()] for listener in slow[:2]] == [[5]] * 2
    slow[0].unsent = 0
    again = scene.child().tid
    scene.watch.tend()
    assert tids(slow[0].told()) == [again]
    assert [[event["count"] for event in listener.told()] for listener in slow[1:]] == [[1], [6]]


def test_the_backlog_keeps_its_bound_within_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many events are queued as fit, and one more."""
    monkeypatch.setattr(hearers, "_BATCH_BYTES", 1 << 30)
    scene = Scene()
    listener = Listener(scene, kinds=["birth"])
    listener.unsent = BACKLOG_BYTES - 1000
    births = [scene.child().tid for _ in range(20)]
    scene.watch.tend()
    *heard, gap = listener.told()
    assert 3 < len(heard) < 15
    assert tids(heard) == births[: len(heard)]
    assert gap["count"] == 20 - len(heard)


def test_a_full_batch_is_passed_on_before_the_turn_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storm in one turn takes no memory beside the backlogs."""
    monkeypatch.setattr(hearers, "_BATCH_BYTES", 1000)
    scene = Scene()
    listener = Listener(scene)
    births = [scene.child().tid for _ in range(40)]
    scene.watch.tend()
    pieces = listener.subscription.take(scene.watch.stream.next)
    assert len(pieces) > 5
    assert tids(msgpack.unpackb(b"".join(pieces))["events"]) == births
