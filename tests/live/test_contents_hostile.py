# SPDX-License-Identifier: Apache-2.0
"""Dumps in which a few fields were changed at random: each is refused, fails or runs, and nothing of it is left.

CKPTREE_SEEDS=200 tries that many. Descriptions of open files are left alone: those name files of this host.
"""

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.restart.contents.resumer import PROGRAM as RESUMER
from agent.restart.rebuild.coordinator import HELPER
from tests.fuzz.imagechanges import Changer, Dump
from tests.live.dumps import dump, eventually, program, restarting
from tests.live.guardprocesses import running

SEEDS = int(os.environ.get("CKPTREE_SEEDS", "8"))
CHANGED = ("core-", "mm-", "pagemap-", "pstree", "ids-", "fs-", "fdinfo-", "inventory", "seccomp")
CODES = (7, 8, 125)
FAMILY = """
import os, threading, time
if os.fork():
    open("ready", "w").close()
else:
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
time.sleep(1000)
"""
_FIRST_S, _MOST_S = 1.0, 20.0
_MESSAGES = 1 << 20
"""Bytes of messages, at most."""


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory, daemon_socket: Path) -> tuple[Path, Path]:
    """Dump two processes; return the images and their program, a copy of Python's."""
    folder = tmp_path_factory.mktemp("hostile")
    python = folder / "python"
    python.write_bytes(Path(sys.executable).resolve().read_bytes())
    python.chmod(0o755)
    with program([python, "-c", FAMILY], folder, env={**os.environ, "PYTHONHOME": sys.base_prefix}) as pid:
        eventually((folder / "ready").exists, f"it is ready: {(folder / 'out').read_text()}")
        return dump(pid, folder / "images", daemon_socket), python


def ended(images: Path) -> tuple[int | None, str]:
    """Restart, and return the exit code and the messages; None if it runs on, for it is then killed."""
    process = restarting(images)
    assert process.stdout is not None
    assert process.stderr is not None
    fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, _MESSAGES)  # it is read when the first line of the other is there
    runs = bool(process.stdout.readline())
    try:
        _, said = process.communicate(timeout=_FIRST_S if runs else _MOST_S)
    except subprocess.TimeoutExpired:
        assert runs, "it neither fails nor runs"
        process.kill()
        process.communicate()
        return None, ""
    return process.returncode, said


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_changed_dump_ends_in_a_message_or_runs(seed: int, dumped: tuple[Path, Path], tmp_path: Path) -> None:
    """A program with changed registers or memory may end in any way, but after the restart."""
    images, python = dumped
    others = running(HELPER, RESUMER, python)
    copy = tmp_path / "images"
    shutil.copytree(images, copy)
    os.truncate(images.with_name("out"), 0)
    chance = random.Random(seed)
    files = {path.name: path.read_bytes() for path in copy.iterdir() if path.name.startswith(CHANGED)}
    whole = Dump("family", files, {})
    changer = Changer([whole])
    for name in chance.sample(whole.names, chance.choice((1, 1, 2))):
        (copy / name).write_bytes(changer.file(whole, name, chance))
    code, said = ended(copy)

    assert code is None or code in CODES or code >= 128 or code in (0, 1), said
    assert "Traceback" not in said.partition("ckptree: ")[2]
    assert said or code not in CODES
    assert code != 128 + signal.SIGINT
    eventually(lambda: running(HELPER, RESUMER, python) == others, "nothing is left")
