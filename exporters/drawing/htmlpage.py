# SPDX-License-Identifier: Apache-2.0
"""Snapshot -> one HTML file that shows the tree and the births, without a network.

    page  = page.html, in the frame that all pages have, with the image
    image = JSON: {title, summary, trust, complete, notes, cut, first_tag, inherited, namespaces, pids, users, tasks,
             ghosts, ancestors}; times are CLOCK_BOOTTIME in microseconds

The page's parts are files beside this module, in ``page``: the scripts explain themselves. exporters.drawing.pageframe
says how foreign text is kept from being more than text; control characters are escaped, as in every drawing. The image
has what the page shows and no more: no environment.
"""

from collections.abc import Iterable
from typing import Final

from agent.model import CKPT_PID_ROOT, AncestorEvent, Birth, OutsidePid, PidRef, Snapshot, Tag, Task
from exporters.content.fields import escape
from exporters.content.identity import UserName, nameless
from exporters.content.wording import Remarks, count, cut, path, plain
from exporters.drawing import pageframe

_PARTS: Final = pageframe.PageParts(
    "show",
    "image-tools.html",
    "image-main.html",
    ("page.css",),
    ("facts.js", "image.js", "tree.js", "details.js", "births.js", "tools.js", "start.js"),
)


def dumps(snapshot: Snapshot, names: UserName = nameless) -> bytes:
    """Return the page of a snapshot, in UTF-8; equal snapshots and names give equal bytes."""
    return pageframe.filled(_PARTS, _Image(snapshot, names).document())


class _Image:
    """The document of one snapshot; facts that are not known have no key."""

    def __init__(self, snapshot: Snapshot, names: UserName) -> None:
        self._snapshot = snapshot
        self._remarks = Remarks(snapshot)
        self._names = names

    def document(self) -> dict[str, object]:
        """Return the whole document."""
        snapshot, done = self._snapshot, self._snapshot.completeness
        checked = "not verified" if done.verified == "no" else f"verified by {done.verified}"
        trust = [
            "complete" if done.complete else "INCOMPLETE",
            checked,
            f"{done.lost} events lost" if done.lost else "",
            "births assumed" if self._remarks.all_assumed else "",
            *map(plain, done.reasons),
        ]
        notes = [
            f"outside, under one tag: {', '.join(map(plain, snapshot.squashed))}" if snapshot.squashed else "",
            f"entered from outside and left out: {', '.join(map(plain, snapshot.entered))}" if snapshot.entered else "",
            *[f"cannot be rebuilt: {plain(obstacle.text)}" for obstacle in snapshot.not_rebuildable],
        ]
        ghost_of = {id_: tag for tag, id_ in self._remarks.gone_ghosts().items()}
        return {
            "title": f"{snapshot.mode} of {self._remarks.numbers(snapshot.tasks[0].pid)}",
            "summary": _joined(self._summary()),
            "trust": _joined(trust),
            "complete": done.complete,
            "notes": [note for note in notes if note],
            "cut": None if snapshot.boottime_ns is None else snapshot.boottime_ns // 1000,
            "first_tag": snapshot.first_tag,
            "inherited": CKPT_PID_ROOT,
            "namespaces": [[each.inum, each.level] for each in snapshot.namespaces],
            "pids": [[pid.numbers, pid.namespaces] for pid in snapshot.pids],
            "users": self._users(),
            "tasks": [self._task(task) for task in snapshot.tasks],
            "ghosts": [[tag, self._remarks.uses(uses)] for tag, uses in self._remarks.ghosts().items()],
            "ancestors": [
                {
                    "numbers": ancestor.numbers,
                    "namespaces": ancestor.namespaces,
                    "events": [self._event(event) for event in ancestor.events],
                    **({"tag": ghost_of[ancestor.id]} if ancestor.id in ghost_of else {}),
                    **self._birth(ancestor.birth),
                }
                for ancestor in snapshot.ancestors
            ],
        }

    def _summary(self) -> Iterable[str]:
        snapshot, header = self._snapshot, self._snapshot.header
        processes = len({task.tgid for task in snapshot.tasks})
        yield count(processes, "process", "processes")
        threads = len(snapshot.tasks) - processes
        yield count(threads, "thread") if threads else ""
        yield count(len(snapshot.pids), "pid")
        yield count(len(snapshot.namespaces), "pid namespace") if len(snapshot.namespaces) > 1 else ""
        yield cut(snapshot)
        host = " ".join([plain(word.partition("\0")[0]) for word in (header.release, header.machine) if word])
        yield f"Linux {host}" if host else ""

    def _users(self) -> dict[int, str]:
        """Return the names of the users that have one, by their ids."""
        uids = dict.fromkeys([task.uid for task in self._snapshot.tasks if task.uid is not None])
        return {uid: plain(name) for uid in uids if (name := self._names(uid)) is not None}

    def _task(self, task: Task) -> dict[str, object]:
        details = task.details
        known: dict[str, object | None] = {
            "pid": task.pid,
            "ppid": task.ppid,
            "tgid": task.tgid,
            "pgid": task.pgid,
            "sid": task.sid,
            "start": None if task.start_ns is None else task.start_ns // 1000,
            "state": task.state,
            "uid": task.uid,
            "gid": task.gid,
            "comm": None if task.comm is None else plain(escape(task.comm)),
            "argv": None if task.argv is None else pageframe.command_line(task.argv),
            "cwd": None if task.cwd is None else pageframe.short(plain(escape(task.cwd))),
            "exe": None if details is None or details.exe is None else pageframe.short(plain(escape(details.exe))),
            "notes": [[remark.kind, remark.text] for remark in self._remarks.of(task)] or None,
            "birth": None if task.birth is None else self._birth(task.birth),
        }
        return {key: value for key, value in known.items() if value is not None}

    def _birth(self, birth: Birth) -> dict[str, object]:
        creator = birth.creator
        known: dict[str, object | None] = {
            "creator": creator and creator.tag,
            "ancestor": creator and creator.ancestor,
            "observed": birth.observed,
            "order": birth.order,
            "flags": list(map(plain, birth.flags)) or None,
        }
        if birth.observed:
            known |= {"sid": self._ref(birth.sid), "pgid": self._ref(birth.pgid)}
        return {key: value for key, value in known.items() if value is not None}

    def _event(self, event: AncestorEvent) -> str:
        value = event.value if event.event == "subreaper" else self._ref(event.value)
        return f"{event.event} {value} as event {event.order}" if value else f"{event.event} as event {event.order}"

    def _ref(self, ref: PidRef | int | None) -> str | None:
        if isinstance(ref, OutsidePid):
            return path(ref.numbers) or "outside"
        return None if ref is None else self._remarks.ref(Tag(ref))


def _joined(parts: Iterable[str]) -> str:
    return " · ".join([part for part in parts if part])
