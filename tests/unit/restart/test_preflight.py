# SPDX-License-Identifier: Apache-2.0
"""The refusals before anything is made, and the commands of the processes of a tree."""

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cli.restartverb import ENVIRONMENT
from agent.errors import CkptreeError, HostError, UsageError
from agent.model import FileOwner, OutsidePid, ProcessDetails, Tag, Terminal
from agent.restart.planning.plan import CloneBits, Op, Phase, Role
from agent.restart.planning.search import make_plan
from agent.restart.rebuild.commands import at_their_beginning, one_command, split_command, with_path
from agent.restart.rebuild.preflight import preflight
from tests.support.builders import a_snapshot, a_task
from tests.support.plans import PlanWriter


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Return a procfs with a few files."""
    for name, text in {
        "self/status": "Name:\tx\nNSpid:\t7\nCapEff:\t000001ffffffffff\n",
        "self/cgroup": "0::/\n",
        "sys/kernel/pid_max": "32768\n",
        "900/status": "Name:\tsshd\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_all_reasons_are_told_at_once(proc: Path) -> None:
    """The reasons are numbers in use, with their processes, and numbers beyond the limit."""
    writer = PlanWriter(pidns=False)
    root = writer.actor(role=Role.REAPER, tag=0)
    for number in (900, 901, 40000):
        writer.born(root, number)
    with pytest.raises(HostError) as caught:
        preflight(writer.plan(), proc=proc)

    assert str(caught.value).splitlines()[1:] == [
        "  numbers go up to 32767 here, and the tree has 40000: raise kernel.pid_max, or leave out --no-pidns",
        "  the number 900 is taken by sshd",
        "  leave out --no-pidns, or, without contents, take any numbers with --no-pids",
    ]


def test_a_low_limit_of_open_files_is_told(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptors of the helper are at high numbers for a moment."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (12, 20000))
    writer = PlanWriter(pidns=False)
    writer.actor(role=Role.REAPER, tag=0)
    with pytest.raises(HostError, match=r"the limit of open files \(ulimit -n\) is 12, and a restart takes 128"):
        preflight(writer.plan(), proc=proc)


def test_a_number_that_only_a_session_or_group_has_is_taken_too(proc: Path) -> None:
    """Its leader has exited, and another process still refers to the number."""
    (proc / "903").mkdir()
    (proc / "903/stat").write_text("903 (a) b) S 1 902 901 0 -1")
    writer = PlanWriter(pidns=False)
    root = writer.actor(role=Role.REAPER, tag=0)
    for number in (901, 902):
        writer.born(root, number)
    with pytest.raises(HostError) as caught:
        preflight(writer.plan(), proc=proc)

    assert str(caught.value).splitlines()[1:3] == [
        "  the number 901 is taken by the session of a) b, 903",
        "  the number 902 is taken by the group of a) b, 903",
    ]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            "State:\tZ (zombie)\nTgid:\t900\nPPid:\t77\nTracerPid:\t0\nThreads:\t1\n",
            "a zombie, true, that 77 has not reaped",
        ),
        (
            "State:\tZ (zombie)\nTgid:\t900\nPPid:\t77\nTracerPid:\t88\nThreads:\t1\n",
            "a zombie, true, that 88 has not reaped",
        ),
        ("State:\tZ (zombie)\nTgid:\t900\nPPid:\t77\nTracerPid:\t0\nThreads:\t2\n", "true, whose threads live on"),
        (
            "State:\tZ (zombie)\nTgid:\t899\nPPid:\t77\nTracerPid:\t88\nThreads:\t2\n",
            "a zombie, true, that 88 has not reaped",
        ),
        ("State:\tS (sleeping)\nTgid:\t900\nPPid:\t77\nThreads:\t1\n", "true"),
    ],
)
def test_a_zombie_that_has_a_number_is_told_with_its_reaper(proc: Path, status: str, said: str) -> None:
    """A tracer comes before the parent; only the zombie of a whole process waits for either of them."""
    (proc / "900/status").write_text(f"Name:\ttrue\n{status}")
    writer = PlanWriter(pidns=False)
    writer.born(writer.actor(role=Role.REAPER, tag=0), 900)
    with pytest.raises(HostError) as caught:
        preflight(writer.plan(), proc=proc)

    assert str(caught.value).splitlines()[1] == f"  the number 900 is taken by {said}"


@pytest.mark.parametrize(("per_namespace", "refused"), [(True, False), (False, True), (None, False)])
def test_numbers_of_a_new_namespace_obey_the_limit_of_the_host_where_the_kernel_has_one_limit(
    proc: Path, *, per_namespace: bool | None, refused: bool
) -> None:
    """Since Linux 6.14 each pid namespace has a limit of its own; if that limit is unknown, clone3() decides."""
    writer = PlanWriter()
    writer.born(writer.actor(1), 40000)
    plan = writer.plan()
    if refused:
        with pytest.raises(
            HostError, match=r"numbers go up to 32767 here, and the tree has 40000: raise kernel\.pid_max"
        ):
            preflight(plan, proc=proc, limit_per_namespace=lambda: per_namespace)
    else:
        preflight(plan, proc=proc, limit_per_namespace=lambda: per_namespace)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_an_init_that_a_division_has_killed_ends_so_on_some_machines_alone(machine: str, proc: Path) -> None:
    """On other machines the division returns 0, and no signal from outside kills an init so; other processes die so on
    any machine.
    """
    writer = PlanWriter()
    root = writer.actor(1)
    plain, init = writer.born(root, 5), writer.born(root, 10, 1, bits=CloneBits.NEWPID)
    for actor in (plain, init):
        writer.step(Op.EXIT, actor, value=signal.SIGFPE, phase=Phase.ACTIVATE)
    if machine == "x86_64":
        preflight(writer.plan(), proc=proc, machine=machine)
        return
    with pytest.raises(HostError) as caught:
        preflight(writer.plan(), proc=proc, machine=machine)

    (reason,) = str(caught.value).splitlines()[1:]
    assert reason == (
        "  the init 10/1 was killed by SIGFPE, by which an init ends of its own fault alone, and on aarch64 no division "
        "traps: rebuild it on x86_64"
    )


def test_who_runs_its_program_again_has_no_namespace_waiting_for_its_next_child() -> None:
    """unshare(CLONE_NEWPID) would fail; a process that has only forked does not call it again."""
    tasks = [
        a_task(tag, tag - 1, child_namespace=0, child_namespace_dead=True, details=ProcessDetails(execed=execed))
        for tag, execed in ((1, True), (2, False), (3, None))
    ]
    snapshot = at_their_beginning(a_snapshot([(20,), (21,), (22,)], tasks))

    assert [task.child_namespace for task in snapshot.tasks] == [None, 0, None]
    assert [task.child_namespace_dead for task in snapshot.tasks] == [None, True, None]


def test_the_number_of_an_init_can_be_had_in_a_new_namespace_alone(proc: Path) -> None:
    """The message comes before anything is made, with the alternatives."""
    (proc / "1").mkdir()
    (proc / "1/status").write_text("Name:\tsystemd\n")
    snapshot = a_snapshot([(1,), (20,)], [a_task(1, 0), a_task(2, 1)], mode="container")
    with pytest.raises(HostError) as caught:
        preflight(make_plan(snapshot, pidns=False), proc=proc)

    assert str(caught.value).splitlines()[1:] == [
        "  the number 1 is taken by systemd, the init of this namespace",
        "  leave out --no-pidns, or, without contents, take any numbers with --no-pids",
    ]
    preflight(make_plan(snapshot, pidns=False), any_numbers=True, proc=proc)


def test_a_limit_of_tasks_is_that_of_any_cgroup_above(proc: Path, tmp_path: Path) -> None:
    """A container sees its cgroup as the root of its mount, and the limit holds all the same."""
    top = tmp_path / "unified"
    (top / "own").mkdir(parents=True)
    (proc / "self/mountinfo").write_text(f"30 22 0:28 / {top} rw - cgroup2 cgroup2 rw\n")
    (proc / "self/cgroup").write_text("0::/own\n")
    (top / "own/pids.max").write_text("max\n")
    (top / "pids.max").write_text("10\n")
    (top / "pids.current").write_text("9\n")
    writer = PlanWriter()
    writer.born(writer.actor(1), 900)
    with pytest.raises(HostError, match=f"the cgroup {top} may have 10 tasks and has 9; the tree has 2"):
        preflight(writer.plan(), proc=proc)
    (top / "pids.current").write_text("8\n")
    preflight(writer.plan(), proc=proc)


def test_a_namespace_of_its_own_has_all_numbers_free(proc: Path) -> None:
    """The namespace is still empty; with any numbers no check is necessary."""
    writer = PlanWriter()
    writer.born(writer.actor(1), 900)
    preflight(writer.plan(), proc=proc)
    here = PlanWriter(pidns=False)
    here.actor(900)
    preflight(here.plan(), any_numbers=True, proc=proc)


def test_who_may_choose_no_numbers_here_is_told_what_else_there_is(proc: Path) -> None:
    """In a namespace of its own the user namespace decides."""
    (proc / "self/status").write_text("NSpid:\t7\nCapEff:\t0000000000000000\n")
    here = PlanWriter(pidns=False)
    here.actor(901)
    with pytest.raises(HostError, match="--no-pids, or leave out --no-pidns"):
        preflight(here.plan(), proc=proc)
    own = PlanWriter()
    own.actor(1)
    preflight(own.plan(), proc=proc)


def test_root_of_a_user_namespace_in_the_pid_namespace_of_another_is_told_before_anything_is_made(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has all capabilities in its user namespace, and none over the numbers here; with any numbers it needs none."""
    (proc / "self/status").write_text("NSpid:\t7\nCapEff:\t000001ffffffffff\n")
    here = PlanWriter(pidns=False)
    here.actor(901)
    preflight(here.plan(), proc=proc)
    monkeypatch.setattr("agent.restart.rebuild.preflight.owns_pid_namespace", lambda _: False)
    with pytest.raises(HostError, match=r"rights over this pid namespace, .*: leave out --no-pidns, take any numbers"):
        preflight(here.plan(), proc=proc)
    preflight(here.plan(), any_numbers=True, proc=proc)


def nested(writer: PlanWriter) -> None:
    """Make a nested namespace by clone()."""
    writer.born(0, 901, 1, bits=CloneBits.NEWPID)


def unshared(writer: PlanWriter) -> None:
    """Let unshare() choose the namespace of the next child."""
    writer.step(Op.UNSHARE, 0)


@pytest.mark.parametrize("nests", [nested, unshared])
def test_who_may_not_administer_is_told_that_he_cannot_have_nested_namespaces_here(
    nests: Callable[[PlanWriter], None], proc: Path
) -> None:
    """This holds with any numbers too; a user may have nested ones in a namespace of its own, and flat trees here."""
    (proc / "self/status").write_text("NSpid:\t7\nCapEff:\t0000010000000000\n")
    here, own, flat = (PlanWriter(pidns=pidns) for pidns in (False, True, False))
    for writer in (here, own, flat):
        writer.actor(900 if writer is not own else 1)
        if writer is not flat:
            nests(writer)
    for any_numbers in (False, True):
        with pytest.raises(HostError, match="takes CAP_SYS_ADMIN here: be root, or leave out --no-pidns"):
            preflight(here.plan(), any_numbers=any_numbers, proc=proc)
    preflight(own.plan(), proc=proc)
    preflight(flat.plan(), any_numbers=True, proc=proc)


def test_a_user_without_any_right_is_given_one_advice_for_nested_namespaces_here(proc: Path) -> None:
    """CAP_SYS_ADMIN permits to choose numbers, too."""
    (proc / "self/status").write_text("NSpid:\t7\nCapEff:\t0000000000000000\n")
    writer = PlanWriter(pidns=False)
    writer.actor(905)
    writer.born(0, 906, 1, bits=CloneBits.NEWPID)

    with pytest.raises(HostError) as refused:
        preflight(writer.plan(), proc=proc)

    assert str(refused.value).count("leave out --no-pidns") == 1


@pytest.mark.parametrize("pidns", [True, False], ids=["pidns", "here"])
def test_a_procfs_of_another_namespace_is_refused(*, pidns: bool, proc: Path) -> None:
    """The tree is verified and killed by numbers of this namespace."""
    (proc / "self/status").write_text("NSpid:\t700\t7\nCapEff:\t000001ffffffffff\n")
    writer = PlanWriter(pidns=pidns)
    writer.actor(1 if pidns else 901)
    with pytest.raises(HostError, match=r"numbers of another pid namespace .*\(mount -t proc proc "):
        preflight(writer.plan(), proc=proc)


def test_namespaces_nest_only_so_deep(proc: Path) -> None:
    """The depth counts from the caller's namespace."""
    (proc / "self/status").write_text("NSpid:\t" + "\t".join("7" * 20) + "\n")
    writer = PlanWriter()
    writer.born(writer.actor(1), *range(100, 114))
    with pytest.raises(HostError, match="this process is at level 19, and the tree needs 14 more"):
        preflight(writer.plan(), proc=proc)
    writer.actors[1] = writer.actors[1]._replace(numbers=tuple(range(100, 113)), depth=12)
    (proc / "self/status").write_text("NSpid:\t7\n")
    preflight(writer.plan(), proc=proc)


@pytest.mark.parametrize(("text", "said"), [("'a", "No closing quotation"), ("", "expected"), ("  ", "expected")])
def test_a_command_that_is_none_is_a_usage_error(text: str, said: str) -> None:
    """The error comes before the image is read."""
    with pytest.raises(UsageError, match=said):
        split_command(text)


def test_a_program_that_is_not_there_is_an_error_of_ours() -> None:
    """The message names it."""
    with pytest.raises(CkptreeError, match="there is no program no-such-1") as caught:
        with_path(["no-such-1", "x"])
    assert caught.value.exit_code == 1


def test_a_command_is_split_as_a_shell_does_and_no_shell_runs() -> None:
    """The path is searched here; argv[0] is the given name."""
    path, *argv = with_path(split_command("sh -c 'a $B' \"c d\""))

    assert os.path.isabs(path)
    assert argv == ["sh", "-c", "a $B", "c d"]


def test_each_process_is_told_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables are tag, pid, numbers, threads, terminal and owners; threads, zombies and groups with a dead leader
    have none.
    """
    monkeypatch.setenv("CKPTREE_STALE", "1")
    tty = Terminal(b"pts/0", Tag(1), None)
    owner = FileOwner(5, OutsidePid((77,), (0,)), "pgrp")
    tasks = [
        a_task(1, 0),
        a_task(2, 1, tty=tty, fown=(owner,)),
        a_task(3, 1, tgid=2),
        a_task(4, 1, state="zombie", exit_code=0),
    ]
    snapshot = a_snapshot([(1,), (20,), (30,), (40,)], tasks, mode="container")
    plan = make_plan(snapshot)
    numbers = [actor.numbers for actor in plan.actors]
    pids = [1000 + index for index in range(len(plan.actors))]
    programs = one_command(["/bin/x", "x", "y"], snapshot, plan, numbers, pids, "image.ckpt")
    index = plan.tasks[1]
    env = dict(text.split(b"=", 1) for text in programs[index].env)
    own = {key: value.decode() for key, value in env.items() if key.startswith(b"CKPTREE_")}

    assert set(programs) == {plan.tasks[0], index}
    assert programs[index][:2] == (b"/bin/x", [b"x", b"y"])
    assert env[b"PATH"] == os.environb[b"PATH"]
    assert {key.decode() for key in own} == ENVIRONMENT.keys()
    assert own == {
        b"CKPTREE_TAG": "2",
        b"CKPTREE_PID": str(pids[index]),
        b"CKPTREE_NUMBERS": "20",
        b"CKPTREE_THREADS": "3:30",
        b"CKPTREE_IMAGE": os.path.abspath("image.ckpt"),
        b"CKPTREE_TTY": '{"name":"pts/0","pgrp":1,"old_pgrp":null}',
        b"CKPTREE_FOWN": '[{"fd":5,"pid":{"numbers":[77],"namespaces":[0]},"type":"pgrp"}]',
    }
