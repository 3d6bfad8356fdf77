# SPDX-License-Identifier: Apache-2.0
"""The doctor's word against what then works."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from agent.protocol.client import Client
from tests.live.daemons import TOP, ckptree

# With tracefs, and the checkout open to all: below a folder that others may not enter, as /root is, it is mounted anew.
AS_NOBODY = """
set -e
umask 022
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null || true
if [ "$1" ]; then
    mount --bind "$0" "$2"
    mount -t tmpfs -o mode=755 none "$1"
    mkdir -p "$0"
    mount --move "$2" "$0"
    cd "$0"
fi
shift 2
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
"""
INSIDE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def findings(text: bytes) -> tuple[Any, dict[str, Any]]:
    """The document, and its findings by name."""
    document = json.loads(text)
    return document, {one["what"]: one for one in document["findings"]}


def test_it_finds_that_all_works_here_and_the_hooks_that_the_daemon_has(daemon_socket: Path) -> None:
    """Exit code 0."""
    ran = ckptree("doctor", "--json", "--socket", daemon_socket)
    document, found = findings(ran.out)
    with Client(daemon_socket) as client:
        hooks = client.status()["hooks"]

    assert ran.code == 0, ran.out.decode()
    assert (document["capture"], document["restart"], found["daemon"]["state"]) == (True, True, "ok")
    assert {
        name: found[f"hook for {name}"]["found"].partition(" (")[0].split(", ") for name, used in hooks.items() if used
    } == {name: used for name, used in hooks.items() if used}
    assert ckptree("snapshot", str(os.getpid()), "--source", "bpf", "-f", "json").code == 0


def test_where_processes_cannot_be_watched_it_says_why_and_exits_5(tmp_path: Path) -> None:
    """Within a container without a daemon's socket; trees can be rebuilt there."""
    ran = ckptree("doctor", "--json", "--socket", tmp_path / "none", before=INSIDE)
    document, found = findings(ran.out)

    assert ran.code == 5
    assert (document["capture"], document["restart"]) == (False, True)
    assert "not in the initial pid namespace" in found["capture"]["found"]
    assert "on the host" in found["pid namespace"]["mend"]
    assert ckptree("snapshot", "1", "--source", "bpf", before=INSIDE).code == 5


def test_a_daemon_that_answers_is_enough(daemon_socket: Path) -> None:
    """Within a container with its socket."""
    ran = ckptree("doctor", "--json", "--socket", daemon_socket, before=INSIDE)
    document, found = findings(ran.out)

    assert ran.code == 0
    assert (document["capture"], found["bpf"]["state"]) == (True, "warn")
    assert "no" not in {one["state"] for one in found.values()}
    assert ckptree("snapshot", "1", "--socket", daemon_socket, "--mode", "subtree", "--json", before=INSIDE).code == 0


def test_another_bcc_is_found_and_the_right_one_named(tmp_path: Path) -> None:
    """PyPI's package of that name, before the system's on the path."""
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc/__init__.py").write_text('"""Crystals."""\n')
    ran = ckptree("doctor", "--socket", tmp_path / "none", env={"PYTHONPATH": os.fspath(tmp_path)})
    lines = {line.split(":")[0].split()[1]: line for line in ran.out.decode().splitlines()}

    assert ran.code == 5
    assert lines["bcc"].startswith("no ")
    assert "apt-get install python3-bpfcc" in lines["bcc"].partition(" — ")[2]
    assert lines["capture"].startswith("no ")
    assert lines["restart"].startswith("ok ")


def test_a_mounted_tracefs_that_is_closed_to_its_reader_is_mounted(tmp_path: Path) -> None:
    """It is root's alone, and no reason to end."""
    closed = next((folder for folder in reversed(TOP.parents) if not folder.stat().st_mode & stat.S_IXOTH), "")
    ran = ckptree(
        "doctor", "--json", before=("unshare", "--mount", "sh", "-c", AS_NOBODY, f"{TOP}", f"{closed}", f"{tmp_path}")
    )
    assert ran.out, ran.err
    _, found = findings(ran.out)

    assert found["tracefs"]["state"] == "ok", ran.err
