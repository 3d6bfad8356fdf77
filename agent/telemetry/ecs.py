# SPDX-License-Identifier: Apache-2.0
"""Events as documents of the Elastic Common Schema, one JSON object each.

=============================  =============================  ==========================================================
event                          event.action                   event.type, of event.category ``process``
=============================  =============================  ==========================================================
birth                          fork, thread_start             start; of a thread: info
exec                           exec                           start
death                          end, thread_end                end, with the last thread of the process; else: info
reap                           reap                           info
reparent, setpgid, subreaper,  the event's own name           change
change
setsid                         session_id_change              change
loss, resync, dropped, hidden  the event's own name           info, of event.category ``host``
end                            root_end                       info, of event.category ``host``
=============================  =============================  ==========================================================

fork, exec, end and session_id_change are the actions that Elastic's own agents tell of Linux. A process is identified by
``entity_id``: boot, start and number of it. ``exit_code`` is as shells have it, 128 and the signal's number for a signal.
Bytes other than UTF-8 are escaped with a backslash.
"""

import json
import time
from collections.abc import Callable
from typing import Any, Final

from agent.protocol.replies import Event, EventTask
from agent.telemetry.lives import Life, Lives, exit_code
from agent.telemetry.thishost import ThisHost
from exporters.content.fields import escape
from exporters.content.instants import instant

VERSION: Final = "9.4.0"
"""The version of the schema whose fields these are."""

_OF_PROCESS: Final = {
    "birth": ("fork", "start"),
    "exec": ("exec", "start"),
    "reap": ("reap", "info"),
    "setsid": ("session_id_change", "change"),
}
_OF_THREAD: Final = {
    "birth": ("thread_start", "info"),
    "death": ("thread_end", "info"),
    "reap": ("thread_reap", "info"),
}


class EcsDocuments:
    """Makes documents of events.

    Args:
        host: that the events are of.
        lives: of the processes.
        now: CLOCK_REALTIME in ns, for an event that has no time.
    """

    def __init__(self, host: ThisHost, lives: Lives, now: Callable[[], int] = time.time_ns) -> None:
        self._host = host
        self._lives = lives
        self._now = now
        self._about_host = {
            "name": host.name,
            "hostname": host.name,
            "os": {"type": "linux", "kernel": host.kernel},
            "boot": {"id": host.boot_id},
        }

    def line(self, event: Event) -> str:
        """Return an event's document as JSON, without a newline."""
        return json.dumps(self.document(event))

    def document(self, event: Event) -> dict[str, Any]:
        """Return an event's document."""
        life = self._lives.note(event)
        told = event.details
        action, kind = _action(event, life)
        document: dict[str, Any] = {
            "@timestamp": instant(self._now() if event.time_ns is None else event.time_ns),
            "ecs": {"version": VERSION},
            "event": {
                "kind": "event",
                "category": ["host" if life is None else "process"],
                "type": [kind],
                "action": action,
                "module": "ckptree",
                "dataset": "ckptree.process",
                "sequence": event.order,
            },
            "host": self._about_host,
        }
        if "count" in told:
            document["message"] = f"{told['count']} events {_LOST.get(event.kind, 'missing')}"
        tags = [tag for tag in ("assumed", "entered") if told.get(tag)]
        if tags:
            document["tags"] = tags
        if life is not None and event.task is not None:
            document["process"] = self._process(event, event.task, life, ended=kind == "end")
            document["user"] = {"id": str(event.task.uid)}
            document["group"] = {"id": str(event.task.gid)}
        return document

    def _process(self, event: Event, task: EventTask, life: Life, *, ended: bool) -> dict[str, Any]:
        process: dict[str, Any] = {"pid": task.pid, **self._identity(life)}
        if task.pid == task.tid:
            process["name"] = escape(task.comm)
            if len(task.numbers) > 1:
                process["vpid"] = task.numbers[-1]
        else:
            process["thread"] = {"id": task.tid, "name": escape(task.comm)}
        if life.parent:
            above = self._lives.get(life.parent)
            process["parent"] = {"pid": life.parent, **(self._identity(above) if above is not None else {})}
        if life.executable is not None:
            process["executable"] = life.executable
        if life.arguments is not None:
            process["args"] = [escape(word) for word in life.arguments]
            if not life.cut:
                process["args_count"] = len(life.arguments)
        for key, leader in (("pgid", "group_leader"), ("sid", "session_leader")):
            if event.details.get(key):
                process[leader] = {"pid": event.details[key]}
        if ended:
            process["end"] = instant(self._now() if event.time_ns is None else event.time_ns)
            status = event.details["exit_code"] if life.status is None else life.status
            if status is not None:
                process["exit_code"] = exit_code(status)
        return process

    def _identity(self, life: Life) -> dict[str, str]:
        if life.start_ns is None:
            return {}
        return {
            "entity_id": f"{self._host.boot_id}/{life.start_ns}/{life.pid}",
            "start": instant(life.start_ns + self._host.ahead_ns),
        }


_LOST: Final = {"loss": "lost on their way to the daemon", "dropped": "left out, because they were not read in time"}


def _action(event: Event, life: Life | None) -> tuple[str, str]:
    """Return action and type of an event."""
    task = event.task
    if life is None or task is None:
        return {"end": "root_end"}.get(event.kind, event.kind), "info"
    if event.kind == "death" and event.details.get("group_dead"):
        return "end", "end"
    if event.kind in _OF_THREAD and (task.pid != task.tid or event.kind == "death"):
        return _OF_THREAD[event.kind]
    return _OF_PROCESS.get(event.kind, (event.kind, "change"))
