# SPDX-License-Identifier: Apache-2.0
"""The verification of filled tasks: the kernel's answers compared with the credentials of the images, before any task runs.

Compared are ids, groups, capabilities and no_new_privs of each thread. /proc does not show the secure bits.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from agent.record import NamedTuple
from agent.restart.contents.credentials import mask
from agent.restart.rebuild import manyanswers
from agent.restart.rebuild.userids import UserIds, difference
from exporters.content import kernelnames

_LAST: Final = b"\nNoNewPrivs:"
_SETS: Final = (
    ("CapInh", "cap_inh", "inheritable"),
    ("CapPrm", "cap_prm", "permitted"),
    ("CapEff", "cap_eff", "effective"),
    ("CapBnd", "cap_bnd", "bounding"),
    ("CapAmb", "cap_amb", "ambient"),
)
"""The lines of a status, the fields of a creds_entry, and the names of the sets."""


class _Required(NamedTuple):
    """The credentials that a thread must have, and the lines that /proc/PID/status has then."""

    ids: UserIds
    lines: bytes
    groups: bytes
    rights: bytes

    def differences(self, status: bytes) -> Iterator[str]:
        if found := difference(status, self.ids):
            yield found
        if self.groups not in status:
            yield f"the groups {_value(status, 'Groups')} instead of {_value(self.groups, 'Groups')}"
        if self.rights not in status:
            for name, _, words in _SETS:
                if _value(status, name) != _value(self.rights, name):
                    yield f"the {words} capabilities {_names(status, name)} instead of {_names(self.rights, name)}"
            if _value(status, "NoNewPrivs") != _value(self.rights, "NoNewPrivs"):
                yield f"no_new_privs {_value(status, 'NoNewPrivs')} instead of {_value(self.rights, 'NoNewPrivs')}"


def _required(creds: Any) -> _Required:
    ids = UserIds(
        (int(creds.uid), int(creds.euid), int(creds.suid), int(creds.fsuid)),
        (int(creds.gid), int(creds.egid), int(creds.sgid), int(creds.fsgid)),
    )
    sets = b"".join(b"%s:\t%016x\n" % (name.encode(), mask(getattr(creds, field))) for name, field, _ in _SETS)
    return _Required(
        ids,
        ids.lines(),
        b"\nGroups:\t%s \n" % b" ".join(b"%d" % one for one in sorted(map(int, creds.groups))),
        b"\n%sNoNewPrivs:\t%d\n" % (sets, bool(creds.no_new_privs)),
    )


def _value(status: bytes, name: str) -> str:
    text = status.partition(b"\n%s:" % name.encode())[2].partition(b"\n")[0]
    return text.decode(errors="replace").strip() or "none"


def _names(status: bytes, name: str) -> str:
    """Return the names of the capabilities of a set in a status."""
    text = _value(status, name)
    try:
        return kernelnames.capabilities(int(text, 16))
    except ValueError:
        return text


def verify_credentials(threads: Sequence[tuple[int, int, Any]], named: Callable[[int], str]) -> list[str]:
    """Return all differences of threads that stand, filled, from their images.

    Args:
        threads: of each its actor, its pid as this process sees it, 0 where /proc does not show it, and its creds_entry.
        named: returns the name of an actor.
    """
    actors, questions, wanted = [], [], []
    known: dict[bytes, _Required] = {}  # most threads of a tree have the same ones
    for actor, pid, creds in threads:
        if not pid:
            continue
        key = creds.SerializePartialToString()
        if key not in known:
            known[key] = _required(creds)
        actors.append(actor)
        questions.append((pid, False))
        wanted.append(known[key])

    def kept(place: int, status: bytes) -> bytes:
        required = wanted[place]
        if required.lines in status and required.groups in status and required.rights in status:
            return b""
        return " and ".join(required.differences(status)).encode()

    answers = manyanswers.answers(questions, kept, _LAST, small=False)
    return [
        f"{named(actor)}: {'there is no such task' if found is None else f'has {found.decode()}'}"
        for actor, (found, _) in zip(actors, answers, strict=True)
        if found != b""
    ]
