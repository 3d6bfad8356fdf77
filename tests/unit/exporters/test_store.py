# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all."""

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import CkptreeError
from exporters import store


def test_a_file_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    """The file may hold command lines and environments."""
    before = os.umask(0)
    try:
        store.write(tmp_path / "image", b"data")
    finally:
        os.umask(before)

    assert (tmp_path / "image").read_bytes() == b"data"
    assert stat.S_IMODE((tmp_path / "image").stat().st_mode) == 0o600


def test_an_older_file_is_replaced_mode_and_all(tmp_path: Path) -> None:
    """A reader that has the old file open keeps it."""
    path = tmp_path / "image"
    path.write_bytes(b"a longer one than the next")
    path.chmod(0o644)
    with path.open("rb") as reader:
        store.write(path, b"new")
        assert reader.read() == b"a longer one than the next"

    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A full disk is an example."""

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "image"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(CkptreeError, match=f"cannot write {path}: No space left on device"):
        store.write(path, b"new")

    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["image"]


def test_an_interrupt_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt is Ctrl-C while the disk is slow."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.write(tmp_path / "image", b"new")

    assert os.listdir(tmp_path) == []


def test_no_reader_ever_sees_a_part(tmp_path: Path) -> None:
    """The file has its own name only when it is whole."""
    path = tmp_path / "image"
    contents = [bytes([letter]) * 300_000 for letter in b"ab"]
    store.write(path, contents[0])
    seen, stop = set(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(20):
        store.write(path, contents[turn % 2])
    stop.set()
    reader.join()

    assert seen <= set(contents)


@pytest.mark.parametrize("where", ["missing/image", "file/image", "."])
def test_where_no_file_can_be_is_an_error_that_names_it(tmp_path: Path, where: str) -> None:
    """Examples are a missing folder, a file in place of a folder, and a folder in place of the file."""
    (tmp_path / "file").touch()
    with pytest.raises(CkptreeError, match=f"^cannot write {tmp_path / where}: "):
        store.write(tmp_path / where, b"data")

    assert os.listdir(tmp_path) == ["file"]


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    """This holds for devices too; above all /dev/null must not become a file."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    received = []
    reader = threading.Thread(target=lambda: received.append(path.read_bytes()))
    reader.start()
    store.write(path, b"data")
    reader.join(10)
    store.write(Path("/dev/null"), b"data")

    assert received == [b"data"]
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_full_device_is_an_error() -> None:
    """The error of the last write counts too."""
    with pytest.raises(CkptreeError, match="cannot write /dev/full: No space left on device"):
        store.write(Path("/dev/full"), b"data")


FOLDER = {"pstree.img": b"tree", "core-1.img": b"one", "core-2.img": b"two"}


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the contents of the files of a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    """This holds for each file in it too."""
    before = os.umask(0)
    try:
        store.write(tmp_path / "images", FOLDER)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "images").iterdir()}

    assert files_of(tmp_path / "images") == FOLDER
    assert stat.S_IMODE((tmp_path / "images").stat().st_mode) == 0o700
    assert modes == {0o600}
    assert os.listdir(tmp_path) == ["images"]


def test_a_folder_takes_the_place_of_an_empty_one(tmp_path: Path) -> None:
    """The empty folder may be behind a link, and its mode may differ from ours."""
    (tmp_path / "images").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to("images")
    store.write(tmp_path / "link", FOLDER)

    assert (tmp_path / "link").is_symlink()
    assert files_of(tmp_path / "images") == FOLDER
    assert stat.S_IMODE((tmp_path / "images").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["full", "file"])
def test_a_folder_takes_no_other_place(tmp_path: Path, name: str) -> None:
    """Other contents are kept, and no part of the new folder is left."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "core-9.img").write_bytes(b"old")
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(CkptreeError, match=f"^cannot write {tmp_path / name}: a new folder .* remove it$"):
        store.write(tmp_path / name, FOLDER)

    assert files_of(tmp_path / "full") == {"core-9.img": b"old"}
    assert (tmp_path / "file").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["file", "full"]


def test_a_folder_that_fills_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that appears between the check and the rename is kept."""
    path = tmp_path / "images"
    path.mkdir()
    rename = os.rename

    def late(source: str, target: Path) -> None:
        (path / "theirs").touch()
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(CkptreeError, match=f"cannot write {path}: Directory not empty"):
        store.write(path, FOLDER)

    assert os.listdir(path) == ["theirs"]
    assert os.listdir(tmp_path) == ["images"]


@pytest.mark.parametrize("step", ["fsync", "rename"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_of_a_folder_that_fails_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    """The disk is full, or Ctrl-C comes, after some files are written."""

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises((CkptreeError, KeyboardInterrupt)):
        store.write(tmp_path / "images", FOLDER)

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../escaped", "/etc/escaped", "a\0b"])
def test_no_file_of_a_folder_is_anywhere_else(tmp_path: Path, name: str) -> None:
    """The names come from the format."""
    with pytest.raises(CkptreeError, match="is no name of a file in it"):
        store.write(tmp_path / "images", {"pstree.img": b"", name: b""})

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("where", ["missing/images", "file/images"])
def test_where_no_folder_can_be_is_an_error_that_names_it(tmp_path: Path, where: str) -> None:
    """Examples are a missing folder above it, and a file in place of that folder."""
    (tmp_path / "file").touch()
    with pytest.raises(CkptreeError, match=f"^cannot write {tmp_path / where}: "):
        store.write(tmp_path / where, FOLDER)

    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A sticky folder where every user may create files, as /tmp."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.mark.parametrize("lay", [lambda path: path.write_bytes(b""), os.mkfifo, lambda path: path.symlink_to("victim")])
def test_what_lies_under_the_name_of_a_temporary_is_not_the_image(shared: Path, lay: Callable[[Path], None]) -> None:
    """Under a predictable name another user's file would become the image, and a pipe would block the writer for
    ever."""
    lay(shared / f".image.{os.getpid()}")
    (shared / "victim").write_bytes(b"theirs")
    store.write(shared / "image", b"data")

    found = (shared / "image").lstat()
    assert (stat.S_ISREG(found.st_mode), stat.S_IMODE(found.st_mode), found.st_uid) == (True, 0o600, os.geteuid())
    assert (shared / "image").read_bytes() == b"data"
    assert (shared / "victim").read_bytes() == b"theirs"


def test_the_temporary_is_new_and_its_name_another_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So no other user can create it before."""
    seen: list[tuple[str, int]] = []
    opened = os.open

    def noted(name: Any, flags: int, *rest: Any, **options: Any) -> int:
        seen.append((os.fspath(name), flags))
        return opened(name, flags, *rest, **options)

    monkeypatch.setattr(os, "open", noted)
    for _ in range(2):
        store.write(tmp_path / "image", b"data")

    first, second = [name for name, flags in seen if flags & os.O_CREAT]
    assert first != second
    wanted = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW  # Python always adds O_CLOEXEC
    assert [flags & wanted for _, flags in seen if flags & os.O_CREAT] == [wanted, wanted]


def test_a_name_as_long_as_names_may_be_has_room_for_a_temporary_one(tmp_path: Path) -> None:
    """The limit is in bytes, and a character may have four."""
    for name in ("x" * 255, "\U0001f332" * 63):
        store.write(tmp_path / name, b"data")

    assert len(os.listdir(tmp_path)) == 2
