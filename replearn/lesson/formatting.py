"""Measured numbers as plain Python values, short text and valid JSON."""

import math

import numpy as np


def plain(value):
    """A tensor, array or scalar as bool, int, float, str, or a list of them."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def has_nan(value):
    """True if a plain value is NaN or contains one."""
    return (
        any(map(has_nan, value))
        if isinstance(value, list)
        else isinstance(value, float) and math.isnan(value)
    )


def text(value, unit=""):
    """A plain value in 3 digits, with its unit: text(0.8137) = "0.814", text(0.8137, "%") = "81.4 %"."""
    if isinstance(value, list):
        shown = [text(100.0 * item if unit == "%" else item) for item in value[:8]] + ["…"] * (
            len(value) > 8
        )
        return f"[{', '.join(shown)}]" + (f" {unit}" if unit else "")
    if unit == "%":
        value = 100.0 * value
    if isinstance(value, float):
        # Four digits before the point stay whole: 12345, not 1.23e+04.
        value = f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
    return f"{value} {unit}" if unit else str(value)


def json_ready(value):
    """The same value with NaN and infinity, which JSON does not have, as None."""
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
