# SPDX-License-Identifier: Apache-2.0
"""The relay's units of the Debian package, under a systemd of their own: presence, and a restart that root permits.

`make test-deb` makes the package and runs this. The container shares the machine's network, where the server of NATS
listens on the loopback address.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.container import Container
from tests.service.host import Ran
from tests.service.roots import TOP, package
from tests.support import servers
from tests.support.relays import a_relay

pytestmark = pytest.mark.deb

RELAY = "ckptree-relay.service"
SETTINGS = """
[relay]
nats = "nats://{address}"
host = "inside"
allow = ["snapshot", "restart"]
[[restart]]
requester = "ops"
run = ["hold"]
signers = "/etc/ckptree/signers.pub"
"""


class Fleet:
    """A container with the package, and one who asks outside of it.

    Attributes:
        container: has a systemd, and is the host `inside`.
        folder: has the set `set`, of the host `old`.
    """

    def __init__(self, folder: Path, container: Container, address: str) -> None:
        self.container = container
        self.folder = folder
        self._address = address

    def run(self, *words: str | Path) -> Ran:
        """Run a verb of the fleet."""
        command = [sys.executable, "-m", "agent", "fleet", *map(str, words), "--nats", f"nats://{self._address}"]
        ran = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False, timeout=120)
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def present(self) -> dict[str, object]:
        """Return the container's line among the hosts; empty: it has none."""
        ran = self.run("hosts", "--json")
        return next((host for host in json.loads(ran.out or "[]") if host["host"] == "inside"), {})

    def instances(self) -> list[str]:
        """Return the units of restarts that run."""
        listed = self.container.systemctl("list-units", "--no-legend", "--plain", "--state=active", "ckptree-restart@*")
        return [line.split()[0] for line in listed.out.splitlines()]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Install the package, configure its relay, start both units, and make a signed set."""
    folder = tmp_path_factory.mktemp("relay")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    container = Container(folder, "openssh-client", own_network=False)
    shutil.copy(package(), container.root / "package.deb")
    with servers.nats(folder / "nats") as nats, a_relay(folder, "old", f"nats://{nats.address}", image=True), container:
        installed = container.run("dpkg --install /package.deb")
        assert installed.code == 0, installed.err
        settings = container.root / "etc" / "ckptree"
        (settings / "relay.toml").write_text(SETTINGS.format(address=nats.address))
        shutil.copy(folder / "key.pub", settings / "signers.pub")
        for path in (settings / "relay.toml", settings / "signers.pub"):
            path.chmod(0o644)
        found = Fleet(folder, container, nats.address)
        taken = found.run("snapshot", "--hosts", "old", "--root", "1", "--sign", folder / "key", "-o", folder / "set")
        assert taken.code == 0, taken.err
        container.do("start", "ckptree-restart.socket", RELAY)
        container.wait(lambda: bool(found.present()))
        yield found
    shutil.rmtree(folder)


def test_neither_unit_is_enabled_by_the_installation(fleet: Fleet) -> None:
    """An administrator says first which server the relay connects to."""
    answers = fleet.container.systemctl("is-enabled", RELAY, "ckptree-restart.socket").out.split()
    assert answers == ["disabled", "disabled"]


def test_the_relay_tells_that_its_host_is_there(fleet: Fleet) -> None:
    """It runs as its own user, below the sandbox of its unit."""
    relay = fleet.container.main_pid(RELAY)
    status = fleet.container.status_of(relay)

    assert fleet.present()["allow"] == ["restart", "snapshot"]
    assert fleet.container.run(f"stat --format=%U /proc/{relay}").out == "ckptree-relay\n"
    assert (status["CapEff"], status["NoNewPrivs"], status["Seccomp"]) == (["0" * 16], ["1"], ["2"])


def test_a_relay_that_is_killed_is_there_again(fleet: Fleet) -> None:
    """Restart=always."""
    before = fleet.container.main_pid(RELAY)
    fleet.container.do("kill", "--signal=KILL", RELAY)

    fleet.container.wait(lambda: fleet.container.main_pid(RELAY) not in {0, before})
    fleet.container.wait(lambda: bool(fleet.present()))


def test_a_tree_stands_in_a_unit_of_its_own_and_ends_with_it(fleet: Fleet) -> None:
    """The relay hands the request to the socket, and systemd starts a service of root's for it."""
    ran = fleet.run("restart", fleet.folder / "set", "--map", "old=inside", "--as", "ops", "--json")
    assert ran.code == 0, (ran.err, fleet.container.run("journalctl --no-pager --lines=60").out)
    ready = json.loads(ran.out)["inside"]
    (unit,) = fleet.instances()
    group = fleet.container.property("ControlGroup", unit)

    assert fleet.container.run(f"grep --fixed-strings '{group}' /proc/{ready['root']}/cgroup").code == 0
    assert {task["numbers"][0] for task in ready["tasks"]}
    fleet.container.do("stop", unit)
    fleet.container.wait(lambda: fleet.container.run(f"test -e /proc/{ready['root']}").code != 0)
    assert fleet.instances() == []


def test_a_set_that_nobody_has_signed_is_refused(fleet: Fleet) -> None:
    """Root's rule names whose signature counts."""
    taken = fleet.run("snapshot", "--hosts", "old", "--root", "1", "-o", fleet.folder / "unsigned")
    assert taken.code == 0, taken.err
    ran = fleet.run("restart", fleet.folder / "unsigned", "--map", "old=inside", "--as", "ops")
    assert (ran.code, "is not signed" in ran.err) == (7, True), ran
    assert fleet.instances() == []
