"""SimCLR views: the package's batched augmentation against torchvision, one picture at a time, side by side.

Run: python benchmarks/augment.py      (about a minute; writes benchmarks/results/augment.json)
Every variant crops, flips, jitters, grays and blurs the same 256 pictures (32 x 32, blur probability 0.5) into float32
views; all take turns in one process, on one thread unless told otherwise. lightly and kornia join in where installed.
Exits with an error unless we make 8 times the views per second of the fastest torchvision variant.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from shared import cpu_model
from torchvision import transforms as v1
from torchvision.transforms import v2

from replearn.augment import two_views

RESULTS = Path(__file__).parent / "results" / "augment.json"


def per_sample(module, *last):
    """The usual pipeline of transforms, for one picture."""
    return module.Compose([
        module.RandomResizedCrop(32, scale=(0.2, 1.0), antialias=True), module.RandomHorizontalFlip(),
        module.RandomApply([module.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8), module.RandomGrayscale(0.2),
        module.RandomApply([module.GaussianBlur(3, (0.1, 2.0))], p=0.5), *last])


def peers(images):
    """Peers that are installed: name -> (function that makes views of all pictures, views of each picture)."""
    found = {}
    try:
        from lightly.transforms import SimCLRTransform

        pictures = [v1.functional.to_pil_image(image) for image in images]
        transform = SimCLRTransform(input_size=32, cj_strength=0.5, min_scale=0.2, gaussian_blur=0.5, normalize=None)
        both = lambda: [torch.stack(views) for views in zip(*map(transform, pictures), strict=True)]  # noqa: E731
        found["lightly SimCLRTransform, PIL"] = both, 2
    except ImportError:
        pass
    try:
        import kornia.augmentation as kornia

        transform = kornia.AugmentationSequential(
            kornia.RandomResizedCrop((32, 32), scale=(0.2, 1.0)), kornia.RandomHorizontalFlip(),
            kornia.ColorJiggle(0.4, 0.4, 0.4, 0.1, p=0.8), kornia.RandomGrayscale(p=0.2),
            kornia.RandomGaussianBlur((3, 3), (0.1, 2.0), p=0.5), same_on_batch=False)
        floats = images.float() / 255
        found["kornia, batched"] = lambda: transform(floats), 1
    except ImportError:
        pass
    return found


def contestants(images):
    """Name -> (function that makes views of all pictures, views of each picture); ours first."""
    pictures, tensors = [v1.functional.to_pil_image(image) for image in images], list(images)
    floats = list(images.float() / 255)
    to_float = v2.ToDtype(torch.float32, scale=True)
    variants = {
        "torchvision v1, PIL": (per_sample(v1, v1.ToTensor()), pictures),
        "torchvision v1, float tensors": (per_sample(v1), floats),
        "torchvision v1, uint8 tensors": (per_sample(v1, v1.ConvertImageDtype(torch.float32)), tensors),
        "torchvision v2, PIL": (per_sample(v2, v2.ToImage(), to_float), pictures),
        "torchvision v2, float tensors": (per_sample(v2), floats),
        "torchvision v2, uint8 tensors": (per_sample(v2, to_float), tensors),
    }
    each = {name: ((lambda f=f, xs=xs: torch.stack([f(x) for x in xs])), 1) for name, (f, xs) in variants.items()}
    return {"replearn two_views, uint8": (lambda: two_views(images, blur=0.5), 2), **each, **peers(images)}


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images = torch.randint(256, (options.batch, 3, 32, 32), dtype=torch.uint8)
    runs, seconds = contestants(images), {}
    for turn in range(options.rounds + 1):  # the first round warms up
        for name, (run, views) in runs.items():
            started = time.perf_counter()
            run()
            if turn:
                seconds.setdefault(name, []).append((time.perf_counter() - started) / views)
        print(f"\rround {turn} of {options.rounds}", end="", flush=True, file=sys.stderr)
    ours, *others = seconds
    fastest = min((n for n in others if n.startswith("torchvision")), key=lambda n: statistics.median(seconds[n]))
    rows = {}
    for name, times in seconds.items():
        ratios = sorted(theirs / mine for theirs, mine in zip(times, seconds[ours], strict=True))
        rows[name] = dict(
            views_per_second=round(options.batch / statistics.median(times)), median_ms=statistics.median(times) * 1e3,
            min_ms=min(times) * 1e3, max_ms=max(times) * 1e3, ours_is_faster=round(statistics.median(ratios), 2),
            fewest=round(ratios[0], 2), most=round(ratios[-1], 2))  # fmt: skip
    ratio = rows[fastest]["ours_is_faster"]
    record = dict(
        question="views per second of one process, 32 x 32 pictures", batch=options.batch, threads=options.threads,
        rounds=options.rounds, fastest_torchvision=fastest, ratio_to_fastest_torchvision=ratio, variants=rows,
        versions={p: v for p in ("torch", "torchvision", "pillow", "lightly", "kornia") if (v := version(p))},
        python=platform.python_version(), cpu=cpu_model(), cpus=os.cpu_count(),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        command=" ".join(["python", "benchmarks/augment.py", *sys.argv[1:]]))  # fmt: skip
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    part = RESULTS.with_suffix(".part")
    part.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(part, RESULTS)
    print(f"\n{'variant':32}{'views/s':>9}{'median ms':>11}{'min':>8}{'max':>8}{'ours is faster by':>20}")
    for name, row in rows.items():
        spread = f"{row['ours_is_faster']:.1f} ({row['fewest']:.1f}-{row['most']:.1f})"
        print(f"{name:32}{row['views_per_second']:9,}{row['median_ms']:11.1f}{row['min_ms']:8.1f}{row['max_ms']:8.1f}"
              f"{spread:>20}")  # fmt: skip
    if ratio < 8:
        sys.exit(f"expected 8 times the views per second of {fastest}, found {ratio}")


if __name__ == "__main__":
    main()
