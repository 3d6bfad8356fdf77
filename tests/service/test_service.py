# SPDX-License-Identifier: Apache-2.0
"""The daemon as a service of a real systemd: its start, its rights, and its restarts.

The manager is root's own on this kernel; `make test-systemd` runs the same tests with systemd as pid 1 of a machine.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.host import Host
from tests.service.manager import Manager

pytestmark = pytest.mark.live

SOCKET = "/run/ckptree/ckptree.sock"
STRANGER = "setpriv --reuid=65534 --regid=65534 --clear-groups"
MEMBER = "setpriv --reuid=65534 --regid=65534 --groups=$(getent group ckptree | cut -d: -f3)"

# The second process is a subreaper at the birth of the third, and exits; the first adopts the third.
SUBREAPER = """exec python3 -c '
import ctypes, os, time
become = lambda: ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
become()
if os.fork() == 0:
    become()
    if os.fork() == 0:
        time.sleep(999)
    os._exit(0)
os.wait()
os.system("systemd-notify --ready")
time.sleep(999)
'"""

# A session with a terminal, and a file whose owner is the session's group.
TERMINAL = """exec python3 -c '
import fcntl, os, pty, time
if pty.fork()[0] == 0:
    fcntl.fcntl(0, fcntl.F_SETOWN, -os.getpgrp())
    os.system("systemd-notify --ready")
    time.sleep(999)
time.sleep(999)
'"""


@pytest.fixture
def running(host: Host) -> Host:
    """Return the host with the service active."""
    host.do("reset-failed")
    host.do("start", "ckptree.service")
    return host


@pytest.fixture
def watched(host: Host) -> Iterator[Host]:
    """Set a short watchdog time."""
    drop_in = f"{host.units}/ckptree.service.d/watchdog.conf"
    written = host.run(
        f"mkdir -p $(dirname {drop_in}) && printf '[Service]\\nWatchdogSec={host.watchdog_s}\\n' > {drop_in}"
    )
    assert written.code == 0, written.err
    host.do("daemon-reload")
    host.do("restart", "ckptree.service")
    yield host
    host.run(f"rm {drop_in}")
    host.do("daemon-reload")


def test_it_is_active_once_it_is_ready(running: Host) -> None:
    """With Type=notify the start job ends with READY, after the first sweep."""
    assert running.property("ActiveState") == "active"
    assert running.property("StatusText").startswith("watching ")
    assert running.run(f"{running.ckptree} status").code == 0


def test_it_runs_as_its_own_user_without_any_capability(running: Host) -> None:
    """The service drops for good the three capabilities that loading needs."""
    status = running.status_of(running.main_pid())
    uid = running.run("id -u ckptree").out.strip()

    assert status["Uid"] == [uid] * 4
    assert uid != "0"
    assert {status[name][0].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}
    assert status["NoNewPrivs"] == ["1"]
    assert int(status["Seccomp_filters"][0]) > 1  # one may be the host's own


def test_every_feature_has_a_hook(running: Host) -> None:
    """The sandbox hides nothing that a hook needs, above all not tracefs."""
    shown = running.run(f"{running.ckptree} status").out

    assert "hook subreaper" in shown
    assert ": changes are found by the next sweep" not in shown


def test_programs_are_compiled_once(running: Host) -> None:
    """Root compiles into a folder that the daemon's user cannot write; the next start finds the programs there."""
    listed = "stat --format=%U:%a:%y /var/cache/ckptree /var/cache/ckptree/*.bundle"
    before = running.run(listed).out
    running.do("restart", "ckptree.service")

    assert [line.rpartition(":")[0].split(":")[:2] for line in before.splitlines()] == [
        ["root", "755"],
        ["root", "644"],
    ]
    assert running.run(listed).out == before


def test_root_and_the_group_are_shown_every_tree(running: Host) -> None:
    """Both use the socket."""
    root = running.tree()

    assert running.run(f"{running.ckptree} snapshot {root} --source daemon | wc -c").out.strip() > "0"
    assert running.run(f"{MEMBER} {running.ckptree} snapshot {root} --source daemon | wc -c").out.strip() > "0"
    assert running.run(f"{STRANGER} {running.ckptree} snapshot {root} --source daemon | cat").out == ""


def test_root_and_the_group_have_a_socket_of_their_own(running: Host) -> None:
    """Others cannot connect to it, and use the public one without a word."""
    which = f"{running.python} -c 'from agent.protocol.client import Client; print(Client().path)'"
    paths = running.run("stat --format=%n:%a:%U:%G /run/ckptree/*").out.split()
    used = [running.run(f"{user} {which}") for user in ("env", MEMBER, STRANGER)]

    assert paths == [f"{SOCKET}:666:root:ckptree", f"{SOCKET}.private:660:root:ckptree"]
    assert [ran.out.strip() for ran in used] == [f"{SOCKET}.private", f"{SOCKET}.private", SOCKET], used
    assert running.run(f"{STRANGER} {running.ckptree} status --socket {SOCKET}.private").code == 5


def test_a_service_from_before_the_private_socket_has_it_after_a_restart(running: Host) -> None:
    """systemd passes no socket to a service that runs; an upgrade restarts the service, which wants the socket."""
    running.do("stop", "ckptree-private.socket")
    assert running.property("ActiveState") == "active"
    assert running.run(f"{running.ckptree} status").code == 0
    running.do("restart", "ckptree.service")

    assert running.property("ActiveState", "ckptree-private.socket") == "active"
    assert running.run(f"{running.ckptree} status --socket {SOCKET}.private").code == 0


def test_a_stranger_is_told_that_this_is_not_permitted(running: Host) -> None:
    """The exit code is 5, and the answer says nothing of running processes."""
    root = running.tree()
    ran = running.run(f"{STRANGER} {running.ckptree} snapshot {root} --source daemon")

    assert (ran.code, ran.out) == (5, "")


def test_a_service_is_captured_by_its_cgroup_and_by_its_name(running: Host) -> None:
    """The main process is the root. Unit names are those of the system's manager."""
    names = [f"cgroup:{running.property('ControlGroup')}"]
    if running.manager == "--system":
        names += ["unit:ckptree", "unit:ckptree.service"]
    for name in names:
        ran = running.run(f"{running.ckptree} snapshot {name} -f json --source daemon")
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["pids"][0]["numbers"] == [running.main_pid()]


def test_births_survive_a_restart(running: Host) -> None:
    """systemd's store of descriptors keeps the loaded programs and the memory, and the ring keeps filling."""
    root = running.tree()
    before, first = running.births(root), running.main_pid()
    running.do("restart", "ckptree.service")

    assert running.main_pid() not in (0, first)
    assert all(birth["observed"] for birth in before)
    assert running.births(root) == before


def test_what_is_loaded_fits_into_the_store(running: Host) -> None:
    """The store must have room for more: systemd closes a descriptor that does not fit, and sends no message."""
    stored, most = (int(running.property(name)) for name in ("NFileDescriptorStore", "FileDescriptorStoreMax"))

    assert 20 < stored < most / 2


def test_who_is_born_while_a_killed_daemon_is_away_is_seen(running: Host) -> None:
    """With Restart=on-failure the next daemon reads the records that the ring has taken meanwhile."""
    first = running.main_pid()
    running.run(f"kill -KILL {first}")
    root = running.tree()
    running.wait(lambda: running.main_pid() not in (0, first) and running.property("SubState") == "running")

    assert all(birth["observed"] for birth in running.births(root))


def test_a_subreaper_that_is_gone_has_been_seen(running: Host) -> None:
    """The hook in force tells it at the time; a later question cannot."""
    root = running.tree(SUBREAPER)
    ran = running.run(f"{running.ckptree} snapshot {root} -f json --source daemon")
    events = [event["event"] for ancestor in json.loads(ran.out)["ancestors"] for event in ancestor["events"]]

    assert events == ["subreaper", "exit"]


def test_terminals_and_owners_of_files_are_told(running: Host) -> None:
    """Iterators of their own tell it; a daemon without rights starts them from the loaded programs."""
    root = running.tree(TERMINAL)
    document = json.loads(running.run(f"{running.ckptree} snapshot {root} -f json --source daemon").out)
    leader = next(task for task in document["tasks"] if task["tty"])

    assert {"tty", "fown"} <= set(document["as_of_read"])
    assert leader["tty"]["name"].startswith("pts/")
    assert leader["tty"]["pgrp"] == leader["pid"] == leader["sid"]
    assert {(owner["pid"], owner["type"]) for owner in leader["fown"]} == {(leader["pid"], "pgrp")}


def test_a_daemon_that_hangs_is_replaced(watched: Host) -> None:
    """SIGSTOP makes it hang."""
    first = watched.main_pid()
    watched.run(f"kill -STOP {first}")
    watched.wait(lambda: watched.main_pid() not in (0, first) and watched.property("SubState") == "running")

    assert int(watched.property("NRestarts")) >= 1


def test_a_daemon_that_does_not_hang_stays(watched: Host) -> None:
    """It runs for longer than the watchdog time."""
    first = watched.main_pid()
    watched.run(f"sleep {watched.watchdog_s * 1.2}")

    assert watched.main_pid() == first


def test_who_asks_starts_it(running: Host) -> None:
    """systemd owns the sockets, so they exist while the daemon does not run; each starts it."""
    for socket in (f"{SOCKET}.private", SOCKET):
        running.do("stop", "ckptree.service")
        assert running.main_pid() == 0
        ran = running.run(f"{running.ckptree} snapshot $$ --socket {socket} --timeout 60 -o /run/snapshot")

        assert ran.code == 0, ran.err
        assert running.property("ActiveState") == "active"


def test_with_its_socket_it_is_gone(running: Host) -> None:
    """The private one goes with the public one. A client finds no socket, and says so."""
    running.do("stop", "ckptree.socket")

    assert running.main_pid() == 0
    assert running.run("ls /run/ckptree").out == ""
    assert running.run(f"{running.ckptree} status").code == 3


@pytest.mark.machine
def test_an_upgrade_of_the_package_is_a_restart(running: Host) -> None:
    """The programs are the same, so hooks, births and the sockets stay."""
    root = running.tree()
    before, first, sockets = (
        running.births(root),
        running.main_pid(),
        running.run("stat --format=%i /run/ckptree/*").out,
    )
    upgraded = running.run("dpkg --install /upgrade.deb")

    assert upgraded.code == 0, upgraded.err
    assert running.property("ActiveState") == "active"
    assert running.main_pid() not in (0, first)
    assert running.run("stat --format=%i /run/ckptree/*").out == sockets
    assert running.births(root) == before
    assert all(birth["observed"] for birth in before)


@pytest.mark.machine
def test_the_installed_command_rebuilds_a_tree_with_its_pids(running: Host) -> None:
    """The package's helper builds it, and its guard takes it down and removes the file with its pid."""
    root = running.tree()
    taken = running.run(f"{running.ckptree} snapshot {root} -o /run/tree.ckpt --source daemon")
    assert taken.code == 0, taken.err
    document = json.loads(running.run(f"{running.ckptree} convert /run/tree.ckpt - -f json").out)
    words = "/run/tree.ckpt --detach --json --pidfile /run/tree.pid >/run/tree.json 2>/run/tree.err"
    made = running.run(
        f"{running.ckptree} restart {words}; code=$?; cat /run/tree.json; cat /run/tree.err >&2; exit $code"
    )
    assert made.code == 0, made.err
    rebuilt = {task["numbers"][-1] for task in json.loads(made.out)["tasks"]}
    running.run("kill $(cat /run/tree.pid)")
    running.wait(lambda: running.run("test -e /run/tree.pid").code != 0)

    assert len(rebuilt) == 3
    assert rebuilt == {document["pids"][task["pid"] - 1]["numbers"][-1] for task in document["tasks"]}


def test_a_wrong_configuration_is_not_tried_again(host: Host) -> None:
    """The exit code is 2; the log names the key."""
    host.do("stop", "ckptree.service")
    host.run("echo 'ring_byte = 1' >> /etc/ckptree/ckptree.toml")
    started = host.systemctl("start", "ckptree.service")
    host.run("sed -i '/ring_byte = 1/d' /etc/ckptree/ckptree.toml")

    assert started.code == 1
    assert (host.property("ExecMainStatus"), host.property("NRestarts")) == ("2", "0")
    assert "ring_byte: no such key" in host.log()


def test_in_a_container_it_refuses_once(tmp_path: Path) -> None:
    """In a pid namespace of its own it would see a part of the tasks. The exit code is 5, and systemd does not try
    again.
    """
    with Manager(tmp_path, contained=True) as container:
        started = container.systemctl("start", "ckptree.service")

        assert started.code == 1
        assert (container.property("ExecMainStatus"), container.property("NRestarts")) == ("5", "0")
        assert "not in the initial pid namespace" in container.log()
