"""Train the CIFAR-10 encoders that the package ships, and write each with its card to replearn/checkpoints/.

Run: python -m scripts.encoders --variant "CIFAR-10 as published"              (all three; with a GPU: width 64)
     python -m scripts.encoders cifar10_simclr --variant "…" --call-minutes 9  (again, until it says done)
SimCLR goes on from its checkpoint when it was stopped; the other two are short and start over. An encoder that is there
already is left alone: delete it to train it again. The three are one network, each with first weights of its own:
simclr: the course's recipe. supervised: cross-entropy. collapsed: lesson 10's loss on positives alone, put on h itself
(behind a projector z would collapse and h hardly move).
"""

import argparse
import copy
import json
import platform
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.shared import cpu_model
from replearn import augment, data, losses, metrics, models, probe, train
from replearn.pretrain import COURSE, pretrain

VIEWS = {
    "cifar10_simclr": (1.2e6, 20e6),
    "cifar10_supervised": (3e5, 5e6),
    "cifar10_collapsed": (1e5, 5e5),
}  # CPU, GPU
BATCH = 128  # of the two short trainings
LARGEST = 3e6  # bytes of a file with float32 weights; a larger one is stored in float16


class PausedError(Exception):
    """The time given to this call is over; the checkpoint stays."""


def half(args):
    """bfloat16 on a CPU, if asked for; around one step, since autocast keeps copies of the weights until its end."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16)


def new_encoder(name, args):
    """Return the network with first weights of its own, so that what two encoders share was learned."""
    train.set_seed(args.seed + list(VIEWS).index(name))
    encoder = getattr(models, args.network)(args.width)
    return encoder.to(args.device, memory_format=torch.channels_last)


def simclr(name, args, images, labels):
    """The course's recipe, with the network, the seed and the length that were asked for."""
    views = args.views or VIEWS[name][args.device == "cuda"]
    recipe = replace(
        COURSE,
        network=args.network,
        width=args.width,
        seed=args.seed,
        minutes=args.minutes,
        epochs=views / (2 + COURSE.n_small) / len(images),
    )
    deadline = time.monotonic() + 60 * args.call_minutes

    def pause(record, history):
        if time.monotonic() > deadline:
            raise PausedError(
                f"{name}: step {record['step']:,}, {record['seconds'] / 60:.0f} minutes in all; "
                "the same command goes on"
            )

    folder = Path(args.folder) / f"{name}_{args.network}-{args.width}_{args.seed}"
    result = pretrain(
        recipe,
        images,
        folder=folder,
        knn_every=0,
        callback=pause,
        device=args.device,
        log_every=5,
        compile=args.compile,
        dtype=torch.bfloat16 if args.bf16 else None,
        checkpoint_seconds=20,
    )
    last = result.history[-1]
    return (
        result.encoder,
        asdict(recipe),
        last["step"] * recipe.batch_size * (2 + recipe.n_small),
        last["seconds"],
    )


def fit(name, args, images, labels, loss, modules, views_a_picture, lr):
    """Minimize a loss for so many views, or minutes; return (views seen, seconds)."""
    views = args.views or VIEWS[name][args.device == "cuda"]
    steps = max(2, round(views / views_a_picture / BATCH))
    if args.minutes:
        start = time.monotonic()
        train.fit(
            loss, modules, images, labels, steps=5, batch_size=BATCH, lr=0.0
        )  # to time it; no weight moves
        steps = max(2, round(60 * args.minutes / (time.monotonic() - start) * 5))
    start = time.monotonic()
    train.fit(loss, modules, images, labels, steps=steps, batch_size=BATCH, lr=lr, text=name)
    return steps * BATCH * views_a_picture, time.monotonic() - start


def supervised(name, args, images, labels):
    """Cross-entropy on the class; pictures cropped and flipped at random."""
    encoder = new_encoder(name, args)
    head = nn.Linear(models.feature_dim(encoder), 10).to(args.device)

    def loss(x, y):
        with half(args):
            return F.cross_entropy(
                head(encoder(augment.random_resized_crop(x, scale=(0.5, 1.0), flip=0.5))), y
            )

    seen = fit(name, args, images, labels, loss, [encoder, head], 1, 2e-3)
    recipe = dict(
        loss="cross-entropy",
        optimizer="AdamW, cosine",
        lr=2e-3,
        batch_size=BATCH,
        augmentation="crop (0.5, 1), flip 0.5",
    )
    return encoder, recipe, *seen


def collapsed(name, args, images, labels):
    """Minus the cosine of two views' h: no negatives, no predictor, no stop-gradient, no projector."""
    encoder = new_encoder(name, args)

    def loss(x):
        with half(args):
            return losses.negative_cosine(*encoder(torch.cat(augment.two_views(x))).chunk(2))

    seen = fit(name, args, images, None, loss, [encoder], 2, 2e-3)
    recipe = dict(
        loss="negative cosine of h, positives alone: no negatives, predictor, stop-gradient or projector",
        optimizer="AdamW, cosine",
        lr=2e-3,
        batch_size=BATCH,
        augmentation="crop (0.2, 1), flip 0.5, jitter (0.4, 0.4, 0.4, 0.1), grayscale 0.2",
    )
    return encoder, recipe, *seen


def stored(encoder):
    """Return the encoder as its file will have it, and the file's precision."""
    if sum(4 * p.numel() for p in encoder.parameters()) <= LARGEST:
        return encoder, "float32"
    return copy.deepcopy(encoder).half(), "float16"


def scores(encoder, train_set, test_set):
    """Linear probe and kNN (fractions of the test pictures, fitted on all training pictures), vital signs of h."""
    h, h_test = (probe.extract_features(encoder, s.images).cpu() for s in (train_set, test_set))
    found = dict(
        linear_probe=probe.linear_probe(h, train_set.labels, h_test, test_set.labels),
        knn=probe.knn_accuracy(h, train_set.labels, h_test, test_set.labels),
    )
    signs = metrics.collapse_meter(h_test)
    return {
        k: round(v, 4)
        for k, v in (found | {k: signs[k] for k in ("effective_rank", "mean_cosine")}).items()
    }


def one(name, args, train_set, test_set):
    """Train, measure and write one encoder."""
    method = dict(
        cifar10_simclr=simclr, cifar10_supervised=supervised, cifar10_collapsed=collapsed
    )[name]
    encoder, recipe, views, seconds = method(name, args, train_set.images, train_set.labels)
    kept, precision = stored(encoder.eval().cpu())
    cpu = f"{cpu_model()}, threads: {torch.get_num_threads()}{', bfloat16' * args.bf16}"
    device = torch.cuda.get_device_name() if args.device == "cuda" else cpu
    size = sum(p.numel() for p in encoder.parameters()) / 1e6
    note = (
        f"{args.network} of width {args.width}, {size:.1f} M weights, trained for {seconds / 60:.0f} minutes on "
        f"{'a GPU' if args.device == 'cuda' else 'a CPU'}."
    )
    if args.device == "cpu":
        note += (
            " A narrow network and a short training: to learn with, not what the method can reach."
        )
    models.save(
        kept,
        Path(args.out) / name,
        architecture=[args.network, args.width],
        note=note,
        data=f"CIFAR-10 ({args.variant}): {len(train_set):,} training pictures",
        recipe=recipe,
        seed=args.seed,
        views=views,
        minutes=round(seconds / 60, 1),
        device=device,
        weights=precision,
        scores=scores(kept.float().to(args.device), train_set, test_set),
        versions={"torch": torch.__version__, "python": platform.python_version()},
        license="MIT",
        command=f"python -m scripts.encoders {shlex.join(sys.argv[1:])}",
    )
    print(name, json.dumps(models.card(str(Path(args.out) / name))["scores"]), flush=True)


def main():
    """Train what is not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {', '.join(VIEWS)}")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--width", type=int, default=64 if gpu else 16)
    parser.add_argument("--views", type=float, help="train on so many (default: by device)")
    parser.add_argument(
        "--minutes", type=float, help="in place of --views: as many as fit into so many minutes"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, help="train on so many pictures (default: all)")
    parser.add_argument(
        "--call-minutes", type=float, default=1e6, help="pause SimCLR after so many"
    )
    parser.add_argument("--folder", default="build/encoders", help="for SimCLR's checkpoints")
    parser.add_argument("--out", default=models.SHIPPED)
    parser.add_argument("--variant", required=True, help="what the pictures are, in words")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16 on a CPU, too")
    args = parser.parse_args()
    args.device = "cuda" if gpu else "cpu"
    if unknown := set(args.names) - set(VIEWS):
        sys.exit(f"no encoder {', '.join(sorted(unknown))}; there are {', '.join(VIEWS)}")
    train_set, test_set = data.load("cifar10", size=args.size), data.load("cifar10", split="test")
    Path(args.out).mkdir(parents=True, exist_ok=True)
    for name in args.names or VIEWS:
        if (Path(args.out) / f"{name}.json").exists():
            print(f"{name} is there")
            continue
        try:
            one(name, args, train_set, test_set)
        except PausedError as pause:
            sys.exit(str(pause))
    print("done")


if __name__ == "__main__":
    main()
