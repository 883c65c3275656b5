"""Seconds an epoch takes on the machine at hand, the floor from operations and bytes, the ratio.

Run: python -m scripts.t4_budget   (a minute; writes results/t4_budget_<device>_<network>.json)
On a GPU the recipe `course` with CIFAR-10's 50,000 images, on a CPU `shapes` with 10,000, on one
thread; --recipe and the fields --network, --width, --batch-size change that. The floor: every
convolution and matrix product of a step, backward included, at the larger of operations / peak and
bytes / bandwidth, both peaks measured here (a large matrix product, a large copy); augmentation,
BatchNorm and optimizer count nothing. A second floor is a T4's by its data sheet, 65 Tflop/s in
float16 and 320 GB/s. Beside the whole step, in turns: the same step on views made before, and with
torchvision's transforms (on PIL images, their quickest way), one image after the other
(--per-sample, meant for a small network: --width 8). Exits with an error if the throughput is below
0.9 of the step on views made before, with --per-sample instead if it is below 5 times that of the
per-sample route.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.shared import RESULTS
from replearn import _device
from replearn.files import write_json
from replearn.pretrain import NAMED, Recipe
from replearn.pretrain import step as engine
from replearn.train import amp_dtype

WARM_UP = 3  # rounds that do not count
TINY_LR = 1e-6
STEPS_A_TURN = 64  # on a GPU
WHOLE = "whole"
FIXED = "views made before"
PER_SAMPLE = "per sample"

Views = list[torch.Tensor]


# --- the floor
# -------------------------------------------------------------------------------------


class Operation(NamedTuple):
    """One convolution or matrix product."""

    flops: int
    numbers: int  # read and written


class Peak(NamedTuple):
    """What a device can do in a second at best."""

    flops: float
    bytes: float
    bytes_a_number: int


T4 = Peak(flops=65e12, bytes=320e9, bytes_a_number=2)


class OperationCounter(TorchDispatchMode):
    """Collects every convolution and matrix product inside a with block."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        """Run an operation of PyTorch, and count it if it is one of these."""
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        count_flops = flop_registry.get(function.overloadpacket)
        if count_flops is not None:
            outputs = output if isinstance(output, tuple | list) else (output,)
            tensors = [x for x in (*args, *outputs) if isinstance(x, torch.Tensor)]
            flops = count_flops(*args, **kwargs, out_val=output)
            self.operations.append(Operation(flops, sum(x.numel() for x in tensors)))
        return output


def measured_peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """Time a large matrix product and a large copy."""
    on_gpu = device.type == "cuda"
    side = 8192 if on_gpu else 1024
    copied_bytes = 2**28 if on_gpu else 2**25
    a, b = torch.randn((2, side, side), device=device, dtype=dtype)
    source = torch.zeros(copied_bytes // 4, device=device)
    target = torch.empty_like(source)

    def multiply() -> torch.Tensor:
        return a @ b

    def copy() -> torch.Tensor:
        return target.copy_(source)

    least_seconds(multiply, device, repeats=3)  # warms up
    return Peak(
        flops=2 * side**3 / least_seconds(multiply, device, repeats=10),
        bytes=2 * copied_bytes / least_seconds(copy, device, repeats=10),
        bytes_a_number=a.element_size(),
    )


def floor_seconds(operations: Sequence[Operation], peak: Peak) -> float:
    """Return the seconds that operations take at least."""
    total = 0.0
    for operation in operations:
        computing = operation.flops / peak.flops
        moving = operation.numbers * peak.bytes_a_number / peak.bytes
        total += max(computing, moving)
    return total


# --- the step
# --------------------------------------------------------------------------------------


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def least_seconds(function: Callable[[], Any], device: torch.device, repeats: int = 5) -> float:
    """Return the least time of a few calls."""
    times = []
    for _ in range(repeats):
        wait(device)
        start = time.perf_counter()
        function()
        wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def per_sample_views(recipe: Recipe) -> Callable[[torch.Tensor], Views]:
    """Return a function that makes two views with torchvision, one image after the other."""
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

    def views(images: torch.Tensor) -> Views:
        on_cpu = images.cpu()

        def one_view() -> torch.Tensor:
            return torch.stack([transform(image) for image in on_cpu]).to(images.device)

        return [one_view(), one_view()]

    return views


def measure(
    recipe: Recipe, device: torch.device, rounds: int, per_sample: bool, compile: bool
) -> tuple[dict[str, float], list[Operation]]:
    """Time each variant of a step, by turns.

    Returns:
        The median seconds of each, and the operations of one step.
    """
    shape = (4 * recipe.batch_size, 3, 32, 32)
    images = torch.randint(0, 256, shape, dtype=torch.uint8).to(device)
    recipe = replace(recipe, lr=TINY_LR)
    run = engine.new_run(recipe, images, compile=compile)
    run.steps = 10**9
    fixed_views = engine.make_views(recipe, images[: recipe.batch_size])
    # Views are made some steps ahead on a GPU, so that one step alone has no time of its own.
    steps = STEPS_A_TURN if device.type == "cuda" else 1

    def whole_step() -> None:
        for _ in range(steps):
            engine.train_step(run)

    def step_on_fixed_views() -> None:
        for _ in range(steps):
            engine.update(run, fixed_views, TINY_LR)

    variants = {WHOLE: whole_step, FIXED: step_on_fixed_views}
    if per_sample:
        make_views = per_sample_views(recipe)

        def per_sample_step() -> None:
            for step in range(steps):
                engine.update(run, make_views(run.batches.at(step)), TINY_LR)

        variants[PER_SAMPLE] = per_sample_step

    with OperationCounter() as counter:
        # A new run: what a graph replays, nobody sees.
        engine.learn(engine.new_run(recipe, images), fixed_views)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(WARM_UP + rounds):
        for name, variant in variants.items():
            if turn == 0 and name == PER_SAMPLE:
                continue  # slow, and one warm-up less is enough
            seconds = least_seconds(variant, device, repeats=1)
            if turn >= WARM_UP:
                times[name].append(seconds / steps)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return medians, counter.operations


# --- the result
# ------------------------------------------------------------------------------------


def result_of(
    recipe: Recipe,
    device: torch.device,
    images: int,
    seconds: dict[str, float],
    operations: Sequence[Operation],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Return the record; `images`: in the set."""
    dtype = amp_dtype(device) or torch.float32
    peak = measured_peak(device, dtype)
    steps = images // recipe.batch_size
    floor = floor_seconds(operations, peak)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    result = {
        "device": name,
        "threads": args.threads,
        "network": f"{recipe.network}, width {recipe.width}",
        "batch_size": recipe.batch_size,
        "pictures": images,
        "compile": args.compile,
        "dtype": str(dtype),
        "seconds_an_epoch": seconds[WHOLE] * steps,
        "floor_seconds_an_epoch": floor * steps,
        "ratio_to_floor": seconds[WHOLE] / floor,
        "floor_on_a_t4_seconds_an_epoch": floor_seconds(operations, T4) * steps,
        "gflop_a_step": sum(operation.flops for operation in operations) / 1e9,
        "peak_tflops": peak.flops / 1e12,
        "peak_gb_a_second": peak.bytes / 1e9,
        "pictures_a_second": {name: recipe.batch_size / s for name, s in seconds.items()},
        "throughput_of_views_made_before": seconds[FIXED] / seconds[WHOLE],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if args.per_sample:
        result["times_the_per_sample_route"] = seconds[PER_SAMPLE] / seconds[WHOLE]
    return result


def is_good(result: dict[str, Any]) -> bool:
    """Return whether the goal was reached."""
    if "times_the_per_sample_route" in result:
        return result["times_the_per_sample_route"] >= 5
    return result["throughput_of_views_made_before"] >= 0.9


def four_digits(text: str) -> float:
    """Return a fraction of a JSON text, rounded."""
    return float(f"{float(text):.4g}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
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
    return parser.parse_args()


def main() -> None:
    """Measure, print and write the result."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    on_gpu = args.device == "cuda"
    device = torch.device("cuda", 0) if on_gpu else _device.named(args.device)
    recipe = NAMED[args.recipe or ("course" if on_gpu else "shapes")]
    for name in ("network", "width", "batch_size"):
        if value := getattr(args, name):
            recipe = replace(recipe, **{name: value})
    images = args.pictures or (50_000 if on_gpu else 10_000)

    seconds, operations = measure(recipe, device, args.rounds, args.per_sample, args.compile)
    result = result_of(recipe, device, images, seconds, operations, args)
    good = is_good(result)
    result = json.loads(json.dumps(result), parse_float=four_digits)
    suffix = "_per_sample" if args.per_sample else ""
    name = f"t4_budget_{device.type}_{recipe.network}-{recipe.width}{suffix}.json"
    write_json(RESULTS / name, result)
    print(json.dumps(result, indent=1))
    sys.exit(not good)


if __name__ == "__main__":
    main()
