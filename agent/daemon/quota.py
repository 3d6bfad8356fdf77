# SPDX-License-Identifier: Apache-2.0
"""The quotas of what clients may hold in the daemon: subscriptions, and answers that they have not fetched."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from agent.access import Viewer
from agent.errors import BusyError

MAX_SUBSCRIPTIONS: Final = 128
MAX_SUBSCRIPTIONS_UNPRIVILEGED: Final = 64  # the rest is for users who see everything
MAX_SUBSCRIPTIONS_PER_USER: Final = 8  # of users who do not
# Bytes of answers that the clients of one user have not fetched; a client that fetches each before the next stays
# below.
MAX_UNSENT: Final = 32 << 20
MAX_UNSENT_PRIVILEGED: Final = 256 << 20


def check_subscriptions(live: Iterable[Viewer], viewer: Viewer) -> None:
    """Refuse a subscription beyond the bounds; those of ordinary users leave room for users who see everything.

    Args:
        live: the subscribers.
        viewer: the client that asks for one more.

    Raises:
        BusyError: a bound is reached.
    """
    viewers = list(live)
    if len(viewers) >= MAX_SUBSCRIPTIONS:
        raise BusyError(f"there are {MAX_SUBSCRIPTIONS} subscribers already, which is the most")
    if viewer.privileged:
        return
    ordinary = Counter(each.account for each in viewers if not each.privileged)
    if ordinary.total() >= MAX_SUBSCRIPTIONS_UNPRIVILEGED:
        raise BusyError(
            f"ordinary users have {MAX_SUBSCRIPTIONS_UNPRIVILEGED} subscriptions already, which is the most"
        )
    if ordinary[viewer.account] >= MAX_SUBSCRIPTIONS_PER_USER:
        raise BusyError(
            f"user {viewer.account} has {MAX_SUBSCRIPTIONS_PER_USER} subscriptions already, which is the most"
        )


def check_unsent(unsent: int, viewer: Viewer) -> None:
    """Refuse one more answer to a user whose clients have left `unsent` bytes of answers unfetched.

    Raises:
        BusyError: the bound is exceeded.
    """
    if unsent > (MAX_UNSENT_PRIVILEGED if viewer.privileged else MAX_UNSENT):
        raise BusyError(f"{unsent} bytes of answers wait for clients of user {viewer.account} to fetch them")
