# SPDX-License-Identifier: Apache-2.0
"""Declarations of the options and arguments of verbs, which stand in the annotations of their parameters.

They are the only definition of the command line. Typer makes its help and errors from them (agent.cli.app), and a
command line with nothing to explain is read by them alone (agent.cli.plain), without the imports of typer. The type of
a parameter is that of its annotation, and its default is the function's.
"""

from typing import TYPE_CHECKING, TypedDict, Unpack

if TYPE_CHECKING:

    class Settings(TypedDict, total=False):
        """Arguments of typer.Option and typer.Argument of the same names."""

        help: str
        metavar: str
        min: float
        max: float
        readable: bool
        show_choices: bool


class Declaration:
    """A parameter of the command line.

    Args:
        names: of an option, as ``--output`` and ``-o``, or ``--pids/--no-pids``; none: made of the parameter's name.
        settings: see Settings.
    """

    __slots__ = ("names", "settings")

    def __init__(self, *names: str, **settings: "Unpack[Settings]") -> None:
        self.names = names
        self.settings = settings


class Option(Declaration):
    """A parameter that is named on the command line."""

    __slots__ = ()


class Argument(Declaration):
    """A parameter that is known by its place."""

    __slots__ = ()
