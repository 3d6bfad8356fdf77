# SPDX-License-Identifier: Apache-2.0
"""Fuzzer of the reader of recordings: changed segments, and segments with changed contents and right check sums.

``python -m tests.fuzz.fuzz_recording [-runs=N] [-seed=N] [-max_total_time=S]``. Each input is a folder: some segments of a
recording of a simulated kernel, changed at random. These faults end the run and print the seed of the input: an exception
that is no error of ours; an answer in longer than `LONGEST_S`; and, where the bytes were changed and no check sum was
repaired, a state that is not the true one and that is not said to lack something.
"""

import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import zstandard

from agent.errors import CkptreeError
from agent.recorder import folder, segment
from agent.recorder.recording import Recording
from agent.recorder.tapesegment import TapeSegment
from tests.support.taped import Truth, a_recording, replayed, state_of

LONGEST_S = 10.0
TELLING_S = 10.0
_AGE = 200  # inputs, before the recording is made anew
_LOOKS = 3
_WORDS = (0, 1, 7, 8, 15, 16, 63, 64, 65, 66, 128, 0xFF, 1 << 31, (1 << 32) - 1, (1 << 63), (1 << 64) - 1)


def changed(data: bytes, chance: random.Random) -> bytes:
    """Return bytes with some changes: flipped bits, words, and parts cut out, doubled or moved."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        if not out:
            break
        at = chance.randrange(len(out))
        length = chance.randrange(1, 1 + min(64, len(out) - at))
        how = chance.randrange(6)
        if how < 2:
            out[at] ^= 1 << chance.randrange(8)
        elif how == 2:
            size = chance.choice((4, 8))
            out[at : at + size] = (chance.choice(_WORDS) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        elif how == 3:
            del out[at : at + length]
        elif how == 4:
            out[at:at] = out[at : at + length]
        else:
            del out[at:]
    return bytes(out)


def rewritten(path: Path, chance: random.Random) -> bytes:
    """Return a segment in which a fact, or the content of a block, is changed, with right check sums."""
    facts, begin = segment.read_head(path.read_bytes())
    each = TapeSegment(path, facts, begin, 0)
    blocks = [block for block in each.blocks if block is not None]
    victim = chance.randrange(-1, len(blocks))
    said = json.loads(json.dumps({name: getattr(facts, name) for name in segment.SegmentFacts.__slots__}))
    if victim < 0:
        name = chance.choice(list(said))
        said[name] = chance.choice((0, -1, "", None, True, [], {}, 1 << 70, "x", *_WORDS))
    try:
        out = segment.head(segment.SegmentFacts(**said))
    except (TypeError, ValueError):
        return path.read_bytes()
    for index, block in enumerate(blocks):
        content = each.content(block) or b""
        numbers, times = (block.first, block.next), (block.first_ns, block.last_ns, block.ahead_ns)
        if index == victim:
            content = changed(content, chance)
            if chance.random() < 0.2:
                numbers = (chance.choice(_WORDS), chance.choice(_WORDS))
        packed = zstandard.ZstdCompressor(level=1).compress(content)
        out += b"".join(map(bytes, segment.block(block.kind, packed, len(content), numbers, times)))
    return out


class Fuzzed:
    """A recording that is changed again and again.

    Args:
        seed: of it.
    """

    def __init__(self, seed: int) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="ckptree-fuzz-"))
        truths = a_recording(self._place, seed, steps=25)
        self._truths = list({(each.run, each.order): each for each in truths}.values())
        self._segments = folder.stored(self._place)

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self._place)

    def one(self, chance: random.Random) -> str:
        """Change it, look at it, and put it back; return what became of it."""
        victim = chance.choice(self._segments).path
        before = victim.read_bytes()
        repaired = chance.random() < 0.5
        victim.write_bytes(rewritten(victim, chance) if repaired else changed(before, chance))
        begin = time.monotonic()
        try:
            return self._look(chance, repaired=repaired)
        finally:
            victim.write_bytes(before)
            if time.monotonic() - begin > LONGEST_S:
                raise AssertionError(f"it took {time.monotonic() - begin:.1f} s")

    def _look(self, chance: random.Random, *, repaired: bool) -> str:
        try:
            recording = Recording(self._place)
        except CkptreeError:
            return "no recording"
        _ = recording.gaps, recording.until_ns, recording.host
        told = "named"
        for truth in chance.sample(self._truths, _LOOKS):
            for by_time in (False, True):
                if self._state(recording, truth, by_time=by_time, repaired=repaired):
                    told = "told"
        return told

    def _state(self, recording: Recording, truth: Truth, *, by_time: bool, repaired: bool) -> bool:
        try:
            found = recording.table_at(recording.at_time(truth.time_ns)) if by_time else replayed(recording, truth)
        except CkptreeError:
            return False
        if found is None or found.reasons:
            return False
        if not repaired and not by_time and state_of(found.table, found.stream) != truth.state:
            raise AssertionError(f"another state at #{truth.order} of run {truth.run}")
        return True


def run(inputs: int, longest_s: float, seed: int) -> Counter[str]:
    """Run so many inputs, or until the time is over; return what became of them.

    Raises:
        AssertionError: a fault; its seed and number have been printed.
    """
    end = time.monotonic() + longest_s
    counts = Counter[str]()
    told = time.monotonic()
    fuzzed = None
    try:
        for number in range(inputs):
            if time.monotonic() > end:
                break
            if fuzzed is None or number % _AGE == 0:
                if fuzzed is not None:
                    fuzzed.close()
                fuzzed = Fuzzed(seed + number)
            try:
                counts[fuzzed.one(random.Random(f"{seed} {number}"))] += 1
            except BaseException:
                print(f"the fault is in input {number} of -seed={seed}", file=sys.stderr)
                raise
            if time.monotonic() - told > TELLING_S:
                told = time.monotonic()
                print(f"#{number} {dict(counts)}", file=sys.stderr)
    finally:
        if fuzzed is not None:
            fuzzed.close()
    return counts


def main(arguments: list[str]) -> None:
    """Run until the options say so, or until a fault."""
    options = dict(each.lstrip("-").partition("=")[::2] for each in arguments)
    inputs, seed = int(options.get("runs", 10_000_000)), int(options.get("seed", time.time_ns()))
    counts = run(inputs, float(options.get("max_total_time", "inf")), seed)
    print(f"{counts.total()} inputs: {dict(counts)}")


if __name__ == "__main__":
    main(sys.argv[1:])
