# SPDX-License-Identifier: Apache-2.0
"""The filter of the guard's system calls."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "agent" / "restart" / "helper"
# Prints the filter, then the numbers of the calls that the test names.
WRITER = """
#include "guardfilter.c"
void *memset(void *at, int value, size_t size) { for (char *byte = at; size--;) *byte++ = (char)value; return at; }
void write_all(void);
PROGRAM_START(write_all);
void write_all(void)
{
	static const uint16_t numbers[] = {%s};

	CALL3(write, 1, steps, sizeof(steps));
	CALL3(write, 1, numbers, sizeof(numbers));
	for (;;)
		CALL1(exit_group, 0);
}
"""
MAY = (
    *("ppoll", "read", "recvmsg", "recvfrom", "waitid", "clock_gettime", "nanosleep", "restart_syscall", "sendto"),
    *("futex", "kill", "pidfd_open", "pidfd_send_signal", "getpid", "getdents64", "close", "dup3", "chdir"),
    *("close_range", "setsid", "exit_group"),
)
# By their arguments: some that the guard uses, and some that would be more.
BY_ARGUMENT: dict[str, tuple[list[tuple[int, ...]], list[tuple[int, ...]]]] = {
    "write": ([(5,)], [(1,), (4,)]),
    "openat": (
        [
            (-100, 0, os.O_CLOEXEC),
            (-100, 0, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC),
            (-100, 0, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC),
        ],
        [(-100, 0, flags) for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_TMPFILE)],
    ),
    "mmap": ([(0, 1, 1 | 2)], [(0, 1, 1 | 4), (0, 1, 7)]),
    "prlimit64": ([(0,)], [(1,), (-1,)]),
    "unlinkat": ([(9, 0, 0)], [(-100, 0, 0), (9, 0, 0x200), (8, 0, 0)]),
    "clone": ([(17,)], [(0,), (0x00008000 | 17,), (0x10000000 | 17,), (0x100 | 17,)]),
    "fcntl": ([(0, 0)], [(0, 1), (0, 2), (0, 8)]),
    "prctl": ([(15,)], [(22,), (38,), (24,)]),
}
NEVER = (
    *("execve", "execveat", "clone3", "socket", "socketpair", "connect", "ptrace", "mprotect", "mremap", "openat2"),
    *("mount", "setns", "unshare", "bpf", "setresuid", "capset", "process_vm_writev", "memfd_create", "io_uring_setup"),
)
CALLS = (*MAY, *BY_ARGUMENT, *NEVER)
Step = tuple[int, int, int, int]
PERMITTED, REFUSED = 0x7FFF0000, 0x00050001
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Step], dict[str, int]]:
    """Return the steps of the filter, and numbers of calls by their names, as this machine's compiler has them."""
    if shutil.which("gcc") is None:
        assert os.geteuid(), "gcc is missing, which `make setup` installs for root"
        pytest.skip("no gcc here")
    folder = tmp_path_factory.mktemp("filter")
    source, program = folder / "writer.c", folder / "writer"
    source.write_text(WRITER % ", ".join(f"__NR_{call}" for call in CALLS))
    flags = ("-std=gnu11", "-O2", "-Werror", "-static", "-nostdlib", "-nostartfiles", "-ffreestanding", f"-I{FOLDER}")
    subprocess.run(["gcc", *flags, "-o", str(program), str(source)], check=True)
    data = subprocess.run([str(program)], check=True, capture_output=True).stdout
    numbers = struct.unpack(f"={len(CALLS)}H", data[-2 * len(CALLS) :])
    return list(struct.iter_unpack("=HBBI", data[: -2 * len(CALLS)])), dict(zip(CALLS, numbers, strict=True))


def answer(steps: list[Step], number: int, *arguments: int, arch: int | None = None) -> int:
    """Return the filter's answer to a call."""
    arch = ARCHITECTURE[os.uname().machine] if arch is None else arch
    padded = [one & (1 << 64) - 1 for one in (*arguments, *(0,) * 6)][:6]
    data = struct.pack("=IIQ6Q", number, arch, 0, *padded)
    at = value = 0
    while True:
        code, yes, no, operand = steps[at]
        at += 1
        if code == 0x20:
            value = struct.unpack_from("=I", data, operand)[0]
        elif code == 0x15:
            at += yes if value == operand else no
        elif code == 0x45:
            at += yes if value & operand else no
        else:
            assert code == 0x06
            return operand


def test_the_guard_may_make_the_calls_of_its_loop(known: tuple[list[Step], dict[str, int]]) -> None:
    """Some only with the arguments that it uses."""
    steps, numbers = known
    refused = [call for call in MAY if answer(steps, numbers[call]) != PERMITTED]
    assert refused == []
    for call, (used, more) in BY_ARGUMENT.items():
        assert [answer(steps, numbers[call], *each) for each in used] == [PERMITTED] * len(used), call
        assert [answer(steps, numbers[call], *each) for each in more] == [REFUSED] * len(more), call


def test_every_other_call_is_refused(known: tuple[list[Step], dict[str, int]]) -> None:
    """The list is of what may be, so calls of later kernels are refused too, and those by other numbers."""
    steps, numbers = known
    listed = {numbers[call] for call in (*MAY, *BY_ARGUMENT)}

    assert {answer(steps, numbers[call]) for call in NEVER} == {REFUSED}
    assert {answer(steps, number) for number in range(2000) if number not in listed} == {REFUSED}
    assert {answer(steps, number | 1 << 30) for number in range(2000)} == {REFUSED}
    assert {answer(steps, number, arch=0x40000003) for number in range(2000)} == {REFUSED}
