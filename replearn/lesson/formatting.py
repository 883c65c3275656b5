"""Measured numbers as plain Python values, as short text and as valid JSON."""

import math
from typing import Any

import numpy as np

LONGEST = 8  # numbers of a list that are shown


def to_plain(value: Any) -> Any:
    """Return a tensor, an array or a number as a bool, int, float, str, or a list of them.

    Args:
        value: Whatever was measured. A tensor may be on any device and carry gradients; what is
            none of these becomes its text.

    Example:
        >>> to_plain((np.float32(0.5), np.arange(3)))
        [0.5, [0, 1, 2]]
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def has_nan(value: Any) -> bool:
    """Return whether a plain value is NaN or a list with a NaN in it.

    Example:
        >>> has_nan([0.5, [float("nan")]])
        True
    """
    if isinstance(value, list):
        return any(has_nan(item) for item in value)
    return isinstance(value, float) and math.isnan(value)


def to_text(value: Any, unit: str = "") -> str:
    """Return a plain value in three digits, with its unit.

    Args:
        value: From `to_plain`. Of a list the first eight items are shown.
        unit: "s", "nats", ...; "%" says that the value is a fraction, and shows 100 times as much.

    Example:
        >>> to_text(0.8137), to_text(0.8137, "%"), to_text([1.0, 2.5], "s")
        ('0.814', '81.4 %', '[1, 2.5] s')
    """
    if isinstance(value, list):
        text = _list_to_text(value, unit)
    else:
        text = _number_to_text(_in_unit(value, unit))
    return f"{text} {unit}" if unit else text


def _list_to_text(values: list, unit: str) -> str:
    shown = [to_text(_in_unit(item, unit)) for item in values[:LONGEST]]
    if len(values) > LONGEST:
        shown.append("…")
    return f"[{', '.join(shown)}]"


def _in_unit(value: Any, unit: str) -> Any:
    return 100.0 * value if unit == "%" else value


def _number_to_text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    # From 1000 on, all digits before the point are shown: 12345, not 1.23e+04.
    if 1000 <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.3g}"


def json_ready(value: Any) -> Any:
    """Return the same value with None for NaN and infinity, which JSON does not have.

    Example:
        >>> json_ready({"loss": [0.5, float("inf")]})
        {'loss': [0.5, None]}
    """
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
