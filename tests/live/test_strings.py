# SPDX-License-Identifier: Apache-2.0
"""What a program was started with, as a daemon saw it: compared with what its process shows now, or given back."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.arguments import area_of, string_hash
from agent.client import Client
from tests.live.daemons import Daemon, a_daemon, ckptree

pytestmark = pytest.mark.live

# Another title of the same length, with a NUL wherever there was one: nothing but the hash can tell.
REWRITE = """
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "rewrite"))
		memset(argv[0], 'x', strlen(argv[0]));
	write(1, "", 1);
	for (;;)
		pause();
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That program."""
    folder = tmp_path_factory.mktemp("rewrite")
    (folder / "rewrite.c").write_text(REWRITE)
    subprocess.run(["gcc", "-w", "-o", folder / "rewrite", folder / "rewrite.c"], check=True)
    return folder / "rewrite"


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One that keeps hashes alone."""
    with a_daemon(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


@contextmanager
def running(*words: str | Path) -> Iterator[int]:
    """A program that has said that it is ready; its pid."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, env={"A": "1"}) as process:
        try:
            assert process.stdout is not None
            process.stdout.read(1)
            yield process.pid
        finally:
            process.kill()


def told(daemon: Daemon, pid: int) -> tuple[dict[str, Any], str]:
    """The root's row, and what was said."""
    ran = ckptree("snapshot", str(pid), "--with-argv", "--socket", daemon.socket, "-f", "json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)["tasks"][0], ran.err


def test_a_title_without_a_mark_is_missed_by_the_hash(program: Path, forgetful: Daemon) -> None:
    """The environment is what it was."""
    with running(program, "rewrite") as pid:
        row, said = told(forgetful, pid)

    assert (row["argv"], row["env"]) == (None, ["A=1"])
    assert row["details"]["argv_unknown"] == "it has been written over since exec"
    assert f"{pid} (rewrite): its arguments: not known: it has been written over since exec" in said


def test_a_daemon_that_keeps_them_gives_the_arguments_back(program: Path, tmp_path: Path) -> None:
    """Off unless it is asked for; a child that only forked has its creator's."""
    with a_daemon(tmp_path, "--keep-arguments", "true") as daemon, running(program, "rewrite") as pid:
        row, said = told(daemon, pid)

    assert (row["argv"], row["env"], said) == ([str(program), "rewrite"], ["A=1"], "")


def test_nobody_else_is_thought_to_have_written_over_anything(program: Path, forgetful: Daemon) -> None:
    """Long ones, empty ones, scripts, and interpreters."""
    cases = (
        [program, "", ""],
        [program, "x" * 5000, *["word"] * 2000],
        [sys.executable, "-c", "import time; print('.', flush=True); time.sleep(100)"],
        ["sh", "-c", "echo; while :; do read x; done"],
    )
    for words in cases:
        with running(*words) as pid:
            row, said = told(forgetful, pid)
        assert (row["argv"], row["env"], said) == ([str(word) for word in words], ["A=1"], "")


def test_the_hash_is_the_one_that_python_takes(program: Path, forgetful: Daemon) -> None:
    """Of every length up to the most that is hashed, and of longer ones; the text is nobody's business."""
    lengths = [*range(1, 20), 4070, 4090, 4096, 5000]
    for length in lengths:
        with running(program, "y" * length) as pid, Client(forgetful.socket) as client:
            (areas,) = client.snapshot(str(pid), strings=True).strings.values()
            cmdline, environ = (Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
        for area, data in zip(map(area_of, areas), (cmdline, environ), strict=True):
            assert area is not None
            assert (area.size, area.hash, area.text) == (len(data), string_hash(data), None)


def test_who_does_not_ask_is_not_told(program: Path, forgetful: Daemon) -> None:
    """An ordinary snapshot carries none of it."""
    with running(program, "a") as pid, Client(forgetful.socket) as client:
        assert client.snapshot(str(pid)).strings == {}
        assert os.fsencode(program) not in client.snapshot(str(pid)).data
