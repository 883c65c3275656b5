"""More than one process: `accelerate launch` (or torchrun) starts them, here they train as one.

Every process computes the loss of the *joint* batch, with its own rows carrying the gradient. So
the gradient that reaches its own rows is complete, negatives of the others included, and the sum
over processes of the weights' gradients is that of one process with the joint batch. BatchNorm
joins in on GPUs (SyncBatchNorm); PyTorch has none for CPUs, where each process normalizes its own
part.

Whoever waits in vain says so in a sentence: which process, for what, for how long.

N rows a process, W processes, D the size of z.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from replearn import _device
from replearn._progress import duration

T = TypeVar("T")
STEP_SECONDS = 30 * 60  # that a process waits for the others within a step
FIRST_SECONDS = 24 * 60 * 60  # that the others wait while process 0 downloads
LATE = re.compile(r"time.?out|timed out", re.IGNORECASE)

_patient: dist.ProcessGroup | None = None  # all processes, with the longer time-out


def join(device: str | torch.device | None = None) -> torch.device:
    """Join the processes that the launcher started, if it started several.

    Args:
        device: Where this process computes; None for a GPU if there is one.

    Returns:
        The device of this process.

    Raises:
        ValueError: This machine has no such device.
        OSError: The other processes did not come.
    """
    global _patient
    if world() == 1 and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        wants_cuda = device is None or str(device).startswith("cuda")
        backend = "gloo"
        if wants_cuda and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
            backend = "nccl"
        with _named("for all processes to start"):
            dist.init_process_group(backend, timeout=timedelta(seconds=STEP_SECONDS))
            # Waiting on a CPU: a GPU's time-out would end the process without a word of ours.
            long_wait = timedelta(seconds=FIRST_SECONDS)
            _patient = dist.new_group(backend="gloo", timeout=long_wait)
    found = _device.named(device)
    if str(found) == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return found


def leave() -> None:
    """End what `join` began."""
    global _patient
    if world() > 1:
        dist.destroy_process_group()
        _patient = None


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
    with _named("for the others' features"):
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
    with _named("for the others' gradients"):
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
    with _named("for process 0 to say how many steps there are"):
        dist.broadcast(shared, 0)
        return shared.item()


def first(function: Callable[[], T], what: str = "to load the data") -> T:
    """Call a function in process 0 and then in the others, since it may download or tidy up files.

    The others wait for a day, since a first download can be slow. If the function fails in
    process 0 they do not wait on.

    Args:
        function: Called without arguments, once in each process.
        what: What process 0 does meanwhile, as it reads after "waited for process 0".

    Returns:
        What it returns in this process.

    Raises:
        OSError: In the others: process 0 has failed, has ended, or took too long.
    """
    if world() == 1:
        return function()
    if rank() > 0:
        _wait_for_first(what)
        return function()
    try:
        result = function()
    except BaseException:
        _tell_others(False)
        raise
    _tell_others(True)
    return result


def _tell_others(is_done: bool) -> None:
    with _named("for the others to hear of process 0"):
        dist.broadcast(torch.tensor(int(is_done)), 0, group=_patient)


def _wait_for_first(what: str) -> None:
    is_done = torch.tensor(0)
    with _named(f"for process 0 {what}", FIRST_SECONDS):
        dist.broadcast(is_done, 0, group=_patient)
    if not is_done:
        raise ConnectionError(
            f"process {rank()} of {world()} waited for process 0 {what}, and process 0 has failed: "
            "its own words say why"
        )


@contextmanager
def _named(what: str, longest: float | None = None) -> Iterator[None]:
    """Turn an error of PyTorch while processes wait for each other into a sentence.

    Args:
        what: What this process waits for, as it reads after "waited".
        longest: Seconds after which PyTorch gives up; None for `STEP_SECONDS`.

    Raises:
        TimeoutError: Nobody answered in time.
        ConnectionError: Another process has ended.
    """
    started = time.monotonic()
    try:
        yield
    except RuntimeError as error:
        # Before all have started there is no rank yet but that of the launcher.
        me = os.environ.get("RANK", "0")
        processes = os.environ.get("WORLD_SIZE", "1")
        waited = duration(time.monotonic() - started)
        sentence = f"process {me} of {processes} waited {waited} {what}"
        limit = STEP_SECONDS if longest is None else longest
        is_late = LATE.search(str(error)) or time.monotonic() - started >= limit
        if is_late:
            raise TimeoutError(
                f"{sentence} in vain: another process hangs, or is much slower; see what the "
                "others printed last, then run the same again to go on from the last checkpoint"
            ) from error
        raise ConnectionError(
            f"{sentence}, and the connection broke: another process has ended; see what the "
            "others printed last, then run the same again to go on from the last checkpoint "
            f"({str(error).strip().splitlines()[0][:100]})"
        ) from error
