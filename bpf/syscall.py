# SPDX-License-Identifier: Apache-2.0
"""bpf(2), the few commands that a process which never saw bcc needs. Structures: include/uapi/linux/bpf.h."""

import ctypes
import os
import platform
import struct

_SYS_BPF = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), 321)
_SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}.get(platform.machine(), 298)
_PROG_TEST_RUN = 10
_OBJ_GET_INFO_BY_FD = 15
_LINK_CREATE = 28
_ITER_CREATE = 33
_TRACE_ITER = 28  # attach types
_PERF_EVENT = 41
_PERF_TYPE_TRACEPOINT = 2
_PERF_FLAG_FD_CLOEXEC = 8

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _bpf(command: int, attributes: bytes, what: str) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return _check(_syscall(_SYS_BPF, command, buffer, len(attributes)), what)


def link_iterator(program_fd: int) -> int:
    """Link an iterator program: every iterator made from the link walks all tasks."""
    return _bpf(_LINK_CREATE, struct.pack("<IIIIQI4x", program_fd, 0, _TRACE_ITER, 0, 0, 0), "BPF_LINK_CREATE")


def create_iterator(link_fd: int) -> int:
    """Start a walk; read it to its end. Needs no capability. Sees the caller's pid namespace."""
    return _bpf(_ITER_CREATE, struct.pack("<II", link_fd, 0), "BPF_ITER_CREATE")


def link_tracepoint(program_fd: int, tracepoint_id: int) -> tuple[int, int]:
    """Attach a program to a tracepoint on every CPU, whatever the one that perf asks to name.

    Returns:
        The link and the perf event it rests on; close either and the hook is gone.
    """
    # struct perf_event_attr: type, size, config, sample_period
    attributes = struct.pack("<IIQQ", _PERF_TYPE_TRACEPOINT, 112, tracepoint_id, 1) + bytes(88)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    perf_fd = _check(
        _syscall(_SYS_PERF_EVENT_OPEN, buffer, -1, 0, -1, _PERF_FLAG_FD_CLOEXEC), "perf_event_open"
    )
    try:
        link_fd = _bpf(_LINK_CREATE, struct.pack("<IIIIQ", program_fd, perf_fd, _PERF_EVENT, 0, 0), "BPF_LINK_CREATE")
    except OSError:
        os.close(perf_fd)
        raise
    return link_fd, perf_fd


def recursion_misses(program_fd: int) -> int:
    """How many runs of a program the kernel has skipped, because it was running on that CPU already."""
    info = ctypes.create_string_buffer(256)  # struct bpf_prog_info; recursion_misses is a u64 at 208
    _bpf(
        _OBJ_GET_INFO_BY_FD,
        struct.pack("<IIQ", program_fd, len(info), ctypes.addressof(info)),
        "BPF_OBJ_GET_INFO_BY_FD",
    )
    return int(struct.unpack_from("<Q", info, 208)[0])


class TestRun:
    """BPF_PROG_TEST_RUN of a raw tracepoint program with two words of context.

    Everything is laid out once: a call costs about as much as the system call itself. Needs no capability.

    Args:
        program_fd: the program.
    """

    def __init__(self, program_fd: int) -> None:
        self._context = (ctypes.c_uint64 * 2)()
        # prog_fd, retval, data_size_in/out, data_in/out, repeat, duration, ctx_size_in/out, ctx_in/out, flags, cpu, batch
        attributes = struct.pack(
            "<IIIIQQIIIIQQIIII",
            program_fd,
            *(0,) * 7,
            ctypes.sizeof(self._context),
            0,
            ctypes.addressof(self._context),
            *(0,) * 5,
        )
        self._attributes = ctypes.create_string_buffer(attributes, len(attributes))
        self._arguments = (_SYS_BPF, _PROG_TEST_RUN, ctypes.byref(self._attributes), len(attributes))

    def __call__(self, first: int, second: int) -> None:
        """Run it once.

        Raises:
            OSError: the kernel would not.
        """
        context = self._context
        context[0] = first
        context[1] = second
        if _syscall(*self._arguments) < 0:
            _check(-1, "BPF_PROG_TEST_RUN")
