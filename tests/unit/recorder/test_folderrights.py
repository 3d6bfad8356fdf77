# SPDX-License-Identifier: Apache-2.0
"""The rights to the folder of a recording."""

import os
from pathlib import Path

import pytest

from agent.errors import HostError
from agent.recorder import folder, folderrights

_GROUP = 4242

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def rights(*paths: Path) -> list[tuple[int, int]]:
    """Return the group and the mode of each file."""
    return [(found.st_gid, found.st_mode & 0o7777) for found in (path.stat() for path in paths)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that has a segment."""
    made = tmp_path / "recording"
    folder.make(made)
    (made / folder.name_of(1, 1)).touch(0o600)
    (made / "lock").touch(0o600)
    return made


@needs_root
def test_a_group_may_read_what_is_there(place: Path) -> None:
    """Nobody else may; a folder that cannot be given to the group is named."""
    segment = place / folder.name_of(1, 1)
    folderrights.admit(place, _GROUP)

    assert rights(place, segment) == [(_GROUP, 0o750), (_GROUP, 0o640)]
    place.rename(place.with_name("away"))
    place.symlink_to("away")
    said = f"its readers cannot be group {_GROUP}: .* have the daemon run with that group"
    with pytest.raises(HostError, match=said):
        folderrights.admit(place, _GROUP)


@needs_root
def test_what_a_group_might_read_is_closed_again(place: Path) -> None:
    """The folder, and the segments of before."""
    segment = place / folder.name_of(1, 1)
    folderrights.admit(place, _GROUP)
    folderrights.admit(place, None)

    assert [mode for _, mode in rights(place, segment)] == [0o700, 0o600]


def test_a_folder_that_has_other_files_keeps_its_mode(place: Path) -> None:
    """Others may need it, as /var/lib: the segments are closed all the same, and a group is not let in."""
    segment = place / folder.name_of(1, 1)
    (place / "else").touch()
    place.chmod(0o755)
    segment.chmod(0o644)
    folderrights.admit(place, None)

    assert [mode for _, mode in rights(place, segment)] == [0o755, 0o600]
    with pytest.raises(HostError, match="there are files of others, as 'else': name a folder of its own"):
        folderrights.admit(place, os.getegid())
    assert [mode for _, mode in rights(place, segment)] == [0o755, 0o600]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o702])
def test_a_folder_that_others_may_write_to_is_refused(place: Path, mode: int) -> None:
    """A sticky one, too: any user may lay segments there."""
    place.chmod(mode)
    with pytest.raises(HostError, match=f"users other than its owner may write there, its mode is {mode:04o}: "):
        folderrights.refuse_writers(place)
    assert place.stat().st_mode & 0o7777 == mode


@needs_root
def test_a_folder_of_another_user_is_refused(place: Path) -> None:
    """Its owner may change its mode."""
    os.chown(place, 4242, 4242)
    with pytest.raises(HostError, match="it belongs to user 4242, who could remove or forge what is recorded"):
        folderrights.refuse_writers(place)


def test_no_folder_is_made_above_it_that_others_may_write_to(tmp_path: Path) -> None:
    """Whatever the umask is: they could rename the recording."""
    before = os.umask(0)
    try:
        folder.make(tmp_path / "a" / "b" / "recording")
    finally:
        os.umask(before)

    assert [mode for _, mode in rights(tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "recording")] == [
        0o755,
        0o755,
        0o700,
    ]
