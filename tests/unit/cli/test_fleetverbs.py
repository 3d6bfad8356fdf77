# SPDX-License-Identifier: Apache-2.0
"""The verbs of many hosts: wrong usage, a server that is away, and the ranks of a job."""

import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli import setverbs
from exporters import registry
from tests.support.commandline import here
from tests.support.servers import free_port

IMAGE = Path(__file__).parents[3] / "docs" / "example" / "web.ckpt"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "name the hosts that are expected"),
        ("--hosts a", "name the tree to take there"),
        ("--hosts a,a --root 1", "a is named twice"),
        ("--hosts a --job slurm:7 --root 1", "leave one of them out"),
        ("--hosts a*b --root 1", "host"),
        ("--hosts a --root one", "ROOT 'one'"),
        ("--job 7 --root 1", "expected slurm:JOB"),
        ("--hosts a --root 1 --id x/y", "id"),
        ("--hosts a --root 1 --at #7", "are a host's own"),
        ("--hosts a --root 1 --at -1s --with-argv", "which has no past"),
        ("--hosts a --root 1 --deadline 0", "--deadline"),
        ("--hosts a --root 1 --end", "add --contents"),
        ("--hosts a --root 1 --as ops", "add --contents"),
        ("--hosts a --root 1 --contents --as a.b", "requester"),
        ("--hosts a --root 1 --contents --with-argv", "leave out --with-argv, --at and --mode"),
        ("--hosts a --root 1 --contents --at -1s", "leave out --with-argv, --at and --mode"),
        ("--hosts a --root 1 --contents --mode container", "leave out --with-argv, --at and --mode"),
    ],
)
def test_wrong_usage_is_refused_before_anybody_is_asked(words: str, said: str, tmp_path: Path) -> None:
    """No server listens here."""
    ran = here("fleet", "snapshot", *words.split(), "-o", str(tmp_path / "set"))

    assert ran.returncode == 2
    assert said in ran.stderr.decode()


@pytest.mark.parametrize("verb", ["hosts", "snapshot"])
def test_a_server_that_is_away_is_named(verb: str, tmp_path: Path) -> None:
    """So is a server that is not named at all."""
    more = ["--hosts", "a", "--root", "1", "--deadline", "1", "-o", str(tmp_path / "set")] if verb == "snapshot" else []
    away = f"nats://127.0.0.1:{free_port()}"
    ran = here("fleet", verb, *more, "--nats", away)
    assert (ran.returncode, f"the NATS server {away} cannot be reached" in ran.stderr.decode()) == (1, True)
    assert not (tmp_path / "set").exists()

    ran = here("fleet", verb, *more)
    assert (ran.returncode, "no NATS server is named: --nats URL" in ran.stderr.decode()) == (2, True)


def test_a_store_that_says_nothing_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    """A server takes the connection, and no word comes of it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        words = ["--hosts", "a", "--root", "1", "--deadline", "1", "-o", "nats://sets/x"]
        began_s = time.monotonic()
        ran = here("fleet", "snapshot", *words, "--nats", f"nats://127.0.0.1:{silent.getsockname()[1]}")

    assert ran.returncode == 1
    assert "the store was not reached by the deadline" in ran.stderr.decode()
    assert time.monotonic() - began_s < 4


@pytest.mark.parametrize("verb", ["show", "check", "plan"])
def test_a_file_that_is_no_set_is_refused(verb: str) -> None:
    """An image is none."""
    ran = here("fleet", verb, str(IMAGE))

    assert ran.returncode == 8
    assert "it is no JSON (its bytes are no text), and no set: `ckptree show` reads" in ran.stderr.decode()


def test_a_verb_of_single_images_names_the_verb_for_a_set(tmp_path: Path) -> None:
    """The manifest of a set is JSON with a format of its own."""
    (tmp_path / "set").write_text('{"format": "ckptree-set", "version": 1}')
    ran = here("show", str(tmp_path / "set"))

    assert ran.returncode == 8
    assert "this is a set of images of many hosts: `ckptree fleet show` reads it" in ran.stderr.decode()


def test_a_rank_is_that_of_the_topmost_process_that_has_it() -> None:
    """Processes below it inherit its environment, unless they have another rank."""
    snapshot = registry.load(IMAGE.read_bytes())
    root, *others = snapshot.tasks
    child = next(task for task in others if task.ppid == root.pid)
    below = next((task for task in others if task.ppid == child.pid), None)
    env: dict[int, tuple[bytes, ...]] = {root.pid: (b"PMIX_RANK=3", b"X=1"), child.pid: (b"X=2", b"SLURM_PROCID=12")}
    if below is not None:
        env[below.pid] = (b"SLURM_PROCID=12",)
    tasks = tuple(task._replace(env=env.get(task.pid)) for task in snapshot.tasks)

    found = [(rank, variable, pid) for rank, variable, pid, _ in setverbs.ranks(replace(snapshot, tasks=tasks))]

    assert found == [(3, "PMIX_RANK", snapshot.number(root.pid)), (12, "SLURM_PROCID", snapshot.number(child.pid))]


@pytest.mark.parametrize("value", [b"", b"x", b"-1", b"1" * 20, b"1 ; rm"])
def test_what_is_no_number_is_no_rank(value: bytes) -> None:
    """An environment may hold anything."""
    snapshot = registry.load(IMAGE.read_bytes())
    tasks = tuple(task._replace(env=(b"SLURM_PROCID=" + value, b"nothing")) for task in snapshot.tasks)

    assert list(setverbs.ranks(replace(snapshot, tasks=tasks))) == []
