# SPDX-License-Identifier: Apache-2.0
"""The short-lived process that loads and attaches, hands the descriptors over and goes.

Its arguments (agent/probes.py starts it) are ``FD RING_BYTES [FEATURE]...``; FD is one end of a Unix socket, and the
features are what to do without: a member of a kernel structure (bpf/layout.py) or a hook (bpf/hooks.py). Its answer is
one message: a JSON document and, by SCM_RIGHTS, the descriptors in the order the document names them. Whoever receives
them needs no capability and no compiler from then on.
"""

import ctypes
import json
import os
import platform
import socket
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from agent.errors import HostError
from bpf import compiler, syscall
from bpf.hooks import FEATURES, Hook, left_out
from bpf.layout import layout

_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = (1 << 14) | (1 << 18)
_MS_BIND = 1 << 12
_TRACEFS = Path("/sys/kernel/tracing")
_LOG_LINES = 4  # of the verifier's log, from its beginning and from its end, in a message
_KPROBE_TYPE = Path("/sys/bus/event_source/devices/kprobe/type")
# The iterator programs that are linked for one process at a time, by whoever asks: feature (bpf/layout.py) -> program and
# what it iterates over.
_TIES = {
    "terminals": ("on_terminal", "bpf_iter_task"),
    "owners": ("on_file", "bpf_iter_task_file"),
    "sharing": ("on_sharing", "bpf_iter_task"),
}
# What is loaded beside the hooks' programs: program, how, and the function whose types it is told.
CALLED = (
    ("on_announce", "raw_tracepoint", ""),
    ("on_announce", "tracepoint", ""),
    ("state", "raw_tracepoint", ""),
    ("marker", "raw_tracepoint", ""),
)
ITERATORS = (("on_task", "iterator", "bpf_iter_task"), *((name, "iterator", on) for name, on in _TIES.values()))
_TYPES = {
    "typed_tracepoint": (syscall.PROG_TRACING, syscall.ATTACH_RAW_TP),
    "raw_tracepoint": (syscall.PROG_RAW_TRACEPOINT, 0),
    "tracepoint": (syscall.PROG_TRACEPOINT, 0),
    "fentry": (syscall.PROG_TRACING, syscall.ATTACH_FENTRY),
    "fexit": (syscall.PROG_TRACING, syscall.ATTACH_FEXIT),
    "iterator": (syscall.PROG_TRACING, syscall.ATTACH_ITER),
    "kprobe": (syscall.PROG_KPROBE, 0),
}


def private_mounts() -> None:
    """Mount tracefs, and hide /proc/kallsyms, where nobody else sees it; both vanish with this process.

    bcc reads all of kallsyms in 1 KB pieces, a seventh of a second, for symbols not needed here.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None):
        return  # no CAP_SYS_ADMIN: what is mounted has to do
    libc.mount(b"/dev/null", b"/proc/kallsyms", None, _MS_BIND, None)
    if not (_TRACEFS / "events").is_dir():
        libc.mount(b"tracefs", bytes(_TRACEFS), b"tracefs", 0, None)


class Loader:
    """What has been loaded and attached.

    Args:
        bundle: the compiled programs.
        ring_bytes: size of the ring; a power of two of pages.
        without: features to leave out, where they are not required, and single hooks by name.
        missing: features that this kernel lacks.

    Attributes:
        descriptors: by name, what is to be handed over.
        hooks: by feature, those in force.
        tried: by hook, what was said to those that did not work.
        missing: as above, and those whose program does not load.
    """

    def __init__(
        self, bundle: compiler.Bundle, ring_bytes: int, without: Collection[str] = (), missing: Collection[str] = ()
    ) -> None:
        self._bundle = bundle
        self.missing = list(missing)
        self._without = without
        self.descriptors: dict[str, int] = {}
        self.hooks: dict[str, list[str]] = {}
        self.tried: dict[str, str] = {}
        self._maps: dict[str, int] = {}
        for name, shape in bundle.maps.items():
            wanted = shape._replace(entries=ring_bytes) if shape.map_type == syscall.MAP_RINGBUF else shape
            self._maps[name] = self.descriptors[f"map:{name}"] = syscall.create_map(wanted, name)

    def load(self, program: str, kind: str, function: str = "") -> int:
        """Load a program.

        Args:
            program: its name.
            kind: of its hook, or ``iterator``.
            function: whose types it is told, where the kind has that.

        Returns:
            Its descriptor.

        Raises:
            OSError: the kernel has no such function, or refuses.
        """
        program_type, attach_type = _TYPES[kind]
        btf_id = self._bundle.btf_ids[function] if function else 0
        if function and not btf_id:
            raise OSError(2, f"this kernel has no {function}")
        return syscall.load_program(
            self._bundle.linked(program, self._maps), program_type, program, attach_type, btf_id
        )

    def _attach(self, hook: Hook) -> None:
        """Load a program and attach it.

        Raises:
            OSError: it does not load, or does not attach.
        """
        name = str(hook)
        if name in self.descriptors:
            return  # it serves another feature already
        if name in self.tried:
            raise OSError(self.tried[name])
        if name in self._without:
            raise OSError("left out")
        program = self.load(hook.program, hook.kind, hook.traced)
        self.descriptors[f"program:{hook.program}"] = program
        if hook.kind == "tracepoint":
            number = int((_TRACEFS / "events/syscalls" / hook.target / "id").read_text())
            self.descriptors[name], self.descriptors[f"perf:{name}"] = syscall.attach_tracepoint(program, number)
        elif hook.kind == "kprobe":
            pmu = int(_KPROBE_TYPE.read_text())
            self.descriptors[name], self.descriptors[f"perf:{name}"] = syscall.attach_kprobe(program, pmu, hook.target)
        else:
            self.descriptors[name] = syscall.attach_raw_tracepoint(program, None if hook.traced else hook.target)

    def run(self) -> None:
        """Load and attach everything, the best way that works.

        Raises:
            HostError: a required feature has no way that works.
            OSError: something every kernel with a BPF ring buffer has does not load.
        """
        for program, kind, _ in CALLED:
            name = f"{program} {kind}" if program == "on_announce" else program
            self.descriptors[f"program:{name}"] = self.load(program, kind)
        for array, kind in (("raw", "raw_tracepoint"), ("perf", "tracepoint")):
            syscall.set_word(self._maps[array], 0, self.descriptors[f"program:on_announce {kind}"])
        self.descriptors["iterator"] = syscall.link_iterator(self.load(*ITERATORS[0]))
        self._load_ties()
        for feature in FEATURES:
            self.hooks[feature.name] = []
            for way in feature.ways if feature.required or feature.name not in self._without else ():
                if self._works(way):
                    self.hooks[feature.name] = [str(hook) for hook in way]
                    break
            if feature.required and not self.hooks[feature.name]:
                raise HostError(f"no hook for {feature.name} works on this kernel: {self.tried}")

    def _load_ties(self) -> None:
        for feature, (program, function) in _TIES.items():
            if feature not in self.missing:
                try:
                    self.descriptors[f"iterator:{feature}"] = self.load(program, "iterator", function)
                except OSError as error:
                    self.tried[f"iterator:{feature}"] = error.strerror or str(error)
                    self.missing.append(feature)

    def _works(self, way: tuple[Hook, ...]) -> bool:
        for hook in way:
            try:
                self._attach(hook)
            except OSError as error:
                self.tried[str(hook)] = error.strerror or str(error)
                return False
        return True


def load(ring_bytes: int, without: Collection[str]) -> tuple[dict[str, Any], list[int]]:
    """Do all of it.

    Returns:
        The document and the descriptors that it names.

    Raises:
        HostError: this host cannot: the message names what is missing.
        OSError: the kernel refused.
    """
    # Before all else: kernels so old also count maps as locked memory, and refuse them as if a right were missing.
    if not syscall.has_fetch_and_add():
        raise HostError(
            f"this kernel ({platform.release()}) has no atomic fetch-and-add for BPF programs, by which ckptree numbers "
            "its records: Linux 5.12 is the first. Boot one that docs/matrix.md names; rights are not what is missing"
        )
    private_mounts()
    btf = compiler.vmlinux()
    offsets = layout(btf, without)
    loader = Loader(compiler.bundle(btf, offsets), ring_bytes, without, offsets.missing)
    loader.run()
    document = {
        "names": list(loader.descriptors),
        "hooks": loader.hooks,
        "tried": loader.tried,
        "missing": loader.missing,
    }
    return document, list(loader.descriptors.values())


def prepare() -> int:
    """Compile into the store what the next start loads; returns the exit code."""
    private_mounts()
    try:
        btf = compiler.vmlinux()
        compiler.bundle(btf, layout(btf))
    except HostError as error:
        print(f"ckptree: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def refusal(error: syscall.VerifierError) -> str:
    """Return what to tell of a program that the verifier refuses, though this process may load programs."""
    log = [*error.log[:_LOG_LINES], "...", *error.log[-_LOG_LINES:]] if len(error.log) > 2 * _LOG_LINES else error.log
    return (
        f"the verifier of this kernel ({platform.release()}) refuses what this bcc makes of ckptree's programs; rights "
        f"are not what is missing. Use a kernel and a bcc that docs/matrix.md names, and report this: {error.strerror}. "
        "The verifier's log: " + " / ".join(line.strip() for line in log)
    )


def main(argv: list[str]) -> None:
    """Answer, and go without running anybody's exit handlers."""
    peer = socket.socket(fileno=int(argv[0]))
    document: dict[str, Any]
    try:
        document, descriptors = load(int(argv[1]), {*argv[2:], *left_out()})
    except HostError as error:
        document, descriptors = {"error": str(error)}, []
    except syscall.VerifierError as error:
        document, descriptors = {"error": refusal(error)}, []
    except PermissionError as error:
        text = f"not permitted: loading BPF needs root, or CAP_BPF and CAP_PERFMON ({error.strerror})"
        document, descriptors = {"error": text}, []
    except OSError as error:
        document, descriptors = {"error": f"this kernel cannot run the programs: {error.strerror}"}, []
    socket.send_fds(peer, [json.dumps(document).encode()], descriptors)
    os._exit(0)
