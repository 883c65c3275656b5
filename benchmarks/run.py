"""All benchmarks that suit this machine, one after the other; `make bench` runs it.

Run: python benchmarks/run.py              (half an hour; each writes its file in
benchmarks/results/)
     python benchmarks/run.py cka cca      (two of them)
Timings need a machine that does nothing else meanwhile. A goal that is missed, or a benchmark that
breaks, is told in the table at the end, and the rest goes on. Exits with an error if a benchmark
broke off without a result.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = Path(os.environ.get("REPLEARN_RESULTS") or HERE / "results")  # as in shared.py
MINUTES = {  # on two CPU cores
    "augment": 2,
    "contrast": 2,
    "cka": 2,
    "cca": 2,
    "probe": 2,
    "knn": 1,
    "step": 4,
    "loader": 2,
    "export": 2,
    "correctness": 1,
}
LEFT_OUT = {
    "cold_start": "downloads gigabytes into empty caches",
    "gpu": "needs a GPU; bash tests/gpu.sh throughput runs it",
    "serve": "needs a second interpreter with schemathesis (--schemathesis)",
    "fuzz": "is the part of serve that runs in that interpreter",
}


def chosen(names: Sequence[str]) -> list[str]:
    """Return the benchmarks to run, in order.

    Raises:
        SystemExit: A name is none of them, or one that is left out; with a sentence.
    """
    for name in names:
        if name in LEFT_OUT:
            how = f"python benchmarks/{name}.py --help says how"
            sys.exit(f"{name} {LEFT_OUT[name]}: start it yourself, {how}")
        if name not in MINUTES:
            sys.exit(f"no benchmark {name}; expected some of {', '.join(MINUTES)}")
    return list(names) or list(MINUTES)


def written(since: float) -> list[dict[str, Any]]:
    """Return the results that were written after `since`, in seconds since 1970."""
    paths = [path for path in sorted(RESULTS.glob("*.json")) if path.stat().st_mtime >= since]
    return [json.loads(path.read_text("utf-8")) for path in paths]


def outcome(code: int, results: Sequence[dict[str, Any]]) -> tuple[bool, str]:
    """Say what came of a benchmark.

    Args:
        code: Its exit status.
        results: What it wrote.

    Returns:
        Whether it broke, and a text: the goals that were reached, and those that were missed.
    """
    if not results:
        return True, f"✗ broke off without a result (exit {code})"
    goals = [goal for result in results for goal in result.get("goals", ())]
    missed = [goal["sentence"] for goal in goals if not goal["reached"]]
    text = "measured"
    if goals:
        text = f"{len(goals) - len(missed)} of {len(goals)} goals reached"
    for sentence in missed:
        text += f"\n{'':28}missed: {sentence}"
    if code and not missed:
        text += f" (exit {code})"
    mark = "✗" if code or missed else "✓"
    return False, f"{mark} {text}"


def run(name: str) -> tuple[bool, str]:
    """Run one benchmark; return whether it broke, and its row of the table."""
    started = time.time()
    clock = time.perf_counter()
    script = HERE / f"{name}.py"
    code = subprocess.run([sys.executable, str(script)], cwd=HERE.parent).returncode
    broke, text = outcome(code, written(started))
    return broke, f"{name:14}{time.perf_counter() - clock:9.0f} s  {text}"


def main(names: Sequence[str]) -> int:
    """Run the benchmarks of these names, or all; return the exit status."""
    benchmarks = chosen(names)
    rows: list[str] = []
    any_broke = False
    if not names:
        print("left out:")
        for name, why in LEFT_OUT.items():
            print(f"  {name}: {why}")
    try:
        for i, name in enumerate(benchmarks):
            minutes_left = sum(MINUTES[later] for later in benchmarks[i:])
            about = f"about {MINUTES[name]} of {minutes_left} minutes left"
            print(f"\n=== {i + 1} of {len(benchmarks)}: {name}, {about}", flush=True)
            broke, row = run(name)
            any_broke = any_broke or broke
            rows.append(row)
    except KeyboardInterrupt:
        rows.append(f"stopped before the end; not run: {', '.join(benchmarks[len(rows) :])}")
    print("\n" + "\n".join(rows))
    return int(any_broke)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
