# SPDX-License-Identifier: Apache-2.0
"""``ckptree export`` of the events of a real daemon: to a collector, and as documents."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from agent.protocol.client import Client
from tests.live.daemons import PATIENCE_S, TOP
from tests.support.collector import collecting

# It begins once both programs follow it, for which it waits.
SCRIPT = "read begin; ls / >/dev/null; (exit 3); kill -9 $$"


def test_the_life_of_a_tree_reaches_a_collector_and_a_file(daemon_socket: Path) -> None:
    """Both have each birth, exec and death, in order, with arguments and exit codes."""
    with (
        collecting() as collector,
        subprocess.Popen(["sh", "-c", SCRIPT], stdin=subprocess.PIPE) as shell,
        ExitStack() as stack,
    ):
        stack.callback(shell.kill)
        words = [sys.executable, "-m", "agent", "export"]
        options = [str(shell.pid), "--with-argv", "--socket", str(daemon_socket)]
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        ecs, otlp = (
            stack.enter_context(
                subprocess.Popen([*words, form, *options], cwd=TOP, stdout=subprocess.PIPE, env=environment)
            )
            for form in ("ecs", "otlp")
        )
        _until_followed(daemon_socket, 2)
        assert shell.stdin is not None
        shell.stdin.write(b"\n")
        shell.stdin.close()
        shell.wait(PATIENCE_S)  # the root is gone once it is reaped
        out, _ = ecs.communicate(timeout=PATIENCE_S)
        assert otlp.wait(PATIENCE_S) == ecs.returncode == 0
    documents = [json.loads(line) for line in out.splitlines()]
    told = [(each["event"]["action"], each.get("process", {}).get("name")) for each in documents]
    ended = {
        each["process"]["pid"]: each["process"]["exit_code"] for each in documents if "end" in each["event"]["type"]
    }
    records = collector.records()

    assert [step for step in told if step[0] in ("fork", "exec", "end", "root_end")] == [
        ("fork", "sh"),
        ("exec", "ls"),
        ("end", "ls"),
        ("fork", "sh"),
        ("end", "sh"),
        ("end", "sh"),
        ("root_end", None),
    ]
    assert ended[shell.pid] == 137
    assert sorted(ended.values()) == [0, 3, 137]
    assert next(each["process"]["args"] for each in documents if each["event"]["action"] == "exec") == ["ls", "/"]
    orders = [attributes["ckptree.order"] for _, attributes, _ in records]
    assert orders == [each["event"]["sequence"] for each in documents]
    codes = {attributes.get("process.exit.code") for name, attributes, _ in records if name == "ckptree.process.death"}
    assert codes == {0, 3, 137}


def _until_followed(socket: Path, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    with Client(socket) as client:
        while client.metrics()["subscribers"] < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)
