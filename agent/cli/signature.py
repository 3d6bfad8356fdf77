# SPDX-License-Identifier: Apache-2.0
"""Signatures of images, made and checked by OpenSSH's ``ssh-keygen -Y``.

An image is code: a restart makes processes of it, and runs the programs that it names. A signature beside it
(``FILE.sig``) proves its signer. It covers the bytes of the file in the namespace ``ckptree``, and a shell can check
it::

    ssh-keygen -Y verify -f allowed_signers -I NAME -n ckptree -s tree.ckpt.sig < tree.ckpt

Keys are those of ssh: to sign, a private key, or a public one whose private half an agent holds; to verify, a public
key or a file of allowed signers (ssh-keygen(1), ALLOWED SIGNERS).
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agent.errors import CkptreeError, FormatError, RefusedError, UsageError

NAMESPACE: Final = "ckptree"
SUFFIX: Final = ".sig"
_PATIENCE_S: Final = 120.0  # a user may have to touch a token
_ANYBODY: Final = "signer"
_MAX_KEYS_BYTES: Final = 1 << 20
# The name of an algorithm, then the first bytes of every key in base64; a principal may begin with "ssh-" too.
_BARE_KEY: Final = re.compile(rb"(ssh|ecdsa|sk)-\S+\s+AAAA")


def beside(file: str) -> Path:
    """Return the file that holds the signature of a file."""
    return Path(file + SUFFIX)


def sign(data: bytes, key: Path) -> bytes:
    """Sign bytes.

    Args:
        data: of the image.
        key: a private key, or a public one whose private half an agent holds.

    Raises:
        UsageError: there is no such key.
        CkptreeError: ssh-keygen could not sign.
    """
    _look(key)
    done = _ssh_keygen(("sign", "-f", os.fspath(key), "-n", NAMESPACE), data)
    if done.returncode or not done.stdout:
        raise CkptreeError(f"ssh-keygen could not sign with {key}: {_last_words(done)}")
    return done.stdout


def verify(data: bytes, file: str, key: Path, signature: bytes | None = None) -> str:
    """Check the signature of a file against the bytes that were read of it.

    Args:
        data: the bytes of the file.
        file: its name.
        key: a public key, or a file of allowed signers.
        signature: of the file; None: it is in the file beside it.

    Returns:
        The signer, as the file of allowed signers calls it, or the fingerprint of the key.

    Raises:
        UsageError: KEY is no public key and no file of signers, or the image comes from a stream and so has no
            signature.
        RefusedError: there is no signature, or its signer is not allowed.
        FormatError: the signature is of other bytes.
    """
    if file == "-":
        raise UsageError("--verify takes a FILE, whose signature stands beside it in FILE.sig: standard input has none")
    place = beside(file)
    if signature is None and not place.is_file():
        raise RefusedError(
            f"{file} is not signed: there is no {file}{SUFFIX}, which `snapshot --sign` or ssh-keygen makes"
        )
    allowed = _allowed_signers(key)
    with _memory(allowed) as signers, _memory(signature or b"") as held:
        beside_it = f"/proc/self/fd/{held}" if signature is not None else os.fspath(place)
        return _verified(data, file, key, beside_it, (signers, held))


def _verified(data: bytes, file: str, key: Path, signature: str, descriptors: tuple[int, int]) -> str:
    """Check the signature in a file; the descriptors are of the allowed signers, and of the file if it is in memory."""
    named = f"/proc/self/fd/{descriptors[0]}"
    found = _ssh_keygen(("find-principals", "-s", signature, "-f", named), b"", descriptors)
    signers = found.stdout.decode(errors="replace").splitlines()
    if found.returncode or not signers:
        words = _last_words(found)
        if named in words:  # ssh-keygen could not read a line of the allowed signers
            raise UsageError(
                f"{key} is no public ssh key and no file of allowed signers: {words.replace(named, str(key))}"
            )
        raise RefusedError(f"{file}: {key} does not allow the signer of its signature: {words}")
    for signer in signers:
        arguments = ("verify", "-f", named, "-I", signer, "-n", NAMESPACE, "-s", signature)
        done = _ssh_keygen(arguments, data, descriptors)
        if not done.returncode:
            return done.stdout.decode(errors="replace").strip()
    raise FormatError(file, f"other bytes were signed, or not for {NAMESPACE}: {_last_words(done)}")


def check_key(key: Path) -> None:
    """Refuse a KEY that can show no signature.

    Raises:
        UsageError: it is missing, or private.
    """
    _allowed_signers(key)


def _allowed_signers(key: Path) -> bytes:
    """Return the lines of allowed signers for ssh-keygen; a plain public key allows the holder of its private half."""
    _look(key)
    with key.open("rb") as file:
        data = file.read(_MAX_KEYS_BYTES)
    if b"PRIVATE KEY-----" in data[:100]:
        raise UsageError(f"{key} is a private key, which signs: name the public one, {key}.pub")
    lines = [line.strip() for line in data.removeprefix(b"\xef\xbb\xbf").splitlines()]
    anybody = f'{_ANYBODY} namespaces="{NAMESPACE}" '.encode()
    return b"\n".join(anybody + line if _BARE_KEY.match(line) else line for line in lines) + b"\n"


@contextmanager
def _memory(data: bytes) -> Iterator[int]:
    """Hold bytes in a file in memory, for a program that needs a file; yield its descriptor."""
    descriptor = os.memfd_create("ckptree-signers")
    try:
        os.write(descriptor, data)
        yield descriptor
    finally:
        os.close(descriptor)


def _look(key: Path) -> None:
    if not key.is_file():
        raise UsageError(f"{key}: there is no such key file. ssh-keygen -t ed25519 makes a pair")


def _ssh_keygen(
    arguments: Sequence[str], data: bytes, descriptors: Sequence[int] = ()
) -> "subprocess.CompletedProcess[bytes]":
    program = shutil.which("ssh-keygen")
    if program is None:
        raise CkptreeError("there is no ssh-keygen here, which makes and checks signatures: install openssh-client")
    try:
        return subprocess.run(
            [program, "-Y", *arguments],
            input=data,
            capture_output=True,
            check=False,
            pass_fds=descriptors,
            timeout=_PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        raise CkptreeError(f"ssh-keygen did not end within {_PATIENCE_S:g} s") from None


def _last_words(done: "subprocess.CompletedProcess[bytes]") -> str:
    words = (done.stderr + b"\n" + done.stdout).decode(errors="replace").strip().splitlines()
    return words[0] if words else f"it ended with {done.returncode}"
