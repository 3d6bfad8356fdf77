# SPDX-License-Identifier: Apache-2.0
"""Trees of a set that are rebuilt on other hosts: what is permitted, what is refused, and that it is all or none."""

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.live.daemons import TOP, Ran, a_container, ckptree
from tests.live.dumps import eventually
from tests.support import servers
from tests.support.relays import RelayProcess, a_relay


class Fleet:
    """Two hosts with relays, each with a service that carries restarts out, as systemd starts it."""

    def __init__(
        self, folder: Path, nats: servers.Server, daemon: Path | str, key: Path, stack: ExitStack, more: str = ""
    ) -> None:
        self.folder = folder
        self.nats = nats
        self.key = key
        self.daemon = daemon
        self.relays: dict[str, RelayProcess] = {}
        self.services: dict[str, psutil.Process] = {}
        for host in ("old", "new"):
            rules = f"""
allow = ["snapshot", "restart"]
restart_socket = "{folder}/{host}.sock"
[[restart]]
requester = "ops"
run = ["hold", "sh -c 'echo ran >>{folder}/{host}.ran; exec sleep 1000'"]
signers = "{key}.pub"
[[restart]]
requester = "night"
run = ["hold"]
signers = "{folder}/others.pub"
{more}"""
            self.relays[host] = stack.enter_context(a_relay(folder, host, f"nats://{nats.address}", daemon, rules))
            stack.enter_context(self.service(host))

    @contextmanager
    def service(self, host: str) -> Iterator[None]:
        """Listen as ckptree-restart.socket does, and start a process for each connection."""
        socket = self.folder / f"{host}.sock"
        command = ["systemd-socket-activate", "--accept", "--inetd", "-l", socket, "-E", "TMPDIR"]
        command += [sys.executable, "-m", "agent", "relay", "--serve-restart", "--config", self.folder / f"{host}.toml"]
        with (self.folder / f"{host}.service").open("ab") as log:
            process = subprocess.Popen(list(map(str, command)), cwd=TOP, stderr=log, start_new_session=True)
        self.services[host] = psutil.Process(process.pid)
        try:
            until = time.monotonic() + 30
            while not socket.exists():
                assert time.monotonic() < until
                time.sleep(0.02)
            yield
        finally:
            for child in psutil.Process(process.pid).children():
                child.terminate()
            psutil.wait_procs(psutil.Process(process.pid).children(), 20)
            process.terminate()
            process.wait()

    def said(self, host: str) -> str:
        """Return what the services of a host have said."""
        return (self.folder / f"{host}.service").read_text()

    def run(self, *words: str | Path) -> Ran:
        """Run a verb of the fleet."""
        return ckptree("fleet", *words, env={"CKPTREE_NATS": f"nats://{self.nats.address}"})

    def restart(self, *words: str | Path, requester: str = "ops") -> Ran:
        """Restart the set."""
        return self.run("restart", self.folder / "set", "--as", requester, "--deadline", "30", *words)


@pytest.fixture(scope="module")
def fleet(daemon_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Make the fleet, and a signed set of a container on the host `old`."""
    folder = tmp_path_factory.mktemp("fleet")
    for name in ("key", "others"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with ExitStack() as stack:
        nats = stack.enter_context(servers.nats(folder / "nats"))
        found = Fleet(folder, nats, daemon_socket, folder / "key", stack)
        with a_container("setsid", "sleep", "1000") as root:
            words = ["snapshot", "--hosts", "old", "--root", str(root)]
            taken = found.run(*words, "--sign", folder / "key", "-o", folder / "set")
            assert taken.code == 0, taken.err
            assert found.run(*words, "-o", folder / "unsigned").code == 0
        yield found


def ended(pid: int) -> None:
    """End a tree, and wait until its root is gone."""
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 20
    while psutil.pid_exists(pid):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_tree_stands_on_another_host(fleet: Fleet) -> None:
    """It stays when the one who asked has ended, until its service ends. Both sides have an audit line."""
    ran = fleet.restart("--map", "old=new", "--json")
    ready = json.loads(ran.out)["new"]

    assert ran.code == 0, ran.err
    assert [task["numbers"] for task in ready["tasks"]] == [[1]]
    assert psutil.Process(ready["root"]).status() != psutil.STATUS_ZOMBIE
    assert "old on new" in ran.err
    assert 'restart requester="ops"' in fleet.relays["new"].log.read_text()
    assert f'root={ready["root"]} result="ok"' in fleet.said("new")
    ended(ready["root"])


def test_a_command_that_is_permitted_runs(fleet: Fleet) -> None:
    """Word for word. Any other is refused, and its refusal names those that are permitted."""
    command = f"sh -c 'echo ran >>{fleet.folder}/new.ran; exec sleep 1000'"
    ran = fleet.restart("--map", "old=new", "--run", command, "--json")
    assert ran.code == 0, ran.err
    until = time.monotonic() + 20
    while not (fleet.folder / "new.ran").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    assert (fleet.folder / "new.ran").read_text() == "ran\n"
    ended(json.loads(ran.out)["new"]["root"])

    other = fleet.restart("--map", "old=new", "--run", "argv")
    assert (other.code, "may not run 'argv' here" in other.err) == (5, True), other.err


def test_a_requester_without_a_permission_reaches_nobody(fleet: Fleet) -> None:
    """The relay does not listen to its subject."""
    ran = fleet.restart("--map", "old=new", requester="eve")

    assert ran.code != 0
    assert "no relay of that name" in ran.err


def test_a_set_of_another_signer_is_refused(fleet: Fleet) -> None:
    """The permission of the requester `night` names other signers."""
    ran = fleet.restart("--map", "old=new", requester="night")

    assert ran.code != 0
    assert "does not allow the signer" in ran.err


def test_a_set_without_a_signature_is_refused(fleet: Fleet) -> None:
    """It may be anybody's."""
    ran = fleet.run("restart", fleet.folder / "unsigned", "--map", "old=new", "--as", "ops")

    assert (ran.code, "is not signed" in ran.err) == (7, True)


def test_a_manifest_that_was_changed_is_refused(fleet: Fleet) -> None:
    """Its signature is of other bytes; so an image of the attacker's is none of the set."""
    made = json.loads((fleet.folder / "set").read_text())
    made["at_ns"] += 1
    (fleet.folder / "changed").write_text(json.dumps(made))
    (fleet.folder / "changed.sig").write_bytes((fleet.folder / "set.sig").read_bytes())
    ran = fleet.run("restart", fleet.folder / "changed", "--map", "old=new", "--as", "ops")

    assert ran.code != 0
    assert "other bytes were signed" in ran.err


def test_where_one_host_fails_all_are_taken_down(fleet: Fleet) -> None:
    """The relay of the host `old` does not answer."""
    made = json.loads((fleet.folder / "set").read_text())
    assert [each["host"] for each in made["hosts"]] == ["old"]
    fleet.relays["old"].process.send_signal(signal.SIGSTOP)
    try:
        ran = fleet.run(
            "restart",
            fleet.folder / "set",
            "--as",
            "ops",
            "--deadline",
            "5",
            "--map",
            "old=new",
            "--map",
            "old=old",
            "--json",
        )
    finally:
        fleet.relays["old"].process.send_signal(signal.SIGCONT)

    assert ran.code == 1
    assert "old: its relay did not answer" in ran.err
    assert ran.out == b""
    until = time.monotonic() + 20
    while 'result="taken down"' not in fleet.said("new"):
        assert time.monotonic() < until, fleet.said("new")
        time.sleep(0.05)
    while fleet.services["new"].children():
        assert time.monotonic() < until, "the tree still stands"
        time.sleep(0.05)


def test_a_restart_of_an_image_names_its_set(fleet: Fleet) -> None:
    """The signature of the set is that of each of its images."""
    made = json.loads((fleet.folder / "set").read_text())
    image = fleet.folder / made["hosts"][0]["image"].replace(":", "-")
    words = ["restart", image, "--verify", fleet.folder / "key.pub", "--detach", "--pidfile", fleet.folder / "pid"]

    assert ckptree(*words).code == 7
    ran = ckptree(*words, "--set", fleet.folder / "set")
    assert ran.code == 0, ran.err
    os.kill(int((fleet.folder / "pid").read_text()), signal.SIGTERM)
    other = ckptree("restart", fleet.folder / "set.sig", "--set", fleet.folder / "set")
    assert (other.code, "is no image of the set" in other.err) == (7, True)


def test_a_host_without_systemd_starts_restarts_as_the_page_says(fleet: Fleet) -> None:
    """The tree stays when the listener has ended, and ends with the process of its service."""
    (line,) = [each for each in (TOP / "docs/fleet.md").read_text().splitlines() if each.startswith("socat ")]
    socket, config = fleet.folder / "bare.sock", fleet.folder / "bare.toml"
    for words, ours in (
        ("/run/ckptree/restart.sock", socket),
        ("/etc/ckptree/relay.toml", config),
        ("ckptree relay", f"{sys.executable} -m agent relay"),
        ("group=ckptree-relay", f"group={os.getgid()}"),
    ):
        assert line.count(str(words)) == 1
        line = line.replace(str(words), str(ours))
    with ExitStack() as stack:
        rules = (
            f'allow = ["restart"]\nrestart_socket = "{socket}"\n'
            f'[[restart]]\nrequester = "ops"\nrun = ["hold"]\nsigners = "{fleet.key}.pub"\n'
        )
        stack.enter_context(a_relay(fleet.folder, "bare", f"nats://{fleet.nats.address}", fleet.daemon, rules))
        log = stack.enter_context((fleet.folder / "bare.service").open("wb"))
        listener = subprocess.Popen(shlex.split(line), cwd=TOP, stderr=log, start_new_session=True)
        try:
            eventually(socket.exists, "it listens")
            assert stat.S_IMODE(socket.stat().st_mode) == 0o660
            ran = fleet.restart("--map", "old=bare", "--json")
            assert ran.code == 0, ran.err
            root = json.loads(ran.out)["bare"]["root"]
            (service,) = [each for each in psutil.process_iter() if config_of(each) == str(config)]
        finally:
            listener.terminate()
            listener.wait()
        assert psutil.Process(root).status() != psutil.STATUS_ZOMBIE
        service.terminate()
        eventually(lambda: not psutil.pid_exists(root), "the tree is taken down")
        psutil.wait_procs([service], 20)
    assert f'root={root} result="ok"' in fleet.said("bare")


def config_of(process: psutil.Process) -> str | None:
    """Return the configuration of a process that serves restarts; None for another process."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return None
    return words[-1] if "--serve-restart" in words and words[0] == sys.executable else None
