# SPDX-License-Identifier: Apache-2.0
"""The build ids of programs, which tell builds of one size apart."""

import subprocess
from pathlib import Path

import pytest

from agent.restart.contents.buildids import build_id, recorded, same


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a program with a build id of five bytes."""
    path = tmp_path_factory.mktemp("built") / "program"
    flags: list[str | Path] = ["-x", "c", "-", "-nostdlib", "-static", "-Wl,--build-id=0x1122334455", "-o", path]
    subprocess.run(["gcc", *flags], input=b"void _start(void) {}", check=True)
    return path


def test_the_build_id_of_a_program_is_found(program: Path) -> None:
    """CRIU records words of four bytes, the last one filled up."""
    assert build_id(program) == bytes.fromhex("1122334455")
    assert same(build_id(program), recorded([0x44332211, 0x55]))
    assert not same(build_id(program), recorded([0x44332211, 0x56]))
    assert not same(b"", recorded([0x44332211]))


def test_other_files_have_none(program: Path, tmp_path: Path) -> None:
    """A text, an empty file, a program that is cut anywhere in its headers."""
    content = program.read_bytes()
    for number, part in enumerate([b"", b"text" * 40, *(content[:cut] for cut in range(0, 260, 7))]):
        path = tmp_path / str(number)
        path.write_bytes(part)
        assert build_id(path) in (b"", bytes.fromhex("1122334455"))
    assert build_id(tmp_path / "0") == build_id(tmp_path / "1") == b""
