# SPDX-License-Identifier: Apache-2.0
"""The memory of a daemon: read again it gives the same table, which goes on alike; invalid bytes are refused."""

import random
import struct
from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.capture import memorywriter
from agent.capture.memoryreader import UnusableMemoryError
from agent.table.counters import Counts, Surprise
from agent.table.objects import CLONE_NEWPID, DeedName, Pid, PidNamespace, TaskStruct
from agent.table.processtable import ProcessTable
from agent.table.stream import Stream
from agent.table.wire import Kind
from tests.support.attributes import attributes
from tests.support.examples import examples, patient, unexplained
from tests.support.memories import PLACE, TOTALS, body_of, framed, memory_of, read
from tests.support.programs import PROGRAMS, Step, finish, make
from tests.support.records import RecordWriter
from tests.support.watched import Watched, check_links, picture_of_table, watched

SIXTY = settings(unexplained, max_examples=examples(60))


def reborn(pair: Watched) -> Watched:
    """Return a second pair that has read the memory of the first and watches the same kernel."""
    memory = read(memorywriter.dump(memory_of(pair)))
    twin = Watched()
    twin.table, twin.stream, twin.kernel = memory.table, memory.stream, pair.kernel
    return twin


def ask(pair: Watched, twin: Watched) -> None:
    """Assert that both have the same questions, and give both the same answers."""
    while True:
        questions = pair.table.take_questions()
        assert sorted(twin.table.take_questions()) == sorted(questions)
        if not questions:
            return
        pair.put(questions)


def is_quiet(pair: Watched) -> bool:
    """Return True if no task is in the middle of its exit, where a question is repeated again and again."""
    return not any(thread.exiting and not thread.exited for thread in pair.kernel.threads)


def both(pair: Watched, twin: Watched) -> Callable[[bytes], None]:
    """Feed the kernel's records to both."""

    def emit(record: bytes) -> None:
        pair.feed(record)
        twin.feed(record)

    return emit


def some_memory() -> tuple[Watched, bytes]:
    """Return a memory of processes, threads, a namespace, sessions, a gone creator, an early record and an open
    question.
    """
    pair = watched(pid_max=60)
    kernel = pair.kernel
    shell = kernel.fork(kernel.init)
    kernel.setsid(shell)
    kernel.thread(shell)
    kernel.subreaper(shell, on=True)
    inner = kernel.fork(shell, CLONE_NEWPID)
    middle = kernel.fork(inner)
    kernel.fork(middle)
    kernel.exit(middle, 3)
    kernel.wait(inner, middle)
    pair.feed(kernel.writer.strings(0, tid=shell.tid, start_ns=shell.start_ns, text=b"sh\0", kept=True))
    kernel.fork(shell)
    pair.ask()
    pair.table.question(pair.task(inner))
    pair.table.unknown[1 << 63] = None
    pair.table.moved[pair.task(inner)] = 77
    pair.table.contracting = pair.task(inner)
    held: list[bytes] = []
    kernel.emit = held.append
    kernel.fork(shell)
    kernel.fork(shell)
    pair.feed(held[1])
    return pair, memorywriter.dump(memory_of(pair))


def test_a_memory_is_what_was_written() -> None:
    """It has place, stream and table; written again it gives the same bytes."""
    pair, data = some_memory()
    memory = read(data)

    assert (memory.place, memory.totals) == (PLACE, TOTALS)
    assert (memory.stream.next, memory.stream.records) == (pair.stream.next, pair.stream.records)
    assert memory.stream.early == pair.stream.early != []
    assert picture_of_table(memory.table) == picture_of_table(pair.table)
    for name in attributes(Counts):
        assert getattr(memory.table.counts, name) == getattr(pair.table.counts, name)
    assert memorywriter.dump(memory) == data
    check_links(memory.table)


def test_a_record_that_came_too_early_waits_in_the_memory_for_the_one_before() -> None:
    """It is handled when the missing record has come."""
    pair, data = some_memory()
    stream = read(data).stream
    stream.feed(RecordWriter(pair.stream.next).marker(), 0)

    assert (stream.next, stream.waiting) == (pair.stream.next + 2, False)


def test_a_namespace_that_only_a_birth_remembers_is_written_with_those_above() -> None:
    """The namespaces above are written first."""
    pair, _ = some_memory()
    outer = PidNamespace(70, 1, pair.table.pids.initial)
    born = pair.table.tasks()[-1]
    born.birth_sid = Pid(99, (50, 2, 1), PidNamespace(80, 2, outer))
    data = memorywriter.dump(memory_of(pair))
    memory = read(data)
    found = memory.table.tasks()[-1].birth_sid

    assert memorywriter.dump(memory) == data
    assert found is not None
    assert [(found.namespace.ancestor(level).identity, number) for level, number in enumerate(found.numbers)] == [
        *((0, 50), (70, 2), (80, 1)),
    ]


@given(PROGRAMS, PROGRAMS)
@SIXTY
def test_what_comes_after_makes_no_difference_to_who_remembers(before: list[Step], after: list[Step]) -> None:
    """Any calls come, a memory is made, and any calls follow: table, history and questions are equal."""
    pair = watched(pid_max=60)
    for step in before:
        make(pair.kernel, step)
        if step[2] % 3 and is_quiet(pair):
            pair.ask()
    twin = reborn(pair)
    assert memorywriter.dump(memory_of(twin)) == memorywriter.dump(memory_of(pair))

    pair.kernel.emit = both(pair, twin)
    for step in after:
        make(pair.kernel, step)
        if is_quiet(pair):
            ask(pair, twin)
    finish(pair.kernel)
    for each in (pair, twin):
        each.doubt_as_a_snapshot_does()
    ask(pair, twin)
    for each in (pair, twin):
        each.agree()

    assert memorywriter.dump(memory_of(twin)) == memorywriter.dump(memory_of(pair))


REVIVED: list[Step] = [
    *[("fork", 0, 0)] * 2,
    ("fork", 0, 834),
    *[("leave", 0, 0)] * 3,
    *[("subreaper", 0, 0)] * 2,
    ("fork", 0, 0),
    ("leave", 0, 0),
    ("subreaper", 0, 0),
    ("new_thread", 3, 0),
    *[("fork", index, 0) for index in (0, 1, 366, 0, 255, 0, 0)],
    ("leave", 0, 0),
    *[("fork", 0, 0)] * 2,
    ("setsid", 1, 1),
    ("execute", 438, 0),
    ("leave", 0, 0),
    *[("fork", 0, 0)] * 15,
]
"""A program after which the table takes a task for dead, though an exec has continued it, and lacks its child."""


@given(PROGRAMS, st.integers(0, 2**32))
@example(REVIVED, 164)
@SIXTY
def test_a_table_that_loss_has_made_doubtful_is_remembered_as_it_is(program: list[Step], seed: int) -> None:
    """Records were lost, swapped or left out before; one sweep repairs the table that was read too."""
    chance = random.Random(seed)
    pair = watched(pid_max=60)
    held: list[bytes] = []

    def deliver(record: bytes) -> None:
        if chance.random() < 0.8:
            held.append(record)
        if chance.random() < 0.3:
            chance.shuffle(held)
        while len(held) > 2:
            pair.feed(held.pop())

    pair.kernel.emit = deliver
    for step in program:
        make(pair.kernel, step)
        if chance.random() < 0.1:
            pair.stream.give_up_below(pair.kernel.writer.seq)
        if chance.random() < 0.2:
            pair.put(pair.table.take_questions())
    twin = reborn(pair)
    assert memorywriter.dump(memory_of(twin)) == memorywriter.dump(memory_of(pair))

    finish(pair.kernel)
    twin.stream.give_up_below(pair.kernel.writer.seq)
    pair.kernel.emit = twin.feed
    twin.sweep()
    twin.agree()


def test_who_waits_within_its_exit_is_still_asked_about_when_others_end() -> None:
    """It is the last thread of a namespace's init, while a zombie of the namespace is not reaped."""
    pair = watched(lingers=True, tells_release=False)
    init = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    thread = pair.kernel.thread(init)
    outside = pair.kernel.fork(pair.kernel.init)
    pair.kernel.setns(outside, init.space)
    member = pair.kernel.fork(outside)
    for each in (member, init, thread):
        pair.kernel.exit(each)
    pair.ask()

    assert [task.pid.numbers for tasks in reborn(pair).table.lingering.values() for task in tasks] == [
        thread.pid.numbers
    ]


def test_a_memory_cut_short_anywhere_is_refused() -> None:
    """A memory with additional bytes at its end is refused too."""
    _, data = some_memory()

    for end in range(len(data)):
        with pytest.raises(UnusableMemoryError):
            read(data[:end])
    with pytest.raises(UnusableMemoryError, match="should have"):
        read(data + b"\0")


def test_a_memory_with_any_bit_turned_is_refused() -> None:
    """The checksum covers the body, and every field of the frame is compared."""
    _, data = some_memory()

    for at in range(0, len(data), 3):
        broken = bytearray(data)
        broken[at] ^= 1 << at % 8
        with pytest.raises(UnusableMemoryError):
            read(bytes(broken))


def test_a_memory_of_another_version_says_so() -> None:
    """Such a memory may be whole and have another meaning."""
    _, data = some_memory()
    other = struct.pack("<8sI", memorywriter.MAGIC, memorywriter.VERSION + 1) + data[12:]

    with pytest.raises(
        UnusableMemoryError,
        match=f"version {memorywriter.VERSION + 1}, and this one reads 5 and {memorywriter.VERSION}",
    ):
        read(other)


VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [0, 1, -1, 2, 5, 17, 1 << 31, (1 << 64) - 1, None, True, 1.5, "x", b"", [], [0], {}]
)


@given(st.lists(st.integers(0, 2**32), min_size=1, max_size=6), VALUES)
@settings(patient, max_examples=examples(300))
def test_a_memory_that_was_tampered_with_is_refused_or_harmless(way: list[int], value: Any) -> None:
    """Any value is replaced by any other, with a correct checksum."""
    _, data = some_memory()
    body = body_of(data)
    at: list[Any] = body
    for step in way[:-1]:
        inner = at[step % len(at)] if at else None
        if not isinstance(inner, list) or not inner:
            break
        at = inner
    at[way[-1] % len(at)] = value
    try:
        memory = read(framed(body))
    except UnusableMemoryError:
        return
    twin = Watched()
    twin.table, twin.stream = memory.table, memory.stream
    check_steps(twin)


def check_steps(twin: Watched) -> None:
    """Assert that no record of a kernel makes the table raise an error or loop."""
    seq = twin.stream.next
    for pid in list(twin.table.pids.numbers.values()):
        task = pid.task
        if task is not None:
            twin.kernel.writer.seq = seq
            tid = pid.numbers[0] & 0xFFFFFFFF
            record = twin.kernel.writer.end(Kind.FREE, task.address, task.start_ns, tid, 0)
            twin.feed(record)
            seq += 1


def test_circles_are_refused() -> None:
    """A walk up the tree, or along the births, would never end."""
    _, data = some_memory()
    for field, text in ((14, "creators in a circle"), (11, "parents in a circle")):
        body = body_of(data)
        namespaces, pids, count = body[0]
        tasks = body[4 + namespaces + pids :][:count]
        first, second = [number for number, row in enumerate(tasks) if row[9] == number][:2]
        for row in tasks:
            row[11] = [] if field == 11 else row[11]
        tasks[first][field] = second if field == 14 else [second]
        tasks[second][field] = first if field == 14 else [first]
        with pytest.raises(UnusableMemoryError, match=text):
            read(framed(body))


def test_strings_that_processes_share_are_written_once_and_shared_again() -> None:
    """A child that has only forked has its creator's program."""
    pair, data = some_memory()
    table = read(data).table
    kept = [task.strings for task in table.tasks() if task.strings is not None]

    assert len(kept) == 2
    assert len({id(each) for each in kept}) == 1
    assert kept[0] == next(task.strings for task in pair.table.tasks() if task.strings is not None)


@pytest.mark.parametrize("strings", [[1, None], [b"short", None]])
def test_strings_that_are_none_are_refused(strings: list[object]) -> None:
    """Their readers rely on their first bytes."""
    body = body_of(some_memory()[1])
    body[3] = [strings]

    with pytest.raises(UnusableMemoryError, match="strings"):
        read(framed(body))


def test_everything_there_is_to_know_is_written() -> None:
    """A new attribute of one of these classes must be written, with a new VERSION, or listed here with its source."""
    by_row = {"pid", "start_ns", "address", "flags", "exit_code", "exit_signal", "ids", "comm", "child_namespace"}
    by_row |= {"leader", "threads", "first_child", "pgid", "sid", "creator", "birth_pgid", "birth_sid"}
    by_row |= {"clone_flags", "order", "deeds", "strings"}

    assert attributes(TaskStruct) == by_row | {"parent", "next", "previous"}  # these follow from the parents
    assert attributes(Pid) == {"identity", "namespace", "numbers", "task", "users"}
    assert attributes(PidNamespace) == {"identity", "inum", "level", "numbers", "parent", "reaper"}
    assert attributes(Counts) == {"repairs", "kinds", "assumed"}
    assert attributes(ProcessTable()) == {
        *("pids", "doubts", "unknown", "surprises", "astray", "unlisted", "noted", "counts"),
        *("orphans", "leaderless", "creatorless", "unanswered", "idle", "moved", "contracting", "lingering"),
        *("note", "keeps_text"),  # the next daemon's own
        *("changes", "_touch"),  # for earlier readers
        *("_numbers", "_comms", "_ids"),  # made again, or shared to save memory
    }
    assert attributes(Stream({})) == {
        *("_handlers", "_early", "next", "kinds", "lost", "suspect"),
        "is_late",  # within one record
        "note",  # the next daemon's own
    }
    assert get_args(DeedName) == memorywriter.DEEDS
    assert set(memorywriter.SURPRISES) == set(get_args(Surprise))
