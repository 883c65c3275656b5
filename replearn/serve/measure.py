"""What the forms of an encoder in a bundle cost: torch, ONNX and INT8 side by side.

N test images, D features, C classes.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from replearn.data import ImageSet
from replearn.serve.bundle import MODELS, TORCH_PROGRAM, Bundle, open_bundle

BATCH = 64  # images in the batch that is timed
WARM_UP = 3  # rounds that do not count

Embed = Callable[[np.ndarray], np.ndarray]  # uint8 (N, 3, side, side) -> float32 (N, D)


def measure_forms(
    folder: str | Path, test: ImageSet, *, threads: int = 1, rounds: int = 100
) -> dict[str, Any]:
    """Measure size, time and accuracy of the forms in which a bundle holds its encoder.

    The forms are "fp32 torch", "fp32 ONNX" and "INT8 ONNX". All of them use the bundle's head.

    Args:
        folder: The bundle.
        test: N images of the bundle's size, with labels.
        threads: CPU threads of each form.
        rounds: How often a single image is timed; the forms take turns.

    Returns:
        A dict good for JSON: "rows", one for each form, "pictures" (N) and "threads". A row holds

        - "mb": size of the file, in 10^6 bytes;
        - "ms" and "ms_p95": milliseconds for one image, median and 95th percentile;
        - "ms_batch": milliseconds an image, median, in a batch of 64;
        - "accuracy": the fraction of the images that are classified correctly;
        - "agreement": the fraction that get the class which "fp32 torch" gives them;
        - "points": the accuracy minus that of "fp32 torch", in percentage points.

    Raises:
        ValueError: The bundle is damaged, or the images have another size.
    """
    folder = Path(folder).expanduser()
    fp32 = open_bundle(folder, precision="fp32", threads=threads)
    int8 = open_bundle(folder, precision="int8", threads=threads)
    forms = {"fp32 torch": _torch_embed(folder), "fp32 ONNX": fp32.embed, "INT8 ONNX": int8.embed}
    files = {
        "fp32 torch": TORCH_PROGRAM,
        "fp32 ONNX": MODELS["fp32"],
        "INT8 ONNX": MODELS["int8"],
    }
    images = test.images.cpu().numpy()
    labels = test.require_labels("test").cpu().numpy()

    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        predicted = {name: _predict(fp32, embed, images) for name, embed in forms.items()}
        times = _measure_times(forms, images, rounds)
    finally:
        torch.set_num_threads(threads_before)

    reference = predicted["fp32 torch"]
    reference_accuracy = float((reference == labels).mean())
    rows = {}
    for name in forms:
        accuracy = float((predicted[name] == labels).mean())
        rows[name] = {
            "mb": (folder / files[name]).stat().st_size / 1e6,
            **times[name],
            "accuracy": accuracy,
            "agreement": float((predicted[name] == reference).mean()),
            "points": 100 * (accuracy - reference_accuracy),
        }
    return {"rows": rows, "pictures": len(labels), "threads": threads}


def as_text(measured: dict[str, Any]) -> str:
    """Return what was measured as a table for the terminal.

    Args:
        measured: From `measure_forms`.

    Returns:
        Five lines: a head, one line for each form, and how it was measured.

    Example:
        >>> row = dict(mb=0.4, ms=1, ms_p95=2, ms_batch=0.2, accuracy=0.8, agreement=1, points=0)
        >>> measured = {"rows": {"fp32 ONNX": row}, "pictures": 2000, "threads": 1}
        >>> as_text(measured).splitlines()[-1]
        '2,000 test pictures, threads: 1'
    """
    lines = [
        f"{'':12}{'MB':>8}{'ms, one':>10}{'p95':>8}{'ms, of 64':>12}"
        f"{'accuracy':>11}{'agreement':>12}{'points':>9}"
    ]
    for name, row in measured["rows"].items():
        lines.append(
            f"{name:12}{row['mb']:8.2f}{row['ms']:10.2f}{row['ms_p95']:8.2f}"
            f"{row['ms_batch']:12.3f}{row['accuracy']:11.2%}{row['agreement']:12.2%}"
            f"{row['points']:+9.2f}"
        )
    lines.append(f"{measured['pictures']:,} test pictures, threads: {measured['threads']}")
    return "\n".join(lines)


def _torch_embed(folder: Path) -> Embed:
    """Return `embed` as a bundle has it, computed by torch from the exported program."""
    module = torch.export.load(folder / TORCH_PROGRAM).module()

    @torch.inference_mode()
    def embed(images: np.ndarray) -> np.ndarray:
        batches = torch.from_numpy(images).split(256)
        return torch.cat([module(batch.float() / 255) for batch in batches]).numpy()

    return embed


def _predict(bundle: Bundle, embed: Embed, images: np.ndarray) -> np.ndarray:
    logits = embed(images) @ bundle.weight.T + bundle.bias  # (N, C)
    return logits.argmax(1)


def _measure_times(
    forms: dict[str, Embed], images: np.ndarray, rounds: int
) -> dict[str, dict[str, float]]:
    """Return "ms", "ms_p95" and "ms_batch" of each form.

    The forms take turns, so that whatever else the machine does slows all of them down alike.
    """
    batch = images[:BATCH]
    single_ms = {name: [] for name in forms}
    batch_ms = {name: [] for name in forms}
    for step in range(WARM_UP + rounds):
        image = images[step % len(images)][None]
        for name, embed in forms.items():
            single_ms[name].append(_milliseconds(embed, image))
            if step % 10 == 0:
                batch_ms[name].append(_milliseconds(embed, batch) / len(batch))
    times = {}
    for name in forms:
        counted = single_ms[name][WARM_UP:]
        times[name] = {
            "ms": float(np.median(counted)),
            "ms_p95": float(np.percentile(counted, 95)),
            "ms_batch": float(np.median(batch_ms[name])),
        }
    return times


def _milliseconds(embed: Embed, images: np.ndarray) -> float:
    start = time.perf_counter()
    embed(images)
    return 1e3 * (time.perf_counter() - start)
