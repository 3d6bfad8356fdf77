# SPDX-License-Identifier: Apache-2.0
"""The differences between the tables before and behind a gap of a recording, as events. Pure.

Two tables have no object in common. So a task is the same where its numbers and its time of birth are. Each difference is
assumed, for its moment is within the gap.
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

from agent.events import eventpack
from agent.events.eventfacts import ASSUMED, Facts, number, thread
from agent.events.eventpack import Details
from agent.events.subscriber import Subscriber
from agent.record import NamedTuple
from agent.table.objects import PidNamespace, TaskStruct

Key: TypeAlias = tuple[tuple[int, ...], int]
Told: TypeAlias = Mapping[TaskStruct, Facts]
"""The facts of the tasks that a feed has told of."""


class Side(NamedTuple):
    """The tasks on one side of a gap.

    Attributes:
        told: their facts.
        namespace: in which the subscriber's numbers count.
    """

    told: Told
    namespace: PidNamespace


def key(task: TaskStruct) -> Key:
    """Return the identity of a task within its boot."""
    return task.pid.numbers, task.start_ns


def cross(
    before: Side, after: Side, there: Mapping[Key, TaskStruct], subscriber: Subscriber, order: int, time_ns: int
) -> None:
    """Tell a subscriber the differences between two tables.

    A process that goes on outside of the followed tree has a new parent, and has left it with all processes below it, as
    `agent.events.audience.Audience.move` tells it.

    Args:
        before, after: the two sides.
        there: all tasks behind the gap that may have been there before it: none, where the host was started anew.
        subscriber: of the side behind the gap.
        order, time_ns: of the events.
    """
    teller = _Teller(subscriber, order, time_ns)
    known = {key(task): (task, facts) for task, facts in before.told.items()}
    gone = [task for each, (task, _) in known.items() if each not in there]
    for task in sorted(gone, key=lambda task: (before.told[task].leader is task, _age(task))):  # leaders last
        facts = before.told[task]
        if not facts.exited:
            last = facts.leader is task
            teller.tell("death", task, facts.leader, before.namespace, eventpack.DEATH[last])
        teller.tell("reap", task, facts.leader, before.namespace, eventpack.nothing)
    left = [there[each] for each in known if each in there and there[each] not in after.told]
    for task in sorted(left, key=_age):
        if task.leader is task and _has_moved(known[key(task)][1].parent, before, task.parent, after):
            teller.tell("reparent", task, task, after.namespace, eventpack.parent)
    for task in sorted(after.told, key=lambda task: (task.start_ns, task.leader is not task, _age(task))):
        old = known.get(key(task)) if there else None
        if old is None:
            teller.tell("birth", task, task.leader, after.namespace, eventpack.presence)
        else:
            _differ(teller, before, old[1], after, task)


def _age(task: TaskStruct) -> tuple[int, tuple[int, ...]]:
    """Return a key by which older tasks come first, and no two tasks in any order."""
    return task.start_ns, task.pid.numbers


def _has_moved(old: TaskStruct | None, before: Side, new: TaskStruct | None, after: Side) -> bool:
    """Return True if a task has another parent behind a gap; one that is not known there may be the same."""
    return new is not None and thread(old, before.namespace) != thread(new, after.namespace)


_CONDITION: Final = ("stopped", "exit_code", "exit_signal", "ids", "comm")


def _differ(teller: "_Teller", before: Side, old: Facts, after: Side, task: TaskStruct) -> None:
    """Tell the differences of one task."""
    new, leader = after.told[task], after.told[task].leader

    def tell(kind: str, say: Details) -> None:
        teller.tell(kind, task, leader, after.namespace, say)

    if _has_moved(old.parent, before, new.parent, after):
        tell("reparent", eventpack.parent)
    if number(old.sid, before.namespace) != number(new.sid, after.namespace):
        tell("setsid", eventpack.ids)
    elif number(old.pgid, before.namespace) != number(new.pgid, after.namespace):
        tell("setpgid", eventpack.ids)
    if old.subreaper != new.subreaper:
        tell("subreaper", eventpack.subreaper)
    if new.exited and not old.exited:
        tell("death", eventpack.DEATH[all(each.flags & new.exited for each in task.group())])
    elif any(getattr(old, name) != getattr(new, name) for name in _CONDITION):
        tell("change", eventpack.condition)


class _Teller:
    """The events of one moment for one subscriber."""

    def __init__(self, subscriber: Subscriber, order: int, time_ns: int) -> None:
        self._subscriber, self._order, self._time_ns = subscriber, order, time_ns

    def tell(self, kind: str, task: TaskStruct, leader: TaskStruct, namespace: PidNamespace, say: Details) -> None:
        subscriber = self._subscriber
        if kind not in subscriber.kinds or not task.pid.number_in(namespace):
            return
        if subscriber.viewer.privileged or subscriber.viewer.sees_ids(task.ids):
            event = eventpack.event(kind, self._order, self._time_ns, task, leader, namespace, say, ASSUMED)
            subscriber.put(event)
