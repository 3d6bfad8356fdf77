# SPDX-License-Identifier: Apache-2.0
"""Netlink sockets: their number, their groups, the peer that they are connected to."""

import struct
from collections.abc import Set as AbstractSet
from typing import Any, Final

from agent.restart.contents import socketoptions
from agent.restart.contents.descriptors import FileKind, OpenFile
from agent.restart.contents.fillabi import Demand
from agent.restart.contents.holder import O_CLOEXEC
from agent.restart.contents.refusals import Refused

AF_NETLINK, SOCK_RAW = 16, 3
_CONNECTED: Final = 1
_MOST_GROUP: Final = 32
_PROTOCOLS: Final = 32
"""The kernel's bound of the numbers of protocols, MAX_LINKS."""


class NetlinkSockets(FileKind):
    """Netlink sockets. Messages that were not read are lost."""

    def check(self, entry: Any, _numbers: AbstractSet[int]) -> None:
        """Refuse groups that bind(2) does not take."""
        socket = entry.nlsk
        if len(socket.groups) > 1 or socket.dst_group > _MOST_GROUP:
            text = "it is a member of groups beyond the first 32: have the program leave them before the dump"
            raise Refused("netlink-socket", str(entry.id), "groups", text)
        if socket.protocol >= _PROTOCOLS:
            text = f"there is no protocol {socket.protocol} of netlink: dump it again"
            raise Refused("netlink-socket", str(entry.id), "type", text)
        rule, text = socketoptions.fault((AF_NETLINK, SOCK_RAW, int(socket.protocol)), socket.opts)
        if rule:
            raise Refused("netlink-socket", str(entry.id), rule, text)

    def create(self, file: OpenFile) -> int:
        """Create a socket with its groups, and with its number if that is free."""
        socket, script = file.entry.nlsk, file.script
        number = file.high(script.kept("socket", AF_NETLINK, SOCK_RAW | O_CLOEXEC, int(socket.protocol)))
        groups = int(socket.groups[0]) if socket.groups else 0
        if socket.portid:
            # The kernel may have given the number to another socket. A socket that has one refuses the second call.
            wanted, free = (struct.pack("<HHII", AF_NETLINK, 0, port, groups) for port in (int(socket.portid), 0))
            script.call("bind", number, file.data(wanted), len(wanted), demand=Demand.ANY)
            script.call("bind", number, file.data(free), len(free), demand=Demand.ANY)
        if socket.state == _CONNECTED:
            group = 1 << int(socket.dst_group) - 1 if socket.dst_group else 0
            address = file.data(struct.pack("<HHII", AF_NETLINK, 0, int(socket.dst_portid), group))
            script.call("connect", number, address, 12)
        return number

    def settle(self, file: OpenFile) -> None:
        """Set its options."""
        socketoptions.bind_to_device(file, file.entry.nlsk.opts)
        socketoptions.restore_options(file, file.entry.nlsk.opts)
