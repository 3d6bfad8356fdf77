# SPDX-License-Identifier: Apache-2.0
"""The snapshot: the tree at one instant, the host, and the proof that it is complete."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, cast

from agent.model.birth import Ancestor
from agent.model.pids import Namespace, PidObject, Tag
from agent.model.task import Task
from agent.record import NamedTuple, record

Mode = Literal["container", "subtree"]

Dialect = Literal["seed", "v23"]

Verified = Literal["sweep", "numbering", "no"]


class Obstacle(NamedTuple):
    """A reason why a tree cannot be rebuilt.

    Attributes:
        tag: of the task that stands in the way; 0 for the tree as a whole.
        rule: short name of the rule, which never changes.
        text: description of this case, for people.
    """

    tag: Tag
    rule: str
    text: str


@record
class Header:
    """The host, as the records HEADER, HEADER_ARCH, CONTAINER and LSM_INFO of an image describe it.

    Attributes:
        release, version, machine: the bytes that uname(2) gives, as text (exporters.content.fields).
        kernel_version: major, minor, patch out of `release`.
        xstate_size: bytes of extended processor state, 0 where unknown.
        lsm: name of the security module in force; text as above.
        arch_id, rev, constants, uflags, arch, lsm_info: the values of an image that differ from those that ckptree
            writes (exporters.content.hostmap); None, or empty, where they do not.
    """

    release: str = ""
    version: str = ""
    machine: str = ""
    kernel_version: tuple[int, int, int] = (0, 0, 0)
    has_fxsr: bool = False
    has_xsave: bool = False
    xstate_size: int = 0
    lsm: str = "lsm_none"
    arch_id: int | None = None
    rev: int | None = None
    constants: tuple[int, ...] = ()
    uflags: int = 0
    arch: bytes | None = None
    lsm_info: bytes | None = None


@record
class Completeness:
    """The proof that a snapshot is complete, or the reasons why it is not.

    Attributes:
        verified: ``sweep``: compared with every task of the kernel; ``numbering``: the selected tasks were compared,
            and unbroken event numbers prove that they are all; ``no``: neither.
        lost: events lost since the watch began. A snapshot after a repaired loss is complete: each task whose birth was
            lost is marked.
        sweeps: full sweeps so far.
        anomalies: differences between table and kernel that no event explains, repaired, in this snapshot. Like `sweeps`
            it is of the taking, not of the instant, and 0 in a snapshot out of a recording.
        kernel_threads_left_out: kernel threads and io workers under the root; no rebuild can make them.
        reasons: why this is incomplete, for people; empty where it is complete.
        order: number of the first record that is not in it; all records below are. None where there are no records, or
            the image does not say.
    """

    verified: Verified
    lost: int = 0
    sweeps: int = 0
    anomalies: int = 0
    kernel_threads_left_out: int = 0
    reasons: tuple[str, ...] = ()
    order: int | None = None

    @property
    def complete(self) -> bool:
        """True where the snapshot is verified and no number is unknown; False gives exit code 6."""
        return self.verified != "no" and not self.reasons


class At(NamedTuple):
    """The instant of a recording from which a snapshot was rebuilt.

    Attributes:
        order: number of the first record that is not in it; all records below are.
        time_ns: CLOCK_REALTIME of the instant.
        uncertain_ns: bound of the difference between `time_ns` and the moment at which the tree was so.
    """

    order: int
    time_ns: int
    uncertain_ns: int


_NOTHING: Mapping[tuple[str | int, ...], Mapping[str, object]] = MappingProxyType({})


@record
class Snapshot:
    """The tree at one instant.

    Attributes:
        mode: ``container``: the root is a namespace's init and nothing leaks; ``subtree``: any root.
        boot_id: of the host, from /proc/sys/kernel/random/boot_id; empty where the image does not say.
        time_ns: CLOCK_REALTIME of the cut.
        boottime_ns: CLOCK_BOOTTIME of the cut, the clock of `Task.start_ns`; None where the image does not say.
        header: the host.
        namespaces, pids, tasks, ancestors: see agent.model. ``tasks`` has parents before children.
        squashed: sessions and groups from outside that share one special tag, by name, where more than one.
        entered: tasks that entered the container from outside and were left out on request, by name.
        at: see At; None where the tree was read while it lived.
        not_rebuildable: the obstacles to a rebuild, where they were looked for; empty: none known.
        completeness: see Completeness.
        as_of_read: names of the fields of a task that were read a moment after the cut, not at the cut. A field that is
            neither among them nor part of the cut is not known of any task.
        first_tag, dialect: of the image that the snapshot came from, or is to become.
        unknown: keys of a document that this version does not know, each with its value, by the path from the document
            to the map that has them, as in ``("tasks", 3, "birth")``. They say nothing of the tree; a writer of the
            snapshot puts them back. Values are immutable: lists are tuples.
    """

    mode: Mode
    time_ns: int
    pids: tuple[PidObject, ...]
    tasks: tuple[Task, ...]
    namespaces: tuple[Namespace, ...] = ()
    ancestors: tuple[Ancestor, ...] = ()
    squashed: tuple[str, ...] = ()
    entered: tuple[str, ...] = ()
    boot_id: str = ""
    boottime_ns: int | None = None
    header: Header = Header()
    completeness: Completeness = Completeness("no")
    as_of_read: tuple[str, ...] = ()
    at: At | None = None
    not_rebuildable: tuple[Obstacle, ...] = ()
    first_tag: int = 1
    dialect: Dialect = "seed"
    unknown: Mapping[tuple[str | int, ...], Mapping[str, object]] = _NOTHING

    def __hash__(self) -> int:
        """Return the hash of some fields: `unknown` has none."""
        return hash((self.mode, self.time_ns, self.pids, self.tasks))

    def tagged(self) -> Iterator[tuple[Tag, PidObject]]:
        """Yield each pid object, with its tag."""
        return cast("Iterator[tuple[Tag, PidObject]]", enumerate(self.pids, self.first_tag))

    def pid(self, tag: Tag) -> PidObject | None:
        """Return the pid object of a tag; None for the special values."""
        return self.pids[tag - self.first_tag] if tag >= self.first_tag else None

    def number(self, tag: Tag) -> int:
        """Return the number of a tag in the root's namespace; 0 for an id from outside it."""
        pid = self.pid(tag)
        return pid.numbers[0] if pid else 0
