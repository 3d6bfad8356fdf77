# SPDX-License-Identifier: Apache-2.0
"""Arguments and environment as a daemon saw them at exec, compared with those that the process shows now."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.protocol.client import Client
from agent.table.areas import HASHED_BYTES
from tests.live.daemons import Daemon, a_daemon, ckptree
from tests.support.ready import running

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
    """Compile the program that rewrites its arguments."""
    folder = tmp_path_factory.mktemp("rewrite")
    (folder / "rewrite.c").write_text(REWRITE)
    subprocess.run(["gcc", "-w", "-o", folder / "rewrite", folder / "rewrite.c"], check=True)
    return folder / "rewrite"


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One that keeps hashes alone."""
    with a_daemon(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


def told(daemon: Daemon, pid: int) -> tuple[dict[str, Any], str]:
    """The root's row, and what was said."""
    ran = ckptree("snapshot", str(pid), "--with-argv", "--socket", daemon.socket, "-f", "json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)["tasks"][0], ran.err


def test_a_title_without_a_mark_is_missed_by_the_hash(program: Path, forgetful: Daemon) -> None:
    """The environment is what it was."""
    with running(program, "rewrite") as pid:
        row, said = told(forgetful, pid)

    assert (row["argv"], row["env"]) == (None, ["A=1", "B=2"])
    assert row["details"]["argv_unknown"] == "it has been written over since exec"
    assert f"{pid} (rewrite): its arguments: not known: it has been written over since exec" in said


def test_a_daemon_that_keeps_them_gives_the_arguments_back(program: Path, tmp_path: Path) -> None:
    """Off unless it is asked for; a child that only forked has its creator's."""
    with a_daemon(tmp_path, "--keep-arguments", "true") as daemon, running(program, "rewrite") as pid:
        row, said = told(daemon, pid)

    assert (row["argv"], row["env"], said) == ([str(program), "rewrite"], ["A=1", "B=2"], "")


def test_nobody_else_is_thought_to_have_written_over_anything(program: Path, forgetful: Daemon) -> None:
    """Long ones, empty ones, scripts, and interpreters."""
    cases = (
        [program, "", ""],
        [program, "x" * 5000, *["word"] * 600],
        [sys.executable, "-c", "import time; print('.', flush=True); time.sleep(100)"],
        ["sh", "-c", "echo; while :; do read x; done"],
    )
    for words in cases:
        with running(*words) as pid:
            row, said = told(forgetful, pid)
        assert (row["argv"], row["env"], said) == ([str(word) for word in words], ["A=1", "B=2"], "")


def test_what_is_behind_the_bytes_that_are_hashed_is_said_not_to_be_certain(program: Path, forgetful: Daemon) -> None:
    """It is told all the same, for most processes leave it alone."""
    words = [str(program), "x" * HASHED_BYTES, "rewrite"]
    with running(*words) as pid:
        row, said = told(forgetful, pid)

    doubt = f"what is behind its first {HASHED_BYTES} bytes may have been written over since exec"
    assert (row["argv"], row["details"]["argv_uncertain"]) == (words, doubt)
    assert "env_uncertain" not in row["details"]
    assert f"{pid} (rewrite): its arguments: {doubt}" in said


def same(client: Client, pid: int, arguments: bytes, environment: bytes) -> "list[tuple[int, bool | None, object]]":
    """Size, verdict and text of each area."""
    start_ns = json.loads(client.snapshot(str(pid), fmt="json").data)["tasks"][0]["start_ns"]
    areas = client.strings(pid, start_ns, arguments, environment)
    return [(area.size, area.same, area.text) for area in areas if area is not None]


def test_the_hash_is_the_one_that_python_takes(program: Path, forgetful: Daemon) -> None:
    """Of every length up to the most that is hashed, and of longer ones; no answer has the text."""
    lengths = [*range(1, 20), 4070, 4096, 5000, *range(HASHED_BYTES - 70, HASHED_BYTES + 70, 13), 12_000]
    for length in lengths:
        with running(program, "y" * length) as pid, Client(forgetful.socket) as client:
            shown = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
            assert same(client, pid, shown[0], shown[1]) == [(len(data), True, None) for data in shown]
            other = shown[0][:30] + b"z" + shown[0][31:]
            assert same(client, pid, other, shown[1])[0][1] is False


MOVE = r"""
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>
int main(void)
{
	struct prctl_mm_map map = {0};
	char line[8192] = "", *word, *page, *text;
	unsigned long long field[60] = {0};
	FILE *stat = fopen("/proc/self/stat", "r");
	int n = 3;

	fgets(line, sizeof(line), stat);
	fclose(stat);
	for (word = strtok(strrchr(line, ')') + 2, " "); word; word = strtok(0, " "))
		field[n++] = strtoull(word, 0, 10);
	page = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	text = page + 1024;
	memcpy(text, "/bin/echo\0forged\0F=1", 21);
	((uint64_t *)page)[0] = 2;
	((uint64_t *)page)[1] = (uint64_t)text;
	((uint64_t *)page)[2] = (uint64_t)text + 10;
	map.start_code = field[26], map.end_code = field[27], map.start_stack = (uint64_t)page;
	map.start_data = field[45], map.end_data = field[46], map.start_brk = field[47], map.brk = (uint64_t)sbrk(0);
	map.arg_start = (uint64_t)text, map.arg_end = map.env_start = (uint64_t)text + 17, map.env_end = (uint64_t)text + 21;
	map.exe_fd = -1;
	write(1, prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof(map), 0) ? "-" : "+", 1);
	for (;;)
		pause();
}
"""


def test_strings_that_a_process_has_moved_elsewhere_are_not_known(tmp_path: Path, forgetful: Daemon) -> None:
    """prctl(PR_SET_MM_MAP) takes no privilege, and leaves no mark where the stack is moved along with them."""
    (tmp_path / "move.c").write_text(MOVE)
    subprocess.run(["gcc", "-w", "-o", tmp_path / "move", tmp_path / "move.c"], check=True)
    with subprocess.Popen([tmp_path / "move", "real"], stdout=subprocess.PIPE, env={"A": "1"}) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"+"
            assert Path(f"/proc/{process.pid}/cmdline").read_bytes() == b"/bin/echo\0forged\0"
            row, said = told(forgetful, process.pid)
        finally:
            process.kill()

    assert (row["argv"], row["env"]) == (None, None)
    assert "moved by prctl(PR_SET_MM)" in row["details"]["argv_unknown"]
    assert "its environment: not known: it is not where exec had put it" in said


def test_a_snapshot_has_no_strings_and_no_answer_a_hash(program: Path, forgetful: Daemon) -> None:
    """Only the daemon needs a hash, and a client with some hashes could compute the key."""
    with running(program, "a") as pid, Client(forgetful.socket) as client:
        assert os.fsencode(program) not in client.snapshot(str(pid)).data
        answer = client.request("strings", root=pid, start_ns=0)
        assert answer == {"ok": True, "arguments": None, "environment": None}
