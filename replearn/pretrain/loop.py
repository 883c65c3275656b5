"""Contrastive pretraining that a person can watch, stop and go on with: one function around `engine`'s steps."""

import hashlib
import math
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from replearn import models
from replearn.pretrain import checkpoint, distributed
from replearn.pretrain import log as progress
from replearn.pretrain import step as engine
from replearn.pretrain.recipe import Recipe, differences


class Result(NamedTuple):
    """What pretraining gives: the encoder and its projector, in eval mode, and the log's records."""

    encoder: torch.nn.Module
    projector: torch.nn.Module
    history: list


def pretrain(
    recipe,
    images,
    *,
    folder=None,
    resume=True,
    knn=None,
    knn_every=5,
    callback=None,
    device=None,
    compile=False,
    dtype=None,
    log_every=20,
    checkpoint_seconds=60.0,
):
    """Train recipe's encoder on images uint8 (N, 3, H, W), no labels; return Result(encoder, projector, history).

    folder: keeps checkpoints, log.jsonl and at the end encoder.safetensors; the same call goes on from there, with the
    same weights in the end, bit by bit on a CPU; resume=False starts over. knn: (train set, test set), measured every
    `knn_every` epochs. callback(record, history): after each of the log's records, one every `log_every` steps.
    device: None for a GPU if there is one. compile: torch.compile on a GPU, for long runs. dtype: of autocast, such as
    torch.bfloat16 on a CPU that has units for it; None for what suits the GPU, and float32 on a CPU. A checkpoint at
    the first record after `checkpoint_seconds`. Under `accelerate launch` all processes train one model on the joint
    batch.

    Raises: ValueError for bad input, a changed recipe, a foreign or damaged checkpoint, or a loss that is not finite;
    OSError for a full disk or an unwritable folder. The last good checkpoint stays."""
    device, start = distributed.join(device), time.monotonic()
    _check(recipe, images)
    images, knn = images.to(device), knn and tuple(s.to(device) for s in knn)
    folder = folder and (
        checkpoint.prepare(folder) if distributed.rank() == 0 else Path(folder).expanduser()
    )
    about = dict(recipe=asdict(recipe), images=_fingerprint(images))
    with _own_randomness(device):
        run = engine.begin(recipe, images.shape[2], device, compile=compile, dtype=dtype)
        found = distributed.first(lambda: checkpoint.load(folder)) if folder and resume else None
        if found:
            _same(found[1], about, folder)
            engine.restore(run, *found)
        else:
            with _diagnosis(recipe, run, device, [], folder):
                run.steps = _plan(recipe, run, images, knn, knn_every, start)
        history = (
            progress.restart_log(folder, run.step) if folder and distributed.rank() == 0 else []
        )
        _loop(
            recipe,
            run,
            images,
            folder,
            about,
            history,
            knn,
            knn_every,
            callback,
            log_every,
            checkpoint_seconds,
        )
    return Result(*engine.kept(run).eval(), history)


def _loop(
    recipe,
    run,
    images,
    folder,
    about,
    history,
    knn,
    knn_every,
    callback,
    log_every,
    checkpoint_seconds,
):
    every, first = (
        (knn_every or math.inf) * (len(images) // recipe.batch_size),
        distributed.rank() == 0,
    )
    watch = progress.Watch(run.step, run.steps, silent=not first)
    saved = clock = time.monotonic()
    losses, order = [], {}
    while run.step < run.steps:
        with _diagnosis(recipe, run, images.device, history, folder):
            losses.append(engine.train_step(recipe, run, images, order))
            if run.step % log_every and run.step < run.steps:
                continue
            record, done = _record(recipe, run, images, losses, clock), len(losses)
            if run.step // every > (run.step - done) // every or run.step == run.steps:
                record |= engine.evaluate(run, images, knn)
            if not all(
                torch.isfinite(p).all() for p in run.online.parameters()
            ):  # never to be saved
                raise ValueError("weights: NaN or infinity")
        now = time.monotonic()
        run.seconds, clock, losses = run.seconds + now - clock, now, []
        history.append(record)
        if not first:
            continue
        watch.record(record, run.seconds / run.step, done)
        if folder:
            progress.append_log(folder, record)
        if callback:
            callback(record, history)
        if folder and (now - saved >= checkpoint_seconds or run.step == run.steps):
            position = dict(
                step=run.step, steps=run.steps, seconds=run.seconds, scaler=run.scaler.state_dict()
            )
            checkpoint.save(folder, engine.tensors_of(run), about | position)
            saved = time.monotonic()
    watch.close()
    if folder and first:
        _export(recipe, run, folder, history)


def _record(recipe, run, images, losses, clock):
    loss = torch.stack(losses).mean().item()  # waits for the GPU, once in `log_every` steps
    if not math.isfinite(loss):
        raise ValueError("loss: NaN or infinity")
    elapsed = time.monotonic() - clock
    return dict(
        step=run.step,
        epoch=round(run.step / (len(images) // recipe.batch_size), 4),
        loss=loss,
        lr=run.optimizer.param_groups[0]["lr"],
        seconds=round(run.seconds + elapsed, 3),
        images_per_second=round(len(losses) * recipe.batch_size / elapsed, 1),
    )


def _plan(recipe, run, images, knn, knn_every, start):
    """Return the number of steps: of the recipe's epochs, or as many as fit into its minutes, by trying some."""
    per_epoch = len(images) // recipe.batch_size
    if recipe.minutes is None:
        return max(1, round(recipe.epochs * per_epoch))
    before = {name: x.clone() for name, x in engine.tensors_of(run).items()}
    about, order, count = dict(step=0, steps=0, seconds=0.0, scaler=run.scaler.state_dict()), {}, 0
    run.steps = 10**9  # so that the rate of learning stays at its start
    for _ in range(
        3 if images.is_cuda else 1
    ):  # the first are slow: kernels are chosen, memory is asked for
        engine.train_step(recipe, run, images, order).item()
    clock = time.monotonic()
    while count < 2 or distributed.agree(
        count < 200 and time.monotonic() - clock < 3, images.device
    ):
        engine.train_step(recipe, run, images, order).item()
        count += 1
    step_seconds = (time.monotonic() - clock) / count
    clock = time.monotonic()
    engine.evaluate(run, images, knn)
    pause = (time.monotonic() - clock) / (knn_every * per_epoch) if knn_every else 0
    engine.restore(run, before, about)
    left = recipe.minutes * 60 - (time.monotonic() - start)
    steps = int(distributed.agree(max(1, int(left / (step_seconds + pause))), images.device))
    if distributed.rank() == 0:
        progress.say(
            f"{recipe.minutes:g} minutes: {steps:,} steps, {steps / per_epoch:.1f} epochs, at "
            f"{recipe.batch_size / step_seconds:,.0f} pictures/s"
        )
    return steps


def _check(recipe, images):
    if not isinstance(recipe, Recipe):
        raise TypeError(
            f"recipe: expected a Recipe, such as replearn.pretrain.COURSE, found {type(recipe).__name__}"
        )
    if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8:
        raise TypeError(
            f"images: expected a uint8 tensor, found {getattr(images, 'dtype', type(images).__name__)}"
        )
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images: expected shape (N, 3, H, H), found {tuple(images.shape)}")
    if len(images) < recipe.batch_size or recipe.batch_size % distributed.world():
        raise ValueError(
            f"batch_size: expected at most {len(images)}, the number of pictures, and a multiple of "
            f"{distributed.world()}, the number of processes, found {recipe.batch_size}"
        )


def _fingerprint(images):
    return f"{tuple(images.shape)} {hashlib.sha256(images.cpu().contiguous().numpy()).hexdigest()[:16]}"


def _same(then, now, folder):
    try:
        changed = differences(Recipe(**then["recipe"]), Recipe(**now["recipe"]))
    except TypeError as error:
        raise ValueError(
            f"{folder}: its checkpoint is of another version ({error}); choose another folder"
        ) from error
    changed = changed or ("the pictures are others" if then["images"] != now["images"] else "")
    if changed:
        raise ValueError(
            f"{folder}: its checkpoint, step {then['step']}, is of another recipe: {changed}. Go back to "
            "that recipe, choose another folder, or pass resume=False (--no-resume) to start over"
        )


@contextmanager
def _own_randomness(device):
    """Leave torch's global random state as it was; let cuDNN try which of its kernels is the quickest."""
    before = torch.backends.cudnn.benchmark
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            torch.backends.cudnn.benchmark = True
            yield
        finally:
            torch.backends.cudnn.benchmark = before


@contextmanager
def _diagnosis(recipe, run, device, history, folder):
    try:
        yield
    except ValueError as error:
        if "NaN or infinity" not in str(error):
            raise
        lr, dtype = run.optimizer.param_groups[0]["lr"], run.dtype or torch.float32
        good = f"{history[-1]['loss']:.3f} at step {history[-1]['step']}" if history else "none yet"
        raise ValueError(
            f"step {run.step}: the loss is not finite any more (lr {lr:.3g}, temperature {recipe.temperature:g}, "
            f"{dtype}; last finite loss: {good}). Try a third of the lr, a longer warmup or a higher temperature"
            + f"; the last checkpoint in {folder} is kept"
            * bool(folder)
        ) from error


def _export(recipe, run, folder, history):
    scores = (
        {k: v for k, v in history[-1].items() if k in ("knn", "loss", "effective_rank")}
        if history
        else {}
    )
    with checkpoint.writing(folder, "save the encoder"):
        models.save(
            engine.kept(run)[0],
            folder / "encoder",
            architecture=[recipe.network, recipe.width],
            data=recipe.data,
            recipe=asdict(recipe),
            seed=recipe.seed,
            steps=run.steps,
            scores=scores,
        )
