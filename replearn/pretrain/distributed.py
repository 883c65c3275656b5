"""More than one process: `accelerate launch` (or torchrun) starts them, these few functions let them train as one.

Every process computes the loss of the *joint* batch, with its own rows carrying the gradient. So the gradient that
reaches its own rows is complete, negatives of the others included, and the sum over processes of the weights' gradients
is that of one process with the joint batch. BatchNorm joins in on GPUs (SyncBatchNorm); PyTorch has none for CPUs,
where each process normalizes its own part.
"""

import os

import torch
import torch.distributed as dist


def join(device=None):
    """Join the processes that the launcher started, if it started several; return the device of this one."""
    if world() == 1 and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        cuda = torch.cuda.is_available() and str(device or "cuda").startswith("cuda")
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group("nccl" if cuda else "gloo")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return (
        torch.device("cuda", torch.cuda.current_device())
        if str(device) == "cuda"
        else torch.device(device)
    )


def leave():
    """End what `join` began."""
    if world() > 1:
        dist.destroy_process_group()


def world():
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank():
    """Return the number of this process; 0 is the one that prints and saves."""
    return dist.get_rank() if world() > 1 else 0


def gather(z):
    """Return the rows of all processes (W N, D) for one's own (N, D), which alone keep their gradient."""
    if world() == 1:
        return z
    parts = [torch.empty_like(z) for _ in range(world())]
    dist.all_gather(parts, z.detach().contiguous())
    parts[rank()] = z
    return torch.cat(parts)


def sum_gradients(parameters):
    """Replace every gradient by its sum over the processes, in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if world() == 1 or not gradients:
        return
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for g, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        g.copy_(total.view_as(g))


def agree(number, device):
    """Return process 0's number to all: what depends on a clock must not differ between processes."""
    if world() == 1:
        return number
    shared = torch.tensor(float(number), dtype=torch.float64, device=device)
    dist.broadcast(shared, 0)
    return shared.item()


def first(function):
    """Call `function` in process 0, then in the others, and return what it returns: it may tidy up files."""
    if rank() == 0:
        result = function()
    if world() > 1:
        dist.barrier()
    return result if rank() == 0 else function()
