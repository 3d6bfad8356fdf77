# SPDX-License-Identifier: Apache-2.0
"""Addresses of objects in stores."""

import pytest

from agent.errors import UsageError
from agent.fleet.stores.address import Address, check_file, is_address, parse


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("nats://trees/web.ckpt", ("nats", "trees", "web.ckpt")),
        ("nats://my_trees-2/a/b=c/web.ckpt", ("nats", "my_trees-2", "a/b=c/web.ckpt")),
        ("s3://trees.example/2026/web 1.ckpt", ("s3", "trees.example", "2026/web 1.ckpt")),
        ("oci://registry.example/web:v1", ("oci", "registry.example/web", "v1")),
        ("oci://localhost:5000/team/trees/web:2026-11-30", ("oci", "localhost:5000/team/trees/web", "2026-11-30")),
        ("oci://[::1]:5000/web:v1", ("oci", "[::1]:5000/web", "v1")),
    ],
)
def test_an_address_is_read_and_written(text: str, parts: tuple[str, str, str]) -> None:
    """It has a kind of store, a place and a name."""
    assert parse(text) == Address(*parts)
    assert str(parse(text)) == text
    assert is_address(text)


def test_the_kind_may_be_in_capitals() -> None:
    """As in every URL."""
    assert parse("NATS://b/x") == Address("nats", "b", "x")


@pytest.mark.parametrize("file", ["-", "tree.ckpt", "criu:dump", "./nats:/x", "http://host/x", "a/nats://b/x", ""])
def test_other_files_are_no_addresses(file: str) -> None:
    """They are on this host."""
    assert not is_address(file)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("nats://", "the bucket is missing"),
        ("nats://trees", "the name is missing"),
        ("nats://trees/", "the name is missing"),
        ("nats:///web.ckpt", "the bucket is missing"),
        ("nats://tre.es/web", "'tre.es' is no bucket"),
        ("nats://trees/w*b", "is no name"),
        ("nats://trees/a//b", "is empty, . or .."),
        ("nats://trees/../b", "is empty, . or .."),
        ("s3://Trees/web", "'Trees' is no bucket"),
        ("s3://trees/a\nb", "is no key"),
        ("s3://trees", "the key is missing"),
        ("oci://registry/web", "the tag is missing"),
        ("oci://localhost:5000/web", "the tag is missing"),
        ("oci://registry/web:", "the tag is missing"),
        ("oci://registry:v1", "is no registry or repository"),
        ("oci://registry/Web:v1", "is no registry or repository"),
        ("oci://registry/web:-", "is no tag"),
        ("oci://registry/web@sha256:00", "name a tag"),
        ("http://host/x", "no address of a store"),
    ],
)
def test_what_is_wrong_with_an_address_is_named(text: str, fault: str) -> None:
    """So is the address, and the form that is expected."""
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert fault in str(caught.value)
    assert text in str(caught.value)
    assert "expected " in str(caught.value) or "as in " in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nats:trees/web", "expected nats://BUCKET/NAME;"),
        ("nats:/trees/web", "expected nats://BUCKET/NAME;"),
        ("S3:bucket/key", "expected s3://BUCKET/KEY;"),
        ("oci:registry/web:v1", "expected oci://REGISTRY/REPO:TAG;"),
        ("nat://trees/web", "expected nats://BUCKET/NAME, s3://BUCKET/KEY, oci://REGISTRY/REPO:TAG;"),
        ("http://host/x", "expected nats://BUCKET/NAME, s3:"),
        ("nats://trees/web", "lies in a store, and a file on this host is asked for;"),
        ("criu:x", "criu:DIR, in small letters, names a folder of CRIU's images"),
        ("CRIU:x", "criu:DIR, in small letters, names a folder of CRIU's images"),
    ],
)
def test_a_file_of_this_host_is_not_called_as_an_address_is(name: str, said: str) -> None:
    """A mistake in an address would write a file of that name; the message says how such a file is named."""
    with pytest.raises(UsageError) as caught:
        check_file(name)
    assert said in str(caught.value)
    assert str(caught.value).endswith(f"./{name} is the file of that name")


@pytest.mark.parametrize(
    "name", ["./nats:x", "a/criu:x", "/srv/s3:x", "tree.ckpt", "-", "10:30:00.ckpt", "web:v1", "://x"]
)
def test_other_names_are_files(name: str) -> None:
    """A colon may be in any name."""
    check_file(name)


def test_what_belongs_to_an_object_lies_beside_it() -> None:
    """In a registry it has a tag of its own."""
    assert str(parse("nats://b/web.ckpt").beside(".sig")) == "nats://b/web.ckpt.sig"
    assert str(parse("oci://r.example/web:v1").beside(".sig")) == "oci://r.example/web:v1.sig"
