"""Nothing lost? Kill the training with SIGKILL at random moments and compare the weights in the end, bit by bit.

Run: python benchmarks/kill.py      (5 to 20 minutes; writes benchmarks/results/kill.json)
One run of `python -m replearn pretrain` is left alone, another is killed 24 times and each time started again.
A checkpoint is due after every step, so that many kills hit a save. Half of them come at any moment after the start,
imports included, half within 0.4 s after progress was seen. One thread, on the CPU. Exits with an error unless the
encoders' files are the same bytes and the logs the same records, each step once.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from replearn.pretrain import checkpoint, read_log

RESULTS = Path(__file__).parent / "results" / "kill.json"
RECIPE = "--recipe shapes --size 512 --test-size 100 --width 8 --hidden 64 --batch-size 64 --queue 256 --n-small 2"
OFTEN = "--log-every 1 --knn-every 10 --checkpoint-seconds 0 --device cpu --epochs"


def start(folder, epochs):
    """Start the command in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "replearn",
        "pretrain",
        "--folder",
        str(folder),
        *RECIPE.split(),
        *OFTEN.split(),
        str(epochs),
    ]
    environment = os.environ | dict(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", REPLEARN_STATIC="1")
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def kill_once(folder, epochs, chance, aimed, start_seconds):
    """Start, wait for a random moment, kill; return what was found, or None if the run had ended before."""
    seen, begin, process = len(read_log(folder)), time.monotonic(), start(folder, epochs)
    while aimed and process.poll() is None and len(read_log(folder)) in (0, seen):
        time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.4 if aimed else 1.5 * start_seconds))
    ended = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    if process.wait() == 0 or ended:
        return None
    return dict(
        aimed=aimed,
        seconds=round(time.monotonic() - begin, 2),
        step=len(read_log(folder)),
        partial=bool(list(folder.glob("*.partial"))),
        last=(folder / checkpoint.LAST).exists(),
    )


def outcome(folder):
    """Return the SHA-256 of the encoder's weights, and the log without what a clock has measured."""
    weights = hashlib.sha256((folder / "encoder.safetensors").read_bytes()).hexdigest()
    clock = ("seconds", "images_per_second")
    return weights, [
        {k: v for k, v in record.items() if k not in clock} for record in read_log(folder)
    ]


def main():
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance, kills = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as place:
        whole, killed = Path(place) / "whole", Path(place) / "killed"
        begin, process = time.monotonic(), start(whole, args.epochs)
        while not read_log(whole) and process.poll() is None:
            time.sleep(0.01)
        start_seconds = time.monotonic() - begin
        assert process.wait() == 0, "the undisturbed run failed"
        while len(kills) < args.kills:
            found = kill_once(killed, args.epochs, chance, len(kills) % 2 == 1, start_seconds)
            if found is None:
                sys.exit(f"the run ended after {len(kills)} kills: give it more --epochs")
            kills.append(found)
            print(f"kill {len(kills)}: {found}", file=sys.stderr, flush=True)
        assert start(killed, args.epochs).wait() == 0, "the last start failed"
        (weights, log), (weights_killed, log_killed) = outcome(whole), outcome(killed)
    result = dict(
        kills=len(kills),
        same_weights=weights == weights_killed,
        same_log=log == log_killed,
        steps=len(log),
        killed_during_a_save=sum(k["partial"] or not k["last"] for k in kills if k["step"]),
        sha256=weights,
        start_seconds=round(start_seconds, 1),
        recipe=RECIPE,
        seed=args.seed,
        moments=kills,
        machine=platform.machine(),
        python=platform.python_version(),
        torch=torch.__version__,
    )
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(
        json.dumps({name: value for name, value in result.items() if name != "moments"}, indent=1)
    )
    sys.exit(not (result["same_weights"] and result["same_log"]))


if __name__ == "__main__":
    main()
