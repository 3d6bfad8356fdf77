# SPDX-License-Identifier: Apache-2.0
"""Immutable records: the classes that ``dataclass(frozen=True, slots=True)`` makes, at a tenth of its time at import.

The standard library's module imports `inspect`, and compiles several functions for each class: with ten classes that
takes a short verb longer than its work. A record has the same constructor, comparison, hash, text and pickle, and the
functions of `dataclasses` (replace, fields, asdict) take one, too. Its fields have plain defaults: a record is
immutable, so they are. A method that the class defines itself stays.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, dataclass_transform

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import replace as replace  # the type checker knows the fields that it takes
else:

    def replace(record: T, /, **changes: Any) -> T:
        """Return a record with some fields changed."""
        return type(record)(**{name: getattr(record, name) for name in record.__slots__} | changes)


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Make a class with annotations, and no bases, one of records."""
    names = tuple(cls.__annotations__)
    defaults = {name: vars(cls)[name] for name in names if name in vars(cls)}
    own = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__", *defaults)}
    shared = {"__slots__": names, "__match_args__": names, "__dataclass_fields__": _Fields(defaults)} | _METHODS
    made: Any = type(cls.__name__, (), shared | own)
    made.__init__ = _constructor(made, names, defaults)
    return made  # type: ignore[no-any-return]  # built anew, because a class with defaults cannot get slots later


def _constructor(cls: type[object], names: tuple[str, ...], defaults: dict[str, Any]) -> Callable[..., None]:
    """Return __init__ of a class."""
    setters = [vars(cls)[name].__set__ for name in names]
    count, known = len(names), set(names)
    all_of: Callable[[dict[str, Any]], tuple[Any, ...]] = itemgetter(*names, names[0])  # of two names or more: a tuple

    def __init__(self: object, *values: Any, **named: Any) -> None:  # noqa: N807 - it becomes that of the class
        if named or len(values) != count:
            given = defaults | named
            if not values and given.keys() == known:  # the common case, without a search for what is wrong
                values = all_of(given)
            else:
                values = _completed(cls.__qualname__, names, defaults, values, named)
        for set_, value in zip(setters, values):  # noqa: B905 - as many, but for the first one once more
            set_(self, value)

    return __init__


def _completed(
    called: str, names: tuple[str, ...], defaults: dict[str, Any], values: tuple[Any, ...], named: dict[str, Any]
) -> tuple[Any, ...]:
    """Return the values of all fields, in order.

    Raises:
        TypeError: values are missing, given twice, or of no field.
    """
    if len(values) > len(names):
        raise TypeError(f"{called}() takes {len(names)} values, and {len(values)} are given")
    given = dict(zip(names, values, strict=False))
    if wrong := sorted(name for name in named if name in given or name not in names):
        raise TypeError(f"{called}() takes no such argument, or takes it once: {', '.join(wrong)}")
    found = defaults | given | named
    if missing := [name for name in names if name not in found]:
        raise TypeError(f"{called}() misses {', '.join(missing)}")
    return tuple([found[name] for name in names])


def named(record: object) -> dict[str, Any]:
    """Return the values of a record's fields by their names, as dataclasses.asdict() does of one without others in it."""
    names: tuple[str, ...] = record.__slots__  # type: ignore[attr-defined]  # as each record has
    return {name: getattr(record, name) for name in names}


def _values(record: Any) -> tuple[Any, ...]:
    return tuple([getattr(record, name) for name in record.__slots__])


def _equal(self: object, other: object) -> bool:
    return _values(self) == _values(other) if type(self) is type(other) else NotImplemented


def _hash(self: object) -> int:
    return hash(_values(self))


def _text(self: Any) -> str:
    said = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
    return f"{type(self).__qualname__}({said})"


def _pickled(self: object) -> tuple[type[object], tuple[Any, ...]]:
    return type(self), _values(self)


def _refuse(self: object, name: str, *_value: object) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"a {type(self).__qualname__} is immutable: cannot change its {name}")


_METHODS = {
    "__eq__": _equal,
    "__hash__": _hash,
    "__repr__": _text,
    "__reduce__": _pickled,
    "__setattr__": _refuse,
    "__delattr__": _refuse,
    "__replace__": replace,
}


class _Fields:
    """The fields of a class as `dataclasses` has them, made where one of its functions asks.

    Args:
        defaults: of the fields that have one.
    """

    def __init__(self, defaults: dict[str, Any]) -> None:
        self._defaults = defaults

    def __get__(self, _record: object, cls: type[object]) -> Any:
        from dataclasses import field, make_dataclass

        declared = [
            # A factory, because a default may be of a type that `dataclasses` takes for mutable.
            (name, kind, field(default_factory=lambda name=name: self._defaults[name]))  # type: ignore[misc]
            if name in self._defaults
            else (name, kind)
            for name, kind in cls.__annotations__.items()
        ]
        return vars(make_dataclass(cls.__name__, declared))["__dataclass_fields__"]
