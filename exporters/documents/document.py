# SPDX-License-Identifier: Apache-2.0
"""Snapshot <-> the document: the schema of all formats that have maps and lists.

    document  = {format, version, dialect, first_tag, mode, root, header} | facts (see exporters.content.facts), where
    pids      = [{tag, numbers, namespaces}]
    tasks     = [{pid, ppid, tgid, pgid, sid, depth} | the facts of a task]
    header    = see exporters.content.hostmap

Unknown keys stay at the place where the document that was read had them (exporters.content.unknown). The first line is
the base. The 2011 image holds the base in its own records and the facts in an EXTENSION record.
"""

from agent.errors import FormatError
from agent.model import Dialect, Header, Mode, Snapshot
from exporters.content.facts import Document, facts, task_facts
from exporters.content.factsreader import Base, assemble, wrongs
from exporters.content.fields import S32_MAX, Fields
from exporters.content.findings import Finding
from exporters.content.hostmap import header_fields, read_header
from exporters.content.soundness import TAG_MAX, Fault, TaskIds, faults, first_fault
from exporters.content.unknown import put

FORMAT = "ckptree"
SET = "ckptree-set"
"""The format of a set of images, in its manifest."""
VERSION = 1

_DIALECTS: tuple[Dialect, ...] = ("seed", "v23")
_MODES: tuple[Mode, ...] = ("container", "subtree")

# The order in which people read a task.
_TASK_KEYS: Document = dict.fromkeys(
    ("start_ns", "state", "exit_code", "exit_signal", "comm", "uid", "gid", "subreaper", "child_namespace")
) | {
    "tty": None,
    "fown": None,
    "argv": None,
    "cwd": None,
    "env": None,
    "details": None,
    "shares": None,
    "child_namespace_dead": None,
    "birth": None,
}


def to_document(snapshot: Snapshot) -> Document:
    """Return the whole document, keys in an order for people."""
    known = facts(snapshot)
    pids = [
        {"tag": tag, "numbers": pid.numbers, "namespaces": pid.namespaces}
        for tag, pid in enumerate(snapshot.pids, snapshot.first_tag)
    ]
    tasks = [
        {**TaskIds(*task[:6])._asdict(), **_TASK_KEYS, **row}
        for task, row in zip(snapshot.tasks, task_facts(snapshot.tasks), strict=True)
    ]
    document: Document = {
        "format": FORMAT,
        "version": VERSION,
        "dialect": snapshot.dialect,
        "first_tag": snapshot.first_tag,
        "mode": snapshot.mode,
        "root": snapshot.first_tag,
        "boot_id": known["boot_id"],
        "time_ns": known["time_ns"],
        "boottime_ns": known["boottime_ns"],
        "header": header_fields(snapshot.header),
        "completeness": known["completeness"],
        "as_of_read": known["as_of_read"],
        **({"at": known["at"]} if "at" in known else {}),
        "namespaces": known["namespaces"],
        "pids": pids,
        "tasks": tasks,
        "ancestors": known["ancestors"],
        "squashed": known["squashed"],
        "entered": known["entered"],
        "not_rebuildable": known["not_rebuildable"],
    }
    put(document, snapshot.unknown)
    return document


def from_document(value: object) -> Snapshot:
    """Return the snapshot of a whole document; FormatError names the wrong field."""
    document = Fields(value)
    base = _read_base(document)
    fault = first_fault(base.first_tag, base.numbers, base.tasks)
    if fault:
        raise FormatError(path_of(fault), fault.text)
    return assemble(base, document)


def examine(value: object) -> tuple[Base | None, Snapshot | None, list[Finding]]:
    """Return the base and the snapshot of a document, each None if it has none, and all that `from_document`
    refuses."""
    base = None
    try:
        document = Fields(value)
        base = _read_base(document)
        found = [
            Finding(fault.rule, path_of(fault), fault.text, None, fault.tags)
            for fault in faults(base.first_tag, base.numbers, base.tasks)
        ]
        return base, assemble(base, document), found
    except FormatError as error:
        if base is None:
            return None, None, [Finding("document", error.path, error.message)]
    found += [Finding("document", error.path, error.message) for error in wrongs(base, document)]
    return base, None, found


def path_of(fault: Fault) -> str:
    """Return the path of a fault in a document."""
    if fault.array == "completeness":
        return f"completeness.{fault.field}"
    return f"{fault.array}[{fault.index}].{fault.field}" if fault.field else fault.array


def _read_base(document: Fields) -> Base:
    if document.whole.get("format") == SET:
        raise FormatError("format", "this is a set of images of many hosts: `ckptree fleet show` reads it")
    document.word("format", (FORMAT,))
    document.integer("version", VERSION, VERSION)
    pids = list(document.maps("pids"))
    base = Base(
        mode=document.word("mode", _MODES),
        dialect=document.word("dialect", _DIALECTS),
        first_tag=document.integer("first_tag", 1, TAG_MAX),
        header=read_header(document.map("header"), Header()),
        numbers=[pid.integers("numbers", -S32_MAX, S32_MAX) for pid in pids],
        tasks=[
            TaskIds._make([task.integer(field, -S32_MAX, S32_MAX) for field in TaskIds._fields])
            for task in document.maps("tasks")
        ],
    )
    for tag, pid in enumerate(pids, base.first_tag):
        pid.integer("tag", tag, tag)
    document.integer("root", base.first_tag, base.first_tag)
    return base
