# SPDX-License-Identifier: Apache-2.0
"""A program that CRIU has dumped goes on from images that went through a store."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.dumps import attempt, dump, eventually, program, restarted
from tests.support import stores
from tests.support.commandline import ckptree

COUNT = "while :; do echo line >> lines; sleep 0.02; done"


@pytest.mark.parametrize("scheme", stores.SCHEMES)
def test_a_program_goes_on_from_a_dump_that_was_in_a_store(scheme: str, tmp_path: Path, daemon_socket: Path) -> None:
    """The first folder is gone by then, so that all comes from the store."""
    with program(["/bin/bash", "-c", COUNT], tmp_path) as pid:
        eventually((tmp_path / "lines").exists, "it writes")
        images = dump(pid, tmp_path / "images", daemon_socket)
    with stores.running(tmp_path / "stores") as there:
        name = f"criu:{there.address(scheme, 'dump')}"
        put = ckptree("convert", f"criu:{images}", name, env=there.environment)
        assert put.returncode == 0, put.stderr.decode()
        shutil.rmtree(images)
        got = ckptree("convert", name, f"criu:{tmp_path / 'back'}", env=there.environment)
        assert got.returncode == 0, got.stderr.decode()
    before = (tmp_path / "lines").stat().st_size
    with restarted(tmp_path / "back"):
        eventually(lambda: (tmp_path / "lines").stat().st_size > before, "it writes on")


@pytest.mark.parametrize("scheme", stores.SCHEMES)
def test_a_program_goes_on_from_a_dump_that_lies_in_a_store(scheme: str, tmp_path: Path) -> None:
    """Fetched files are gone as soon as the program runs, while its restart stays. No daemon is asked here."""
    kept = tmp_path / "kept"
    kept.mkdir()
    with program(["/bin/bash", "-c", COUNT], tmp_path) as pid:
        eventually((tmp_path / "lines").exists, "it writes")
        dumped = attempt(pid, tmp_path / "images")
        assert dumped.code == 0, dumped.log
    with stores.running(tmp_path / "stores") as there:
        name = there.address(scheme, "dump")
        assert ckptree("convert", f"criu:{dumped.folder}", f"criu:{name}", env=there.environment).returncode == 0
        shutil.rmtree(dumped.folder)
        environment = {**there.environment, "TMPDIR": str(kept)}
        planned = ckptree("plan", f"criu:{name}", "--json", env=environment)
        assert planned.returncode == 0, planned.stderr.decode()
        assert json.loads(planned.stdout)["contents"] == []
        assert os.listdir(kept) == []
        before = (tmp_path / "lines").stat().st_size
        with restarted(name, env=environment):
            eventually(lambda: (tmp_path / "lines").stat().st_size > before, "it writes on")
            eventually(lambda: os.listdir(kept) == [], "nothing of the folder is left")


def test_a_restart_that_is_ended_while_it_fetches_leaves_nothing(tmp_path: Path) -> None:
    """A server that accepts and never answers keeps it waiting."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"nats://127.0.0.1:{listener.getsockname()[1]}"
        words = [sys.executable, "-m", "agent", "restart", "criu:nats://trees/x", "--nats", url]
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE) as process:
            listener.settimeout(30)
            connection, _ = listener.accept()
            with connection:
                assert len(os.listdir(tmp_path)) == 1
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 128 + signal.SIGTERM
                assert os.listdir(tmp_path) == []
