"""Estimate how long each lesson takes on a T4 at its gpu profile, from counts of operations.

Run: OMP_NUM_THREADS=1 python -m scripts.t4_lessons [NN ...]    (minutes a lesson, on any CPU)

It runs a lesson's code at the gpu profile. Of each training only the first steps are made; what
they launch and compute is counted and multiplied by the number of steps, and `after_step` is still
called at each, so that the cells that follow find what they need. The features of networks are
computed in full, and counted. An operation on a T4 takes the largest of its launch, its arithmetic
and its bytes. Everything else (figures, probes, loops of a lesson's own) is taken as the seconds it
needs here, on one thread. Claims mean nothing in such a run.

It is an estimate, and the record says so: nothing of it was measured on a T4.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.shared import RESULTS, machine
from replearn.files import write_json
from replearn.lesson.lesson import EVERY_LESSON
from scripts.gpu import ROOT, code_of_lesson

PATH = RESULTS / "t4_lessons.json"
STEPS = 3  # of a training that are made
MOST_MINUTES = 3.0

# A T4 by its data sheet, at the share of it that convolutions of this size are guessed to reach.
# A launch, with Python and autograd around it, took 27 microseconds beside an H200: 16 ms for the
# 595 operations that `T4` counts in a step of the ResNet-18 (2026-11-27). Colab's processor is
# guessed to need one and a half times as long.
LAUNCH_SECONDS = 40e-6
FLOPS = 0.3 * 65e12
BYTES = 0.6 * 320e9


class T4(TorchDispatchMode):
    """Adds up what the operations inside a with block would take on a T4."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = 0
        self.flops = 0
        self.seconds = 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        """Run an operation of PyTorch and add its estimate; a view of a tensor launches nothing."""
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        if function.is_view:
            return output
        outputs = output if isinstance(output, tuple | list) else (output,)
        tensors = [x for x in (*args, *outputs) if isinstance(x, torch.Tensor)]
        moved = sum(x.numel() * x.element_size() for x in tensors)
        count = flop_registry.get(function.overloadpacket)
        flops = count(*args, **kwargs, out_val=output) if count is not None else 0
        self.launches += 1
        self.flops += flops
        self.seconds += max(LAUNCH_SECONDS, flops / FLOPS, moved / BYTES)
        return output


class Account:
    """What a lesson does on the device, and the seconds here that stand for nothing on a T4."""

    def __init__(self) -> None:
        self.trainings: list[dict[str, float]] = []
        self.features = 0.0  # seconds on a T4
        self.taken_out = 0.0  # seconds here, of what was counted

    @contextmanager
    def counting(self) -> Iterator[T4]:
        """Count what a with block launches; its seconds here are taken out."""
        started = time.perf_counter()
        with T4() as t4:
            yield t4
        self.taken_out += time.perf_counter() - started

    def add_training(self, steps: int, counted: T4, made: int) -> None:
        """Add a training of so many steps, of which some were made and counted."""
        self.trainings.append(
            {
                "steps": steps,
                "launches_a_step": counted.launches / made,
                "gflop_a_step": counted.flops / made / 1e9,
                "seconds": counted.seconds / made * steps,
            }
        )


def short_fit(fit: Callable[..., dict], account: Account) -> Callable[..., dict]:
    """Return `train.fit` that makes the first steps only, and calls `after_step` for all."""

    def fit_shortly(*args: Any, steps: int, after_step: Any = None, **options: Any) -> dict:
        made = min(steps, STEPS)
        with account.counting() as t4:
            history = fit(*args, steps=made, **options)
        account.add_training(steps, t4, made)
        recorded: dict[str, list] = {}
        for step in range(steps):
            for name, value in ((after_step and after_step(step)) or {}).items():
                recorded.setdefault(name, []).append(value)
        whole = {name: values + values[-1:] * (steps - made) for name, values in history.items()}
        return whole | recorded

    return fit_shortly


def short_train_step(train_step: Callable, account: Account) -> Callable:
    """Return the engine's step, which after the first few steps of a run only counts them."""
    counted: dict[int, tuple[T4, torch.Tensor]] = {}

    def step_shortly(run: Any) -> torch.Tensor:
        if run.step - run.start >= STEPS and id(run) in counted:
            run.step += 1
            return counted[id(run)][1]
        with account.counting() as t4:
            loss = train_step(run)
        if run.step - run.start == STEPS:
            counted[id(run)] = (t4, loss)
            account.add_training(run.steps - run.start, t4, 1)
        return loss

    return step_shortly


def counted_features(extract: Callable, account: Account) -> Callable:
    """Return `probe.extract_features`, which also counts."""

    def extract_and_count(*args: Any, **options: Any) -> torch.Tensor:
        with account.counting() as t4:
            features = extract(*args, **options)
        account.features += t4.seconds
        return features

    return extract_and_count


def run_lesson(number: str, written: Path) -> None:
    """Run a lesson's code in this process, and write its account to a file."""
    from replearn import probe, train
    from replearn.pretrain import loop

    account = Account()
    # The casts of mixed precision are launches, too.
    train.amp_dtype = lambda device: torch.bfloat16
    train.fit = short_fit(train.fit, account)
    loop.train_step = short_train_step(loop.train_step, account)
    probe.extract_features = counted_features(probe.extract_features, account)

    started = time.perf_counter()
    error = None
    try:
        exec(compile(code_of_lesson(number), f"<lesson {number}>", "exec"), {"__name__": "lesson"})
    except Exception as problem:  # the account of what came before it is still worth something
        error = f"{type(problem).__name__}: {problem}"[:300]
    elsewhere = time.perf_counter() - started - account.taken_out
    trainings = sum(training["seconds"] for training in account.trainings)
    write_json(
        written,
        {
            "trainings": len(account.trainings),
            "steps": sum(training["steps"] for training in account.trainings),
            "launches": sum(t["steps"] * t["launches_a_step"] for t in account.trainings),
            "seconds_of_trainings": round(trainings, 1),
            "seconds_of_features": round(account.features, 1),
            "seconds_of_the_rest_here": round(elsewhere, 1),
            "minutes": round((trainings + account.features + elsewhere) / 60, 2),
            "stopped_by": error,
            "longest": sorted(account.trainings, key=lambda t: -t["seconds"])[:3],
        },
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Estimate lessons, each in a process of its own; return 1 if one takes too long."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("lessons", nargs="*", metavar="NN", help="numbers (default: all)")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    numbers = args.lessons or list(EVERY_LESSON)
    unknown = sorted(set(numbers) - set(EVERY_LESSON))
    if unknown:
        sys.exit(f"error: no lesson {', '.join(unknown)}; there are {', '.join(EVERY_LESSON)}")
    if args.here is not None:
        run_lesson(numbers[0], args.here)
        return 0

    variables = {**os.environ, "REPLEARN_PROFILE": "gpu", "REPLEARN_STRICT": "0"}
    variables |= {"REPLEARN_STATIC": "1", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    variables.pop("REPLEARN_DATA", None)
    record = json.loads(PATH.read_text("utf-8")) if PATH.exists() else {"lessons": {}}
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "account.json"
            command = [sys.executable, "-m", "scripts.t4_lessons", number, "--here", str(written)]
            subprocess.run(command, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, check=True)
            found = json.loads(written.read_text("utf-8"))
        record["lessons"][number] = found
        print(f"{number}: about {found['minutes']:.1f} minutes on a T4", found["stopped_by"] or "")
        record |= {
            "what": "an estimate from counts of operations, not measured on a T4",
            "command": "python -m scripts.t4_lessons",
            "assumed": {"launch_seconds": LAUNCH_SECONDS, "flops": FLOPS, "bytes": BYTES},
            "hardware": machine(),
        }
        record["lessons"] = dict(sorted(record["lessons"].items()))
        write_json(PATH, record)
    slow = [n for n in numbers if record["lessons"][n]["minutes"] > MOST_MINUTES]
    if slow:
        print(f"more than {MOST_MINUTES:g} minutes: lessons {', '.join(slow)}")
    return int(bool(slow))


if __name__ == "__main__":
    sys.exit(main())
