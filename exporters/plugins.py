# SPDX-License-Identifier: Apache-2.0
"""Formats of other packages, found by their entry points (exporters.format tells how).

Any error that their code raises, while it is imported or later, becomes a CkptreeError that names the format and the
package. A broken package does not hide the others.
"""

from collections.abc import Callable, Container
from importlib import metadata
from typing import ParamSpec, TypeVar

from agent.errors import CkptreeError
from agent.model import Snapshot
from agent.record import NamedTuple, replace
from exporters.format import ENTRY_POINTS, Dump, Format, Reader

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Plugins(NamedTuple):
    """The formats of all other packages.

    Attributes:
        formats: the usable ones, in the order in which their packages are found.
        broken: a sentence for each unusable one.
    """

    formats: tuple[Format, ...]
    broken: tuple[str, ...]


def names() -> tuple[str, ...]:
    """Return the names of the formats of other packages; import none."""
    return tuple(sorted({entry.name for entry in metadata.entry_points(group=ENTRY_POINTS)}))


def find(name: str) -> Format | None:
    """Import and return the format of that name, the first if several packages have one; None if no package has it.

    Raises:
        CkptreeError: it cannot be used.
    """
    for entry in metadata.entry_points(group=ENTRY_POINTS, name=name):
        return _load(entry)
    return None


def survey(taken: Container[str]) -> Plugins:
    """Import all formats of other packages.

    Args:
        taken: names of our formats, which no package may use.
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
    """Wrap a function of a package so that it raises only CkptreeError."""

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
    """Wrap a package's dump so that its result is checked for its type."""

    def call(snapshot: Snapshot) -> Dump:
        made: object = dump(snapshot)
        if not isinstance(made, Dump) or not isinstance(made.data, dict if directory else bytes):
            raise _broken(entry, f"its dump gives no exporters.format.Dump of {'a dict' if directory else 'bytes'}")
        return made

    return call


def _broken(entry: metadata.EntryPoint, what: str) -> CkptreeError:
    package = f"package {entry.dist.name} {entry.dist.version}" if entry.dist else "a package without metadata"
    return CkptreeError(f"format {entry.name!r} of {package} cannot be used: {what}. Update that package or remove it")
