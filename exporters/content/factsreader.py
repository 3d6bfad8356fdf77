# SPDX-License-Identifier: Apache-2.0
"""The reader of facts (exporters.content.facts): it makes a snapshot of a base and its facts, or names each error."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias, cast

from agent.errors import FormatError
from agent.model import (
    CKPT_PID_ROOT,
    Ancestor,
    AncestorEvent,
    At,
    Birth,
    Completeness,
    Creator,
    Dialect,
    Header,
    Mode,
    Namespace,
    Obstacle,
    OutsidePid,
    PidObject,
    PidRef,
    Snapshot,
    Tag,
    Task,
    TaskState,
    Verified,
    WaitStatus,
)
from exporters.content.belongings import read_details, read_owners, read_shares, read_terminal
from exporters.content.facts import TIME_NS_MAX
from exporters.content.fields import S32_MAX, U32_MAX, U64_MAX, Fields
from exporters.content.soundness import TaskIds
from exporters.content.unknown import collect

_EventName: TypeAlias = Literal["setsid", "setpgid", "subreaper", "exit"]

_VERIFIED: tuple[Verified, ...] = ("sweep", "numbering", "no")
_EVENTS: tuple[_EventName, ...] = ("setsid", "setpgid", "subreaper", "exit")
_STATES = tuple(TaskState)


class Base(NamedTuple):
    """The contents of a bare image; model.Snapshot documents the fields."""

    mode: Mode
    dialect: Dialect
    first_tag: int
    header: Header
    numbers: Sequence[tuple[int, ...]]
    tasks: Sequence[TaskIds]


def assemble(base: Base, known: Fields) -> Snapshot:
    """Join a sound base and its facts.

    Raises:
        FormatError: the facts break their schema or contradict the base.
    """
    reader = _FactsReader(base, known)
    return Snapshot(
        mode=base.mode,
        time_ns=known.integer("time_ns", 0, TIME_NS_MAX),
        pids=reader.pids(),
        tasks=reader.tasks(),
        namespaces=reader.namespaces,
        ancestors=reader.ancestors(),
        squashed=known.texts("squashed"),
        entered=known.texts("entered"),
        boot_id=known.text("boot_id", ""),
        boottime_ns=known.maybe_integer("boottime_ns", 0, U64_MAX),
        header=base.header,
        completeness=reader.completeness(),
        as_of_read=known.texts("as_of_read"),
        at=reader.at(),
        not_rebuildable=reader.obstacles(),
        first_tag=base.first_tag,
        dialect=base.dialect,
        unknown=collect(known.whole),
    )


def wrongs(base: Base, known: Fields) -> Iterator[FormatError]:
    """Yield all errors of `assemble`: the first one of each field and, in the long lists, of each row."""
    try:
        reader = _FactsReader(base, known)
    except FormatError as error:
        # References to namespaces cannot be judged without the namespaces.
        yield error
        return
    yield from reader.wrong_rows("pids", len(base.numbers))
    yield from reader.wrong_rows("tasks", len(base.tasks))
    parts: tuple[Callable[[], object], ...] = (
        lambda: known.integer("time_ns", 0, TIME_NS_MAX),
        lambda: known.maybe_integer("boottime_ns", 0, U64_MAX),
        lambda: known.texts("squashed"),
        lambda: known.texts("entered"),
        lambda: known.texts("as_of_read"),
        reader.obstacles,
        lambda: known.text("boot_id", ""),
        reader.ancestors,
        reader.completeness,
        reader.at,
        lambda: collect(known.whole),
    )
    for part in parts:
        try:
            part()
        except FormatError as error:
            yield error


class _FactsReader:
    """Reader of the facts of a base: each reference must lead to a row of the base or of the facts."""

    def __init__(self, base: Base, known: Fields) -> None:
        self._base = base
        self._known = known
        self._first = base.first_tag
        self._last = base.first_tag + len(base.numbers) - 1
        self._ancestors = known.count("ancestors")
        self.namespaces = tuple([self._namespace(fields, id_) for id_, fields in enumerate(known.maps("namespaces"))])

    def pids(self) -> tuple[PidObject, ...]:
        rows = self._rows("pids", len(self._base.numbers))
        pids = []
        for numbers, fields in zip(self._base.numbers, rows, strict=True):
            ids = self._namespace_ids(fields, len(numbers))
            pids.append(PidObject(numbers, ids))
        return tuple(pids)

    def tasks(self) -> tuple[Task, ...]:
        rows = self._rows("tasks", len(self._base.tasks))
        last_namespace = len(self.namespaces) - 1
        return tuple(
            [
                Task(
                    pid=ids.pid,
                    ppid=ids.ppid,
                    tgid=ids.tgid,
                    pgid=ids.pgid,
                    sid=ids.sid,
                    depth=ids.depth,
                    start_ns=fields.maybe_integer("start_ns", 0, U64_MAX),
                    state=fields.word("state", _STATES) if fields.has("state") else None,
                    exit_code=cast("WaitStatus | None", fields.maybe_integer("exit_code", -S32_MAX, S32_MAX)),
                    exit_signal=fields.maybe_integer("exit_signal", -S32_MAX, S32_MAX),
                    comm=fields.raw("comm"),
                    uid=fields.maybe_integer("uid", 0, U32_MAX),
                    gid=fields.maybe_integer("gid", 0, U32_MAX),
                    subreaper=fields.flag("subreaper"),
                    child_namespace=fields.maybe_integer("child_namespace", -1, last_namespace),
                    argv=fields.raws("argv"),
                    cwd=fields.raw("cwd"),
                    env=fields.raws("env"),
                    tty=read_terminal(fields.map("tty"), self._ref_of) if fields.has("tty") else None,
                    fown=read_owners(fields.maps("fown"), self._ref_of) if fields.has("fown") else None,
                    details=read_details(fields.map("details")) if fields.has("details") else None,
                    shares=read_shares(fields.map("shares")) if fields.has("shares") else None,
                    child_namespace_dead=fields.flag("child_namespace_dead") or None,
                    birth=self._birth(fields.map("birth")) if fields.has("birth") else None,
                )
                for ids, fields in zip(self._base.tasks, rows, strict=True)
            ]
        )

    def ancestors(self) -> tuple[Ancestor, ...]:
        return tuple(
            [
                Ancestor(
                    id=fields.integer("id", index, index),
                    numbers=pid.numbers,
                    namespaces=pid.namespaces,
                    birth=self._birth(fields),
                    events=tuple([self._event(event) for event in fields.maps("events")]),
                )
                for index, fields in enumerate(self._known.maps("ancestors"))
                for pid in (self._outside(fields),)
            ]
        )

    def obstacles(self) -> tuple[Obstacle, ...]:
        return tuple(
            [
                Obstacle(Tag(fields.integer("tag", 0, self._last)), fields.text("rule"), fields.text("text"))
                for fields in self._known.maps("not_rebuildable")
            ]
        )

    def completeness(self) -> Completeness:
        if not self._known.has("completeness"):
            return Completeness("no")
        fields = self._known.map("completeness")
        return Completeness(
            verified=fields.word("verified", _VERIFIED),
            lost=fields.maybe_integer("lost", 0, U64_MAX) or 0,
            sweeps=fields.maybe_integer("sweeps", 0, U64_MAX) or 0,
            anomalies=fields.maybe_integer("anomalies", 0, U64_MAX) or 0,
            kernel_threads_left_out=fields.maybe_integer("kernel_threads_left_out", 0, U64_MAX) or 0,
            reasons=fields.texts("reasons"),
            order=fields.maybe_integer("order", 0, U64_MAX),
        )

    def at(self) -> At | None:
        if not self._known.has("at"):
            return None
        fields = self._known.map("at")
        return At(
            order=fields.integer("order", 0, U64_MAX),
            time_ns=fields.integer("time_ns", 0, TIME_NS_MAX),
            uncertain_ns=fields.integer("uncertain_ns", 0, TIME_NS_MAX),
        )

    def wrong_rows(self, key: Literal["pids", "tasks"], count: int) -> Iterator[FormatError]:
        """Yield the error of each row of a list, and that of the list itself if it has not `count` rows."""
        try:
            self._rows(key, count)
        except FormatError as error:
            if error.path == self._known.at(key):
                yield error
        known, base = self._known, self._base
        for index, row in enumerate(known.entries(key)[:count]):
            # Judge each row as a list of its own.
            self._known = Fields({key: [row]})
            self._base = base._replace(numbers=base.numbers[index : index + 1], tasks=base.tasks[index : index + 1])
            try:
                self.pids() if key == "pids" else self.tasks()
            except FormatError as error:
                yield FormatError(f"{key}[{index}]{error.path.removeprefix(f'{key}[0]')}", error.message)
        self._known, self._base = known, base

    def _rows(self, key: str, count: int) -> list[Fields]:
        rows = list(self._known.maps(key))
        if len(rows) != count:
            raise FormatError(self._known.at(key), f"has {len(rows)} rows for the {count} of the base")
        return rows

    def _namespace(self, fields: Fields, id_: int) -> Namespace:
        return Namespace(
            id=fields.integer("id", id_, id_),
            inum=fields.integer("inum", 0, U64_MAX),
            level=fields.integer("level", min(id_, 1), S32_MAX) if id_ else fields.integer("level", 0, 0),
            # Parents come before children. The first namespace is the root's; its parent is outside of the snapshot.
            parent=fields.integer("parent", 0, id_ - 1) if id_ else None,
        )

    def _namespace_ids(self, fields: Fields, count: int) -> tuple[int, ...]:
        ids = fields.integers("namespaces", -1, len(self.namespaces) - 1)
        if ids and len(ids) != count:
            raise FormatError(fields.at("namespaces"), f"has {len(ids)} entries for a pid of {count} numbers")
        return ids

    def _outside(self, fields: Fields) -> OutsidePid:
        numbers = fields.integers("numbers", 0, S32_MAX)
        return OutsidePid(numbers, self._namespace_ids(fields, len(numbers)))

    def _birth(self, fields: Fields) -> Birth:
        creator = self._creator_of(fields.map("creator")) if fields.has("creator") else None
        order = fields.maybe_integer("order", 0, U64_MAX)
        observed = fields.flag("observed")
        return Birth(
            creator=creator,
            # A null creator alone means an assumed birth; `observed` tells an observed one from a creator outside the tree.
            observed=creator is not None if observed is None else observed,
            sid=self._ref_of(fields, "sid"),
            pgid=self._ref_of(fields, "pgid"),
            flags=fields.texts("flags"),
            order=order,
        )

    def _creator_of(self, fields: Fields) -> Creator:
        tag = fields.maybe_integer("tag", self._first, self._last)
        ancestor = fields.maybe_integer("ancestor", 0, self._ancestors - 1)
        if (tag is None) == (ancestor is None):
            raise FormatError(fields.path, "must have either a tag or an ancestor")
        return Creator(None if tag is None else Tag(tag), ancestor)

    def _event(self, fields: Fields) -> AncestorEvent:
        event = fields.word("event", _EVENTS)
        order = fields.integer("order", 0, U64_MAX)
        # The value of "subreaper" is a switch; the others are tags.
        value = fields.maybe_integer("value", 0, 1) if event == "subreaper" else self._ref_of(fields, "value")
        return AncestorEvent(event, order, value)

    def _ref_of(self, fields: Fields, key: str, special: Sequence[int] = (0, CKPT_PID_ROOT)) -> PidRef | None:
        if not fields.has(key):
            return None
        if not fields.is_integer(key):
            return self._outside(fields.map(key))
        tag = fields.integer(key, CKPT_PID_ROOT, self._last)
        if tag < self._first and tag not in special:
            words = ", ".join(map(str, special[:-1]))
            raise fields.wrong(key, f"a tag from {self._first} to {self._last}, {words} or {special[-1]}")
        return Tag(tag)
