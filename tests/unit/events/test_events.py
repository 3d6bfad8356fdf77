# SPDX-License-Identifier: Apache-2.0
"""Live events: the events of a subscriber, their order, and the events that it does not get."""

from collections.abc import Sequence
from typing import Any

import msgpack
import pytest

from agent.access import Viewer
from agent.daemon.asker import Asker
from agent.events.subscriber import BACKLOG_BYTES, KINDS, Subscriber
from agent.table import wire
from agent.table.objects import CLONE_NEWPID, CLONE_VFORK, TaskStruct
from agent.table.wire import Kind
from exporters import registry
from tests.support.kernelobjects import Thread
from tests.support.simwatch import ROOT, Scene

Event = dict[str, Any]


class Listener:
    """A subscription to all of a scene, and its events so far."""

    def __init__(
        self, scene: Scene, viewer: Viewer = ROOT, root: Thread | None = None, kinds: Sequence[str] = KINDS
    ) -> None:
        self.scene = scene
        self.unsent = 0
        scene.watch.catch_up()
        self.subscription = Subscriber(
            viewer,
            scene.watch.table.pids.initial,
            (self.task(root),) if root is not None else (),
            kinds,
            scene.watch.stream.next,
        )
        scene.service.feed.add(self.subscription, lambda: self.unsent)

    def task(self, thread: Thread) -> TaskStruct:
        """Return the table's task for a thread."""
        task = self.scene.watch.table.task(thread.tid)
        assert task is not None
        return task

    def hear(self) -> list[Event]:
        """Return the events since the last call."""
        self.scene.watch.tend()
        if self.scene.watch.is_in_doubt:
            self.scene.service.feed.settle()
            self.scene.watch.mend()
        self.scene.service.feed.settle()
        return self.told()

    def told(self) -> list[Event]:
        """Return the events that wait to be sent."""
        if not self.subscription.waiting:
            return []
        message = msgpack.unpackb(b"".join(self.subscription.take(self.scene.watch.stream.next)))
        assert message["next"] == self.scene.watch.stream.next
        found: list[Event] = message["events"]
        return found


def _short(events: list[Event], *keys: str) -> list[tuple[Any, ...]]:
    return [(event["event"], event.get("tid"), *(event.get(key) for key in keys)) for event in events]


def test_a_birth_tells_who_where_and_of_whom() -> None:
    """Numbers are those of the subscriber's namespace."""
    scene = Scene()
    listener = Listener(scene)
    child = scene.child(flags=CLONE_VFORK)
    (event,) = listener.hear()

    init = scene.kernel.init
    assert event == {
        "event": "birth",
        "order": event["order"],
        "time_ns": event["time_ns"],
        "pid": child.tid,
        "tid": child.tid,
        "numbers": [child.tid],
        "start_ns": child.start_ns,
        "uid": 0,
        "gid": 0,
        "comm": b"task",
        "parent": init.tid,
        "creator": init.tid,
        "pgid": init.tid,
        "sid": init.tid,
        "flags": ["CLONE_VFORK"],
        "exit_signal": 17,
    }
    task = scene.watch.table.task(child.tid)
    assert task is not None
    assert event["order"] == task.order


def test_events_come_in_the_order_in_which_things_happened() -> None:
    """Each kind occurs once, with its own facts."""
    scene = Scene()
    listener = Listener(scene)
    parent = scene.child()
    child = scene.kernel.fork(parent)
    scene.kernel.setsid(child)
    scene.kernel.setpgid(parent, parent.group, parent.pid)
    scene.kernel.subreaper(scene.kernel.init)
    scene.kernel.exec(child)
    scene.kernel.exit(parent, 7)
    events = listener.hear()

    assert _short(events) == [
        ("birth", parent.tid),
        ("birth", child.tid),
        ("setsid", child.tid),
        ("setpgid", parent.tid),
        ("subreaper", scene.kernel.init.tid),
        ("exec", child.tid),
        ("death", parent.tid),
        ("reparent", child.tid),
    ]
    assert [event["order"] for event in events] == sorted(event["order"] for event in events)
    assert events[2]["sid"] == events[2]["pgid"] == child.tid
    assert events[3]["pgid"] == parent.tid
    assert events[4]["on"] is True
    assert events[5]["old_tid"] == child.tid
    assert (events[6]["exit_code"], events[6]["group_dead"]) == (7, True)
    assert events[7]["parent"] == scene.kernel.init.tid


def test_kinds_that_were_not_asked_for_are_not_told() -> None:
    """Loss and the other service events come all the same."""
    scene = Scene()
    listener = Listener(scene, kinds=["death"])
    scene.kernel.exit(scene.child())

    assert [event["event"] for event in listener.hear()] == ["death"]


def test_a_tree_is_told_of_and_not_what_is_beside_it() -> None:
    """A task that leaves the tree has one last event."""
    scene = Scene()
    root = scene.child()
    listener = Listener(scene, root=root)
    beside = scene.child()
    middle = scene.child(root)
    orphan = scene.child(middle)
    scene.kernel.exit(middle)
    scene.kernel.exec(orphan)
    scene.kernel.exec(beside)

    assert _short(listener.hear(), "parent") == [
        ("birth", middle.tid, root.tid),
        ("birth", orphan.tid, middle.tid),
        ("death", middle.tid, None),
        ("reparent", orphan.tid, scene.kernel.init.tid),
    ]


def test_when_the_root_of_a_tree_is_gone_the_end_is_told() -> None:
    """It comes when the root has been reaped, not while the root is a zombie."""
    scene = Scene()
    root = scene.child()
    listener = Listener(scene, root=root)
    scene.kernel.exit(root)
    assert [event["event"] for event in listener.hear()] == ["death"]
    scene.kernel.wait(scene.kernel.init, root)

    assert [event["event"] for event in listener.hear()] == ["reap", "end"]
    assert listener.subscription.ended


def test_what_is_somebody_elses_is_not_told() -> None:
    """The ids of the record count, because no event tells setuid()."""
    scene = Scene()
    own = scene.child(ids=(1000, 1000))
    other = scene.child(ids=(1001, 1001))
    listener = Listener(scene, scene.viewer(own))
    scene.kernel.exec(own)
    scene.kernel.exec(other)
    child = scene.child(own)
    child.ids = (0, 0)  # as a set-user-id program does
    scene.kernel.exec(child)
    scene.kernel.exit(child)
    scene.kernel.exit(other)

    assert _short(listener.hear()) == [("exec", own.tid), ("birth", child.tid)]


def test_an_orphan_of_somebody_elses_is_not_told() -> None:
    """The reparenting comes from the table and has no record of its own."""
    scene = Scene()
    own = scene.child(ids=(1000, 1000))
    child = scene.child(own)
    scene.watch.catch_up()
    child.ids = (0, 0)
    scene.kernel.exec(child)
    listener = Listener(scene, scene.viewer(own))
    scene.kernel.exit(own)

    assert _short(listener.hear()) == [("death", own.tid)]


def test_numbers_are_those_of_the_subscribers_namespace() -> None:
    """A task without a number there has no events."""
    scene = Scene()
    init = scene.child(flags=CLONE_NEWPID)
    scene.watch.catch_up()
    task = scene.watch.table.task(init.tid)
    assert task is not None
    listener = Listener(scene)
    inner = Subscriber(ROOT, task.pid.namespace, (), KINDS, scene.watch.stream.next)
    scene.service.feed.add(inner, lambda: 0)
    scene.child()
    child = scene.child(init)
    outer = listener.hear()
    heard = msgpack.unpackb(b"".join(inner.take(0)))["events"]

    assert [event["numbers"] for event in outer][1:] == [list(child.pid.numbers)]
    assert [(event["tid"], event["numbers"], event["parent"]) for event in heard] == [(2, [2], 1)]


def test_who_does_not_read_is_told_how_much_was_dropped() -> None:
    """The backlog is bounded; the events that fit come first, then the gap, then later events."""
    scene = Scene()
    listener = Listener(scene, kinds=["birth"])
    listener.unsent = BACKLOG_BYTES - 1000
    for _ in range(20):
        scene.child()
    scene.watch.tend()
    first = listener.told()
    listener.unsent = 0
    late = scene.child()

    assert [event["event"] for event in first] == ["birth"] * (len(first) - 1) + ["dropped"]
    assert len(first) - 1 + first[-1]["count"] == 20
    assert first[-1]["order"] == listener.scene.watch.stream.next - 1 or first[-1]["order"] > first[-2]["order"]
    assert _short(listener.hear()) == [("birth", late.tid)]
    assert listener.subscription.dropped == first[-1]["count"]


def test_what_was_dropped_is_told_before_a_loss_that_came_after_it() -> None:
    """The loss always has room, but comes after the gap, in order."""
    scene = Scene()
    listener = Listener(scene)
    listener.unsent = BACKLOG_BYTES + 1
    scene.child()
    scene.watch.tend()
    scene.watch.stream.suspect = True
    scene.service.feed.settle()
    scene.child()
    scene.watch.drain()

    assert [event["event"] for event in listener.told()] == ["dropped", "loss", "dropped"]


def test_loss_is_told_where_it_happened_and_that_it_was_mended() -> None:
    """The changes that the sweep finds come in between, so that no new snapshot is necessary."""
    scene = Scene()
    listener = Listener(scene)
    scene.child()
    scene.watch.tend()
    ring = scene.watch.probes.ring
    lost = scene.child()
    ring.records.clear()  # type: ignore[attr-defined]  # the simulated one
    after = scene.child()
    scene.watch.stream.give_up_below(scene.kernel.writer.seq - 1)
    events = listener.hear()

    assert [event["event"] for event in events] == ["birth", "loss", "birth", "birth", "resync"]
    assert events[1]["count"] == 1
    assert [(event["tid"], event.get("assumed")) for event in events[2:4]] == [(after.tid, None), (lost.tid, True)]


def test_of_a_thousand_losses_two_are_told_and_all_are_counted() -> None:
    """The first one is told at once, because nothing is certain after it; the others together, before the resync."""
    scene = Scene()
    listener = Listener(scene)
    ring = scene.watch.probes.ring.records  # type: ignore[attr-defined]  # the simulated one
    for _ in range(1000):
        scene.kernel.emit = lambda record: scene.watch.probes.page.lose(record, told=True)  # type: ignore[attr-defined]
        scene.child()
        scene.kernel.emit = ring.append
        scene.child()
        scene.watch.drain()
        scene.service.feed.settle()
    events = listener.hear()

    told = [(event["event"], event["count"]) for event in events if event["event"] == "loss"]
    assert told == [("loss", 1), ("loss", 999)]
    assert sum(event["event"] == "birth" for event in events) == 2000
    assert [event["event"] for event in events[-2:]] == ["loss", "resync"]


def test_while_nobody_listens_records_go_straight_to_the_table() -> None:
    """Events then have no cost."""
    scene = Scene()
    handlers = scene.watch.stream.handlers
    straight = handlers()
    first, second = Listener(scene), Listener(scene)
    assert handlers() != straight
    scene.service.feed.remove(first.subscription)
    assert handlers() != straight
    scene.service.feed.remove(second.subscription)
    assert handlers() == straight
    assert straight.keys() == set(Kind)


# ---- a snapshot and what follows it ---------------------------------------------------------------------------------


def test_a_subscription_begins_with_its_snapshot() -> None:
    """The last birth in it has a smaller number than the position; the next event has that number or a larger one."""
    scene = Scene()
    root = scene.child()
    scene.child(root)
    answer = scene.ask(ROOT, "subscribe", root=str(root.tid))
    image = registry.load(answer["snapshot"])
    (subscription,) = scene.service.feed.subscribers
    late = scene.child(root)
    scene.watch.tend()
    (event,) = msgpack.unpackb(b"".join(subscription.take(0)))["events"]

    orders = [task.birth.order for task in image.tasks if task.birth is not None and task.birth.order is not None]
    assert len(image.tasks) == answer["tasks"] == 2
    assert max(orders) < answer["order"] <= event["order"]
    assert event["tid"] == late.tid


@pytest.mark.parametrize("wanted", [False, True])
def test_without_a_root_there_is_no_snapshot(wanted: bool) -> None:  # noqa: FBT001
    """A snapshot needs a root."""
    answer = Scene().ask(ROOT, "subscribe", snapshot=wanted)

    assert answer["ok"] is not wanted
    if not wanted:
        assert answer["snapshot"] is None


def test_a_subscriber_that_asks_is_told_the_arguments_of_execs() -> None:
    """Their text is not kept; no other subscriber is told, and the hook tells it exactly as long as one asks."""
    scene = Scene()
    child = scene.child()
    other, asking = Asker(ROOT), Asker(ROOT)
    scene.service.answer({"verb": "subscribe"}, other)
    scene.service.answer({"verb": "subscribe", "arguments": True, "kinds": ["exec"]}, asking)
    probes: Any = scene.watch.probes
    assert probes.tells_arguments

    def run(text: bytes) -> None:
        scene.kernel.exec(child)
        for which in (0, 1):
            probes.ring.records.append(
                scene.kernel.writer.strings(which, tid=child.tid, start_ns=child.start_ns, text=text, kept=not which)
            )

    run(b"make\0all\0")
    heard = []
    for asker in (other, asking):
        scene.watch.tend()
        assert asker.subscription is not None
        events = msgpack.unpackb(b"".join(asker.subscription.take(scene.watch.stream.next)))["events"]
        heard.append(_short(events, "arguments", "size"))
    assert heard == [
        [("exec", child.tid, None, None)],
        [("exec", child.tid, None, None), ("arguments", child.tid, b"make\0all\0", 9)],
    ]
    task = scene.watch.table.task(child.tid)
    assert task is not None
    assert [len(area or b"") for area in task.strings or ()] == [wire.AREA.size] * 2
    scene.service.forget(asking)
    assert not probes.tells_arguments
    run(b"x\0")
    scene.watch.tend()
    assert other.subscription is not None
    assert _short(msgpack.unpackb(b"".join(other.subscription.take(scene.watch.stream.next)))["events"]) == [
        ("exec", child.tid)
    ]


def test_the_arguments_of_execs_are_told_to_root_alone() -> None:
    """The hello says who may ask."""
    scene = Scene()
    own = scene.child(ids=(1000, 1000))
    told = scene.ask(scene.viewer(own), "subscribe", arguments=True)

    assert (told["ok"], told["kind"]) == (False, "not-permitted")
    assert "arguments" in scene.ask(ROOT, "hello")["features"]
    assert "arguments" not in scene.ask(scene.viewer(own), "hello")["features"]
