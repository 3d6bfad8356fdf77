# SPDX-License-Identifier: Apache-2.0
"""Which hook announces what, best first. The loader goes down each list until one really loads and attaches.

Trying is the only test that tells the truth: kernels report support for fentry and refuse the load.
"""

import os
import platform
from typing import Literal, NamedTuple

Kind = Literal["typed_tracepoint", "raw_tracepoint", "tracepoint", "fentry", "fexit", "kprobe"]


class Hook(NamedTuple):
    """One program at one place.

    Attributes:
        kind: how it is attached.
        target: the tracepoint (``sys_exit_setsid``, ``task_newtask``) or the kernel function.
        program: the function in bpf/*.c.
    """

    kind: Kind
    target: str
    program: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}"

    @property
    def traced(self) -> str:
        """The kernel's function or tracepoint whose types the program is told when it is loaded; else empty."""
        return self.target if self.kind in ("typed_tracepoint", "fentry", "fexit") else ""


class Feature(NamedTuple):
    """Something to be announced.

    Attributes:
        name: what `status` calls it.
        required: without it there is no capture at all. Without the others the sweeps still find the change, later.
        ways: alternatives, best first; each is a set of hooks that only make sense together.
    """

    name: str
    required: bool
    ways: tuple[tuple[Hook, ...], ...]


def left_out() -> tuple[str, ...]:
    """Return the hooks and features that CKPTREE_WITHOUT of the environment names, separated by blanks: not to be used."""
    return tuple(os.environ.get("CKPTREE_WITHOUT", "").split())


def _raw(target: str, program: str) -> Hook:
    return Hook("raw_tracepoint", target, program)


def _typed(target: str, program: str) -> Hook:
    return Hook("typed_tracepoint", target, f"{program}_typed")


def _best(target: str, program: str) -> tuple[tuple[Hook, ...], ...]:
    return (_typed(target, program),), (_raw(target, program),)


def _call(name: str) -> Hook:
    return Hook("tracepoint", f"sys_exit_{name}", f"on_{name}")


# fexit on change_pid sees every change of session or group at once, 32-bit system calls too. A kprobe there would see
# the state before the change, and an entry is no announcement; so the system calls' own tracepoints come next.
CHANGE_PID = Hook("fexit", "change_pid", "after_change_pid")
RELEASE_TASK = Hook("fentry", "release_task", "before_release_task")
# The entry point of the system call, which no other call passes; a tracepoint of one call slows all calls a little, and
# distributions that restrict perf events (perf_event_paranoid above 2) give none without CAP_SYS_ADMIN.
_ENTRY = "arm64" if platform.machine() == "aarch64" else "x64"
PRCTL = Hook("fexit", f"__{_ENTRY}_sys_prctl", "after_prctl")

EXEC = _raw("sched_process_exec", "on_exec")
STRINGS = Hook("typed_tracepoint", "sched_process_exec", "on_exec_strings")

FEATURES = (
    Feature("fork", True, _best("task_newtask", "on_fork")),
    # The second one tells of what the first one has told already, so it is behind it.
    Feature("exec", True, ((EXEC, STRINGS), (EXEC,))),
    Feature("exit", True, _best("sched_process_exit", "on_exit")),
    Feature("free", True, _best("sched_process_free", "on_free")),
    Feature("setsid", False, ((CHANGE_PID,), (_call("setsid"),))),
    Feature("setpgid", False, ((CHANGE_PID,), (_call("setpgid"),))),
    Feature("subreaper", False, ((PRCTL,), (_call("prctl"),))),
    Feature(
        "reap",
        False,
        (
            (RELEASE_TASK,),
            (Hook("kprobe", "release_task", "kprobe_release_task"),),
            (_call("wait4"), _call("waitid")),
        ),
    ),
)
