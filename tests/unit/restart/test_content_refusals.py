# SPDX-License-Identifier: Apache-2.0
"""The states of a dump that are refused: each is put into a real dump, and named with its task, kind and rule."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.model import Snapshot
from agent.restart.contents.contents import Contents
from agent.restart.contents.hostfacts import NAMESPACES, HostFacts
from agent.restart.contents.images import Images
from agent.restart.contents.pageruns import PAGE
from agent.restart.planning.search import decide
from exporters.criu import criutree
from exporters.criu.imagefolder import ImageFolder
from exporters.criu.memorymessages import ANON_PRIVATE, AREA_GUARD, AREA_VVAR
from tests.support import criuimages
from tests.support.criuimages import changed

FLAGS = frozenset(("avx", "avx512f", "ospke"))
HOST = HostFacts("x86_64", FLAGS)
Change = Callable[[Any], None]
# Of the dump: the root, its thread, and the files that describe them.
ROOT, THREAD = 4, 6


class Anywhere(Contents):
    """Contents whose files are taken for what they were."""

    def _check_file(self, pid: int, identity: int) -> None:
        if identity not in self._images.files:
            super()._check_file(pid, identity)


def refusals(folder: Path, host: HostFacts = HOST, tree: Callable[[Snapshot], Snapshot] = lambda it: it) -> set[str]:
    """Return the refusals of a folder's contents: pid, kind and rule of each."""
    snapshot = tree(criutree.load(ImageFolder(folder)))
    snapshot, plan = decide(snapshot, pidns=True, any_numbers=False)
    contents = Anywhere(Images(folder), snapshot, plan)
    contents.check_host(host)
    assert all(refusal.text and refusal.document["rule"] for refusal in contents.refusals)
    return {f"{refusal.pid} {refusal.kind} {refusal.rule}" for refusal in contents.refusals}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dump that nothing stands in the way of."""
    criuimages.written("subtree", tmp_path)
    assert refusals(tmp_path) == set()
    return tmp_path


def signal(number: int, size: int = 128) -> bytes:
    """Return a siginfo."""
    return number.to_bytes(4, "little").ljust(size, b"\0")


def with_timer(**fields: int) -> Change:
    """Return a change that adds a POSIX timer."""
    sound = {"clock_id": 1, "si_signo": 10, "it_sigev_notify": 0, "sival_ptr": 0, "overrun": 0, "it_id": 1}
    times = dict.fromkeys(("isec", "insec", "vsec", "vnsec"), 0)

    def change(core: Any) -> None:
        for name in ("real", "virt", "prof"):
            getattr(core.tc.timers, name).SetInParent()
            for each in ("isec", "iusec", "vsec", "vusec"):
                setattr(getattr(core.tc.timers, name), each, 0)
        core.tc.timers.posix.add(**{**sound, **times, **fields})

    return change


def with_field(path: str, value: Any) -> Change:
    """Return a change that sets a field, or adds a value to one that repeats."""
    *way, last = path.split(".")

    def change(message: Any) -> None:
        for name in way:
            message = getattr(message, name)
        if isinstance(value, list):
            getattr(message, last).extend(value)
        else:
            setattr(message, last, value)

    return change


def without(path: str) -> Change:
    """Return a change that clears a field."""
    *way, last = path.split(".")

    def change(message: Any) -> None:
        for name in way:
            message = getattr(message, name)
        message.ClearField(last)

    return change


def soft_above_hard(core: Any) -> None:
    """Change a limit."""
    limit = core.tc.rlimits.rlimits[3]
    limit.cur, limit.max = 2, 1


def unknown(message: Any) -> None:
    """Add a field that no CRIU of today writes."""
    message.tc.MergeFromString(b"\xa0\x06\x01")


LEADER, SECOND = f"core-{ROOT}.img", f"core-{THREAD}.img"
CASES = {
    "version": ("inventory.img", with_field("img_version", 9), "0 images version"),
    "old folder": ("inventory.img", with_field("fdinfo_per_id", False), "0 images version"),
    "plugin": ("inventory.img", with_field("plugins_entry.plugins", [b"cuda_plugin"]), "0 plugin plugin"),
    "unknown field": (LEADER, unknown, "4 images unknown"),
    "processor": (LEADER, with_field("mtype", 3), "4 thread architecture"),
    "32 bits": (SECOND, with_field("thread_info.gpregs.mode", 2), "4 thread architecture"),
    "tiles": (LEADER, with_field("thread_info.fpregs.xsave.xstate_bv", 1 << 18), "4 registers registers"),
    "half a register": (LEADER, without("thread_info.fpregs.xmm_space"), "4 registers registers"),
    "mxcsr": (LEADER, with_field("thread_info.fpregs.mxcsr", 1 << 30), "4 registers registers"),
    "credentials": (SECOND, without("thread_core.creds"), "4 thread missing"),
    "label": (LEADER, with_field("thread_core.creds.lsm_profile", b"docker-default"), "4 credentials label"),
    "words": (LEADER, with_field("thread_core.creds.cap_prm", [0, 0, 1]), "4 credentials capabilities"),
    "groups": (LEADER, with_field("thread_core.creds.groups", [1] * 70000), "4 credentials groups"),
    "filter": (LEADER, with_field("thread_core.seccomp_mode", 2), "4 seccomp missing"),
    "mode": (LEADER, with_field("thread_core.seccomp_mode", 7), "4 seccomp seccomp"),
    "policy": (SECOND, with_field("thread_core.sched_policy", 6), "4 scheduling scheduling"),
    "nice": (SECOND, with_field("thread_core.sched_nice", 99), "4 scheduling scheduling"),
    "limit": (LEADER, soft_above_hard, "4 limit limit"),
    "death signal": (LEADER, with_field("thread_core.pdeath_sig", 65), "4 signal signal"),
    "stop": (LEADER, with_field("tc.stop_signo", 9), "4 signal signal"),
    "membarrier": (LEADER, with_field("tc.membarrier_registration_mask", 1 << 20), "4 task membarrier"),
    "personality": (LEADER, with_field("tc.personality", 12), "4 task personality"),
    "timer": (LEADER, with_timer(it_sigev_notify=4, notify_thread_id=999), "4 timer timer"),
    "timer's number": (LEADER, with_timer(it_id=2**31), "4 timer timer"),
    "timer's clock": (LEADER, with_timer(clock_id=3), "4 timer timer"),
    "timer's signal": (LEADER, with_timer(si_signo=2**31), "4 timer timer"),
    "sequence": (LEADER, with_field("thread_core.rseq_entry.rseq_cs_pointer", 4096), "4 thread rseq"),
    "stack": (LEADER, with_field("thread_core.sas.ss_flags", 64), "4 thread stack"),
    "stack in two modes": (LEADER, with_field("thread_core.sas.ss_flags", 3), "4 thread stack"),
    "robust list": (LEADER, with_field("thread_core.futex_rla_len", 25), "4 thread futex"),
    "small stack": (LEADER, with_field("thread_core.sas.ss_flags", 0), "4 thread stack"),
    "program": ("mm-4.img", with_field("exe_file_id", 999), "4 file missing"),
    "folder": ("fs-4.img", with_field("cwd_id", 999), "4 file missing"),
}


@pytest.mark.parametrize(("name", "change", "expected"), CASES.values(), ids=CASES)
def test_a_state_that_is_not_restored_is_refused_by_name(
    folder: Path, name: str, change: Change, expected: str
) -> None:
    """Nothing else is refused for it."""
    changed(folder, name, change)

    assert refusals(folder) == ({expected} if expected else set())


@pytest.mark.parametrize("info", [signal(9), signal(19), signal(0), signal(65), signal(10, 64)])
def test_a_signal_that_cannot_be_pending_is_refused(folder: Path, info: bytes) -> None:
    """SIGKILL and SIGSTOP among them, which would hit the restart itself."""
    changed(folder, LEADER, lambda core: core.tc.signals_s.signals.add(siginfo=info))

    assert refusals(folder) == {"4 signal signal"}


def test_what_two_processes_share_is_refused(folder: Path) -> None:
    """CLONE_FS without CLONE_THREAD, say."""
    changed(folder, "ids-7.img", with_field("fs_id", 1))
    changed(folder, "ids-4.img", with_field("fs_id", 1))

    assert "7 folder shared" in refusals(folder)


HOSTS = {
    "limits": (HOST._replace(limits=((0, 0),) * 16, effective=0), "limit limit"),
    "descriptors": (HOST._replace(limits=((1, 1),) * 16), "descriptor limit"),
    "descriptors on their way": (HOST._replace(limits=((4, 4),) * 16), "descriptor limit"),
    "processor": (HOST._replace(flags=frozenset()), "registers registers"),
    "machine": (HOST._replace(machine="aarch64"), "task architecture"),
    "capabilities": (HOST._replace(granted=1 << 8), "credentials capabilities"),
    "bounding": (HOST._replace(bounding=1 << 8), "credentials capabilities"),
    "user": (HOST._replace(uids=(range(1000, 1001),)), "credentials user"),
    "group": (HOST._replace(gids=(range(1000, 1001),)), "credentials group"),
    "groups": (HOST._replace(groups=frozenset((7, 8))), "credentials groups"),
    "nice": (HOST._replace(nice=10, effective=0), "scheduling scheduling"),
    "filters": (HOST._replace(filtered=True), "seccomp seccomp"),
    "no_new_privs": (HOST._replace(no_new_privs=True), "credentials no_new_privs"),
}


@pytest.mark.parametrize(("host", "expected"), HOSTS.values(), ids=HOSTS)
def test_what_the_caller_cannot_give_is_refused_by_name(folder: Path, host: HostFacts, expected: str) -> None:
    """Of each process."""
    found = refusals(folder, host)

    assert {f"{pid} {expected}" for pid in (4, 7, 10)} <= found


def test_capabilities_and_limits_are_refused_by_their_names(folder: Path) -> None:
    """Each limit is a line, and so are all capabilities that a process lacks."""
    limits = tuple((0, 0) if each == 7 else ((1 << 64) - 1,) * 2 for each in range(16))
    texts = _texts(folder, HOST._replace(limits=limits, effective=0, bounding=1 << 8))

    assert any(" it has in its bounding set CAP_CHOWN, CAP_DAC_OVERRIDE, " in each for each in texts)
    assert not any("CAP_SETPCAP" in each for each in texts)
    assert any(": limit RLIMIT_NOFILE: its hard limit " in each for each in texts)


def _texts(folder: Path, host: HostFacts, kind: type[Contents] = Anywhere) -> list[str]:
    snapshot, plan = decide(criutree.load(ImageFolder(folder)), pidns=True, any_numbers=False)
    contents = kind(Images(folder), snapshot, plan)
    contents.check_host(host)
    return [str(each) for each in contents.refusals]


def test_a_guard_region_is_refused_where_the_kernel_has_none(folder: Path) -> None:
    """MADV_GUARD_INSTALL is of Linux 6.13; elsewhere the call would fail when the tree is half made."""

    def with_guard(mm: Any) -> None:
        area = next(vma for vma in mm.vmas if vma.status & ANON_PRIVATE and not vma.status & AREA_VVAR)
        mm.vmas.add().CopyFrom(area)
        mm.vmas[-1].end = area.start + 4096
        mm.vmas[-1].status = AREA_GUARD

    changed(folder, "mm-7.img", with_guard)

    assert refusals(folder) == set()
    assert refusals(folder, HOST._replace(guards=False)) == {"7 memory guard"}


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, -0x400000), (1, PAGE), (0, PAGE + 1), (PAGE, PAGE), (-PAGE, PAGE), (0, 1 << 40)],
    ids=["it wraps", "begin", "end", "empty", "before", "behind"],
)
def test_a_guard_region_that_is_not_within_areas_is_refused(folder: Path, start: int, end: int) -> None:
    """It would be made wherever else its addresses are, the memory of the restart itself among that."""

    def with_guard(mm: Any) -> None:
        area = min(mm.vmas, key=lambda vma: vma.start)
        mm.vmas.add().CopyFrom(area)
        mm.vmas[-1].start, mm.vmas[-1].end = area.start + start, max(3, area.start + end)
        mm.vmas[-1].status = AREA_GUARD

    changed(folder, "mm-7.img", with_guard)

    assert refusals(folder) == {"7 memory area"}


def test_a_guard_region_may_cross_areas(folder: Path) -> None:
    """The kernel tells of two neighbours as one."""

    def with_guard(mm: Any) -> None:
        area = next(vma for vma in mm.vmas if vma.status & ANON_PRIVATE and not vma.status & AREA_VVAR)
        mm.vmas.add().CopyFrom(area)
        mm.vmas[-1].status = AREA_GUARD
        mm.vmas.add().CopyFrom(area)
        area.end = mm.vmas[-1].start = area.start + PAGE

    changed(folder, "mm-7.img", with_guard)

    assert refusals(folder) == set()


def test_a_tree_of_other_namespaces_is_taken_within_other_namespaces(folder: Path) -> None:
    """CRIU's own process was in another one; the ids do not tell more."""
    changed(folder, "inventory.img", with_field("root_ids.uts_ns_id", 77))

    assert refusals(folder) == {f"{pid} namespace namespace" for pid in (4, 7, 10)}
    assert refusals(folder, HOST._replace(initial=frozenset(NAMESPACES) - {"uts"})) == set()


def test_a_tree_of_other_mounts_is_refused_by_its_namespaces_first(folder: Path) -> None:
    """Its paths are those of its own mounts, and say nothing here. Else each process names a file once."""
    changed(folder, "inventory.img", with_field("root_ids.uts_ns_id", 77))
    missing = _texts(folder, HOST, Contents)
    changed(folder, "inventory.img", with_field("root_ids.mnt_ns_id", 77))
    elsewhere = _texts(folder, HOST, Contents)

    assert [": namespace uts " in each for each in missing[:3]] == [True] * 3
    assert sum("put the file there" in each for each in missing) > 0
    assert len(missing) == len(set(missing))
    assert {" namespace " in each for each in elsewhere} == {True}


def test_a_tree_of_several_namespaces_is_refused_everywhere(folder: Path) -> None:
    """One of its processes has unshared its name."""
    changed(folder, "ids-7.img", with_field("uts_ns_id", 77))

    assert refusals(folder, HOST._replace(initial=frozenset())) == {"7 namespace namespace"}


def test_a_tree_that_the_images_contradict_is_refused(folder: Path) -> None:
    """Each difference is told by the task's number: a process too many, another group, another state."""
    tree = criutree.load(ImageFolder(folder))
    changed(folder, "core-7.img", with_field("tc.task_state", 1))

    assert refusals(folder, tree=lambda _: tree) == {"7 task tree"}
    fewer = replace(tree, tasks=tuple(task for task in tree.tasks if tree.number(task.pid) != THREAD))
    assert "4 task tree" in refusals(folder, tree=lambda _: fewer)


def test_a_name_in_a_message_is_no_longer_than_that_of_a_file(folder: Path) -> None:
    """The images are untrusted, and a caller may read the messages late."""
    changed(folder, "inventory.img", with_field("plugins_entry.plugins", [b"x" * 70000]))
    snapshot, plan = decide(criutree.load(ImageFolder(folder)), pidns=True, any_numbers=False)
    (refusal,) = Anywhere(Images(folder), snapshot, plan).refusals

    assert len(str(refusal)) < 400
