"""SimCLR's views of 32 x 32 pictures: the package's batched augmentation against lightly, torchvision and kornia.

Run: python benchmarks/augment.py      (two minutes; writes benchmarks/results/augment.json)
Everyone makes two views of the same pictures by the same recipe (crop 0.2 to 1, flip 0.5, jitter 0.4 0.4 0.4 0.1 with
probability 0.8, gray 0.2, blur 0.5), as float32; all take turns in one process. lightly and torchvision go picture by
picture, so a few sizes are enough for them; torchvision and kornia are in the curves in their fastest forms, tested
first (`forms_s`). The compiled variant (benchmarks/fused_views.py) is not part of the package. What a peer does
otherwise, `peers_differ` says. Before anything is timed, our arithmetic is compared with torchvision's at equal
parameters, and the compiled variant with ours at equal seeds (`largest_differences`): an error above 1e-5.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from pathlib import Path

import fused_views
import torch
from shared import RESULTS, against, goal, peak_mb, record, take_turns
from torchvision import transforms as v1
from torchvision.transforms import v2

from replearn import augment

OURS, COMPILED, KORNIA, LIGHTLY = (
    "replearn",
    "replearn, compiled (not in the package)",
    "kornia",
    "lightly",
)
ONE = ", one by one"
AT_ONCE, ONE_BY_ONE = (32, 64, 128, 256, 1024), (32, 256)
PEERS_DIFFER = {
    LIGHTLY: "PIL pictures of 8 bits, antialiased; Pillow's Gaussian, which is made of boxes and wider than 3 x 3.",
    "torchvision": "The same recipe; on PIL pictures every step rounds to 8 bits. Antialiased.",
    KORNIA: "same_on_batch=False, but the order of the adjustments is drawn once a batch, not for each picture. Its "
    "crop is not antialiased: at 32 x 32, where a crop only enlarges, the same. align_corners=False: with "
    "'slice' torchvision's grid, with 'resample' a slightly other one. Input is float32 already.",
    COMPILED: "The same draws and pictures as replearn's.",
}


def recipe(module, *last):
    """torchvision's pipeline for one picture; module: v1 or v2."""
    return module.Compose(
        [
            module.RandomResizedCrop(32, scale=(0.2, 1.0), antialias=True),
            module.RandomHorizontalFlip(),
            module.RandomApply([module.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            module.RandomGrayscale(0.2),
            module.RandomApply([module.GaussianBlur(3, (0.1, 2.0))], p=0.5),
            *last,
        ]
    )


def torchvision_views(images, version, kind):
    """Return a call that makes two views of each picture; kind: what it starts from."""
    module, last = dict(v1=v1, v2=v2)[version], []
    if kind == "PIL":
        last = (
            [v1.ToTensor()]
            if version == "v1"
            else [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
        )
    elif kind == "uint8":
        last = [
            v1.ConvertImageDtype(torch.float32)
            if version == "v1"
            else v2.ToDtype(torch.float32, scale=True)
        ]
    transform, pictures = (
        recipe(module, *last),
        list(images.float() / 255 if kind == "float32" else images),
    )
    pictures = (
        [v1.functional.to_pil_image(picture) for picture in pictures] if kind == "PIL" else pictures
    )
    return lambda: [torch.stack([transform(picture) for picture in pictures]) for _ in range(2)]


def lightly_views(images):
    from lightly.transforms import SimCLRTransform

    pictures = [v1.functional.to_pil_image(image) for image in images]
    transform = SimCLRTransform(
        input_size=32, cj_strength=0.5, min_scale=0.2, gaussian_blur=0.5, normalize=None
    )
    return lambda: [torch.stack(views) for views in zip(*map(transform, pictures), strict=True)]


def kornia_views(images, mode):
    import kornia.augmentation as kornia

    transform = kornia.AugmentationSequential(
        kornia.RandomResizedCrop(
            (32, 32), scale=(0.2, 1.0), align_corners=False, cropping_mode=mode
        ),
        kornia.RandomHorizontalFlip(),
        kornia.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        kornia.RandomGrayscale(p=0.2),
        kornia.RandomGaussianBlur((3, 3), (0.1, 2.0), p=0.5),
        same_on_batch=False,
    )
    floats = images.float() / 255
    return lambda: [transform(floats) for _ in range(2)]


def differences(images):
    """Return the largest absolute differences: ours from torchvision's at equal parameters, compiled from ours."""
    functional, x, factor = v1.functional, images.float() / 255, torch.rand(len(images)) * 0.8 + 0.6
    each = lambda f, *p: torch.stack(
        [f(a, *(b.item() for b in q)) for a, *q in zip(x, *p, strict=True)]
    )
    away = lambda a, b: (a - b).abs().max().item()
    found = {
        f"{name}, ours from torchvision": away(
            getattr(augment, f"adjust_{name}")(x, p), each(getattr(functional, f"adjust_{name}"), p)
        )
        for name, p in (
            ("brightness", factor),
            ("contrast", factor),
            ("saturation", factor),
            ("hue", (factor - 1) / 4),
        )
    }
    boxes = torch.tensor(
        [v1.RandomResizedCrop.get_params(a, (0.2, 1.0), (3 / 4, 4 / 3)) for a in x]
    )
    cut = lambda a, *box: functional.resized_crop(a, *box, (32, 32), antialias=True)
    found["crop, ours from torchvision"] = away(augment.resized_crop(x, boxes), each(cut, *boxes.T))
    blurred = torch.stack([functional.gaussian_blur(a, 3, 0.8) for a in x])
    found["blur, ours from torchvision"] = away(augment.gaussian_blur(x, p=1, sigma=0.8), blurred)
    exact, compiled = (
        views(images, blur=0.5, generator=torch.Generator().manual_seed(0))
        for views in (augment.two_views, fused_views.two_views)
    )
    found["two views, compiled from ours"] = max(map(away, exact, compiled))
    return found


def panel(threads, turns, sizes, peers, images):
    """Time everyone at every size."""
    torch.set_num_threads(threads)
    curves = {}
    for n in sizes:
        x = images[:n]
        calls = {
            OURS: lambda x=x: augment.two_views(x, blur=0.5),
            COMPILED: lambda x=x: fused_views.two_views(x),
        }
        calls |= {
            name: make(x) for name, make in peers.items() if n in ONE_BY_ONE or ONE not in name
        }
        for name, row in against(take_turns(calls, turns), OURS).items():
            curves.setdefault(name, []).append(dict(at=n, **row, memory_mb=peak_mb(calls[name])))
    return dict(
        title=f"Two views of every picture, 32 x 32, {threads} thread{'s' * (threads > 1)}",
        size="pictures in a batch",
        unit="seconds a call",
        ours=OURS,
        curves=curves,
    )


def peer_forms():
    """Return the forms of every peer that is installed: {peer: {form: function of images that returns a call}}."""
    forms = {LIGHTLY: {LIGHTLY: lightly_views}} | {
        KORNIA: {
            f"{KORNIA}, {mode}": lambda x, mode=mode: kornia_views(x, mode)
            for mode in ("slice", "resample")
        }
    }
    for peer in list(forms):
        if importlib.util.find_spec(peer) is None:
            print(f"left out: {peer} is not installed", file=sys.stderr)
            del forms[peer]
    for version in ("v1", "v2"):
        forms[f"torchvision {version}"] = {
            f"torchvision {version}, {kind}": lambda x, v=version, kind=kind: torchvision_views(
                x, v, kind
            )
            for kind in ("PIL", "uint8", "float32")
        }
    return forms


def fastest(forms, images):
    """Return every peer's fastest form and what all took."""
    found, seconds = {}, {}
    for peer, makers in forms.items():
        calls = {name: make(images) for name, make in makers.items()}
        took = (
            {name: statistics.median(s) for name, s in take_turns(calls, 3).items()}
            if len(calls) > 1
            else {}
        )
        best = min(took, key=took.get, default=peer)
        found[best + ONE * (peer != KORNIA)], seconds = makers[best], seconds | took
    return found, seconds


def compile_seconds(images):
    """Seconds of the first call: compiling, or loading what an earlier process compiled."""
    start = time.perf_counter()
    fused_views.two_views(images)
    return time.perf_counter() - start


def goals(panels):
    """The numbers to reach at batch 256, where they were measured."""

    def at(panel, peer):
        rows = [
            row for name, rows in panel["curves"].items() if name.startswith(peer) for row in rows
        ]
        return next((row for row in rows if row["at"] == 256), None)

    by_threads = {p["title"].rsplit(", ")[-1]: p for p in panels}
    wanted = [
        ("1 thread", OURS, LIGHTLY, 8),
        ("1 thread", OURS, KORNIA, 1.8),
        ("2 threads", COMPILED, KORNIA, 4),
    ]
    for threads, mine, peer, least in wanted:
        rows = (
            [at(by_threads[threads], name) for name in (mine, peer)]
            if threads in by_threads
            else [None]
        )
        if all(rows):
            yield goal(
                f"times as fast as {peer}: {mine}, {threads}, 256 pictures",
                least,
                rows[1]["times"] / rows[0]["times"],
                why_missed(at, by_threads[threads]) * (peer == LIGHTLY),
            )


def why_missed(at, panel):
    """Why lightly is hard to beat by more: what it does is cheaper than what torchvision and we do."""
    others = [
        row["times"]
        for name in panel["curves"]
        if name.startswith("torchvision") and (row := at(panel, name))
    ]
    why = "lightly's pictures are rounded to 8 bits after every step and blurred by boxes, which is cheaper"
    return f"{why}; torchvision's fastest form takes {min(others):.1f} times as long as ours in the same run"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--sizes", type=int, nargs="+", default=AT_ONCE)
    parser.add_argument("--out", type=Path, default=RESULTS / "augment.json")
    a = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images = torch.randint(256, (max(a.sizes), 3, 32, 32), dtype=torch.uint8)
    seconds_to_compile = compile_seconds(images[:32])
    found = differences(images[:64])
    peers, seconds = fastest(peer_forms(), images[:128])
    panels = [panel(threads, a.turns, a.sizes, peers, images) for threads in a.threads]
    packages = [
        "torchvision",
        "pillow",
        *(peer for peer in (LIGHTLY, KORNIA) if importlib.util.find_spec(peer)),
    ]
    record(
        "augment",
        "How long do two SimCLR views of a batch of pictures take?",
        panels,
        list(goals(panels)),
        packages,
        a.out,
        peers_differ=PEERS_DIFFER,
        largest_differences=found,
        forms_s=seconds,
        first_compiled_call_s=seconds_to_compile,
    )
    if max(found.values()) > 1e-5:
        sys.exit(f"expected differences of at most 1e-5, found {found}")


if __name__ == "__main__":
    main()
