# SPDX-License-Identifier: Apache-2.0
"""Links, pipes and devices under the name of an output: one's own, root's, and those of other users."""

import os
import pty
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cli.output import Target
from agent.errors import CkptreeError, UsageError
from exporters import store

OTHER = 12345
DATA = {"file": b"data", "folder": {"pstree.img": b"tree"}}
OPEN_TO_OTHERS = {
    "sticky": (0o1777, 0),
    "everybody's": (0o777, 0),
    "a group's": (0o770, 0),
    "a sticky group's": (0o3770, 0),
    "another user's": (0o755, OTHER),
    "another user's, sticky": (0o1777, OTHER),
}


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A sticky folder where every user may create files, as /tmp."""
    return folder_of(tmp_path, "sticky")


def folder_of(above: Path, kind: str) -> Path:
    """Make a folder that another user may change."""
    mode, owner = OPEN_TO_OTHERS[kind]
    folder = above / "shared"
    folder.mkdir()
    if owner:
        os.chown(folder, owner, owner)
    folder.chmod(mode)
    return folder


def a_node(path: Path, kind: int, owner: int = OTHER) -> None:
    """Make a device of the number of /dev/null, as a user to whom an administrator gave it has it."""
    os.mknod(path, kind | 0o600, os.makedev(1, 3))
    os.lchown(path, owner, owner)


@pytest.mark.live  # only root can have another user's file
@pytest.mark.parametrize("what", DATA)
@pytest.mark.parametrize("kind", OPEN_TO_OTHERS)
@pytest.mark.parametrize(
    ("lay", "said"),
    [
        (lambda path: path.symlink_to("victim"), "link"),
        (lambda path: path.symlink_to("full"), "link"),
        (lambda path: path.symlink_to("empty"), "link"),
        (os.mkfifo, "pipe"),
        (lambda path: a_node(path, stat.S_IFCHR), "device"),
        (lambda path: a_node(path, stat.S_IFBLK), "device"),
    ],
    ids=["nowhere", "file", "folder", "pipe", "device", "disk"],
)
def test_what_another_user_has_laid_where_others_may_is_not_followed(
    tmp_path: Path, what: str, kind: str, lay: Callable[[Path], None], said: str
) -> None:
    """Otherwise another user could choose the place of the image, or read it."""
    shared = folder_of(tmp_path, kind)
    (shared / "full").write_bytes(b"theirs")
    (shared / "empty").mkdir()
    inode = (shared / "empty").stat().st_ino
    lay(shared / "image")
    os.lchown(shared / "image", OTHER, OTHER)
    with pytest.raises(CkptreeError, match=f"it is a {said} of user {OTHER} in a folder that another user may change"):
        store.write(shared / "image", DATA[what])  # type: ignore[arg-type]  # either kind

    assert sorted(os.listdir(shared)) == ["empty", "full", "image"]
    assert (shared / "full").read_bytes() == b"theirs"
    assert (shared / "empty").stat().st_ino == inode


@pytest.mark.live
@pytest.mark.parametrize("kind", OPEN_TO_OTHERS)
def test_a_file_or_empty_folder_of_another_user_is_replaced_and_its_owner_gets_nothing(
    tmp_path: Path, kind: str
) -> None:
    """The other user may have it open, or have laid a second name of a file: neither has the image."""
    shared = folder_of(tmp_path, kind)
    (shared / "file").write_bytes(b"theirs")
    (shared / "kept").hardlink_to(shared / "file")
    (shared / "folder").mkdir(mode=0o777)
    for name in ("file", "folder"):
        os.chown(shared / name, OTHER, OTHER)
    with (shared / "file").open("rb") as opened:
        folder = os.open(shared / "folder", os.O_PATH)
        for name, data in DATA.items():
            store.write(shared / name, data)  # type: ignore[arg-type]  # either kind
        theirs = opened.read(), os.listdir(f"/proc/self/fd/{folder}")
        os.close(folder)
    made = [(shared / name).stat() for name in DATA]

    assert theirs == (b"theirs", [])
    assert (shared / "kept").read_bytes() == b"theirs"
    assert [(one.st_uid, one.st_mode & 0o777) for one in made] == [(0, 0o600), (0, 0o700)]
    assert sorted(os.listdir(shared)) == ["file", "folder", "kept"]


@pytest.mark.live
@pytest.mark.parametrize("what", DATA)
def test_a_link_of_ones_own_to_another_users_link_is_followed_no_further(shared: Path, what: str) -> None:
    """Each link on the way counts."""
    (shared / "theirs").symlink_to("victim")
    os.lchown(shared / "theirs", OTHER, OTHER)
    (shared / "image").symlink_to("theirs")
    with pytest.raises(CkptreeError, match=f"its link leads to {shared}/theirs, which is a link of user {OTHER}"):
        store.write(shared / "image", DATA[what])  # type: ignore[arg-type]

    assert sorted(os.listdir(shared)) == ["image", "theirs"]


@pytest.mark.live
def test_a_device_that_another_user_has_laid_is_not_even_opened(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To open one may rewind a tape, or hang up a line."""
    a_node(shared / "device", stat.S_IFCHR)
    (shared / "link").symlink_to("/dev/null")
    os.lchown(shared / "link", OTHER, OTHER)
    monkeypatch.setattr(os, "open", None)
    for name in ("device", "link"):
        with pytest.raises(CkptreeError, match=f"of user {OTHER}"):
            Target(str(shared / name), "ckpt")


@pytest.mark.live
def test_a_link_of_another_user_in_a_folder_that_only_root_may_change_is_followed(tmp_path: Path) -> None:
    """An administrator has put it there: /dev/pts has the terminals of all users."""
    (tmp_path / "image").symlink_to("target")
    os.lchown(tmp_path / "image", OTHER, OTHER)
    a_node(tmp_path / "device", stat.S_IFCHR)
    store.write(tmp_path / "image", b"data")
    store.write(tmp_path / "device", b"data")

    assert (tmp_path / "target").read_bytes() == b"data"


@pytest.mark.live
@pytest.mark.parametrize("kind", ["sticky", "everybody's", "another user's"])
def test_a_user_writes_what_is_the_users_own_in_any_folder(tmp_path: Path, kind: str) -> None:
    """Files, folders, links and pipes; and by root's links."""
    shared = folder_of(tmp_path, kind)
    (shared / "root's").symlink_to("at root's")
    for above in (tmp_path, *tmp_path.parents):
        if above.name.startswith(("test", "pytest", "popen")):
            above.chmod(0o755)
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(OTHER, OTHER, OTHER)
            os.setresuid(OTHER, OTHER, OTHER)
            (shared / "own").symlink_to("target")
            (shared / "to folder").symlink_to("folder")
            (shared / "folder").mkdir()
            os.mkfifo(shared / "pipe")
            reader = os.open(shared / "pipe", os.O_RDONLY | os.O_NONBLOCK)
            for name in ("plain", "own", "root's", "pipe", "plain"):
                store.write(shared / name, b"data")
            store.write(shared / "to folder", {"pstree.img": b"tree"})
            assert os.read(reader, 9) == b"data"
            assert all((shared / name).read_bytes() == b"data" for name in ("plain", "target", "at root's"))
            assert (shared / "folder" / "pstree.img").read_bytes() == b"tree"
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_link_of_ones_own_is_followed_in_a_folder_of_everybodys(shared: Path) -> None:
    """This is the same in every other folder."""
    (shared / "image").symlink_to("target")
    store.write(shared / "image", b"data")

    assert (shared / "image").is_symlink()
    assert (shared / "target").read_bytes() == b"data"


def test_links_that_lead_in_a_circle_are_an_error(tmp_path: Path) -> None:
    """The same holds for a folder."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for data in (b"data", {"pstree.img": b"tree"}):
        with pytest.raises(CkptreeError, match="Too many levels of symbolic links"):
            store.write(tmp_path / "a", data)


def test_an_open_descriptor_is_written_to_by_its_name() -> None:
    """A shell gives one for a process substitution: >(command)."""
    reader, writer = os.pipe()
    for name in (f"/dev/fd/{writer}", f"/proc/self/fd/{writer}", f"/proc/{os.getpid()}/fd/{writer}"):
        store.write(Path(name), b"data")
        assert os.read(reader, 9) == b"data"
    os.close(reader)
    os.close(writer)


def test_a_pipe_that_another_takes_the_place_of_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptor is compared with what was checked."""
    for name in ("pipe", "theirs"):
        os.mkfifo(tmp_path / name)
    opened = os.open
    reader = os.open(tmp_path / "theirs", os.O_RDONLY | os.O_NONBLOCK)  # a writer of a pipe waits for one

    def late(path: Path, flags: int) -> int:
        os.rename(tmp_path / "theirs", path)
        return opened(path, flags)

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(CkptreeError, match="has become another file meanwhile"):
        store.write(tmp_path / "pipe", b"data")

    assert os.read(reader, 100) == b""
    os.close(reader)


def test_a_terminal_is_known_by_any_name(tmp_path: Path) -> None:
    """A binary format does not go to one."""
    controller, terminal = pty.openpty()
    name = os.ttyname(terminal)
    (tmp_path / "link").symlink_to(name)
    for each in (name, str(tmp_path / "link"), f"/dev/fd/{terminal}"):
        with pytest.raises(UsageError, match="binary and no terminal's"):
            Target(each, "ckpt")
    Target("/dev/null", "ckpt")
    os.close(controller)
    os.close(terminal)
