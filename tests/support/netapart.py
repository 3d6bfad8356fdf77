# SPDX-License-Identifier: Apache-2.0
"""A network namespace that reaches this host alone, and whose connection can be cut."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple


class Apart(NamedTuple):
    """A network namespace.

    Attributes:
        before: words before a command that is to run in it.
        address: of the host, from there.
        interface: of the host, towards it.
    """

    before: Sequence[str]
    address: str
    interface: str

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Drop all packets in both directions, so that nobody is told."""
        table = f"table netdev {self.interface}"
        chains = [
            f"chain {hook} {{ type filter hook {hook} device {self.interface} priority 0; policy drop; }};"
            for hook in ("ingress", "egress")
        ]
        subprocess.run(["nft", f"{table} {{ {' '.join(chains)} }}"], check=True)
        try:
            yield
        finally:
            subprocess.run(["nft", f"delete {table}"], check=True)


@contextmanager
def apart() -> Iterator[Apart]:
    """Make a network namespace for the time of the block."""
    name = f"ckptree{os.getpid()}"
    net = f"10.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 200}"
    inside = ["ip", "netns", "exec", name]
    commands = [
        ["ip", "netns", "add", name],
        ["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name],
        ["ip", "addr", "add", f"{net}.1/24", "dev", name],
        ["ip", "link", "set", name, "up"],
        [*inside, "ip", "addr", "add", f"{net}.2/24", "dev", "eth0"],
        [*inside, "ip", "link", "set", "eth0", "up"],
    ]
    try:
        for command in commands:
            subprocess.run(command, check=True)
        yield Apart(inside, f"{net}.1", name)
    finally:
        # With the namespace alone the kernel would remove the device some time later, and the next one of this name fails.
        subprocess.run(["ip", "link", "del", name], check=False)
        subprocess.run(["ip", "netns", "del", name], check=True)
