# SPDX-License-Identifier: Apache-2.0
"""The examples of the manual pages: a meaning, and the lines to type. A test holds that their verbs and options exist."""

from typing import Final

OF_COMMAND: Final = (
    ("Look at all processes of this host, live:", ["ckptree tree"]),
    (
        "Take a snapshot of a container, whose first process is 8033, and look at it:",
        ["ckptree snapshot 8033 -o web.ckpt", "ckptree show web.ckpt"],
    ),
    (
        "Take a snapshot of a service with its arguments, as a page for a browser:",
        ["ckptree snapshot unit:nginx --with-argv -f html -o nginx.html"],
    ),
    (
        "Take a snapshot of a container of podman, and look at the tasks of a Slurm job's step:",
        ["ckptree snapshot podman:web -o web.ckpt", "ckptree tree slurm:4711.0"],
    ),
    (
        "Find out what has changed since:",
        ["ckptree snapshot 8033 -o later.ckpt", "ckptree diff web.ckpt later.ckpt"],
    ),
    (
        "Print what is started and what ends below a process, for people and for a program:",
        ["ckptree watch 8033 --kind exec,death", "ckptree watch 8033 --kind exec,death --json"],
    ),
    (
        "Send what is started and what ends to a collector of OpenTelemetry, or write it as documents for Elasticsearch:",
        [
            "ckptree export otlp --kind exec,death --endpoint http://127.0.0.1:4318",
            "ckptree export ecs --kind exec,death",
        ],
    ),
    (
        "Find out how the tree would be rebuilt, and rebuild it with a command in each process:",
        ["ckptree plan web.ckpt", "ckptree restart web.ckpt --run 'sleep 60'"],
    ),
    (
        "Find out what CRIU would do with the tree, before it dumps it and after:",
        ["ckptree plan web.ckpt --for criu", "ckptree plan criu:/var/lib/dumps/web --for criu"],
    ),
    (
        "Ask a daemon that listens elsewhere:",
        ["CKPTREE_SOCKET=/tmp/ckptree.sock ckptree status"],
    ),
    ("Find out what this host lacks:", ["ckptree doctor"]),
)

OF_DAEMON: Final = (
    ("Run it with the file that the unit gives:", ["ckptree daemon --config /etc/ckptree/ckptree.toml"]),
    (
        "Run a second one beside it, with a larger ring, for a storm of forks:",
        ["ckptree daemon --socket /tmp/ckptree.sock --ring-bytes 67108864"],
    ),
    ("Compile the programs for a daemon of another user:", ["ckptree daemon --compile"]),
)
