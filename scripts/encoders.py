"""Train the CIFAR-10 encoders that the package ships; write each with its card.

Run: python -m scripts.encoders --variant "CIFAR-10 as published"      (all; with a GPU: width 64)
     python -m scripts.encoders cifar10_simclr --variant "…" --call-minutes 9  (until it says done)
They go to replearn/checkpoints/. SimCLR goes on from its checkpoint when it was stopped; the other
two are short and start over. An encoder that is there already is left alone: delete it to train it
again. The three are one network, each with first weights of its own: simclr: the course's recipe.
supervised: cross-entropy. collapsed: lesson 10's loss on positives alone, put on h itself (behind a
projector z would collapse and h hardly move).
"""

import argparse
import copy
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.shared import cpu_model
from replearn import augment, data, losses, metrics, models, probe, train
from replearn.pretrain import COURSE, pretrain

# Views that an encoder is trained on.
VIEWS_ON_CPU = {"cifar10_simclr": 1.2e6, "cifar10_supervised": 3e5, "cifar10_collapsed": 1e5}
VIEWS_ON_GPU = {"cifar10_simclr": 20e6, "cifar10_supervised": 5e6, "cifar10_collapsed": 5e5}
NAMES = list(VIEWS_ON_CPU)
BATCH_SIZE = 128  # of the two short trainings
LR = 2e-3  # of these, too
LARGEST = 3e6  # bytes of a file with float32 weights; a larger one is stored in float16


class PausedError(Exception):
    """The time given to this call is over; the checkpoint stays."""


class Trained(NamedTuple):
    """An encoder, and how it came about."""

    encoder: nn.Module
    recipe: dict[str, Any]
    views: float  # that it has seen
    seconds: float


# --- training
# --------------------------------------------------------------------------------------


def views_of(name: str, args: argparse.Namespace) -> float:
    """Return how many views an encoder is to see."""
    by_device = VIEWS_ON_GPU if args.device == "cuda" else VIEWS_ON_CPU
    return args.views or by_device[name]


def autocast(args: argparse.Namespace) -> torch.autocast:
    """Return bfloat16 on a CPU, if it was asked for.

    It belongs around one step, since autocast keeps copies of the weights until its end.
    """
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16)


def new_encoder(name: str, args: argparse.Namespace) -> nn.Module:
    """Return the network with first weights of its own, so that what two share was learned."""
    train.set_seed(args.seed + NAMES.index(name))
    encoder = getattr(models, args.network)(args.width)
    return encoder.to(args.device, memory_format=torch.channels_last)


def simclr(
    name: str, args: argparse.Namespace, images: torch.Tensor, labels: torch.Tensor
) -> Trained:
    """Train by the course's recipe, with the network, seed and length that were asked for.

    Raises:
        PausedError: The time of this call is over.
    """
    views_an_image = COURSE.n_views + COURSE.n_small
    recipe = replace(
        COURSE,
        network=args.network,
        width=args.width,
        seed=args.seed,
        minutes=args.minutes,
        epochs=views_of(name, args) / views_an_image / len(images),
    )
    deadline = time.monotonic() + 60 * args.call_minutes

    def pause(record: dict, history: list[dict]) -> None:
        if time.monotonic() > deadline:
            minutes = record["seconds"] / 60
            done = f"step {record['step']:,}, {minutes:.0f} minutes in all"
            raise PausedError(f"{name}: {done}; the same command goes on")

    result = pretrain(
        recipe,
        images,
        folder=Path(args.folder) / f"{name}_{args.network}-{args.width}_{args.seed}",
        knn_every=0,
        callback=pause,
        device=args.device,
        log_every=5,
        compile=args.compile,
        dtype=torch.bfloat16 if args.bf16 else None,
        checkpoint_seconds=20,
    )
    last = result.history[-1]
    views = last["step"] * recipe.batch_size * views_an_image
    return Trained(result.encoder, asdict(recipe), views, last["seconds"])


def steps_of(
    name: str,
    args: argparse.Namespace,
    views_an_image: int,
    try_steps: Callable[[int], None],
) -> int:
    """Return the steps of a short training: for so many views, or for so many minutes.

    Args:
        name: The encoder.
        args: The command line.
        views_an_image: Views of an image in a step.
        try_steps: Makes so many steps without moving a weight, to time them.
    """
    steps = views_of(name, args) / views_an_image / BATCH_SIZE
    if args.minutes:
        start = time.monotonic()
        try_steps(5)
        steps = 60 * args.minutes / (time.monotonic() - start) * 5
    return max(2, round(steps))


def supervised(
    name: str, args: argparse.Namespace, images: torch.Tensor, labels: torch.Tensor
) -> Trained:
    """Train by cross-entropy on the class, images cropped and flipped at random."""
    encoder = new_encoder(name, args)
    head = nn.Linear(models.feature_dim(encoder), 10).to(args.device)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with autocast(args):
            x = augment.random_resized_crop(x, scale=(0.5, 1.0), flip=0.5)
            return F.cross_entropy(head(encoder(x)), y)

    def fit(steps: int, lr: float) -> None:
        modules = [encoder, head]
        train.fit(
            loss, modules, images, labels, steps=steps, batch_size=BATCH_SIZE, lr=lr, text=name
        )

    def try_steps(steps: int) -> None:
        fit(steps, lr=0.0)

    steps = steps_of(name, args, 1, try_steps)
    start = time.monotonic()
    fit(steps, LR)
    recipe = {
        "loss": "cross-entropy",
        "optimizer": "AdamW, cosine",
        "lr": LR,
        "batch_size": BATCH_SIZE,
        "augmentation": "crop (0.5, 1), flip 0.5",
    }
    return Trained(encoder, recipe, steps * BATCH_SIZE, time.monotonic() - start)


def collapsed(
    name: str, args: argparse.Namespace, images: torch.Tensor, labels: torch.Tensor
) -> Trained:
    """Train by minus the cosine of two views' h.

    There are no negatives, no predictor, no stop-gradient and no projector.
    """
    encoder = new_encoder(name, args)

    def loss(x: torch.Tensor) -> torch.Tensor:
        with autocast(args):
            h1, h2 = encoder(torch.cat(augment.two_views(x))).chunk(2)
            return losses.negative_cosine(h1, h2)

    def fit(steps: int, lr: float) -> None:
        train.fit(loss, [encoder], images, steps=steps, batch_size=BATCH_SIZE, lr=lr, text=name)

    def try_steps(steps: int) -> None:
        fit(steps, lr=0.0)

    steps = steps_of(name, args, 2, try_steps)
    start = time.monotonic()
    fit(steps, LR)
    recipe = {
        "loss": (
            "negative cosine of h, positives alone: no negatives, predictor, stop-gradient or "
            "projector"
        ),
        "optimizer": "AdamW, cosine",
        "lr": LR,
        "batch_size": BATCH_SIZE,
        "augmentation": "crop (0.2, 1), flip 0.5, jitter (0.4, 0.4, 0.4, 0.1), grayscale 0.2",
    }
    return Trained(encoder, recipe, 2 * steps * BATCH_SIZE, time.monotonic() - start)


METHODS = {
    "cifar10_simclr": simclr,
    "cifar10_supervised": supervised,
    "cifar10_collapsed": collapsed,
}


# --- the card
# --------------------------------------------------------------------------------------


def as_stored(encoder: nn.Module) -> tuple[nn.Module, str]:
    """Return the encoder as its file will have it, and the file's precision."""
    float32_bytes = sum(4 * parameter.numel() for parameter in encoder.parameters())
    if float32_bytes <= LARGEST:
        return encoder, "float32"
    return copy.deepcopy(encoder).half(), "float16"


def scores(
    encoder: nn.Module, train_set: data.ImageSet, test_set: data.ImageSet
) -> dict[str, float]:
    """Return linear probe and kNN (fractions of the test images), and vital signs of h.

    Both probes are fitted on all training images.
    """
    h = probe.extract_features(encoder, train_set.images).cpu()
    h_test = probe.extract_features(encoder, test_set.images).cpu()
    sets = (h, train_set.labels, h_test, test_set.labels)
    meter = metrics.collapse_meter(h_test)
    values = {
        "linear_probe": probe.linear_probe(*sets),
        "knn": probe.knn_accuracy(*sets),
        "effective_rank": meter["effective_rank"],
        "mean_cosine": meter["mean_cosine"],
    }
    return {name: round(value, 4) for name, value in values.items()}


def note_of(trained: Trained, args: argparse.Namespace) -> str:
    """Return what a reader of the card should know first."""
    weights = sum(parameter.numel() for parameter in trained.encoder.parameters())
    where = "a GPU" if args.device == "cuda" else "a CPU"
    note = (
        f"{args.network} of width {args.width}, {weights / 1e6:.1f} M weights, trained for "
        f"{trained.seconds / 60:.0f} minutes on {where}."
    )
    if args.device == "cpu":
        note += (
            " A narrow network and a short training: to learn with, not what the method can reach."
        )
    return note


def device_of(args: argparse.Namespace) -> str:
    """Return the device in words."""
    if args.device == "cuda":
        return torch.cuda.get_device_name()
    words = f"{cpu_model()}, threads: {torch.get_num_threads()}"
    return f"{words}, bfloat16" if args.bf16 else words


def train_one(
    name: str, args: argparse.Namespace, train_set: data.ImageSet, test_set: data.ImageSet
) -> None:
    """Train, measure and write one encoder."""
    trained = METHODS[name](name, args, train_set.images, train_set.labels)
    encoder, precision = as_stored(trained.encoder.eval().cpu())
    path = Path(args.out) / name
    models.save(
        encoder,
        path,
        architecture=[args.network, args.width],
        note=note_of(trained, args),
        data=f"CIFAR-10 ({args.variant}): {len(train_set):,} training pictures",
        recipe=trained.recipe,
        seed=args.seed,
        views=trained.views,
        minutes=round(trained.seconds / 60, 1),
        device=device_of(args),
        weights=precision,
        scores=scores(encoder.float().to(args.device), train_set, test_set),
        versions={"torch": torch.__version__, "python": platform.python_version()},
        license="MIT",
        command=f"python -m scripts.encoders {shlex.join(sys.argv[1:])}",
    )
    print(name, json.dumps(models.card(str(path))["scores"]), flush=True)


# --- the command line
# ------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    has_gpu = torch.cuda.is_available()
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {', '.join(NAMES)}")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--width", type=int, default=64 if has_gpu else 16)
    parser.add_argument("--views", type=float, help="train on so many (default: by device)")
    parser.add_argument(
        "--minutes", type=float, help="in place of --views: as many as fit into so many minutes"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, help="train on so many images (default: all)")
    parser.add_argument(
        "--call-minutes", type=float, default=1e6, help="pause SimCLR after so many"
    )
    parser.add_argument("--folder", default="build/encoders", help="for SimCLR's checkpoints")
    parser.add_argument("--out", default=models.SHIPPED)
    parser.add_argument("--variant", required=True, help="what the images are, in words")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16 on a CPU, too")
    args = parser.parse_args()
    args.device = "cuda" if has_gpu else "cpu"
    unknown = sorted(set(args.names) - set(NAMES))
    if unknown:
        sys.exit(f"no encoder {', '.join(unknown)}; there are {', '.join(NAMES)}")
    return args


def main() -> None:
    """Train what is not there yet."""
    args = arguments()
    train_set = data.load("cifar10", size=args.size)
    test_set = data.load("cifar10", split="test")
    Path(args.out).mkdir(parents=True, exist_ok=True)
    for name in args.names or NAMES:
        if (Path(args.out) / f"{name}.json").exists():
            print(f"{name} is there")
            continue
        try:
            train_one(name, args, train_set, test_set)
        except PausedError as pause:
            sys.exit(str(pause))
    print("done")


if __name__ == "__main__":
    main()
