"""LinearProbe against scikit-learn's LogisticRegression over N, on the same features and at an equal objective.

Run: python benchmarks/probe.py      (three minutes; writes benchmarks/results/probe.json)
Standardized N x 512 features of 10 classes: those of the shipped SimCLR encoder for N shapes, and synthetic ones. All
fit one objective, mean cross-entropy + l2/2 ||W||^2, to the same float32 features and take turns in one process, on one
thread unless told otherwise. scikit-learn runs twice: at its default tolerance, and at the loosest of 1e-4 to 1e-7
that brings its objective within 1.0001 of LinearProbe's. Objectives are recomputed in float64. Exits with an error
unless LinearProbe is 2 times faster, or more, than the second on the most SimCLR features, and its objectives never
exceed 1.0001 times scikit-learn's.
"""

import argparse
import functools
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from shared import against, goal, peak_mb, record, take_turns
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from replearn import data, models
from replearn.probe import LinearProbe, extract_features

L2, DIMENSIONS, CLASSES = 1e-3, 512, 10
DEFAULT, EQUAL = "scikit-learn, default tolerance", "scikit-learn, equal objective"


def synthetic_features(n, seed=0):
    """ReLU features driven by 64 causes, the classes among them: correlated, and overlapping."""
    fixed, g = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed + 1)
    centers, mix = (
        torch.randn(CLASSES, 64, generator=fixed),
        torch.randn(64, DIMENSIONS, generator=fixed) / 8,
    )
    y = torch.randint(CLASSES, (n,), generator=g)
    cause = 0.4 * centers[y] + torch.randn(n, 64, generator=g)
    z = (cause @ mix + 0.5 * torch.randn(n, DIMENSIONS, generator=g)).relu()
    return (z - z.mean(0)) / z.std(0), y


def encoder_features(n, split="train"):
    """Standardized features of the shipped SimCLR encoder for n shapes, and their classes."""
    pictures = data.load("shapes", split=split, size=n)
    z = extract_features(models.load("shapes_simclr"), pictures.images)
    return (z - z.mean(0)) / z.std(0).clamp(min=1e-3), pictures.labels


def objective(model, z, y):
    """Mean cross-entropy + l2/2 ||W||^2 of a fitted model, in float64."""
    coef, intercept = (
        torch.as_tensor(model.coef_).double(),
        torch.as_tensor(model.intercept_).double(),
    )
    return float(F.cross_entropy(z.double() @ coef.T + intercept, y) + L2 / 2 * coef.square().sum())


def ours(z, y):
    return LinearProbe(l2=L2, standardize=False).fit(z, y)


def theirs(z, y, tolerance):
    return LogisticRegression(C=1 / (len(z) * L2), tol=tolerance, max_iter=10_000).fit(
        z.numpy(), y.numpy()
    )


def contestants(z, y):
    """{name: call} and {name: what it returned}; scikit-learn's tolerance is chosen here."""
    calls = {
        "replearn": functools.partial(ours, z, y),
        DEFAULT: functools.partial(theirs, z, y, 1e-4),
    }
    fitted = {name: call() for name, call in calls.items()}
    fitted[EQUAL], enough = fitted[DEFAULT], 1.0001 * objective(fitted["replearn"], z, y)
    for tolerance in (1e-5, 1e-6, 1e-7):
        if objective(fitted[EQUAL], z, y) > enough:
            fitted[EQUAL] = theirs(z, y, tolerance)
    calls[EQUAL] = functools.partial(theirs, z, y, fitted[EQUAL].tol)
    return calls, fitted


def measure(z, y, test, turns):
    """{contestant: its row of the curve at len(z) rows, its objective, and the share of our predictions it repeats}."""
    calls, fitted = contestants(z, y)
    predicted = {
        name: np.asarray(model.predict(test if name == "replearn" else test.numpy()))
        for name, model in fitted.items()
    }
    times = against(take_turns(calls, turns), "replearn")
    rows = {}
    for name, model in fitted.items():
        rows[name] = dict(
            at=len(z),
            **times[name],
            memory_mb=peak_mb(calls[name]),
            objective=objective(model, z, y),
            same_test_predictions=float((predicted[name] == predicted["replearn"]).mean()),
        )
        if name != "replearn":
            rows[name] |= dict(
                tolerance=model.tol,
                steps=int(model.n_iter_[0]),
                objective_of_replearn_over_this=rows["replearn"]["objective"]
                / rows[name]["objective"],
            )
    return rows


def panel(kind, z, y, test, sizes, turns):
    measured = [measure(z[:n], y[:n], test, turns) for n in sizes]
    curves = {name: [rows[name] for rows in measured] for name in measured[0]}
    return dict(
        title=f"Linear probe, {kind} features, N x {DIMENSIONS}",
        size="rows N",
        unit="seconds a fit",
        ours="replearn",
        curves=curves,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 3000, 10_000])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()

    torch.set_num_threads(a.threads)
    most = max(a.sizes)
    sets = {
        "SimCLR": (*encoder_features(most), encoder_features(2000, "test")[0]),
        "synthetic": (*synthetic_features(most), synthetic_features(2000, seed=1)[0]),
    }
    with threadpool_limits(a.threads):
        panels = [panel(kind, *of, a.sizes, a.turns) for kind, of in sets.items()]
    equal = [row for p in panels for row in p["curves"][EQUAL] + p["curves"][DEFAULT]]
    goals = [
        goal(
            f"linear probe, {a.sizes[-1]:,} x {DIMENSIONS} SimCLR features: times faster at an equal objective",
            2,
            panels[0]["curves"][EQUAL][-1]["times"],
        ),
        goal(
            "linear probe: scikit-learn's objective over ours, at every size",
            1 / 1.0001,
            1 / max(row["objective_of_replearn_over_this"] for row in equal),
        ),
    ]
    record(
        "probe",
        "How long does a linear probe take, and how low is the objective it reaches?",
        panels,
        goals,
        ["numpy", "scipy", "scikit-learn"],
        a.out,
        turns=a.turns,
        l2=L2,
    )
    if not all(g["reached"] for g in goals):
        sys.exit(1)


if __name__ == "__main__":
    main()
