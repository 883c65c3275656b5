"""Does the service leak? Eight clients for two minutes: memory, open files, threads, every answer.

The shipped `shapes_simclr` at INT8 in a process of its own, two threads. Each client asks /classify
again as soon as it has its answer; one image in four is damaged and must be refused with a 400.
Memory is the service's resident set, read every five seconds. Memory and errors need no quiet
machine; the milliseconds are of a machine with the load average beside them, and the quiet ones are
those of benchmarks/serve.py. With REPLEARN_RECORD=1 the result becomes the entry "soak" of
benchmarks/results/serve.json.
"""

import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import records

from benchmarks import traffic
from benchmarks.shared import RESULTS, load_average, machine
from replearn import data, models

pytestmark = pytest.mark.slow
SECONDS = 120
CLIENTS = 8
SIZE = 2000  # images that the bundle is made from
SAMPLE_SECONDS = 5
LEAK_MB = 5  # growth from the first half to the second that counts as a leak


class Sample(NamedTuple):
    """The service at one moment."""

    seconds: float  # since the start
    memory_mb: float
    open_files: int
    threads: int


def open_files(process: Any) -> int:
    """Return how many files and connections a process has open."""
    return process.num_handles() if os.name == "nt" else process.num_fds()


def take_sample(process: Any, begin: float) -> Sample:
    """Look at a process."""
    with process.oneshot():
        return Sample(
            round(time.monotonic() - begin, 1),
            round(process.memory_info().rss / 1e6, 2),
            open_files(process),
            process.num_threads(),
        )


def watch(process: Any, stop: threading.Event, every: float, samples: list[Sample]) -> None:
    """Append a sample every so many seconds until `stop`."""
    begin = time.monotonic()
    while True:
        samples.append(take_sample(process, begin))
        if stop.wait(every):
            return


def export_bundle(folder: Path) -> Path:
    """Export the shipped encoder; return the bundle's folder."""
    from replearn.serve.exporting import export

    encoder = models.load("shapes_simclr")
    export(encoder, folder / "bundle", data.load("shapes", size=SIZE))
    return folder / "bundle"


def request_bodies() -> list[bytes]:
    """Return test images as PNG, one in four of them damaged."""
    chance = random.Random(0)
    test = data.load("shapes", split="test", size=64)
    whole = [traffic.encoded(image, "PNG") for image in test.images]
    return whole * 3 + [traffic.damaged(content, chance) for content in whole]


class Soaked(NamedTuple):
    """What was seen of a service under load."""

    answers: dict[str, Any]  # of traffic.load
    samples: list[Sample]
    after: Sample  # a second after the last answer


def soak(folder: Path, seconds: float) -> Soaked:
    """Serve a bundle, and let clients ask for so long."""
    psutil = pytest.importorskip("psutil")
    from replearn.serve.process import start

    bodies = request_bodies()
    children_before = set(psutil.Process().children())
    with start(folder, precision="int8") as address:
        (process,) = set(psutil.Process().children()) - children_before
        traffic.load(address, bodies, CLIENTS, min(3, seconds))  # to warm up
        stop = threading.Event()
        samples: list[Sample] = []
        every = min(SAMPLE_SECONDS, seconds / 10)
        watcher = threading.Thread(target=watch, args=(process, stop, every, samples))
        watcher.start()
        answers = traffic.load(address, bodies, CLIENTS, seconds)
        stop.set()
        watcher.join()
        time.sleep(1)  # the last connections are closed
        return Soaked(answers, samples, take_sample(process, time.monotonic()))


def highest_memory(samples: list[Sample]) -> tuple[float, float]:
    """Return the highest memory in the first half and in the second, in MB."""
    memory = [sample.memory_mb for sample in samples]
    half = len(memory) // 2
    return max(memory[:half]), max(memory[half:])


def problems(soaked: Soaked) -> list[str]:
    """Return what is wrong, in sentences."""
    first, second = highest_memory(soaked.samples)
    before = soaked.samples[0]
    statuses = soaked.answers["statuses"]
    sentences = []
    if second - first >= LEAK_MB:
        halves = f"{first} MB at most in the first half, {second} MB in the second"
        sentences.append(f"memory grew: {halves}")
    if soaked.after.open_files > before.open_files:
        sentences.append("open files were left")
    if soaked.after.threads > before.threads:
        sentences.append("threads were left")
    if set(statuses) - {200, 400}:
        sentences.append(f"answers: {statuses}")
    return sentences


def record_of(soaked: Soaked, load_average_before: float | None) -> dict[str, Any]:
    """Return the entry of the service's record."""
    first, second = highest_memory(soaked.samples)
    return {
        **soaked.answers,
        "samples": soaked.samples,
        "open_files_left": soaked.after.open_files,
        "threads_left": soaked.after.threads,
        "memory_mb_start": soaked.samples[0].memory_mb,
        "memory_mb_end": soaked.samples[-1].memory_mb,
        "memory_mb_most_first_half": first,
        "memory_mb_most_second_half": second,
        "problems": problems(soaked),
        "load_average_before": load_average_before,
        "command": records.command("soak"),
        **machine("fastapi", "uvicorn", "onnxruntime"),
    }


def test_the_service_does_not_leak(tmp_path):
    load_average_before = load_average()
    soaked = soak(export_bundle(tmp_path), SECONDS)
    if records.wanted():
        stored = json.loads((RESULTS / "serve.json").read_text("utf-8"))
        records.write("serve", stored | {"soak": record_of(soaked, load_average_before)})
    assert problems(soaked) == []
