# SPDX-License-Identifier: Apache-2.0
"""The set of a job: Slurm says which hosts are expected, and each relay finds the job's tree on its own."""

import json
import os
from contextlib import ExitStack
from pathlib import Path

from tests.live.daemons import Ran, ckptree
from tests.live.slurmjob import a_job, settled
from tests.support import servers
from tests.support.relays import a_relay
from tests.support.slurmcluster import cluster


def test_a_set_has_the_hosts_of_a_step_and_shows_its_ranks(daemon_socket: Path, tmp_path: Path) -> None:
    """The step has one of the two nodes; the relay of the other one is not asked. A job that is over has no hosts."""
    with ExitStack() as stack:
        slurm = stack.enter_context(cluster(tmp_path / "slurm"))
        server = stack.enter_context(servers.nats(tmp_path / "nats"))
        url = f"nats://{server.address}"
        relays = [stack.enter_context(a_relay(tmp_path, node, url, daemon_socket)) for node in slurm.nodes]
        (tmp_path / "bin").mkdir()
        scontrol = tmp_path / "bin" / "scontrol"
        scontrol.write_text("#!/bin/sh\nexec " + " ".join(slurm.words("scontrol")) + ' "$@"\n')
        scontrol.chmod(0o755)
        environment = {"CKPTREE_NATS": url, "PATH": f"{scontrol.parent}:{os.environ['PATH']}"}

        def fleet(*words: str | Path) -> Ran:
            return ckptree("fleet", *words, env=environment)

        with a_job(slurm, "-n2", "-N1", script="srun -n2 sleep 1000; :", steps=1) as job:
            settled(f"slurm:{job}.0", daemon_socket, [["sleep"]] * 2)
            taken = fleet("snapshot", "--job", f"slurm:{job}.0", "--with-argv", "-o", tmp_path / "set")
            whole = fleet("snapshot", "--job", f"slurm:{job}", "-o", tmp_path / "whole")
        over = fleet("snapshot", "--job", f"slurm:{job}", "-o", tmp_path / "over")
        shown = json.loads(fleet("show", tmp_path / "set", "--json").out)

        assert taken.code == 0, taken.err
        assert shown["job"] == f"slurm:{job}.0"
        assert [host["host"] for host in shown["hosts"]] == [slurm.nodes[0]]
        assert [(row["rank"], row["variable"]) for row in shown["ranks"]] == [(0, "SLURM_PROCID"), (1, "SLURM_PROCID")]
        assert sum("arm id=" in relay.log.read_text() for relay in relays) == 1
        assert (whole.code, "topmost processes" in whole.err) == (6, True), whole.err
        assert (over.code, "is over" in over.err) == (4, True), over.err
