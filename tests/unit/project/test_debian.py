# SPDX-License-Identifier: Apache-2.0
"""What the Debian package says of itself and what it is made from agree. `make test-deb` makes it and tries it out."""

import configparser
import re
import tomllib
from pathlib import Path

TOP = Path(__file__).parents[3]
DEBIAN = TOP / "debian"
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]


def installed() -> dict[str, str]:
    """Folders by the files that are put there."""
    return dict(line.split() for line in (DEBIAN / "ckptree.install").read_text().splitlines())


def test_the_package_has_the_version_of_the_project() -> None:
    """dpkg-buildpackage takes it from the changelog."""
    first = (DEBIAN / "changelog").read_text().splitlines()[0]

    assert first.startswith(f"ckptree ({PROJECT['version']}) ")


def test_everything_in_the_folder_of_units_is_installed() -> None:
    """The file for systemd-sysusers by the tool that calls it, the profile under the name that it has there."""
    units = {f"systemd/{path.name}" for path in (TOP / "systemd").iterdir() if path.is_file()}
    profile = "systemd/ckptree-daemon.apparmor"

    assert set(installed()) == units - {profile}
    assert f"cp {profile} $(ROOT)/etc/apparmor.d/ckptree-daemon\n" in (DEBIAN / "rules").read_text()
    assert (DEBIAN / "ckptree.sysusers").resolve() == TOP / "systemd" / "sysusers.d" / "ckptree.conf"


def test_the_service_starts_what_the_package_installs() -> None:
    """Program and configuration."""
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.read(TOP / "systemd" / "ckptree.service")
    program, verb, option, configuration = unit["Service"]["ExecStart"].split()
    rules = (DEBIAN / "rules").read_text()

    assert (verb, option) == ("daemon", "--config")
    assert re.search(rf"ln -s \S+/ckptree \$\(ROOT\){program}$", rules, re.MULTILINE)
    assert f"/{installed()['systemd/ckptree.toml']}/ckptree.toml" == configuration


def test_the_systems_bcc_is_asked_for() -> None:
    """And nothing that comes along in the private environment."""
    control = (DEBIAN / "control").read_text()
    depends = re.search(r"^Depends: (.*)$", control, re.MULTILINE)

    assert depends is not None
    assert "python3-bpfcc" in depends[1]
    assert not [name for name in ("msgpack", "psutil", "typer") if name in depends[1]]
