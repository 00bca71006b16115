"""Numbers as strict JSON, which knows no NaN and no infinity: they are written as the strings "nan", "inf", "-inf"."""

import math
from collections.abc import Mapping
from typing import Any

NOT_FINITE = ("nan", "inf", "-inf")


def to_plain(value: Any) -> Any:
    """The value, of mappings, sequences and plain values, with every float that is not finite as its string.

    >>> to_plain({"nll_test": math.inf, "rows": (1.5, math.nan)})
    {'nll_test': 'inf', 'rows': [1.5, 'nan']}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, Mapping):
        return {key: to_plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(part) for part in value]
    return value


def from_plain(value: Any) -> Any:
    """What :func:`to_plain` was given, with lists for tuples; for values in which no text can be such a string.

    >>> from_plain({"nll_test": "inf", "rows": [1.5, "nan"]})
    {'nll_test': inf, 'rows': [1.5, nan]}
    """
    if isinstance(value, str) and value in NOT_FINITE:
        return float(value)
    if isinstance(value, Mapping):
        return {key: from_plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [from_plain(part) for part in value]
    return value
