# SPDX-License-Identifier: Apache-2.0
"""The comparison of two snapshots, by the identity of tasks and not by row or tag.

Theory
------
Two snapshots are *equal* if they have the same pid objects, the same tasks in the same tree, groups, sessions and
thread groups, the same states, exit codes (except the core-dump bit), exit signals and subreaper flags, and if the same
pids share a namespace. Tags, the order of rows, births, times, names, owners and squashed ids do not count: they may
be *noted*. Two trees with the same PIDS and TREE buffers, up to the choice of tags, and alike in the rest, are equal.

A pid object is the same if its numbers are, from the root's namespace inward. (Its number in the root's namespace is
unique, but a pid object with the same number there and other numbers inside is another one.) A task is the same if its
pid object is and, where it can be compared, its start time. That depends on the two snapshots:

* One tree at two times: the host was not booted in between, and at least one task has kept its number and its start
  time. Then a task with the same number and another start time is another task: the kernel has used the number again.
* Two trees: another host or boot, or one tree rebuilt from the other's image. A rebuilt task has its old number and
  never its old start time. So no start time is the same, and numbers alone identify tasks. The same holds for an image
  without start times (a bare one).

A number used again does not by itself make two snapshots different: start times do not count. If all the rest agrees
the new task is noted; if not, one task is gone and another one was born.

A fact that only one of the two snapshots has (a bare image has no states) is a difference, told once for each fact and
not for each task. Only exit signals are compared just where both have them. A bare image of the dialect v23 has 0 for
the session that the root inherited. Against such an image 0 and the inherited session count as the same.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Literal, TypeAlias

from agent.model import PidObject, Snapshot, Tag, Task
from agent.record import NamedTuple, record, replace
from exporters.comparing import renumbering
from exporters.content.wording import CORE_DUMPED, is_bare, path, plain

Numbers: TypeAlias = tuple[int, ...]
"""The numbers of a pid object, outermost first: its identity in a comparison."""

Ref: TypeAlias = Numbers | int
"""A pid object, or 0 or CKPT_PID_ROOT."""

Side: TypeAlias = Literal["a", "b"]

Place: TypeAlias = Literal["parent", "thread group", "group", "session"]
Condition: TypeAlias = Literal["state", "exit code", "subreaper", "exit signal"]
Trait: TypeAlias = Literal["comm", "uid", "gid", "core dumped", "next pid namespace"]


class Change(NamedTuple):
    """One field's values in `a` and in `b`; None: absent or not known."""

    field: Place | Condition | Trait
    a: Ref | str | bytes | None
    b: Ref | str | bytes | None


class Changed(NamedTuple):
    """A task that both snapshots have, with the fields in which it differs.

    Attributes:
        a, b: the task in each.
        changes: at least one.
    """

    a: Task
    b: Task
    changes: tuple[Change, ...]


class Stray(NamedTuple):
    """A number whose namespace in `b` is not the one that most pids of its namespace in `a` have.

    Attributes:
        numbers: the pid object's.
        level: index into numbers.
        a, b: ids of the namespaces.
    """

    numbers: Numbers
    level: int
    a: int
    b: int


class Unsaid(NamedTuple):
    """A fact that only one snapshot has.

    Attributes:
        fact: its name.
        side: the snapshot without it.
        known: number of tasks (pids, for namespaces) for which the other snapshot has it.
    """

    fact: Condition | Literal["namespaces"]
    side: Side
    known: int


@record
class Difference:
    """All differences between two snapshots, in the order of the numbers.

    Attributes:
        a, b: the snapshots.
        one_tree: True if both are of one tree, so that start times identify tasks; False if only numbers do.
        mapped: True if a map gave the numbers of `a`.
        gone, born: tasks of a alone and of b alone.
        moved: tasks with another parent, thread group, group or session.
        changed: tasks with another state, exit code, exit signal or subreaper flag.
        pids_gone, pids_came: pid objects without a task (ghosts) that only one snapshot has.
        strays: pids that share a namespace with other pids than before.
        unsaid: facts that only one of the two has.
        replaced: tasks that differ in their start time alone; does not count for equality.
        renamed: tasks with another comm, uid or gid, core-dump bit or dead pid namespace; does not count for equality.
        notes: sentences on the snapshots as a whole; do not count for equality.
    """

    a: Snapshot
    b: Snapshot
    one_tree: bool
    gone: tuple[Task, ...]
    born: tuple[Task, ...]
    moved: tuple[Changed, ...]
    changed: tuple[Changed, ...]
    pids_gone: tuple[PidObject, ...]
    pids_came: tuple[PidObject, ...]
    strays: tuple[Stray, ...]
    unsaid: tuple[Unsaid, ...]
    replaced: tuple[Changed, ...]
    renamed: tuple[Changed, ...]
    notes: tuple[str, ...]
    mapped: bool = False

    @property
    def equal(self) -> bool:
        """True if the two are equal in the sense of the module."""
        return not (
            self.gone
            or self.born
            or self.moved
            or self.changed
            or self.pids_gone
            or self.pids_came
            or self.strays
            or self.unsaid
        )


def difference(a: Snapshot, b: Snapshot, numbers: renumbering.Map | None = None) -> Difference:
    """Compare two snapshots.

    Args:
        a, b: the snapshots.
        numbers: those that the tasks of `a` have in `b`, by tag, if `b` was rebuilt from `a` with others; None: the
        same.

    Raises:
        FormatError: `numbers` belong to another image.
        UsageError: `numbers` belong to another rebuild.
    """
    if numbers is None:
        return _Comparison(a, b).result()
    return replace(_Comparison(renumbering.renumbered(a, numbers, b), b).result(), mapped=True)


class _Comparison:
    """Two snapshots, their tasks looked up by numbers."""

    def __init__(self, a: Snapshot, b: Snapshot) -> None:
        self._a, self._b = a, b
        self._tasks_a, self._tasks_b = _by_numbers(a), _by_numbers(b)
        self._common = sorted(self._tasks_a.keys() & self._tasks_b.keys())
        self._inherited_is_known = not any(side.dialect == "v23" and is_bare(side) for side in (a, b))
        self._one_tree = a.boot_id != "" and a.boot_id == b.boot_id and any(map(self._same_start, self._common))
        self._unsaid: Counter[tuple[Condition | Literal["namespaces"], Side]] = Counter()

    def result(self) -> Difference:
        moved, changed, replaced, renamed = [], [], [], []
        again: set[Numbers] = set()
        for numbers in self._common:
            a, b = self._tasks_a[numbers], self._tasks_b[numbers]
            places, conditions = tuple(self._places(a, b)), tuple(self._conditions(a, b))
            if self._other_task(a, b):
                if places or conditions:
                    again.add(numbers)
                else:
                    replaced.append(Changed(a, b, ()))
                continue
            moved += [Changed(a, b, places)] if places else []
            changed += [Changed(a, b, conditions)] if conditions else []
            traits = tuple(_traits(a, b))
            renamed += [Changed(a, b, traits)] if traits else []
        strays = tuple(self._strays())
        return Difference(
            a=self._a,
            b=self._b,
            one_tree=self._one_tree,
            gone=_only(self._tasks_a, self._tasks_b, again),
            born=_only(self._tasks_b, self._tasks_a, again),
            moved=tuple(moved),
            changed=tuple(changed),
            pids_gone=_ghosts_only(self._a, self._tasks_a, self._b),
            pids_came=_ghosts_only(self._b, self._tasks_b, self._a),
            strays=strays,
            unsaid=tuple([Unsaid(fact, side, known) for (fact, side), known in sorted(self._unsaid.items())]),
            replaced=tuple(replaced),
            renamed=tuple(renamed),
            notes=tuple(self._notes()),
        )

    def _same_start(self, numbers: Numbers) -> bool:
        start_ns = self._tasks_a[numbers].start_ns
        return start_ns is not None and start_ns == self._tasks_b[numbers].start_ns

    def _other_task(self, a: Task, b: Task) -> bool:
        """Return True if two tasks of one tree have only their numbers in common."""
        return self._one_tree and a.start_ns is not None and b.start_ns is not None and a.start_ns != b.start_ns

    def _places(self, a: Task, b: Task) -> Iterator[Change]:
        fields: tuple[tuple[Place, Tag, Tag], ...] = (
            ("parent", a.ppid, b.ppid),
            ("thread group", a.tgid, b.tgid),
            ("group", a.pgid, b.pgid),
            ("session", a.sid, b.sid),
        )
        for field, tag_a, tag_b in fields:
            before, after = self._ref(self._a, tag_a), self._ref(self._b, tag_b)
            if before != after:
                yield Change(field, before, after)

    def _conditions(self, a: Task, b: Task) -> Iterator[Change]:
        said = self._said("state", a.state is not None, b.state is not None)
        if a.state is not b.state and said:
            yield Change("state", a.state, b.state)
        if _without_core(a.exit_code) != _without_core(b.exit_code) and (
            # Where the state is known, a missing exit code means that there is none.
            (a.state is not None and b.state is not None)
            or self._said("exit code", a.exit_code is not None, b.exit_code is not None)
        ):
            yield Change("exit code", a.exit_code, b.exit_code)
        said = self._said("subreaper", a.subreaper is not None, b.subreaper is not None)
        if a.subreaper is not b.subreaper and said:
            yield Change("subreaper", a.subreaper, b.subreaper)
        if a.exit_signal != b.exit_signal and a.exit_signal is not None and b.exit_signal is not None:
            yield Change("exit signal", a.exit_signal, b.exit_signal)

    def _said(self, fact: Condition | Literal["namespaces"], by_a: bool, by_b: bool) -> bool:  # noqa: FBT001  # a pair
        """Return True if both sides have a fact, or neither; count it if only one has."""
        if by_a != by_b:
            self._unsaid[fact, "b" if by_a else "a"] += 1
        return by_a == by_b

    def _ref(self, snapshot: Snapshot, tag: Tag) -> Ref:
        pid = snapshot.pid(tag)
        if pid:
            return pid.numbers
        return tag if self._inherited_is_known else 0

    def _strays(self) -> Iterator[Stray]:
        """Return the pids that prevent a mapping of each namespace of `a` to one of `b`."""
        ids_b = {pid.numbers: pid.namespaces for pid in self._b.pids}
        both: list[Stray] = []
        for numbers, ids in sorted((pid.numbers, pid.namespaces) for pid in self._a.pids if pid.numbers in ids_b):
            theirs = ids_b[numbers]
            if self._said("namespaces", bool(ids), bool(theirs)):
                both += [Stray(numbers, level, *pair) for level, pair in enumerate(zip(ids, theirs, strict=True))]
        # Each namespace of `a` is paired with the one of `b` that holds most of its pids; the other pids are strays.
        fellows = Counter([(row.a, row.b) for row in both])
        pairs: dict[int, int] = {}
        taken: set[int] = set()
        for id_a, id_b in sorted(fellows, key=lambda pair: (-fellows[pair], pair)):
            if id_a not in pairs and id_b not in taken:
                pairs[id_a] = id_b
                taken.add(id_b)
        return (row for row in both if pairs.get(row.a) != row.b)

    def _sharing(self) -> Iterator[str]:
        """Yield the groups of tasks that share something in only one snapshot, if both were read for it."""
        if "shares" not in self._a.as_of_read or "shares" not in self._b.as_of_read:
            return
        groups = [_sharing(side) for side in (self._a, self._b)]
        for side, mine, theirs in (("a", groups[0], groups[1]), ("b", groups[1], groups[0])):
            for kind, members in sorted(mine - theirs, key=lambda group: (group[0], sorted(group[1]))):
                yield f"{kind} shared in {side} alone: {', '.join(map(path, sorted(members)))}"

    def _notes(self) -> Iterator[str]:
        a, b = self._a, self._b
        if a.mode != b.mode:
            yield f"a is a {a.mode}, b a {b.mode}"
        if a.boot_id and b.boot_id and a.boot_id != b.boot_id:
            yield "captured on different hosts, or with a boot in between"
        for side, snapshot in (("a", a), ("b", b)):
            if not snapshot.completeness.complete:
                yield f"{side} is incomplete: {plain('; '.join(snapshot.completeness.reasons)) or 'not verified'}"
        yield from self._sharing()
        if a.squashed != b.squashed:
            said = [plain(", ".join(side.squashed)) or "nothing" for side in (a, b)]
            yield f"under one tag from outside: {said[0]} in a, {said[1]} in b"


def _by_numbers(snapshot: Snapshot) -> dict[Numbers, Task]:
    first = snapshot.first_tag
    return {snapshot.pids[task.pid - first].numbers: task for task in snapshot.tasks}


def _sharing(snapshot: Snapshot) -> set[tuple[str, frozenset[Numbers]]]:
    groups: dict[tuple[str, int], set[Numbers]] = {}
    for task in snapshot.tasks:
        for kind, id_ in task.shares._asdict().items() if task.shares else ():
            if id_ is not None:
                groups.setdefault((kind, id_), set()).add(snapshot.pids[task.pid - snapshot.first_tag].numbers)
    return {(kind, frozenset(members)) for (kind, _), members in groups.items()}


def _only(mine: dict[Numbers, Task], theirs: dict[Numbers, Task], again: set[Numbers]) -> tuple[Task, ...]:
    return tuple([mine[numbers] for numbers in sorted((mine.keys() - theirs.keys()) | again)])


def _ghosts_only(snapshot: Snapshot, tasks: dict[Numbers, Task], other: Snapshot) -> tuple[PidObject, ...]:
    known = {pid.numbers for pid in other.pids}
    return tuple(sorted([pid for pid in snapshot.pids if pid.numbers not in known and pid.numbers not in tasks]))


def _without_core(code: int | None) -> int | None:
    return None if code is None else code & ~CORE_DUMPED


def _next_namespace(task: Task) -> str:
    if task.child_namespace is None:
        return "its own"
    return "dead" if task.child_namespace_dead else "alive"


def _traits(a: Task, b: Task) -> Iterator[Change]:
    fields: tuple[tuple[Trait, bytes | int | None, bytes | int | None], ...] = (
        ("comm", a.comm, b.comm),
        ("uid", a.uid, b.uid),
        ("gid", a.gid, b.gid),
    )
    for field, before, after in fields:
        # An image without names says nothing about them.
        if before is not None and after is not None and before != after:
            yield Change(field, before, after)
    if a.child_namespace_dead is not b.child_namespace_dead:
        yield Change("next pid namespace", _next_namespace(a), _next_namespace(b))
    if a.exit_code is not None and b.exit_code is not None and (a.exit_code ^ b.exit_code) & CORE_DUMPED:
        dumped = ["yes" if code & CORE_DUMPED else "no" for code in (a.exit_code, b.exit_code)]
        yield Change("core dumped", dumped[0], dumped[1])
