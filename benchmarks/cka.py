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


def cpu_model():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write_atomically(path, record):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(part, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    a = parser.parse_args()

    torch.set_num_threads(a.threads)
    x, y = features(a.rows, a.columns, torch.Generator().manual_seed(0))
    exact = reference(x, y)
    forms = {"linear_cka": linear_cka, "gram": gram_cka, "gram, lean": lean_gram_cka}
    seconds, cpu_seconds, values = {name: [] for name in forms}, {name: [] for name in forms}, {}
    for turn in range(a.repeats + 1):  # the first turn warms up and is not counted
        for name, form in forms.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            values[name] = form(x, y)
            passed, cpu_passed = time.perf_counter() - start, time.process_time() - cpu_start
            if turn:
                seconds[name].append(passed)
                cpu_seconds[name].append(cpu_passed)
            print(f"turn {turn}/{a.repeats}  {name:10}  {passed:7.3f} s", file=sys.stderr)

    def summary(name):
        s = seconds[name]
        ratios = [mine / ours for mine, ours in zip(s, seconds["linear_cka"], strict=True)]  # of the same turn
        return {"what": forms[name].__doc__.splitlines()[0], "median_s": statistics.median(s), "min_s": min(s),
                "max_s": max(s), "median_cpu_s": statistics.median(cpu_seconds[name]), "value": values[name], "error": abs(values[name] - exact),
                "times_the_time_of_linear_cka": {"median": statistics.median(ratios), "min": min(ratios),
                                                 "max": max(ratios)}}
    record = {
        "question": f"linear CKA of two {a.rows} x {a.columns} float32 matrices: seconds, and error against float64",
        "command": " ".join(["python benchmarks/cka.py", *sys.argv[1:]]),
        "forms": {name: summary(name) for name in forms},
        "float64_value": exact,
        "turns": a.repeats,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "hardware": {"cpu": cpu_model(), "cpus": os.cpu_count(), "threads_used": torch.get_num_threads(),
                     "load_average": [round(v, 1) for v in os.getloadavg()] if hasattr(os, "getloadavg") else None},
    }
    write_atomically(a.out, record)
    print(json.dumps(record, indent=2))
    times, error = record["forms"]["gram"]["times_the_time_of_linear_cka"]["median"], abs(values["linear_cka"] - exact)
    if times < 20 or error > 1e-4:
        sys.exit(f"expected 20 times faster and an error under 1e-4, found {times:.1f} times and {error:.1e}")


if __name__ == "__main__":
    main()
