# SPDX-License-Identifier: Apache-2.0
"""The order of the C files: each file knows those before it, so no two know each other."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
HELPER = TOP / "agent" / "restart" / "helper"
PAGE = (TOP / "docs" / "architecture.md").read_text()
SECTION = PAGE.partition("## The C files\n")[2].partition("\n## ")[0]
ORDER = [name for line in re.findall(r"^\d\. .*", SECTION, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)]
INCLUDE = re.compile(r'^#include "(\w+)\.h"', re.MULTILINE)
DECLARED = re.compile(r"^(?!static|extern|#)\w[\w *]*?\b(\w+)\([^{;]*\);", re.MULTILINE)


def included(name: str) -> set[str]:
    """Return the headers that a file of the helper and its own header include, without their suffix."""
    files = [path for path in (HELPER / f"{name}.h", HELPER / f"{name}.c") if path.exists()]
    return {found for path in files for found in INCLUDE.findall(path.read_text())} - {name}


def test_the_page_names_every_file_once() -> None:
    """A new file gets its place in the order."""
    assert sorted(ORDER) == sorted({path.stem for path in HELPER.glob("*.[ch]")})


@pytest.mark.parametrize("name", ORDER)
def test_a_file_of_the_helper_includes_files_before_it(name: str) -> None:
    """So there is no circle of includes, and none of calls, for a call needs the header of the function."""
    assert included(name) <= set(ORDER[: ORDER.index(name)])


@pytest.mark.parametrize("header", sorted(path.name for path in HELPER.glob("*.h")))
def test_a_header_declares_functions_of_its_own_file(header: str) -> None:
    """The compiler holds the reverse: it refuses a function that no header declares."""
    source = (HELPER / header).with_suffix(".c")
    declared = DECLARED.findall((HELPER / header).read_text())
    defined = source.read_text() if source.exists() else ""
    unknown = [name for name in declared if not re.search(rf"^\w[\w *]*\b{name}\([^;]*?\)\n\{{", defined, re.MULTILINE)]

    # The compiler inserts calls of these two, so they belong to the program as a whole.
    assert set(unknown) <= ({"memset", "memcpy"} if header == "kernel_calls.h" else set())


def test_a_source_includes_its_own_header_first() -> None:
    """So each header compiles by itself."""
    for source in HELPER.glob("*.c"):
        if source.with_suffix(".h").exists():
            assert INCLUDE.findall(source.read_text())[0] == source.stem
