# SPDX-License-Identifier: Apache-2.0
"""The flags, signals, owners, positions and rights of open files: those that no program can have are refused by name."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.restart.contents import fileowners, openfiles
from agent.restart.contents.eventfiles import EventCounters
from agent.restart.contents.filelocks import FileLocks
from agent.restart.contents.hostfacts import HostFacts
from agent.restart.contents.openfiles import PathFiles, Pipes
from agent.restart.contents.refusals import Refused
from agent.restart.contents.treechecks import owners
from exporters.criu.criuschema import messages
from tests.support.filledfiles import OWNER, calls, file_entry, filled

O_PATH = 0o10000000
FILE = {"pos": 0, "name": b"/etc/hostname"}


def rule(entry: Any) -> str:
    """Return the rule by which an open file is refused; empty: it is not."""
    try:
        fileowners.check(entry, "file")
        if entry.type == 1:
            PathFiles().check(entry, frozenset())
    except Refused as refused:
        return refused.refusal[2]
    return ""


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        (6, {"fown": {"signum": 64, "pid": 10, "pid_type": 2}}, ""),
        (6, {"fown": {"signum": 65}}, "signal"),
        (6, {"fown": {"pid": 10, "pid_type": 3}}, "owner"),
        (6, {"fown": {"pid_type": 3}}, ""),
        (6, {"flags": 0o40002}, "flags"),
        (2, {"flags": 0o40001, "pipe_id": 1}, ""),
        (1, {"flags": 1 << 30, **FILE}, "flags"),
        (1, {"flags": 0o27757700, **FILE}, ""),
        (1, {"flags": O_PATH, **FILE}, ""),
        (1, {"flags": O_PATH, **FILE, "pos": 1}, "position"),
        (1, {"flags": O_PATH, **FILE, "fown": {"pid": 10}}, "owner"),
        (1, {"flags": O_PATH, **FILE, "fown": {"signum": 10}}, "owner"),
        (1, {"flags": 0, **FILE, "pos": 1 << 63}, "position"),
        (1, {"flags": 0, **FILE, "pos": (1 << 63) - 1}, ""),
        (1, {"flags": os.O_RDWR, **FILE, "mode": 0o40755}, "flags"),
        (1, {"flags": os.O_RDONLY, **FILE, "mode": 0o40755}, ""),
    ],
)
def test_what_no_open_file_can_have_is_refused_before_anything_is_made(
    kind: int, fields: Mapping[str, Any], expected: str
) -> None:
    """The kernel would refuse it when the tree stands, by a call that says nothing of the image."""
    more = {"counter": 1} if kind == 6 else {}
    given = {**more, **fields, "fown": OWNER | dict(fields.get("fown", {}))}

    assert rule(file_entry(7, kind, **given)) == expected


@pytest.mark.parametrize(
    ("content", "size", "refused"),
    [
        (b"", 0, False),
        (bytes(1 << 16), 0, False),
        (bytes((1 << 16) + 1), 0, True),
        (bytes(1 << 17), 1 << 17, False),
        (b"", (1 << 31) + 1, True),
        (b"", 1 << 31, True),
    ],
)
def test_a_pipe_of_a_size_that_none_has_here_is_refused(content: bytes, size: int, *, refused: bool) -> None:
    """More content than it has room for would never be written."""
    ends = {each: file_entry(each, 2, pipe_id=9, flags=each) for each in (0, 1)}
    kind = Pipes(ends, {9: (content, size)})
    if refused:
        with pytest.raises(Refused, match="bytes"):
            kind.check(ends[0], frozenset())
    else:
        kind.check(ends[0], frozenset())


@pytest.mark.parametrize(
    ("fields", "rules"),
    [
        ({}, []),
        ({"start": -1}, ["range"]),
        ({"len": -1}, []),
        ({"start": (1 << 63) - 1, "len": 1}, ["range"]),
        ({"flag": 2, "start": -1}, []),
    ],
)
def test_a_lock_on_a_range_that_no_file_has_is_refused(fields: Mapping[str, int], rules: list[str]) -> None:
    """Of the locks on ranges alone."""
    entry = messages()["file_lock_entry"](**{"flag": 1, "type": 1, "pid": 10, "fd": 3, "start": 0, "len": 10, **fields})

    assert [each.refusal[2] for each in FileLocks([entry]).faults(10, [3])] == rules


@pytest.mark.parametrize("device", [b"/dev/tty", b"/dev/ptmx"])
def test_a_file_that_is_a_terminal_by_now_is_refused(device: bytes) -> None:
    """A task of the tree has no terminal to open there; CRIU describes terminals by messages of their own."""
    found = [each.refusal[2] for each in openfiles.differences(file_entry(7, 1, pos=0, name=device), build=False)]

    assert found == ["type"]
    assert list(openfiles.differences(file_entry(7, 1, pos=0, name=b"/dev/null"), build=False)) == []


@pytest.mark.parametrize(
    ("flags", "own", "allowed"),
    [(0, False, False), (O_PATH, False, True), (0, True, True)],
    ids=["another's", "its path alone", "the caller's own"],
)
def test_a_file_that_the_caller_may_not_open_is_refused(
    flags: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, own: bool, allowed: bool
) -> None:
    """A user has all rights over its own files in the user namespace that the tree gets."""
    path = tmp_path / "file"
    path.touch()
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    owner = 1000 if own else 4242
    monkeypatch.setattr(os, "stat", lambda _: os.stat_result((0o100600, 1, 1, 1, owner, 1000, 0, 0, 0, 0)))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    entry = file_entry(7, 1, pos=0, name=bytes(path), flags=flags)
    if allowed:
        openfiles.check_access(entry)
    else:
        with pytest.raises(Refused, match="may not open"):
            openfiles.check_access(entry)


def test_a_user_sets_the_owner_of_a_file_under_its_own_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its user namespace has no other ids, not root's either."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    entry = file_entry(7, 6, counter=0, fown={"uid": 1000, "euid": 1000, "signum": 0, "pid_type": 1, "pid": 11})
    (holder,) = filled([entry], {6: EventCounters()}, [((11, 1), [7])])

    assert [each.arguments[1] for each in calls(holder, "fcntl")] == [15]
    assert calls(holder, "setresuid") == []


def test_an_owner_that_a_user_has_set_who_is_not_here_is_refused() -> None:
    """The kernel would refuse to take that user's ids."""
    host = HostFacts("x86_64", frozenset(), uids=(range(1000, 1001),))
    entries = [
        file_entry(each, 6, counter=0, fown=OWNER | {"pid": 11, "uid": user, "euid": 1000})
        for each, user in ((7, 1000), (8, 1001))
    ]
    found = list(owners({int(entry.id): entry for entry in entries}, {7: 11, 8: 11, 9: 11}, host))
    assert [(pid, refused.refusal[:3]) for pid, refused in found] == [(11, ("eventfd", "8", "user"))]
