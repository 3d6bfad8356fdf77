# SPDX-License-Identifier: Apache-2.0
"""The pid namespace of a client: known for certain, or nothing is shown."""

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

from agent.access import Viewer
from agent.daemon.asker import Asker
from agent.daemon.endpoint import PeerProcess
from agent.table.objects import CLONE_NEWPID
from tests.support.kernelobjects import Thread
from tests.support.simwatch import Scene


def test_a_client_whose_process_has_ended_before_its_first_question_sees_nothing() -> None:
    """Its pid namespace is not known then: a child that goes on with the connection could be in any."""
    scene = Scene()
    other = scene.child()
    init = scene.child(flags=CLONE_NEWPID)
    scene.kernel.setsid(init)
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
        early, late = (Asker(scene.viewer(init, privileged=True), PeerProcess(process.pid)) for _ in range(2))
        assert scene.service.answer({"verb": "snapshot", "root": "1", "outer": True}, early)["outer"] == [()]
        process.communicate()
    named: list[dict[str, Any]] = [{"root": str(other.tid), "outer": True}, {"root": "1"}]
    asked = [{"verb": verb, **root} for verb in ("snapshot", "subscribe") for root in named]
    for request in (*asked, {"verb": "subscribe"}):
        told = scene.service.answer(request, late)
        assert told["kind"] == "not-permitted"
    assert "connect again" in told["error"]
    assert late.subscription is None
    assert scene.service.answer({"verb": "snapshot", "root": "1"}, early)["ok"], "it is known by then"
    assert scene.service.answer({"verb": "hello"}, late)["ok"]


def test_a_client_that_the_table_does_not_have_sees_nothing() -> None:
    """A number without a task is no reason to show it what the initial namespace sees."""
    scene = Scene()
    stranger = Viewer(4242, 0, 0, privileged=True)

    assert scene.ask(stranger, "snapshot", root="1", mode="subtree")["kind"] == "not-permitted"
    assert scene.ask(stranger, "subscribe")["kind"] == "not-permitted"


def test_a_client_that_was_born_after_the_last_record_that_was_read_is_known() -> None:
    """The records are read first."""
    scene = Scene()
    init = scene.child(flags=CLONE_NEWPID)
    scene.kernel.setsid(init)
    assert scene.watch.probes.ring.pending

    assert scene.ask(scene.viewer(init, privileged=True), "snapshot", root="1")["tasks"] == 1


def test_a_namespace_beside_or_above_the_clients_is_shown_to_nobody_in_it() -> None:
    """Its tasks have no number where the client lives; what lies below has."""
    scene = Scene()
    own, above = scene.child(flags=CLONE_NEWPID), scene.kernel.init
    below = scene.child(own, flags=CLONE_NEWPID)
    beside = scene.child(scene.child(scene.child(flags=CLONE_NEWPID), flags=CLONE_NEWPID), flags=CLONE_NEWPID)
    for init in (own, below, beside):
        scene.kernel.setsid(init)
    viewer = scene.viewer(own, privileged=True)

    def kind(thread: Thread) -> str:
        return str(scene.ask(viewer, "snapshot", root=f"pidns:{thread.space.inum}").get("kind", "shown"))

    assert [kind(each) for each in (beside, above, own, below)] == [
        *("no-such-root", "no-such-root"),
        *("shown", "shown"),
    ]


def test_a_process_that_connected_is_held_until_it_has_ended(tmp_path: Path) -> None:
    """A zombie has ended; so has one that was reaped before its connection was taken."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        child = os.fork()
        if child == 0:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "socket"))
                client.recv(1)
            os._exit(0)
        connection, _ = listener.accept()
        with connection:
            early = PeerProcess(child, connection)
            assert not early.has_ended
            connection.send(b"!")
            os.waitpid(child, 0)
            late = PeerProcess(child, connection)
        assert early.has_ended
        assert late.has_ended
        assert PeerProcess(child).has_ended
    for process in (early, late):
        process.close()
        assert process.has_ended
