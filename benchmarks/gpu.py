"""Peers on one GPU: views, a training step, NT-Xent, CKA and a linear probe.

Run: python benchmarks/gpu.py          (writes benchmarks/results/gpu.json)
     python benchmarks/gpu.py --dry    (seconds, tiny sizes, on a CPU if need be: nothing to quote)
All contestants of a panel take turns on the same card and the same input, and a turn ends when the
card has done its work. A peer that is not installed is named and left out. What a peer does
otherwise, `peers_differ` says. lightly's step is its public CIFAR-10 recipe: PIL images through a
DataLoader with as many workers as the machine has cores, one forward pass a view, bfloat16 or
float16 as ours. Before a step is timed, both get the same views and have to agree on the loss.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from augment import kornia_views
from shared import RESULTS, against, options, record, take_turns

from replearn import augment, losses, metrics, probe
from replearn.pretrain import LIGHTLY, Recipe
from replearn.pretrain import step as engine

OURS = "replearn"
PEERS_DIFFER = {
    "kornia": (
        "same_on_batch=False, but the order of the adjustments is drawn once a batch. Its crop is "
        "not antialiased: at 32 x 32, where a crop only enlarges, the same."
    ),
    "torchvision v2": (
        "One draw for the whole batch, so that all pictures are cropped and colored alike: what it "
        "offers on a device, and not the same task."
    ),
    "lightly": "Views on the CPU, in worker processes; one forward pass a view.",
    "ckatorch": "In float64, over pairs of samples.",
    "cuML": "L-BFGS without our change of coordinates.",
}

Call = Callable[[], Any]
Panel = dict[str, Any]


def is_installed(package: str) -> bool:
    """Return whether a package is installed, and say so if it is not."""
    if importlib.util.find_spec(package) is not None:
        return True
    print(f"left out: {package} is not installed", flush=True)
    return False


def timed(calls: Mapping[str, Call], device: torch.device, turns: int) -> dict[str, list[float]]:
    """Time calls by turns; each turn ends when the device is done."""

    def finished(call: Call) -> Call:
        def call_and_wait() -> None:
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return call_and_wait

    return take_turns({name: finished(call) for name, call in calls.items()}, turns)


def panel(
    title: str,
    size: str,
    calls_at: Mapping[int, Mapping[str, Call]],
    device: torch.device,
    turns: int,
) -> Panel:
    """Time the contestants at each size; return a panel of the record."""
    curves: dict[str, list[dict]] = {}
    for at, calls in calls_at.items():
        for name, row in against(timed(calls, device, turns), OURS).items():
            curves.setdefault(name, []).append({"at": at, **row})
    return {"title": title, "size": size, "unit": "seconds a call", "ours": OURS, "curves": curves}


# --- views ---


def torchvision_views(images: torch.Tensor) -> Call:
    """Return a call that makes two views with torchvision's second version, a batch at once."""
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomResizedCrop(32, scale=(0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(3, (0.1, 2.0))], p=0.5),
        ]
    )
    floats = images.float() / 255
    return lambda: [transform(floats), transform(floats)]


def views_panel(device: torch.device, dry: bool, turns: int) -> Panel:
    """Two views of every picture."""
    calls_at = {}
    for n in (8, 16) if dry else (128, 256, 2048):
        images = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8).to(device)
        calls: dict[str, Call] = {OURS: lambda x=images: augment.two_views(x, blur=0.5)}
        calls["torchvision v2"] = torchvision_views(images)
        if is_installed("kornia"):
            calls["kornia"] = kornia_views("resample", images)
        calls_at[n] = calls
    return panel("Two views of every picture, on the GPU", "pictures", calls_at, device, turns)


# --- a step ---


class LightlySide:
    """lightly's step, with a copy of our network, on our device."""

    def __init__(self, run: engine.Run) -> None:
        from lightly.loss import NTXentLoss

        self.run = run
        self.net = deepcopy(run.online)
        self.optimizer = torch.optim.SGD(self.net.parameters(), 1e-6, momentum=0.9)
        self.scaler = torch.amp.GradScaler(run.device.type, enabled=run.dtype == torch.float16)
        self.criterion = NTXentLoss()

    def loss(self, views: list[torch.Tensor]) -> torch.Tensor:
        """One forward pass a view."""
        with self.run.autocast():
            z1, z2 = (self.net(view) for view in views)
        return self.criterion(z1.float(), z2.float())

    def step(self, views: list[torch.Tensor]) -> None:
        """Train on a batch from the loader."""
        device = self.run.device
        views = [view.to(device, non_blocking=True) for view in views]
        self.optimizer.zero_grad()
        self.scaler.scale(self.loss(views)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()


def lightly_batches(images: torch.Tensor, batch_size: int) -> Iterator[list[torch.Tensor]]:
    """Yield lightly's views without an end, from as many workers as there are cores."""
    from lightly.transforms import SimCLRTransform
    from torch.utils.data import DataLoader
    from torchvision.transforms.functional import to_pil_image

    transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0, normalize=None)
    pictures = [to_pil_image(image) for image in images.cpu()]
    loader = DataLoader(
        pictures,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=os.cpu_count() or 1,
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
        collate_fn=_Views(transform),
    )
    while True:
        yield from loader


class _Views:
    """Makes the two batches of views of some pictures; a class, so that workers can get it."""

    def __init__(self, transform: Callable) -> None:
        self.transform = transform

    def __call__(self, pictures: list) -> list[torch.Tensor]:
        pairs = [self.transform(picture) for picture in pictures]
        return [torch.stack(views) for views in zip(*pairs, strict=True)]


def step_panel(device: torch.device, dry: bool, turns: int) -> Panel:
    """Pictures to new weights, some steps at a time."""
    recipe: Recipe = replace(LIGHTLY, lr=1e-6)
    steps = 64
    if dry:
        recipe = replace(recipe, network="small_cnn", width=2, hidden=8, out=8, batch_size=8)
        steps = 2
    images = torch.randint(256, (16 * recipe.batch_size, 3, 32, 32), dtype=torch.uint8).to(device)
    run = engine.new_run(recipe, images)
    run.steps = 10**9

    def ours() -> None:
        for _ in range(steps):
            engine.train_step(run)

    calls: dict[str, Call] = {OURS: ours}
    if is_installed("lightly"):
        side = LightlySide(run)
        check_loss(run, side)
        batches = lightly_batches(images, recipe.batch_size)

        def theirs() -> None:
            for _ in range(steps):
                side.step(next(batches))

        calls["lightly"] = theirs
    made = panel(
        f"{steps} training steps, {recipe.network} of width {recipe.width}",
        "pictures in a batch",
        {recipe.batch_size: calls},
        device,
        turns,
    )
    made["why_eager"] = engine.why_eager(run)
    views = 2 * recipe.batch_size * steps
    for rows in made["curves"].values():
        rows[0]["views_a_second"] = views / rows[0]["median_s"]
    return made


def check_loss(run: engine.Run, side: LightlySide) -> None:
    """Exit unless the same views give the same loss, up to half precision."""
    views = engine.make_views(run.recipe, run.batches.at(0))
    with torch.no_grad(), run.autocast():
        z1, z2 = (side.net(view) for view in views)
    ours = losses.nt_xent(z1, z2, temperature=run.recipe.temperature).item()
    theirs = side.criterion(z1.float(), z2.float()).item()
    if abs(ours - theirs) > 0.01:
        sys.exit(f"step: expected one loss, found {ours} (replearn) and {theirs} (lightly)")


# --- losses and measures ---


def loss_panel(device: torch.device, dry: bool, turns: int) -> Panel:
    """NT-Xent, forward and backward."""

    def call_of(loss: Callable, z1: torch.Tensor, z2: torch.Tensor) -> Call:
        return lambda: torch.autograd.grad(loss(z1, z2), [z1, z2])

    calls_at = {}
    for n in (8, 16) if dry else (256, 1024, 4096):
        z1, z2 = torch.randn(2, n, 128, device=device).unbind(0)
        pair = (z1.clone().requires_grad_(), z2.clone().requires_grad_())
        calls = {OURS: call_of(losses.nt_xent, *pair)}
        if is_installed("lightly"):
            from lightly.loss import NTXentLoss

            calls["lightly"] = call_of(NTXentLoss(), *pair)
        if is_installed("pytorch_metric_learning"):
            from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

            theirs = SelfSupervisedLoss(NTXentLoss(temperature=0.5))
            calls["pytorch-metric-learning"] = call_of(theirs, *pair)
        calls_at[n] = calls
    return panel("NT-Xent, forward and backward, on the GPU", "pairs", calls_at, device, turns)


def cka_panel(device: torch.device, dry: bool, turns: int) -> Panel:
    """Linear CKA of two sets of features."""
    calls_at = {}
    for n in (32, 64) if dry else (1000, 5000, 10_000):
        x, y = torch.randn(2, n, 16 if dry else 512, device=device).unbind(0)
        calls: dict[str, Call] = {OURS: lambda x=x, y=y: metrics.linear_cka(x, y)}
        if n <= 5000 and is_installed("ckatorch"):
            from ckatorch.core import cka_base

            calls["ckatorch"] = lambda x=x, y=y: cka_base(
                x.double(), y.double(), kernel="linear", method="fro_norm"
            )
        calls_at[n] = calls
    return panel("Linear CKA, on the GPU", "pictures", calls_at, device, turns)


def probe_panel(device: torch.device, dry: bool, turns: int) -> Panel:
    """A linear probe on frozen features."""
    n = 60 if dry else 50_000
    y = torch.arange(n, device=device) % 10
    centers = torch.randn(10, 8 if dry else 512, device=device)
    z = centers[y] + 2 * torch.randn(n, centers.shape[1], device=device)
    calls: dict[str, Call] = {OURS: lambda: probe.LinearProbe().fit(z, y)}
    if is_installed("cuml"):
        from cuml.linear_model import LogisticRegression

        calls["cuML"] = lambda: LogisticRegression(C=1 / (n * 1e-3)).fit(z, y)
    return panel("Linear probe, on the GPU", "pictures", {n: calls}, device, turns)


PANELS = (views_panel, step_panel, loss_panel, cka_panel, probe_panel)


def main() -> None:
    """Run the benchmark and write the result."""
    parser = options(__doc__, turns=5, threads=os.cpu_count() or 1)
    parser.add_argument("--dry", action="store_true", help="tiny sizes, on a CPU if need be")
    args = parser.parse_args()
    if not torch.cuda.is_available() and not args.dry:
        sys.exit("gpu.py: expected a CUDA GPU, found none; --dry tries the script on a CPU")
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    turns = 1 if args.dry else args.turns
    path = args.out or RESULTS / ("gpu_dry.json" if args.dry else "gpu.json")
    panels: list[Panel] = []
    for make in PANELS:
        panels.append(make(device, args.dry, turns))
        # The file grows with each panel: a machine that is lent may be gone any moment.
        record(
            "gpu",
            "How fast are views, a step, a loss and measures on one GPU, beside others?",
            panels,
            path=Path(path),
            peers_differ=PEERS_DIFFER,
            device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            dry=args.dry,
        )


if __name__ == "__main__":
    main()
