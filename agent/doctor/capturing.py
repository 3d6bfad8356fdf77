# SPDX-License-Identifier: Apache-2.0
"""Findings about capturing: by a daemon that runs, and by BPF of this process, with the reasons for failures."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent import rootname
from agent.capture.probes import Probes
from agent.capture.snapshots import Snapshots
from agent.capture.watch import Watch
from agent.config import Config
from agent.doctor.diagnosis import Diagnosis, State
from agent.errors import CkptreeError, HostError, in_words
from agent.proc import host
from agent.protocol.client import Client
from bpf import syscall
from bpf.btf import VMLINUX, Btf
from bpf.hooks import FEATURES, Feature
from bpf.layout import layout

_CAPABILITIES: Final = {"CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
_TRACEFS: Final = Path("/sys/kernel/tracing/events")
_IMPORT_BCC: Final = "import bcc; bcc.BPF; print(bcc.__version__)"
_PATIENCE_S: Final = 60
_INSTALL_BCC: Final = (
    "apt-get install python3-bpfcc, and a virtual environment made by /usr/bin/python3 -m venv --system-site-packages"
)
_LOST: Final = {
    "setsid": "new sessions are found by the next sweep",
    "setpgid": "changes of groups are found by the next sweep",
    "subreaper": "new subreapers are found by the next sweep",
    "reap": "reaps are found when the kernel frees the task",
}


def examine(socket: Path | None) -> Iterator[Diagnosis]:
    """Yield all findings about capturing; the last one is about the whole, as ``capture``.

    Args:
        socket: of the daemon, if one runs; None: the default.
    """
    daemon, answers = _daemon(socket)
    own, hooks = _own_watch()
    yield daemon
    for part in _parts(own, hooks):
        # A part that this process lacks does no harm where a daemon answers, or the whole has just worked.
        harmless = part.state == "no" and (answers or own.state == "ok")
        yield part._replace(state="warn") if harmless else part
    if own.state == "ok" or not answers:
        yield own
    else:
        yield Diagnosis("warn", "bpf", own.found, "not needed while the daemon answers")
        yield Diagnosis("ok", "capture", "the daemon has taken a snapshot of this process")


def _parts(own: Diagnosis, hooks: list[Diagnosis]) -> Iterator[Diagnosis]:
    yield _pid_namespace()
    yield _btf()
    yield _bcc()
    yield _capabilities(Path("/proc"))
    yield _ring_buffer()
    yield lockdown(Path("/sys/kernel/security/lockdown"))
    yield from hooks
    yield _tracefs(hooks)
    if own.state != "ok":
        yield from _memory_lock()


def _daemon(socket: Path | None) -> tuple[Diagnosis, bool]:
    try:
        with Client(socket, 10.0) as client:
            sees = client.hello().sees
            status = client.status()
            answer = client.snapshot(str(os.getpid()), mode="subtree")
            path = client.path
    except CkptreeError as error:
        return Diagnosis(
            "warn", "daemon", str(error), "without one, births from before a snapshot are not known"
        ), False
    text = f"pid {status['pid']} on {path} watches {status['tasks']} tasks, for {status['uptime_s']:.0f} s now"
    text += "" if sees == "all" else "; this user is shown their own, root and the group of the daemon all"
    if not answer.complete:
        return Diagnosis("warn", "daemon", f"{text}; a snapshot of this process was incomplete: {answer.reasons}"), True
    return Diagnosis("ok", "daemon", text), True


def _own_watch() -> tuple[Diagnosis, list[Diagnosis]]:
    """Load the kernel side, and take a snapshot of this process."""
    try:
        watch = Watch.begin(Probes(Config().ring_bytes))
    except (HostError, OSError) as error:
        return Diagnosis("no", "capture", in_words(error), "" if os.geteuid() == 0 else "be root, or ask a daemon"), []
    try:
        hooks = [hook(each, watch.probes.hooks[each.name], watch.probes.tried) for each in FEATURES]
        snapshots = Snapshots(watch)
        snapshot = snapshots.take(snapshots.find(rootname.parse(str(os.getpid()))), "subtree")
    except CkptreeError as error:
        return Diagnosis("no", "capture", str(error)), hooks
    finally:
        watch.close()
    done = snapshot.completeness
    if not done.complete:
        return Diagnosis("no", "capture", f"a snapshot of this process is incomplete: {'; '.join(done.reasons)}"), hooks
    return Diagnosis("ok", "capture", f"a snapshot of this process is complete, verified by {done.verified}"), hooks


def hook(feature: Feature, used: list[str], tried: dict[str, str]) -> Diagnosis:
    """Return the hooks that announce a kind of change, with the kernel's errors for better ones that it refused.

    Args:
        feature: the kind of change.
        used: the hooks in force.
        tried: by hook, the error for those that do not work.
    """
    refused = "; ".join(f"{each}: {tried[str(each)]}" for way in feature.ways for each in way if str(each) in tried)
    name = f"hook for {feature.name}"
    if used:
        return Diagnosis("ok", name, ", ".join(used) + (f" (better, and refused: {refused})" if refused else ""))
    mend = "mount -t tracefs tracefs /sys/kernel/tracing"
    return Diagnosis("warn", name, f"none works ({refused}): {_LOST.get(feature.name, '')}", mend)


def _pid_namespace() -> Diagnosis:
    try:
        initial = host.in_initial_pid_namespace()
    except HostError as error:
        return Diagnosis("no", "pid namespace", str(error))
    if initial:
        return Diagnosis("ok", "pid namespace", "the initial one")
    mend = "run the daemon on the host; from here it can be asked, where its socket is mounted here"
    return Diagnosis("warn", "pid namespace", "a child of the initial one: this process cannot watch", mend)


def _btf() -> Diagnosis:
    try:
        missing = layout(Btf(VMLINUX)).missing
    except HostError as error:
        return Diagnosis(
            "no", "btf", str(error), "boot a kernel with CONFIG_DEBUG_INFO_BTF=y: distributions' kernels are"
        )
    lacks = f"; this kernel lacks {', '.join(missing)}, and is read all the same" if missing else ""
    return Diagnosis("ok", "btf", f"{VMLINUX} has every structure that is needed{lacks}")


def _bcc() -> Diagnosis:
    try:
        ran = subprocess.run(
            [sys.executable, "-P", "-c", _IMPORT_BCC], capture_output=True, text=True, check=False, timeout=_PATIENCE_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Diagnosis("no", "bcc", in_words(error))
    if ran.returncode == 0:
        return Diagnosis("ok", "bcc", f"the system's, version {ran.stdout.strip()}")
    said = ran.stderr.strip().splitlines()[-1:] or ["it does not say why"]
    return Diagnosis("no", "bcc", f"cannot be imported: {said[0]}", _INSTALL_BCC)


def _capabilities(proc: Path) -> Diagnosis:
    has = effective(proc)
    missing = [name for name, number in _CAPABILITIES.items() if not has >> number & 1]
    if not missing:
        return Diagnosis("ok", "capabilities", ", ".join(_CAPABILITIES))
    state: State = "warn" if missing == ["CAP_SYS_ADMIN"] else "no"
    mend = "be root; a service has them from AmbientCapabilities="
    return Diagnosis(state, "capabilities", f"without {', '.join(missing)}", mend)


def effective(proc: Path) -> int:
    """Return this process's effective capabilities, one bit each."""
    return int(host.own_status(proc).get("CapEff", "0"), 16)


def _ring_buffer() -> Diagnosis:
    try:
        os.close(syscall.create_map(syscall.MapShape(syscall.MAP_RINGBUF, 0, 0, resource.getpagesize(), 0), "doctor"))
    except PermissionError as error:
        return Diagnosis("no", "ring buffer", f"not permitted: {error.strerror}", "be root, or have CAP_BPF")
    except OSError as error:
        return Diagnosis(
            "no", "ring buffer", f"the kernel has none: {error.strerror}", "boot a kernel that docs/matrix.md names"
        )
    return Diagnosis("ok", "ring buffer", "the kernel makes one")


def lockdown(path: Path) -> Diagnosis:
    """Check the kernel's lockdown: its strictest mode keeps BPF from reading the kernel's memory."""
    try:
        text = path.read_text()
    except OSError:
        return Diagnosis("ok", "lockdown", "this kernel has none, or does not tell")
    mode = text.partition("[")[2].partition("]")[0] or "unknown"
    if mode == "confidentiality":
        mend = "boot with lockdown=integrity, or without Secure Boot"
        return Diagnosis("no", "lockdown", "confidentiality: BPF may not read kernel memory", mend)
    return Diagnosis("ok", "lockdown", mode)


def _tracefs(hooks: list[Diagnosis]) -> Diagnosis:
    if os.path.ismount(_TRACEFS.parent):  # only root may read its content, so the mount is checked
        return Diagnosis("ok", "tracefs", f"mounted on {_TRACEFS.parent}")
    if any("tracepoint:sys_" in one.found for one in hooks if one.state == "ok"):
        return Diagnosis("ok", "tracefs", "not mounted; the loader mounts it for itself")
    return Diagnosis("warn", "tracefs", "not mounted, or not to be read", f"mount -t tracefs tracefs {_TRACEFS.parent}")


def _memory_lock() -> Iterator[Diagnosis]:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY:
        found = f"at most {soft} bytes; kernels before 5.11 count BPF's maps among them"
        yield Diagnosis("warn", "memory lock", found, "ulimit -l unlimited; LimitMEMLOCK=infinity in a unit")
