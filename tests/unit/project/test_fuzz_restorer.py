# SPDX-License-Identifier: Apache-2.0
"""The restorer in C as the fuzzer of CRIU's folders has it: a sanitizer says what it reads beside a program's parts."""

import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.restart.contents import fillabi, staging
from agent.restart.contents.fillabi import Demand
from agent.restart.contents.fillprogram import FillScript, ProcessProgram
from agent.restart.contents.fillsection import FillProgram
from tests.fuzz.restorerreader import ProgramPart, RestorerReader, Staged, Taken

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")

PAGE = 4096
WORDS = (PAGE - fillabi.STATE.size) // fillabi.WORD
"""Words of a page with the state."""
ROOM = PAGE - -(-(fillabi.START.size + fillabi.OPERATION.size) // 16) * 16
"""Bytes of data that fill a page behind one operation."""
Add = Callable[[FillScript, ProcessProgram], object]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestorerReader]:
    """A reader."""
    with RestorerReader(tmp_path_factory.mktemp("restorer")) as made:
        yield made


def _taken(reader: RestorerReader, *adds: Add, threads: int = 1) -> Taken:
    """Have a program taken, of which each thread adds the same operations, one part for each function."""
    fill = FillProgram(words=64)
    process = fill.process(tuple(range(threads)))
    process.base = 1 << 40
    words = [fill.part() for _ in adds[1:]]
    parts = []
    for number, add in enumerate(adds):
        for place, script in enumerate(process.scripts):
            add(script, process)
            if number < len(words):
                script.part(words[number], -1 if place else 9, place)
        if number:
            parts.append(ProgramPart(words[number - 1], *process.part()))
        else:
            parts.append(ProgramPart(None, process.base + 2 * PAGE, process.encode(PAGE, PAGE)))
    return reader.take(fill.state_size, threads, parts)


def _everything(script: FillScript, process: ProcessProgram) -> None:
    """Add an operation of each kind, and a call with each demand: 18 in all."""
    file = script.kept("openat", -100, process.data(b"/dev/null\0"), 0, 0)
    script.call("close", file, demand=Demand.ANY)
    script.exact("write", 1, process.data(b"seven"), 5, wanted=5)
    script.wait(5, 3)
    script.post(6, 1)
    script.read(file, [(1 << 20, 100 << 20), (1 << 30, PAGE)], 0)
    script.join(script.read_aside(file, [(1 << 20, PAGE)], 0, 1))
    script.merge(file, [(1 << 20, PAGE), (1 << 30, 9 << 20)], 0)
    place = process.data(bytes(16))
    script.store(place, 4, file)
    script.poke(1 << 30, 7)
    script.call("close", script.loaded(place, 4))
    script.address(place, 8, place)
    script.timer(1, process.data(bytes(64)), 3)
    script.terminal(process.data(b"/dev/ptmx\0"), 2, 9)
    script.ring(8, 1 << 30, PAGE, 9)
    script.spent(3, 4, process.data(bytes(12)))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_program_of_all_operations_is_taken(threads: int, reader: RestorerReader) -> None:
    """In two parts, by all threads of its process."""
    taken = _taken(reader, _everything, _everything, threads=threads)

    assert taken == Taken((2 * 18 + 1) * threads, threads, 0, 0, 0)


@pytest.mark.parametrize(
    "add",
    [
        lambda script, _: script.wait(WORDS, 1),
        lambda script, process: script.call("openat", 0, process.data(b"x" * ROOM), 0),
        lambda script, _: _read_of_more(script),
        lambda script, process: script.store(process.data(bytes(16)), 1 << 20, 1),
    ],
    ids=["a word", "a path without an end", "spans", "a place of data"],
)
def test_what_a_program_does_not_have_is_found(add: Add, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """So the reader can find a fault."""
    with RestorerReader(tmp_path) as made, pytest.raises(AssertionError, match="read what is not there"):
        _taken(made, add)

    assert "AddressSanitizer" in capfd.readouterr().err


def _read_of_more(script: FillScript) -> None:
    """Add a read of more spans than there are."""
    script.read(3, [(1 << 20, PAGE)] * 230, 0)
    operation = list(fillabi.OPERATION.unpack_from(script.code, len(script.code) - fillabi.OPERATION.size))
    operation[8] = 1000
    script.code[-fillabi.OPERATION.size :] = fillabi.OPERATION.pack(*operation)


def test_an_operation_that_fails_is_told(reader: RestorerReader) -> None:
    """The thread takes none behind it, and is not filled."""

    def add(script: FillScript, process: ProcessProgram) -> None:
        script.call("getpid")
        script.join(script.loaded(process.data(struct.pack("<i", -5)), 0))
        script.call("getpid")

    assert _taken(reader, add) == Taken(operations=3, filled=0, failed=1, operation=2, error=5)


@pytest.mark.parametrize("change", ["none", "one page too far", "no end of a path", "too many reads"])
def test_a_stage_is_made_within_its_bounds(change: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its description tells of maps and reads, and ends with the paths of their files."""
    place, pages = 1 << 32, 4
    first = staging.HEAD.size + 2 * staging.READ.size
    path = b"/images/pages-1.img" + b"\0" * (change != "no end of a path")
    shift = PAGE if change == "one page too far" else 0
    reads = 9 if change == "too many reads" else 1
    section = staging.HEAD.pack(first + len(path), place, pages * PAGE, reads, 1)
    section += staging.READ.pack(place, PAGE, 0, first, 0)
    section += staging.READ.pack(place + 2 * PAGE + shift, 2 * PAGE, PAGE, first, 0) + path
    with RestorerReader(tmp_path) as made:
        if change == "none":
            assert made.make_stage(section) == Staged(opened=1, mapped=1, read=2 * PAGE, answer=0)
            return
        with pytest.raises(AssertionError, match="read what is not there"):
            made.make_stage(section)

    assert "AddressSanitizer" in capfd.readouterr().err
