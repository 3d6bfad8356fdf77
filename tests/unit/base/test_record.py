# SPDX-License-Identifier: Apache-2.0
"""Records behave as the standard library's frozen data classes with slots do."""

import copy
import dataclasses
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.record import record, replace


@record
class Place:
    """A record."""

    x: int
    y: int = 2
    names: tuple[str, ...] = ()

    @property
    def far(self) -> bool:
        """True where x is large."""
        return self.x > 100


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """The same as a data class."""

    x: int
    y: int = 2
    names: tuple[str, ...] = ()


@record
class Apart:
    """A record of the same values, and a hash of its own."""

    x: int
    y: int = 2
    names: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return 7


VALUES: tuple[st.SearchStrategy[Any], ...] = (
    st.integers(0, 3),
    st.integers(0, 3),
    st.lists(st.sampled_from("ab"), max_size=2).map(tuple),
)
ARGUMENTS = st.tuples(
    st.lists(st.integers(0, 3), max_size=4),
    st.dictionaries(st.sampled_from(["x", "y", "names", "z"]), st.integers(0, 3)),
)


def made(kind: Any, values: list[Any], named: dict[str, Any]) -> Any:
    """Return the fields of an object, or the class of the error."""
    try:
        found = kind(*values, **named)
    except TypeError:
        return TypeError
    return found.x, found.y, found.names


@given(ARGUMENTS)
def test_arguments_mean_what_they_mean_to_a_data_class(arguments: tuple[list[Any], dict[str, Any]]) -> None:
    """By place or by name, missing, unknown or given twice."""
    assert made(Place, *arguments) == made(Model, *arguments)


@given(st.tuples(*VALUES), st.tuples(*VALUES))
def test_equality_and_hash_are_those_of_the_values(a: tuple[Any, ...], b: tuple[Any, ...]) -> None:
    """And of the class."""
    assert (Place(*a) == Place(*b)) == (Model(*a) == Model(*b))
    assert hash(Place(*a)) == hash(Model(*a))
    assert not {Place(*a)} & {Model(*a), Apart(*a)}


def test_a_record_is_copied_pickled_changed_and_shown() -> None:
    """As a data class is."""
    place = Place(101, names=("a",))

    assert copy.copy(place) == copy.deepcopy(place) == pickle.loads(pickle.dumps(place)) == place  # noqa: S301
    assert replace(place, y=5) == dataclasses.replace(place, y=5) == Place(101, 5, ("a",))
    assert repr(place) == repr(Model(101, names=("a",))).replace("Model", "Place")
    assert place.far
    assert dataclasses.asdict(place) == {"x": 101, "y": 2, "names": ("a",)}
    assert [each.name for each in dataclasses.fields(Place)] == ["x", "y", "names"]
    match place:
        case Place(x, y, names):
            assert (x, y, names) == (101, 2, ("a",))


def test_a_field_cannot_be_changed_added_or_taken_away() -> None:
    """Each holder of a record can rely on it."""
    place: Any = Place(1)

    for name in ("x", "new"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(place, name, 2)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(place, name)
    assert place == Place(1)


def test_a_method_of_the_class_stays() -> None:
    """So does its docstring."""
    assert hash(Apart(1)) == 7
    assert Place.__doc__ == "A record."
    assert Place.__module__ == __name__
