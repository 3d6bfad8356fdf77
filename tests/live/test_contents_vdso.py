# SPDX-License-Identifier: Apache-2.0
"""A dump that was made under another kernel: calls of its vdso reach this kernel's vdso."""

import struct
import time
from ast import literal_eval
from pathlib import Path

from agent.restart.contents import vdso
from agent.restart.contents.images import Images
from agent.restart.contents.pageruns import PAGE
from exporters.criu.memorymessages import AREA_VDSO
from tests.live.daemons import ckptree
from tests.live.standing import Standing, dumped, restored

ELSEWHERE = 0x1B00
"""Offset in the vdso that is free in this kernel's, and where the other kernel's has its function `time`."""

ASKING = """
libc.getauxval.restype = ctypes.c_ulong
base = libc.getauxval(33)
elsewhere = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(base + {elsewhere})
def answer():
    names = [line.split()[-1] for line in open("/proc/self/maps") if "vdso" in line or "vvar" in line]
    return elsewhere(None), time.time(), time.monotonic(), len(os.urandom(5)), len(names)
stand("one", answer)
"""


def of_another_kernel(standing: Standing, *, without: str = "") -> None:
    """Change the vdso of a dump: `time` is elsewhere, and no function does anything but trap.

    Args:
        standing: the dump.
        without: name of a function to give another name.
    """
    pid = standing.pid("one")
    images = Images(standing.images)
    area = next(vma for vma in images.processes[pid].mm.vmas if vma.status & AREA_VDSO)
    runs = [run for run in images.pages(f"pagemap-{pid}.img") if area.start <= run.address < area.end]
    assert sum(run.size for run in runs) == area.end - area.start
    code = bytearray()
    for run in runs:
        code += run.file.read_bytes()[run.offset : run.offset + run.size]
    assert not any(code[ELSEWHERE : ELSEWHERE + PAGE])
    found = vdso.functions(bytes(code))
    for function in set(found.values()):
        code[function.offset : function.offset + function.size] = b"\xcc" * function.size
    old = struct.pack("<QQ", *found["__vdso_time"])
    assert code.count(old) == 2
    code = code.replace(old, struct.pack("<QQ", ELSEWHERE, found["__vdso_time"].size))
    if without:
        code = code.replace(without.encode(), without.upper().encode())
    for run in runs:
        content = bytearray(run.file.read_bytes())
        at = run.address - area.start
        content[run.offset : run.offset + run.size] = code[at : at + run.size]
        run.file.write_bytes(content)


def test_calls_of_another_kernels_vdso_reach_this_kernels(tmp_path: Path, daemon_socket: Path) -> None:
    """A function that was at another offset gives the time, and so do those that the C library calls."""
    standing = dumped(ASKING.replace("{elsewhere}", str(ELSEWHERE)), tmp_path, daemon_socket)
    of_another_kernel(standing)
    before = time.time(), time.monotonic()
    with restored(standing, daemon_socket, compared=False):
        called, real, monotonic, random, areas = literal_eval(standing.ask("one"))
    after = time.time(), time.monotonic()

    assert int(before[0]) <= called <= after[0]
    assert before[0] <= real <= after[0]
    assert before[1] <= monotonic <= after[1]
    assert (random, areas > 1) == (5, True)


def test_a_function_that_this_kernels_vdso_lacks_is_refused(tmp_path: Path, daemon_socket: Path) -> None:
    """A call of it would reach code that reads another kernel's data."""
    standing = dumped(ASKING.replace("{elsewhere}", str(ELSEWHERE)), tmp_path, daemon_socket)
    of_another_kernel(standing, without="__vdso_getcpu")
    refused = ckptree("restart", f"criu:{standing.images}")

    assert refused.code == 7
    assert "vdso __VDSO_GETCPU: the kernel of this host has no such function" in refused.err
