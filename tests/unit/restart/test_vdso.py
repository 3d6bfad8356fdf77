# SPDX-License-Identifier: Apache-2.0
"""The vdso of another kernel: its functions, where they lead to, and what cannot be redirected."""

import struct

import pytest

from agent.restart.contents import vdso
from agent.restart.contents.addresses import AddressRange
from agent.restart.contents.filling import host_specials
from agent.restart.contents.refusals import Refused

AREA = AddressRange(0x7FFD00000000, 0x7FFD00002000)


@pytest.fixture(scope="module")
def code() -> bytes:
    """Return this kernel's vdso."""
    return host_specials().vdso


def test_the_functions_of_this_kernels_vdso_are_found(code: bytes) -> None:
    """Two names of a function have one offset."""
    found = vdso.functions(code)

    assert found["__vdso_clock_gettime"] == found["clock_gettime"]
    assert {"__vdso_time", "__vdso_gettimeofday", "__vdso_getcpu"} <= found.keys()
    assert all(0 < each.offset < len(code) for each in found.values())


@pytest.mark.parametrize("cut", [0, 10, 63, 64, 100, 400, 700])
def test_what_is_no_vdso_is_refused(code: bytes, cut: int) -> None:
    """Images are not trusted: a piece of a vdso is told from one."""
    with pytest.raises(Refused):
        vdso.functions(code[:cut])
    with pytest.raises(Refused):
        vdso.functions(bytes(cut))


def test_any_changed_byte_of_a_vdso_is_read_or_refused(code: bytes) -> None:
    """Never another error: headers and tables lie within the first 2048 bytes."""
    for at in range(min(len(code), 2048)):
        for value in (0, 0x7F, 0xFF):
            changed = bytearray(code)
            changed[at] = value
            try:
                found = vdso.functions(bytes(changed))
            except Refused:
                continue
            assert all(each.offset + vdso.JUMP_BYTES <= len(code) for each in found.values())


def test_functions_are_redirected_by_their_names(code: bytes) -> None:
    """The old kernel has `time` elsewhere."""
    found = vdso.functions(code)
    elsewhere = found["__vdso_time"].offset + 16
    old = code.replace(struct.pack("<QQ", *found["__vdso_time"]), struct.pack("<QQ", elsewhere, 24))
    led = vdso.redirects(old, code)

    assert led[elsewhere] == (found["__vdso_time"].offset, 0)
    assert led[found["__vdso_getcpu"].offset] == (found["__vdso_getcpu"].offset, 0)


def test_a_function_that_this_kernels_vdso_lacks_becomes_a_system_call(code: bytes) -> None:
    """mov $309, %eax; syscall; ret. A function of a name that is none is refused."""
    place = vdso.functions(code)["__vdso_getcpu"].offset
    lacking = code.replace(b"getcpu\0", b"getxxx\0")
    lead = vdso.redirects(code, lacking)[place]

    assert lead.code(0x1000) == bytes.fromhex("b835010000 0f05 c3") + b"\xcc" * 8
    with pytest.raises(Refused, match="no such function"):
        vdso.redirects(lacking, code)


def test_a_function_that_reads_no_data_of_its_kernel_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux 7.2 unlocks a mutex on a robust list so, in five instructions, which run under any kernel."""
    entry = vdso.Function(64, 32)
    codes = {
        b"old": {"__vdso_time": entry, "__vdso_futex_robust_list64_try_unlock": vdso.Function(128, 15)},
        b"new": {"__vdso_time": entry},
    }
    monkeypatch.setattr(vdso, "functions", codes.__getitem__)

    assert vdso.redirects(b"old", b"new") == {64: vdso.Lead(64)}


def test_a_function_without_room_for_a_jump_is_refused(code: bytes) -> None:
    """The jump would go over the beginning of the next function."""
    found = vdso.functions(code)
    near = found["__vdso_clock_gettime"].offset - 8
    old = code.replace(struct.pack("<QQ", *found["__vdso_time"]), struct.pack("<QQ", near, 8))
    with pytest.raises(Refused, match="too short"):
        vdso.redirects(old, code)


def test_threads_and_handlers_within_the_old_vdso_are_refused(code: bytes) -> None:
    """A word on a stack that points into a function is no place to return to, but for that of a signal's frame.

    The functions of Linux 6.1 call others within the vdso, and leave such words on the stack.
    """
    function = vdso.functions(code)["__vdso_clock_gettime"]
    start = AREA.start + function.offset
    frame = struct.pack("<4Q", 0, start + 3, 0x246, 0x2B_0000_0000_0033)
    stack = struct.pack("<8Q", 1, start, 0x246, 0x33, AREA.start, start + function.size, start + 3, 0x246)
    vdso.check_threads(code, AREA, {5: 0x400000}, [stack, frame[:-8], struct.pack("<3Q", start + 3, 0x246, 0x10)])
    vdso.check_threads(code, AREA, {5: 0x400000}, [stack])
    with pytest.raises(Refused) as thread:
        vdso.check_threads(code, AREA, {5: 0x400000, 6: start + 3}, [stack])
    with pytest.raises(Refused) as handler:
        vdso.check_threads(code, AREA, {5: 0x400000}, [stack, frame])

    assert thread.value.refusal[:3] == ("vdso", "thread 6", "other-kernel")
    assert handler.value.refusal[:3] == ("vdso", f"{start + 3:#x}", "other-kernel")


def test_a_jump_is_sixteen_bytes_with_the_address() -> None:
    """Behind it are traps."""
    assert vdso.jump(0x1122334455667788) == bytes.fromhex("49bb 8877665544332211 41ffe3 cccccc")
