# SPDX-License-Identifier: Apache-2.0
"""The questions about many tasks, on a procfs of files."""

import errno
import marshal
import os
import signal
from pathlib import Path
from typing import NoReturn

import pytest

from agent.restart.rebuild import manyanswers, taskanswers
from agent.restart.rebuild.manyanswers import Question, answers

# What runs the tests may have threads of its own, which do nothing here.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
TASKS = 40


@pytest.fixture
def questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    """Return questions about tasks in a procfs of files; of one there are none, and of each third no signal is wanted."""
    monkeypatch.setattr(taskanswers, "PROC", os.fspath(tmp_path))
    monkeypatch.setattr(manyanswers, "LEAST", 2)
    monkeypatch.setattr(manyanswers, "_has_threads", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    for pid in range(1, TASKS):
        folder = tmp_path / str(pid)
        folder.mkdir()
        lines = f"Tgid:\t{pid}\nPPid:\t1\nNSpid:\t{pid}\nNSpgid:\t{pid + 1}\nNSsid:\t{pid + 2}\n"
        (folder / "status").write_text(f"Name:\ta\nState:\tS (sleeping)\n{lines}Kthread:\t0\nVmPeak:\t1 kB\n")
        (folder / "stat").write_text(f"{pid} (a) S {'0 ' * 34}{pid} {'0 ' * 14}\n")
    return [(pid, pid % 3 != 0) for pid in range(1, TASKS + 1)]


def told(questions: list[Question]) -> list[object]:
    """Return what is compared of the answers."""
    found: list[object] = []
    for status, number in answers(questions):
        found.append((None if status is None else taskanswers.parsed(status), number))
    return found


def expected() -> list[object]:
    """Return the right answers."""
    found: list[object] = [
        (taskanswers.Status(pid, 1, "S", (pid,), (pid + 1,), (pid + 2,)), pid if pid % 3 else 0)
        for pid in range(1, TASKS)
    ]
    return [*found, (None, 0)]


def test_two_processes_answer_as_one_does(questions: list[Question], monkeypatch: pytest.MonkeyPatch) -> None:
    """All answers are there, in order; no process is left, and no signal is blocked."""
    children, fork, blocked = [], os.fork, signal.pthread_sigmask(signal.SIG_BLOCK, [])

    def noted() -> int:
        children.append(fork())
        return children[-1]

    monkeypatch.setattr(os, "fork", noted)
    assert told(questions) == expected()
    assert len(children) == 1
    with pytest.raises(ChildProcessError):
        os.waitpid(children[0], os.WNOHANG)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked
    monkeypatch.setattr(manyanswers, "LEAST", TASKS + 1)
    assert told(questions) == expected()


def test_a_second_process_is_made_only_for_another_processor(
    questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one processor, two would take longer."""

    def fork() -> NoReturn:
        raise AssertionError("a second process")

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    assert told(questions) == expected()


def test_without_a_second_process_this_one_asks_all(questions: list[Question], monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of processes may be reached."""

    def fork() -> NoReturn:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", fork)
    assert told(questions) == expected()


@pytest.mark.parametrize("said", [b"", b"[\x02\x00"])
def test_what_a_second_process_has_not_told_is_asked_again(
    questions: list[Question], monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """It may be killed before it has written all."""
    parent = os.getpid()

    def dumps(_answers: object) -> bytes:
        assert os.getpid() != parent
        return said

    monkeypatch.setattr(marshal, "dumps", dumps)
    assert told(questions) == expected()
