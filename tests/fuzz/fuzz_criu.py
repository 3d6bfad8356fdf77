# SPDX-License-Identifier: Apache-2.0
"""Fuzzer of folders of CRIU's images: python -m tests.fuzz.fuzz_criu [-runs=N] [-seed=N] [-first=N] [-rounds=N]
[-max_total_time=S] [-keep_going=1]

Each input is a dump in which a few files are changed (tests.fuzz.imagechanges): mostly one of the small dumps of
tests.support.smalldumps, now and then one of the two that CRIU wrote. It is read by the check, the tree's reader, the
writer of images, the forecast, the search for a plan and the reader of contents. Where these accept it, the program that
restores it is made and read again; the restorer in C takes it (tests.fuzz.restorerreader), and the resumer in C reads the
table of registers (tests.fuzz.resumereader).
What an input has not changed is not read again (tests.fuzz.keptreads).

A fault is a foreign exception, an operation that no program may have (tests.fuzz.programholds), a file that is opened and
not named, or too much time or memory (tests.fuzz.inputwatch). It ends the run, unless ``-keep_going`` collects all. The
options that it prints with a fault make the input again.
"""

import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from agent.errors import CkptreeError
from agent.model import Snapshot
from agent.restart.contents import memory, pathaccess, resumer
from agent.restart.contents.addresses import mapped, special_areas
from agent.restart.contents.contents import Contents
from agent.restart.contents.external import External
from agent.restart.contents.filling import host_specials
from agent.restart.contents.fillprogram import ProcessProgram
from agent.restart.contents.hostfacts import HostFacts
from agent.restart.contents.images import Images
from agent.restart.contents.pageruns import PAGE
from agent.restart.contents.refusals import Refused
from agent.restart.planning.criuforecast import forecast
from agent.restart.planning.plan import Plan
from agent.restart.planning.search import decide
from exporters import registry
from exporters.checking.criucheck import check_folder
from exporters.criu import criutree
from tests.fuzz import fuzzing
from tests.fuzz.distinct import Distinct
from tests.fuzz.imagechanges import PARENT, Changer, Dump, kind_of
from tests.fuzz.inputwatch import InputWatch
from tests.fuzz.keptreads import DumpFolder, KeptDump, keeping
from tests.fuzz.programholds import Limits, hold, hold_table
from tests.fuzz.restorerreader import ProgramPart, RestorerReader
from tests.fuzz.resumereader import ResumeReader, is_end
from tests.support import criuimages, smalldumps

TELLING_S: Final = 10.0
_FLAGS: Final = frozenset(("avx", "avx512f", "ospke"))
_LIMITS: Final = ((1 << 20, 1 << 20),) * 16
_HOST: Final = HostFacts("x86_64", _FLAGS, limits=_LIMITS, initial=frozenset())
_ALLOWED: Final = (
    External(b"/dev/tty", established=True),
    External(b"/dev/tty", closed=True),
    External(),
)
_MOST_BYTES: Final = 64 << 20
_MAPS: Final = """\
00400000-00409000 r-xp 00000000 00:00 0 helper
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]
7ffd00030000-7ffd00034000 r--p 00000000 00:00 0 [vvar]
7ffd00034000-7ffd00036000 r-xp 00000000 00:00 0 [vdso]
"""
_REAL: Final = ("container", "subtree")
_OF_REAL: Final = 0.005
"""Part of the inputs that are one of the dumps by CRIU: they take several times as long."""
_LOOKS: Final = 4096
"""Inputs between two looks at the messages that are kept."""
_OURS: Final = (
    b"/proc/self/",
    b"/proc/sys/kernel/",
    b"/proc/sys/fs/mqueue/",
    b"/dev/null",
    b"/dev/tty",
    b"/dev/ptmx",
    b"/dev/pts/",
)
"""Beginnings of the paths that a restart itself names."""
_BESIDE: Final = re.compile(rb"\.ckptree-[0-9]+-[0-9a-f]+$")
"""End of the path that a deleted file has for the time of a restart."""


class _Anywhere(Contents):
    """Contents whose files are taken for what they were: this host has others, and without this all would be refused."""

    def _check_file(self, pid: int, identity: int) -> None:
        if identity not in self._images.files:
            super()._check_file(pid, identity)


class CriuFuzzer:
    """The fuzzer.

    Args:
        seed: of all inputs.
        top: a folder for what tasks would read by its path.
        rounds: of changes of each input; 0: as many as make an input that was not there before.

    Attributes:
        ends: how the readings ended.
        kinds: number of inputs that changed a file of each kind.
        faults: the first input of each fault, and their number, by its place.
        watch: over the inputs.
    """

    def __init__(self, seed: int, top: Path, rounds: int = 0) -> None:
        self._seed = seed
        self._rounds, self._round = rounds, 1
        texts = fuzzing.odd_files(top / "odd")
        dumps = [Dump(theme, *make()) for theme, make in smalldumps.THEMES.items()]
        dumps += [Dump(name, criuimages.dump(name).data, {}) for name in _REAL]
        self._dumps = [KeptDump(dump, top / dump.theme) for dump in dumps]
        self._small, self._real = self._dumps[: -len(_REAL)], self._dumps[-len(_REAL) :]
        self._changer = Changer(dumps, texts)
        self._specials = host_specials()
        self._distinct = Distinct()
        for name in ("reader", "restorer"):
            (top / name).mkdir()
        self._reader = ResumeReader(top / "reader") if shutil.which("gcc") else None
        self._restorer = RestorerReader(top / "restorer") if shutil.which("gcc") else None
        self._folder = DumpFolder(self._dumps[0], {})
        self.ends: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.faults: dict[str, tuple[int, int]] = {}
        self._needed: dict[tuple[str, External], tuple[set[str], str]] = {}
        for kept in self._dumps:
            self._folder = DumpFolder(kept, {})
            assert check_folder(self._folder) == []
            forecast(kept.snapshot)
            registry.image(kept.snapshot)
            for allowed in _ALLOWED:
                self._folder = DumpFolder(kept, {})
                end = self._contents(kept, {}, kept.snapshot, kept.plan, allowed)
                names = self._folder.opened | {name for name in kept.dump.names if name.startswith(PARENT)}
                self._needed[kept.dump.theme, allowed] = names, end
        self.watch = InputWatch(self._names)  # which bounds this process and those that it starts from here on

    def one(self, number: int) -> None:
        """Run one input, which was not there before."""
        chance = random.Random(self._seed << 40 | number)
        kept = chance.choice(self._real if chance.random() < _OF_REAL else self._small)
        changed = self._changer.change(kept.dump, chance)
        self._round = 1
        while self._round < self._rounds or (not self._rounds and not self._is_new(kept, changed)):
            self._round += 1
            changed |= self._changer.change(kept.dump, chance)
        for stem in {kind.stem if (kind := kind_of(each)) else "pages" for each in changed}:
            self.kinds[stem] += 1
        self._folder = DumpFolder(kept, changed)
        pages = [each for each in changed if each.removeprefix(PARENT).startswith("pages-")]
        for each in pages:
            _put(kept.path / each, changed[each])
        try:
            with self.watch.over(number):
                self.ends.update(self._read(kept, changed, chance))
        finally:
            for each in pages:
                _put(kept.path / each, kept.dump.all.get(each))
        if number % _LOOKS == 0:
            for one in self._dumps:
                one.hold()
            pathaccess.changeable_folder.cache_clear()
            memory._about_area.cache_clear()

    def _is_new(self, kept: KeptDump, changed: Mapping[str, bytes | None]) -> bool:
        parts = [kept.dump.theme.encode()]
        for name, data in sorted(changed.items()):
            parts += (name.encode(), b"gone" if data is None else data)
        return self._distinct.is_new(parts)

    def _read(self, kept: KeptDump, changed: Mapping[str, bytes | None], chance: random.Random) -> Iterable[str]:
        """Read the folder at hand by each of its readers; yield how each ended."""
        folder = self._folder
        yield "sound" if not check_folder(folder) else "findings"
        snapshot, plan = kept.snapshot, kept.plan
        try:
            found = snapshot if folder.same_tree else criutree.load(folder)
            if found != snapshot:
                snapshot = found
                registry.image(snapshot)
                yield "forecast" if forecast(snapshot) else "no forecast"
                _, plan = decide(snapshot, pidns=True, any_numbers=False)
        except CkptreeError as error:
            yield f"tree: {type(error).__name__}"
            return
        allowed = chance.choice(_ALLOWED)
        needed, end = self._needed[kept.dump.theme, allowed]
        if folder.same_tree and needed.isdisjoint(changed):  # the contents are as they were
            yield end
        else:
            yield self._contents(kept, changed, snapshot, plan, allowed)

    def _contents(
        self, kept: KeptDump, changed: Mapping[str, bytes | None], snapshot: Snapshot, plan: Plan, allowed: External
    ) -> str:
        """Read the contents of the folder at hand, and make their program if they are sound; return how it ended."""
        folder = self._folder
        folders = [folder, *([DumpFolder(kept, changed, before=True)] if kept.dump.before else [])]
        make = _Anywhere if kept in self._real else Contents
        try:
            contents = make(Images(folder.path, folders), snapshot, plan, allowed)
            contents.check_host(_HOST)
            contents.check_vdso(self._specials)
            return self._filled(contents, contents.plan)
        except Refused:  # of the program's addresses
            return "contents: refused"
        except CkptreeError as error:
            return f"contents: {type(error).__name__}"

    def _filled(self, contents: Contents, plan: Plan) -> str:
        """Write the program that restores sound contents, and check it; return how it ended."""
        if contents.refusals:
            for refusal in contents.refusals:
                assert str(refusal)
            return "contents: refused"
        specials = special_areas(_MAPS, b"")
        numbers = tuple(actor.numbers or (1,) for actor in plan.actors)
        place = contents.stage.place
        areas = [*mapped(_MAPS), *([place] if place is not None else [])]
        programs = contents.programs(numbers, areas, specials)
        fill = programs.fill
        own = {number for each in numbers for number in each}
        limits = Limits(own, fill._most, self._names)
        first = [(program, program.base) for program in fill.processes]
        pieces = dict(fill.section(bytes(PAGE), len(plan.actors)))
        size = sum(map(len, pieces.values()))
        at = fill.state_offset(bytes(PAGE), len(plan.actors)) + fill.state_size
        parts: dict[ProcessProgram, list[ProgramPart]] = {}
        for program, base in first:
            begin = base + PAGE + fill.state_size
            hold(program, begin, pieces[at], limits)
            parts[program] = [ProgramPart(None, begin, pieces[at])]
            at += len(pieces[at])
        for steps in (programs.memories(), programs.rest()):
            for program, word in steps:
                begin, content = program.part()
                hold(program, begin, content, limits)
                parts[program].append(ProgramPart(word, begin, content))
                size += len(content)
        self._take(fill.state_size, parts)
        states = programs.states()
        table = resumer.table(states, range(1, len(plan.actors) + 1), (0, PAGE), 0)
        hold_table(table, len(states))
        if self._reader is not None:
            message = self._reader.read(table)
            assert is_end(message), f"the resumer in C says {message}"
        stage = contents.stage.section()
        if self._restorer is not None and stage:
            assert self._restorer.make_stage(stage).answer == 0, "the stage cannot be made"
        assert size + len(stage) < _MOST_BYTES, f"the program has {size} bytes"
        return "contents: accepted"

    def _take(self, state_size: int, parts: Mapping[ProcessProgram, list[ProgramPart]]) -> None:
        """Have the restorer in C take the programs."""
        if self._restorer is None:
            return
        for program, own in parts.items():
            taken = self._restorer.take(state_size, len(program.scripts), own)
            wanted = sum(script.first for script in program.scripts), len(program.scripts), 0
            assert taken[:3] == wanted, f"the restorer in C says {taken}, of {wanted[0]} operations"

    def _names(self, path: bytes) -> bool:
        """Return True for a path that the restart itself names, or a file of the input at hand."""
        path = _BESIDE.sub(b"", path)
        if path in self._folder.kept.texts or path.startswith((*_OURS, self._folder.kept.place)):
            return True
        path = path.removeprefix(b"/")  # the images name some without their root
        folder, _, name = path.rpartition(b"/")  # and of some the folder and the name
        contents = list(self._folder.contents())
        named = [any(part in content for content in contents) for part in (path, folder, name)]
        return named[0] or (named[1] and named[2])

    def close(self) -> None:
        """End the reader in C."""
        for reader in (self._reader, self._restorer):
            if reader is not None:
                reader.close()

    def again(self, number: int) -> str:
        """Return the options that make the input at hand again."""
        return f"-seed={self._seed} -first={number} -runs=1 -rounds={self._round}"

    def keep(self, number: int, place: str) -> Path:
        """Write the folder of the input at hand; return its path."""
        kept = Path(tempfile.mkdtemp(prefix="fuzz-criu-"))
        for name in self._folder.names():
            opened = self._folder.open(name)
            if opened is not None:
                (kept / name).write_bytes(opened.read())
        (kept / "FAULT").write_text(
            f"{self.again(number)}: {place}\n{traceback.format_exc()}", errors="backslashreplace"
        )
        return kept

    def report(self) -> str:
        """Return the counts so far."""
        lines = [f"{count:>10} {end}" for end, count in self.ends.most_common()]
        lines += ["changed:", *(f"{count:>10} {stem}" for stem, count in self.kinds.most_common())]
        lines += self.watch.report()
        lines += [f"fault: {place}: {count} inputs, first {number}" for place, (number, count) in self.faults.items()]
        return "\n".join(lines)


def _put(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(data)


def run(
    runs: int,
    seconds: float,
    seed: int,
    *,
    first: int = 0,
    rounds: int = 0,
    keep_going: bool = False,
    tell: Callable[[str], Any] = print,
) -> CriuFuzzer:
    """Run until the given number or time is reached.

    Args:
        runs: number of inputs.
        seconds: time.
        seed: of the inputs.
        first: number of the first input.
        rounds: see `CriuFuzzer`.
        keep_going: collect faults.
        tell: takes a line now and then.
    """
    top = fuzzing.in_memory() / f"ckptree-fuzz-{seed}"  # its name is in the inputs, which so depend on the seed alone
    shutil.rmtree(top, ignore_errors=True)
    try:
        fuzzer = CriuFuzzer(seed, top, rounds)
        begin = told = time.monotonic()
        with keeping():
            for number in range(first, first + runs):
                now = time.monotonic()
                if now >= begin + seconds:
                    break
                if now - told >= TELLING_S:
                    told = now
                    done = number - first
                    tell(f"{done} folders, {done / (now - begin):.0f} a second, {len(fuzzer.faults)} faults")
                try:
                    fuzzer.one(number)
                except Exception as error:
                    place = fuzzing.place_of(error)
                    known, count = fuzzer.faults.get(place, (number, 0))
                    fuzzer.faults[place] = known, count + 1
                    if not count:
                        tell(f"{fuzzer.again(number)}: {place}: {fuzzer.keep(number, place)}")
                    if not keep_going:
                        raise
        fuzzer.close()
        return fuzzer
    finally:
        shutil.rmtree(top, ignore_errors=True)


def _isolate() -> None:
    """Take a network of its own where that is allowed: a check binds the addresses of the images for a moment."""
    import ctypes

    ctypes.CDLL(None).unshare(0x40000000)


def main(arguments: list[str]) -> int:
    """Run by the options, which are spelled as libFuzzer's; return 1 if there were faults."""
    options: Mapping[str, str] = dict(argument.lstrip("-").split("=") for argument in arguments)
    with suppress(OSError):
        _isolate()
    fuzzer = run(
        int(options.get("runs", 10_000_000)),
        float(options.get("max_total_time", 0)) or float("inf"),
        int(options.get("seed", os.getpid())),
        first=int(options.get("first", 0)),
        rounds=int(options.get("rounds", 0)),
        keep_going=options.get("keep_going", "0") != "0",
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(fuzzer.report())
    return 1 if fuzzer.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
