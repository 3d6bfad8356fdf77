# SPDX-License-Identifier: Apache-2.0
"""The part of a build that is no Python: the helper that rebuilds trees is compiled, so the wheel is for one machine; and
manual pages and completions are made from the code.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # as a program it needs no hatchling
    BuildHookInterface = object

TOP = Path(__file__).resolve().parent
FOLDER = TOP / "agent" / "restart"
HELPER = FOLDER / "ckptree-rebuild"
SOURCES = ("rebuild.c", "watch.c", "takedown.c", "watcher.c", "kin.c", "actor.c", "ending.c", "settle.c", "rights.c")
FLAGS = (
    *("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-s"),
    # No C library, no position to find out at the start: the less there is of it, the faster it forks.
    *("-static", "-no-pie", "-fno-pie", "-nostdlib", "-nostartfiles", "-ffreestanding", "-fno-stack-protector"),
    *("-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns"),
    *("-Wl,--build-id=none", "-Wl,-z,noexecstack"),
)


MACHINE_FLAGS = {"aarch64": ("-mno-outline-atomics",)}  # else they are functions of a library that it does not have


def compile_helper() -> None:
    """Compile it beside its sources; it appears whole or not at all."""
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
    """Make what belongs below share; returns the folder. Another process imports the code: this one is somebody else's."""
    folder = TOP / "build" / "share"
    subprocess.run([sys.executable, "-m", "manual", str(folder)], cwd=TOP, check=True, stdout=subprocess.DEVNULL)
    return str(folder)


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc, unused-ignore]
    """What hatchling calls for a wheel, an editable one too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say for which machine. Any Python 3 will do, for the helper is a program of its own."""
        if self.target_name != "wheel":
            return
        compile_helper()
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"].append("agent/restart/ckptree-rebuild")
        if version != "editable":
            build_data["shared_data"][make_manual()] = "share"


if __name__ == "__main__":
    compile_helper()
    sys.exit(0)
