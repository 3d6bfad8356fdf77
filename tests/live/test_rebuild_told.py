# SPDX-License-Identifier: Apache-2.0
"""The errors that the helper finds without the kernel, in words."""

import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from agent.restart.planning.plan import CloneBits, Op, Phase, Role
from agent.restart.rebuild import helperprogram
from agent.restart.rebuild.coordinator import Rebuild
from agent.restart.rebuild.failure import RebuildError
from tests.live.daemons import TOP
from tests.live.rebuilds import assert_gone
from tests.support.plans import PlanWriter


def failing(writer: PlanWriter) -> RebuildError:
    """The error of a rebuild of which nothing is left."""

    def make() -> None:
        made.build()
        made.activate()

    with Rebuild(writer.plan()) as made, pytest.raises(RebuildError) as caught:
        make()
    assert_gone([made.guard])
    assert caught.value.error == 0
    return caught.value


def altered(monkeypatch: pytest.MonkeyPatch, change: Callable[[bytearray], None]) -> None:
    """Programs are written with that change."""
    encode = helperprogram.encode

    def wrong(*arguments: Any, **options: Any) -> bytes:
        code = bytearray(encode(*arguments, **options))
        change(code)
        return bytes(code)

    monkeypatch.setattr(helperprogram, "encode", wrong)


def test_a_step_that_the_helper_does_not_know_is_no_refusal_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is of another version, then."""
    writer = PlanWriter()
    writer.step(Op.SETSID, writer.actor(1))
    start = helperprogram.HEAD.size + helperprogram.ACTOR.size
    altered(monkeypatch, lambda code: struct.pack_into("=I", code, start, 99))
    text = str(failing(writer))

    assert text.startswith("step 0 failed: setsid by task 1 (1): ")
    assert text.endswith(
        "ckptree-rebuild does not know that step, so it is of another version: `make setup` compiles it"
    )


def test_that_no_number_is_left_for_a_helper_is_no_refusal_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are the tree's own."""
    writer = PlanWriter()
    writer.born(writer.actor(1), role=Role.HELPER)
    place = struct.calcsize("=7I")
    altered(monkeypatch, lambda code: struct.pack_into("=ii", code, place, 400, 400))

    assert str(failing(writer)) == (
        "step 0 failed: clone by task 1 (1) of helper (any number): no number is left that no task of the tree has: raise "
        "kernel.pid_max"
    )


def test_that_a_signal_ends_nobody_is_no_refusal_of_the_kernel() -> None:
    """An init is immune to those of its own."""
    writer = PlanWriter()
    root = writer.actor(1)
    init = writer.born(root, 10, 1, bits=CloneBits.NEWPID, status=signal.SIGTERM)
    writer.step(Op.EXIT, init, value=signal.SIGTERM, phase=Phase.ACTIVATE)
    writer.step(Op.AWAIT, root, init, phase=Phase.ACTIVATE)

    assert str(failing(writer)) == "step 1 failed: exit by task 2 (10/1): SIGTERM does not end it here"


_MASKED = """
import ctypes, os, struct, sys
from pathlib import Path
from agent.cli.confinement import _seccomp
from agent.restart.planning.plan import CloneBits
from agent.restart.rebuild.failure import RebuildError
from agent.restart.rebuild.coordinator import Rebuild
from tests.support.plans import PlanWriter
writer = PlanWriter()
writer.born(writer.actor(1), 10, 1, bits=CloneBits.NEWPID)
made = Rebuild(writer.activated().plan(), any_numbers=True)
mount = {"x86_64": 165, "aarch64": 40}[os.uname().machine]
refuse_proc = [(0x20, 0, 0, 0), (0x15, 0, 3, mount), (0x20, 0, 0, 40), (0x15, 0, 1, 0xE), (0x06, 0, 0, 0x50001)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mount(b"none", b"/proc", b"tmpfs", 0, None) == 0
if len(sys.argv) > 1:
    Path("/proc/thread-self").mkdir()
    Path("/proc/thread-self/status").write_text(sys.argv[1])
assert _seccomp(b"".join([struct.pack("=HBBI", *each) for each in (*refuse_proc, (0x06, 0, 0, 0x7FFF0000))]))
with made:
    try:
        made.build()
    except RebuildError as error:
        print(error.error, error)
"""


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (["Name:\tx\nNSpid:\t1\n"], "0 {}which does not show them all: mount procfs there"),
        ([], "2 {}which cannot be opened: ENOENT, No such file or directory"),
    ],
)
def test_numbers_that_cannot_be_read_are_told_as_that(status: list[str], error: str) -> None:
    """The kernel chose them; what stands at /proc has none, or is not there."""
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
    run = subprocess.run(
        [*alone, sys.executable, "-c", _MASKED, *status], capture_output=True, text=True, timeout=30, cwd=TOP
    )

    assert run.stdout == error.format("task 2 (10/1) reads its numbers in /proc/thread-self/status, ") + "\n", (
        run.stderr
    )
