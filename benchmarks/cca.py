"""All 40 canonical correlations of two 5,000 x 40 views: whitening and one SVD against scikit-learn's iterative CCA.

Run: python benchmarks/cca.py      (about a minute; writes benchmarks/results/cca.json)
Both get the same float64 views with known correlations and take turns in one process, on one thread unless told
otherwise. scikit-learn's CCA finds one pair of directions after another by power iteration; its tolerance here is what
agreement to 1e-6 needs, and its defaults are reported beside it. Exits with an error unless metrics.cca_correlations
is within 1e-6 of it and 20 times faster, or more.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
import torch
from shared import cpu_model, write_atomically
from sklearn.cross_decomposition import CCA
from threadpoolctl import threadpool_limits

from replearn.metrics import cca_correlations

RESULTS = Path(__file__).parent / "results" / "cca.json"


def svd_form(x, y):
    """The package: whiten each view by its SVD, then the singular values of the cross-covariance."""
    return cca_correlations(x, y).numpy()


def iterative(x, y, **options):
    """scikit-learn: power iteration and deflation, one pair of directions after another, tight tolerance."""
    model = CCA(min(x.shape[1], y.shape[1]), **(options or dict(tol=1e-12, max_iter=10_000)))
    a, b = model.fit_transform(x.numpy(), y.numpy())
    return np.array([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(a.shape[1])])


def iterative_defaults(x, y):
    """scikit-learn with its defaults: tol=1e-6, max_iter=500."""
    return iterative(x, y, tol=1e-6, max_iter=500)


def views(n, p, generator):
    """Two mixed views whose p canonical correlations go from 0.98 down to 0.2 (in the population)."""
    rho = torch.linspace(0.98, 0.2, p, dtype=torch.float64)
    x, e, a, b = (torch.randn(*shape, generator=generator, dtype=torch.float64)
                  for shape in ((n, p), (n, p), (p, p), (p, p)))  # fmt: skip
    y = rho * x + (1 - rho**2).sqrt() * e
    return x @ a, y @ b


def measure(forms, x, y, turns):
    """Seconds (wall and processor) of each call and the last values; the first turn warms up and is not counted."""
    wall, cpu, values = ({name: [] for name in forms} for _ in range(3))
    for turn in range(turns + 1):
        for name, (form, calls) in forms.items():
            for _ in range(calls):
                wall_start, cpu_start = time.perf_counter(), time.process_time()
                values[name] = form(x, y)
                if turn:
                    wall[name].append(time.perf_counter() - wall_start)
                    cpu[name].append(time.process_time() - cpu_start)
            print(f"turn {turn}/{turns}  {name}", file=sys.stderr)
    return wall, cpu, values


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--columns", type=int, default=40)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    a = parser.parse_args()

    torch.set_num_threads(a.threads)
    x, y = views(a.rows, a.columns, torch.Generator().manual_seed(0))
    forms = {"cca_correlations": (svd_form, 5), "scikit-learn": (iterative, 1),
             "scikit-learn, defaults": (iterative_defaults, 1)}  # calls a turn  # fmt: skip
    with threadpool_limits(a.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the defaults may stop before they converge: the error says so
        wall, cpu, values = measure(forms, x, y, a.turns)

    def times(seconds, name):
        return statistics.median(seconds[name]) / statistics.median(seconds["cca_correlations"])

    def summary(name):
        w = wall[name]
        return {
            "what": forms[name][0].__doc__.splitlines()[0], "calls": len(w), "median_s": statistics.median(w),
            "min_s": min(w), "max_s": max(w), "median_cpu_s": statistics.median(cpu[name]),
            "largest_difference": float(abs(values[name] - values["cca_correlations"]).max()),
            "times_cca_correlations": times(wall, name), "times_cca_correlations_in_cpu_seconds": times(cpu, name),
        }  # fmt: skip

    record = {
        "question": f"all {a.columns} canonical correlations of two {a.rows} x {a.columns} float64 views: seconds, "
                    "and the largest difference",
        "command": " ".join(["python benchmarks/cca.py", *sys.argv[1:]]),
        "forms": {name: summary(name) for name in forms},
        "correlations": {"first": float(values["cca_correlations"][0]), "last": float(values["cca_correlations"][-1])},
        "turns": a.turns,
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "scikit-learn": sklearn.__version__},
        "hardware": {"cpu": cpu_model(), "cpus": os.cpu_count(), "threads_used": torch.get_num_threads(),
                     "load_average": [round(v, 1) for v in os.getloadavg()] if hasattr(os, "getloadavg") else None},
    }  # fmt: skip
    write_atomically(a.out, record)
    print(json.dumps(record, indent=2))
    found = record["forms"]["scikit-learn"]
    if found["times_cca_correlations"] < 20 or found["largest_difference"] > 1e-6:
        sys.exit(f"expected 20 times faster and a difference under 1e-6, found {found['times_cca_correlations']:.1f} "
                 f"times and {found['largest_difference']:.1e}")


if __name__ == "__main__":
    main()
