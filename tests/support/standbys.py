# SPDX-License-Identifier: Apache-2.0
"""Stand-bys for tests: processes of their own, as on their hosts."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.fleet import standbylink
from tests.support.relays import READY_S, RelayProcess, _started, a_relay, await_line, settings
from tests.support.taped import Taped

FOLLOW = 'allow = ["follow"]\nstream_bytes = 8388608\n'


class StandbyProcess(RelayProcess):
    """A stand-by, whose `place` is the folder of its copy."""

    place: Path = Path()

    def told(self) -> dict[str, Any]:
        """Return what it says of itself."""
        answer = standbylink.ask(self.place, {"do": "tell"})
        assert answer is not None, self.log.read_text()
        return answer

    def await_have(self, order: int, numbering: str = "") -> dict[str, Any]:
        """Wait until it says that it has a record, and return all that it says.

        Args:
            order: number of the record.
            numbering: the one that is meant; empty: any.
        """
        until = time.monotonic() + READY_S
        while (said := self.told())["have"] is None or said["have"] < order or numbering not in said["numbering"]:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, f"{said}, #{order} is wanted: {self.log.read_text()}"
            time.sleep(0.02)
        return said


@contextmanager
def a_standby(
    folder: Path,
    host: str,
    nats: str,
    of: str,
    root: str,
    more: str = "",
    *,
    place: Path | None = None,
    before: Sequence[str] = (),
) -> Iterator[StandbyProcess]:
    """Run a stand-by, once it is connected.

    Args:
        folder: for its configuration, its log and its copy.
        host: the name of its own host.
        nats: address of the server.
        of, root: what it follows.
        more: further lines of the configuration.
        place: the folder of its copy; None: one in `folder`.
        before: words before its command.
    """
    config = settings(folder, host, nats, more=more)
    place = place or folder / f"{host}-copy"
    words = ["relay", "--config", os.fspath(config), "--follow", of, root, "--record", os.fspath(place)]
    command = [*before, sys.executable, "-m", "agent", *words]
    log = folder / f"{host}.log"
    standby = StandbyProcess(host, _started(command, log), log, command)
    standby.place = place
    try:
        await_line(standby, 1)
        yield standby
    finally:
        standby.process.terminate()
        standby.process.wait(20)
    assert "Traceback" not in log.read_text(), log.read_text()


class Original:
    """A host that records.

    Args:
        place: a folder for its recording.
        run: index of the numbering.
    """

    def __init__(self, place: Path, run: int = 0) -> None:
        self.recording = place / "recording"
        self.recording.mkdir(exist_ok=True)
        self.taped = Taped(self.recording, 5 + run, run)
        self.taped.mark(continues=False, why="the daemon began")
        self._ended = False
        self.go_on(1)

    def close(self, *, orderly: bool = True) -> None:
        """End its daemon."""
        if not self._ended:
            self._ended = True
            self.taped.end(orderly=orderly)

    def go_on(self, steps: int = 10) -> int:
        """Let something happen; return the number of the last record, which is a new one."""
        before = self.taped.next
        while steps > 0 or self.taped.next == before:
            self.taped.step()
            steps -= 1
        return self.flushed()

    def lose(self) -> int:
        """Have records lost, without a sweep behind; return the number of the last one."""
        while not self.taped.in_doubt:
            self.taped.step(lost=True)
        return self.flushed()

    def flushed(self) -> int:
        """Have all written that has happened; return the number of the last record."""
        self.taped.flush()
        self.recording.with_name("next").write_text(str(self.taped.next))
        return self.taped.next - 1

    @contextmanager
    def relay(self, url: str, more: str = FOLLOW) -> Iterator[RelayProcess]:
        """Run its relay."""
        with a_relay(self.recording.parent, "old", url, more=more, recording=self.recording) as relay:
            yield relay
