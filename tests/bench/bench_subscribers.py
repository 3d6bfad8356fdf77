# SPDX-License-Identifier: Apache-2.0
"""Measurement of what subscribers cost the daemon: clients that watch the whole host in a fork storm.

``python -m tests.bench.bench_subscribers [--subscribers 0,1,10,100] [--seconds 5] [--rounds 3] [--write]`` from the
repository's root, as root. Each storm has a daemon of its own; the subscribers are sockets of one process that reads and
discards, at a priority between those of storm and daemon. Several rounds take the counts in turn, for the machine's
speed drifts: the figures are medians, the longest turn is the longest of all.
"""

import argparse
import multiprocessing
import os
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

from agent.protocol import codec
from tests.bench.figures import median, table
from tests.bench.options import add_write, amount, natural, parsed, positive
from tests.bench.report import splice
from tests.bench.storm import Storm
from tests.bench.watcher import Watcher
from tests.support.dying import die_with_parent

_NICE = -10
_READ_BYTES = 1 << 18
_SETTLE_S = 0.3
_LONG_S = 0.01


class Cost(NamedTuple):
    """The cost of one storm.

    Attributes:
        per_record_us: CPU time of the daemon for each record, us.
        rate: records a second.
        told, dropped: events, of all subscribers.
        megabytes: that the subscribers have read.
        longest_ms, longest_in: the longest turn of the daemon's loop, and the step that took most of it.
        long: count of turns of more than 10 ms.
        turns: count of all.
    """

    per_record_us: float
    rate: float
    told: int
    dropped: int
    megabytes: float
    longest_ms: float
    longest_in: str
    long: int
    turns: int


def _listen(path: str, count: int, control: Connection) -> None:
    """Subscribe so many times to the whole host; say so, and discard everything until told to end."""
    die_with_parent()
    os.nice(_NICE)
    request = codec.encode({"verb": "subscribe"})
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(path)
            connection.sendall(request)
            decoder = codec.Decoder(codec.MAX_ANSWER)
            while not (answers := decoder.feed(connection.recv(_READ_BYTES))):
                pass
            codec.raise_failure(answers[0])
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ)
        control.send(count)
        selector.register(control, selectors.EVENT_READ)
        room, taken = bytearray(_READ_BYTES), 0
        while True:
            for key, _ in selector.select():
                if key.fileobj is control:
                    control.send(taken)
                    return
                assert isinstance(key.fileobj, socket.socket)
                taken += key.fileobj.recv_into(room)


def measured(count: int, options: argparse.Namespace) -> Cost:
    """Run one storm with so many subscribers."""
    with Watcher(before=("setsid",)) as watcher:  # so that its priority counts among all sessions
        ours, theirs = multiprocessing.Pipe()
        listener = multiprocessing.get_context("fork").Process(
            target=_listen, args=(os.fspath(watcher.socket), count, theirs), daemon=True
        )
        listener.start()
        theirs.close()  # so that its end is told
        ours.recv()
        with Storm(idle=options.idle, rate=options.rate):
            time.sleep(_SETTLE_S)
            records, cpu, begun = watcher.client.status()["records"], watcher.cpu_s(), time.monotonic()
            time.sleep(options.seconds)
            records, cpu = watcher.client.status()["records"] - records, watcher.cpu_s() - cpu
            seconds = time.monotonic() - begun
            figures = watcher.client.metrics()
        ours.send(None)
        taken = ours.recv()
        listener.join()
    turns = figures["loop"]["turn_seconds"]
    short = next(total for bound, total in turns["buckets"] if bound == _LONG_S)
    return Cost(
        1e6 * cpu / records,
        records / seconds,
        figures["events"]["told"],
        figures["events"]["dropped"],
        taken / 1e6,
        1e3 * figures["loop"]["longest_turn_s"],
        figures["loop"]["longest_turn_in"],
        turns["count"] - short,
        turns["count"],
    )


def _counts(text: str) -> list[int]:
    return [natural(word) for word in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=_counts, default=[0, 1, 10, 100])
    parser.add_argument("--seconds", type=amount, default=5.0, help="of each storm")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--idle", type=natural, default=100, help="tasks that sleep beside the storm")
    parser.add_argument("--rate", type=natural, default=0, help="lives a second, 0 for all the machine can do")
    add_write(parser)
    options = parsed(parser, arguments)
    found: dict[int, list[Cost]] = {count: [] for count in options.subscribers}
    for _ in range(options.rounds):
        for count, costs in found.items():
            costs.append(measured(count, options))
            print(f"bench: {count} subscribers: {costs[-1]}", file=sys.stderr, flush=True)
    rows = [
        [
            f"{count}",
            f"{median(each.per_record_us for each in costs):.2f}",
            f"{median(each.rate for each in costs):,.0f}",
            f"{median(each.told for each in costs):,.0f}",
            f"{median(each.dropped for each in costs):,.0f}",
            f"{median(each.megabytes for each in costs):,.0f}",
            f"{median(each.longest_ms for each in costs):.1f}",
            f"{max(each.longest_ms for each in costs):.1f}",
            f"{sum(each.long for each in costs)} of {sum(each.turns for each in costs):,}",
        ]
        for count, costs in found.items()
    ]
    text = table(
        (
            "subscribers",
            "daemon, us a record",
            "records a second",
            "events told",
            "dropped",
            "MB",
            "longest turn, ms: median",
            "most",
            "turns of more than 10 ms",
        ),
        rows,
    )
    print(text)
    if options.write:
        splice(text, "subscribers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
