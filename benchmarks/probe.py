"""LinearProbe and knn_accuracy against scikit-learn, on the same features, side by side.

Run: python benchmarks/probe.py      (some minutes; writes benchmarks/results/probe.json)
Standardized N x 512 features of 10 classes: those of the shipped SimCLR encoder for N shapes, and synthetic ones. All
fit one objective, mean cross-entropy + l2/2 ||W||^2, to the same float32 features and take turns in one process, on one
thread unless told otherwise. scikit-learn runs twice: at its default tolerance, and at the loosest of 1e-4 to 1e-7
that brings its objective within 1.0001 of LinearProbe's. Objectives are recomputed in float64. Exits with an error
unless LinearProbe is 2 times faster, or more, than the second on 10,000 SimCLR features, its objectives never exceed
1.0001 times scikit-learn's, and the kNN accuracies agree.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import sklearn
import torch
import torch.nn.functional as F
from shared import cpu_model, write_atomically
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from replearn import data, models
from replearn.probe import LinearProbe, extract_features, knn_accuracy

RESULTS = Path(__file__).parent / "results" / "probe.json"
L2, DIMENSIONS, CLASSES = 1e-3, 512, 10


def synthetic_features(n, seed=0):
    """ReLU features driven by 64 causes, the classes among them: correlated, and overlapping."""
    fixed, g = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed + 1)
    centers, mix = torch.randn(CLASSES, 64, generator=fixed), torch.randn(64, DIMENSIONS, generator=fixed) / 8
    y = torch.randint(CLASSES, (n,), generator=g)
    cause = 0.4 * centers[y] + torch.randn(n, 64, generator=g)
    z = (cause @ mix + 0.5 * torch.randn(n, DIMENSIONS, generator=g)).relu()
    return (z - z.mean(0)) / z.std(0), y


def encoder_features(n, split="train"):
    pictures = data.load("shapes", split=split, size=n)
    z = extract_features(models.load("shapes_simclr"), pictures.images)
    return (z - z.mean(0)) / z.std(0).clamp(min=1e-3), pictures.labels


def objective(model, z, y):
    coef, intercept = torch.as_tensor(model.coef_).double(), torch.as_tensor(model.intercept_).double()
    return float(F.cross_entropy(z.double() @ coef.T + intercept, y) + L2 / 2 * coef.square().sum())


def take_turns(calls, turns, label):
    """Run the calls by turns; return {name: {median_s, min_s, max_s, median_cpu_s}} and the last results."""
    wall, cpu, last = {name: [] for name in calls}, {name: [] for name in calls}, {}
    for turn in range(turns + 1):  # the first turn warms up and is not counted
        for name, call in calls.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            last[name] = call()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
            print(f"{label}  turn {turn}/{turns}  {name:30}  {wall[name][-1]:7.3f} s", file=sys.stderr, flush=True)
    return {
        name: {"calls": turns, "median_s": statistics.median(w[1:]), "min_s": min(w[1:]), "max_s": max(w[1:]),
               "median_cpu_s": statistics.median(cpu[name][1:])}
        for name, w in wall.items()
    }, last  # fmt: skip


def with_ratios(record):
    """Add how many times faster replearn is than each other entry, in wall and in CPU seconds."""
    ours = record["replearn"]
    for name, entry in record.items():
        if name != "replearn":
            entry["times_replearn"] = entry["median_s"] / ours["median_s"]
            entry["times_replearn_in_cpu_seconds"] = entry["median_cpu_s"] / ours["median_cpu_s"]
            if "objective" in entry:
                entry["objective_of_replearn_over_this"] = ours["objective"] / entry["objective"]
    return record


def linear(z, y, test, turns, label):
    arrays = z.numpy(), y.numpy()

    def ours():
        return LinearProbe(l2=L2, standardize=False).fit(z, y)

    def theirs(tolerance=1e-4):
        return LogisticRegression(C=1 / (len(z) * L2), tol=tolerance, max_iter=10_000).fit(*arrays)

    goal = 1.0001 * objective(ours(), z, y)
    matched = next(tol for tol in (1e-4, 1e-5, 1e-6, 1e-7) if objective(theirs(tol), z, y) <= goal or tol == 1e-7)
    calls = {"replearn": ours, "scikit-learn, default": theirs,
             "scikit-learn, equal objective": lambda: theirs(matched)}
    record, fitted = take_turns(calls, turns, label)
    predicted = {name: np.asarray(fitted[name].predict(test if name == "replearn" else test.numpy())) for name in calls}
    for name, model in fitted.items():
        record[name]["objective"] = objective(model, z, y)
        record[name]["same_test_predictions"] = float((predicted[name] == predicted["replearn"]).mean())
        if name != "replearn":
            record[name] |= {"tolerance": model.tol, "steps": int(model.n_iter_[0])}
    return with_ratios(record)


def knn(z, y, test, y_test, turns, k=20, temperature=0.1):
    arrays = [t.numpy() for t in (z, y, test, y_test)]

    def theirs():
        model = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / temperature))
        return model.fit(*arrays[:2]).score(*arrays[2:])

    calls = {"replearn": lambda: knn_accuracy(z, y, test, y_test, k=k, temperature=temperature), "scikit-learn": theirs}
    record, accuracy = take_turns(calls, turns, "kNN")
    for name, value in accuracy.items():
        record[name]["accuracy"] = float(value)
    return with_ratios(record)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    z, y = encoder_features(10_000)
    test, y_test = encoder_features(2_000, "test")
    fits = {}
    with threadpool_limits(a.threads):
        for n in (1_000, 3_000, 10_000):
            fits[f"SimCLR features, N = {n}"] = linear(z[:n], y[:n], test, a.turns, f"SimCLR features, N = {n}")
        synthetic, (other, _) = synthetic_features(10_000), synthetic_features(2_000, seed=1)
        fits["synthetic features, N = 10000"] = linear(*synthetic, other, a.turns, "synthetic features, N = 10000")
        neighbors = knn(z, y, test, y_test, a.turns)
    record = {
        "question": "linear and kNN probes on N x 512 float32 features, 10 classes: seconds, and objectives reached",
        "command": " ".join(["python benchmarks/probe.py", *sys.argv[1:]]),
        "l2": L2,
        "linear": fits,
        "knn, 10000 against 2000": neighbors,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
                     "scikit-learn": sklearn.__version__},
        "hardware": {"cpu": cpu_model(), "cpus": os.cpu_count(), "threads_used": a.threads,
                     "load_average": [round(v, 1) for v in os.getloadavg()] if hasattr(os, "getloadavg") else None},
    }  # fmt: skip
    write_atomically(a.out, record)
    print(json.dumps(record, indent=2))
    times = fits["SimCLR features, N = 10000"]["scikit-learn, equal objective"]["times_replearn"]
    worst = max(e.get("objective_of_replearn_over_this", 0) for fit in fits.values() for e in fit.values())
    gap = abs(neighbors["replearn"]["accuracy"] - neighbors["scikit-learn"]["accuracy"])
    if times < 2 or worst > 1.0001 or gap > 1e-3:
        sys.exit(f"expected 2 times, 1.0001, 0.001: found {times:.2f} times, objective {worst:.6f}, kNN gap {gap:.4f}")


if __name__ == "__main__":
    main()
