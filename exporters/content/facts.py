# SPDX-License-Identifier: Apache-2.0
"""The facts of a snapshot: all that a bare image cannot hold, as plain maps, lists, strings, numbers and bytes.

    facts     = {boot_id, time_ns, boottime_ns, namespaces, pids: [{namespaces}], tasks: [{state, ..., birth}],
                 ancestors, squashed, entered, completeness, as_of_read, not_rebuildable} | {at: {order, time_ns,
                 uncertain_ns}}, of a recorded tree
    birth     = {creator: {tag} | {ancestor} | null, observed, sid: ref, pgid: ref, flags, order}
    ancestor  = {id, numbers, namespaces, events: [{event, order, value: ref}]} | birth
    ref       = tag | {numbers, namespaces} | null          exporters.content.belongings has the other references to pid
    objects

The rows of ``pids`` and ``tasks`` correspond to those of a base, which has the numbers and ids. Absent is null. Kernel
strings are bytes here; JSON has them as text (exporters.content.fields). Unknown keys are kept
(exporters.content.unknown).
"""

from collections.abc import Sequence
from typing import TypeAlias

from agent.model import Completeness, Creator, Snapshot, Task
from exporters.content.belongings import belongings, ref_document

TIME_NS_MAX = 2**63 - 1

Document: TypeAlias = dict[str, object]


def facts(snapshot: Snapshot, *, of_pids: bool = True) -> Document:
    """Return the facts of the whole tree, keys sorted at every depth; `task_facts` has those of the tasks.

    Args:
        snapshot: the tree.
        of_pids: False: the list of pid objects is left empty.
    """
    known: Document = {
        "ancestors": [
            {
                "creator": creator_facts(birth.creator),
                "events": [
                    {"event": e.event, "order": e.order, "value": ref_document(e.value)} for e in ancestor.events
                ],
                "flags": birth.flags,
                "id": ancestor.id,
                "namespaces": ancestor.namespaces,
                "numbers": ancestor.numbers,
                "observed": birth.observed,
                "order": birth.order,
                "pgid": ref_document(birth.pgid),
                "sid": ref_document(birth.sid),
            }
            for ancestor in snapshot.ancestors
            for birth in (ancestor.birth,)
        ],
        "as_of_read": snapshot.as_of_read,
        "boot_id": snapshot.boot_id or None,
        "boottime_ns": snapshot.boottime_ns,
        "completeness": completeness_facts(snapshot.completeness),
        "entered": snapshot.entered,
        "namespaces": [
            {"id": id_, "inum": inum, "level": level, "parent": parent}
            for id_, inum, level, parent in snapshot.namespaces
        ],
        "not_rebuildable": [{"rule": rule, "tag": tag, "text": text} for tag, rule, text in snapshot.not_rebuildable],
        "pids": [{"namespaces": pid.namespaces} for pid in snapshot.pids] if of_pids else [],
        "squashed": snapshot.squashed,
        "time_ns": snapshot.time_ns,
    }
    if snapshot.at is not None:  # no key elsewhere: images of living trees stay as they were
        known["at"] = dict(sorted(snapshot.at._asdict().items()))
        return dict(sorted(known.items()))
    return known


def completeness_facts(done: Completeness) -> Document:
    """Return the facts of the proof, keys sorted."""
    return {
        "anomalies": done.anomalies,
        "kernel_threads_left_out": done.kernel_threads_left_out,
        "lost": done.lost,
        "order": done.order,
        "reasons": done.reasons,
        "sweeps": done.sweeps,
        "verified": done.verified,
    }


def task_facts(tasks: Sequence[Task]) -> list[Document]:
    """Return the facts of each task, keys sorted. Rare facts have a key only for tasks that have them.

    Every capture of thousands of tasks goes through this one loop, so it unpacks whole rows and calls nothing.
    """
    rows: list[Document] = []
    for task in tasks:
        (
            _,
            _,
            _,
            _,
            _,
            _,
            start_ns,
            state,
            code,
            signal,
            comm,
            uid,
            gid,
            reaper,
            child,
            argv,
            cwd,
            env,
            tty,
            fown,
            details,
            shares,
            nowhere,
            birth,
        ) = task
        origin: Document | None = None
        if birth is not None:
            creator, observed, sid, pgid, flags, order = birth
            origin = {
                "creator": None
                if creator is None
                else {"ancestor": creator[1]}
                if creator[0] is None
                else {"tag": creator[0]},
                "flags": flags,
                "observed": observed,
                "order": order,
                "pgid": pgid if isinstance(pgid, int) else ref_document(pgid),
                "sid": sid if isinstance(sid, int) else ref_document(sid),
            }
        rows.append(
            {
                "argv": argv,
                "birth": origin,
                "child_namespace": child,
                "comm": comm,
                "cwd": cwd,
                "env": env,
                "exit_code": code,
                "exit_signal": signal,
                "gid": gid,
                "start_ns": start_ns,
                "state": state,
                "subreaper": reaper,
                "uid": uid,
            }
        )
        if tty is not None or fown is not None or details is not None or shares is not None or nowhere:
            rows[-1] = dict(sorted({**rows[-1], **belongings(task)}.items()))
    return rows


def creator_facts(creator: Creator | None) -> Document | None:
    """Return the facts of the creator that a birth names."""
    if creator is None:
        return None
    return {"ancestor": creator.ancestor} if creator.tag is None else {"tag": creator.tag}
