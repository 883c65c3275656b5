"""All canonical correlations of two float64 views: one SVD against scikit-learn's CCA.

Run: python benchmarks/cca.py      (two minutes; writes benchmarks/results/cca.json)
Views of N x 40 with known correlations, over growing N; all take turns in one process, on one
thread unless told otherwise. scikit-learn's CCA finds one pair of directions after another by power
iteration; its tolerance is what agreement to 1e-6 needs, and its defaults are reported beside it.
Exits with an error unless, at the most rows, cca_correlations is 20 times faster, or more, and
everywhere within 1e-6.
"""

import functools
import math
import warnings
from typing import Any

import numpy as np
import torch
from shared import against, exit_if_missed, goal, options, peak_mb, record, take_turns
from sklearn.cross_decomposition import CCA
from threadpoolctl import threadpool_limits

from replearn.metrics import cca_correlations

OURS = "replearn"
TIGHT = "scikit-learn, tolerance 1e-12"
DEFAULTS = "scikit-learn, its defaults (1e-6)"
SIZES = (500, 1000, 3000, 10_000)


def ours(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """The package's correlations."""
    return cca_correlations(x, y).numpy()


def iterative(x: torch.Tensor, y: torch.Tensor, **settings: float) -> np.ndarray:
    """scikit-learn: power iteration and deflation; the correlations of its scores."""
    columns = x.shape[1]
    scores_x, scores_y = CCA(columns, **settings).fit_transform(x.numpy(), y.numpy())
    correlations = [np.corrcoef(scores_x[:, i], scores_y[:, i])[0, 1] for i in range(columns)]
    return np.array(correlations)


FORMS = {
    OURS: ours,
    TIGHT: functools.partial(iterative, tol=1e-12, max_iter=10_000),
    DEFAULTS: functools.partial(iterative, tol=1e-6, max_iter=500),
}


def views(n: int, p: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two mixed views (n, p) whose canonical correlations go from 0.98 down to 0.2.

    These are the correlations in the population; those of n rows lie near them.
    """
    draw = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    x = draw(n, p)
    noise = draw(n, p)
    mix_x = draw(p, p)
    mix_y = draw(p, p)
    rho = torch.linspace(0.98, 0.2, p, dtype=torch.float64)
    y = rho * x + (1 - rho**2).sqrt() * noise
    return x @ mix_x, y @ mix_y


def measure(n: int, columns: int, turns: int) -> dict[str, dict[str, Any]]:
    """Return `{contestant: its row of the curve at n rows}`.

    A row also says by how much the correlations differ from ours at most.
    """
    x, y = views(n, columns, torch.Generator().manual_seed(0))
    calls = {name: functools.partial(form, x, y) for name, form in FORMS.items()}
    correlations = {name: call() for name, call in calls.items()}
    if n >= 5000:
        turns = min(turns, 2)
    # Ours takes milliseconds, and its first call after seconds of other work finds cold caches:
    # 0.3 s of calls a turn.
    times = against(take_turns(calls, turns, least=0.3), OURS)
    rows = {}
    for name, call in calls.items():
        difference = np.abs(correlations[name] - correlations[OURS]).max()
        rows[name] = {
            "at": n,
            **times[name],
            "memory_mb": peak_mb(call),
            "largest_difference": float(difference),
        }
    return rows


def goals_of(curves: dict[str, list[dict]], columns: int) -> list[dict[str, Any]]:
    """Compare with what was to be reached."""
    last = curves[TIGHT][-1]
    worst = max(row["largest_difference"] for row in curves[TIGHT])
    faster = "times faster than scikit-learn, equal result"
    return [
        goal(f"{columns} canonical correlations, {last['at']:,} rows: {faster}", 20, last["times"]),
        goal(
            "canonical correlations: decimal digits that agree with scikit-learn, at every size",
            6,
            -math.log10(max(worst, 1e-16)),
        ),
    ]


def main() -> None:
    """Run the benchmark and write the result."""
    parser = options(__doc__, turns=3, sizes=SIZES, turns_help="from 5,000 rows on at most 2")
    parser.add_argument("--columns", type=int, default=40)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    with threadpool_limits(args.threads), warnings.catch_warnings():
        # scikit-learn's defaults may stop before they converge: the difference says so.
        warnings.simplefilter("ignore")
        measured = [measure(n, args.columns, args.turns) for n in args.sizes]
    curves = {name: [rows[name] for rows in measured] for name in FORMS}
    goals = goals_of(curves, args.columns)
    panel = {
        "title": f"All canonical correlations, N x {args.columns}",
        "size": "rows N",
        "unit": "seconds a call",
        "ours": OURS,
        "curves": curves,
    }
    record(
        "cca",
        "How long do all canonical correlations of two float64 views take, and do they agree?",
        [panel],
        goals,
        ["numpy", "scikit-learn"],
        args.out,
        turns=args.turns,
    )
    exit_if_missed(goals)


if __name__ == "__main__":
    main()
