# SPDX-License-Identifier: Apache-2.0
"""A snapshot with the details of its processes, read from this host's /proc: a little after the cut.

A process is found by its numbers, its start and, where that can be read, its innermost pid namespace. The procfs may be
mounted for the root's namespace, or for one above it (then it has more numbers for everybody), or for one below (then it
shows those that live there, with fewer). Whoever it does not show has no details.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agent import procfs
from agent.details import details
from agent.host import ns_per_tick
from agent.model import Snapshot, Task

FIELDS = ("argv", "cwd", "env", "details")
"""What is added, by the names of the fields."""


def with_details(snapshot: Snapshot, proc: Path = Path("/proc")) -> Snapshot:
    """Add them to the leaders that are found."""
    inums = {namespace.id: namespace.inum for namespace in snapshot.namespaces}
    by_birth: defaultdict[tuple[int, int], list[procfs.ProcRow]] = defaultdict(list)
    for row in procfs.scan(proc):
        if row.tid == row.tgid:
            by_birth[row.numbers[-1], row.start_ns // ns_per_tick()].append(row)

    def with_own(task: Task) -> Task:
        pid = snapshot.pid(task.pid)
        if task.pid != task.tgid or task.start_ns is None or pid is None:
            return task
        inum = inums.get(pid.namespaces[-1]) if pid.namespaces else None
        alike = [
            row
            for row in by_birth.get((pid.numbers[-1], task.start_ns // ns_per_tick()), ())
            if _match(row.numbers, pid.numbers) and (None in (row.pid_ns, inum) or row.pid_ns == inum)
        ]
        if len(alike) != 1:
            return task
        found = details(alike[0].tid, task.start_ns, proc)
        return task._replace(argv=found.argv, cwd=found.cwd, env=found.env, details=found.process)

    tasks = tuple([with_own(task) for task in snapshot.tasks])
    return replace(snapshot, tasks=tasks, as_of_read=tuple(dict.fromkeys((*snapshot.as_of_read, *FIELDS))))


def _match(here: Sequence[int], there: Sequence[int]) -> bool:
    """Whether these may be numbers of one pid object, as far as both say: from different namespaces inward."""
    both = min(len(here), len(there))
    return tuple(here[-both:]) == tuple(there[-both:])
