# SPDX-License-Identifier: Apache-2.0
"""Live events as lines, for people and for programs.

    line  = order kind task ": " what            order as in the births of snapshots: larger is later
    task  = numbers " " comm                     numbers from the reader's pid namespace inward; a thread's in braces

Foreign bytes in a name are escaped as everywhere (exporters.fields), so that a line is one line, and has nothing that a
terminal would obey.
"""

import json

from agent.client import Event, EventTask
from exporters.fields import escape
from exporters.remarks import count, ended, path, plain

_UNASKED = {
    "loss": "{} lost on their way to the daemon: tasks may have changed unseen until the next resync",
    "resync": "the daemon has compared its table with the kernel: what a snapshot shows now is whole again",
    "dropped": "{} left out, because they were not read in time",
    "end": "the root is gone",
}


def as_line(event: Event) -> str:
    """An event for people, without a newline."""
    head = f"{event.order:>10} {event.kind:<9}"
    if event.task is None:
        text = _UNASKED.get(event.kind, "")
        return f"{head} {text.format(count(event.details.get('count', 0), 'event'))}".rstrip()
    said = ", ".join(part for part in _details(event, event.task) if part)
    return f"{head} {_task(event.task)}" + (f": {said}" if said else "")


def as_json(event: Event) -> str:
    """An event for programs: one JSON object, without a newline. Absent is null, as in documents."""
    document = {"event": event.kind, "order": event.order}
    if event.task is not None:
        task = event.task
        document |= {
            "pid": task.pid,
            "tid": task.tid,
            "numbers": list(task.numbers),
            "start_ns": task.start_ns,
            "uid": task.uid,
            "gid": task.gid,
            "comm": escape(task.comm),
        }
    return json.dumps(document | dict(event.details))


def _task(task: EventTask) -> str:
    text = f"{path(task.numbers)} {plain(escape(task.comm))}"
    return text if task.pid == task.tid else f"{{{text}}}"


def _details(event: Event, task: EventTask) -> list[str]:
    told = event.details
    match event.kind:
        case "birth":
            parent, creator = told["parent"], told["creator"]
            kin = f"child of {parent}" if task.pid == task.tid else f"thread of {task.pid}"
            return [
                kin,
                f"by {creator}" if creator not in (parent, 0) else "",
                *_ids(event),
                " ".join(told["flags"]),
            ]
        case "death":
            last = told["group_dead"]
            return [ended(told["exit_code"]), "" if last else "other threads go on"]
        case "reparent":
            return [f"now child of {told['parent']}"]
        case "setsid" | "setpgid":
            return _ids(event)
        case "subreaper":
            return ["on" if told["on"] else "off"]
    return []


def _ids(event: Event) -> list[str]:
    """Session and group; 0: the reader's namespace does not see it."""
    return [f"{name} {event.details[key] or 'outside'}" for name, key in (("session", "sid"), ("group", "pgid"))]
