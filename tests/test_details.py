# SPDX-License-Identifier: Apache-2.0
"""Arguments, directory and environment: of invented processes, of this one, and never of the wrong one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.details import NOTHING, Details, details, opened, read_at, stat_fields
from agent.host import ns_per_tick

PID = 41
TICKS = 182174
START_NS = TICKS * 10_000_000


def a_process(root: Path, **files: bytes) -> None:
    """An invented /proc with one process in it."""
    directory = root / str(PID)
    directory.mkdir()
    (directory / "stat").write_bytes(b"41 (sh) S 1 41 41 0 -1 4194304 " + b"0 " * 12 + b"%d 0 0\n" % TICKS)
    for name, content in files.items():
        if name == "cwd":
            (directory / name).symlink_to(os.fsdecode(content))
        else:
            (directory / name).write_bytes(content)


def start_of(pid: int) -> int:
    """When a process was born, to the tick."""
    return int(stat_fields(Path(f"/proc/{pid}/stat").read_bytes())[19]) * ns_per_tick()


def test_strings_keep_their_bytes(tmp_path: Path) -> None:
    """Neither argv nor a path need be UTF-8, and an argument may be empty or hold a newline."""
    a_process(tmp_path, cmdline=b"sh\0\0-c\0a\nb\xff\0", cwd=b"/srv/\xff (deleted)", environ=b"A=1\0B=\xfe\0")

    assert Details((b"sh", b"", b"-c", b"a\nb\xff"), b"/srv/\xff (deleted)", (b"A=1", b"B=\xfe")) == details(
        PID, START_NS, tmp_path
    )


def test_an_overwritten_command_line_may_lack_its_end(tmp_path: Path) -> None:
    """Daemons write a title over their arguments."""
    a_process(tmp_path, cmdline=b"nginx: worker process", environ=b"")

    assert details(PID, START_NS, tmp_path) == ((b"nginx: worker process",), None, ())


def test_a_process_without_memory_has_no_strings(tmp_path: Path) -> None:
    """A zombie's files are empty: that is no empty list of arguments."""
    a_process(tmp_path, cmdline=b"", environ=b"")

    assert details(PID, START_NS, tmp_path) == NOTHING


def test_a_single_empty_argument_is_an_argument(tmp_path: Path) -> None:
    """It is what the kernel makes of an empty argv."""
    a_process(tmp_path, cmdline=b"\0")

    assert details(PID, START_NS, tmp_path).argv == (b"",)


def test_a_start_within_the_same_tick_is_the_same_process(tmp_path: Path) -> None:
    """BPF knows the nanosecond, /proc only the tick it falls into."""
    a_process(tmp_path, cmdline=b"sh\0")

    assert details(PID, START_NS + ns_per_tick() - 1, tmp_path).argv == (b"sh",)


@pytest.mark.parametrize("offset_ns", [-1, ns_per_tick()])
def test_a_reused_pid_is_not_read(tmp_path: Path, offset_ns: int) -> None:
    """One tick away is another process."""
    a_process(tmp_path, cmdline=b"sh\0", cwd=b"/", environ=b"A=1\0")

    assert details(PID, START_NS + offset_ns, tmp_path) == NOTHING


def test_a_process_that_is_gone_has_nothing(tmp_path: Path) -> None:
    """Neither one without a directory nor one whose directory has been emptied is an error."""
    (tmp_path / "42").mkdir()

    assert details(PID, START_NS, tmp_path) == NOTHING
    assert details(42, START_NS, tmp_path) == NOTHING


def test_the_start_is_found_behind_a_hostile_name(tmp_path: Path) -> None:
    """The name of a task may look like the rest of the line."""
    a_process(tmp_path, cmdline=b"x\0")
    stat = tmp_path / str(PID) / "stat"
    stat.write_bytes(stat.read_bytes().replace(b"(sh)", b"() S 1 1 1\n(x)"))

    assert details(PID, START_NS, tmp_path).argv == (b"x",)


def test_this_process_is_told_as_it_is() -> None:
    """The kernel's own account of the process that runs the tests."""
    mine = details(os.getpid(), start_of(os.getpid()))

    assert tuple(os.fsencode(word) for word in sys.orig_argv) == mine.argv
    assert os.fsencode(Path.cwd()) == mine.cwd
    assert mine.env is not None


def test_a_childs_strings_are_those_it_was_started_with() -> None:
    """Arguments, directory and environment go in by execve and come out of /proc."""
    command = [sys.executable, "-c", "print(flush=True); input()", "", "a b\nc"]
    with subprocess.Popen(
        command, cwd="/", env={"ONLY": "this"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        told = details(child.pid, start_of(child.pid))
        child.communicate(b"\n")

    assert Details(tuple(map(os.fsencode, command)), b"/", (b"ONLY=this",)) == told


def test_a_zombie_has_nothing() -> None:
    """Its memory and its directory are gone though its number is not."""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        told = details(pid, start_of(pid))
    finally:
        os.waitpid(pid, 0)

    assert told == NOTHING


def test_an_opened_process_does_not_become_another() -> None:
    """Through a descriptor opened before the end nothing is read after it, whoever has the number then."""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    with opened(f"/proc/{pid}") as process:
        before = read_at(process, "stat")
        os.waitpid(pid, 0)
        after = read_at(process, "stat")

    assert before is not None
    assert after is None
