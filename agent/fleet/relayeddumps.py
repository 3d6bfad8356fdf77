# SPDX-License-Identifier: Apache-2.0
"""Dumps of contents that a relay passes on to the service that has the rights for them."""

import time
from contextlib import closing
from pathlib import Path

from agent.errors import CkptreeError
from agent.fleet.hostwork import Cut, Wish
from agent.fleet.restartlink import MOST_BYTES, RestartLink


def cut(path: Path, key: str, wish: Wish, at_ns: int, timeout_s: float) -> Cut:
    """Have a tree dumped, with the contents of its programs.

    Args:
        path: the socket of the service.
        key: the id of the request.
        wish: the tree, and the requester.
        at_ns: when, by the host's CLOCK_REALTIME.
        timeout_s: for the answer. A dump that has begun is not broken off: it answers nobody then.

    Raises:
        CkptreeError: it is refused, or has failed.
    """
    request = {"what": "dump", "requester": wish.requester, "id": key, "root": wish.root, "end": wish.end}
    with closing(RestartLink(path, time.monotonic() + timeout_s, MOST_BYTES)) as link:
        answer = link.ask({**request, "at_ns": at_ns, "left_ns": int(timeout_s * 1e9)})
    try:
        return Cut(
            answer["image"],
            answer["before_ns"],
            answer["after_ns"],
            answer["tasks"],
            answer["complete"],
            tuple(answer["reasons"]),
            answer["contents"],
        )
    except (KeyError, TypeError) as error:
        raise CkptreeError(f"the service that dumps has answered without {error}: it is of another version") from error
