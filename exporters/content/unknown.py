# SPDX-License-Identifier: Apache-2.0
"""Unknown keys of a document, from a later version: kept at their place, and written there again.

    unknown = {way: {key: value}}                       Snapshot.unknown; exporters.content.plain defines the values
    way     = the steps from the document to the map that has the keys, as in ("tasks", 3, "birth"); () is the document

A converter does not change the tree. So each map that was read is written too, in whatever format, and a way leads to
the same map in all formats. A key that only one format has (the ids of a task, which an image has in its base) is known
in all of them.

Unknown keys are rare, and every reader pays for the search. So all maps of one kind are tested at once, and single maps
are searched only if the test finds an unknown key.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from types import MappingProxyType
from typing import TypeAlias

from agent.record import record
from exporters.content.plain import NotPlainError, plain

Way: TypeAlias = tuple[str | int, ...]
Unknown: TypeAlias = Mapping[Way, Mapping[str, object]]

NOTHING: Unknown = MappingProxyType({})


@record
class _MapShape:
    """One kind of map: its keys, and those that lead to a map or to a list of maps."""

    keys: frozenset[str]
    maps: "dict[str, _MapShape]"
    lists: "dict[str, _MapShape]"


def _shape(keys: str, maps: dict[str, _MapShape] | None = None, lists: dict[str, _MapShape] | None = None) -> _MapShape:
    return _MapShape(frozenset(keys.split()), maps or {}, lists or {})


_PID = _shape("numbers namespaces")
_ORIGIN = {"creator": _shape("tag ancestor"), "sid": _PID, "pgid": _PID}
_BIRTH = "creator observed sid pgid flags order"
_TASK = (
    "pid ppid tgid pgid sid depth start_ns state exit_code exit_signal comm uid gid subreaper child_namespace "
    "tty fown argv cwd env details shares child_namespace_dead birth"
)
_HEADER = (
    "release version machine kernel_version has_fxsr has_xsave xstate_size lsm "
    "arch arch_id constants lsm_info rev uflags"
)
_DETAILS = _shape(
    "exe deleted_exe uids gids groups caps no_new_privs umask execed called argv_unknown env_unknown surroundings "
    "argv_uncertain env_uncertain exe_file cwd_id",
    {
        "exe_file": _shape("device inode size modified_ns changed_ns"),
        "caps": _shape("inheritable permitted effective bounding ambient"),
        "surroundings": _shape(
            "root root_id mounts mount_namespace user_namespace own_ids apart view mount_namespace_id user_namespace_id"
        ),
    },
)
_COMPLETENESS = "verified lost sweeps anomalies kernel_threads_left_out reasons order"

DOCUMENT = _shape(
    "format version dialect first_tag mode root boot_id time_ns boottime_ns header completeness namespaces pids tasks "
    "ancestors squashed entered as_of_read at not_rebuildable",
    {
        "header": _shape(_HEADER),
        "completeness": _shape(_COMPLETENESS),
        "at": _shape("order time_ns uncertain_ns"),
    },
    {
        "namespaces": _shape("id inum level parent"),
        "pids": _shape("tag numbers namespaces"),
        "tasks": _shape(
            _TASK,
            {
                "birth": _shape(_BIRTH, _ORIGIN),
                "details": _DETAILS,
                "shares": _shape("vm fs files"),
                "tty": _shape("name pgrp old_pgrp", {"pgrp": _PID, "old_pgrp": _PID}),
            },
            {"fown": _shape("fd pid type", {"pid": _PID})},
        ),
        "not_rebuildable": _shape("tag rule text"),
        "ancestors": _shape(
            f"{_BIRTH} id numbers namespaces events",
            _ORIGIN,
            {"events": _shape("event order value", {"value": _PID})},
        ),
    },
)
"""The kind of the document's own map."""


def collect(document: Mapping[object, object]) -> Unknown:
    """Return all unknown keys of a document; FormatError for a value that cannot be kept."""
    if _are_known([dict(document)], DOCUMENT):
        return NOTHING
    return dict(_found(document, DOCUMENT, ()))


def put(document: dict[str, object], unknown: Unknown) -> None:
    """Put unknown keys back into a document that was just made; a map with sorted keys stays sorted."""
    for way, keys in unknown.items():
        place: object = document
        for step in way:
            place = place[step]  # type: ignore[index]  # each step led into a map or a list when it was found
        if not isinstance(place, dict):
            raise TypeError(f"{way} leads to no map")
        in_order = list(place) == sorted(place)
        place.update(keys)
        if in_order:
            ordered = dict(sorted(place.items()))
            place.clear()
            place.update(ordered)


def _are_known(maps: list[dict[object, object]], shape: _MapShape) -> bool:
    """Return True if no map of one kind, nor any map below, has an unknown key."""
    if not shape.keys.issuperset(chain.from_iterable(maps)):
        return False
    for key, inner in shape.maps.items():
        below = [value for each in maps if (value := each.get(key)).__class__ is dict]
        if below and not _are_known(below, inner):
            return False
    for key, inner in shape.lists.items():
        rows = [
            row for each in maps if (value := each.get(key)).__class__ is list for row in value if row.__class__ is dict
        ]
        if rows and not _are_known(rows, inner):
            return False
    return True


def _found(value: Mapping[object, object], shape: _MapShape, way: Way) -> Iterator[tuple[Way, dict[str, object]]]:
    others = {key: each for key, each in value.items() if key not in shape.keys}
    try:
        kept = plain(others, -1)
    except NotPlainError as error:
        raise error.at(way) from error
    if isinstance(kept, dict) and kept:
        yield way, kept
    for key, inner in shape.maps.items():
        below = value.get(key)
        if isinstance(below, dict):
            yield from _found(below, inner, (*way, key))
    for key, inner in shape.lists.items():
        rows = value.get(key)
        for index, row in enumerate(rows if isinstance(rows, list) else ()):
            if isinstance(row, dict):
                yield from _found(row, inner, (*way, key, index))
