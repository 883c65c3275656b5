"""Nothing lost? Training is killed with SIGKILL at random moments; the weights are compared.

Five to twenty minutes. One run of `python -m replearn pretrain` is left alone, another is killed 24
times and each time started again. A checkpoint is due after every step, so that many kills hit a
save. Half of them come at any moment after the start, imports included, half within 0.4 s after
progress was seen. One thread, on the CPU. The encoders' files have to be the same bytes and the
logs the same records, each step once. With REPLEARN_RECORD=1 the result is written to
benchmarks/results/kill.json.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import records

from benchmarks.shared import machine
from replearn.pretrain import checkpoint, read_log

pytestmark = pytest.mark.slow
KILLS = 24
EPOCHS = 40
SEED = 0
RECIPE = (
    "--recipe shapes --size 512 --test-size 100 --width 8 --hidden 64 --batch-size 64 --queue 256 "
    "--n-small 2"
)
OFTEN = "--log-every 1 --knn-every 10 --checkpoint-seconds 0 --device cpu"
CLOCK = ("seconds", "images_per_second")  # of a log's records


def start(folder: Path) -> subprocess.Popen:
    """Start the training in a process of its own."""
    command = [sys.executable, "-m", "replearn", "pretrain", "--folder", str(folder)]
    command += [*RECIPE.split(), *OFTEN.split(), "--epochs", str(EPOCHS)]
    variables = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "REPLEARN_STATIC": "1"}
    return subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.DEVNULL)


def run_undisturbed(folder: Path) -> float:
    """Train to the end; return the seconds until the first step was logged."""
    begin = time.monotonic()
    process = start(folder)
    while not read_log(folder) and process.poll() is None:
        time.sleep(0.01)
    start_seconds = time.monotonic() - begin
    assert process.wait() == 0
    return start_seconds


def wait_for_progress(folder: Path, process: subprocess.Popen, steps_before: int) -> None:
    """Wait until a process that goes on has logged a step, or has ended."""
    while process.poll() is None and len(read_log(folder)) in (0, steps_before):
        time.sleep(0.005)


def kill_once(
    folder: Path, chance: random.Random, aimed: bool, start_seconds: float
) -> dict[str, Any]:
    """Start, wait for a random moment, kill.

    Args:
        folder: Of the run.
        chance: Where the moment comes from.
        aimed: Whether it follows progress.
        start_seconds: How long a start takes.

    Returns:
        When that was, and what was found in the folder.
    """
    steps_before = len(read_log(folder))
    begin = time.monotonic()
    process = start(folder)
    if aimed:
        wait_for_progress(folder, process, steps_before)
    longest_wait = 0.4 if aimed else 1.5 * start_seconds
    time.sleep(chance.uniform(0, longest_wait))
    assert process.poll() is None, "the run ended before it was killed: give it more EPOCHS"
    process.send_signal(signal.SIGKILL)
    assert process.wait() != 0
    return {
        "aimed": aimed,
        "seconds": round(time.monotonic() - begin, 2),
        "step": len(read_log(folder)),
        "partial": any(folder.glob("*.partial")) or any(folder.glob(".*.partial")),
        "last": (folder / checkpoint.LAST).exists(),
    }


class Outcome(NamedTuple):
    """What a run leaves, as far as it can be compared."""

    sha256: str  # of the encoder's weights
    log: list[dict[str, Any]]  # without what a clock has measured


def outcome(folder: Path) -> Outcome:
    """Read what a run has left."""
    weights = (folder / "encoder.safetensors").read_bytes()
    log = []
    for record in read_log(folder):
        log.append({key: value for key, value in record.items() if key not in CLOCK})
    return Outcome(hashlib.sha256(weights).hexdigest(), log)


def record_of(
    moments: list[dict], whole: Outcome, killed: Outcome, start_seconds: float
) -> dict[str, Any]:
    """Return the record that the site shows."""
    during_a_save = 0
    for moment in moments:
        if moment["step"] and (moment["partial"] or not moment["last"]):
            during_a_save += 1
    return {
        "kills": len(moments),
        "same_weights": whole.sha256 == killed.sha256,
        "same_log": whole.log == killed.log,
        "steps": len(whole.log),
        "killed_during_a_save": during_a_save,
        "sha256": whole.sha256,
        "start_seconds": round(start_seconds, 1),
        "recipe": RECIPE,
        "seed": SEED,
        "moments": moments,
        "command": records.command("kill"),
        **machine(threads=1),
    }


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(tmp_path):
    chance = random.Random(SEED)
    start_seconds = run_undisturbed(tmp_path / "whole")
    moments = []
    for i in range(KILLS):
        moment = kill_once(tmp_path / "killed", chance, i % 2 == 1, start_seconds)
        moments.append(moment)
        print(f"kill {i + 1}: {moment}", file=sys.stderr, flush=True)
    assert start(tmp_path / "killed").wait() == 0

    whole = outcome(tmp_path / "whole")
    killed = outcome(tmp_path / "killed")
    records.write("kill", record_of(moments, whole, killed, start_seconds))
    assert killed.sha256 == whole.sha256
    assert killed.log == whole.log
