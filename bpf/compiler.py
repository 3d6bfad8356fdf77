# SPDX-License-Identifier: Apache-2.0
"""C to bytecode. Only this module imports bcc. It stores the bytecode for the next start on the same kernel.

bcc takes half a second, most of the time of a start. So the result is stored under a key of all its inputs: the
sources, this kernel's offsets, its whole BTF (for the ids in it), and bcc's version. Only root may be able to write to
the store, because its contents are loaded into the kernel. Otherwise a daemon of another user, which drops its
capabilities once it is ready, could choose the programs that the next daemon loads with all capabilities.
"""

import contextlib
import hashlib
import importlib.util
import mmap
import os
import stat
import struct
from pathlib import Path
from typing import Any

import msgpack

from agent.errors import HostError
from agent.record import record
from bpf import syscall
from bpf.btf import VMLINUX, Btf
from bpf.hooks import CHANGE_PID, PRCTL, RELEASE_TASK
from bpf.layout import Layout

_HERE = Path(__file__).parent
SOURCES = (
    *("events.h", "kernel.h", "quiet.h", "iterator.h", "helper_reads.h", "announce.h", "typed_loads.h", "announce.h"),
    *("ties.h", "lifecycle.c", "arguments.c", "session.c", "ties.c", "sweep.c"),
)
_MAPS = (
    "ring",
    "page",
    "depth",
    "scratch",
    "raw",
    "perf",
    "told",
    "allowances",
    "price",
    "strings",
    "string_key",
    "keep",
)
_PROGRAMS = (
    *("on_announce", "on_fork", "on_exec", "on_exit", "on_free"),
    *("on_fork_typed", "on_exit_typed", "on_free_typed", "on_exec_strings"),
    *("on_setsid", "on_setpgid", "on_prctl", "on_wait4", "on_waitid"),
    *("after_change_pid", "after_prctl", "before_release_task", "kprobe_release_task"),
    *("on_task", "on_terminal", "on_file", "on_sharing", "state", "marker"),
)
# The functions and tracepoints whose BTF ids a load needs.
_FUNCTIONS = ("bpf_iter_task", "bpf_iter_task_file", *(hook.target for hook in (CHANGE_PID, PRCTL, RELEASE_TASK)))
_TRACEPOINTS = ("task_newtask", "sched_process_exec", "sched_process_exit", "sched_process_free")
_LD_IMM64, _PSEUDO_MAP_FD = 0x18, 1
_CACHE = Path("/var/cache/ckptree")
_NO_BCC = (
    "the system's Python has no bcc. On Debian and Ubuntu: apt-get install python3-bpfcc, and a virtual environment made "
    "with --system-site-packages from /usr/bin/python3. (PyPI's `bcc` is an unrelated package.)"
)


@record
class Bundle:
    """Compiled programs, ready to load.

    Attributes:
        code: bytecode by program; a reference to a map is the index of the map's name in `maps`.
        maps: their shapes by name.
        btf_ids: of the kernel functions and tracepoints that programs attach to; 0 if the kernel has none.
    """

    code: dict[str, bytes]
    maps: dict[str, syscall.MapShape]
    btf_ids: dict[str, int]

    def linked(self, program: str, map_fds: dict[str, int]) -> bytes:
        """Return the bytecode of a program that refers to the descriptors of real maps."""
        fds = [map_fds[name] for name in self.maps]
        return _relocate(self.code[program], lambda index: fds[index])


def _relocate(code: bytes, new: Any) -> bytes:
    """Replace every reference to a map. An instruction is: u8 opcode, u8 registers, s16 offset, s32 immediate."""
    out = bytearray(code)
    at = 0
    while at < len(out):
        opcode, registers, _, immediate = struct.unpack_from("<BBhi", out, at)
        if opcode == _LD_IMM64:
            if registers >> 4 == _PSEUDO_MAP_FD:
                struct.pack_into("<i", out, at + 4, new(immediate))
            at += 8
        at += 8
    return bytes(out)


def source() -> str:
    """Return the C source of all programs, as one text."""
    return "\n".join((_HERE / name).read_text() for name in SOURCES)


def bundle(btf: Btf, layout: Layout) -> Bundle:
    """Return the compiled programs for this kernel, from the store if it has them.

    Raises:
        HostError: bcc is missing, is another package of that name, or cannot compile.
    """
    spec = importlib.util.find_spec("bcc")
    if spec is None or not spec.origin:
        raise HostError(_NO_BCC)
    text = source()
    digest = hashlib.blake2b(digest_size=20)
    compiler = os.stat(spec.origin)
    for part in (text, *_PROGRAMS, *layout.flags, spec.origin, str(compiler.st_mtime_ns), str(compiler.st_size)):
        digest.update(part.encode() + b"\0")
    digest.update(btf.types)
    path = Path(os.environ.get("CACHE_DIRECTORY", _CACHE)) / f"{digest.hexdigest()}.bundle"
    stored = _restore(path)
    if stored is not None:
        return stored
    made = _compile(text, btf, layout)
    _store(path, made)
    return made


def _compile(text: str, btf: Btf, layout: Layout) -> Bundle:
    # Installed headers, perhaps of another kernel, must not matter: bcc finds ours first.
    os.environ["BCC_KERNEL_SOURCE"] = str(_HERE)
    import bcc

    if not hasattr(bcc, "BPF"):
        raise HostError(f"{bcc.__file__} is PyPI's `bcc`, not the BPF compiler: pip uninstall bcc; " + _NO_BCC)

    class Module(bcc.BPF):  # type: ignore[misc]  # bcc has no types
        def _trace_autoload(self) -> None:
            """Load and attach nothing: the loader does that."""

    try:
        module = Module(text=text.encode(), cflags=[*layout.flags, "-Wno-everything"])
    except Exception as error:
        # bcc raises only Exception. It creates the maps while it compiles, so a user without rights fails here.
        if not _may_create_maps():
            raise HostError(
                "not permitted: compiling and loading BPF needs root, or CAP_BPF and CAP_PERFMON"
            ) from error
        raise HostError(f"bcc could not build the programs: {error}") from error
    fds = {name: int(module[name.encode()].map_fd) for name in _MAPS}
    index = {fd: number for number, fd in enumerate(fds.values())}
    return Bundle(
        code={name: _relocate(module.dump_func(name.encode()), index.__getitem__) for name in _PROGRAMS},
        maps={name: syscall.map_shape(fd) for name, fd in fds.items()},
        btf_ids={name: btf.function(name) for name in _FUNCTIONS}
        | {name: btf.tracepoint(name) for name in _TRACEPOINTS},
    )


def _may_create_maps() -> bool:
    try:
        os.close(syscall.create_map(syscall.MapShape(syscall.MAP_RINGBUF, 0, 0, mmap.PAGESIZE, 0), "trial"))
    except PermissionError:
        return False
    return True


def _roots(place: Path) -> bool:
    """Return True if a file or folder is root's, and no other user may write to it."""
    found = os.lstat(place)
    return found.st_uid == 0 and not stat.S_ISLNK(found.st_mode) and not found.st_mode & 0o022


def _restore(path: Path) -> Bundle | None:
    """Return a stored bundle if it is whole and only root could have written it; None otherwise."""
    try:
        if not (_roots(path.parent) and _roots(path)):
            return None
        document = msgpack.unpackb(path.read_bytes())
        maps = {name: syscall.MapShape(*shape) for name, shape in document["maps"].items()}
        return Bundle(document["code"], maps, document["btf_ids"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _store(path: Path, made: Bundle) -> None:
    """Store a bundle, as root; if that fails the next start compiles again."""
    if os.geteuid():
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not _roots(path.parent):
            return
        path.parent.chmod(0o755)  # whatever the umask: the service reads it too
        import tempfile  # takes time, and few starts compile

        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as out:
            out.write(msgpack.packb({"code": made.code, "maps": made.maps, "btf_ids": made.btf_ids}))
            os.fchmod(out.fileno(), 0o644)
        os.replace(out.name, path)


def vmlinux() -> Btf:
    """Return the running kernel's types."""
    return Btf(VMLINUX)
