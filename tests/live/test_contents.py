# SPDX-License-Identifier: Apache-2.0
"""Programs that run on after a dump by CRIU and a restart: judged by what they then do."""

import sys
import time
from pathlib import Path

from tests.live.dumps import dump, eventually, program, restarted

COUNTING = """
import threading, time
counts = [0, 0, 0]
def run(index):
    while True:
        counts[index] += 1
        time.sleep(0.01)
for index in (1, 2):
    threading.Thread(target=run, args=(index,), daemon=True).start()
state = 0.5
while True:
    counts[0] += 1
    state = 3.7 * state * (1 - state)
    with open("counts", "w") as file:
        file.write(f"{counts[0]} {counts[1]} {counts[2]} {state!r}\\n")
    time.sleep(0.01)
"""


def _counts(folder: Path) -> list[float]:
    return [float(word) for word in (folder / "counts").read_text().split()]


def test_a_python_with_threads_counts_on_where_it_was(tmp_path: Path, daemon_socket: Path) -> None:
    """Each thread's count goes on, and so does a number that only the whole history of the loop gives."""
    with program([sys.executable, "-c", COUNTING], tmp_path) as pid:
        eventually(lambda: (tmp_path / "counts").exists() and len(_counts(tmp_path)) == 4, "it counts")
        time.sleep(0.2)
        images = dump(pid, tmp_path / "images", daemon_socket)
    before = _counts(tmp_path)
    with restarted(images) as ready:
        eventually(lambda: _at_least(tmp_path, [count + 20 for count in before[:3]]), "all threads count on")
        after = _counts(tmp_path)

    state = 0.5
    for _ in range(int(after[0])):
        state = 3.7 * state * (1 - state)
    assert after[3] == state
    assert ready["tasks"][0]["numbers"][0] == pid


def _at_least(folder: Path, wanted: list[float]) -> bool:
    found = _counts(folder)
    return len(found) == 4 and all(have >= want for have, want in zip(found, wanted, strict=False))


def test_a_pipeline_passes_on_every_line_once(tmp_path: Path, daemon_socket: Path) -> None:
    """Both shells, the `sleep` of the first one, and what was in the pipe between them."""
    script = "i=0; while :; do echo $((i++)); sleep 0.02; done | while read x; do echo $x >> lines; done"
    with program(["/bin/bash", "-c", script], tmp_path) as pid:
        eventually(lambda: (tmp_path / "lines").exists(), "a line has come through")
        time.sleep(0.2)
        images = dump(pid, tmp_path / "images", daemon_socket)
    before = len((tmp_path / "lines").read_text().split())
    with restarted(images):
        eventually(lambda: len((tmp_path / "lines").read_text().split()) > before + 20, "lines come through")
    found = (tmp_path / "lines").read_text().split()

    assert found == [str(number) for number in range(len(found))]


COUNTER = """
import os, time
counter = os.eventfd(5, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
open("ready", "w").close()
while not os.path.exists("go"):
    time.sleep(0.01)
value = os.eventfd_read(counter)
try:
    os.eventfd_read(counter)
except BlockingIOError:
    open("found", "w").write(str(value))
time.sleep(60)
"""


def test_an_eventfd_keeps_its_counter_and_does_not_block(tmp_path: Path, daemon_socket: Path) -> None:
    """Its open file is for reading and writing, which eventfd2() takes for no flag."""
    with program([sys.executable, "-c", COUNTER], tmp_path) as pid:
        eventually((tmp_path / "ready").exists, "the eventfd is there")
        images = dump(pid, tmp_path / "images", daemon_socket)
    with restarted(images):
        (tmp_path / "go").touch()
        eventually((tmp_path / "found").exists, "the program has read its counter")
        assert (tmp_path / "found").read_text() == "5"
