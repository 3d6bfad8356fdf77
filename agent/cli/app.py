# SPDX-License-Identifier: Apache-2.0
"""The command line. Each verb imports its modules when it runs, for imports are most of a verb's time."""

import contextlib
import errno
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import click
import typer
from typer.core import TyperGroup

from agent.cli.fileverbs import AsJson, DialectName
from agent.cli.message import in_a_line
from agent.cli.options import (
    ROOT_HELP,
    At,
    Folder,
    Format,
    Mode,
    ModeName,
    Nats,
    Socket,
    Source,
    SourceName,
    check_source,
    name_foreign_formats,
)
from agent.cli.terminal import say
from agent.errors import INCOMPLETE, INTERRUPTED, CkptreeError, RefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.cli import sources
    from agent.cli.sources import Source as SourceOfTrees
    from agent.cli.sources import Taken
    from agent.model import Snapshot

# The error of a command without arguments, whose message is its help; before click 8.2 there is none.
_HELP = getattr(click.exceptions, "NoArgsIsHelpError", ())


@contextlib.contextmanager
def _harmless_errors() -> Iterator[None]:
    """Escape the message of a usage error: it quotes arguments, and a shell's wildcard gives names of others' files."""
    try:
        yield
    except _HELP:
        raise
    except click.UsageError as error:
        raise click.UsageError(in_a_line(error.format_message()), error.ctx) from error


class _Verbs(TyperGroup):
    """The verbs, whose usage errors cannot command a terminal."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb. Click from 8.4 on names verbs like an unknown one, and typer must not name them once more."""
        if hasattr(click.exceptions, "NoSuchCommand"):
            self.suggest_commands = False
        return super().resolve_command(ctx, args)

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        """Read the options before the verb."""
        with _harmless_errors():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Read the verb and its arguments, and run it."""
        with _harmless_errors():
            return super().invoke(ctx)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
    if wanted:
        from importlib.metadata import version

        typer.echo(f"ckptree {version('ckptree')}")
        raise typer.Exit


def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Consistent checkpoints of process trees from eBPF, without freezing a process."""


def daemon(context: typer.Context) -> None:
    """Watch all process trees of this host, in the foreground, and answer on a Unix socket."""
    from agent.daemon import main as program

    raise typer.Exit(program.main(context.args))


def snapshot(
    root: Annotated[str, typer.Argument(metavar="ROOT", help=ROOT_HELP)],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE|-", help="Write to this file or store, or with - to standard output."
        ),
    ] = "-",
    fmt: Format = None,
    dialect: Annotated[DialectName, typer.Option(help="Write a ckpt image in this dialect.")] = DialectName.SEED,
    mode: Mode = ModeName.AUTO,
    source: Source = SourceName.AUTO,
    with_argv: Annotated[
        bool,
        typer.Option("--with-argv", help="Add arguments, folder, environment, program and rights of each process."),
    ] = False,
    without_entered: Annotated[
        bool, typer.Option("--without-entered", help="Leave out tasks that entered the container from outside.")
    ] = False,
    no_plan: Annotated[bool, typer.Option("--no-plan", help="Do not look for a way to rebuild the tree.")] = False,
    require_rebuildable: Annotated[
        bool,
        typer.Option("--require-rebuildable", help="Write nothing and exit with 7 if the tree cannot be rebuilt."),
    ] = False,
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Exit with 0, and not with 6, where the snapshot is incomplete.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="S", help="Wait for the daemon at most so many seconds.", min=0.001, max=86400.0)
    ] = 30.0,
    sign: Annotated[
        Path | None, typer.Option(metavar="KEY", help="Sign the file with this ssh key. The signature is FILE.sig.")
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
    with recorded.opened_at(at, record, source, socket, timeout) as where:
        taken = topmost.answered(meant, lambda pid: where.snapshot(pid, **options))
        loaded = None if plain and no_plan else _loaded(taken, where, with_argv=with_argv)
    if loaded is None:
        target.write(taken.image())
    else:
        judged = loaded if no_plan else _judged(loaded, required=require_rebuildable)
        if plain and judged is loaded:
            target.write(taken.image())
        else:
            target.write_made(target.made(judged, say))
    _report(taken)
    if not taken.complete and not allow_incomplete:
        raise typer.Exit(INCOMPLETE)


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


_VERBS: Final = {
    "fileverbs": ("show", "check", "convert", "plan"),
    "diffverb": ("diff",),
    "restartverb": ("restart",),
    "treeverb": ("tree",),
    "doctorverb": ("doctor",),
    "pastverbs": ("events", "history"),
    "exportverb": ("export",),
    "daemonverbs": ("watch", "status", "metrics"),
    "hookverb": ("hook",),
    "relayverb": ("relay",),
}
"""The verbs of each module, in the order of the help."""
_FLEET_VERBS: Final = {
    "fleetverbs": ("hosts", "snapshot"),
    "setverbs": ("show", "check", "diff", "plan"),
    "fleetrestartverb": ("restart",),
}
_FLEET: Final = "fleet"


def commands(verb: str = "") -> Any:
    """Return the command line.

    Args:
        verb: the verb that is called: the modules of others, and the options of these, take time. All, if it is none.
    """
    made = typer.Typer(
        name="ckptree",
        cls=_Verbs,
        help="Consistent checkpoints of process trees from eBPF, without freezing a process.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(options)
    alone = verb if verb == _FLEET or any(verb in names for names in _VERBS.values()) else ""
    if not alone:
        settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
        made.command(context_settings=settings, add_help_option=False)(daemon)
        made.command()(snapshot)
    _register(made, _VERBS, alone)
    if alone in ("", _FLEET):
        fleet = typer.Typer(
            name=_FLEET,
            cls=_Verbs,
            help="Many hosts: ask their relays, and work with sets of their trees.",
            no_args_is_help=True,
        )
        _register(fleet, _FLEET_VERBS)
        made.add_typer(fleet)
    return typer.main.get_command(made)


def _register(made: typer.Typer, modules: "Mapping[str, tuple[str, ...]]", alone: str = "") -> None:
    for module, names in modules.items():
        for name in names:
            if alone in ("", name):
                found = import_module(f"agent.cli.{module}")
                made.command(epilog=getattr(found, "EPILOG", None))(getattr(found, name))


def main() -> int:
    """Run a verb and return its exit code; a CkptreeError is printed as one message."""
    command = commands(sys.argv[1] if len(sys.argv) > 1 else "")
    if not {"-h", "--help"}.isdisjoint(sys.argv):  # to find them takes time
        name_foreign_formats(command.commands)
    try:
        command(prog_name="ckptree")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except CkptreeError as error:
        say(str(error))
        for line in error.leaks if isinstance(error, RefusedError) else ():
            say(f"  {line}")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if sys.stdout is not None and error.errno in (errno.ENOSPC, errno.EIO):
            say(f"cannot write to standard output, which is full or closed: {error.strerror}")
            return 1
        raise
    return 0
