# SPDX-License-Identifier: Apache-2.0
"""Measurement of the records that the table applies in a second, from bytes as in the ring.

Records a real fork storm first (root), then replays the bytes, in order, into fresh tables: headers walked, records put
into order, decoded and applied, as in the daemon. Time is CPU time of this process, best and median of several replays.
"""

import argparse
import gc
import json
import os
import statistics
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).parents[2]))

from agent.capture.probes import Probes
from agent.table.handlers import Handlers
from agent.table.processtable import ProcessTable
from agent.table.stream import Stream
from agent.table.wire import record_bytes
from tests.bench.options import parsed, positive

_KIND_AT = 8


def record(forks: int) -> bytes:
    """Drain the ring while a child forks; return one run of (u32 length, u32 0, record, padding)."""
    probes = Probes(1 << 22)
    out = bytearray()

    def keep(data: memoryview | bytes, at: int) -> None:
        length = record_bytes(data, at, data[at + _KIND_AT])
        out.extend(struct.pack("<II", length, 0))
        out.extend(data[at : at + length])
        out.extend(b"\0" * (-length % 8))

    storm = os.fork()
    if not storm:
        for _ in range(forks):
            child = os.fork()
            if not child:
                os._exit(3)
            os.waitpid(child, 0)
        os._exit(0)
    while os.waitpid(storm, os.WNOHANG) == (0, 0):
        probes.ring.drain(keep)
        time.sleep(0.005)
    probes.ring.drain(keep)
    probes.close()
    return bytes(out)


def replay(run: bytes) -> tuple[int, float]:
    """Feed the bytes to a new table; return the number of records and the CPU time in seconds."""
    table = ProcessTable()
    stream = Stream(Handlers(table).by_kind)
    data = memoryview(run)
    words = data.cast("I")
    stream.next = struct.unpack_from("<Q", run, 8)[0]
    feed = stream.feed
    position, end = 0, len(run)
    gc.collect()
    gc.disable()  # as the daemon does
    begin = time.process_time()
    while position < end:
        feed(data, position + 8)
        position += (words[position >> 2] + 15) & ~7
    return stream.records, time.process_time() - begin


def main() -> None:
    """Print records per second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forks", type=positive, default=20_000)
    parser.add_argument("--replays", type=positive, default=7)
    parser.add_argument("--json", action="store_true")
    options = parsed(parser)
    run = record(options.forks)
    rates = []
    for _ in range(options.replays):
        records, seconds = replay(run)
        rates.append(records / seconds)
    figures = {"records": records, "bytes": len(run), "best": max(rates), "median": statistics.median(rates)}
    if options.json:
        print(json.dumps(figures))
    else:
        print(f"{records} records, {len(run) / records:.0f} bytes each")
        print(f"median {figures['median']:,.0f} records/s, best {figures['best']:,.0f} records/s, on one core")


if __name__ == "__main__":
    main()
