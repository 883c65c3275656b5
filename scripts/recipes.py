"""Which recipe learns most from the same number of views? Named recipes, steps between, seeds.

Run: python -m scripts.recipes --minutes 7 --variant "CIFAR-10 as published"   (until it says done)
     python -m scripts.recipes_table                                    (the table of all results)
One JSON a run in benchmarks/results/recipes/. A run is `replearn.pretrain.pretrain` on CIFAR-10's
training images, with so many views in all (--views; a small view of multi-crop counts as one), then
kNN and the linear probe. A run that is cut off by --minutes goes on from its checkpoint the next
time. The defaults are for a GPU: ResNet-18 of width 64, 20 million views. Without one:
--network resnet18 --width 8 --views 400000 --bf16, six minutes or more a run on one core with
bfloat16 units. A seed changes weights, order and augmentation.

A recipe is chosen without the test set: a tenth of each class of the training images, always the
same 5,000, is held out, no run trains on it, and both probes read it. The table names the recipe
that gains most in kNN *and* the linear probe. `--test` trains on all training images and measures
on the test set: for the recipe that was chosen, and those that it is compared with. (Results that
do not say what they were measured on are from before, and were measured on the test set.)

Changes can be joined: `course_views_4_mean_and_half_lr` is ours with both, as learning rates and
temperatures around the best recipe need it.
"""

import argparse
import json
import platform
import resource
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.shared import RESULTS as ALL_RESULTS
from benchmarks.shared import cpu_model
from replearn import data, models, probe
from replearn.data import ImageSet
from replearn.data.imageset import stratified_order
from replearn.files import write_json
from replearn.pretrain import COURSE, LIGHTLY, SOURCE, Recipe, checkpoint, pretrain
from replearn.pretrain.recipe import networks

RESULTS = ALL_RESULTS / "recipes"
CURVE_POINTS = 8  # measurements on the way
CURVE_TRAIN = 10_000  # images of a measurement on the way; the numbers that count are of all
CURVE_TEST = 2_000
VALIDATION_SHARE = 10  # one of so many training images is held out
L2 = 1e-3  # of the linear probe

# From lightly's recipe to ours, one change more in each.
STEPS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.2},
    {"loss": "decoupled_contrastive"},
    {"crop": (0.2, 1.0)},
    {"hidden": 2048},
    {"lr": 0.1, "warmup": 0.05},
)
# Of dkobak's recipe we know that it is SimCLR with batches of 512 and one gray view in ten. The
# fields that we cannot know are those of SimCLR for CIFAR-10 in lightly's benchmark, with the
# learning rate by its rule, 0.06 * batch size / 128.
DKOBAK = replace(LIGHTLY, batch_size=512, lr=0.24, grayscale=0.1)

BIG = {"batch_size": 512, "lr": 0.4}
# As many views a step as with two views of 128 images.
VIEWS_4 = {"n_views": 4, "batch_size": 64}
VIEWS_8 = {"n_views": 8, "batch_size": 32}
MEAN = {"mean_target": True}
# The predictor is a bottleneck, a quarter as wide as the projector's hidden layer.
SIMSIAM = {"loss": "simsiam", "predictor": 512}
# Ours with one thing changed; a larger batch gets a larger lr.
CHANGES: dict[str, dict[str, Any]] = {
    "blur": {"blur": 0.5},
    "weak_jitter": {"jitter": (0.2, 0.2, 0.2, 0.05)},
    "strong_jitter": {"jitter": (0.8, 0.8, 0.8, 0.2)},
    "nt_xent": {"loss": "nt_xent"},
    "temperature_01": {"temperature": 0.1},
    "temperature_05": {"temperature": 0.5},
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-2},
    "half_lr": {"lr": 0.05},
    "double_lr": {"lr": 0.2},
    "batch_256": {"batch_size": 256, "lr": 0.2},
    "batch_512": BIG,
    "batch_512_half_lr": BIG | {"lr": 0.2},
    "batch_512_double_lr": BIG | {"lr": 0.8},
    "batch_512_adamw": BIG | {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 1e-2},
    "no_warmup": {"warmup": 0.0},
    "narrow_head": {"hidden": 512},
    "deep_head": {"layers": 3},
    "wide_z": {"out": 256},
    "average": {"average": 0.99},
    "momentum": {"queue": 4096, "loss": "nt_xent"},
    "multi_crop": {"n_small": 2},
    "grayscale_01": {"grayscale": 0.1},
    "views_4": VIEWS_4,
    "views_4_mean": VIEWS_4 | MEAN,
    "views_8": VIEWS_8,
    "views_8_mean": VIEWS_8 | MEAN,
    "byol": {"loss": "byol", "predictor": 512},
    "simsiam": SIMSIAM,
    "fastsiam": SIMSIAM | VIEWS_4 | MEAN,
    "lr_007": {"lr": 0.07},
    "lr_014": {"lr": 0.14},
    "temperature_015": {"temperature": 0.15},
    "temperature_03": {"temperature": 0.3},
    "stem": {"network": "timm:replearn_resnet18_imagenet_stem"},
}


class PausedError(Exception):
    """The time given to this call is over; the checkpoint stays."""


# --- recipes
# ---------------------------------------------------------------------------------------


def recipes() -> dict[str, Recipe]:
    """Return the source's recipe, dkobak's, lightly's, the steps to ours, and changes of ours."""
    by_name = {"source": SOURCE, "dkobak": DKOBAK, "lightly": LIGHTLY}
    step = LIGHTLY
    for i, change in enumerate(STEPS[:-1], 1):
        step = replace(step, **change)
        by_name[f"lightly_{i}_{'_'.join(change)}"] = step
    assert replace(step, **STEPS[-1]) == COURSE, "the steps lead to the course's recipe"
    by_name["course"] = COURSE
    for name, change in CHANGES.items():
        by_name[f"course_{name}"] = replace(COURSE, **change)
    return by_name


def recipe_named(name: str) -> Recipe:
    """Return the recipe of a name: one of `recipes`, or ours with changes joined by "_and_".

    Raises:
        KeyError: There is no such recipe.
    """
    by_name = recipes()
    if name in by_name or not name.startswith("course_"):
        return by_name[name]
    joined: dict[str, Any] = {}
    for change in name.removeprefix("course_").split("_and_"):
        joined |= CHANGES[change]
    return replace(COURSE, **joined)


def register_stem(width: int) -> None:
    """Let timm know a ResNet-18 with its stem for ImageNet: 7 x 7 of stride 2, then a max-pool."""
    import timm

    def replearn_resnet18_imagenet_stem(pretrained: bool = False, **_: Any) -> torch.nn.Module:
        net = models.resnet18(width).net
        net.conv1 = torch.nn.Conv2d(3, width, 7, 2, 3, bias=False)
        net.maxpool = torch.nn.MaxPool2d(3, 2, 1)
        return net

    timm.models.register_model(replearn_resnet18_imagenet_stem)


def sized(recipe: Recipe, seed: int, args: argparse.Namespace) -> Recipe:
    """Return a recipe with the seed, and the network and width that were asked for."""
    recipe = replace(recipe, seed=seed, width=args.width)
    if recipe.network.startswith("timm:"):  # a network of its own
        register_stem(args.width)
        return recipe
    return replace(recipe, network=args.network)


def label(name: str, seed: int, args: argparse.Namespace) -> str:
    """Return the file's name of a run."""
    bf16 = "_bf16" if args.bf16 else ""
    validation = "" if args.test else "_validation"
    return f"{args.network}-{args.width}{bf16}{validation}_{args.views:.3g}_{name}_{seed}"


# --- measuring
# -------------------------------------------------------------------------------------


def image_sets(args: argparse.Namespace) -> tuple[ImageSet, ImageSet]:
    """Return what is trained on, and what the probes are measured on.

    Without --test both are training images: a tenth of each class is held out, the same for every
    seed and --size.
    """
    if args.test:
        return data.load("cifar10", size=args.size), data.load("cifar10", split="test")
    train = data.load("cifar10")
    order = torch.from_numpy(stratified_order(train.labels.numpy(), seed=0))
    held_out = len(train) // VALIDATION_SHARE
    return train.subset(order[held_out:][: args.size]), train.subset(order[:held_out])


def features_of(
    encoder: torch.nn.Module, train: ImageSet, test: ImageSet
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return h and labels of both sets in the order in which the probes take them."""
    h = probe.extract_features(encoder, train.images)
    h_test = probe.extract_features(encoder, test.images)
    return h, train.labels.to(h.device), h_test, test.labels.to(h.device)


def encoder_in(tensors: dict[str, torch.Tensor], recipe: Recipe) -> torch.nn.Module:
    """Return the encoder that a checkpoint's tensors hold."""
    prefix = "average.0." if recipe.average else "online.0."
    with torch.random.fork_rng():  # new weights are drawn, and thrown away
        encoder, _ = networks(recipe)
    weights = {}
    for name, x in tensors.items():
        if name.startswith(prefix):
            weights[name.removeprefix(prefix)] = x
    encoder.load_state_dict(weights)
    return encoder.to("cuda" if torch.cuda.is_available() else "cpu")


class Watch:
    """Called with every record of the training: keeps the linear probe over time, and the time.

    Args:
        folder: Of the run's checkpoints; the curve is kept there, too.
        recipe: What is trained.
        sets: Images to fit and test the probe on.
        train_size: Images in an epoch.
        deadline: When to pause, by `time.monotonic`.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        sets: tuple[ImageSet, ImageSet],
        train_size: int,
        deadline: float,
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        self.sets = sets
        self.train_size = train_size
        self.deadline = deadline
        self.path = folder / "linear.json"
        self.curve: list[list[float]] = []  # [epoch, accuracy]
        if self.path.exists():
            self.curve = json.loads(self.path.read_text("utf-8"))

    def __call__(self, record: dict, history: list[dict]) -> None:
        """Measure where kNN was measured; pause where the time is over.

        Raises:
            PausedError: The time is over.
        """
        if "knn" in record:
            self.measure()
        if time.monotonic() > self.deadline:
            raise PausedError

    def measure(self) -> None:
        """Add a point to the curve: the probe on the last checkpoint."""
        stored = checkpoint.load(self.folder)
        if stored is None:
            return
        tensors, about = stored  # older than the record by seconds, since a checkpoint follows it
        epoch = about["step"] * self.recipe.batch_size / self.train_size
        if self.curve and epoch <= self.curve[-1][0]:
            return  # it was measured before the run was cut off
        features = features_of(encoder_in(tensors, self.recipe), *self.sets)
        self.curve.append([epoch, probe.linear_probe(*features, l2=L2)])
        write_json(self.path, self.curve)


def peak_gb() -> float:
    """Return the memory that training took at its peak."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def one(
    name: str,
    recipe: Recipe,
    args: argparse.Namespace,
    train: ImageSet,
    test: ImageSet,
    deadline: float,
) -> dict[str, Any]:
    """Train and measure one recipe at one seed; return its record.

    Raises:
        PausedError: The time is over.
    """
    views_an_image = recipe.n_views + recipe.n_small
    recipe = replace(recipe, epochs=args.views / (views_an_image * len(train)))
    folder = Path(args.folder) / label(name, recipe.seed, args)
    on_the_way = (train.subset(slice(CURVE_TRAIN)), test.subset(slice(CURVE_TEST)))
    watch = Watch(folder, recipe, on_the_way, len(train), deadline)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    result = pretrain(
        recipe,
        train.images,
        folder=folder,
        knn=on_the_way,
        knn_every=max(1, recipe.epochs / CURVE_POINTS),
        callback=watch,
        compile=args.compile,
        dtype=torch.bfloat16 if args.bf16 else None,
        checkpoint_seconds=15,
    )
    features = features_of(result.encoder, train, test)
    history = result.history
    last = history[-1]
    return {
        "name": name,
        "network": args.network,
        "seed": recipe.seed,
        "views": args.views,
        "pictures": len(train),
        "variant": args.variant,
        "measured_on": "test" if args.test else "validation",
        "bf16": args.bf16,
        "linear": probe.linear_probe(*features, l2=L2),
        "knn": probe.knn_accuracy(*features),
        "knn_over_time": [[each["epoch"], each["knn"]] for each in history if "knn" in each],
        "linear_over_time": watch.curve,
        "loss_over_time": [[each["epoch"], each["loss"]] for each in history],
        "feature_dim": features[0].shape[1],
        "seconds": last["seconds"],
        "pictures_a_second": last["step"] * recipe.batch_size / last["seconds"],
        "peak_gb": peak_gb(),
        "recipe": asdict(recipe),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_model(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


# --- the command
# -----------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> None:
    """Train what is not there yet, until the time is over.

    Raises:
        SystemExit: The time is over, or a name is not that of a recipe.
    """
    deadline = time.monotonic() + 60 * args.minutes
    known: dict[str, Recipe] = {}
    for name in args.recipes:
        try:
            known[name] = recipe_named(name)
        except KeyError:
            sys.exit(f"no recipe {name}; there are {', '.join(recipes())}")
    train, test = image_sets(args)
    for seed in args.seeds:
        for name in args.recipes:
            recipe = sized(known[name], seed, args)
            path = RESULTS / f"{label(name, seed, args)}.json"
            if path.exists():
                continue
            if time.monotonic() > deadline:
                sys.exit("time is over; the same command goes on")
            try:
                record = one(name, recipe, args, train, test, deadline)
            except PausedError:
                sys.exit(f"{name}, seed {seed}: paused; the same command goes on")
            write_json(path, record)
            accuracies = f"kNN {record['knn']:.1%}, linear {record['linear']:.1%}"
            print(f"{name:28s} seed {seed}: {accuracies}, {record['seconds']:.0f} s", flush=True)
    print("done")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--recipes", nargs="+", default=["source", "lightly", "course"], metavar="NAME"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--views", type=float, default=20e6)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, help="train on so many images (default: all)")
    parser.add_argument(
        "--test",
        action="store_true",
        help="train on all training images and measure on the test set, once a recipe is chosen",
    )
    parser.add_argument("--minutes", type=float, default=7)
    parser.add_argument("--folder", default="build/recipes", help="for checkpoints")
    parser.add_argument("--variant", required=True, help="what the images are, in words")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16 on a CPU, too")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
