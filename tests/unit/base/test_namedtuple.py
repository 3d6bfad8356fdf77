# SPDX-License-Identifier: Apache-2.0
"""Tuples with names behave as those of `typing` do, and are made in a part of the time."""

import copy
import inspect
import os
import pickle
import re
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.record import NamedTuple

TOP = Path(__file__).parents[3]


class Place(NamedTuple):
    """A tuple with names."""

    x: int
    y: int = 2
    names: "tuple[str, ...]" = ()

    @property
    def far(self) -> bool:
        """True where x is large."""
        return self.x > 100


class Model(typing.NamedTuple):
    """The same of the standard library."""

    x: int
    y: int = 2
    names: "tuple[str, ...]" = ()

    @property
    def far(self) -> bool:
        """True where x is large."""
        return self.x > 100


class Long(NamedTuple):
    """A tuple with more fields than constructors are kept for."""

    a: int
    b: int
    c: int
    d: int
    e: int
    f: int
    g: int
    h: int
    i: int
    j: int = 10


class Empty(NamedTuple):
    """A tuple without fields."""


class Derived(Place):
    """A class of a tuple with names."""

    def twice(self) -> int:
        """Return x, twice."""
        return 2 * self.x


ARGUMENTS = st.tuples(
    st.lists(st.integers(), max_size=4),
    st.dictionaries(st.sampled_from(["x", "y", "names", "other"]), st.integers(), max_size=3),
)


def outcome(cls: type, values: list[int], named: dict[str, int]) -> Any:
    """Return what a constructor makes, as a plain tuple with its text, or the error that it raises."""
    try:
        made = cls(*values, **named)
    except TypeError as error:
        return str(error).replace(cls.__name__, "")
    return tuple(made), repr(made).replace(cls.__name__, "")


@given(arguments=ARGUMENTS)
def test_a_constructor_takes_and_refuses_the_same(arguments: tuple[list[int], dict[str, int]]) -> None:
    """A refusal has the same words."""
    assert outcome(Place, *arguments) == outcome(Model, *arguments)


@given(changes=st.dictionaries(st.sampled_from(["x", "y", "names", "other"]), st.integers(), max_size=3))
def test_a_replacement_changes_the_same(changes: dict[str, Any]) -> None:
    """A field that there is not is refused."""

    def replaced(of: Any) -> Any:
        try:
            return tuple(of._replace(**changes))
        except (TypeError, ValueError):  # 3.13 has another class
            return ValueError

    assert replaced(Place(1)) == replaced(Model(1))


def test_a_tuple_has_all_that_the_library_promises() -> None:
    """Fields, defaults, patterns, signature, annotations and text of help are the same."""
    ours, theirs = Place(101, names=("a",)), Model(101, names=("a",))

    assert Place._fields == Model._fields
    assert Place._field_defaults == Model._field_defaults
    assert Place.__match_args__ == Model.__match_args__
    assert [*inspect.signature(Place).parameters] == [*inspect.signature(Model).parameters]
    assert ours._asdict() == theirs._asdict()
    assert Place._make([1, 2, ()]) == tuple(Model._make([1, 2, ()]))
    assert (ours.far, hash(ours), ours == tuple(theirs), ours < (102,)) == (theirs.far, hash(theirs), True, True)
    assert (Place.__doc__, Place.__module__, Place.__qualname__) == ("A tuple with names.", __name__, "Place")
    assert set(Place.__annotations__) == {"x", "y", "names"}
    assert Place.__mro__ == (Place, tuple, object)
    assert not hasattr(ours, "__dict__")


def test_a_tuple_of_a_wrong_length_is_not_made() -> None:
    """The error is the library's."""
    with pytest.raises(TypeError, match="Expected 3 arguments, got 2"):
        Place._make([1, 2])


def test_a_field_cannot_be_set() -> None:
    """A tuple is immutable."""
    with pytest.raises(AttributeError):
        Place(1).x = 2  # type: ignore[misc]  # the fact that is tested


@pytest.mark.parametrize("made", [Place(1, names=("a",)), Long(*range(9)), Empty(), Derived(4)], ids=repr)
def test_a_tuple_survives_pickle_and_copy(made: Any) -> None:
    """Its class survives with it."""
    for again in (
        pickle.loads(pickle.dumps(made)),  # noqa: S301 - our own
        copy.copy(made),
        copy.deepcopy(made),
    ):
        assert again == made
        assert type(again) is type(made)


def test_a_long_tuple_has_its_fields_in_their_places() -> None:
    """Its constructor is compiled for it."""
    made = Long(*range(9))

    assert made == (*range(9), 10)
    assert (made.a, made.i, made.j) == (0, 8, 10)
    with pytest.raises(TypeError, match=r"Long.__new__\(\) missing 1 required positional argument: 'i'"):
        Long(*range(8))


def test_a_class_of_a_tuple_with_names_is_a_plain_class() -> None:
    """It may have methods, and makes itself."""
    assert Derived(4)._replace(x=5).twice() == 10


@pytest.mark.parametrize("line", ["a: int = 1; b: int", "_a: int", "a: int; _replace = None", "a: int; __new__ = None"])
@pytest.mark.parametrize("base", [NamedTuple, typing.NamedTuple], ids=["ours", "the library's"])
def test_a_class_that_is_none_of_a_tuple_is_refused(base: Any, line: str) -> None:
    """Its fields or methods would not be those that it shows."""
    with pytest.raises((TypeError, AttributeError, ValueError)):
        exec(f"class Wrong(base): {line}", {"base": base, "__name__": __name__})  # noqa: S102 - a class's body


def test_modules_that_are_not_compiled_take_the_tuple_that_is_made_fast() -> None:
    """Compiled ones take the library's, for they know no other."""
    hooks = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]
    compiled = tuple(each.lstrip("/") for each in hooks["mypyc"]["include"])
    wrong = []
    for top in ("agent", "bpf", "exporters"):
        for path in (TOP / top).rglob("*.py"):
            name = os.fspath(path.relative_to(TOP))
            slow = bool(re.search(r"^from typing import [^\n]*\bNamedTuple\b", path.read_text(), re.MULTILINE))
            if slow and not name.startswith(compiled):
                wrong.append(name)

    assert not wrong
