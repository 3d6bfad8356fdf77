# SPDX-License-Identifier: Apache-2.0
"""The operations that restore sockets of IP, and the sockets that are refused."""

import socket
from typing import Any

import pytest

from agent.restart.contents.inetsockets import InetSockets
from agent.restart.contents.refusals import Refused
from tests.support.filledfiles import calls, file_entry, filled

LOCAL = 0x0100007F
SOCKET = {"family": 2, "type": 1, "proto": 6, "state": 7, "src_port": 0, "dst_port": 0, "backlog": 0}


def _socket(identity: int, **fields: Any) -> Any:
    known = SOCKET | {"ino": 100 + identity, "src_addr": [LOCAL], "dst_addr": [0]}
    return file_entry(identity, 4, **known | fields)


def test_a_listener_loses_what_made_binding_possible_when_all_are_bound() -> None:
    """Another process may have to bind a socket to the same port."""
    (holder,) = filled([_socket(1, state=10, src_port=80, backlog=7)], {4: InetSockets()}, [((10,), [1])])

    names = [each.name for each in holder.leader.operations]
    options = [each.arguments[2] for each in calls(holder, "setsockopt")]
    assert calls(holder, "listen")[0].arguments[1] == 7
    assert options.count(2) == 2
    assert options.count(15) == 4, "IP_FREEBIND has the number of SO_REUSEPORT"
    assert names.index("wait") < max(at for at, name in enumerate(names) if name == "setsockopt")


@pytest.mark.parametrize(
    ("rule", "fields"),
    [
        ("type", {"family": 16}),
        ("type", {"family": 10}),
        ("type", {"src_port": 1 << 16}),
        ("connection", {"dst_port": 80, "state": 1}),
        ("interface", {"ifname": b"none-such"}),
        ("address", {"src_port": 80, "src_addr": [0x01020304]}),
    ],
)
def test_a_socket_that_cannot_come_back_is_refused(rule: str, fields: dict[str, Any]) -> None:
    """Each for its own reason."""
    with pytest.raises(Refused) as caught:
        InetSockets().check(_socket(1, **fields), {3})
    assert caught.value.refusal[2] == rule


def test_a_port_in_use_is_refused() -> None:
    """The socket that has it does not share it."""
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", 0))
        taker.listen()
        with pytest.raises(Refused, match=f"port {taker.getsockname()[1]}"):
            InetSockets().check(_socket(1, state=10, src_port=taker.getsockname()[1]), {3})
