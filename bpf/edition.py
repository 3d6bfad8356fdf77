# SPDX-License-Identifier: Apache-2.0
"""The edition of the kernel side: a daemon does not take over programs of another edition."""

import hashlib
from pathlib import Path

_HERE = Path(__file__).parent


def edition() -> str:
    """Return a digest of everything that decides on the loaded programs: their sources, headers, and the loader's
    modules.

    The other input of the bytecode, the kernel's own types, cannot change while a program is loaded.
    """
    digest = hashlib.blake2b(digest_size=20)
    for path in sorted(_HERE.rglob("*")):
        if path.suffix in (".c", ".h", ".py"):
            digest.update(str(path.relative_to(_HERE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
