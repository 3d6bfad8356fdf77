# SPDX-License-Identifier: Apache-2.0
"""The verbs that work on files alone: show, check, convert; and how these and diff and plan read a file. They need no
daemon, no root and no kernel.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from agent.cli import allowance, storefiles, terminal
from agent.cli.declarations import Argument, Option
from agent.cli.namedfile import read_named, shown_name
from agent.cli.options import (
    AsJson,
    At,
    DialectName,
    Folder,
    Format,
    ModeName,
    Nats,
    Socket,
    SourceName,
)
from agent.cli.terminal import say
from agent.errors import FormatError, UsageError
from exporters.criu import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.model import Snapshot


_NAMED_KINDS = 10  # types of unknown records that have a line each

FILE_HELP = "A snapshot in any format that can be read, - for standard input, criu:DIR for a folder of CRIU images, or "
FILE_HELP += "an address in a store: nats://BUCKET/NAME, s3://BUCKET/KEY, oci://REGISTRY/REPO:TAG, and criu:ADDRESS."
File = Annotated[str, Argument(metavar="FILE", help=FILE_HELP)]


def confine(*files: str | None, pages: bool = False) -> None:
    """Fetch files that lie in stores, and give up the rights that a verb which only reads does not need: the files may
    be untrusted.

    Args:
        files: of the command line.
        pages: of a folder in a store, fetch the memory of its programs, too.
    """
    storefiles.fetch(*files, pages=pages)
    from agent.cli.confinement import confine_root

    confine_root()


def _load(shown: str, data: bytes) -> "Snapshot":
    """Read the snapshot in a file; a format error names the file, and unknown records are reported."""
    from exporters import registry
    from exporters.image import checkpoint

    with allowance.bounded(shown, len(data)):
        try:
            if registry.recognize(data).name != "ckpt":
                return registry.load(data)
            reading = checkpoint.read(data)
        except FormatError as error:
            _refuse_criu_image(shown, data)
            raise FormatError(f"{shown}: {error.path}", error.message, error.offset) from error
    for line in _left_out(reading.foreign):
        say(f"{shown}: {line} not known here and left out")
    return reading.snapshot


def _refuse_criu_image(shown: str, data: bytes) -> None:
    """Refuse a file of CRIU's, which is a part of a snapshot at most.

    Raises:
        FormatError: the file is one.
    """
    from exporters.criu import imagefolder

    if imagefolder.is_image(data):
        folder = f"{PREFIX}{Path(shown).parent}"
        raise FormatError(shown, f"it is one of CRIU's images: name their folder, {folder}") from None


def _left_out(foreign: "Sequence[tuple[int, int]]") -> "Iterator[str]":
    """Name unknown records, given by type and length: a line for each of the first types, and one for all others."""
    if not foreign:
        return
    from exporters.content.wording import count

    lengths: dict[int, list[int]] = {}
    for kind, length in foreign:
        lengths.setdefault(kind, []).append(length)
    kinds = list(lengths)
    told = [(f"type {kind}", lengths[kind]) for kind in kinds[:_NAMED_KINDS]]
    if others := kinds[_NAMED_KINDS:]:
        told.append((count(len(others), "other type"), [length for kind in others for length in lengths[kind]]))
    for of, each in told:
        yield f"{count(len(each), 'record')} of {of}, {sum(each)} bytes, {'is' if len(each) == 1 else 'are'}"


def warn_of_doubt(snapshot: "Snapshot", file: str) -> None:
    """Print on standard error that a snapshot is incomplete, and why.

    Args:
        snapshot: the tree.
        file: its FILE.
    """
    done = snapshot.completeness
    if done.complete:
        return
    if file.startswith(PREFIX):
        from agent.cli import criusource

        if doubt := criusource.doubt(criusource.folder(file), snapshot):
            say(f"{doubt}: all births are assumed")
            return
    from exporters.content.wording import plain

    doubt = plain("; ".join(done.reasons)) or "it is not verified"
    say(f"the image says that it is incomplete: {doubt}; the tree may never have been so")


def load_file(file: str, *keys: Path, of_set: str | None = None) -> "Snapshot":
    """Load the snapshot in a file, from standard input, or from a folder of CRIU images.

    Args:
        file: its name, ``-``, or ``criu:DIR`` (agent.cli.criusource).
        keys: each must have signed the file (agent.cli.signature).
        of_set: name of the manifest of a set that must have the file as an image, and is signed in its place.
    """
    shown = shown_name(file)
    if file.startswith(PREFIX):
        from agent.cli import criusource

        images = criusource.folder(file)
        tree = criusource.tree_file(images)
        criusource.warn_failed(images)
        if tree is None and not keys:
            return criusource.load(images)
        if tree is None:
            raise UsageError(f"{file} has no tree.ckpt, which a key could have signed")
        file, shown = str(tree), f"{images.shown}/{tree.name}"
    storefiles.fetch(file, signed=bool(keys))
    data = signed = read_named(file)
    named = file
    if of_set is not None:
        from agent.cli.setcontents import check_image

        storefiles.fetch(of_set, signed=bool(keys))
        named, signed = of_set, read_named(of_set)
        check_image(data, shown, signed, of_set)
    for key in keys:
        from agent.cli import signature

        say(signature.verify(signed, named, key, getattr(named, "signature", None)))
    return _load(shown, data)


def show(
    file: File,
    at: At = None,
    record: Folder = None,
    socket: Socket = None,
    nats: Nats = None,
    as_json: AsJson = False,
) -> None:
    """Show what is in a snapshot, as a tree; with --at, in the tree of the process FILE as it was then."""
    if at is not None or record is not None:
        from agent.cli import treeverb

        treeverb.tree(file, ModeName.AUTO, SourceName.AUTO, at, record, socket, as_json)
        return
    file = storefiles.named(file, nats)
    confine(file)
    from exporters import registry
    from exporters.drawing import treeview

    loaded = load_file(file)
    if as_json:
        terminal.write(registry.image(loaded, "json"), is_json=True)
        return
    from agent.proc import users

    if file.startswith(PREFIX):
        from agent.cli import criusource

        loaded = criusource.reasoned(criusource.folder(file), loaded)
    terminal.draw(treeview.render(loaded, **terminal.abilities(), names=users.names(loaded.boot_id)))


def check(file: File, nats: Nats = None, as_json: AsJson = False) -> None:
    """Find everything that is wrong with a file. Exit code 8 where anything is an error; warnings alone are 0."""
    file = storefiles.named(file, nats)
    confine(file, pages=True)
    from exporters.checking.check import check as find_all
    from exporters.content import findings
    from exporters.content.wording import count

    if file.startswith(PREFIX):
        from agent.cli import criusource

        folder = criusource.folder(file)
        found = criusource.check(folder)
        if not (found and any(one.severity == "error" for one in found)) and not criusource.has_contents(folder):
            say(f"{file}: {criusource.ALONE}")
    else:
        data = read_named(file)
        with allowance.bounded(shown_name(file), len(data)):
            found = find_all(data)
    errors = sum(one.severity == "error" for one in found)
    if as_json:
        terminal.tell_json(findings.to_document(found))
    for one in () if as_json else found:
        where = f" at byte {one.offset}" if one.offset is not None else ""
        about = f" (tags {', '.join(map(str, one.pids))})" if one.pids else ""
        terminal.tell(f"{one.severity} {one.name}{where}{about}: {one.text}")
    numbers = f"{count(errors, 'error')}, {count(len(found) - errors, 'warning')}"
    say(f"{shown_name(file)}: {numbers if found else 'sound'}")
    if errors:
        raise SystemExit(FormatError.exit_code)


def convert(
    source: Annotated[str, Argument(metavar="IN", help=FILE_HELP)],
    target: Annotated[
        str,
        Argument(
            metavar="OUT",
            help="A file or an address in a store, - for standard output, or criu:DIR for a copy of a folder.",
        ),
    ],
    fmt: Format = None,
    dialect: Annotated[
        DialectName | None,
        Option(help="Write a ckpt image in this dialect. Without the option it is that of IN."),
    ] = None,
    nats: Nats = None,
) -> None:
    """Write a snapshot in another format. Losses of the format are reported; msgpack, json and ckpt have none.

    From criu:DIR or criu:ADDRESS to another, a folder of CRIU images is copied with all that is in it.
    """
    if storefiles.copies_folder(source, target):
        if fmt is not None or dialect is not None:
            raise UsageError("a folder is copied as it is: leave out --format and --dialect")
        storefiles.copy_folder(source, target, nats)
        return
    from agent.cli.output import Target, misnamed

    out = Target(target, fmt or "ckpt", server=nats)
    source = storefiles.named(source, nats)
    if fmt is None and (other := misnamed(target)):
        say(f"{target} gets the format ckpt, whatever it is called: -f {other} writes {other}")
    from agent.cli import apart

    storefiles.fetch(source, pages=False)

    def work() -> apart.Made:
        return out.made(load_file(source), say, dialect.value if dialect else None)

    try:
        out.write_made(apart.made(work, say))
    except apart.EndedError as ended:
        raise SystemExit(ended.code) from None
