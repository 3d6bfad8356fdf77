# SPDX-License-Identifier: Apache-2.0
"""Arguments, directory and environment of invented processes and of this one, and never of the wrong one."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.model import Capabilities, ProcessDetails
from agent.proc.details import NOTHING, Details, details
from agent.proc.host import ns_per_tick
from agent.proc.statfile import opened, program_file, read_at, stat_fields
from agent.proc.surroundings import SurroundingsReader

PID = 41
TICKS = 182174
START_NS = TICKS * 10_000_000


def a_process(root: Path, **files: bytes) -> None:
    """Make an invented /proc with one process in it."""
    directory = root / str(PID)
    directory.mkdir()
    (directory / "stat").write_bytes(b"41 (sh) S 1 41 41 0 -1 4194304 " + b"0 " * 12 + b"%d 0 0\n" % TICKS)
    for name, content in files.items():
        if name in ("cwd", "exe"):
            (directory / name).symlink_to(os.fsdecode(content))
        else:
            (directory / name).write_bytes(content)


def start_of(pid: int) -> int:
    """Return the start time of a process, in ns, to the tick."""
    return int(stat_fields(Path(f"/proc/{pid}/stat").read_bytes())[19]) * ns_per_tick()


def test_strings_keep_their_bytes(tmp_path: Path) -> None:
    """Neither argv nor a path need be UTF-8; an argument may be empty or contain a newline."""
    a_process(tmp_path, cmdline=b"sh\0\0-c\0a\nb\xff\0", cwd=b"/srv/\xff (deleted)", environ=b"A=1\0B=\xfe\0")

    assert Details((b"sh", b"", b"-c", b"a\nb\xff"), b"/srv/\xff (deleted)", (b"A=1", b"B=\xfe")) == details(
        PID, START_NS, tmp_path
    )


def test_a_title_that_runs_over_the_arguments_is_not_taken_for_them(tmp_path: Path) -> None:
    """Daemons write a title there, and into the environment behind; the original is unknown, and the result says so."""
    a_process(tmp_path, cmdline=b"nginx: worker process", environ=b" process\0\0\0", status=STATUS)
    told = details(PID, START_NS, tmp_path)

    assert (told.argv, told.env) == (None, None)
    assert told.process is not None
    assert told.process.argv_unknown == "its end has been written over, as by a title"
    assert told.process.env_unknown == "it has been written over, as by a title"


def test_a_process_without_memory_has_no_strings(tmp_path: Path) -> None:
    """The files of a zombie are empty, which is not an empty list of arguments."""
    a_process(tmp_path, cmdline=b"", environ=b"")

    assert details(PID, START_NS, tmp_path) == NOTHING


def test_a_single_empty_argument_is_an_argument(tmp_path: Path) -> None:
    """The kernel makes it of an empty argv."""
    a_process(tmp_path, cmdline=b"\0")

    assert details(PID, START_NS, tmp_path).argv == (b"",)


def test_a_start_within_the_same_tick_is_the_same_process(tmp_path: Path) -> None:
    """BPF knows the nanosecond, /proc only the tick."""
    a_process(tmp_path, cmdline=b"sh\0")

    assert details(PID, START_NS + ns_per_tick() - 1, tmp_path).argv == (b"sh",)


@pytest.mark.parametrize("offset_ns", [-1, ns_per_tick()])
def test_a_reused_pid_is_not_read(tmp_path: Path, offset_ns: int) -> None:
    """A difference of one tick means another process."""
    a_process(tmp_path, cmdline=b"sh\0", cwd=b"/", environ=b"A=1\0")

    assert details(PID, START_NS + offset_ns, tmp_path) == NOTHING


def test_a_process_that_is_gone_has_nothing(tmp_path: Path) -> None:
    """A missing directory is no error, nor is one that has been emptied."""
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
    """The reference is the kernel's own account of the test process."""
    mine = details(os.getpid(), start_of(os.getpid()))

    assert tuple(os.fsencode(word) for word in sys.orig_argv) == mine.argv
    assert os.fsencode(Path.cwd()) == mine.cwd
    assert mine.env is not None


def test_a_childs_strings_are_those_it_was_started_with() -> None:
    """They go in by execve() and come out of /proc."""
    command = [sys.executable, "-c", "print(flush=True); input()", "", "a b\nc"]
    with subprocess.Popen(
        command, cwd="/", env={"ONLY": "this"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        told = details(child.pid, start_of(child.pid))
        child.communicate(b"\n")

    assert Details(tuple(map(os.fsencode, command)), b"/", (b"ONLY=this",), told.process) == told
    assert told.process is not None
    assert told.process.exe == os.fsencode(Path(sys.executable).resolve())
    assert told.process.execed is True


def test_a_zombie_has_nothing_but_its_rights() -> None:
    """It has no memory, directory and program, but still its number."""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        told = details(pid, start_of(pid))
    finally:
        os.waitpid(pid, 0)

    assert told[:3] == NOTHING[:3]
    assert told.process is not None
    assert (told.process.exe, told.process.umask) == (None, None)
    assert told.process.uids == (*os.getresuid(), os.geteuid())


STATUS = b"""Name:\tsh\\nUid:\\t7
Umask:\t0027
State:\tS (sleeping)
Uid:\t1000\t1001\t1002\t1003
Gid:\t100\t101\t102\t103
Groups:\t4 24 1000 4294967294\x20
NStgid:\t41
CapInh:\t0000000000000001
CapPrm:\t000001ffffffffff
CapEff:\t0000000000000003
CapBnd:\tffffffffffffffff
CapAmb:\t0000000000000000
NoNewPrivs:\t1
"""


def test_program_and_rights_are_those_of_the_status(tmp_path: Path) -> None:
    """The test covers every field of an ordinary process."""
    program = os.fsencode(tmp_path) + b"/d\xffsh"
    Path(os.fsdecode(program)).touch()
    a_process(tmp_path, cmdline=b"sh\0", exe=program, status=STATUS)

    assert details(PID, START_NS, tmp_path).process == ProcessDetails(
        exe=program,
        deleted_exe=None,
        uids=(1000, 1001, 1002, 1003),
        gids=(100, 101, 102, 103),
        groups=(4, 24, 1000, 4294967294),
        caps=Capabilities(1, 0x1FF_FFFF_FFFF, 3, 2**64 - 1, 0),
        no_new_privs=True,
        umask=0o27,
        execed=True,
        exe_file=program_file(os.stat(program)),
    )


def test_what_a_kernel_does_not_tell_is_none(tmp_path: Path) -> None:
    """An empty list of groups is another value."""
    a_process(tmp_path, status=b"Name:\tsh\nGroups:\t \n")

    assert details(PID, START_NS, tmp_path).process == ProcessDetails(groups=(), execed=True)


@pytest.mark.parametrize(("link", "gone"), [(b"/bin/x (deleted)", True), (b"/bin/sh", False)])
def test_a_program_that_was_removed_has_the_path_it_had(tmp_path: Path, link: bytes, gone: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """The kernel's suffix is not part of the path."""
    a_process(tmp_path, exe=link, status=STATUS)
    told = details(PID, START_NS, tmp_path).process

    assert told is not None
    assert (told.exe, told.deleted_exe) == ((None, b"/bin/x") if gone else (link, None))


def test_a_program_may_be_called_what_the_kernel_calls_removed_ones(tmp_path: Path) -> None:
    """The file exists, so this is its name."""
    program = tmp_path / "x (deleted)"
    program.touch()
    a_process(tmp_path, exe=os.fsencode(program), status=STATUS)
    told = details(PID, START_NS, tmp_path).process

    assert told is not None
    assert (told.exe, told.deleted_exe) == (os.fsencode(program), None)


def test_the_kernel_marks_a_removed_program_as_we_read_it(tmp_path: Path) -> None:
    """The test removes a copy of sleep while it runs."""
    program = tmp_path / "sleeper"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "1000"]) as child:
        here = details(child.pid, start_of(child.pid)).process
        program.unlink()
        gone = details(child.pid, start_of(child.pid)).process
        child.kill()

    assert here is not None
    assert gone is not None
    assert (here.exe, here.deleted_exe) == (os.fsencode(program), None)
    assert here.exe_file is not None
    assert here.cwd_id == (os.stat(os.getcwd()).st_dev, os.stat(os.getcwd()).st_ino)
    assert here.exe_file.size == os.stat("/bin/sleep").st_size
    assert (gone.exe, gone.deleted_exe, gone.exe_file) == (None, os.fsencode(program), None)


def test_a_program_that_is_left_under_another_name_was_removed(tmp_path: Path) -> None:
    """Its file still has a link, and its path with the kernel's suffix may be another program's."""
    program = tmp_path / "sleeper"
    shutil.copy("/bin/sleep", program)
    (tmp_path / "second").hardlink_to(program)
    with subprocess.Popen([program, "1000"]) as child:
        program.unlink()
        (tmp_path / "sleeper (deleted)").touch()
        told = details(child.pid, start_of(child.pid)).process
        child.kill()

    assert told is not None
    assert (told.exe, told.deleted_exe) == (None, os.fsencode(program))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
@pytest.mark.parametrize("way", ["mounted over", "lazily unmounted"])
def test_a_path_that_leads_to_another_file_is_not_told(tmp_path: Path, way: str) -> None:
    """The kernel shows the path as if nothing had happened."""
    top = tmp_path / "mount"
    top.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", top], check=True)
    program = top / "sleep"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "1000"], cwd=top) as child:
        laid = ["mount", "-t", "tmpfs", "none", str(top)]
        over = laid if way == "mounted over" else ["umount", "-l", str(top)]
        before = details(child.pid, start_of(child.pid))
        subprocess.run(over, check=True)
        program.touch()
        shown = Path(f"/proc/{child.pid}/exe").readlink()
        told = details(child.pid, start_of(child.pid), where=SurroundingsReader())
        child.kill()
    if way == "mounted over":
        subprocess.run(["umount", top], check=True)
        subprocess.run(["umount", top], check=True)

    assert before.process is not None
    assert told.process is not None
    assert (before.process.exe, before.cwd) == (os.fsencode(program), os.fsencode(top))
    assert not str(shown).endswith(" (deleted)")
    assert told.process.exe is None
    assert told.process.deleted_exe == os.fsencode(shown)
    assert told.cwd is not None
    assert told.cwd.endswith(b" (deleted)")


def test_who_has_not_called_exec_says_so() -> None:
    """The process runs the program of its creator."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.umask(0o27)
        os.write(writer, b".")
        signal.pause()
    try:
        os.read(reader, 1)
        told = details(child, start_of(child)).process
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)

    assert told is not None
    assert (told.execed, told.umask) == (False, 0o27)
    assert told.groups is not None
    assert set(told.groups) == set(os.getgroups())


def test_an_opened_process_does_not_become_another() -> None:
    """A descriptor from before the end reads nothing after it, even if another process has the number."""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    with opened(f"/proc/{pid}") as process:
        before = read_at(process, "stat")
        os.waitpid(pid, 0)
        after = read_at(process, "stat")

    assert before is not None
    assert after is None
