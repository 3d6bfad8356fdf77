# SPDX-License-Identifier: Apache-2.0
"""The past as a source of trees: the daemon's recording, or the folder of one."""

import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from agent import rootname
from agent.cli.options import SourceName
from agent.cli.sources import Taken, made, opened, received
from agent.errors import CkptreeError, HostError, NoDaemonError, NoSuchTimeError, UsageError
from agent.protocol import codec
from agent.protocol.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from agent.cli.apart import Made
    from agent.cli.sources import Options, Source
    from agent.protocol.client import Event
    from agent.recorder.instant import Time
    from agent.recorder.recording import Recording

_BLOCK_BYTES = 512  # of st_blocks
_ALONE, _ONE_OF, _TRUTH = "file", "file.", "truth"
_MS = 1_000_000
_LONGEST_S = 3600.0  # between two parts of an answer: nothing may have happened for long


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


@contextmanager
def open_folder(folder: Path) -> "Iterator[Recording]":
    """Open the recording in a folder, for the time of the block. It may be untrusted: a process of root's gives up the
    rights that reading does not need, for good, and its memory is bounded.

    Raises:
        CkptreeError: there is no such folder, or it is none.
        HostError: the folder, or this installation, cannot be read from.
        NoSuchTimeError: there is no recording in it.
        FormatError: it takes more memory than a recording may.
    """
    try:
        from agent.recorder.recording import Recording
    except ImportError as error:
        raise HostError(
            "recordings need the Python package `zstandard`, which is not installed here: "
            "`pip install 'ckptree[record]'`, or Debian's python3-zstandard"
        ) from error
    from agent.cli import allowance
    from agent.cli.confinement import confine_root

    if not folder.exists():
        raise CkptreeError(f"cannot read {folder}: there is no such folder")
    if not folder.is_dir():
        raise CkptreeError(f"cannot read {folder}: it is no folder: name the one that the recording's files are in")
    _look_for_writer(folder)
    confine_root()
    with allowance.bounded(os.fspath(folder), _stored_bytes(folder), allowance.RECORDING, "recording"):
        yield Recording(folder)


def _look_for_writer(folder: Path) -> None:
    """Note whether a writer has a folder: it is asked for later, in a process that may take no lock."""
    from agent.recorder import folderlock

    folderlock.is_written(folder)


def made_apart(folder: Path, work: "Callable[[], tuple[Made, bool]]") -> "tuple[Made, bool]":
    """Do some work on an untrusted folder in a confined child, for a verb that writes what comes of it.

    Args:
        folder: of the recording.
        work: returns what is to be written, bytes or files by their names, and a truth about it.

    Returns:
        The result of the work.

    Raises:
        SystemExit: the child has failed, and said why.
        CkptreeError: as of `apart.made`.
    """
    from agent.cli import apart
    from agent.cli.terminal import say

    _look_for_writer(folder)

    def packed() -> apart.Made:
        made, truth = work()
        files = {_ALONE: made} if isinstance(made, bytes) else {_ONE_OF + name: data for name, data in made.items()}
        return {**files, _TRUTH: b"1" if truth else b""}

    try:
        found = apart.made(packed, say)
    except apart.EndedError as ended:
        raise SystemExit(ended.code) from None
    files = found if isinstance(found, dict) else {}
    if _TRUTH not in files:
        raise CkptreeError("what was made of the recording is not whole: it is not written")
    truth = bool(files.pop(_TRUTH))
    return files.get(_ALONE, {name.removeprefix(_ONE_OF): data for name, data in files.items()}), truth


def _stored_bytes(folder: Path) -> int:
    """Return the bytes that the segments of a folder take on disk, or have, if that is less."""
    from agent.recorder.folder import stored

    found = 0
    for each in stored(folder):
        with suppress(OSError):
            status = each.path.stat()
            found += min(status.st_size, status.st_blocks * _BLOCK_BYTES)
    return found


def _ended_ns(recording: "Recording") -> int | None:
    """Return CLOCK_REALTIME of the end of a recording, ns; None: it goes on."""
    from agent.recorder.newest import ended_ns

    return ended_ns(recording)


def moment(text: str, last_ns: int | None = None) -> "Time":
    """Read a TIME, as of now.

    Args:
        text: the TIME.
        last_ns: the end of the recording, CLOCK_REALTIME, ns; None: it goes on.
    """
    from agent.recorder import instant  # takes time, and most trees are of now

    return instant.parse(text, time.time_ns(), last_ns)


@contextmanager
def _dated(last_ns: int | None, *times: str | None) -> "Iterator[None]":
    """Say in the refusal of a time of day which day was taken for it.

    Args:
        last_ns: the end of the recording, CLOCK_REALTIME, ns; None: it goes on.
        times: TIMEs.
    """
    from agent.recorder import instant

    try:
        yield
    except NoSuchTimeError as error:
        if last_ns is None or not any(text is not None and instant.is_daily(text) for text in times):
            raise
        end = instant.written(last_ns // _MS * _MS, None)
        raise NoSuchTimeError(
            f"{error}; the recording ends at {end}, and a time of day is the last one before: give the date, too"
        ) from error


def check_folder(folder: Path | None, socket: Path | None) -> None:
    """Refuse a daemon's socket where a folder is read."""
    if folder is not None and socket is not None:
        raise UsageError("--record reads a folder, and --socket is a daemon's: leave one of them out")


def _daemon(socket: Path | None, timeout_s: float) -> Client:
    """Connect to the daemon.

    Raises:
        NoDaemonError: it is not there; a recording can be read without it.
    """
    try:
        return Client(socket, timeout_s)
    except NoDaemonError as error:
        raise NoDaemonError(f"{error}, or name the folder of its recording with --record DIR") from error


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
        with open_folder(folder) as recording, _dated(_ended_ns(recording), at):
            yield _RecordingFolder(recording, moment(at, _ended_ns(recording)))
        return
    asked = moment(at)
    with _daemon(socket, timeout_s) as client:
        yield _DaemonsRecording(client, asked)


class _RecordingFolder:
    """A folder as a source.

    Args:
        recording: the recording in it.
        at: the time of the trees.
    """

    client = None

    def __init__(self, recording: "Recording", at: "Time") -> None:
        self._recording = recording
        self._at = at

    def snapshot(self, root: str, **options: "Unpack[Options]") -> Taken:
        from agent.recorder import answers
        from agent.recorder.instant import said_point
        from agent.recorder.past import Enquirer

        question = {"root": root, "at": said_point(self._at), **options}
        snapshot, chosen = answers.snapshot(self._recording, question, Enquirer())
        return made(snapshot, options.get("fmt", "ckpt"), chosen.refs.above() if options.get("outer") else ())


class _DaemonsRecording:
    """A daemon's recording as a source.

    Args:
        client: the connection.
        at: the time of the trees.
    """

    client = None  # none that could be asked about what is running now

    def __init__(self, client: Client, at: "Time") -> None:
        self._client = client
        self._at = at

    def snapshot(self, root: str, **options: "Unpack[Options]") -> Taken:
        from agent.recorder.instant import said_point

        return received(self._client.snapshot(root, at=said_point(self._at), **options))


class Told:
    """The events that answer a question, one after the other.

    Args:
        batches: the events as the protocol has them.
        has_arguments: True where execs have their arguments.
        boot_id: of the host, whose users they name.

    Attributes:
        missing: True where records were missing among those told so far.
        tells_progress: True where a terminal shall tell how far they have come (agent.cli.progress).
    """

    def __init__(self, batches: "Iterable[list[dict[str, Any]]]", *, has_arguments: bool, boot_id: str) -> None:
        self._batches = batches
        self.boot_id = boot_id
        self.has_arguments = has_arguments
        self.missing = False
        self.tells_progress = False

    def events(self) -> "Iterator[Event]":
        """Yield the events."""
        from agent.cli import progress

        return progress.told(self._events(), shown=self.tells_progress)

    def _events(self) -> "Iterator[Event]":
        from agent.protocol.replies import event_of

        for batch in self._batches:
            for said in batch:
                event = event_of(said)
                self.missing |= event.kind in ("gap", "loss")
                yield event


def question(since: str | None, until: str | None, last_ns: int | None = None, **others: Any) -> dict[str, Any]:
    """Return a question about a span of time, as the protocol has it.

    Args:
        since, until: TIMEs; None: the beginning and the end of the recording.
        last_ns: the end of the recording, CLOCK_REALTIME, ns; None: it goes on.
        others: further keys; those that are None are left out.
    """
    from agent.recorder.instant import said_point

    times = {"since": since, "until": until}
    asked: dict[str, Any] = {key: said_point(moment(text, last_ns)) for key, text in times.items() if text is not None}
    return asked | {key: value for key, value in others.items() if value is not None}


@contextmanager
def told(
    folder: Path | None, socket: Path | None, since: str | None, until: str | None, **others: Any
) -> "Iterator[Told]":
    """Ask for events, for the time of the block.

    Args:
        folder: of a recording; None: the daemon's own.
        socket: of the daemon.
        since, until: TIMEs.
        others: further keys of the question.
    """
    check_folder(folder, socket)
    if folder is not None:
        from agent.recorder import answers
        from agent.recorder.past import Enquirer

        with open_folder(folder) as recording, _dated(_ended_ns(recording), since, until):
            asked = question(since, until, _ended_ns(recording), arguments=True, **others)
            batches = answers.events(recording, asked, Enquirer())
            yield Told(batches, has_arguments=True, boot_id=recording.runs[-1].boot_id)
        return
    asked = question(since, until, **others)
    with _daemon(socket, _LONGEST_S) as client:
        client.need_past()
        hello = client.hello()
        has_arguments = "arguments" in hello.features
        batches = _batches(client, asked | {"arguments": has_arguments})
        yield Told(batches, has_arguments=has_arguments, boot_id=hello.boot_id)


def _batches(client: Client, asked: dict[str, Any]) -> "Iterator[list[dict[str, Any]]]":
    """Yield the events that a daemon tells of the past."""
    answer = client.request("events", **asked)
    yield answer["events"]
    while answer.get("more"):
        answer = client.receive()
        codec.raise_failure(answer)
        yield answer["events"]


def lives(
    folder: Path | None, socket: Path | None, since: str | None, until: str | None, number: int
) -> "tuple[list[list[Event]], list[Event]]":
    """Ask for the lives of a number, and the gaps in which none goes on; arguments as of `told`."""
    from agent.protocol.replies import event_of

    check_folder(folder, socket)
    if folder is not None:
        from agent.recorder import answers
        from agent.recorder.past import Enquirer

        with open_folder(folder) as recording, _dated(_ended_ns(recording), since, until):
            asked = question(since, until, _ended_ns(recording), pid=number)
            found, gaps = answers.history(recording, asked, Enquirer())
    else:
        with _daemon(socket, _LONGEST_S) as client:
            client.need_past()
            answer = client.request("history", **question(since, until, pid=number))
            found, gaps = answer["lives"], answer.get("gaps", [])
    return [[event_of(said) for said in life] for life in found], [event_of(said) for said in gaps]
