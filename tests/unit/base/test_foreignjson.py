# SPDX-License-Identifier: Apache-2.0
"""JSON as the standard has it: see agent.foreignjson."""

import pytest

from agent import foreignjson


def test_a_document_is_its_value() -> None:
    """As the library reads it."""
    assert foreignjson.loads(b'{"a": [1, -2.5e3, null, "\\u00e9"]}') == {"a": [1, -2500.0, None, "é"]}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 200_000, "nested too deep"),
        ('{"a": NaN}', "NaN is no number of JSON"),
        ("-Infinity", "-Infinity is no number"),
        ("[1e999]", "1e999 is beyond"),
        ("1" * 5000, "Exceeds the limit"),
        ("{", "Expecting property name"),
    ],
)
def test_what_is_none_is_refused_by_one_kind_of_error(text: str, why: str) -> None:
    """So a reader has one to catch."""
    with pytest.raises(ValueError, match=why):
        foreignjson.loads(text)
