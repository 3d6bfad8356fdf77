# SPDX-License-Identifier: Apache-2.0
"""Deleted files are made and deleted again; locks are taken last."""

import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from agent.errors import CkptreeError
from agent.restart.contents.eventfiles import EventCounters
from agent.restart.contents.filelocks import FileLocks
from agent.restart.contents.fillprogram import Data
from agent.restart.contents.ghostfiles import GhostFiles
from agent.restart.contents.refusals import Refused
from exporters.criu.criuschema import messages
from tests.support.filledfiles import calls, file_entry, filled


class _Images:
    """Images in memory: the remapped files, and the content of each ghost file."""

    def __init__(
        self, files: list[Any], remaps: list[dict[str, int]], ghosts: dict[str, list[tuple[Any, bytes]]]
    ) -> None:
        made: Any = messages()["remap_file_path_entry"]
        self.files = {int(each.id): each for each in files}
        self._remaps = [made(**each) for each in remaps]
        self._ghosts = ghosts

    def all(self, _name: str) -> list[Any]:
        return self._remaps

    def payloads(self, name: str, *, wanted: bool = True) -> Any:  # noqa: ARG002 - as the images have it
        class Entry:
            def __init__(self, message: Any) -> None:
                self.message = message

        return ((Entry(message), content) for message, content in self._ghosts.get(name, ()))


def _ghost(mode: int, **more: Any) -> Any:
    made: Any = messages()["ghost_file_entry"]
    return made(uid=0, gid=0, mode=mode, **more)


def _ghosts(files: list[Any], remaps: list[dict[str, int]], ghosts: dict[str, list[tuple[Any, bytes]]]) -> GhostFiles:
    images: Any = _Images(files, remaps, ghosts)
    return GhostFiles(images)


def _file(identity: int, path: Path) -> Any:
    return file_entry(identity, 1, pos=0, name=bytes(path))


def test_a_deleted_file_is_there_between_create_and_remove(tmp_path: Path) -> None:
    """With its content and mode, at a path of its own where another file has its path."""
    (tmp_path / "gone").write_text("another one")
    files = [_file(1, tmp_path / "gone"), _file(2, tmp_path / "gone")]
    remaps = [{"orig_id": each, "remap_id": 26, "remap_type": 1} for each in (1, 2)]
    ghosts = _ghosts(files, remaps, {"ghost-file-1a.img": [(_ghost(stat.S_IFREG | 0o640), b"content")]})

    assert all(ghosts.made_later(each) for each in (1, 2))
    path = Path(files[0].reg.name.decode())
    assert path == Path(files[1].reg.name.decode()) != tmp_path / "gone"
    ghosts.create()
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"content", 0o640)
    ghosts.remove(links=False)
    assert [each.name for each in tmp_path.iterdir()] == ["gone"]


def test_a_file_that_cannot_be_made_is_named_and_none_stays(tmp_path: Path) -> None:
    """The second one cannot be made: another file has its path by then."""
    files = [_file(each, tmp_path / f"gone{each}") for each in (1, 2)]
    remaps = [{"orig_id": each, "remap_id": each, "remap_type": 1} for each in (1, 2)]
    images = {f"ghost-file-{each}.img": [(_ghost(stat.S_IFREG), b"x")] for each in (1, 2)}
    ghosts = _ghosts(files, remaps, images)
    (tmp_path / "gone2").write_text("another one")

    with pytest.raises(CkptreeError, match=r"the deleted file .*gone2 cannot be made for its programs") as failed:
        ghosts.create()
    assert "wait until another restart of this dump has made its own, or move that file away" in str(failed.value)
    assert "Errno" not in str(failed.value)
    assert [each.name for each in tmp_path.iterdir()] == ["gone2"]
    ghosts.remove(links=False)
    assert (tmp_path / "gone2").read_text() == "another one"


def test_a_file_in_a_deleted_folder_is_made_in_it(tmp_path: Path) -> None:
    """And the folder goes last."""
    files = [_file(1, tmp_path / "folder" / "file"), _file(2, tmp_path / "folder")]
    remaps = [{"orig_id": each, "remap_id": each, "remap_type": 1} for each in (1, 2)]
    images = {"ghost-file-1.img": [(_ghost(stat.S_IFREG), b"x")], "ghost-file-2.img": [(_ghost(stat.S_IFDIR), b"")]}
    ghosts = _ghosts(files, remaps, images)

    assert all(ghosts.made_later(each) for each in (1, 2))
    ghosts.create()
    assert (tmp_path / "folder" / "file").read_bytes() == b"x"
    ghosts.remove(links=False)
    assert not list(tmp_path.iterdir())


def test_a_second_name_that_criu_gave_is_used_and_goes_with_success_alone(tmp_path: Path) -> None:
    """A restart that fails can be tried again."""
    link = tmp_path / "link_remap.9"
    link.touch()
    files = [_file(1, tmp_path / "gone"), _file(9, link)]
    ghosts = _ghosts(files, [{"orig_id": 1, "remap_id": 9, "remap_type": 0}], {})

    assert not ghosts.made_later(1)
    assert files[0].reg.name == bytes(link)
    ghosts.remove(links=False)
    assert link.exists()
    ghosts.remove(links=True)
    assert not link.exists()


def test_folders_that_are_gone_are_there_as_long_as_the_file(tmp_path: Path) -> None:
    """Nothing had them open, so the images do not describe them."""
    files = [_file(1, tmp_path / "none" / "such" / "gone")]
    remaps = [{"orig_id": 1, "remap_id": 1, "remap_type": 1}]
    ghosts = _ghosts(files, remaps, {"ghost-file-1.img": [(_ghost(stat.S_IFREG), b"x")]})

    assert ghosts.made_later(1)
    ghosts.create()
    assert (tmp_path / "none" / "such" / "gone").read_bytes() == b"x"
    ghosts.remove(links=False)
    assert not list(tmp_path.iterdir())


def test_a_file_of_a_process_that_ended_and_a_socket_are_refused(tmp_path: Path) -> None:
    """Each by name."""
    files = [_file(1, tmp_path / "gone"), _file(2, Path("/proc/77/status"))]
    remaps = [{"orig_id": 1, "remap_id": 1, "remap_type": 1}, {"orig_id": 2, "remap_id": 77, "remap_type": 2}]
    ghosts = _ghosts(files, remaps, {"ghost-file-1.img": [(_ghost(stat.S_IFSOCK), b"")]})

    for identity, rule in ((1, "deleted"), (2, "deleted")):
        with pytest.raises(Refused) as caught:
            ghosts.made_later(identity)
        assert caught.value.refusal[2] == rule


def _lock(**fields: Any) -> Any:
    made: Any = messages()["file_lock_entry"]
    return made(**{"flag": 1, "type": 1, "pid": 11, "fd": 3, "start": 5, "len": 10} | fields)


def test_locks_are_taken_when_no_descriptor_is_closed_any_more() -> None:
    """Closing any descriptor of a file ends the process's locks on it."""
    locks = FileLocks([_lock(), _lock(flag=2, type=0, fd=3), _lock(flag=4, pid=12)])

    first, _ = filled([file_entry(7, 6, counter=0)], {6: EventCounters()}, [((11,), [7]), ((12,), [7])])
    before = len(first.leader.operations)
    locks.restore(first)

    assert [each.name for each in first.leader.operations[before:]] == ["fcntl", "flock"]
    place = calls(first, "fcntl")[-1].arguments[2]
    assert isinstance(place, Data)
    assert struct.unpack_from("<hh4xqqi4x", first.program._data, place.offset) == (1, 0, 5, 10, 0)


def test_broken_leases_and_locks_of_closed_descriptors_are_refused() -> None:
    """The images are untrusted."""
    locks = FileLocks([_lock(flag=8), _lock(flag=8, type=5), _lock(flag=16), _lock(fd=9), _lock(type=2), _lock()])

    assert [each.refusal[2] for each in locks.faults(11, [3])] == ["lease", "kind", "missing", "missing"]
