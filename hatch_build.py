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
HELPER = FOLDER / "ckptree-rebuild"
SOURCES = (
    *("guard.c", "guardloop.c", "takedown.c", "guardwatcher.c", "guardfilter.c", "guardstate.c"),
    *("namespaces.c", "kin.c"),
    *("actor.c", "settle.c", "ending.c", "rights.c", "robust.c", "signals.c", "state.c"),
)
FLAGS = (
    *("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Wmissing-prototypes", "-Werror", "-s"),
    # Neither C library nor position-independent code: a smaller program forks faster.
    *("-static", "-no-pie", "-fno-pie", "-nostdlib", "-nostartfiles", "-ffreestanding", "-fno-stack-protector"),
    *("-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns"),
    *("-Wl,--build-id=none", "-Wl,-z,noexecstack"),
)


MACHINE_FLAGS = {"aarch64": ("-mno-outline-atomics",)}  # else gcc calls functions of a library that is not linked


def compile_helper() -> None:
    """Compile the helper beside its sources; it appears whole or not at all."""
    unfinished = HELPER.with_name(f"{HELPER.name}.{os.getpid()}")
    compiler = os.environ.get("CC", "gcc")
    machine = subprocess.run([compiler, "-dumpmachine"], check=True, capture_output=True, text=True).stdout
    command = [compiler, *FLAGS, *MACHINE_FLAGS.get(machine.partition("-")[0], ()), "-o", str(unfinished), *SOURCES]
    try:
        subprocess.run(command, cwd=FOLDER, check=True)
        unfinished.replace(HELPER)
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
        compile_helper()
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"].append("agent/restart/helper/ckptree-rebuild")
        if version != "editable":
            build_data["shared_data"][make_manual()] = "share"


if __name__ == "__main__":
    compile_helper()
    sys.exit(0)
