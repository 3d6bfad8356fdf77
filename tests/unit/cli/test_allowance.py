# SPDX-License-Identifier: Apache-2.0
"""The bound of the memory that the reading of a file takes."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest

from agent.cli import allowance
from agent.errors import FormatError
from exporters import registry
from tests.support.builders import a_crowd, a_family

VERBS = (["check"], *(pytest.param([verb], marks=pytest.mark.slow) for verb in ("show", "plan", "convert")))


def ran(verb: list[str], file: Path) -> "subprocess.CompletedProcess[str]":
    """Run a verb on a file, to the end; its output is thrown away."""
    target = [str(file.with_name("out"))] if verb == ["convert"] else []
    command = [sys.executable, "-m", "agent", *verb, str(file), *target]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.parametrize("verb", VERBS, ids="".join)
def test_a_small_file_that_would_fill_the_memory_is_refused_by_name(tmp_path: Path, verb: list[str]) -> None:
    """Each byte would take 150."""
    file = tmp_path / "bomb"
    document = json.loads(registry.image(a_family(), "json"))
    file.write_bytes(msgpack.packb(document | {"later": [{}] * 2_000_000}))
    found = ran(verb, file)

    assert found.returncode == 8
    assert found.stderr.startswith(f"ckptree: {file}: ")
    assert found.stderr.endswith("which no sound snapshot does\n")
    assert len(found.stderr.splitlines()) == 1
    assert not file.with_name("out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("fmt", ["ckpt", "json"])
def test_a_tree_of_a_hundred_thousand_tasks_is_read(tmp_path: Path, fmt: str) -> None:
    """No sound file meets the bound."""
    file = tmp_path / "crowd"
    file.write_bytes(registry.image(a_crowd(100_000), fmt))
    found = ran(["check"], file)

    assert (found.returncode, found.stderr) == (0, f"ckptree: {file}: sound\n")


def test_a_call_without_memory_for_its_frame_has_met_the_bound() -> None:
    """Python 3.11 says so in a word of its own; any other error of that class is a fault."""
    with pytest.raises(FormatError, match="which no sound snapshot does"), allowance.bounded("file", 0):
        raise SystemError("error return without exception set")
    with pytest.raises(SystemError, match="another"), allowance.bounded("file", 0):
        raise SystemError("another")


def test_the_limit_is_as_before_afterwards() -> None:
    """A plan may take more memory, and a daemon's client has nothing to do with it."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with allowance.bounded("file", 0):
        within = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(FormatError, match="file: 0 bytes that take more than 128 MiB"), allowance.bounded("file", 0):
        bytearray(allowance.LEAST + (64 << 20))

    assert within[0] != before[0]
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_lower_limit_of_the_users_own_is_not_blamed_on_the_file() -> None:
    """The message would name a bound that the file has not reached."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    own = 1 << 30
    resource.setrlimit(resource.RLIMIT_DATA, (own, before[1]))
    try:
        with pytest.raises(MemoryError), allowance.bounded("file", 64 << 20):
            bytearray(own)
        assert resource.getrlimit(resource.RLIMIT_DATA) == (own, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
