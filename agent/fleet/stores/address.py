# SPDX-License-Identifier: Apache-2.0
"""Addresses of objects in stores: ``nats://BUCKET/NAME``, ``s3://BUCKET/KEY``, ``oci://REGISTRY/REPO:TAG``."""

import re
from typing import Final

from agent.errors import UsageError
from agent.record import record, replace
from exporters.criu import PREFIX

FORMS: Final = {
    "nats": "nats://BUCKET/NAME",
    "s3": "s3://BUCKET/KEY",
    "oci": "oci://REGISTRY/REPO:TAG",
}
"""The form of an address of each kind of store."""

# Patterns are compiled when an address asks for it: that takes time, and most files lie in no store.
_SCHEME: Final = r"([A-Za-z0-9+.-]+)://"
_PLACES: Final = {
    "nats": (r"[A-Za-z0-9_-]+", "a bucket has letters, digits, - and _"),
    "s3": (
        r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
        "a bucket has 3 to 63 lower-case letters, digits, dots and hyphens",
    ),
    "oci": (
        r"[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+|\[[0-9a-fA-F:]+\](:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+",
        "name the registry's host, and a repository in lower-case letters",
    ),
}
_NAMES: Final = {
    "nats": (r"[-/_=.A-Za-z0-9]{1,1024}", "a name has letters, digits and - / _ = ."),
    "s3": (r"[^\x00-\x1f\x7f]{1,1024}", "a key has no control characters"),
    "oci": (r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", "a tag has letters, digits and . _ -, 128 at most"),
}
_EMPTY_PART: Final = r"(^|/)\.{0,2}(/|$)"


@record
class Address:
    """An address of an object.

    Attributes:
        scheme: ``nats``, ``s3`` or ``oci``.
        place: the bucket, or registry and repository.
        name: of the object in it; of a registry's, its tag.
    """

    scheme: str
    place: str
    name: str

    def __str__(self) -> str:
        between = ":" if self.scheme == "oci" else "/"
        return f"{self.scheme}://{self.place}{between}{self.name}"

    def beside(self, suffix: str) -> "Address":
        """Return the address of an object that belongs to this one."""
        return replace(self, name=self.name + suffix)


def is_address(file: str) -> bool:
    """Return True for a FILE that lies in a store, and not in this host's file system."""
    scheme, colon, _ = file.partition("://")
    return bool(colon) and scheme.lower() in FORMS


def check_file(name: str) -> None:
    """Refuse the name of a file on this host that begins as an address does: it is one with a mistake.

    Raises:
        UsageError: it is an address, has a mistake that an address may have, or is a URL of another kind.
    """
    scheme, colon, rest = name.partition(":")
    known = scheme.lower()
    is_url = rest.startswith("//") and re.fullmatch(_SCHEME, f"{scheme}://") is not None
    if not colon or not (known in FORMS or f"{known}:" == PREFIX or is_url):
        return
    here = f"./{name} is the file of that name"
    if is_address(name):
        raise UsageError(f"{name} lies in a store, and a file on this host is asked for; {here}")
    if f"{known}:" == PREFIX:
        raise UsageError(
            f"{name}: {PREFIX}DIR, in small letters, names a folder of CRIU's images where one is taken; {here}"
        )
    forms = FORMS.get(known) or ", ".join(FORMS.values())
    raise UsageError(f"{name}: no address of a store: expected {forms}; {here}")


def parse(text: str) -> Address:
    """Parse the address of an object.

    Raises:
        UsageError: it is none; the message names the part at fault.
    """
    match = re.match(_SCHEME, text)
    if match is None or match[1].lower() not in FORMS:
        raise UsageError(f"{text}: no address of a store: expected {', '.join(FORMS.values())}")
    scheme = match[1].lower()
    rest = text[match.end() :]
    form = FORMS[scheme]
    if scheme == "oci":
        if "@" in rest:
            raise UsageError(f"{text}: name a tag, as in {form}: a digest cannot be written, and names no image to be")
        path, slash, last = rest.rpartition("/")
        last, colon, name = last.partition(":")
        place = f"{path}{slash}{last}"
        if not colon:
            raise UsageError(f"{text}: the tag is missing: expected {form}")
    else:
        place, _, name = rest.partition("/")
    _check(text, form, place, "place", *_PLACES[scheme])
    _check(text, form, name, "name", *_NAMES[scheme])
    if scheme != "oci" and re.search(_EMPTY_PART, name):
        raise UsageError(f"{text}: a part of the name {name!r} is empty, . or ..: expected {form}")
    return Address(scheme, place, name)


def _check(text: str, form: str, part: str, kind: str, pattern: str, rule: str) -> None:
    """Refuse a part of an address that its pattern does not match."""
    words = {
        "nats": {"place": "bucket", "name": "name"},
        "s3": {"place": "bucket", "name": "key"},
        "oci": {"place": "registry or repository", "name": "tag"},
    }[form.partition(":")[0]]
    if not part:
        raise UsageError(f"{text}: the {words[kind]} is missing: expected {form}")
    if not re.fullmatch(pattern, part):
        raise UsageError(f"{text}: {part!r} is no {words[kind]}: {rule}; expected {form}")
