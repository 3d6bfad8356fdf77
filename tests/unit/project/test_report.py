# SPDX-License-Identifier: Apache-2.0
"""The writer of figures: marks of a file, and pictures."""

import re
from pathlib import Path

import pytest

from tests.bench.report import PAGE, TOP, bars, lines, splice, tell


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    """This holds again and again, and for no other name."""
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- begin one -->\nold\n<!-- end one -->\nb\n<!-- begin two -->\n<!-- end two -->\n")
    for text in ("first", "second\n"):
        splice(text, "one", path)

    assert path.read_text() == (
        "a\n<!-- begin one -->\nsecond\n<!-- end one -->\nb\n<!-- begin two -->\n<!-- end two -->\n"
    )


class Part:
    """The outcome of a part, with some faults."""

    def __init__(self, faults: int) -> None:
        self.wrong = [f"fault {place}" for place in range(faults)]

    def cells(self) -> list[str]:
        """Return one cell."""
        return [str(len(self.wrong))]

    def said(self) -> str:
        """Return the number of faults in words."""
        return f"{len(self.wrong)} faults"


@pytest.mark.parametrize(("faults", "code"), [((0, 0), 0), ((0, 12), 1)])
def test_each_outcome_is_told_and_a_fault_is_a_failure(
    capsys: pytest.CaptureFixture[str], faults: tuple[int, ...], code: int
) -> None:
    """The table is data; of many faults the first ones are shown."""
    outcomes = ((f"part {place}", Part(count)) for place, count in enumerate(faults))

    assert tell("name", ("part", "faults"), outcomes, write=False) == code
    data, said = capsys.readouterr()
    assert data.splitlines()[2:] == [f"| part {place} | {count:>6} |" for place, count in enumerate(faults)]
    assert [line for line in said.splitlines() if line[0] != " "] == [
        f"name: part {place}: {count} faults" for place, count in enumerate(faults)
    ]
    assert said.count("  fault ") == min(sum(faults), 10)


@pytest.mark.parametrize("page", ["", "<!-- begin x -->", "<!-- end x --><!-- begin x -->"])
def test_a_file_without_the_marks_is_left_as_it_is(page: str, tmp_path: Path) -> None:
    """The figures would be lost."""
    path = tmp_path / "page.md"
    path.write_text(page)

    with pytest.raises(ValueError, match="needs the marks"):
        splice("text", "x", path)

    assert path.read_text() == page


@pytest.mark.parametrize(
    "name", ["torture", "loss", "following", "soak", "bench-snapshot", "bench-hooks", "bench-others", "restart"]
)
def test_the_page_has_the_marks(name: str, tmp_path: Path) -> None:
    """Each command that writes there has its marks."""
    copy = tmp_path / "benchmarks.md"
    copy.write_text(PAGE.read_text())

    splice("text", name, copy)


def test_the_readme_has_the_marks_of_restarts(tmp_path: Path) -> None:
    """The measurement writes its table there, too."""
    copy = tmp_path / "README.md"
    copy.write_text((TOP / "README.md").read_text())

    splice("text", "restart", copy)


def test_a_bar_is_as_long_as_its_share() -> None:
    """An empty bar is still visible."""
    svg = bars("t", {"h": [("own", 0.0, "0 of 9"), ("a < b", 0.5, "half"), ("c", 1.0, "all")]}, own="own")
    lengths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', svg)]

    assert lengths[0] > 0
    assert lengths[1] * 2 == pytest.approx(lengths[2])
    assert "a &lt; b" in svg


def test_curves_lie_within_their_axes() -> None:
    """Each curve has a point for each value."""
    svg = lines(
        "t", {"own": {10.0: 0.01, 1000.0: 1.0}, "other": {10.0: 5.0, 1000.0: 700.0}}, ("tasks", "ms"), own="own"
    )
    points = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]

    assert len(points) == 4
    assert all(0 < x < 760 and 0 < y < 400 for x, y in points)
