# SPDX-License-Identifier: Apache-2.0
"""Immutable records: the classes that ``dataclass(frozen=True, slots=True)`` and `typing.NamedTuple` make, in a tenth and
a fifth of their time at import.

The standard library's module imports `inspect`, and compiles several functions for each class: with ten classes that
takes a short verb longer than its work. A record has the same constructor, comparison, hash, text and pickle, and the
functions of `dataclasses` (replace, fields, asdict) take one, too. Its fields have plain defaults: a record is
immutable, so they are. A method that the class defines itself stays.

A `NamedTuple` is the same class as that of `typing`, with the same speed. There Python compiles a function for each
class, looks at each annotation, and has the finished class set each method. Modules that mypyc compiles take that of
`typing`: in them it is no class of Python's.
"""

from collections.abc import Callable, Iterable
from operator import itemgetter
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, dataclass_transform

try:  # as the standard library's named tuples have it: the field's place, read without a call of Python's
    from _collections import _tuplegetter as _place  # type: ignore[import-not-found]  # typeshed has no private modules
except ImportError:

    def _place(place: int, doc: str | None) -> property:
        return property(itemgetter(place), doc=doc)


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


_new: Final = tuple.__new__


def _made(cls: Any, values: Iterable[Any]) -> Any:
    made = _new(cls, values)
    if len(made) != len(cls._fields):
        raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")
    return made


def _replaced(self: Any, /, **changes: Any) -> Any:
    made = _new(type(self), map(changes.pop, self._fields, self))
    if changes:
        raise ValueError(f"Got unexpected field names: {[*changes]!r}")
    return made


def _tuple_text(self: Any) -> str:
    said = ", ".join([f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True)])
    return f"{type(self).__name__}({said})"


def _by_name(self: Any) -> dict[str, Any]:
    return dict(zip(self._fields, self, strict=True))


def _as_plain(self: Any) -> tuple[Any, ...]:
    return tuple(self)


_TUPLE: Final[dict[str, Any]] = {
    "_make": classmethod(_made),
    "_replace": _replaced,
    "__replace__": _replaced,
    "_asdict": _by_name,
    "__repr__": _tuple_text,
    "__getnewargs__": _as_plain,
    "__slots__": (),
}
"""The attributes that all tuples with names have."""
_FIXED: Final = {*_TUPLE, "__new__", "__init__", "_fields", "_field_defaults"} - {"__repr__"}
"""Names that no class defines itself."""

# __new__ of a tuple with so many fields. Each class has a copy with the names of its own: to compile one takes longer.
_NEW: Final[tuple[Any, ...]] = (
    lambda _class: _new(_class, ()),
    lambda _class, a: _new(_class, (a,)),
    lambda _class, a, b: _new(_class, (a, b)),
    lambda _class, a, b, c: _new(_class, (a, b, c)),
    lambda _class, a, b, c, d: _new(_class, (a, b, c, d)),
    lambda _class, a, b, c, d, e: _new(_class, (a, b, c, d, e)),
    lambda _class, a, b, c, d, e, f: _new(_class, (a, b, c, d, e, f)),
    lambda _class, a, b, c, d, e, f, g: _new(_class, (a, b, c, d, e, f, g)),
    lambda _class, a, b, c, d, e, f, g, h: _new(_class, (a, b, c, d, e, f, g, h)),
)


def _constructor_of_tuple(called: str, names: tuple[str, ...], defaults: tuple[Any, ...]) -> Callable[..., Any]:
    """Return __new__ of a class that is called so."""
    if len(names) < len(_NEW):
        code = _NEW[len(names)].__code__
    else:
        given = ", ".join(names)
        code = eval(f"lambda _class, {given}: _new(_class, ({given}))", {}).__code__  # noqa: S307 - of names in this code
    code = code.replace(co_varnames=("_class", *names), co_name="__new__", co_qualname=f"{called}.__new__")
    return FunctionType(code, {"_new": _new, "__builtins__": {}}, "__new__", defaults)


class _Naming(type):
    """The making of a tuple with names; `NamedTuple` itself is the only class of this type."""

    def __new__(cls, name: str, _bases: tuple[type, ...], body: dict[str, Any]) -> Any:
        """Make the class in one step: for each attribute that is set later, Python looks through the whole of it.

        Raises:
            TypeError: the class is none of a tuple.
        """
        kinds = body.get("__annotations__")
        if kinds is None:  # from Python 3.14 on a function makes them; 1 has it return the values
            annotate = body.get("__annotate_func__")
            kinds = annotate(1) if annotate is not None else {}
        names = tuple(kinds)
        defaults = {each: body.pop(each) for each in names if each in body}
        if tuple(defaults) != names[len(names) - len(defaults) :]:
            raise TypeError(f"{name}: a field without a default follows one with a default")
        if wrong := [each for each in names if each[0] == "_"] or [each for each in body if each in _FIXED]:
            raise TypeError(f"{name}: a tuple with names cannot have {wrong[0]} of its own")
        own = {each: _place(place, None) for place, each in enumerate(names)}
        own |= {"_fields": names, "_field_defaults": defaults, "__match_args__": names}
        own["__new__"] = _constructor_of_tuple(body["__qualname__"], names, tuple(defaults.values()))
        return type(name, (tuple,), _TUPLE | own | body)


if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    NamedTuple = type.__new__(_Naming, "NamedTuple", (), {})
