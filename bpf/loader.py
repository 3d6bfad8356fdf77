# SPDX-License-Identifier: Apache-2.0
"""The short-lived process that loads and attaches the programs, hands the descriptors over and exits.

Its arguments (agent/capture/probes.py starts it) are ``FD RING_BYTES [FEATURE]...``. FD is one end of a Unix socket.
The features are those to leave out: a member of a kernel structure (bpf/layout.py) or a hook (bpf/hooks.py). Its answer
is one message: a JSON document and, by SCM_RIGHTS, the descriptors in the order in which the document names them. The
receiver needs neither capabilities nor a compiler.
"""

import ctypes
import json
import os
import socket
import threading
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from agent.errors import HostError
from bpf import compiler, syscall
from bpf.hooks import FEATURES, Feature, Hook
from bpf.layout import layout

_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = (1 << 14) | (1 << 18)
_MS_BIND = 1 << 12
_TRACEFS = Path("/sys/kernel/tracing")
_MOST_WORKERS = 8
_LOG_LINES = 4  # lines of the verifier's log in a message, at its beginning and at its end
_KPROBE_TYPE = Path("/sys/bus/event_source/devices/kprobe/type")
# The iterator programs that the daemon links for one process at a time: feature (bpf/layout.py) -> program and the object
# that it iterates over.
_TIES = {
    "terminals": ("on_terminal", "bpf_iter_task"),
    "owners": ("on_file", "bpf_iter_task_file"),
    "sharing": ("on_sharing", "bpf_iter_task"),
}
# The programs beside those of hooks: program, kind, and the function whose BTF id the load needs.
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
    """Mount tracefs and hide /proc/kallsyms in a mount namespace of this process alone, which vanishes with it.

    bcc reads all of kallsyms in 1 KB pieces, a seventh of a second, for symbols that are not needed here.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None):
        return  # no CAP_SYS_ADMIN: the mounts of the host have to do
    libc.mount(b"/dev/null", b"/proc/kallsyms", None, _MS_BIND, None)
    if not (_TRACEFS / "events").is_dir():
        libc.mount(b"tracefs", bytes(_TRACEFS), b"tracefs", 0, None)


class Loader:
    """The programs that are loaded and attached.

    Args:
        bundle: the compiled programs.
        ring_bytes: size of the ring; a power of two of pages.
        without: features to leave out, unless they are required, and single hooks by name.
        missing: features that this kernel lacks.

    Attributes:
        descriptors: those to hand over, by name.
        hooks: the attached ones, by feature.
        tried: the error of each hook that did not work.
        missing: as above, with the features whose program does not load.
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
        self._ahead: dict[tuple[str, str, str], int | OSError] = {}
        for name, shape in bundle.maps.items():
            wanted = shape._replace(entries=ring_bytes) if shape.map_type == syscall.MAP_RINGBUF else shape
            self._maps[name] = self.descriptors[f"map:{name}"] = syscall.create_map(wanted, name)
        # Before any program runs. Only the map has the key, and only the holders of its descriptor can read it.
        syscall.set_entry(self._maps["string_key"], 0, os.urandom(bundle.maps["string_key"].value_bytes))

    def load(self, program: str, kind: str, function: str = "") -> int:
        """Load a program.

        Args:
            program: its name.
            kind: the kind of its hook, or ``iterator``.
            function: the function whose BTF id the load needs, if the kind needs one.

        Returns:
            The program's descriptor.

        Raises:
            OSError: the kernel has no such function, or refuses the program.
        """
        found = self._ahead.pop((program, kind, function), None)
        if isinstance(found, OSError):
            raise found
        return self._verified(program, kind, function) if found is None else found

    def _load_ahead(self, wanted: Iterable[tuple[str, str, str]]) -> None:
        """Load programs, given as the arguments of `load`, on all processors at once.

        The verifier takes longer than all else of a start. It holds no lock where the caller has the rights to load.
        """
        waiting = sorted(dict.fromkeys(wanted), key=lambda each: len(self._bundle.code[each[0]]))

        def work() -> None:
            while True:
                try:
                    each = waiting.pop()  # the longest, so that all end at about the same time
                except IndexError:
                    return
                try:
                    self._ahead[each] = self._verified(*each)
                except OSError as error:
                    self._ahead[each] = error

        workers = [
            threading.Thread(target=work)
            for _ in range(min(len(os.sched_getaffinity(0)), len(waiting), _MOST_WORKERS) - 1)
        ]
        for worker in workers:
            worker.start()
        work()
        for worker in workers:
            worker.join()

    def _verified(self, program: str, kind: str, function: str) -> int:
        """Load a program; arguments and errors as of `load`."""
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
            return  # attached already, for another feature
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
        """Load and attach everything, each feature in the best way that works.

        Raises:
            HostError: a required feature has no way that works.
            OSError: a program does not load that needs no more than a kernel with a BPF ring buffer.
        """
        firsts = [feature.ways[0] for feature in FEATURES if self._is_wanted(feature)]
        ties = [(name, "iterator", on) for tie, (name, on) in _TIES.items() if tie not in self.missing]
        self._load_ahead([*CALLED, ITERATORS[0], *ties, *self._unloaded(firsts)])
        for program, kind, _ in CALLED:
            name = f"{program} {kind}" if program == "on_announce" else program
            self.descriptors[f"program:{name}"] = self.load(program, kind)
        for array, kind in (("raw", "raw_tracepoint"), ("perf", "tracepoint")):
            syscall.set_word(self._maps[array], 0, self.descriptors[f"program:on_announce {kind}"])
        self.descriptors["iterator"] = syscall.link_iterator(self.load(*ITERATORS[0]))
        self._load_ties()
        self.hooks = {feature.name: [] for feature in FEATURES}
        left = [feature for feature in FEATURES if self._is_wanted(feature)]
        for rank in range(max(len(feature.ways) for feature in FEATURES)):
            self._load_ahead(self._unloaded(feature.ways[rank] for feature in left))
            for feature in left:
                if self._works(feature.ways[rank]):
                    self.hooks[feature.name] = [str(hook) for hook in feature.ways[rank]]
            left = [feature for feature in left if not self.hooks[feature.name]]
            if hopeless := [feature.name for feature in left if feature.required and len(feature.ways) == rank + 1]:
                raise HostError(f"no hook for {hopeless[0]} works on this kernel: {self.tried}")
            left = [feature for feature in left if len(feature.ways) > rank + 1]

    def _is_wanted(self, feature: Feature) -> bool:
        return feature.required or feature.name not in self._without

    def _unloaded(self, ways: Iterable[tuple[Hook, ...]]) -> list[tuple[str, str, str]]:
        """Return the programs of some hooks that are neither loaded nor known to fail, as the arguments of `load`."""
        known = {*self.descriptors, *self.tried, *self._without}
        hooks = [hook for way in ways for hook in way if str(hook) not in known]
        programs = [(hook.program, hook.kind, hook.traced) for hook in hooks]
        return [each for each in programs if each not in self._ahead]

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
    """Compile, load and attach all programs.

    Returns:
        The document and the descriptors that it names.

    Raises:
        HostError: this host lacks something; the message names it.
        OSError: the kernel refused.
    """
    # Before all else: so old a kernel also counts maps as locked memory, and its refusal looks like a missing right.
    if not syscall.has_fetch_and_add():
        raise HostError(
            f"this kernel ({os.uname().release}) has no atomic fetch-and-add for BPF programs, by which ckptree numbers "
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


def prepare(say: Callable[[str], None]) -> int:
    """Compile for the next start and store the result; return the exit code.

    Args:
        say: prints an error.
    """
    private_mounts()
    try:
        btf = compiler.vmlinux()
        compiler.bundle(btf, layout(btf))
    except HostError as error:
        say(str(error))
        return error.exit_code
    return 0


def refusal(error: syscall.VerifierError) -> str:
    """Return the message for a program that the verifier refuses although this process may load programs."""
    log = [*error.log[:_LOG_LINES], "...", *error.log[-_LOG_LINES:]] if len(error.log) > 2 * _LOG_LINES else error.log
    return (
        f"the verifier of this kernel ({os.uname().release}) refuses what this bcc makes of ckptree's programs; rights "
        f"are not what is missing. Use a kernel and a bcc that docs/matrix.md names, and report this: {error.strerror}. "
        "The verifier's log: " + " / ".join(line.strip() for line in log)
    )


def main(argv: list[str]) -> None:
    """Send the answer, and exit without exit handlers of any library."""
    peer = socket.socket(fileno=int(argv[0]))
    document: dict[str, Any]
    try:
        document, descriptors = load(int(argv[1]), set(argv[2:]))
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
