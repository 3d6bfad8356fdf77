# SPDX-License-Identifier: Apache-2.0
"""``ckptree hook criu`` without CRIU: its environment, its exit codes, and the file that it leaves."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from agent.cli import criuhook
from agent.errors import NoDaemonError
from agent.protocol.client import Answer
from tests.support.commandline import ckptree

POINTS = (
    *("pre-dump", "network-lock", "network-unlock", "pre-restore", "post-restore", "pre-resume", "post-resume"),
    *("setup-namespaces", "post-setup-namespaces", "pre-stream", "status-ready", "orphan-pts-master"),
)
Run = Callable[..., int]


class Daemon:
    """A daemon's client with one answer, or without one.

    Attributes:
        asked: what it was asked for.
    """

    def __init__(self, answer: Answer | Exception) -> None:
        self._answer = answer
        self.asked: list[tuple[str, Any]] = []

    def __call__(self, _socket: Path | None, _timeout_s: float) -> "Daemon":
        """Connect."""
        if isinstance(self._answer, Exception):
            raise self._answer
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def snapshot(self, root: str, **options: Any) -> Answer:
        """Return the answer."""
        self.asked.append((root, options))
        assert isinstance(self._answer, Answer)
        return self._answer


def answer(*, complete: bool = True) -> Answer:
    """Return an answer of a daemon."""
    return Answer(b"the tree", complete, "numbering", () if complete else ("events were lost",), (), (), 1, 5)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the environment as criu does at post-dump; return the folder of the images, with the tree of an earlier dump."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "tree.ckpt").write_bytes(b"an earlier one")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.setenv("CRTOOLS_SCRIPT_ACTION", "post-dump")
    monkeypatch.setenv("CRTOOLS_INIT_PID", "4711")
    monkeypatch.setenv("CRTOOLS_IMAGE_DIR", str(tmp_path / "link"))  # criu's is a link below /proc
    return folder


def told_by(daemon: Daemon, monkeypatch: pytest.MonkeyPatch, *, required: bool = False) -> int:
    """Run the hook with this daemon."""
    monkeypatch.setattr(criuhook, "Client", daemon)
    return criuhook.run(required=required)


@pytest.mark.parametrize("point", POINTS)
def test_nothing_happens_at_any_other_point(point: str, tmp_path: Path) -> None:
    """Nothing is said or imported: criu waits each time, and most of them are of a restore."""
    program = (
        "import sys; sys.argv = ['ckptree', 'hook', 'criu', '--required', '--socket', 'none']; known = set(sys.modules)\n"
        "from agent.__main__ import main; print(main(), *sorted(set(sys.modules) - known))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "CRTOOLS_SCRIPT_ACTION": point, "CRTOOLS_IMAGE_DIR": str(tmp_path), "CRTOOLS_INIT_PID": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert (ran.stdout, ran.stderr) == ("0 agent agent.__main__\n", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("required", [False, True])
def test_the_daemons_bytes_take_the_place_of_an_earlier_tree(
    required: bool,  # noqa: FBT001
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The subtree of criu's root is asked for, and nothing is said."""
    daemon = Daemon(answer())

    assert told_by(daemon, monkeypatch, required=required) == 0
    assert daemon.asked == [("4711", {"mode": "subtree"})]
    assert [(path.name, path.read_bytes(), path.stat().st_mode & 0o777) for path in images.iterdir()] == [
        ("tree.ckpt", b"the tree", 0o600)
    ]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (NoDaemonError("no daemon on /run/x"), 3, "ckptree: no daemon on /run/x\n"),
        (ZeroDivisionError("a fault of ours"), 1, "ckptree: internal error: ZeroDivisionError('a fault of ours')\n"),
    ],
)
def test_a_fault_costs_the_dump_only_where_the_tree_is_required(
    fault: Exception,
    code: int,
    said: str,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The tree of an earlier dump goes in both cases: the images are of another tree now."""
    for required, expected in ((False, 0), (True, code)):
        (images / "tree.ckpt").write_bytes(b"an earlier one")

        assert told_by(Daemon(fault), monkeypatch, required=required) == expected
        assert not list(images.iterdir())
        assert capfd.readouterr() == ("", f"{said}ckptree: this dump has no tree.ckpt\n")


def test_an_incomplete_tree_is_written_and_does_not_do_where_it_is_required(
    images: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The exit code is that of `ckptree snapshot`."""
    for required, expected in ((False, 0), (True, 6)):
        assert told_by(Daemon(answer(complete=False)), monkeypatch, required=required) == expected
        assert (images / "tree.ckpt").read_bytes() == b"the tree"
        assert capfd.readouterr().err == "ckptree: tree.ckpt is incomplete: events were lost\n"


def test_a_folder_that_cannot_be_written_is_named(
    images: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """criu with --stream has no folder: the link that it gives leads nowhere."""
    monkeypatch.setenv("CRTOOLS_IMAGE_DIR", "/proc/self/fd/-1")

    assert told_by(Daemon(answer()), monkeypatch, required=True) == 1
    assert capfd.readouterr().err.startswith("ckptree: cannot write /proc/self/fd/-1/tree.ckpt: ")
    assert (images / "tree.ckpt").read_bytes() == b"an earlier one"


@pytest.mark.parametrize("name", ["CRTOOLS_SCRIPT_ACTION", "CRTOOLS_IMAGE_DIR"])
def test_it_is_for_criu_to_run(
    name: str, images: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A user who runs it is told of what runs it."""
    monkeypatch.delenv(name)

    assert told_by(Daemon(answer()), monkeypatch) == 2
    assert f"there is no {name} in the environment: CRIU runs this" in capfd.readouterr().err


@pytest.mark.parametrize("root", ["", "pidns:1", "-1", "1²"])
def test_a_root_that_is_no_pid_is_refused(
    root: str, images: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """criu knows pids alone."""
    monkeypatch.setenv("CRTOOLS_INIT_PID", root)

    assert told_by(Daemon(answer()), monkeypatch, required=True) == 2
    assert f"CRTOOLS_INIT_PID is {root!r}: expected the pid" in capfd.readouterr().err


@pytest.mark.parametrize("options", [[], ["--required"], ["--socket", "SOCKET"], ["--required", "--socket=SOCKET"]])
def test_the_short_way_and_the_command_line_do_the_same(options: list[str], tmp_path: Path) -> None:
    """The former parses no option but one, and starts faster, while the tree is held."""
    socket = tmp_path / "none"
    environment = {
        **os.environ,
        "CRTOOLS_SCRIPT_ACTION": "post-dump",
        "CRTOOLS_INIT_PID": "1",
        "CRTOOLS_IMAGE_DIR": str(tmp_path),
        "CKPTREE_SOCKET": str(socket),
    }
    words = [word.replace("SOCKET", str(socket)) for word in options]
    ran = ckptree("hook", "criu", *words, env=environment)

    assert (ran.returncode, ran.stdout) == (3 if "--required" in options else 0, b"")
    assert ran.stderr.decode().splitlines() == [
        f"ckptree: no daemon on {socket} (No such file or directory): start one with `ckptree daemon --socket {socket}`",
        "ckptree: this dump has no tree.ckpt",
    ]


def test_the_command_of_one_word_is_the_hook(tmp_path: Path) -> None:
    """criu passes no arguments, and a user may."""
    program = "import sys; from agent.__main__ import run_hook_of_criu; run_hook_of_criu()"
    environment = {**os.environ, "CRTOOLS_SCRIPT_ACTION": "post-dump", "CRTOOLS_INIT_PID": "1"}
    environment |= {"CRTOOLS_IMAGE_DIR": str(tmp_path), "CKPTREE_SOCKET": str(tmp_path / "none")}
    for options, code in ([], 0), (["--required"], 3), (["--unknown"], 2):
        ran = subprocess.run(
            [sys.executable, "-c", program, *options], env=environment, capture_output=True, check=False
        )

        assert ran.returncode == code
