# SPDX-License-Identifier: Apache-2.0
"""The command line as data, read from typer's commands and the daemon's own parser."""

import inspect
import re
from enum import Enum
from typing import Any, Final, NamedTuple

from agent.cli.app import commands as all_commands
from agent.cli.output import find_format
from agent.daemon import settings
from agent.events.subscriber import KINDS
from exporters import registry

FILES: Final = frozenset({"FILE", "FILE|-", "OUT", "IN", "A", "B", "PATH", "CONFIG", "SOCKET"})


class Argument(NamedTuple):
    """A positional argument.

    Attributes:
        name: as in the usage line.
        help: a sentence, or empty.
        required: True if it cannot be left out.
        choices: the possible values; empty for any.
    """

    name: str
    help: str
    required: bool
    choices: tuple[str, ...] = ()


class Option(NamedTuple):
    """One option.

    Attributes:
        names: with their dashes; a negative form included.
        value: name of the value; empty for a flag.
        help: a sentence.
        choices: the possible values; empty for any.
        several: True if several of them may be given, with commas.
        default: as text; empty for none.
    """

    names: tuple[str, ...]
    value: str
    help: str
    choices: tuple[str, ...] = ()
    default: str = ""
    several: bool = False


class Verb(NamedTuple):
    """A verb of the command line.

    Attributes:
        name, help: its name and its help text.
        arguments, options: in order.
        more: paragraphs below them in the help, each as its lines; a paragraph of one line is prose.
    """

    name: str
    help: str
    arguments: tuple[Argument, ...]
    options: tuple[Option, ...]
    more: tuple[tuple[str, ...], ...] = ()


HELP: Final = Option(("-h", "--help"), "", "Show help and exit.")


def formats() -> tuple[str, ...]:
    """Return the names of the formats that a snapshot can be written in, without those of other packages."""
    return (*registry.FORMATS, find_format("svg").name)


def verbs() -> list[Verb]:
    """Return all verbs that the help shows."""
    commands: dict[str, Any] = all_commands().commands
    found = []
    for name, command in commands.items():
        if command.hidden:
            continue
        if name == "daemon":
            found.append(daemon())
            continue
        if hasattr(command, "commands"):
            found.append(family(name, command))
            continue
        shown = [each for each in command.params if each.param_type_name == "argument"]
        arguments = tuple(
            Argument(str(each.metavar or each.name).strip("[]"), _argument_help(each), each.required, _choices(each))
            for each in shown
        )
        options = tuple(_option(each) for each in command.params if each.param_type_name == "option")
        found.append(Verb(name, _prose(command.help), arguments, (*options, HELP), _paragraphs(command.epilog)))
    return found


def family(name: str, group: Any) -> Verb:
    """Return a family of verbs as one: its argument names the member, and its options are those of all members."""
    options: dict[tuple[str, ...], Option] = {}
    lines = []
    for member, command in group.commands.items():
        arguments = " ".join(
            str(each.metavar or each.name) for each in command.params if each.param_type_name == "argument"
        )
        first = _prose(command.help).partition(". ")[0].rstrip(".")
        lines.append(f"  {member} {arguments}".ljust(22) + f" {first}")
        for each in command.params:
            if each.param_type_name == "option":
                option = _option(each)
                options.setdefault(option.names, option)
    chosen = Argument("VERB", _prose(group.help), required=True, choices=tuple(group.commands))
    return Verb(name, _prose(group.help), (chosen,), (*options.values(), HELP), (("Verbs", *lines),))


def daemon() -> Verb:
    """Return the daemon's verb, which has a parser of its own."""
    parser = settings.parser()
    options = tuple(
        Option(tuple(each.option_strings), str(each.metavar or ""), (each.help or "").replace("%%", "%"))
        for each in parser._actions  # noqa: SLF001 - argparse has no public list of its options
        if each.dest != "help"
    )
    return Verb("daemon", settings.DESCRIPTION, (), (*options, HELP))


def _paragraphs(text: str | None) -> tuple[tuple[str, ...], ...]:
    """Split a text into paragraphs. A backspace in the first line keeps a paragraph's lines, as in click."""
    found = []
    for paragraph in re.split(r"\n[ \t]*\n", inspect.cleandoc(text or "")):
        first, _, rest = paragraph.partition("\n")
        if paragraph.strip():
            found.append(tuple(rest.split("\n")) if first.strip() == "\b" else (_prose(paragraph),))
    return tuple(found)


def _argument_help(parameter: Any) -> str:
    return _prose(getattr(parameter, "help", None))


def _option(parameter: Any) -> Option:
    names = sorted(parameter.opts, key=len) + list(parameter.secondary_opts)
    if parameter.is_flag:
        return Option(tuple(names), "", _prose(parameter.help))
    choices = _choices(parameter)
    value = parameter.metavar or (parameter.name.upper() if choices else parameter.type.name.upper())
    if value == "FORMAT":
        choices = formats()
    if value == "KINDS":
        choices = KINDS
    default = parameter.default
    text = str(default.value if isinstance(default, Enum) else default)
    return Option(
        tuple(names), value, _prose(parameter.help), choices, "" if default is None else text, value == "KINDS"
    )


def _choices(parameter: Any) -> tuple[str, ...]:
    return tuple(str(getattr(each, "value", each)) for each in getattr(parameter.type, "choices", ()))


def _prose(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").strip()
