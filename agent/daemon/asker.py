# SPDX-License-Identifier: Apache-2.0
"""A client as the verbs see it, and the counts of all clients."""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.access import Viewer
from agent.daemon.endpoint import PeerProcess

if TYPE_CHECKING:
    from agent.events.subscriber import Subscriber
    from agent.table.objects import TaskStruct


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

    __slots__ = ("process", "protocol", "subscription", "task", "unsent", "viewer")

    def __init__(self, viewer: Viewer, process: PeerProcess | None = None, unsent: Callable[[], int] = int) -> None:
        self.viewer, self.process, self.unsent = viewer, process, unsent
        self.subscription: Subscriber | None = None
        self.protocol = 1
        self.task: TaskStruct | None = None


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

    def __init__(self) -> None:
        self.connected = self.most_connected = self.accepted = self.sent_bytes = 0
        self.turned_away = Counter[str]()
        self.expired = Counter[str]()
        self.requests = Counter[str]()
        self.refused = Counter[str]()
