"""All canonical correlations of two float64 views: whitening and one SVD against scikit-learn's iterative CCA.

Run: python benchmarks/cca.py      (two minutes; writes benchmarks/results/cca.json)
Views of N x 40 with known correlations, over growing N; all take turns in one process, on one thread unless told
otherwise. scikit-learn's CCA finds one pair of directions after another by power iteration; its tolerance is what
agreement to 1e-6 needs, and its defaults are reported beside it. Exits with an error unless, at the most rows,
cca_correlations is 20 times faster, or more, and everywhere within 1e-6.
"""

import argparse
import functools
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from shared import against, goal, peak_mb, record, take_turns
from sklearn.cross_decomposition import CCA
from threadpoolctl import threadpool_limits

from replearn.metrics import cca_correlations

TIGHT = "scikit-learn, tolerance 1e-12"


def iterative(x, y, **options):
    """scikit-learn: power iteration and deflation; the correlations of the pairs of scores it returns."""
    a, b = CCA(x.shape[1], **options).fit_transform(x.numpy(), y.numpy())
    return np.array([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(a.shape[1])])


FORMS = {
    "replearn": lambda x, y: cca_correlations(x, y).numpy(),
    TIGHT: functools.partial(iterative, tol=1e-12, max_iter=10_000),
    "scikit-learn, its defaults (1e-6)": functools.partial(iterative, tol=1e-6, max_iter=500),
}


def views(n, p, generator):
    """Two mixed views whose p canonical correlations go from 0.98 down to 0.2 (in the population)."""
    rho = torch.linspace(0.98, 0.2, p, dtype=torch.float64)
    x, e, a, b = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((n, p), (n, p), (p, p), (p, p))
    )
    y = rho * x + (1 - rho**2).sqrt() * e
    return x @ a, y @ b


def measure(n, columns, turns):
    """{contestant: its row of the curve at n rows, and by how much its correlations differ from ours at most}."""
    x, y = views(n, columns, torch.Generator().manual_seed(0))
    calls = {name: functools.partial(form, x, y) for name, form in FORMS.items()}
    found = {name: call() for name, call in calls.items()}
    # Ours takes milliseconds, and its first call after seconds of other work finds cold caches: 0.3 s of calls a turn.
    times = against(take_turns(calls, turns if n < 5000 else min(turns, 2), least=0.3), "replearn")
    return {
        name: dict(
            at=n,
            **times[name],
            memory_mb=peak_mb(call),
            largest_difference=float(np.abs(found[name] - found["replearn"]).max()),
        )
        for name, call in calls.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 3000, 10_000])
    parser.add_argument("--columns", type=int, default=40)
    parser.add_argument("--turns", type=int, default=3, help="from 5,000 rows on at most 2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()

    torch.set_num_threads(a.threads)
    with threadpool_limits(a.threads), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the defaults may stop before they converge: the difference says so
        measured = [measure(n, a.columns, a.turns) for n in a.sizes]
    curves = {name: [rows[name] for rows in measured] for name in FORMS}
    worst = max(row["largest_difference"] for row in curves[TIGHT])
    goals = [
        goal(
            f"{a.columns} canonical correlations, {a.sizes[-1]:,} rows: times faster than scikit-learn, equal result",
            20,
            curves[TIGHT][-1]["times"],
        ),
        goal(
            "canonical correlations: decimal digits that agree with scikit-learn, at every size",
            6,
            -math.log10(max(worst, 1e-16)),
        ),
    ]
    panel = dict(
        title=f"All canonical correlations, N x {a.columns}",
        size="rows N",
        unit="seconds a call",
        ours="replearn",
        curves=curves,
    )
    record(
        "cca",
        "How long do all canonical correlations of two float64 views take, and do they agree?",
        [panel],
        goals,
        ["numpy", "scikit-learn"],
        a.out,
        turns=a.turns,
    )
    if not all(g["reached"] for g in goals):
        sys.exit(1)


if __name__ == "__main__":
    main()
