# SPDX-License-Identifier: Apache-2.0
"""This host: the facts for an image's header, and the meaning of /proc's numbers.

The caller may choose the roots of the files, so that a test needs no other machine. A file that the kernel was built
without is no error: the header then says less.
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.errors import HostError
from agent.model import Header
from exporters.content.fields import escape

PROC_PID_INIT_INO: Final = 0xEFFFFFFC
"""Inode number of the initial pid namespace: a constant of the kernel, in its linux/proc_ns.h."""

PROC_TIME_INIT_INO: Final = 0xEFFFFFFA
"""Inode number of the initial time namespace: a constant of the kernel, in its linux/proc_ns.h."""

_NS_PER_SECOND: Final = 1_000_000_000
# Only one of these at a time is in force; the others in the list (capability, yama, bpf, ...) stack beside it, and an
# image never names them. Each name fits the ten bytes that the image has for it.
_MAJOR_LSMS: Final = frozenset({"apparmor", "selinux", "smack", "tomoyo"})
_PTS_MAJOR: Final = 136  # UNIX98_PTY_SLAVE_MAJOR
_RELEASE: Final = r"(\d+)(?:\.(\d+))?(?:\.(\d+))?"  # compiled where it is asked for


def own_status(proc: Path = Path("/proc")) -> dict[str, str]:
    """Read the fields of /proc/self/status, by name.

    Raises:
        HostError: no procfs that shows this process is mounted there.
    """
    try:
        text = (proc / "self/status").read_text()
    except FileNotFoundError as error:
        raise HostError(
            f"{proc} knows nothing of this process: mount procfs on it (mount -t proc proc {proc})"
        ) from error
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def clock_ticks() -> int:
    """Return the clock ticks per second, the unit of times in /proc/PID/stat; 100 on nearly all architectures."""
    return os.sysconf("SC_CLK_TCK")


def ns_per_tick() -> int:
    """Return the length of a clock tick, ns, rounded as the kernel's nsec_to_clock_t() rounds it."""
    return _NS_PER_SECOND // clock_ticks()


def boottime_offset_ns(proc: Path = Path("/proc")) -> int:
    """Return the offset, ns, that /proc adds to start times on the host's CLOCK_BOOTTIME for this reader.

    A time namespace shifts the clocks of its members, and the kernel shows each reader the starts on the reader's clock
    (``timens_add_boottime_ns()`` in fs/proc/array.c).

    Raises:
        HostError: this process has unshared its time namespace and not forked since: the kernel then shows the offsets
            of the next child's namespace, not those of its own.
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


def cut_clock(proc: Path = Path("/proc")) -> Callable[[], int | None]:
    """Return a function that reads the host's CLOCK_BOOTTIME, ns; None where boottime_offset_ns() raises an error."""
    try:
        offset_ns = boottime_offset_ns(proc)
    except HostError:
        return lambda: None
    return lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) - offset_ns


def start_ticks(start_ns: int, offset_ns: int) -> int:
    """Return the start of a process as /proc shows it, in clock ticks.

    Args:
        start_ns: by CLOCK_BOOTTIME of the host.
        offset_ns: from boottime_offset_ns().
    """
    return (start_ns + offset_ns) // ns_per_tick()


def boot_id(proc: Path = Path("/proc")) -> str:
    """Return the kernel's random id of this boot; empty where /proc/sys is hidden."""
    return _text(proc / "sys/kernel/random/boot_id").strip()


def in_initial_pid_namespace(proc: Path = Path("/proc")) -> bool:
    """Return True if this process is in the initial pid namespace.

    Raises:
        HostError: no procfs is mounted there, or it does not show this process.
    """
    link = proc / "self/ns/pid"
    try:
        return link.readlink().name == f"pid:[{PROC_PID_INIT_INO}]"
    except OSError as error:
        raise HostError(f"{link} cannot be read ({error.strerror}): mount procfs on {proc}") from error


def header(proc: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> Header:
    """Return the description of this host for an image's header.

    ``xstate_size`` stays 0, unknown: no file has it, and Python cannot execute CPUID.
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
    """Return a string of uname(2), which is bytes, as an image's header has it."""
    return escape(os.fsencode(name))


def device_name(number: int, sysfs: Path = Path("/sys")) -> bytes | None:
    """Return the name below /dev of a character device; None where sysfs has none.

    Args:
        number: major and minor in one, as the kernel writes it in /proc.
        sysfs: mount point of sysfs.
    """
    major, minor = os.major(number), os.minor(number)
    if major == _PTS_MAJOR:  # sysfs has no pseudo-terminals
        return b"pts/%d" % minor
    try:
        return os.fsencode(os.readlink(sysfs / f"dev/char/{major}:{minor}").rpartition("/")[2])
    except OSError:
        return None


def kernel_version(release: str) -> tuple[int, int, int]:
    """Return major, minor and patch of uname's release; a missing part ("6.1-rc1") is 0."""
    match = re.match(_RELEASE, release)
    if match is None:
        return (0, 0, 0)
    major, minor, patch = (int(part or 0) for part in match.groups())
    return (major, minor, patch)


def _cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the first processor's flags; empty on an architecture that names none."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def _major_lsm(listed: str) -> str:
    """Return the name of the major security module in force, as an image has it."""
    return next((name for name in listed.strip().split(",") if name in _MAJOR_LSMS), "lsm_none")


def _links(folder: Path, *names: str) -> list[str]:
    """Read the links of a folder; empty texts for those that this kernel lacks."""
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
    """Read a file's text; empty where this kernel lacks the file or the caller may not read it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def realtime_ahead_ns() -> int:
    """Return the difference CLOCK_REALTIME minus CLOCK_BOOTTIME, ns."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
