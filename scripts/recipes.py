"""Which recipe learns most from the same number of views? Named recipes, the steps between them, several seeds.

Run: python -m scripts.recipes --minutes 7 --variant "CIFAR-10 as published"         (again, until it says done)
     python -m scripts.recipes_table                                                (the table of all results)
One JSON a run in benchmarks/results/recipes/. A run is `replearn.pretrain.loop` on CIFAR-10's training pictures, with
so many views in all (--views; a small view of multi-crop counts as one), then kNN and the linear probe on the test set.
A run that is cut off by --minutes goes on from its checkpoint the next time. The defaults are for a GPU: ResNet-18 of
width 64, 20 million views. Without one: --network resnet18 --width 8 --views 400000 --bf16, six minutes or more a run
on one core with bfloat16 units. A seed changes weights, order and augmentation.
"""

import argparse
import json
import platform
import resource
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks.shared import cpu_model, write_atomically
from replearn import data, models, probe
from replearn.pretrain import COURSE, LIGHTLY, SOURCE, checkpoint, pretrain
from replearn.pretrain.recipe import networks

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "recipes"
# From lightly's recipe to ours, one change more in each.
STEPS = (
    dict(temperature=0.2),
    dict(loss="decoupled_contrastive"),
    dict(crop=(0.2, 1.0)),
    dict(hidden=2048),
    dict(lr=0.1, warmup=0.05),
)
BIG = dict(batch_size=512, lr=0.4)
# Ours with one thing changed; a larger batch gets a larger lr.
CHANGES = dict(
    blur=dict(blur=0.5),
    weak_jitter=dict(jitter=(0.2, 0.2, 0.2, 0.05)),
    strong_jitter=dict(jitter=(0.8, 0.8, 0.8, 0.2)),
    nt_xent=dict(loss="nt_xent"),
    temperature_01=dict(temperature=0.1),
    temperature_05=dict(temperature=0.5),
    adamw=dict(optimizer="adamw", lr=1e-3, weight_decay=1e-2),
    half_lr=dict(lr=0.05),
    double_lr=dict(lr=0.2),
    batch_256=dict(batch_size=256, lr=0.2),
    batch_512=BIG,
    batch_512_half_lr=BIG | dict(lr=0.2),
    batch_512_double_lr=BIG | dict(lr=0.8),
    batch_512_adamw=BIG | dict(optimizer="adamw", lr=2e-3, weight_decay=1e-2),
    no_warmup=dict(warmup=0.0),
    narrow_head=dict(hidden=512),
    deep_head=dict(layers=3),
    wide_z=dict(out=256),
    average=dict(average=0.99),
    momentum=dict(queue=4096, loss="nt_xent"),
    multi_crop=dict(n_small=2),
    stem=dict(network="timm:replearn_resnet18_imagenet_stem"),
)


def recipes():
    """Return {name: recipe}: the source's, lightly's, the steps from there to ours, ours, and ours with one change."""
    found = dict(source=SOURCE, lightly=LIGHTLY)
    step = LIGHTLY
    for i, change in enumerate(STEPS[:-1], 1):
        step = replace(step, **change)
        found[f"lightly_{i}_{'_'.join(change)}"] = step
    assert replace(step, **STEPS[-1]) == COURSE, "the steps lead to the course's recipe"
    return (
        found
        | dict(course=COURSE)
        | {f"course_{name}": replace(COURSE, **c) for name, c in CHANGES.items()}
    )


def register_stem(width):
    """Let timm know a ResNet-18 with the stem that it has for ImageNet: 7 x 7 of stride 2, then a max-pool."""
    import timm

    def replearn_resnet18_imagenet_stem(pretrained=False, **_):
        net = models.resnet18(width).net
        net.conv1, net.maxpool = (
            torch.nn.Conv2d(3, width, 7, 2, 3, bias=False),
            torch.nn.MaxPool2d(3, 2, 1),
        )
        return net

    timm.models.register_model(replearn_resnet18_imagenet_stem)


class PausedError(Exception):
    """The time given to this call is over; the checkpoint stays."""


def one(name, recipe, args, train, test, deadline):
    """Train and measure one recipe at one seed; return its record."""
    per_picture = 2 + recipe.n_small
    recipe = replace(recipe, epochs=args.views / (per_picture * len(train)))
    folder = Path(args.folder) / label(name, recipe.seed, args)
    curve = folder / "linear.json"
    linear = json.loads(curve.read_text("utf-8")) if curve.exists() else []

    def watch(record, history):
        if "knn" in record and (
            found := checkpoint.load(folder)
        ):  # older by seconds: a checkpoint follows its record
            epoch = found[1]["step"] * recipe.batch_size / len(train)
            if (
                not linear or epoch > linear[-1][0]
            ):  # not again what was measured before the run was cut off
                linear.append([epoch, linear_of(found[0], recipe, *watched)])
                write_atomically(curve, linear)
        if time.monotonic() > deadline:
            raise PausedError

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    watched = (
        train.subset(slice(10_000)),
        test.subset(slice(2_000)),
    )  # on the way; the numbers that count are below
    result = pretrain(
        recipe,
        train.images,
        folder=folder,
        knn=watched,
        knn_every=max(1, recipe.epochs / 8),
        callback=watch,
        compile=args.compile,
        dtype=torch.bfloat16 if args.bf16 else None,
        checkpoint_seconds=15,
    )
    features = features_of(result.encoder, train, test)
    last = result.history[-1]
    return dict(
        name=name,
        network=args.network,
        seed=recipe.seed,
        views=args.views,
        pictures=len(train),
        variant=args.variant,
        bf16=args.bf16,
        linear=probe.linear_probe(*features, l2=1e-3),
        knn=probe.knn_accuracy(*features),
        knn_over_time=[[r["epoch"], r["knn"]] for r in result.history if "knn" in r],
        linear_over_time=linear,
        loss_over_time=[[r["epoch"], r["loss"]] for r in result.history],
        feature_dim=features[0].shape[1],
        seconds=last["seconds"],
        pictures_a_second=last["step"] * recipe.batch_size / last["seconds"],
        peak_gb=(
            torch.cuda.max_memory_allocated() / 1e9
            if torch.cuda.is_available()
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        ),
        recipe=asdict(recipe),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_model(),
        torch=torch.__version__,
        python=platform.python_version(),
    )


def linear_of(tensors, recipe, train, test):
    """Return the accuracy of the linear probe on the encoder that a checkpoint's tensors hold."""
    device, part = (
        "cuda" if torch.cuda.is_available() else "cpu",
        f"{'average' if recipe.average else 'online'}.0.",
    )
    with torch.random.fork_rng():
        encoder = networks(recipe)[0]
    encoder.load_state_dict(
        {key.removeprefix(part): x for key, x in tensors.items() if key.startswith(part)}
    )
    return probe.linear_probe(*features_of(encoder.to(device), train, test), l2=1e-3)


def features_of(encoder, train, test):
    """Return h and labels of both sets in the order in which the probes take them."""
    h, h_test = (probe.extract_features(encoder, s.images) for s in (train, test))
    return h, train.labels.to(h.device), h_test, test.labels.to(h.device)


def label(name, seed, args):
    """Return the file's name of a run."""
    return f"{args.network}-{args.width}{'_bf16' * args.bf16}_{args.views:.3g}_{name}_{seed}"


def run(args):
    """Train what is not there yet, until the time is over."""
    deadline = time.monotonic() + 60 * args.minutes
    train, test = data.load("cifar10", size=args.size), data.load("cifar10", split="test")
    known = recipes()
    if unknown := set(args.recipes) - set(known):
        sys.exit(f"no recipe {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for seed in args.seeds:
        for name in args.recipes:
            recipe = replace(known[name], seed=seed, width=args.width)
            if recipe.network.startswith("timm:"):
                register_stem(args.width)
            else:
                recipe = replace(recipe, network=args.network)
            path = RESULTS / f"{label(name, seed, args)}.json"
            if path.exists():
                continue
            if time.monotonic() > deadline:
                sys.exit("time is over; the same command goes on")
            try:
                record = one(name, recipe, args, train, test, deadline)
            except PausedError:
                sys.exit(f"{name}, seed {seed}: paused; the same command goes on")
            write_atomically(path, record)
            print(
                f"{name:28s} seed {seed}: kNN {record['knn']:.1%}, linear {record['linear']:.1%}, "
                f"{record['seconds']:.0f} s",
                flush=True,
            )
    print("done")


def main():
    """Read the command line."""
    train = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    train.add_argument(
        "--recipes", nargs="+", default=["source", "lightly", "course"], metavar="NAME"
    )
    train.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    train.add_argument("--views", type=float, default=20e6)
    train.add_argument("--network", default="resnet18")
    train.add_argument("--width", type=int, default=64)
    train.add_argument("--size", type=int, help="train on so many pictures (default: all)")
    train.add_argument("--minutes", type=float, default=7)
    train.add_argument("--folder", default="build/recipes", help="for checkpoints")
    train.add_argument("--variant", required=True, help="what the pictures are, in words")
    train.add_argument("--compile", action="store_true")
    train.add_argument("--bf16", action="store_true", help="train in bfloat16 on a CPU, too")
    run(train.parse_args())


if __name__ == "__main__":
    main()
