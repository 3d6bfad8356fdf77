# SPDX-License-Identifier: Apache-2.0
"""Fuzzer of images for the reader and the check: python -m tests.fuzz.fuzz_image [--plain] [OPTION...] [CORPUS]

With atheris (pip install atheris) the mutations follow the code's branches; the options are libFuzzer's, as in
``-runs=1000000 -max_total_time=600``. Without it, or with ``--plain``, they are blind, and the only options are
``-runs``, ``-seed`` and ``-max_total_time``. In both cases a foreign exception, or a check that disagrees with the
reader, ends the run and shows the bytes: as libFuzzer's crash file, or in hex.
"""

import importlib
import random
import struct
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from exporters.documents import jsonfmt
from exporters.image import checkpoint
from tests.support.builders import a_crowd, a_family
from tests.support.checked import judged
from tests.support.images import GOLDEN, a_record, an_extension, repaired, some_facts, with_records

# An image as a later version may write it, of another machine.
LATER = replace(
    a_family(),
    unknown={(): {"later": (1, {"$bytes": b"\xff"})}, ("tasks", 1, "birth"): {"later": None}},
    header=replace(a_family().header, machine="aarch64", rev=7, lsm_info=b"\xff"),
)
SEEDS = (
    GOLDEN,
    with_records(a_record(103, b"a task"), an_extension(some_facts())),
    checkpoint.dumps(a_family()),
    checkpoint.dumps(a_family(), "v23"),
    checkpoint.dumps(a_crowd(5, 2, level=1)),
    jsonfmt.dumps(a_family()),
    checkpoint.dumps(LATER),
    jsonfmt.dumps(LATER),
)
LONGEST_BYTES = 1 << 14
TELLING_S = 10.0

_WORDS = (0, 1, 2, 3, 7, 8, 16, 24, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, -4096 & 0xFFFFFFFF, -4097 & 0xFFFFFFFF)
_KINDS = (1, 2, 3, 4, 7, 101, 102, 8101, 9001, 9999)


def one(data: bytes) -> None:
    """Run one input as it is, and with a correct checksum, so that the data behind it is reached."""
    judged(data)
    whole = repaired(data)
    if whole != data:
        judged(whole)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return the image with a few fields, bytes or stretches changed."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(out) + 1)
        word = chance.choice((*_WORDS, *_KINDS, chance.randrange(64)))
        match chance.randrange(8):
            case 0 | 1 | 2:
                # Nearly all fields are words, few of them aligned.
                out[at : at + 4] = struct.pack("<I", word)
            case 3 | 4:
                out[at : at + 1] = bytes([chance.randrange(256)])
            case 5:
                del out[at : at + chance.randrange(1, 40)]
            case 6:
                start = chance.randrange(len(out) + 1)
                out[at:at] = out[start : start + chance.randrange(1, 120)]
            case _:
                other = chance.choice(SEEDS)
                start = chance.randrange(len(other))
                out[at : at + 24] = other[start : start + 24]
    return bytes(out[:LONGEST_BYTES])


def plain(runs: int, seconds: float, seed: int) -> int:
    """Run blind mutations until the given number or time is reached; return their number."""
    chance = random.Random(seed)
    begin = told = time.monotonic()
    end = begin + seconds
    done = 0
    while done < runs and (now := time.monotonic()) < end:
        if now - told >= TELLING_S:
            told = now
            print(f"{done} images of {runs}, {done / (now - begin):.0f} a second", file=sys.stderr)
        data = mutated(chance.choice(SEEDS), chance)
        try:
            one(data)
        except Exception:
            print(f"seed {seed}, image {done}:\n{data.hex()}", file=sys.stderr)
            raise
        done += 1
    return done


def _option(arguments: list[str], name: str, default: int) -> int:
    """Return the value of an option in libFuzzer's spelling; below 0 means without limit, as there."""
    for argument in arguments:
        if argument.startswith(f"-{name}="):
            value = int(argument.partition("=")[2])
            return value if value >= 0 else sys.maxsize
    return default


def main(arguments: list[str]) -> None:
    """Run with atheris if it is installed, else without."""
    atheris: Any = None
    if "--plain" in arguments:
        arguments.remove("--plain")
    else:
        try:
            atheris = importlib.import_module("atheris")
        except ImportError:
            print("no atheris (pip install atheris has it): the mutations are blind", file=sys.stderr)
    if atheris is None:
        seconds = _option(arguments, "max_total_time", sys.maxsize) or sys.maxsize
        done = plain(_option(arguments, "runs", 100_000), seconds, _option(arguments, "seed", 2011))
        print(f"{done} images without a fault")
        return
    corpus = [Path(argument) for argument in arguments if not argument.startswith("-")]
    for directory in corpus[:1]:
        directory.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(SEEDS):
            (directory / f"seed-{number}").write_bytes(seed)
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-max_len={LONGEST_BYTES}", *arguments], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
