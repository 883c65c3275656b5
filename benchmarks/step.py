"""One training step of SimCLR, from pictures to new weights: the package's engine against lightly's recipe.

Run: python benchmarks/step.py      (three minutes; writes benchmarks/results/step.json)
Both get the same pictures in memory, networks, batch and two threads, and no compiler. lightly's side is written as its
public CIFAR-10 benchmark is: SimCLRTransform on PIL pictures in a DataLoader (0, 1 or 2 worker processes, beside the
two threads), one forward pass a view, NTXentLoss, SGD. In its favor: pictures are decoded beforehand, none is
normalized, the projector lacks the last batch normalization of its SimCLRProjectionHead, and the network is in the
memory format that suits it. A turn starts its loader anew, lets it run ahead, and only then takes the time. Exits with
an error unless the same views give both the same loss and new weights (lightly's with both views in one forward pass),
and the views have the same mean and standard deviation.
"""

import argparse
import json
import sys
import time
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from shared import RESULTS, against, record, take_turns
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_pil_image

from replearn import data
from replearn.pretrain import LIGHTLY
from replearn.pretrain import step as engine

try:
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform
except ImportError as error:
    sys.exit(f"step.py: expected lightly, the peer, found {error}; run pip install lightly")

OURS, BOTH, LR = "replearn", "lightly, both views in one pass", 0.06
NETWORKS = {"resnet18": 8, "small_cnn": 32}
TRANSFORM = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0, normalize=None)


class Pictures(torch.utils.data.Dataset):
    """PIL pictures in memory; an item is two views."""

    def __init__(self, images):
        self.pictures = [to_pil_image(image) for image in images]

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, i):
        return TRANSFORM(self.pictures[i])


def load(dataset, batch_size, workers, persistent=False):
    """The DataLoader of lightly's recipe."""
    return DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=persistent,
    )


def forever(loader):
    """Batches, epoch after epoch."""
    while True:
        yield from loader


def views_of(recipe, images):
    """Our batches of views, epoch after epoch."""
    batches = engine.Batches(images, recipe.batch_size, recipe.seed)
    for step in range(10**9):
        yield engine.make_views(recipe, batches.at(step))


def lightly_side(recipe, run):
    """lightly's step on views, the same with both views in one forward pass, as ours, and its copy of our network.

    In lightly's own step batch normalization sees one view at a time."""
    net = deepcopy(run.online)
    optimizer, find = (
        torch.optim.SGD(net.parameters(), LR, momentum=0.9, weight_decay=5e-4),
        NTXentLoss(),
    )

    def learn(loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    one_by_one = lambda views: learn(find(net(views[0]), net(views[1])))
    together = lambda views: learn(find(*net(torch.cat(list(views))).chunk(2)))
    return one_by_one, together, net


def check(recipe, images):
    """Exit unless both sides do the same; return how near they are."""
    views, run = engine.make_views(recipe, images[:256]), engine.begin(recipe, images)
    _, together, net = lightly_side(recipe, run)
    losses = [float(engine.update(run, views, LR)), float(together(views))]
    apart = max(
        float((a - b).detach().abs().max())
        for a, b in zip(run.online.parameters(), net.parameters(), strict=True)
    )
    theirs = [
        torch.stack(v)
        for v in zip(*map(Pictures(images).__getitem__, range(len(images))), strict=True)
    ]
    about = [
        [float(f(torch.cat(list(v)))) for f in (torch.mean, torch.std)]
        for v in (engine.make_views(recipe, images), theirs)
    ]
    found = dict(loss=losses, weights_differ_by=apart, mean_and_std_of_views=about)
    if (
        abs(losses[0] - losses[1]) > 1e-5
        or apart > 1e-5
        or max(abs(a - b) for a, b in zip(*about, strict=True)) > 0.02
    ):
        sys.exit(
            f"{recipe.network}: expected one loss, one new network, views of one mean and std, found {found}"
        )
    return found


def segments(makers, count, turns):
    """Seconds a step of {name: (workers, function that starts batches, step)}, by turns."""
    seconds = {name: [] for name in makers}
    for turn in range(turns + 1):  # a first turn of one step warms up
        for name, (workers, start, step) in makers.items():
            batches = start()
            for _ in range(
                2 * workers + 1 if turn else 0
            ):  # what the workers have made ahead of the first step
                step(next(batches))
            began = time.perf_counter()
            for _ in range(count if turn else 1):
                step(next(batches))
            seconds[name] += [(time.perf_counter() - began) / count] * (turn > 0)
            del batches  # its workers end with it: none works in another's turn
    return seconds


def parts(recipe, images, pictures, count, turns):
    """Time a step, its views alone and the rest alone at one batch size: {part: {name: row}}."""
    print(f"{recipe.network}, batch of {recipe.batch_size}", file=sys.stderr)
    run = engine.begin(recipe, images)
    theirs, together, _ = lightly_side(recipe, run)
    ours, start = partial(engine.update, run, lr=LR), partial(views_of, recipe, images)
    loaders = {
        label(n): (n, partial(forever, load(pictures, recipe.batch_size, n))) for n in (0, 1, 2)
    }
    fixed = next(start())
    calls = {
        OURS: partial(ours, fixed),
        "lightly": partial(theirs, fixed),
        BOTH: partial(together, fixed),
    }
    seconds = {
        "whole": segments(
            {OURS: (0, start, ours)} | {k: (*v, theirs) for k, v in loaders.items()}, count, turns
        ),
        "all but the views": take_turns(calls, turns, least=0.1),
    }
    if recipe.network == "small_cnn":  # no network takes part: once is enough
        views = {OURS: (0, start, len)} | {name: (*loader, len) for name, loader in loaders.items()}
        seconds["its views alone"] = segments(views, count, turns)
    rows = {part: against(found, OURS) for part, found in seconds.items()}
    return {
        part: {k: dict(at=recipe.batch_size, **row) for k, row in these.items()}
        for part, these in rows.items()
    }


def label(workers):
    """The name of lightly's side with so many workers."""
    return f"lightly, {workers} worker{'s' * (workers != 1)}"


def main():
    """Run the benchmark, print and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=(32, 64, 128))
    parser.add_argument(
        "--network", choices=NETWORKS, help="measure one; the other's panels stay in the file"
    )
    parser.add_argument("--count", type=int, default=2, help="steps in a turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "step.json")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    images = data.load("shapes", size=2048).images
    pictures, before = (
        Pictures(images),
        json.loads(a.out.read_text()) if a.network and a.out.exists() else {},
    )
    kept, checks = (
        [p for p in before.get("panels", ()) if p["about"] != a.network],
        before.get("checks", {}),
    )
    for network in [a.network] if a.network else NETWORKS:
        recipe = replace(LIGHTLY, network=network, width=NETWORKS[network], lr=LR)
        checks[network], found = check(recipe, images), []
        for batch_size in a.sizes:  # the file grows with each, for the whole takes long
            found.append(
                parts(replace(recipe, batch_size=batch_size), images, pictures, a.count, a.turns)
            )
            panels = kept + [
                dict(
                    title=f"Training step, {network} of width {recipe.width}, {part}",
                    about=network,
                    size="pictures in the batch",
                    unit="seconds a step",
                    ours=OURS,
                    turns=a.turns,
                    curves={k: [rows[part][k] for rows in found] for k in names},
                )
                for part, names in found[0].items()
            ]
            record(
                "step",
                "How long is a training step, pictures to new weights, beside lightly's recipe?",
                panels,
                (),
                ("torchvision", "lightly", "pillow"),
                a.out,
                checks=checks,
            )
        kept = panels


if __name__ == "__main__":
    main()
