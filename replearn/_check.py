"""Input checks that the core shares: an error that says what was expected and what was found.

Without them a wrong shape would be broadcast in silence, and a NaN would come out at the far end.
Checks of values wait for the device; inside `_device.deferring` they do not, and raise later.
"""

import math

import torch

from replearn import _device


def finite(name: str, x: torch.Tensor, *, ndim: int = 2, min_rows: int = 1) -> torch.Tensor:
    """Check that a tensor holds finite floating-point numbers.

    Args:
        name: What the error calls the tensor.
        x: The tensor.
        ndim: Number of axes that it must have.
        min_rows: Smallest number of rows.

    Returns:
        The same tensor.

    Raises:
        TypeError: It is no dense tensor of 16 bits a number or more.
        ValueError: It has another shape, or holds NaN or infinity.

    Example:
        >>> finite("z", torch.tensor([[1.0, math.nan]]))
        Traceback (most recent call last):
        ValueError: z: expected finite values, found NaN or infinity
    """
    if not isinstance(x, torch.Tensor) or x.is_meta or x.layout != torch.strided:
        raise TypeError(
            f"{name}: expected a torch.Tensor, found {type(x).__name__}; meta and sparse ones do "
            "not count"
        )
    if not x.is_floating_point() or x.element_size() < 2:
        raise TypeError(
            f"{name}: expected floating-point numbers, found {x.dtype}; convert it with .float()"
        )
    shape = tuple(x.shape)
    if x.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} axes, found shape {shape}")
    if len(x) < min_rows or x.numel() == 0:
        raise ValueError(
            f"{name}: expected {min_rows} or more rows and no empty axis, found shape {shape}"
        )
    sentence = f"{name}: expected finite values, found NaN or infinity"
    if _device.is_deferred(x):
        _device.note(torch.isfinite(x.detach()).all(), sentence)
        return x
    # A sum is quick to compute and shows every NaN, but it may overflow where no number does.
    looks_finite = torch.isfinite(x.detach().sum())
    if not looks_finite and not torch.isfinite(x).all():
        raise ValueError(sentence)
    return x


def same_shape(name_x: str, x: torch.Tensor, name_y: str, y: torch.Tensor) -> None:
    """Check that two tensors have the same shape and lie on the same device.

    Args:
        name_x: What the error calls the first tensor.
        x: The first tensor.
        name_y: What the error calls the second tensor.
        y: The second tensor.

    Raises:
        ValueError: They differ.

    Example:
        >>> same_shape("z1", torch.ones(2, 3), "z2", torch.ones(2, 4))
        Traceback (most recent call last):
        ValueError: z1 and z2: expected equal shapes, found (2, 3) and (2, 4)
    """
    names = f"{name_x} and {name_y}"
    if x.shape != y.shape:
        raise ValueError(
            f"{names}: expected equal shapes, found {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if x.device != y.device:
        raise ValueError(f"{names}: expected one device, found {x.device} and {y.device}")


def pair(
    name_1: str,
    z1: torch.Tensor,
    name_2: str,
    z2: torch.Tensor,
    *,
    min_rows: int = 2,
    temperature: float | torch.Tensor = 1.0,
) -> None:
    """Check two batches of embeddings that a loss compares, and its temperature.

    Args:
        name_1: What the error calls the first batch.
        z1: The first batch, (N, D).
        name_2: What the error calls the second batch.
        z2: The second batch.
        min_rows: Smallest N.
        temperature: A positive number.

    Raises:
        TypeError: A batch is no tensor of floating-point numbers, or their dtypes differ.
        ValueError: Their shapes or devices differ, a number is not finite or too large to be
            squared, or the temperature is not positive.

    Example:
        >>> pair("z1", torch.ones(2, 3), "z2", torch.ones(2, 3).double())
        Traceback (most recent call last):
        TypeError: z1 and z2: expected one dtype, found torch.float32 and torch.float64
    """
    finite(name_1, z1, min_rows=min_rows)
    finite(name_2, z2, min_rows=min_rows)
    same_shape(name_1, z1, name_2, z2)
    if z1.dtype != z2.dtype:
        raise TypeError(
            f"{name_1} and {name_2}: expected one dtype, found {z1.dtype} and {z2.dtype}"
        )
    norm = z1.detach().norm() + z2.detach().norm()
    if _device.is_deferred(norm):
        sentence = f"{name_1}, {name_2}: expected numbers that can be squared, found larger ones"
        _device.note(torch.isfinite(norm), sentence)
    elif not torch.isfinite(norm):
        raise ValueError(
            f"{name_1}, {name_2}: expected numbers that can be squared, found up to "
            f"{z1.abs().max():.3g}"
        )
    positive("temperature", temperature)


def positive(name: str, value: float | torch.Tensor) -> None:
    """Check that a value is one number from 1e-6 up.

    To divide by a smaller one would leave the range of float32.

    Args:
        name: What the error calls the value.
        value: A number, or a tensor that holds one.

    Raises:
        ValueError: It is no such number.

    Example:
        >>> positive("temperature", 0)
        Traceback (most recent call last):
        ValueError: temperature: expected one finite number, 1e-6 or more, found 0
    """
    is_several = isinstance(value, torch.Tensor) and value.numel() != 1
    if isinstance(value, torch.Tensor) and not is_several and _device.is_deferred(value):
        holds = (value.detach() >= 1e-6) & (value.detach() < math.inf)
        _device.note(holds.reshape(()), f"{name}: expected one finite number, 1e-6 or more")
        return
    if is_several or not 1e-6 <= value < math.inf:
        raise ValueError(f"{name}: expected one finite number, 1e-6 or more, found {value}")


def labels(name: str, y: torch.Tensor, rows: int) -> torch.Tensor:
    """Check that a tensor holds one integer label for each row.

    Args:
        name: What the error calls the labels.
        y: The labels, (rows,).
        rows: How many there must be.

    Returns:
        The same tensor.

    Raises:
        TypeError: It is no tensor of integers.
        ValueError: Its shape is another one.

    Example:
        >>> labels("y", torch.tensor([0, 1, 1]), 4)
        Traceback (most recent call last):
        ValueError: y: expected shape (4,), one label a row, found (3,)
    """
    if not isinstance(y, torch.Tensor) or y.is_floating_point() or y.dtype == torch.bool:
        kind = getattr(y, "dtype", type(y).__name__)
        raise TypeError(f"{name}: expected an integer tensor, found {kind}")
    if y.shape != (rows,):
        raise ValueError(
            f"{name}: expected shape ({rows},), one label a row, found {tuple(y.shape)}"
        )
    return y


def tensors(
    source: str,
    found: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
    *,
    remedy: str,
    same_dtype: bool = False,
) -> None:
    """Check that tensors from a file are those of a network: names, shapes, types, finite values.

    Args:
        source: What the error calls the file.
        found: The tensors of the file.
        expected: Tensors with the right names, shapes and types; they may be on the meta device.
        remedy: What to do about it, the end of the sentence.
        same_dtype: Floating-point numbers must not be stored with another precision.

    Raises:
        ValueError: They are others.

    Example:
        >>> tensors("file", {"x": torch.ones(2)}, {"x": torch.ones(3)}, remedy="fetch it again")
        Traceback (most recent call last):
        ValueError: file: x: expected shape (3,), found (2,); fetch it again
    """
    missing = sorted(set(expected) - set(found))
    if missing:
        raise ValueError(f"{source}: expected a tensor {missing[0]!r}, found none; {remedy}")
    unknown = sorted(set(found) - set(expected))
    if unknown:
        raise ValueError(f"{source}: expected no tensor {unknown[0][:80]!r}, found one; {remedy}")
    for name, like in expected.items():
        fault = _fault_of_tensor(name, found[name], like, same_dtype)
        if fault is not None:
            raise ValueError(f"{source}: {name}: {fault}; {remedy}")


def _fault_of_tensor(
    name: str, x: torch.Tensor, expected: torch.Tensor, same_dtype: bool
) -> str | None:
    """Return "expected …, found …", or None if all is well."""
    if x.shape != expected.shape:
        return f"expected shape {tuple(expected.shape)}, found {tuple(x.shape)}"
    if (same_dtype or not expected.is_floating_point()) and x.dtype != expected.dtype:
        return f"expected {expected.dtype}, found {x.dtype}"
    if not expected.is_floating_point():
        return None
    if not x.is_floating_point() or x.element_size() < 2:
        return f"expected floating-point numbers, found {x.dtype}"
    values = x.to(expected.dtype)  # which may be too small for them
    if not torch.isfinite(values).all():
        return "expected finite values, found NaN or infinity"
    is_square = name.endswith(("running_var", "exp_avg_sq"))
    if is_square and values.numel() and values.min() < 0:
        return f"expected numbers of 0 or more, found {values.min().item():g}"
    return None
