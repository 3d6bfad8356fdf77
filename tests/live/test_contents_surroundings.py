# SPDX-License-Identifier: Apache-2.0
"""Real programs within trees that CRIU restores wrongly, refuses or hangs at, and within pid namespaces.

Two programs run in each tree, and PostgreSQL in some. With CKPTREE_PROGRAMS=all every program of
tests/live/programlist.py runs in each.

PostgreSQL refuses to run as root, and a root without CAP_SYS_RESOURCE cannot have CRIU dump another user's processes. So
the whole tree is of its user, and so is criu; or the tree is root's, PostgreSQL in it is of its own user, and all of that
is in a user namespace of root's.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import psutil
import pytest

from agent.restart.contents.hostfacts import CAP_SYS_RESOURCE, this_host
from tests.live import criutrials
from tests.live.criutrials import Row, tree_rows
from tests.live.dumps import attempt, eventually
from tests.live.programlist import PROGRAMS
from tests.live.realprograms import RealProgram, Words, dumped, gone_on, running, short_folder
from tests.live.serverprograms import POSTGRES_BELOW_ROOT
from tests.support import suitepackages

_NAMESPACES: Final = {"subtree": 0, "container": 1, "inner container": 2}
"""The number of pid namespaces around the tree, by the mode of its place."""
_ALONE: Final = ("sh", "-c", 'exec setsid "$@" </dev/null >output 2>&1', "sh")
"""Words in front of a container's first process.

unshare says that its child was killed, so it and the tree do not write to the same file; and CRIU dumps no file of another
mount namespace. With a death signal, which CRIU restores, a tree would end with CRIU.
"""
_FEW_MOUNTS: Final = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    'umount -R -l /sys; grep -o " /dev/[^ ]*" /proc/mounts | tac | xargs -rn 1 umount -l; exec "$@"',
    "sh",
)
"""Words in front of a user namespace: in there CRIU cannot look below mounts that were made outside of it."""
_TREE: Final = ("ready", "scriptedtree")
"""The names of the processes around the program."""


class Place(NamedTuple):
    """A place of a program in a tree.

    Attributes:
        mode: ``subtree``; ``container``, whose root is the init of a pid namespace; or ``inner container``, whose pid
            namespace is within another one.
        script: of scriptedtree.c; the program is the node that calls exec.
        criu: what CRIU may do with it.
    """

    mode: str
    script: str
    criu: frozenset[str]


_RIGHT, _WRONG = frozenset({"right"}), frozenset({"wrong"})
_REFUSED, _STUCK = frozenset({"refused"}), frozenset({"refused", "hangs"})
PLACES: Final = {
    "a session": Place("subtree", "fork 0 1; setsid 1; exec 1", _RIGHT),
    "a pid namespace": Place("container", "fork 0 1; setsid 1; exec 1", _RIGHT),
    "a pid namespace within another": Place("inner container", "fork 0 1; setsid 1; exec 1", _RIGHT),
    "an orphan of a session whose leader is gone": Place(
        "subtree", "subreaper 0; fork 0 1; setsid 1; fork 1 2; exit 1 0; wait 0 1; exec 2", _WRONG
    ),
    "that below an inner subreaper": Place(
        "subtree", "fork 0 1; setsid 1; subreaper 1; fork 1 2; setsid 2; fork 2 3; exit 2 0; wait 1 2; exec 3", _REFUSED
    ),
    "a group whose leader has left it": Place(
        "subtree", "fork 0 1; setpgid 1 1; fork 0 2; setpgid 2 1; setpgid 1 0; exec 2", _STUCK
    ),
    "beside a zombie that was orphaned": Place(
        "subtree",
        "subreaper 0; fork 0 1; setsid 1; fork 1 2; fork 2 3; exit 2 0; wait 1 2; exit 3 3; dead 0 3; fork 1 4; exec 4",
        _STUCK,
    ),
    "beside a zombie of signal 64": Place(
        "container", "fork 0 1; exit 1 3; dead 0 1; fork 0 2; kill 2 64; dead 0 2; fork 0 3; exec 3", _WRONG
    ),
    "a child of a thread": Place("container", "fork 0 1; fork 1 2 thread; fork 2 3; exec 3", _WRONG),
    "a container of all these": Place(
        "container",
        # A zombie, and an inner subreaper with a session of its own; in another one, whose leader is gone, a zombie, which
        # was adopted, and its sibling; a zombie of a signal; a group whose leader has left it; and the program, below a
        # thread of an orphan.
        "subreaper 0; fork 0 1; exit 1 3; dead 0 1; fork 0 2; setsid 2; subreaper 2; fork 2 3; setsid 3; fork 3 4; "
        "fork 4 5; exit 4 0; exit 3 0; wait 2 3; fork 2 6; kill 6 15; dead 2 6; fork 2 7; setpgid 7 7; fork 2 8; "
        "setpgid 8 7; setpgid 7 2; fork 2 9; fork 9 10; exit 9 0; wait 2 9; fork 10 11 thread; fork 11 12; exec 12",
        _REFUSED,
    ),
}
_ALWAYS: Final = ("bash pipeline", "gunicorn")
_SOMEWHERE: Final = {
    "PostgreSQL": ("an orphan of a session whose leader is gone", "a container of all these"),
    "PostgreSQL below root": ("a child of a thread", "a container of all these"),
}
_TRIED: Final = PROGRAMS | {"PostgreSQL below root": POSTGRES_BELOW_ROOT}
CHOSEN: Final = [
    (where, name)
    for where in PLACES
    for name in _TRIED
    if os.environ.get("CKPTREE_PROGRAMS") == "all" or name in _ALWAYS or where in _SOMEWHERE.get(name, ())
]
JUDGED: Final = "redis"
"""The program that both CRIU and ckptree restore: its files are as they were when CRIU's restore has been killed."""


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the tree."""
    made = tmp_path_factory.mktemp("tree") / "scriptedtree"
    source = Path(__file__).with_name("scriptedtree.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", made, source], check=True)
    return made


@contextmanager
def placed(real: RealProgram, folder: Path, tree: Path, mode: str, script: str) -> Iterator[int]:
    """Run a program at a place of a tree; yield the pid of the tree's root when all of it is made and has begun."""
    own = ("--mount-proc",) if _has_own_mounts(real, mode) else ()
    around = ("unshare", "--pid", "--fork", *own) * _NAMESPACES[mode]

    def within(words: Words) -> Words:
        outside = (*_FEW_MOUNTS, *real.outside) if own and real.outside else real.outside
        return [*outside, *around, *(_ALONE if around else ()), *real.rights, tree, script, *words]

    with running(real, folder, within) as pid:
        started = psutil.Process(pid)
        eventually(lambda: _ready(started) > 0, "the tree is made")
        yield _ready(started)


def _ready(started: psutil.Process) -> int:
    """Return the pid of the root of a tree that is made, else 0."""
    for each in (started, *started.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            if each.name() == "ready":
                return each.pid
    return 0


def _has_own_mounts(real: RealProgram, mode: str) -> bool:
    """Return True if a tree has mounts of its own, and a /proc among them.

    CRIU has the init of a pid namespace mount /proc unless it has one of its own. Only root may do so.
    """
    return bool((real.rights or real.outside) and _NAMESPACES[mode])


def restartable(real: RealProgram, mode: str) -> RealProgram:
    """Return a program as it is restarted: a tree with mounts of its own is restarted within such a namespace."""
    own = ("unshare", "--mount") if _has_own_mounts(real, mode) else ()
    return real._replace(ends=False, within=(*real.within, *own))


def around(rows: dict[int, Row]) -> dict[int, Row]:
    """Return the processes of the script, and the program's root, without what changes of itself, but nothing below it."""
    own = {pid for pid, row in rows.items() if row.name in _TREE}
    theirs = {pid: row._replace(threads=0, state="") for pid, row in rows.items() if pid not in own and row.ppid in own}
    return {pid: rows[pid] for pid in own} | theirs


@pytest.mark.parametrize(("where", "name"), CHOSEN)
def test_a_program_goes_on_at_its_place(where: str, name: str, tree: Path, daemon_socket: Path) -> None:
    """All numbers, parents, states and users around it are the kernel's own, before and after."""
    real, place = _TRIED[name], PLACES[where]
    with short_folder() as folder:
        with placed(real, folder, tree, place.mode, place.script) as root:
            before = around(tree_rows(root))
            dumped(real, root, folder, daemon_socket)
        with gone_on(restartable(real, place.mode), folder) as ready:
            assert around(tree_rows(ready["tasks"][0]["pid"])) == before


@pytest.mark.parametrize("where", PLACES)
def test_criu_does_with_the_same_dump_what_it_does_with_such_a_tree(
    where: str, tree: Path, daemon_socket: Path
) -> None:
    """And ckptree restores it right."""
    real, place = PROGRAMS[JUDGED], PLACES[where]
    with short_folder() as folder:
        with placed(real, folder, tree, place.mode, place.script) as root:
            before = around(tree_rows(root))
            images = dumped(real, root, folder, daemon_socket)
        trial = criutrials.restore(suitepackages.criu(real.suite), images, place.mode.rpartition(" ")[2])
        assert trial.rows or trial.outcome != "ok", "the tree ended before anybody looked"
        found = trial.outcome if trial.outcome != "ok" else "right" if around(trial.rows) == before else "wrong"
        assert found in place.criu, (trial.said, trial.rows)
        with gone_on(real, folder) as ready:
            assert around(tree_rows(ready["tasks"][0]["pid"])) == before


NESTED: Final = (
    "fork 0 1; setsid 1; fork 0 2 newpid; subreaper 2; fork 2 3; setsid 3; fork 3 4; exit 3 0; wait 2 3; "
    "fork 2 5; exit 5 3; dead 2 5; exec 1"
)


def test_criu_dumps_no_program_beside_a_nested_pid_namespace(tree: Path) -> None:
    """It says so, and the program goes on. It dumps the same tree without the nested namespace."""
    real = PROGRAMS[JUDGED]
    with short_folder() as folder, placed(real, folder, tree, "container", NESTED) as root:
        refused = attempt(root, folder / "images", "--leave-running")
        real.ask(folder)
        real.judge(folder)
    assert refused.code == 1
    assert "nested pid namespace" in refused.log
    with short_folder() as folder, placed(real, folder, tree, "container", NESTED.replace(" newpid", "")) as root:
        taken = attempt(root, folder / "images", "--leave-running")
    assert taken.code == 0, taken.log


def test_criu_dumps_another_users_program_outside_of_user_namespaces_for_a_root_with_all_rights_alone(
    tree: Path,
) -> None:
    """To others it says so, and the program goes on. Such a root runs criu as that user, or makes a user namespace."""
    real = POSTGRES_BELOW_ROOT._replace(outside=("unshare", "--ipc"))
    place = PLACES["a session"]
    with short_folder() as folder, placed(real, folder, tree, place.mode, place.script) as root:
        taken = attempt(root, folder / "images", "--leave-running")
        real.ask(folder)
        real.judge(folder)
    if this_host(pidns=False).has(CAP_SYS_RESOURCE):
        assert taken.code == 0, taken.log
    else:
        assert taken.code == 1
        assert "Can't get rlimit" in taken.log
