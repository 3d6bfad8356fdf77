# SPDX-License-Identifier: Apache-2.0
"""The command line as typer has it, which explains it: help, and what is wrong with a word."""

import contextlib
import inspect
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from typer.core import TyperGroup

from agent.cli import unread
from agent.cli.declarations import Declaration, Option
from agent.cli.message import in_a_line
from agent.cli.options import name_foreign_formats
from agent.cli.verbs import FLEET, FLEET_VERBS, VERBS
from agent.cli.verbs import module as load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# The error of a command without arguments, whose message is its help; before click 8.2 there is none.
_HELP = getattr(click.exceptions, "NoArgsIsHelpError", ())


@contextlib.contextmanager
def _harmless_errors() -> Iterator[None]:
    """Escape the message of a usage error: it quotes arguments, and a shell's wildcard gives names of others' files."""
    try:
        yield
    except _HELP:
        raise
    except click.MissingParameter as error:  # it quotes nothing, and has the choices in lines of their own
        raise click.UsageError(" ".join(error.format_message().split()), error.ctx) from error
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
    alone = verb if verb == FLEET or verb in VERBS else ""
    if not alone:
        settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
        made.command(context_settings=settings, add_help_option=False)(daemon)
    _register(made, VERBS, alone)
    if alone in ("", FLEET):
        fleet = typer.Typer(
            name=FLEET,
            cls=_Verbs,
            help="Many hosts: ask their relays, and work with sets of their trees.",
            no_args_is_help=True,
        )
        _register(fleet, FLEET_VERBS)
        made.add_typer(fleet)
    return typer.main.get_command(made)


def _register(made: typer.Typer, table: "Mapping[str, str]", alone: str = "") -> None:
    for verb, name in table.items():
        if alone in ("", verb):
            module = load(name)
            made.command(verb, epilog=getattr(module, "EPILOG", None))(declared(getattr(module, verb)))


def declared(verb: "Callable[..., None]") -> "Callable[..., None]":
    """Return a verb with typer's declarations in the place of ours."""

    def called(**values: Any) -> None:
        with unread.noticed():
            verb(**values)

    meant = inspect.signature(verb)
    parameters = [each.replace(annotation=_of_typer(each.annotation)) for each in meant.parameters.values()]
    called.__doc__ = verb.__doc__
    called.__signature__ = meant.replace(parameters=parameters)  # type: ignore[attr-defined]
    return called


def _of_typer(annotation: Any) -> Any:
    ours: Declaration = annotation.__metadata__[0]
    theirs = typer.Option if isinstance(ours, Option) else typer.Argument
    return Annotated[annotation.__origin__, theirs(*ours.names, **ours.settings)]


def run() -> None:
    """Run the verb that the command line names; print help, or what is wrong with a word.

    Raises:
        SystemExit: with the exit code.
        CkptreeError: of the verb.
    """
    command = commands(sys.argv[1] if len(sys.argv) > 1 else "")
    if not {"-h", "--help"}.isdisjoint(sys.argv):  # to find them takes time
        name_foreign_formats(command.commands)
    command(prog_name="ckptree")
