"""The rows of benchmarks/correctness.py, one module for each part of the course.

A row compares a quantity of the package with a reference: another library, a published value, a
closed form, or a loop straight from the paper. Each of its seeds gives three results on the same
input: the package's, the reference's, and what comes out with a planted fault, a mistake that
people make. The third says whether the comparison would see that mistake.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

Loss = Callable[..., torch.Tensor]


class Compared(NamedTuple):
    """Three results for one input: numbers, lists of numbers or tensors, all of one shape."""

    ours: Any
    expected: Any  # by the reference
    faulty: Any  # with the planted fault


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    quantity: str
    lesson: str  # the lessons that use it, as "03" or "03, 07"
    check: Callable[[int], Compared]  # from a seed
    reference: str  # a name in the peer, a paper or a form
    allowed: float  # the largest absolute difference that counts as equal
    fault: str  # what was planted
    peer: str | None = None  # the library that the reference is in, as pip calls it
    seeds: int = 5
    slow: bool = False  # trains networks or starts processes


def normal(seed: int, count: int, *shape: int) -> torch.Tensor:
    """Return `count` standard normal float64 tensors of a shape, stacked."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def with_gradient(loss: Loss, *tensors: torch.Tensor) -> torch.Tensor:
    """Return the loss and its gradient in every tensor, as one vector."""
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    value = loss(*leaves)
    gradients = torch.autograd.grad(value, leaves)
    return torch.cat([value.reshape(1), *(gradient.flatten() for gradient in gradients)])


def compared_with_gradients(
    ours: Loss, expected: Loss, faulty: Loss, *tensors: torch.Tensor
) -> Compared:
    """Compare three losses on the same tensors, their gradients included."""
    return Compared(
        ours=with_gradient(ours, *tensors),
        expected=with_gradient(expected, *tensors),
        faulty=with_gradient(faulty, *tensors),
    )
