"""What all benchmarks and scripts share: timing by turns, memory, goals and records.

A benchmark is started as `python benchmarks/NAME.py` and imports this file as `shared`; a script is
started as `python -m scripts.NAME` and imports it as `benchmarks.shared`, and so do tests. Both
work because this file imports nothing from its own folder.

A record of `curves` (see `record`) is what the page "How fast, how right" draws: each of its panels
has one line per contestant over a growing size.
"""

import argparse
import contextlib
import ctypes
import gc
import importlib.metadata
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from replearn.files import write_json

# Where results go; another folder for a trial run that must not replace the stored measurements.
RESULTS = Path(os.environ.get("REPLEARN_RESULTS") or Path(__file__).parent / "results")


# --- what a result was measured with and by -------------------------------------------------------


def command() -> str:
    """Return what was called, as somebody else would type it: without this machine's folders."""
    script = Path(sys.argv[0])
    if script.parent.name == "scripts":
        words = ["python", "-m", f"scripts.{script.stem}"]
    else:
        words = ["python", f"benchmarks/{script.name}"]
    return shlex.join([*words, *sys.argv[1:]])


def cpu_model() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def load_average() -> float | None:
    """Return how many processes want a CPU, as the mean of a minute; None where this is unknown."""
    if not hasattr(os, "getloadavg"):  # Windows
        return None
    return round(os.getloadavg()[0], 1)


def machine(*packages: str, threads: int | None = None) -> dict[str, dict]:
    """Return the versions of Python, torch and the packages, and the hardware.

    Args:
        packages: Names of further packages.
        threads: Threads that were used; by default those that torch uses.

    Returns:
        `{"versions": ..., "hardware": ...}`, to be unpacked into a record.
    """
    versions = {"python": platform.python_version()}
    for name in ("torch", *packages):
        versions[name] = importlib.metadata.version(name)
    hardware = {
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "load_average": load_average(),
    }
    return {"versions": versions, "hardware": hardware}


# --- measuring ------------------------------------------------------------------------------------


def options(
    doc: str | None,
    *,
    turns: int,
    threads: int = 1,
    sizes: Sequence[int] = (),
    turns_help: str = "how often all contestants are timed",
) -> argparse.ArgumentParser:
    """Return a parser of the options that most benchmarks have.

    Args:
        doc: The benchmark's docstring, shown by --help.
        turns: Default of --turns.
        threads: Default of --threads.
        sizes: Default of --sizes; without any there is no such option.
        turns_help: What --turns means, where it is not the usual.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if sizes:
        parser.add_argument("--sizes", type=int, nargs="+", default=list(sizes))
    parser.add_argument("--turns", type=int, default=turns, help=turns_help)
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--out", type=Path, help="write the result there")
    return parser


def take_turns(
    calls: Mapping[str, Callable[[], Any]], turns: int = 7, least: float = 0.02
) -> dict[str, list[float]]:
    """Time every call by turns, so that a machine that is slow for a while is slow for all.

    Args:
        calls: `{name: function without arguments}`.
        turns: How often each is timed. One turn more, which is not counted, warms up.
        least: A short call is repeated within a turn until so many seconds have passed.

    Returns:
        `{name: seconds a call, one number a turn}`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            seconds_a_call = _seconds_a_call(call, least)
            if turn > 0:
                seconds[name].append(seconds_a_call)
            show_turn(turn, turns, name)
    print(file=sys.stderr)
    return seconds


def _seconds_a_call(call: Callable[[], Any], least: float) -> float:
    count = 0
    start = time.perf_counter()
    while count == 0 or time.perf_counter() - start < least:
        call()
        count += 1
    return (time.perf_counter() - start) / count


def show_turn(turn: int, turns: int, name: str) -> None:
    """Show how far a measurement has come, on the line that is there already."""
    print(f"\rturn {turn} of {turns}: {name:40}", end="", file=sys.stderr, flush=True)


def against(seconds: Mapping[str, Sequence[float]], ours: str) -> dict[str, dict[str, float]]:
    """Summarize what `take_turns` returned.

    Args:
        seconds: `{name: seconds a call, one number a turn}`.
        ours: The name that all others are compared with, turn against turn.

    Returns:
        `{name: row}`. A row holds the median, smallest and largest time, and in `times`, `fewest`
        and `most` how many times as long as ours it took: the median, least and most of the turns.
    """
    rows = {}
    for name, theirs in seconds.items():
        pairs = zip(theirs, seconds[ours], strict=True)
        ratios = sorted(their_time / our_time for their_time, our_time in pairs)
        rows[name] = {
            "median_s": statistics.median(theirs),
            "min_s": min(theirs),
            "max_s": max(theirs),
            "times": statistics.median(ratios),
            "fewest": ratios[0],
            "most": ratios[-1],
        }
    return rows


def peak_mb(call: Callable[[], Any]) -> float | None:
    """Return the megabytes that a call takes at its peak beyond what was in use before it.

    Linux keeps the peak of a process in VmHWM and can be told to start it again. Elsewhere the
    answer is None.
    """
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    call()  # what a library loads or keeps at its first call is not the price of a call
    gc.collect()
    _return_freed_memory()
    reset.write_text("5")  # VmHWM starts again from here
    before = _own_memory_mb("VmRSS")
    call()
    return max(0.0, _own_memory_mb("VmHWM") - before)


def _return_freed_memory() -> None:
    """Let glibc give back the memory that it keeps, which would hide what the next call takes."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _own_memory_mb(key: str) -> float:
    status = Path("/proc/self/status").read_text()
    kilobytes = status.split(f"{key}:")[1].split()[0]
    return int(kilobytes) / 1024


# --- records --------------------------------------------------------------------------------------


def goal(sentence: str, least: float, value: float, why: str = "") -> dict[str, Any]:
    """Print whether a number was reached, and return that as an entry of a record.

    Args:
        sentence: What is counted.
        least: The number to reach.
        value: What was measured.
        why: The reason, where it was missed.
    """
    reached = bool(value >= least)
    mark = "✓" if reached else "✗"
    print(f"{mark} {sentence}: {value:.3g}, expected {least:g} or more", flush=True)
    entry = {"sentence": sentence, "least": least, "found": value, "reached": reached}
    if why:
        entry["why"] = why
    return entry


def exit_if_missed(goals: Iterable[Mapping[str, Any]]) -> None:
    """End the program with an error if one of the goals was not reached."""
    if not all(entry["reached"] for entry in goals):
        sys.exit(1)


def record(
    name: str,
    question: str,
    panels: Sequence[Mapping[str, Any]],
    goals: Iterable[Mapping[str, Any]] = (),
    packages: Iterable[str] = (),
    path: Path | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Write benchmarks/results/NAME.json, and print how many times faster ours is.

    Args:
        name: The benchmark's name.
        question: What it answers.
        panels: Dicts with `title`; `size`, what grows, in words; `unit`, "seconds a call", say;
            `curves`, `{contestant: rows}`; and `ours`, one of the contestants. A row is one of
            `against` with `at`, the size, and perhaps `memory_mb` and more.
        goals: What `goal` returned.
        packages: Packages whose versions matter.
        path: Another file to write.
        more: Further entries of the record.

    Returns:
        What was written.
    """
    entries = {
        "question": question,
        "command": command(),
        "panels": list(panels),
        "goals": list(goals),
        **more,
        **machine(*packages),
    }
    write_json(path or RESULTS / f"{name}.json", entries)
    for panel in panels:
        print(f"\n{panel['title']}: how many times faster {panel['ours']} is, by {panel['size']}")
        for contestant, rows in panel["curves"].items():
            factors = [f"{row['at']:,}: {row['times']:.2f}" for row in rows]
            print(f"  {contestant:32}" + "  ".join(factors))
    return entries
