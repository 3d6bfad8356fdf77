# SPDX-License-Identifier: Apache-2.0
"""The systemd units of the daemon: systemd accepts them, and their hardening leaves the daemon its necessary rights."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.config import Config, load
from agent.daemon.endpoint import BACKLOG
from agent.daemon.listeners import PRIVATE_NAME
from agent.environment import STANDBYS, private_socket
from agent.errors import HostError, UsageError
from agent.fleet import relaysettings
from bpf import compiler

UNITS = Path(__file__).parents[3] / "systemd"
SERVICE = UNITS / "ckptree.service"
SOCKET = UNITS / "ckptree.socket"
PRIVATE = UNITS / "ckptree-private.socket"
RELAY = UNITS / "ckptree-relay.service"
RESTART_SOCKET = UNITS / "ckptree-restart.socket"
RESTART = UNITS / "ckptree-restart@.service"
STANDBY = UNITS / "ckptree-standby@.service"
MOST_EXPOSED_RELAY = 15  # it hears a network and reads /proc
MOST_EXPOSED_STANDBY = 12  # it hears a network
UNIT_FILES = (SERVICE, SOCKET, PRIVATE, RELAY, RESTART_SOCKET, RESTART, STANDBY)
LISTS = {"SystemCallFilter"}  # keys that add to earlier lines
MOST_EXPOSED = 10  # tenths, as systemd-analyze counts

pytestmark = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")


def parsed(path: Path, section: str) -> configparser.SectionProxy:
    """Return a section of a unit; a repeated key has its last line."""
    unit = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#", ";"), strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have cases
    unit.read(path)
    return unit[section]


@pytest.fixture
def service() -> configparser.SectionProxy:
    """Return the service's [Service] section."""
    return parsed(SERVICE, "Service")


@pytest.fixture
def socket() -> configparser.SectionProxy:
    """Return the socket's [Socket] section."""
    return parsed(SOCKET, "Socket")


@pytest.fixture
def private() -> configparser.SectionProxy:
    """Return the private socket's [Socket] section."""
    return parsed(PRIVATE, "Socket")


def analyzed(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    """No key is unknown, and no value is ignored. The program need not be installed here."""
    text = SERVICE.read_text().replace("ExecStart=/usr/bin/ckptree", f"ExecStart={shutil.which('true')}")
    (tmp_path / SERVICE.name).write_text(text)
    for unit in (RELAY, RESTART, STANDBY):
        text = unit.read_text().replace("ExecStart=/usr/bin/ckptree", f"ExecStart={shutil.which('true')}")
        (tmp_path / unit.name).write_text(text)
    for unit in (SOCKET, PRIVATE, RESTART_SOCKET):
        shutil.copy(unit, tmp_path)
    units = [tmp_path / unit.name for unit in (SERVICE, SOCKET, PRIVATE, RELAY, RESTART_SOCKET, STANDBY)]
    verified = analyzed("verify", "--man=no", *units)

    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_the_service_is_hardly_exposed() -> None:
    """systemd's own measure is from 0 to 10; the tool fails above the threshold, and lists the reasons."""
    judged = analyzed("security", "--offline=yes", f"--threshold={MOST_EXPOSED}", "--no-pager", SERVICE)

    assert judged.returncode == 0, judged.stdout
    (said,) = (line for line in judged.stdout.splitlines() if "Overall exposure level" in line)
    assert float(said.partition(": ")[2].split()[0]) <= MOST_EXPOSED / 10


def test_the_relay_is_hardly_exposed() -> None:
    """It has no right, and a user of its own. What it needs beyond the daemon's is a network, and /proc."""
    judged = analyzed("security", "--offline=yes", f"--threshold={MOST_EXPOSED_RELAY}", "--no-pager", RELAY)
    service = parsed(RELAY, "Service")

    assert judged.returncode == 0, judged.stdout
    assert service["CapabilityBoundingSet"] == ""
    assert (service["User"], service["Group"], service["SupplementaryGroups"]) == (
        *["ckptree-relay"] * 2,
        Config().group,
    )


def test_a_standby_is_hardly_exposed() -> None:
    """It has no right, a user of its own, and no group to which a daemon would show trees."""
    judged = analyzed("security", "--offline=yes", f"--threshold={MOST_EXPOSED_STANDBY}", "--no-pager", STANDBY)
    service = parsed(STANDBY, "Service")

    assert judged.returncode == 0, judged.stdout
    assert service["CapabilityBoundingSet"] == ""
    assert service["User"] == service["Group"] == "ckptree-standby"
    assert "SupplementaryGroups" not in service


def test_a_standby_keeps_its_copy_where_a_take_over_looks_for_it() -> None:
    """The host is the unit's instance; the tree is in a file beside the configuration."""
    service = parsed(STANDBY, "Service")
    words = service["ExecStart"].split()

    assert Path("/var/lib", service["StateDirectory"]) == STANDBYS
    assert words[1:] == ["relay", "--config", "/etc/ckptree/standby.toml", "--follow", "%i", "${ROOT}"]
    assert parsed(STANDBY, "Unit")["ConditionPathExists"] == words[3]
    assert service["EnvironmentFile"] == "/etc/ckptree/standby-%i.env"


def test_the_relay_alone_may_ask_for_restarts() -> None:
    """The program for it reads the same configuration, and each restart is a process of its own."""
    socket = parsed(RESTART_SOCKET, "Socket")
    words = parsed(RESTART, "Service")["ExecStart"].split()

    assert (socket["SocketGroup"], socket["SocketMode"], socket["Accept"]) == ("ckptree-relay", "0660", "yes")
    assert Path(socket["ListenStream"]) == relaysettings.RESTART_SOCKET
    assert words[1:] == ["relay", "--serve-restart", *parsed(RELAY, "Service")["ExecStart"].split()[2:]]
    assert Path(words[-1]) == relaysettings.SYSTEM_FILE


@pytest.mark.parametrize("unit", UNIT_FILES, ids=lambda unit: unit.name)
def test_every_key_is_said_once(unit: Path) -> None:
    """systemd uses the last one, but a reader may see only the first."""
    keys = [line.partition("=")[0] for line in unit.read_text().splitlines() if "=" in line and line[0] != "#"]
    keys = [key for key in keys if key not in LISTS]

    assert sorted(set(keys)) == sorted(keys)


def test_the_daemon_says_when_it_is_ready(service: configparser.SectionProxy) -> None:
    """Units ordered after it may send requests at once."""
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")


def test_the_socket_is_the_one_that_clients_look_for(socket: configparser.SectionProxy) -> None:
    """The clients have no option --socket."""
    assert Path(socket["ListenStream"]) == Config().socket


def test_the_group_that_is_shown_all_is_made(service: configparser.SectionProxy) -> None:
    """It is the daemon's own, and has no members unless an administrator adds some."""
    lines = (UNITS / "sysusers.d/ckptree.conf").read_text().splitlines()
    made = [line.split()[:2] for line in lines if not line.startswith("#")]

    assert made == [["u", Config().group], *(["u", parsed(unit, "Service")["User"]] for unit in (RELAY, STANDBY))]
    assert service["User"] == service["Group"] == Config().group


def test_everybody_may_connect(socket: configparser.SectionProxy) -> None:
    """The daemon decides itself, as without systemd, which tasks each user sees."""
    assert int(socket["SocketMode"], 8) == Config().socket_mode


def test_the_private_socket_is_the_one_that_clients_try_first_and_the_group_alone_may_connect(
    private: configparser.SectionProxy,
) -> None:
    """The daemon knows it by its name."""
    assert Path(private["ListenStream"]) == private_socket(Config().socket)
    assert (private["SocketGroup"], private["SocketMode"]) == (Config().group, "0660")
    assert private["FileDescriptorName"] == PRIVATE_NAME


def test_the_private_socket_is_the_services_and_goes_with_the_public_one(private: configparser.SectionProxy) -> None:
    """A service that is started by the public socket alone wants it."""
    assert private["Service"] == SERVICE.name
    assert parsed(PRIVATE, "Unit")["PartOf"] == SOCKET.name
    assert (parsed(SERVICE, "Unit")["Requires"], parsed(SERVICE, "Unit")["Wants"].split()[0]) == (
        SOCKET.name,
        PRIVATE.name,
    )


def test_both_sockets_are_alike_in_all_else(
    socket: configparser.SectionProxy, private: configparser.SectionProxy
) -> None:
    """A key that one of them has and the other has not may be forgotten there."""
    own = {"ListenStream", "SocketMode", "Service", "FileDescriptorName"}

    assert {key: value for key, value in socket.items() if key not in own} == {
        key: value for key, value in private.items() if key not in own
    }
    assert dict(parsed(SOCKET, "Install")) == dict(parsed(PRIVATE, "Install"))


def test_the_queue_of_those_who_connect_is_as_long_as_without_systemd(socket: configparser.SectionProxy) -> None:
    """systemd's default is the kernel's limit: thousands of clients, for which others would have to wait."""
    assert int(socket["Backlog"]) == BACKLOG


def test_the_profile_lets_the_daemon_use_both_sockets() -> None:
    """It names each by its path."""
    profile = (UNITS / "ckptree-daemon.apparmor").read_text()

    assert all(f"\n  {path} rw,\n" in profile for path in (Config().socket, private_socket(Config().socket)))


def test_the_profile_of_the_security_module_is_the_one_that_the_service_asks_for(
    service: configparser.SectionProxy,
) -> None:
    """Without the profile the service starts all the same."""
    profile = (UNITS / "ckptree-daemon.apparmor").read_text()

    assert service["AppArmorProfile"] == "-ckptree-daemon"
    assert "\nprofile ckptree-daemon " in profile


def test_a_start_that_cannot_succeed_is_not_repeated(service: configparser.SectionProxy) -> None:
    """A wrong configuration and an unfit host have exit codes of their own."""
    assert {UsageError.exit_code, HostError.exit_code} == {int(c) for c in service["RestartPreventExitStatus"].split()}


def test_three_capabilities_are_given_and_no_other_can_be_had(service: configparser.SectionProxy) -> None:
    """The daemon needs them to load, attach, and read the numbers of tracepoints, and then drops them."""
    given = set(service["AmbientCapabilities"].split())

    assert given == {"CAP_BPF", "CAP_PERFMON", "CAP_DAC_READ_SEARCH"}
    assert given == set(service["CapabilityBoundingSet"].split())


def test_what_is_loaded_the_services_user_cannot_write(service: configparser.SectionProxy) -> None:
    """Root compiles, outside of the sandbox; the daemon's user has no folder but that of its recording."""
    assert service["ExecStartPre"] == "-+/usr/bin/ckptree daemon --compile"
    assert not {"CacheDirectory", "ReadWritePaths"} & set(service)
    assert service["StateDirectory"] == "ckptree"
    assert not compiler._CACHE.is_relative_to("/var/lib/ckptree")


def test_the_configuration_that_comes_along_is_taken_and_says_the_defaults(tmp_path: Path) -> None:
    """This holds as it is, and with its keys uncommented."""
    text = (UNITS / "ckptree.toml").read_text()
    keys = [line.removeprefix("#") for line in text.splitlines() if line[:1] == "#" and line[1:2].isalpha()]
    (tmp_path / "all.toml").write_text("\n".join(keys))

    assert load(UNITS / "ckptree.toml") == load(tmp_path / "all.toml") == Config()
    assert len((tmp_path / "all.toml").read_text().splitlines()) == 5


@pytest.mark.parametrize("key", ["ProcSubset", "PrivateUsers", "DynamicUser", "PrivatePIDs"])
def test_what_would_blind_the_daemon_is_not_set(service: configparser.SectionProxy, key: str) -> None:
    """Each of these would hide callers or the host from it, or remove BPF's rights."""
    assert key not in service
