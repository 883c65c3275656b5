"""The ladder of `shapes`: how well a linear probe reads the class from each representation. Writes results/ladder.json.

python -m scripts.ladder     # about 10 minutes on 2 CPU cores: 5 seeds of data, network and training
"""

import json
import os
import platform
import statistics
import time
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from replearn import augment, data, losses, models, probe, train

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "ladder.json"


def simclr(encoder, images):
    """SimCLR at the budget of notebook 06: 150 steps of 128 pictures."""
    head = models.projector(512)

    def loss(x):
        views = torch.cat(augment.two_views(x, crop=(0.5, 1.0), jitter=(0.4, 0.4, 0.4, 0.5)))
        return losses.nt_xent(*head(encoder(views)).chunk(2), temperature=0.2)

    train.fit(loss, [encoder, head], images, steps=150, batch_size=128, lr=2e-3)


def supervised(encoder, images, labels):
    head = nn.Linear(512, 10)
    loss = lambda x, y: F.cross_entropy(head(encoder(augment.random_horizontal_flip(x))), y)
    train.fit(loss, [encoder, head], images, labels, steps=500, batch_size=128, lr=2e-3)


def ladder(seed):
    """Linear-probe accuracy of each rung at one seed, with the seconds that training took."""
    train_set = data.load("shapes", size=8000, seed=seed)
    test_set = data.load("shapes", split="test", size=2000, seed=seed)
    flat = lambda s: s.images.flatten(1).float() / 255
    accuracy = lambda z, z_test, l2=1e-3: probe.linear_probe(
        z, train_set.labels, z_test, test_set.labels, l2=l2
    )
    rungs, seconds = (
        {"pixels": max(accuracy(flat(train_set), flat(test_set), l2) for l2 in (1e-2, 1e-1, 1.0))},
        {},
    )
    recipes = {
        "random": lambda e: None,
        "simclr": lambda e: simclr(e, train_set.images),
        "supervised": lambda e: supervised(e, train_set.images, train_set.labels),
    }
    for name, recipe in recipes.items():
        train.set_seed(seed)
        encoder, start = models.small_cnn(32), time.perf_counter()
        recipe(encoder)
        seconds[name] = round(time.perf_counter() - start, 1)
        rungs[name] = accuracy(
            *(probe.extract_features(encoder, s.images) for s in (train_set, test_set))
        )
    return rungs, seconds


def main():
    runs = []
    for seed in range(5):
        rungs, seconds = ladder(seed)
        runs.append(
            dict(
                seed=seed,
                accuracy={name: round(value, 4) for name, value in rungs.items()},
                seconds=seconds,
            )
        )
        print(runs[-1], flush=True)
    names = list(runs[0]["accuracy"])
    accuracy = {name: [run["accuracy"][name] for run in runs] for name in names}
    gaps = {
        f"{a}-{b}": min(y - x for x, y in zip(accuracy[a], accuracy[b], strict=True))
        for a, b in pairwise(names)
    }
    report = dict(
        command="python -m scripts.ladder",
        cpu_count=os.cpu_count(),
        torch=torch.__version__,
        python=platform.python_version(),
        mean={n: round(statistics.mean(a), 4) for n, a in accuracy.items()},
        smallest_step={name: round(step, 4) for name, step in gaps.items()},
        runs=runs,
    )
    partial = RESULTS.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=1) + "\n")
    partial.replace(RESULTS)
    print(report["mean"], report["smallest_step"])


if __name__ == "__main__":
    main()
