# SPDX-License-Identifier: Apache-2.0
"""The pages: ckptree(1), ckptree-image(5), ckptree.toml(5), ckptree-daemon(8).

Their text stands in the code: in the help of verbs and options, and in the docstrings of formats, rules and errors.
This module only joins it.
"""

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from agent import VERSION, config, environment, errors, rootname
from agent.cli import restartverb as restartverb
from agent.protocol.client import DEFAULT_SOCKET
from exporters.content import facts, fields, unknown
from exporters.documents import jsonfmt, msgpackfmt
from exporters.image import checkpoint, head, records
from manual import examples, verbs
from manual.roff import Page, bold, italic

_PROGRAM: Final = f"ckptree {VERSION}"
_PRIVATE: Final = "The same for root and the daemon's group alone: clients for which no socket is named try it first."
_EXIT_CODE: Final = re.compile(r" ?\(exit code \d+\)")


def pages(date: str) -> Iterator[tuple[str, str]]:
    """Yield the place below ``man`` and the text of each page.

    Args:
        date: the date of the pages.
    """
    for page in (_command(date), _image(date), _configuration(date), _daemon(date)):
        yield f"man{page.file[-1]}/{page.file}", str(page)


def _command(date: str) -> Page:
    page = Page("ckptree", 1, "consistent process-tree checkpoints from eBPF", _PROGRAM, date)
    found = verbs.verbs()
    page.heading("synopsis")
    page.usage(_usage(verb) for verb in found)
    page.heading("description")
    page.text(
        "ckptree watches every process of a host with eBPF. On demand it writes the part of a checkpoint that says who is "
        "who, and makes the same tree again from that file, with the same pids at every level.\n\n"
        "Data goes to standard output, or where `-o` says, and messages go to standard error."
    )
    page.heading("root")
    page.text(rootname.__doc__ or "")
    page.heading("commands")
    for verb in found:
        if verb.name == "daemon":
            page.subheading("daemon")
            page.text(f"{verb.help} See `ckptree-daemon`(8).")
            continue
        page.subheading(verb.name)
        page.usage([_usage(verb)])
        page.text(verb.help)
        for argument in verb.arguments:
            if argument.help:
                page.tagged(italic(argument.name), argument.help)
        for option in verb.options:
            _option(page, option)
        for lines in verb.more:
            page.paragraph(lines)
    _exit_status(page)
    _environment(page)
    _files(page)
    _examples(page, examples.OF_COMMAND)
    page.heading("see also")
    page.text("`ckptree-image`(5), `ckptree.toml`(5), `ckptree-daemon`(8), `bpf`(2), `clone3`(2), `pid_namespaces`(7)")
    return page


def _usage(verb: verbs.Verb) -> str:
    words = [bold(f"ckptree {verb.name}")]
    if verb.options:
        words.append(f"[{italic('options')}]")
    words += [italic(one.name) if one.required else f"[{italic(one.name)}]" for one in verb.arguments]
    return " ".join(words)


def _option(page: Page, option: verbs.Option) -> None:
    names = ", ".join(map(bold, option.names))
    choices = (
        f" One of {', '.join(option.choices)}."
        if option.choices and option.value != "FORMAT" and not option.several
        else ""
    )
    default = f" Default: {option.default}." if option.default and option.value else ""
    page.tagged(
        names + (f" {italic(option.value)}" if option.value else ""),
        option.help + choices + default,
    )


def _exit_status(page: Page) -> None:
    page.heading("exit status")
    meanings = defaultdict(list)
    for kind in vars(errors).values():  # in the order of the source
        if inspect.isclass(kind) and issubclass(kind, errors.CkptreeError):
            first = " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
            meaning = _EXIT_CODE.sub("", first).removeprefix("Base of all errors: ")
            meanings[kind.exit_code].append(f"{meaning[0].upper()}{meaning[1:]}")
    meanings[0] = ["Ok; of `check`: no errors, of `diff`: equal."]
    meanings[1].append("Of `diff`: the two differ.")
    meanings[6] = ["A snapshot is incomplete: it is written, and says why."]
    meanings[130] = ["Interrupted."]
    meanings[restartverb.OWN_FAILURE] = [
        "Of `restart --run` with a command: it failed itself. Any other code is the root's."
    ]
    for code, said in sorted(meanings.items()):
        page.tagged(bold(str(code)), " ".join(dict.fromkeys(said)))


def _environment(page: Page) -> None:
    page.heading("environment")
    page.tagged(bold("NO_COLOR"), "Where it is set and not empty, nothing is coloured.")
    page.tagged(bold("TERM"), "`dumb`: `tree` prints once, and nothing is coloured.")
    page.tagged(
        bold(environment.SOCKET_VARIABLE),
        "The daemon's socket for every command, and for the daemon, where `--socket` names none.",
    )
    page.text("What a command of `restart --run` finds:")
    for name, meaning in restartverb.ENVIRONMENT.items():
        page.tagged(bold(name), f"{meaning[0].upper()}{meaning[1:]}.")


def _examples(page: Page, found: Iterable[tuple[str, list[str]]]) -> None:
    page.heading("examples")
    for meaning, lines in found:
        page.text(meaning)
        page.verbatim(lines)


def _files(page: Page) -> None:
    page.heading("files")
    page.tagged(italic(str(DEFAULT_SOCKET)), "Where the daemon listens.")
    page.tagged(italic(str(environment.private_socket(DEFAULT_SOCKET))), _PRIVATE)
    page.tagged(italic("/var/cache/ckptree"), "Compiled programs, by kernel.")


def _image(date: str) -> Page:
    page = Page("ckptree-image", 5, "checkpoint images of process trees", _PROGRAM, date)
    page.heading("description")
    page.text(checkpoint.__doc__ or "")
    page.heading("records")
    page.text(records.__doc__ or "")
    for number, name in sorted(records.NAMES.items()):
        page.tagged(bold(str(number)), name)
    page.heading("head")
    page.text(head.__doc__ or "")
    page.heading("facts")
    page.text(facts.__doc__ or "")
    page.subheading("Text of bytes")
    page.text((fields.__doc__ or "").partition("-------------\n")[2])
    page.subheading("Keys of later versions")
    page.text(unknown.__doc__ or "")
    page.heading("other formats")
    page.subheading("json")
    page.text(jsonfmt.__doc__ or "")
    page.subheading("msgpack")
    page.text(msgpackfmt.__doc__ or "")
    page.heading("see also")
    page.text("`ckptree`(1)")
    return page


def _configuration(date: str) -> Page:
    page = Page("ckptree.toml", 5, "configuration of the ckptree daemon", _PROGRAM, date)
    page.heading("description")
    page.text(config.__doc__ or "")
    page.heading("keys")
    meanings = config.meanings()
    for key, meaning in meanings.items():
        if key not in config.RECORD.values():
            page.tagged(bold(key), _meaning(key, meaning))
    for name, key in config.RECORD.items():
        page.tagged(bold(f"[record] {name}"), f"{_meaning(key, meanings[key])} The table comes after all other keys.")
    page.tagged(
        bold("[restart]"),
        "A table, after all other keys. Its key `require_signature` is the absolute path of a public ssh key, or of a file "
        "of allowed signers: `ckptree restart` on this host then refuses an image without a signature of one of these. "
        "`trust_standby_of` is a list of hosts: `ckptree fleet takeover` of these needs no signature.",
    )
    page.heading("examples")
    page.verbatim(
        ["ring_bytes = 16777216", "socket_mode = 0o660", "[restart]", 'require_signature = "/etc/ckptree/signers"']
    )
    page.heading("see also")
    page.text("`ckptree-daemon`(8)")
    return page


def _meaning(key: str, meaning: str) -> str:
    return f"{meaning[0].upper()}{meaning[1:]} Must be {config.allowed(key)}. Default: {_shown(key)}."


def _shown(key: str) -> str:
    return config.default(key) or ("none" if key == "record" else "empty")


def _daemon(date: str) -> Page:
    page = Page("ckptree-daemon", 8, "watch the process trees of a host", _PROGRAM, date)
    verb = verbs.daemon()
    page.heading("synopsis")
    page.usage([f"{bold('ckptree daemon')} [{italic('options')}]"])
    page.heading("description")
    page.text(
        f"{verb.help} It loads and attaches its programs, walks all tasks once, drops every capability, and tells systemd "
        "that it is ready. From then on it sees each birth. `ckptree snapshot`, `tree`, `watch`, `status` and "
        "`metrics` ask it."
    )
    page.heading("options")
    for option in verb.options:
        _option(page, option)
    page.heading("signals")
    page.tagged("SIGTERM, SIGINT", "It leaves what it knows to the service manager, removes its own sockets, and ends.")
    page.heading("service manager")
    page.text(
        "A manager that keeps descriptors (`FileDescriptorStoreMax=`) keeps programs, maps and hooks while the daemon is "
        "started again: events wait in the ring, and after a restart all births are known as before. After a crash those "
        "of before it are assumed. A stop ends all of it, and the next start is a first one. What was left by another "
        "version of the programs, or with another `ring_bytes`, is closed, and loaded anew; the log says so.\n\n"
        "Listening sockets that are passed on are used in place of `socket`, and stay; the one that is named `private` "
        "(`FileDescriptorName=`) goes before the others. `READY=1` comes when programs are "
        "attached and all tasks compared, `STATUS=` with each sweep, `WATCHDOG=1` while the ring is being drained."
    )
    page.heading("log")
    page.text(
        "Messages go to standard error. Where that is the journal, each line has a priority. A warning that comes again "
        "within a minute is counted, and not written."
    )
    page.heading("environment")
    page.tagged(bold(environment.SOCKET_VARIABLE), "The socket: it comes before the file's, and `--socket` before it.")
    page.tagged(
        bold("CKPTREE_WITHOUT"),
        "Hooks and features of the kernel to leave out, with blanks, as `ckptree status` names them.",
    )
    page.heading("files")
    page.tagged(italic(str(DEFAULT_SOCKET)), "The socket.")
    page.tagged(italic(str(environment.private_socket(DEFAULT_SOCKET))), _PRIVATE)
    page.tagged(italic("/etc/ckptree/ckptree.toml"), "What the unit gives as `--config`; see `ckptree.toml`(5).")
    page.tagged(italic("/sys/kernel/btf/vmlinux"), "The kernel's own description of its structures.")
    page.heading("exit status")
    page.text(
        "As of `ckptree`(1): 2 for a wrong option or configuration, 5 where it is not permitted, or this host cannot."
    )
    _examples(page, examples.OF_DAEMON)
    page.heading("see also")
    page.text("`ckptree`(1), `ckptree.toml`(5), `systemd.service`(5)")
    return page
