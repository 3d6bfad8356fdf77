# SPDX-License-Identifier: Apache-2.0
"""The users who can change what the path of a program leads to."""

import grp
import os
import shutil
from pathlib import Path

import pytest

from agent.restart.rebuild import programpath
from agent.restart.rebuild.coordinator import HELPER
from agent.restart.rebuild.programpath import changeable_at, groups_of, is_script, named_by_file, way, written_by

ME = {os.geteuid()}


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    """A program in a folder within another one; all is the caller's."""
    file = tmp_path / "outer" / "inner" / "tool"
    file.parent.mkdir(parents=True)
    for folder in (file.parent, file.parent.parent):
        folder.chmod(0o755)
    file.write_bytes(b"\x7fELF")
    return file


def test_nobody_else_can_change_a_path_through_folders_of_the_users_own(tool: Path) -> None:
    """Root's folders above count as everybody's own; a sticky one keeps each user's entries."""
    assert changeable_at(os.fsencode(tool), ME) == ""
    assert changeable_at(b"/bin/sh", ()) == ""


@pytest.mark.parametrize("mode", [0o775, 0o757])
@pytest.mark.parametrize("which", [0, 1])
def test_a_folder_that_others_can_write_to_is_named(tool: Path, mode: int, which: int) -> None:
    """An access list shows in the group's bits."""
    folder = tool.parents[which]
    if os.geteuid() == 0:
        os.chown(folder, 0, 12345)
    folder.chmod(mode)

    assert changeable_at(os.fsencode(tool), ME) == str(folder)


def test_an_entry_of_a_sticky_folder_is_its_owners(tool: Path) -> None:
    """Only the owners of entry and folder can replace the entry."""
    tool.parent.chmod(0o1777)
    assert changeable_at(os.fsencode(tool), ME) == ""

    if os.geteuid() == 0:
        os.chown(tool, 12345, 12345)
    strangers = ME if os.geteuid() == 0 else set[int]()
    assert changeable_at(os.fsencode(tool), strangers) != ""


def test_the_folder_of_another_user_is_named(tool: Path) -> None:
    """Its owner can give it any mode."""
    if os.geteuid() == 0:
        os.chown(tool.parent, 12345, 12345)
        assert changeable_at(os.fsencode(tool), ME) == str(tool.parent)
        assert changeable_at(os.fsencode(tool), {12345}) == ""
    else:
        assert changeable_at(os.fsencode(tool), ()) != ""


@pytest.mark.parametrize("target", ["../open/tool", "/{}/open/tool"])
def test_the_folders_that_a_link_leads_through_count(tool: Path, target: str) -> None:
    """Relative ones begin at the link's folder."""
    opened = tool.parents[1] / "open"
    opened.mkdir()
    opened.chmod(0o777)
    (opened / "tool").write_bytes(b"")
    link = tool.parent / "link"
    link.symlink_to(target.format(tool.parents[1]))

    assert changeable_at(os.fsencode(link), ME) == str(opened)


def test_links_in_a_circle_end(tool: Path) -> None:
    """exec() would refuse them."""
    link = tool.parent / "link"
    link.symlink_to("link")

    assert changeable_at(os.fsencode(link), ME) == str(link)


def test_what_is_not_there_is_an_error(tool: Path) -> None:
    """The caller names the program."""
    tool.unlink()
    with pytest.raises(FileNotFoundError):
        changeable_at(os.fsencode(tool), ME)


def test_a_script_is_known_by_its_first_bytes(tool: Path) -> None:
    """Its interpreter opens it by a path."""
    assert not is_script(os.fsencode(tool))
    tool.write_bytes(b"#!/bin/sh\n")
    assert is_script(os.fsencode(tool))
    tool.unlink()
    assert is_script(os.fsencode(tool))


def test_a_kernel_that_cannot_be_asked_how_it_names_a_task_is_not_relied_on(tmp_path: Path) -> None:
    """The path is taken then, with a warning, and the missing helper is told later."""
    assert not named_by_file(tmp_path / "none")


def test_the_name_of_a_task_that_was_executed_by_a_descriptor_is_its_files_or_the_number(tmp_path: Path) -> None:
    """The kernel is asked, and not its version."""
    copy, link = tmp_path / "a-name-of-more-than-fifteen-bytes", tmp_path / "another"
    shutil.copy(HELPER, copy)
    link.symlink_to(copy)

    assert named_by_file(copy) == named_by_file()
    assert not named_by_file(link)  # a task has the name of the file that a link leads to


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")


@needs_root
def test_a_folder_of_the_users_private_group_is_the_users_own(tool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another member, or another group, makes it a folder of others; an access list, too, would be in the bits."""
    os.chown(tool.parent, 0, 0)
    tool.parent.chmod(0o775)
    root = grp.getgrgid(0)
    assert changeable_at(os.fsencode(tool), ()) == ""

    monkeypatch.setattr(grp, "getgrgid", lambda _: type(root)(("root", "x", 0, ["someone"])))
    assert changeable_at(os.fsencode(tool), ()) == str(tool.parent)


@needs_root
def test_the_tasks_own_user_is_trusted_with_its_path_only_where_the_task_has_nothing_beyond_that_user(
    tool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task executes the file that was checked, and trusts no path, if the kernel names a task after its file."""
    os.chown(tool.parent, 61001, 61001)
    name = os.fsencode(tool)
    for is_named in (True, False):
        monkeypatch.setattr(programpath, "named_by_file", lambda is_named=is_named: is_named)
        assert way(name, None, None) == (name, str(tool.parent), is_named)
        assert way(name, None, 61001) == (name, "", is_named)
    link = tool.parent / "other"
    link.symlink_to(tool)
    assert way(name, os.fsencode(link), None) == (os.fsencode(link), str(tool.parent), False)
    assert way(name, os.fsencode(link), 61001) == (os.fsencode(link), "", False)


@needs_root
def test_a_program_that_another_user_can_write_over_is_told(tool: Path) -> None:
    """Its owner is one; in the place of a task with the owner's rights alone that changes nothing."""
    name = os.fsencode(tool)
    tool.chmod(0o755)
    assert written_by(name, None) == ""
    tool.chmod(0o757)
    assert written_by(name, None) == "any user"
    os.chown(tool, 61001, 61001)
    tool.chmod(0o775)
    assert written_by(name, None) == "user 61001"
    assert written_by(name, 61001) == "group 61001"


def test_a_user_without_a_name_has_the_group_of_the_same_number_if_that_has_none() -> None:
    """The group of another name may be one of rights."""
    assert groups_of(61001) == {61001}
    assert 0 in groups_of(0)
