# SPDX-License-Identifier: Apache-2.0
"""Contents of sets that are to run on here: their place, their signature, and what a restart would refuse of them."""

import json
import os
import subprocess
import tempfile
from typing import Final

from agent import interpreter
from agent.cli import signature
from agent.environment import NATS_VARIABLE
from agent.errors import CkptreeError, RefusedError, UsageError
from agent.fleet import manifest
from agent.fleet.manifest import HostContents
from agent.fleet.relaysettings import RestartRule
from agent.fleet.stores import folders
from agent.protocol.codec import Message
from exporters.criu import PREFIX

_MOST_TOLD: Final = 100


def contents_of(request: Message) -> HostContents:
    """Return the contents of the host whose tree a request means.

    Raises:
        UsageError: the set has none.
        FormatError: it is no set.
    """
    for each in manifest.loads(request["manifest"]).hosts:
        if each.host == request["host"] and each.contents is not None:
            return each.contents
    raise UsageError(f"the set has no contents of {request['host']!r}")


def environment(nats: str) -> dict[str, str]:
    """Return the environment of a process that reaches a store.

    Args:
        nats: addresses of servers, where the environment names none; empty: none.
    """
    return {**({NATS_VARIABLE: nats} if nats else {}), **os.environ}


def file(request: Message, rule: RestartRule) -> str:
    """Return the FILE that a request means, ``criu:ADDRESS``. Nothing is fetched for a set that nobody has signed.

    Raises:
        RefusedError: no signer of the permission has signed the set.
        FormatError: the signature is of another one.
    """
    signature.verify(request["manifest"], "the set", rule.signers, request["signature"])
    contents = contents_of(request)
    return f"{PREFIX}{folders.list_address(contents.store, contents.digits)}"


def planned(request: Message, rule: RestartRule, nats: str) -> Message:
    """Return what a restart would refuse here: `ckptree plan` asks this host for files and addresses.

    Args:
        request: of the relay.
        rule: permits it.
        nats: as for `environment`.

    Raises:
        CkptreeError: the contents cannot be fetched, or are none.
    """
    pidns = "--pidns" if request["pidns"] else "--no-pidns"
    words = interpreter.verb("plan", file(request, rule), "--json", pidns, *rule.options)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as told:
        ran = subprocess.run(
            words, env=environment(nats), stdin=subprocess.DEVNULL, stdout=out, stderr=told, check=False
        )
        told.seek(0)
        said = [line.removeprefix("ckptree: ") for line in told.read().decode(errors="replace").splitlines()]
        if ran.returncode not in (0, RefusedError.exit_code):
            raise CkptreeError("; ".join(said[-3:]) or f"plan ended with {ran.returncode}")
        out.seek(0)
        document = json.loads(out.read())
    refused = [
        f"task {each['tag']} ({each['pid']}): {each['kind']} {each['id']}: {each['text']}"
        for each in document.get("contents", [])
    ]
    refused += [each["text"] for each in document.get("not_rebuildable", [])]
    return {"refused": refused[:_MOST_TOLD], "count": len(refused)}
