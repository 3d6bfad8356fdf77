# SPDX-License-Identifier: Apache-2.0
"""The daemon's memory: what it loads, and what it gives back."""

import ctypes
import subprocess

import pytest

from agent import interpreter

_GIVES_BACK = """
from agent.daemon import heap
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Anonymous"))
heap.share()
blocks = [bytes(60_000) for _ in range(600)]
ends = blocks[::100] + blocks[-1:]
full = resident()
del blocks
kept = resident()
heap.give_back()
print(full - kept, full - resident())
""".strip()
_KEEPS = """
import resource
from agent.daemon import heap
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def made():
    begun = faults()
    for _ in range(10):
        bytes(4_000_000).replace(b"0", b"1")
    return faults() - begun
before = made()
heap.share()
made()
print(before, made())
""".strip()
_HEAVY = ("hashlib", "dataclasses", "inspect", "subprocess", "tempfile", "asyncio", "psutil", "typer", "bcc")


def run(program: str) -> str:
    """Run a program of several lines, without what a site makes of its start; return its output."""
    command = interpreter.command(f"exec({program!r})", at_once=True)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library than glibc")
def test_the_heap_gives_back_what_lies_between_used_blocks() -> None:
    """36 MB in blocks too small for mappings of their own; the last of them stays in use."""
    kept_kb, given_kb = map(int, run(_GIVES_BACK).split())
    assert given_kb > 20_000 > 10 * kept_kb


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_large_blocks_are_used_again_without_the_kernel() -> None:
    """Four megabytes have 977 pages, or two huge ones, which the kernel would clear anew each time."""
    before, after = map(int, run(_KEEPS).split())
    assert before > 10 * after


def test_the_daemon_loads_no_module_that_takes_megabytes() -> None:
    """OpenSSL takes 3.5 MB, the standard library's dataclasses 1.3, with all that they import."""
    program = f"import sys, agent.daemon.main; print([name for name in {_HEAVY} if name in sys.modules])"
    assert run(program) == "[]\n"
