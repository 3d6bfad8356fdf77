# SPDX-License-Identifier: Apache-2.0
"""Plain command lines, which need no explanation, read without typer.

Typer explains the command line: help, and what is wrong with a word. To import it takes longer than most verbs do. So
a command line is read here first, by the same declarations (agent.cli.declarations) of which typer makes its parser.
Read here is what can mean one thing only: a verb, options of its own by their whole names, values of the form that is
usual for their type, and as many arguments as it takes. Any other word, ``--help`` among them, makes these functions
return None: then typer reads all of it anew. So nothing here says no, and the two cannot disagree but where both say
yes: tests/unit/cli/test_plain.py generates command lines for all verbs and compares the values.
"""

import os
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Final

from agent.cli import verbs
from agent.cli.declarations import Argument, Declaration, Option

_COMPLETION: Final = "_CKPTREE_COMPLETE"
"""The environment variable with which a shell asks for completions."""
_MOST_DIGITS: Final = 15
_UNKNOWN: Final = object()


def call(words: Sequence[str]) -> Callable[[], None] | None:
    """Return the call that a command line means; None where typer is to read it.

    Args:
        words: the command line, without the program's name.
    """
    table = verbs.VERBS
    if words[:1] == [verbs.FLEET]:
        table, words = verbs.FLEET_VERBS, words[1:]
    if not words or words[0] not in table or _COMPLETION in os.environ:
        return None
    verb: Callable[..., None] = getattr(verbs.module(table[words[0]]), words[0])
    values = arguments(verb, words[1:])
    return None if values is None else partial(verb, **values)


def arguments(verb: Callable[..., None], words: Sequence[str]) -> dict[str, Any] | None:
    """Return the values of a verb's parameters; None where typer is to read them.

    Args:
        verb: a function whose parameters have declarations.
        words: the command line behind the verb.
    """
    annotations = {name: each for name, each in verb.__annotations__.items() if name != "return"}
    defaults = verb.__defaults__ or ()
    values = dict(zip(list(annotations)[len(annotations) - len(defaults) :], defaults, strict=True))
    options, places = _named(annotations)
    waiting = iter(words)
    for word in waiting:
        if word[:1] != "-" or word == "-":
            if not places:
                return None
            name = places.pop(0)
            value = _value(annotations[name], word)
        else:
            option, has_value, text = word.partition("=") if word.startswith("--") else (word, "", "")
            if option not in options:
                return None
            name, value = options[option]
            if value is _UNKNOWN:
                given = text if has_value else next(waiting, None)
                value = _UNKNOWN if given is None else _value(annotations[name], given)
            elif has_value:
                return None
        if value is _UNKNOWN:
            return None
        values[name] = value
    return values if values.keys() == annotations.keys() else None


def _named(annotations: dict[str, Any]) -> tuple[dict[str, tuple[str, Any]], list[str]]:
    """Return the parameters as the command line has them.

    Returns:
        For each name of an option the parameter and the value that the name alone means, _UNKNOWN where one follows;
        and the parameters that are known by their places.
    """
    options: dict[str, tuple[str, Any]] = {}
    places = []
    for parameter, annotation in annotations.items():
        declared: Declaration = annotation.__metadata__[0]
        if isinstance(declared, Argument):
            places.append(parameter)
        elif annotation.__origin__ is bool:
            for name in declared.names:
                yes, _, no = name.partition("/")
                options[yes] = (parameter, True)
                if no:
                    options[no] = (parameter, False)
        else:
            for name in declared.names or (f"--{parameter.replace('_', '-')}",):
                options[name] = (parameter, _UNKNOWN)
    return options, places


def _value(annotation: Any, text: str) -> Any:
    """Return the value that a word means; _UNKNOWN where it is no usual form of the type."""
    kind, declared = annotation.__origin__, annotation.__metadata__[0]
    if isinstance(kind, UnionType):  # with None, which no word means
        kind = kind.__args__[0]
    if kind is str:
        return text
    if kind is Path:
        # One that must be readable, if it exists, is looked at.
        return Path(text) if isinstance(declared, Option) and not declared.settings.get("readable", True) else _UNKNOWN
    if kind in (int, float):
        return _number(kind, declared, text)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next((each for each in kind if each.value == text), _UNKNOWN)
    return _UNKNOWN


def _number(kind: type[int] | type[float], declared: Declaration, text: str) -> Any:
    whole, dot, part = text.partition(".")
    digits = whole + (part if dot and kind is float and part else "")
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > _MOST_DIGITS or (dot and digits == whole):
        return _UNKNOWN
    value = kind(text)
    least, most = declared.settings.get("min", value), declared.settings.get("max", value)
    return value if least <= value <= most else _UNKNOWN
