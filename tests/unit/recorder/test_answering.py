# SPDX-License-Identifier: Apache-2.0
"""The process that answers questions about the past: bytes in, bytes out, and an end in any case."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest

from agent.recorder.pieces import HEAD
from exporters import registry
from tests.support.taped import a_recording

pytestmark = pytest.mark.slow

ROOT = {"pid": 1, "uid": 0, "gid": 0, "groups": [], "privileged": True, "owner": None}
OTHER = {"pid": 1, "uid": 4711, "gid": 4711, "groups": [], "privileged": False, "owner": None}
_PROGRAM = "import sys; from agent.recorder.answering import main; sys.exit(main(sys.argv[1:]))"
# As systemd's @resources does: limits and priorities are refused.
_FORBIDDEN = "import os, resource\ndef refused(*_): raise PermissionError\nos.nice = resource.setrlimit = refused\n"


def answered(folder: Path, viewer: dict[str, Any], before: str = "", **question: Any) -> list[dict[str, Any]]:
    """Return the messages of an answer; all but the last say that more follow."""
    asked = msgpack.packb({**question, "viewer": viewer, "namespace": 0, "boot_id": ""})
    program = [sys.executable, "-c", before + _PROGRAM, str(folder)]
    ran = subprocess.run(program, input=asked, capture_output=True, check=False, timeout=120)
    assert not ran.stderr, ran.stderr.decode()
    found, data = [], ran.stdout
    while data:
        more, length = HEAD.unpack_from(data)
        found.append(msgpack.unpackb(data[HEAD.size : HEAD.size + length]))
        data = data[HEAD.size + length :]
        assert bool(more) == bool(data)
    return found


@pytest.mark.parametrize("before", ["", _FORBIDDEN])
def test_each_verb_is_answered(tmp_path: Path, before: str) -> None:
    """Also where a service manager forbids limits."""
    truths = a_recording(tmp_path, 3, runs=1)
    order = truths[10].order
    (snapshot,) = answered(
        tmp_path, ROOT, before, verb="snapshot", root="1", mode="subtree", at={"order": order}, outer=True
    )
    assert snapshot["ok"], snapshot
    loaded = registry.load(snapshot["data"])
    assert (len(loaded.tasks), snapshot["order"]) == (snapshot["tasks"], order)
    assert loaded.at is not None
    assert loaded.at.order == order
    *some, last = answered(tmp_path, ROOT, before, verb="events")
    assert last["ok"]
    assert sum(len(each["events"]) for each in (*some, last)) > 100
    (history,) = answered(tmp_path, ROOT, before, verb="history", pid=1)
    assert history["lives"]


def test_errors_are_answers(tmp_path: Path) -> None:
    """With the kind and the exit code that the client raises; behind a loss no number is denied."""
    a_recording(tmp_path, 3, runs=1, losses=0)
    wrong: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (ROOT, {"verb": "snapshot", "root": "1", "at": {"order": 10**9}}, "no-such-time"),
        (ROOT, {"verb": "snapshot", "root": "4000000", "at": {"order": 9}}, "no-such-root"),
        (ROOT, {"verb": "snapshot", "root": "unit:x", "at": {"order": 9}}, "usage"),
        (ROOT, {"verb": "snapshot", "root": "1", "at": 9}, "usage"),
        (ROOT, {"verb": "snapshot", "root": "1", "at": {"order": 9}, "format": "dot"}, "usage"),
        (ROOT, {"verb": "history", "pid": 4000000}, "no-such-root"),
        (OTHER, {"verb": "snapshot", "root": "1", "at": {"order": 9}}, "not-permitted"),
        (OTHER, {"verb": "history", "pid": 1}, "not-permitted"),
    ]
    for viewer, question, kind in wrong:
        (failure,) = answered(tmp_path, viewer, **question)
        assert (failure["ok"], failure["kind"]) == (False, kind), json.dumps(failure)
    (failure,) = answered(tmp_path / "nowhere", ROOT, verb="events")
    assert failure["ok"] is False
