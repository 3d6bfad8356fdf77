# SPDX-License-Identifier: Apache-2.0
"""Trees of services that are captured, killed and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOP = Path(__file__).parents[2]
RIGHTS = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Umask")
PYTHON = "/usr/bin/python3"
# A root that starts daemons, and forks one worker that is no program of its own.
MANAGER = """
import os, subprocess, sys, time
if not os.path.exists(sys.argv[1]):
    open(sys.argv[1], "w").close()
    for words in WORDS:
        subprocess.Popen(words, cwd="/usr", env={"WHO": words[-1], "EMPTY": ""})
    if not os.fork():
        time.sleep(1000)
time.sleep(1000)
"""


def soon(condition: Any) -> bool:
    """Return True if a condition comes true within 10 seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def children(pid: int) -> list[int]:
    """In the order of their births."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def starting(pid: int) -> bool:
    """It is not yet what it is to be."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes()
    return not words or b"setpriv" in words or b"python3" in words  # it has none in the middle of an exec


def seen(pid: int) -> dict[str, Any]:
    """Return rights, arguments, environment, folder and program of a process, from /proc."""
    there = Path(f"/proc/{pid}")
    lines = dict(line.split(":", 1) for line in (there / "status").read_text().splitlines())
    return {
        **{name: lines[name].split() for name in RIGHTS},
        **{name: (there / name).read_bytes() for name in ("cmdline", "environ")},
        **{name: os.readlink(there / name) for name in ("cwd", "exe")},
    }


def ckptree(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    """To its end."""
    command = [sys.executable, "-m", "agent", *(os.fspath(word) for word in words)]
    return subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False, timeout=60)


@contextmanager
def services(folder: Path, daemons: "tuple[list[str], ...]") -> Iterator[int]:
    """The tree, under its root, a session of its own."""
    source = MANAGER.replace("WORDS", repr(daemons))
    command = ["sh", "-c", 'umask 027; exec "$@"', "sh", PYTHON, "-c", source, os.fspath(folder / "begun")]
    process = subprocess.Popen(command, cwd="/", start_new_session=True, env={"PATH": os.environ["PATH"]})
    try:
        assert soon(lambda: len(children(process.pid)) == len(daemons) + 1)
        pids = children(process.pid)[: len(daemons)]
        assert soon(lambda: not any(starting(pid) for pid in pids))
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def captured(folder: Path, root: int) -> Path:
    """With what it takes to start it again."""
    image = folder / "tree.ckpt"
    done = ckptree("snapshot", str(root), "-o", image, "--with-argv", "--source", "bpf")
    assert done.returncode == 0, done.stderr
    return image


@contextmanager
def restarted(image: Path, *words: str, stdin: int = subprocess.DEVNULL) -> "Iterator[dict[int, int]]":
    """A tree that stands: the pid of each task by its tag."""
    command = [sys.executable, "-m", "agent", "restart", os.fspath(image), "--json", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=TOP, stdin=stdin, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield {task["tag"]: task["pid"] for task in json.loads(line)["tasks"]}
        finally:
            process.terminate()
            time.sleep(0.1)
            process.terminate()
