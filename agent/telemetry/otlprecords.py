# SPDX-License-Identifier: Apache-2.0
"""Events as log records of OpenTelemetry: name, time and attributes of each.

The name is ``ckptree.process.KIND``, of an event without a task ``ckptree.KIND``. Attributes ``process.*`` are those of
OpenTelemetry's semantic conventions (registry of attributes, version 1.40 and later); what these have no name for is below
``ckptree.``. ``process.command_args`` should not be collected without being asked for, as the conventions have it.
"""

import time
from collections.abc import Callable
from typing import Final, TypeAlias

from agent.protocol.replies import Event, EventTask
from agent.record import NamedTuple
from agent.telemetry.lives import Life, Lives, exit_code
from agent.telemetry.thishost import ThisHost
from exporters.content.fields import escape
from exporters.content.instants import instant
from exporters.content.wording import status_document

Value: TypeAlias = str | bool | int | list[str]

_OWN: Final = (
    "old_tid",
    "on",
    "exit_signal",
    "creator",
    "count",
    "assumed",
    "entered",
    "group_dead",
    "stopped",
    "flags",
)


class EventRecord(NamedTuple):
    """A log record.

    Attributes:
        name: of the event.
        time_ns: CLOCK_REALTIME.
        body: a line for people.
        attributes: by name.
    """

    name: str
    time_ns: int
    body: str
    attributes: dict[str, Value]


class EventRecords:
    """Makes log records of events.

    Args:
        host: that the events are of.
        lives: of the processes.
        describe: returns an event as a line for people.
        now: CLOCK_REALTIME in ns, for an event that has no time.
    """

    def __init__(
        self, host: ThisHost, lives: Lives, describe: Callable[[Event], str], now: Callable[[], int] = time.time_ns
    ) -> None:
        self._host = host
        self._lives = lives
        self._describe = describe
        self._now = now

    def record(self, event: Event) -> EventRecord:
        """Return an event's log record."""
        life = self._lives.note(event)
        attributes: dict[str, Value] = {"ckptree.order": event.order}
        for key in _OWN:
            value = event.details.get(key)
            if value not in (None, ""):
                attributes[f"ckptree.{key}"] = list(value) if isinstance(value, (list, tuple)) else value
        time_ns = self._now() if event.time_ns is None else event.time_ns
        if life is not None and event.task is not None:
            attributes |= self._process(event, event.task, life, time_ns)
        name = f"ckptree.{event.kind}" if life is None else f"ckptree.process.{event.kind}"
        return EventRecord(name, time_ns, self._describe(event), attributes)

    def lost(self, count: int) -> EventRecord:
        """Return a record that tells of records that the collector did not get."""
        return EventRecord(
            "ckptree.export_loss",
            self._now(),
            f"{count} events did not reach the collector",
            {"ckptree.count": count},
        )

    def _process(self, event: Event, task: EventTask, life: Life, time_ns: int) -> dict[str, Value]:
        found: dict[str, Value] = {
            "process.pid": task.pid,
            "process.user.id": task.uid,
            "ckptree.gid": task.gid,
            "ckptree.comm": escape(task.comm),
        }
        if task.tid != task.pid:
            found["ckptree.tid"] = task.tid
        elif len(task.numbers) > 1:
            found["process.vpid"] = task.numbers[-1]
        if life.start_ns is not None:
            found["process.creation.time"] = instant(life.start_ns + self._host.ahead_ns)
            found["ckptree.start_ns"] = life.start_ns
        if life.parent:
            found["process.parent_pid"] = life.parent
        if life.executable is not None:
            found["process.executable.path"] = life.executable
            found["process.executable.name"] = life.executable.rpartition("/")[2]
        if life.arguments is not None:
            found["process.command_args"] = [escape(word) for word in life.arguments]
            if not life.cut:
                found["process.args_count"] = len(life.arguments)
        for key, name in (("pgid", "process.group_leader.pid"), ("sid", "process.session_leader.pid")):
            if event.details.get(key):
                found[name] = event.details[key]
        if event.kind == "death":
            status = event.details["exit_code"]
            signal = status_document(status)["signal"]
            if isinstance(signal, str):
                found["ckptree.signal"] = signal
            if event.details.get("group_dead"):
                status = status if life.status is None else life.status
                if status is not None:
                    found["process.exit.code"] = exit_code(status)
                found["process.exit.time"] = instant(time_ns)
        return found
