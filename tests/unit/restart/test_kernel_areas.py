# SPDX-License-Identifier: Apache-2.0
"""The special areas of the kernel go where the image has them, if they lie there as here: see kernelareas."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.restart.contents.filling import host_specials
from agent.restart.contents.kernelareas import KernelAreas
from agent.restart.contents.pageruns import PageRun
from agent.restart.contents.refusals import Refused
from exporters.criu.memorymessages import AREA_VDSO, AREA_VVAR

PLACE = 0x7FFC00000000


def checked(*areas: tuple[str, int, int]) -> KernelAreas:
    """Return the areas of an image, by name, address and bytes, compared with those of this process."""
    specials = host_specials()
    code = specials.vdso
    vmas = [
        SimpleNamespace(start=at, end=at + size, status=AREA_VDSO if name.startswith("[vdso") else AREA_VVAR)
        for name, at, size in areas
    ]
    runs = [
        PageRun(at, min(size, len(code)), Path("pages-1.img"), 0)
        for name, at, size in areas
        if name.startswith("[vdso")
    ]
    found = KernelAreas(vmas, runs)
    found.check(specials, lambda run: code[: run.size], {}, list)
    return found


def as_here(by: int = 0) -> list[tuple[str, int, int]]:
    """Return the areas of this process at another place, those of one kind together; a gap of `by` bytes between kinds."""
    areas = host_specials().areas
    first = min(area.start for area in areas.values())
    return [
        (name, PLACE + area.start - first + (by if name.startswith("[vdso") else 0), area.size)
        for name, area in areas.items()
    ]


def test_areas_that_lie_as_here_are_moved() -> None:
    """Their functions need not be redirected."""
    assert not checked(*as_here())._redirects


def test_areas_that_lie_otherwise_are_those_of_another_kernel() -> None:
    """All are moved by one distance: the last of them would else come to where the program of the restart is."""
    assert checked(*as_here(by=0x10000))._redirects


def test_an_image_without_special_areas_needs_none() -> None:
    """A kernel can be told to have none."""
    assert checked().vdso is None


def test_data_of_the_kernel_without_its_code_is_refused() -> None:
    """All areas here would be moved to where the image has one."""
    with pytest.raises(Refused) as caught:
        checked(("[vvar]", PLACE, 0x2000))

    assert caught.value.refusal[:3] == ("vdso", "", "other-kernel")
