# SPDX-License-Identifier: Apache-2.0
"""The agreement of the helper's constants with the system's own headers, which a program without a C library lacks."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.restart.contents import registers, resumer
from agent.restart.contents.syscalls import CALLS

HELPER = Path(__file__).parents[3] / "agent" / "restart" / "helper"
HEADER = HELPER / "kernel_calls.h"
SYSTEM = (
    *("errno.h", "fcntl.h", "limits.h", "poll.h", "sched.h", "signal.h", "stddef.h", "time.h", "unistd.h"),
    *("sys/mman.h", "sys/mount.h", "sys/prctl.h", "sys/resource.h", "sys/socket.h", "sys/wait.h"),
    *("linux/capability.h", "linux/close_range.h", "linux/futex.h", "linux/sched.h", "linux/seccomp.h"),
)
OTHER_NAMES = {
    "CAPABILITY_VERSION": "_LINUX_CAPABILITY_VERSION_3",
    "WALL": "__WALL",
    "SIGNALS": "_NSIG - 1",
    "SIGNAL_SET_BYTES": "_NSIG / 8",
    "SIGNAL_INFO_BYTES": "sizeof(siginfo_t)",
    "ALL_WAITERS": "INT_MAX",
    "ENTRY_SIZE_AT": "__builtin_offsetof(struct dirent64, d_reclen)",
    "ENTRY_NAME_AT": "__builtin_offsetof(struct dirent64, d_name)",
    "STANDARD_STREAMS": "STDERR_FILENO + 1",
    "BPF_RET_VALUE": "BPF_RET | BPF_K",
    "BPF_LOAD_WORD": "BPF_LD | BPF_W | BPF_ABS",
    "BPF_IF_EQUAL": "BPF_JMP | BPF_JEQ | BPF_K",
    "BPF_IF_ANY_BIT": "BPF_JMP | BPF_JSET | BPF_K",
    "STATUS_CORE": "WCOREFLAG",
}
# Chosen here, or without a name in the system's headers.
OURS = {
    *("PAGE", "ERRORS", "SA_RESTORER", "SIGNAL_GUARD_GONE", "NS_PER_S", "MS_PER_S", "NS_PER_MS"),
    "PR_TIMER_CREATE_RESTORE_IDS",  # of Linux 6.15
    *("STATUS_BYTES", "STATUS_SIGNAL", "STATUS_CODE_SHIFT", "STATUS_CODE"),
}


def _need_gcc() -> None:
    if shutil.which("gcc") is None:
        assert os.geteuid(), "gcc is missing, which `make setup` installs for root"
        pytest.skip("no gcc here")


def test_a_constant_has_the_value_of_the_system(tmp_path: Path) -> None:
    """The comparison leaves out the constants of a single processor."""
    _need_gcc()
    header = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    shared = re.sub(r"^#if defined\(__x86_64__\).*?^#endif$", "", header, flags=re.DOTALL | re.MULTILINE)
    constants = dict(re.findall(r"^#define (\w+) (.+)$", shared, re.MULTILINE))
    source = tmp_path / "constants.c"
    source.write_text(
        "#define _GNU_SOURCE\n#include <dirent.h>\n#include <linux/filter.h>\n#include <linux/keyctl.h>\n"
        + "".join(f"#include <{name}>\n" for name in SYSTEM)
        + "".join(
            f'_Static_assert((long)({OTHER_NAMES.get(name, name)}) == (long)({value}), "{name}");\n'
            for name, value in constants.items()
            if name not in OURS
        )
    )
    done = subprocess.run(["gcc", "-std=gnu11", "-fsyntax-only", source], capture_output=True, text=True, check=False)

    assert len(constants) > 80
    assert constants.keys() >= OURS | OTHER_NAMES.keys()
    assert done.stderr == ""


def _compiled(source: str, folder: Path) -> str:
    """Return what the compiler says of a program."""
    path = folder / "constants.c"
    path.write_text(source)
    return subprocess.run(
        ["gcc", "-std=gnu11", "-fsyntax-only", path], capture_output=True, text=True, check=False
    ).stderr


def test_a_constant_of_ptrace_has_the_value_of_the_system(tmp_path: Path) -> None:
    """PTRACE_EVENT_STOP and the register sets are in the kernel's headers alone, the others in the C library's."""
    _need_gcc()
    text = re.sub(
        r"/\*.*?\*/", "", (HELPER / "tracing.h").read_text() + (HELPER / "resume.c").read_text(), flags=re.DOTALL
    )
    constants = dict(re.findall(r"^#define ((?:PTRACE|NT)_\w+) (.+)$", text, re.MULTILINE))

    assert len(constants) > 12
    assert constants["PTRACE_O_EXITKILL"] == "(1 << 20)"
    found = "#include <linux/ptrace.h>\n#include <elf.h>\n" + "".join(
        f'_Static_assert((long)({name}) == (long)({value}), "{name}");\n' for name, value in constants.items()
    )
    suspend = f'_Static_assert(PTRACE_O_SUSPEND_SECCOMP == {resumer.SUSPEND_SECCOMP}, "suspend");\n'
    assert _compiled(found + suspend, tmp_path) == ""


def test_a_register_has_the_place_of_the_system(tmp_path: Path) -> None:
    """The order of struct user_regs_struct, and the places at which the resumer changes a call."""
    _need_gcc()
    names = {"bp": "rbp", "bx": "rbx", "ax": "rax", "cx": "rcx", "dx": "rdx", "si": "rsi", "di": "rdi", "sp": "rsp"}
    names |= {"ip": "rip", "flags": "eflags", "orig_ax": "orig_rax"}
    source = "#include <stddef.h>\n#include <sys/user.h>\n" + "".join(
        f'_Static_assert(offsetof(struct user_regs_struct, {names.get(name, name)}) == {8 * at}, "{name}");\n'
        for at, name in enumerate(registers.REGISTERS)
    )

    assert _compiled(source, tmp_path) == ""
    text = (HELPER / "resume.c").read_text()
    for name, register in (
        ("RESTART", "orig_ax"),
        ("INSTRUCTION", "ip"),
        ("CALL", "ax"),
        ("FIRST", "di"),
        ("SECOND", "si"),
    ):
        assert re.search(rf"#define AT_{name} {registers.REGISTERS.index(register)}\b", text), name


def test_a_system_call_has_the_number_of_the_system(tmp_path: Path) -> None:
    """Numbers that are newer than the header are not compared; there are few."""
    _need_gcc()
    source = "#include <asm/unistd_64.h>\n" + "".join(
        f'#ifdef __NR_{name}\n_Static_assert(__NR_{name} == {number}, "{name}");\n#else\n#warning {name}\n#endif\n'
        for name, number in CALLS.items()
    )
    said = _compiled(source, tmp_path)

    assert "error" not in said
    assert said.count("#warning") <= len(CALLS) // 20
