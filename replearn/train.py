"""One training loop for the whole course: you write the loss, and `fit` feeds it batches."""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from replearn import _device, _progress

LOOK_EVERY = 50  # steps after which `fit` looks at what lies on a device


def set_seed(seed: int) -> None:
    """Seed the global random generators of PyTorch, NumPy and Python.

    It is meant for notebooks. Functions of this package take a `generator` instead.

    Args:
        seed: A whole number, 0 or more.

    Example:
        >>> set_seed(0)
        >>> first = torch.rand(3)
        >>> set_seed(0)
        >>> torch.equal(torch.rand(3), first)
        True
    """
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002, a notebook draws from the global generators
    random.seed(seed)


@torch.no_grad()
def ema_update(target: nn.Module, online: nn.Module, *, momentum: float) -> None:
    r"""Move the weights of a target network toward those of the online network, in place.

    .. math:: \theta_\mathrm{target} \leftarrow
        m \, \theta_\mathrm{target} + (1 - m) \, \theta_\mathrm{online}

    Buffers, such as the running statistics of BatchNorm, are copied and not averaged.

    Args:
        target: The network that changes.
        online: A network of the same architecture.
        momentum: m, in [0, 1]. 1 leaves the weights of the target alone, 0 copies the others.

    Raises:
        ValueError: The momentum is out of range, or the networks differ in their number of weights.

    References:
        He et al. 2020, "Momentum Contrast", Eq. 2; Grill et al. 2020, "Bootstrap Your Own Latent",
        Eq. 1.

    Example:
        >>> target, online = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> _ = nn.init.constant_(target.weight, 1), nn.init.constant_(online.weight, 2)
        >>> ema_update(target, online, momentum=0.75)
        >>> target.weight.item()
        1.25
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum: expected a number in [0, 1], found {momentum}")
    # In one call for all: a GPU does them faster than they could be launched one by one.
    ours, theirs = _pairs(target.parameters(), online.parameters())
    if ours:
        torch._foreach_lerp_(ours, theirs, 1 - momentum)
    ours, theirs = _pairs(target.buffers(), online.buffers())
    if ours:
        torch._foreach_copy_(ours, theirs)


def _pairs(
    ours: Iterable[torch.Tensor], theirs: Iterable[torch.Tensor]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    ours = list(ours)
    theirs = list(theirs)
    if len(ours) != len(theirs):
        raise ValueError(
            f"target, online: expected networks of one architecture, found {len(ours)} and "
            f"{len(theirs)} tensors"
        )
    return ours, theirs


def cosine(
    step: float, steps: float, *, start: float = 1.0, end: float = 0.0, warmup: float = 0
) -> float:
    r"""Return a schedule's value: a linear rise, and then half a cosine.

    After the warm-up, for s of S steps:

    .. math:: \mathrm{end} + \frac{\mathrm{start} - \mathrm{end}}{2}
        \Bigl(1 + \cos \frac{\pi (s - \mathrm{warmup})}{S - \mathrm{warmup}} \Bigr)

    Args:
        step: s, which starts at 0.
        steps: S. From there on the value is `end`.
        start: Value at the end of the warm-up.
        end: Value at the last step.
        warmup: Number of steps in which the value rises to `start`.

    Returns:
        The value at this step.

    References:
        Loshchilov & Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", Eq. 5.

    Example:
        >>> [round(cosine(step, 4), 2) for step in range(5)]
        [1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if step < warmup:
        return start * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def amp_dtype(device: str | torch.device) -> torch.dtype | None:
    """Return the data type for automatic mixed precision on a device.

    Args:
        device: A device or its name.

    Returns:
        None on a CPU, bfloat16 on a GPU of compute capability 8.0 or more, and else float16: an
        older GPU such as the T4 says that it knows bfloat16, but only emulates it.

    Example:
        >>> amp_dtype("cpu") is None
        True
    """
    if torch.device(device).type != "cuda":
        return None
    if torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16
    return torch.float16


def batches(
    n: int, batch_size: int, steps: int, generator: torch.Generator | None = None
) -> Iterator[torch.Tensor]:
    """Yield the indices of random batches.

    In an epoch each image comes once, in random order. The last batch of an epoch is left out if
    it is incomplete.

    Args:
        n: Number of images.
        batch_size: Images in a batch, from 2 to n.
        steps: Number of batches.
        generator: Source of the random numbers; None stands for torch's global one.

    Yields:
        (batch_size,) indices, on the CPU.

    Raises:
        ValueError: The batch is too small or too large.

    Example:
        >>> epoch = list(batches(6, batch_size=3, steps=2))
        >>> torch.cat(epoch).sort().values
        tensor([0, 1, 2, 3, 4, 5])
    """
    if not 2 <= batch_size <= n:
        raise ValueError(
            f"batch_size: expected 2 to {n}, the number of pictures, found {batch_size}"
        )
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < batch_size:
            order = torch.randperm(n, generator=generator)
        yield order[:batch_size]
        order = order[batch_size:]


def fit(
    loss_fn: Callable[..., torch.Tensor | tuple[torch.Tensor, Mapping[str, Any]]],
    modules: Iterable[nn.Module],
    images: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    steps: int,
    batch_size: int = 256,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    optimizer: torch.optim.Optimizer | None = None,
    after_step: Callable[[int], Mapping[str, Any] | None] | None = None,
    generator: torch.Generator | None = None,
    text: str = "training",
) -> dict[str, list[float]]:
    """Minimize a loss over random batches.

    The learning rate rises over the first 5 % of the steps and then falls to 0 along a cosine. On
    a GPU the forward pass runs in mixed precision, and nothing waits for the GPU in a step: what
    is recorded and what the checks of losses and augmentations find stays there, and is looked at
    every 50 steps.

    Args:
        loss_fn: A function of a batch x, float (batch_size, 3, H, W) in [0, 1] on the device of
            the modules, and with `labels` also of its labels y. It returns the loss, or the loss
            and a dict of numbers to record.
        modules: The networks to train. They are put in train mode.
        images: (N, 3, H, W), uint8 or floats in [0, 1].
        labels: (N,), or None.
        steps: Number of updates.
        batch_size: Images in a batch, from 2 to N.
        lr: Learning rate of AdamW at the end of the warm-up.
        weight_decay: Weight decay of AdamW.
        optimizer: Used in place of AdamW; its own learning rate is the one at the end of the
            warm-up. On a GPU that computes in float16 it should be fused: others wait for the GPU.
        after_step: Called with the number of the step after each update. What it returns, a dict
            of numbers or None, is recorded.
        generator: Source of the batches' random numbers; None stands for torch's global one.
        text: What the progress bar says.

    Returns:
        A number for each step under each name: `loss`, and what was recorded.

    Raises:
        ValueError: A loss is not finite, or the batch is too small or too large. On a GPU what is
            wrong with a loss is said up to 50 steps late.

    Example:
        >>> images = torch.rand(64, 3, 4, 4)
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))
        >>> history = fit(lambda x: model(x).square().mean(), [model], images, steps=50,
        ...               batch_size=32, lr=1e-2)
        >>> history["loss"][-1] < history["loss"][0]
        True
    """
    network = nn.ModuleList(modules).train()
    device = next(network.parameters()).device
    images = images.to(device)
    if labels is not None:
        labels = labels.to(device)
    if optimizer is None:
        optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=lr,
            weight_decay=weight_decay,
            fused=True if _device.is_like_cuda(device) else None,
        )
    schedule = _warmup_and_cosine(optimizer, steps)
    dtype = amp_dtype(device)
    scaler = torch.amp.GradScaler(enabled=dtype == torch.float16)  # float16 gradients underflow

    history = _History(lr)
    order = batches(len(images), batch_size, steps, generator)
    for step, index in enumerate(_progress.steps(order, text, steps)):
        index = _device.send(index, device)
        x = images[index]
        if images.dtype == torch.uint8:
            x = x.float() / 255
        with _device.deferring(history.findings):
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                result = loss_fn(x) if labels is None else loss_fn(x, labels[index])
            loss, recorded = result if isinstance(result, tuple) else (result, {})
            history.check(step, loss)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()

            recorded = {"loss": loss, **recorded}
            if after_step is not None:
                recorded.update(after_step(step) or {})
        history.append(recorded)
        if (step + 1) % LOOK_EVERY == 0:
            history.look()
    history.look()
    return dict(history.numbers)


class _History:
    """The numbers of each step; those on a device stay there until `look`.

    Args:
        lr: The learning rate, for what is said about a loss that is not finite.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.findings = _device.Findings()
        self.numbers: dict[str, list] = defaultdict(list)
        self._looked = 0  # steps of which all is known

    def check(self, step: int, loss: torch.Tensor) -> None:
        """Raise if a loss is not finite, as far as that is known without waiting."""
        if _device.is_cpu(loss.device) and not torch.isfinite(loss):
            self._refuse(step, loss.item())

    def append(self, recorded: Mapping[str, Any]) -> None:
        """Add a step's numbers."""
        for name, value in recorded.items():
            if isinstance(value, torch.Tensor) and not _device.is_cpu(value.device):
                # A copy: what is recorded may be a weight, which the next step changes.
                value = value.detach().reshape(()).float().clone()
            else:
                value = float(value.detach() if isinstance(value, torch.Tensor) else value)
            self.numbers[name].append(value)

    def look(self) -> None:
        """Wait for the device, once for each name, and turn what lies there into numbers.

        Raises:
            ValueError: A loss was not finite, or a check found something.
        """
        self.findings.look()
        for values in self.numbers.values():
            places = [i for i, value in enumerate(values) if isinstance(value, torch.Tensor)]
            if not places:
                continue
            known = torch.stack([values[i] for i in places]).cpu().tolist()
            for i, value in zip(places, known, strict=True):
                values[i] = value
        for step in range(self._looked, len(self.numbers["loss"])):
            loss = self.numbers["loss"][step]
            if not math.isfinite(loss):
                self._refuse(step, loss)
        self._looked = len(self.numbers["loss"])

    def _refuse(self, step: int, loss: float) -> None:
        raise ValueError(
            f"step {step}: expected a finite loss, found {loss}; try a smaller lr (now {self.lr})"
        )


def _warmup_and_cosine(
    optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    def factor(step):
        return cosine(step, steps, warmup=steps // 20)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
