"""Linear CKA of two N x 512 float32 matrices over N: the package's feature-space form against the (N, N) Gram forms.

Run: python benchmarks/cka.py      (three minutes, 2 GB of memory; writes benchmarks/results/cka.json)
All get the same features and take turns in one process, on one thread unless told otherwise; ckatorch, where it is
installed, joins in up to 5,000 rows, in float64, as it computes for every caller. The reference is the feature form in
float64. Exits with an error unless, at the most rows, linear_cka is 20 times faster, or more, than the Gram form as it
is usually written, and within 1e-4 of the reference at all sizes.
"""

import argparse
import functools
import math
import sys
from pathlib import Path

import torch
from shared import against, goal, peak_mb, record, take_turns

from replearn.metrics import linear_cka


def gram_cka(x, y):
    """The definition, as it is usually written: HSIC of the centered (N, N) Gram matrices."""
    k, m = (g - g.mean(0) - g.mean(1, keepdim=True) + g.mean() for g in (x @ x.T, y @ y.T))
    return float((k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt())


def lean_gram_cka(x, y):
    """The quickest Gram form we know: center the features instead, and never copy a Gram matrix."""
    k, m = ((v - v.mean(0)) @ (v - v.mean(0)).T for v in (x, y))
    # Norms row by row: vector_norm adds up float32 numbers one after another, and 10^8 of them lose 1 to 2 %.
    norm_k, norm_m = (torch.linalg.vector_norm(torch.linalg.vector_norm(g, dim=1)) for g in (k, m))
    return float(k.mul_(m).sum() / (norm_k * norm_m))


def reference(x, y):
    """The feature form, line for line, in float64."""
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    return float((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


def features(n, p, generator):
    """Two layers' worth of ReLU features that share 64 causes: correlated, and with a mean, as real ones."""
    cause = torch.randn(n, 64, generator=generator)
    return [
        (
            cause @ torch.randn(64, p, generator=generator) / 8
            + torch.randn(n, p, generator=generator)
        ).relu()
        for _ in range(2)
    ]


def forms(n):
    """{contestant: function of x and y} for n rows."""
    found = {
        "replearn": linear_cka,
        "torch, Gram form": gram_cka,
        "torch, lean Gram form": lean_gram_cka,
    }
    if n > 5000:  # ckatorch would take 5 GB and longer than all others together
        return found
    try:
        from ckatorch.core import cka_base

        found["ckatorch, float64"] = lambda x, y: float(cka_base(x, y))
    except ImportError:
        print("ckatorch is not installed and left out")
    return found


def measure(n, columns, turns):
    """{contestant: its row of the curve at n rows}."""
    x, y = features(n, columns, torch.Generator().manual_seed(0))
    calls = {name: functools.partial(form, x, y) for name, form in forms(n).items()}
    exact = reference(x, y)
    errors = {name: abs(call() - exact) for name, call in calls.items()}
    times = against(take_turns(calls, turns if n < 5000 else min(turns, 3)), "replearn")
    return {
        name: dict(at=n, **times[name], memory_mb=peak_mb(call), error=errors[name])
        for name, call in calls.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[250, 500, 1000, 2000, 5000, 10_000]
    )
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--turns", type=int, default=7, help="from 5,000 rows on at most 3")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()

    torch.set_num_threads(a.threads)
    measured = [measure(n, a.columns, a.turns) for n in a.sizes]
    curves = {name: [rows[name] for rows in measured if name in rows] for name in measured[0]}
    usual, lean = curves["torch, Gram form"], curves["torch, lean Gram form"]
    worst = max(row["error"] for row in curves["replearn"])
    goals = [
        goal(
            f"linear CKA, {a.sizes[-1]:,} x {a.columns}: times faster than the Gram form",
            20,
            usual[-1]["times"],
        ),
        goal(
            "linear CKA: decimal digits that agree with float64, at every size",
            4,
            -math.log10(max(worst, 1e-16)),
        ),
    ]
    panel = dict(
        title=f"Linear CKA, N x {a.columns}",
        size="rows N",
        unit="seconds a call",
        ours="replearn",
        curves=curves,
    )
    record(
        "cka",
        f"How long does the linear CKA of two N x {a.columns} float32 matrices take, and how exact is it?",
        [panel],
        goals,
        ["ckatorch"] if "ckatorch, float64" in curves else [],
        a.out,
        turns=a.turns,
        lean_gram_form_is_faster_at=[row["at"] for row in lean if row["times"] < 1],
    )
    if not all(g["reached"] for g in goals):
        sys.exit(1)


if __name__ == "__main__":
    main()
