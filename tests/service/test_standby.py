# SPDX-License-Identifier: Apache-2.0
"""The unit of stand-bys of the Debian package, under a systemd of its own: it follows a host outside of its container.

`make test-deb` makes the package and runs this. The container shares the machine's network, where the server of NATS
listens on the loopback address.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import pytest

from tests.service.container import Container
from tests.service.roots import TOP, package
from tests.support import servers
from tests.support.standbys import Original

pytestmark = pytest.mark.deb

UNIT = "ckptree-standby@old.service"
COPY = "/var/lib/ckptree-standby/old"


class Followed(NamedTuple):
    """A container in which a stand-by runs, and the host that it follows."""

    container: Container
    original: Original
    address: str

    def told(self) -> dict[str, Any]:
        """Return what the stand-by says to the fleet; empty: it is not there."""
        words = ["fleet", "hosts", "--json", "--nats", f"nats://{self.address}"]
        ran = subprocess.run(
            [sys.executable, "-m", "agent", *words], cwd=TOP, capture_output=True, text=True, check=False, timeout=120
        )
        found = [each for row in json.loads(ran.stdout or "[]") for each in row.get("standbys", ())]
        return found[0] if found else {}

    def await_have(self, order: int) -> None:
        """Wait until the stand-by has a record."""
        self.container.wait(lambda: (self.told().get("have") or 0) >= order)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    """Install the package, configure a stand-by, and start it."""
    folder = tmp_path_factory.mktemp("standby")
    container = Container(folder, "python3-zstandard", own_network=False)
    shutil.copy(package(), container.root / "package.deb")
    with servers.nats(folder / "nats") as nats, closing(Original(folder)) as original, container:
        installed = container.run("dpkg --install /package.deb")
        assert installed.code == 0, installed.err
        settings = container.root / "etc" / "ckptree"
        (settings / "standby.toml").write_text(f'[relay]\nnats = "nats://{nats.address}"\nhost = "inside"\n')
        (settings / "standby-old.env").write_text("ROOT=1\n")
        (settings / "standby.toml").chmod(0o644)
        with original.relay(f"nats://{nats.address}"):
            container.do("start", UNIT)
            yield Followed(container, original, nats.address)
    shutil.rmtree(folder)


def test_a_standby_follows_as_a_user_without_rights(followed: Followed) -> None:
    """Its child, which reads the records of the other host, has a filter more."""
    followed.await_have(followed.original.go_on())
    container = followed.container
    parent = container.main_pid(UNIT)
    child = int(container.run(f"cat /proc/{parent}/task/{parent}/children").out)
    statuses = container.status_of(parent), container.status_of(child)

    assert container.run(f"stat --format=%U /proc/{parent} /proc/{child}").out.split() == ["ckptree-standby"] * 2
    assert [status["CapEff"] for status in statuses] == [["0" * 16]] * 2
    filters = [int(status["Seccomp_filters"][0]) for status in statuses]
    assert filters[1] > filters[0] > 0
    assert container.run(f"stat --format='%U %a' {COPY}").out == "ckptree-standby 700\n"


def test_a_standby_that_is_killed_goes_on_without_a_gap(followed: Followed) -> None:
    """Restart=always."""
    before = followed.container.main_pid(UNIT)
    followed.container.do("kill", "--signal=KILL", UNIT)
    followed.container.wait(lambda: followed.container.main_pid(UNIT) not in {0, before})
    followed.await_have(followed.original.go_on())

    assert followed.told()["gaps"] == 0


def test_root_asks_for_its_figures_and_its_folder_tells_the_past(followed: Followed) -> None:
    """Both without a daemon."""
    order = followed.original.go_on()
    followed.await_have(order)
    figures = followed.container.run("ckptree metrics --standby old")
    tree = followed.container.run(f"ckptree tree 1 --at '#{order}' --record {COPY} --json")

    assert 'ckptree_standby_following{of="old"} 1\n' in figures.out, figures
    assert json.loads(tree.out)["at"]["order"] == order, tree


def test_a_standby_that_is_stopped_ends_in_order(followed: Followed) -> None:
    """Nothing is said of a lost connection, and its folder stays."""
    followed.container.do("stop", UNIT)
    said = followed.container.run(f"journalctl --no-pager --output=cat --unit={UNIT}").out

    assert "ends, as it is told to" in said
    assert "is not followed" not in said
    assert followed.container.property("Result", UNIT) == "success"
    assert followed.container.run(f"ls {COPY}").out.count(".tape") > 0
