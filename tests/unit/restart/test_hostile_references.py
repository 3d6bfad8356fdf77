# SPDX-License-Identifier: Apache-2.0
"""References of images that lead nowhere, or to an object of another kind: refused by name, or of no harm."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from agent.errors import CkptreeError
from agent.restart.contents.addresses import mapped, special_areas
from agent.restart.contents.contents import Contents
from agent.restart.contents.external import External
from agent.restart.contents.filling import host_specials
from agent.restart.contents.hostfacts import HostFacts
from agent.restart.contents.images import Images
from agent.restart.contents.refusals import Refused
from agent.restart.planning.search import decide
from exporters.criu import criutree, imagefile
from exporters.criu.imagefolder import ImageFolder
from tests.support import smalldumps
from tests.support.dumpparts import image

MISSING: Final = 987654
"""An id that no object of a small dump has."""
READ: Final = (
    *("files", "fdinfo", "mm", "fs", "remap-fpath", "sk-queues", "filelocks"),
    *("tty-info", "tty-data", "pipes-data", "fifo-data"),
)
"""The kinds of images that refer to objects of others."""
REFERENCES: Final = ("id", "ino", "peer", "fd", "tfd", "shmid", "pid", "nspid", "rights", "index", "sid", "pgrp", "wd")
HOST: Final = HostFacts("x86_64", frozenset(("avx", "avx512f", "ospke")), initial=frozenset())
MAPS: Final = """\
00400000-00409000 r-xp 00000000 00:00 0 helper
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]
7ffd00030000-7ffd00034000 r--p 00000000 00:00 0 [vvar]
7ffd00034000-7ffd00036000 r-xp 00000000 00:00 0 [vdso]
"""
Place = tuple[Any, str, int]
"""A message, the name of a field of it, and the place in the field's list; -1: it has one value."""


def is_reference(name: str) -> bool:
    """Return True for the field that says which object is meant."""
    return name in REFERENCES or name.endswith("_id")


def references(message: Any) -> Iterator[Place]:
    """Yield the places of a message and of those in it that say which object is meant."""
    for field, value in message.ListFields():
        many = field.is_repeated
        if field.message_type is not None:
            for each in value if many else (value,):
                yield from references(each)
        elif field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64, field.CPPTYPE_INT32) and is_reference(
            field.name
        ):
            yield from ((message, field.name, at) for at in (range(len(value)) if many else (-1,)))


def changes(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield what is changed, the name of the image, and its content, for each reference and each kind of other object."""
    images = Images(folder)
    files = images.all("files.img")
    others = {MISSING, *{int(each.type): int(each.id) for each in files}.values()}
    for path in sorted(folder.glob("*.img")):
        kind = imagefile.kind_of(path.name)
        if kind is None or kind.stem not in READ:
            continue
        read = [(entry.message, payload) for entry, payload in images.payloads(path.name)]
        for number, (message, _) in enumerate(read):
            for part, name, at in references(message):
                field = getattr(part, name)
                had = field[at] if at >= 0 else field
                for other in sorted(others - {had}):
                    _put(part, name, at, other)
                    content = image(kind.stem, *(each for each, _ in read), payloads=[payload for _, payload in read])
                    yield f"entry {number} of {path.name}: {name} {had} is {other}", path.name, content
                _put(part, name, at, had)


def _put(message: Any, name: str, at: int, value: int) -> None:
    if at >= 0:
        getattr(message, name)[at] = value
    else:
        setattr(message, name, value)


def restore(folder: Path) -> bool:
    """Write the programs that restore a dump; return False if it is refused.

    Raises:
        CkptreeError: it is refused.
    """
    snapshot, plan = decide(criutree.load(ImageFolder(folder)), pidns=True, any_numbers=False)
    contents = Contents(Images(folder), snapshot, plan, External(established=True))
    contents.check_host(HOST)
    contents.check_vdso(host_specials())
    if contents.refusals:
        return False
    numbers = tuple(actor.numbers or (1,) for actor in contents.plan.actors)
    place = contents.stage.place
    programs = contents.programs(
        numbers, [*mapped(MAPS), *([place] if place is not None else [])], special_areas(MAPS, b"")
    )
    for steps in (programs.memories(), programs.rest()):
        for program, _ in steps:
            program.part()
    return True


@pytest.mark.parametrize("theme", [theme for theme in smalldumps.THEMES if theme not in ("refused", "others")])
def test_a_reference_that_leads_elsewhere_raises_nothing_unforeseen(theme: str, tmp_path: Path) -> None:
    """Some are of no harm, as one to a process that has the file, too."""
    folder = smalldumps.put(theme, tmp_path / "dump")
    assert restore(folder)
    tried = 0
    for what, name, content in changes(folder):
        sound = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        try:
            restore(folder)
        except (CkptreeError, Refused):
            pass
        except Exception as error:
            raise AssertionError(what) from error
        (folder / name).write_bytes(sound)
        tried += 1

    assert tried
