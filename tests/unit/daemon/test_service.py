# SPDX-License-Identifier: Apache-2.0
"""The daemon's answers: their contents for each caller, and their words."""

import gc
import re

import pytest

from agent.access import Viewer
from agent.daemon import quota
from agent.daemon.asker import Asker
from agent.daemon.metrics import Histogram
from agent.protocol import codec
from agent.table.objects import CLONE_NEWPID
from exporters import registry
from exporters.image.packedrows import PackedRows
from tests.support.kernelobjects import Thread
from tests.support.simwatch import ROOT, Scene, SimPage

ALICE, BOB = (1000, 1000), (1001, 1001)


def all_rows() -> list[PackedRows]:
    """Return the packed rows of all images that are there."""
    return [each for each in gc.get_objects() if isinstance(each, PackedRows)]


def _tree(scene: Scene) -> tuple[Thread, Thread]:
    """Make a process of Alice's, and its child."""
    own = scene.child(ids=ALICE)
    return own, scene.child(own)


def test_a_hello_says_who_is_who() -> None:
    """The answer has versions, features, and the caller's view."""
    scene = Scene()
    own, _ = _tree(scene)
    told = scene.ask(scene.viewer(own), "hello", protocols=[1, 7])

    assert (told["ok"], told["protocol"], told["protocols"]) == (True, 1, [1, 1])
    assert told["peer"] == {"pid": own.tid, "uid": 1000, "gid": 1000, "sees": "own"}
    assert scene.ask(ROOT, "hello")["peer"]["sees"] == "all"
    assert {"snapshot", "subscribe", "metrics"} <= set(told["features"])


def test_a_client_of_another_version_is_told_so() -> None:
    """The error has a name."""
    told = Scene().ask(ROOT, "hello", protocols=[2, 3])

    assert (told["ok"], told["kind"]) == (False, "version")


def test_a_tree_that_is_wholly_theirs_is_shown_to_them() -> None:
    """The snapshot is the same as root's."""
    scene = Scene()
    own, child = _tree(scene)
    told = scene.ask(scene.viewer(own), "snapshot", root=str(own.tid))
    image = registry.load(told["data"])

    assert [pid.numbers[0] for pid in image.pids][:2] == [own.tid, child.tid] or {
        image.number(task.pid) for task in image.tasks
    } == {own.tid, child.tid}
    assert told["order"] == scene.watch.stream.next


def test_strings_are_compared_for_root_alone() -> None:
    """Not for the user of a process, from whom the kernel may hide its memory, nor for the group that sees all trees."""
    scene = Scene()
    own, _ = _tree(scene)
    of_the_group = Viewer(pid=0, uid=1002, gid=1002, privileged=True)
    for viewer in (scene.viewer(own), of_the_group):
        told = scene.ask(viewer, "strings", root=str(own.tid), start_ns=own.start_ns)

        assert (told["ok"], told["kind"]) == (False, "not-permitted")
        assert "strings" not in scene.ask(viewer, "hello")["features"]
    assert scene.ask(ROOT, "strings", root=str(own.tid), start_ns=own.start_ns)["ok"]
    assert "strings" in scene.ask(ROOT, "hello")["features"]


@pytest.mark.parametrize("verb", ["snapshot", "subscribe"])
def test_of_what_is_not_theirs_they_learn_that_they_may_not(verb: str) -> None:
    """The answer has neither name nor size; a number without a task gives another error, as for kill()."""
    scene = Scene()
    own, _ = _tree(scene)
    other = scene.child(ids=BOB)
    for viewer in (scene.viewer(own), scene.viewer(own, 1001)):
        refused = scene.ask(viewer, verb, root=str(other.tid))
        missing = scene.ask(viewer, verb, root="999")

        assert (refused["ok"], refused["kind"], refused["exit_code"]) == (False, "not-permitted", 5)
        assert "task" not in refused["error"].replace("tasks", "")  # its name
        assert refused["leaks"] == []
        assert missing["kind"] == "no-such-root"
    assert scene.ask(scene.viewer(other), verb, root=str(other.tid))["ok"]


def test_a_tree_with_one_task_of_somebody_elses_is_refused_as_a_whole() -> None:
    """This holds if setuid(), which has no event, has made the task another user's."""
    scene = Scene()
    own, child = _tree(scene)
    viewer = scene.viewer(own)
    assert scene.ask(viewer, "snapshot", root=str(own.tid))["ok"]
    child.ids = (0, 0)

    refused = scene.ask(viewer, "snapshot", root=str(own.tid))
    assert refused["kind"] == "not-permitted"
    assert "1 of the 2 tasks of this tree are not yours" in refused["error"]
    assert scene.ask(ROOT, "snapshot", root=str(own.tid))["ok"]


def test_a_root_that_became_somebody_elses_without_an_event_is_refused() -> None:
    """The kernel is asked before any answer, and its answer is not used for long."""
    scene = Scene()
    own, _ = _tree(scene)
    viewer = scene.viewer(own)
    own.ids = (0, 0)
    assert scene.ask(viewer, "snapshot", root=str(own.tid))["kind"] == "not-permitted"
    own.ids = ALICE
    assert scene.ask(viewer, "snapshot", root=str(own.tid))["ok"]


def test_whether_a_pid_namespace_of_somebody_elses_exists_is_not_told() -> None:
    """The inode number is a secret, so both answers are the same."""
    scene = Scene()
    own, _ = _tree(scene)
    init = scene.child(ids=BOB, flags=CLONE_NEWPID)
    mine = scene.child(own, flags=CLONE_NEWPID)
    for space in (init.space, mine.space):
        space.inum += 1000 * init.tid if space is init.space else 0
    scene.watch.sweep()
    numbers = {space.inum for space in (init.space, mine.space)}
    viewer = scene.viewer(own)
    answers = {inum: scene.ask(viewer, "snapshot", root=f"pidns:{inum}", mode="subtree") for inum in (*numbers, 7)}
    texts = {re.sub(r"pid:\[\d+\]", "", answer["error"]) for answer in answers.values() if not answer["ok"]}

    assert len(texts) == 1
    assert {answer["kind"] for answer in answers.values() if not answer["ok"]} == {"no-such-root"}


def test_the_name_of_a_session_leader_outside_a_container_is_not_told() -> None:
    """Root gets the name."""
    scene = Scene()
    leader = scene.child(ids=BOB)
    scene.kernel.setsid(leader)
    outer = scene.kernel.fork(leader)
    outer.ids = ALICE
    init = scene.kernel.fork(outer, CLONE_NEWPID)
    to_alice = scene.ask(scene.viewer(outer), "snapshot", root=str(init.tid), mode="container")
    to_root = scene.ask(ROOT, "snapshot", root=str(init.tid), mode="container")

    assert (to_alice["kind"], to_alice["leaks"]) == ("not-permitted", [])
    assert to_root["kind"] == "refused"
    assert any("(task)" in leak for leak in to_root["leaks"])
    assert scene.ask(scene.viewer(outer), "snapshot", root=str(init.tid), mode="subtree")["ok"]


def test_a_pid_is_as_the_callers_namespace_counts() -> None:
    """The task has another number in the daemon's namespace."""
    scene = Scene()
    init = scene.child(flags=CLONE_NEWPID)
    scene.kernel.setsid(init)
    scene.child(init)
    told = scene.ask(Viewer(init.tid, 0, 0, privileged=True), "snapshot", root="1")

    assert told["tasks"] == 2


def test_a_client_is_told_its_own_numbers_of_an_inner_tree_where_it_asks() -> None:
    """The image begins at the root's namespace; a client within that has no others."""
    scene = Scene()
    init = scene.child(flags=CLONE_NEWPID)
    scene.kernel.setsid(init)
    child = scene.child(init)
    root = str(init.tid)
    told = scene.ask(ROOT, "snapshot", root=root, outer=True)
    numbers = [pid.numbers for pid in registry.load(told["data"]).pids]

    assert [(*above, *inner) for above, inner in zip(told["outer"], numbers, strict=True)] == [
        (init.tid, 1),
        (child.tid, 2),
    ]
    inside = scene.ask(Viewer(init.tid, 0, 0, privileged=True), "snapshot", root="1", outer=True)
    assert [tuple(above) for above in inside["outer"]] == [(), ()]
    assert "outer" not in scene.ask(ROOT, "snapshot", root=root)


def test_who_asks_stays_who_it_is_when_its_number_has_become_anothers() -> None:
    """A connection outlives its process, and numbers are used again."""
    scene = Scene()
    init = scene.child(flags=CLONE_NEWPID)
    scene.kernel.setsid(init)
    asker = Asker(Viewer(init.tid, 0, 0, privileged=True))
    first = scene.service.answer({"verb": "snapshot", "root": "1"}, asker)
    scene.kernel.exit_group(init)
    scene.kernel.wait(scene.kernel.init, init)
    scene.kernel.root.last = init.tid - 1
    again = scene.child()
    second = scene.service.answer({"verb": "snapshot", "root": "1"}, asker)

    assert again.tid == init.tid
    assert first["tasks"] == 1
    assert second["kind"] == "no-such-root"


def test_a_snapshot_leaves_a_line_in_the_log_whoever_asked_and_whatever_came_of_it() -> None:
    """The line has caller, request, result and time; text from a client is quoted."""
    scene = Scene()
    own, _ = _tree(scene)
    scene.ask(scene.viewer(own), "snapshot", root=str(own.tid), format="json")
    scene.ask(scene.viewer(own), "snapshot", root="1")
    scene.ask(ROOT, "snapshot", root='1" uid=7\nckptree: snapshot uid=0')
    scene.ask(ROOT, "subscribe", root=str(own.tid))
    scene.ask(scene.viewer(own), "subscribe")
    scene.ask(ROOT, "status")
    lines = scene.log()

    shared = f'uid=1000 gid=1000 pid={own.tid} comm="task"'
    assert len(lines) == 5
    assert re.fullmatch(
        rf'ckptree: snapshot {shared} root="{own.tid}" mode="subtree" format="json" tasks=2 result="ok" ms=\d+\.\d+',
        lines[0],
    )
    assert re.fullmatch(
        rf'ckptree: snapshot {shared} root="1" mode="auto" format="ckpt" result="not-permitted" ms=\d+\.\d+', lines[1]
    )
    assert r'root="1\x22 uid=7\x0ackptree: snapshot uid=0"' in lines[2]
    assert lines[2].endswith(lines[2][lines[2].index('result="usage"') :])
    assert lines[3].startswith("ckptree: subscribe uid=0")
    assert re.fullmatch(rf'ckptree: subscribe {shared} root="" result="ok" ms=\d+\.\d+', lines[4])


@pytest.mark.parametrize(
    "request_",
    [
        {"verb": "snapshot"},
        {"verb": "snapshot", "root": None},
        {"verb": "snapshot", "root": True},
        {"verb": "snapshot", "root": {"a": [1]}},
        {"verb": "subscribe", "kinds": "birth"},
        {"verb": "subscribe", "kinds": ["birth", "rebirth"]},
        {"verb": "subscribe", "kinds": [[]]},
        {"verb": ["hello"]},
        {"verb": "hello", "protocols": "1"},
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(request_: codec.Message) -> None:
    """The error is counted."""
    scene = Scene()
    told = scene.service.answer(request_, Asker(ROOT))

    assert told["kind"] == "usage"
    assert scene.service.clients.refused == {"usage": 1}


def test_a_connection_carries_one_subscription() -> None:
    """The second one is refused, and the first one goes on."""
    scene = Scene()
    asker = Asker(ROOT)
    assert scene.service.answer({"verb": "subscribe"}, asker)["ok"]
    assert scene.service.answer({"verb": "subscribe"}, asker)["kind"] == "usage"
    assert len(scene.service.feed.subscribers) == 1
    scene.service.forget(asker)
    assert not scene.service.feed.subscribers


def test_subscribers_are_bounded() -> None:
    """The end of one makes room for another."""
    scene = Scene()
    askers = [Asker(ROOT) for _ in range(quota.MAX_SUBSCRIPTIONS + 1)]
    answers = [scene.service.answer({"verb": "subscribe"}, asker) for asker in askers]

    assert [answer["ok"] for answer in answers] == [True] * quota.MAX_SUBSCRIPTIONS + [False]
    assert answers[-1]["kind"] == "busy"
    scene.service.forget(askers[0])
    assert scene.service.answer({"verb": "subscribe"}, askers[-1])["ok"]


def test_no_user_has_all_subscriptions_nor_have_all_ordinary_users() -> None:
    """A user's sub-ids count as that user; root always has room."""
    scene = Scene()

    def subscribe(viewer: Viewer) -> bool:
        return bool(scene.ask(viewer, "subscribe", root=None)["ok"])

    per_user, ordinary = quota.MAX_SUBSCRIPTIONS_PER_USER, quota.MAX_SUBSCRIPTIONS_UNPRIVILEGED
    askers = []
    for user in range(1000, 1000 + ordinary // per_user + 1):
        for place in range(per_user):
            asker = Asker(Viewer(1, user if place else 100_000 + user, 0, owner=None if place else user))
            askers.append((asker, scene.service.answer({"verb": "subscribe"}, asker)["ok"]))
        assert not subscribe(Viewer(1, user, 0))
        assert not subscribe(Viewer(1, 200_000 + user, 0, owner=user))

    assert [ok for _, ok in askers] == [True] * ordinary + [False] * per_user
    assert subscribe(ROOT)


def test_a_subscription_that_fails_after_its_cut_tells_nobody_anything() -> None:
    """The subscription had already begun, when the cut had a time that no image has room for."""
    scene = Scene(boottime_ns=1 << 64)
    told = scene.ask(ROOT, "subscribe", root="1")

    assert told["kind"] == "failed"
    assert any("checkpoint.py" in each for each in scene.log())  # it failed there
    assert not scene.service.feed.subscribers


class BrokenPage(SimPage):
    """The counters of a kernel's side that cannot be read."""

    @property
    def issued(self) -> int:
        """Raise an error."""
        raise ValueError("secret")


def test_an_error_of_ours_is_told_in_full_to_those_alone_who_see_everything() -> None:
    """The text may contain names. The log has all of it."""
    scene = Scene()
    own, _ = _tree(scene)
    scene.watch.probes.page = BrokenPage(scene.kernel)  # type: ignore[assignment]  # it has the interface
    to_root, to_alice = (scene.ask(viewer, "snapshot", root="1") for viewer in (ROOT, scene.viewer(own)))

    assert "secret" in to_root["error"]
    assert "secret" not in to_alice["error"]
    assert sum("ValueError: secret" in each for each in scene.log()) == 2


def test_answers_that_nobody_fetches_are_bounded_by_user() -> None:
    """Root has a limit of its own, and so has each other user."""
    scene = Scene()
    own, _ = _tree(scene)
    scene.unsent.update({1000: quota.MAX_UNSENT + 1, 0: quota.MAX_UNSENT + 1})
    other = scene.child(ids=BOB)
    mine = scene.ask(scene.viewer(own), "snapshot", root=str(own.tid))
    theirs = scene.ask(scene.viewer(other), "snapshot", root=str(other.tid))

    assert mine["kind"] == "busy"
    assert theirs["ok"]
    assert scene.ask(ROOT, "snapshot", root="1")["ok"]


def test_metrics_are_numbers_and_names_of_ours() -> None:
    """They have neither names nor numbers of tasks, because every user may read them."""
    scene = Scene()
    own, _ = _tree(scene)
    scene.ask(ROOT, "snapshot", root=str(own.tid))
    told = scene.ask(scene.viewer(own), "metrics")

    assert told["records"]["fork"] == 2
    assert told["table"]["tasks"]["running"] == 3
    assert told["snapshot_seconds"]["count"] == told["snapshots"] == 1
    assert told["sweeps"] == {"start": 1, "due": 0, "loss": 0, "large-tree": 0, "no-hook": 0}
    assert told["requests"]["snapshot"] == 1
    assert b"task" not in codec.pack({key: value for key, value in told.items() if key != "table"})


def test_a_histogram_counts_up_to_each_bound() -> None:
    """It has the sum too."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.add(value)

    assert histogram.data() == {"buckets": [[1.0, 2], [2.0, 3]], "count": 4, "sum": 12.0}


def test_the_rows_of_a_tree_that_is_asked_for_again_and_again_outlast_the_periodic_work() -> None:
    """Images of a tree that nobody asks for any more go. A change that no event told is in the next image either way.

    The rows of each image are kept here, so that those of no other one are taken for the same.
    """
    scene, seen, made = Scene(), all_rows(), list[int]()
    root, child = _tree(scene)

    def users() -> list[int | None]:
        image = registry.load(scene.ask(ROOT, "snapshot", root=str(root.tid), mode="subtree")["data"])
        new = [rows for rows in all_rows() if not any(rows is other for other in seen)]
        seen.extend(new)
        made.extend(len(rows.tasks) for rows in new)
        return [task.uid for task in image.tasks]

    assert users() == [1000, 1000]
    scene.service.rest()

    assert users() == [1000, 1000]
    assert made == [2]

    scene.service.rest(0)

    assert users() == [1000, 1000]
    assert made == [2, 2]

    child.ids = BOB
    scene.service.rest()

    assert users() == [1000, 1001]
    assert made == [2, 2, 2]
