# SPDX-License-Identifier: Apache-2.0
"""The daemon's answer to the hello of every client."""

from agent.protocol import codec

HELLO: codec.Message = {
    "ok": True,
    "protocol": 1,
    "protocols": [1, 1],
    "version": "0.2.0",
    "boot_id": "",
    "features": [],
    "formats": ["ckpt"],
    "events": ["birth"],
    "peer": {"pid": 1, "uid": 0, "gid": 0, "sees": "all"},
}
