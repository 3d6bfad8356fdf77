# SPDX-License-Identifier: Apache-2.0
"""Measurement of sets: from the request to the written manifest, for more and more hosts.

``python -m tests.bench.bench_fleet [--hosts 10,100,1000] [--rounds 20] [--tasks 250] [--daemons 20] [--json]`` from the
repository's root. `make packages-fleet` brings the server.

One server of NATS on this machine, and relays in two processes, each with a connection of its own and a real image. A
round is what `ckptree fleet snapshot -o nats://...` does: two phases, all images fetched, checked and put into the
bucket, and the manifest. The relays take most of the machine's time, which on real hosts each has to itself.

--dying N: in each round, one host in a hundred of N is killed after the request. --daemons N: so many real daemons and
relays as processes, as root. All watch the same kernel: a daemon needs the initial pid namespace, so none has one of its
own. --clush: where clush and sshd are installed, the same by `clush` over ssh to as many addresses of this machine.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

from agent.fleet import fleetclient, sets
from agent.fleet.gathering import Wanted
from agent.fleet.stores.natsstore import NatsStore
from exporters import registry
from tests.bench.figures import quantile, table
from tests.bench.fleetrelays import host
from tests.bench.options import parsed, positive
from tests.support import servers
from tests.support.relays import a_relay

BUCKET: Final = "sets"
DEADLINE_S: Final = 60.0
TOP: Final = Path(__file__).parents[2]


class Measured(NamedTuple):
    """A case.

    Attributes:
        case: its name.
        hosts: how many were expected.
        gathered_ms, whole_ms: from the request until all images are here, and until the manifest is written.
        skew_ms: of each set.
        missing: in all sets.
        memory_mb: most of the server, of the relays' processes, and of the one who asks.
    """

    case: str
    hosts: int
    gathered_ms: list[float]
    whole_ms: list[float]
    skew_ms: list[float]
    missing: int
    memory_mb: tuple[int, int, int]


def an_image(path: Path, tasks: int) -> None:
    """Write the image of a tree of so many tasks, from /proc: no right is needed."""
    from agent.cli import sources

    child = (
        "import subprocess as s, sys; [s.Popen(['sleep', '1000']) for _ in range(int(sys.argv[1]))]; print(flush=True)"
    )
    child += "; input()"
    with subprocess.Popen(
        [sys.executable, "-c", child, str(tasks)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as tree:
        assert tree.stdout is not None
        tree.stdout.readline()
        try:
            with sources.opened("procfs") as where:
                path.write_bytes(registry.image(where.snapshot(str(tree.pid)).load(), "ckpt"))
        finally:
            for each in psutil.Process(tree.pid).children():
                each.kill()
            tree.kill()


@contextlib.contextmanager
def light_relays(url: str, first: int, count: int, image: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run relays in a process."""
    command = [sys.executable, "-m", "tests.bench.fleetrelays", url, str(first), str(count), str(image)]
    with subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n", "the relays did not connect"
            yield process
        finally:
            process.kill()


def one_round(url: str, number: str, wanted: Wanted, after: Any = None) -> tuple[float, float, float, int]:
    """Take a set; return the time until the images are here and until it is written, its skew, ms, and who is missing."""
    began = time.monotonic()

    async def gather() -> Any:
        async with fleetclient.opened(url) as client:
            gathering = asyncio.create_task(client.gather(wanted))
            if after is not None:
                await asyncio.sleep(0.02)
                after()
            return await gathering

    gathered = asyncio.run(gather())
    here = time.monotonic()
    with sets.opened(f"nats://{BUCKET}/{number}", url) as place:
        place.write(gathered.made, gathered.images)
    done = time.monotonic()
    skew = gathered.made.skew_ns / 1e6
    return (here - began) * 1e3, (done - began) * 1e3, skew, len(gathered.made.missing)


def resident_mb(pid: int) -> int:
    """Return the most memory that a process has had."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) >> 10


def measured(
    case: str,
    url: str,
    server: int,
    relays: list[int],
    names: list[str],
    rounds: int,
    roots: str = "1",
    after: Any = None,
) -> Measured:
    """Measure a case."""
    rows = []
    for number in range(rounds):
        key = re.sub(r"\W+", "-", f"{case} {number}")
        wanted = Wanted(key, dict.fromkeys(names, roots), int(DEADLINE_S * 1e9))
        rows.append(one_round(url, key, wanted, after))
    gathered, whole, skew, missing = (list(column) for column in zip(*rows, strict=True))
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    memory = resident_mb(server), sum(resident_mb(pid) for pid in relays if psutil.pid_exists(pid)), own
    return Measured(case, len(names), gathered, whole, skew, int(sum(missing)), memory)


def light(folder: Path, count: int, rounds: int, image: Path) -> Measured:
    """Measure light relays in two processes."""
    with servers.nats(folder / f"nats{count}") as server:
        url = f"nats://{server.address}"
        with NatsStore(url, BUCKET) as store:
            store.make_bucket()
        half = count // 2
        with light_relays(url, 0, half, image) as one, light_relays(url, half, count - half, image) as two:
            names = [host(number) for number in range(count)]
            return measured(f"{count} hosts", url, server.process.pid, [one.pid, two.pid], names, rounds)


def dying(folder: Path, count: int, rounds: int, image: Path) -> list[Measured]:
    """Measure rounds in which one host in a hundred is killed just after the request."""
    few = max(1, count // 100)
    found = []
    with servers.nats(folder / f"dying{count}") as server:
        url = f"nats://{server.address}"
        with NatsStore(url, BUCKET) as store:
            store.make_bucket()
        with light_relays(url, 0, count - few, image) as most:
            names = [host(number) for number in range(count)]
            for number in range(rounds):
                with light_relays(url, count - few, few, image) as victims:
                    case = f"{count} hosts, {few} die ({number})"
                    found.append(measured(case, url, server.process.pid, [most.pid], names, 1, after=victims.kill))
    return found


def real(folder: Path, count: int, rounds: int) -> Measured:
    """Measure real daemons and relays, each a process of its own."""
    from tests.live.daemons import a_daemon

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(servers.nats(folder / "real"))
        url = f"nats://{server.address}"
        with NatsStore(url, BUCKET) as store:
            store.make_bucket()
        pids = []
        for number in range(count):
            place = folder / host(number)
            place.mkdir()
            daemon = stack.enter_context(a_daemon(place))
            relay = stack.enter_context(a_relay(place, host(number), url, daemon.socket))
            pids += [daemon.process.pid, relay.process.pid]
        names = [host(number) for number in range(count)]
        return measured(f"{count} real daemons", url, server.process.pid, pids, names, rounds, str(os.getpid()))


def clush(folder: Path, count: int, rounds: int) -> list[float]:
    """Measure clush over ssh: a snapshot on each of so many addresses of this machine, and all files copied back; ms."""
    port = servers.free_port()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    Path("/run/sshd").mkdir(exist_ok=True)
    options = [f"AuthorizedKeysFile={folder}/authorized", f"HostKey={folder}/host", "StrictModes=no", "UsePAM=no"]
    options += ["MaxStartups=1000", "PermitRootLogin=yes", "PidFile=none"]
    words = ["/usr/sbin/sshd", "-D", "-f", "/dev/null", "-p", str(port), *(f"-o{option}" for option in options)]
    with servers.running(words, port):
        nodes = ",".join(f"127.0.{number // 250}.{number % 250 + 1}" for number in range(count))
        ssh = (
            f"-p {port} -i {folder}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        )
        command = f"{sys.executable} -m agent snapshot {os.getpid()} --source procfs --allow-incomplete --no-plan"
        times = []
        for _ in range(rounds):
            began = time.monotonic()
            ran = subprocess.run(
                ["clush", "-f", "64", "-o", ssh, "-w", nodes, f"cd {TOP} && {command} | base64 -w0"],
                capture_output=True,
                check=False,
                timeout=600,
            )
            assert ran.stdout.count(b"\n") == count, ran.stderr.decode()[-2000:]
            times.append((time.monotonic() - began) * 1e3)
        return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", default="10,100,1000")
    parser.add_argument("--rounds", type=positive, default=20)
    parser.add_argument("--tasks", type=positive, default=250)
    parser.add_argument("--dying", type=int, default=0)
    parser.add_argument("--daemons", type=int, default=0)
    parser.add_argument("--clush", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parsed(parser)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = folder / "image"
        an_image(image, options.tasks)
        found = [light(folder, int(count), options.rounds, image) for count in options.hosts.split(",") if count]
        if options.dying:
            found += dying(folder, options.dying, min(options.rounds, 5), image)
        if options.daemons:
            found.append(real(folder, options.daemons, options.rounds))
        by_ssh = []
        if options.clush and shutil.which("clush") and Path("/usr/sbin/sshd").exists():
            by_ssh = clush(folder, options.clush, min(options.rounds, 5))
        elif options.clush:
            print("clush or sshd is not installed: apt-get install clustershell openssh-server", file=sys.stderr)
        size = image.stat().st_size
    if options.json:
        print(json.dumps({"image_bytes": size, "cases": [each._asdict() for each in found], "clush_ms": by_ssh}))
        return
    print(f"an image has {size} bytes\n")
    times_of = "images p50 ms", "p99", "manifest p50 ms", "p99", "skew p50 ms", "p99"
    head = ["", *times_of, "missing", "server MB", "relays MB", "asker MB"]
    rows = []
    for each in found:
        times = [
            quantile(row, share) for row in (each.gathered_ms, each.whole_ms, each.skew_ms) for share in (0.5, 0.99)
        ]
        rows.append([each.case, *(f"{value:.1f}" for value in times), str(each.missing), *map(str, each.memory_mb)])
    if by_ssh:
        rows.append(
            [f"{options.clush} by clush", f"{quantile(by_ssh, 0.5):.1f}", f"{quantile(by_ssh, 0.99):.1f}", *[""] * 8]
        )
    print(table(head, rows))


if __name__ == "__main__":
    main()
