# SPDX-License-Identifier: Apache-2.0
"""The verb plan: how a tree would be rebuilt, or why it cannot be. It needs no daemon, no root and, but for contents, no
kernel.
"""

from enum import StrEnum
from typing import Annotated

from agent.cli import storefiles, terminal
from agent.cli.declarations import Option
from agent.cli.fileverbs import File, confine, load_file, warn_of_doubt
from agent.cli.options import AsJson, Nats, ShellJob, TcpClose, TcpEstablished
from agent.cli.terminal import say
from agent.errors import CkptreeError, NotRebuildableError, UsageError
from exporters.criu import PREFIX


class PlanFormat(StrEnum):
    """The form in which a plan is shown."""

    TEXT = "text"
    JSON = "json"
    DOT = "dot"
    SVG = "svg"


class Restorer(StrEnum):
    """The program that would make a tree again."""

    CKPTREE = "ckptree"
    CRIU = "criu"


def plan(
    file: File,
    fmt: Annotated[PlanFormat, Option("--format", "-f", help="Show the plan in this form.")] = PlanFormat.TEXT,
    as_json: AsJson = False,
    pidns: Annotated[
        bool,
        Option("--pidns/--no-pidns", help="Plan for a pid namespace of the tree's own, or for the caller's."),
    ] = True,
    pids: Annotated[bool, Option("--pids/--no-pids", help="Plan for the same pids, or for any.")] = True,
    restorer: Annotated[
        Restorer,
        Option("--for", help="Plan a restart by ckptree, or tell which tasks CRIU refuses or gets wrong."),
    ] = Restorer.CKPTREE,
    nats: Nats = None,
    shell_job: ShellJob = False,
    tcp_established: TcpEstablished = False,
    tcp_close: TcpClose = False,
) -> None:
    """Show how a tree would be rebuilt, call by call. Exit code 7 where it cannot be, with the task and the rule.

    Of criu:DIR the contents are examined, too: exit code 7 where a restart would refuse any of them.
    """
    file = storefiles.named(file, nats)
    outside = {"shell_job": shell_job, "tcp_established": tcp_established, "tcp_close": tcp_close}
    if restorer is Restorer.CRIU:
        if fmt not in (PlanFormat.TEXT, PlanFormat.JSON) or not pidns or not pids or any(outside.values()):
            raise UsageError("--for criu takes -f text or json, and no option of a restart: leave out the others")
        confine(file)
        loaded = load_file(file)
        from agent.cli import criuplan

        if loaded.completeness.reasons:  # CRIU never knows births, and its own images tell of no check
            warn_of_doubt(loaded, file)
        criuplan.tell(loaded, as_json=as_json or fmt is PlanFormat.JSON)
        return
    if as_json and fmt not in (PlanFormat.TEXT, PlanFormat.JSON):
        raise UsageError(f"--json is -f json: leave out -f {fmt.value}")
    from agent.cli import contents as contentsoptions
    from agent.cli import contentsplan

    images = contentsplan.folder_of(file) if pids else None
    remedy = contentsplan.remedy(file, pids=pids)
    allowed = contentsoptions.external(with_contents=images is not None, remedy=remedy, **outside)
    if images is None and fmt is PlanFormat.SVG:
        terminal.write(_plan_picture(file, pidns=pidns, any_numbers=not pids))
        return
    if images is None:
        confine(file)  # what contents need is asked of the host: files, addresses
    loaded = load_file(file)
    warn_of_doubt(loaded, file)
    from agent.restart import planview
    from agent.restart.planning.search import decide

    in_json = as_json or fmt is PlanFormat.JSON
    try:
        _, made = decide(loaded, pidns=pidns, any_numbers=not pids, with_contents=images is not None)
    except NotRebuildableError as error:
        if in_json:
            terminal.tell_json(planview.refusal(error, pidns=pidns))
        raise
    examined: dict[str, list[object]] = {}
    if images is not None:
        made = contentsplan.examined(file, images, loaded, made, allowed, as_json=in_json)
        examined = {"contents": []}
    if in_json:
        terminal.tell_json(planview.to_document(made, loaded) | examined)
    elif fmt is PlanFormat.TEXT:
        text = planview.render(made, loaded)
        terminal.tell(text if terminal.unicode() else text.encode("ascii", "backslashreplace").decode("ascii"))
    else:
        from agent import picture
        from agent.restart import plandrawing

        drawing = plandrawing.dumps(made, loaded)
        terminal.write(picture.svg(drawing) if fmt is PlanFormat.SVG else drawing)
    if file.startswith(PREFIX) and images is None:
        contentsplan.tell_left_out(file, pids=pids)


def _plan_picture(file: str, *, pidns: bool, any_numbers: bool) -> bytes:
    """Draw a plan as SVG. A confined child reads the file and plans; this process, which may start programs, has the
    child's drawing laid out."""
    from agent import picture
    from agent.cli import apart

    storefiles.fetch(file, pages=False)

    def work() -> apart.Made:
        from agent.restart import plandrawing
        from agent.restart.planning.search import decide

        loaded = load_file(file)
        warn_of_doubt(loaded, file)
        return plandrawing.dumps(decide(loaded, pidns=pidns, any_numbers=any_numbers)[1], loaded)

    try:
        drawing = apart.made(work, say)
    except apart.EndedError as ended:
        raise SystemExit(ended.code) from None
    if not isinstance(drawing, bytes):
        raise CkptreeError("what was made of the file is a folder: it is no drawing")
    return picture.svg(drawing)
