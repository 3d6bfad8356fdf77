# SPDX-License-Identifier: Apache-2.0
"""Signatures of images, made and checked by the real ssh-keygen."""

import os
import subprocess
from pathlib import Path

import pytest

from agent.cli import signature
from agent.errors import CkptreeError, FormatError, RefusedError, UsageError
from tests.support.commandline import here

IMAGE = b"the bytes of an image"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Return a private key; the public one is beside it."""
    return a_key(tmp_path / "key")


def a_key(path: Path) -> Path:
    """Make a pair of keys."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path


def signed(tmp_path: Path, key: Path, data: bytes = IMAGE) -> str:
    """Return the name of an image with a signature beside it."""
    file = tmp_path / "tree.ckpt"
    file.write_bytes(data)
    signature.beside(str(file)).write_bytes(signature.sign(data, key))
    return str(file)


def public(key: Path) -> Path:
    """Return the public half."""
    return key.with_suffix(".pub")


def test_what_was_signed_is_known_by_the_public_key(tmp_path: Path, key: Path) -> None:
    """The result names the key."""
    assert "SHA256:" in signature.verify(IMAGE, signed(tmp_path, key), public(key))


def test_ssh_keygen_alone_can_check_it(tmp_path: Path, key: Path) -> None:
    """The module's docstring has the command."""
    file = signed(tmp_path, key)
    allowed = tmp_path / "allowed"
    allowed.write_text("ops@example.org " + public(key).read_text())
    command = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        str(allowed),
        "-I",
        "ops@example.org",
        "-n",
        "ckptree",
        "-s",
        file + ".sig",
    ]

    assert subprocess.run(command, input=IMAGE, check=False, capture_output=True).returncode == 0
    assert "ops@example.org" in signature.verify(IMAGE, file, allowed)


def test_a_file_of_keys_allows_each_of_them(tmp_path: Path, key: Path) -> None:
    """The file may have comments, blanks and a byte order mark, and a signer's name may be that of an algorithm."""
    other = a_key(tmp_path / "other")
    keys = tmp_path / "keys"
    keys.write_text("\ufeff# those who may\n\n  " + public(other).read_text() + public(key).read_text())
    assert "SHA256:" in signature.verify(IMAGE, signed(tmp_path, key), keys)

    keys.write_text("ssh-ops@example.org " + public(key).read_text())
    assert "ssh-ops@example.org" in signature.verify(IMAGE, signed(tmp_path, key), keys)


@pytest.mark.parametrize("data", [IMAGE + b"x", IMAGE[:-1], b""])
def test_other_bytes_than_were_signed_are_refused(tmp_path: Path, key: Path, data: bytes) -> None:
    """The bytes that were read count, not the present contents of the file."""
    file = signed(tmp_path, key)

    with pytest.raises(FormatError, match="other bytes were signed"):
        signature.verify(data, file, public(key))


def test_the_signature_of_somebody_else_is_refused(tmp_path: Path, key: Path) -> None:
    """The signature is valid, by another key."""
    other = a_key(tmp_path / "other")

    with pytest.raises(RefusedError, match="does not allow the signer"):
        signature.verify(IMAGE, signed(tmp_path, other), public(key))


def test_a_signature_for_another_purpose_is_refused(tmp_path: Path, key: Path) -> None:
    """A user may sign mail with the same key."""
    file = signed(tmp_path, key)
    made = subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", "file"], input=IMAGE, check=True, capture_output=True
    )
    signature.beside(file).write_bytes(made.stdout)

    with pytest.raises(FormatError, match="ckptree"):
        signature.verify(IMAGE, file, public(key))


@pytest.mark.parametrize(
    "rubbish", [b"", b"-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n", b"\0" * 99]
)
def test_what_is_no_signature_is_refused(tmp_path: Path, key: Path, rubbish: bytes) -> None:
    """The error names the file and has no traceback."""
    file = signed(tmp_path, key)
    signature.beside(file).write_bytes(rubbish)

    with pytest.raises(RefusedError, match="does not allow the signer of its signature"):
        signature.verify(IMAGE, file, public(key))


def test_an_image_without_a_signature_is_refused(tmp_path: Path, key: Path) -> None:
    """An image from a stream has no signature file."""
    file = tmp_path / "tree.ckpt"

    with pytest.raises(RefusedError, match="not signed"):
        signature.verify(IMAGE, str(file), public(key))
    with pytest.raises(UsageError, match="standard input"):
        signature.verify(IMAGE, "-", public(key))


def test_a_key_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    """This holds for signing and for verification."""
    with pytest.raises(UsageError, match="no such key"):
        signature.sign(IMAGE, tmp_path / "none")


@pytest.mark.parametrize("text", ["root:x:0:0:root:/root:/bin/sh\n", "ssh-ed25519 rubbish\n"])
def test_a_file_of_no_keys_is_a_usage_error(tmp_path: Path, key: Path, text: str) -> None:
    """The private half of a key is refused too, and the message says so."""
    file, rubbish = signed(tmp_path, key), tmp_path / "rubbish"
    rubbish.write_text(text)

    with pytest.raises(UsageError, match="rubbish is no public ssh key"):
        signature.verify(IMAGE, file, rubbish)
    with pytest.raises(UsageError, match=r"name the public one, .*key.pub"):
        signature.verify(IMAGE, file, key)


def test_a_key_that_cannot_sign_is_told(tmp_path: Path, key: Path) -> None:
    """An example is a public key whose private half is missing."""
    lonely = tmp_path / "lonely.pub"
    lonely.write_bytes(public(key).read_bytes())

    with pytest.raises(CkptreeError, match="could not sign"):
        signature.sign(IMAGE, lonely)


def test_without_ssh_keygen_its_package_is_named(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other verbs do not need it."""
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(CkptreeError, match="openssh-client"):
        signature.sign(IMAGE, key)


def test_a_verb_signs_what_it_writes_and_a_restart_asks_for_it(tmp_path: Path, key: Path) -> None:
    """The command line does both; a restart refuses before it makes anything."""
    file = tmp_path / "tree.ckpt"
    taken = here("snapshot", str(os.getpid()), "--source", "procfs", "-o", file, "--sign", key, "--allow-incomplete")

    assert taken.returncode == 0, taken.stderr
    assert "SHA256:" in signature.verify(file.read_bytes(), str(file), public(key))

    file.write_bytes(file.read_bytes() + b"x")
    changed = here("restart", file, "--verify", public(key))
    assert (changed.returncode, b"other bytes were signed" in changed.stderr) == (8, True)

    signature.beside(str(file)).unlink()
    unsigned = here("restart", file, "--verify", public(key))
    assert (unsigned.returncode, b"is not signed" in unsigned.stderr) == (7, True)


@pytest.mark.parametrize("run", ["hold", "true", "argv"])
def test_a_wrong_key_is_wrong_usage_and_a_wrong_signer_has_the_code_of_a_refusal(
    tmp_path: Path, key: Path, run: str
) -> None:
    """With a command every failure but wrong usage has the code 125."""
    file, other = signed(tmp_path, key), a_key(tmp_path / "other")
    missing = here("restart", file, "--verify", tmp_path / "none", "--run", run)
    private = here("restart", file, "--verify", key, "--run", run)
    signer = here("restart", file, "--verify", public(other), "--run", run)
    changed = tmp_path / "tree.ckpt"
    changed.write_bytes(IMAGE + b"x")
    damaged = here("restart", changed, "--verify", public(key), "--run", run)

    assert (missing.returncode, private.returncode) == (2, 2)
    assert (signer.returncode, b"does not allow the signer" in signer.stderr) == (125 if run == "true" else 7, True)
    assert damaged.returncode == (8 if run == "hold" else 125)


@pytest.mark.parametrize("named", ["criu:{}", "{}/tree.ckpt"])
def test_no_signature_of_a_tree_passes_for_one_of_the_programs_beside_it(tmp_path: Path, key: Path, named: str) -> None:
    """CRIU's images are what runs, and nobody has signed them."""
    signed(tmp_path, key)
    done = here("restart", named.format(tmp_path), "--contents", f"criu:{tmp_path}", "--verify", public(key))

    assert (done.returncode, b"a signature is asked for" in done.stderr) == (7, True), done.stderr


@pytest.mark.parametrize("options", [("-o", "-", "-f", "json"), ("-o", "folder", "-f", "criu")])
def test_what_is_no_file_cannot_be_signed(key: Path, options: tuple[str, ...]) -> None:
    """The signature file would have no place."""
    taken = here("snapshot", "1", *options, "--sign", key)

    assert (taken.returncode, b"name a file with -o" in taken.stderr) == (2, True)
