# SPDX-License-Identifier: Apache-2.0
"""The Debian package in a clean Debian with systemd as its first process: installed, run, upgraded, removed, purged.

`make test-deb` makes the package and runs this. In a container the service must refuse to start; test_service.py tests
it in a machine with the same package.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import PurePath
from typing import NamedTuple

import pytest

from agent.config import Config
from tests.service.container import Container
from tests.service.host import Ran
from tests.service.roots import package, upgrade

pytestmark = pytest.mark.deb

SPECIAL = "-path /proc -o -path /sys -o -path /dev -o -path /tmp"
# Files that dpkg, apt and systemd write for any package.
NOT_OURS = ("/var/log/", "/var/lib/dpkg/", "/var/lib/systemd/", "/run/", "/etc/.pwd.lock")


class Life(NamedTuple):
    """Observations of the package, from before its installation to after its removal.

    Attributes:
        before, after: all files.
        installed, upgraded, removed, purged: the exit of dpkg.
        kept: the configuration file, after an edit and an upgrade, and after the removal.
        answers: output of commands in between, by question.
    """

    before: frozenset[str]
    after: frozenset[str]
    installed: Ran
    upgraded: Ran
    removed: Ran
    purged: Ran
    kept: tuple[str, str]
    answers: dict[str, Ran]


FIND_OURS = "cd /usr/lib/ckptree/lib/python3*/site-packages && find agent bpf exporters"
QUESTIONS = {
    "version": "ckptree --version",
    "snapshot": "ckptree snapshot $$ --source procfs --allow-incomplete -o /tmp/tree.ckpt && ckptree check /tmp/tree.ckpt",
    "page": "ckptree convert /tmp/tree.ckpt /tmp/tree.html -f html && grep -c '</html>' /tmp/tree.html",
    "share": "dpkg --listfiles ckptree | grep -E '^/usr/share/(man/man|bash|zsh|fish).*/[^/]*ckptree[^/]*$'",
    "unit": "ckptree snapshot unit:systemd-journald --source procfs --allow-incomplete --no-plan -f json",
    "main": "systemctl show --property=MainPID --value systemd-journald",
    "bcc": "/usr/lib/ckptree/bin/python3 -c 'import bcc; print(bcc.__file__)'",
    "user": "getent passwd ckptree; getent group ckptree",
    "enabled": "systemctl is-enabled ckptree.service ckptree.socket ckptree-private.socket",
    "sockets": "systemctl is-active ckptree.socket ckptree-private.socket; stat --format=%n:%a:%U:%G /run/ckptree/*",
    "service": "systemctl show --property=ExecMainStatus --property=NRestarts --property=Result ckptree.service",
    "log": "journalctl --unit=ckptree.service --output=cat --no-pager",
    "verify": "systemd-analyze verify --man=no ckptree.service ckptree.socket ckptree-private.socket",
    "program": "systemctl show --property=ExecStart --value ckptree.service",
    "modules": f"{FIND_OURS} -name '*.py'",
    "compiled": f"{FIND_OURS} -path '*/__pycache__/*.pyc'",
    "owners": "find /usr/lib/ckptree /etc/ckptree ! -user root",
    "files": "dpkg --verify ckptree | grep -v /usr/share/",  # this root has no manuals
}
CONFIGURATION = "/etc/ckptree/ckptree.toml"


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """Install, run, upgrade, remove and purge the package, in turn."""
    folder = tmp_path_factory.mktemp("deb")
    container = Container(folder)
    shutil.copy(package(), container.root / "package.deb")
    shutil.copy(upgrade(package(), folder), container.root / "upgrade.deb")

    def files() -> frozenset[str]:
        found = container.run(f"find / \\( {SPECIAL} \\) -prune -o -print").out.splitlines()
        return frozenset(path for path in found if not path.startswith(NOT_OURS))

    with container:
        before = files()
        installed = container.run("dpkg --install /package.deb")
        answers = {name: container.run(question) for name, question in QUESTIONS.items()}
        container.run(f"echo 'sweep_interval_s = 60' >> {CONFIGURATION}; mkdir -p /var/cache/ckptree")
        upgraded = container.run("dpkg --install /upgrade.deb")
        answers["upgraded"] = container.run("dpkg-query --show --showformat='${Version}' ckptree")
        first = container.run(f"tail -1 {CONFIGURATION}").out
        removed = container.run("dpkg --remove ckptree")
        answers["left"] = container.run(
            "command -v ckptree; ls /run/ckptree; systemctl is-active ckptree.socket ckptree-private.socket"
        )
        second = container.run(f"tail -1 {CONFIGURATION}").out
        purged = container.run("dpkg --purge ckptree")
        answers["units"] = container.run("systemctl list-unit-files --no-legend 'ckptree*'")
        answers["runtime"] = container.run("ls -d /run/ckptree")
        yield Life(before, files(), installed, upgraded, removed, purged, (first, second), answers)
    shutil.rmtree(folder)


def test_dpkg_is_content_at_every_step(life: Life) -> None:
    """Its dependencies bring all that it needs. A service that cannot start in a container is no failure of dpkg."""
    for ran in (life.installed, life.upgraded, life.removed, life.purged):
        assert ran.code == 0, ran


def test_the_command_works_from_its_private_environment(life: Life) -> None:
    """The environment has the modules, and the system has bcc."""
    assert life.answers["version"].out == f"ckptree {version()}\n"
    assert life.answers["snapshot"].code == 0, life.answers["snapshot"].err
    assert life.answers["bcc"].out == "/usr/lib/python3/dist-packages/bcc/__init__.py\n"


def test_the_page_of_a_tree_is_made_of_installed_files(life: Life) -> None:
    """The page's style and scripts are files beside the modules."""
    assert life.answers["page"].code == 0, life.answers["page"].err
    assert life.answers["page"].out == "1\n"


def test_manual_pages_and_completions_are_where_man_and_the_shells_look(life: Life) -> None:
    """They are those of the wheel."""
    assert set(life.answers["share"].out.split()) == {
        "/usr/share/man/man1/ckptree.1.gz",
        "/usr/share/man/man5/ckptree-image.5.gz",
        "/usr/share/man/man5/ckptree.toml.5.gz",
        "/usr/share/man/man8/ckptree-daemon.8.gz",
        "/usr/share/bash-completion/completions/ckptree",
        "/usr/share/zsh/vendor-completions/_ckptree",
        "/usr/share/fish/vendor_completions.d/ckptree.fish",
    }


def test_a_unit_of_the_systems_manager_is_found_by_its_name(life: Life) -> None:
    """The main process of the unit is the root."""
    assert life.answers["unit"].code == 0, life.answers["unit"].err
    assert json.loads(life.answers["unit"].out)["pids"][0]["numbers"] == [int(life.answers["main"].out)]


def test_its_modules_are_compiled_and_roots(life: Life) -> None:
    """The daemon cannot write there; compiled modules make it start sooner."""
    modules = set(life.answers["modules"].out.splitlines())
    compiled = [PurePath(path) for path in life.answers["compiled"].out.splitlines()]

    assert "agent/daemon/main.py" in modules
    assert {str(path.parents[1] / path.name.split(".")[0]) + ".py" for path in compiled} == modules
    assert life.answers["owners"].out == ""
    assert life.answers["files"].out == ""


def test_user_and_group_are_made(life: Life) -> None:
    """The user cannot log in, and the group has no members."""
    user, group = life.answers["user"].out.splitlines()

    assert user.split(":")[0] == Config().group
    assert user.endswith(":/usr/sbin/nologin")
    assert group.endswith(":")


def test_all_units_are_enabled_and_the_sockets_listen(life: Life) -> None:
    """Debian enables the services of its packages."""
    assert life.answers["enabled"].out.split() == ["enabled"] * 3
    assert life.answers["sockets"].out.split() == [
        *("active", "active"),
        "/run/ckptree/ckptree.sock:666:root:ckptree",
        "/run/ckptree/ckptree.sock.private:660:root:ckptree",
    ]


def test_the_units_agree_with_what_is_installed(life: Life) -> None:
    """The program of ExecStart exists."""
    assert (life.answers["verify"].code, life.answers["verify"].err) == (0, "")
    assert "path=/usr/bin/ckptree ;" in life.answers["program"].out


def test_in_a_container_the_service_refuses_once_and_says_why(life: Life) -> None:
    """The exit code is 5, and systemd does not try again."""
    assert life.answers["service"].out.split() == ["Result=exit-code", "NRestarts=0", "ExecMainStatus=5"]
    assert "not in the initial pid namespace" in life.answers["log"].out


def test_an_edited_configuration_outlives_upgrade_and_removal(life: Life) -> None:
    """dpkg keeps the file, and asks no question as long as the package's own file is unchanged."""
    assert life.answers["upgraded"].out == f"1:{version()}"
    assert life.kept == ("sweep_interval_s = 60\n",) * 2


def test_after_removal_nothing_runs_or_listens(life: Life) -> None:
    """Neither the command nor a socket remains."""
    assert life.answers["left"].out.split() == ["inactive"] * 2


def test_after_a_purge_nothing_is_left(life: Life) -> None:
    """Only the user remains, so that its number is not given away twice, as Debian does."""
    assert sorted(life.after - life.before) == []
    assert sorted(life.before - life.after) == []
    assert life.answers["units"].out == ""
    assert life.answers["runtime"].out == ""


def test_lintian_finds_nothing_but_what_is_overridden() -> None:
    """debian/ckptree.lintian-overrides gives the reasons."""
    (changes,) = package().parents[1].glob("build/deb/*.changes")
    ran = subprocess.run(
        ["lintian", "--allow-root", "--fail-on=error,warning", changes], capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stdout


def version() -> str:
    """Return the version of this checkout."""
    from importlib import metadata

    return metadata.version("ckptree")
