# SPDX-License-Identifier: Apache-2.0
"""The agreement of the Debian package's files with their sources. `make test-deb` builds the package and tries it."""

import configparser
import re
import tomllib
from pathlib import Path

TOP = Path(__file__).parents[3]
DEBIAN = TOP / "debian"
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]


def installed() -> dict[str, str]:
    """Return the target folders by file."""
    return dict(line.split() for line in (DEBIAN / "ckptree.install").read_text().splitlines())


def test_the_package_has_the_version_of_the_project() -> None:
    """dpkg-buildpackage takes it from the changelog."""
    first = (DEBIAN / "changelog").read_text().splitlines()[0]

    assert first.startswith(f"ckptree ({PROJECT['version']}) ")


def test_everything_in_the_folder_of_units_is_installed() -> None:
    """The Debian tool for systemd-sysusers installs the file of users; the profile is installed under its own name."""
    units = {f"systemd/{path.name}" for path in (TOP / "systemd").iterdir() if path.is_file()}
    profile = "systemd/ckptree-daemon.apparmor"

    assert set(installed()) == units - {profile}
    assert f"cp {profile} $(ROOT)/etc/apparmor.d/ckptree-daemon\n" in (DEBIAN / "rules").read_text()
    assert (DEBIAN / "ckptree.sysusers").resolve() == TOP / "systemd" / "sysusers.d" / "ckptree.conf"


def test_the_service_starts_what_the_package_installs() -> None:
    """The service needs the program and the configuration."""
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.read(TOP / "systemd" / "ckptree.service")
    program, verb, option, configuration = unit["Service"]["ExecStart"].split()
    rules = (DEBIAN / "rules").read_text()

    assert (verb, option) == ("daemon", "--config")
    assert re.search(rf"ln -s \S+/ckptree \$\(ROOT\){program}$", rules, re.MULTILINE)
    assert f"/{installed()['systemd/ckptree.toml']}/ckptree.toml" == configuration


def test_neither_relay_nor_restarts_are_enabled_by_the_package() -> None:
    """An administrator says first where to connect, and what is permitted."""
    rules = (DEBIAN / "rules").read_text()

    for unit in ("ckptree-relay.service", "ckptree-restart.socket"):
        assert f"dh_installsystemd --no-enable --no-start --name={unit.partition('.')[0]} {unit}\n" in rules


def test_every_program_of_the_project_is_on_path() -> None:
    """One more has blanks in its name, for criu."""
    rules = (DEBIAN / "rules").read_text()

    for name in PROJECT["scripts"]:
        assert re.search(rf"ln -s ../lib/ckptree/bin/{name} \$\(ROOT\)/usr/bin/{name}$", rules, re.MULTILINE)
    assert "ln -s ckptree-hook-criu '$(ROOT)/usr/bin/ckptree hook criu'\n" in rules


def test_the_systems_bcc_is_asked_for() -> None:
    """The modules of the private environment need no Debian package."""
    control = (DEBIAN / "control").read_text()
    depends = re.search(r"^Depends: (.*)$", control, re.MULTILINE)

    assert depends is not None
    assert "python3-bpfcc" in depends[1]
    assert not [name for name in ("msgpack", "psutil", "typer") if name in depends[1]]
