# SPDX-License-Identifier: Apache-2.0
"""Cores that differ in their general registers alone."""

from pathlib import Path
from typing import Any

import pytest

from agent.restart.contents import treechecks
from agent.restart.contents.alikecores import AlikeCores
from agent.restart.contents.images import Images
from tests.support import criuimages


def core(folder: Path) -> Any:
    """Return the core of a running process, decoded anew."""
    criuimages.written("container", folder)
    return Images(folder).processes[3].core


def test_cores_with_other_general_registers_are_alike_and_stay_as_they_are(tmp_path: Path) -> None:
    """A loop that forks has its count in a register."""
    one, other = core(tmp_path), core(tmp_path)
    other.thread_info.gpregs.r13 += 1
    before = one.SerializeToString(), other.SerializeToString()
    alike = AlikeCores()

    assert alike.number(one) == alike.number(other)
    assert before == (one.SerializeToString(), other.SerializeToString())


@pytest.mark.parametrize(
    "path", ["thread_info.gpregs.mode", "thread_info.clear_tid_addr", "thread_core.sched_nice", "tc.personality"]
)
def test_cores_that_differ_in_anything_else_are_not_alike(tmp_path: Path, path: str) -> None:
    """The mode of the registers is of the program."""
    one, other = core(tmp_path), core(tmp_path)
    *way, last = path.split(".")
    message = other
    for name in way:
        message = getattr(message, name)
    setattr(message, last, getattr(message, last) + 1)
    alike = AlikeCores()

    assert alike.number(one) != alike.number(other)


def test_a_field_that_is_not_known_among_the_registers_of_an_alike_core_is_refused(tmp_path: Path) -> None:
    """Each core has registers of its own, and what is not known of them may mean something."""
    criuimages.written("container", tmp_path)
    data = (tmp_path / "core-3.img").read_bytes()
    (tmp_path / "core-6.img").write_bytes(data)
    criuimages.changed(tmp_path, "core-6.img", lambda it: it.thread_info.gpregs.MergeFromString(b"\xf8\x3f\x01"))
    processes = Images(tmp_path).processes

    assert processes[3].alike[3] == processes[6].alike[6]
    assert [(pid, refused.refusal[1]) for pid, refused in treechecks.unknown(processes)] == [
        (6, "user_x86_regs_entry 1023")
    ]
