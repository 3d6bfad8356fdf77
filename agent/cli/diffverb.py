# SPDX-License-Identifier: Apache-2.0
"""``ckptree diff``: two snapshots, or one tree at two times of a recording."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from agent.cli import storefiles, terminal
from agent.cli.declarations import Argument, Option
from agent.cli.fileverbs import FILE_HELP, confine, load_file
from agent.cli.namedfile import read_named, shown_name
from agent.cli.options import TIME_HELP, AsJson, Folder, Nats, Socket, SourceName
from agent.cli.terminal import say
from agent.errors import DIFFERENT, INCOMPLETE, FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.model import Snapshot
    from exporters.comparing.difference import Difference

_ANSWER_S = 30.0


def diff(
    a: Annotated[str, Argument(metavar="A", help=FILE_HELP)],
    b: Annotated[str | None, Argument(metavar="B", help=FILE_HELP)] = None,
    map_: Annotated[
        str | None,
        Option(
            "--map",
            help="Compare with B, rebuilt from A with other pids: FILE has what restart --no-pids --json printed.",
            metavar="FILE",
        ),
    ] = None,
    since: Annotated[
        str | None,
        Option("--from", help=f"Compare the tree of process A as it was then: {TIME_HELP}", metavar="TIME"),
    ] = None,
    until: Annotated[
        str | None, Option("--to", help="Compare it with the same tree at this time.", metavar="TIME")
    ] = None,
    record: Folder = None,
    socket: Socket = None,
    nats: Nats = None,
    as_json: AsJson = False,
) -> None:
    """Compare the trees of two snapshots. Exit code 0 where they are equal, 1 where not.

    Equal are two with the same pid objects and the same tasks, in the same tree, thread groups, process groups,
    sessions and pid namespaces, with the same states, exit codes (but for whether a core was dumped), exit signals and
    subreaper flags. Births, times, names and owners are no part of it.

    With --from and --to there is no B: two trees of a recording are compared.
    """
    if since is not None or until is not None:
        if since is None or until is None or b is not None or map_ is not None:
            raise UsageError("--from and --to compare two times of one tree: give both, and neither B nor --map")
        _of_times(a, (since, until), record, socket, as_json=as_json)
        return
    if b is None:
        raise UsageError("diff compares two: name B, or two times of process A with --from and --to")
    if record is not None or socket is not None:
        raise UsageError("--record and --socket are for two times of a tree: name them with --from and --to")
    a, b = storefiles.named(a, nats), storefiles.named(b, nats)
    map_ = None if map_ is None else storefiles.named(map_, nats)
    confine(a, b, map_)
    from exporters.comparing import difference, renumbering

    if (a, b, map_).count("-") > 1:
        raise UsageError("standard input cannot be more than one of A, B and the map")
    try:
        numbers = renumbering.parse(read_named(map_)) if map_ is not None else None
        found = difference.difference(load_file(a), load_file(b), numbers)
    except FormatError as error:
        if map_ is not None and (error.path == "map" or error.path.startswith("map.")):
            raise FormatError(f"{shown_name(map_)}: {error.path}", error.message, error.offset) from error
        raise
    _tell(found, as_json=as_json)


def _tell(found: "Difference", *, as_json: bool) -> None:
    """Print a difference, and end with its exit code."""
    from exporters.comparing import difference

    if as_json:
        terminal.tell_json(difference.to_document(found))
    else:
        for line in difference.lines(found, unicode=terminal.unicode()):
            terminal.tell(line)
    if not found.equal:
        raise SystemExit(DIFFERENT)


def _check_order(a: "Snapshot", b: "Snapshot") -> None:
    """Refuse two times of which the first is behind the second, as `events` and `history` do."""
    from agent.recorder.instant import written

    moments = [each.at for each in (a, b) if each.at is not None]
    if a.boot_id == b.boot_id and a.boottime_ns is not None and b.boottime_ns is not None:
        behind = a.boottime_ns > b.boottime_ns
    else:
        behind = a.time_ns > b.time_ns
    if behind:
        times = " is behind --to ".join(f"{written(each.time_ns)} (#{each.order})" for each in moments)
        raise UsageError(f"--from {times}: exchange them")


def _of_times(root: str, times: "Sequence[str]", record: Path | None, socket: Path | None, *, as_json: bool) -> None:
    """Compare a tree at two times."""
    from agent.cli import recorded
    from agent.proc import topmost
    from exporters.comparing import difference

    found, reasons = [], []
    for each in times:
        meant = recorded.check_root(root, each)
        with recorded.opened_at(each, record, SourceName.AUTO, socket, _ANSWER_S) as where:
            taken = topmost.answered(meant, where.snapshot)
            found.append(taken.load())
        if not taken.complete:
            reasons.append(f"{each}: {'; '.join(taken.reasons) or 'not verified'}")
    _check_order(*found)
    for reason in reasons:
        say(f"incomplete: {reason}")
    try:
        _tell(difference.difference(found[0], found[1]), as_json=as_json)
    except SystemExit:
        if not reasons:
            raise
    if reasons:
        raise SystemExit(INCOMPLETE)
