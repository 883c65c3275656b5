"""Contrastive pretraining that a person can watch, stop and go on with: a loop around the steps."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from replearn import _check as _check_values
from replearn import _lock, models
from replearn._progress import Progress, say
from replearn.data import ImageSet
from replearn.files import explained, writable_folder
from replearn.pretrain import checkpoint, distributed, state
from replearn.pretrain.log import append_log, line, restart_log
from replearn.pretrain.monitoring import check_weights, diagnosed, mean_loss, measure
from replearn.pretrain.online import OnlineProbe
from replearn.pretrain.planning import plan_steps
from replearn.pretrain.recipe import Recipe
from replearn.pretrain.step import Run, new_run, train_step, why_eager

LOCK = "run.lock"  # in the folder of a run, while it runs


class Result(NamedTuple):
    """What pretraining gives.

    Args:
        encoder: Images (N, 3, H, H) in [0, 1] to h (N, D), in eval mode.
        projector: h to z, in eval mode.
        history: The records of the log.
    """

    encoder: torch.nn.Module
    projector: torch.nn.Module
    history: list[dict]


def pretrain(
    recipe: Recipe,
    images: torch.Tensor,
    *,
    folder: str | Path | None = None,
    resume: bool = True,
    knn: tuple[ImageSet, ImageSet] | None = None,
    knn_every: float = 5,
    labels: torch.Tensor | None = None,
    callback: Callable[[dict, list[dict]], Any] | None = None,
    device: str | torch.device | None = None,
    compile: bool = False,
    dtype: torch.dtype | None = None,
    log_every: int = 20,
    checkpoint_seconds: float = 60.0,
) -> Result:
    """Train a recipe's encoder on images without labels.

    The same call with the same folder goes on where it was stopped, and ends with the same weights,
    bit by bit on a CPU and up to rounding on a GPU. With more epochs or minutes in the recipe, a
    finished run goes on longer: from its last weights, with a new rise and fall of the learning
    rate. Under `accelerate launch` all processes train one model on the joint batch.

    Args:
        recipe: Decides the result, together with the images.
        images: uint8 (N, 3, H, H), H = recipe.side.
        folder: Keeps checkpoints, log.jsonl and at the end encoder.safetensors; None: nothing is
            kept.
        resume: Go on from the checkpoint in the folder; False starts over.
        knn: A training and a test set; the accuracy of their nearest neighbors is measured.
        knn_every: Epochs between two measurements; 0: at the end only.
        labels: Integers (N,), or None. They train a linear probe beside the encoder, which never
            feels it; the log has its accuracy as "online" (see `replearn.pretrain.online`).
        callback: Called with each record of the log, and with all records so far.
        device: None for a GPU if there is one.
        compile: Use torch.compile on a GPU, for long runs.
        dtype: Of autocast, such as torch.bfloat16 on a CPU that has units for it; None for what
            suits the GPU, and float32 on a CPU.
        log_every: Steps between two records of the log.
        checkpoint_seconds: A checkpoint is written at the first record after so many seconds.

    Returns:
        The encoder, its projector, and the records of the log.

    Raises:
        ValueError: Bad input, a changed recipe, a foreign or damaged checkpoint, or a loss that is
            not finite. The last good checkpoint stays.
        TypeError: The recipe or the images are something else.
        OSError: The disk is full, or the folder cannot be written to, or another run works in it.
            The last checkpoint stays.

    Example:
        >>> from dataclasses import replace
        >>> from replearn.pretrain import SHAPES
        >>> recipe = replace(SHAPES, width=4, hidden=8, out=8, batch_size=8, epochs=1)
        >>> images = torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8)
        >>> result = pretrain(recipe, images, device="cpu")
        >>> result.encoder(images / 255).shape, result.history[-1]["step"]
        (torch.Size([16, 64]), 2)
    """
    device = distributed.join(device)
    began = time.monotonic()
    _check(recipe, images, knn, labels)
    images = _moved(images, device)
    if knn:
        knn_train, knn_test = knn
        knn = knn_train.to(device), knn_test.to(device)
    with ExitStack() as held_to_the_end:
        held_to_the_end.enter_context(_own_randomness(device))
        if folder:
            folder = distributed.first(
                lambda: _own_folder(folder, held_to_the_end), "to make the folder ready"
            )
        run = new_run(recipe, images, compile=compile, dtype=dtype)
        run.folder = folder or None
        if labels is not None:
            run.probe = _online_probe(run, labels)
            held_to_the_end.callback(run.probe.close)
        if run.folder is not None and resume:
            was_there = state.resume(run)
            if was_there and run.steps > run.start and distributed.rank() == 0:
                say(_resumed(run))
        if run.steps <= run.start:
            with diagnosed(run):
                run.steps = plan_steps(run, knn=knn, knn_every=knn_every, began=began)
            if run.earlier and distributed.rank() == 0:
                say(_longer(run))
        if folder and distributed.rank() == 0:
            run.history = restart_log(folder, run.step)
        _train(
            run,
            knn=knn,
            knn_every=knn_every,
            callback=callback,
            log_every=log_every,
            checkpoint_seconds=checkpoint_seconds,
        )
        if folder and distributed.rank() == 0:
            _save_encoder(run)
    encoder, projector = run.kept.eval()
    return Result(encoder, projector, run.history)


def _train(
    run: Run,
    *,
    knn: tuple[ImageSet, ImageSet] | None,
    knn_every: float,
    callback: Callable[[dict, list[dict]], Any] | None,
    log_every: int,
    checkpoint_seconds: float,
) -> None:
    """Make the steps that are left; record, measure, tell and save on the way."""
    is_first_process = distributed.rank() == 0
    progress = Progress("pretraining", run.steps, start=run.step, silent=not is_first_process)
    losses = []  # of the steps since the last record, still on their device
    clock = time.monotonic()
    saved = clock
    while run.step < run.steps:
        with diagnosed(run):
            losses.append(train_step(run))
        is_last = run.step == run.steps
        if run.device.type == "cpu":  # elsewhere a step is only launched, not done
            progress.announce(run.step)
        if run.step % log_every != 0 and not is_last:
            continue

        with diagnosed(run):
            record = _record(run, losses, clock)
            if is_last or _measurement_due(run, len(losses), knn_every):
                record |= measure(run, knn)
            check_weights(run)
        now = time.monotonic()
        run.seconds += now - clock
        clock = now
        run.history.append(record)

        if is_first_process:
            progress.announce(run.step)
            was_measured = "effective_rank" in record
            progress.show(run.step, line(record), always=was_measured)
            if run.folder:
                append_log(run.folder, record)
            if callback:
                callback(record, run.history)
            if run.folder and (is_last or now - saved >= checkpoint_seconds):
                state.save(run)
                saved = time.monotonic()
        losses = []
    progress.close()
    if is_first_process and run.device.type == "cuda":
        reason = why_eager(run)
        if reason is not None:
            say(f"every step was launched operation by operation, not as a CUDA graph: {reason}")


def _record(run: Run, losses: list[torch.Tensor], clock: float) -> dict:
    """Return the log's record of the steps since `clock`."""
    run.findings.look()  # waits for the GPU, once in `log_every` steps
    loss = mean_loss(losses)
    elapsed = time.monotonic() - clock
    record = dict(
        step=run.step,
        epoch=round(run.step / run.batches.per_epoch, 4),
        loss=loss,
        lr=run.lr,
        seconds=round(run.seconds + elapsed, 3),
        images_per_second=round(len(losses) * run.recipe.batch_size / elapsed, 1),
    )
    if run.probe is not None:
        record["online"] = run.probe.accuracy()
    if run.earlier:
        record["stretch"] = 1 + len(run.earlier)
    return record


def _measurement_due(run: Run, steps: int, knn_every: float) -> bool:
    """Whether a multiple of `knn_every` epochs ended within the last `steps` steps."""
    if not knn_every:
        return False
    interval = knn_every * run.batches.per_epoch
    return run.step // interval > (run.step - steps) // interval


def _check(
    recipe: Recipe,
    images: torch.Tensor,
    knn: tuple[ImageSet, ImageSet] | None,
    labels: torch.Tensor | None,
) -> None:
    if not isinstance(recipe, Recipe):
        raise TypeError(
            "recipe: expected a Recipe, such as replearn.pretrain.COURSE, found "
            f"{type(recipe).__name__}"
        )
    if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8:
        kind = getattr(images, "dtype", type(images).__name__)
        raise TypeError(f"images: expected a uint8 tensor, found {kind}")
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images: expected shape (N, 3, H, H), found {tuple(images.shape)}")
    if images.shape[2] != recipe.side:
        raise ValueError(
            f"images: expected {recipe.side} x {recipe.side} pixels, the side of the recipe, found "
            f"{images.shape[2]}; replace(recipe, side={images.shape[2]}) fits them"
        )
    for name, images_of_knn in zip(("knn[0]", "knn[1]"), knn or (), strict=False):
        images_of_knn.require_labels(name)
    if labels is not None:
        _check_values.labels("labels", labels, len(images))
    processes = distributed.world()
    if len(images) < recipe.batch_size or recipe.batch_size % processes:
        raise ValueError(
            f"batch_size: expected at most {len(images)}, the number of pictures, and a multiple "
            f"of {processes}, the number of processes, found {recipe.batch_size}"
        )


def _moved(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    try:
        return images.to(device)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"images: expected to fit into the memory of {device}, found "
            f"{images.numel() / 1e9:.1f} GB; choose a smaller side or fewer pictures"
        ) from error


def _online_probe(run: Run, labels: torch.Tensor) -> OnlineProbe:
    encoder, projector = run.online
    classes, index = labels.to(run.device).unique(return_inverse=True)
    return OnlineProbe(encoder, index, classes=len(classes), dim=projector[0].in_features)


def _resumed(run: Run) -> str:
    """Return a sentence about a run that was stopped, or that is finished already."""
    if run.step < run.steps:
        return f"{run.folder}: resumed at step {run.step:,} of {run.steps:,}"
    return (
        f"{run.folder}: the run is finished, all {run.steps:,} steps of it; more --epochs or "
        "--minutes go on longer, --no-resume starts over"
    )


def _longer(run: Run) -> str:
    """Return a sentence about a finished run that goes on."""
    per_epoch = run.batches.per_epoch
    return (
        f"{run.folder}: the run of {run.start:,} steps ({run.start / per_epoch:.4g} epochs) was "
        f"finished; it goes on longer, from its last weights to step {run.steps:,} "
        f"({run.steps / per_epoch:.4g} epochs), with a new rise and fall of the learning rate"
    )


def _own_folder(folder: str | Path, held_to_the_end: ExitStack) -> Path:
    """Make the folder ready before any training, for this run alone; the first process does it.

    Args:
        folder: The folder.
        held_to_the_end: Lets go of the folder when the run has ended.

    Raises:
        OSError: It cannot be written to, or another run works in it.
    """
    if distributed.rank() > 0:
        return Path(folder).expanduser()
    folder = writable_folder(folder)
    try:
        held_to_the_end.enter_context(_lock.held(folder / LOCK))
    except _lock.Held as holder:
        raise OSError(
            f"{folder}: another run works in this folder: {holder}; wait for it, end it, or choose "
            "another folder"
        ) from None
    checkpoint.remove_leftovers(folder)
    return folder


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Leave torch's global random state as it was; let cuDNN try out which kernel is quickest."""
    benchmark = torch.backends.cudnn.benchmark
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            torch.backends.cudnn.benchmark = True
            yield
        finally:
            torch.backends.cudnn.benchmark = benchmark


def _save_encoder(run: Run) -> None:
    """Write encoder.safetensors and its card, which others can load."""
    scores = {}
    if run.history:
        last = run.history[-1]
        scores = {name: last[name] for name in ("loss", "effective_rank", "knn") if name in last}
    encoder, _ = run.kept
    about = {}
    if run.earlier:
        about["earlier"] = run.earlier
    if run.recipe.unlabeled:
        about["labels"] = models.NO_LABELS
    with explained(run.folder, "save the encoder"):
        models.save(
            encoder,
            run.folder / "encoder",
            architecture=[run.recipe.network, run.recipe.width],
            data=run.recipe.data,
            recipe=asdict(run.recipe),
            side=run.batches.images.shape[2],  # which some networks of timm have to know
            seed=run.recipe.seed,
            steps=run.steps,
            scores=scores,
            **about,
        )
