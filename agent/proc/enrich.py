# SPDX-License-Identifier: Apache-2.0
"""A snapshot with the details of its processes, read from this host's /proc: a little after the cut.

A process is found by its numbers, its start and, where that can be read, its innermost pid namespace. The procfs may be
mounted for the root's namespace, or for one above it (then it has more numbers of each process), or for one below (then
it shows only the processes in that, with fewer numbers). A process that it does not show has no details.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from agent.errors import CkptreeError, NotPermittedError
from agent.model import Snapshot, Task, TaskState
from agent.proc import procfs, surroundings
from agent.proc.arguments import HELD
from agent.proc.details import NOTHING, Compare, Details, details
from agent.proc.host import boottime_offset_ns, start_ticks
from agent.record import replace
from agent.table.areas import AtExec
from exporters.content.wording import name, path

FIELDS = ("argv", "cwd", "env", "details")
"""Names of the fields that are added."""

_NAMED: Final = 10  # processes in one message

Ask = Callable[[int, int, bytes | None, bytes | None], AtExec]
"""A function that takes a process's pid in the procfs, its start_ns and its two areas, and returns the exec hook's."""


class Enriched:
    """A snapshot with details, and messages about those that could not be read.

    Args:
        snapshot: of this host.
        proc: where procfs is mounted.
        ask: asks a daemon that has the exec hook's records; None: there is none.

    Attributes:
        snapshot: with the details of the leaders that are found. `as_of_read` has each field that was read of any
            leader.
    """

    def __init__(self, snapshot: Snapshot, proc: Path = Path("/proc"), ask: Ask | None = None) -> None:
        self._proc = proc
        self._ask = ask
        self._unasked = ""
        self._offset_ns = boottime_offset_ns(proc)
        self._where = surroundings.SurroundingsReader(proc)
        self._inums = {namespace.id: namespace.inum for namespace in snapshot.namespaces}
        self._by_birth: defaultdict[tuple[int, int], list[procfs.ProcRow]] = defaultdict(list)
        for row in procfs.scan(proc):
            if row.tid == row.tgid:
                self._by_birth[row.numbers[-1], start_ticks(row.start_ns, self._offset_ns)].append(row)
        self._unfound: list[str] = []
        self._denied: defaultdict[str, list[str]] = defaultdict(list)
        self._read: set[str] = set()
        tasks = tuple([self._with_own(snapshot, task) for task in snapshot.tasks])
        fields = [field for field in FIELDS if field in self._read]
        self.snapshot = replace(snapshot, tasks=tasks, as_of_read=tuple(dict.fromkeys((*snapshot.as_of_read, *fields))))

    def _with_own(self, snapshot: Snapshot, task: Task) -> Task:
        if task.pid != task.tgid:
            return task
        found = self._details(snapshot, task)
        if found is NOTHING:
            if task.state is not TaskState.ZOMBIE:
                self._unfound.append(_called(snapshot, task))
            return task
        for field in found.denied:
            self._denied[field].append(_called(snapshot, task))
        self._read.update(field for field in FIELDS if field not in found.denied)
        return task._replace(argv=found.argv, cwd=found.cwd, env=found.env, details=found.process)

    def _details(self, snapshot: Snapshot, task: Task) -> Details:
        pid = snapshot.pid(task.pid)
        if task.start_ns is None or pid is None:
            return NOTHING
        inum = self._inums.get(pid.namespaces[-1]) if pid.namespaces else None
        alike = [
            row
            for row in self._by_birth.get((pid.numbers[-1], start_ticks(task.start_ns, self._offset_ns)), ())
            if _match(row.numbers, pid.numbers) and (None in (row.pid_ns, inum) or row.pid_ns == inum)
        ]
        if len(alike) != 1:
            return NOTHING
        number, start_ns = alike[0].tid, task.start_ns
        return details(
            number,
            start_ns,
            self._proc,
            offset_ns=self._offset_ns,
            compare=self._compared(number, start_ns),
            where=self._where,
        )

    def _compared(self, number: int, start_ns: int) -> Compare:
        def compared(arguments: bytes | None, environment: bytes | None) -> AtExec:
            if self._ask is None:
                return AtExec()
            try:
                return self._ask(number, start_ns, arguments, environment)
            except NotPermittedError:  # it has changed its user since the cut
                return AtExec()
            except CkptreeError as error:
                self._ask, self._unasked = None, str(error)
                return AtExec()

        return compared

    def messages(self) -> Iterator[str]:
        """Yield a message for each failure to read, with the remedy."""
        if self._unfound and not self._read:
            yield (
                f"--with-argv: {self._proc} shows none of these processes, so nothing is known of their programs: it is of "
                "another pid namespace, or hides them (hidepid): ask where they are shown"
            )
        elif self._unfound:
            yield f"--with-argv: {self._proc} does not show {_some(self._unfound)}: nothing is known of their programs"
        for field, names in sorted(self._denied.items()):
            yield f"--with-argv: not permitted to read {field} of {_some(names)}: be root, or the user that runs them"
        if self._unasked:
            yield f"--with-argv: whether strings are those of the last exec could not be asked: {self._unasked}"
        yield from unknown(self.snapshot)


def with_details(snapshot: Snapshot, proc: Path = Path("/proc")) -> Snapshot:
    """Add details to the leaders that are found."""
    return Enriched(snapshot, proc).snapshot


def unknown(snapshot: Snapshot) -> Iterator[str]:
    """Yield a line for each process whose original strings are not known or certain, and one for all held ones."""
    held: list[str] = []
    for task in snapshot.tasks:
        if (told := task.details) is None:
            continue
        for what, why, doubt in (
            ("arguments", told.argv_unknown, told.argv_uncertain),
            ("environment", told.env_unknown, told.env_uncertain),
        ):
            if why == HELD:
                held.append(_called(snapshot, task))
            elif why is not None:
                yield (
                    f"{_called(snapshot, task)}: its {what}: not known: {why}. A daemon that runs with "
                    "keep_arguments = true when it is started keeps them"
                )
            elif doubt is not None:
                yield f"{_called(snapshot, task)}: its {what}: {doubt}"
    if held:
        yield f"{_some(held)}: {'its' if len(held) == 1 else 'their'} arguments: not known: {HELD}"


def _called(snapshot: Snapshot, task: Task) -> str:
    pid = snapshot.pid(task.pid)
    return f"{path(pid.numbers) if pid else task.pid} ({name(task)})"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _match(here: Sequence[int], there: Sequence[int]) -> bool:
    """Return True if two lists may be the numbers of one pid object, seen from different namespaces."""
    both = min(len(here), len(there))
    return tuple(here[-both:]) == tuple(there[-both:])
