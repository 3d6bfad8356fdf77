# SPDX-License-Identifier: Apache-2.0
"""Operations that processes have in common: they are made once, and copied for the others."""

from functools import partial
from pathlib import Path

import pytest

from agent.restart.contents import fillabi
from agent.restart.contents.addresses import AddressRange, Specials
from agent.restart.contents.contents import Contents
from agent.restart.contents.external import External
from agent.restart.contents.fillprogram import About, FillScript, ProcessProgram, Slot
from agent.restart.contents.fillsection import FillProgram
from agent.restart.contents.hostfacts import HostFacts
from agent.restart.contents.images import Images
from agent.restart.contents.passages import Passages
from agent.restart.contents.resumer import ThreadState
from agent.restart.planning.search import decide
from exporters.criu import criutree
from exporters.criu.imagefolder import ImageFolder
from tests.support import smalldumps
from tests.support.criuimages import dump

Step = tuple[str, About] | None
PAGE = 4096
AREA, PROGRAM = About("memory", "1000-2000"), About("file", "7")
SPECIALS = Specials(
    {"[vvar]": AddressRange(0x7FF000000000, 0x7FF000004000), "[vdso]": AddressRange(0x7FF000004000, 0x7FF000006000)},
    b"",
)
HOST = HostFacts("x86_64", frozenset(("avx", "avx512f", "ospke")), initial=frozenset())


def _add(script: FillScript, process: ProcessProgram) -> Slot:
    script.call("getpid")
    script.about = AREA
    made = script.kept("openat", process.data(b"name\0"), 1)
    script.call("close", made)
    script.about = PROGRAM
    return made


def _begun(fill: FillProgram, actor: int) -> tuple[FillScript, ProcessProgram]:
    """Begin the program of a process with an operation of its own, which keeps a value."""
    process = fill.process((actor,))
    process.base = 1 << 40
    script = process.scripts[0]
    script.about = About("task", str(actor))
    script.kept("getpid")
    return script, process


def _never() -> Slot:
    raise AssertionError("the operations are made anew")


def test_a_copy_is_what_would_have_been_made() -> None:
    """Slots, data and the messages about operations are those of the process."""
    fill = FillProgram()
    for actor in range(3):
        script, process = _begun(fill, actor)
        process.data(b"before")
        if actor == 1:
            answer = script.alike("key", partial(_add, script, process))
        elif actor:
            answer = script.alike("key", _never)
        else:
            answer = _add(script, process)
        script.call("unlinkat", answer, process.data(b"behind"))

    parts = [process.encode(PAGE, PAGE) for process in fill.processes]
    starts = [bytearray(part) for part in parts]
    for start in starts:
        start[: fillabi.START.size] = bytes(fillabi.START.size)  # it has the number of the actor
    assert starts[0] == starts[1] == starts[2]
    made, copied = ([fill.step(actor, place) for place in range(6)] for actor in (1, 2))
    assert made[0] == ("getpid", About("task", "1"))
    assert copied[0] == ("getpid", About("task", "2"))
    common = [("getpid", About("task", "")), ("openat", AREA), ("close", AREA), ("unlinkat", PROGRAM), None]
    assert made[1:] == copied[1:] == common


@pytest.mark.parametrize("difference", ["key", "slots", "data", "part"])
def test_operations_are_made_anew_where_a_copy_would_be_wrong(difference: str) -> None:
    """Operations name their slots and data by numbers, which depend on what the process had before."""
    fill = FillProgram()
    first, process = _begun(fill, 0)
    first.alike("key", lambda: _add(first, process))
    second, process = _begun(fill, 1)
    if difference == "slots":
        second.kept("getpid")
    elif difference == "data":
        process.data(b"x")
    elif difference == "part":
        process.encode(PAGE, PAGE)
    made: list[object] = []
    second.alike("other" if difference == "key" else "key", lambda: made.append(_add(second, process)))

    assert len(made) == 1


def test_the_passages_that_were_used_last_are_kept() -> None:
    """A tree may have as many kinds of processes as it has processes."""
    fill = FillProgram()
    script, _ = _begun(fill, 0)
    script.alike("often", lambda: None)
    for number in range(200):
        script.alike(number, lambda: None)
        script.alike("often", _never)
    made: list[object] = []
    for number in (199, 0):
        script.alike(number, partial(made.append, number))

    assert made == [0]


@pytest.mark.parametrize("theme", ["a dump by criu", *(each for each in smalldumps.THEMES if each != "refused")])
def test_programs_are_the_same_with_and_without_copies(
    theme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte, with all that messages say of their operations."""
    if theme in smalldumps.THEMES:
        folder = smalldumps.put(theme, tmp_path / "dump")
    else:
        folder = tmp_path
        for name, content in dump("subtree").data.items():
            (folder / name).write_bytes(content)
    copied = _programs(folder)
    monkeypatch.setattr(Passages, "find", lambda *_: None)

    assert _programs(folder) == copied


def _programs(folder: Path) -> tuple[list[tuple[int, bytes]], list[list[Step]], list[ThreadState]]:
    """Return the parts of all programs, the names of their operations, and the states of threads."""
    snapshot, plan = decide(criutree.load(ImageFolder(folder)), pidns=True, any_numbers=False)
    contents = Contents(Images(folder), snapshot, plan, External(established=True))
    contents.check_host(HOST)
    numbers = [actor.numbers or (1,) for actor in plan.actors]
    programs = contents.programs(numbers, [], SPECIALS)
    parts = list(programs.fill.section(bytes(PAGE), len(plan.actors)))
    for steps in (programs.memories(), programs.rest()):
        parts += [process.part() for process, _ in steps]
    names = [
        [programs.fill.step(actor, place) for place in range(len(script._calls))]
        for process in programs.fill.processes
        for actor, script in zip(process.actors, process.scripts, strict=True)
    ]
    return parts, names, programs.states()
