# SPDX-License-Identifier: Apache-2.0
"""The rows of /proc: invented trees in a temporary directory, and the test process itself."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from agent.errors import HostError
from agent.proc import procfs
from agent.proc.procfs import NAMESPACE_WITHOUT_INIT, ProcRow, scan

HOST_NS = 4026531836


@dataclass
class Fake:
    """An invented /proc."""

    root: Path

    def task(
        self,
        tid: int,
        *,
        tgid: int | None = None,
        ppid: int = 0,
        comm: bytes = b"sh",
        state: str = "S",
        pgrp: int = 1,
        flags: int = 0x400000,
        exit_code: int = 0,
        exit_signal: int = 17,
        ids: str | None = "",
        links: tuple[tuple[str, str], ...] = (("pid", f"pid:[{HOST_NS}]"), ("pid_for_children", f"pid:[{HOST_NS}]")),
    ) -> Path:
        """Make the directory of one task; `ids` None imitates a kernel without the NS lines."""
        tgid = tgid or tid
        directory = self.root / f"{tgid}/task/{tid}"
        (directory / "ns").mkdir(parents=True)
        numbers = f"NStgid:\t{tgid}\nNSpid:\t{tid}\nNSpgid:\t{pgrp}\nNSsid:\t1\n" if ids == "" else ids or ""
        (directory / "status").write_text(
            f"Name:\tsh\\nTgid:\t7\nState:\t{state}\nTgid:\t{tgid}\nPid:\t{tid}\nPPid:\t{ppid}\n"
            f"Uid:\t1000\t0\t0\t0\nGid:\t100\t0\t0\t0\n{numbers}Threads:\t1\n"
        )
        values = [str(ppid), str(pgrp), "1", "0", "-1", str(flags)] + ["0"] * 12 + ["250"] + ["0"] * 15
        values += [str(exit_signal)] + ["0"] * 13 + [str(exit_code)]
        (directory / "stat").write_bytes(b"%d (%b) %b\n" % (tid, comm, " ".join([state, *values]).encode()))
        for name, target in links:
            (directory / "ns" / name).symlink_to(target)
        return directory

    def row(self, tid: int) -> ProcRow:
        """Return the only row of that number."""
        (row,) = [row for row in scan(self.root) if row.tid == tid]
        return row


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Return an invented /proc that holds an init."""
    invented = Fake(tmp_path)
    invented.task(1)
    return invented


def test_a_row_is_what_the_files_say(fake: Fake) -> None:
    """The test covers every field of an ordinary task."""
    fake.task(5, ppid=1, comm=b"bash", pgrp=5)

    assert fake.row(5) == ProcRow(
        tid=5,
        tgid=5,
        ppid=1,
        numbers=(5,),
        tgid_numbers=(5,),
        pgid_numbers=(5,),
        sid_numbers=(1,),
        start_ns=2_500_000_000,
        state="S",
        exit_code=None,
        exit_signal=17,
        comm=b"bash",
        uid=1000,
        gid=100,
        kernel_thread=False,
        pid_ns=HOST_NS,
        pid_ns_for_children=HOST_NS,
    )


@pytest.mark.parametrize(
    "comm", [b"", b")", b"a) Z 1 1 1", b"x\ny", b"(((", b") S 0 (", b"\xff\xfe", b" ", b"123456789012345", b"\\n"]
)
def test_a_name_may_hold_anything(fake: Fake, comm: bytes) -> None:
    """The name is between the first and the last parenthesis, and the fields behind it are right."""
    fake.task(5, ppid=1, comm=comm, state="T")

    assert (comm, "T", 1) == (fake.row(5).comm, fake.row(5).state, fake.row(5).ppid)


def test_a_kernel_workers_long_name_is_cut(fake: Fake) -> None:
    """The kernel appends the name of a queue, which is not part of comm."""
    fake.task(5, comm=b"kworker/0:1H-events_highpri", flags=0x200000)

    assert fake.row(5).comm == b"kworker/0:1H-ev"


@pytest.mark.parametrize(
    ("flags", "leads", "expected"),
    [
        (0x00200000, True, True),
        (0x00000010, False, True),
        (0x00004000, False, True),
        (0x00004000, True, False),
        (0x00400000, True, False),
        (0x00400000, False, False),
    ],
)
def test_the_kernels_own_are_told_by_their_flags(fake: Fake, flags: int, *, leads: bool, expected: bool) -> None:
    """On a leader, old kernels use the flag of a worker for another purpose."""
    fake.task(5)
    fake.task(6, tgid=6 if leads else 5, flags=flags)

    assert expected == fake.row(6).kernel_thread


def test_numbers_are_outermost_first(fake: Fake) -> None:
    """A nested thread has its numbers and its leader's, and 0 for a group or session that it cannot see."""
    fake.task(31, tgid=30, ids="NStgid:\t30\t2\t1\nNSpid:\t31\t3\t2\nNSpgid:\t7\t0\t0\nNSsid:\t0\t0\t0\n")
    row = fake.row(31)

    assert (row.numbers, row.tgid_numbers) == ((31, 3, 2), (30, 2, 1))
    assert (row.pgid_numbers, row.sid_numbers) == ((7, 0, 0), (0, 0, 0))


def test_a_kernel_without_nested_numbers_has_one_of_each(fake: Fake) -> None:
    """The NS lines exist since v4.1, with CONFIG_PID_NS; without them only the plain ids exist."""
    fake.task(6, tgid=5, pgrp=4, ids=None)
    row = fake.row(6)

    assert (row.numbers, row.tgid_numbers, row.pgid_numbers, row.sid_numbers) == ((6,), (5,), (4,), (1,))


def test_the_exit_code_of_a_zombie_is_the_raw_status(fake: Fake) -> None:
    """139 is SIGSEGV with a core dump, not decoded. A zombie has no namespace for children."""
    fake.task(5, state="Z", exit_code=139)

    assert (fake.row(5).exit_code, fake.row(5).pid_ns_for_children) == (139, None)


def test_the_living_have_no_exit_code(fake: Fake) -> None:
    """The field of a stopped task has the signal that stopped it."""
    fake.task(5, state="T", exit_code=19)

    assert fake.row(5).exit_code is None


def test_what_is_not_permitted_is_none(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel shows the exit code 0 to a reader without the right to the links; the value is not used."""
    fake.task(5, state="Z", exit_code=0)

    def refuse(path: str, *, dir_fd: int) -> str:
        raise PermissionError

    monkeypatch.setattr(os, "readlink", refuse)
    row = fake.row(5)

    assert (row.pid_ns, row.pid_ns_for_children, row.exit_code) == (None, None, None)


def test_a_namespace_without_init_has_no_number(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """After unshare(CLONE_NEWPID) and before the fork the kernel has the link and refuses to follow it."""
    fake.task(5)
    follow = os.readlink

    def dangle(path: str, *, dir_fd: int) -> str:
        if path.endswith("for_children"):
            raise FileNotFoundError
        return follow(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "readlink", dangle)

    assert (fake.row(5).pid_ns, fake.row(5).pid_ns_for_children) == (HOST_NS, NAMESPACE_WITHOUT_INIT)


def test_a_kernel_without_that_link_says_nothing_of_it(fake: Fake) -> None:
    """A missing link is no pending namespace."""
    fake.task(5, links=(("pid", f"pid:[{HOST_NS}]"),))

    assert fake.row(5).pid_ns_for_children is None


@pytest.mark.parametrize("name", ["stat", "status"])
def test_a_task_that_vanishes_midway_is_left_out(fake: Fake, name: str) -> None:
    """Its files are missing or empty, and a partial row would be wrong. Its siblings stay."""
    (fake.task(5) / name).unlink()
    (fake.task(7) / name).write_bytes(b"")
    fake.task(6, tgid=5)
    (fake.root / "9").mkdir()

    assert [row.tid for row in scan(fake.root)] == [1, 6]


def test_a_task_being_released_is_left_out(fake: Fake) -> None:
    """The kernel then shows state X, a group of -1, or the number 0."""
    fake.task(5, state="X")
    fake.task(6, pgrp=-1)
    fake.task(7, ids="NStgid:\t0\nNSpid:\t0\nNSpgid:\t0\nNSsid:\t0\n")

    assert [row.tid for row in scan(fake.root)] == [1]


def test_the_parent_is_the_thread_that_lists_the_child(fake: Fake) -> None:
    """PPid has the thread group, and the children files have the thread. The child's own threads have the same
    parent.
    """
    fake.task(5, ppid=1).joinpath("children").write_text("7 ")
    fake.task(6, tgid=5, ppid=1, exit_signal=-1).joinpath("children").write_text("8 9 ")
    fake.task(7, ppid=5)
    fake.task(8, ppid=5)
    fake.task(10, tgid=8, ppid=5, exit_signal=-1)

    assert {row.tid: row.ppid for row in scan(fake.root)} == {1: 0, 5: 1, 6: 1, 7: 5, 8: 6, 10: 6}


def test_without_children_files_the_parent_is_the_group(fake: Fake) -> None:
    """Such a kernel has no CONFIG_PROC_CHILDREN."""
    fake.task(5)
    fake.task(6, tgid=5)
    fake.task(7, ppid=5)

    assert fake.row(7).ppid == 5


def test_a_child_that_was_adopted_meanwhile_keeps_its_rows_word(fake: Fake) -> None:
    """A list of children counts only if the child's row has the same thread group."""
    fake.task(5)
    fake.task(6, tgid=5).joinpath("children").write_text("7 8 ")
    fake.task(7, ppid=5)
    fake.task(8, ppid=1)

    assert (fake.row(7).ppid, fake.row(8).ppid) == (6, 1)


def test_a_child_whose_parent_vanished_is_read_again(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent exits after the reading of the child; the second reading has the new parent."""
    fake.task(4, ppid=1)
    fake.task(5, ppid=4)
    mend = procfs._mend

    def exit_first(root: Path, processes: dict[int, list[ProcRow]]) -> None:
        del processes[4]
        shutil.rmtree(root / "4")
        shutil.rmtree(root / "5")
        fake.task(5, ppid=1)
        mend(root, processes)

    monkeypatch.setattr(procfs, "_mend", exit_first)

    assert {row.tid: row.ppid for row in scan(fake.root)} == {1: 0, 5: 1}


def test_a_parent_born_after_the_listing_is_read_too(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing is in the order of numbers, and births are not."""
    fake.task(4, ppid=1)
    fake.task(5, ppid=4)
    monkeypatch.setattr(psutil, "pids", lambda: [1, 5])

    assert [row.tid for row in scan(fake.root)] == [1, 4, 5]


def test_a_hidden_parent_ends_the_mending(fake: Fake) -> None:
    """hidepid may hide it for good: the row keeps the number of the parent, and the scan ends."""
    fake.task(5, ppid=77)

    assert fake.row(5).ppid == 77


def test_rows_come_by_number_each_once(fake: Fake) -> None:
    """Directories may list in any order; the number 4 was freed and used again during the scan."""
    for tid, tgid in [(30, 30), (4, 4), (31, 4), (7, 30), (4, 30)]:
        fake.task(tid, tgid=tgid)

    assert [row.tid for row in scan(fake.root)] == [1, 4, 7, 30, 31]


def test_psutil_is_given_back_its_own_procfs(fake: Fake) -> None:
    """psutil has a global path, and the rest of the program must not see a change."""
    scan(fake.root)

    assert psutil.PROCFS_PATH == "/proc"


@pytest.mark.parametrize("make", [Path.mkdir, lambda _: None], ids=["empty", "absent"])
def test_no_procfs_is_an_error_that_says_what_to_do(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """An empty answer would mean a host without processes."""
    root = tmp_path / "proc"
    make(root)

    with pytest.raises(HostError, match="mount procfs there"):
        scan(root)

    assert psutil.PROCFS_PATH == "/proc"


@contextmanager
def a_child(body: Callable[[], object] = lambda: None) -> Iterator[int]:
    """Fork a child that runs `body` and then waits for the end of the test; yield its pid."""
    told, tell = os.pipe()
    here, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            body()
            os.close(tell)
            os.write(ready, b"x")
            os.read(told, 1)
        finally:
            os._exit(0)
    os.close(ready)
    try:
        assert os.read(here, 1) == b"x", "the child failed before it was ready"
        yield pid
    finally:
        for descriptor in (told, tell, here):
            os.close(descriptor)
        os.waitpid(pid, 0)


def test_this_process_is_found_as_it_is() -> None:
    """System calls give the same values."""
    (mine,) = [row for row in scan() if row.tid == os.getpid()]

    assert (os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0), os.getuid(), os.getgid()) == (
        mine.tgid,
        mine.ppid,
        mine.pgid_numbers[0],
        mine.sid_numbers[0],
        mine.uid,
        mine.gid,
    )
    assert (os.getpid(), Path("/proc/self/ns/pid").stat().st_ino) == (mine.numbers[0], mine.pid_ns)
    assert not mine.kernel_thread
    assert mine.comm == Path("/proc/self/comm").read_bytes().removesuffix(b"\n")


def test_our_start_is_the_one_psutil_computes() -> None:
    """Field and tick are the same; psutil adds the wall-clock time of the boot, which it knows to the second."""
    (mine,) = [row for row in scan() if row.tid == os.getpid()]

    assert psutil.Process().create_time() - psutil.boot_time() == pytest.approx(mine.start_ns / 1e9, abs=1.1)


def test_a_threads_child_has_the_thread_as_parent() -> None:
    """getppid() returns the thread group, but a rebuild needs the thread."""
    found: list[ProcRow] = []

    def fork_here() -> None:
        with a_child() as pid:
            rows = {row.tid: row for row in scan()}
            found.extend((rows[pid], rows[threading.get_native_id()]))

    thread = threading.Thread(target=fork_here)
    thread.start()
    thread.join()
    child, parent = found

    assert (child.ppid, parent.tgid) == (parent.tid, os.getpid())
    assert (child.exit_signal, parent.exit_signal) == (17, -1)


def test_a_zombie_keeps_its_ids_and_its_status() -> None:
    """The exit code 3 is the raw status 0x300."""
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        (row,) = [row for row in scan() if row.tid == pid]
    finally:
        os.waitpid(pid, 0)

    assert ("Z", 0x300, os.getpid(), os.getpgrp()) == (row.state, row.exit_code, row.ppid, row.pgid_numbers[0])


def test_a_hostile_name_comes_through_the_kernel() -> None:
    """Name and row are equal byte for byte."""
    name = b") Z 1\n(\\ \xff"
    with a_child(lambda: Path("/proc/self/comm").write_bytes(name)) as pid:
        (row,) = [row for row in scan() if row.tid == pid]

    assert (name, os.getpid()) == (row.comm, row.ppid)
