"""One step of pretraining, and the object that holds all that a run is.

N images in the set, B images a step over all processes, V large views of each image, D the size of
z, K the keys of a queue.

The random numbers of a step (augmentation, dropout) are seeded by recipe, step and process, the
order of an epoch by recipe and epoch. So the step number *is* the random state: a resumed run draws
what it would have drawn, on any device, and a checkpoint has no generator to remember.

Nothing in a step waits for a GPU: views are made some steps ahead, the step itself is one CUDA
graph where it fits (`why_eager` says why it does not), and what checks of losses find stays on the
GPU until the loop looks.
"""

import hashlib
import warnings
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from replearn import _device
from replearn.augment import draw_views, two_views, views_from
from replearn.losses import (
    decoupled_contrastive,
    full_precision,
    moco,
    negative_cosine,
    nt_xent,
    unit_rows,
)
from replearn.pretrain import distributed
from replearn.pretrain.ahead import Recorded, Views, ViewsAhead, has_streams
from replearn.pretrain.online import OnlineProbe
from replearn.pretrain.recipe import Recipe, networks, new_predictor
from replearn.train import amp_dtype, cosine, ema_update

SMALL_CROP = (0.05, 0.14)  # the default of `multi_crop`
LOSSES = {"nt_xent": nt_xent, "decoupled_contrastive": decoupled_contrastive}


def seed_of(*parts: Any) -> int:
    """Return a seed that depends on all parts.

    Args:
        parts: Numbers and texts.

    Returns:
        A whole number of 63 bits.

    Example:
        >>> seed_of(0, "epoch", 1) == seed_of(0, "epoch", 1), seed_of(0, 12) == seed_of(1, 2)
        (True, False)
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Batches:
    """The images of each step: every image once an epoch, in a new order each time.

    Args:
        images: uint8 (N, 3, H, W); they stay where they are.
        batch_size: Images a step, over all processes. An incomplete last batch is left out.
        seed: Decides the order, together with the number of the epoch.

    Example:
        >>> images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 8, 8)
        >>> batches = Batches(images, batch_size=2, seed=0)
        >>> sorted(torch.cat([batches.at(0), batches.at(1)])[:, 0, 0, 0].tolist())
        [0, 1, 2, 3]
    """

    def __init__(self, images: torch.Tensor, batch_size: int, seed: int) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.per_epoch = len(images) // batch_size
        self._epoch = -1  # the one whose order is kept
        self._order = torch.empty(0)

    def at(self, step: int) -> torch.Tensor:
        """Return this process's images of a step.

        Args:
            step: The number of the step, from 0.

        Returns:
            The images, uint8 (B / processes, 3, H, W).
        """
        return self.images[self.rows(step)]

    def rows(self, step: int) -> torch.Tensor:
        """Return which images are this process's in a step.

        Args:
            step: The number of the step, from 0.

        Returns:
            Indices (B / processes,), on the device of the images.
        """
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = self._shuffled(epoch)
            self._epoch = epoch
        share = self.batch_size // distributed.world()
        start = place * self.batch_size + distributed.rank() * share
        return self._order[start : start + share]

    @cached_property
    def fingerprint(self) -> str:
        """Shape and SHA-256 of the images, by which a checkpoint knows them again."""
        content = hashlib.sha256(self.images.cpu().contiguous().numpy()).hexdigest()
        return f"{tuple(self.images.shape)} {content[:16]}"

    def _shuffled(self, epoch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed_of(self.seed, "epoch", epoch))
        order = torch.randperm(len(self.images), generator=generator)
        return _device.send(order, self.images.device)


@dataclass
class Run:
    """One run of pretraining: what it is, all that changes during training, and where it is kept.

    Args:
        recipe: What decides the result.
        batches: The images of each step.
        online: Encoder and projector, which the optimizer trains.
        predictor: z to p, which the optimizer trains, too, if the recipe has one.
        average: The mean of the past weights of `online`, if the recipe asks for it.
        target: The network of MoCo's keys or of BYOL's targets, if the recipe has either.
        queue: MoCo's keys (K, D), the newest first.
        optimizer: SGD or AdamW.
        scaler: Keeps the gradients of float16 in range; without float16 it does nothing.
        forward: `online`, maybe compiled.
        dtype: Of autocast; None: all in float32.
        probe: Reads classes from the features of the batches on the way; None without labels.
        step: Steps done.
        steps: Steps in all; `start` or less as long as they are not planned.
        earlier: What was finished before the run went on longer: each time its recipe's epochs and
            minutes, and the steps it had.
        seconds: Time spent on the steps done.
        lr: The learning rate of the last step that was made.
        folder: Where checkpoints, log and encoder go; None: nowhere.
        history: The records of the log.
        findings: What the checks of losses found on the device since the loop looked.
        ahead: Makes views, on a device other than a CPU.
        recorded: The step as a CUDA graph, once it was recorded.
        not_recorded: Why it could not be recorded, once that was tried.
    """

    recipe: Recipe
    batches: Batches
    online: nn.Sequential
    predictor: nn.Sequential | None
    average: nn.Sequential | None
    target: nn.Sequential | None
    queue: torch.Tensor | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    forward: nn.Module
    dtype: torch.dtype | None
    probe: OnlineProbe | None = None
    step: int = 0
    steps: int = 0
    earlier: list[dict] = field(default_factory=list)
    seconds: float = 0.0
    lr: float = 0.0
    folder: Path | None = None
    history: list[dict] = field(default_factory=list)
    findings: _device.Findings = field(default_factory=_device.Findings)
    ahead: ViewsAhead | None = None
    recorded: Recorded | None = None
    not_recorded: str | None = None

    @property
    def start(self) -> int:
        """The step at which the learning rate began its present rise and fall."""
        return self.earlier[-1]["steps"] if self.earlier else 0

    @property
    def device(self) -> torch.device:
        """Where the images are, and the networks with them."""
        return self.batches.images.device

    @property
    def kept(self) -> nn.Sequential:
        """The encoder and projector that are evaluated and saved."""
        return self.online if self.average is None else self.average

    @property
    def trained(self) -> list[nn.Parameter]:
        """The weights that the optimizer trains, in its order."""
        return self.optimizer.param_groups[0]["params"]

    def autocast(self) -> torch.autocast:
        """Return the context in which the networks compute."""
        return torch.autocast(
            self.device.type,
            dtype=self.dtype,
            enabled=self.dtype is not None,
            # Copies of weights that it kept would be of another step when a graph is replayed.
            cache_enabled=not has_streams(self.device),
        )


def new_run(
    recipe: Recipe,
    images: torch.Tensor,
    *,
    compile: bool = False,
    dtype: torch.dtype | None = None,
) -> Run:
    """Return a run at step 0, on the device of its images. It seeds PyTorch's global generator.

    Args:
        recipe: What decides the result.
        images: uint8 (N, 3, H, H).
        compile: Use torch.compile, on a GPU.
        dtype: Of autocast; None: what suits the device.

    Returns:
        The run; its number of steps is not set yet.

    Example:
        >>> from dataclasses import replace
        >>> from replearn.pretrain import SHAPES
        >>> recipe = replace(SHAPES, width=4, batch_size=8)
        >>> run = new_run(recipe, torch.zeros(16, 3, 32, 32, dtype=torch.uint8))
        >>> run.step, run.batches.per_epoch
        (0, 2)
    """
    device = images.device
    dtype = dtype or amp_dtype(device)
    torch.manual_seed(recipe.seed)
    online = nn.Sequential(*networks(recipe, images.shape[2]))
    online = online.to(device, memory_format=torch.channels_last).train()
    predictor = new_predictor(recipe)
    if predictor is not None:
        predictor = predictor.to(device).train()
    if distributed.world() > 1 and device.type == "cuda":
        online = nn.SyncBatchNorm.convert_sync_batchnorm(online)
        if predictor is not None:
            predictor = nn.SyncBatchNorm.convert_sync_batchnorm(predictor)
    parameters = list(online.parameters())
    if predictor is not None:
        parameters += predictor.parameters()
    average = None
    target = None
    queue = None
    if recipe.average:
        average = deepcopy(online).requires_grad_(False)
    if recipe.queue or recipe.loss == "byol":
        target = deepcopy(online).requires_grad_(False)
    if recipe.queue:
        random_keys = torch.randn(recipe.queue, recipe.out)
        queue = nn.functional.normalize(random_keys).to(device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    scaler.scale(torch.zeros((), device=device))  # makes its state, which else the first step does
    run = Run(
        recipe=recipe,
        batches=Batches(images, recipe.batch_size, recipe.seed),
        online=online,
        predictor=predictor,
        average=average,
        target=target,
        queue=queue,
        optimizer=_optimizer(recipe, parameters),
        scaler=scaler,
        forward=torch.compile(online) if compile and device.type == "cuda" else online,
        dtype=dtype,
        lr=recipe.lr,
    )
    if not _device.is_cpu(device):
        run.ahead = ViewsAhead(lambda first, count: views_of_steps(run, first, count), device)
    return run


def _optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    device = parameters[0].device
    settings = dict(lr=recipe.lr, weight_decay=recipe.weight_decay)
    if _device.is_like_cuda(device):
        # Fused: one launch, and float16's scale is applied, and a bad step left out, on the GPU.
        # A graph reads the learning rate from where it lies, so it has to be a tensor.
        settings |= dict(lr=torch.full((), recipe.lr, device=device), fused=True)
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, momentum=0.9, **settings)
        if "fused" in settings:
            # PyTorch would leave them without a value if the first step is a bad one of float16.
            for weight in parameters:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        return optimizer
    if "fused" in settings:
        settings["capturable"] = True
    return torch.optim.AdamW(parameters, **settings)


def train_step(run: Run) -> torch.Tensor:
    """Make the next step of a run: its images, their views, the update.

    It seeds PyTorch's global generator; nothing in it waits for the device.

    Args:
        run: Changed in place; `run.steps` has to be set, since the learning rate depends on it.

    Returns:
        The loss, see `contrast`, a tensor () that is still on its device.
    """
    torch.manual_seed(_seed_of_step(run, run.step))
    if run.ahead is None:
        views = make_views(run.recipe, run.batches.at(run.step))
    else:
        views = run.ahead.at(run.step, run.steps)
    loss = update(run, views, learning_rate(run))
    if run.probe is not None:
        run.probe.learn(run.batches.rows(run.step))
    run.step += 1
    return loss


def _seed_of_step(run: Run, step: int) -> int:
    return seed_of(run.recipe.seed, step, distributed.rank())


def learning_rate(run: Run) -> float:
    """Return the learning rate of the next step: a linear rise, then a cosine to 0.

    Args:
        run: Its recipe and its position count.

    Returns:
        The learning rate.
    """
    steps = run.steps - run.start
    warmup = round(run.recipe.warmup * steps)
    return run.recipe.lr * cosine(run.step - run.start, steps, warmup=warmup)


def make_views(recipe: Recipe, images: torch.Tensor) -> list[torch.Tensor]:
    """Return the large views of each image, and `recipe.n_small` views of half their side.

    Args:
        recipe: Says how they are changed.
        images: uint8 or floats in [0, 1], (B, 3, H, W).

    Returns:
        The views, floats (B, 3, H, W) and (B, 3, H / 2, W / 2), the large ones first.
    """
    views: list[torch.Tensor] = []
    for count, options in _kinds_of_views(recipe, images.shape[2]):
        of_this_kind: list[torch.Tensor] = []
        for _ in range(0, count, 2):
            of_this_kind += two_views(images, **options)
        views += of_this_kind[:count]  # they come in pairs: an odd one out is dropped
    return views


def _kinds_of_views(recipe: Recipe, side: int) -> list[tuple[int, dict[str, Any]]]:
    """Return how many large and how many small views there are, each with `two_views`' options."""
    large = dict(
        crop=recipe.crop,
        jitter=recipe.jitter,
        grayscale=recipe.grayscale,
        blur=recipe.blur,
        flip=recipe.flip,
    )
    small = large | dict(crop=SMALL_CROP, size=side // 2)
    return [(recipe.n_views, large), (recipe.n_small, small)]


def views_of_steps(run: Run, first: int, count: int) -> list[Views]:
    """Make the views of several steps at once, each of the random numbers of its own step.

    They are what `make_views` gives in each step after `torch.manual_seed` of it, up to rounding.

    Args:
        run: Its recipe, its images.
        first: The first step.
        count: The number of steps.

    Returns:
        For each step what `make_views` returns.
    """
    recipe = run.recipe
    batches = [run.batches.at(step) for step in range(first, first + count)]  # (B, 3, H, H) each
    share, _, side, _ = batches[0].shape
    pairs = []  # views come in pairs: how many of a pair are kept, and its options
    for count_of_kind, options in _kinds_of_views(recipe, side):
        for made in range(0, count_of_kind, 2):
            pairs.append((min(2, count_of_kind - made), options))

    numbers = [[] for _ in pairs]
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(_seed_of_step(run, step))
        for numbers_of_pair in numbers:
            for _ in range(2):
                drawn = draw_views(share, blur=bool(recipe.blur), generator=generator)
                numbers_of_pair.append(drawn)

    images = torch.cat([batch for batch in batches for _ in range(2)])  # both views of each step
    views: list[Views] = [[] for _ in batches]
    for (kept, options), numbers_of_pair in zip(pairs, numbers, strict=True):
        made = views_from(images, torch.cat(numbers_of_pair), **options)
        for views_of_step, both in zip(views, made.chunk(count), strict=True):
            views_of_step += both.chunk(2)[:kept]
    return views


def update(run: Run, views: list[torch.Tensor], lr: float) -> torch.Tensor:
    """Train a run on given views: loss, gradients, optimizer, then the networks that follow.

    Args:
        run: Changed in place, except for its position.
        views: What `make_views` returns, of this process's images.
        lr: The learning rate of this step.

    Returns:
        The loss, see `contrast`, a tensor () that is still on its device.
    """
    for group in run.optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
    keys: list[torch.Tensor] = []
    if why_eager(run) is None:
        loss = _replayed(run, views)
    else:
        loss, keys = learn(run, views)
    run.lr = lr
    if run.average is not None:
        # A short memory at first, or the random weights would stay in the mean for long.
        momentum = min(run.recipe.average, (1 + run.step) / (10 + run.step))
        ema_update(run.average, run.online, momentum=momentum)
    if run.target is not None:
        ema_update(run.target, run.online, momentum=run.recipe.momentum)
    if run.queue is not None:
        keys = nn.functional.normalize(torch.cat(keys).float())
        run.queue = torch.cat([keys, run.queue])[: run.recipe.queue]
    return loss


def learn(run: Run, views: Views) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Make the part of a step that a CUDA graph replays, operation by operation.

    Args:
        run: Changed in place; its learning rate was set.
        views: What `make_views` returns, of this process's images.

    Returns:
        The loss, a tensor () on its device, and the keys; see `contrast`.
    """
    if run.probe is not None:
        run.probe.attend()
    # Around one step only: autocast keeps copies of the weights until its end.
    with _device.deferring(run.findings), run.autocast():
        loss, keys = contrast(
            run.recipe,
            run.forward,
            views,
            predictor=run.predictor,
            target=run.target,
            queue=run.queue,
        )
    run.optimizer.zero_grad()
    run.scaler.scale(loss).backward()
    distributed.sum_gradients(run.trained)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    return loss.detach(), keys


def why_eager(run: Run) -> str | None:
    """Return why a run's step is not replayed as a CUDA graph.

    The mean of past weights does not keep it from that: it follows after the graph.

    Args:
        run: Any run.

    Returns:
        The reason, or None if it is a graph.

    Example:
        >>> from replearn.pretrain import SHAPES
        >>> images = torch.zeros(128, 3, 32, 32, dtype=torch.uint8)
        >>> why_eager(new_run(SHAPES, images))
        'a cpu has no CUDA graphs'
    """
    if not has_streams(run.device):
        return f"a {run.device.type} has no CUDA graphs"
    if distributed.world() > 1:
        return "several processes exchange features and gradients in each step"
    if run.queue is not None:
        return "MoCo's queue is a new tensor after each step"
    return run.not_recorded


def _replayed(run: Run, views: Views) -> torch.Tensor:
    """Make a step by the run's graph, which the first step records; eagerly if that fails."""
    if run.recorded is None:
        try:
            run.recorded = Recorded(
                lambda views: learn(run, views)[0], lambda: _tensors_of_step(run), views
            )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            run.not_recorded = f"its step cannot be recorded: {reason}"
            warnings.warn(f"no CUDA graph: {run.not_recorded}", stacklevel=2)
            return learn(run, views)[0]
    return run.recorded(views)


def _tensors_of_step(run: Run) -> dict[str, torch.Tensor]:
    """Return, by name, all tensors that `learn` changes in place."""
    tensors = dict(run.online.state_dict())
    for prefix, network in dict(predictor=run.predictor, target=run.target).items():
        if network is not None:  # the target's running statistics change in its forward pass
            for name, x in network.state_dict().items():
                tensors[f"{prefix}.{name}"] = x
    for number, values in enumerate(run.optimizer.state.values()):
        for name, x in values.items():
            if isinstance(x, torch.Tensor):
                tensors[f"optimizer.{number}.{name}"] = x
    if run.scaler.is_enabled():
        tensors["scale"] = run.scaler._scale
        tensors["good steps"] = run.scaler._growth_tracker
    return tensors


def contrast(
    recipe: Recipe,
    forward: nn.Module,
    views: list[torch.Tensor],
    *,
    predictor: nn.Module | None = None,
    target: nn.Module | None = None,
    queue: torch.Tensor | None = None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    r"""Return the loss of the joint batch: every view has to find the large ones.

    With large views :math:`z_1, \dots, z_V` and small ones :math:`z_s` it is the mean of

    .. math:: \mathcal L(z_i, z_j), \quad \mathcal L(z_s, z_i), \qquad 1 \le i < j \le V

    and with `recipe.mean_target` the mean of

    .. math:: \mathcal L(z_i, m_{-i}), \quad \mathcal L(z_s, m)

    where :math:`m` is the mean of all large views' z, each scaled to unit length, and
    :math:`m_{-i}` that of the others than i.

    MoCo, BYOL and SimSiam tell who looks from what it looks for. A large view looks for the *key*
    of each other large view, :math:`\mathcal L(q_i, k_j)` and :math:`\mathcal L(q_j, k_i)`, or for
    the mean of these keys. With MoCo q is z, and k is what the target network says; with BYOL q is
    what the predictor makes of z, and k is as with MoCo; with SimSiam q is as with BYOL, and k is z
    itself. No gradient goes through a key. SimSiam with `mean_target` is FastSiam, but for the unit
    length.

    Args:
        recipe: Says which loss, and its temperature.
        forward: Encoder and projector.
        views: What `make_views` returns, of this process's images.
        predictor: Of BYOL or SimSiam, z to p; or None.
        target: The network of MoCo's or BYOL's keys, or None.
        queue: MoCo's older keys (K, D), or None.

    Returns:
        The loss, a tensor (), and what the views look for: V tensors (B, D), z or keys. A
        contrastive loss is in nats; that of BYOL and SimSiam is minus a cosine.

    References:
        Chen et al. 2020, Eq. 1; He et al. 2020, Eq. 1 (MoCo); Caron et al. 2020, Eq. 6
        (multi-crop); Grill et al. 2020, Eq. 2 (BYOL); Chen & He 2021, Eq. 2 (SimSiam); Pototzky et
        al. 2022, "FastSiam".
    """
    large = _joined(views[: recipe.n_views])
    small = views[recipe.n_views :]
    z = list(forward(large).chunk(recipe.n_views))
    if small:
        z += forward(_joined(small)).chunk(len(small))
    queries = z
    if predictor is not None:
        queries = predictor(torch.cat(z)).chunk(len(z))
    queries = [distributed.gather(part) for part in queries]  # (B, D) each

    if target is not None:
        with torch.no_grad():
            keys = [distributed.gather(part) for part in target(large).chunk(recipe.n_views)]
    elif predictor is not None:
        keys = [distributed.gather(part.detach()) for part in z[: recipe.n_views]]
    else:
        keys = queries[: recipe.n_views]

    is_symmetric = target is None and predictor is None
    losses = []
    for query, key in _pairs(recipe, queries, keys, is_symmetric=is_symmetric):
        if predictor is not None:
            loss = negative_cosine(query, key)
        elif queue is not None:
            loss = moco(query, key, queue.to(key.dtype), temperature=recipe.temperature)
        else:
            loss = LOSSES[recipe.loss](query, key, temperature=recipe.temperature)
        losses.append(loss)
    return sum(losses) / len(losses), keys


def _pairs(
    recipe: Recipe, queries: list[torch.Tensor], keys: list[torch.Tensor], *, is_symmetric: bool
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return every query with each key that it looks for, the queries of large views first.

    Args:
        recipe: Says whether a query looks for the keys' mean.
        queries: Of all views, (B, D) each.
        keys: Of the large views, (B, D) each.
        is_symmetric: Whether a query and its key may change places, so that two large views are
            one pair and not two.
    """
    if recipe.mean_target:
        keys = full_precision(unit_rows)(torch.cat(keys)).chunk(len(keys))
    pairs = []
    for i, query in enumerate(queries):
        others = [key for j, key in enumerate(keys) if j != i]
        if recipe.mean_target:
            others = [sum(others) / len(others)]
        elif is_symmetric and i < len(keys):
            others = keys[i + 1 :]
        pairs += [(query, key) for key in others]
    return pairs


def _joined(views: list[torch.Tensor]) -> torch.Tensor:
    """Return views as one batch: one forward pass, in the memory format that convolutions like."""
    return torch.cat(views).contiguous(memory_format=torch.channels_last)
