# SPDX-License-Identifier: Apache-2.0
"""bpf(2) and perf_event_open(2): the needed commands, by number. Structures: include/uapi/linux/bpf.h.

Loading and attaching go through this module, and so does the daemon's later use of the descriptors. Neither needs bcc,
which only compiles.
"""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator, Sequence

from agent.record import NamedTuple

_ARM = os.uname().machine == "aarch64"
_SYS_BPF = 280 if _ARM else 321
_SYS_PERF_EVENT_OPEN = 241 if _ARM else 298

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_NEXT_KEY, _PROG_LOAD, _PROG_TEST_RUN, _OBJ_GET_INFO = 0, 1, 2, 4, 5, 10, 15
_RAW_TRACEPOINT_OPEN, _LINK_CREATE, _ITER_CREATE = 17, 28, 33

PROG_KPROBE, PROG_TRACEPOINT, PROG_RAW_TRACEPOINT, PROG_TRACING = 2, 5, 17, 26
ATTACH_RAW_TP, ATTACH_FENTRY, ATTACH_FEXIT, ATTACH_ITER, _ATTACH_PERF = 23, 24, 25, 28, 41
MAP_RINGBUF = 27

_PROG_INFO_BYTES, _RECURSION_MISSES_AT = 232, 208  # struct bpf_prog_info
_PERF_TYPE_TRACEPOINT = 2
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_ATTR_BYTES = 112
_LOG_BYTES = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class MapShape(NamedTuple):
    """The parameters of a map: type, sizes in bytes, number of entries, flags."""

    map_type: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int


class VerifierError(OSError):
    """The verifier's refusal of a program: no lack of rights, but a fault in the compiled program, or an older kernel.

    Attributes:
        log: the verifier's log, a line each.
    """

    def __init__(self, number: int, text: str, log: tuple[str, ...]) -> None:
        super().__init__(number, text)
        self.log = log


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _bpf(command: int, attributes: bytes, what: str) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return _check(_syscall(_SYS_BPF, command, buffer, len(attributes)), what)


# ---- making ----------------------------------------------------------------------------------------------------------


def create_map(shape: MapShape, name: str) -> int:
    """Create a map (BPF_MAP_CREATE); return its descriptor."""
    attributes = struct.pack("<5IIII15sx", *shape, 0, 0, 0, name.encode()[:15])
    return _bpf(_MAP_CREATE, attributes, f"BPF_MAP_CREATE {name}")


def map_shape(map_fd: int) -> MapShape:
    """Return the shape of an existing map."""
    map_type, _, *rest = struct.unpack_from("<6I", _info(map_fd, 80))
    return MapShape(map_type, *rest)


def set_word(map_fd: int, index: int, word: int) -> None:
    """Set an entry of an array of u32; for a program array the word is a program's descriptor."""
    key, value = ctypes.c_uint32(index), ctypes.c_uint32(word)
    attributes = struct.pack("<I4xQQQ", map_fd, ctypes.addressof(key), ctypes.addressof(value), 0)
    _bpf(_MAP_UPDATE, attributes, "BPF_MAP_UPDATE_ELEM")


def set_entry(map_fd: int, index: int, value: bytes) -> None:
    """Set an entry of an array."""
    key, entry = ctypes.c_uint32(index), ctypes.create_string_buffer(value, len(value))
    attributes = struct.pack("<I4xQQQ", map_fd, ctypes.addressof(key), ctypes.addressof(entry), 0)
    _bpf(_MAP_UPDATE, attributes, "BPF_MAP_UPDATE_ELEM")


def load_program(code: bytes, program_type: int, name: str, attach_type: int = 0, attach_btf_id: int = 0) -> int:
    """Load a program (BPF_PROG_LOAD); return its descriptor.

    Raises:
        VerifierError: the verifier refused it; the text ends with the end of its log.
        OSError: the kernel refused it before the verifier.
    """
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")

    def attributes(log: "ctypes.Array[ctypes.c_char] | None") -> bytes:
        return struct.pack(
            "<IIQQIIQII15sxIIIIQIIQIII4x",
            *(program_type, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(licence)),
            *((1, len(log), ctypes.addressof(log)) if log else (0, 0, 0)),
            *(0, 0, name.encode()[:15], 0, attach_type, 0, 0, 0, 0, 0, 0, 0, attach_btf_id, 0),
        )

    try:
        return _bpf(_PROG_LOAD, attributes(None), f"BPF_PROG_LOAD {name}")
    except OSError as first:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return _bpf(_PROG_LOAD, attributes(log), f"BPF_PROG_LOAD {name}")
        except OSError:
            words = log.value.decode(errors="replace").strip().splitlines()
            said = tuple(line for line in words if not line.startswith("processed "))
            if not said:
                raise first from None
            raise VerifierError(first.errno or 0, f"{first.strerror}: {said[-1]}", said) from first


def has_fetch_and_add() -> bool:
    """Return True if the verifier knows the instruction that numbers the records: since Linux 5.12."""
    code = b"".join(
        struct.pack("<BBhi", *instruction)
        for instruction in (
            (0xB7, 0x00, 0, 1),  # r0 = 1
            (0x7B, 0x0A, -8, 0),  # *(u64 *)(r10 - 8) = r0
            (0xDB, 0x0A, -8, 1),  # r0 = atomic_fetch_add((u64 *)(r10 - 8), r0)
            (0x95, 0x00, 0, 0),  # exit
        )
    )
    try:
        os.close(load_program(code, PROG_RAW_TRACEPOINT, "fetch_and_add"))
    except VerifierError:
        return False
    return True


def attach_raw_tracepoint(program_fd: int, name: str | None) -> int:
    """Attach a program (BPF_RAW_TRACEPOINT_OPEN); return a link. PROG_TRACING programs know their place: no name."""
    text = ctypes.create_string_buffer(name.encode()) if name else None
    attributes = struct.pack("<QI4x", ctypes.addressof(text) if text else 0, program_fd)
    return _bpf(_RAW_TRACEPOINT_OPEN, attributes, f"BPF_RAW_TRACEPOINT_OPEN {name or ''}".rstrip())


def _attach_perf(program_fd: int, perf_attributes: bytes) -> tuple[int, int]:
    """Return a perf event and a link on it. The event names one CPU; the hook works on all CPUs."""
    buffer = ctypes.create_string_buffer(perf_attributes.ljust(_PERF_ATTR_BYTES, b"\0"), _PERF_ATTR_BYTES)
    perf_fd = _check(_syscall(_SYS_PERF_EVENT_OPEN, buffer, -1, 0, -1, _PERF_FLAG_FD_CLOEXEC), "perf_event_open")
    try:
        link_fd = _bpf(_LINK_CREATE, struct.pack("<IIIIQ", program_fd, perf_fd, _ATTACH_PERF, 0, 0), "BPF_LINK_CREATE")
    except OSError:
        os.close(perf_fd)
        raise
    return link_fd, perf_fd


def attach_tracepoint(program_fd: int, tracepoint_id: int) -> tuple[int, int]:
    """Attach to a tracepoint; return the link and its perf event. Closing either removes the hook."""
    # struct perf_event_attr: type, size, config, sample_period
    return _attach_perf(program_fd, struct.pack("<IIQQ", _PERF_TYPE_TRACEPOINT, _PERF_ATTR_BYTES, tracepoint_id, 1))


def attach_kprobe(program_fd: int, pmu_type: int, function: str) -> tuple[int, int]:
    """Attach to the entry of a kernel function; return the link and its perf event."""
    name = ctypes.create_string_buffer(function.encode())
    # ... sample_type, read_format, flags, wakeup, bp_type; then config1 is the name, config2 the offset
    attributes = struct.pack("<IIQQQQQIIQQ", pmu_type, _PERF_ATTR_BYTES, 0, 1, 0, 0, 0, 0, 0, ctypes.addressof(name), 0)
    return _attach_perf(program_fd, attributes)


# ---- using: no capability needed -------------------------------------------------------------------------------------


def link_iterator(program_fd: int, process: int = 0) -> int:
    """Link an iterator program; every iterator made from the link walks all tasks.

    Args:
        program_fd: the program.
        process: a pid of the initial namespace, to walk its threads alone (none if it is unknown); 0: all tasks.

    Raises:
        OSError: `process` is not 0, and the kernel is older than 6.1 and has no such filter.
    """
    info = ctypes.create_string_buffer(struct.pack("<III4x", 0, process, 0), 16)  # union bpf_iter_link_info.task
    where = (ctypes.addressof(info), len(info)) if process else (0, 0)
    return _bpf(_LINK_CREATE, struct.pack("<IIIIQI4x", program_fd, 0, ATTACH_ITER, 0, *where), "BPF_LINK_CREATE")


def create_iterator(link_fd: int) -> int:
    """Start a walk and return its descriptor, to be read to its end. The walk covers the caller's pid namespace."""
    attributes = struct.pack("<II", link_fd, 0)  # the kernel only reads them
    return _check(_syscall(_SYS_BPF, _ITER_CREATE, attributes, len(attributes)), "BPF_ITER_CREATE")


def map_items(map_fd: int, most: int) -> Iterator[tuple[bytes, bytes]]:
    """Walk a hash map; the walk may miss entries that come or go meanwhile.

    Args:
        map_fd: the map.
        most: limit for the number of entries: a walk of a map that changes could go on for ever.
    """
    shape = map_shape(map_fd)
    key, value = ctypes.create_string_buffer(shape.key_bytes), ctypes.create_string_buffer(shape.value_bytes)
    where = ctypes.addressof(key)
    before = 0
    for _ in range(most):
        try:
            _bpf(_MAP_NEXT_KEY, struct.pack("<I4xQQQ", map_fd, before, where, 0), "BPF_MAP_GET_NEXT_KEY")
        except FileNotFoundError:
            return
        before = where
        with contextlib.suppress(FileNotFoundError):
            attributes = struct.pack("<I4xQQQ", map_fd, where, ctypes.addressof(value), 0)
            _bpf(_MAP_LOOKUP, attributes, "BPF_MAP_LOOKUP_ELEM")
            yield key.raw, value.raw


def _info(fd: int, size: int) -> bytes:
    info = ctypes.create_string_buffer(size)
    _bpf(_OBJ_GET_INFO, struct.pack("<IIQ", fd, size, ctypes.addressof(info)), "BPF_OBJ_GET_INFO_BY_FD")
    return info.raw


def identity(fd: int) -> str:
    """Return type and id of the map, program or link behind a descriptor; a perf event has a type and no id."""
    kind = os.readlink(f"/proc/self/fd/{fd}")
    try:
        # struct bpf_map_info, bpf_prog_info and bpf_link_info all begin with type and id
        return f"{kind}:{struct.unpack_from('<I', _info(fd, 80), 4)[0]}"
    except OSError:
        return kind


class RecursionMisses:
    """The number of runs of some programs that the kernel has skipped, because the program was running on that CPU
    already.

    The buffers are laid out once, so a call costs little more than the system calls, one for each program.

    Args:
        program_fds: the programs.
    """

    def __init__(self, program_fds: Sequence[int]) -> None:
        size = _PROG_INFO_BYTES
        self._infos = ctypes.create_string_buffer(max(1, size * len(program_fds)))
        whole = memoryview(self._infos).cast("B")[: size * len(program_fds)]
        self._bytes, self._none = whole, bytes(len(whole))
        self._misses = whole.cast("Q")[_RECURSION_MISSES_AT // 8 :: size // 8]
        self._attributes = [
            ctypes.create_string_buffer(struct.pack("<IIQ", fd, size, ctypes.addressof(self._infos) + size * n), 16)
            for n, fd in enumerate(program_fds)
        ]
        self._calls = [(_SYS_BPF, _OBJ_GET_INFO, ctypes.byref(each), 16) for each in self._attributes]

    def __call__(self) -> int:
        """Return the number up to now, of all programs."""
        self._bytes[:] = self._none  # the kernel would take other contents for requests
        call = _syscall
        for arguments in self._calls:
            if call(*arguments) < 0:
                _check(-1, "BPF_OBJ_GET_INFO_BY_FD")
        return sum(self._misses.tolist())


class Usage(NamedTuple):
    """Statistics of a program.

    Attributes:
        run_ns, runs: nanoseconds in the program, and number of runs; counted while sysctl kernel.bpf_stats_enabled is
        1.
        recursion_misses: runs that the kernel has skipped, because the program was running on that CPU already.
    """

    run_ns: int
    runs: int
    recursion_misses: int


def usage(program_fd: int) -> Usage:
    """Return the statistics of a program."""
    return Usage(*struct.unpack_from("<3Q", _info(program_fd, _PROG_INFO_BYTES), _RECURSION_MISSES_AT - 16))


class TestRun:
    """BPF_PROG_TEST_RUN of a raw tracepoint program with two words of context.

    The buffers are laid out once, so a call costs about as much as the system call.

    Args:
        program_fd: the program.
    """

    def __init__(self, program_fd: int) -> None:
        self._context = (ctypes.c_uint64 * 2)()
        # prog_fd, retval, data sizes and pointers, repeat, duration, ctx sizes and pointers, flags, cpu, batch_size
        attributes = struct.pack(
            "<IIIIQQIIIIQQIIII",
            *(program_fd, 0, 0, 0, 0, 0, 0, 0),
            *(ctypes.sizeof(self._context), 0, ctypes.addressof(self._context), 0),
            *(0, 0, 0, 0),
        )
        self._attributes = ctypes.create_string_buffer(attributes, len(attributes))
        self._arguments = (_SYS_BPF, _PROG_TEST_RUN, ctypes.byref(self._attributes), len(attributes))

    def __call__(self, first: int, second: int) -> None:
        """Run the program once.

        Raises:
            OSError: the kernel refused.
        """
        context = self._context
        context[0] = first
        context[1] = second
        if _syscall(*self._arguments) < 0:
            _check(-1, "BPF_PROG_TEST_RUN")
