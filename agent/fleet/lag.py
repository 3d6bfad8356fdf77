# SPDX-License-Identifier: Apache-2.0
"""The distance of a stand-by from its host: what it has, and how far that is behind. It takes the time as an argument."""

from collections import deque
from typing import Any, Final

from agent.fleet.holder import Held
from agent.fleet.tapemessages import Pulse
from agent.record import NamedTuple

_MOST_PULSES: Final = 4096
_NONE: Final = type(None)
_MOST: Final = 1 << 63  # of numbers; none but those are less
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    **dict.fromkeys(("host", "of", "root", "gap", "error"), (str,)),
    **dict.fromkeys(("bytes", "segments", "gaps", "left_out"), (int,)),
    **dict.fromkeys(("have", "behind_records"), (int, _NONE)),
    **dict.fromkeys(("behind_s", "silent_s"), (float, int, _NONE)),
    "numbering": (str, _NONE),
    "relay_ended": (bool, _NONE),
}


class Behind(NamedTuple):
    """How far a stand-by is behind its host, as of the last word of the host.

    Attributes:
        records: that the daemon had and the stand-by has not; None: not known.
        seconds: age of the oldest of them at most; None: not known.
        silent_s: time since the last word, seconds; None: there was none.
    """

    records: int | None
    seconds: float | None
    silent_s: float | None


class Lag:
    """The distance of one stand-by.

    Attributes:
        held: what it has.
    """

    def __init__(self) -> None:
        self.held: Held | None = None
        self._pulse: Pulse | None = None
        self._heard_s = 0.0
        self._waiting: deque[Pulse] = deque(maxlen=_MOST_PULSES)
        self._even_ns = 0  # by the host's clock: all up to then was here
        self._segment = b""

    def hear(self, pulse: Pulse, now_s: float) -> None:
        """Take a pulse.

        Args:
            pulse: the host's word.
            now_s: CLOCK_MONOTONIC, seconds.
        """
        self._pulse, self._heard_s = pulse, now_s
        self._waiting.append(pulse)
        self._settle()

    def have(self, held: Held | None, segment: bytes) -> None:
        """Take what is held now, and the identity of the newest segment that is kept."""
        if held is not None and self.held is not None and held.numbering != self.held.numbering:
            self._waiting.clear()
        self.held = held
        self._segment = segment
        self._settle()

    def _settle(self) -> None:
        if self.held is None:
            return
        while self._waiting and self._has(self._waiting[0]):
            self._even_ns = self._waiting.popleft().at_ns

    def _has(self, pulse: Pulse) -> bool:
        """Return True if all that the daemon had at a pulse is held."""
        return self.held is not None and pulse.next is not None and self.held.order >= pulse.next

    def behind(self, now_s: float) -> Behind:
        """Return the distance.

        Args:
            now_s: CLOCK_MONOTONIC, seconds.
        """
        pulse, held = self._pulse, self.held
        if pulse is None:
            return Behind(None, None, None)
        silent_s = max(0.0, now_s - self._heard_s)
        if held is None or pulse.next is None or pulse.end.segment != self._segment:
            # Of another segment the numbers may be another boot's.
            return Behind(None, None, silent_s)
        records = max(0, pulse.next - held.order)
        seconds = max(0.0, (pulse.at_ns - max(held.time_ns, self._even_ns)) / 1e9) if records else 0.0
        return Behind(records, seconds, silent_s)

    def told(self, now_s: float) -> dict[str, Any]:
        """Return the state as others are told it."""
        behind = self.behind(now_s)
        return {
            "have": None if self.held is None else self.held.order - 1,
            "numbering": None if self.held is None else self.held.numbering,
            "gap": "" if self.held is None else self.held.gap,
            "behind_records": behind.records,
            "behind_s": None if behind.seconds is None else round(behind.seconds, 3),
            "silent_s": None if behind.silent_s is None else round(behind.silent_s, 3),
            "relay_ended": None if self._pulse is None else self._pulse.ends,
        }


def checked(told: dict[str, Any]) -> dict[str, Any]:
    """Return what a stand-by says of itself, if it has the types that it must have.

    Raises:
        ValueError: it has others.
    """
    found = {}
    for key, kinds in _TYPES.items():
        value = found[key] = told.get(key)
        if type(value) not in kinds or (isinstance(value, int | float) and not abs(value) < _MOST):
            raise ValueError(f"{key}: {value!r}")
    return found


def in_words(told: dict[str, Any]) -> str:
    """Return the state as a line says it."""
    if told["have"] is None:
        return "has nothing yet"
    words = [f"has #{told['have']}"]
    if told["behind_records"] is not None and told["behind_s"] is not None:
        words.append(f"behind {told['behind_s']:.1f} s, {told['behind_records']} records")
    else:
        words.append("how far behind is not known")
    if told["silent_s"] is None:
        words.append("the host was not heard yet")
    elif told["relay_ended"]:
        words.append(f"the host's relay ended in order, {told['silent_s']:.0f} s ago")
    elif told["silent_s"] > 3:
        words.append(f"the host is silent for {told['silent_s']:.0f} s")
    if told["gap"]:
        words.append(told["gap"])
    return ", ".join(words)
