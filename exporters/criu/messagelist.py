# SPDX-License-Identifier: Apache-2.0
"""Many short messages of one kind, decoded at once: to decode each by itself takes several times as long.

A message within another one is framed by a tag and its length. So the entries of a file, each behind its length of four
bytes, become the repeated field of one message.
"""

from typing import TYPE_CHECKING, Any, Final

from exporters.criu import criuschema

if TYPE_CHECKING:
    from google.protobuf.message import Message

_TAG: Final = b"\x0a"
"""Of field 1, a message: its length follows, in one byte if it is short."""
_SHORT: Final = 127
_LENGTH: Final = 4


def decoded(data: bytes, message: str, at: int) -> "list[tuple[int, int, Message]]":
    """Return the messages of entries that follow each other to the end of some bytes.

    Args:
        data: the bytes, which are few: what they hold has no bound.
        message: its name in `criuschema.LISTED`.
        at: offset of the first entry.

    Returns:
        Begin and end of each entry, and its message. The list is empty where an entry is long or wrong: the caller decodes
        them one by one, and so finds which.
    """
    places: list[tuple[int, int]] = []
    joined = bytearray()
    while at < len(data):
        begin = at + _LENGTH
        length = int.from_bytes(data[at:begin], "little")
        end = begin + length
        if length > _SHORT or end > len(data):
            return []
        joined += _TAG
        joined.append(length)
        joined += data[begin:end]
        places.append((at, end))
        at = end
    made: Any = criuschema.messages()[f"{message}_list"]()
    from google.protobuf.message import DecodeError

    try:
        count = made.MergeFromString(bytes(joined))
    except DecodeError:
        return []
    if count != len(joined) or len(made.entries) != len(places) or not made.IsInitialized():
        return []
    return [(*place, each) for place, each in zip(places, made.entries, strict=True)]
