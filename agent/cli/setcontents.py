# SPDX-License-Identifier: Apache-2.0
"""Contents of a set: folders of CRIU's images in a store, which the manifest names by the hash of the list of their files.

That hash covers every byte of a folder, and the signature of the manifest covers the hash.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli import storefiles
from agent.cli.namedfile import read_named
from agent.cli.terminal import say
from agent.errors import CkptreeError, FormatError, RefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.cli.restartwish import RestartWish
    from agent.fleet.manifest import FleetSet, HostContents, HostImage
    from agent.fleet.messages import Message


def check_image(image: bytes, name: str, about: bytes, set_name: str) -> None:
    """Refuse an image that is none of a set.

    Args:
        image: its bytes.
        name: of the image, for the message.
        about: bytes of the set's manifest.
        set_name: of the set, for the message.

    Raises:
        RefusedError: no image of the set has its hash.
        FormatError: the manifest is none.
    """
    from agent.fleet import manifest

    if manifest.hash_of(image) not in {each.image for each in manifest.loads(about).hosts}:
        raise RefusedError(f"{name} is no image of the set {set_name}: it has another hash than each of them")


def check_wish(wish: "RestartWish", keys: "Sequence[Path]") -> None:
    """Refuse contents that are none of the set of a restart, or whose set none of the keys has signed.

    Args:
        wish: a restart with contents; its folder is fetched.
        keys: each must have signed the set; none: only the hash is compared.

    Raises:
        RefusedError: a signature is asked for, and the contents are of no set; or of another set, or it is not signed.
        FormatError: the signature is of other bytes, or there is no manifest.
    """
    from agent.fleet import manifest

    folder, of_set = wish.contents, wish.of_set
    if of_set is None or not isinstance(folder, storefiles.StoredFolder) or folder.kept is None:
        raise RefusedError(
            f"a signature is asked for, and the images in {wish.contents} have none, which are the programs that would "
            "run: the tree alone can be signed, as its tree.ckpt, and restarted without contents; or name contents in a "
            "store, and with --set the signed set that has their hash"
        )
    if wish.file != folder and Path(wish.file).parent != wish.images:
        raise UsageError("--set with contents takes FILE and contents from one folder: leave --contents out")
    storefiles.fetch(of_set, signed=bool(keys))
    about = read_named(of_set)
    there = {each.contents.digits for each in manifest.loads(about).hosts if each.contents is not None}
    if folder.kept.digits not in there:
        raise RefusedError(f"{folder} is no contents of the set {of_set}: the list of its files has another hash")
    for key in keys:
        from agent.cli import signature

        say(signature.verify(about, of_set, key, getattr(of_set, "signature", None)))


def faults(made: "FleetSet", nats: str | None) -> "dict[str, CkptreeError]":
    """Read the contents of all hosts of a set; return what is wrong with them, by host.

    Args:
        made: the set.
        nats: the option ``--nats``.
    """
    from agent.fleet.stores import errand, folders

    found: dict[str, CkptreeError] = {}
    for each in made.hosts:
        if each.contents is None:
            continue
        try:
            where = folders.list_address(each.contents.store, each.contents.digits)
            digits = errand.verify_folder(where, nats)
            if digits != each.contents.digits:
                raise FormatError(str(where), f"the list of its files has the SHA-256 {digits}: it has been changed")
        except CkptreeError as error:
            found[each.host] = error
    return found


def described(contents: "HostContents | None") -> str:
    """Return contents as the line of a host tells of them."""
    if contents is None:
        return ""
    return f", contents of {contents.size >> 20} MiB in {contents.store}"


def require(chosen: "Mapping[str, HostImage]") -> None:
    """Refuse hosts of a set that have no contents there.

    Raises:
        UsageError: there is one.
    """
    if without := [each.host for each in chosen.values() if each.contents is None]:
        raise UsageError(
            f"--contents: the set has none of {', '.join(without)}: `fleet snapshot --contents` takes them"
        )


def refusals(answers: "Mapping[str, Message | CkptreeError]") -> "dict[str, dict[str, Any]]":
    """Return what each target would refuse of its contents, and the error of one that has not told.

    Args:
        answers: of the targets.
    """
    return {
        host: {"refused": [], "unplanned": str(answer)}
        if isinstance(answer, CkptreeError)
        else {"refused": [str(each) for each in answer["refused"]], "unplanned": None}
        for host, answer in answers.items()
    }
