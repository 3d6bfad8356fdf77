# SPDX-License-Identifier: Apache-2.0
"""watch, status and metrics against a daemon that runs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.live.daemons import TOP, a_container, ckptree
from tests.support.scraped import families
from tests.support.teletype import on_a_terminal


@contextmanager
def watching(*arguments: str | Path) -> Iterator["subprocess.Popen[bytes]"]:
    """``ckptree watch`` in a pipe; it is gone afterwards."""
    command = [sys.executable, "-m", "agent", "watch", *map(str, arguments)]
    with subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def a_shell() -> Iterator["subprocess.Popen[bytes]"]:
    """One that does what it is told, line by line, in a session of its own."""
    pipe: Any = subprocess.PIPE
    with subprocess.Popen(["sh"], stdin=pipe, stdout=pipe, start_new_session=True) as shell:
        try:
            yield shell
        finally:
            shell.kill()


def do(shell: "subprocess.Popen[bytes]", command: str) -> None:
    """And wait until it is done."""
    assert shell.stdin
    assert shell.stdout
    shell.stdin.write(f"{command}; echo\n".encode())
    shell.stdin.flush()
    shell.stdout.readline()


def until_it_tells(shell: "subprocess.Popen[bytes]", watch: "subprocess.Popen[bytes]") -> bytes:
    """Processes are born until the first is told of: the subscription stands. Returns the line."""
    assert watch.stdout
    os.set_blocking(watch.stdout.fileno(), False)
    while not (line := watch.stdout.readline()):
        assert watch.poll() is None, watch.stderr and watch.stderr.read()
        do(shell, "/bin/true")
    os.set_blocking(watch.stdout.fileno(), True)
    return line


def test_what_happens_below_a_root_is_told_line_by_line_until_it_ends(daemon_socket: Path) -> None:
    """Each line as it happens, though it goes into a pipe; when the root is gone it ends, with 0."""
    with a_shell() as shell, watching(str(shell.pid), "--json", "--socket", daemon_socket) as watch:
        assert watch.stdout
        first = json.loads(until_it_tells(shell, watch))
        do(shell, "setsid -w sh -c 'exit 3'")
        shell.kill()
        shell.wait()  # till then it is a zombie, and there
        events = [first, *map(json.loads, watch.stdout)]

        assert watch.wait(20) == 0
    orders = [event["order"] for event in events]
    told = [(event["event"], event.get("comm")) for event in events]
    assert orders == sorted(orders)
    assert {"birth", "exec", "death"} <= {kind for kind, _ in told}
    assert ("setsid", "setsid") in told
    assert 3 << 8 in [event["exit_code"] for event in events if event["event"] == "death"]
    assert events[-1]["event"] == "end"
    assert {event["pid"] for event in events[:-1]} > {shell.pid}


def test_only_the_kinds_that_were_asked_for_come(daemon_socket: Path) -> None:
    """In words, of all tasks of the host."""
    with a_shell() as shell, watching("--kind", "setsid,setpgid", "--socket", daemon_socket) as watch:
        assert watch.stdout
        os.set_blocking(watch.stdout.fileno(), False)
        while not (line := watch.stdout.readline()):
            do(shell, "setsid true")
        kinds = {line.split()[2]}

    assert kinds <= {b"setsid", b"setpgid"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_it_ends_by_a_signal_without_a_word(daemon_socket: Path, number: int, code: int) -> None:
    """In the middle of what it tells."""
    with a_shell() as shell, watching(str(shell.pid), "--socket", daemon_socket) as watch:
        until_it_tells(shell, watch)
        watch.send_signal(number)
        _, said = watch.communicate(timeout=20)

    assert (watch.returncode, said) == (code, b"")


@pytest.mark.parametrize("goes_on", [True, False])
def test_it_ends_when_nobody_reads_any_more(daemon_socket: Path, *, goes_on: bool) -> None:
    """``ckptree watch | head``; also where nothing happens that it could try to write."""
    with a_shell() as shell, watching(str(shell.pid), "--socket", daemon_socket) as watch:
        assert watch.stdout
        assert watch.stderr
        until_it_tells(shell, watch)
        watch.stdout.close()
        while goes_on and watch.poll() is None:
            do(shell, "/bin/true")

        assert watch.wait(20) == -signal.SIGPIPE
        assert watch.stderr.read() == b""


def test_a_root_in_a_container_is_watched_from_outside(daemon_socket: Path, tmp_path: Path) -> None:
    """Numbers are those that the client sees, from its own namespace inward."""
    script = tmp_path / "script"
    script.write_text("while :; do sleep 0.05; done")
    with (
        a_container("sh", os.fspath(script)) as init,
        watching(str(init), "--json", "--kind", "birth", "--socket", daemon_socket) as watch,
    ):
        assert watch.stdout
        event = json.loads(watch.stdout.readline())

    assert (event["event"], event["parent"], len(event["numbers"])) == ("birth", init, 2)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--kind", "exit"), 2, "expected some of birth, exec, death"),
        (("--kind", ","), 2, "expected some of"),
        (("nobody",), 2, "expected a pid"),
        ((str(2**22 + 1),), 4, "no such process"),
    ],
)
def test_what_cannot_be_watched_is_said(daemon_socket: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    """With the usual exit codes."""
    ran = ckptree("watch", *arguments, "--socket", daemon_socket)

    assert (ran.code, ran.out) == (code, b"")
    assert said in ran.err


def test_status_is_for_people_and_for_programs(daemon_socket: Path) -> None:
    """The same figures."""
    words = ckptree("status", "--socket", daemon_socket).out.decode()
    document = json.loads(ckptree("status", "--json", "--socket", daemon_socket).out)
    lines = dict(
        line.split(maxsplit=1) for line in words.splitlines() if not line.startswith(("hook", "tried", "kernel"))
    )

    assert {"pid", "tasks", "records", "lost", "uptime_s"} <= lines.keys() <= document.keys()
    assert int(lines["pid"]) == document["pid"]
    assert len([line for line in words.splitlines() if line.startswith("hook ")]) == len(document["hooks"])


def leaves(figures: Any) -> int:
    """Return the count of numbers in a document; a bucket of a histogram is one."""
    if isinstance(figures, dict):
        return sum(map(leaves, figures.values()))
    if isinstance(figures, list):
        return len(figures)
    return int(isinstance(figures, (int, float)))


def test_every_figure_of_the_daemon_is_exposed(daemon_socket: Path) -> None:
    """A new one has to be given a name there."""
    figures = json.loads(ckptree("metrics", "--json", "--socket", daemon_socket).out)
    exposed = families(ckptree("metrics", "--socket", daemon_socket).out.decode())
    hooks = sum(len(used) or 1 for used in figures.pop("hooks").values())
    histograms = sum(family.type == "histogram" for family in exposed)

    assert sum(len(family.samples) for family in exposed) == leaves(figures) + hooks + histograms + len(["version"])


def test_metrics_are_those_of_the_daemon(daemon_socket: Path) -> None:
    """A parser of others takes them; and a snapshot is counted."""

    def snapshots() -> float:
        ran = ckptree("metrics", "--socket", daemon_socket)
        assert ran.code == 0, ran.err
        found = {family.name: family for family in families(ran.out.decode())}
        assert found["ckptree_ring_bytes"].samples[0].value == 4 << 20
        return float(found["ckptree_snapshots"].samples[0].value)

    before = snapshots()
    ckptree("snapshot", str(os.getpid()), "--no-plan", "--json", "--socket", daemon_socket)

    assert snapshots() == before + 1
    assert json.loads(ckptree("metrics", "--json", "--socket", daemon_socket).out)["snapshots"] == before + 1


def test_a_tree_on_a_terminal_follows_the_daemons_events_until_its_root_is_gone(daemon_socket: Path) -> None:
    """Exit code 4, as for a root that never was."""
    with a_shell() as shell, on_a_terminal("tree", str(shell.pid), "--socket", str(daemon_socket)) as teletype:
        teletype.see(rf"{shell.pid} sh")
        for number in (2, 3):
            do(shell, "sleep 100 & :")
            teletype.see(rf"{number} processes")
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()

        assert teletype.end() == 4
