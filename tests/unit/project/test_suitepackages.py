# SPDX-License-Identifier: Apache-2.0
"""The choice of the mirror that a newer criu is fetched from."""

import pytest

from tests.support.suitepackages import NoPackageError, mirror


@pytest.mark.parametrize(
    ("uris", "chosen"),
    [
        (["https://node.example/x", "http://deb.example/debian/", "http://other.example/debian/"], 1),
        (["http://deb.example/debian-security/", "http://deb.example/debian/"], 1),
        (["http://archive.example/archive/debian/20250520T000000Z/"], 0),
    ],
)
def test_the_first_mirror_of_debian_is_chosen(uris: list[str], chosen: int) -> None:
    """Updates of security and other distributions are no mirrors of Debian."""
    assert mirror(uris) == uris[chosen]


@pytest.mark.parametrize("uris", [[], ["http://archive.example/ubuntu/"]])
def test_a_machine_without_a_mirror_of_debian_is_told_so(uris: list[str]) -> None:
    """The message has the sources that there are."""
    with pytest.raises(NoPackageError, match=r"no Debian mirror among the sources of apt \((none|http\S+ubuntu/)\)"):
        mirror(uris)
