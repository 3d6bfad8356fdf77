# SPDX-License-Identifier: Apache-2.0
"""A short run of the fuzzer of CRIU's folders; ``make fuzz-criu`` is the long one."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from exporters.criu import imagefile
from tests.fuzz.distinct import Distinct
from tests.fuzz.imagechanges import Changer, Dump
from tests.support import criuimages, smalldumps

TOP = Path(__file__).parents[3]
ENDS = ("sound", "findings", "tree: FormatError", "no forecast", "contents: accepted", "contents: refused")


def test_changed_folders_are_read_or_refused() -> None:
    """Each kind of end is reached, and no fault. The audit of a process cannot be ended, so it is one of its own."""
    options = ("-runs=400", "-max_total_time=60", "-seed=2026")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.fuzz_criu", *options], cwd=TOP, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert [end for end in ENDS if end not in done.stdout] == []


def test_the_dumps_have_an_image_of_each_kind() -> None:
    """A kind that no dump has would never be changed."""
    names = {name for make in smalldumps.THEMES.values() for name in make().files}
    kinds = {kind.stem for name in names if (kind := imagefile.kind_of(name)) is not None}

    assert imagefile.KINDS.keys() == kinds


@pytest.mark.parametrize("theme", ["plain", "earlier"])
def test_a_change_depends_on_its_seed_alone(theme: str) -> None:
    """So an input can be made again."""
    dump = Dump(theme, *smalldumps.THEMES[theme]())
    changers = [Changer([dump]) for _ in range(2)]
    found = [[changer.change(dump, random.Random(seed)) for seed in range(50)] for changer in changers]

    assert found[0] == found[1]
    assert len({str(sorted(changed.items())) for changed in found[0]}) > 40


def test_a_file_of_a_real_dump_is_changed() -> None:
    """Most changes are among its messages, and can be decoded."""
    dump = Dump("container", criuimages.dump("container").data, {})
    changed = [Changer([dump]).file(dump, "core-1.img", random.Random(seed)) for seed in range(40)]

    assert len(set(changed)) > 20


def test_an_input_is_new_once() -> None:
    """Neither its parts joined, nor their order, make another one the same."""
    distinct = Distinct()

    assert [distinct.is_new(parts) for parts in ([b"ab"], [b"a", b"b"], [b"b", b"a"], [b"ab"], [b"a", b"b"])] == [
        *(True, True, True, False, False)
    ]
