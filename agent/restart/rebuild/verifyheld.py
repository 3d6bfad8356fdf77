# SPDX-License-Identifier: Apache-2.0
"""The verification of tasks that hold: their users and groups are compared once they have taken them."""

from collections.abc import Mapping, Sequence
from functools import partial

from agent.restart.rebuild import manyanswers, userids
from agent.restart.rebuild.failure import name_of
from agent.restart.rebuild.helperabi import Program
from agent.restart.rebuild.verify import Standing


def verify_held(standing: Standing, held: Mapping[int, Program]) -> list[str]:
    """Return all differences of the ids of tasks that hold, once the tree has been released.

    Args:
        standing: the tree.
        held: the entries, by actor, of the tasks that have taken other ids than the caller's.
    """
    asked = [index for index in held if standing.pids[index]]
    questions = [(standing.pids[index], False) for index in asked]
    answers = manyanswers.answers(questions, partial(_difference, standing, held, asked))
    return [
        f"{name_of(standing.plan.actors[index])}: has {found.decode()}"
        for index, (found, _) in zip(asked, answers, strict=True)
        if found
    ]


def _difference(
    standing: Standing, held: Mapping[int, Program], asked: Sequence[int], place: int, status: bytes
) -> bytes:
    """Return the difference of a task; none of another task that has got its number, because the tree has ended."""
    index = asked[place]
    rights = held[index].rights
    found = userids.difference(status, userids.of_entry(rights)) if rights is not None else ""
    numbers = b"\t".join(b"%d" % number for number in standing.numbers[index])
    is_own = status.partition(b"\nNSpid:")[2].partition(b"\n")[0].endswith(b"\t" + numbers)
    return found.encode() if is_own else b""
