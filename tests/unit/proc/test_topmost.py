# SPDX-License-Identifier: Apache-2.0
"""The topmost process of a cgroup, and changes of it during a request."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from agent.errors import CkptreeError, HostError, NoSuchRootError, RefusedError
from agent.proc import cgroups
from agent.proc.topmost import answered, answered_of_all, topmost
from agent.rootname import CgroupName, RootName

NAME = CgroupName((), "/a")


class Cgroup:
    """A folder that imitates a cgroup, and a /proc with its processes.

    Args:
        folder: the folder of both.
    """

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.folder = folder / "cgroup/a"
        self.folder.mkdir(parents=True)
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self/mountinfo").write_text(f"30 22 0:28 / {folder}/cgroup rw - cgroup2 cgroup2 rw\n")
        self.has()

    def has(self, *pids: int) -> None:
        """Put these processes into it, and no others."""
        (self.folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))

    def process(self, pid: int, ppid: int, *, start: int = 7, comm: str = "a b) c", flags: int = 0) -> None:
        """Add a process to /proc; its name is hard to parse."""
        fields = ["S", str(ppid), *"1100", str(flags), *"000000000000", str(start)]
        (self.proc / str(pid)).mkdir(exist_ok=True)
        (self.proc / str(pid) / "stat").write_text(f"{pid} ({comm}) {' '.join(fields)} 0 0\n")


@pytest.fixture
def cgroup(tmp_path: Path) -> Cgroup:
    """Return a cgroup without processes."""
    return Cgroup(tmp_path)


@pytest.fixture
def living() -> Iterator[int]:
    """Yield the pid of a real process."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


def test_topmost_is_whose_parent_is_elsewhere(cgroup: Cgroup) -> None:
    """The order of the list does not matter."""
    cgroup.has(12, 10, 11)
    for pid, ppid in ((10, 1), (11, 10), (12, 11)):
        cgroup.process(pid, ppid)

    assert topmost(NAME, cgroup.proc)[:2] == (10, 1)


def test_several_topmost_processes_are_refused_and_all_listed(cgroup: Cgroup) -> None:
    """The exit code is 7: none of them is more likely meant than the others."""
    cgroup.has(10, 11, 20)
    cgroup.process(10, 1, comm="main")
    cgroup.process(11, 10)
    cgroup.process(20, 5, comm="entered")

    with pytest.raises(RefusedError, match="has 2 topmost processes") as caught:
        topmost(NAME, cgroup.proc)

    assert caught.value.leaks == ("10 main, child of 1", "20 entered, child of 5")


def test_who_only_looks_is_asked_about_all_of_them(cgroup: Cgroup, living: int) -> None:
    """One below another, by way of a process of another cgroup, is left out, because the other's tree has it."""
    ours = os.getpid()
    cgroup.has(living, ours)
    cgroup.process(ours, 1)
    cgroup.process(living, 5)
    assert answered_of_all(NAME, list, cgroup.proc) == sorted(map(str, (living, ours)), key=int)

    cgroup.process(5, ours)
    assert answered_of_all(NAME, list, cgroup.proc) == [str(ours)]
    assert answered_of_all(RootName(namespace=True, number=6), list) == ["pidns:6"]


def test_an_answer_about_others_than_there_are_now_is_let_go_of(cgroup: Cgroup, living: int) -> None:
    """A subscription, for example, is closed."""
    ours = os.getpid()
    for pid in (living, ours):
        cgroup.process(pid, 1)
    cgroup.has(ours)
    closed: list[list[str]] = []

    @contextmanager
    def ask(roots: list[str]) -> Iterator[list[str]]:
        yield roots
        closed.append(roots)

    def entered(roots: list[str]) -> AbstractContextManager[list[str]]:
        answer = ask(roots)
        answer.__enter__()
        cgroup.has(ours, living)  # another process has entered meanwhile
        return answer

    answer = answered_of_all(NAME, entered, cgroup.proc)

    assert closed == [[str(ours)]]
    answer.__exit__(None, None, None)
    assert len(closed[1]) == 2


def test_a_cgroup_without_processes_has_no_root(cgroup: Cgroup) -> None:
    """Kernel threads do not count."""
    cgroup.has(2)
    cgroup.process(2, 0, flags=0x0020_0040)

    with pytest.raises(NoSuchRootError, match="cgroup:/a has no process"):
        topmost(NAME, cgroup.proc)


def test_who_goes_between_two_reads_is_left_out(cgroup: Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second reading of the list decides."""
    listings = iter([{10, 11}, {10}])
    cgroup.process(10, 1)
    monkeypatch.setattr(cgroups, "processes", lambda _: next(listings))

    assert topmost(NAME, cgroup.proc).pid == 10


def test_processes_that_cannot_be_seen_make_it_uncertain(cgroup: Cgroup) -> None:
    """Processes of an outer pid namespace are listed as 0; processes that hidepid hides are missing in /proc."""
    cgroup.process(10, 1)
    cgroup.has(10, 0)
    with pytest.raises(HostError, match="does not see"):
        topmost(NAME, cgroup.proc)

    cgroup.has(10, 11)
    with pytest.raises(HostError, match=r"does not show \(11\): it is mounted with hidepid"):
        topmost(NAME, cgroup.proc)


def test_a_pid_or_namespace_is_asked_about_as_it_is() -> None:
    """No cgroup is read."""
    assert answered(RootName(namespace=False, number=5), str) == "5"
    assert answered(RootName(namespace=True, number=6), str) == "pidns:6"


def test_the_topmost_process_is_asked_about_once_where_nothing_changes(cgroup: Cgroup, living: int) -> None:
    """The request has its pid."""
    asked: list[str] = []
    cgroup.has(living)
    cgroup.process(living, 1)

    answered(NAME, asked.append, cgroup.proc)

    assert asked == [str(living)]


def test_an_answer_about_a_process_that_is_no_longer_topmost_is_not_taken(cgroup: Cgroup, living: int) -> None:
    """The next topmost process is, if it remains so during the request."""
    asked: list[str] = []
    ours = os.getpid()
    for pid in (living, ours):
        cgroup.process(pid, 1)
    cgroup.has(living)

    def ask(root: str) -> str:
        asked.append(root)
        cgroup.has(ours)
        return root

    assert answered(NAME, ask, cgroup.proc) == str(ours)
    assert asked == [str(living), str(ours)]


def test_a_number_that_was_taken_again_is_another_process(cgroup: Cgroup, living: int) -> None:
    """It has another start."""
    starts = iter(range(1, 100))
    cgroup.has(living)
    cgroup.process(living, 1, start=0)

    def ask(root: str) -> str:
        cgroup.process(living, 1, start=next(starts))
        return root

    with pytest.raises(CkptreeError, match="its topmost process was another one each time") as caught:
        answered(NAME, ask, cgroup.proc)

    assert caught.value.exit_code == 1


def test_a_root_that_vanishes_as_it_is_asked_about_is_looked_for_again(cgroup: Cgroup, living: int) -> None:
    """The search ends when no process is left: exit code 4."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    cgroup.has(gone.pid)
    cgroup.process(gone.pid, 1)
    with pytest.raises(CkptreeError):
        answered(NAME, str, cgroup.proc)

    cgroup.has(living)
    cgroup.process(living, 1)

    def ask(root: str) -> str:
        raise NoSuchRootError(f"no such process: {root}")

    with pytest.raises(NoSuchRootError, match=f"no such process: {living}"):
        answered(NAME, ask, cgroup.proc)
