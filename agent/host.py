# SPDX-License-Identifier: Apache-2.0
"""This host: what an image's header records of it, and what /proc's numbers mean on it.

Everything is read from files whose root the caller may choose, so that a test needs no other machine. Nothing here
raises for a file that a kernel was built without: the header then says less.
"""

import os
import re
import time
from pathlib import Path
from typing import Final

from agent.errors import HostError
from agent.model import Header
from exporters.fields import escape

PROC_PID_INIT_INO: Final = 0xEFFFFFFC
"""Inode number of the initial pid namespace: a constant of the kernel, in its linux/proc_ns.h."""

PROC_TIME_INIT_INO: Final = 0xEFFFFFFA
"""The same of the initial time namespace."""

_NS_PER_SECOND: Final = 1_000_000_000
# The kernel lets one of these at a time lead; the others in the list (capability, yama, bpf, ...) stack below it and
# were never the name that an image carries. Each fits the ten bytes that the image has for it.
_MAJOR_LSMS: Final = frozenset({"apparmor", "selinux", "smack", "tomoyo"})
_PTS_MAJOR: Final = 136  # UNIX98_PTY_SLAVE_MAJOR
_RELEASE: Final = re.compile(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?")


def own_status(proc: Path = Path("/proc")) -> dict[str, str]:
    """Read what the kernel says of this process: the fields of /proc/self/status, by name.

    Raises:
        HostError: no procfs is mounted there that knows this process.
    """
    try:
        text = (proc / "self/status").read_text()
    except FileNotFoundError as error:
        raise HostError(
            f"{proc} knows nothing of this process: mount procfs on it (mount -t proc proc {proc})"
        ) from error
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def clock_ticks() -> int:
    """Clock ticks per second, the unit of the times in /proc/PID/stat; 100 on all but the oldest architectures."""
    return os.sysconf("SC_CLK_TCK")


def ns_per_tick() -> int:
    """Length of a clock tick, rounded as the kernel's nsec_to_clock_t() rounds it."""
    return _NS_PER_SECOND // clock_ticks()


def boottime_offset_ns(proc: Path = Path("/proc")) -> int:
    """What /proc adds to the start of each process, by CLOCK_BOOTTIME of the host, for this reader; in ns.

    A time namespace shifts the clocks of its members, and the kernel shows each reader the starts on the reader's own
    (``timens_add_boottime_ns()`` in fs/proc/array.c).

    Raises:
        HostError: the kernel does not tell: it shows the offsets of the namespace for the next child, and this process
            has unshared that and not forked since.
    """
    own, for_children = _links(proc / "self/ns", "time", "time_for_children")
    if own in ("", f"time:[{PROC_TIME_INIT_INO}]"):
        return 0
    if own != for_children:
        raise HostError(
            "this process has unshared its time namespace and is in the old one, whose offset the kernel does not tell: "
            "ask from a child of it"
        )
    for line in _text(proc / "self/timens_offsets").splitlines():
        name, seconds, ns = line.split()
        if name == "boottime":
            return int(seconds) * _NS_PER_SECOND + int(ns)
    return 0


def start_ticks(start_ns: int, offset_ns: int) -> int:
    """The start of a process as /proc shows it.

    Args:
        start_ns: by CLOCK_BOOTTIME of the host.
        offset_ns: from boottime_offset_ns().
    """
    return (start_ns + offset_ns) // ns_per_tick()


def boot_id(proc: Path = Path("/proc")) -> str:
    """The kernel's random name for this boot; empty where /proc/sys is hidden."""
    return _text(proc / "sys/kernel/random/boot_id").strip()


def in_initial_pid_namespace(proc: Path = Path("/proc")) -> bool:
    """Whether this process is a member of the pid namespace that the kernel booted with.

    Raises:
        HostError: no procfs is mounted there, or it is one that does not know this process.
    """
    link = proc / "self/ns/pid"
    try:
        return link.readlink().name == f"pid:[{PROC_PID_INIT_INO}]"
    except OSError as error:
        raise HostError(f"{link} cannot be read ({error.strerror}): mount procfs on {proc}") from error


def header(proc: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> Header:
    """This host as an image's header describes it.

    ``xstate_size`` stays 0, unknown: no file tells it, and CPUID is out of an interpreter's reach.
    """
    uname = os.uname()
    flags = _cpu_flags(_text(proc / "cpuinfo"))
    return Header(
        release=_word(uname.release),
        version=_word(uname.version),
        machine=_word(uname.machine),
        kernel_version=kernel_version(uname.release),
        has_fxsr="fxsr" in flags,
        has_xsave="xsave" in flags,
        lsm=_major_lsm(_text(sysfs / "kernel/security/lsm")),
    )


def _word(name: str) -> str:
    """A string of uname(2), which is bytes, as an image's header has it."""
    return escape(os.fsencode(name))


def device_name(number: int, sysfs: Path = Path("/sys")) -> bytes | None:
    """The name below /dev of a character device; None where sysfs does not tell.

    Args:
        number: major and minor in one, as the kernel writes it in /proc.
        sysfs: where that is mounted.
    """
    major, minor = os.major(number), os.minor(number)
    if major == _PTS_MAJOR:  # sysfs has no pseudo-terminals
        return b"pts/%d" % minor
    try:
        return os.fsencode(os.readlink(sysfs / f"dev/char/{major}:{minor}").rpartition("/")[2])
    except OSError:
        return None


def kernel_version(release: str) -> tuple[int, int, int]:
    """Major, minor and patch out of uname's release; a part that it lacks ("6.1-rc1") is 0."""
    match = _RELEASE.match(release)
    if match is None:
        return (0, 0, 0)
    major, minor, patch = (int(part or 0) for part in match.groups())
    return (major, minor, patch)


def _cpu_flags(cpuinfo: str) -> frozenset[str]:
    """The first processor's flags; empty on an architecture that names none."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def _major_lsm(listed: str) -> str:
    """The security module that leads, in the words of an image."""
    return next((name for name in listed.strip().split(",") if name in _MAJOR_LSMS), "lsm_none")


def _links(folder: Path, *names: str) -> list[str]:
    """Where the links of a folder lead; empty where this kernel lacks one."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return [""] * len(names)
    try:
        there = os.listdir(descriptor)
        return [os.readlink(name, dir_fd=descriptor) if name in there else "" for name in names]
    finally:
        os.close(descriptor)


def _text(path: Path) -> str:
    """A file's text; empty where this kernel lacks the file or keeps it from us."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def realtime_ahead_ns() -> int:
    """How far CLOCK_REALTIME is ahead of CLOCK_BOOTTIME, ns."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
