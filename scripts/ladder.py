"""The ladder of `shapes`: how well a linear probe reads the class from each representation.

python -m scripts.ladder     # 10 minutes on 2 CPU cores; writes benchmarks/results/ladder.json

Five seeds of data, network and training.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.shared import RESULTS, command
from replearn import augment, data, losses, models, probe, train
from replearn.files import write_json

SEEDS = 5
FEATURES = 512  # columns of h
PIXEL_PENALTIES = (1e-2, 1e-1, 1.0)  # of the probe on pixels; the best one counts

Train = Callable[[nn.Module], None]


def untrained(encoder: nn.Module) -> None:
    """Leave the encoder as it is."""


def simclr(images: torch.Tensor, encoder: nn.Module) -> None:
    """SimCLR at the budget of notebook 06: 150 steps of 128 images."""
    head = models.projector(FEATURES)

    def loss(x: torch.Tensor) -> torch.Tensor:
        views = augment.two_views(x, crop=(0.5, 1.0), jitter=(0.4, 0.4, 0.4, 0.5))
        z1, z2 = head(encoder(torch.cat(views))).chunk(2)
        return losses.nt_xent(z1, z2, temperature=0.2)

    train.fit(loss, [encoder, head], images, steps=150, batch_size=128, lr=2e-3)


def supervised(images: torch.Tensor, labels: torch.Tensor, encoder: nn.Module) -> None:
    """Cross-entropy on the class, images flipped at random."""
    head = nn.Linear(FEATURES, 10)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(head(encoder(augment.random_horizontal_flip(x))), y)

    train.fit(loss, [encoder, head], images, labels, steps=500, batch_size=128, lr=2e-3)


def pixels_of(images: torch.Tensor) -> torch.Tensor:
    """Return images as rows of pixels in [0, 1]."""
    return images.flatten(1).float() / 255


def ladder(seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return linear-probe accuracy of each rung at one seed, and the seconds that training took."""
    train_set = data.load("shapes", size=8000, seed=seed)
    test_set = data.load("shapes", split="test", size=2000, seed=seed)

    def accuracy(z: torch.Tensor, z_test: torch.Tensor, l2: float = 1e-3) -> float:
        return probe.linear_probe(z, train_set.labels, z_test, test_set.labels, l2=l2)

    pixels = pixels_of(train_set.images)
    test_pixels = pixels_of(test_set.images)
    rungs = {"pixels": max(accuracy(pixels, test_pixels, l2) for l2 in PIXEL_PENALTIES)}
    seconds = {}
    methods: dict[str, Train] = {
        "random": untrained,
        "simclr": partial(simclr, train_set.images),
        "supervised": partial(supervised, train_set.images, train_set.labels),
    }
    for name, method in methods.items():
        train.set_seed(seed)
        encoder = models.small_cnn(32)
        start = time.perf_counter()
        method(encoder)
        seconds[name] = round(time.perf_counter() - start, 1)
        features = probe.extract_features(encoder, train_set.images)
        test_features = probe.extract_features(encoder, test_set.images)
        rungs[name] = accuracy(features, test_features)
    return rungs, seconds


def report(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of all seeds: means, and the smallest step from a rung to the next."""
    accuracy = {name: [run["accuracy"][name] for run in runs] for name in runs[0]["accuracy"]}
    smallest_step = {}
    for lower, upper in pairwise(accuracy):
        pairs = zip(accuracy[lower], accuracy[upper], strict=True)
        steps = [of_upper - of_lower for of_lower, of_upper in pairs]
        smallest_step[f"{lower}-{upper}"] = round(min(steps), 4)
    return {
        "command": command(),
        "cpu_count": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "mean": {name: round(statistics.mean(values), 4) for name, values in accuracy.items()},
        "smallest_step": smallest_step,
        "runs": runs,
    }


def main() -> None:
    """Measure at every seed and write the result."""
    runs = []
    for seed in range(SEEDS):
        rungs, seconds = ladder(seed)
        accuracy = {name: round(value, 4) for name, value in rungs.items()}
        runs.append({"seed": seed, "accuracy": accuracy, "seconds": seconds})
        print(runs[-1], flush=True)
    result = report(runs)
    write_json(RESULTS / "ladder.json", result)
    print(result["mean"], result["smallest_step"])


if __name__ == "__main__":
    main()
