# SPDX-License-Identifier: Apache-2.0
"""The short-lived process that compiles, loads and attaches, hands the descriptors over and goes.

This is the only module that imports bcc. It runs as ``python -m bpf.loader FD [--without FEATURE]...``; FD is one end of
a Unix socket. Its answer is one message: a JSON document and, by SCM_RIGHTS, the descriptors in the order the document
names them. Whoever receives them needs no capability and no LLVM from then on.
"""

import ctypes
import json
import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agent.errors import HostError
from bpf import syscall
from bpf.btf import Btf
from bpf.hooks import CHANGE_PID, FEATURES, RELEASE_TASK, Hook
from bpf.layout import layout

_HERE = Path(__file__).parent
_SOURCES = ("events.h", "kernel.h", "lifecycle.c", "session.c", "sweep.c")
_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = (1 << 14) | (1 << 18)
_MS_BIND = 1 << 12
_NO_BCC = (
    "the system's Python has no bcc. On Debian and Ubuntu: apt-get install python3-bpfcc, and a virtual environment made "
    "with --system-site-packages from /usr/bin/python3. (PyPI's `bcc` is an unrelated package.)"
)


class Loader:
    """One compiled module and what was attached of it.

    Args:
        ring_bytes: size of the ring; a power of two of pages.
        without: kernel features to treat as missing.

    Raises:
        HostError: this host cannot: the message names what is missing.
    """

    def __init__(self, ring_bytes: int, without: Iterable[str] = ()) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._tracefs = self._private_mounts()
        self._layout = layout(Btf(), tuple(without))
        try:
            import bcc  # noqa: PLC0415 - costs 70 MB: only this process, only here
        except ImportError as error:
            raise HostError(_NO_BCC) from error
        if not hasattr(bcc, "BPF"):
            raise HostError(f"{bcc.__file__} is PyPI's `bcc`, not the BPF compiler: pip uninstall bcc; " + _NO_BCC)
        self._bcc = bcc
        self._ring_pages = ring_bytes // os.sysconf("SC_PAGE_SIZE")
        self.descriptors: dict[str, int] = {}
        self.hooks: dict[str, list[str]] = {}
        self.tried: dict[str, str] = {}
        self._module = self._compile(())
        if self._loads(RELEASE_TASK.program):  # fentry works here: worth the time to compile its announcement too
            self._module = self._compile(("-DWITH_CHANGE_PID",))

    def _private_mounts(self) -> Path:
        """Mount tracefs, and hide /proc/kallsyms, where nobody else sees it; both vanish with this process.

        bcc reads all of kallsyms in 1 KB pieces, two thirds of the time it takes to load, for symbols not needed here.
        """
        libc = self._libc
        if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None):
            return Path("/sys/kernel/tracing")  # no CAP_SYS_ADMIN: use what is mounted
        libc.mount(b"/dev/null", b"/proc/kallsyms", None, _MS_BIND, None)
        target = Path("/sys/kernel/tracing")
        if not (target / "events").is_dir():
            libc.mount(b"tracefs", bytes(target), b"tracefs", 0, None)
        return target

    def _compile(self, flags: tuple[str, ...]) -> Any:
        bcc = self._bcc

        class Module(bcc.BPF):  # type: ignore[name-defined, misc]  # bcc has no types
            def _trace_autoload(self) -> None:
                """Attach nothing by name: what is attached is for the table of hooks to say."""

        # Headers that happen to be installed, perhaps another kernel's, must not matter: bcc finds ours first.
        os.environ["BCC_KERNEL_SOURCE"] = str(_HERE)
        text = "\n".join((_HERE / name).read_text() for name in _SOURCES).replace('#include "', "//")
        cflags = [*self._layout.flags, *flags, f"-DRING_PAGES={self._ring_pages}", "-Wno-everything"]
        try:
            return Module(text=text.encode(), cflags=cflags)
        except Exception as error:  # bcc raises nothing narrower
            if os.geteuid():
                raise HostError("not permitted: compiling and loading BPF needs root, or CAP_BPF and CAP_PERFMON") from error
            raise HostError(f"bcc could not build the programs: {error}") from error

    def _load(self, program: str, kind: str) -> int:
        types = self._bcc.BPF
        program_type = {
            "raw_tracepoint": types.RAW_TRACEPOINT,
            "tracepoint": types.TRACEPOINT,
            "fentry": types.TRACING,
            "iterator": types.TRACING,
            "kprobe": types.KPROBE,
        }[kind]
        return int(self._module.load_func(program.encode(), program_type).fd)

    def _loads(self, program: str) -> bool:
        try:
            self._load(program, "fentry")
        except Exception as error:  # noqa: BLE001 - bcc raises nothing narrower; what it said is shown by `status`
            self.tried["fentry"] = str(error)
            return False
        return True

    def _keep(self, name: str, fd: int) -> int:
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.descriptors[name] = fd
        return fd

    def _attach(self, hook: Hook) -> None:
        """Load a program and attach it.

        Raises:
            Exception: bcc's own, or OSError: it does not load, or does not attach.
        """
        if str(hook) in self.descriptors:
            return
        program = self._load(hook.program, hook.kind)
        self.descriptors[f"program:{hook.program}"] = program
        lib = self._bcc.lib
        if hook.kind == "raw_tracepoint":
            self._keep(str(hook), lib.bpf_attach_raw_tracepoint(program, hook.target.encode()))
        elif hook.kind == "tracepoint":
            number = int((self._tracefs / "events/syscalls" / hook.target / "id").read_text())
            link, perf = syscall.link_tracepoint(program, number)
            self._keep(str(hook), link)
            self._keep(f"perf:{hook.target}", perf)
        elif hook.kind == "fentry":
            self._keep(str(hook), lib.bpf_attach_kfunc(program))
        else:
            name = f"ckptree_{hook.target}".encode()
            self._keep(str(hook), lib.bpf_attach_kprobe(program, 0, name, hook.target.encode(), 0, 0))

    def run(self) -> None:
        """Load and attach everything, the best way that works.

        Raises:
            HostError: a required feature has no way that works.
        """
        for name in ("ring", "page", "announce_raw", "announce_perf"):
            self.descriptors[f"map:{name}"] = self._module[name.encode()].map_fd
        slot = ctypes.c_int(0)
        for name, kind in (("raw", "raw_tracepoint"), ("perf", "tracepoint")):
            self._module[f"announce_{name}".encode()][slot] = ctypes.c_int(self._load(f"on_announce_{name}", kind))
        for program in ("state", "marker"):
            self.descriptors[f"program:{program}"] = self._load(program, "raw_tracepoint")
        iterator = self._load("bpf_iter__task", "iterator")
        self.descriptors["iterator"] = syscall.link_iterator(iterator)
        for feature in FEATURES:
            self.hooks[feature.name] = []
            for way in feature.ways:
                try:
                    for hook in way:
                        self._attach(hook)
                except Exception as error:  # noqa: BLE001 - bcc raises nothing narrower; `status` shows what it said
                    self.tried[" + ".join(map(str, way))] = str(error)
                    continue
                self.hooks[feature.name] = [str(hook) for hook in way]
                break
            if feature.required and not self.hooks[feature.name]:
                raise HostError(f"no hook for {feature.name} works on this kernel: {self.tried}")

    def answer(self) -> tuple[dict[str, Any], list[int]]:
        """What goes over the socket."""
        document = {
            "names": list(self.descriptors),
            "hooks": self.hooks,
            "tried": {hook: text for hook, text in self.tried.items() if hook != str(CHANGE_PID)},
            "missing": list(self._layout.missing),
            "bcc": getattr(self._bcc, "__version__", "unknown"),
        }
        return document, list(self.descriptors.values())


def main(argv: list[str]) -> int:
    """Do it once; the exit code tells nothing that the message does not."""
    peer = socket.socket(fileno=int(argv[0]))
    document: dict[str, Any]
    try:
        loader = Loader(int(argv[1]), argv[2:])
        loader.run()
        document, descriptors = loader.answer()
    except HostError as error:
        document, descriptors = {"error": str(error)}, []
    except OSError as error:
        document, descriptors = {"error": f"loading BPF: {error}"}, []
    socket.send_fds(peer, [json.dumps(document).encode()], descriptors)
    sys.stdout.flush()
    os._exit(0)  # bcc's exit handlers would detach what has just been handed over


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
