# SPDX-License-Identifier: Apache-2.0
"""The attributes of objects, in both forms that a class may have: as Python runs it, and as mypyc compiles it."""


def attributes(of: object) -> frozenset[str]:
    """Return the names of an object's own attributes, or those that a class gives its objects."""
    kind = of if isinstance(of, type) else type(of)
    compiled = getattr(kind, "__mypyc_attrs__", None)
    if compiled is not None:
        return frozenset(compiled)
    return frozenset(kind.__slots__ if isinstance(of, type) else vars(of))  # type: ignore[attr-defined]
