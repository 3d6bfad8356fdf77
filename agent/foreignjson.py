# SPDX-License-Identifier: Apache-2.0
"""JSON that somebody else has written, as the standard has it.

The library reads more than that: NaN and Infinity, and numbers that overflow to infinity. What is nested deeper than its
recursion goes raises an error that is no ValueError.
"""

import json
import math
from typing import Any


def loads(data: bytes | str) -> Any:
    """Return the value of a JSON document.

    Raises:
        ValueError: it is none, is nested too deep, or has a number that is not finite or has thousands of digits.
    """
    try:
        return json.loads(data, parse_constant=_refused, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(found := float(digits)):
        raise ValueError(f"{digits} is beyond all numbers here")
    return found
