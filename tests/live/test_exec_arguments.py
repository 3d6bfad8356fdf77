# SPDX-License-Identifier: Apache-2.0
"""The arguments of execs as a watch shows them: of processes that have ended long before, and of no one else's asking."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agent.protocol.client import Client
from tests.live.daemons import Daemon, a_daemon


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One that keeps no strings."""
    with a_daemon(tmp_path_factory.mktemp("daemon")) as made:
        yield made


def execs(watching: "subprocess.Popen[str]", count: int) -> list[dict[str, Any]]:
    """Return the next execs that a watch prints."""
    assert watching.stdout is not None
    return [json.loads(watching.stdout.readline()) for _ in range(count)]


def test_a_watch_shows_what_each_program_was_started_with(daemon: Daemon) -> None:
    """They run for a millisecond, and one of them runs another one."""
    command = [sys.executable, "-m", "agent", "watch", "--json", "--kind", "exec", "--socket", str(daemon.socket)]
    with subprocess.Popen(["sh"], stdin=subprocess.PIPE, text=True) as shell:
        with subprocess.Popen([*command, str(shell.pid)], stdout=subprocess.PIPE, text=True) as watching:
            with Client(daemon.socket) as client:
                while not client.status()["subscribers"]:
                    time.sleep(0.01)
            assert shell.stdin is not None
            shell.stdin.write("/bin/true one 'a b'\nsh -c 'exec true \"$@\"' x y ''\n/bin/true $(seq 2000)\n")
            shell.stdin.flush()
            found = execs(watching, 5)
            watching.terminate()
        shell.stdin.close()

    told = [each["arguments"] for each in found]
    seq, long = found[3:]
    assert told[:3] == [["/bin/true", "one", "a b"], ["sh", "-c", 'exec true "$@"', "x", "y", ""], ["true", "y", ""]]
    assert seq["arguments"] == ["seq", "2000"]
    assert long["arguments"][:3] == ["/bin/true", "1", "2"]
    assert long["arguments_cut"]
    assert not seq["arguments_cut"]


def test_a_daemon_that_keeps_no_strings_has_none_afterwards(daemon: Daemon) -> None:
    """A watch passes them on, and the text is not in the daemon's answers; nor is it told when the watch has gone."""
    with (
        Client(daemon.socket) as listening,
        listening.subscribe(arguments=True, snapshot=False) as events,
        subprocess.Popen(["sleep", "1000"]) as sleeping,
    ):
        told = next(each for each in events if each.kind == "arguments" and each.task and each.task.pid == sleeping.pid)
        assert told.details["arguments"] == b"sleep\0" + b"1000\0"
        assert told.task is not None
        with Client(daemon.socket) as client:
            areas = client.strings(sleeping.pid, told.task.start_ns, b"sleep\0" + b"1000\0", None)
        sleeping.kill()

    assert areas.arguments is not None
    assert (areas.arguments.same, areas.arguments.text) == (True, None)
