# SPDX-License-Identifier: Apache-2.0
"""From one daemon to the next: what a restart keeps, what a crash keeps, and what is not taken over."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from agent.capture.probes import Probes
from agent.environment import private_socket
from agent.model import Snapshot
from bpf import syscall
from tests.bench.judge import Capture, Judge
from tests.bench.storm import Storm
from tests.bench.watcher import rows_of
from tests.live.compare import assert_matches
from tests.live.compare import differences as differences_from_oracle
from tests.live.daemons import PATIENCE_S, a_hard_tree, ckptree, differences
from tests.live.expectation import Expectation
from tests.live.manageddaemons import capture, status, unobserved
from tests.live.random_trees import ROOT, begin, random_draws
from tests.live.servicemanager import ServiceManager
from tests.live.tasks import THREAD
from tests.live.treeprog import Tree

_KILLS = int(os.environ.get("CKPTREE_KILLS", "5"))
_SEEDS = int(os.environ.get("CKPTREE_SEEDS", "1"))
_RESTARTS = 3
_ATTEMPTS = 4
_STEPS = 12  # of a tree, between two events in a daemon's life
_RATE = 1500
_MANIFEST, _MEMORY = "ckptree/manifest", "ckptree/memory"
_NO_CAPABILITY = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Callable[..., ServiceManager]]:
    """Makes service managers that are gone afterwards; none of their daemons may have failed."""
    made: list[ServiceManager] = []

    def make(*arguments: str | Path, **options: object) -> ServiceManager:
        manager = ServiceManager(tmp_path, *arguments, **options)  # type: ignore[arg-type]  # as the caller names them
        made.append(manager)
        manager.__enter__()
        return manager

    yield make
    for manager in made:
        manager.__exit__(None, None, None)
        assert "Traceback" not in manager.log.read_text(), manager.log.read_text()


# ---- restarts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(_SEEDS))
def test_a_restart_in_the_middle_of_a_storm_loses_nothing(
    managed: Callable[..., ServiceManager], tmp_path: Path, seed: int
) -> None:
    """Every task born before, between and after has its birth, as the oracle has it; and every capture could be
    true."""
    manager = managed("--config", roomy(tmp_path))
    for _ in range(_ATTEMPTS):
        lost = status(manager)["lost"]
        with Storm(idle=50, rate=_RATE, workers=2) as storm, Tree(strict=False) as tree:
            player = begin(tree, "subtree")
            draws = random_draws(seed, _STEPS * (2 * _RESTARTS + 1))
            for turn in range(2 * _RESTARTS + 1):
                for _ in range(_STEPS):
                    player.play(next(draws))
                if turn == 2 * _RESTARTS:
                    break
                if turn % 2:
                    manager.start()
                else:
                    assert manager.end() == 0
            found = capture(manager, tree.number(ROOT))
            scans = [scanned(manager, storm.root) for _ in range(3)]

            assert manager.complaints() == []
            if found.completeness.lost == lost:
                assert_matches(found, tree, ROOT)
                break
    else:
        pytest.fail(f"events were lost in each of {_ATTEMPTS} attempts: the machine is too busy for this test")
    for snapshot, scan in scans:
        assert not Judge(storm.log).judge(scan).torn
        assert unobserved(snapshot) == set()


def roomy(folder: Path) -> Path:
    """A configuration with a ring that other people's storms do not fill at once."""
    config = folder / "config.toml"
    config.write_text("ring_bytes = 33554432\nsweep_interval_s = 1\n")
    return config


def scanned(manager: ServiceManager, number: int) -> tuple[Snapshot, Capture]:
    """A snapshot, as it is and for the judge."""
    begun = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    found = capture(manager, number)
    return found, Capture(rows_of(found), begun, time.clock_gettime_ns(time.CLOCK_BOOTTIME), closed=True)


def test_a_restart_keeps_the_births_of_a_hard_tree(managed: Callable[..., ServiceManager]) -> None:
    """Threads, zombies, namespaces, dead leaders, ancestors: all as before, and as /proc has them."""
    manager = managed()
    with a_hard_tree() as root:
        before = capture(manager, root)
        manager.restart()
        after = capture(manager, root)

        assert differences(after, root) == []
    assert (after.tasks, after.ancestors, after.pids) == (before.tasks, before.ancestors, before.pids)
    assert unobserved(after) == set()
    assert manager.complaints() == []
    assert "hooks and births taken over" in manager.log.read_text()


def test_a_restart_that_another_one_interrupts_keeps_the_births_too(managed: Callable[..., ServiceManager]) -> None:
    """Told to end at any moment of its start, a daemon leaves what it has got, or has not touched it yet."""
    manager = managed()
    with a_hard_tree() as root:
        assert manager.end() == 0
        for delay_s in (0.0, 0.06, 0.09, 0.12):
            manager.start(wait=False)
            time.sleep(delay_s)
            manager.end()
        manager.start()
        after = capture(manager, root)

    assert manager.complaints() == []
    assert unobserved(after) == set()


def test_what_was_lost_while_nobody_read_is_made_good_and_then_assumed(
    managed: Callable[..., ServiceManager], tmp_path: Path
) -> None:
    """A small ring runs over between two daemons: births before that are kept, those lost are marked."""
    config = tmp_path / "config.toml"
    config.write_text("ring_bytes = 65536\n")
    manager = managed("--config", config)
    sleeper = "import subprocess, sys, time; [subprocess.Popen(['sleep', '60']) for _ in range(20)]; print(flush=True)"
    many = "import subprocess, sys; [subprocess.run(['true']) for _ in range(300)]"
    with subprocess.Popen(
        [sys.executable, "-c", f"{sleeper}; sys.stdin.read(1); {many}; {sleeper}; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as parent:
        assert parent.stdin
        assert parent.stdout
        try:
            parent.stdout.readline()
            before = capture(manager, parent.pid)
            assert manager.end() == 0
            parent.stdin.write(b".")
            parent.stdin.flush()
            parent.stdout.readline()
            manager.start()
            after = capture(manager, parent.pid)

            assert differences(after, parent.pid) == []
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
    old = {before.number(task.pid) for task in before.tasks}
    assert (len(before.tasks), len(after.tasks)) == (21, 41)
    assert unobserved(before) == set()
    assert unobserved(after) == {after.number(task.pid) for task in after.tasks} - old
    assert after.completeness.lost > 0


def test_taking_over_needs_no_capability(managed: Callable[..., ServiceManager]) -> None:
    """Loading would; that nothing had to be loaded is what this shows."""
    manager = managed()
    manager.before = [*_NO_CAPABILITY]
    manager.restart()
    manager.end(signal.SIGKILL)
    manager.start()
    with a_hard_tree() as root:
        found = capture(manager, root)

        assert differences(found, root) == []
    assert unobserved(found) == set()
    assert manager.complaints() == []

    refused = ckptree("daemon", "--socket", manager.socket.with_name("other"), before=_NO_CAPABILITY)
    assert refused.code == 5


# ---- crashes -----------------------------------------------------------------------------------------------------------


def test_a_daemon_killed_again_and_again_comes_back_and_is_right(
    managed: Callable[..., ServiceManager], tmp_path: Path
) -> None:
    """At any moment of a storm, its own start among them: what is unknown is marked, and the rest is as the kernel
    says."""
    manager = managed("--config", roomy(tmp_path))
    chance = random.Random(int(os.environ.get("CKPTREE_SEED", "1")))
    with Storm(idle=50, rate=_RATE, workers=2) as storm:
        for turn in range(_KILLS):
            with Tree(strict=False) as tree:
                player = begin(tree, "subtree")
                draws = random_draws(chance.randrange(1 << 30), 4 * _STEPS)
                for _ in range(_STEPS):
                    player.play(next(draws))
                time.sleep(chance.random() * 0.2)
                manager.end(signal.SIGKILL)
                if turn % 2:  # once more, before it has come up
                    manager.start(wait=False)
                    time.sleep(chance.random() * 0.15)
                    manager.end(signal.SIGKILL)
                killed = newest(tree)
                for _ in range(_STEPS):
                    player.play(next(draws))
                manager.start()
                back = newest(tree)
                for _ in range(2 * _STEPS):
                    player.play(next(draws))
                found = capture(manager, tree.number(ROOT))
                expected = Expectation(tree, tree.view(), ROOT, "subtree")
                lines = list(differences_from_oracle(found, expected, tree))

                assert manager.complaints() == []
                assert [line for line in lines if not may_be_unknown(line, tree, killed, back)] == [], "\n".join(
                    tree.log
                )
                unobserved(found)
                unobserved(capture(manager, storm.root))
    assert_a_sweep_finds_nothing(manager)


def newest(tree: Tree) -> int:
    """The order of the last birth so far."""
    return max(task.birth.order for task in tree.oracle.tasks.values())


def may_be_unknown(line: str, tree: Tree, killed: int, back: int) -> bool:
    """It says that a birth is not known, and that was before the kill; or, of a thread, before the daemon was back.

    The ring keeps the births from after the kill, but to be understood that of a thread takes a leader who is known.
    """
    match = re.match(r"node (\d+) .*: birth: not observed$", line)
    if match is None:
        return False
    birth = tree.task(int(match[1])).birth
    return birth.order <= (back if THREAD in birth.flags else killed)


def assert_a_sweep_finds_nothing(manager: ServiceManager) -> None:
    """The counters of what was put right stand still over a comparison with all tasks that the kernel has."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        before = status(manager)
        while status(manager)["sweeps"] == before["sweeps"]:
            time.sleep(0.05)
        after = status(manager)
        if all(before[name] == after[name] for name in ("repairs", "anomalies", "assumed", "lost")):
            return
    pytest.fail(f"every sweep finds something: {before} {after}")


# ---- what is not taken over --------------------------------------------------------------------------------------------


def test_another_size_of_the_ring_has_everything_loaded_anew(
    managed: Callable[..., ServiceManager], tmp_path: Path
) -> None:
    """It is said, and nothing of the old is left in the store."""
    config = tmp_path / "config.toml"
    config.write_text("ring_bytes = 131072\n")
    manager = managed()
    manager.flush()
    old = {syscall.identity(descriptor) for _, descriptor in manager.store}
    manager.arguments = ["--config", os.fspath(config)]
    manager.restart()
    manager.flush()
    new = {syscall.identity(descriptor) for _, descriptor in manager.store}

    (said,) = manager.complaints()
    assert "no use: its ring has 4194304 bytes, and 131072 are configured; loading anew" in said
    assert status(manager)["ring_bytes"] == 131072
    assert {each for each in old & new if each[-1].isdigit()} == set()
    assert len({name for name, _ in manager.store}) == len(manager.store)
    with a_hard_tree() as root:
        assert unobserved(capture(manager, root)) == set()
    manager.restart()
    assert "births taken over" in manager.log.read_text().splitlines()[-1]


def put(manager: ServiceManager, name: str, data: bytes) -> None:
    """Replace, or add, a file in the store."""
    for entry in [entry for entry in manager.store if entry[0] == name]:
        manager.store.remove(entry)
        os.close(entry[1])
    descriptor = os.memfd_create(name)
    os.pwrite(descriptor, data, 0)
    manager.store.append((name, descriptor))


def old_memory(manager: ServiceManager) -> bytes:
    """Return the memory that a daemon has left in the store at its end."""
    descriptor = dict(manager.store)[_MEMORY]
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def test_a_memory_that_is_stale_or_broken_is_refused_and_a_sweep_fills_the_table(
    managed: Callable[..., ServiceManager],
) -> None:
    """The hooks are taken over all the same; what is known no more is marked."""
    manager = managed()
    with a_hard_tree() as root:
        assert manager.end() == 0
        memory = old_memory(manager)
        manager.start()
        manager.flush()
        assert _MEMORY not in dict(manager.store)
        for data, why in (
            (memory, "it is stale: another reader has read on from there"),
            (memory[: len(memory) // 2], "bytes, and should have"),
        ):
            manager.end(signal.SIGKILL)
            put(manager, _MEMORY, data)
            manager.start()
            manager.flush()
            found = capture(manager, root)

            assert manager.complaints()[-1].startswith("ckptree: what the last daemon knew is of no use: ")
            assert why in manager.complaints()[-1]
            assert _MEMORY not in dict(manager.store)
            assert differences(found, root) == []
            assert unobserved(found) == {found.number(task.pid) for task in found.tasks}


# ---- the manager -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("privately", [False, True])
def test_a_request_during_a_restart_waits(managed: Callable[..., ServiceManager], *, privately: bool) -> None:
    """It is answered afterwards. The manager holds the sockets; no daemon binds them again or removes them."""
    manager = managed(activates=True)
    paths = (manager.socket, private_socket(manager.socket))
    before = [path.stat().st_ino for path in paths]
    assert status(manager, privately=privately)["tasks"]
    assert manager.end() == 0
    found: list[dict[str, object]] = []
    asking = threading.Thread(target=lambda: found.append(status(manager, privately=privately)))
    asking.start()
    asking.join(0.3)
    assert asking.is_alive()
    manager.start()
    asking.join(PATIENCE_S)
    assert [answer["pid"] for answer in found] == [manager.pid]
    assert manager.end() == 0
    assert [path.stat().st_ino for path in paths] == before


def test_it_tells_how_it_is_and_feeds_the_watchdog_while_it_drains(
    managed: Callable[..., ServiceManager], tmp_path: Path
) -> None:
    """The daemon notifies READY once, its counts again and again, and its stop; a stopped one feeds no watchdog."""
    manager = managed("--config", roomy(tmp_path), watchdog_s=0.4)
    time.sleep(0.5)
    os.kill(manager.pid, signal.SIGSTOP)
    time.sleep(0.05)
    fed = manager.heard("WATCHDOG=1")
    time.sleep(0.3)
    assert manager.heard("WATCHDOG=1") == fed >= 2
    os.kill(manager.pid, signal.SIGCONT)
    time.sleep(0.5)
    assert manager.heard("WATCHDOG=1") > fed
    assert manager.end() == 0

    told = [line for _, line in manager.said if line.startswith("STATUS=")]
    assert (manager.heard("READY=1"), manager.heard("STOPPING=1")) == (1, 1)
    assert len(told) >= 2
    assert all(re.match(r"STATUS=watching \d+ tasks in \d+ pid namespaces; \d+ records, 0 lost", line) for line in told)


def test_whoever_waits_for_the_helper_is_called_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling may take longer than a service manager is patient."""
    monkeypatch.setattr("agent.capture.loading._WAIT_S", 0.01)
    calls: list[float] = []
    probes = Probes(1 << 16, waiting=lambda: calls.append(time.monotonic()))
    probes.close()

    assert len(calls) >= 3
    assert all(later - earlier >= 0.01 for earlier, later in pairwise(calls))
