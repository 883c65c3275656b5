"""One training loop for the whole course: you write the loss, `fit` feeds it batches."""

import math
import os
import random
from collections import defaultdict

import numpy as np
import torch


def set_seed(seed):
    """Seed PyTorch, NumPy and Python: for notebooks; functions of this package take a `generator` instead."""
    for seeder in (torch.manual_seed, np.random.seed, random.seed):
        seeder(seed)


@torch.no_grad()
def ema_update(target, online, *, momentum):
    """Move a target network toward the online one: target = momentum * target + (1 - momentum) * online.

    Buffers (BatchNorm's running statistics) are copied, not averaged. momentum in [0, 1]; 1 leaves the target alone.
    Source: He et al. 2020, Eq. 2; Grill et al. 2020, Eq. 1."""
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum: expected a number in [0, 1], found {momentum}")
    for t, o in zip(target.parameters(), online.parameters(), strict=True):
        t.lerp_(o, 1 - momentum)
    for t, o in zip(target.buffers(), online.buffers(), strict=True):
        t.copy_(o)


def cosine(step, steps, *, start=1.0, end=0.0, warmup=0):
    """Return a cosine from `start` at step 0 to `end` at step `steps`, after a linear rise over `warmup` steps."""
    if step < warmup:
        return start * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def amp_dtype(device):
    """Return the AMP dtype: None on a CPU, bfloat16 from capability 8.0 on (a T4 only emulates it), else float16."""
    if torch.device(device).type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def batches(n, batch_size, steps, generator=None):
    """Yield `steps` index tensors (batch_size,): each picture once an epoch, shuffled; incomplete batches left out."""
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
    loss_fn,
    modules,
    images,
    labels=None,
    *,
    steps,
    batch_size=256,
    lr=1e-3,
    weight_decay=1e-4,
    optimizer=None,
    after_step=None,
    generator=None,
    text="training",
):
    """Minimize `loss_fn(x)`, or with labels `loss_fn(x, y)`, over random batches; return {name: a number a step}.
    loss_fn: x float (batch_size, 3, H, W) in [0, 1] on the modules' device -> loss, or loss and a dict to record.
    modules: the networks to train, by AdamW (or your `optimizer`): 5 % of the steps warm-up, then a cosine to zero.
    after_step(step) runs after each update; a dict that it returns is recorded. ValueError if a loss is not finite."""
    from tqdm.auto import tqdm

    network = torch.nn.ModuleList(modules).train()
    device = next(network.parameters()).device
    images, labels = images.to(device), labels if labels is None else labels.to(device)
    optimizer = optimizer or torch.optim.AdamW(
        network.parameters(), lr=lr, weight_decay=weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: cosine(step, steps, warmup=steps // 20)
    )
    dtype = amp_dtype(device)
    scaler = torch.amp.GradScaler(enabled=dtype == torch.float16)
    history = defaultdict(list)
    order, quiet = (
        batches(len(images), batch_size, steps, generator),
        "REPLEARN_STATIC" in os.environ,
    )
    bar = tqdm(order, text, steps, leave=False, disable=quiet)
    for step, index in enumerate(bar):
        index = index.to(device)
        x = images[index].float() / 255 if images.dtype == torch.uint8 else images[index]
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            result = loss_fn(x) if labels is None else loss_fn(x, labels[index])
        loss, extra = result if isinstance(result, tuple) else (result, {})
        if not torch.isfinite(loss):
            raise ValueError(
                f"step {step}: expected a finite loss, found {loss.item()}; try a smaller lr (now {lr})"
            )
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        extra = {"loss": loss.item(), **extra, **((after_step(step) or {}) if after_step else {})}
        for name, value in extra.items():
            history[name].append(float(value))
    return dict(history)
