# SPDX-License-Identifier: Apache-2.0
"""Dumps that fail: the programs run on, or their images stay."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli.dumpservice import dumped
from agent.daemon.journal import Journal
from agent.errors import CkptreeError, HostError
from agent.fleet.relaysettings import DumpRule, RelaySettings
from tests.live.dumps import eventually, program, restarted
from tests.support.servers import free_port
from tests.support.suitepackages import SUITE, criu

COUNTS = "i=0; while :; do i=$((i+1)); echo $i > new; mv new count; sleep 0.02; done"


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[int]:
    """Run a program that counts; yield its pid."""
    with program(["/bin/bash", "-c", COUNTS], tmp_path) as pid:
        eventually((tmp_path / "count").exists, "it counts")
        yield pid


def counts_on(folder: Path) -> None:
    """Wait until the program has counted."""
    before = int((folder / "count").read_text())
    eventually(lambda: int((folder / "count").read_text() or 0) > before, "it counts on")


def a_dump(
    pid: int, folder: Path, monkeypatch: pytest.MonkeyPatch, socket: Path, *, end: bool = False, by: str | Path = ""
) -> CkptreeError:
    """Have a program dumped into a store that is away; return the error."""
    kept = folder / "kept"
    kept.mkdir(exist_ok=True)
    monkeypatch.setenv("TMPDIR", str(kept))
    monkeypatch.delenv("CKPTREE_NATS", raising=False)
    rule = DumpRule("ops", (str(pid),), "nats://dumps", end=True, criu=str(by or criu(SUITE)))
    settings = RelaySettings("a", nats=f"nats://127.0.0.1:{free_port()}", socket=socket, dumps=(rule,))
    request: dict[str, Any] = {"requester": "ops", "id": "x", "root": str(pid), "end": end, "left_ns": 10**11}
    with pytest.raises(CkptreeError) as failed:
        dumped({**request, "at_ns": time.time_ns()}, settings, Journal())
    return failed.value


def test_without_a_daemon_nothing_is_dumped(counter: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dump without its tree is none, also where the programs were to end."""
    error = a_dump(counter, tmp_path, monkeypatch, tmp_path / "none", end=True)
    assert "no daemon" in str(error)
    assert "this dump has no tree.ckpt" in str(error)
    counts_on(tmp_path)
    assert os.listdir(tmp_path / "kept") == []


def test_a_host_without_criu_is_named(counter: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left."""
    error = a_dump(counter, tmp_path, monkeypatch, tmp_path / "none", by=tmp_path / "criu")
    assert isinstance(error, HostError)
    assert f"there is no program {tmp_path / 'criu'} here" in str(error)
    assert os.listdir(tmp_path / "kept") == []


def test_a_dump_that_no_store_takes_goes(
    counter: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, daemon_socket: Path
) -> None:
    """The program runs on."""
    error = a_dump(counter, tmp_path, monkeypatch, daemon_socket)
    assert "cannot be reached" in str(error)
    assert "have ended" not in str(error)
    counts_on(tmp_path)
    assert os.listdir(tmp_path / "kept") == []


def test_programs_that_have_ended_are_not_lost_with_their_store(
    counter: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, daemon_socket: Path
) -> None:
    """Their images stay, and are named; no later dump takes them for those of a killed process."""
    error = a_dump(counter, tmp_path, monkeypatch, daemon_socket, end=True)
    found = re.search(r"the programs have ended, and their images stay in (\S+) here", str(error))
    assert found, error
    a_dump(os.getpid(), tmp_path, monkeypatch, tmp_path / "none", by=tmp_path / "criu")
    os.waitpid(counter, 0)
    with restarted(Path(found[1])):
        counts_on(tmp_path)


def test_a_service_that_is_stopped_finishes_its_dump(
    counter: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script in the place of CRIU stops it, and then fails."""
    stops = tmp_path / "stops"
    stops.write_text("#!/bin/sh\nkill -TERM $PPID\nsleep 0.2\necho Error: done >&2\nexit 1\n")
    stops.chmod(0o700)
    error = a_dump(counter, tmp_path, monkeypatch, tmp_path / "none", by=stops)
    assert "Error: done" in str(error)
    assert os.listdir(tmp_path / "kept") == []
