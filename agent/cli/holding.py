# SPDX-License-Identifier: Apache-2.0
"""The program that holds the table of another host for its stand-by, confined: it reads records that others have made.

It answers on its standard streams, as agent.fleet.holder has it.
"""

import contextlib
import os
import resource
import signal
from pathlib import Path
from typing import Any, Final

from agent import interpreter, rootname
from agent.cli.confinement import read_only
from agent.errors import CkptreeError, UsageError
from agent.protocol import codec
from agent.recorder.held import HeldTable, open_held
from agent.recorder.past import WantedTree
from exporters import registry

_MOST_BYTES: Final = 2 << 30  # the table of three million tasks
_PROGRAM: Final = "from agent.cli.holding import main; sys.exit(main(sys.argv[1:]))"
_MODES: Final = ("auto", "container", "subtree")


def command(place: Path) -> list[str]:
    """Return the command that runs this program."""
    return interpreter.command(_PROGRAM, os.fspath(place))


def main(arguments: list[str]) -> int:
    """Answer until the end of standard input; return the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent's end is the signal
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    read_only()
    held = HeldTable(Path(arguments[0]))
    decoder = codec.Decoder(1 << 16)
    while data := os.read(0, 1 << 16):
        for request in decoder.feed(data):
            _send(_reply(held, request))
    return 0


def _reply(held: HeldTable, request: codec.Message) -> codec.Message:
    try:
        return {"ok": True, **_answer(held, request)}
    except CkptreeError as error:
        return codec.failure(error)
    except MemoryError:
        return codec.failure(CkptreeError("the table takes more memory than it may have"))
    except Exception as error:  # noqa: BLE001 - whatever the records hold, the stand-by gets an answer
        return codec.failure(CkptreeError(f"the recording cannot be read: {error!r}"))


def answered(place: Path, request: codec.Message) -> codec.Message:
    """Answer one request about a folder.

    Raises:
        CkptreeError: it cannot be answered.
    """
    return _answer(open_held(place), request)


def _answer(held: HeldTable, request: codec.Message) -> dict[str, Any]:
    held.refresh()
    if request.get("do") != "image":
        return state(held) if held.is_there else {"order": None}
    wanted = WantedTree(rootname.parse(str(request.get("root"))), _mode(request.get("mode")))
    made = held.snapshot(wanted)
    return {"data": registry.image(made, "ckpt"), **codec.about(made), **state(held)}


def _mode(value: object) -> str:
    if not isinstance(value, str) or value not in _MODES:
        raise UsageError(f"mode: expected one of {', '.join(_MODES)}")
    return value


def state(held: HeldTable) -> dict[str, Any]:
    """Return what is held, as agent.fleet.holder takes it."""
    facts = held.facts
    return {
        "order": held.order,
        "time_ns": held.time_ns,
        "numbering": f"{facts.boot_id} {facts.ring}",
        "segment": held.name,
        "gap": held.gap,
        "lacks_from": held.lacks_from,
    }


def _send(message: codec.Message) -> None:
    left = memoryview(codec.encode(message))
    while left:
        left = left[os.write(1, left) :]
