# SPDX-License-Identifier: Apache-2.0
"""Arguments and environment as exec put them into memory, or the reason why they are unknown."""

import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.proc.arguments import HELD, HELD_TITLE, MOVED, ProcessMemory, Stack, Strings, judge
from agent.proc.details import Details, details
from agent.proc.host import ns_per_tick
from agent.proc.statfile import stat_fields
from agent.table.areas import HASHED_BYTES, Area, AtExec
from tests.support.ready import running

ARGS = b"/usr/sbin/d\0-c\0\0"
ENV = b"PATH=/bin\0EMPTY=\0"
START = 0x7FFC_0000_1000
AT = ProcessMemory(1 << 20, START - 800, START, START + len(ARGS), START + len(ARGS), START + len(ARGS) + len(ENV))
STACK = Stack(3, (START, START + 12, START + 15))
TOLD = Strings((b"/usr/sbin/d", b"-c", b""), (b"PATH=/bin", b"EMPTY="))
UNSEEN = AtExec()


def seen(
    arguments: bytes = ARGS, environment: bytes = ENV, *, same: tuple[bool, bool] = (True, True), kept: bool = False
) -> AtExec:
    """Return the hook's view of both areas, with the result of the comparison."""
    texts = (arguments[:4096], environment[:4096]) if kept else (None, None)
    return AtExec(
        Area(START, len(arguments), same[0], texts[0]),
        Area(START + len(ARGS), len(environment), same[1], texts[1]),
    )


OTHER = (False, True)


def test_what_nobody_wrote_over_is_told() -> None:
    """The arguments may have an empty one, and the environment a variable without a value."""
    assert judge(AT, ARGS, ENV, STACK, UNSEEN) == judge(AT, ARGS, ENV, STACK, seen()) == TOLD


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (b"d: main process\0"[: len(ARGS)], "it has 1 strings, and exec gave it 3"),
        (b"d: main".ljust(len(ARGS), b"\0"), "it has 9 strings, and exec gave it 3"),
        (b"d: main".ljust(len(ARGS)), "its end has been written over"),
    ],
    ids=["all of it", "padded with NULs", "padded with spaces"],
)
def test_a_title_is_told_by_its_marks(arguments: bytes, reason: str) -> None:
    """No hook saw the exec."""
    told = judge(AT, arguments, ENV, STACK, UNSEEN)

    assert told.argv is None
    assert told.argv_unknown is not None
    assert reason in told.argv_unknown


def test_a_title_that_keeps_every_string_in_its_place_is_told_by_the_hash_alone() -> None:
    """Such a title has no mark."""
    title = ARGS.replace(b"sbin", b"nibs")

    assert judge(AT, title, ENV, STACK, UNSEEN).argv == (b"/usr/nibs/d", b"-c", b"")
    assert judge(AT, title, ENV, STACK, seen(same=OTHER)) == Strings(
        None, TOLD.env, "it has been written over since exec"
    )
    assert judge(AT, title, ENV, STACK, seen(same=OTHER, kept=True)) == TOLD


def test_a_title_that_goes_on_behind_the_arguments_has_taken_the_environment_too() -> None:
    """The title may use all of the environment."""
    told = judge(AT, b"d: main process."[: len(ARGS)], b" /usr/sbin/d -c\0"[: len(ENV)] + b"\0", STACK, UNSEEN)

    assert (told.argv, told.env) == (None, None)
    assert told.env_unknown == "it has been written over, as by a title"


def test_a_secret_that_was_wiped_out_of_the_environment_is_missed() -> None:
    """The hash and the empty strings show it; the arguments are unchanged."""
    wiped = b"PATH=" + bytes(len(ENV) - 5)

    assert judge(AT, ARGS, wiped, STACK, UNSEEN).env is None
    assert judge(AT, ARGS, wiped, STACK, seen(same=(True, False))) == Strings(
        TOLD.argv, None, None, "it has been written over since exec"
    )
    assert judge(AT, ARGS, wiped, STACK, seen(same=(True, False), kept=True)) == TOLD


def test_arguments_that_prctl_has_moved_are_no_arguments() -> None:
    """systemd sets its title so."""
    moved = AT._replace(arg_start=START - 700, arg_end=START - 690)
    told = judge(moved, b"(sd-pam)\0\0", ENV, STACK, UNSEEN)

    assert (told.argv, told.env) == (None, TOLD.env)
    assert told.argv_unknown == "it has been moved by prctl(PR_SET_MM), as for a title"
    assert judge(moved, b"(sd-pam)\0\0", ENV, STACK, seen(same=OTHER, kept=True)) == TOLD


@pytest.mark.parametrize("known", [True, False], ids=["addresses known", "addresses hidden"])
def test_a_task_that_a_restart_holds_has_no_arguments_and_where_they_are_is_said(known: bool) -> None:  # noqa: FBT001
    """Its title is not an argument, though it ends like one."""
    title = HELD_TITLE + b"1 sh\0"
    end = START + len(title)
    where = AT._replace(arg_start=START, arg_end=end, env_start=end, env_end=end) if known else ProcessMemory(*[0] * 6)

    assert judge(where, title, b"", None, UNSEEN) == Strings(None, (), HELD, None)
    assert judge(where, title, b"", None, seen(same=(False, False))) == Strings(None, (), HELD, None)


def test_the_helper_gives_the_title_that_is_known_here() -> None:
    """The helper is written in C."""
    helper = (Path(__file__).parents[3] / "agent/restart/helper/settle.c").read_text()

    assert f'"{HELD_TITLE.decode()}"' in helper


def test_strings_that_are_where_no_exec_had_put_them_are_not_known() -> None:
    """prctl(PR_SET_MM_MAP) moves stack and strings together, so no mark shows it; the text may still be that of
    exec.
    """
    far = ProcessMemory(AT.size, *(each + 4096 for each in AT[1:]))
    stack = Stack(3, tuple(each + 4096 for each in STACK.pointers))

    assert judge(far, ARGS, ENV, stack, UNSEEN) == TOLD
    for same in ((False, False), (True, True)):
        assert judge(far, ARGS, ENV, stack, seen(same=same)) == Strings(None, None, MOVED, MOVED)
    assert judge(far, b"/bin/sh\0", ENV, stack, seen(same=(False, True), kept=True)) == TOLD


def test_where_the_place_may_not_be_known_the_bytes_decide() -> None:
    """The kernel shows the place only to callers that may trace the process."""
    nowhere = ProcessMemory(AT.size, 0, 0, 0, 0, 0)

    assert judge(nowhere, ARGS, None, None, seen(same=(True, False))) == Strings(TOLD.argv)
    assert judge(nowhere, ARGS, None, None, seen(same=(False, False))).argv is None


def test_of_long_areas_the_rest_is_not_certain_and_judged_by_its_marks() -> None:
    """The hook reads a limited number of bytes."""
    words = b"".join(b"word%d\0" % n for n in range(2000))
    memory = AT._replace(arg_end=START + len(words), env_start=START + len(words))
    argv = judge(memory, words, ENV, Stack(2000, ()), seen(words))
    late = words[:-1] + b"x"

    assert len(words) > HASHED_BYTES
    assert argv.argv is not None
    assert len(argv.argv) == 2000
    assert argv.argv_uncertain == "what is behind its first 8192 bytes may have been written over since exec"
    assert argv.env_uncertain is None
    assert judge(memory, late, ENV, Stack(2000, ()), seen(words)).argv is None
    assert judge(memory, b"x" + words[1:], ENV, Stack(2000, ()), seen(words, same=OTHER, kept=True)).argv is None


def test_a_program_that_the_loader_was_told_to_run_has_its_own_arguments_and_the_loaders() -> None:
    """The loader removes its own arguments from argc, and leaves their strings in place."""
    assert judge(AT, ARGS, ENV, Stack(2, STACK.pointers[1:]), UNSEEN).argv == TOLD.argv


def test_without_the_right_to_read_memory_the_end_decides() -> None:
    """Then neither argc nor pointers can be read."""
    assert judge(AT, ARGS.replace(b"\0\0", b"x\0"), ENV, None, UNSEEN).argv == (b"/usr/sbin/d", b"-cx")
    assert judge(AT, b"d: main\0\0\0\0\0\0\0\0\0", ENV, None, UNSEEN).argv is None


# ---- real processes ----------------------------------------------------------------------------------------------------

TITLE = r"""
#include <string.h>
#include <unistd.h>
extern char **environ;
int main(int argc, char **argv)
{
	char *end = argv[argc - 1] + strlen(argv[argc - 1]);
	const char *title = argv[1];
	if (*title == 'e')
		for (char **e = environ; *e; e++)
			end = *e + strlen(*e);
	static char copy[256];
	strcpy(copy, title + 1);
	if (*copy) {
		memset(argv[0], 0, (size_t)(end - argv[0]));
		strncpy(argv[0], copy, (size_t)(end - argv[0]));
	}
	write(1, "", 1);
	for (;;)
		pause();
}
"""


@pytest.fixture(scope="module")
def titled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a program that writes its first argument over its arguments, and over the environment if it begins
    with e.
    """
    folder = tmp_path_factory.mktemp("title")
    (folder / "title.c").write_text(TITLE)
    subprocess.run(["gcc", "-w", "-O1", "-o", folder / "title", folder / "title.c"], check=True)
    return folder / "title"


def told_of(pid: int) -> Details:
    """Return the details of a running process."""
    ticks = int(stat_fields(Path(f"/proc/{pid}/stat").read_bytes())[19])
    return details(pid, ticks * ns_per_tick())


@pytest.mark.parametrize(
    "title", ["atitle", "amain process two words that go on", "emain process two words that go on"]
)
def test_a_title_of_a_real_process_is_never_taken_for_its_arguments(titled: Path, title: str) -> None:
    """The titles end within the arguments, behind them, or behind the environment."""
    with running(titled, title, "two") as pid:
        told = told_of(pid)

    assert told.argv is None
    assert told.process is not None
    assert told.process.argv_unknown is not None
    assert told.process.called == os.fsencode(titled)


def test_the_environment_in_front_of_which_a_title_ends_is_known(titled: Path) -> None:
    """The title did not reach it."""
    with running(titled, "atitle", "two") as pid:
        told = told_of(pid)

    assert told.env == (b"A=1", b"B=2")


def test_a_real_process_that_writes_nothing_is_told_with_all_its_strings(titled: Path) -> None:
    """Empty strings are among them, and the path of the program is that of a link."""
    link = titled.with_name("linked")
    link.symlink_to(titled)
    with running(link, "a", "", "") as pid:
        told = told_of(pid)

    assert told.argv == (os.fsencode(link), b"a", b"", b"")
    assert told.process is not None
    assert (told.process.exe, told.process.called) == (os.fsencode(titled), os.fsencode(link))


def test_an_argument_is_an_argument_where_the_loader_was_called_by_its_name() -> None:
    """Some wrappers call it so."""
    loader = next(iter(Path("/lib64").glob("ld-linux*")), None) or next(iter(Path("/lib").glob("ld-linux*")))
    sleep = shutil.which("sleep")
    assert sleep is not None
    with subprocess.Popen([loader, sleep, "1000"]) as process:
        try:
            deadline = time.monotonic() + 5
            while b"ld-linux" not in (told_of(process.pid).argv or (b"",))[0] and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.05)
            told = told_of(process.pid)
        finally:
            process.kill()

    assert told.argv == (os.fsencode(loader), os.fsencode(sleep), b"1000")


def test_this_process_was_started_with_what_it_was_started_with() -> None:
    """The word at start_stack is the number of arguments."""
    told = told_of(os.getpid())

    assert told.argv == tuple(map(os.fsencode, sys.orig_argv))
    assert struct.calcsize("P") == 8
