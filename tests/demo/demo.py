# SPDX-License-Identifier: Apache-2.0
"""``make demo``: a snapshot of a hard tree, a comparison of every number in it with the kernel's answer, and a rebuild
of the tree from its image.

Exit code 0: no number differs (or this user may not load BPF, and has seen the commands that work without it); 1: some
differ, or a step failed. A daemon of its own on a socket of its own: one that runs already is left alone.
"""

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import psutil

from agent.model import Snapshot, Tag, Task, TaskState
from agent.protocol.client import Client
from exporters import registry
from exporters.comparing import difference

CKPTREE = Path(sys.executable).with_name("ckptree")
HARDTREE = Path(__file__).with_name("hardtree.py")
PROC = Path("/proc")
PATIENCE_S = 60.0
ROUNDS = 25
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
STATES = {"Z": TaskState.ZOMBIE, "T": TaskState.STOPPED}
EXITED = (TaskState.ZOMBIE, TaskState.DEAD_LEADER)
SAME, DIFFERS = ("✓", "✗") if (sys.stdout.encoding or "").lower().startswith("utf") else ("ok", "!!")


class DemoError(Exception):
    """A part that is missing or does not work."""


class Row(NamedTuple):
    """One task, in the numbers of the root's pid namespace and of those below.

    Attributes:
        pid, tgid, pgid, sid: one number for each level that the task has, 0 if invisible.
        parent: the parent's number, of the parent thread if the kernel shows it.
        state, exit_code: the latter for those that have exited.
        namespace, next_namespace: inode numbers, the latter of its next child's; None where the kernel does not tell
            (of a zombie).
        start: clock ticks since boot.
    """

    pid: tuple[int, ...]
    tgid: tuple[int, ...]
    pgid: tuple[int, ...]
    sid: tuple[int, ...]
    parent: int
    state: TaskState
    exit_code: int | None
    namespace: int | None
    next_namespace: int | None
    start: int


def say(text: str) -> None:
    """Report progress."""
    print(f"demo: {text}", file=sys.stderr, flush=True)


# ---- the kernel's answer -------------------------------------------------------------------------------------------


def read_status(folder: Path) -> dict[str, list[str]]:
    """Return /proc/PID/status by key."""
    pairs = (line.partition(":") for line in (folder / "status").read_text().splitlines())
    return {key: value.split() for key, _, value in pairs}


def below(root: int) -> list[Path]:
    """Return /proc/PID/task/TID of every task of the tree, found through PPid alone."""
    children: dict[int, list[int]] = {}
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children.setdefault(int(read_status(folder)["PPid"][0]), []).append(int(folder.name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found += sorted((PROC / str(pid) / "task").iterdir(), key=lambda folder: int(folder.name))
        todo += children.get(pid, [])
    return found


def parent_threads(folders: list[Path]) -> dict[int, int]:
    """Return, for each process, the thread that is its parent; empty for a kernel without the children files."""
    found = {}
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):
            found.update(dict.fromkeys(map(int, (folder / "children").read_text().split()), int(folder.name)))
    return found


def inode(link: Path) -> int | None:
    """Return the inode number of a namespace; None if the kernel does not show it."""
    try:
        return int(link.readlink().name.strip("pid:[]"))
    except FileNotFoundError:
        return None


def kernel_rows(root: int) -> dict[int, Row]:
    """Return the tree by /proc/PID/task/TID/status and stat, by number in the root's namespace."""
    folders = below(root)
    threads = parent_threads(folders)
    said = {int(folder.name): read_status(folder) for folder in folders}
    level = len(said[root]["NSpid"]) - 1
    inside = {tid: int(status["NSpid"][level]) for tid, status in said.items()}
    rows = {}
    for folder in folders:
        tid = int(folder.name)
        status = said[tid]
        pid, tgid, pgid, sid = (tuple(map(int, status[key][level:])) for key in ("NSpid", "NStgid", "NSpgid", "NSsid"))
        stat = (folder / "stat").read_text().rpartition(")")[2].split()  # from the third field of proc(5) on
        state = STATES.get(stat[0], TaskState.RUNNING)
        if state is TaskState.ZOMBIE and len(list(folder.parent.iterdir())) > 1:
            state = TaskState.DEAD_LEADER
        parent = threads.get(int(status["Tgid"][0]), int(status["PPid"][0]))
        rows[pid[0]] = Row(
            *(pid, tgid, pgid, sid),
            parent=inside.get(parent, 0),
            state=state,
            exit_code=int(stat[52 - 3]) if state in EXITED else None,
            namespace=inode(folder / "ns/pid"),
            next_namespace=inode(folder / "ns/pid_for_children"),
            start=int(stat[22 - 3]),
        )
    return rows


# ---- the snapshot's answer -----------------------------------------------------------------------------------------


def snapshot_row(snapshot: Snapshot, task: Task) -> Row:
    """Return a task of the snapshot with numbers in place of tags."""
    own = snapshot.pids[task.pid - snapshot.first_tag]

    def numbers(tag: int) -> tuple[int, ...]:
        """Return the numbers of another pid object in the task's namespaces."""
        pid = snapshot.pid(Tag(tag))
        seen = list(zip(pid.numbers, pid.namespaces, strict=True)) if pid else []
        return tuple(
            seen[level][0] if level < len(seen) and seen[level][1] == namespace else 0
            for level, namespace in enumerate(own.namespaces)
        )

    following = own.namespaces[-1] if task.child_namespace is None else task.child_namespace
    return Row(
        *(own.numbers, numbers(task.tgid), numbers(task.pgid), numbers(task.sid)),
        parent=snapshot.number(task.ppid),
        state=task.state or TaskState.RUNNING,
        exit_code=task.exit_code,
        namespace=snapshot.namespaces[own.namespaces[-1]].inum,
        next_namespace=snapshot.namespaces[following].inum if following >= 0 else None,
        start=(task.start_ns or 0) // TICK_NS,
    )


def compare(snapshot: Snapshot, kernel: dict[int, Row]) -> tuple[int, list[str]]:
    """Print the tree as a table; return the number of compared numbers, and the differences."""
    rows = {snapshot.number(task.pid): (task, snapshot_row(snapshot, task)) for task in snapshot.tasks}
    compared, differences = 0, []
    print(f"{'':2} {'task':<12} {'pid':<10} {'tgid':<10} {'group':<10} {'session':<10} {'parent':<6} state")
    for number, (task, row) in rows.items():
        truth = kernel.get(number)
        if truth is None:
            differences.append(f"{number}: in the snapshot, not in the kernel")
            continue
        found = []
        for field, ours, theirs in zip(Row._fields, row, truth, strict=True):
            if theirs is None:
                continue
            compared += len(theirs) if isinstance(theirs, tuple) else 1
            if ours != theirs:
                found.append(f"{number}: {field} is {ours} in the snapshot, {theirs} in the kernel")
        differences += found
        texts = ["/".join(map(str, value)) for value in (row.pid, row.tgid, row.pgid, row.sid)]
        columns = " ".join(f"{text:<10}" for text in texts)
        status = "" if row.exit_code is None else f", status {row.exit_code:#06x}"
        name = (task.comm or b"").decode(errors="replace")
        print(f"{DIFFERS if found else SAME:<2} {name:<12} {columns} {row.parent:<6} {row.state}{status}")
    differences += [f"{number}: in the kernel, not in the snapshot" for number in kernel.keys() - rows.keys()]
    return compared, differences


# ---- processes -----------------------------------------------------------------------------------------------------


def run(*arguments: str | Path, allowed: tuple[int, ...] = (0,)) -> None:
    """Run ``ckptree`` with these arguments; its output goes to ours."""
    say("$ ckptree " + " ".join(map(str, arguments)))
    sys.stdout.flush()
    code = subprocess.run([CKPTREE, *arguments], check=False).returncode
    if code not in allowed:
        raise DemoError(f"ckptree {arguments[0]} ended with {code}")


def die_with_parent() -> None:
    """Set PR_SET_PDEATHSIG, so that a killed demo leaves no daemon."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


@contextlib.contextmanager
def daemon(socket: Path) -> Iterator[None]:
    """Run a daemon that listens on this socket."""
    log = socket.with_suffix(".log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [CKPTREE, "daemon", "--socket", socket],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while b"listening on" not in log.read_bytes():
            if process.poll() is not None:
                raise DemoError(f"the daemon ended with {process.returncode}: {log.read_text().strip()}")
            if time.monotonic() > deadline:
                raise DemoError(f"the daemon is not ready after {PATIENCE_S:g} s: {log.read_text().strip()}")
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def hard_tree() -> Iterator[int]:
    """Run the tree and give the number of its root. The tree ends with this process, however that ends."""
    keeper = subprocess.Popen(
        [sys.executable, HARDTREE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert keeper.stdin
    assert keeper.stdout
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(keeper.stdout, selectors.EVENT_READ)
            if not selector.select(PATIENCE_S):
                raise DemoError(f"the tree has not grown in {PATIENCE_S:g} s")
        line = keeper.stdout.readline()
        if not line:
            raise DemoError("the tree did not grow")
        yield int(line)
    finally:
        keeper.stdin.close()
        keeper.wait()
        keeper.stdout.close()


def psutil_walk(root: int) -> None:
    """Walk the tree with psutil: the nearest equivalent of a snapshot, without namespaces."""
    top = psutil.Process(root)
    for process in (top, *top.children(recursive=True)):
        with process.oneshot(), contextlib.suppress(psutil.Error, ProcessLookupError):
            process.ppid(), process.status(), process.name(), process.create_time()
            os.getpgid(process.pid), os.getsid(process.pid)
            process.threads()


def measure(socket: Path, root: int) -> None:
    """Print the duration of a snapshot, beside that of a psutil walk of the same tree."""
    fresh_ns, again_ns, psutil_ns = [], [], []
    with Client(socket) as client:
        for _ in range(ROUNDS):
            client.snapshot(str(os.getpid()))  # another tree, because the daemon caches the last one
            fresh_ns.append(client.snapshot(str(root)).elapsed_ns)
            again_ns.append(client.snapshot(str(root)).elapsed_ns)
            begin = time.perf_counter_ns()
            psutil_walk(root)
            psutil_ns.append(time.perf_counter_ns() - begin)
    fresh, again, walk = (statistics.median(times) / 1e6 for times in (fresh_ns, again_ns, psutil_ns))
    print(
        f"one snapshot, verified, in the daemon: {fresh:.2f} ms, {again:.2f} ms where nothing has changed since; "
        f"a psutil walk of the same tree: {walk:.2f} ms (medians of {ROUNDS})"
    )


def demonstrate(folder: Path) -> int:
    """Run the demo with BPF; return the exit code."""
    socket, image = folder / "ckptree.sock", folder / "tree.ckpt"
    say("starting a daemon on a socket of its own")
    with daemon(socket):
        say("growing a hard tree")
        with hard_tree() as root:
            run("snapshot", str(root), "-o", image, "--socket", socket)
            kernel = kernel_rows(root)
            run("show", image)
            say("comparing every number with /proc/PID/task/TID/{status,stat,children,ns}")
            compared, differences = compare(registry.load(image.read_bytes()), kernel)
            print(f"\n{len(kernel)} tasks, {compared} numbers compared, {len(differences)} differ")
            for line in differences:
                print(f"{DIFFERS} {line}")
            measure(socket, root)
        say("the tree is gone; making it again from the image, in a pid namespace of its own")
        equal = come_again(image, socket, folder / "again.ckpt")
    return 1 if differences or not equal else 0


def come_again(image: Path, socket: Path, again: Path) -> bool:
    """Rebuild the tree, capture the rebuilt one, and print the differences; return True if there are none."""
    restart = subprocess.Popen([CKPTREE, "restart", image, "--json"], stdout=subprocess.PIPE, text=True)
    try:
        assert restart.stdout
        ready = restart.stdout.readline()
        if not ready:
            raise DemoError(f"ckptree restart ended with {restart.wait()}")
        root = json.loads(ready)["root"]
        deadline = time.monotonic() + PATIENCE_S
        while True:  # the line comes when the tree stands; then its zombies exit, and its stopped tasks stop
            run("snapshot", str(root), "-o", again, "--socket", socket)
            before, after = (registry.load(each.read_bytes()) for each in (image, again))
            equal = difference.difference(before, after).equal
            if equal or time.monotonic() > deadline:
                break
        run("diff", image, again, allowed=(0, 1))
    finally:
        restart.send_signal(signal.SIGTERM)
        restart.wait()
    return equal


def without_bpf(folder: Path) -> None:
    """Show the commands that work without BPF."""
    image = folder / "tree.ckpt"
    with contextlib.ExitStack() as stack:
        try:
            root = stack.enter_context(hard_tree())
        except DemoError as error:
            say(f"{error}; this process and its children will do")
            root = os.getpid()
        say("without BPF, /proc is read task by task while they run: exit code 6, for nothing verifies it")
        run("snapshot", str(root), "--source", "procfs", "-o", image, allowed=(6,))
        run("show", image)


def terminated(number: int, _frame: object) -> NoReturn:
    """Raise an exception, so that every block cleans up."""
    raise SystemExit(128 + number)


def main() -> int:
    """Run the demo; return the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminated)
    folder = Path(tempfile.mkdtemp(prefix="ckptree-demo-"))
    try:
        if os.geteuid() == 0:
            return demonstrate(folder)
        say("not root: loading BPF needs root, or CAP_BPF and CAP_PERFMON. Try: sudo make demo")
        without_bpf(folder)
    except (DemoError, OSError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
