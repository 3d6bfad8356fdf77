# SPDX-License-Identifier: Apache-2.0
"""Formats that other packages bring, by their entry points (exporters.format tells how).

Their code is not ours: whatever it raises, while it is imported or later, becomes an error of ours that names the
format and the package, and what the others bring is found all the same.
"""

from collections.abc import Callable, Container
from dataclasses import replace
from importlib import metadata
from typing import NamedTuple, ParamSpec, TypeVar

from agent.errors import CkptreeError
from agent.model import Snapshot
from exporters.format import ENTRY_POINTS, Dump, Format, Reader

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Plugins(NamedTuple):
    """What other packages bring.

    Attributes:
        formats: those that can be used, in the order in which their packages are found.
        broken: a sentence for each of those that cannot.
    """

    formats: tuple[Format, ...]
    broken: tuple[str, ...]


def names() -> tuple[str, ...]:
    """The names under which they are asked for; none is imported."""
    return tuple(sorted({entry.name for entry in metadata.entry_points(group=ENTRY_POINTS)}))


def find(name: str) -> Format | None:
    """The format of that name, the first one where several packages bring it; None where none does.

    Raises:
        CkptreeError: it is broken.
    """
    for entry in metadata.entry_points(group=ENTRY_POINTS, name=name):
        return _load(entry)
    return None


def survey(taken: Container[str]) -> Plugins:
    """Import all of them.

    Args:
        taken: names that are not theirs to have.
    """
    formats: dict[str, Format] = {}
    broken: list[str] = []
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        try:
            if entry.name in taken or entry.name in formats:
                raise _broken(entry, "another format has that name, and was there first")
            formats[entry.name] = _load(entry)
        except CkptreeError as error:
            broken.append(str(error))
    return Plugins(tuple(formats.values()), tuple(broken))


def _load(entry: metadata.EntryPoint) -> Format:
    try:
        found = entry.load()
    except (Exception, SystemExit) as error:
        raise _broken(entry, f"{type(error).__name__}: {error}") from error
    if not isinstance(found, Format):
        raise _broken(entry, f"{entry.value} is a {type(found).__name__}, not an exporters.format.Format")
    if found.name != entry.name:
        raise _broken(entry, f"its Format calls itself {found.name!r}")
    reader = found.reader and Reader(
        _guarded(entry, found.reader.recognize), _guarded(entry, found.reader.load), found.reader.looks_like
    )
    return replace(found, dump=_checked(entry, _guarded(entry, found.dump), directory=found.directory), reader=reader)


def _guarded(entry: metadata.EntryPoint, function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Their function, with errors of ours alone."""

    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except CkptreeError:
            raise
        except Exception as error:
            raise _broken(entry, f"{type(error).__name__}: {error}") from error

    return call


def _checked(
    entry: metadata.EntryPoint, dump: Callable[[Snapshot], Dump], *, directory: bool
) -> Callable[[Snapshot], Dump]:
    """Their way to write, with a result of the shape that it has to have."""

    def call(snapshot: Snapshot) -> Dump:
        made: object = dump(snapshot)
        if not isinstance(made, Dump) or not isinstance(made.data, dict if directory else bytes):
            raise _broken(entry, f"its dump gives no exporters.format.Dump of {'a dict' if directory else 'bytes'}")
        return made

    return call


def _broken(entry: metadata.EntryPoint, what: str) -> CkptreeError:
    package = f"package {entry.dist.name} {entry.dist.version}" if entry.dist else "a package without metadata"
    return CkptreeError(f"format {entry.name!r} of {package} cannot be used: {what}. Update that package or remove it")
