"""Input checks shared by the core: one clear error (expected, found) instead of a NaN or a silent broadcast."""

import torch


def finite(name, x, *, ndim=2, min_rows=1):
    """Return `x` if it is a finite float tensor with `ndim` axes and `min_rows` rows or more; raise otherwise."""
    if not isinstance(x, torch.Tensor) or x.is_meta or x.layout != torch.strided:
        raise TypeError(
            f"{name}: expected a torch.Tensor, found {type(x).__name__}; meta and sparse ones do not count"
        )
    if not x.is_floating_point() or x.element_size() < 2:
        raise TypeError(
            f"{name}: expected floating-point numbers, found {x.dtype}; convert it with .float()"
        )
    if x.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} axes, found shape {tuple(x.shape)}")
    if len(x) < min_rows or x.numel() == 0:
        raise ValueError(
            f"{name}: expected {min_rows} or more rows and no empty axis, found shape {tuple(x.shape)}"
        )
    if (
        not torch.isfinite(x.detach().sum()) and not torch.isfinite(x).all()
    ):  # the sum is quick; a sum may overflow
        raise ValueError(f"{name}: expected finite values, found NaN or infinity")
    return x


def same_shape(name_x, x, name_y, y):
    """Raise unless two tensors have the same shape and device."""
    if x.shape != y.shape:
        raise ValueError(
            f"{name_x} and {name_y}: expected equal shapes, found {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if x.device != y.device:
        raise ValueError(
            f"{name_x} and {name_y}: expected one device, found {x.device} and {y.device}"
        )


def labels(name, y, rows):
    """Return `y` if it is an integer tensor with one label for each of `rows` rows; raise otherwise."""
    if not isinstance(y, torch.Tensor) or y.is_floating_point() or y.dtype == torch.bool:
        raise TypeError(
            f"{name}: expected an integer tensor, found {getattr(y, 'dtype', type(y).__name__)}"
        )
    if y.shape != (rows,):
        raise ValueError(
            f"{name}: expected shape ({rows},), one label a row, found {tuple(y.shape)}"
        )
    return y
