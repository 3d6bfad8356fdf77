# SPDX-License-Identifier: Apache-2.0
"""A cluster of Slurm on this machine: munged, slurmctld, and a slurmd for each of two nodes, from Debian's packages.

Both nodes are this host, on loopback ports of their own, and jobs are tracked by cgroups. With cgroups of version 2 all
of it is in a cgroup of its own, whose namespace has no other process: else Slurm would not manage it.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from agent.proc import cgroups
from tests.support import debianroot

_PACKAGES: Final = ("munge", "slurm-client", "slurm-wlm-basic-plugins", "slurmctld", "slurmd")
_SOURCE: Final = Path(__file__).with_name("onlyunified.c")
_PATIENCE_S: Final = 90.0
# slurmstepd asks after the name of the program that it is part of, which Debian's alternatives set.
_SCRIPT: Final = """
munged --foreground --force --num-threads 1 --key-file /etc/munge/munge.key --socket /run/munge/munge.socket.2 &
until [ -e /run/munge/munge.socket.2 ]; do sleep 0.05; done
slurmctld -D -c &
for node in {nodes}; do
    {preload} slurmd -D -N $node &
done
exec sleep 10000
"""


class Cluster(NamedTuple):
    """A cluster that runs.

    Attributes:
        nodes: their names.
        outer: see debianroot.running.
        scratch: see debianroot.running.
    """

    nodes: tuple[str, ...]
    outer: int
    scratch: Path

    def words(self, *words: str) -> list[str]:
        """Return the words that run one of Slurm's programs."""
        return debianroot.inside(self.outer, *words)

    def ask(self, *words: str) -> str:
        """Run one of Slurm's programs; return what it prints."""
        ran = subprocess.run(self.words(*words), capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
        assert ran.returncode == 0, f"{ran.stderr}{(self.scratch / 'log').read_text()}"
        return ran.stdout

    def wait(self, said: str, *words: str) -> str:
        """Run one of Slurm's programs until its output has a text; return the output."""
        deadline = time.monotonic() + _PATIENCE_S
        while said not in (out := self.ask(*words)):
            assert time.monotonic() < deadline, f"{words}: {out}{(self.scratch / 'log').read_text()}"
            time.sleep(0.1)
        return out


@contextmanager
def cluster(folder: Path, version: int | None = None) -> Iterator[Cluster]:
    """Start a cluster for the time of the block.

    Args:
        folder: a new one for its files.
        version: of cgroups, one of `versions`; None: the first of them.
    """
    version = versions()[0] if version is None else version
    root = debianroot.unpacked("slurm", _PACKAGES)
    for program in ("slurmctld", "slurmd", "slurmstepd"):
        link = root / "usr/sbin" / program
        if not os.path.lexists(link):
            link.symlink_to(f"{program}-wlm")
    scratch = debianroot.prepared(folder / "scratch")
    nodes = tuple(f"n{os.getpid()}x{number}" for number in (1, 2))
    _configure(scratch, nodes, version)
    preload, own = "", None
    if version != 1:
        library = scratch / "var/lib/onlyunified.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, _SOURCE, "-ldl"], check=True)
        preload = "LD_PRELOAD=/var/lib/onlyunified.so"
        own = next(one.mount for one in cgroups.hierarchies() if one.options is None) / f"ckptree-{os.getpid()}"
    script = _SCRIPT.format(nodes=" ".join(nodes), preload=preload)
    with debianroot.running(root, scratch, script, [f"slurm_{node}" for node in nodes], own) as outer:
        deadline = time.monotonic() + _PATIENCE_S
        found = Cluster(nodes, outer, scratch)
        while True:
            ran = subprocess.run(
                found.words("sinfo", "--noheader", "--format=%T %D"),
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            if ran.stdout.split() == ["idle", str(len(nodes))]:
                break
            log = (scratch / "log").read_text()
            assert time.monotonic() < deadline, f"{ran.stdout}{ran.stderr}{log}"
            time.sleep(0.2)
        yield found


def versions() -> list[int]:
    """Return the versions of cgroups that Slurm can use here: of version 1 it needs the controller ``freezer``."""
    mounted = cgroups.hierarchies()
    first = any(one.options and "freezer" in one.options for one in mounted)
    return [*([1] if first else []), *([2] if any(one.options is None for one in mounted) else [])]


def _configure(scratch: Path, nodes: tuple[str, ...], version: int) -> None:
    etc = scratch / "etc"
    for place in ("etc/munge", "etc/slurm", "run/munge", "var/lib/munge", "var/log/munge", "var/spool/ctld"):
        (scratch / place).mkdir(parents=True)
    key = etc / "munge/munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    for node in nodes:
        (scratch / "var/spool" / node).mkdir()
    controller, *ports = _free_ports(1 + len(nodes))
    lines = [
        "ClusterName=test",
        f"SlurmctldHost={os.uname().nodename}(127.0.0.1)",
        f"SlurmctldPort={controller}",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        "StateSaveLocation=/var/spool/ctld",
        "SlurmdSpoolDir=/var/spool/%n",
        "SlurmctldPidFile=/run/slurmctld.pid",
        "SlurmdPidFile=/run/%n.pid",
        "ProctrackType=proctrack/cgroup",
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/none",
        "MpiDefault=none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU",
        "SlurmdParameters=config_overrides",
        "ReturnToService=2",
        "MailProg=/bin/true",
    ]
    for node, port in zip(nodes, ports, strict=True):
        lines.append(f"NodeName={node} NodeHostname={os.uname().nodename} NodeAddr=127.0.0.1 Port={port} CPUs=8")
    lines.append("PartitionName=all Nodes=ALL Default=YES State=UP")
    (etc / "slurm/slurm.conf").write_text("".join(f"{line}\n" for line in lines))
    (etc / "slurm/cgroup.conf").write_text(
        "CgroupPlugin=cgroup/v1\n" if version == 1 else "CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\n"
    )


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()
