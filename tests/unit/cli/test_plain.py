# SPDX-License-Identifier: Apache-2.0
"""Command lines that are read without typer: the values are those that typer reads, for every verb."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.cli import plain, verbs
from agent.cli.app import commands
from agent.cli.declarations import Argument, Option
from tests.support.examples import examples, patient

EXAMPLE = os.fspath(Path(__file__).parents[3] / "docs" / "example" / "web.ckpt")
VERBS: dict[tuple[str, ...], Callable[..., None]] = {
    **{(verb,): getattr(verbs.module(name), verb) for verb, name in verbs.VERBS.items()},
    **{(verbs.FLEET, verb): getattr(verbs.module(name), verb) for verb, name in verbs.FLEET_VERBS.items()},
}
WORDS = (
    *("", "-", "--", "-h", "--help", "--no-such", "--json=1", "-fjson", "-f=json"),
    *("-5", "5", "0", "-1", "1.5", ".5", "5.", "1_0", " 7", "1e3", "nan", "-30s", "٣"),
    *("json", "auto", "criu", "slurm:4711", EXAMPLE, "/no/such/file", "/"),
)


@contextlib.contextmanager
def recording(into: list[dict[str, Any]]) -> Iterator[None]:
    """Let each verb note its values in the place of its work."""

    def recorder(verb: Callable[..., None]) -> Callable[..., None]:
        @wraps(verb)
        def record(**values: Any) -> None:
            into.append(values)

        return record

    with pytest.MonkeyPatch.context() as patched:
        for words, verb in VERBS.items():
            table = verbs.VERBS if len(words) == 1 else verbs.FLEET_VERBS
            patched.setattr(verbs.module(table[words[-1]]), words[-1], recorder(verb))
        yield


CALLS: list[dict[str, Any]] = []
with recording(CALLS):
    COMMAND: click.Group = commands()


def typers(words: list[str]) -> dict[str, Any] | None:
    """Return the values that typer reads from a command line; None where it prints help or an error."""
    CALLS.clear()
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.suppress(click.exceptions.ClickException, click.exceptions.Exit):
        COMMAND.main(list(words), prog_name="ckptree", standalone_mode=False)
    return CALLS[0] if CALLS else None


def typed(values: dict[str, Any] | None) -> Any:
    """Return values with their types: a StrEnum is equal to its text."""
    return values if values is None else {name: (type(value), value) for name, value in values.items()}


def declared_words(verb: Callable[..., None]) -> list[str]:
    """Return words that mean something to a verb: names of options, beginnings of these, and choices."""
    found = ["x"]
    for parameter, annotation in verb.__annotations__.items():
        if parameter == "return":
            continue
        for name in annotation.__metadata__[0].names or (f"--{parameter.replace('_', '-')}",):
            for each in name.split("/"):
                found += [each, f"{each}=auto", f"{each}=", each[:-1]]
        found += [each.value for each in getattr(annotation.__origin__, "__members__", {}).values()]
    return found


def lines() -> st.SearchStrategy[list[str]]:
    """Return command lines of all verbs, of which most are plain or nearly so."""

    def of_verb(verb: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
        word = st.sampled_from(declared_words(VERBS[verb])) | st.sampled_from(WORDS) | st.text(max_size=4)
        return st.lists(word, max_size=6).map(lambda words: [*verb, *words])

    return st.sampled_from(sorted(VERBS)).flatmap(of_verb)


@settings(patient, max_examples=examples(1500))
@given(lines())
@example(["snapshot", "1", "-f=json"])
@example(["history", "5", "--since", "-30s"])
@example(["show", "", "--at="])
@example(["snapshot", "-o", "--json", "1"])
@example(["fleet", "show", "-", "--json", "--json"])
@example(["plan", "--pidns", "x", "--no-pidns"])
def test_a_line_that_is_read_plainly_has_the_values_that_typer_reads(words: list[str]) -> None:
    """Where typer would complain, or print help, the line is not plain."""
    found = plain.call(words)

    if found is not None:
        verb = VERBS[tuple(words[: 1 + (words[0] == verbs.FLEET)])]
        assert found.func is verb  # type: ignore[attr-defined]
        assert typed(found.keywords) == typed(typers(words))  # type: ignore[attr-defined]


VALUES: dict[Any, str] = {str: "x", Path: "/x", int: "7", float: "2.5"}


def value_of(annotation: Any) -> str:
    """Return a word that is a value of a parameter's type."""
    kind = getattr(annotation.__origin__, "__args__", [annotation.__origin__])[0]
    members = list(getattr(kind, "__members__", {}).values())
    return str(members[-1].value) if members else VALUES.get(kind, "x")


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - {(verbs.FLEET, "restart")}), ids=" ".join)
def test_every_option_is_read_plainly_but_files_that_must_be_readable_and_lists(verb: tuple[str, ...]) -> None:
    """Typer looks at those files, and makes the lists. One that `fleet restart` needs is in each of its lines."""
    function = VERBS[verb]
    declared = {name: each for name, each in function.__annotations__.items() if name != "return"}
    required = list(declared)[: len(declared) - len(function.__defaults__ or ())]
    needed = [value_of(declared[name]) for name in required if isinstance(declared[name].__metadata__[0], Argument)]
    needed += [
        word
        for name in required
        if isinstance(declared[name].__metadata__[0], Option)
        for word in (declared[name].__metadata__[0].names[0], value_of(declared[name]))
    ]
    apart = set()
    for name, annotation in declared.items():
        kind, option = annotation.__origin__, annotation.__metadata__[0]
        if isinstance(option, Argument):
            continue
        for listed in option.names or (f"--{name.replace('_', '-')}",):
            for each in listed.split("/"):
                words = [*needed, each, *([] if kind is bool else [value_of(annotation)])]
                if (found := plain.arguments(function, words)) is None:
                    apart.add(name)
                else:
                    assert typed(found) == typed(typers([*verb, *words]))

    expected = {
        name
        for name, each in declared.items()
        if each.__origin__ == list[str] | None
        or (each.__origin__ == Path | None and each.__metadata__[0].settings.get("readable", True))
    }
    assert apart == expected


@pytest.mark.parametrize(
    "words", [[], ["--version"], ["-h"], ["show"], ["show", "-h"], ["daemon"], ["fleet"], ["shwo", "x"]]
)
def test_what_typer_explains_is_left_to_it(words: list[str]) -> None:
    """Help, what is missing, and what is unknown."""
    assert plain.call(words) is None


def test_a_shell_that_asks_for_completions_is_answered_by_typer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks with the environment, and a whole command line."""
    monkeypatch.setenv("_CKPTREE_COMPLETE", "complete_bash")

    assert plain.call(["show", "x"]) is None
