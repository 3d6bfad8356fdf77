# SPDX-License-Identifier: Apache-2.0
"""The resumer in C as the fuzzer of CRIU's folders has it: a sanitizer says what it reads beside its table."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.restart.contents import registers, resumer
from agent.restart.contents.fillabi import Resumed
from agent.restart.contents.resumer import ThreadState
from tests.fuzz.resumereader import ResumeReader, is_end
from tests.support.dumpparts import a_core

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResumeReader]:
    """A reader."""
    with ResumeReader(tmp_path_factory.mktemp("reader")) as made:
        yield made


def table(threads: int, **fields: Any) -> bytes:
    """Return the table of a process, which is stopped."""
    core: Any = a_core(whole=not fields)
    known = registers.registers(core.thread_info)._replace(**fields)
    first = ThreadState(0, known, 5, 19, (0x1000, 4096))
    others = [ThreadState(actor, known, 5, 0, (0, 0)) for actor in range(1, threads)]
    return resumer.table([first, *others], range(100, 100 + threads), (0, 4096), 0)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_all_threads_of_a_table_are_resumed(threads: int, reader: ResumeReader) -> None:
    """Or this processor lacks what the registers of the dump had."""
    assert is_end(reader.read(table(threads)))


def test_a_component_that_no_processor_has_is_told(reader: ResumeReader) -> None:
    """The resumer refuses it before it takes its bytes."""
    whole = bytearray(table(1, components=1, features=3))
    whole += (63).to_bytes(4, "little") + (8).to_bytes(4, "little") + bytes(8)

    assert reader.read(bytes(whole)).what == Resumed.COMPONENT


@pytest.mark.parametrize("cut", [8, 600])
def test_a_table_that_ends_too_early_is_found(cut: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """So the reader can find a fault."""
    with ResumeReader(tmp_path) as made, pytest.raises(AssertionError, match="read what is not there"):
        made.read(table(2)[:-cut])

    assert "AddressSanitizer" in capfd.readouterr().err
