# SPDX-License-Identifier: Apache-2.0
"""The terminal of the caller of restart, and programs with fewer rights than the caller."""

import json
import os
import pty
import sys
from pathlib import Path

import pytest

from agent.model import CKPT_PID_ROOT, Capabilities, ProcessDetails
from exporters import registry
from tests.live.rebuilds import free_number
from tests.live.restartverb import TOP, command
from tests.support.builders import a_snapshot, a_task

OTHER = 61001
ASKS = """
import json, os
try:
    tty = os.close(os.open("/dev/tty", os.O_RDWR)) or "open"
except OSError as error:
    tty = error.strerror
found = {"tty": tty, "terminals": [fd for fd in range(64) if os.isatty(fd)], "uid": os.getuid(),
         "sid": os.getsid(0), "in": os.read(0, 1).decode()}
print("before", flush=True)
open(PLACE, "w").write(json.dumps(found))
os.write(2, b"after\\n")
"""


def on_a_terminal(folder: Path, uid: int, *words: str) -> tuple[dict[str, object], str]:
    """Run restart on a terminal of its own with an image of one process, and return its report and the screen's text."""
    folder.chmod(0o777)
    everything = int(Path("/proc/self/status").read_text().partition("CapBnd:")[2].split()[0], 16)
    own = 0 if uid else everything
    details = ProcessDetails(
        *(os.fsencode(os.path.realpath("/usr/bin/python3")), None, (uid,) * 4, (uid,) * 4, ()),
        Capabilities(0, own, own, everything, 0),
        no_new_privs=False,
        umask=0o22,
        execed=True,
    )
    source = ASKS.replace("PLACE", repr(os.fspath(folder / "report")))
    argv = (b"python3", b"-c", source.encode())
    outside = {"pgid": CKPT_PID_ROOT, "sid": CKPT_PID_ROOT}
    task = a_task(1, 0, argv=argv, cwd=b"/", env=(), details=details, **outside)
    image = folder / "tree.json"
    image.write_bytes(registry.image(a_snapshot([(free_number(1),)], [task]), "json"))
    child, screen = pty.fork()
    if not child:
        os.chdir(TOP)
        os.execv(sys.executable, command(image, *words))  # noqa: S606 - the program under test
    text = b""
    try:
        os.write(screen, b"x\n")
        while piece := os.read(screen, 4096):
            text += piece
    except OSError:  # the last one has closed the terminal
        pass
    finally:
        os.close(screen)
        status = os.waitpid(child, 0)[1]
    assert status == 0, text
    return json.loads((folder / "report").read_text()), text.decode()


@pytest.mark.parametrize("words", [(), ("--no-pidns",)], ids=["own namespace", "caller's namespace"])
def test_a_program_with_fewer_rights_has_no_terminal_of_the_caller_and_its_output_arrives(
    folder: Path, words: tuple[str, ...]
) -> None:
    """It could type commands into the caller's shell."""
    report, text = on_a_terminal(folder, OTHER, "--run", "argv", *words)

    assert (report["tty"], report["terminals"], report["in"]) == ("No such device or address", [], "")
    assert report["uid"] == OTHER
    assert "do not get its terminal" in text
    assert text.index("before") < text.index("after")


def test_a_program_with_the_callers_rights_keeps_the_terminal(folder: Path) -> None:
    """It could do no more than the caller."""
    report, text = on_a_terminal(folder, 0, "--run", "argv", "--no-pidns")

    assert (report["tty"], report["terminals"], report["in"]) == ("open", [0, 1, 2], "x")
    assert "do not get its terminal" not in text
