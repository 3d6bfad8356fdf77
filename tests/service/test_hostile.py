# SPDX-License-Identifier: Apache-2.0
"""The installed unit under attack by another user's processes: its answers to root, and their cost.

The machine runs the package on Debian's kernel, emulated, so the figures are compared with those without an attack.
`pytest -rP` shows them.
"""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import clients
from tests.hostile.compiled import noise
from tests.service.host import Host

pytestmark = pytest.mark.live

SECONDS = 5
SOCKET = "/run/ckptree/ckptree.sock"
CLIENTS = "/run/hostile-clients.py"
NOISE = "/run/hostile-noise"
FEW_MS, TIMES = 100, 20  # limits of root's median wait, and of its ratio to the wait without attacks
MOST_WAIT_MS = 500  # of the slowest hundredth, likewise
MOST_TURN_MS, MOST_MB = 500, 80
LIVES_S = 60  # of attackers, which are stopped once root's requests are measured
# Root's snapshots of a process, each over a new connection, and the daemon's count of lost records.
ASK = f"""
import json, os, sys, time
from agent.protocol.client import Client
first = Client().metrics()
end, took = time.monotonic() + {SECONDS}, []
while time.monotonic() < end:
    begin = time.monotonic()
    with Client() as client:
        client.snapshot(sys.argv[1])
    took.append((time.monotonic() - begin) * 1e3)
    time.sleep(0.02)
metrics, took = Client().metrics(), sorted(took)
print(json.dumps({{
    "answers": len(took),
    "median_ms": took[len(took) // 2],
    "p99_ms": took[len(took) * 99 // 100],
    "lost": sum(metrics["lost"].values()) - sum(first["lost"].values()),
    "allowed_per_second": metrics["allowed_per_second"],
    "turn_ms": metrics["loop"]["longest_turn_s"] * 1e3,
}}))
"""


@pytest.fixture(scope="module")
def attacked(host: Host) -> Host:
    """Return the host with the service and the attackers active."""
    host.do("start", "ckptree.service")
    host.put(noise().read_bytes(), NOISE)
    host.put(Path(clients.__file__).read_bytes(), CLIENTS)
    return host


def asked(host: Host) -> dict[str, Any]:
    """Measure root's requests for a while."""
    ran = host.run(f"sleep 99 & {shlex.join([host.python, '-c', ASK])} $!; code=$?; kill $!; exit $code")
    assert ran.code == 0, ran.err + host.log()
    return dict(json.loads(ran.out))


def resident_mb(host: Host) -> float:
    """Return the daemon's memory in MB without the ring's pages, which belong to the kernel."""
    status = host.status_of(host.main_pid())
    return sum(int(status[key][0]) for key in ("RssAnon", "RssFile")) / 1024


@pytest.mark.machine
def test_the_package_is_attacked(attacked: Host) -> None:
    """The unit's file, its program and its modules are the package's, unchanged; the machine adds patience alone."""
    host, of_package = attacked, "/usr/lib/ckptree/"
    unit = host.property("FragmentPath")
    modules = host.run(f"{host.python} -c 'import agent, bpf; print(agent.__file__, bpf.__file__)'").out.split()
    running = host.run(f"tr '\\0' '\\n' < /proc/{host.main_pid()}/cmdline").out.splitlines()

    assert host.run(f"dpkg --search {unit}").out.startswith("ckptree: ")
    assert host.property("DropInPaths").split() == ["/etc/systemd/system/ckptree.service.d/emulated.conf"]
    assert host.run("dpkg --verify ckptree | grep -v /usr/share/").out == ""  # this root has no manuals
    assert running[:2] == [f"{of_package}bin/python3", "/usr/bin/ckptree"]
    assert all(path.startswith(of_package) for path in modules)


@pytest.mark.parametrize("kind", ["flip-subreaper", "reaps", "connects", "slow-readers"])
def test_root_is_answered_by_the_installed_service_beside(attacked: Host, kind: str) -> None:
    """The daemon does not restart, loses no record, and has bounded memory."""
    host = attacked
    host.do("restart", "ckptree.service")
    quiet, main = asked(host), host.main_pid()
    of_kernel = kind not in clients.KINDS
    attack = [NOISE, str(LIVES_S), kind] if of_kernel else [host.python, CLIENTS, kind, SOCKET, str(LIVES_S)]
    user = ["--property=User=65534"] if of_kernel else []  # the client changes to that user by itself
    unit = f"attack-{kind}.service"
    started = host.run(shlex.join(["systemd-run", host.manager, "--quiet", f"--unit={unit}", *user, *attack]))
    assert started.code == 0, started.err
    beside = asked(host)
    went_on = host.property("ActiveState", unit)
    host.systemctl("stop", unit)
    print(f"beside {kind}: {beside}; without: {quiet}")

    assert went_on == "active", "the attackers have ended"
    assert beside["lost"] == 0
    assert beside["median_ms"] < max(FEW_MS, TIMES * quiet["median_ms"]), quiet
    assert beside["p99_ms"] < max(MOST_WAIT_MS, TIMES * quiet["p99_ms"]), quiet
    assert beside["turn_ms"] < max(MOST_TURN_MS, TIMES * quiet["turn_ms"]), quiet
    assert resident_mb(host) < MOST_MB
    assert (host.main_pid(), host.property("NRestarts")) == (main, "0")
