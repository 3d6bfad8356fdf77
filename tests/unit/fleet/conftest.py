# SPDX-License-Identifier: Apache-2.0
"""The server and the relays of the tests of permissions; modules that need others have fixtures of their own."""

from collections.abc import Iterator

import pytest

from tests.support import servers
from tests.support.guardedserver import a_guarded_server, two_relays
from tests.support.relays import RelayProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """Run a server with the permissions of the page."""
    with a_guarded_server(tmp_path_factory.mktemp("nats")) as found:
        yield found


@pytest.fixture(scope="module")
def relays(server: servers.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RelayProcess]]:
    """Run the relays of both hosts, and make the bucket."""
    with two_relays(tmp_path_factory.mktemp("relays"), server) as found:
        yield found
