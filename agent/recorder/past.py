# SPDX-License-Identifier: Apache-2.0
"""Answers from the past: the tree at an instant of a recording, as a snapshot.

The table of the instant is the daemon's own, rebuilt, and the tree is cut from it as from a living one. What no record
tells is missing: terminals, owners of files, sharing, arguments. Nor can the kernel be asked any more. So whatever the
daemon itself would have asked about at that instant is named, and the snapshot is incomplete: a zombie that may have gone
without an event, and a task that an event left in doubt.
"""

import contextlib
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agent.access import Viewer
from agent.errors import CkptreeError, NoSuchRootError
from agent.model import At, Completeness, Dialect, Header, Snapshot
from agent.recorder import tape
from agent.recorder.facts import Instant, Replayed
from agent.recorder.hindsight import Hindsight, LaterRecord, later
from agent.recorder.instant import RecordNumber, Time, written
from agent.recorder.recording import Recording
from agent.rootname import RootName
from agent.selection import lookup, select
from agent.selection.lookup import Sees
from agent.table import departure
from agent.table.objects import PidNamespace, TaskStruct
from agent.table.processtable import ProcessTable

EVERYBODY: Final = Viewer(0, 0, 0, privileged=True)
"""The credentials of a reader of the folder: whoever may read it may see all of it."""


@dataclass(frozen=True, slots=True)
class Enquirer:
    """The one who asks.

    Attributes:
        viewer: its credentials.
        namespace: identity of the pid namespace in which its numbers count; 0: the initial one.
        boot_id: of the boot that has this namespace.
    """

    viewer: Viewer = EVERYBODY
    namespace: int = 0
    boot_id: str = ""

    @property
    def sees(self) -> Sees | None:
        """A test that it may see a task of these ids; None: it may see all."""
        return None if self.viewer.privileged else self.viewer.sees_ids

    def space(self, table: ProcessTable, boot_id: str) -> PidNamespace:
        """Return its pid namespace, in a table of the past.

        Args:
            table: the table.
            boot_id: of the boot that it is of.

        Raises:
            NoSuchRootError: there was no such namespace then.
        """
        if not self.namespace:
            return table.pids.initial
        found = table.pids.namespaces.get(self.namespace) if boot_id == self.boot_id else None
        if found is None:
            raise NoSuchRootError("the pid namespace of this process, in which a pid counts, did not exist then")
        return found


@dataclass(frozen=True, slots=True)
class WantedTree:
    """The wanted tree.

    Attributes:
        root: its root, as it was called then.
        mode, without_entered, dialect: as of a live snapshot.
    """

    root: RootName
    mode: str = "auto"
    without_entered: bool = False
    dialect: Dialect = "seed"


def find(recording: Recording, time: Time) -> Instant:
    """Return the instant that a TIME means.

    Args:
        recording: the recording.
        time: the TIME.

    Raises:
        NoSuchTimeError: the recording does not have it; the text has the times there are.
    """
    if isinstance(time, RecordNumber):
        return recording.at_order(time.order)
    found = recording.at_time(time.realtime_ns)
    since_ns = 0 if found.missing else max(0, time.realtime_ns - found.time_ns)  # since the last record before
    return found._replace(time_ns=time.realtime_ns, boottime_ns=found.boottime_ns + since_ns)


def snapshot(
    recording: Recording, instant: Instant, wanted: WantedTree, reader: Enquirer
) -> tuple[Snapshot, select.Selection]:
    """Return the tree at an instant, and its selection of live objects.

    Raises:
        NoSuchRootError: no process had that number then, or it was a thread's.
        NoSuchTimeError: the recording does not have the instant.
        NotPermittedError: the reader may not see the tree, by the ids that its tasks had then.
        RefusedError: the container leaked then, or the root was no container's init.
    """
    replayed = recording.table_at(instant)
    behind = later(recording.entries(instant), replayed.stream.next)
    return cut(replayed, recording.runs[instant.run].boot_id, header(recording.host), wanted, reader, behind)


def cut(
    replayed: Replayed,
    boot_id: str,
    host: Header,
    wanted: WantedTree,
    reader: Enquirer,
    behind: Iterable[LaterRecord] = (),
) -> tuple[Snapshot, select.Selection]:
    """Return the tree in a state that a replay has, and its selection of live objects.

    Args:
        replayed: the state.
        boot_id: of the boot that it is of.
        host: the host that it is of.
        wanted: the tree.
        reader: the one who asks.
        behind: the records behind the instant, as far as they are known.

    Raises:
        errors of `snapshot`, but for NoSuchTimeError.
    """
    instant, table = replayed.instant, replayed.table
    sees = reader.sees
    seen = None if sees is None else lambda task: sees(task.ids)
    try:
        root = lookup.process(table, wanted.root, reader.space(table, boot_id), seen)
    except NoSuchRootError as error:
        number = wanted.root.number
        advice = "" if wanted.root.namespace else f"; `ckptree history {number}` tells when a task had that number"
        raise NoSuchRootError(f"{written(instant.time_ns)}: {error}{advice}") from error
    mode = select.resolve_mode(root, wanted.mode)
    members = select.members(root)
    if sees is not None:
        lookup.refuse_others(root, mode, members, sees)
    chosen = select.select(root, mode, without_entered=wanted.without_entered)
    open_ones = _open(table, members, () if replayed.reasons else behind)
    reasons = [*replayed.reasons, *chosen.unknown, *lookup.unlisted(table, root), *open_ones]
    stream = replayed.stream
    made = Snapshot(
        mode=mode,
        time_ns=instant.time_ns,
        boottime_ns=instant.boottime_ns,
        pids=chosen.pids,
        tasks=chosen.tasks,
        namespaces=chosen.namespaces,
        ancestors=chosen.ancestors,
        squashed=chosen.squashed,
        entered=chosen.entered,
        boot_id=boot_id,
        header=host,
        completeness=Completeness(
            verified="no" if replayed.is_in_doubt else "numbering",
            lost=stream.lost,
            kernel_threads_left_out=chosen.kernel_workers,
            reasons=tuple(reasons),
            order=stream.next,
        ),
        at=At(stream.next, instant.time_ns, instant.uncertain_ns),
        dialect=wanted.dialect,
    )
    return made, chosen


def header(host: Mapping[str, Any]) -> Header:
    """Return the host of a recording.

    Args:
        host: as the head of a segment has it.

    Raises:
        CkptreeError: no daemon writes such a host.
    """
    told = dict(host)
    try:
        for name in ("kernel_version", "constants"):
            told[name] = tuple(told.get(name, getattr(Header(), name)))
        return Header(**told)
    except TypeError as error:
        raise CkptreeError(f"the head of a segment has what no host is: {error}") from error


def _open(table: ProcessTable, members: list[TaskStruct], behind: Iterable[LaterRecord]) -> Iterator[str]:
    """Yield a line for each task of which the daemon would have asked the kernel, and that no record behind settles."""
    doubtful = [task for task in members if task in table.doubts or departure.may_vanish(task)]
    hindsight = Hindsight(table, doubtful)
    if doubtful:
        with contextlib.suppress(tape.TornError, struct.error, IndexError):  # what is behind may be damaged
            hindsight.look(behind)
    for task in doubtful:
        if task in hindsight.settled:
            continue
        if task in table.doubts:
            yield f"{select.name(task)}: an event left its state in doubt, and the answer came later: take a later instant"
        else:
            yield f"{select.name(task)}: a zombie that no parent waits for may have gone before"
