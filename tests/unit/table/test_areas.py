# SPDX-License-Identifier: Apache-2.0
"""The hash of a program's strings: every byte counts, no user can choose a value, and no answer contains it."""

import random

import pytest

from agent.protocol import codec
from agent.table import wire
from agent.table.areas import HASHED_BYTES, Key, compare, string_hash
from tests.support.kernelobjects import Thread
from tests.support.records import KEY
from tests.support.simwatch import ROOT, Scene

_U64 = (1 << 64) - 1


def a_key(seed: int) -> Key:
    """Return another key."""
    return wire.STRING_KEY.unpack(random.Random(seed).randbytes(wire.STRING_KEY.size))


def told(text: bytes, key: Key = KEY) -> bytes:
    """Return an area as a record has it."""
    return wire.AREA.pack(7, len(text), *string_hash(text, key))


def test_every_byte_counts() -> None:
    """It changes both sums, at any place."""
    data = (bytes(range(1, 250)) * 40)[:HASHED_BYTES]
    places = (*range(249), *range(249, HASHED_BYTES - 1, 97), HASHED_BYTES - 1)
    hashes = [string_hash(each, KEY) for each in (data, *(data[:n] + b"\xff" + data[n + 1 :] for n in places))]

    for one in (0, 1):
        assert len({each[one] for each in hashes}) == len(hashes)
    assert string_hash(b"x" * HASHED_BYTES, KEY) == string_hash(b"x" * (HASHED_BYTES + 1), KEY)


def test_each_half_of_a_word_has_two_factors_of_its_own() -> None:
    """The hook reads the words of the key in the same order."""
    text = bytes(range(1, 17))
    halves = [int.from_bytes(text[at : at + 4], "little") for at in range(0, 16, 4)]
    first = sum(half * KEY[at] for half, at in zip(halves, (0, 1, 4, 5), strict=True))
    second = sum(half * KEY[at] for half, at in zip(halves, (2, 3, 6, 7), strict=True))

    assert string_hash(text, KEY) == (first & _U64, second & _U64)


def test_what_meets_under_one_key_does_not_under_another() -> None:
    """A user with the key could write another text with the same sums: in the test the last words balance the first
    one.
    """
    words = [random.Random(2).getrandbits(32) for _ in range(8)]
    places = [8 * (at // 2) // 2 + at % 2 for at in range(8)]
    other = None
    for low in range(1 << 12):  # only of the first sum, modulo 2**8: enough to show that the text depends on the key
        tried = [words[0] ^ 1, words[1] ^ low, *words[2:]]
        same = sum((a - b) * KEY[at] for a, b, at in zip(words, tried, places, strict=True)) & 0xFF
        if not same:
            other = tried
            break
    assert other is not None
    texts = [b"".join(each.to_bytes(4, "little") for each in half) for half in (words, other)]

    def low_byte(text: bytes, key: Key) -> int:
        return string_hash(text, key)[0] & 0xFF

    assert low_byte(texts[0], KEY) == low_byte(texts[1], KEY)
    meet = sum(low_byte(texts[0], key) == low_byte(texts[1], key) for key in map(a_key, range(50)))
    assert meet < 10


@pytest.mark.parametrize(
    ("shown", "size", "same"), [(b"sh\0", 3, True), (b"sh\0", 4, False), (b"si\0", 3, False), (None, 0, False)]
)
def test_the_same_bytes_and_as_many_of_them_are_the_same(shown: bytes | None, size: int, *, same: bool) -> None:
    """The key is that of this kernel side."""
    found = compare(told(b"sh\0") + b"sh\0", shown, size, KEY)

    assert found == (7, 3, same, b"sh\0")
    assert compare(told(b"sh\0", a_key(5)), shown, size, KEY) == (7, 3, False, None)
    assert compare(None, shown, size, KEY) is None


# ---- the daemon's answer -----------------------------------------------------------------------------------------------


def a_scene() -> tuple[Scene, Thread]:
    """Return a scene, and a process of Alice's that has called exec."""
    scene = Scene()
    process = scene.child(ids=(1000, 1000))
    scene.kernel.exec(process)
    writer = scene.kernel.writer
    for which, text in enumerate((b"sh\0", b"A=1\0")):
        scene.watch.probes.ring.records.append(  # type: ignore[attr-defined]  # simulated
            writer.strings(which, tid=process.tid, start_ns=process.start_ns, text=text)
        )
    return scene, process


def test_who_shows_what_was_read_is_told_whether_it_is_what_exec_put_there_and_no_hash() -> None:
    """Each area has its own answer."""
    scene, process = a_scene()
    asked = {"root": process.tid, "start_ns": process.start_ns}
    answer = scene.ask(ROOT, "strings", **asked, arguments=[b"sh\0", 3], environment=[b"A=2\0", 4])

    assert answer == {"ok": True, "arguments": (1, 3, True, None), "environment": (1, 4, False, None)}
    nothing = scene.ask(ROOT, "strings", **asked)
    assert [area[2] for area in (nothing["arguments"], nothing["environment"])] == [False, False]


def test_of_another_process_with_that_number_nothing_is_told() -> None:
    """It was born at another time."""
    scene, process = a_scene()
    answer = scene.ask(ROOT, "strings", root=process.tid, start_ns=process.start_ns + 1, arguments=[b"sh\0", 3])

    assert answer == {"ok": True, "arguments": None, "environment": None}


def test_none_but_root_may_ask_not_even_the_user_of_the_process() -> None:
    """A comparison reveals something of the strings, and the kernel may hide the memory from that user."""
    scene, process = a_scene()
    bob = scene.viewer(scene.child(ids=(1001, 1001)))
    alice = scene.viewer(process)
    asked = {"root": process.tid, "start_ns": process.start_ns, "arguments": [b"sh\0", 3]}

    assert scene.ask(bob, "strings", **asked)["kind"] == "not-permitted"
    assert scene.ask(alice, "strings", **asked)["kind"] == "not-permitted"


@pytest.mark.parametrize("area", [1, [b""], ["", 0], [b"", "0"], [b"", True], {}])
def test_what_is_no_area_is_a_wrong_request(area: object) -> None:
    """The error goes to the caller."""
    scene, process = a_scene()

    assert scene.ask(ROOT, "strings", root=process.tid, start_ns=1, environment=area)["kind"] == "usage"
    assert codec.shown_area({}, "environment") == (None, 0)
