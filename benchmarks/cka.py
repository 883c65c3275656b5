"""Linear CKA of two 10,000 x 512 matrices: the package's feature-space form against the Gram form, side by side.

Run: python benchmarks/cka.py      (one to three minutes, 2 GB of memory; writes benchmarks/results/cka.json)
All forms get the same float32 features and take turns in one process, on one thread unless told otherwise; the
reference is the feature form in float64. Exits with an error unless linear_cka is within 1e-4 of it and 20 times
faster, or more, than the Gram form as it is usually written.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from shared import cpu_model, write_atomically

from replearn.metrics import linear_cka

RESULTS = Path(__file__).parent / "results" / "cka.json"


def gram_cka(x, y):
    """The definition, as it is usually written: HSIC of the centered (N, N) Gram matrices."""
    k, m = (g - g.mean(0) - g.mean(1, keepdim=True) + g.mean() for g in (x @ x.T, y @ y.T))
    return float((k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt())


def lean_gram_cka(x, y):
    """The quickest Gram form we know: center the features instead, and never copy a Gram matrix."""
    k, m = ((v - v.mean(0)) @ (v - v.mean(0)).T for v in (x, y))
    norms = torch.linalg.vector_norm(k) * torch.linalg.vector_norm(m)
    return float(k.mul_(m).sum() / norms)


def reference(x, y):
    """The feature form, line for line, in float64."""
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    return float((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


def features(n, p, generator):
    """Two layers' worth of ReLU features that share 64 causes: correlated, and with a mean, as real ones."""
    cause = torch.randn(n, 64, generator=generator)
    return [(cause @ torch.randn(64, p, generator=generator) / 8 + torch.randn(n, p, generator=generator)).relu()
            for _ in range(2)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    a = parser.parse_args()

    torch.set_num_threads(a.threads)
    x, y = features(a.rows, a.columns, torch.Generator().manual_seed(0))
    exact = reference(x, y)
    forms = {"linear_cka": (linear_cka, 5), "gram": (gram_cka, 1), "gram, lean": (lean_gram_cka, 1)}  # calls a turn
    wall, cpu, values = ({name: [] for name in forms} for _ in range(3))
    for turn in range(a.turns + 1):  # the first turn warms up and is not counted
        for name, (form, calls) in forms.items():
            for _ in range(calls):
                wall_start, cpu_start = time.perf_counter(), time.process_time()
                values[name] = form(x, y)
                wall[name].append(time.perf_counter() - wall_start)
                cpu[name].append(time.process_time() - cpu_start)
            print(f"turn {turn}/{a.turns}  {name:10}  {statistics.median(wall[name][-calls:]):7.3f} s", file=sys.stderr)

    def summary(name):
        form, calls = forms[name]
        w, c = wall[name][calls:], cpu[name][calls:]
        return {
            "what": form.__doc__.splitlines()[0], "calls": len(w), "median_s": statistics.median(w), "min_s": min(w),
            "max_s": max(w), "median_cpu_s": statistics.median(c), "value": values[name],
            "error": abs(values[name] - exact),
            "times_linear_cka": statistics.median(w) / statistics.median(wall["linear_cka"][5:]),
            "times_linear_cka_in_cpu_seconds": statistics.median(c) / statistics.median(cpu["linear_cka"][5:]),
        }

    record = {
        "question": f"linear CKA of two {a.rows} x {a.columns} float32 matrices: seconds, and error against float64",
        "command": " ".join(["python benchmarks/cka.py", *sys.argv[1:]]),
        "forms": {name: summary(name) for name in forms},
        "float64_value": exact,
        "turns": a.turns,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "hardware": {"cpu": cpu_model(), "cpus": os.cpu_count(), "threads_used": torch.get_num_threads(),
                     "load_average": [round(v, 1) for v in os.getloadavg()] if hasattr(os, "getloadavg") else None},
    }
    write_atomically(a.out, record)
    print(json.dumps(record, indent=2))
    times, error = record["forms"]["gram"]["times_linear_cka"], abs(values["linear_cka"] - exact)
    if times < 20 or error > 1e-4:
        sys.exit(f"expected 20 times faster and an error under 1e-4, found {times:.1f} times and {error:.1e}")


if __name__ == "__main__":
    main()
