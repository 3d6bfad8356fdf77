# SPDX-License-Identifier: Apache-2.0
"""The verbs that read a folder of a recording that may be anybody's."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard

from agent.cli import confinement
from agent.recorder import folder, segment, tapesegment
from agent.recorder.recording import Recording
from tests.support.commandline import ckptree, here
from tests.support.taped import Truth, a_recording

_BOMB_BYTES = 700 << 20
_READING: tuple[tuple[str, ...], ...] = (
    ("events",),
    ("history", "1"),
    ("tree", "1", "--at"),
    ("diff", "1", "--to", "", "--from"),
)
_WRITING: tuple[tuple[str, ...], ...] = (
    ("events", "-o", "OUT"),
    ("events", "-f", "html", "-o", "OUT"),
    ("snapshot", "1", "-o", "OUT", "--at"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Truth]]:
    """A recording."""
    place: Path = tmp_path_factory.mktemp("recording")
    return place, a_recording(place, 3, runs=1)


def words_of(verb: tuple[str, ...], made: tuple[Path, list[Truth]], out: Path) -> list[str]:
    """Return the words of a verb that asks about the recording."""
    place, truths = made
    order = f"#{truths[len(truths) // 2].order}"
    words = [{"": order, "OUT": str(out)}.get(word, word) for word in verb]
    return [*words, *([order] if verb[-1] in ("--at", "--from") else []), "--record", str(place)]


@pytest.mark.parametrize("verb", _READING, ids=" ".join)
def test_a_verb_that_reads_a_folder_gives_up_its_rights_first(
    made: tuple[Path, list[Truth]], verb: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a segment has been parsed until then."""
    done: list[str] = []
    read = tapesegment.head_of

    def noted(path: Path) -> Any:
        done.append("read")
        return read(path)

    monkeypatch.setattr(confinement, "confine_root", lambda: done.append("confined"))
    monkeypatch.setattr(tapesegment, "head_of", noted)
    ran = here(*words_of(verb, made, tmp_path / "out"))

    assert ran.returncode in (0, 1, 6), ran.stderr
    assert done[0] == "confined"
    assert "read" in done


@pytest.mark.parametrize("verb", _WRITING, ids=" ".join)
def test_a_verb_that_writes_has_a_child_read_the_folder(
    made: tuple[Path, list[Truth]], verb: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes what the child has made, and reads nothing of the folder itself."""
    readers = os.memfd_create("readers")
    read = tapesegment.head_of

    def noted(path: Path) -> Any:
        os.write(readers, f"{os.getpid()}\n".encode())
        return read(path)

    monkeypatch.setattr(tapesegment, "head_of", noted)
    ran = here(*words_of(verb, made, tmp_path / "out"))

    assert ran.returncode in (0, 6), ran.stderr
    assert (tmp_path / "out").stat().st_size
    told = {int(line) for line in os.pread(readers, 1 << 20, 0).split()}
    os.close(readers)
    assert told
    assert os.getpid() not in told


@pytest.mark.skipif(os.geteuid() != 0, reason="the confinement is root's")
@pytest.mark.parametrize("verb", [*_READING, *_WRITING], ids=" ".join)
def test_the_answer_of_a_confined_process_is_the_same(
    made: tuple[Path, list[Truth]], verb: tuple[str, ...], tmp_path: Path
) -> None:
    """As root, with all measures, and in this process without any."""
    confined = ckptree(*words_of(verb, made, tmp_path / "out"))
    told = (tmp_path / "out").read_bytes() if "OUT" in verb else confined.stdout
    free = here(*words_of(verb, made, tmp_path / "out"))

    assert (confined.returncode, confined.stdout, confined.stderr) == (free.returncode, free.stdout, free.stderr)
    assert told == ((tmp_path / "out").read_bytes() if "OUT" in verb else free.stdout)


@pytest.mark.skipif(os.geteuid() != 0, reason="the confinement is root's")
def test_the_reader_of_a_folder_is_confined_by_the_kernel(made: tuple[Path, list[Truth]]) -> None:
    """While it waits for somebody who takes what it prints."""
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "agent", "events", "--record", str(made[0])], stdout=writer, stderr=subprocess.PIPE
    ) as process:
        os.close(writer)
        assert process.stderr
        begun = os.read(reader, 1)
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.kill()
    os.close(reader)

    assert begun
    assert "Seccomp:\t2\n" in status
    assert "NoNewPrivs:\t1\n" in status


def a_bomb() -> bytes:
    """Return a few kilobytes that become many megabytes."""
    pieces = zstandard.ZstdCompressor(level=1, write_content_size=True).compressobj(size=_BOMB_BYTES)
    found = [pieces.compress(bytes(1 << 20)) for _ in range(_BOMB_BYTES >> 20)]
    return b"".join([*found, pieces.flush()])


def test_a_small_recording_that_would_fill_the_memory_is_refused_by_name(tmp_path: Path) -> None:
    """A keyframe may have a gigabyte, and this one is none."""
    place = tmp_path / "recording"
    place.mkdir()
    truths = a_recording(place, 5, runs=1)
    for each in folder.stored(place):
        data = each.path.read_bytes()
        facts, begin = segment.read_head(data)
        numbers, times_ns = (facts.first, facts.first), (facts.boottime_ns, facts.boottime_ns, 0)
        head, stored = segment.block(segment.KEYFRAME, a_bomb(), _BOMB_BYTES, numbers, times_ns)
        each.path.write_bytes(data[:begin] + head + bytes(stored) + data[begin:])
    ran = ckptree("tree", "1", "--at", f"#{truths[-1].order}", "--record", place)

    assert ran.returncode == 8
    assert ran.stderr.decode().startswith(f"ckptree: {place}: ")
    assert ran.stderr.decode().endswith("which no sound recording does\n")
    assert not ran.stdout
    assert Recording(place).segments
