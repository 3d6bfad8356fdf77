# SPDX-License-Identifier: Apache-2.0
"""Where a verb has its trees from: the daemon, BPF in this process, or /proc. All of them answer alike."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict

from agent import rootname
from agent.client import DEFAULT_SOCKET, Answer, Client, Subscription
from agent.errors import CkptreeError, HostError, NoDaemonError

if TYPE_CHECKING:
    from agent.model import Dialect, Snapshot

Kind = Literal["auto", "daemon", "bpf", "procfs"]


class Options(TypedDict, total=False):
    """How a snapshot is to be taken: see client.Client.snapshot."""

    mode: str
    fmt: str
    dialect: "Dialect"
    without_entered: bool


class Source(Protocol):
    """Something that can be asked for snapshots, one after the other."""

    def snapshot(
        self,
        root: str,
        *,
        mode: str = "auto",
        fmt: str = "ckpt",
        dialect: "Dialect" = "seed",
        without_entered: bool = False,
    ) -> Answer:
        """Take one of the tree below a pid, as this process counts, or below the init of ``pidns:INUM``."""


@contextmanager
def opened(kind: Kind, socket: Path | None = None, timeout_s: float = 30.0) -> Iterator[Source]:
    """A source, until it is no longer needed.

    Args:
        kind: ``auto``: the daemon, else BPF in this process; never /proc.
        socket: of which daemon; with ``auto`` too, one that was named is wanted and no substitute.
        timeout_s: for every single answer of a daemon.

    Raises:
        NoDaemonError: there is none, where one is wanted.
        HostError: BPF is wanted, and cannot be had.
    """
    if kind in ("auto", "daemon"):
        try:
            client = Client(socket or DEFAULT_SOCKET, timeout_s)
        except NoDaemonError:
            if kind == "daemon" or socket is not None:
                raise
        else:
            with client:
                yield client
            return
    if kind == "procfs":
        yield _Procfs()
        return
    own = _Own()
    try:
        yield own
    finally:
        own.let_go()


class _Own:
    """A watch of this process."""

    def __init__(self) -> None:
        from agent.config import Config
        from agent.watch import Watch

        try:
            self._watch = Watch(Config())
        except HostError as error:
            if "--source procfs" in str(error):
                raise
            raise HostError(f"{str(error).rstrip('.')}. Without BPF, `--source procfs` answers, unverified") from error

    def snapshot(
        self,
        root: str,
        *,
        mode: str = "auto",
        fmt: str = "ckpt",
        dialect: "Dialect" = "seed",
        without_entered: bool = False,
    ) -> Answer:
        self._watch.tend()
        task = self._watch.find(rootname.parse(root), os.getpid())
        return _answer(self._watch.snapshot(task, mode, without_entered=without_entered), fmt, dialect)

    def let_go(self) -> None:
        """Detach in a child: the kernel takes a third of a second over it, which nobody has to wait for."""
        if os.fork() == 0:
            try:
                for stream in range(3):
                    os.close(stream)  # whoever reads our output must not wait for this child to end it
                self._watch.close()
            finally:
                os._exit(0)


class _Procfs:
    """Scans of /proc."""

    def snapshot(
        self,
        root: str,
        *,
        mode: str = "auto",
        fmt: str = "ckpt",
        dialect: "Dialect" = "seed",
        without_entered: bool = False,
    ) -> Answer:
        from agent import proctable

        return _answer(proctable.snapshot(root, mode, without_entered=without_entered), fmt, dialect)


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
    )


def events_of(source: Source, root: str) -> Subscription | None:
    """What happens below a root, where the source is a daemon that tells; on a connection of its own."""
    if not isinstance(source, Client):
        return None
    try:
        return Client(source.path).subscribe(root, snapshot=False)
    except CkptreeError:  # it has too many that listen, or is an older one
        return None
