# SPDX-License-Identifier: Apache-2.0
"""The names of hooks and features that an administrator may leave out."""

import pytest

from agent.errors import UsageError
from bpf import hooks


def test_what_can_be_left_out_is_every_hook_and_every_feature_that_no_capture_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The words stay in their order."""
    known = hooks.may_be_left_out()
    monkeypatch.setenv("CKPTREE_WITHOUT", " ".join(reversed(known)))

    assert hooks.left_out() == tuple(reversed(known))
    assert {"fexit:change_pid", "raw_tracepoint:task_newtask", "setsid", "pid.ino", "terminals", "arguments"} <= {
        *known
    }
    assert len(set(known)) == len(known)
    monkeypatch.delenv("CKPTREE_WITHOUT")
    assert hooks.left_out() == ()


@pytest.mark.parametrize("word", ["fexit:chnge_pid", "pid.inode", "fork", "setsid,reap"])
def test_a_word_that_leaves_nothing_out_is_refused_by_name_with_those_that_do(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fork is required, so the word would have no effect."""
    monkeypatch.setenv("CKPTREE_WITHOUT", f"pid.ino {word}")
    with pytest.raises(UsageError) as caught:
        hooks.left_out()

    assert str(caught.value).startswith(f"CKPTREE_WITHOUT: {word}: nothing of that name can be left out")
    assert "these can: " in str(caught.value)
    assert str(caught.value).endswith("arguments")
