# SPDX-License-Identifier: Apache-2.0
"""This host and the caller: the facts that decide which states of a process can be restored here."""

import ctypes
import mmap
import os
import resource
from functools import cache
from pathlib import Path
from typing import Final

from agent.proc.host import own_status
from agent.record import NamedTuple
from agent.restart.rebuild import rights

NAMESPACES: Final = ("net", "ipc", "uts", "mnt", "user", "cgroup", "time")
"""Kinds of namespaces that a restart does not make."""
_INITIAL: Final = {
    "net": 0xEFFFFFF9, "ipc": 0xEFFFFFFF, "uts": 0xEFFFFFFE, "mnt": 0xEFFFFFF8, "user": 0xEFFFFFFD,
    "cgroup": 0xEFFFFFFB, "time": 0xEFFFFFFA,
}  # fmt: skip
"""Numbers of the initial namespaces: the kernel's include/uapi/linux/nsfs.h. Those of net and mnt are of Linux 6.18."""
_KTHREADD: Final = 2
_AT_RSEQ_FEATURE_SIZE: Final = 27
_LIMITS: Final = 16
CAP_SYS_ADMIN, CAP_SYS_NICE, CAP_SYS_RESOURCE, CAP_SYS_TIME, CAP_AUDIT_CONTROL = 21, 23, 24, 25, 30
MADV_GUARD_INSTALL: Final = 102
INFINITE: Final = (1 << 64) - 1
_ALL: Final = (1 << 41) - 1


class HostFacts(NamedTuple):
    """The facts about this host and the caller.

    Attributes:
        machine: as uname(2) names it.
        flags: of the processor, as /proc/cpuinfo names them.
        effective: the caller's capabilities in force outside of any user namespace that the tree gets, as a mask.
        granted: the capabilities that tasks can get, as a mask.
        bounding: the tasks' bounding set.
        no_new_privs: True: it is set for the caller, so no task can be without it.
        uids, gids: ranges of ids that exist for the tasks.
        groups: the only supplementary groups that can be given; None: any.
        limits: soft and hard, by resource.
        oom_score_adj: the caller's.
        loginuid: the caller's; None where the kernel has none.
        initial: the kinds of namespaces in which the caller is in the initial one.
        profile: the caller's security label; empty: none.
        filtered: True: the caller has seccomp filters, which all tasks inherit.
        nice: the caller's nice value.
        long_rseq: True: the kernel takes areas of restartable sequences of more than 32 bytes.
        guards: True: the kernel has guard regions, as Linux has since 6.13.
    """

    machine: str
    flags: frozenset[str]
    effective: int = _ALL
    granted: int = _ALL
    bounding: int = _ALL
    no_new_privs: bool = False
    uids: tuple[range, ...] = (range(1 << 32),)
    gids: tuple[range, ...] = (range(1 << 32),)
    groups: frozenset[int] | None = None
    limits: tuple[tuple[int, int], ...] = ((INFINITE, INFINITE),) * _LIMITS
    oom_score_adj: int = 0
    loginuid: int | None = None
    initial: frozenset[str] = frozenset(NAMESPACES)
    profile: bytes = b""
    filtered: bool = False
    nice: int = 0
    long_rseq: bool = True
    guards: bool = True

    def has(self, capability: int) -> bool:
        """Return True if the caller has a capability."""
        return bool(self.effective >> capability & 1)


def this_host(*, pidns: bool, proc: Path = Path("/proc")) -> HostFacts:
    """Return the facts of this host.

    Args:
        pidns: True if the tree gets a pid namespace, and with it a user namespace where the caller is no administrator.
        proc: mount point of procfs.
    """
    status = own_status(proc)
    host = rights.this_host(pidns=pidns, runs=False, proc=proc)
    valid = (1 << int((proc / "sys/kernel/cap_last_cap").read_text()) + 1) - 1
    # In a user namespace of their own the tasks have all capabilities.
    granted = valid if host.ids_made else int(status["CapPrm"], 16)
    return HostFacts(
        os.uname().machine,
        _flags((proc / "cpuinfo").read_text()),
        int(status["CapEff"], 16),
        granted,
        host.bounding & valid,
        host.no_new_privs,
        host.uids,
        host.gids,
        host.groups,
        tuple(_limit(number) for number in range(_LIMITS)),
        int((proc / "self/oom_score_adj").read_text()),
        _loginuid(proc / "self/loginuid"),
        frozenset(kind for kind in NAMESPACES if _is_initial(proc, kind)),
        security_label(proc),
        status.get("Seccomp", "0") != "0",
        os.getpriority(os.PRIO_PROCESS, 0),
        bool(ctypes.CDLL(None).getauxval(_AT_RSEQ_FEATURE_SIZE)),
        _takes_guards(),
    )


@cache
def lowest_address() -> int:
    """Return the lowest address that the kernel lets a process map; the first answer is kept."""
    return int(Path("/proc/sys/vm/mmap_min_addr").read_text())


def security_label(proc: Path = Path("/proc")) -> bytes:
    """Return this process's security label, without AppArmor's mode; empty where no security module has one."""
    try:
        return (proc / "self/attr/current").read_bytes().rstrip(b"\0\n").partition(b" (")[0]
    except OSError:
        return b""


def _flags(cpuinfo: str) -> frozenset[str]:
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def _limit(number: int) -> tuple[int, int]:
    soft, hard = resource.getrlimit(number)
    return (soft if soft >= 0 else INFINITE), (hard if hard >= 0 else INFINITE)


def _takes_guards() -> bool:
    """Return True if the kernel installs guard regions: it is asked for one in a page of this process's own."""
    with mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        try:
            page.madvise(MADV_GUARD_INSTALL)
        except OSError:
            return False
    return True


def _loginuid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _is_initial(proc: Path, kind: str) -> bool:
    """Return True if this process is in the initial namespace of a kind; True, too, on a kernel without that kind.

    A kernel thread is in the initial ones. Where none can be seen, the caller is in a pid namespace of its own.
    """
    try:
        own = os.readlink(proc / "self/ns" / kind)
    except OSError:
        return True
    if own == f"{kind}:[{_INITIAL[kind]}]":
        return True
    try:
        if "\nKthread:\t1" in (proc / str(_KTHREADD) / "status").read_text():
            return own == os.readlink(proc / str(_KTHREADD) / "ns" / kind)
    except OSError:
        pass
    return False
