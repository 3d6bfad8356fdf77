# SPDX-License-Identifier: Apache-2.0
"""Fuzzer of folders of CRIU's images: python -m tests.fuzz.fuzz_criu [-runs=N] [-seed=N] [-max_total_time=S]

Each input is one of the dumps of tests.support.criuimages in which a few files are changed. Three of four changes are
within a message: a number, a byte string, a field or an entry more or less, encoded again, so that the readers behind the
decoder are reached. The others are within the bytes. A foreign exception in the reading of the files, of the tree or of
the contents, in the check, in the forecast of CRIU's restore, or in the writing of the tree as an image ends the run, and
the changed files are left in a folder that is named.
"""

import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from agent.errors import CkptreeError
from agent.restart.contents import resumer
from agent.restart.contents.addresses import mapped, special_areas
from agent.restart.contents.contents import Contents
from agent.restart.contents.hostfacts import HostFacts
from agent.restart.contents.images import Images
from agent.restart.contents.pageruns import PAGE
from agent.restart.contents.refusals import Refused
from agent.restart.planning.criuforecast import forecast
from agent.restart.planning.plan import Plan
from agent.restart.planning.search import decide
from exporters import registry
from exporters.checking.criucheck import check_folder
from exporters.criu import criutree, imagefile, imagefolder
from exporters.criu.criuschema import messages
from exporters.criu.imagefolder import ImageFolder
from tests.support import criuimages

TELLING_S: Final = 10.0
_FLAGS: Final = frozenset(("avx", "avx512f", "ospke"))
_HOST: Final = HostFacts("x86_64", _FLAGS, initial=frozenset())
_MOST_BYTES: Final = 64 << 20
_MAPS: Final = """\
00400000-00409000 r-xp 00000000 00:00 0 helper
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]
7ffd00030000-7ffd00034000 r--p 00000000 00:00 0 [vvar]
7ffd00034000-7ffd00036000 r-xp 00000000 00:00 0 [vdso]
"""
_DUMPS: Final = ("container", "subtree")
_NUMBERS: Final = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    16,
    64,
    4095,
    4096,
    4194303,
    4194304,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63,
    2**64 - 1,
)
_RANGES: Final = {
    "TYPE_UINT32": (0, 2**32 - 1),
    "TYPE_UINT64": (0, 2**64 - 1),
    "TYPE_FIXED64": (0, 2**64 - 1),
    "TYPE_INT32": (-(2**31), 2**31 - 1),
    "TYPE_SINT32": (-(2**31), 2**31 - 1),
    "TYPE_INT64": (-(2**63), 2**63 - 1),
    "TYPE_SINT64": (-(2**63), 2**63 - 1),
}


class Mutator:
    """A source of changed files."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def file(self, name: str, data: bytes) -> bytes:
        """Return a file with a few changes."""
        kind = imagefile.kind_of(name)
        if kind is None or self._chance.random() < 0.25:
            return self._bytes(data)
        files = criuimages.Files({name: data})
        parts = [data[: 4 * len(kind.magics)]]
        found = list(imagefolder.entries(files, name))
        chosen = self._chance.randrange(len(found))
        for place, entry in enumerate(found):
            times = 1
            if place == chosen:
                for _ in range(self._chance.randint(1, 3)):
                    self._message(entry.message)
                times = self._chance.choice((1, 1, 1, 1, 1, 1, 0, 2))
            encoded = entry.message.SerializePartialToString()
            framed = len(encoded).to_bytes(4, "little") + encoded + data[entry.payload :][: entry.payload_bytes]
            parts.append(framed * times)
        return b"".join(parts)

    def _bytes(self, data: bytes) -> bytes:
        out, chance = bytearray(data), self._chance
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(out) + 1)
            match chance.randrange(4):
                case 0:
                    out[at : at + 4] = chance.choice(_NUMBERS).to_bytes(8, "little")[:4]
                case 1:
                    out[at : at + 1] = bytes([chance.randrange(256)])
                case 2:
                    del out[at : at + chance.randrange(1, 40)]
                case _:
                    out[at:at] = out[at : at + chance.randrange(1, 40)]
        return bytes(out)

    def _message(self, message: Any) -> None:
        """Change a field of a message, or of one within it."""
        chance, fields = self._chance, message.DESCRIPTOR.fields
        set_ones = [field for field, _ in message.ListFields()]
        field = chance.choice(set_ones if set_ones and chance.random() < 0.9 else fields)
        repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
        if chance.random() < 0.1:
            message.ClearField(field.name)
        elif field.message_type is not None:
            inner = getattr(message, field.name)
            if not repeated:
                self._message(inner)
            elif len(inner) and chance.random() < 0.8:
                self._message(chance.choice(inner))
            else:
                inner.add()
        elif repeated:
            values = list(getattr(message, field.name))
            values[chance.randrange(len(values) + 1) :] = [self._value(field) for _ in range(chance.randrange(3))]
            message.ClearField(field.name)
            getattr(message, field.name).extend(values)
        else:
            setattr(message, field.name, self._value(field))

    def _value(self, field: Any) -> Any:
        chance = self._chance
        if field.type == field.TYPE_BOOL:
            return chance.random() < 0.5
        if field.type == field.TYPE_BYTES:
            return chance.choice((b"", b"/", b"a\0b", b"\xff" * 20, b"../..", b"/dev/null", b"x" * 5000))
        name = next(name for name in _RANGES if getattr(field, name) == field.type)
        low, high = _RANGES[name]
        return min(max(chance.choice((*_NUMBERS, -1, chance.randrange(300))), low), high)


class _Anywhere(Contents):
    """Contents whose files are taken for what they were: this host has others, and without this all would be refused."""

    def _check_file(self, pid: int, identity: int) -> None:
        if identity not in self._images.files:
            super()._check_file(pid, identity)


def fill(contents: Contents, plan: Plan) -> str:
    """Write the program that restores sound contents; return how it ended."""
    if contents.refusals:
        return "contents: refused"
    specials = special_areas(_MAPS, b"")
    numbers = tuple(actor.numbers or (1,) for actor in plan.actors)
    programs = contents.programs(numbers, mapped(_MAPS), specials)
    size = sum(len(piece) for _, piece in programs.fill.section(bytes(PAGE), len(plan.actors)))
    for steps in (programs.memories(), programs.rest()):
        size += sum(len(process.part()[1]) for process, _ in steps)
    table = resumer.table(programs.states(), [1] * len(plan.actors), (0, PAGE), 0)
    assert size + len(table) < _MOST_BYTES, f"the program has {size} bytes"
    return "contents"


def read(path: Path) -> Counter[str]:
    """Read a folder by each of its readers; return how each ended."""
    ends: Counter[str] = Counter()
    folder = ImageFolder(path)
    ends["sound" if not check_folder(folder) else "findings"] += 1
    try:
        snapshot = criutree.load(folder)
    except CkptreeError as error:
        ends[type(error).__name__] += 1
        return ends
    registry.image(snapshot)
    ends["forecast" if forecast(snapshot) else "no forecast"] += 1
    try:
        _, plan = decide(snapshot, pidns=True, any_numbers=False)
        contents = _Anywhere(Images(path), snapshot, plan)
        contents.check_host(_HOST)
        end = fill(contents, plan)
    except Refused:  # of the program's addresses
        end = "contents: refused"
    except CkptreeError as error:
        end = f"contents: {type(error).__name__}"
    ends[end] += 1
    return ends


def run(runs: int, seconds: float, seed: int) -> Counter[str]:
    """Run until the given number or time is reached; return how the readings ended."""
    messages()
    mutator, chance = Mutator(random.Random(seed)), random.Random(seed + 1)
    ends: Counter[str] = Counter()
    begin = told = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-criu-") as top:
        folders = {name: Path(top, name) for name in _DUMPS}
        for name, folder in folders.items():
            folder.mkdir()
            for file, data in criuimages.dump(name).data.items():
                (folder / file).write_bytes(data)
        done = 0
        while done < runs and (now := time.monotonic()) < begin + seconds:
            if now - told >= TELLING_S:
                told = now
                print(f"{done} folders of {runs}, {done / (now - begin):.0f} a second", file=sys.stderr)
            name = chance.choice(_DUMPS)
            dump = criuimages.dump(name)
            readable = [file for file in dump.names() if not file.startswith("pages-")]
            changed = chance.sample(readable, chance.choice((1, 1, 1, 2, 3)))
            for file in changed:
                (folders[name] / file).write_bytes(mutator.file(file, dump.data[file]))
            try:
                ends += read(folders[name])
            except Exception:
                kept = Path(tempfile.mkdtemp(prefix="fuzz-criu-")) / name
                shutil.copytree(folders[name], kept)
                print(f"seed {seed}, folder {done}: {', '.join(changed)} in {kept}", file=sys.stderr)
                raise
            for file in changed:
                (folders[name] / file).write_bytes(dump.data[file])
            done += 1
    return ends


def main(arguments: list[str]) -> None:
    """Run by the options, which are spelled as libFuzzer's."""
    options = dict(argument.lstrip("-").split("=") for argument in arguments)
    seconds = float(options.get("max_total_time", 0)) or float("inf")
    ends = run(int(options.get("runs", 100_000)), seconds, int(options.get("seed", os.getpid())))
    for end, count in ends.most_common():
        print(f"{count:>9} {end}")


if __name__ == "__main__":
    main(sys.argv[1:])
