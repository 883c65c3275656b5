"""Nothing lost? Training is killed with SIGKILL, at random moments and at every write.

Five to twenty minutes. One run of `python -m replearn pretrain` is left alone, another is killed 24
times and each time started again. A checkpoint is due after every step. Half of the kills come at
any moment after the start, imports included, half within 0.4 s after progress was seen. One thread,
on the CPU. The encoders' files have to be the same bytes and the logs the same records, each step
once.

A save takes milliseconds, and the steps around it seconds, so that kills at random hardly ever fall
into one. Therefore a small run is also killed at every moment of every write of its, by the hook
in `replearn.files`: before the new file is there, in the middle of it, after it, before its rename
and after that. With REPLEARN_RECORD=1 the results of both are written to
benchmarks/results/kill.json, each beside what is there of the other.

The kills at random moments can be made in pieces: with REPLEARN_KILLS=FOLDER they go on there, and
with REPLEARN_KILL_MINUTES=15 the test is skipped after so many minutes, says how many kills are
made, and wants to be run again.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import kills
import pytest
import records

from benchmarks.shared import RESULTS, machine
from replearn.__main__ import main
from replearn.files import write_json
from replearn.pretrain import checkpoint, read_log

pytestmark = pytest.mark.slow
KILLS = 24
EPOCHS = 40
SEED = 0
RECIPE = (
    "--recipe shapes --size 512 --test-size 100 --width 8 --hidden 64 --batch-size 64 --queue 256 "
    "--n-small 2"
)
# Of the run that is killed at every write: 8 steps, each with a save.
EPOCHS_OF_WRITES = 2
RECIPE_OF_WRITES = (
    "--recipe shapes --size 64 --test-size 40 --width 4 --hidden 16 --out 16 --batch-size 16 "
    "--queue 64"
)
OFTEN = "--log-every 1 --knn-every 10 --checkpoint-seconds 0 --device cpu"
RESULT = RESULTS / "kill.json"
MADE = "kills_made.json"
CLOCK = ("seconds", "images_per_second")  # of a log's records


def words(folder: Path, recipe: str, epochs: int) -> list[str]:
    """Return the words of the command after `python -m replearn`."""
    training = ["pretrain", "--folder", str(folder), "--epochs", str(epochs)]
    return [*training, *recipe.split(), *OFTEN.split()]


def start(folder: Path) -> subprocess.Popen:
    """Start the training in a process of its own."""
    command = [sys.executable, "-m", "replearn", *words(folder, RECIPE, EPOCHS)]
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


class Writes(NamedTuple):
    """What came of the kills at every write."""

    kills: list[kills.Kill]
    same_weights: bool
    same_log: bool


def kill_at_every_write(folder: Path) -> Writes:
    """Kill a short run at each moment of its writes, each time a new one, and go on with it."""

    def train(own_folder: Path) -> None:
        main(words(own_folder, RECIPE_OF_WRITES, EPOCHS_OF_WRITES))

    train(folder / "whole")
    whole = outcome(folder / "whole")
    done = []
    differ = {"weights": 0, "log": 0}
    for own_folder, kill in kills.kill_at_every_moment(folder, train):
        if kill is not None:
            done.append(kill)
            train(own_folder)
        found = outcome(own_folder)
        differ["weights"] += found.sha256 != whole.sha256
        differ["log"] += found.log != whole.log
        print(f"write {len(done)}: {kill}, {differ}", file=sys.stderr, flush=True)
    return Writes(done, not differ["weights"], not differ["log"])


def stored() -> dict[str, Any]:
    """Return the record as it was stored last, to which each test adds its own part."""
    return json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}


def kills_made(folder: Path) -> dict[str, Any]:
    """Return how long a start takes and which kills at random moments were made in a folder."""
    path = folder / MADE
    return (
        json.loads(path.read_text("utf-8"))
        if path.exists()
        else {"start_seconds": None, "moments": []}
    )


def record_of_moments(
    moments: list[dict], whole: Outcome, killed: Outcome, start_seconds: float
) -> dict[str, Any]:
    """Return what the site shows of the kills at random moments."""
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


def record_of_writes(writes: Writes) -> dict[str, Any]:
    """Return what the site shows of the kills at every write."""
    by_moment: dict[str, dict[str, int]] = {}
    for kill in writes.kills:
        of_file = by_moment.setdefault(kill.file, {})
        of_file[kill.moment] = of_file.get(kill.moment, 0) + 1
    return {
        "kills": len(writes.kills),
        "killed_during_a_save": sum(kill.file == checkpoint.LAST for kill in writes.kills),
        "same_weights": writes.same_weights,
        "same_log": writes.same_log,
        "recipe": RECIPE_OF_WRITES,
        "epochs": EPOCHS_OF_WRITES,
        "by_file_and_moment": by_moment,
    }


@pytest.mark.usefixtures("one_silent_thread")
def test_a_run_that_is_killed_at_every_write_ends_with_the_same_bytes(tmp_path):
    writes = kill_at_every_write(tmp_path)
    records.write("kill", stored() | {"writes": record_of_writes(writes)})
    assert writes.same_weights
    assert writes.same_log
    assert len(writes.kills) > 60


@pytest.mark.usefixtures("one_silent_thread")
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(tmp_path):
    folder = Path(os.environ.get("REPLEARN_KILLS") or tmp_path)
    ends = time.monotonic() + 60 * float(os.environ.get("REPLEARN_KILL_MINUTES", "inf"))
    made = kills_made(folder)
    moments = made["moments"]

    def keep_and_end_in_time() -> None:
        write_json(folder / MADE, made)
        if time.monotonic() > ends:
            pytest.skip(f"{len(moments)} of {KILLS} kills are made in {folder}: run it again")

    if made["start_seconds"] is None:
        shutil.rmtree(folder / "whole", ignore_errors=True)
        made["start_seconds"] = run_undisturbed(folder / "whole")
    start_seconds = made["start_seconds"]
    keep_and_end_in_time()
    for i in range(len(moments), KILLS):
        chance = random.Random(f"{SEED}, {i}")  # the same moments, in pieces or not
        moment = kill_once(folder / "killed", chance, i % 2 == 1, start_seconds)
        moments.append(moment)
        print(f"kill {i + 1}: {moment}", file=sys.stderr, flush=True)
        keep_and_end_in_time()
    assert start(folder / "killed").wait() == 0

    whole = outcome(folder / "whole")
    killed = outcome(folder / "killed")
    records.write("kill", stored() | record_of_moments(moments, whole, killed, start_seconds))
    assert killed.sha256 == whole.sha256
    assert killed.log == whole.log
