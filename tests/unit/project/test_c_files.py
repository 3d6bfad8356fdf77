# SPDX-License-Identifier: Apache-2.0
"""The order of the C files: each file knows those before it, so no two know each other."""

import re
from collections import Counter
from pathlib import Path

import pytest

from bpf import compiler

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


BPF = TOP / "bpf"
# Definitions, and what a use of each looks like.
DEFINED = {
    r"^#define (\w+)": r"\b{}\b",
    r"^\w[\w *]*?\b(\w+)\([^;]*?\)\n\{": r"\b{}\(",
    r"^(?:struct|enum) (\w+) \{": r"\b(?:struct|enum) {}\b",
}
# One file is a template, and the two before it give these names their meaning, each in its turn.
OF_THE_TEMPLATE = {"FN", "GET", "GET_COMM", "IDENTITY"}


def of_bpf(name: str) -> str:
    """Return the code of a file without its comments."""
    return re.sub(r"/\*.*?\*/", "", (BPF / name).read_text(), flags=re.DOTALL)


def definitions(text: str) -> dict[str, str]:
    """Return the functions, macros and types that a text defines: the pattern of a use by name."""
    found = {
        name: use.format(name)
        for definition, use in DEFINED.items()
        for name in re.findall(definition, text, re.MULTILINE)
    }
    return {name: use for name, use in found.items() if name not in OF_THE_TEMPLATE}


def test_the_compiler_gets_every_file_of_bpf() -> None:
    """The template comes twice, once for each meaning."""
    assert set(compiler.SOURCES) == {path.name for path in BPF.glob("*.[ch]")}
    assert [name for name, count in Counter(compiler.SOURCES).items() if count > 1] == ["announce.h"]


def test_a_file_of_bpf_uses_what_stands_before_it() -> None:
    """A macro may use what comes later, so the compiler alone does not hold this."""
    texts = {name: of_bpf(name) for name in compiler.SOURCES}
    later = [
        (user, name, home)
        for place, user in enumerate(texts)
        for home in list(texts)[place + 1 :]
        for name, use in definitions(texts[home]).items()
        if re.search(use, texts[user])
    ]

    assert sum(len(definitions(text)) for text in texts.values()) > 100
    assert later == []
