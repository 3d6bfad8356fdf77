# SPDX-License-Identifier: Apache-2.0
"""``ckptree export`` with a server in the place of the daemon: what it asks for, what it writes, and its exit codes."""

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.protocol import codec
from tests.support.collector import collecting
from tests.support.commandline import ckptree
from tests.support.fakedaemon import a_server
from tests.support.hellos import HELLO

TASK = {"pid": 5, "tid": 5, "numbers": [5], "start_ns": 7, "uid": 0, "gid": 0, "comm": b"make", "time_ns": 9}
EVENTS: list[dict[str, Any]] = [
    {"event": "exec", "order": 1, "old_tid": 5, "exit_signal": 17} | TASK,
    {"event": "arguments", "order": 2, "arguments": b"make\0all\0", "size": 9} | TASK,
    {"event": "death", "order": 3, "exit_code": 0x200, "group_dead": True} | TASK,
]
END: dict[str, Any] = {"event": "end", "order": 9, "time_ns": 9}


def telling(asked: list[dict[str, Any]], *events: dict[str, Any]) -> Callable[[socket.socket], None]:
    """Return a function that serves a subscriber: these events, and the end. It notes the requests."""
    hello = {**HELLO, "features": ["arguments"]}
    answer = {"ok": True, "order": 1, "snapshot": None}

    def serve(connection: socket.socket) -> None:
        decoder = codec.Decoder(1 << 20)
        for reply in (hello, answer):
            while (request := decoder.pop()) is None:
                decoder.push(connection.recv(1 << 16))
            asked.append(request)
            connection.sendall(codec.encode(reply))
        connection.sendall(codec.encode({"events": [*events, END], "next": 10}))

    return serve


def test_documents_are_written_a_line_each(tmp_path: Path) -> None:
    """With --with-argv the arguments of an exec stand in its document; without it they are not asked for."""
    asked: list[dict[str, Any]] = []
    with a_server(tmp_path / "s", telling(asked, *EVENTS), telling(asked, EVENTS[0], EVENTS[2])):
        with_argv = ckptree("export", "ecs", "5", "--with-argv", "--socket", tmp_path / "s")
        without = ckptree("export", "ecs", "5", "--kind", "exec,death", "--socket", tmp_path / "s")
    documents = [json.loads(line) for line in with_argv.stdout.splitlines()]

    assert (with_argv.returncode, without.returncode) == (0, 0), with_argv.stderr
    assert [each["event"]["action"] for each in documents] == ["exec", "end", "root_end"]
    assert [each["process"]["args"] for each in documents[:2]] == [["make", "all"]] * 2
    assert [request.get("arguments") for request in asked if request["verb"] == "subscribe"] == [True, None]
    assert [request.get("kinds") for request in asked if request["verb"] == "subscribe"] == [None, ["exec", "death"]]
    assert b"args" not in without.stdout


@pytest.mark.parametrize("kind", ["loss", "dropped"])
def test_events_that_were_lost_on_the_way_are_exit_code_6(tmp_path: Path, kind: str) -> None:
    """The documents that are there are written, and one of them counts the others."""
    lost = {"event": kind, "order": 2, "count": 3, "time_ns": 9}
    with a_server(tmp_path / "s", telling([], EVENTS[2], lost)):
        ran = ckptree("export", "ecs", "5", "--socket", tmp_path / "s")

    assert ran.returncode == 6
    assert [json.loads(line)["event"]["action"] for line in ran.stdout.splitlines()] == ["end", kind, "root_end"]


def test_records_reach_the_collector_before_the_end(tmp_path: Path) -> None:
    """Nothing is printed."""
    with collecting() as collector, a_server(tmp_path / "s", telling([], *EVENTS)):
        ran = ckptree("export", "otlp", "5", "--endpoint", f"{collector.url}/", "--socket", tmp_path / "s")

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
    assert [name for name, _, _ in collector.records()] == [
        "ckptree.process.exec",
        "ckptree.process.death",
        "ckptree.end",
    ]


def test_a_collector_that_takes_nothing_is_exit_code_6(tmp_path: Path) -> None:
    """The message counts the events, and the reason stands before it."""
    with collecting() as collector, a_server(tmp_path / "s", telling([], *EVENTS)):
        collector.status = 403
        environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        ran = ckptree("export", "otlp", "5", "--socket", tmp_path / "s", env=environment)

    assert ran.returncode == 6
    assert "403" in ran.stderr.decode()
    assert "ckptree: 3 events did not reach the collector, which was slow or away" in ran.stderr.decode()


def test_an_endpoint_is_of_a_collector_alone(tmp_path: Path) -> None:
    """ecs goes to standard output."""
    ran = ckptree("export", "ecs", "--endpoint", "http://127.0.0.1:1", "--socket", tmp_path / "s")

    assert (ran.returncode, ran.stdout) == (2, b"")
    assert "--endpoint is of otlp" in ran.stderr.decode()


def test_without_the_libraries_the_message_names_the_extra(tmp_path: Path) -> None:
    """The exit code is 5: this installation cannot."""
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('none', name='opentelemetry')\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.fspath(tmp_path), *filter(None, sys.path)])}
    ran = ckptree("export", "otlp", "--socket", tmp_path / "s", env=environment)

    assert ran.returncode == 5
    assert (
        "OpenTelemetry's libraries are not installed (opentelemetry): pip install 'ckptree[export]'"
        in ran.stderr.decode()
    )


def test_a_form_that_is_missing_is_asked_for_in_one_line() -> None:
    """With the choices, as a person writes them."""
    ran = ckptree("export")
    assert ran.returncode == 2
    assert ran.stderr.decode().endswith("Error: Missing argument 'FORM'. Choose from: ecs, otlp\n")
