# SPDX-License-Identifier: Apache-2.0
"""The past as a source of trees: the daemon's recording, or the folder of one."""

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from agent import rootname
from agent.cli.options import SourceName
from agent.cli.sources import Options, Taken, made, opened, received
from agent.errors import HostError, UsageError
from agent.protocol.client import Client
from agent.recorder import instant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.cli.sources import Source
    from agent.recorder.recording import Recording


def check_root(root: str, at: str | None) -> rootname.Target:
    """Read a ROOT.

    Args:
        root: the ROOT.
        at: the TIME; None: now.

    Raises:
        UsageError: it is no ROOT, or one of the past that names a cgroup or a unit.
    """
    meant = rootname.parse_target(root)
    if at is not None and not isinstance(meant, rootname.RootName):
        raise UsageError(
            f"{meant}: a recording has no cgroups, so it cannot tell: name its root by the pid that it had, or pidns:INUM"
        )
    return meant


def open_folder(folder: Path) -> "Recording":
    """Open the recording in a folder.

    Raises:
        HostError: the folder, or this installation, cannot be read from.
        NoSuchTimeError: there is no recording in it.
    """
    try:
        from agent.recorder.recording import Recording
    except ImportError as error:
        raise HostError(
            "recordings need the Python package `zstandard`, which is not installed here: "
            "`pip install 'ckptree[record]'`, or Debian's python3-zstandard"
        ) from error
    return Recording(folder)


def moment(text: str, last_ns: int | None = None) -> instant.Time:
    """Read a TIME, as of now.

    Args:
        text: the TIME.
        last_ns: the end of the recording, CLOCK_REALTIME, ns; None: it goes on.
    """
    return instant.parse(text, time.time_ns(), last_ns)


def wire_form(at: instant.Time) -> dict[str, int]:
    """Return a TIME as the daemon's protocol has it."""
    return {"order": at.order} if isinstance(at, instant.RecordNumber) else {"time_ns": at.realtime_ns}


def check_folder(folder: Path | None, socket: Path | None) -> None:
    """Refuse a daemon's socket where a folder is read."""
    if folder is not None and socket is not None:
        raise UsageError("--record reads a folder, and --socket is a daemon's: leave one of them out")


@contextmanager
def opened_at(
    at: str | None, folder: Path | None, kind: SourceName, socket: Path | None, timeout_s: float
) -> "Iterator[Source]":
    """Open a source of trees, of now or of the past, for the time of the block.

    Args:
        at: the TIME; None: now.
        folder: of a recording; None: the daemon's own.
        kind: the source that the user names.
        socket: of the daemon.
        timeout_s: for each answer of the daemon.
    """
    if at is None:
        if folder is not None:
            raise UsageError("--record reads the past: name a time, as --at 03:12:07")
        with opened(kind.value, socket, timeout_s) as where:
            yield where
        return
    if kind in (SourceName.BPF, SourceName.PROCFS):
        raise UsageError(f"--at asks a recording, and --source {kind.value} none: leave one of them out")
    check_folder(folder, socket)
    if folder is not None:
        recording = open_folder(folder)
        yield _RecordingFolder(recording, moment(at, recording.runs[-1].last.time_ns))
        return
    asked = moment(at)
    with Client(socket, timeout_s) as client:
        yield _DaemonsRecording(client, asked)


class _RecordingFolder:
    """A folder as a source.

    Args:
        recording: the recording in it.
        time: the time of the trees.
    """

    client = None

    def __init__(self, recording: "Recording", at: instant.Time) -> None:
        from agent.recorder import past

        self._recording = recording
        self._instant = past.find(recording, at)

    def snapshot(self, root: str, **options: Unpack[Options]) -> Taken:
        from agent.recorder import past

        wanted = past.WantedTree(
            rootname.parse(root),
            options.get("mode", "auto"),
            options.get("without_entered", False),
            options.get("dialect", "seed"),
        )
        snapshot, chosen = past.snapshot(self._recording, self._instant, wanted, past.Enquirer())
        return made(snapshot, options.get("fmt", "ckpt"), chosen.refs.above() if options.get("outer") else ())


class _DaemonsRecording:
    """A daemon's recording as a source.

    Args:
        client: the connection.
        at: the time of the trees.
    """

    client = None  # none that could be asked about what is running now

    def __init__(self, client: Client, at: instant.Time) -> None:
        self._client = client
        self._at = at

    def snapshot(self, root: str, **options: Unpack[Options]) -> Taken:
        return received(self._client.snapshot(str(rootname.parse(root)), at=wire_form(self._at), **options))
