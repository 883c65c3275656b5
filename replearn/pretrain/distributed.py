"""More than one process: `accelerate launch` (or torchrun) starts them, here they train as one.

Every process computes the loss of the *joint* batch, with its own rows carrying the gradient. So
the gradient that reaches its own rows is complete, negatives of the others included, and the sum
over processes of the weights' gradients is that of one process with the joint batch. BatchNorm
joins in on GPUs (SyncBatchNorm); PyTorch has none for CPUs, where each process normalizes its own
part.

N rows a process, W processes, D the size of z.
"""

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def join(device: str | torch.device | None = None) -> torch.device:
    """Join the processes that the launcher started, if it started several.

    Args:
        device: Where this process computes; None for a GPU if there is one.

    Returns:
        The device of this process.
    """
    if world() == 1 and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        wants_cuda = device is None or str(device).startswith("cuda")
        if wants_cuda and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
            dist.init_process_group("nccl")
        else:
            dist.init_process_group("gloo")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if str(device) == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(device)


def leave() -> None:
    """End what `join` began."""
    if world() > 1:
        dist.destroy_process_group()


def world() -> int:
    """Return the number of processes.

    Returns:
        1 or more.

    Example:
        >>> world(), rank()
        (1, 0)
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return 1


def rank() -> int:
    """Return the number of this process.

    Returns:
        0 for the process that prints and saves.
    """
    return dist.get_rank() if world() > 1 else 0


def gather(z: torch.Tensor) -> torch.Tensor:
    """Return the rows of all processes, of which one's own alone keep their gradient.

    Args:
        z: One's own rows (N, D).

    Returns:
        All rows (W N, D), in the order of the processes.
    """
    if world() == 1:
        return z
    parts = [torch.empty_like(z) for _ in range(world())]
    dist.all_gather(parts, z.detach().contiguous())
    parts[rank()] = z
    return torch.cat(parts)


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace, in place, every gradient by its sum over the processes, in one message.

    Args:
        parameters: Those of the trained networks, the same in every process.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if world() == 1 or not gradients:
        return
    joined = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(joined)
    sums = joined.split([gradient.numel() for gradient in gradients])
    for gradient, total in zip(gradients, sums, strict=True):
        gradient.copy_(total.view_as(gradient))


def agree(number: float, device: torch.device) -> float:
    """Return process 0's number to all: what depends on a clock must not differ between processes.

    Args:
        number: This process's number.
        device: This process's device.

    Returns:
        Process 0's number.
    """
    if world() == 1:
        return number
    shared = torch.tensor(float(number), dtype=torch.float64, device=device)
    dist.broadcast(shared, 0)
    return shared.item()


def first(function: Callable[[], T]) -> T:
    """Call a function in process 0 and then in the others, since it may download or tidy up files.

    Args:
        function: Called without arguments, once in each process.

    Returns:
        What it returns in this process.
    """
    if rank() > 0:
        dist.barrier()  # until process 0 is done
        return function()
    result = function()
    if world() > 1:
        dist.barrier()
    return result
