# SPDX-License-Identifier: Apache-2.0
"""A cold restart of a program whose files, mounts or user namespace are not those of here."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.coldrestarts import TOP, captured, ckptree, soon


def test_a_program_of_another_root_directory_is_not_run_as_the_file_of_that_path_here(folder: Path) -> None:
    """A path of a container may lead to another file outside."""
    script = f"mount --bind /usr/bin/sleep {folder}/sleep && touch {folder}/begun && exec {folder}/sleep 1000"
    (folder / "sleep").touch()
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", script], cwd="/", start_new_session=True) as process:
        try:
            assert soon((folder / "begun").exists)
            assert soon(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
            image = captured(folder, process.pid)
            inside = ["nsenter", f"--mount=/proc/{process.pid}/ns/mnt", sys.executable, "-m", "agent"]
            command = [
                *inside,
                "restart",
                os.fspath(image),
                "--run",
                "argv",
                "--detach",
                "--pidfile",
                f"{folder}/guard",
            ]
            there = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False, timeout=60)
        finally:
            process.kill()
    os.kill(int((folder / "guard").read_text()), signal.SIGTERM)
    refused = ckptree("restart", image, "--run", "argv", "--json")

    assert there.returncode == 0, there.stderr
    assert (refused.returncode, refused.stdout) == (7, "")
    assert f"({process.pid}): it ran with other mounts than restart has here" in refused.stderr


@pytest.mark.parametrize(
    "inside",
    ["mount -o remount,bind,ro,nosuid /", "mount --bind $0/b $0/x && mount --bind $0/a $0/x"],
    ids=["read-only", "another order"],
)
def test_a_program_whose_mounts_differ_in_rights_or_order_is_not_run_outside(folder: Path, inside: str) -> None:
    """Outside of them it could write what it could not, or be another program."""
    for name in ("a", "b", "x"):
        (folder / name).mkdir()
    script = f"{inside} && exec sleep 1000"
    private = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, os.fspath(folder)]
    outside = f'mount --bind {folder}/a {folder}/x && mount --bind {folder}/b {folder}/x && exec "$@"'
    around = ["unshare", "--mount", "--propagation", "private", "sh", "-c", outside, "sh"]
    with subprocess.Popen(private, cwd="/", start_new_session=True) as process:
        try:
            assert soon(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
            image = captured(folder, process.pid)
        finally:
            process.kill()
    command = [sys.executable, "-m", "agent", "restart", os.fspath(image), "--run", "argv", "--json"]
    refused = subprocess.run([*around, *command], cwd=TOP, capture_output=True, text=True, check=False, timeout=60)

    assert (refused.returncode, refused.stdout) == (7, ""), refused.stderr
    assert f"({process.pid}): it ran with other mounts than restart has here" in refused.stderr


def test_a_program_of_a_user_namespace_is_not_run_outside_where_its_ids_are_the_same(folder: Path) -> None:
    """In a user namespace a set-user-id program gives no rights outside of that."""
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set=-sys_resource"]
    command = [*user, "unshare", "--map-current-user", "sleep", "1000"]
    with subprocess.Popen(command, cwd="/", start_new_session=True) as process:
        try:
            assert soon(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
            image = captured(folder, process.pid)
        finally:
            process.kill()
    refused = ckptree("restart", image, "--run", "argv", "--json")

    assert (refused.returncode, refused.stdout) == (7, "")
    assert f"({process.pid}): it ran with another user namespace than restart has here" in refused.stderr
