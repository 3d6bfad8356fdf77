# SPDX-License-Identifier: Apache-2.0
"""The rights with which a tree is filled: how long a task has those of the restart, and who may reach into it meanwhile."""

from pathlib import Path

from agent.restart.contents import taskstate
from agent.restart.contents.addresses import AddressRange, Specials
from agent.restart.contents.contents import Contents
from agent.restart.contents.fillsection import FillProgram
from agent.restart.contents.hostfacts import HostFacts
from agent.restart.contents.images import Images
from agent.restart.planning.search import decide
from exporters.criu import criutree
from exporters.criu.imagefolder import ImageFolder
from tests.support.criuimages import dump

PR_SET_DUMPABLE = 4
SPECIALS = Specials(
    {"[vvar]": AddressRange(0x7FF000000000, 0x7FF000004000), "[vdso]": AddressRange(0x7FF000004000, 0x7FF000006000)},
    b"",
)


def _program(folder: Path) -> FillProgram:
    """Return the programs of the processes of a dump that CRIU wrote, with their last parts."""
    for name, content in dump("subtree").data.items():
        (folder / name).write_bytes(content)
    snapshot, plan = decide(criutree.load(ImageFolder(folder)), pidns=True, any_numbers=False)
    contents = Contents(Images(folder), snapshot, plan)
    programs = contents.programs([actor.numbers for actor in plan.actors], [], SPECIALS)
    for process, _ in programs.memories():
        process.part()
    assert len(list(programs.rest())) == len(programs.fill.processes)
    return programs.fill


def test_no_process_is_open_to_its_user_while_another_one_has_the_rights_of_the_restart(tmp_path: Path) -> None:
    """By /proc/PID/mem the user could tell the resumer, in the state that all share, that the other one is filled."""
    program = _program(tmp_path)

    assert len(program.processes) == 3
    for process in program.processes:
        *before, last = process.scripts[0].operations
        assert (last.name, last.arguments[:2]) == ("prctl", (PR_SET_DUMPABLE, 1))
        assert ("wait", (program.credited, 3)) == (before[-1].name, before[-1].arguments)
        assert [each.arguments for each in before if each.name == "post"][-1] == (program.credited,)
        assert [each.name for each in before].index("setresuid") < len(before) - 2


def test_an_area_of_restartable_sequences_is_as_long_as_the_kernel_takes_it() -> None:
    """Linux 7.2 has programs register more than 32 bytes, and Linux 6.1 takes no more."""
    newer = HostFacts("x86_64", frozenset())
    older = newer._replace(long_rseq=False)

    assert [taskstate.rseq_bytes(each, newer) for each in (32, 64)] == [32, 64]
    assert [taskstate.rseq_bytes(each, older) for each in (20, 32, 64)] == [20, 32, 32]
