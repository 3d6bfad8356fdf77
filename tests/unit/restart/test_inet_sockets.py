# SPDX-License-Identifier: Apache-2.0
"""The operations that restore sockets of IP, and the sockets that are refused."""

import socket
from typing import Any

import pytest

from agent.restart.contents import tcpconnections
from agent.restart.contents.holder import Holder
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
    (holder,) = filled([_socket(1, state=10, src_port=80, backlog=7)], {4: InetSockets({})}, [((10,), [1])])

    names = [each.name for each in holder.leader.operations]
    options = [each.arguments[2] for each in calls(holder, "setsockopt")]
    assert calls(holder, "listen")[0].arguments[1] == 7
    assert options.count(2) == 2
    assert _levels(holder, 15) == [0, 0, 1], "IP_FREEBIND has the number of SO_REUSEPORT, which is taken away alone"
    assert names.index("wait") < max(at for at, name in enumerate(names) if name == "setsockopt")


def _options(holder: Holder, before: int) -> list[tuple[Any, Any]]:
    """Return level and number of the options that are set before an operation."""
    made = holder.leader.operations[:before]
    return [(each.arguments[1], each.arguments[2]) for each in made if each.name == "setsockopt"]


def _levels(holder: Holder, option: int) -> list[Any]:
    return [each.arguments[1] for each in calls(holder, "setsockopt") if each.arguments[2] == option]


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ({}, {}, True),
        ({}, {"src_addr": [0x0200007F]}, False),
        ({}, {"src_addr": [0]}, True),
        ({}, {"proto": 132}, False),
        ({}, {"dst_port": 9, "state": 7, "type": 2, "proto": 17}, False),
        ({}, {"family": 10, "src_addr": [0] * 4}, True),
        ({}, {"family": 10, "src_addr": [0] * 4, "v6only": True}, False),
        ({}, {"family": 10, "src_addr": [0, 0, 0, 1 << 24]}, False),
        ({}, {"family": 10, "src_addr": [0, 0, 0xFFFF0000, LOCAL]}, True),
    ],
)
def test_a_listener_has_so_reuseport_only_where_a_socket_of_the_tree_has_its_address(
    first: dict[str, Any], second: dict[str, Any], *, shared: bool
) -> None:
    """The kernel remembers the option of a port, and lets others have it beside the listener."""
    listener = {"state": 10, "src_port": 80, "dst_addr": [0] * 4}
    pair = [_socket(1, **listener | first), _socket(2, **listener | second)]
    (holder,) = filled(pair, {4: InetSockets({int(each.id): each for each in pair})}, [((10,), [1, 2])])
    before = holder.leader.operations.index(calls(holder, "listen")[0])
    options = [each.arguments[1:3] for each in holder.leader.operations[:before] if each.name == "setsockopt"]

    assert ((1, 15) in [tuple(each) for each in options]) == shared


def test_a_listener_beside_a_socket_that_is_only_bound_listens_when_both_are_bound_without_so_reuseport() -> None:
    """They are of two processes, which wait for each other."""
    pair = [_socket(1, state=10, src_port=80), _socket(2, src_port=80)]
    kinds = {4: InetSockets({int(each.id): each for each in pair})}
    listening, bound = filled(pair, kinds, [((10,), [1]), ((11,), [2])])

    for holder in (listening, bound):
        names = [each.name for each in holder.leader.operations]
        assert names.index("bind") < names.index("wait")
        assert (1, 2) in _options(holder, names.index("wait"))
        assert (1, 15) not in _options(holder, names.index("wait"))
    names = [each.name for each in listening.leader.operations]
    assert names.index("wait") < names.index("listen")


def test_sockets_of_one_address_and_two_interfaces_share_nothing() -> None:
    """The kernel binds them beside each other, once each has its interface."""
    pair = [_socket(each, state=10, src_port=80, src_addr=[0]) for each in (1, 2)]
    for each, name in zip(pair, (b"lo", b"eth0"), strict=True):
        each.isk.opts.so_bound_dev = name
    kind = InetSockets({int(each.id): each for each in pair})
    (holder,) = filled(pair, {4: kind}, [((10,), [1, 2])])

    names = [each.name if each.name != "setsockopt" else each.arguments[2] for each in holder.leader.operations]
    assert names.index(25) < names.index("bind")
    assert names.count(25) == 2
    assert not kind.awaits_all()


@pytest.mark.parametrize(("state", "options"), [(7, []), (10, [2])], ids=["bound", "listener"])
def test_a_socket_alone_at_its_port_is_bound_without_so_reuseaddr_unless_it_listens(
    state: int, options: list[int]
) -> None:
    """The kernel would let others have the port, as long as none listens there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    entry = _socket(1, state=state, src_port=port)
    kind = InetSockets({1: entry})
    kind.check(entry, {3})
    (holder,) = filled([entry], {4: kind}, [((10,), [1])])
    bind = [each.name for each in holder.leader.operations].index("bind")

    assert [option for level, option in _options(holder, bind) if level == 1] == options


def test_two_listeners_without_so_reuseport_take_the_right_to_repair_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without it the kernel would let others have the port, as it did before the dump."""
    pair = [_socket(each, state=10, src_port=80) for each in (1, 2)]
    kind = InetSockets({int(each.id): each for each in pair})
    (holder,) = filled(pair, {4: kind}, [((10,), [1, 2])])
    repairs = [each for each in calls(holder, "setsockopt") if each.arguments[1:3] == (6, 19)]
    assert len(repairs) == 2
    monkeypatch.setattr(tcpconnections, "repair_fault", lambda: "no right")
    with pytest.raises(Refused, match="no right"):
        kind.check(pair[0], {3})


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("option", lambda isk: setattr(isk.tcp_opts, "keepidle", 40000)),
        ("option", lambda isk: setattr(isk.ip_opts, "ttl", 256)),
        ("option", lambda isk: setattr(isk.opts, "so_buf_lock", 8)),
        ("option", lambda isk: setattr(isk.opts, "so_snd_tmo_usec", 1_000_000)),
        ("filter", lambda isk: isk.opts.so_filter.append(0xFFFF << 48)),
        ("filter", lambda isk: isk.opts.so_filter.extend([0x06 << 48] * 4097)),
        ("interface", lambda isk: setattr(isk.opts, "so_bound_dev", b"none-such")),
        ("type", lambda isk: setattr(isk, "proto", 250)),
        ("state", lambda isk: setattr(isk, "state", 10)),
    ],
)
def test_an_option_that_the_kernel_does_not_take_is_refused_beforehand(rule: str, change: Any) -> None:
    """Another socket is asked."""
    entry = _socket(1)
    change(entry.isk)
    with pytest.raises(Refused) as caught:
        InetSockets({}).check(entry, {3})
    assert caught.value.refusal[2] == rule


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
        InetSockets({}).check(_socket(1, **fields), {3})
    assert caught.value.refusal[2] == rule


@pytest.mark.parametrize("option", [None, socket.SO_REUSEADDR, socket.SO_REUSEPORT])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_in_use_is_refused(option: int | None, kind: socket.SocketKind) -> None:
    """The socket of the image does not share it, whether or not the one that has it would."""
    with socket.socket(type=kind) as taker:
        if option is not None:
            taker.setsockopt(socket.SOL_SOCKET, option, 1)
        taker.bind(("127.0.0.1", 0))
        part = {"state": 7, "type": 2, "proto": 17}
        if kind == socket.SOCK_STREAM:
            taker.listen()
            part = {"state": 10}
        with pytest.raises(Refused, match=f"port {taker.getsockname()[1]}"):
            InetSockets({}).check(_socket(1, src_port=taker.getsockname()[1], **part), {3})
