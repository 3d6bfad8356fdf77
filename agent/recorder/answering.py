# SPDX-License-Identifier: Apache-2.0
"""The process that answers one question about the past for a daemon: the question on standard input, messages on standard
output.

    question = the request as a client has sent it, with the client's `viewer`, `namespace` and `boot_id`      msgpack
    messages = pieces (agent.recorder.pieces), each a message of the protocol (docs/protocol.md)

A daemon ends the process where the client goes away. The process bounds its own time and memory.
"""

import contextlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgpack

from agent.access import Viewer
from agent.errors import CkptreeError
from agent.protocol import codec
from agent.recorder import answers
from agent.recorder.past import Enquirer
from agent.recorder.pieces import HEAD
from agent.recorder.recording import Recording

_MOST_CPU_S: Final = 1200
_MOST_CPU_UNPRIVILEGED_S: Final = 60
_MOST_BYTES: Final = 600 << 20  # the table of a million tasks
_NICE: Final = 40  # from whatever the daemon has to the least of all
_AT_ONCE: Final = 2000  # events in a message


def main(argv: list[str]) -> int:
    """Answer a question; return the exit code of the error, or 0.

    Args:
        argv: the folder of the recording.
    """
    request: dict[str, Any] = msgpack.unpackb(sys.stdin.buffer.read())
    viewer = Viewer(**request.pop("viewer"))
    _be_modest(viewer)
    code = 0
    try:
        for message in _messages(Path(argv[0]), request, viewer):
            _send(message)
    except CkptreeError as error:
        code = error.exit_code
        _send(codec.failure(error))
    except BrokenPipeError:
        code = 1
    except MemoryError:
        code = 1
        _send(codec.failure(CkptreeError("the answer takes more memory than one may have: ask about a smaller part")))
    except Exception as error:  # noqa: BLE001 - the client gets an answer in any case
        code = 1
        traceback.print_exc()
        text = f": {error!r}" if viewer.privileged else ""
        _send(codec.failure(CkptreeError(f"internal error, see the daemon's log{text}")))
    return code


def _be_modest(viewer: Viewer) -> None:
    """Leave the processor to others, and bound time and memory.

    A service manager may forbid limits and priorities (systemd, @resources): the unit's own bounds hold then, and where its
    memory runs short this process goes first.
    """
    seconds = _MOST_CPU_S if viewer.privileged else _MOST_CPU_UNPRIVILEGED_S
    signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError):
        os.nice(_NICE)


def _send(message: codec.Message) -> None:
    payload = codec.pack(message)
    sys.stdout.buffer.write(HEAD.pack(bool(message.get("more")), len(payload)) + payload)
    sys.stdout.buffer.flush()


def _messages(folder: Path, request: dict[str, Any], viewer: Viewer) -> Iterator[codec.Message]:
    enquirer = Enquirer(viewer, request.pop("namespace"), request.pop("boot_id"))
    recording = Recording(folder)
    if request.get("verb", "snapshot") == "snapshot":
        yield _snapshot(recording, request, enquirer)
        return
    if request["verb"] == "history":
        lives, gaps = answers.history(recording, request, enquirer)
        yield {"ok": True, "lives": lives, "gaps": gaps}
        return
    waiting: list[dict[str, Any]] = []
    for batch in answers.events(recording, request, enquirer):
        waiting += batch
        if len(waiting) >= _AT_ONCE:
            yield {"ok": True, "events": waiting, "more": True}
            waiting = []
    yield {"ok": True, "events": waiting}


def _snapshot(recording: Recording, request: dict[str, Any], enquirer: Enquirer) -> codec.Message:
    from exporters import registry

    begin_ns = time.perf_counter_ns()
    fmt = codec.choice(request, "format", registry.LOSSLESS)
    snapshot, chosen = answers.snapshot(recording, request, enquirer)
    answer = {"ok": True, "data": registry.image(snapshot, fmt), **codec.about(snapshot)}
    answer |= {"order": snapshot.completeness.order, "elapsed_ns": time.perf_counter_ns() - begin_ns}
    return answer | {"outer": list(chosen.refs.above())} if request.get("outer") else answer
