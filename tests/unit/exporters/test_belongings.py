# SPDX-License-Identifier: Apache-2.0
"""Terminals, owners of files and details in documents, and the values that are refused."""

import json
from dataclasses import replace
from typing import Any

import pytest

from agent.errors import FormatError
from agent.model import (
    CKPT_PID_NULL,
    CKPT_PID_ROOT,
    Capabilities,
    FileOwner,
    OutsidePid,
    ProcessDetails,
    ProgramFile,
    Snapshot,
    Surroundings,
    Tag,
    Terminal,
)
from exporters import registry
from exporters.checking.check import check
from exporters.documents import jsonfmt, msgpackfmt
from exporters.drawing import treeview
from exporters.image import checkpoint
from tests.support.builders import a_snapshot, a_task, born

TTY = Terminal(b"pts/3", Tag(2), CKPT_PID_NULL)
DEAD = OutsidePid((90,), (0,))


def at_a_terminal() -> Snapshot:
    """Return a shell with its job in the foreground, and a process whose terminal hung up and whose group has no
    number."""
    owners = (
        FileOwner(3, Tag(2), "pgrp"),
        FileOwner(4, Tag(1), "pid"),
        FileOwner(5, Tag(0), "tid"),
        FileOwner(6, DEAD, "pgrp"),
    )
    tasks = [
        a_task(1, 0, comm=b"sh", birth=born(None), tty=TTY, fown=owners),
        a_task(2, 1, pgid=2, comm=b"vi", birth=born(1, 2), tty=TTY),
        a_task(3, 1, pgid=3, sid=3, birth=born(1, 3), tty=Terminal(None, CKPT_PID_NULL, DEAD), fown=()),
        a_task(4, 1, birth=born(1, 4), tty=Terminal(b"tty\xff\\", CKPT_PID_ROOT, None)),
    ]
    return a_snapshot([(100,), (101,), (102,), (103,)], tasks, as_of_read=("tty", "fown"))


def document() -> Any:
    """Return the document as any JSON reader sees it."""
    return json.loads(jsonfmt.dumps(at_a_terminal()))


def test_they_are_told_as_the_schema_has_them() -> None:
    """A reference is a tag, a special value, or numbers if there is no tag."""
    found = document()

    assert found["as_of_read"] == ["tty", "fown"]
    assert [task["tty"] for task in found["tasks"]] == [
        {"name": "pts/3", "pgrp": 2, "old_pgrp": -4096},
        {"name": "pts/3", "pgrp": 2, "old_pgrp": -4096},
        {"name": None, "pgrp": -4096, "old_pgrp": {"numbers": [90], "namespaces": [0]}},
        {"name": "tty\\xff\\\\", "pgrp": -4097, "old_pgrp": None},
    ]
    assert [task["fown"] for task in found["tasks"]] == [
        [
            {"fd": 3, "pid": 2, "type": "pgrp"},
            {"fd": 4, "pid": 1, "type": "pid"},
            {"fd": 5, "pid": 0, "type": "tid"},
            {"fd": 6, "pid": {"numbers": [90], "namespaces": [0]}, "type": "pgrp"},
        ],
        None,
        [],
        None,
    ]


@pytest.mark.parametrize("dialect", ["seed", "v23"])
def test_they_come_back_the_same_through_every_lossless_format(dialect: Any) -> None:
    """This includes bytes that are not UTF-8. The pid objects of the image are those of its tasks."""
    snapshot = replace(at_a_terminal(), dialect=dialect)

    assert checkpoint.loads(checkpoint.dumps(snapshot, dialect)) == snapshot
    assert jsonfmt.loads(jsonfmt.dumps(snapshot)) == snapshot
    assert msgpackfmt.loads(msgpackfmt.dumps(snapshot)) == snapshot
    assert len(snapshot.pids) == 4


@pytest.mark.parametrize(
    ("task", "key", "value", "path", "reason"),
    [
        (0, "tty", [], "tasks[0].tty", "a map"),
        (0, "tty", {"pgrp": 5}, "tasks[0].tty.pgrp", "from -4097 to 4"),
        (0, "tty", {"pgrp": -1}, "tasks[0].tty.pgrp", "a tag from 1 to 4, 0, -4096 or -4097"),
        (0, "tty", {"old_pgrp": {"numbers": [1], "namespaces": [7]}}, "tasks[0].tty.old_pgrp.namespaces", "from -1"),
        (0, "tty", {"name": 7}, "tasks[0].tty.name", "text"),
        (0, "fown", {}, "tasks[0].fown", "a list"),
        (0, "fown", [{"fd": -1, "pid": 1, "type": "pid"}], "tasks[0].fown[0].fd", "from 0"),
        (0, "fown", [{"fd": 1, "pid": None, "type": "pid"}], "tasks[0].fown[0].pid", "not absent"),
        (0, "fown", [{"fd": 1, "pid": 1, "type": "session"}], "tasks[0].fown[0].type", "'tid' or 'pid' or 'pgrp'"),
    ],
    ids=range(9),
)
def test_what_is_none_is_refused_by_its_path(task: int, key: str, value: object, path: str, reason: str) -> None:
    """The reader refuses it, and the checker reports it as an error."""
    changed = document()
    changed["tasks"][task][key] = value
    data = json.dumps(changed).encode()

    with pytest.raises(FormatError) as caught:
        jsonfmt.loads(data)
    assert (caught.value.path, reason in caught.value.message) == (path, True)
    assert [(one.severity, one.path) for one in check(data)] == [("error", path)]


def with_details() -> Snapshot:
    """Return a daemon with few rights, and one with almost no known details."""
    known = ProcessDetails(
        exe=b"/usr/sbin/d\xff",
        uids=(1, 2, 3, 4),
        gids=(5, 6, 7, 8),
        groups=(9, 10),
        caps=Capabilities(0, 2**41 - 1, 1, 2**64 - 1, 0),
        no_new_privs=True,
        umask=0o22,
        execed=True,
    )
    tasks = [a_task(1, 0, details=known), a_task(2, 1, details=ProcessDetails(deleted_exe=b"/tmp/x", groups=()))]
    return a_snapshot([(100,), (101,)], tasks, as_of_read=("argv", "cwd", "env", "details"))


def test_where_a_process_lived_and_which_file_it_ran_come_back_the_same() -> None:
    """Images of earlier versions have them too."""
    lives = Surroundings(b"/", (1, 2), None, 3, 4, own_ids=False, apart=("user",), view="ab", mount_namespace_id=5)
    details = ProcessDetails(
        surroundings=lives, exe_file=ProgramFile(1, 2, 3, -4, -5), argv_uncertain="a", env_uncertain="b", cwd_id=(1, 2)
    )
    old = ProcessDetails(
        surroundings=Surroundings(b"/", (1, 2), 7, 3, 4, own_ids=True, apart=()), exe_file=ProgramFile(1, 2, 3, 4)
    )
    tasks = [a_task(1, 0, details=details), a_task(2, 1, details=old)]
    snapshot = a_snapshot([(100,), (101,)], tasks, as_of_read=("details",))

    assert checkpoint.loads(checkpoint.dumps(snapshot)) == snapshot
    assert jsonfmt.loads(jsonfmt.dumps(snapshot)) == snapshot
    assert msgpackfmt.loads(msgpackfmt.dumps(snapshot)) == snapshot


def test_details_are_told_by_name() -> None:
    """An unknown detail is null; an empty list means no groups."""
    found = json.loads(jsonfmt.dumps(with_details()))["tasks"]

    assert found[0]["details"] == {
        "exe": "/usr/sbin/d\\xff",
        "deleted_exe": None,
        "uids": [1, 2, 3, 4],
        "gids": [5, 6, 7, 8],
        "groups": [9, 10],
        "caps": {"inheritable": 0, "permitted": 2**41 - 1, "effective": 1, "bounding": 2**64 - 1, "ambient": 0},
        "no_new_privs": True,
        "umask": 18,
        "execed": True,
    }
    assert {key for key, value in found[1]["details"].items() if value is not None} == {"deleted_exe", "groups"}


def test_details_come_back_the_same_through_every_lossless_format() -> None:
    """This includes all bits of a capability set."""
    snapshot = with_details()

    assert checkpoint.loads(checkpoint.dumps(snapshot, "seed")) == snapshot
    assert jsonfmt.loads(jsonfmt.dumps(snapshot)) == snapshot
    assert msgpackfmt.loads(msgpackfmt.dumps(snapshot)) == snapshot


@pytest.mark.parametrize(
    ("field", "value", "path", "reason"),
    [
        ("exe", 1, "exe", "text"),
        ("uids", [1, 2, 3], "uids", "real, effective, saved, fs"),
        ("gids", [1, 2, 3, -1], "gids", "from 0"),
        ("groups", "9", "groups", "a list"),
        ("caps", {"inheritable": 0}, "caps.permitted", "absent"),
        ("caps", [], "caps", "a map"),
        ("umask", 0o1000, "umask", "from 0 to 511"),
        ("execed", 1, "execed", "true or false"),
        ("no_new_privs", "no", "no_new_privs", "true or false"),
    ],
    ids=range(9),
)
def test_details_that_are_none_are_refused_by_their_path(field: str, value: object, path: str, reason: str) -> None:
    """The reader refuses them, and so does the checker."""
    changed = json.loads(jsonfmt.dumps(with_details()))
    changed["tasks"][0]["details"][field] = value
    data = json.dumps(changed).encode()

    with pytest.raises(FormatError) as caught:
        jsonfmt.loads(data)
    assert (caught.value.path, reason in caught.value.message) == (f"tasks[0].details.{path}", True)
    assert [(one.severity, one.path) for one in check(data)] == [("error", f"tasks[0].details.{path}")]


def test_a_tree_view_says_which_terminal_and_who_is_in_its_foreground() -> None:
    """The process that opened the terminal has the remark; a child that inherits it has one in the foreground only."""
    lines = treeview.render(at_a_terminal()).splitlines()

    assert [line for line in lines if "sh" in line or "vi" in line] == [
        "100 sh · session leader · on pts/3 · uid 0",
        "├─ 101 vi · group leader · in the foreground",
    ]
    assert any(line.startswith("├─ 102 task-3") and line.endswith("its terminal hung up") for line in lines)


def test_criu_has_no_words_for_them() -> None:
    """A note says so."""
    notes = "\n".join(registry.dump(at_a_terminal(), "criu").notes)

    assert "controlling terminals, owners of files" in notes
    assert "programs, credentials and capabilities" in "\n".join(registry.dump(with_details(), "criu").notes)
