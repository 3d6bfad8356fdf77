# SPDX-License-Identifier: Apache-2.0
"""Dumps of a user's program, and a user who leads its paths elsewhere before root restarts it."""

import os
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exporters.criu import imagefile
from tests.live.dumps import dump, eventually, program, restarted

USER = 12345
AT_FOLDER = "import os, sys, time; os.chdir(sys.argv[1])"
READER = """
file = open("d/file", "rb", buffering=0)
open("ready", "w").close()
while not os.path.exists("go"):
    time.sleep(0.01)
open("found", "wb").write(file.read())
os.rename("found", "told")
time.sleep(60)
"""
LISTENER = """
import socket
server = socket.socket(socket.AF_UNIX)
os.umask(0)
server.bind(sys.argv[1] + "/d/name")
os.chmod(sys.argv[1] + "/d/name", 0o640)
server.listen()
open(sys.argv[1] + "/ready", "w").close()
time.sleep(60)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of a user's with a folder d in it."""
    found = Path(tempfile.mkdtemp())
    (found / "d").mkdir()
    yield found
    shutil.rmtree(found)


@pytest.fixture
def hidden(tmp_path: Path) -> Path:
    """A folder of a user's with a file in it, in one that the user can only reach by being started there."""
    found = tmp_path / "u"
    (found / "d").mkdir(parents=True)
    (found / "d" / "file").write_bytes(b"mine\n")
    return found


def _dumped(source: str, images: Path, folder: Path, daemon_socket: Path) -> Path:
    """Dump a program of root's that was started in a folder, and have the images say that it is a user's."""
    with program([sys.executable, "-c", AT_FOLDER + source, folder], images.parent) as pid:
        eventually((folder / "ready").exists, "the program is ready")
        dump(pid, images, daemon_socket)
    for path in (images / f"core-{pid}.img", images / "files.img"):
        with path.open("rb") as file:
            messages: list[Any] = [entry.message for entry in imagefile.read(file, path.name)]
        for message in messages:
            if path.name == "files.img":
                if message.HasField("usk"):
                    message.usk.file_perms.uid = message.usk.file_perms.gid = USER
                continue
            creds = message.thread_core.creds
            for name in ("uid", "gid", "euid", "egid", "suid", "sgid", "fsuid", "fsgid"):
                setattr(creds, name, USER)
            for name in ("groups", "cap_inh", "cap_prm", "cap_eff", "cap_amb"):
                del getattr(creds, name)[:]
            creds.cap_inh.extend((0, 0))
            creds.cap_prm.extend((0, 0))
            creds.cap_eff.extend((0, 0))
        path.write_bytes(imagefile.image(path.stem.partition("-")[0], messages))
    for each in (folder, *folder.rglob("*")):
        os.chown(each, USER, USER, follow_symlinks=False)
    return images


def test_a_program_keeps_a_file_in_its_user_s_folder(hidden: Path, daemon_socket: Path) -> None:
    """The task goes to the user's folder with the rights of the restart, and from there on with the user's."""
    images = _dumped(READER, hidden.parent / "images", hidden, daemon_socket)
    with restarted(images):
        (hidden / "go").touch()
        eventually((hidden / "told").exists, "it has read its file")

    assert (hidden / "told").read_bytes() == b"mine\n"


@pytest.mark.parametrize("part", ["d", "d/file"])
def test_no_link_leads_a_restart_to_a_file_of_root(hidden: Path, daemon_socket: Path, part: str) -> None:
    """The file of root is as long as that of the user, which is all that the images know of it."""
    images = _dumped(READER, hidden.parent / "images", hidden, daemon_socket)
    secret = hidden.parent / "root"
    (secret / "d").mkdir(parents=True)
    (secret / "d" / "file").write_bytes(b"root\n")
    (hidden / part).rename(hidden / "moved")
    (hidden / part).symlink_to(secret / part)
    (hidden / "go").touch()

    with (
        pytest.raises(AssertionError, match=r"file [0-9]+: openat2: Too many levels of symbolic links: a user could"),
        restarted(images),
    ):
        eventually((hidden / "told").exists, "it has read a file")


def test_a_socket_comes_back_with_its_owner_and_mode(folder: Path, tmp_path: Path, daemon_socket: Path) -> None:
    """Its user makes it: no operation of root follows a path that the user could change."""
    images = _dumped(LISTENER, tmp_path / "images", folder, daemon_socket)
    (folder / "d" / "name").unlink()
    with restarted(images), socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(folder / "d" / "name"))
        found = (folder / "d" / "name").stat()

    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (USER, USER, 0o640)


def test_no_link_has_a_restart_remove_a_socket_of_root(folder: Path, tmp_path: Path, daemon_socket: Path) -> None:
    """The user's name leads to a service of root's, whose file is a socket, too; also to one that does not run now."""
    images = _dumped(LISTENER, tmp_path / "images", folder, daemon_socket)
    service = Path(tempfile.mkdtemp())
    service.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(service / "name"))
        before = (service / "name").stat()
        (folder / "d").rename(folder / "moved")
        (folder / "d").symlink_to(service)
        with pytest.raises(AssertionError, match="is the name of another program's socket"), restarted(images):
            pass
    with pytest.raises(AssertionError, match="name: bind: Address already in use"), restarted(images):
        pass
    after = (service / "name").stat()
    shutil.rmtree(service)

    assert (after.st_ino, after.st_uid, after.st_mode) == (before.st_ino, before.st_uid, before.st_mode)
