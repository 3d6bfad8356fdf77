# SPDX-License-Identifier: Apache-2.0
"""Sources of trees for a verb: the daemon, BPF in this process, or /proc. All have the same interface."""

import os
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict, Unpack

from agent import rootname
from agent.environment import SOCKET_VARIABLE
from agent.errors import CkptreeError, HostError, NoDaemonError
from agent.protocol.client import Answer, Client, Subscription
from agent.record import record, replace

if TYPE_CHECKING:
    from agent.capture.snapshots import Snapshots
    from agent.capture.watch import Watch
    from agent.model import Dialect, Snapshot
    from agent.proc.commands import Outer
    from agent.selection.select import Selection

    AtCut = Callable[[Selection], None]

    class Options(TypedDict, total=False):
        """Options of a snapshot: see client.Client.snapshot."""

        mode: str
        fmt: str
        dialect: Dialect
        without_entered: bool
        outer: bool

    class Source(Protocol):
        """A source of snapshots."""

        @property
        def client(self) -> Client | None:
            """The connection to a daemon; None where the source is in this process."""

        def snapshot(self, root: str, **options: "Unpack[Options]") -> "Taken":
            """Take a snapshot of the tree below a pid in this process's pid namespace, or the init of ``pidns:INUM``."""


SourceName = Literal["auto", "daemon", "bpf", "procfs"]


@record
class Taken:
    """A snapshot that a source has taken: a daemon's bytes, or the object itself where this process has made it.

    Attributes:
        complete, reasons, squashed, entered, workers, elapsed_ns, outer: as of `agent.protocol.replies.Answer`.
        image: returns it in the format and dialect that were asked for.
        load: returns the snapshot.
    """

    complete: bool
    reasons: tuple[str, ...]
    squashed: tuple[str, ...]
    entered: tuple[str, ...]
    workers: int
    elapsed_ns: int
    outer: "Outer"
    image: Callable[[], bytes]
    load: "Callable[[], Snapshot]"


@contextmanager
def opened(kind: SourceName, socket: Path | None = None, timeout_s: float = 30.0) -> "Iterator[Source]":
    """Open a source for the time of the block.

    Args:
        kind: ``auto``: the daemon, else BPF in this process; never /proc.
        socket: of the daemon; where one is named, here or in the environment, ``auto`` uses no other source.
        timeout_s: for each answer of a daemon.

    Raises:
        NoDaemonError: a daemon is required, and none listens.
        HostError: BPF is required, and this process cannot load it.
    """
    if kind in ("auto", "daemon"):
        try:
            client = Client(socket, timeout_s)
        except NoDaemonError:
            if kind == "daemon" or socket is not None or os.environ.get(SOCKET_VARIABLE):
                raise
        else:
            with client:
                yield _Daemon(client)
            return
    if kind == "procfs":
        from agent.proc import proctable

        yield _Here(
            lambda root, mode, without, at_cut: proctable.snapshot(root, mode, without_entered=without, at_cut=at_cut)
        )
        return
    watch, snapshots = _own_watch()

    def take(root: str, mode: str, without: bool, at_cut: "AtCut") -> "Snapshot":  # noqa: FBT001 - it is called by place
        watch.tend()
        found = snapshots.find(rootname.parse(root), os.getpid())
        return snapshots.take(found, mode, without_entered=without, at_cut=at_cut)

    try:
        yield _Here(take)
    finally:
        _let_go(watch)


def _own_watch() -> "tuple[Watch, Snapshots]":
    from agent.capture.loading import Loading
    from agent.config import Config

    ring_bytes = Config().ring_bytes
    try:
        loading = Loading(ring_bytes)
        # Their import takes a tenth of a second, in which the helper works.
        from agent.capture.probes import Probes
        from agent.capture.snapshots import Snapshots
        from agent.capture.watch import Watch

        watch = Watch.begin(Probes(ring_bytes, loaded=loading))
    except HostError as error:
        if "--source procfs" in str(error):
            raise
        raise HostError(f"{str(error).rstrip('.')}. Without BPF, `--source procfs` answers, unverified") from error
    return watch, Snapshots(watch)


def _let_go(watch: "Watch") -> None:
    """Detach in a child, which takes the kernel a third of a second: the verb need not wait for it.

    The kernel detaches where the last descriptor is closed. So the child holds all of them until this process has ended.
    """
    this = os.pidfd_open(os.getpid())
    if os.fork() == 0:
        try:
            for stream in range(3):
                os.close(stream)  # the reader of the verb's output must not wait for this child's end
            select.select([this], [], [])
            watch.close()
        finally:
            os._exit(0)


class _Daemon:
    """A daemon as a source.

    Args:
        client: the connection.
    """

    def __init__(self, client: Client) -> None:
        self.client = client

    def snapshot(self, root: str, **options: "Unpack[Options]") -> Taken:
        return received(self.client.snapshot(root, **options))


class _Here:
    """A source within this process.

    Args:
        take: takes a snapshot of a ROOT, in a mode; True leaves out tasks that entered; and calls a function at the cut.
    """

    client = None

    def __init__(self, take: "Callable[[str, str, bool, AtCut], Snapshot]") -> None:
        self._take = take

    def snapshot(self, root: str, **options: "Unpack[Options]") -> Taken:
        outer: list[tuple[int, ...]] = []

        def note(chosen: "Selection") -> None:
            if options.get("outer"):
                outer.extend(chosen.refs.above())

        snapshot = self._take(root, options.get("mode", "auto"), options.get("without_entered", False), note)
        return made(replace(snapshot, dialect=options.get("dialect", "seed")), options.get("fmt", "ckpt"), outer)


def received(answer: Answer) -> Taken:
    """Return a daemon's answer as a snapshot that is read when it is needed."""

    def load() -> "Snapshot":
        from exporters import registry

        return registry.load(answer.data)

    return Taken(
        answer.complete,
        answer.reasons,
        answer.squashed,
        answer.entered,
        answer.workers,
        answer.elapsed_ns,
        answer.outer,
        lambda: answer.data,
        load,
    )


def made(snapshot: "Snapshot", fmt: str, outer: "Outer") -> Taken:
    """Return a snapshot of this process, which is packed when its bytes are needed, and never read back."""

    def image() -> bytes:
        from exporters import registry

        return registry.image(snapshot, fmt)

    completeness = snapshot.completeness
    return Taken(
        completeness.complete,
        completeness.reasons,
        snapshot.squashed,
        snapshot.entered,
        completeness.kernel_threads_left_out,
        0,
        outer,
        image,
        lambda: snapshot,
    )


def events_of(source: "Source", roots: Sequence[str]) -> Subscription | None:
    """Subscribe to events below some roots, on a new connection; None where the source is no daemon, or it refuses."""
    if source.client is None:
        return None
    try:
        return Client(source.client.path).subscribe(roots, snapshot=False)
    except CkptreeError:  # the daemon has too many subscribers, or is too old
        return None
