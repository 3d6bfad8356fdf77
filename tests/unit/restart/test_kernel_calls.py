# SPDX-License-Identifier: Apache-2.0
"""The agreement of the helper's constants with the system's own headers, which a program without a C library lacks."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HEADER = Path(__file__).parents[3] / "agent" / "restart" / "helper" / "kernel_calls.h"
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
    *("STATUS_BYTES", "STATUS_SIGNAL", "STATUS_CODE_SHIFT", "STATUS_CODE"),
}


def test_a_constant_has_the_value_of_the_system(tmp_path: Path) -> None:
    """The comparison leaves out the constants of a single processor."""
    if shutil.which("gcc") is None:
        assert os.geteuid(), "gcc is missing, which `make setup` installs for root"
        pytest.skip("no gcc here")
    header = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    shared = re.sub(r"^#if defined\(__x86_64__\).*?^#endif$", "", header, flags=re.DOTALL | re.MULTILINE)
    constants = dict(re.findall(r"^#define (\w+) (.+)$", shared, re.MULTILINE))
    source = tmp_path / "constants.c"
    source.write_text(
        "#define _GNU_SOURCE\n#include <dirent.h>\n#include <linux/filter.h>\n"
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
