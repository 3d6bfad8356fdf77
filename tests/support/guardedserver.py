# SPDX-License-Identifier: Apache-2.0
"""A server of NATS with the permissions that docs/fleet.md shows, each for a user with a password, and two relays."""

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nats
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from tests.live.daemons import Ran, ckptree
from tests.support import servers
from tests.support.relays import RelayProcess, a_relay

PAGE = Path(__file__).parents[2] / "docs" / "fleet.md"
INBOXES = {
    "taker": "_INBOX.snapshots",
    "ops": "_INBOX.restarts-ops",
    "dumper": "_INBOX.contents-ops",
    "follower": "_INBOX.events-node1",
    "followed": "_INBOX.relay.node1",
    "followed2": "_INBOX.relay.node2",
    "spare": "_INBOX.standby.spare",
    "spare2": "_INBOX.standby.spare2",
}
"""The inboxes of users, as the page has them. Relays have none."""
USERS = (*INBOXES, "node1", "node2")


def url(server: servers.Server, user: str) -> str:
    """Return the address with the credentials of a user."""
    return f"nats://{user}:{user}@{server.address}"


@contextmanager
def a_guarded_server(folder: Path) -> Iterator[servers.Server]:
    """Run a server with the permissions of the page, each for a user with a password."""
    shown = re.search(r"^RELAY_OF_NODE1 \{.*?^(?=accounts \{)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert shown
    second = shown[0].partition("\nSNAPSHOTS")[0].replace("NODE1", "NODE2").replace("node1", "node2")
    of = {"node1": "RELAY_OF_NODE1", "node2": "RELAY_OF_NODE2", "taker": "SNAPSHOTS", "ops": "RESTARTS_OF_OPS"}
    of |= {"followed": "FOLLOWED_NODE1", "spare": "STANDBY_OF_NODE1", "dumper": "CONTENTS_OF_OPS"}
    of["follower"] = "EVENTS_OF_NODE1"
    of |= {"followed2": "FOLLOWED_NODE2", "spare2": "STANDBY_OF_NODE2"}
    for name in ("FOLLOWED_NODE1", "STANDBY_OF_NODE1"):
        (rights,) = re.findall(rf"^{name} {{.*?^}}\n", shown[0], re.MULTILINE | re.DOTALL)
        second += "\n" + rights.replace("NODE1", "NODE2").replace("node1", "node2").replace("spare", "spare2")
    assert sorted(of) == sorted(USERS)
    users = [f"{{user: {user}, password: {user}, permissions: ${name}}}" for user, name in of.items()]
    accounts = (
        "accounts {FLEET {jetstream: enabled, users: [{user: admin, password: admin}, " + ", ".join(users) + "]}}"
    )
    (folder / "nats.conf").write_text(f"{shown[0]}\n{second}\n{accounts}\n")
    with servers.nats(folder / "data", "-c", str(folder / "nats.conf")) as found:
        yield found


@contextmanager
def two_relays(folder: Path, server: servers.Server) -> Iterator[list[RelayProcess]]:
    """Run the relays of both hosts, and make the bucket."""

    async def make() -> None:
        client = await nats.connect(url(server, "admin"))
        await client.jetstream().create_object_store("sets")
        await client.jetstream().add_stream(made_by_the_page("2"))
        await client.close()

    asyncio.run(make())
    more = 'allow = ["snapshot", "restart", "events"]\n[[restart]]\nrequester = "ops"\nrun = []\nsigners = "/none"\n'
    more += '[[dump]]\nrequester = "ops"\nroots = ["1"]\nstore = "nats://dumps"\n'
    with (
        a_relay(folder, "node1", url(server, "node1"), more=more, image=True) as one,
        a_relay(folder, "node2", url(server, "node2"), more=more, image=True) as two,
    ):
        yield [one, two]


def made_by_the_page(of: str) -> StreamConfig:
    """Return the stream that the page's command makes, of node1 or of the other host."""
    (line,) = re.findall(r"^nats stream add .*", PAGE.read_text(), re.MULTILINE)
    words = line.replace("node1", f"node{of}").split()
    denied = [word for word in words if word.startswith("--deny-")]
    words = [word for word in words if word not in denied]
    flags = dict(zip(words[4:-1:2], words[5:-1:2], strict=True))
    assert (flags["--retention"], flags["--discard"], flags["--dupe-window"]) == ("limits", "old", "2m")
    return StreamConfig(
        name=words[3],
        subjects=[flags["--subjects"]],
        storage=StorageType(flags["--storage"]),
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.OLD,
        max_bytes=int(flags["--max-bytes"]),
        max_age=3600 * int(flags["--max-age"].removesuffix("h")),
        duplicate_window=120,
        deny_purge="--deny-purge" in denied,
        deny_delete="--deny-delete" in denied,
    )


def fleet(server: servers.Server, user: str, *words: str) -> Ran:
    """Run a verb of the fleet as a user."""
    return ckptree("fleet", *words, "--nats", url(server, user), env=inbox_of(user))


def inbox_of(user: str) -> dict[str, str]:
    """Return an environment with the inbox of a user."""
    return {**os.environ, "CKPTREE_NATS_INBOX": INBOXES.get(user, "")}
