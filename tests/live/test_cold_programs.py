# SPDX-License-Identifier: Apache-2.0
"""A program of a cold restart that another takes the place of."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import RefusedError
from agent.model import Capabilities, ProcessDetails, Snapshot
from agent.proc.host import boot_id
from agent.proc.statfile import program_file
from agent.restart.planning.search import make_plan
from agent.restart.rebuild.commands import own_arguments
from agent.restart.rebuild.coordinator import Rebuild
from agent.restart.rebuild.failure import RebuildError
from agent.restart.rebuild.programpath import named_by_file
from tests.live.coldrestarts import soon
from tests.support.builders import a_snapshot, a_task


def a_tool(folder: Path) -> tuple[Path, Snapshot]:
    """Make a program and the snapshot of a tree that ran it, as root."""
    tool = folder / "tool"
    shutil.copy("/usr/bin/sleep", tool)
    everything = int(Path("/proc/self/status").read_text().partition("CapBnd:")[2].split()[0], 16)
    details = ProcessDetails(
        *(os.fsencode(tool), None, (0,) * 4, (0,) * 4, (), Capabilities(0, everything, everything, everything, 0)),
        no_new_privs=False,
        umask=0o22,
        execed=True,
        exe_file=program_file(tool.stat()),
    )
    task = a_task(1, 0, argv=(b"nap", b"1006"), cwd=b"/", env=(), details=details)
    return tool, replace(a_snapshot([(1,)], [task], mode="container"), boot_id=boot_id())


@pytest.mark.parametrize("change", ["replaced", "removed", "written over", "made to set ids"])
def test_a_program_that_another_takes_the_place_of_while_the_tree_is_built_does_not_run(
    folder: Path, change: str
) -> None:
    """The task compares what is there with what was checked, and the tree goes."""
    tool, snapshot = a_tool(folder)
    plan = make_plan(snapshot)
    programs, _ = own_arguments(snapshot, plan)
    with Rebuild(plan, no_stdio=True) as made:
        made.build()
        made.activate()
        if change == "replaced":
            shutil.copy("/usr/bin/tail", folder / "other")
            (folder / "other").rename(tool)
        elif change == "written over":
            with tool.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"x")
        elif change == "made to set ids":
            tool.chmod(0o4755)
        else:
            tool.unlink()
        why = "open: ENOENT" if change == "removed" else "another file is there, or it was changed, since the check"
        with pytest.raises(RebuildError, match=f"task 1 .*{why}"):  # noqa: PT012
            made.release(programs)
            made.wait()


def test_a_program_does_not_run_in_a_folder_that_took_the_place_of_its_own_while_the_tree_was_built(
    folder: Path,
) -> None:
    """A program may run what it finds there."""
    _, snapshot = a_tool(folder)
    place = folder / "place"
    place.mkdir()
    snapshot = replace(snapshot, tasks=(snapshot.tasks[0]._replace(cwd=os.fsencode(place)),))
    plan = make_plan(snapshot)
    programs, _ = own_arguments(snapshot, plan)
    with Rebuild(plan, no_stdio=True) as made:
        made.build()
        made.activate()
        place.rename(folder / "moved")
        place.mkdir()
        with pytest.raises(RebuildError, match=r"task 1 .*another folder has the path of its own"):  # noqa: PT012
            made.release(programs)
            made.wait()


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_program_is_known_by_its_name_whoever_may_write_to_its_folder(folder: Path, mode: int) -> None:
    """The task executes the very file that was checked, if the kernel then gives its name to the task."""
    tool, snapshot = a_tool(folder)
    folder.chmod(mode)
    plan = make_plan(snapshot)
    if mode == 0o777 and not named_by_file():
        with pytest.raises(RefusedError) as caught:
            own_arguments(snapshot, plan)
        assert "can be led to another program" in caught.value.leaks[0]
        return
    programs, doubts = own_arguments(snapshot, plan)
    assert programs[plan.tasks[0]].opened == (mode == 0o777)
    assert doubts == []
    with Rebuild(plan, no_stdio=True) as made:
        made.build()
        made.activate()
        made.release(programs)
        there = Path(f"/proc/{made.pids[plan.tasks[0]]}")
        assert soon(lambda: (there / "cmdline").read_bytes() == b"nap\0001006\0")
        assert (there / "comm").read_text() == "tool\n"
        assert (there / "exe").samefile(tool)
        assert sorted(os.listdir(there / "fd")) == ["0", "1", "2"]
