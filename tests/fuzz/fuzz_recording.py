# SPDX-License-Identifier: Apache-2.0
"""Fuzzer of the readers of recordings: python -m tests.fuzz.fuzz_recording [-runs=N] [-seed=N] [-first=N]
[-max_total_time=S] [-keep_going=1]

Each input is a folder with a short recording of a simulated kernel, of which a segment or two are changed
(tests.fuzz.tapechanges), left out, or have the names of others. What an input has not changed is kept in memory
(tests.fuzz.keptsegments). It is read by the reader of states, by number or by time, by that of events, or by that of the
lives of a number. These are faults: an exception that is no error of ours; a file beside the folder that is opened, or too
much time or memory (tests.fuzz.inputwatch); and, where the bytes were changed and no check sum was repaired, a state that
is not the true one and that is not said to lack something. A fault ends the run, unless ``-keep_going`` collects all; the
number of an input and the seed make it again.
"""

import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from agent import rootname
from agent.errors import CkptreeError
from agent.recorder import folder
from agent.recorder.held import HeldTable
from agent.recorder.history import NumberHistory
from agent.recorder.past import Enquirer, WantedTree
from agent.recorder.recording import Recording
from agent.recorder.retelling import EventSpan, Retelling
from tests.fuzz import fuzzing
from tests.fuzz.distinct import Distinct
from tests.fuzz.inputwatch import InputWatch
from tests.fuzz.keptsegments import KeptSegments
from tests.fuzz.tapechanges import Parsed, changed, parsed, rewritten
from tests.support.taped import Truth, a_recording, replayed, state_of

TELLING_S: Final = 10.0
_RECORDINGS: Final = 24
_STEPS: Final = (2, 2, 3, 3, 4, 6)
_MARKS: Final = 0.35
_MOST_NUMBER: Final = 60


class _Made(NamedTuple):
    """A recording, with the truth about it.

    Attributes:
        place: its folder.
        truths: of the points between two parts.
        data, parts: of each segment, by name.
        kept: of the segments, what readers make of them.
    """

    place: Path
    truths: list[Truth]
    data: dict[str, bytes]
    parts: dict[str, Parsed]
    kept: KeptSegments


class RecordingFuzzer:
    """The fuzzer.

    Args:
        seed: of all inputs.
        top: a folder for the recordings.

    Attributes:
        ends: what became of the inputs.
        faults: the first input of each fault, and their number, by its place.
        watch: over the inputs.
    """

    def __init__(self, seed: int, top: Path) -> None:
        self._seed = seed
        self._made = [
            self._make(seed * _RECORDINGS + number, top / str(number), _STEPS[number % len(_STEPS)])
            for number in range(_RECORDINGS)
        ]
        self._distinct = Distinct()
        self._place = os.fsencode(top)
        for made in self._made:  # the product imports some modules when it needs them
            recording = Recording(made.place)
            for how in range(5):
                with suppress(CkptreeError):
                    self._asked(recording, made, random.Random(1), how, repaired=False)
        self.watch = InputWatch(lambda path: path.startswith(self._place))
        self.ends: Counter[str] = Counter()
        self.faults: dict[str, tuple[int, int]] = {}

    def _make(self, seed: int, place: Path, steps: int) -> _Made:
        place.mkdir(parents=True)
        truths = a_recording(place, seed, steps=steps, marks=_MARKS)
        known: dict[tuple[int, int], Truth | None] = {}
        for (
            each
        ) in truths:  # what has no record may happen between two truths of one number: then neither is the only one
            same = known.setdefault((each.run, each.order), each)
            known[each.run, each.order] = each if same is not None and same.state == each.state else None
        data = {each.path.name: each.path.read_bytes() for each in folder.stored(place)}
        whole = {name: parsed(each) for name, each in data.items()}
        only = [each for each in known.values() if each is not None]
        return _Made(place, only, data, whole, KeptSegments(place, data))

    def one(self, number: int) -> None:
        """Run one input, which was not there before."""
        chance = random.Random(self._seed << 40 | number)
        made = chance.choice(self._made)
        repaired = chance.random() < 0.6
        parts = self._change(made, chance, repaired=repaired)
        rounds = 0
        while not self._distinct.is_new(_told(made, parts)):
            rounds += 1
            assert rounds < 1000, "all changes were there before"
            parts |= self._change(made, chance, repaired=repaired)
        with made.kept.changed(parts), self.watch.over(number):
            self.ends.update(self._looked(made, chance, repaired=repaired))

    def _change(self, made: _Made, chance: random.Random, *, repaired: bool) -> dict[str, bytes | None]:
        """Return the segments that are changed, by name; None of one that is gone."""
        names = list(made.data)
        found: dict[str, bytes | None] = {}
        for name in chance.sample(names, min(len(names), chance.choice((1, 1, 1, 2)))):
            other = chance.choice(names)
            how = chance.random()
            if how < 0.03:
                found[name] = None
            elif how < 0.06 and repaired:
                found[name] = made.data[other]
            elif repaired:
                found[name] = rewritten(made.parts[name], made.parts[other], chance)
            else:
                found[name] = changed(made.data[name], chance)
        return found

    def _looked(self, made: _Made, chance: random.Random, *, repaired: bool) -> Iterable[str]:
        """Read a folder; yield how each reading ended."""
        try:
            recording = Recording(made.place)
        except CkptreeError:
            yield "no recording"
            return
        _ = recording.host, recording.until_ns
        try:
            yield self._asked(recording, made, chance, chance.choice((0, 0, 1, 2, 3, 4, 4)), repaired=repaired)
        except CkptreeError as error:
            yield f"{type(error).__name__}"

    def _asked(self, recording: Recording, made: _Made, chance: random.Random, how: int, *, repaired: bool) -> str:
        """Ask a recording one question; return how it was answered."""
        truth = chance.choice(made.truths)
        if how == 0:
            found = replayed(recording, truth)
            if found is None or found.reasons:
                return "a state, named"
            if not repaired:
                assert state_of(found.table, found.stream) == truth.state, "another state is told as whole"
            return "a state"
        if how == 1:
            replay = recording.table_at(recording.at_time(truth.time_ns))
            _ = recording.gaps
            return "a time, named" if replay.reasons else "a time"
        if how == 4:
            return _held(made, repaired=repaired)
        span = EventSpan(recording.runs[0].first, recording.runs[-1].last, present=chance.random() < 0.5)
        if how == 2:
            count = sum(len(batch) for batch in Retelling(recording, span, Enquirer()).batches())
            return "events" if count else "no events"
        number = chance.randrange(1, _MOST_NUMBER)
        NumberHistory(recording, (span.since, span.until), number, Enquirer()).lives()
        return "lives"

    def keep(self, number: int, place: str) -> Path:
        """Write the folder of an input; return its path."""
        chance = random.Random(self._seed << 40 | number)
        made = chance.choice(self._made)
        parts = self._change(made, chance, repaired=chance.random() < 0.6)
        kept = Path(tempfile.mkdtemp(prefix="fuzz-recording-"))
        for name, data in (made.data | parts).items():
            if data is not None:
                (kept / name).write_bytes(data)
        (kept / "FAULT").write_text(
            f"-seed={self._seed} -first={number} -runs=1: {place}\n{traceback.format_exc()}", errors="backslashreplace"
        )
        return kept

    def report(self) -> str:
        """Return the counts so far."""
        lines = [f"{count:>10} {end}" for end, count in self.ends.most_common()]
        lines += self.watch.report()
        lines += [f"fault: {place}: {count} inputs, first {number}" for place, (number, count) in self.faults.items()]
        return "\n".join(lines)


def _held(made: _Made, *, repaired: bool) -> str:
    """Hold the table at the end of a recording, and take the tree of init from it; return how that ended."""
    held = HeldTable(made.place)
    held.refresh()
    if not held.is_there:
        return "nothing held"
    with suppress(CkptreeError):
        held.snapshot(WantedTree(rootname.parse("1"), "subtree"))
    if held.gap:
        return "a table, named"
    where, stands = (held.facts.ring, held.order), held.standing
    if not repaired and not stands.doubts():
        for truth in made.truths:
            if (f"ring {truth.run}", truth.order) == where:
                assert state_of(stands.table, stands.stream) == truth.state, "another table is held as whole"
    return "a table"


def _told(made: _Made, parts: dict[str, bytes | None]) -> list[bytes]:
    found = [os.fsencode(made.place)]
    for name, data in sorted(parts.items()):
        found += (name.encode(), b"gone" if data is None else data)
    return found


def run(runs: int, seconds: float, seed: int, *, first: int = 0, keep_going: bool = False) -> RecordingFuzzer:
    """Run until the given number or time is reached; the first fault is raised unless it is to `keep_going`."""
    top = Path(tempfile.mkdtemp(prefix="ckptree-fuzz-", dir=fuzzing.in_memory()))
    try:
        fuzzer = RecordingFuzzer(seed, top)
        begin = told = time.monotonic()
        for number in range(first, first + runs):
            now = time.monotonic()
            if now >= begin + seconds:
                break
            if now - told >= TELLING_S:
                told = now
                rate = (number - first) / (now - begin)
                print(f"{number - first} recordings, {rate:.0f} a second, {len(fuzzer.faults)} faults", file=sys.stderr)
            try:
                fuzzer.one(number)
            except Exception as error:
                place = fuzzing.place_of(error)
                known, count = fuzzer.faults.get(place, (number, 0))
                fuzzer.faults[place] = known, count + 1
                if not count:
                    kept = fuzzer.keep(number, place)
                    print(f"-seed={seed} -first={number} -runs=1: {place}: {kept}", file=sys.stderr, flush=True)
                if not keep_going:
                    raise
        return fuzzer
    finally:
        shutil.rmtree(top, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """Run by the options, which are spelled as libFuzzer's; return 1 if there were faults."""
    options = dict(each.lstrip("-").partition("=")[::2] for each in arguments)
    fuzzer = run(
        int(options.get("runs", 10_000_000)),
        float(options.get("max_total_time", 0)) or float("inf"),
        int(options.get("seed", os.getpid())),
        first=int(options.get("first", 0)),
        keep_going=options.get("keep_going", "0") != "0",
    )
    print(fuzzer.report())
    return 1 if fuzzer.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
