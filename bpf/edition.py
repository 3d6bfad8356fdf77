# SPDX-License-Identifier: Apache-2.0
"""Which edition of the kernel side this is: what was loaded by another one is not for us."""

import hashlib
from pathlib import Path

_HERE = Path(__file__).parent


def edition() -> str:
    """A digest of everything that decides what is loaded: the programs, their headers, and what loads them.

    What else goes into the bytecode, the kernel's own types, cannot change while something is loaded.
    """
    digest = hashlib.blake2b(digest_size=20)
    for path in sorted(_HERE.rglob("*")):
        if path.suffix in (".c", ".h", ".py"):
            digest.update(str(path.relative_to(_HERE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
