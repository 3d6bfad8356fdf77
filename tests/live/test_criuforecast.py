# SPDX-License-Identifier: Apache-2.0
"""Dumps of a real CRIU are read, and their forecast is what CRIU then does, tree by tree."""

import random
import re
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from agent.model import OUTSIDE, Snapshot, Tag
from agent.restart.planning.criuforecast import forecast
from exporters.checking.criucheck import check_folder
from exporters.criu import criutree
from exporters.criu.imagefolder import ImageFolder
from tests.live import criutrials
from tests.live.criutrials import Row, Trial
from tests.live.dumps import eventually
from tests.support import suitepackages

TREES = {
    "plain": "fork 0 1; fork 1 2; fork 0 3",
    "stopped": "fork 0 1; stop 1",
    "zombies": "fork 0 1; fork 0 2; fork 0 3; exit 1 3; exit 2 200; kill 3 15; dead 0 1; dead 0 2; dead 0 3",
    "last_signal": "fork 0 1; kill 1 64; dead 0 1; fork 0 2; kill 2 34; dead 0 2",
    "exit_signal": "fork 0 1 signal=10",
    "child_of_a_thread": "fork 0 1; fork 1 2 thread; fork 2 3",
    "zombie_session_leader": "fork 0 1; setsid 1; fork 1 2; exit 1 0; dead 0 1",
    "fork_before_setsid_twice": "fork 0 1; fork 1 2; fork 2 3; setsid 2; setsid 1; fork 1 4",
    "orphan_of_a_dead_session_leader": "subreaper 0; fork 0 1; setsid 1; fork 1 2; exit 1 0; wait 0 1",
    "orphan_with_its_leader_alive": "subreaper 0; fork 0 1; setsid 1; fork 1 2; fork 2 3; exit 2 0; wait 1 2",
    "subreaper_adopts_a_daemon": "fork 0 1; setsid 1; subreaper 1; fork 1 2; setsid 2; fork 2 3; exit 2 0; wait 1 2",
    "sibling_by_clone_parent": "fork 0 1; setsid 1; fork 1 2; setsid 2; fork 2 3 sibling",
    "subreaper_within_a_session": "fork 0 1; setsid 1; subreaper 1; fork 1 2; fork 2 3; exit 2 0; wait 1 2",
    "dead_group_owner": "subreaper 0; fork 0 1; setpgid 1 1; fork 1 2; exit 1 0; wait 0 1",
    "owner_left_its_group": "fork 0 1; setpgid 1 1; fork 0 2; setpgid 2 1; setpgid 1 0",
    "two_foreign_sessions": "fork 0 1; fork 1 2; setsid 1; fork 1 3; setsid 3; fork 3 4; subreaper 1; exit 3 0; wait 1 3",
    "dead_leader_of_a_forked_child": "subreaper 0; fork 0 1; setsid 1; fork 1 2; fork 2 3; setsid 2; exit 1 0; wait 0 1",
    "orphaned_zombie": "subreaper 0; fork 0 1; setsid 1; fork 1 2; fork 2 3; exit 2 0; wait 1 2; exit 3 3; dead 0 3",
}
"""Scripts for scriptedtree.c."""

BY_CHANCE = {"owner-left-group": {"hangs", "refused"}, "zombie-below-zombie": {"hangs", "ok"}}
"""Outcomes of rules for which CRIU does one or the other."""


@pytest.fixture(scope="session")
def criu() -> Path:
    """Fetch a criu that dumps on this kernel."""
    return suitepackages.criu()


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the tree."""
    made = tmp_path_factory.mktemp("scriptedtree") / "scriptedtree"
    source = Path(__file__).with_name("scriptedtree.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", made, source], check=True)
    return made


def compare(folder: Path, before: Trial, criu: Path, mode: str) -> None:
    """Read a dump, restore it, and compare both with the kernel's own numbers."""
    assert before.outcome == "ok", before.said
    assert check_folder(ImageFolder(folder)) == []
    snapshot = criutree.load(ImageFolder(folder))
    numbers = {entry.pid: (entry.ppid, entry.pgid, entry.sid) for entry in criutree.tree_entries(ImageFolder(folder))}
    assert numbers == {pid: (row.ppid, row.pgid, row.sid) for pid, row in before.rows.items()}

    found = forecast(told(snapshot, before.rows))
    after = criutrials.restore(criu, folder, mode)
    outcomes = {each.outcome for each in found}
    worst = next((each for each in ("refused", "hangs", "wrong") if each in outcomes), "ok")
    chance = [BY_CHANCE[each.rule] for each in found if each.rule in BY_CHANCE]
    if worst == "hangs" and all(each.rule in BY_CHANCE for each in found if each.outcome == "hangs"):
        assert after.outcome in set.union(*chance), (found, after.said)
    elif worst in ("refused", "hangs"):
        assert after.outcome == worst, (found, after.said)
    else:
        assert after.outcome == "ok", (found, after.said)
        root = snapshot.number(snapshot.tasks[0].pid)
        assert differing(before.rows, after.rows, root) == {each.pid for each in found}, (found, after.rows)


def told(snapshot: Snapshot, rows: dict[int, Row]) -> Snapshot:
    """Return a snapshot with what CRIU does not write, as ``tree.ckpt`` has it: exit signals and parents' threads."""
    tags = {snapshot.number(task.pid): task.pid for task in snapshot.tasks}
    changed = []
    for task in snapshot.tasks:
        row = rows.get(snapshot.number(task.pid))
        if row is None or task.pid != task.tgid:
            changed.append(task)
            continue
        parent: Tag = OUTSIDE if task.ppid == OUTSIDE else tags[row.parent or row.ppid]
        changed.append(task._replace(ppid=parent, exit_signal=row.exit_signal))
    return Snapshot(snapshot.mode, snapshot.time_ns, snapshot.pids, tuple(changed))


def differing(before: dict[int, Row], after: dict[int, Row], root: int) -> set[int]:
    """Return the processes that came back otherwise. A session that the root inherited is another one there."""
    inherited = {before[root].sid, after[root].sid} - {root}

    def outer(row: Row) -> Row:
        return row._replace(
            sid=-1 if row.sid in inherited else row.sid,
            pgid=-1 if row.pgid in inherited else row.pgid,
            ppid=max(row.ppid, -1),
        )

    pids = before.keys() | after.keys()
    return {pid for pid in pids if pid not in before or pid not in after or outer(before[pid]) != outer(after[pid])}


@pytest.mark.parametrize("mode", ["container", "subtree"])
@pytest.mark.parametrize("name", TREES)
def test_criu_does_what_was_foretold(name: str, mode: str, criu: Path, program: Path, tmp_path: Path) -> None:
    """A tree that it restores comes back as it was, but for the tasks that were named."""
    folder = tmp_path / "images"
    before = criutrials.dump(criu, program, folder, mode, TREES[name])

    compare(folder, before, criu, mode)


REFUSED = {
    "nested-namespace": ("setsid", "fork 0 1; fork 1 2 newpid", "nested pid namespace"),
    "zombie-with-threads": ("setsid", "fork 0 1; fork 1 2 thread; leave 1", "Zombie"),
    "session-from-outside": ("unshare --pid --fork --kill-child", "fork 0 1", "session leader of .* is outside"),
}
"""Programs that start a tree, its script, and the words of CRIU, by the rule by which CRIU does not dump it."""


@pytest.mark.parametrize("rule", REFUSED)
def test_criu_refuses_to_dump_what_was_foretold(
    rule: str, criu: Path, program: Path, tmp_path: Path, capture: Callable[[int, str], Snapshot]
) -> None:
    """The forecast is of a snapshot: there are no images."""
    before, script, said = REFUSED[rule]
    null = subprocess.DEVNULL
    with subprocess.Popen([*before.split(), program, script], stdin=null, stdout=null, stderr=null) as started:
        try:
            root = psutil.Process(started.pid)
            eventually(lambda: "ready" in {each.name() for each in (root, *root.children())}, "the tree is made")
            pid = next(each.pid for each in (root, *root.children()) if each.name() == "ready")
            below = psutil.Process(pid).children(recursive=True)
            eventually(lambda: all(each.status() != "running" for each in below), "all wait")
            found = forecast(capture(pid, "subtree"))
            words: list[str | Path] = [criu, "dump", "--tree", str(pid), "--images-dir", tmp_path, "--leave-running"]
            refused = subprocess.run(words, stdin=null, capture_output=True, text=True, check=False)
        finally:
            for each in psutil.Process(started.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # an init takes the others of its namespace with it
                    each.kill()
            started.kill()

    assert {(each.outcome, each.rule) for each in found} == {("refused", rule)}
    assert refused.returncode == 1, refused
    assert re.search(said, refused.stdout + refused.stderr)


@pytest.mark.parametrize("seed", range(12))
def test_criu_does_with_random_trees_what_was_foretold(seed: int, criu: Path, program: Path, tmp_path: Path) -> None:
    """Their steps are those that shape a tree, in any order."""
    drawn = random.Random(seed)
    mode = drawn.choice(criutrials.MODES)
    folder = tmp_path / "images"
    before = criutrials.dump(criu, program, folder, mode, a_script(drawn), "lenient")

    compare(folder, before, criu, mode)


def a_script(drawn: random.Random) -> str:
    """Return a script whose steps may fail."""
    alive, parents, steps = [0], {0: -1}, []
    if drawn.random() < 0.5:
        steps.append("subreaper 0")
    for _ in range(drawn.randrange(8, 26)):
        kind, node = drawn.random(), drawn.choice(alive)
        if kind < 0.4 or len(alive) < 2:
            child = len(parents)
            sibling = bool(node) and drawn.random() < 0.1
            steps.append(f"fork {node} {child}{' sibling' if sibling else ''}")
            parents[child] = parents[node] if sibling else node
            alive.append(child)
        elif kind < 0.6:
            steps.append(f"setsid {node}")
        elif kind < 0.72:
            steps.append(f"setpgid {node} {drawn.choice(list(parents))}")
        elif kind < 0.78:
            steps.append(f"subreaper {node}")
        elif node:
            alive.remove(node)
            steps.append(f"exit {node} {drawn.choice([0, 0, 3, 130])}")
            if parents[node] in alive:
                steps.append(f"{drawn.choice(['wait', 'wait', 'dead'])} {parents[node]} {node}")
    return "; ".join(steps)
