# SPDX-License-Identifier: Apache-2.0
"""The measurement of whole restarts: the trees that it makes for CRIU, and its table."""

import struct

from tests.bench.bench_restart import CONTENTS, CRIU, LOOP, RESTART, mixed, shown
from tests.bench.dumpedtrees import rows

MS = 1_000_000


def test_a_row_names_the_parent_of_each_process_and_what_it_leads() -> None:
    """The processes are those of the snapshot: the program that makes them knows no other facts."""
    snapshot = mixed(50)

    found = list(struct.iter_unpack("=ci", rows(snapshot)))

    assert found[0] == (b"s", -1)
    for (leads, parent), task in zip(found[1:], snapshot.tasks[1:], strict=True):
        assert snapshot.tasks[parent].pid == task.ppid
        assert (leads == b"s") == (task.sid == task.pid)
        assert (leads in b"sg") == (task.pgid == task.pid)


def test_the_table_has_each_method_beside_the_loop_of_the_same_round() -> None:
    """A ratio is of neighbours in time: on a busy machine the medians of two columns are of different moments."""
    loop, restart, contents, criu = [10 * MS, 20 * MS, 40 * MS], [30 * MS, 60 * MS, 80 * MS], [100 * MS], [1234 * MS]

    text = shown({"flat": {100: {LOOP: loop, RESTART: restart, CONTENTS: contents * 3, CRIU: criu * 3}}})

    assert " flat, 100 |" in text.splitlines()[0]
    assert [line.split("|")[2].strip() for line in text.splitlines()[2:]] == [
        "20",
        "60 (3.0x)",
        "100 (5.0x)",
        "1,234 (61.7x)",
    ]


def test_a_run_without_criu_has_no_line_of_it() -> None:
    """An empty cell would look like a failure."""
    text = shown({"flat": {100: {LOOP: [MS], RESTART: [2 * MS]}}})

    assert "criu" not in text
