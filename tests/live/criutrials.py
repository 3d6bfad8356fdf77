# SPDX-License-Identifier: Apache-2.0
"""A trial of CRIU with one tree: dump it, restore it elsewhere, and tell what came of it.

`dump` and `restore` start this module as the init of a pid namespace with a /proc of its own. It reaps at once, as CRIU
needs it: a number whose zombie waits is taken. The numbers of the tree begin above those of CRIU's own processes.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

MODES: Final = ("container", "subtree", "job")
"""The root of a tree: init of a pid namespace, leader of a session, or a shell's job, which leads a group alone."""

_PATIENCE_S: Final = 60.0
_SILENCE_S: Final = 6.0  # without a line in its log, criu hangs
_TICK_S: Final = 0.01
_FIRST_PID: Final = 1000
_NAMES: Final = ("ready", "scriptedtree")


class Row(NamedTuple):
    """A process as /proc shows it, with numbers of the root's pid namespace.

    Attributes:
        ppid: 0 for the root; negative: that of a process outside the tree.
        parent: number of the thread that is its parent; 0 where /proc does not tell.
        state: ``running``, ``stopped`` or ``zombie``.
        code: raw wait status of a zombie.
        name: that of its first thread.
        users: its user ids: real, effective, saved, that for files.
    """

    pid: int
    ppid: int
    pgid: int
    sid: int
    parent: int
    state: str
    code: int
    exit_signal: int
    threads: int
    name: str
    users: str


class Trial(NamedTuple):
    """The outcome of a dump or a restore.

    Attributes:
        outcome: ``ok``, ``refused`` or ``hangs``.
        said: the errors in CRIU's log.
        rows: the processes before the dump, or after the restore, by number.
    """

    outcome: str
    said: list[str]
    rows: dict[int, Row]


def dump(criu: Path, program: Path, folder: Path, mode: str, *script: str) -> Trial:
    """Make a tree, and dump it.

    Args:
        criu: the program to try.
        program: scriptedtree.c, compiled.
        folder: for the images; it is made.
        mode: one of MODES.
        script: for `program`, and ``lenient``.
    """
    folder.mkdir()
    return _elsewhere("dump", criu, folder, mode, program, *script)


def restore(criu: Path, folder: Path, mode: str) -> Trial:
    """Restore a dumped tree in another pid namespace, compare nothing, and end it."""
    return _elsewhere("restore", criu, folder, mode)


def _elsewhere(*words: str | Path) -> Trial:
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, __file__]
    ran = subprocess.run(
        [*command, *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    outcome, said, rows = json.loads(ran.stdout)
    return Trial(outcome, said, {row[0]: Row(*row) for row in rows})


# ---- within the namespace --------------------------------------------------------------------------------------------


def _dump(criu: str, folder: Path, mode: str, *command: str) -> Trial:
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(_FIRST_PID))
    _start(mode, command)
    _wait_until(lambda: bool(_named("ready")), "the tree is not made")
    (root,) = _named("ready")
    _wait_until(_is_asleep, "a task of the tree still runs")
    rows = tree_rows(root)
    job = ["--shell-job"] if mode == "job" else []
    outcome = _run(folder, [criu, "dump", "--tree", str(root), *job], "dump.log")
    return Trial(outcome, _errors(folder / "dump.log"), rows)


def _start(mode: str, command: tuple[str, ...]) -> None:
    """Start the root of a tree, with no descriptor but those of the null device."""
    if os.fork():
        return
    os.closerange(0, 1024)
    for _ in range(3):
        os.open(os.devnull, os.O_RDWR)
    if mode == "job":
        os.setsid()
        if os.fork():
            while True:
                signal.pause()
        os.setpgid(0, 0)
    leading = {"container": ("unshare", "--pid", "--fork", "setsid"), "subtree": ("setsid",), "job": ()}[mode]
    words = (*leading, *command)
    os.execvp(words[0], words)  # noqa: S606  # the words are ours


def _restore(criu: str, folder: Path, mode: str) -> Trial:
    job = ["--shell-job"] if mode == "job" else []
    pidfile = folder / "pid"
    pidfile.unlink(missing_ok=True)
    words = [criu, "restore", "--restore-detached", "--pidfile", str(pidfile), *job]
    outcome = _run(folder, words, "restore.log", session=mode == "job")
    rows = {}
    if outcome == "ok":
        _wait_until(_is_asleep, "a task of the restored tree still runs")
        # All but this process are of the tree, also those that are not below its root.
        rows = _rows(int(pidfile.read_text()), set(_stats()) - {os.getpid()})
    return Trial(outcome, _errors(folder / "restore.log"), rows)


def _run(folder: Path, words: list[str], log: str, *, session: bool = False) -> str:
    """Run criu until it ends, or hangs."""
    command = [*words, "--images-dir", str(folder), "-v4", "--log-file", log]
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=session)
    size, heard = 0, time.monotonic()
    while True:
        if process.pid in (ended := _reap()):
            return "ok" if ended[process.pid] == 0 else "refused"
        now = (folder / log).stat().st_size if (folder / log).exists() else 0
        if now != size:
            size, heard = now, time.monotonic()
        if time.monotonic() - heard > _SILENCE_S:
            return "hangs"
        time.sleep(_TICK_S)


def _reap() -> dict[int, int]:
    """Reap all children that have ended; return their wait statuses, by number."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        ended[pid] = status


def _wait_until(true: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not true():
        _reap()
        if time.monotonic() > deadline:
            sys.exit(f"{otherwise} after {_PATIENCE_S:g} s")
        time.sleep(_TICK_S)


def _errors(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [line.strip() for line in lines if "Error" in line and "RLIMIT_NOFILE" not in line]


def _stats() -> dict[int, tuple[str, list[str]]]:
    """Return name and further fields of stat of each process, by number."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue
        found[int(path.parent.name)] = (
            text[text.index("(") + 1 : text.rindex(")")],
            text[text.rindex(")") + 2 :].split(),
        )
    return found


def _named(name: str) -> list[int]:
    return [pid for pid, (comm, _) in _stats().items() if comm == name]


def _is_asleep() -> bool:
    """Return True if no task of the tree runs, exits or is about to stop: each of these is a state of its own."""
    return all(fields[0] in "STZ" for comm, fields in _stats().values() if comm in _NAMES)


def tree_rows(root: int) -> dict[int, Row]:
    """Return the root and the processes below it, by their numbers in the root's namespace."""
    parents = {pid: int(fields[1]) for pid, (_, fields) in _stats().items()}
    below = {root}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return _rows(root, below)


def _rows(root: int, tree: set[int]) -> dict[int, Row]:
    """Return processes by their numbers in the root's namespace, but for those that end meanwhile."""
    stats = _stats()
    inner: dict[int, dict[str, int]] = {}
    users: dict[int, str] = {}
    parents: dict[int, int] = {}
    for pid in tree & stats.keys():
        with suppress(FileNotFoundError, ProcessLookupError):
            parents |= {child: tid for tid in _threads(pid) for child in _children(pid, tid)}
            users[pid] = " ".join(_status(pid)["Uid"])
            inner[pid] = _inner(pid)
    found = {}
    for pid, own in inner.items():
        name, fields = stats[pid]
        parent = int(fields[1])
        with suppress(FileNotFoundError, ProcessLookupError):
            found[own["NSpid"]] = Row(
                pid=own["NSpid"],
                ppid=0 if pid == root else inner[parent]["NSpid"] if parent in inner else -parent,
                pgid=own["NSpgid"],
                sid=own["NSsid"],
                parent=0 if pid == root or pid not in parents else _number(parent, parents[pid]),
                state={"T": "stopped", "Z": "zombie"}.get(fields[0], "running"),
                code=int(fields[49]),
                exit_signal=int(fields[35]),
                threads=len(_threads(pid)),
                name=name,
                users=users[pid],
            )
    return found


def _inner(pid: int, task: str = "") -> dict[str, int]:
    """Return the numbers of a task in its own pid namespace."""
    status = _status(pid, task)
    return {key: int(status[key][-1]) for key in ("NSpid", "NSpgid", "NSsid")}


def _status(pid: int, task: str = "") -> dict[str, list[str]]:
    """Return the words of each line of a task's status."""
    lines = Path(f"/proc/{pid}/{task}status").read_text().splitlines()
    return {key: words.split() for key, _, words in (line.partition(":") for line in lines)}


def _number(pid: int, tid: int) -> int:
    return _inner(pid, f"task/{tid}/")["NSpid"]


def _threads(pid: int) -> list[int]:
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


def _children(pid: int, tid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{tid}/children").read_text().split()]


def _main(verb: str, criu: str, folder: str, *rest: str) -> None:
    trial: Any = {"dump": _dump, "restore": _restore}[verb](criu, Path(folder), *rest)
    print(json.dumps([trial.outcome, trial.said, list(trial.rows.values())]), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
