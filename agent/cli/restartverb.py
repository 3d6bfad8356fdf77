# SPDX-License-Identifier: Apache-2.0
"""The verb restart: rebuild the tree of a snapshot, and stay with it.

With `--run hold` the exit code is 0 when a signal has taken the tree down. With a command or contents it is the root's, or
125 if restart itself has failed, since 1 and 2 may be codes of the root. With `--detach` it is never the root's. Wrong
options always give 2, as everywhere.
"""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from agent.cli import staying, storefiles, taskrights, unread
from agent.cli.declarations import Option
from agent.cli.fileverbs import File, load_file, warn_of_doubt
from agent.cli.options import DropDying, Nats, ShellJob, TcpClose, TcpEstablished
from agent.cli.restartwish import RestartWish, TakenFile, required_signers
from agent.cli.terminal import say
from agent.errors import SIGNALLED, CkptreeError, RefusedError, UsageError
from exporters import gcpause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.cli.signals import Asked
    from agent.model import Snapshot
    from agent.restart.planning.plan import Plan
    from agent.restart.rebuild.coordinator import Rebuild
    from agent.restart.rebuild.helperabi import Program
    from agent.restart.rebuild.verify import Standing

OWN_FAILURE = 125
ENVIRONMENT = {
    "CKPTREE_TAG": "which task of the image it is",
    "CKPTREE_PID": "its pid, as ckptree sees it",
    "CKPTREE_NUMBERS": "its pid at every level: 30,1",
    "CKPTREE_THREADS": "TAG:NUMBERS of each thread it has to make",
    "CKPTREE_IMAGE": "the path of FILE; empty where FILE has none",
    "CKPTREE_TTY": "its terminal, in JSON",
    "CKPTREE_FOWN": "the owners of its files, in JSON",
}
_VARIABLES = "".join(f"  {name:<16} {meaning}\n" for name, meaning in ENVIRONMENT.items())
EPILOG = "\b\nA CMD finds in its environment\n" + _VARIABLES
EPILOG += """
\b
--json prints one line when the tree stands, before any CMD:
  {"root": PID, "tasks":
   [{"tag": T, "pid": PID, "numbers": [N, ...]}, ...]}

\b
Exit codes of hold, and of all with --detach: 0 ended by a
signal, or left to its guard; 1 failed; 2 usage; 5 this host
cannot, or not now; 7 cannot be rebuilt; 8 no image, or no
contents. Of CMD, argv and contents without --detach: that of
the root, 128 and more for a signal; 125 failed; 2 usage; with
argv or contents 7: what was recorded cannot be run here, or a
part of it cannot be restored.
"""


def restart(
    file: File,
    pids: Annotated[bool, Option("--pids/--no-pids", help="Give the tasks the same pids, or any.")] = True,
    pidns: Annotated[
        bool,
        Option("--pidns/--no-pidns", help="Rebuild the tree in a pid namespace of its own, or in the caller's."),
    ] = True,
    run: Annotated[
        str,
        Option(
            help="Let the tasks do this: hold does nothing, argv runs what they ran, else it is a command for all.",
            metavar="CMD",
        ),
    ] = "hold",
    detach: Annotated[bool, Option("--detach", help="Return when the tree is active. A guard stays with it.")] = False,
    pidfile: Annotated[
        Path | None,
        Option(
            help="With --detach, write the guard's pid to this file. SIGTERM to the guard ends the tree.",
            metavar="FILE",
            readable=False,
        ),
    ] = None,
    drop_held: Annotated[
        bool, Option("--drop-held", help="With --run argv, leave out processes that only forked.")
    ] = False,
    drop_dying: DropDying = False,
    keep_rights: Annotated[
        bool, Option("--keep-rights", help="Leave tasks that hold, and CMD, all rights of the caller.")
    ] = False,
    as_json: Annotated[
        bool, Option("--json", help="Print one line of JSON when the tree stands: its tags and pids.")
    ] = False,
    contents: Annotated[
        str,
        Option(
            metavar="criu:DIR",
            help="Give the tasks their memory, registers and files from CRIU's images in this folder, and let them run on.",
        ),
    ] = "",
    shell_job: ShellJob = False,
    tcp_established: TcpEstablished = False,
    tcp_close: TcpClose = False,
    verify: Annotated[
        Path | None,
        Option(
            metavar="KEY",
            help="Refuse a file that FILE.sig does not show to be signed by this ssh key, or by one of these signers.",
        ),
    ] = None,
    of_set: Annotated[
        str | None,
        Option(
            "--set",
            metavar="MANIFEST",
            help="Refuse a FILE that is no image or contents of this set; a signature is the manifest's.",
        ),
    ] = None,
    nats: Nats = None,
) -> None:
    """Rebuild the tree of a snapshot, with the same pids at every level, and stay with it until it ends."""
    from agent.cli.contents import external, named_by
    from agent.cli.signals import Interrupted, raising

    if pidfile is not None and not detach:
        raise UsageError("--pidfile names the guard, which stays only with --detach: add --detach")
    if drop_held and run != "argv":
        raise UsageError("--drop-held leaves out processes that would hold with --run argv: add --run argv")
    if keep_rights and run == "argv":
        raise UsageError(
            "--keep-rights gives tasks the rights of the caller, and --run argv their own: leave one of them out"
        )
    file = storefiles.named(file, nats)
    contents = named_by(file, storefiles.named(contents, nats))
    if contents and (run != "hold" or keep_rights or not pids):
        raise UsageError(
            "with contents the tasks run their own programs, with their own rights and pids: "
            "leave out --run, --keep-rights and --no-pids"
        )
    if contents and drop_dying:
        raise UsageError("--drop-dying leaves tasks out, and a dump with contents has none that end: leave it out")
    allowed = external(
        with_contents=bool(contents),
        stays=not detach,
        shell_job=shell_job,
        tcp_established=tcp_established,
        tcp_close=tcp_close,
    )
    command = _split(run) if run not in ("hold", "argv") else None
    wish = RestartWish(
        file,
        not pids,
        pidns,
        run,
        command,
        detach,
        pidfile,
        as_json,
        verify,
        storefiles.named(of_set, nats) if of_set else None,
        drop_held,
        drop_dying,
        keep_rights,
        contents,
        allowed,
    )
    begun: list[bool] = []
    try:
        with raising() as asked:  # from the beginning: a plan may take several seconds
            code = _restart(wish, asked, begun)
    except CkptreeError as error:
        is_usage = isinstance(error, UsageError) and not begun
        refused = isinstance(error, RefusedError) and (run == "argv" or contents)
        if not wish.fails_apart or is_usage or refused:
            raise
        say(str(error))
        for line in getattr(error, "leaks", ()):
            say(f"  {line}")
        raise SystemExit(OWN_FAILURE) from error
    except Interrupted as interrupted:
        code = 0 if wish.holds and not wish.detach and begun else SIGNALLED + interrupted.number
    except Exception as error:  # whatever it is, its exit code must not be taken for the root's
        if not wish.fails_apart:
            raise
        _say_unforeseen(error)
        raise SystemExit(OWN_FAILURE) from error
    if code:
        raise SystemExit(code)


def _restart(wish: RestartWish, asked: "Asked", begun: list[bool]) -> int:
    """Make the tree and stay with it; `begun` gets an entry before anything of the tree is made."""
    from agent.cli.contents import examined, filling, located, run_on, whole, with_terminal
    from agent.cli.signals import Interrupted

    gcpause.make_rare()
    try:
        from agent.restart.rebuild.beginning import beginning
        from agent.restart.rebuild.coordinator import Rebuild
        from agent.restart.rebuild.timenamespace import NO_NAMESPACES

        if wish.key is not None:
            from agent.cli import signature

            signature.check_key(wish.key)
        words = _with_path(wish.command) if wish.command else None
        given, wish = wish, located(wish)
        snapshot, plan, programs = _planned(wish)
        filled = whole(examined(wish.images, snapshot, plan, with_terminal(wish.allowed))) if wish.images else None
        snapshot, plan = (filled.snapshot, filled.plan) if filled is not None else (snapshot, plan)
        asked.check()
    except RuntimeError as error:  # an import may wrap an exception that is raised within it
        if not asked.numbers:
            raise
        raise Interrupted(asked.numbers[-1]) from error
    begun.append(True)
    begin = beginning(snapshot, pidns=wish.pidns, apart=wish.detach)
    # Tasks that hold must not keep the caller's streams, least of all its input.
    no_stdio = wish.detach or wish.run == "hold"
    endings = taskrights.endings(snapshot, plan)
    with (
        Rebuild(
            plan,
            ids=endings.ids if endings is not None else {},
            any_numbers=wish.any_numbers,
            no_stdio=no_stdio,
            begin=begin,
            keep_rights=wish.keep_rights,
            keyring=taskrights.own_keyring(wish, snapshot),
            no_terminal=taskrights.without_terminal(wish, snapshot, plan, programs, told=not no_stdio),
            stage=filled.stage.section() if filled is not None else b"",
            namespaces=filled.namespaces if filled is not None else NO_NAMESPACES,
        ) as rebuild,
        filling(rebuild, filled) as fill,
    ):
        work = fill.work if fill is not None else iter(())
        rebuild.build(meanwhile=partial(_prepare, asked), work=work)
        from agent.restart.rebuild.verify import Standing

        strangers = endings.refused if endings is not None else ()
        standing = Standing(snapshot, plan, rebuild.pids, rebuild.numbers, rebuild.guard, strangers)
        if words is not None:
            programs = _commands(words, standing, wish)
        _prove(standing, wish, rebuild, work)
        if fill is not None:
            fill.fill()
            _announce(standing, rebuild, wish)
        asked.check()
        if fill is not None:
            release = partial(run_on, fill, given.file, given.contents)
        else:
            held = taskrights.holding(snapshot, plan, programs or {})
            release = partial(
                taskrights.release, rebuild, standing, held, programs or {}, compared=not wish.keep_rights
            )
        if wish.detach:
            release()
            staying.leave(rebuild, wish.pidfile)
            return 0
        if not wish.fails_apart:
            release()
            return staying.hold(rebuild, asked)
        return staying.forward(rebuild, release)


def _say_unforeseen(error: Exception) -> None:
    """Tell of an error that is none of the project's own; nothing, where the reader of the ready line has left."""
    text = unread.unwritable(error) if isinstance(error, OSError) else ""
    if not text and not isinstance(error, BrokenPipeError):
        import traceback

        traceback.print_exception(error)
        text = f"restart has a fault, {type(error).__name__}: {error}: report it with the lines above"
    if text:
        say(text)


def _prepare(asked: "Asked") -> None:
    """Import what the restart needs once the tree stands; the helper makes the tree meanwhile."""
    try:
        from agent.restart.rebuild import verify
        from exporters.content import wording

        del verify, wording
    except RuntimeError:
        asked.check()  # an import may wrap an exception that is raised within it
        raise


def _split(run: str) -> list[str]:
    from agent.restart.rebuild.commands import split_command

    return split_command(run)


def _with_path(command: list[str]) -> list[str]:
    from agent.restart.rebuild.commands import with_path

    return with_path(command)


@gcpause.paused()
def _planned(wish: RestartWish) -> "tuple[Snapshot, Plan, dict[int, Program] | None]":
    """Return the snapshot to build, its plan, and with `--run argv` the program of each actor."""
    from agent.restart.planning.search import decide
    from agent.restart.rebuild.preflight import preflight

    required = None if isinstance(wish.file, TakenFile) else required_signers()
    keys = [key for key in (required, wish.key) if key is not None]
    if wish.images is not None:
        from agent.cli.contents import tree_of

        snapshot = tree_of(wish, keys)
    else:
        snapshot = load_file(wish.file, *keys, of_set=wish.of_set)
    warn_of_doubt(snapshot, wish.file)
    if wish.run == "argv":
        from agent.restart.rebuild.commands import at_their_beginning, own_arguments

        snapshot = at_their_beginning(snapshot)
    if wish.drop_held:
        from agent.restart.planning.dropping import without_held

        snapshot, dropped = without_held(snapshot)
        for task in dropped:
            say(f"task {task.pid} ({snapshot.number(task.pid)}) has only forked, and is left out")
    if wish.drop_dying:
        from agent.restart.planning import dying

        snapshot, *ended = dying.without_dying(snapshot)
        for line in dying.told(snapshot, *ended):
            say(line)
    with_contents = wish.images is not None
    snapshot, plan = decide(snapshot, pidns=wish.pidns, any_numbers=wish.any_numbers, with_contents=with_contents)
    programs = None
    if wish.run == "argv":
        programs, held = own_arguments(snapshot, plan)
        for line in held:
            say(line)
    preflight(plan, any_numbers=wish.any_numbers)
    for note in plan.notes:
        say(note)
    if wish.pidfile is not None:
        from agent.restart.rebuild import pidfile

        pidfile.check(wish.pidfile)
    return snapshot, plan, programs


def _commands(words: list[str], standing: "Standing", wish: RestartWish) -> "dict[int, Program]":
    from agent.restart.rebuild.commands import one_command

    places = standing.snapshot, standing.plan, standing.numbers, standing.pids
    image = "" if wish.file == "-" or isinstance(wish.file, storefiles.StoredFile) else wish.file
    return one_command(words, *places, image, keep_rights=wish.keep_rights)


@gcpause.paused()
def _prove(standing: "Standing", wish: RestartWish, rebuild: "Rebuild", work: "Iterator[bool]") -> None:
    """Compare the tree with the kernel's answers, announce it, activate it, and compare it again.

    A tree with contents is announced later, when its tasks are filled and before they run; `work` makes their programs.
    """
    from agent.restart.rebuild.failure import differs
    from agent.restart.rebuild.verify import verify, verify_active

    found = verify(standing)
    if not found:
        if wish.images is None:
            _announce(standing, rebuild, wish)
        rebuild.activate(work)
        found = verify_active(standing, stopped=False, unread=say)
    if found:
        raise differs(found)


def _announce(standing: "Standing", rebuild: "Rebuild", wish: RestartWish) -> None:
    plan, pids, root = standing.plan, standing.pids, standing.pids[standing.plan.tasks[0]]
    if rebuild.proc_error:
        say(f"the tree has no /proc of its own: {os.strerror(rebuild.proc_error)}")
    if wish.as_json:
        facts = [(plan.actors[index].tag, pids[index], [*standing.numbers[index]]) for index in plan.tasks]
        # A list of numbers is the same in JSON and in Python; the module json takes twice as long, and its import, too.
        tasks = ", ".join([f'{{"tag": {tag}, "pid": {pid}, "numbers": {numbers}}}' for tag, pid, numbers in facts])
        print(f'{{"root": {root}, "tasks": [{tasks}]}}', flush=True)
    else:
        from exporters.content.wording import count

        say(f"{count(len(plan.tasks), 'task')} {'stands' if len(plan.tasks) == 1 else 'stand'}; the root is {root}")
        if wish.any_numbers:
            for index, task in zip(plan.tasks, standing.snapshot.tasks, strict=True):
                old, new = ("/".join(map(str, each)) for each in (plan.actors[index].numbers, standing.numbers[index]))
                say(f"  tag {task.pid}: {old} is now {new}, pid {pids[index]}")
