# SPDX-License-Identifier: Apache-2.0
"""The JSON document: its schema, its text, its round trip, and refused texts."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import FormatError
from agent.model import Snapshot
from exporters.content.fields import escape, unescape
from exporters.documents import jsonfmt
from exporters.image import checkpoint
from tests.support.builders import A_TIME_NS, a_bare_task, a_crowd, a_family, a_snapshot, a_task, snapshots
from tests.support.examples import patient

DOCUMENT = {
    *("format", "version", "dialect", "first_tag", "mode", "root", "boot_id", "time_ns", "header", "namespaces"),
    *("pids", "tasks", "ancestors", "squashed", "not_rebuildable", "completeness"),
}
TASK = {
    *("pid", "ppid", "tgid", "pgid", "sid", "depth", "start_ns", "state", "exit_code", "exit_signal", "comm", "uid"),
    *(
        "gid",
        "subreaper",
        "child_namespace",
        "tty",
        "fown",
        "argv",
        "cwd",
        "env",
        "details",
        "shares",
        "birth",
        "child_namespace_dead",
    ),
}


def parsed(snapshot: Snapshot) -> dict[str, Any]:
    """Return the document as any JSON reader sees it."""
    document: dict[str, Any] = json.loads(jsonfmt.dumps(snapshot))
    return document


def text_of(document: object) -> bytes:
    """Return a document as another program would write it."""
    return json.dumps(document).encode()


def refused(data: bytes) -> FormatError:
    """Return the error with which these bytes are refused."""
    with pytest.raises(FormatError) as caught:
        jsonfmt.loads(data)
    return caught.value


def test_the_schema_is_whole() -> None:
    """Every key is there in every document; `entered`, `as_of_read` and `boottime_ns` are additions to the schema."""
    document = parsed(a_family())

    assert set(document) == DOCUMENT | {"entered", "as_of_read", "boottime_ns"}
    assert all(set(task) == TASK for task in document["tasks"])
    assert set(document["pids"][0]) == {"tag", "numbers", "namespaces"}
    assert set(document["namespaces"][0]) == {"id", "inum", "level", "parent"}
    assert set(document["ancestors"][0]) == {
        *("id", "numbers", "namespaces", "creator", "sid", "pgid", "flags", "order", "events", "observed")
    }
    assert set(document["completeness"]) == {
        *("verified", "lost", "sweeps", "anomalies", "kernel_threads_left_out", "reasons", "order")
    }


def test_the_head_of_a_document_says_what_it_is() -> None:
    """Format, version and root come first."""
    document = parsed(a_family())

    assert (document["format"], document["version"]) == ("ckptree", 1)
    assert (document["dialect"], document["first_tag"], document["root"]) == ("seed", 1, 1)
    assert (document["mode"], document["time_ns"]) == ("subtree", A_TIME_NS)
    assert document["header"] == {
        "release": "6.1.0",
        "version": "#1 SMP",
        "machine": "x86_64",
        "kernel_version": [6, 1, 0],
        "has_fxsr": True,
        "has_xsave": True,
        "xstate_size": 2696,
        "lsm": "lsm_none",
    }


def test_what_is_not_known_is_null() -> None:
    """A bare image has almost no facts; the document's own lists are empty."""
    bare = Snapshot("container", 0, a_snapshot().pids, (a_bare_task(1, 0, 1, 1, 1, 0),))
    document = parsed(bare)
    task = document["tasks"][0]

    assert document["boot_id"] is None
    assert document["not_rebuildable"] == []
    assert {key: value for key, value in task.items() if value is not None} == {
        "pid": 1,
        "ppid": 0,
        "tgid": 1,
        "pgid": 1,
        "sid": 1,
        "depth": 0,
    }


def test_a_creator_is_a_tag_or_an_ancestor_and_a_group_from_outside_is_its_numbers() -> None:
    """A birth refers to others in four ways."""
    tasks = parsed(a_family())["tasks"]

    assert tasks[0]["birth"]["creator"] is None
    assert tasks[1]["birth"]["creator"] == {"tag": 1}
    assert tasks[5]["birth"]["creator"] == {"ancestor": 0}
    assert tasks[5]["birth"]["pgid"] == {"numbers": [4700], "namespaces": [0]}


def test_a_task_is_a_line() -> None:
    """So grep and diff work on it."""
    lines = jsonfmt.dumps(a_crowd(200, 400)).decode().splitlines()

    assert sum(line.startswith('{"pid": ') for line in lines) == 200
    assert sum(line.startswith('{"tag": ') for line in lines) == 600


def test_the_text_is_utf_8_and_ends_with_a_newline() -> None:
    """Letters are not escaped."""
    text = jsonfmt.dumps(a_snapshot(tasks=[a_task(1, 0, comm="grün".encode())]))

    assert '"comm": "grün"' in text.decode()
    assert text.endswith(b"}\n")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", ""),
        (b"bash", "bash"),
        (b"a\\b", r"a\\b"),
        (b"\xff\xfe", r"\xff\xfe"),
        (b"\\xff", r"\\xff"),
        ("é".encode(), "é"),
        ("é".encode()[:1], r"\xc3"),
        (b"\x00\n", "\x00\n"),
        (b"\xed\xa0\x80", r"\xed\xa0\x80"),
    ],
)
def test_bytes_have_one_text(raw: bytes, text: str) -> None:
    """A backslash is doubled, and a byte that is not UTF-8 is escaped."""
    assert escape(raw) == text
    assert unescape(text) == raw


@given(st.binary())
def test_any_bytes_come_back_from_their_text(raw: bytes) -> None:
    """The escapes are reversible, and the text is valid UTF-8."""
    assert unescape(escape(raw)) == raw
    escape(raw).encode()


@patient
@given(snapshots())
def test_any_snapshot_comes_back_the_same(snapshot: Snapshot) -> None:
    """This includes every byte of a command line."""
    assert jsonfmt.loads(jsonfmt.dumps(snapshot)) == snapshot


@patient
@given(snapshots())
def test_json_and_the_image_say_the_same(snapshot: Snapshot) -> None:
    """Either can be made from the other."""
    image = checkpoint.dumps(snapshot, snapshot.dialect)

    assert jsonfmt.loads(jsonfmt.dumps(checkpoint.loads(image))) == snapshot


def test_half_a_surrogate_pair_is_written_as_the_other_formats_do_and_read_back() -> None:
    """Python's stand-in for a foreign byte has no UTF-8; it must neither stop a capture nor make an unreadable file."""
    snapshot = a_snapshot(squashed=("x\udcff",))
    read = jsonfmt.loads(jsonfmt.dumps(snapshot))

    assert read.squashed == ("x\\udcff",)
    assert read == checkpoint.loads(checkpoint.dumps(snapshot))


def test_keys_that_are_not_known_and_a_byte_order_mark_do_no_harm() -> None:
    """Editors and later versions add them. A key is kept."""
    document = parsed(a_family())
    document["tomorrow"] = document["tasks"][0]["tomorrow"] = {"a": [1]}
    ways: list[tuple[str | int, ...]] = [(), ("tasks", 0)]
    kept = {way: {"tomorrow": {"a": (1,)}} for way in ways}

    assert jsonfmt.loads(b"\xef\xbb\xbf" + text_of(document)) == replace(a_family(), unknown=kept)


def test_observed_may_be_left_out() -> None:
    """It is an addition to the schema; a creator means that the birth was observed."""
    document = parsed(a_family())
    for task in document["tasks"]:
        del task["birth"]["observed"]
    births = [task.birth for task in jsonfmt.loads(text_of(document)).tasks]

    assert [birth and birth.observed for birth in births] == [False, True, True, True, True, True]


def test_the_order_of_keys_and_the_white_space_are_free() -> None:
    """The line breaks are for people only."""
    document = parsed(a_family())

    assert jsonfmt.loads(json.dumps(document, indent=3, sort_keys=True).encode()) == a_family()


FAULTS = [
    (("format",), "other", "format", "'ckptree'"),
    (("version",), 2, "version", "from 1 to 1"),
    (("version",), True, "version", "from 1 to 1"),
    (("dialect",), "v24", "dialect", "'seed' or 'v23'"),
    (("mode",), None, "mode", "not absent"),
    (("root",), 2, "root", "from 1 to 1"),
    (("first_tag",), 0, "first_tag", "from 1"),
    (("first_tag",), 2, "pids[0].tag", "from 2 to 2"),
    (("time_ns",), -1, "time_ns", "from 0"),
    (("time_ns",), 1.5, "time_ns", "an integer"),
    (("boot_id",), 7, "boot_id", "a string"),
    (("header",), [], "header", "a map"),
    (("header", "kernel_version"), [6, 1], "header.kernel_version", "major, minor and patch"),
    (("header", "lsm"), 1, "header.lsm", "a string"),
    (("header", "has_fxsr"), 1, "header.has_fxsr", "true or false"),
    (("pids",), [], "pids", "no pid object"),
    (("pids",), {}, "pids", "a list"),
    (("pids", 1, "tag"), 3, "pids[1].tag", "from 2 to 2"),
    (("pids", 1, "numbers"), [], "pids[1].depth", "1 to 33 numbers"),
    (("pids", 1, "numbers"), [2**32], "pids[1].numbers", "a list of integers"),
    (("pids", 1, "numbers"), ["1"], "pids[1].numbers", "a list of integers"),
    (("pids", 1, "numbers"), [4711], "pids[1].numbers", "already that of pid object 0"),
    (("tasks",), [], "tasks", "no task"),
    (("tasks", 1), None, "tasks[1]", "a map"),
    (("tasks", 1, "pid"), None, "tasks[1].pid", "absent"),
    (("tasks", 1, "ppid"), 2, "tasks[1].ppid", "circle"),
    (("tasks", 1, "depth"), 1, "tasks[1].depth", "is 1"),
    (("tasks", 1, "comm"), "a\\b", "tasks[1].comm", "backslash"),
    (("tasks", 1, "comm"), "\ud800", "tasks[1].comm", "surrogates"),
    (("tasks", 1, "argv"), "make", "tasks[1].argv", "a list"),
    (("tasks", 1, "child_namespace"), 2, "tasks[1].child_namespace", "from -1 to 1"),
    (("ancestors", 0, "events", 0, "event"), "fork", "ancestors[0].events[0].event", "'setsid' or"),
    (("ancestors", 0, "events", 1, "value"), 2, "ancestors[0].events[1].value", "from 0 to 1"),
    (("namespaces", 1, "parent"), 1, "namespaces[1].parent", "from 0 to 0"),
    (("completeness", "lost"), -1, "completeness.lost", "from 0"),
]


@pytest.mark.parametrize(("way", "value", "path", "reason"), FAULTS)
def test_one_wrong_field_is_refused_by_name(way: tuple[str | int, ...], value: object, path: str, reason: str) -> None:
    """The path is the one in the document."""
    document: Any = parsed(a_family())
    place = document
    for step in way[:-1]:
        place = place[step]
    place[way[-1]] = value
    error = refused(text_of(document))

    assert (error.path, error.offset) == (path, -1)
    assert reason in error.message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut short"),
        (b"{", "cut short"),
        (b"[]", "a map"),
        (b"null", "a map"),
        (b"{} {}", "no JSON"),
        (b'{"a": 1 "b', "no JSON"),
        (b'{"a": truth', "no JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"format": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"format": NaN}', "'ckptree'"),
        (b'{"format": "\xff"}', "not UTF-8"),
    ],
    ids=range(11),
)
def test_what_is_no_document_is_refused(data: bytes, reason: str) -> None:
    """Any such bytes raise FormatError."""
    assert reason in refused(data).message


def test_bytes_that_are_no_utf_8_are_refused_where_they_are() -> None:
    """The error has their byte offset."""
    assert refused(b'{"a": "\xff"}').offset == 7


TOKENS = r'{"a": ["\u00e9\ud83d\ude00\n", "é程"], "b": [-1.5e+3, -2E9, 0.25], "c": {"d": [true, false, null]}}'


@pytest.mark.parametrize("text", [jsonfmt.dumps(a_family()), TOKENS.encode()], ids=["a document", "all tokens"])
def test_every_truncated_text_is_refused_as_cut_short_with_the_place(text: bytes) -> None:
    """Only the newline at the end may be missing."""
    for length in range(len(text.rstrip())):
        error = refused(text[:length])
        line = text[:length].count(b"\n") + 1

        assert (error.message, error.offset) == (
            f"is cut short: the text ends here, in line {line}, before its JSON does",
            length,
        )


def test_random_damage_is_refused_or_harmless() -> None:
    """The only exception is FormatError, and a snapshot that was read can be written in both formats."""
    chance = random.Random(2011)
    text = jsonfmt.dumps(a_family())
    for _ in range(1000):
        damaged = bytearray(text)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.choice([*b'0129-"{}[],:\\abe. ', chance.randrange(256)])
        try:
            snapshot = jsonfmt.loads(bytes(damaged))
        except FormatError:
            continue
        assert jsonfmt.loads(jsonfmt.dumps(snapshot)) == snapshot
        assert checkpoint.loads(checkpoint.dumps(snapshot, snapshot.dialect)) == snapshot
