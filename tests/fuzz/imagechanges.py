# SPDX-License-Identifier: Apache-2.0
"""Changes of CRIU's images that a decoder passes on: within a message, among the entries of a file, among files.

A value often comes from elsewhere in the dump, so that references lead to another object: descriptors to other files,
areas to other files and segments, processes to other parents. Some changes are within the bytes, and find the decoder.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from agent.errors import FormatError
from exporters.criu import imagefile, imagefolder
from tests.support import criuimages

NUMBERS: Final = (
    *range(8),
    *(16, 18, 31, 32, 64, 255, 256, 4095, 4096, 8192, 32768, 65535, 65536, 1 << 20, 4194303, 4194304),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**46, 2**47 - 4096, 2**47, 2**63 - 1, 2**63, 2**64 - 4096, 2**64 - 1),
)
PARENT: Final = "parent/"
_WEIGHTS: Final = {"files": 8, "core": 2, "mm": 3, "fdinfo": 2, "pstree": 2, "pagemap": 2, "tty-info": 2}
_LONG, _VERY_LONG = 5000, 70_000
_TEXTS: Final = (
    *(
        b"",
        b"/",
        b"a\0b",
        b"\0",
        b"\xff" * 20,
        b"../..",
        b"/dev/null",
        b"/dev/zero",
        b"/proc/self/exe",
        b"/proc/1/maps",
    ),
    *(b"/proc/10/fd/1", b"/proc/self/fd/0", b"/dev/pts/0", b"/dev/ptmx", b"/nowhere", b"//", b"/tmp/", b"lo", b"\n"),
)
_RANGES: Final = {
    "TYPE_UINT32": (0, 2**32 - 1),
    "TYPE_UINT64": (0, 2**64 - 1),
    "TYPE_FIXED64": (0, 2**64 - 1),
    "TYPE_INT32": (-(2**31), 2**31 - 1),
    "TYPE_SINT32": (-(2**31), 2**31 - 1),
    "TYPE_INT64": (-(2**63), 2**63 - 1),
    "TYPE_SINT64": (-(2**63), 2**63 - 1),
}
_UNKNOWN: Final = (
    *(b"\xf8\x3f\x01", b"\xfa\x3f\x03abc", b"\xfd\x3f1234", b"\x0b\x0c", b"\x0f", b"\x0c", b"\x08", b"\x0a\x7f"),
    *(
        b"\x08" + b"\xff" * 10 + b"\x01",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0b" * 200 + b"\x0c" * 200,
        b"\x80\x80\x80\x80\x10",
    ),
)
"""Ends of a message that are no known field: unknown ones, groups, stray ends, numbers and lengths without end."""


class Entry(NamedTuple):
    """An entry of a file.

    Attributes:
        name: of its message.
        message: its message.
        framed: all its bytes, from the length on.
        payload: the bytes behind the message.
        leaves: the ways to its values: names of fields, and places in lists.
    """

    name: str
    message: Any
    framed: bytes
    payload: bytes
    leaves: tuple[tuple[str | int, ...], ...]


class Dump:
    """A dump that is changed.

    Args:
        theme: its name.
        files: the contents of its files, by name.
        before: of those of the dump before it.

    Attributes:
        entries: of each file of messages.
        numbers, texts: the values that its messages have.
        names: of its files; those of the dump before it are behind `PARENT`.
    """

    def __init__(self, theme: str, files: Mapping[str, bytes], before: Mapping[str, bytes]) -> None:
        self.theme = theme
        self.files, self.before = dict(files), dict(before)
        self.all = {**files, **{PARENT + name: data for name, data in before.items()}}
        self.names = sorted(self.all)
        self.entries: dict[str, list[Entry]] = {}
        numbers: set[int] = set()
        texts: set[bytes] = set()
        for name in self.names:
            if kind_of(name) is not None:
                self.entries[name] = _entries(name.removeprefix(PARENT), self.all[name])
                for entry in self.entries[name]:
                    _collect(entry.message, numbers, texts)
        self.numbers, self.texts = sorted(numbers), sorted(texts)
        # A file of many descriptions is worth more tries than one number.
        weights = (_WEIGHTS.get(_stem(name), 1) for name in self.names)
        self.chosen_from = [name for name, weight in zip(self.names, weights, strict=True) for _ in range(weight)]


def kind_of(name: str) -> imagefile.ImageKind | None:
    """Return the kind of a file of a dump, or of the one before it."""
    return imagefile.kind_of(name.removeprefix(PARENT))


class Changer:
    """A source of changes.

    Args:
        dumps: all dumps: entries and files of one may come into another.
        texts: paths of this host that are worth a try.
    """

    def __init__(self, dumps: Sequence[Dump], texts: Sequence[bytes] = ()) -> None:
        self._texts = (*_TEXTS, *texts)
        self._chance = random.Random()
        self._dump = dumps[0]
        self._alike: dict[str, list[list[Entry]]] = {}
        for dump in dumps:
            for name, entries in dump.entries.items():
                self._alike.setdefault(_stem(name), []).append(entries)

    def change(self, dump: Dump, chance: random.Random) -> dict[str, bytes | None]:
        """Return the files that are changed, with their new contents; None of one that is removed."""
        self._dump, self._chance = dump, chance
        changed: dict[str, bytes | None] = {}
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            name = chance.choice(dump.chosen_from)
            if chance.random() < _OF_FILES:
                self._file(name, changed)
            elif name in dump.entries:
                changed[name] = self._entries(name) if chance.random() < _OF_MESSAGES else self._bytes(dump.all[name])
            else:
                changed[name] = self._pages(dump.all[name])
        return changed

    def _file(self, name: str, changed: dict[str, bytes | None]) -> None:
        """Remove a file, give it the content of another one, or another name."""
        chance, files = self._chance, self._dump.all
        other = chance.choice(self._dump.names)
        same = [each for each in self._dump.names if _stem(each) == _stem(name) and each != name]
        match chance.randrange(4):
            case 0:
                changed[name] = None
            case 1:
                changed[name] = files[chance.choice(same) if same and chance.random() < 0.7 else other]
            case 2:
                number = str(chance.choice((*self._dump.numbers[:40], 0, 1, 2**32)))
                changed[f"{_stem(name)}-{number}.img"] = files[name]
            case _:
                changed[name], changed[other] = files[other], files[name]

    def file(self, dump: Dump, name: str, chance: random.Random) -> bytes:
        """Return one file of messages with changes."""
        self._dump, self._chance = dump, chance
        return self._entries(name) if chance.random() < _OF_MESSAGES else self._bytes(dump.all[name])

    def _pages(self, data: bytes) -> bytes:
        """Cut pages, make them more, or change a few of their bytes."""
        chance = self._chance
        match chance.randrange(4):
            case 0:
                return data[: chance.choice((0, 1, 4095, 4096, len(data) - 1, max(len(data) - 4096, 0)))]
            case 1:
                return data + bytes(chance.choice((1, 4096)))
            case _:
                return self._bytes(data)

    def _bytes(self, data: bytes) -> bytes:
        out, chance = bytearray(data), self._chance
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(min(len(out), 64) + 1) if chance.random() < 0.3 else chance.randrange(len(out) + 1)
            match chance.randrange(5):
                case 0:
                    out[at : at + 4] = (chance.choice(NUMBERS) & 0xFFFFFFFF).to_bytes(4, "little")
                case 1:
                    out[at : at + 1] = bytes([chance.randrange(256)])
                case 2:
                    del out[at : at + chance.randrange(1, 40)]
                case 3:
                    del out[at:]
                case _:
                    out[at:at] = out[at : at + chance.randrange(1, 40)]
        return bytes(out)

    def _entries(self, name: str) -> bytes:
        """Return a file in which an entry is changed, or the order, number or kind of its entries."""
        chance, entries = self._chance, list(self._dump.entries[name])
        magics = 4 * len(kind_of(name).magics)  # type: ignore[union-attr]
        found = [entry.framed for entry in entries]
        at = chance.randrange(len(found)) if found else 0
        if not found or chance.random() < 0.2:
            match chance.randrange(6):
                case 0 if found:
                    del found[at]
                case 1 if found:
                    found.insert(chance.randrange(len(found)), found[at])
                case 2:
                    chance.shuffle(found)
                case 3 if found:
                    found[at:at] = found[at : at + 1] * chance.choice((2, 5, 40, 300))
                case 4:
                    found.insert(at, self._borrowed(_stem(name)))
                case _:
                    found[at : at + 1] = [self._borrowed(_stem(chance.choice(list(self._dump.entries))))]
        else:
            found[at] = self._changed(entries[at])
        return b"".join((self._dump.all[name][:magics], *found))

    def _borrowed(self, stem: str) -> bytes:
        """Return an entry of any dump, from a file of a kind."""
        entries = self._chance.choice(self._alike[stem])
        return self._chance.choice(entries).framed if entries else b""

    def _changed(self, entry: Entry) -> bytes:
        chance = self._chance
        message: Any = type(entry.message)()
        message.CopyFrom(entry.message)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            if entry.leaves and chance.random() < 0.5:
                self._leaf(message, chance.choice(entry.leaves))
            else:
                self._message(message)
        encoded, payload = bytes(message.SerializePartialToString()), entry.payload
        if chance.random() < 0.03:
            encoded += chance.choice(_UNKNOWN)
        if payload and chance.random() < 0.3:
            payload = self._bytes(payload)
        return len(encoded).to_bytes(4, "little") + encoded + payload

    def _leaf(self, message: Any, way: tuple[str | int, ...]) -> None:
        """Change a value by the way to it, if it is still there."""
        for step in way[:-1]:
            if isinstance(step, int) and step >= len(message):
                return
            message = message[step] if isinstance(step, int) else getattr(message, step)
        self._field(message, message.DESCRIPTOR.fields_by_name[way[-1]])

    def _message(self, message: Any) -> None:
        """Change a field of a message, or of one within it."""
        chance, fields = self._chance, message.DESCRIPTOR.fields
        if not fields:
            return
        set_ones = [field for field, _ in message.ListFields()]
        field = chance.choice(set_ones if set_ones and chance.random() < 0.85 else fields)
        self._field(message, field)

    def _field(self, message: Any, field: Any) -> None:
        chance = self._chance
        inner = getattr(message, field.name)
        if chance.random() < 0.06:
            message.ClearField(field.name)
        elif field.is_repeated:
            self._list(inner, field)
        elif field.message_type is not None:
            self._message(inner)
        else:
            setattr(message, field.name, self._value(field, inner))

    def _list(self, values: Any, field: Any) -> None:
        chance = self._chance
        how = chance.random()
        if field.message_type is not None and len(values) and how < 0.7:
            self._message(chance.choice(values))
            return
        if how < 0.8 and len(values):
            del values[chance.randrange(len(values)) :]
        elif how < 0.9 and len(values) > 1:
            kept = list(values)
            chance.shuffle(kept)
            del values[:]
            values.extend(kept)
        elif field.message_type is not None:
            values.extend([chance.choice(values)] * chance.choice((1, 1, 1, 2, 60)) if len(values) else [values.add()])
        else:
            many = chance.choice((1, 1, 1, 2, 3, 80))
            values.extend([self._value(field, values[-1] if len(values) else 0) for _ in range(many)])
            if len(values) and chance.random() < 0.5:
                values[chance.randrange(len(values))] = self._value(field, values[0])

    def _value(self, field: Any, now: Any) -> Any:
        chance = self._chance
        if field.type == field.TYPE_BOOL:
            return chance.random() < 0.5
        if field.type == field.TYPE_BYTES:
            return self._text(now if isinstance(now, bytes) else b"")
        low, high = _bounds(field)
        how = chance.random()
        if how < 0.4 and self._dump.numbers:
            number = chance.choice(self._dump.numbers)
        elif how < 0.55:
            number = int(now) + chance.choice((-1, 1, 4096, -4096, 8))
        elif how < 0.7:
            number = int(now) ^ 1 << chance.randrange(high.bit_length())
        else:
            number = chance.choice((*NUMBERS, -1, chance.randrange(300)))
        return min(max(number, low), high)

    def _text(self, now: bytes) -> bytes:
        chance = self._chance
        how = chance.random()
        if how < 0.4:
            return chance.choice(self._texts)
        if how < 0.7 and self._dump.texts:
            return chance.choice(self._dump.texts)
        if how < 0.98 and now:
            return self._bytes(now)
        return b"x" * chance.choice((15, 16, 107, 108, 109, 255, 4096, _LONG, _VERY_LONG))


_OF_FILES: Final = 0.07
"""Part of the changes that are among files."""
_OF_MESSAGES: Final = 0.88
"""Part of the changes of a file that are among its messages."""


def _stem(name: str) -> str:
    kind = kind_of(name)
    return "pages" if kind is None else kind.stem


def _entries(name: str, data: bytes) -> list[Entry]:
    found = []
    try:
        for each in imagefolder.entries(criuimages.Files({name: data}), name):
            end = each.payload + each.payload_bytes
            payload = data[each.payload : end]
            leaves = tuple(_leaves(each.message, ()))
            found.append(Entry(each.message.DESCRIPTOR.name, each.message, data[each.offset : end], payload, leaves))
    except FormatError:
        return []
    return found


def _leaves(message: Any, way: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Yield the way to each value of a message; lists of values are one."""
    for field, value in message.ListFields():
        here = (*way, field.name)
        if field.message_type is None:
            yield here
        elif field.is_repeated:
            for place, each in enumerate(value):
                yield from _leaves(each, (*here, place))
        else:
            yield from _leaves(value, here)


def _collect(message: Any, numbers: set[int], texts: set[bytes]) -> None:
    """Note the values of a message, and of those within it."""
    for field, value in message.ListFields():
        for each in value if field.is_repeated else (value,):
            if field.message_type is not None:
                _collect(each, numbers, texts)
            elif isinstance(each, bytes):
                texts.add(each)
            elif not isinstance(each, bool):
                numbers.add(int(each))


_BOUNDS: Final[dict[int, tuple[int, int]]] = {}


def _bounds(field: Any) -> tuple[int, int]:
    if field.type not in _BOUNDS:
        _BOUNDS[field.type] = _RANGES[next(name for name in _RANGES if getattr(field, name) == field.type)]
    return _BOUNDS[field.type]
