# SPDX-License-Identifier: Apache-2.0
"""Sources of trees for a verb: the daemon, BPF in this process, or /proc. All have the same interface."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict, Unpack

from agent import rootname
from agent.config import SOCKET_VARIABLE
from agent.errors import CkptreeError, HostError, NoDaemonError
from agent.protocol.client import Answer, Client, Subscription, default_socket

if TYPE_CHECKING:
    from agent.capture.watch import Watch
    from agent.model import Dialect, Snapshot

Kind = Literal["auto", "daemon", "bpf", "procfs"]


class Options(TypedDict, total=False):
    """Options of a snapshot: see client.Client.snapshot."""

    mode: str
    fmt: str
    dialect: "Dialect"
    without_entered: bool


class Source(Protocol):
    """A source of snapshots."""

    def snapshot(self, root: str, **options: Unpack[Options]) -> Answer:
        """Take a snapshot of the tree below a pid in this process's pid namespace, or the init of ``pidns:INUM``."""


@contextmanager
def opened(kind: Kind, socket: Path | None = None, timeout_s: float = 30.0) -> Iterator[Source]:
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
            client = Client(socket or default_socket(), timeout_s)
        except NoDaemonError:
            if kind == "daemon" or socket is not None or os.environ.get(SOCKET_VARIABLE):
                raise
        else:
            with client:
                yield client
            return
    if kind == "procfs":
        from agent.proc import proctable

        yield _Here(lambda root, mode, without: proctable.snapshot(root, mode, without_entered=without))
        return
    from agent.capture.snapshots import Snapshots

    watch = _own_watch()
    snapshots = Snapshots(watch)

    def take(root: str, mode: str, without: bool) -> "Snapshot":  # noqa: FBT001 - it is called by place
        watch.tend()
        return snapshots.take(snapshots.find(rootname.parse(root), os.getpid()), mode, without_entered=without)

    try:
        yield _Here(take)
    finally:
        _let_go(watch)


def _own_watch() -> "Watch":
    from agent.capture.probes import Probes
    from agent.capture.watch import Watch
    from agent.config import Config

    try:
        return Watch.begin(Probes(Config().ring_bytes))
    except HostError as error:
        if "--source procfs" in str(error):
            raise
        raise HostError(f"{str(error).rstrip('.')}. Without BPF, `--source procfs` answers, unverified") from error


def _let_go(watch: "Watch") -> None:
    """Detach in a child, which takes the kernel a third of a second: the verb need not wait for it."""
    if os.fork() == 0:
        try:
            for stream in range(3):
                os.close(stream)  # the reader of the verb's output must not wait for this child's end
            watch.close()
        finally:
            os._exit(0)


class _Here:
    """A source within this process.

    Args:
        take: takes a snapshot of a ROOT, in a mode; True leaves out tasks that entered.
    """

    def __init__(self, take: Callable[[str, str, bool], "Snapshot"]) -> None:
        self._take = take

    def snapshot(self, root: str, **options: Unpack[Options]) -> Answer:
        snapshot = self._take(root, options.get("mode", "auto"), options.get("without_entered", False))
        return _answer(snapshot, options.get("fmt", "ckpt"), options.get("dialect", "seed"))


def _answer(snapshot: "Snapshot", fmt: str, dialect: "Dialect") -> Answer:
    from exporters import registry

    completeness = snapshot.completeness
    return Answer(
        registry.image(snapshot, fmt, dialect),
        completeness.complete,
        completeness.verified,
        completeness.reasons,
        snapshot.squashed,
        snapshot.entered,
        len(snapshot.tasks),
        0,
        workers=completeness.kernel_threads_left_out,
    )


def events_of(source: Source, roots: Sequence[str]) -> Subscription | None:
    """Subscribe to events below some roots, on a new connection; None where the source is no daemon, or it refuses."""
    if not isinstance(source, Client):
        return None
    try:
        return Client(source.path).subscribe(roots, snapshot=False)
    except CkptreeError:  # the daemon has too many subscribers, or is too old
        return None
