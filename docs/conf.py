# SPDX-License-Identifier: Apache-2.0
"""Configuration of Sphinx for ``make docs``.

The pages are plain Markdown that reads the same in any viewer, so nothing in them is meant for Sphinx alone. The source
folder is the top of the repository, where README.md and the
pages link to each other by the same paths as in any viewer.
"""

from typing import Final

from sphinx.application import Sphinx

project = "ckptree"
author = "the ckptree authors"
copyright = author  # noqa: A001  # Sphinx asks for this name

extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**.md"]
exclude_patterns = [".*", "agent", "bpf", "build", "debian", "dist", "exporters", "manual", "systemd", "tests"]
nitpicky = True
myst_heading_anchors = 4

html_theme = "furo"
html_title = "ckptree"
html_extra_path = ["index.html"]
html_show_copyright = False
html_copy_source = False

GUIDES: Final = (
    "capture",
    "images",
    "restart",
    "contents",
    "service",
    "events",
    "export",
    "recording",
    "fleet",
    "standby",
)
REFERENCE: Final = (
    "commands",
    "format",
    "protocol",
    "hosts",
    "matrix",
    "benchmarks",
    "contents-zdtm",
    "limits",
    "glossary",
)
BACKGROUND: Final = ("how-it-works", "architecture", "decisions")


def _contents(_app: Sphinx, page: str, source: list[str]) -> None:
    """Add to the first page the order of the others, which only the site's navigation needs."""
    if page == root_doc:
        parts = (
            ("Guides", GUIDES, ()),
            ("Reference", REFERENCE, ()),
            ("Background", BACKGROUND, ("SECURITY", "CONTRIBUTING", "CHANGELOG")),
        )
        for caption, pages, beside in parts:
            paths = "\n".join([*(f"docs/{name}" for name in pages), *beside])
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{paths}\n```\n"


def setup(app: Sphinx) -> None:
    """Take part in reading the sources."""
    app.connect("source-read", _contents)
