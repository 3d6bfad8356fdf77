# SPDX-License-Identifier: Apache-2.0
"""The reader process of convert and of a plan's picture: it can write nothing, and the parent checks its answer."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from agent.cli import apart, fileverbs, terminal
from agent.errors import CkptreeError, FormatError
from agent.model import Snapshot
from exporters.documents import jsonfmt
from tests.support.builders import a_snapshot, a_task
from tests.support.commandline import Ran, here


def said(line: str) -> None:
    """Print a message."""
    print(line, file=sys.stderr)


@pytest.fixture
def taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Return a function that runs a verb whose compromised reader tries to write, and to run a program."""
    read = fileverbs._load
    attempts: dict[str, Callable[[], object]] = {
        "write": lambda: (tmp_path / "evil").open("w"),
        "run": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606 - the kernel must refuse it
    }

    def evil(file: str, data: bytes) -> Snapshot:
        for name, attempt in attempts.items():
            try:
                attempt()
            except OSError:
                terminal.say(f"refused: {name}")
        return read(file, data)

    monkeypatch.setattr(fileverbs, "_load", evil)
    return here


@pytest.mark.skipif(os.geteuid() != 0, reason="others have little that they could give up")
@pytest.mark.parametrize("fmt", ["ckpt", "json", "dot", "svg", "html"])
def test_what_reads_the_file_can_write_and_run_nothing(
    tmp_path: Path, taken_over: Callable[..., Ran], fmt: str
) -> None:
    """The file is converted all the same."""
    source, target = tmp_path / "in.json", tmp_path / "out"
    source.write_bytes(jsonfmt.dumps(a_snapshot([(1,)], [a_task(1, 0)])))
    ran = taken_over("convert", source, target, "-f", fmt)

    assert ran.returncode == 0, ran.stderr
    assert [line for line in ran.stderr.splitlines() if b"refused" in line] == [
        b"ckptree: refused: write",
        b"ckptree: refused: run",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json", "out"]
    assert target.stat().st_size > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="others have little that they could give up")
def test_what_reads_the_file_of_a_drawn_plan_can_write_and_run_nothing(
    tmp_path: Path, taken_over: Callable[..., Ran]
) -> None:
    """The plan is drawn all the same."""
    source = tmp_path / "in.json"
    source.write_bytes(jsonfmt.dumps(a_snapshot([(1,)], [a_task(1, 0)])))
    ran = taken_over("plan", source, "-f", "svg")

    assert (ran.returncode, ran.stderr.splitlines()) == (0, [b"ckptree: refused: write", b"ckptree: refused: run"])
    assert b"<svg" in ran.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]


def test_a_wrong_file_is_told_once_and_nothing_is_written(tmp_path: Path) -> None:
    """The exit code is the usual one."""
    source = tmp_path / "in"
    source.write_bytes(b"no image")
    ran = here("convert", source, tmp_path / "out")

    assert ran.returncode == 8
    assert len(ran.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def handed_over(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> apart.Made:
    """Return the parent's result for the bytes that a child writes."""
    monkeypatch.setattr(apart, "confine_root", lambda: None)
    monkeypatch.setattr(msgpack, "packb", lambda _: answer)
    return apart.made(lambda: b"", said)


@pytest.mark.parametrize("result", [b"", b"x" * (1 << 20), {"a.img": b"1", "b-1.img": b""}])
def test_a_file_or_the_files_of_a_folder_are_handed_over(result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent does not change them."""
    assert handed_over(msgpack.packb(result), monkeypatch) == result


@pytest.mark.parametrize(
    "result",
    [
        *({"../a": b""}, {"/a": b""}, {"a/b": b""}, {"..": b""}, {".a": b""}, {"": b""}, {"a\n": b""}, {b"a": b""}),
        *({"a": "text"}, "text", None, 1, [b""]),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compromised reader may hand over any name."""
    with pytest.raises(CkptreeError, match="not written"):
        handed_over(msgpack.packb(result), monkeypatch)


@pytest.mark.parametrize("answer", [b"", b"\xc1", b"\xc4\xff", b"\x81" * 2000])
def test_bytes_that_are_no_message_are_refused(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples are a cut message and endless nesting."""
    with pytest.raises(CkptreeError, match="not written"):
        handed_over(answer, monkeypatch)


def test_more_than_anything_that_is_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would fill the memory."""
    monkeypatch.setattr(apart, "MOST_BYTES", 1000)
    with pytest.raises(CkptreeError, match="has more than 1000 bytes"):
        handed_over(bytes(2000), monkeypatch)


def test_a_child_that_fails_ends_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of a killed child is that of a shell."""
    monkeypatch.setattr(apart, "confine_root", lambda: None)

    def fails() -> apart.Made:
        raise FormatError("file", "is wrong")

    def dies() -> apart.Made:
        os.kill(os.getpid(), 9)
        return b""

    for work, code in ((fails, 8), (dies, 137)):
        with pytest.raises(apart.EndedError) as caught:
            apart.made(work, said)
        assert caught.value.code == code
