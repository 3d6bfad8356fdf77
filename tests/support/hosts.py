# SPDX-License-Identifier: Apache-2.0
"""A host as a snapshot: 166 processes of the kinds that a server has, one a zombie and one stopped."""

from typing import Any

from agent.model import Snapshot, TaskState
from tests.support.builders import a_snapshot, a_task, born

PROCESSES = 166


class _Host:
    """The tasks so far."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []

    def fork(self, parent: int, comm: str, *, leads: str = "", **facts: Any) -> int:
        """Add a child, which leads its session or group if `leads` has an s or a g; return its tag."""
        tag = len(self.tasks) + 1
        above = self.tasks[parent - 1] if parent else None
        sid = tag if "s" in leads or above is None else above.sid
        pgid = tag if "g" in leads or "s" in leads or above is None else above.pgid
        known: dict[str, Any] = {
            "birth": born(parent or None, tag),
            "comm": comm.encode(),
            "uid": above.uid if above else 0,
        } | facts
        self.tasks.append(a_task(tag, parent, sid=sid, pgid=pgid, **known))
        return tag

    def thread(self, leader: int, comm: str) -> None:
        """Add a thread."""
        above = self.tasks[leader - 1]
        tag = len(self.tasks) + 1
        birth = born(leader, tag, flags=("CLONE_THREAD",))
        task = a_task(tag, above.ppid, tgid=leader, sid=above.sid, pgid=above.pgid, comm=comm.encode(), birth=birth)
        self.tasks.append(task)


def a_host() -> Snapshot:
    """Return the snapshot of a host: services, workers, logins, jobs and containers."""
    host = _Host()
    root = host.fork(0, "systemd", subreaper=True)
    for comm in ("journald", "udevd", "networkd", "resolved", "timesyncd", "dbus-daemon", "logind", "cron"):
        host.fork(root, comm, leads="s")
    log = host.fork(root, "rsyslogd", leads="s")
    for comm in ("in:imuxsock", "in:imklog", "rs:main"):
        host.thread(log, comm)
    web = host.fork(root, "nginx", leads="s")
    for _ in range(24):
        host.fork(web, "nginx", uid=33)
    base = host.fork(root, "postgres", leads="s", uid=999)
    for comm in ("checkpointer", "bgwriter", "walwriter", *["postgres"] * 30):
        host.fork(base, comm, leads="s")
    login = host.fork(root, "sshd", leads="s")
    for user in range(1000, 1004):
        shell = host.fork(host.fork(host.fork(login, "sshd", leads="s"), "sshd", uid=user), "bash", leads="s")
        if user == 1000:
            host.fork(shell, "vim", leads="g", state=TaskState.STOPPED)
            make = host.fork(shell, "make", leads="g")
            for _ in range(8):
                host.fork(host.fork(make, "cc"), "cc1")
        if user == 1001:
            job = host.fork(shell, "python3", leads="g")
            for _ in range(12):
                host.fork(job, "python3")
            host.fork(job, "sh", state=TaskState.ZOMBIE, exit_code=256)
    engine = host.fork(root, "containerd", leads="s")
    for _ in range(4):
        java = host.fork(host.fork(engine, "containerd-shim", leads="s", subreaper=True), "java", leads="s")
        for number in range(20):
            host.thread(java, f"GC Thread#{number}")
    while sum(task.pid == task.tgid for task in host.tasks) < PROCESSES:
        number = len(host.tasks)
        host.fork(root, "sleep" if number % 3 else f"worker-{number}", leads="s" if number % 2 else "g")
    return a_snapshot([(tag * 7 + 300 if tag > 1 else 1,) for tag in range(1, len(host.tasks) + 1)], host.tasks)
