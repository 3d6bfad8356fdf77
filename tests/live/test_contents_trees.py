# SPDX-License-Identifier: Apache-2.0
"""Programs in trees that CRIU dumps and restores wrongly or not at all: each process runs on, at its place."""

import sys
from pathlib import Path

import pytest

from tests.live.dumps import dump, eventually, program, restarted

PROGRAM = """
import ctypes, os, time

def run(name):
    for number in range(10**9):
        with open(name + ".new", "w") as file:
            file.write(f"{os.getpid()} {os.getppid()} {os.getpgid(0)} {os.getsid(0)} {number}\\n")
        os.rename(name + ".new", name)
        time.sleep(0.02)

def child(body):
    pid = os.fork()
    if not pid:
        body()
        os._exit(0)
    return pid

def subreaper():
    assert not ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)

def gone(body):
    os.waitpid(child(body), 0)
"""
TREES = {
    "orphan below an inner subreaper": """
def inner():
    subreaper()
    gone(lambda: child(lambda: run("orphan")))
    run("inner")
child(inner)
run("root")
""",
    "orphan in a session whose leader is gone, below an inner subreaper": """
def leader():
    os.setsid()
    child(lambda: run("orphan"))
def inner():
    subreaper()
    gone(leader)
    run("inner")
child(inner)
run("root")
""",
    "group whose leader has moved to another one": """
def leader():
    os.setpgid(0, 0)
    def member():
        run("member")
    child(member)
    time.sleep(0.2)
    os.setpgid(0, os.getppid())
    run("leader")
os.setpgid(0, 0) if os.getsid(0) != os.getpid() else None
child(leader)
run("root")
""",
}


def _facts(folder: Path) -> dict[str, list[int]]:
    """Return for each process its pid, parent, group, session, and count."""
    found = {}
    for name in ("root", "inner", "orphan", "leader", "member"):
        if (folder / name).exists() and (words := (folder / name).read_text().split()):
            found[name] = [int(word) for word in words]
    return found


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_every_process_of_a_hard_tree_runs_on_at_its_place(tree: str, tmp_path: Path, daemon_socket: Path) -> None:
    """Pids, parents, groups and sessions are what each process itself gets from the kernel."""
    count = tree.count("run(")
    with program([sys.executable, "-c", PROGRAM + tree], tmp_path) as pid:
        eventually(
            lambda: len(_facts(tmp_path)) == count and all(f[4] > 20 for f in _facts(tmp_path).values()), "all run"
        )
        images = dump(pid, tmp_path / "images", daemon_socket)
    before = _facts(tmp_path)
    with restarted(images):
        eventually(
            lambda: all(len(now) == 5 and now[4] > before[name][4] + 20 for name, now in _facts(tmp_path).items()),
            "all run on",
        )
        after = _facts(tmp_path)

    assert {name: facts[:4] for name, facts in after.items() if name != "root"} == {
        name: facts[:4] for name, facts in before.items() if name != "root"
    }
    assert after["root"][0] == before["root"][0]


def test_a_tree_is_restarted_within_a_pid_namespace(tmp_path: Path, daemon_socket: Path) -> None:
    """The namespace around it has a /proc and an init of its own, as a container has."""
    with program([sys.executable, "-c", PROGRAM + TREES["orphan below an inner subreaper"]], tmp_path) as pid:
        eventually(lambda: len(_facts(tmp_path)) == 3, "all run")
        images = dump(pid, tmp_path / "images", daemon_socket)
    before = _facts(tmp_path)
    within = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    with restarted(images, before=within):
        eventually(lambda: all(now[4] > before[name][4] + 20 for name, now in _facts(tmp_path).items()), "all run on")
        assert {name: facts[0] for name, facts in _facts(tmp_path).items()} == {
            name: facts[0] for name, facts in before.items()
        }
