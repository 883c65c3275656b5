"""The service under load and under fire: milliseconds, memory, INT8 against fp32, bad images.

Run: python benchmarks/serve.py   (5 minutes on a quiet machine)

The result is benchmarks/results/serve.json. Two bundles are exported: the shipped `shapes_simclr`,
and the ResNet-18 `cifar10_simclr_full` where its weights and CIFAR-10 are in the data folder;
elsewhere one with random weights and statistics, whose speed is the same. Each is served at INT8
and fp32 by two threads and asked to /classify PNG images: by one client, then by 8 at once, each of
which asks again as soon as it has its answer. Clients and service share the cores of this machine.
Time is the client's, from the first byte sent to the last one read. Memory is the service's
resident set before and after the load. Then `shapes_simclr` is asked about images with bytes
changed, cut out and cut off, and of cases that schemathesis makes from openapi.json (--schemathesis
PYTHON: an interpreter that has it; it brings a pytest plugin, so better one of its own). Accuracies
are those on 1,000 test images of shapes, and on all of CIFAR-10. Exits with an error if INT8's p50
with 8 clients is 40 ms or more, its accuracy with trained weights more than 2 points below fp32's,
memory grew by 20 MB or more, or an answer was a 5xx other than a 503. Two minutes of load, for
memory and errors, are a slow test: tests/test_soak_slow.py.
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fuzz import KINDS
from shared import RESULTS, load_average, machine
from traffic import connect, damaged, encoded, load, status_of

from replearn.files import write_json

RESULT = RESULTS / "serve.json"
SHIPPED = "shapes_simclr"
TRAINED = "cifar10_simclr_full"
RANDOM = "resnet18, random"
CIFAR_IMAGES = 10_000  # that the head of `TRAINED` is fitted to


# --- the bundles
# -----------------------------------------------------------------------------------


def random_resnet() -> torch.nn.Module:
    """Return a ResNet-18 with random weights and statistics, in eval mode."""
    from replearn import models

    encoder = models.resnet18(64).eval()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # All zeros and ones would keep onnxruntime from merging layers.
            module.running_mean.normal_(0, 0.1)
            module.bias.data.normal_(0, 0.1)
    return encoder


def encoder_of(name: str) -> torch.nn.Module:
    """Return the encoder of a bundle."""
    from replearn import models

    return random_resnet() if name == RANDOM else models.load(name)


def images_of(name: str, split: str, size: int | None) -> Any:
    """Return the images that a bundle is made from, or tested on."""
    from replearn import data

    kind = "cifar10" if name == TRAINED else "shapes"
    return data.load(kind, split=split, size=size)


def large_one() -> str:
    """Return the name of the ResNet-18 that can be had here."""
    from replearn._shipped import released_weights
    from replearn.data import cifar10

    found = released_weights(TRAINED).exists() and cifar10.on_disk()
    return TRAINED if found else RANDOM


def export_bundles(folder: Path, size: int) -> dict[str, Path]:
    """Export both bundles, if they are not there; return `{name: folder}`."""
    from replearn.serve.exporting import export

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folders = {}
    for name in (SHIPPED, large_one()):
        print(f"exporting {name}", file=sys.stderr, flush=True)
        folders[name] = folder / name.split(",")[0]
        if not folders[name].exists():
            train = images_of(name, "train", CIFAR_IMAGES if name == TRAINED else size)
            export(encoder_of(name), folders[name], train)
    return folders


def accuracy(folder: Path, precision: str, test: Any) -> float:
    """Return the share of test images that the bundle's head gets right."""
    from replearn.serve.bundle import open_bundle

    bundle = open_bundle(folder, precision=precision)
    logits = bundle.embed(test.images.numpy()) @ bundle.weight.T + bundle.bias
    return float((logits.argmax(1) == test.labels.numpy()).mean())


# --- under load
# ------------------------------------------------------------------------------------


class Service(NamedTuple):
    """A service in a process of its own."""

    address: str
    memory_mb: Callable[[], float]  # its resident set now


@contextlib.contextmanager
def serving(folder: Path, precision: str) -> Iterator[Service]:
    """Serve a bundle inside the block."""
    import psutil

    from replearn.serve.process import start

    children_before = {process.pid for process in psutil.Process().children()}
    with start(folder, precision=precision) as address:
        (process,) = [
            process for process in psutil.Process().children() if process.pid not in children_before
        ]

        def memory_mb() -> float:
            return round(process.memory_info().rss / 1e6, 1)

        yield Service(address, memory_mb)


def measure(
    folder: Path,
    precision: str,
    test: Any,
    bodies: Sequence[bytes],
    clients: int,
    seconds: float,
) -> dict[str, Any]:
    """Return latency, memory, size and accuracy of one bundle at one precision."""
    from replearn.serve.bundle import MODELS

    begin = time.monotonic()
    with serving(folder, precision) as service:
        start_seconds = time.monotonic() - begin
        load(service.address, bodies, clients, min(2, seconds))  # to warm up
        alone = load(service.address, bodies, 1, min(5, seconds))
        memory_before = service.memory_mb()
        crowd = load(service.address, bodies, clients, seconds)
        memory_after = service.memory_mb()
    return {
        "start_seconds": round(start_seconds, 2),
        "one_client": alone,
        "load": crowd,
        "memory_mb_start": memory_before,
        "memory_mb_end": memory_after,
        "model_mb": round((folder / MODELS[precision]).stat().st_size / 1e6, 2),
        "accuracy": accuracy(folder, precision, test),
    }


# --- under fire
# ------------------------------------------------------------------------------------


class File(NamedTuple):
    """An image as it is sent."""

    content_type: str
    content: bytes


def ask_damaged(address: str, files: Sequence[File], cases: int) -> dict[int, int]:
    """Ask about so many damaged images; return how often each status came."""
    random_source = random.Random(0)
    statuses: Counter[int] = Counter()
    connection = connect(address)
    for _ in range(cases):
        file = random_source.choice(files)
        body = damaged(file.content, random_source)
        statuses[status_of(connection, "/embed", body, file.content_type)] += 1
    return dict(statuses)


def run_schemathesis(
    interpreter: str, address: str, folder: str, cases: int
) -> dict[str, Any] | None:
    """Run fuzz.py in another interpreter; None if it cannot."""
    script = Path(__file__).with_name("fuzz.py")
    command = [interpreter, str(script), address, folder, "--cases", str(cases)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"schemathesis did not run: {done.stderr.strip()[-300:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def under_fire(folder: Path, test: Any, cases: int, interpreter: str) -> dict[str, Any]:
    """Return the answers to damaged images and to schemathesis's cases, and memory around them."""
    files = []
    for image in test.images[:8]:
        for content_type, kind in KINDS.items():
            files.append(File(content_type, encoded(image, kind)))
    with serving(folder, "int8") as service, tempfile.TemporaryDirectory() as seeds:
        for i, file in enumerate(files):
            (Path(seeds) / f"{i:02}").write_bytes(file.content)
        ask_damaged(service.address, files, cases // 4)  # to warm up
        memory_before = service.memory_mb()
        return {
            "damaged_pictures": ask_damaged(service.address, files, cases),
            "schemathesis": run_schemathesis(interpreter, service.address, seeds, cases),
            "memory_mb_start": memory_before,
            "memory_mb_end": service.memory_mb(),
        }


# --- the result
# ------------------------------------------------------------------------------------


def failures(result: dict[str, Any]) -> list[str]:
    """Return what was expected and is not so."""
    rows = [row for precisions in result["bundles"].values() for row in precisions.values()]
    fire = result["under_fire"]
    trained = [row for name, row in result["bundles"].items() if name != RANDOM]
    cases = fire["schemathesis"] or {"server_errors": 0, "problems": []}

    slowest = max(row["int8"]["load"]["p50_ms"] for row in result["bundles"].values())
    lost = max(row["fp32"]["accuracy"] - row["int8"]["accuracy"] for row in trained)
    grown_mb = max(row["memory_mb_end"] - row["memory_mb_start"] for row in [*rows, fire])
    statuses = {int(status) for status in fire["damaged_pictures"]}
    for row in rows:
        statuses |= {int(status) for status in row["load"]["statuses"]}
    failed = any(status >= 500 and status != 503 for status in statuses)

    sentences = []
    if slowest >= 40:
        sentences.append("INT8's p50 under load: 40 ms or more")
    if lost > 0.02:
        sentences.append("INT8: more than 2 points below fp32")
    if grown_mb >= 20:
        sentences.append("memory: grew by 20 MB or more")
    if failed or cases["server_errors"]:
        sentences.append("server errors")
    if cases["problems"]:
        sentences.append("schemathesis: found problems")
    return sentences


def measure_all(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the record."""
    load_average_before = load_average()
    folders = export_bundles(folder, args.size)
    bundles: dict[str, dict[str, dict]] = {}
    for name, bundle_folder in folders.items():
        bundles[name] = {}
        test = images_of(name, "test", None if name == TRAINED else 1000)
        bodies = [encoded(image, "PNG") for image in test.images[:64]]
        for precision in ("int8", "fp32"):
            print(f"{name}, {precision}", file=sys.stderr, flush=True)
            bundles[name][precision] = measure(
                bundle_folder, precision, test, bodies, args.clients, args.seconds
            )
    # Written out, since the interpreter given by --schemathesis is a path of one machine.
    options = f"--seconds {args.seconds:g} --cases {args.cases} --schemathesis PYTHON"
    return {
        "question": "milliseconds of a /classify request, memory, and answers to bad pictures",
        "bundles": bundles,
        "under_fire": under_fire(
            folders[SHIPPED], images_of(SHIPPED, "test", 1000), args.cases, args.schemathesis
        ),
        "load_average_before": load_average_before,
        "command": f"python benchmarks/serve.py {options}",
        **machine("fastapi", "uvicorn", "onnxruntime", "numpy", "pillow"),
    }


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=30, help="of load, for each bundle and precision"
    )
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument(
        "--size", type=int, default=2000, help="images that the bundles are made from"
    )
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--schemathesis", default=sys.executable, metavar="PYTHON")
    parser.add_argument(
        "--keep", type=Path, help="export the bundles into this folder, or use those that are there"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result = measure_all(args, args.keep or Path(temporary))
    print(json.dumps(result, indent=1))
    if RESULT.exists():
        stored = json.loads(RESULT.read_text("utf-8"))
        if "soak" in stored:  # of tests/test_soak_slow.py
            result["soak"] = stored["soak"]
    write_json(RESULT, result)
    if sentences := failures(result):
        sys.exit("; ".join(sentences))


if __name__ == "__main__":
    main()
