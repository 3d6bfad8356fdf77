# SPDX-License-Identifier: Apache-2.0
"""The daemon of a service manager, as its clients see it."""

from agent.environment import private_socket
from agent.model import Snapshot
from agent.protocol.client import Client
from exporters import registry
from tests.live.daemons import PATIENCE_S
from tests.live.servicemanager import ServiceManager


def capture(manager: ServiceManager, number: int) -> Snapshot:
    """A subtree, through an image and back."""
    with Client(manager.socket, PATIENCE_S) as client:
        answer = client.snapshot(str(number), mode="subtree")
    assert answer.complete, answer.reasons
    return registry.load(answer.data)


def status(manager: ServiceManager, *, privately: bool = False) -> dict[str, object]:
    """Return the daemon's status, from its public socket or the private one."""
    with Client(private_socket(manager.socket) if privately else manager.socket, PATIENCE_S) as client:
        return dict(client.status())


def unobserved(snapshot: Snapshot) -> set[int]:
    """Return the numbers of the tasks whose birth was not observed; none of them has a creator or an order."""
    assumed = [task for task in snapshot.tasks if task.birth is None or not task.birth.observed]
    assert all(task.birth is None or (task.birth.creator, task.birth.order) == (None, None) for task in assumed)
    return {snapshot.number(task.pid) for task in assumed}
