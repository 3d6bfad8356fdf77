# SPDX-License-Identifier: Apache-2.0
"""The messages of an answer about the past, on their way from the process that makes them to the daemon.

piece = bool more, u32 length (big endian), msgpack map of that length        more: another piece follows
"""

import struct
from typing import Final

HEAD: Final = struct.Struct(">?I")
