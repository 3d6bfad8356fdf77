# SPDX-License-Identifier: Apache-2.0
"""The build steps beside Python: compilation of the rebuild helper, which makes the wheel specific to a machine, and
the generation of manual pages and completions.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # not needed for running this file as a program
    BuildHookInterface = object

TOP = Path(__file__).resolve().parent
FOLDER = TOP / "agent" / "restart" / "helper"
SOURCES = {
    "ckptree-rebuild": (
        *("guard.c", "guardloop.c", "takedown.c", "guardwatcher.c", "guardfilter.c", "guardstate.c"),
        *("namespaces.c", "kin.c"),
        *("actor.c", "settle.c", "filled.c", "ending.c", "rights.c", "robust.c", "signals.c", "stage.c", "state.c"),
        "kernel_calls.c",
    ),
    "ckptree-restorer": ("restorer.c", "pages.c", "ring.c"),
    "ckptree-resume": ("resume.c", "kernel_calls.c"),
}
"""The programs beside Python, each with its sources."""
FLAGS = (
    *("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Wmissing-prototypes", "-Werror", "-s"),
    *("-static", "-nostdlib", "-nostartfiles", "-ffreestanding", "-fno-stack-protector"),
    *("-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns"),
    *("-Wl,--build-id=none", "-Wl,-z,noexecstack"),
)
# Neither C library nor position-independent code, and one segment for code and constants: a smaller program with fewer
# areas forks faster.
FIXED = ("-no-pie", "-fno-pie", "-Wl,-z,noseparate-code")
# The restorer is one block of code, which each task maps where its image leaves room.
FLAT = ("-no-pie", "-fpie", "-fvisibility=hidden", "-Wl,-T,restorer.ld", "-Wl,--oformat=binary")


MACHINE_FLAGS = {"aarch64": ("-mno-outline-atomics",)}  # else gcc calls functions of a library that is not linked


def compile_helpers() -> None:
    """Compile the helpers beside their sources; each appears whole or not at all."""
    compiler = os.environ.get("CC", "gcc")
    machine = subprocess.run([compiler, "-dumpmachine"], check=True, capture_output=True, text=True).stdout
    flags = (*FLAGS, *MACHINE_FLAGS.get(machine.partition("-")[0], ()))
    for name, sources in SOURCES.items():
        unfinished = FOLDER / f"{name}.{os.getpid()}"
        form = FLAT if name == "ckptree-restorer" else FIXED
        try:
            subprocess.run([compiler, *flags, *form, "-o", str(unfinished), *sources], cwd=FOLDER, check=True)
            if form is FLAT:
                unfinished.chmod(0o644)  # it is mapped, and is no program that exec() takes
            unfinished.replace(FOLDER / name)
        finally:
            unfinished.unlink(missing_ok=True)


def make_manual() -> str:
    """Generate the files below share in a process of its own, because that imports the code; return the folder."""
    folder = TOP / "build" / "share"
    subprocess.run([sys.executable, "-m", "manual", str(folder)], cwd=TOP, check=True, stdout=subprocess.DEVNULL)
    return str(folder)


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc, unused-ignore]
    """The hook that hatchling calls for a wheel, an editable one included."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the helper and tag the wheel with the machine, for any Python 3: the helper is a program of its
        own."""
        if self.target_name != "wheel":
            return
        compile_helpers()
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"] += [f"agent/restart/helper/{name}" for name in SOURCES]
        if version != "editable":
            build_data["shared_data"][make_manual()] = "share"


if __name__ == "__main__":
    compile_helpers()
    sys.exit(0)
