"""One training step of SimCLR, from images to new weights: the package's engine against lightly.

Run: python benchmarks/step.py      (three minutes; writes benchmarks/results/step.json)
Both get the same images in memory, networks, batch and two threads, and no compiler. lightly's side
is written as its public CIFAR-10 benchmark is: SimCLRTransform on PIL images in a DataLoader (0, 1
or 2 worker processes, beside the two threads), one forward pass a view, NTXentLoss, SGD. In its
favor: images are decoded beforehand, none is normalized, the projector lacks the last batch
normalization of its SimCLRProjectionHead, and the network is in the memory format that suits it. A
turn starts its loader anew, lets it run ahead, and only then takes the time. Exits with an error
unless the same views give both the same loss and new weights (lightly's with both views in one
forward pass), and the views have the same mean and standard deviation.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from shared import RESULTS, against, options, record, take_turns
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image

from replearn import data
from replearn.pretrain import LIGHTLY, Recipe
from replearn.pretrain import step as engine

try:
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform
except ImportError as error:
    sys.exit(f"step.py: expected lightly, the peer, found {error}; run pip install lightly")

OURS = "replearn"
THEIRS = "lightly"
TOGETHER = "lightly, both views in one pass"
LR = 0.06
WIDTHS = {"resnet18": 8, "small_cnn": 32}  # by network
SIZES = (32, 64, 128)
TRANSFORM = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0, normalize=None)

Views = list[torch.Tensor]  # two, (B, 3, 32, 32) each
Step = Callable[[Views], Any]  # trains on views


# --- batches of views
# ------------------------------------------------------------------------------


class PILImages(Dataset):
    """PIL images in memory; an item is two views."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = [to_pil_image(image) for image in images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Views:
        return TRANSFORM(self.images[i])


def loader_of(
    dataset: Dataset, batch_size: int, workers: int, persistent: bool = False
) -> DataLoader:
    """Return the DataLoader of lightly's recipe."""
    return DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=persistent,
    )


def label(workers: int) -> str:
    """Return the name of lightly's side with so many workers."""
    plural = "" if workers == 1 else "s"
    return f"lightly, {workers} worker{plural}"


def epoch_after_epoch(loader: DataLoader) -> Iterator[Views]:
    """Yield a loader's batches without an end."""
    while True:
        yield from loader


def views_of(recipe: Recipe, images: torch.Tensor) -> Iterator[Views]:
    """Yield our batches of views without an end."""
    batches = engine.Batches(images, recipe.batch_size, recipe.seed)
    for step in itertools.count():
        yield engine.make_views(recipe, batches.at(step))


# --- lightly's step
# --------------------------------------------------------------------------------


class LightlySide:
    """lightly's step on views, with a copy of our network."""

    def __init__(self, run: engine.Run) -> None:
        self.net = deepcopy(run.online)
        self.optimizer = torch.optim.SGD(self.net.parameters(), LR, momentum=0.9, weight_decay=5e-4)
        self.criterion = NTXentLoss()

    def step(self, views: Views) -> torch.Tensor:
        """One forward pass a view, so that batch normalization sees one view at a time."""
        return self._learn(self.net(views[0]), self.net(views[1]))

    def step_together(self, views: Views) -> torch.Tensor:
        """Both views in one forward pass, as ours."""
        z1, z2 = self.net(torch.cat(list(views))).chunk(2)
        return self._learn(z1, z2)

    def _learn(self, z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
        loss = self.criterion(z1, z2)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


# --- right before fast
# -----------------------------------------------------------------------------


def mean_and_std(views: Iterable[torch.Tensor]) -> list[float]:
    """Return mean and standard deviation of all pixels of views."""
    pixels = torch.cat(list(views))
    return [float(pixels.mean()), float(pixels.std())]


def weights_of(net: torch.nn.Module) -> torch.Tensor:
    """Return all parameters as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def check(recipe: Recipe, images: torch.Tensor) -> dict[str, Any]:
    """Return how near both sides are; exit unless they do the same."""
    views = engine.make_views(recipe, images[:256])
    run = engine.new_run(recipe, images)
    lightly = LightlySide(run)
    losses = [float(engine.update(run, views, LR)), float(lightly.step_together(views))]
    weights_differ_by = float((weights_of(run.online) - weights_of(lightly.net)).abs().max())

    ours = mean_and_std(engine.make_views(recipe, images))
    dataset = PILImages(images)
    theirs = mean_and_std(torch.stack(dataset[i]) for i in range(len(dataset)))
    nearness = {
        "loss": losses,
        "weights_differ_by": weights_differ_by,
        "mean_and_std_of_views": [ours, theirs],
    }
    same_loss = abs(losses[0] - losses[1]) <= 1e-5
    same_weights = weights_differ_by <= 1e-5
    same_views = abs(ours[0] - theirs[0]) <= 0.02 and abs(ours[1] - theirs[1]) <= 0.02
    if not (same_loss and same_weights and same_views):
        expected = "one loss, one new network, views of one mean and std"
        sys.exit(f"{recipe.network}: expected {expected}, found {nearness}")
    return nearness


# --- the measurement
# -------------------------------------------------------------------------------


class Contestant(NamedTuple):
    """A way to train."""

    workers: int  # that make views
    start: Callable[[], Iterator[Views]]  # starts batches of views
    step: Step


def seconds_by_turns(
    contestants: Mapping[str, Contestant], count: int, turns: int
) -> dict[str, list[float]]:
    """Return the seconds a step, one number a turn; `count`: steps in a turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for contestant in contestants.values():
        seconds_a_step(contestant, count=1, ahead=0)  # warms up
    for _ in range(turns):
        for name, contestant in contestants.items():
            # What the workers have made ahead of the first step is used up before.
            ahead = 2 * contestant.workers + 1
            seconds[name].append(seconds_a_step(contestant, count, ahead))
    return seconds


def seconds_a_step(contestant: Contestant, count: int, ahead: int) -> float:
    """Start batches, make `ahead` steps, then return the seconds a step of `count` more.

    The workers end with the batches: none works in another's turn.
    """
    batches = contestant.start()
    for _ in range(ahead):
        contestant.step(next(batches))
    began = time.perf_counter()
    for _ in range(count):
        contestant.step(next(batches))
    return (time.perf_counter() - began) / count


def measure(
    recipe: Recipe, images: torch.Tensor, dataset: PILImages, count: int, turns: int
) -> dict[str, dict[str, dict]]:
    """Time a step, its views alone and the rest alone at one batch size: `{part: {name: row}}`."""
    print(f"{recipe.network}, batch of {recipe.batch_size}", file=sys.stderr)
    run = engine.new_run(recipe, images)
    lightly = LightlySide(run)
    our_step = partial(engine.update, run, lr=LR)
    our_start = partial(views_of, recipe, images)
    their_starts = {}
    for workers in (0, 1, 2):
        loader = loader_of(dataset, recipe.batch_size, workers)
        their_starts[workers] = partial(epoch_after_epoch, loader)

    def contestants(our_step: Step, their_step: Step) -> dict[str, Contestant]:
        sides = {OURS: Contestant(0, our_start, our_step)}
        for workers, start in their_starts.items():
            sides[label(workers)] = Contestant(workers, start, their_step)
        return sides

    seconds = {"whole": seconds_by_turns(contestants(our_step, lightly.step), count, turns)}
    views = next(our_start())
    calls = {
        OURS: partial(our_step, views),
        THEIRS: partial(lightly.step, views),
        TOGETHER: partial(lightly.step_together, views),
    }
    seconds["all but the views"] = take_turns(calls, turns, least=0.1)
    if recipe.network == "small_cnn":  # no network takes part: once is enough
        seconds["its views alone"] = seconds_by_turns(contestants(len, len), count, turns)

    rows: dict[str, dict[str, dict]] = {}
    for part, seconds_of_part in seconds.items():
        rows[part] = {}
        for name, row in against(seconds_of_part, OURS).items():
            rows[part][name] = {"at": recipe.batch_size, **row}
    return rows


def panels_of(
    recipe: Recipe, measured: list[dict[str, dict[str, dict]]], turns: int
) -> list[dict[str, Any]]:
    """Return a panel for each part of a step; `measured`: what `measure` returned at each size."""
    panels = []
    for part, row_of in measured[0].items():
        title = f"Training step, {recipe.network} of width {recipe.width}, {part}"
        panels.append(
            {
                "title": title,
                "about": recipe.network,
                "size": "pictures in the batch",
                "unit": "seconds a step",
                "ours": OURS,
                "turns": turns,
                "curves": {name: [rows[part][name] for rows in measured] for name in row_of},
            }
        )
    return panels


def stored_without(network: str | None, path: Path) -> tuple[list[dict], dict]:
    """Return the panels of other networks and the checks of an earlier run.

    Nothing is kept when all networks are measured.
    """
    if network is None or not path.exists():
        return [], {}
    stored = json.loads(path.read_text("utf-8"))
    panels = [panel for panel in stored["panels"] if panel["about"] != network]
    return panels, stored["checks"]


def main() -> None:
    """Run the benchmark, print and write the result."""
    parser = options(__doc__, turns=2, threads=2, sizes=SIZES)
    parser.add_argument(
        "--network", choices=WIDTHS, help="measure one; the other's panels stay in the file"
    )
    parser.add_argument("--count", type=int, default=2, help="steps in a turn")
    args = parser.parse_args()
    path = args.out or RESULTS / "step.json"
    torch.set_num_threads(args.threads)
    images = data.load("shapes", size=2048).images
    dataset = PILImages(images)
    finished, checks = stored_without(args.network, path)
    for network in [args.network] if args.network else WIDTHS:
        recipe = replace(LIGHTLY, network=network, width=WIDTHS[network], lr=LR)
        checks[network] = check(recipe, images)
        measured = []
        for batch_size in args.sizes:
            sized = replace(recipe, batch_size=batch_size)
            measured.append(measure(sized, images, dataset, args.count, args.turns))
            panels = panels_of(recipe, measured, args.turns)
            # The file grows with each size, for the whole takes long.
            record(
                "step",
                "How long is a training step, pictures to new weights, beside lightly's recipe?",
                finished + panels,
                packages=("torchvision", "lightly", "pillow"),
                path=path,
                checks=checks,
            )
        finished += panels


if __name__ == "__main__":
    main()
