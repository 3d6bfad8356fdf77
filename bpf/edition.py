# SPDX-License-Identifier: Apache-2.0
"""The edition of the kernel side: a daemon does not take over programs of another edition."""

from pathlib import Path

try:
    from _blake2 import blake2b  # where hashlib has it from, too, but that loads all of OpenSSL: 3.5 MB of the daemon
except ImportError:
    from hashlib import blake2b

_HERE = Path(__file__).parent


def edition() -> str:
    """Return a digest of everything that decides on the loaded programs: their sources, headers, and the loader's
    modules.

    The other input of the bytecode, the kernel's own types, cannot change while a program is loaded.
    """
    digest = blake2b(digest_size=20)
    for path in sorted(_HERE.rglob("*")):
        if path.suffix in (".c", ".h", ".py"):
            digest.update(str(path.relative_to(_HERE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
