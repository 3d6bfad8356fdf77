# SPDX-License-Identifier: Apache-2.0
"""The hooks for each announcement, best first. The loader goes down each list until one set loads and attaches.

Only an attempt tells the truth: some kernels report support for fentry and refuse the load.
"""

import os
from typing import Final, Literal

from agent.errors import UsageError
from agent.record import NamedTuple
from bpf.layout import OPTIONAL

Kind = Literal["typed_tracepoint", "raw_tracepoint", "tracepoint", "fentry", "fexit", "kprobe"]


class Hook(NamedTuple):
    """One program at one place.

    Attributes:
        kind: the way it is attached.
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
        """The kernel function or tracepoint whose BTF id the load needs; empty for other kinds."""
        return self.target if self.kind in ("typed_tracepoint", "fentry", "fexit") else ""


class Feature(NamedTuple):
    """A kind of change that the hooks announce.

    Attributes:
        name: as `status` prints it.
        required: True if there is no capture without it. Without another one the sweeps find the change later.
        ways: alternatives, best first; each is a set of hooks that only work together.
    """

    name: str
    required: bool
    ways: tuple[tuple[Hook, ...], ...]


def _raw(target: str, program: str) -> Hook:
    return Hook("raw_tracepoint", target, program)


def _typed(target: str, program: str) -> Hook:
    return Hook("typed_tracepoint", target, f"{program}_typed")


def _best(target: str, program: str) -> tuple[tuple[Hook, ...], ...]:
    return (_typed(target, program),), (_raw(target, program),)


def _call(name: str) -> Hook:
    return Hook("tracepoint", f"sys_exit_{name}", f"on_{name}")


# fexit on change_pid sees every change of session or group at once, those of 32-bit system calls too. A kprobe there would
# see the state before the change, too early for an announcement. So the system calls' own tracepoints come next.
CHANGE_PID = Hook("fexit", "change_pid", "after_change_pid")
RELEASE_TASK = Hook("fentry", "release_task", "before_release_task")
# The entry point of the system call, which no other call passes. A tracepoint of one call slows all calls a little, and
# distributions that restrict perf events (perf_event_paranoid above 2) need CAP_SYS_ADMIN for it.
_ENTRY = "arm64" if os.uname().machine == "aarch64" else "x64"
PRCTL = Hook("fexit", f"__{_ENTRY}_sys_prctl", "after_prctl")

EXEC = _raw("sched_process_exec", "on_exec")
STRINGS = Hook("typed_tracepoint", "sched_process_exec", "on_exec_strings")

FEATURES = (
    Feature("fork", True, _best("task_newtask", "on_fork")),
    # The second hook announces the same as the first one, so it comes later.
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

LEFT_OUT_VARIABLE: Final = "CKPTREE_WITHOUT"
"""The environment variable with the hooks and features to leave out, separated by blanks."""


def may_be_left_out() -> tuple[str, ...]:
    """Return the names of the hooks, and of the features without which there still is a capture."""
    hooks = {str(hook): None for feature in FEATURES for way in feature.ways for hook in way}
    return (*hooks, *(feature.name for feature in FEATURES if not feature.required), *OPTIONAL)


def left_out() -> tuple[str, ...]:
    """Return the hooks and features that the environment excludes.

    Raises:
        UsageError: one has a name that no hook and no such feature has.
    """
    words = tuple(os.environ.get(LEFT_OUT_VARIABLE, "").split())
    known = may_be_left_out()
    for word in words:
        if word not in known:
            can = ", ".join(known)
            raise UsageError(f"{LEFT_OUT_VARIABLE}: {word}: nothing of that name can be left out; these can: {can}")
    return words
