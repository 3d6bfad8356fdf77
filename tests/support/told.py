# SPDX-License-Identifier: Apache-2.0
"""Events as a client has them, for tests of what is made of them."""

from typing import Any, Final

from agent.protocol.replies import Event, EventTask

BOOT: Final = 1_700_000_000_000_000_000
"""CLOCK_REALTIME at boot, ns."""


def event(kind: str, order: int, tid: int = 5, *, pid: int = 0, **details: Any) -> Event:
    """Return an event of a task, which its number second began; of no task where the number is 0."""
    comm = details.pop("comm", b"make")
    numbers = details.pop("numbers", (tid,))
    task = EventTask(pid or tid, tid, numbers, tid * 1_000_000_000, 1000, 100, comm) if tid else None
    return Event(kind, order, task, details, details.pop("time_ns", BOOT + 60_000_000_000 + order))


def birth(order: int, tid: int, parent: int, *, pid: int = 0, **details: Any) -> Event:
    """Return a birth."""
    told = {"parent": parent, "creator": parent, "pgid": 4, "sid": 3, "flags": [], "exit_signal": 17}
    return event("birth", order, tid, pid=pid, **(told | details))


def death(order: int, tid: int, status: int, *, pid: int = 0, last: bool = True) -> Event:
    """Return a death, by its raw wait status."""
    return event("death", order, tid, pid=pid, exit_code=status, group_dead=last)


ALL_KINDS: Final = [
    birth(1, 5, 4, numbers=(5, 1)),
    event("exec", 2, 5, old_tid=5, exit_signal=17, arguments=[b"make", b"-j\xff"], arguments_cut=False),
    birth(3, 6, 4, pid=5),
    event("setsid", 4, 5, pgid=5, sid=5),
    event("setpgid", 5, 5, pgid=0, sid=None),
    event("reparent", 6, 5, parent=1, exit_signal=17),
    event("subreaper", 7, 5, on=True),
    event("change", 8, 5, stopped=True, exit_code=None, exit_signal=17),
    event("loss", 9, 0, count=12),
    event("resync", 10, 0),
    event("dropped", 11, 0, count=3),
    event("hidden", 12, 0),
    death(13, 6, 0, pid=5, last=False),
    death(14, 5, 9),
    event("reap", 15, 5),
    birth(16, 7, 5, assumed=True, entered=True, pgid=None, sid=0),
    event("end", 17, 0),
]
"""An event of each kind that a daemon tells."""
