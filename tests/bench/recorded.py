# SPDX-License-Identifier: Apache-2.0
"""Measurement of the recorder's truth: live snapshots of a fork storm, and the same instants out of the recording.

``python -m tests.bench.recorded [--snapshots 3400] [--write]`` from the repository's root, as root. A daemon records while
storms run as fast as the machine can. Each snapshot that it called complete is compared, byte for byte, with the image at
its number out of the recording; each keyframe with a replay of the segment before it. The exit code is 0 unless something
differs.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.recorder.recording import Recording
from tests.bench.options import add_storm, add_write, kinds_of_storm, parsed, positive
from tests.bench.report import tell
from tests.bench.storm import Storm
from tests.bench.watcher import Watcher
from tests.support.recorded import Taken, different, taken, unlike

HEAD = ("storm", "records", "lost", "snapshots", "compared", "keyframes", "bytes a record", "different")
_WRITTEN_S = 1.0


@dataclass(slots=True)
class Outcome:
    """The result of one storm.

    Attributes:
        records, lost: of the daemon.
        snapshots, compared: taken, and of those complete.
        keyframes: compared with a replay.
        per_record: bytes on disk.
        wrong: the differences.
    """

    records: int = 0
    lost: int = 0
    snapshots: int = 0
    compared: int = 0
    keyframes: int = 0
    per_record: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def cells(self) -> list[str]:
        """Return its cells of the table."""
        counts = (self.records, self.lost, self.snapshots, self.compared, self.keyframes)
        return [*(f"{count:,}" for count in counts), f"{self.per_record:.1f}", str(len(self.wrong))]

    def said(self) -> str:
        """Return its figures in words."""
        return f"{len(self.wrong)} of {self.compared} instants and {self.keyframes} keyframes differ"


def record(options: argparse.Namespace, pid_max: int = 0, settings: str = "") -> Outcome:
    """Run one storm, and compare."""
    out = Outcome()
    snapshots: list[Taken] = []
    with tempfile.TemporaryDirectory(prefix="ckptree-recorded-") as place:
        # Small, so that segments are short and keyframes many.
        table = f'[record]\ndir = "{place}/recording"\nmax_bytes = {options.max_bytes}\n'
        with Watcher(settings + table) as watcher:
            with Storm(idle=options.idle, rate=options.rate, workers=options.workers, pid_max=pid_max) as storm:
                for _ in range(options.snapshots):
                    snapshots.append(taken(watcher.client, storm.root))
                    time.sleep(options.pause_ms / 1000)
            time.sleep(_WRITTEN_S)
            status = watcher.client.status()
        recording = Recording(Path(place) / "recording")
        out.records, out.lost, out.snapshots = status["records"], status["lost"], len(snapshots)
        out.compared = sum(each.complete for each in snapshots)
        out.keyframes = len(recording.segments) - 1
        out.per_record = status["recording"]["written_bytes"] / max(1, out.records)
        out.wrong = different(recording, snapshots)
        out.wrong += unlike(recording)
        if recording.gaps or status["recording"]["gaps"]:
            out.wrong.append(f"the recording has gaps: {recording.gaps}")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it once; return 0 unless something differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=positive, default=3400, help="of each storm")
    add_storm(parser, pause_ms=2, between="snapshots")
    parser.add_argument("--max-bytes", type=positive, default=1 << 32, help="size of the recording at most")
    add_write(parser)
    options = parsed(parser, arguments)
    outcomes = (
        (name, record(options, pid_max, settings)) for name, (pid_max, settings) in kinds_of_storm(options).items()
    )
    return tell("recorded", HEAD, outcomes, write=options.write)


if __name__ == "__main__":
    sys.exit(main())
