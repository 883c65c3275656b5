"""LinearProbe and knn_accuracy against scikit-learn, on the same features, side by side.

Run: python benchmarks/probe.py      (one to five minutes; writes benchmarks/results/probe.json)
N x 512 standardized ReLU features of 10 classes, N = 1,000, 3,000, 10,000. Both fit one objective, mean cross-entropy +
l2/2 ||W||^2, from the same float32 features and take turns in one process, on one thread unless told otherwise.
scikit-learn runs at its default tolerance with as many steps as it asks for; both objectives are then computed in
float64. Exits with an error unless LinearProbe is 2 times faster, or more, at N = 10,000, no objective of its own
exceeds 1.0001 times scikit-learn's, and the kNN accuracies agree.
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
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from replearn.probe import LinearProbe, knn_accuracy

RESULTS = Path(__file__).parent / "results" / "probe.json"
L2, DIMENSIONS, CLASSES = 1e-3, 512, 10


def features(n, seed=0):
    """ReLU features driven by 64 causes, the classes among them: correlated, and overlapping."""
    fixed, g = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed + 1)
    centers, mix = torch.randn(CLASSES, 64, generator=fixed), torch.randn(64, DIMENSIONS, generator=fixed) / 8
    y = torch.randint(CLASSES, (n,), generator=g)
    cause = 0.4 * centers[y] + torch.randn(n, 64, generator=g)
    z = (cause @ mix + 0.5 * torch.randn(n, DIMENSIONS, generator=g)).relu()
    return (z - z.mean(0)) / z.std(0), y


def objective(coef, intercept, z, y):
    coef, intercept = torch.as_tensor(coef).double(), torch.as_tensor(intercept).double()
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
            print(f"{label}  turn {turn}/{turns}  {name:12}  {wall[name][-1]:7.3f} s", file=sys.stderr, flush=True)
    return {
        name: {"calls": turns, "median_s": statistics.median(w[1:]), "min_s": min(w[1:]), "max_s": max(w[1:]),
               "median_cpu_s": statistics.median(cpu[name][1:])}
        for name, w in wall.items()
    }, last  # fmt: skip


def with_ratio(record):
    for key in ("median_s", "median_cpu_s"):
        record[f"times_faster_{key}"] = record["scikit-learn"][key] / record["replearn"][key]
    return record


def linear(n, turns):
    z, y = features(n)
    z_numpy, y_numpy = z.numpy(), y.numpy()
    calls = {
        "replearn": lambda: LinearProbe(l2=L2, standardize=False).fit(z, y),
        "scikit-learn": lambda: LogisticRegression(C=1 / (n * L2), max_iter=5000).fit(z_numpy, y_numpy),
    }
    record, models = take_turns(calls, turns, f"linear, N = {n}")
    for name, model in models.items():
        record[name]["objective"] = objective(model.coef_, model.intercept_, z, y)
    record["scikit-learn"]["steps"] = int(models["scikit-learn"].n_iter_[0])
    record["objective_ratio"] = record["replearn"]["objective"] / record["scikit-learn"]["objective"]
    test, _ = features(2000, seed=1)
    same = models["replearn"].predict(test).numpy() == models["scikit-learn"].predict(test.numpy())
    record["same_test_predictions"] = float(same.mean())
    return with_ratio(record)


def knn(turns, n=10_000, m=2_000, k=20, temperature=0.1):
    (z, y), (test, y_test) = features(n), features(m, seed=1)
    arrays = [t.numpy() for t in (z, y, test, y_test)]

    def theirs():
        model = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / temperature))
        return model.fit(*arrays[:2]).score(*arrays[2:])

    calls = {"replearn": lambda: knn_accuracy(z, y, test, y_test, k=k, temperature=temperature), "scikit-learn": theirs}
    record, accuracy = take_turns(calls, turns, "kNN")
    for name, value in accuracy.items():
        record[name]["accuracy"] = float(value)
    return with_ratio(record)


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
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    with threadpool_limits(a.threads):
        fits = {str(n): linear(n, a.turns) for n in (1_000, 3_000, 10_000)}
        neighbors = knn(a.turns)
    record = {
        "question": "a linear probe and a kNN probe on N x 512 float32 features, 10 classes: at equal objective",
        "command": " ".join(["python benchmarks/probe.py", *sys.argv[1:]]),
        "l2": L2,
        "linear": fits,
        "knn_10000_against_2000": neighbors,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
                     "scikit-learn": sklearn.__version__},
        "hardware": {"cpu": cpu_model(), "cpus": os.cpu_count(), "threads_used": a.threads,
                     "load_average": [round(v, 1) for v in os.getloadavg()] if hasattr(os, "getloadavg") else None},
    }  # fmt: skip
    write_atomically(a.out, record)
    print(json.dumps(record, indent=2))
    times, worst = fits["10000"]["times_faster_median_s"], max(fit["objective_ratio"] for fit in fits.values())
    gap = abs(neighbors["replearn"]["accuracy"] - neighbors["scikit-learn"]["accuracy"])
    if times < 2 or worst > 1.0001 or gap > 1e-3:
        sys.exit(f"expected 2 times, 1.0001, 0.001: found {times:.2f} times, objective {worst:.6f}, kNN gap {gap:.4f}")


if __name__ == "__main__":
    main()
