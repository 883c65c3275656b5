"""One step of contrastive pretraining, and all that changes in it. N pictures, B a step (over all processes).

The random numbers of a step (augmentation, dropout) are seeded by recipe, step and process, the shuffle of an epoch by
recipe and epoch. So the step *is* the random state: a resumed run draws what it would have drawn, on any device.
"""

import hashlib
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn

from replearn.augment import multi_crop, two_views
from replearn.losses import decoupled_contrastive, moco, nt_xent
from replearn.metrics import collapse_meter
from replearn.pretrain import distributed
from replearn.pretrain.recipe import networks
from replearn.probe import extract_features, knn_accuracy
from replearn.train import amp_dtype, cosine, ema_update

LOSSES = {"nt_xent": nt_xent, "decoupled_contrastive": decoupled_contrastive}


@dataclass
class Run:
    """All that changes during training."""

    online: nn.Sequential  # encoder, projector
    average: nn.Sequential | None  # the mean of past weights
    target: nn.Sequential | None  # MoCo's key network
    queue: torch.Tensor | None  # (K, D), newest key first
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    forward: nn.Module  # online, maybe compiled
    dtype: torch.dtype | None  # of autocast; None: all in float32
    step: int = 0
    steps: int = 0
    seconds: float = 0.0


def seed_of(*parts):
    """Return a seed that depends on all parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def begin(recipe, side, device, *, compile=False, dtype=None):
    """Return a Run at step 0."""
    dtype = dtype or amp_dtype(device)
    torch.manual_seed(recipe.seed)
    online = (
        nn.Sequential(*networks(recipe, side)).to(device, memory_format=torch.channels_last).train()
    )
    if distributed.world() > 1 and device.type == "cuda":
        online = nn.SyncBatchNorm.convert_sync_batchnorm(online)
    average, target = (
        deepcopy(online).requires_grad_(False) if wanted else None
        for wanted in (recipe.average, recipe.queue)
    )
    queue = (
        nn.functional.normalize(torch.randn(recipe.queue, recipe.out)).to(device)
        if recipe.queue
        else None
    )
    settings = dict(lr=recipe.lr, weight_decay=recipe.weight_decay)
    make = {
        "sgd": lambda p: torch.optim.SGD(p, momentum=0.9, **settings),
        "adamw": lambda p: torch.optim.AdamW(p, **settings),
    }[recipe.optimizer]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    forward = torch.compile(online) if compile and device.type == "cuda" else online
    return Run(online, average, target, queue, make(online.parameters()), scaler, forward, dtype)


def tensors_of(run):
    """Return every tensor of a Run by name."""
    found = {f"online.{name}": x for name, x in run.online.state_dict().items()}
    if run.average is not None:
        found |= {f"average.{name}": x for name, x in run.average.state_dict().items()}
    if run.target is not None:
        found |= {f"target.{name}": x for name, x in run.target.state_dict().items()} | {
            "queue": run.queue
        }
    for i, values in run.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{i}.{name}": x for name, x in values.items() if x is not None}
    return found


def restore(run, tensors, about):
    """Put a Run back to where `tensors_of` and `about` were taken."""
    part = lambda prefix: {k[len(prefix) :]: x for k, x in tensors.items() if k.startswith(prefix)}
    run.online.load_state_dict(part("online."))
    if run.average is not None:
        run.average.load_state_dict(part("average."))
    if run.target is not None:
        run.target.load_state_dict(part("target."))
        run.queue = tensors["queue"].to(run.queue.device)
    state, parameters = {}, list(run.online.parameters())
    for key, x in part("optimizer.").items():
        i, name = key.split(".", 1)
        like = parameters[
            int(i)
        ]  # moments in their weight's memory format, which the quick kernels ask for
        state.setdefault(int(i), {})[name] = (
            torch.empty_like(like).copy_(x) if x.shape == like.shape else x.clone()
        )
    run.optimizer.load_state_dict(
        {"state": state, "param_groups": run.optimizer.state_dict()["param_groups"]}
    )
    if run.scaler.is_enabled() and about.get("scaler"):
        run.scaler.load_state_dict(about["scaler"])
    run.step, run.steps, run.seconds = about["step"], about["steps"], about["seconds"]


def make_views(recipe, pictures):
    """Return two large views of each picture, and `n_small` small ones."""
    options = {
        name: getattr(recipe, name) for name in ("crop", "jitter", "grayscale", "blur", "flip")
    }
    if recipe.n_small:
        return multi_crop(
            pictures, n_small=recipe.n_small, small_size=pictures.shape[2] // 2, **options
        )
    return list(two_views(pictures, **options))


def contrast(recipe, forward, views, *, target=None, queue=None):
    """Return the loss of the joint batch and, with MoCo, its keys: every view has to find the large ones.

    Without small views that is one pair; with MoCo each large view looks for the other's key among a queue."""
    joined = lambda part: torch.cat(part).contiguous(memory_format=torch.channels_last)
    large, small = joined(views[:2]), views[2:]
    z = [*forward(large).chunk(2), *(forward(joined(small)).chunk(len(small)) if small else ())]
    z = [distributed.gather(part) for part in z]  # (B, D) each
    if target is None:
        find, pairs, keys = LOSSES[recipe.loss], [(z[0], z[1])], z[:2]
    else:
        with torch.no_grad():
            keys = [distributed.gather(part) for part in target(large).chunk(2)]
        find, pairs = (
            (lambda q, k, **t: moco(q, k, queue.to(k.dtype), **t)),
            [(z[0], keys[1]), (z[1], keys[0])],
        )
    pairs += [(query, key) for query in z[2:] for key in keys]
    return sum(find(q, k, temperature=recipe.temperature) for q, k in pairs) / len(pairs), keys


def update(recipe, run, views, lr):
    """Make one step of training on views (B / processes, 3, H, W); return the loss, still on its device."""
    with torch.autocast(views[0].device.type, dtype=run.dtype, enabled=run.dtype is not None):
        loss, keys = contrast(recipe, run.forward, views, target=run.target, queue=run.queue)
    run.optimizer.zero_grad()
    run.scaler.scale(loss).backward()
    distributed.sum_gradients(run.online.parameters())
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if (
        run.average is not None
    ):  # a short memory at first, else the random weights stay in the mean for long
        ema_update(
            run.average, run.online, momentum=min(recipe.average, (1 + run.step) / (10 + run.step))
        )
    if run.target is not None:
        ema_update(run.target, run.online, momentum=recipe.momentum)
        keys = nn.functional.normalize(torch.cat(keys).float())
        run.queue = torch.cat([keys, run.queue])[: recipe.queue]
    return loss.detach()


def pictures_of(recipe, images, step, order):
    """Return this process's pictures of a step; `order` keeps the shuffle of the epoch between calls."""
    epoch, place = divmod(step, len(images) // recipe.batch_size)
    if order.get("epoch") != epoch:
        generator = torch.Generator().manual_seed(seed_of(recipe.seed, "epoch", epoch))
        order.update(
            epoch=epoch, index=torch.randperm(len(images), generator=generator).to(images.device)
        )
    share = recipe.batch_size // distributed.world()
    start = place * recipe.batch_size + distributed.rank() * share
    return images[order["index"][start : start + share]]


def train_step(recipe, run, images, order):
    """Make the step number run.step; return its loss. Raises ValueError with a diagnosis if it is not finite."""
    torch.manual_seed(seed_of(recipe.seed, run.step, distributed.rank()))
    lr = recipe.lr * cosine(run.step, run.steps, warmup=round(recipe.warmup * run.steps))
    loss = update(recipe, run, make_views(recipe, pictures_of(recipe, images, run.step, order)), lr)
    run.step += 1
    return loss


def kept(run):
    """Return the encoder and projector that are evaluated and saved."""
    return run.online if run.average is None else run.average


def evaluate(run, images, knn):
    """Return the collapse meter of z, and with knn = (train set, test set) the accuracy of h on the test set."""
    encoder, projector = kept(run)
    with torch.autocast(images.device.type, dtype=run.dtype, enabled=run.dtype is not None):
        h, *bank = [
            extract_features(encoder, x)
            for x in ((knn[1].images, knn[0].images) if knn else (images[:1000],))
        ]
        found = collapse_meter(extract_features(projector, h[:1000]))
    if knn:
        found["knn"] = knn_accuracy(
            bank[0], knn[0].labels, h, knn[1].labels, k=min(20, len(bank[0]))
        )
    return found
