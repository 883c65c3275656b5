"""Seconds an epoch takes on the machine at hand, the floor computed from operations and bytes, and the ratio.

Run: python -m scripts.t4_budget      (a minute; writes benchmarks/results/t4_budget_<device>_<network>.json)
On a GPU the recipe `course` with CIFAR-10's 50,000 pictures, on a CPU `shapes` with 10,000, on one thread; --recipe and
the fields --network, --width, --batch-size change that. The floor: every convolution and matrix product of a step,
backward included, at the larger of operations / peak and bytes / bandwidth, both peaks measured here (a large matrix
product, a large copy); augmentation, BatchNorm and optimizer count nothing. A second floor is a T4's by its data sheet,
65 Tflop/s in float16 and 320 GB/s. Beside the whole step, in turns: the same step on views made before, and with
torchvision's transforms (on PIL images, their quickest way), one picture after the other (--per-sample, meant for a
small network: --width 8). Exits with an error if the throughput is below 0.9 of the step on views made before, with
--per-sample instead if it is below 5 times that of the per-sample route.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from replearn.pretrain import NAMED
from replearn.pretrain import step as engine
from replearn.train import amp_dtype

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
T4 = dict(flops=65e12, bytes=320e9, size=2)


class Count(TorchDispatchMode):
    """Collects (operations, numbers read and written) of every convolution and matrix product."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if (rule := flop_registry.get(function.overloadpacket)) is not None:
            tensors = [
                x
                for x in (*args, *(out if isinstance(out, tuple | list) else (out,)))
                if isinstance(x, torch.Tensor)
            ]
            self.found.append(
                (rule(*args, **(kwargs or {}), out_val=out), sum(x.numel() for x in tensors))
            )
        return out


def wait(device):
    """Wait until the device has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function, device, repeats=5):
    """Return the least time of a few calls."""
    times = []
    for _ in range(repeats):
        wait(device)
        start = time.perf_counter()
        function()
        wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def peaks(device, dtype):
    """Measure operations a second in a large matrix product and bytes a second in a large copy."""
    n, big = (8192, 2**28) if device.type == "cuda" else (1024, 2**25)
    a, b = torch.randn((2, n, n), device=device, dtype=dtype)
    x = torch.zeros(big // 4, device=device)
    y = torch.empty_like(x)
    seconds(lambda: a @ b, device, 3)
    return dict(
        flops=2 * n**3 / seconds(lambda: a @ b, device, 10),
        size=a.element_size(),
        bytes=2 * big / seconds(lambda: y.copy_(x), device, 10),
    )


def floor(found, peak):
    """Return the seconds that one step takes at least."""
    return sum(
        max(flops / peak["flops"], numbers * peak["size"] / peak["bytes"])
        for flops, numbers in found
    )


def per_sample_views(recipe):
    """Return a function that makes two views with torchvision's transforms, one picture after the other."""
    from torchvision import transforms as v1

    transform = v1.Compose(
        [
            v1.ToPILImage(),
            v1.RandomResizedCrop(32, scale=recipe.crop or (1, 1)),
            v1.RandomHorizontalFlip(recipe.flip),
            v1.RandomApply([v1.ColorJitter(*recipe.jitter)], p=0.8),
            v1.RandomGrayscale(recipe.grayscale),
            v1.RandomApply([v1.GaussianBlur(3, (0.1, 2.0))], p=recipe.blur),
            v1.ToTensor(),
        ]
    )

    def views(pictures):
        device, pictures = pictures.device, pictures.cpu()
        return [
            torch.stack([transform(picture) for picture in pictures]).to(device) for _ in range(2)
        ]

    return views


def measure(recipe, device, rounds, per_sample, compile):
    """Return the median seconds of each variant of a step, by turns, and what `Count` found in one."""
    images = torch.randint(0, 256, (4 * recipe.batch_size, 3, 32, 32), dtype=torch.uint8).to(device)
    run = engine.new_run(recipe, images, compile=compile)
    fixed = engine.make_views(recipe, images[: recipe.batch_size])
    next_pictures = lambda: run.batches.at(run.step)
    views = {
        "whole": lambda: engine.make_views(recipe, next_pictures()),
        "views made before": lambda: fixed,
    }
    if per_sample:
        one_by_one = per_sample_views(recipe)
        views["per sample"] = lambda: one_by_one(next_pictures())
    with Count() as count:
        engine.update(run, fixed, 1e-6)
    times = {name: [] for name in views}
    for turn in range(rounds + 3):  # three to warm up
        for name, make in views.items():
            if turn or name != "per sample":
                taken = seconds(
                    lambda make=make: engine.update(run, make(), 1e-6), device, 1
                )
                times[name] += [taken] if turn >= 3 else []
            run.step += 1
    return {name: statistics.median(values) for name, values in times.items()}, count.found


def main():
    """Run the benchmark, print and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--recipe", choices=sorted(NAMED))
    parser.add_argument("--network")
    parser.add_argument("--width", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--pictures", type=int, help="in the set: 50,000 on a GPU, 10,000 on a CPU")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--per-sample", action="store_true")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device, 0) if args.device == "cuda" else torch.device(args.device)
    torch.backends.cudnn.benchmark = True
    changes = {
        name: getattr(args, name)
        for name in ("network", "width", "batch_size")
        if getattr(args, name)
    }
    recipe = replace(
        NAMED[args.recipe or ("course" if device.type == "cuda" else "shapes")], **changes
    )
    pictures = args.pictures or (50_000 if device.type == "cuda" else 10_000)
    times, found = measure(recipe, device, args.rounds, args.per_sample, args.compile)
    peak, steps = peaks(device, amp_dtype(device) or torch.float32), pictures // recipe.batch_size
    ratio = times["views made before"] / times["whole"]
    result = dict(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        threads=args.threads,
        network=f"{recipe.network}, width {recipe.width}",
        batch_size=recipe.batch_size,
        pictures=pictures,
        compile=args.compile,
        dtype=str(amp_dtype(device) or torch.float32),
        seconds_an_epoch=times["whole"] * steps,
        floor_seconds_an_epoch=floor(found, peak) * steps,
        ratio_to_floor=times["whole"] / floor(found, peak),
        floor_on_a_t4_seconds_an_epoch=floor(found, T4) * steps,
        gflop_a_step=sum(f for f, _ in found) / 1e9,
        peak_tflops=peak["flops"] / 1e12,
        peak_gb_a_second=peak["bytes"] / 1e9,
        pictures_a_second={name: recipe.batch_size / t for name, t in times.items()},
        throughput_of_views_made_before=ratio,
        torch=torch.__version__,
        python=platform.python_version(),
    )
    good = ratio >= 0.9
    if args.per_sample:
        result["times_the_per_sample_route"] = times["per sample"] / times["whole"]
        good = result["times_the_per_sample_route"] >= 5
    result = json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.4g}"))
    name = f"t4_budget_{device.type}_{recipe.network}-{recipe.width}{'_per_sample' * args.per_sample}.json"
    (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    sys.exit(not good)


if __name__ == "__main__":
    main()
