"""Compare a learner's result with the expected one, and say the difference in words."""

import inspect

import numpy as np
import torch


def difference(expected, found, tolerance=1e-4):
    """None if `found` equals `expected` within `tolerance` (relative to the largest value), else "expected …, found …".

    Accepts a numpy array for a tensor, any floating-point precision, a list for a tuple, a number for a 0-d tensor.
    """
    if isinstance(expected, dict):
        if not isinstance(found, dict) or expected.keys() != found.keys():
            return f"expected a dict with {sorted(map(str, expected))}, found {kind(found)}"
        return _first(((f"at {key!r}", expected[key], found[key]) for key in expected), tolerance)
    if isinstance(expected, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(found) != len(expected):
            size = f" of {len(found)}" if isinstance(found, (list, tuple)) else ""
            return f"expected {len(expected)} values (a {type(expected).__name__}), found {kind(found)}{size}"
        pairs = enumerate(zip(expected, found, strict=True), 1)
        return _first(((f"value {i} of {len(expected)}", *pair) for i, pair in pairs), tolerance)
    if not isinstance(expected, (torch.Tensor, np.ndarray, np.generic, bool, int, float)):
        return (
            None
            if expected is found or expected == found
            else f"expected {expected!r}, found {kind(found)}"
        )
    if not isinstance(found, (torch.Tensor, np.ndarray, np.generic, bool, int, float)):
        return f"expected {kind(expected)}, found {kind(found)}"
    return _numbers(expected, found, tolerance)


def inputs_text(fn, arguments):
    """The arguments of a call in a few words: "x (12, 3), k = 3"."""
    shown = []
    for name, value in zip(inspect.signature(fn).parameters, arguments, strict=True):
        if isinstance(value, torch.Tensor) and value.ndim:
            shown.append(f"{name} {tuple(value.shape)}")
        elif isinstance(value, (int, float, str)) or isinstance(value, torch.Tensor):
            shown.append(f"{name} = {value if isinstance(value, str) else _digits(float(value))}")
        elif isinstance(value, (list, tuple, dict)):
            shown.append(f"{name} ({len(value)} entries)")
    return ", ".join(shown)


def _first(triples, tolerance):
    for where, expected, found in triples:
        if sentence := difference(expected, found, tolerance):
            return f"{where}: {sentence}"
    return None


def _numbers(expected, found, tolerance):
    python_number = isinstance(found, (int, float)) and not isinstance(found, bool)
    expected, found = (torch.as_tensor(value).detach().cpu() for value in (expected, found))
    if found.shape != expected.shape:
        return f"expected {_shape(expected)}, found {_shape(found)}"
    if _family(expected) != _family(found) and not (
        python_number and _family(expected) == "floating-point"
    ):
        return f"expected {_family(expected)} numbers ({expected.dtype}), found {found.dtype}"
    expected, found = expected.double(), found.double()
    if (found.isnan() & ~expected.isnan()).any():
        return f"expected {'finite numbers' if expected.isfinite().all() else 'numbers'}, found NaN"
    finite = expected[expected.isfinite()].abs()
    # Zeros are compared with a small absolute tolerance: a gradient of 1e-9 is a right answer for 0.
    margin = tolerance * max(finite.max().item() if len(finite) else 0.0, 0.01)
    close = (
        (expected == found)
        | ((expected - found).abs() <= margin)
        | (expected.isnan() & found.isnan())
    )
    if close.all():
        return None
    if expected.ndim == 0:
        return f"expected {_digits(expected.item(), found.item())}, found {_digits(found.item(), expected.item())}"
    error = torch.where(close, -1.0, (expected - found).abs().nan_to_num(posinf=float("inf")))
    where = np.unravel_index(
        int(error.argmax()), error.shape
    )  # torch's own would import sympy first
    right, mine = expected[where].item(), found[where].item()
    wrong = (~close).sum().item()
    return (
        f"expected {_digits(right, mine)} at {[int(i) for i in where]}, found {_digits(mine, right)} "
        f"({wrong} of {close.numel()} values differ)"
    )


def _digits(value, other=None):
    """Three digits, or as many as it takes to tell the two numbers apart."""
    for digits in range(3, 9):
        if other is None or f"{value:.{digits}g}" != f"{other:.{digits}g}":
            break
    return f"{value:.{digits}g}"


def _family(tensor):
    return (
        "boolean"
        if tensor.dtype == torch.bool
        else "floating-point"
        if tensor.is_floating_point()
        else "whole"
    )


def _shape(tensor):
    return f"shape {tuple(tensor.shape)}" if tensor.ndim else "a single number"


def kind(value):
    """What a value is, in a few words: "a Tensor of shape (3, 2)", "a list", "'red'"."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return f"a {type(value).__name__} of {_shape(value)}"
    return (
        repr(value) if isinstance(value, (str, bool, int, float)) else f"a {type(value).__name__}"
    )
