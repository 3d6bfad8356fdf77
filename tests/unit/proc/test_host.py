# SPDX-License-Identifier: Apache-2.0
"""The facts about a host in an image's header: of this host and of invented ones."""

import os
import platform
from pathlib import Path

import pytest

from agent.errors import HostError
from agent.proc import host


def a_file(path: Path, text: str) -> None:
    """Write a file of an invented /proc or /sys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.18.44-fc-v445", (6, 18, 44)),
        ("6.1.0-18-amd64", (6, 1, 0)),
        ("6.1-rc1", (6, 1, 0)),
        ("7", (7, 0, 0)),
        ("4.14.336+", (4, 14, 336)),
        ("next-20240101", (0, 0, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_the_kernel_version_is_what_the_release_starts_with(release: str, expected: tuple[int, int, int]) -> None:
    """Distributions append any text; a missing number is 0."""
    assert expected == host.kernel_version(release)


def test_the_header_is_unames_word() -> None:
    """Release, version and machine are those of uname(2)."""
    header = host.header()

    assert (platform.release(), platform.version(), platform.machine()) == (
        header.release,
        header.version,
        header.machine,
    )
    assert header.release.startswith(".".join(str(part) for part in header.kernel_version[:2]))


def test_processor_features_are_whole_words_of_the_flags(tmp_path: Path) -> None:
    """fxsr_opt is not fxsr, and xsaveopt is not xsave."""
    a_file(tmp_path / "cpuinfo", "processor\t: 0\nflags\t\t: fpu fxsr_opt xsaveopt\n")
    without = host.header(tmp_path, tmp_path)
    a_file(tmp_path / "cpuinfo", "processor\t: 0\nflags\t\t: fpu fxsr xsave\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    having = host.header(tmp_path, tmp_path)

    assert (without.has_fxsr, without.has_xsave) == (False, False)
    assert (having.has_fxsr, having.has_xsave) == (True, True)


def test_a_processor_without_flags_has_no_features(tmp_path: Path) -> None:
    """Other architectures have a line Features, or none."""
    a_file(tmp_path / "cpuinfo", "processor\t: 0\nFeatures\t: fp asimd fxsr\n")

    assert not host.header(tmp_path, tmp_path).has_fxsr


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("lockdown,capability,landlock,yama,apparmor,bpf", "apparmor"),
        ("capability,selinux\n", "selinux"),
        ("capability,tomoyo,apparmor", "tomoyo"),
        ("capability,landlock,yama,bpf", "lsm_none"),
        ("", "lsm_none"),
    ],
)
def test_the_security_module_is_the_one_that_leads(tmp_path: Path, listed: str, expected: str) -> None:
    """The stackable modules never were the name in an image; each name fits the image's ten bytes."""
    a_file(tmp_path / "kernel/security/lsm", listed)
    lsm = host.header(tmp_path, tmp_path).lsm

    assert expected == lsm
    assert len(lsm) <= 10


def test_a_host_without_securityfs_has_no_security_module(tmp_path: Path) -> None:
    """The file is missing if securityfs is not mounted."""
    assert host.header(tmp_path, tmp_path).lsm == "lsm_none"


def test_the_boot_id_is_the_kernels() -> None:
    """The newline of the file is removed."""
    assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() == host.boot_id()
    assert len(host.boot_id()) == len("00000000-0000-0000-0000-000000000000")


def test_a_hidden_boot_id_is_empty(tmp_path: Path) -> None:
    """A container may hide /proc/sys."""
    assert host.boot_id(tmp_path) == ""


@pytest.mark.parametrize(("target", "expected"), [("pid:[4026531836]", True), ("pid:[4026532281]", False)])
def test_the_initial_pid_namespace_is_known_by_its_number(tmp_path: Path, target: str, *, expected: bool) -> None:
    """The kernel gives it a constant inode number."""
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to(target)

    assert expected == host.in_initial_pid_namespace(tmp_path)


def test_the_link_and_the_inode_of_our_own_namespace_agree() -> None:
    """Comparisons by name use the inode number."""
    inode = Path("/proc/self/ns/pid").stat().st_ino

    assert (inode == host.PROC_PID_INIT_INO) == host.in_initial_pid_namespace()


def test_a_missing_procfs_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    """A host without /proc has no facts to guess."""
    with pytest.raises(HostError, match=f"mount procfs on {tmp_path}") as caught:
        host.in_initial_pid_namespace(tmp_path)

    assert caught.value.exit_code == 5


def test_a_second_is_a_whole_number_of_ticks() -> None:
    """Otherwise the kernel would round a start time differently from ns_per_tick()."""
    assert os.sysconf("SC_CLK_TCK") == host.clock_ticks()
    assert host.ns_per_tick() * host.clock_ticks() == 1_000_000_000


def test_a_device_is_named_as_below_dev(tmp_path: Path) -> None:
    """Pseudo-terminals have numbers, which sysfs lacks; sysfs names the others; None if it does not."""
    (tmp_path / "dev/char").mkdir(parents=True)
    (tmp_path / "dev/char/4:64").symlink_to("../../devices/platform/serial8250/tty/ttyS0")

    names = [host.device_name(os.makedev(*number), tmp_path) for number in ((136, 0), (136, 300), (4, 64), (4, 65))]

    assert names == [b"pts/0", b"pts/300", b"ttyS0", None]


def a_time_namespace(proc: Path, own: int, for_children: int, offsets: str = "") -> None:
    """Make an invented /proc of a process in a time namespace."""
    (proc / "self/ns").mkdir(parents=True)
    (proc / "self/ns/time").symlink_to(f"time:[{own}]")
    (proc / "self/ns/time_for_children").symlink_to(f"time:[{for_children}]")
    a_file(proc / "self/timens_offsets", offsets)


OFFSETS = "monotonic           7         0\nboottime       -86400 500000000\n"


def test_starts_are_shifted_by_the_readers_time_namespace(tmp_path: Path) -> None:
    """Of seconds and nanoseconds only the former may be negative."""
    a_time_namespace(tmp_path, 4026532001, 4026532001, OFFSETS)
    offset_ns = host.boottime_offset_ns(tmp_path)

    assert offset_ns == -86400 * 10**9 + 500_000_000
    assert host.start_ticks(86400 * 10**9, offset_ns) == 50


def test_the_initial_time_namespace_shifts_nothing(tmp_path: Path) -> None:
    """The offsets in the file are those of the namespace for children."""
    a_time_namespace(tmp_path, host.PROC_TIME_INIT_INO, 4026532001, OFFSETS)

    assert host.boottime_offset_ns(tmp_path) == 0


def test_an_offset_that_the_kernel_does_not_tell_is_no_offset_of_0(tmp_path: Path) -> None:
    """This happens after a second unshare, before the next fork."""
    a_time_namespace(tmp_path, 4026532001, 4026532002, OFFSETS)

    with pytest.raises(HostError, match="ask from a child of it"):
        host.boottime_offset_ns(tmp_path)


def test_a_kernel_without_time_namespaces_shifts_nothing(tmp_path: Path) -> None:
    """They exist since v5.6."""
    assert host.boottime_offset_ns(tmp_path) == 0
