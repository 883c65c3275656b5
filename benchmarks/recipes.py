"""Which recipe learns most from the same number of views? Named recipes, the steps between them, several seeds.

Run: python benchmarks/recipes.py run --minutes 7 --variant "CIFAR-10 as published"     (again, until it says done)
     python benchmarks/recipes.py table                                                (the table of all results)
One JSON a run in benchmarks/results/recipes/. A run is `replearn.simclr.pretrain` on CIFAR-10's training pictures, with
so many views in all (--views; a small view of multi-crop counts as one), then kNN and the linear probe on the test set.
A run that is cut off by --minutes goes on from its checkpoint the next time. The defaults are for a GPU: ResNet-18 of
width 64, 20 million views. Without one: --width 8 --views 400000. A seed changes weights, order and augmentation.
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
from shared import cpu_model, write_atomically

from replearn import data, probe
from replearn.simclr import COURSE, LIGHTLY, SOURCE, pretrain

RESULTS = Path(__file__).parent / "results" / "recipes"
# From lightly's recipe to ours, one change more in each.
STEPS = dict(temperature=0.2), dict(loss="decoupled_contrastive"), dict(crop=(0.2, 1.0)), dict(hidden=2048), dict(
    batch_size=512, lr=0.4, warmup=0.05)  # fmt: skip
# Ours with one thing changed.
CHANGES = dict(
    blur=dict(blur=0.5), weak_jitter=dict(jitter=(0.2, 0.2, 0.2, 0.05)),
    strong_jitter=dict(jitter=(0.8, 0.8, 0.8, 0.2)),
    nt_xent=dict(loss="nt_xent"), temperature_01=dict(temperature=0.1), temperature_05=dict(temperature=0.5),
    adamw=dict(optimizer="adamw", lr=2e-3, weight_decay=1e-2), half_lr=dict(lr=0.2), double_lr=dict(lr=0.8),
    batch_256=dict(batch_size=256, lr=0.2), batch_128=dict(batch_size=128, lr=0.1), no_warmup=dict(warmup=0.0),
    narrow_head=dict(hidden=512), deep_head=dict(layers=3), wide_z=dict(out=256),
    momentum=dict(queue=4096, loss="nt_xent"), multi_crop=dict(n_small=2))  # fmt: skip


def recipes():
    """Return {name: recipe}: the source's, lightly's, the steps from there to ours, ours, and ours with one change."""
    found = dict(source=SOURCE, lightly=LIGHTLY)
    step = LIGHTLY
    for i, change in enumerate(STEPS[:-1], 1):
        step = replace(step, **change)
        found[f"lightly_{i}_{'_'.join(change)}"] = step
    assert replace(step, **STEPS[-1]) == COURSE, "the steps lead to the course's recipe"
    return found | dict(course=COURSE) | {f"course_{name}": replace(COURSE, **c) for name, c in CHANGES.items()}


class PausedError(Exception):
    """The time given to this call is over; the checkpoint stays."""


def one(name, recipe, args, train, test, deadline):
    """Train and measure one recipe at one seed; return its record."""
    per_picture = 2 + recipe.n_small
    recipe = replace(recipe, epochs=args.views / (per_picture * len(train)))
    folder = Path(args.folder) / label(name, recipe, args)

    def pause(record, history):
        if time.monotonic() > deadline:
            raise PausedError

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    result = pretrain(recipe, train.images, folder=folder, knn=(train, test), knn_every=max(1, recipe.epochs / 8),
                      callback=pause, compile=args.compile, checkpoint_seconds=15)
    h, h_test = (probe.extract_features(result.encoder, s.images) for s in (train, test))
    last = result.history[-1]
    return dict(
        name=name, seed=recipe.seed, views=args.views, pictures=len(train), variant=args.variant,
        linear=probe.linear_probe(h, train.labels.to(h.device), h_test, test.labels.to(h.device), l2=1e-3),
        knn=last["knn"], knn_over_time=[[r["epoch"], r["knn"]] for r in result.history if "knn" in r],
        loss_over_time=[[r["epoch"], r["loss"]] for r in result.history], feature_dim=h.shape[1],
        seconds=last["seconds"], pictures_a_second=last["step"] * recipe.batch_size / last["seconds"],
        peak_gb=(torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available()
                 else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6),
        recipe=asdict(recipe), device=torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_model(),
        torch=torch.__version__, python=platform.python_version())  # fmt: skip


def label(name, recipe, args):
    """Return the file's name of a run."""
    return f"{recipe.network}-{recipe.width}_{args.views:.3g}_{name}_{recipe.seed}"


def run(args):
    """Train what is not there yet, until the time is over."""
    deadline = time.monotonic() + 60 * args.minutes
    train, test = data.load("cifar10", size=args.size), data.load("cifar10", split="test")
    known = recipes()
    if unknown := set(args.recipes) - set(known):
        sys.exit(f"no recipe {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for seed in args.seeds:
        for name in args.recipes:
            recipe = replace(known[name], seed=seed, network=args.network, width=args.width)
            path = RESULTS / f"{label(name, recipe, args)}.json"
            if path.exists():
                continue
            if time.monotonic() > deadline:
                sys.exit("time is over; the same command goes on")
            try:
                record = one(name, recipe, args, train, test, deadline)
            except PausedError:
                sys.exit(f"{name}, seed {seed}: paused; the same command goes on")
            write_atomically(path, record)
            print(f"{name:28s} seed {seed}: kNN {record['knn']:.1%}, linear {record['linear']:.1%}, "
                  f"{record['seconds']:.0f} s", flush=True)
    print("done")


def results():
    """Return {(network, width, views, variant): {name: [records]}} of all stored runs."""
    found = {}
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text())
        about = (record["recipe"]["network"], record["recipe"]["width"], record["views"], record["variant"])
        found.setdefault(about, {}).setdefault(record["name"], []).append(record)
    return found


def table(args):
    """Print each group of comparable runs: mean and standard deviation over seeds, and the difference to lightly's.

    The difference is paired by seed; behind it the half-width of its 95 % interval (Student's t)."""
    from scipy import stats
    for (network, width, views, variant), group in results().items():
        print(f"\n{network}, width {width}, {views:,.0f} views, {variant}")
        base = {r["seed"]: r for r in group.get("lightly", [])}
        for name in sorted(group, key=lambda n: -torch.tensor([r["knn"] for r in group[n]]).mean()):
            runs = group[name]
            knn, linear = (100 * torch.tensor([r[key] for r in runs]) for key in ("knn", "linear"))
            gain = 100 * torch.tensor([r["knn"] - base[r["seed"]]["knn"] for r in runs if r["seed"] in base])
            text = ""
            if name != "lightly" and len(gain) > 1:
                half = stats.t.ppf(0.975, len(gain) - 1) * gain.std() / len(gain) ** 0.5
                text = f"to lightly's {gain.mean():+.1f} ± {half:.1f}"
            print(f"{name:28s} {len(runs)} seeds  kNN {knn.mean():.1f}  linear {linear.mean():.1f}  {text}")


def main():
    """Run or show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("run")
    train.add_argument("--recipes", nargs="+", default=["source", "lightly", "course"], metavar="NAME")
    train.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    train.add_argument("--views", type=float, default=20e6)
    train.add_argument("--network", default="resnet18")
    train.add_argument("--width", type=int, default=64)
    train.add_argument("--size", type=int, help="train on so many pictures (default: all)")
    train.add_argument("--minutes", type=float, default=7)
    train.add_argument("--folder", default="build/recipes", help="for checkpoints")
    train.add_argument("--variant", required=True, help="what the pictures are, in words")
    train.add_argument("--compile", action="store_true")
    train.set_defaults(function=run)
    commands.add_parser("table").set_defaults(function=table)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
