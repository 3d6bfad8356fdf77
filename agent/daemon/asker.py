# SPDX-License-Identifier: Apache-2.0
"""A client as the verbs see it, and the counts of all clients."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.access import Viewer
from agent.daemon.endpoint import PeerProcess
from agent.events.subscriber import Subscriber
from agent.table.objects import TaskStruct


@dataclass(slots=True)
class Asker:
    """A client, as far as the verbs are concerned.

    Attributes:
        viewer: its credentials.
        process: the process that connected; None: the asker has no connection, and its number is believed.
        unsent: gives the count of bytes that it has not taken yet.
        subscription: its subscription; None before it subscribes.
        protocol: version agreed upon.
        task: its task; None before it has been looked up.
    """

    viewer: Viewer
    process: PeerProcess | None = None
    unsent: Callable[[], int] = lambda: 0
    subscription: Subscriber | None = None
    protocol: int = 1
    task: TaskStruct | None = None


@dataclass(slots=True)
class Clients:
    """Counts of clients and requests; the server counts the connections.

    Attributes:
        connected, most_connected: connections now, and the most at a time.
        accepted: connections so far.
        turned_away: connections not taken, by reason.
        expired: connections that the server closed, by reason.
        requests: by verb; ``other`` for unknown verbs.
        refused: requests not fulfilled, by the name of the error.
        sent_bytes: to all clients.
    """

    connected: int = 0
    most_connected: int = 0
    accepted: int = 0
    turned_away: Counter[str] = field(default_factory=Counter)
    expired: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    sent_bytes: int = 0
