# SPDX-License-Identifier: Apache-2.0
"""A bad file for each rule: it breaks this rule alone. Each comes with its expected findings: name, place, and pids."""

from dataclasses import replace
from typing import NamedTuple

from agent.model import Completeness, Namespace, Shares, Task, TaskState
from exporters.image import checkpoint
from tests.support.builders import a_snapshot, a_task, born
from tests.support.images import (
    GOLDEN,
    TAIL_AT,
    a_record,
    an_extension,
    an_image,
    patched,
    records_of,
    some_facts,
    with_records,
)

PIDS_AT = 379
FIELDS = ("pid", "ppid", "tgid", "pgid", "sid", "depth")
Found = tuple[str, int | None, tuple[int, ...]]


class Bad(NamedTuple):
    """An image with all its expected findings."""

    data: bytes
    findings: list[Found]


def field(at: int, layout: str, value: int, *findings: Found) -> Bad:
    """Return the golden image with one wrong field."""
    return Bad(patched(GOLDEN, at, layout, value), list(findings))


def tree(
    pids: list[tuple[int, ...]],
    tasks: list[tuple[int, ...]],
    name: str,
    task: int,
    column: str,
    about: tuple[int, ...],
    offset: int = 0,
) -> Bad:
    """Return a bare image with one wrong id of one task."""
    tasks_at = PIDS_AT + sum(4 + 4 * len(pid) for pid in pids) + 24
    at = tasks_at + 24 * task + 4 * FIELDS.index(column)
    return Bad(an_image(pids, tasks, offset), [(name, at, about)])


def without(kind: int) -> bytes:
    """Return the golden image without the records of a type."""
    return b"".join([a_record(each, body) for each, body in records_of(GOLDEN) if each != kind])


def a_container(spaces: list[tuple[int, int]] | None = None, **lines: tuple[int, ...]) -> bytes:
    """Return a written image: init, in namespace 1 below it an init and another task, in namespace 2 an init.

    `spaces` has level and parent of the namespaces from the second on, `lines` the namespaces of t1 to t4.
    """
    known = {"t1": (0,), "t2": (0, 1), "t3": (0, 1), "t4": (0, 2)} | lines
    numbers = {"t1": (1,), "t2": (5, 1), "t3": (6, 2), "t4": (7, 1)}
    rows = spaces or [(1, 0), (1, 0)]
    snapshot = a_snapshot(
        numbers.values(),
        [a_task(1, 0), a_task(2, 1, depth=1), a_task(3, 2, depth=1), a_task(4, 1, depth=1)],
        mode="container",
        namespaces=(Namespace(0, 10, 0, None), *(Namespace(n, 10 + n, *row) for n, row in enumerate(rows, 1))),
    )
    pids = tuple([pid._replace(namespaces=known[f"t{tag}"]) for tag, pid in enumerate(snapshot.pids, 1)])
    return checkpoint.dumps(replace(snapshot, pids=pids))


def ended(*tasks: Task) -> bytes:
    """Return a written image: a running root with pid 100, and tasks below it with pids from 101 on."""
    return checkpoint.dumps(a_snapshot([(100 + n,) for n in range(len(tasks) + 1)], [a_task(1, 0), *tasks]))


def payload_at(data: bytes) -> int:
    """Return the offset of the payload of EXTENSION, which is the last record but TAIL."""
    return len(data) - 16 - len(records_of(data)[-2][1]) + 8


def extended(record: bytes, name: str, at: int = TAIL_AT + 16) -> Bad:
    """Return the golden image with an EXTENSION record."""
    return Bad(with_records(record), [(name, at, ())])


ROOT = (1, 0, 1, 1, 1, 0)
DAMAGED = bytearray(an_extension(some_facts()))
DAMAGED[20] ^= 1

BAD = {
    "truncated": Bad(GOLDEN[:-1], [("truncated", 547, ())]),
    "unexpected-record": Bad(without(3), [("unexpected-record", 307, ())]),
    "record-head": field(547, "<I", 4, ("record-head", 547, ())),
    "record-length": field(42, "<H", 64, ("record-length", 76, ())),
    "writer-failed": field(307, "<I", 9999, ("writer-failed", 307, ())),
    "foreign-records": Bad(with_records(a_record(103), a_record(4)), [("foreign-records", TAIL_AT, ())]),
    "second-extension": Bad(
        with_records(an_extension(some_facts()), an_extension(some_facts())),
        [("second-extension", TAIL_AT + len(an_extension(some_facts())), ())],
    ),
    "tail-magic": field(551, "<Q", 1, ("tail-magic", 551, ())),
    "bytes-after-tail": Bad(GOLDEN + b"\0", [("bytes-after-tail", 559, ())]),
    "big-endian": field(8, ">Q", 0x00FEED0CC0A2D200, ("big-endian", 8, ())),
    "head-magic": field(8, "<Q", 0, ("head-magic", 8, ())),
    "head-time": field(56, "<Q", 2**63, ("head-time", 56, ())),
    "uts-length": field(44, "<H", 1025, ("uts-length", 44, ())),
    "foreign-arch": field(16, "<H", 183, ("foreign-arch", 16, ())),
    "foreign-revision": field(24, "<H", 3, ("foreign-revision", 24, ())),
    "unknown-flags": field(64, "<Q", 0x10, ("unknown-flags", 64, ())),
    "pre-patch-image": field(351, "<I", 16, ("pre-patch-image", 351, ())),
    "no-pids": Bad(an_image([], [ROOT]), [("no-pids", 355, ())]),
    "pids-buffer-length": field(359, "<I", 0, ("pids-buffer-length", 375, ())),
    "pids-count": Bad(
        patched(patched(GOLDEN, 355, "<I", 4), 359, "<I", 3),
        [("pids-count", 355, ())],
    ),
    "pid-past-end": field(415, "<I", 1, ("pid-past-end", 415, ())),
    "pid-depth": Bad(
        an_image([(1,), tuple(range(2, 36))], [ROOT, (2, 1, 2, 2, 2, 33)]),
        [("pid-depth", 387, ())],
    ),
    "pid-number": field(391, "<i", 4194304, ("pid-number", 387, (2,))),
    "init-number": Bad(
        patched(an_image([(2,), (5, 1, 7)], [(1, 0, 1, 1, 1, 0)]), 64, "<Q", 1), [("init-number", 387, (2,))]
    ),
    "duplicate-number": field(391, "<i", 9, ("duplicate-number", 395, (2, 3))),
    "offset": field(363, "<I", 2, ("offset", 363, (1,))),
    "tag-overflow": Bad(
        an_image([(1,), (2,)], [(2**31 - 1, 0, 2**31 - 1, 2**31 - 1, 2**31 - 1, 0)], 2**31 - 2),
        [("tag-overflow", 379, ())],
    ),
    "no-tasks": Bad(an_image([(1,)], []), [("no-tasks", 395, ())]),
    "tasks-buffer-length": field(431, "<I", 3, ("tasks-buffer-length", 443, ())),
    "root-tag": tree([(1,), (2,)], [(0, 0, 1, 1, 1, 0)], "root-tag", 0, "pid", (0,)),
    "native-tag": tree([(1,), (2,)], [ROOT, (0, 1, 2, 1, 1, 0)], "native-tag", 1, "pid", (0,)),
    "tag-range": field(475, "<i", 6, ("tag-range", 475, (2,))),
    "duplicate-task": tree(
        [(1,), (2,)], [ROOT, (2, 1, 2, 1, 1, 0), (2, 1, 2, 1, 1, 0)], "duplicate-task", 2, "pid", (2,)
    ),
    "task-depth": field(515, "<I", 2**32 - 1, ("task-depth", 515, (4,))),
    "root-parent": field(451, "<i", 2, ("root-parent", 451, (1,))),
    "parent-outside": field(475, "<i", 0, ("parent-outside", 475, (2,))),
    "parent-without-task": field(475, "<i", 3, ("parent-without-task", 475, (2, 3))),
    "parent-cycle": field(475, "<i", 2, ("parent-cycle", 475, (2, 2))),
    "parent-order": field(475, "<i", 5, ("parent-order", 475, (2, 5))),
    "leader-elsewhere": tree(
        [(1,), (2,), (3,)],
        [ROOT, (2, 1, 1, 1, 1, 0), (3, 1, 2, 1, 1, 0)],
        "leader-elsewhere",
        2,
        "tgid",
        (3, 2),
    ),
    "thread-group": field(531, "<i", 1, ("thread-group", 531, (5, 2))),
    "leader-without-task": tree(
        [(1,), (2,), (3,)], [ROOT, (2, 1, 3, 1, 1, 0)], "leader-without-task", 1, "tgid", (2, 3)
    ),
    "session-leader-group": tree(
        [(1,), (2,), (3,)], [ROOT, (2, 1, 2, 3, 2, 0)], "session-leader-group", 1, "pgid", (2, 3)
    ),
    "owner-is-thread": tree(
        [(1,), (2,), (3,)], [ROOT, (2, 1, 1, 1, 1, 0), (3, 1, 3, 2, 1, 0)], "owner-is-thread", 2, "pgid", (3, 2)
    ),
    "session-owner": tree(
        [(1,), (2,), (3,)], [ROOT, (2, 1, 2, 2, 1, 0), (3, 2, 3, 3, 2, 0)], "session-owner", 2, "sid", (3, 2)
    ),
    "group-sessions": tree(
        [(1,), (2,), (3,), (4,), (9,)],
        [ROOT, (2, 1, 2, 2, 2, 0), (3, 1, 3, 5, 1, 0), (4, 1, 4, 5, 2, 0)],
        "group-sessions",
        3,
        "pgid",
        (4, 5),
    ),
    "inherited-session": tree([(1,), (2,)], [ROOT, (2, 1, 2, 2, -4097, 0)], "inherited-session", 1, "sid", (2,)),
    "outside-id": tree([(1,), (2,)], [(1, 0, 1, 0, 0, 0), (2, 1, 2, 2, 0, 0)], "outside-id", 0, "pgid", (1, 2)),
    "exited-parent": Bad(
        ended(a_task(2, 1, state=TaskState.ZOMBIE, exit_code=0), a_task(3, 2)),
        [("exited-parent", 379 + 24 + 24 + 48 + 4, (3, 2))],
    ),
    "zombie-leader": Bad(
        (image := ended(a_task(2, 1, state=TaskState.ZOMBIE, exit_code=0), a_task(3, 1, tgid=2))),
        [("zombie-leader", payload_at(image), (2,))],
    ),
    "dead-leader": Bad(
        (image := ended(a_task(2, 1, state=TaskState.DEAD_LEADER, exit_code=0))),
        [("dead-leader", payload_at(image), (2,))],
    ),
    "exit-code": Bad(
        (image := ended(a_task(2, 1, state=TaskState.STOPPED, exit_code=9))), [("exit-code", payload_at(image), (2,))]
    ),
    "exit-code-unknown": Bad(
        (image := ended(a_task(2, 1, state=TaskState.ZOMBIE), a_task(3, 1, state=TaskState.ZOMBIE))),
        [("exit-code-unknown", payload_at(image), (2, 3))],
    ),
    "shared-memory": Bad(
        (image := ended(a_task(2, 1, shares=Shares(vm=1)), a_task(3, 1, tgid=2, shares=Shares(vm=2)))),
        [("shared-memory", payload_at(image), (3, 2))],
    ),
    "incomplete": Bad(
        (image := checkpoint.dumps(a_snapshot(completeness=Completeness("no", reasons=("read task by task",))))),
        [("incomplete", payload_at(image), ())],
    ),
    "workers-left-out": Bad(
        (image := checkpoint.dumps(a_snapshot(completeness=Completeness("sweep", kernel_threads_left_out=2)))),
        [("workers-left-out", payload_at(image), ())],
    ),
    "container-root": field(383, "<i", 2, ("container-root", 379, (1,))),
    "root-depth": Bad(an_image([(4, 1)], [(1, 0, 1, 1, 1, 1)]), [("root-depth", 379, (1,))]),
    "nesting-parent": Bad(
        an_image([(1,), (5, 1), (6,)], [ROOT, (2, 1, 2, 2, 2, 1), (3, 2, 3, 3, 2, 0)]),
        [("nesting-parent", 379 + 28 + 24 + 48 + 20, (3, 2))],
    ),
    "nesting-depth": Bad(
        an_image([(1,), (5, 2, 1), (6, 1)], [ROOT, (2, 1, 2, 2, 2, 2), (3, 1, 3, 3, 3, 1)]),
        [("nesting-depth", 379 + 36 + 24 + 24 + 20, (2, 1))],
    ),
    "namespace-without-init": tree(
        [(1,), (5, 2)], [ROOT, (2, 1, 2, 2, 2, 1)], "namespace-without-init", 1, "depth", (2,)
    ),
    "namespace-level": Bad(
        (image := a_container(spaces=[(1, 0), (3, 0)])), [("namespace-level", payload_at(image), ())]
    ),
    "namespace-fit": Bad(
        (image := a_container(t2=(1, 1), t3=(1, 1))),
        [
            ("namespace-fit", payload_at(image), (2,)),
            ("namespace-fit", payload_at(image), (3,)),
            ("nesting-parent", payload_at(image), (2, 1)),
        ],
    ),
    "extension-length": extended(a_record(8101, b"1234567"), "extension-length", TAIL_AT + 4),
    "extension-version": extended(an_extension(some_facts(), version=2), "extension-version", TAIL_AT + 8),
    "extension-checksum": extended(bytes(DAMAGED), "extension-checksum", TAIL_AT + 12),
    "extension-payload": extended(an_extension(b"\xc1"), "extension-payload"),
    "extension-field": extended(an_extension(some_facts(boot_id=7)), "extension-field"),
    "extension-base": extended(an_extension(some_facts(pids=[{}] * 4)), "extension-base"),
    "birth-creator": Bad(
        (image := checkpoint.dumps(a_snapshot([(100,), (101,)], [a_task(1, 0, birth=born(2))]))),
        [("birth-creator", payload_at(image), (1, 2))],
    ),
    "document": Bad(b'{"format": "ckptree", "version": 2}', [("document", None, ())]),
    "unknown-format": Bad(b"GIF89a", [("unknown-format", 0, ())]),
}
