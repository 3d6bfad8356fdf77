# SPDX-License-Identifier: Apache-2.0
"""The hosts of a job of Slurm, which Slurm's controller alone knows: ``scontrol`` asks it.

``scontrol --oneliner show job JOB`` prints a line of ``KEY=VALUE`` words for each job: of an array or a heterogeneous job
one for each part, of which a part's own number is its JobId. ``show step JOB.STEP`` does so for steps. ``show
hostnames`` expands a list like ``n[1-3,7]``. (Slurm: src/scontrol/info_job.c, scontrol_print_job and _print_job_step)
"""

import re
import subprocess
from typing import Final

from agent.errors import HostError, NoSuchRootError
from agent.rootname import JobName

_ANSWER_S: Final = 30.0
_OVER: Final = re.compile(r"COMPLET|CANCEL|FAIL|TIMEOUT|OUT_OF_MEMORY|BOOT_FAIL|DEADLINE|REVOKED", re.ASCII)


def hosts_of_job(job: JobName, scontrol: str = "scontrol") -> list[str]:
    """Return the hosts of a job or of a step, by the names of Slurm's nodes, in Slurm's order.

    Args:
        job: a number of a job, and a step or none.
        scontrol: the program, or its name on PATH.

    Raises:
        NoSuchRootError: Slurm has no such job or step, or it has no hosts: it waits, or is over.
        HostError: there is no scontrol here, or it reaches no controller.
    """
    named = f"{job.job}.{job.step}" if job.step else job.job
    lines = _asked(scontrol, job, "--oneliner", "show", "step" if job.step else "job", named)
    key = "StepId" if job.step else "JobId"
    found = [told for line in lines.splitlines() if _is_meant((told := _words(line)).get(key, ""), named)]
    if not found:
        raise NoSuchRootError(f"{job}: Slurm has no such {'step' if job.step else 'job'}: see `squeue --steps`")
    hosts: dict[str, None] = {}
    for told in found:
        state, nodes = told.get("JobState", told.get("State", "")), told.get("NodeList", "")
        if _OVER.search(state):
            raise NoSuchRootError(f"{job} is over: Slurm says {state}")
        if nodes in ("", "(null)", "None"):
            raise NoSuchRootError(f"{job} has no hosts: Slurm says {state or 'nothing of its state'}")
        hosts |= dict.fromkeys(_asked(scontrol, job, "show", "hostnames", nodes).split())
    return list(hosts)


def _is_meant(number: str, named: str) -> bool:
    """Return True for a job's or step's own number, and for each component of a heterogeneous step."""
    return number == named or number.partition("+")[0] == named


def _words(line: str) -> dict[str, str]:
    """Return the words of a line; a value may have blanks in it, of which the part behind the first is left out."""
    return {key: value for key, equals, value in (word.partition("=") for word in line.split()) if equals}


def _asked(scontrol: str, job: JobName, *words: str) -> str:
    try:
        ran = subprocess.run(
            [scontrol, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_ANSWER_S,
        )
    except FileNotFoundError as error:
        raise HostError(
            f"{job}: there is no {scontrol} here, which knows the hosts of a job: name the hosts"
        ) from error
    except OSError as error:
        raise HostError(f"{job}: {scontrol} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{job}: {scontrol} had no answer of Slurm's controller within {_ANSWER_S:g} s") from error
    if ran.returncode:
        said = " ".join((ran.stderr.strip() or ran.stdout.strip()).split())
        if "Invalid job" in said or "not found" in said:
            raise NoSuchRootError(f"{job}: Slurm has no such job: {said}")
        raise HostError(f"{job}: {scontrol} {' '.join(words)} failed: {said}")
    return ran.stdout
