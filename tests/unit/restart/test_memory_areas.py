# SPDX-License-Identifier: Apache-2.0
"""Areas and marks of a memory that the kernel would refuse: they are refused before anything is made."""

from typing import Any

import pytest

from agent.restart.contents.addresses import TASK_END
from agent.restart.contents.areas import MemoryAreas
from agent.restart.contents.pageruns import PAGE
from agent.restart.contents.refusals import Refused
from exporters.criu.criuschema import fields, messages
from exporters.criu.memorymessages import (
    ANON_PRIVATE,
    ANON_SHARED,
    AREA_MEMFD,
    AREA_REGULAR,
    FILE_PRIVATE,
    FILE_SHARED,
)

LOWEST = 1 << 16
START = 1 << 30
O_PATH = 0o10000000


def memory(*areas: dict[str, int], **marks: int) -> Any:
    """Return a mm_entry with areas of two pages, one after the other, and marks."""
    plain = {"pgoff": 0, "shmid": 1, "prot": 3, "flags": 0x22, "status": AREA_REGULAR | ANON_PRIVATE, "fd": -1}
    vmas = [
        {**plain, "start": START + 2 * PAGE * at, "end": START + 2 * PAGE * (at + 1), **area}
        for at, area in enumerate(areas)
    ]
    names = [each.name for each in fields("mm_entry") if each.name.startswith("mm_") and each.label == "required"]
    sound = {**dict.fromkeys(names, START), "mm_end_code": START + PAGE}
    return messages()["mm_entry"](**{**sound, **marks}, exe_file_id=1, vmas=vmas)


def rule(entry: Any) -> str:
    """Return the rule by which a memory is refused; empty: it is not."""
    try:
        MemoryAreas(entry, LOWEST)
    except Refused as refused:
        return refused.refusal[2]
    return ""


@pytest.mark.parametrize(
    "area",
    [
        {},
        {"flags": 0x28},
        {"flags": 0x2, "status": AREA_REGULAR | FILE_PRIVATE, "fdflags": 0, "pgoff": PAGE},
        {"flags": 0x1, "status": AREA_REGULAR | FILE_SHARED, "fdflags": 2},
        {"flags": 0x1, "status": AREA_REGULAR | FILE_SHARED, "fdflags": 0, "prot": 1},
        {"flags": 0x1, "status": AREA_REGULAR | FILE_SHARED | AREA_MEMFD, "fdflags": 2},
        {"flags": 0x21, "status": AREA_REGULAR | ANON_SHARED},
    ],
)
def test_areas_that_programs_map_are_taken(area: dict[str, int]) -> None:
    """Private, dropped where memory is short, of files and memfds, shared, read alone."""
    assert rule(memory({}, area)) == ""


@pytest.mark.parametrize(
    "area",
    [
        {"flags": 0x21},
        {"flags": 0x22, "status": AREA_REGULAR | ANON_SHARED},
        {"flags": 0x37F, "status": AREA_REGULAR | FILE_PRIVATE},
        {"status": ANON_PRIVATE},
        {"prot": 8},
        {"pgoff": 1},
        {"pgoff": (1 << 63) - PAGE},
        {"flags": 0x1, "status": AREA_REGULAR | FILE_SHARED, "fdflags": 0},
        {"flags": 0x2, "status": AREA_REGULAR | FILE_PRIVATE, "fdflags": 1},
        {"flags": 0x2, "status": AREA_REGULAR | FILE_PRIVATE, "fdflags": O_PATH},
        {"flags": 0x2, "status": AREA_REGULAR | FILE_PRIVATE, "fdflags": (1 << 32) - 1},
    ],
)
def test_an_area_that_the_kernel_would_not_map_is_refused(area: dict[str, int]) -> None:
    """It would fail when the tree stands, by a call that says nothing of the image."""
    assert rule(memory({}, area)) == "area"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mm_end_code", START),
        ("mm_start_code", 0),
        ("mm_brk", START - 1),
        ("mm_arg_end", START - 1),
        ("mm_start_stack", TASK_END),
    ],
)
def test_marks_that_the_kernel_would_not_set_are_refused(name: str, value: int) -> None:
    """As validate_prctl_map_addr() has it."""
    assert rule(memory({}, **{name: value})) == "marks"
