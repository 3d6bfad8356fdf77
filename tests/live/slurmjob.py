# SPDX-License-Identifier: Apache-2.0
"""A job of Slurm for a test, and what the command line says of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.live.daemons import Ran, ckptree
from tests.support.slurmcluster import Cluster


@contextmanager
def a_job(slurm: Cluster, *options: str, script: str, steps: int) -> Iterator[str]:
    """Submit a job; yield its number once all its steps run; cancel it at the end."""
    told = slurm.ask("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}")
    job = told.strip()
    try:
        slurm.wait("RUNNING", "squeue", "--noheader", f"--jobs={job}", "--format=%T")
        for step in range(steps):
            slurm.wait(f"{job}.{step} ", "squeue", "--noheader", "--steps", "--format=%i %N")
        yield job
    finally:
        slurm.ask("scancel", "--signal=KILL", "--full", job)
        slurm.ask("scancel", job)


def tree(root: str, socket: Path) -> Ran:
    """Print the trees of a root by the command line."""
    return ckptree("tree", root, "--json", "--socket", socket)


def commands(ran: Ran) -> list[list[str]]:
    """Return the commands of each tree, as JSON has them."""
    found = json.loads(ran.out)
    return [[task["comm"] for task in each["tasks"]] for each in (found if isinstance(found, list) else [found])]


def settled(root: str, socket: Path, wanted: list[list[str]]) -> None:
    """Ask for a root's trees until these are the commands: srun's answer comes before its tasks run their program."""
    for _ in range(100):
        ran = tree(root, socket)
        if ran.code == 0 and commands(ran) == wanted:
            return
    raise AssertionError(f"{root}: {ran.code} {ran.err} {ran.out[:4000]!r}")
