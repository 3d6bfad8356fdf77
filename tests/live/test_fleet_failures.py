# SPDX-License-Identifier: Apache-2.0
"""Failures in the midst of a set: it is whole, or says who is missing, or is not there; and nothing outlasts its deadline.

Each failure is tried a few times. CKPTREE_FLEET_FAULTS=100 tries each a hundred times.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agent.fleet.manifest import hash_of
from tests.live.daemons import Ran
from tests.support import servers
from tests.support.netapart import apart
from tests.support.relays import RelayProcess, a_relay, await_line

TIMES = int(os.environ.get("CKPTREE_FLEET_FAULTS", "2"))
TOP = Path(__file__).parents[2]
HOSTS = ("a", "b", "c")
DEADLINE_S = 4.0
LONG_S = 40.0
"""Where a program is started again meanwhile, which takes seconds on a busy machine."""
SLACK_S = 5.0
"""For the start of the program, on a busy machine."""

again = pytest.mark.parametrize("nth", range(TIMES))


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[servers.Server]:
    """Run a server, which the test may kill."""
    with servers.nats(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def relays(nats: servers.Server, daemon_socket: Path, tmp_path: Path) -> Iterator[list[RelayProcess]]:
    """Run a relay for each host."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(a_relay(tmp_path, host, f"nats://{nats.address}", daemon_socket)) for host in HOSTS]


class Snapshot:
    """A `fleet snapshot` that runs, so that something can happen to it meanwhile."""

    def __init__(
        self,
        nats: servers.Server,
        to: Path | str,
        root: int,
        *words: str,
        hosts: Sequence[str] = HOSTS,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        command = [sys.executable, "-m", "agent", "fleet", "snapshot", "--hosts", ",".join(hosts), "--root", str(root)]
        command += ["--deadline", str(deadline_s), "-o", str(to), *words]
        self._deadline_s = deadline_s
        self.began_s = time.monotonic()
        self._process = subprocess.Popen(
            command,
            cwd=TOP,
            env={**os.environ, "CKPTREE_NATS": f"nats://{nats.address}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

        self._took_s = 0.0
        self._waiting = threading.Thread(target=self._wait, daemon=True)
        self._waiting.start()

    def _wait(self) -> None:
        """Note the moment of its end, however late the test asks for it."""
        self._process.wait()
        self._took_s = time.monotonic() - self.began_s

    def ended(self) -> Ran:
        """Wait for its end, which may not be later than its deadline."""
        out, err = self._process.communicate(timeout=60)
        self._waiting.join()
        assert self._took_s < self._deadline_s + SLACK_S
        assert b"Traceback" not in err, err.decode()
        return Ran(self._process.returncode, out, err.decode())


def judged(ran: Ran, path: Path, hosts: Sequence[str] = HOSTS) -> list[str]:
    """Return the hosts that are missing, once the set is what it may be."""
    if not path.exists():
        assert ran.code != 0
        assert ran.err
        return list(hosts)
    made = json.loads(path.read_text())
    here, missing = ([each["host"] for each in made[key]] for key in ("hosts", "missing"))
    assert sorted(here + missing) == sorted(hosts)
    assert ran.code == (6 if missing else 0), ran.err
    for host in missing:
        assert f"missing: {host}: " in ran.err
    for each in made["hosts"]:
        assert hash_of(path.with_name(each["image"].replace(":", "-")).read_bytes()) == each["image"]
    return missing


@contextlib.contextmanager
def stopped(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Stop a process for the time of the block."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@again
def test_a_host_dies_between_its_arming_and_its_cut(
    nth: int, nats: servers.Server, relays: list[RelayProcess], sleeper: int, tmp_path: Path
) -> None:
    """The others are in the set. One of them kept all waiting, so that the moment is certain."""
    with stopped(relays[1].process):
        snapshot = Snapshot(nats, tmp_path / "set", sleeper)
        await_line(relays[0], 1, "arm id=")
        relays[0].process.kill()
        relays[0].process.wait()

    assert judged(snapshot.ended(), tmp_path / "set") == ["a"]


@again
def test_a_host_dies_and_all_are_required(
    nth: int, nats: servers.Server, relays: list[RelayProcess], sleeper: int, tmp_path: Path
) -> None:
    """Nothing is written, and the host is named."""
    (tmp_path / "out").mkdir()
    with stopped(relays[1].process):
        snapshot = Snapshot(nats, tmp_path / "out" / "set", sleeper, "--require-all")
        await_line(relays[0], 1, "arm id=")
        relays[0].process.kill()
        relays[0].process.wait()
    ran = snapshot.ended()

    assert ran.code == 6
    assert "missing: a: " in ran.err
    assert list((tmp_path / "out").iterdir()) == []


@again
def test_a_relay_is_started_again_between_arming_and_cut(
    nth: int, nats: servers.Server, relays: list[RelayProcess], sleeper: int, tmp_path: Path
) -> None:
    """It knows nothing of the arming, and does what the cut says: nobody is missing."""
    with stopped(relays[1].process):
        snapshot = Snapshot(nats, tmp_path / "set", sleeper, deadline_s=LONG_S)
        await_line(relays[0], 1, "arm id=")
        relays[0].process.kill()
        relays[0].process.wait()
        relays[0].start_again()

    assert judged(snapshot.ended(), tmp_path / "set") == []


@again
def test_the_server_is_killed_and_started_again(
    nth: int, nats: servers.Server, relays: list[RelayProcess], sleeper: int, tmp_path: Path
) -> None:
    """The requester and the relays connect again by themselves, and the set is whole."""
    with stopped(relays[1].process):
        snapshot = Snapshot(nats, tmp_path / "set", sleeper, deadline_s=LONG_S)
        await_line(relays[0], 1, "arm id=")
        nats.kill()
        nats.start_again()

    assert judged(snapshot.ended(), tmp_path / "set") == []
    assert all("connected again" in relay.log.read_text() for relay in relays)


@again
def test_the_server_is_killed_for_good(
    nth: int, nats: servers.Server, relays: list[RelayProcess], sleeper: int, tmp_path: Path
) -> None:
    """All are missing. The relays live on, and are there when the server is."""
    with stopped(relays[1].process):
        snapshot = Snapshot(nats, tmp_path / "set", sleeper)
        await_line(relays[0], 1, "arm id=")
        nats.kill()
    ran = snapshot.ended()
    assert judged(ran, tmp_path / "set") == list(HOSTS)
    assert "nothing is written" in ran.err
    assert [relay.process.poll() for relay in relays] == [None] * 3

    nats.start_again()
    for relay in relays:
        await_line(relay, 1, "connected again")
    assert judged(Snapshot(nats, tmp_path / "set", sleeper).ended(), tmp_path / "set") == []


@again
def test_the_server_hangs(
    nth: int, nats: servers.Server, relays: list[RelayProcess], sleeper: int, tmp_path: Path
) -> None:
    """A network that is cut looks the same: nothing comes, and no error. Afterwards all goes on."""
    with stopped(relays[1].process):
        snapshot = Snapshot(nats, tmp_path / "set", sleeper)
        await_line(relays[0], 1, "arm id=")
        nats.process.send_signal(signal.SIGSTOP)
    try:
        assert judged(snapshot.ended(), tmp_path / "set") == list(HOSTS)
        late = Snapshot(nats, tmp_path / "set", sleeper).ended()
        assert (late.code, "cannot be reached" in late.err) == (1, True)
    finally:
        nats.process.send_signal(signal.SIGCONT)

    assert judged(Snapshot(nats, tmp_path / "set", sleeper).ended(), tmp_path / "set") == []


@again
def test_an_answer_that_comes_late_changes_nothing(
    nth: int, nats: servers.Server, relays: list[RelayProcess], sleeper: int, tmp_path: Path
) -> None:
    """The set says that the host is missing, also when the host goes on."""
    with stopped(relays[2].process):
        assert judged(Snapshot(nats, tmp_path / "set", sleeper).ended(), tmp_path / "set") == ["c"]
        data = (tmp_path / "set").read_bytes()
    await_line(relays[2], 1, "arm id=")

    assert (tmp_path / "set").read_bytes() == data
    assert judged(Snapshot(nats, tmp_path / "next", sleeper).ended(), tmp_path / "next") == []


@again
def test_two_requests_with_one_id_are_one_set(
    nth: int, nats: servers.Server, relays: list[RelayProcess], sleeper: int, tmp_path: Path
) -> None:
    """Both are told the same, and so is one that comes later; another id is refused."""
    both = [Snapshot(nats, tmp_path / "set", sleeper, "--id", "x", "--json") for _ in range(2)]
    first, second = (snapshot.ended() for snapshot in both)
    third = Snapshot(nats, tmp_path / "set", sleeper, "--id", "x", "--json").ended()
    other = Snapshot(nats, tmp_path / "set", sleeper, "--id", "y").ended()

    assert (first.code, second.code, third.code) == (0, 0, 0)
    assert first.out == second.out == third.out
    assert json.loads(first.out) == json.loads((tmp_path / "set").read_text())
    assert (other.code, "is never replaced" in other.err) == (1, True)
    assert sum(relay.log.read_text().count("cut id=") for relay in relays) == len(HOSTS)


@again
def test_the_store_is_full(
    nth: int, nats: servers.Server, relays: list[RelayProcess], sleeper: int, tmp_path: Path
) -> None:
    """No set is written then, and the message says why."""
    folder = tmp_path / "full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", folder], check=True)
    try:
        ran = Snapshot(nats, folder / "set", sleeper).ended()
        assert (ran.code, "No space left" in ran.err) == (1, True), ran.err
        assert not (folder / "set").exists()
    finally:
        subprocess.run(["umount", folder], check=True)


@again
def test_a_full_bucket_of_the_server(nth: int, nats: servers.Server, relays: list[RelayProcess], sleeper: int) -> None:
    """It is the same for a store that is not a folder."""
    import asyncio

    async def make() -> None:
        from nats.js.api import ObjectStoreConfig

        from agent.fleet import natsserver

        client = await natsserver.connected(f"nats://{nats.address}")
        await client.jetstream().create_object_store("full", ObjectStoreConfig(max_bytes=1500))
        await client.close()

    asyncio.run(make())
    ran = Snapshot(nats, "nats://full/set", sleeper).ended()
    assert ran.code == 1, ran.err
    assert "maximum bytes exceeded" in ran.err


@again
def test_the_network_of_one_host_is_cut(nth: int, daemon_socket: Path, sleeper: int, tmp_path: Path) -> None:
    """Its packets are dropped, so that nobody is told. It is missing, and with the network it comes back by itself."""
    with (
        apart() as there,
        servers.nats(tmp_path / "nats", "-a", "0.0.0.0") as nats,  # noqa: S104 - the namespace must reach it
        a_relay(tmp_path, "near", f"nats://{nats.address}", daemon_socket) as near,
        a_relay(tmp_path, "far", f"nats://{there.address}:{nats.port}", daemon_socket, before=there.before) as far,
        contextlib.ExitStack() as stack,
    ):
        with stopped(near.process):
            snapshot = Snapshot(nats, tmp_path / "set", sleeper, hosts=("far", "near"))
            await_line(far, 1, "arm id=")
            stack.enter_context(there.cut())
        assert judged(snapshot.ended(), tmp_path / "set", ("far", "near")) == ["far"]
        stack.close()

        until = time.monotonic() + 30
        while judged(
            Snapshot(nats, tmp_path / "next", sleeper, hosts=("far", "near")).ended(),
            tmp_path / "next",
            ("far", "near"),
        ):
            assert time.monotonic() < until, far.log.read_text()
            (tmp_path / "next").unlink()
