# SPDX-License-Identifier: Apache-2.0
"""The host of the services: this one, or with CKPTREE_MACHINE=1 a virtual machine with a kernel of its own."""

import os
from collections.abc import Iterator

import pytest

from tests.service.host import Host
from tests.service.manager import Manager

LONG = ("deb", "machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that take minutes or need a package, unless -m names them."""
    asked = config.getoption("-m")
    left_out = [item for item in items if any(item.get_closest_marker(name) and name not in asked for name in LONG)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Run a systemd that has our units, none of them started."""
    folder = tmp_path_factory.mktemp("host")
    if os.environ.get("CKPTREE_MACHINE"):
        from tests.service.machine import Machine

        with Machine(folder) as machine:
            yield machine
    else:
        with Manager(folder) as manager:
            yield manager
