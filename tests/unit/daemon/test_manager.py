# SPDX-License-Identifier: Apache-2.0
"""The messages to a service manager, and the checks of the environment that it passes on."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from agent.daemon.servicemanager import Manager

TOP = Path(__file__).parents[3]


class Inbox:
    """The manager's end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(0.2)

    def take(self) -> tuple[str, list[int]]:
        """Return one message and its descriptors."""
        data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 16, 4)
        return data.decode(), list(descriptors)


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    """Yield an inbox on a path."""
    made = Inbox(os.fspath(tmp_path / "notify"))
    yield made
    made.socket.close()


Told = Callable[..., Manager]


@pytest.fixture
def told(inbox: Inbox) -> Iterator[Told]:
    """Yield a manager that started this process."""
    with ExitStack() as stack:
        address = str(inbox.socket.getsockname())
        yield lambda **more: stack.enter_context(closing(Manager({"NOTIFY_SOCKET": address, **more})))


def test_without_a_manager_nobody_is_told_and_nothing_is_stored() -> None:
    """An example is a terminal."""
    manager = Manager({})

    assert not manager.listens
    assert not manager.notify("READY=1")
    assert not manager.store("ckptree/map", 0)
    assert not manager.settle(0)
    assert manager.watchdog_s is None
    assert (manager.passed.listeners, manager.passed.stored) == ((), ())


def test_a_manager_that_is_gone_is_no_error(inbox: Inbox, told: Told) -> None:
    """Its socket still exists."""
    manager = told()
    inbox.socket.close()

    assert not manager.notify("READY=1")


def test_lines_come_in_one_message(inbox: Inbox, told: Told) -> None:
    """The socket is on a path."""
    assert told().notify("READY=1", "STATUS=fine")
    assert inbox.take() == ("READY=1\nSTATUS=fine", [])


def test_an_abstract_address_begins_with_an_at_sign() -> None:
    """systemd writes it so."""
    inbox = Inbox(f"\0ckptree-test-{os.getpid()}")
    with closing(Manager({"NOTIFY_SOCKET": f"@ckptree-test-{os.getpid()}"})) as manager:
        assert manager.notify("READY=1")
        assert inbox.take() == ("READY=1", [])
    inbox.socket.close()


def test_a_descriptor_is_stored_under_its_name_and_not_watched(inbox: Inbox, told: Told) -> None:
    """A perf event without a mapping polls as hung up, so a watched one would leave the store."""
    manager = told()
    kept = os.memfd_create("kept")
    assert manager.store("ckptree/kept", kept)
    message, (copy,) = inbox.take()

    assert message == "FDSTORE=1\nFDNAME=ckptree/kept\nFDPOLL=0"
    assert os.path.sameopenfile(copy, kept)
    manager.forget("ckptree/kept")
    assert inbox.take() == ("FDSTOREREMOVE=1\nFDNAME=ckptree/kept", [])
    os.close(copy)
    os.close(kept)


def test_settling_waits_until_the_manager_has_closed_its_end(inbox: Inbox, told: Told) -> None:
    """The wait has a limit."""
    manager = told()
    assert not manager.settle(0.05)
    message, (descriptor,) = inbox.take()
    assert message == "BARRIER=1"
    os.close(descriptor)

    def answer() -> None:
        os.close(inbox.take()[1][0])

    answering = threading.Thread(target=answer)
    answering.start()
    assert manager.settle(10)
    answering.join()


def test_the_watchdog_is_fed_four_times_in_its_time_and_not_more_often(inbox: Inbox, told: Told) -> None:
    """The number of turns of the loop does not matter."""
    manager = told(WATCHDOG_USEC="400000", WATCHDOG_PID=str(os.getpid()))
    assert manager.watchdog_s == pytest.approx(0.1)
    manager.feed()
    with pytest.raises(TimeoutError):
        inbox.take()
    time.sleep(0.1)
    manager.feed()
    manager.feed()

    assert inbox.take() == ("WATCHDOG=1", [])
    with pytest.raises(TimeoutError):
        inbox.take()


@pytest.mark.parametrize("said", [{"WATCHDOG_USEC": "400000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {}])
def test_the_watchdog_of_another_or_none_is_not_fed(told: Told, said: dict[str, str]) -> None:
    """The pid may be a parent's, for example."""
    assert told(**said).watchdog_s is None


def test_what_was_meant_for_this_process_is_taken_out_of_its_environment() -> None:
    """A child would use it."""
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:c", "WATCHDOG_USEC": "1", "HOME": "/"}
    manager = Manager(environment)

    assert environment == {"HOME": "/"}
    assert manager.passed.stored == ()  # LISTEN_PID is another's


PASSED = """
import os, sys
from agent.daemon.servicemanager import Manager
os.environ["LISTEN_PID"] = str(os.getpid())
passed = Manager(os.environ).passed
print([(name, listener.getsockname()) for name, listener in passed.listeners], [name for name, _ in passed.stored])
print(all(not os.get_inheritable(fd) for _, fd in passed.stored))
"""


def test_listening_sockets_are_told_from_what_was_stored(tmp_path: Path) -> None:
    """The kind of a descriptor counts and not its name; a missing descriptor is skipped."""
    path = tmp_path / "listening"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, open(os.devnull) as null:
        listener.bind(os.fspath(path))
        listener.listen()
        one, other = socket.socketpair()
        # above the numbers of the final descriptors
        high = [os.dup2(fd, 100 + fd) for fd in (listener.fileno(), null.fileno(), one.fileno())]
        ran = subprocess.run(
            ["bash", "-c", 'exec "$0" -c "$1" 3<&"$2" 4<&"$3" 5<&"$4"', sys.executable, PASSED, *map(str, high)],
            env=dict(os.environ) | {"LISTEN_FDS": "4", "LISTEN_FDNAMES": "x.socket:ckptree/null:ckptree/pair"},
            cwd=TOP,
            pass_fds=high,
            capture_output=True,
            text=True,
            check=False,
        )
        for fd in high:
            os.close(fd)
        one.close()
        other.close()
    assert ran.stderr == ""
    assert ran.stdout == f"[('x.socket', '{path}')] ['ckptree/null', 'ckptree/pair']\nTrue\n"
