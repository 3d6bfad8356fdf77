# SPDX-License-Identifier: Apache-2.0
"""Where a verb has its trees from: the daemon, BPF in this process, or /proc. All of them answer alike."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict, Unpack

from agent import rootname
from agent.client import Answer, Client, Subscription, default_socket
from agent.config import SOCKET_VARIABLE
from agent.errors import CkptreeError, HostError, NoDaemonError

if TYPE_CHECKING:
    from agent.model import Dialect, Snapshot
    from agent.watch import Watch

Kind = Literal["auto", "daemon", "bpf", "procfs"]


class Options(TypedDict, total=False):
    """How a snapshot is to be taken: see client.Client.snapshot."""

    mode: str
    fmt: str
    dialect: "Dialect"
    without_entered: bool
    strings: bool


class Source(Protocol):
    """Something that can be asked for snapshots, one after the other."""

    def snapshot(self, root: str, **options: Unpack[Options]) -> Answer:
        """Take one of the tree below a pid, as this process counts, or below the init of ``pidns:INUM``."""


@contextmanager
def opened(kind: Kind, socket: Path | None = None, timeout_s: float = 30.0) -> Iterator[Source]:
    """A source, until it is no longer needed.

    Args:
        kind: ``auto``: the daemon, else BPF in this process; never /proc.
        socket: of which daemon; with ``auto`` too, one that was named, here or in the environment, is wanted and no
            substitute.
        timeout_s: for every single answer of a daemon.

    Raises:
        NoDaemonError: there is none, where one is wanted.
        HostError: BPF is wanted, and cannot be had.
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
        from agent import proctable

        yield _Here(lambda root, mode, without: proctable.snapshot(root, mode, without_entered=without))
        return
    watch = _own_watch()

    def take(root: str, mode: str, without: bool) -> "Snapshot":  # noqa: FBT001 - it is called by place
        watch.tend()
        return watch.snapshot(watch.find(rootname.parse(root), os.getpid()), mode, without_entered=without)

    try:
        yield _Here(take)
    finally:
        _let_go(watch)


def _own_watch() -> "Watch":
    from agent.config import Config
    from agent.watch import Watch

    try:
        return Watch(Config())
    except HostError as error:
        if "--source procfs" in str(error):
            raise
        raise HostError(f"{str(error).rstrip('.')}. Without BPF, `--source procfs` answers, unverified") from error


def _let_go(watch: "Watch") -> None:
    """Detach in a child: the kernel takes a third of a second over it, which nobody has to wait for."""
    if os.fork() == 0:
        try:
            for stream in range(3):
                os.close(stream)  # whoever reads our output must not wait for this child to end it
            watch.close()
        finally:
            os._exit(0)


class _Here:
    """A source within this process.

    Args:
        take: a snapshot of a ROOT, in a mode, with or without those who entered.
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
    """What happens below some roots, where the source is a daemon that tells; on a connection of its own."""
    if not isinstance(source, Client):
        return None
    try:
        return Client(source.path).subscribe(roots, snapshot=False)
    except CkptreeError:  # it has too many that listen, or is an older one
        return None
