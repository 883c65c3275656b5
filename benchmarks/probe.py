"""LinearProbe against scikit-learn's LogisticRegression over N, on the same features and objective.

Run: python benchmarks/probe.py      (three minutes; writes benchmarks/results/probe.json)
Standardized N x 512 features of 10 classes: those of the shipped SimCLR encoder for N shapes, and
synthetic ones. All fit one objective, mean cross-entropy + l2/2 ||W||^2, to the same float32
features and take turns in one process, on one thread unless told otherwise. scikit-learn runs
twice: at its default tolerance, and at the loosest of 1e-4 to 1e-7 that brings its objective within
1.0001 of LinearProbe's. Objectives are recomputed in float64. Exits with an error unless
LinearProbe is 2 times faster, or more, than the second on the most SimCLR features, and its
objectives never exceed 1.0001 times scikit-learn's.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from shared import against, exit_if_missed, goal, options, peak_mb, record, take_turns
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from replearn import data, models
from replearn.probe import LinearProbe, extract_features

L2 = 1e-3
DIMENSIONS = 512
CLASSES = 10
CAUSES = 64  # of the synthetic features
CLOSE = 1.0001  # objectives with this ratio count as equal
OURS = "replearn"
DEFAULT = "scikit-learn, default tolerance"
EQUAL = "scikit-learn, equal objective"
SIZES = (1000, 3000, 10_000)

Model = LinearProbe | LogisticRegression


# --- features -------------------------------------------------------------------------------------


def synthetic_features(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ReLU features (n, 512) driven by 64 causes, and classes (n,), which are among them.

    The features are correlated, and the classes overlap.
    """
    fixed = torch.Generator().manual_seed(0)  # the same world for every seed
    centers = torch.randn(CLASSES, CAUSES, generator=fixed)
    mixing = torch.randn(CAUSES, DIMENSIONS, generator=fixed) / 8

    generator = torch.Generator().manual_seed(seed + 1)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    causes = 0.4 * centers[labels] + torch.randn(n, CAUSES, generator=generator)
    noise = torch.randn(n, DIMENSIONS, generator=generator)
    features = (causes @ mixing + 0.5 * noise).relu()
    return (features - features.mean(0)) / features.std(0), labels


def encoder_features(n: int, split: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    """Return standardized features (n, 512) of the shipped SimCLR encoder, and classes."""
    shapes = data.load("shapes", split=split, size=n)
    features = extract_features(models.load("shapes_simclr"), shapes.images)
    return (features - features.mean(0)) / features.std(0).clamp(min=1e-3), shapes.labels


# --- contestants ----------------------------------------------------------------------------------


def objective(model: Model, features: torch.Tensor, labels: torch.Tensor) -> float:
    """Return mean cross-entropy + l2/2 ||W||^2 of a fitted model, in float64."""
    weight = torch.as_tensor(model.coef_).double()
    bias = torch.as_tensor(model.intercept_).double()
    cross_entropy = F.cross_entropy(features.double() @ weight.T + bias, labels)
    return float(cross_entropy + L2 / 2 * weight.square().sum())


def ours(features: torch.Tensor, labels: torch.Tensor) -> LinearProbe:
    """Fit the package's probe."""
    return LinearProbe(l2=L2, standardize=False).fit(features, labels)


def theirs(features: torch.Tensor, labels: torch.Tensor, tolerance: float) -> LogisticRegression:
    """Fit scikit-learn's, whose C weighs the sum of the losses against the penalty."""
    model = LogisticRegression(C=1 / (len(features) * L2), tol=tolerance, max_iter=10_000)
    return model.fit(features.numpy(), labels.numpy())


def contestants(
    features: torch.Tensor, labels: torch.Tensor
) -> tuple[dict[str, Callable[[], Model]], dict[str, Model]]:
    """Return `{name: function that fits}` and `{name: what it fitted}`.

    The tolerance at which scikit-learn's objective is as low as ours is chosen here.
    """
    calls: dict[str, Callable[[], Model]] = {
        OURS: partial(ours, features, labels),
        DEFAULT: partial(theirs, features, labels, 1e-4),
    }
    fitted = {name: call() for name, call in calls.items()}
    low_enough = CLOSE * objective(fitted[OURS], features, labels)
    model = fitted[DEFAULT]
    for tolerance in (1e-5, 1e-6, 1e-7):
        if objective(model, features, labels) > low_enough:
            model = theirs(features, labels, tolerance)
    calls[EQUAL] = partial(theirs, features, labels, model.tol)
    fitted[EQUAL] = model
    return calls, fitted


# --- the measurement ------------------------------------------------------------------------------


def measure(
    features: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, turns: int
) -> dict[str, dict[str, Any]]:
    """Return `{contestant: its row of the curve at this number of rows}`.

    A row also holds the objective, and the share of our predictions on `test` that it repeats.
    """
    calls, fitted = contestants(features, labels)
    times = against(take_turns(calls, turns), OURS)
    our_objective = objective(fitted[OURS], features, labels)
    our_predictions = np.asarray(fitted[OURS].predict(test))
    rows = {}
    for name, model in fitted.items():
        its_test = test if name == OURS else test.numpy()
        same = np.asarray(model.predict(its_test)) == our_predictions
        its_objective = objective(model, features, labels)
        rows[name] = {
            "at": len(features),
            **times[name],
            "memory_mb": peak_mb(calls[name]),
            "objective": its_objective,
            "same_test_predictions": float(same.mean()),
        }
        if name != OURS:
            rows[name] |= {
                "tolerance": model.tol,
                "steps": int(model.n_iter_[0]),
                "objective_of_replearn_over_this": our_objective / its_objective,
            }
    return rows


def panel(
    kind: str,
    features: torch.Tensor,
    labels: torch.Tensor,
    test: torch.Tensor,
    sizes: Sequence[int],
    turns: int,
) -> dict[str, Any]:
    """Measure one kind of features at every size."""
    measured = [measure(features[:n], labels[:n], test, turns) for n in sizes]
    return {
        "title": f"Linear probe, {kind} features, N x {DIMENSIONS}",
        "size": "rows N",
        "unit": "seconds a fit",
        "ours": OURS,
        "curves": {name: [rows[name] for rows in measured] for name in measured[0]},
    }


def goals_of(panels: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare with what was to be reached."""
    last = panels[0]["curves"][EQUAL][-1]
    size = f"{last['at']:,} x {DIMENSIONS} SimCLR features"
    ratios = [
        row["objective_of_replearn_over_this"]
        for one_panel in panels
        for row in one_panel["curves"][EQUAL] + one_panel["curves"][DEFAULT]
    ]
    return [
        goal(f"linear probe, {size}: times faster at an equal objective", 2, last["times"]),
        goal(
            "linear probe: scikit-learn's objective over ours, at every size",
            1 / CLOSE,
            1 / max(ratios),
        ),
    ]


def main() -> None:
    """Run the benchmark and write the result."""
    args = options(__doc__, turns=3, sizes=SIZES).parse_args()

    torch.set_num_threads(args.threads)
    most = max(args.sizes)
    simclr_test, _ = encoder_features(2000, "test")
    synthetic_test, _ = synthetic_features(2000, seed=1)
    with threadpool_limits(args.threads):
        panels = [
            panel("SimCLR", *encoder_features(most), simclr_test, args.sizes, args.turns),
            panel("synthetic", *synthetic_features(most), synthetic_test, args.sizes, args.turns),
        ]
    goals = goals_of(panels)
    record(
        "probe",
        "How long does a linear probe take, and how low is the objective it reaches?",
        panels,
        goals,
        ["numpy", "scipy", "scikit-learn"],
        args.out,
        turns=args.turns,
        l2=L2,
    )
    exit_if_missed(goals)


if __name__ == "__main__":
    main()
