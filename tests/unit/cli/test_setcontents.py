# SPDX-License-Identifier: Apache-2.0
"""Contents of sets: what a restart by hand refuses, and what is found in a store."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.cli import setcontents
from agent.errors import UsageError
from agent.fleet import manifest
from agent.fleet.clocks import Offset
from agent.fleet.manifest import FleetSet, HostContents, HostImage
from agent.fleet.stores import errand, folders
from agent.fleet.stores.natsstore import NatsStore
from tests.support import servers
from tests.support.commandline import here

pytestmark = pytest.mark.slow
WEB = Path(__file__).parents[3] / "docs" / "example" / "web.ckpt"


class There(NamedTuple):
    """A server with a folder of images, and a signed set that names it.

    Attributes:
        url: of the server.
        contents: of the set.
        name: the FILE that means the folder.
        folder: of the set `set`, with its signature, and of the public key `key.pub`.
        made: the set.
    """

    url: str
    contents: HostContents
    name: str
    folder: Path
    made: FleetSet


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    """Put a folder into a store, and sign a set with it. It has the tree alone, whose restart fails behind the checks."""
    folder = tmp_path_factory.mktemp("set")
    dump = folder / "dump"
    assert here("convert", WEB, dump, "-f", "criu").returncode == 0
    (dump / "tree.ckpt").write_bytes(WEB.read_bytes())
    with servers.nats(folder / "nats") as server:
        url = f"nats://{server.address}"
        with NatsStore(url, "dumps") as bucket:
            bucket.make_bucket()
        digits = errand.store_hashed_folder(folders.list_address("nats://dumps/a", "0" * 64), url, dump)
        contents = HostContents("nats://dumps/a", f"sha256:{digits}", 7)
        of = manifest.hash_of(b"tree")
        made = FleetSet("x", 7, (HostImage("a", "1", of, 1, 1, 0, 1, Offset(0, 0), complete=True, contents=contents),))
        (folder / "set").write_bytes(manifest.dumps(made))
        for key in ("key", "other"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        words: list[str | Path] = ["ssh-keygen", "-q", "-Y", "sign", "-f", folder / "key", "-n", "ckptree"]
        subprocess.run([*words, folder / "set"], check=True, capture_output=True)
        yield There(url, contents, f"criu:{folders.list_address(contents.store, digits)}", folder, made)


def restarted(there: There, *words: str | Path, of: str = "") -> tuple[int, str]:
    """Restart the folder; return exit code and messages."""
    environment = {**os.environ, "CKPTREE_NATS": there.url}
    ran = here("restart", of or there.name, *words, env=environment)
    return ran.returncode, ran.stderr.decode()


def test_contents_of_a_signed_set_pass(there: There) -> None:
    """The steps behind it find the tree in this folder alone."""
    key = there.folder / "key.pub"
    code, said = restarted(there, "--set", there.folder / "set", "--verify", key)
    assert (code, "SHA256:" in said) == (125, True), said
    assert "has no such file" in said


def test_contents_without_a_set_are_refused_where_a_signature_is_asked_for(there: There) -> None:
    """So are those of a folder on this host, which may change meanwhile."""
    key = there.folder / "key.pub"
    for file, more in ((there.name, ()), (f"criu:{there.folder / 'dump'}", ("--set", there.folder / "set"))):
        code, said = restarted(there, *more, "--verify", key, of=file)
        assert (code, "a signature is asked for" in said) == (7, True), said


def test_contents_of_another_set_are_refused(there: There, tmp_path: Path) -> None:
    """Their list has another hash."""
    other = HostContents(there.contents.store, manifest.hash_of(b"other"), 7)
    (host,) = there.made.hosts
    (tmp_path / "set").write_bytes(manifest.dumps(replace(there.made, hosts=(replace(host, contents=other),))))
    code, said = restarted(there, "--set", tmp_path / "set")
    assert (code, "is no contents of the set" in said) == (7, True), said


def test_a_key_that_has_not_signed_the_set_is_none(there: There) -> None:
    """The hash is right."""
    code, said = restarted(there, "--set", there.folder / "set", "--verify", there.folder / "other.pub")
    assert (code, "does not allow the signer" in said) == (7, True), said


def test_a_tree_from_elsewhere_has_no_part_in_the_signature(there: There) -> None:
    """It decides who is who, and so it is of the same folder."""
    words = ("--contents", there.name, "--set", there.folder / "set")
    code, said = restarted(there, *words, of=str(WEB))
    assert (code, "FILE and contents from one folder" in said) == (2, True), said


def test_what_is_wrong_in_a_store_is_found(there: There) -> None:
    """A piece that was changed, one that is gone, and a list that was."""
    assert setcontents.faults(there.made, there.url) == {}
    name = f"a/sha256-{there.contents.digits}"
    with NatsStore(there.url, "dumps") as store:
        listed = store.get(name)
        digits = folders._listed("x", listed)["tree.ckpt"].pieces[0]
        tree = store.get(f"a/sha256-{digits}")
        for object_, data, restored in ((f"a/sha256-{digits}", b"x", tree), (name, b"{}", listed)):
            store.put(object_, data)
            (found,) = setcontents.faults(there.made, there.url).items()
            assert found[0] == "a"
            store.put(object_, restored)
    assert setcontents.faults(there.made, there.url) == {}


def test_a_host_without_contents_is_named(there: There) -> None:
    """Before anything is asked."""
    host = HostImage("b", "1", manifest.hash_of(b""), 1, 1, 0, 1, Offset(0, 0), complete=True)
    with pytest.raises(UsageError, match="the set has none of b: `fleet snapshot --contents`"):
        setcontents.require({"new": host})
