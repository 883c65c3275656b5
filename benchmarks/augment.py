"""SimCLR's views of 32 x 32 images: the package against lightly, torchvision and kornia.

Run: python benchmarks/augment.py      (two minutes; writes benchmarks/results/augment.json)
Everyone makes two views of the same images by the same recipe (crop 0.2 to 1, flip 0.5, jitter 0.4
0.4 0.4 0.1 with probability 0.8, gray 0.2, blur 0.5), as float32; all take turns in one process.
lightly and torchvision go image by image, so a few sizes are enough for them; torchvision and
kornia are in the curves in their fastest forms, tested first (`forms_s`). The compiled variant
(benchmarks/fused_views.py) is not part of the package. What a peer does otherwise, `peers_differ`
says. Before anything is timed, our arithmetic is compared with torchvision's at equal parameters,
and the compiled variant with ours at equal seeds (`largest_differences`): an error above 1e-5.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fused_views
import torch
from shared import against, goal, peak_mb, record, take_turns
from torchvision import transforms as v1
from torchvision.transforms import functional, v2

from replearn import augment

OURS = "replearn"
COMPILED = "replearn, compiled (not in the package)"
KORNIA = "kornia"
LIGHTLY = "lightly"
ONE_BY_ONE = ", one by one"  # ends the name of a form that goes image by image
SIZES = (32, 64, 128, 256, 1024)
SIZES_ONE_BY_ONE = (32, 256)
PEERS_DIFFER = {
    LIGHTLY: (
        "PIL pictures of 8 bits, antialiased; Pillow's Gaussian, which is made of boxes and wider "
        "than 3 x 3."
    ),
    "torchvision": "The same recipe; on PIL pictures every step rounds to 8 bits. Antialiased.",
    KORNIA: (
        "same_on_batch=False, but the order of the adjustments is drawn once a batch, not for each "
        "picture. Its crop is not antialiased: at 32 x 32, where a crop only enlarges, the same. "
        "align_corners=False: with 'slice' torchvision's grid, with 'resample' a slightly other "
        "one. Input is float32 already."
    ),
    COMPILED: "The same draws and pictures as replearn's.",
}

Call = Callable[[], Any]  # makes two views of a batch
Form = Callable[[torch.Tensor], Call]  # uint8 images (N, 3, 32, 32) -> a call


# --- contestants
# -----------------------------------------------------------------------------------


def pipeline(module: Any, last: Sequence[Callable]) -> Callable:
    """Return torchvision's pipeline for one image; module: `v1` or `v2`, last: steps at its end."""
    steps = [
        module.RandomResizedCrop(32, scale=(0.2, 1.0), antialias=True),
        module.RandomHorizontalFlip(),
        module.RandomApply([module.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        module.RandomGrayscale(0.2),
        module.RandomApply([module.GaussianBlur(3, (0.1, 2.0))], p=0.5),
    ]
    return module.Compose([*steps, *last])


def to_float32(version: str, kind: str) -> list[Callable]:
    """Return the steps of torchvision that turn a kind of image into a float32 tensor."""
    if kind == "float32":
        return []
    if version == "v1":
        return [v1.ToTensor() if kind == "PIL" else v1.ConvertImageDtype(torch.float32)]
    scaled = v2.ToDtype(torch.float32, scale=True)
    return [v2.ToImage(), scaled] if kind == "PIL" else [scaled]


def torchvision_views(version: str, kind: str, images: torch.Tensor) -> Call:
    """Return a call that makes two views of each image; kind: what it starts from."""
    module = {"v1": v1, "v2": v2}[version]
    transform = pipeline(module, to_float32(version, kind))
    if kind == "PIL":
        inputs = [functional.to_pil_image(image) for image in images]
    elif kind == "float32":
        inputs = list(images.float() / 255)
    else:
        inputs = list(images)

    def two_views() -> list[torch.Tensor]:
        return [torch.stack([transform(image) for image in inputs]) for _ in range(2)]

    return two_views


def lightly_views(images: torch.Tensor) -> Call:
    """Return a call of lightly's transform, which makes two views of a PIL image."""
    from lightly.transforms import SimCLRTransform

    inputs = [functional.to_pil_image(image) for image in images]
    transform = SimCLRTransform(
        input_size=32, cj_strength=0.5, min_scale=0.2, gaussian_blur=0.5, normalize=None
    )

    def two_views() -> list[torch.Tensor]:
        pairs = [transform(image) for image in inputs]
        return [torch.stack(views) for views in zip(*pairs, strict=True)]

    return two_views


def kornia_views(mode: str, images: torch.Tensor) -> Call:
    """Return a call of kornia's augmentations for a batch; mode: how it crops."""
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

    def two_views() -> list[torch.Tensor]:
        return [transform(floats), transform(floats)]

    return two_views


def installed(*packages: str) -> list[str]:
    """Return those of the packages that are installed."""
    return [name for name in packages if importlib.util.find_spec(name) is not None]


def peer_forms() -> dict[str, dict[str, Form]]:
    """Return the forms of every peer that is installed: `{peer: {name of the form: form}}`."""
    forms: dict[str, dict[str, Form]] = {
        LIGHTLY: {LIGHTLY: lightly_views},
        KORNIA: {
            f"{KORNIA}, {mode}": partial(kornia_views, mode) for mode in ("slice", "resample")
        },
    }
    for peer in (LIGHTLY, KORNIA):
        if not installed(peer):
            print(f"left out: {peer} is not installed", file=sys.stderr)
            del forms[peer]
    for version in ("v1", "v2"):
        peer = f"torchvision {version}"
        forms[peer] = {
            f"{peer}, {kind}": partial(torchvision_views, version, kind)
            for kind in ("PIL", "uint8", "float32")
        }
    return forms


def fastest(
    forms: Mapping[str, Mapping[str, Form]], images: torch.Tensor
) -> tuple[dict[str, Form], dict[str, float]]:
    """Return every peer's fastest form by name, and the seconds that all forms took."""
    best_forms = {}
    seconds: dict[str, float] = {}
    for peer, forms_of_peer in forms.items():
        best = peer
        if len(forms_of_peer) > 1:
            calls = {name: form(images) for name, form in forms_of_peer.items()}
            times = take_turns(calls, 3)
            medians = {name: statistics.median(times[name]) for name in times}
            best = min(medians, key=medians.__getitem__)
            seconds |= medians
        name = best if peer == KORNIA else best + ONE_BY_ONE
        best_forms[name] = forms_of_peer[best]
    return best_forms, seconds


# --- right before fast
# -----------------------------------------------------------------------------


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest absolute difference."""
    return (a - b).abs().max().item()


def differences(images: torch.Tensor) -> dict[str, float]:
    """Return the largest differences from torchvision, and of the compiled variant from ours."""
    errors = {}
    x = images.float() / 255
    factors = torch.rand(len(images)) * 0.8 + 0.6
    for name in ("brightness", "contrast", "saturation", "hue"):
        amounts = (factors - 1) / 4 if name == "hue" else factors
        ours = getattr(augment, f"adjust_{name}")(x, amounts)
        adjust = getattr(functional, f"adjust_{name}")
        pairs = zip(x, amounts.tolist(), strict=True)
        theirs = torch.stack([adjust(image, amount) for image, amount in pairs])
        errors[f"{name}, ours from torchvision"] = largest_difference(ours, theirs)

    boxes = [v1.RandomResizedCrop.get_params(image, (0.2, 1.0), (3 / 4, 4 / 3)) for image in x]
    crops = []
    for image, box in zip(x, boxes, strict=True):
        crops.append(functional.resized_crop(image, *box, (32, 32), antialias=True))
    ours = augment.resized_crop(x, torch.tensor(boxes))
    errors["crop, ours from torchvision"] = largest_difference(ours, torch.stack(crops))

    blurred = torch.stack([functional.gaussian_blur(image, 3, 0.8) for image in x])
    ours = augment.gaussian_blur(x, p=1, sigma=0.8)
    errors["blur, ours from torchvision"] = largest_difference(ours, blurred)

    ours = torch.cat(
        augment.two_views(images, blur=0.5, generator=torch.Generator().manual_seed(0))
    )
    compiled = torch.cat(
        fused_views.two_views(images, blur=0.5, generator=torch.Generator().manual_seed(0))
    )
    errors["two views, compiled from ours"] = largest_difference(ours, compiled)
    return errors


# --- the measurement
# -------------------------------------------------------------------------------


def our_views(images: torch.Tensor) -> Call:
    """Return a call of the package's views."""
    return partial(augment.two_views, images, blur=0.5)


def compiled_views(images: torch.Tensor) -> Call:
    """Return a call of the compiled variant."""
    return partial(fused_views.two_views, images)


def measure(
    threads: int,
    turns: int,
    sizes: Sequence[int],
    peers: Mapping[str, Form],
    images: torch.Tensor,
) -> dict[str, Any]:
    """Time everyone at every size; return a panel."""
    torch.set_num_threads(threads)
    curves: dict[str, list[dict]] = {}
    for n in sizes:
        forms = {OURS: our_views, COMPILED: compiled_views}
        for name, form in peers.items():
            if n in SIZES_ONE_BY_ONE or not name.endswith(ONE_BY_ONE):
                forms[name] = form
        calls = {name: form(images[:n]) for name, form in forms.items()}
        for name, row in against(take_turns(calls, turns), OURS).items():
            memory = peak_mb(calls[name])
            curves.setdefault(name, []).append({"at": n, **row, "memory_mb": memory})
    plural = "s" if threads > 1 else ""
    return {
        "title": f"Two views of every picture, 32 x 32, {threads} thread{plural}",
        "size": "pictures in a batch",
        "unit": "seconds a call",
        "ours": OURS,
        "curves": curves,
    }


def compile_seconds(images: torch.Tensor) -> float:
    """Return the seconds of the first call: compiling, or loading what was compiled before."""
    start = time.perf_counter()
    fused_views.two_views(images)
    return time.perf_counter() - start


# --- goals
# -----------------------------------------------------------------------------------------


def times_at_256(panel: Mapping[str, Any], contestant: str) -> float | None:
    """Return how many times as long as ours a contestant took for 256 images, if it was timed.

    contestant: its name, or the first part of it.
    """
    for name, rows in panel["curves"].items():
        for row in rows:
            if name.startswith(contestant) and row["at"] == 256:
                return row["times"]
    return None


def goals_of(panels: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare with what was to be reached for 256 images, where it was measured."""
    panel_of = {panel["title"].rsplit(", ")[-1]: panel for panel in panels}
    wanted = [
        ("1 thread", OURS, LIGHTLY, 8),
        ("1 thread", OURS, KORNIA, 1.8),
        ("2 threads", COMPILED, KORNIA, 4),
    ]
    goals = []
    for threads, mine, peer, least in wanted:
        if threads not in panel_of:
            continue
        panel = panel_of[threads]
        my_times = times_at_256(panel, mine)
        peer_times = times_at_256(panel, peer)
        if my_times is None or peer_times is None:
            continue
        sentence = f"times as fast as {peer}: {mine}, {threads}, 256 pictures"
        why = why_missed(panel) if peer == LIGHTLY else ""
        goals.append(goal(sentence, least, peer_times / my_times, why))
    return goals


def why_missed(panel: Mapping[str, Any]) -> str:
    """Say why lightly is hard to beat by more: what it does is cheaper than what others do."""
    times = []
    for name in panel["curves"]:
        if name.startswith("torchvision"):
            times.append(times_at_256(panel, name))
    fastest_times = min(one for one in times if one is not None)
    return (
        "lightly's pictures are rounded to 8 bits after every step and blurred by boxes, which is "
        f"cheaper; torchvision's fastest form takes {fastest_times:.1f} times as long as ours in "
        "the same run"
    )


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--out", type=Path, help="write the result there")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images = torch.randint(256, (max(args.sizes), 3, 32, 32), dtype=torch.uint8)
    first_call = compile_seconds(images[:32])
    errors = differences(images[:64])
    peers, seconds_of_forms = fastest(peer_forms(), images[:128])
    panels = [measure(threads, args.turns, args.sizes, peers, images) for threads in args.threads]
    record(
        "augment",
        "How long do two SimCLR views of a batch of pictures take?",
        panels,
        goals_of(panels),
        ["torchvision", "pillow", *installed(LIGHTLY, KORNIA)],
        args.out,
        peers_differ=PEERS_DIFFER,
        largest_differences=errors,
        forms_s=seconds_of_forms,
        first_compiled_call_s=first_call,
    )
    if max(errors.values()) > 1e-5:
        sys.exit(f"expected differences of at most 1e-5, found {errors}")


if __name__ == "__main__":
    main()
