"""Compare a learner's answer with the expected one, and say the difference in words."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

NUMBERS = (torch.Tensor, np.ndarray, np.generic, bool, int, float)


def difference(expected: Any, answer: Any, tolerance: float = 1e-4) -> str | None:
    """Return None if two values are equal, else "expected ..., found ...".

    An answer may be a NumPy array for a tensor, in any floating-point precision; a list or tuple
    of numbers or tensors for a tensor, and a tensor for a list or tuple; one number for a tensor
    without dimensions, and a tensor with one entry for a number.

    Args:
        expected: Numbers, texts, or lists, tuples and dicts of them.
        answer: Whatever a learner's function gave.
        tolerance: Of numbers, as a fraction of the largest one.

    Example:
        >>> difference((1, 0.5), [1, 0.6])
        'value 2 of 2: expected 0.5, found 0.6'
        >>> difference(torch.ones(2), [torch.ones(()), 1.0]) is None
        True
    """
    if isinstance(expected, dict):
        return _dicts(expected, answer, tolerance)
    if isinstance(expected, (list, tuple)):
        return _sequences(expected, answer, tolerance)
    if isinstance(expected, NUMBERS):
        if stacked(answer) is not None:
            return _numbers(expected, answer, tolerance)
        return f"expected {kind(expected)}, found {kind(answer)}"
    if expected is answer or expected == answer:
        return None
    return f"expected {expected!r}, found {kind(answer)}"


def stacked(answer: Any) -> torch.Tensor | None:
    """Return numbers in any form as one tensor, which carries gradients if they do.

    Args:
        answer: A tensor, an array, a number, or a list or tuple of these.

    Returns:
        The tensor, or None if the answer holds anything else, or rows of several lengths.

    Example:
        >>> stacked([[1, 2], (3, torch.tensor(4))])
        tensor([[1, 2],
                [3, 4]])
    """
    try:
        if isinstance(answer, NUMBERS):
            return torch.as_tensor(answer)
        if not isinstance(answer, (list, tuple)):
            return None
        parts = [stacked(item) for item in answer]
        if any(part is None for part in parts):
            return None
        return torch.stack(parts) if parts else torch.empty(0)
    except (RuntimeError, TypeError, ValueError, OverflowError, RecursionError):
        return None


def inputs_text(fn: Callable, arguments: Iterable) -> str:
    """Return the arguments of a call in a few words.

    Args:
        fn: Whose parameters name the arguments.
        arguments: In the order of its parameters. Functions and networks are left out.

    Example:
        >>> def nearest(x, k):
        ...     pass
        >>> inputs_text(nearest, (torch.zeros(12, 3), 3))
        'x (12, 3), k = 3'
    """
    shown = []
    for name, value in zip(inspect.signature(fn).parameters, arguments, strict=True):
        if isinstance(value, torch.Tensor) and value.ndim > 0:
            shown.append(f"{name} {tuple(value.shape)}")
        elif isinstance(value, str):
            shown.append(f"{name} = {value}")
        elif isinstance(value, (int, float, torch.Tensor)):
            shown.append(f"{name} = {_digits(float(value))}")
        elif isinstance(value, (list, tuple, dict)):
            shown.append(f"{name} ({len(value)} entries)")
    return ", ".join(shown)


def kind(value: Any) -> str:
    """Return what a value is, in a few words.

    Example:
        >>> kind(torch.zeros(3, 2)), kind([1]), kind("red")
        ('a Tensor of shape (3, 2)', 'a list', "'red'")
    """
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return f"a {type(value).__name__} of {_shape(value)}"
    if isinstance(value, (str, bool, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"


def _dicts(expected: dict, answer: Any, tolerance: float) -> str | None:
    if not isinstance(answer, dict) or expected.keys() != answer.keys():
        return f"expected a dict with {sorted(map(str, expected))}, found {kind(answer)}"
    for key in expected:
        sentence = difference(expected[key], answer[key], tolerance)
        if sentence:
            return f"at {key!r}: {sentence}"
    return None


def _sequences(expected: list | tuple, answer: Any, tolerance: float) -> str | None:
    count = len(expected)
    wanted = f"{count} values (a {type(expected).__name__})"
    if isinstance(answer, (torch.Tensor, np.ndarray)) and answer.ndim > 0:
        answer = list(answer)
    if not isinstance(answer, (list, tuple)):
        return f"expected {wanted}, found {kind(answer)}"
    if len(answer) != count:
        return f"expected {wanted}, found {kind(answer)} of {len(answer)}"
    for i in range(count):
        sentence = difference(expected[i], answer[i], tolerance)
        if sentence:
            return f"value {i + 1} of {count}: {sentence}"
    return None


def _numbers(expected: Any, answer: Any, tolerance: float) -> str | None:
    # A Python number may be whole where a floating-point one is expected: 1 for 1.0.
    has_python_numbers = _has_python_numbers(answer)
    expected = torch.as_tensor(expected).detach().cpu()
    answer = stacked(answer).detach().cpu()
    if expected.ndim == 0 and answer.numel() == 1:
        answer = answer.reshape(())
    if answer.shape != expected.shape:
        return f"expected {_shape(expected)}, found {_shape(answer)}"
    family = _family(expected)
    may_be_whole = has_python_numbers and family == "floating-point"
    if family != _family(answer) and not may_be_whole:
        return f"expected {family} numbers ({expected.dtype}), found {answer.dtype}"

    expected = expected.double()
    answer = answer.double()
    if (answer.isnan() & ~expected.isnan()).any():
        numbers = "finite numbers" if expected.isfinite().all() else "numbers"
        return f"expected {numbers}, found NaN"
    finite = expected[expected.isfinite()].abs()
    largest = finite.max().item() if len(finite) else 0.0
    # Zeros are compared with a small absolute tolerance: a gradient of 1e-9 is a right answer
    # for 0.
    margin = tolerance * max(largest, 0.01)
    error = (expected - answer).abs()
    both_nan = expected.isnan() & answer.isnan()
    close = (expected == answer) | (error <= margin) | both_nan
    if close.all():
        return None
    if expected.ndim == 0:
        right = expected.item()
        wrong = answer.item()
        return f"expected {_digits(right, wrong)}, found {_digits(wrong, right)}"
    return _worst_place(expected, answer, error, close)


def _has_python_numbers(answer: Any) -> bool:
    """Return whether all numbers of an answer are Python's own, not of a tensor or an array."""
    if isinstance(answer, (list, tuple)):
        return all(_has_python_numbers(item) for item in answer)
    return isinstance(answer, (int, float)) and not isinstance(answer, bool)


def _worst_place(
    expected: torch.Tensor, answer: torch.Tensor, error: torch.Tensor, close: torch.Tensor
) -> str:
    """Return a sentence about the entry that is farthest off."""
    error = torch.where(close, -1.0, error.nan_to_num(posinf=float("inf")))
    # NumPy's unravel_index: torch's own would import sympy first.
    place = np.unravel_index(int(error.argmax()), error.shape)
    right = expected[place].item()
    wrong = answer[place].item()
    count = (~close).sum().item()
    return (
        f"expected {_digits(right, wrong)} at {[int(i) for i in place]}, "
        f"found {_digits(wrong, right)} ({count} of {close.numel()} values differ)"
    )


def _digits(value: float, other: float | None = None) -> str:
    """Return three digits, or as many as it takes to tell two numbers apart, at most eight."""
    for digits in range(3, 9):
        text = f"{value:.{digits}g}"
        if other is None or text != f"{other:.{digits}g}":
            break
    return text


def _family(tensor: torch.Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "boolean"
    if tensor.is_floating_point():
        return "floating-point"
    return "whole"


def _shape(array: torch.Tensor | np.ndarray) -> str:
    return f"shape {tuple(array.shape)}" if array.ndim else "a single number"
