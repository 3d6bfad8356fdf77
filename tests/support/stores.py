# SPDX-License-Identifier: Apache-2.0
"""One store of each kind, for the tests of verbs."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from agent.fleet.stores.natsstore import NatsStore
from tests.support import servers

SCHEMES = ("nats", "s3", "oci")
BUCKET = "trees"


class Stores(NamedTuple):
    """Three servers.

    Attributes:
        environment: of a process that finds them.
    """

    nats: servers.Server
    s3: servers.Server
    registry: servers.Server
    environment: Mapping[str, str]

    def address(self, scheme: str, name: str) -> str:
        """Return an address in a store."""
        if scheme == "oci":
            return f"oci://{self.registry.address}/{BUCKET}:{name}"
        return f"{scheme}://{BUCKET}/{name}"


@contextmanager
def running(folder: Path) -> Iterator[Stores]:
    """Run the servers, whose data lie in a folder; each has a bucket."""
    with servers.nats(folder / "nats") as nats, servers.s3() as s3, servers.registry(folder / "registry") as registry:
        servers.make_s3_bucket(s3, BUCKET)
        url = f"nats://{nats.address}"
        with NatsStore(url, BUCKET) as bucket:
            bucket.make_bucket()
        yield Stores(nats, s3, registry, {**os.environ, **servers.s3_environment(s3), "CKPTREE_NATS": url})
