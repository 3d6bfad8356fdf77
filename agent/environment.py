# SPDX-License-Identifier: Apache-2.0
"""The environment variable that daemon and clients read. A client needs no more of the configuration than this."""

from typing import Final

SOCKET_VARIABLE: Final = "CKPTREE_SOCKET"
"""The environment variable with the path of the socket, for daemon and client; an empty value counts as unset."""
