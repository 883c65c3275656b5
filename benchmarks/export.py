"""What an exported encoder costs: torch, ONNX and INT8, and ways to find INT8's ranges.

Run: python benchmarks/export.py      (about two minutes; writes benchmarks/results/export.json)
The shipped SimCLR encoder for shapes, 10 classes; the head is fitted to 5,000 images, the test set
has 2,000. One thread, forms take turns. With `--encoder cifar10_simclr_full`, whose weights and
CIFAR-10 must be in the data folder, it is the ResNet-18, with 10,000 images for the head and all
test images (about 20 minutes; export_cifar10_simclr_full.json). With --ranges only the second
table: how INT8 agrees with fp32 by calibration method, number format and weights of 7 or 8 bits, on
this CPU. Exits with an error unless INT8 is within 2 points of full precision and answers a single
image in 40 ms (median).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime import quantization
from shared import RESULTS, command, machine

from replearn import data, models
from replearn.files import write_json
from replearn.serve import bundle
from replearn.serve.exporting import export
from replearn.serve.measure import as_text

SMALL = "shapes_simclr"
LARGE = "cifar10_simclr_full"
DATA = {SMALL: "shapes", LARGE: "cifar10"}
TRAIN = {SMALL: 5000, LARGE: 10_000}  # images that the head is fitted to
TEST = {SMALL: 2000, LARGE: None}  # None: all
RANGES_ON = 2000  # test images on which the ways are compared
# Percentiles and entropy would keep all activations of a ResNet-18 in memory.
FEW_WAYS = ("chosen: MinMax, u8 x s7", "u8 x s8", "u8 x u8")
RESULT = {SMALL: "export.json", LARGE: f"export_{LARGE}.json"}
UINT8 = quantization.QuantType.QUInt8
INT8 = quantization.QuantType.QInt8
METHODS = quantization.CalibrationMethod

MATRIX_PRODUCTS = ["Conv", "Gemm", "MatMul"]
# What the package does: activations in 8 bits without a sign, weights in 7 with one.
CHOSEN = {
    "activation_type": UINT8,
    "reduce_range": True,
    "op_types_to_quantize": MATRIX_PRODUCTS,
}
WAYS = {
    "chosen: MinMax, u8 x s7": CHOSEN,
    "u8 x s8": CHOSEN | {"reduce_range": False},
    "s8 x s8": CHOSEN | {"reduce_range": False, "activation_type": INT8},
    "u8 x u8": CHOSEN | {"reduce_range": False, "weight_type": UINT8},
    "every operation": {"activation_type": UINT8, "reduce_range": True},
    "percentile 99.99": CHOSEN
    | {
        "calibrate_method": METHODS.Percentile,
        "extra_options": {"CalibPercentile": 99.99},
    },
    "entropy": CHOSEN | {"calibrate_method": METHODS.Entropy},
}

Embed = Callable[[np.ndarray], np.ndarray]  # uint8 (N, 3, H, W) -> features (N, D)


def cpu_ms_of_64(embed: Embed, images: np.ndarray) -> float:
    """Return the median CPU milliseconds of a batch of 64.

    Unlike the clock's milliseconds they hold while others use the CPU.
    """
    times = []
    for _ in range(15):
        start = time.process_time()
        embed(images[:64])
        times.append(1e3 * (time.process_time() - start))
    return float(np.median(times))


class Batches(quantization.CalibrationDataReader):
    """Images in batches of 32, as onnxruntime asks for them when it looks for ranges."""

    def __init__(self, images: torch.Tensor) -> None:
        self.batches: Iterator[torch.Tensor] = iter(images.split(32))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, or None after the last one."""
        batch = next(self.batches, None)
        if batch is None:
            return None
        return {"images": batch.float().numpy() / 255}


def row_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of `a` with that of `b`."""
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def ranges(
    folder: Path, train: data.ImageSet, test: data.ImageSet, ways: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Quantize a bundle's ONNX model in some of the ways.

    Returns:
        `{way: accuracy, agreement with fp32, smallest cosine, CPU milliseconds of 64 images}`.
    """
    images = test.images.numpy()
    labels = test.labels.numpy()
    full = bundle.open_bundle(folder, precision="fp32")
    features = full.embed(images)
    answers = (features @ full.weight.T + full.bias).argmax(1)
    results = {"fp32": {"cpu_ms_of_64": cpu_ms_of_64(full.embed, images)}}
    for name in ways:
        path = folder.parent / "way.onnx"
        quantization.quantize_static(
            str(folder / bundle.MODELS["fp32"]),
            str(path),
            Batches(train.images[:512]),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            **WAYS[name],
        )
        embed = bundle.embedder(path.read_bytes(), full.side, features.shape[1], 1)
        its_features = embed(images)
        its_answers = (its_features @ full.weight.T + full.bias).argmax(1)
        results[name] = {
            "accuracy": float((its_answers == labels).mean()),
            "agreement": float((its_answers == answers).mean()),
            "cosine_min": float(row_cosines(features, its_features).min()),
            "cpu_ms_of_64": cpu_ms_of_64(embed, images),
        }
        numbers = "  ".join(f"{key} {value:.4f}" for key, value in results[name].items())
        print(f"{name:26} {numbers}", flush=True)
    print(f"fp32: cpu_ms_of_64 {results['fp32']['cpu_ms_of_64']:.4f}")
    return results


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ranges", action="store_true", help="only the ways to find INT8's ranges; writes nothing"
    )
    parser.add_argument("--encoder", choices=list(DATA), default=SMALL)
    args = parser.parse_args()
    name = args.encoder
    train = data.load(DATA[name], size=TRAIN[name])
    test = data.load(DATA[name], split="test", size=TEST[name])
    some = test.subset(slice(RANGES_ON))
    encoder = models.load(name).to(memory_format=torch.channels_last)
    card = models.card(name)
    del card["path"]
    names = FEW_WAYS if name == LARGE else list(WAYS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bundle"
        if args.ranges:
            export(encoder, folder, train, card=card)
            ranges(folder, train, some, names)
            return
        measured = export(encoder, folder, train, test=test, card=card)["measured"]
        print(as_text(measured))
        ways = ranges(folder, train, some, names)
    write_result(name, measured, ways, len(train))

    int8 = measured["rows"]["INT8 ONNX"]
    if abs(int8["points"]) > 2 or int8["ms"] > 40:
        numbers = f"{int8['points']:+.2f} points, {int8['ms']:.1f} ms"
        sys.exit(f"INT8: expected within 2 points and 40 ms, found {numbers}")


def write_result(
    name: str, measured: dict[str, Any], ways: dict[str, dict], train_size: int
) -> None:
    """Write the record of an encoder into benchmarks/results/."""
    result = {
        "encoder": name,
        "command": command(),
        "train": train_size,
        **measured,
        "ways": ways,
        "ways_pictures": RANGES_ON,
        **machine("onnx", "onnxruntime"),
    }
    write_json(RESULTS / RESULT[name], result)


if __name__ == "__main__":
    main()
