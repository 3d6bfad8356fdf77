# SPDX-License-Identifier: Apache-2.0
"""The operations that restore unix sockets, and the sockets that are refused."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from agent.restart.contents.eventfiles import EventCounters
from agent.restart.contents.refusals import Refused
from agent.restart.contents.unixsockets import Packet, UnixSockets
from tests.support.filledfiles import calls, file_entry, filled

SOCKET = {"type": 1, "state": 1, "uflags": 0, "backlog": 0, "peer": 0, "name": b""}


def _socket(identity: int, **fields: Any) -> Any:
    return file_entry(identity, 5, **SOCKET | {"ino": 100 + identity} | fields)


def _kind(*entries: Any, queues: dict[int, list[Packet]] | None = None) -> UnixSockets:
    return UnixSockets({int(entry.id): entry for entry in entries}, queues or {})


def test_one_process_makes_both_ends_and_the_files_in_flight() -> None:
    """Only the process that sends a descriptor needs it."""
    ends = [_socket(1, peer=102), _socket(2, peer=101)]
    flying = file_entry(3, 6, counter=0)
    kind = _kind(*ends, flying, queues={2: [Packet(b"x", (3,), known=True)]})

    one, other = filled([*ends, flying], {5: kind, 6: EventCounters()}, [((10,), [1]), ((11,), [2])])

    assert len(calls(one, "socketpair")) == 1
    assert len(calls(one, "eventfd2")) == 1
    assert len(calls(one, "sendmsg")) == 1
    assert not calls(other, "socketpair", "eventfd2", "sendmsg")
    assert len(calls(other, "pidfd_getfd")) == 1


def test_an_accepted_socket_gets_the_name_of_its_listener_by_a_connection() -> None:
    """Two sockets cannot be bound to one name."""
    name = b"\0service"
    listener = _socket(1, state=10, backlog=5, name=name)
    accepted, client = _socket(2, peer=103, name=name), _socket(3, peer=102)

    (holder,) = filled([listener, accepted, client], {5: _kind(listener, accepted, client)}, [((10,), [1, 2, 3])])

    names = [each.name for each in calls(holder, "bind", "listen", "connect", "accept4")]
    assert names == ["bind", "listen", "connect", "accept4", "listen"]
    assert calls(holder, "listen")[-1].arguments[1] == 5


def test_connections_that_nobody_accepted_come_after_those_that_were() -> None:
    """A listener gives the oldest first."""
    listener = _socket(1, state=10, backlog=5, name=b"\0service")
    waiting, accepted, client = _socket(2, peer=101), _socket(3, peer=104, name=b"\0service"), _socket(4, peer=103)
    entries = [listener, waiting, accepted, client]

    (holder,) = filled(entries, {5: _kind(*entries)}, [((10,), [1, 2, 3, 4])])

    assert [each.name for each in calls(holder, "connect", "accept4")] == ["connect", "accept4", "connect"]


def test_the_queue_of_a_socket_whose_peer_is_closed_is_sent_before_the_peer_closes() -> None:
    """The end of the peer shuts it down."""
    entry = _socket(1, shutdown=3)

    (holder,) = filled([entry], {5: _kind(entry, queues={1: [Packet(b"x", (), known=True)]})}, [((10,), [1])])

    names = [each.name for each in calls(holder, "sendmsg", "close", "shutdown")]
    assert names[names.index("sendmsg") :] == ["sendmsg", "close"]


def test_sockets_are_refused_by_name(tmp_path: Path) -> None:
    """Each for its own reason."""
    taken = tmp_path / "taken"
    taken.touch()
    nameless = _socket(9, type=2, peer=0)
    refused = {
        "outside": _socket(1, peer=77),
        "type": _socket(1, type=3),
        "unreachable": _socket(1, type=2, peer=109),
        "state": _socket(1, state=4),
        "name": _socket(1, type=2, name=bytes(taken) + b"\0"),  # as CRIU writes it
        "folder": _socket(1, type=2, name=bytes(tmp_path / "none" / "socket")),
    }
    for rule, entry in refused.items():
        with pytest.raises(Refused) as caught:
            _kind(entry, nameless).check(entry, {3})
        assert caught.value.refusal[2] == rule


def test_the_name_of_another_program_s_socket_is_refused(tmp_path: Path) -> None:
    """To take it would cut that one off from its clients. A file that nobody serves any more is made anew."""
    path = tmp_path / "name"
    abstract = b"\0" + bytes(path)
    entries = [_socket(1, state=10, backlog=1, name=name) for name in (bytes(path) + b"\0", abstract)]
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as other:
            other.bind(os.fspath(path))
            with pytest.raises(Refused) as caught:
                _kind(entries[0]).check(entries[0], {3})
            assert caught.value.refusal[2] == "taken"
        _kind(entries[0]).check(entries[0], {3})
        path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(abstract)
        with pytest.raises(Refused) as caught:
            _kind(entries[1]).check(entries[1], {3})
        assert caught.value.refusal[2] == "taken"
    _kind(entries[1]).check(entries[1], {3})


def test_a_message_with_credentials_or_unknown_files_is_refused() -> None:
    """The images must describe all that is in flight."""
    entry = _socket(1, peer=101, type=2)
    for packet in (Packet(b"x", (5,), known=True), Packet(b"x", (), known=False)):
        with pytest.raises(Refused) as caught:
            _kind(entry, queues={1: [packet]}).check(entry, {3})
        assert caught.value.refusal[2] == "queue"
