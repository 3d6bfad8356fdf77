# SPDX-License-Identifier: Apache-2.0
"""Subscribers that are told the same events share them; what differs between them stays their own."""

from agent.access import Viewer
from agent.events.subscriber import BACKLOG_BYTES
from tests.support.simwatch import Scene
from tests.unit.events.test_events import Event, Listener

USER = 1000


def tids(events: list[Event]) -> list[int]:
    """Return the tasks of births."""
    return [event["tid"] for event in events if event["event"] == "birth"]


def test_the_bytes_of_a_batch_are_the_same_object_for_all() -> None:
    """A hundred subscribers that have not fetched a mebibyte take one, not a hundred."""
    scene = Scene()
    one, other = Listener(scene), Listener(scene)
    scene.child()
    scene.watch.tend()
    order = scene.watch.stream.next
    (_, mine, _), (_, theirs, _) = one.subscription.take(order), other.subscription.take(order)
    assert mine is theirs


def test_a_message_is_made_once_for_all_that_have_the_same_events() -> None:
    """A subscriber with a gap gets another one, and so does whoever comes later."""
    scene = Scene()
    one, other, slow = Listener(scene), Listener(scene), Listener(scene)
    scene.child()
    scene.watch.tend()
    order = scene.watch.stream.next
    first = one.subscription.message(order)
    assert other.subscription.message(order) is first
    slow.subscription.miss(1, 0)
    assert slow.subscription.message(order) is not first
    scene.child()
    scene.watch.tend()
    second = one.subscription.message(scene.watch.stream.next)
    assert second is not first
    assert (second.count, second.size) == (1, sum(map(len, second.pieces)))


def test_a_subscriber_that_comes_later_hears_what_comes_later() -> None:
    """The events before wait for the others only."""
    scene = Scene()
    first = Listener(scene)
    early = scene.child().tid
    scene.watch.tend()
    second = Listener(scene)
    late = scene.child().tid
    scene.watch.tend()
    assert (tids(first.told()), tids(second.told())) == ([early, late], [late])


def test_a_slow_subscriber_drops_events_alone() -> None:
    """The others miss none, and it hears all that comes after it has fetched."""
    scene = Scene()
    slow, fast = Listener(scene), Listener(scene)
    slow.unsent = BACKLOG_BYTES + 1
    births = [scene.child().tid for _ in range(3)]
    scene.watch.tend()
    assert tids(fast.told()) == births
    births = [scene.child().tid for _ in range(2)]
    scene.watch.tend()
    (gap,) = slow.told()
    assert (gap["event"], gap["count"], slow.subscription.dropped) == ("dropped", 5, 5)
    slow.unsent = 0
    births.append(scene.child().tid)
    assert tids(slow.hear()) == births[-1:]
    assert tids(fast.told()) == births


def test_unlike_subscribers_are_told_what_is_theirs() -> None:
    """Rights, namespaces and kinds differ; the order of each is that of the records."""
    scene = Scene()
    everything, births = Listener(scene), Listener(scene, kinds=["birth"])
    user = Listener(scene, viewer=Viewer(0, USER, USER))
    same = Listener(scene, viewer=Viewer(0, USER, USER, ()))
    other = Listener(scene, viewer=Viewer(0, USER + 1, USER + 1))
    child = scene.child()
    scene.kernel.exit(child)
    scene.watch.tend()
    assert [event["event"] for event in everything.told()][:2] == ["birth", "death"]
    assert {event["event"] for event in births.told()} == {"birth"}
    assert user.told() == same.told() == other.told() == []


def test_each_subscriber_is_told_once_that_something_is_hidden() -> None:
    """One that came later, too."""
    scene = Scene()
    top = scene.child()
    viewer = Viewer(0, USER, USER)
    first = Listener(scene, viewer=viewer, root=top)
    scene.child(top)
    scene.watch.tend()
    second = Listener(scene, viewer=viewer, root=top)
    scene.child(top)
    scene.child(top)
    scene.watch.tend()
    assert [event["event"] for event in first.told()] == ["hidden"]
    assert [event["event"] for event in second.told()] == ["hidden"]


def test_what_is_said_to_all_comes_behind_the_events_before_it() -> None:
    """A loss does not overtake the births that were heard before it."""
    scene = Scene()
    one, other = Listener(scene), Listener(scene)
    scene.child()
    scene.watch.tend()
    scene.watch.stream.suspect = True
    scene.service.feed.settle()
    assert [[event["event"] for event in each.told()] for each in (one, other)] == [["birth", "loss"]] * 2


def test_a_subscriber_that_has_ended_is_forgotten() -> None:
    """The rest hears on, and the last one takes the tree with it."""
    scene = Scene()
    one, other = Listener(scene), Listener(scene)
    scene.service.feed.remove(one.subscription)
    birth = scene.child().tid
    scene.watch.tend()
    assert (one.told(), tids(other.told())) == ([], [birth])
    scene.service.feed.remove(other.subscription)
    assert not scene.service.feed.told
