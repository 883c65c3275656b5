"""What the benchmarks share: calls that take turns, their ratios and memory, and records written whole or not at all.

A record of `curves` (see `record`) is what the page "How fast, how right" draws: each of its panels has one line per
contestant over a growing size.
"""

import contextlib
import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def command():
    """What was called, as somebody else would type it: without this machine's folders."""
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def cpu_model():
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write_atomically(path, record):
    """Write a record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(part, path)


def take_turns(calls, turns=7, least=0.02):
    """Time every call of {name: call} by turns; return {name: seconds a call, one number a turn}.

    A turn repeats a short call until `least` seconds have passed; a first turn, not counted, warms up."""
    seconds = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            count, start = 0, time.perf_counter()
            while not count or time.perf_counter() - start < least:
                call()
                count += 1
            seconds[name] += [(time.perf_counter() - start) / count] * (turn > 0)
            print(f"\rturn {turn} of {turns}: {name:40}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return seconds


def against(seconds, ours):
    """Summarize what `take_turns` returned: medians, and how many times faster `ours` was, turn against turn."""
    rows = {}
    for name, times in seconds.items():
        ratios = sorted(theirs / mine for theirs, mine in zip(times, seconds[ours], strict=True))
        rows[name] = dict(
            median_s=statistics.median(times),
            min_s=min(times),
            max_s=max(times),
            times=statistics.median(ratios),
            fewest=ratios[0],
            most=ratios[-1],
        )
    return rows


def peak_mb(call):
    """Return the megabytes that a call takes at its peak beyond what it found; None where Linux does not tell."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    read = lambda key: int(status.read_text().split(key + ":")[1].split()[0]) / 1024
    call()  # what a library loads or keeps at its first call is not the price of a call
    gc.collect()
    with contextlib.suppress(
        OSError, AttributeError
    ):  # freed memory that glibc keeps would hide what a call takes
        ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")  # VmHWM starts again from here
    before = read("VmRSS")
    call()
    return max(0.0, read("VmHWM") - before)


def goal(sentence, least, found, why=""):
    """A number to reach, what was found, and if it was missed why."""
    reached = bool(found >= least)
    print(
        f"{'✓' if reached else '✗'} {sentence}: {found:.3g}, expected {least:g} or more", flush=True
    )
    return dict(sentence=sentence, least=least, found=found, reached=reached) | (
        dict(why=why) if why else {}
    )


def machine(*packages, threads=None):
    """Versions of Python, torch and the packages, and the hardware."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", *packages)}
    return dict(
        versions=dict(python=platform.python_version()) | versions,
        hardware=dict(
            cpu=cpu_model(),
            cpus=os.cpu_count(),
            threads=threads or torch.get_num_threads(),
            load_average=round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        ),
    )


def record(name, question, panels, goals=(), packages=(), path=None, **more):
    """Write benchmarks/results/NAME.json.

    panels: [dict(title, size, unit, ours, curves)]. size: what grows, in words; unit: "seconds a call", say; curves:
    {contestant: [dict(at=size, a row of `against`, memory_mb=peak_mb(...), anything more)]}, `ours` among them."""
    found = dict(
        question=question,
        command=command(),
        panels=panels,
        goals=list(goals),
        **more,
        **machine(*packages),
    )
    write_atomically(path or RESULTS / f"{name}.json", found)
    for panel in panels:
        print(f"\n{panel['title']}: how many times faster {panel['ours']} is, by {panel['size']}")
        for contestant, rows in panel["curves"].items():
            print(
                f"  {contestant:32}"
                + "  ".join(f"{row['at']:,}: {row['times']:.2f}" for row in rows)
            )
    return found
