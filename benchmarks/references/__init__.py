"""The rows of benchmarks/correctness.py: each `check(seed)` returns what the package finds, what a reference says, and
what the same comparison gives with a fault planted in it; numbers or tensors of one shape."""

import torch


def normal(seed, count, *shape):
    """Return `count` standard normal float64 tensors."""
    return torch.randn(
        count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def with_gradient(loss, *tensors):
    """Return the loss and its gradient in every tensor, as one vector."""
    tensors = [x.detach().clone().requires_grad_() for x in tensors]
    value = loss(*tensors)
    return torch.cat(
        [value.reshape(1), *(g.flatten() for g in torch.autograd.grad(value, tensors))]
    )


def three(ours, theirs, faulty, *tensors):
    """Return the value and gradient of the three losses on the same tensors."""
    return tuple(with_gradient(loss, *tensors) for loss in (ours, theirs, faulty))
