# SPDX-License-Identifier: Apache-2.0
"""``ckptree snapshot``."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from agent.cli.declarations import Argument, Option
from agent.cli.message import say
from agent.cli.options import (
    ROOT_HELP,
    AsJson,
    At,
    DialectName,
    Folder,
    Format,
    Mode,
    ModeName,
    Nats,
    Socket,
    Source,
    SourceName,
    check_source,
)
from agent.errors import INCOMPLETE, RefusedError, UsageError
from agent.record import replace

if TYPE_CHECKING:
    from agent.cli import sources
    from agent.cli.sources import Source as SourceOfTrees
    from agent.cli.sources import Taken
    from agent.model import Snapshot


def snapshot(
    root: Annotated[str, Argument(metavar="ROOT", help=ROOT_HELP)],
    output: Annotated[
        str,
        Option("--output", "-o", metavar="FILE|-", help="Write to this file or store, or with - to standard output."),
    ] = "-",
    fmt: Format = None,
    dialect: Annotated[DialectName, Option(help="Write a ckpt image in this dialect.")] = DialectName.SEED,
    mode: Mode = ModeName.AUTO,
    source: Source = SourceName.AUTO,
    with_argv: Annotated[
        bool,
        Option("--with-argv", help="Add arguments, folder, environment, program and rights of each process."),
    ] = False,
    without_entered: Annotated[
        bool, Option("--without-entered", help="Leave out tasks that entered the container from outside.")
    ] = False,
    no_plan: Annotated[bool, Option("--no-plan", help="Do not look for a way to rebuild the tree.")] = False,
    require_rebuildable: Annotated[
        bool,
        Option("--require-rebuildable", help="Write nothing and exit with 7 if the tree cannot be rebuilt."),
    ] = False,
    allow_incomplete: Annotated[
        bool, Option("--allow-incomplete", help="Exit with 0, and not with 6, where the snapshot is incomplete.")
    ] = False,
    timeout: Annotated[
        float, Option(metavar="S", help="Wait for the daemon at most so many seconds.", min=0.001, max=86400.0)
    ] = 30.0,
    sign: Annotated[
        Path | None, Option(metavar="KEY", help="Sign the file with this ssh key. The signature is FILE.sig.")
    ] = None,
    at: At = None,
    record: Folder = None,
    socket: Socket = None,
    nats: Nats = None,
    as_json: AsJson = False,
) -> None:
    """Take a snapshot of the tree below ROOT and write it."""
    from agent.cli import output as writing
    from agent.cli import recorded
    from agent.proc import topmost

    if as_json and fmt not in (None, "json"):
        raise UsageError(f"--json is -f json: leave out -f {fmt}")
    check_source(source, socket)
    if not math.isfinite(timeout):
        raise UsageError(f"--timeout {timeout}: expected a number of seconds")
    if no_plan and require_rebuildable:
        raise UsageError("--require-rebuildable takes a plan, and --no-plan forbids it: leave one of them out")
    target = writing.Target(output, "json" if as_json else fmt or "ckpt", sign, nats)
    if fmt is None and not as_json and (other := writing.misnamed(output)):
        say(f"{output} gets the format ckpt, whatever it is called: -f {other} writes {other}")
    if at is not None and with_argv:
        raise UsageError(
            "--with-argv is read from /proc, which has no past: `ckptree history PID` has the arguments of execs"
        )
    meant = recorded.check_root(root, at)
    plain = target.lossless and not with_argv
    options: sources.Options = {
        "mode": mode.value,
        "fmt": target.format.name if plain else "ckpt",
        "dialect": dialect.value,
        "without_entered": without_entered,
    }

    def made() -> "tuple[bytes | dict[str, bytes], Taken]":
        """Return what is to be written, and the snapshot."""
        with recorded.opened_at(at, record, source, socket, timeout) as where:
            taken = topmost.answered(meant, lambda pid: where.snapshot(pid, **options))
            loaded = None if plain and no_plan else _loaded(taken, where, with_argv=with_argv)
        if loaded is None:
            return taken.image(), taken
        judged = loaded if no_plan else _judged(loaded, required=require_rebuildable)
        return taken.image() if plain and judged is loaded else target.made(judged, say), taken

    def told() -> tuple[bytes | dict[str, bytes], bool]:
        data, taken = made()
        _report(taken)
        return data, taken.complete

    if record is not None:
        data, complete = recorded.made_apart(record, told)
        target.write_made(data)
    else:
        data, taken = made()
        target.write_made(data)
        _report(taken)
        complete = taken.complete
    if not complete and not allow_incomplete:
        raise SystemExit(INCOMPLETE)


def _loaded(taken: "Taken", where: "SourceOfTrees", *, with_argv: bool) -> "Snapshot":
    loaded = taken.load()
    if not with_argv:
        return loaded
    from agent.proc import enrich

    enriched = enrich.Enriched(loaded, ask=where.client.strings if where.client is not None else None)
    for line in enriched.messages():
        say(line)
    return enriched.snapshot


def _judged(snapshot: "Snapshot", *, required: bool) -> "Snapshot":
    """Add the obstacles to a rebuild to a snapshot, and print them while the original tree still lives.

    Raises:
        RefusedError: there is an obstacle, and `required` forbids one.
    """
    from agent.restart.planning.search import obstacles

    found = obstacles(snapshot)
    if not found:
        return snapshot
    lines = [f"{obstacle.text} ({obstacle.rule})" for obstacle in found]
    if required:
        raise RefusedError("not rebuildable, so it was not written, as --require-rebuildable has it", lines)
    for line in lines:
        say(f"not rebuildable, because {line}")
    return replace(snapshot, not_rebuildable=found)


def _report(taken: "Taken") -> None:
    for line in taken.squashed:
        say(f"squashed: {line}")
    for line in taken.entered:
        say(f"left out, entered from outside: {line}")
    if taken.workers:
        from exporters.content.wording import count

        say(f"left out, for no rebuild can make them: {count(taken.workers, 'thread')} of the kernel (io workers)")
    if not taken.complete:
        say("incomplete: " + ("; ".join(taken.reasons) or "not verified"))
