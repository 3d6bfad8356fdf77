# SPDX-License-Identifier: Apache-2.0
"""The parts of a program by which a process takes its contents: each is written while tasks are at work on earlier ones."""

import mmap
import os

import pytest

from agent.restart.contents import fillabi
from agent.restart.contents.fillprogram import About
from agent.restart.contents.fillsection import FillProgram
from agent.restart.contents.publishing import Publisher

BASE, PAGE = 1 << 40, mmap.PAGESIZE


def test_an_operation_of_any_part_is_named_by_its_place() -> None:
    """The place counts on from part to part, as the restorer counts it in each start."""
    fill = FillProgram()
    process = fill.process((4, 5))
    process.base = BASE
    leader, other = process.scripts
    leader.call("getpid")
    process.encode(PAGE, PAGE)
    leader.about = About("file", "7")
    leader.call("openat", 1, 2)
    leader.call("close", 1)
    other.call("munmap", 0, 0)
    at, made = process.part()

    starts = [fillabi.START.unpack_from(made, fillabi.START.size * place) for place in (0, 1)]
    assert [(start[4], start[5], start[6]) for start in starts] == [(2, 4, 1), (1, 5, 0)]
    assert at == BASE + PAGE + PAGE + PAGE + 2 * fillabi.STACK
    assert process.region_size == at + len(made) - BASE
    assert [fill.step(4, place) for place in range(4)] == [
        ("getpid", About("task", "")),
        ("openat", About("file", "7")),
        ("close", About("file", "7")),
        None,
    ]
    assert fill.step(5, 0) == ("munmap", About("task", ""))
    assert fill.step(6, 0) is None


def test_data_of_a_later_part_is_found_at_its_address() -> None:
    """Places count on, so that a place of an earlier part cannot be taken for one of the part at hand."""
    process = FillProgram().process((0,))
    process.base = BASE
    early = process.data(b"early")
    early_slot = process.slot()
    process.encode(PAGE, PAGE)
    late = process.data(b"late")
    process.scripts[0].call("unlinkat", 0, late, process.slot())
    for place in (early, early_slot):
        with pytest.raises(ValueError, match="earlier part"):
            process.scripts[0].call("unlinkat", 0, place)
    at, made = process.part()

    _, operations, slots, data, *_ = fillabi.START.unpack_from(made)
    _, _, _, from_slots, from_data, count, *values, _ = fillabi.OPERATION.unpack_from(made, operations - at)
    assert (from_slots, from_data, count) == (4, 2, 3)
    place = data + values[1] - at
    assert made[place : place + 4] == b"late"
    assert operations < slots + fillabi.SLOT * values[2] < data + values[1]


def test_a_part_is_ready_once_all_that_tells_of_it_is_there() -> None:
    """Parts follow each other in the file, and the first word is the last that is written."""
    fill = FillProgram()
    word = fill.part()
    file = os.memfd_create("parts")
    try:
        os.ftruncate(file, 2 * PAGE + fill.state_size)
        publisher = Publisher(file, (PAGE, fill.state_size))
        publisher.publish(word, BASE, bytes([7]) * PAGE)
        publisher.publish(fill.part(), BASE, bytes([8]) * PAGE)
        entry = os.pread(file, fillabi.PART.size, PAGE + fill.word_offset(word))
        ready, _, offset, size, address = fillabi.PART.unpack(entry)
        assert (ready, size, address) == (1, PAGE, BASE)
        assert os.pread(file, 2 * PAGE, offset) == bytes([7]) * PAGE + bytes([8]) * PAGE
    finally:
        os.close(file)


def test_more_words_than_the_programs_know_of_are_an_error() -> None:
    """The addresses of the programs are counted from behind the words."""
    fill = FillProgram(words=20)
    assert fill.part() % 2 == 0  # eight bytes are aligned
    assert fill.part() % 2 == 0
    assert [fill.word(), fill.word()] == [18, 19]
    with pytest.raises(ValueError, match="more than 20 words"):
        fill.word()
