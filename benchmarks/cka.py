"""Linear CKA of two N x 512 float32 matrices over N: the feature-space form against the Gram forms.

Run: python benchmarks/cka.py      (three minutes, 2 GB of memory; writes
benchmarks/results/cka.json) All get the same features and take turns in one process, on one thread
unless told otherwise; ckatorch, where it is installed, joins in up to 5,000 rows, in float64, as it
computes for every caller. The reference is the feature form in float64. Exits with an error unless,
at the most rows, linear_cka is 20 times faster, or more, than the (N, N) Gram form as it is usually
written, and within 1e-4 of the reference at all sizes.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from shared import against, exit_if_missed, goal, options, peak_mb, record, take_turns

from replearn.metrics import linear_cka

OURS = "replearn"
GRAM = "torch, Gram form"
LEAN_GRAM = "torch, lean Gram form"
CKATORCH = "ckatorch, float64"
SIZES = (250, 500, 1000, 2000, 5000, 10_000)


# --- forms of CKA ---------------------------------------------------------------------------------


def gram_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """The definition, as it is usually written: HSIC of the centered (N, N) Gram matrices."""
    k = _centered_on_both_sides(x @ x.T)
    m = _centered_on_both_sides(y @ y.T)
    return float((k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt())


def _centered_on_both_sides(gram: torch.Tensor) -> torch.Tensor:
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()


def lean_gram_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """The quickest Gram form we know: center the features instead, and never copy a Gram matrix."""
    k = _gram_of_centered(x)
    m = _gram_of_centered(y)
    norms = _norm_by_rows(k) * _norm_by_rows(m)
    return float(k.mul_(m).sum() / norms)


def _gram_of_centered(x: torch.Tensor) -> torch.Tensor:
    x = x - x.mean(0)
    return x @ x.T


def _norm_by_rows(gram: torch.Tensor) -> torch.Tensor:
    """The Frobenius norm as a norm of the rows' norms.

    vector_norm adds up float32 numbers one after another, and 10^8 of them lose 1 to 2 %.
    """
    return torch.linalg.vector_norm(torch.linalg.vector_norm(gram, dim=1))


def reference(x: torch.Tensor, y: torch.Tensor) -> float:
    """The feature form, line for line, in float64."""
    x = x.double()
    y = y.double()
    x = x - x.mean(0)
    y = y - y.mean(0)
    return float((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


def forms(n: int) -> dict[str, Callable[[torch.Tensor, torch.Tensor], Any]]:
    """Return `{contestant: function of x and y}` for n rows."""
    contestants = {OURS: linear_cka, GRAM: gram_cka, LEAN_GRAM: lean_gram_cka}
    if n > 5000:  # ckatorch would take 5 GB and longer than all others together
        return contestants
    try:
        from ckatorch.core import cka_base
    except ImportError:
        print("ckatorch is not installed and left out")
        return contestants

    def ckatorch_cka(x: torch.Tensor, y: torch.Tensor) -> float:
        return float(cka_base(x, y))

    return contestants | {CKATORCH: ckatorch_cka}


# --- the measurement ------------------------------------------------------------------------------


def features(n: int, p: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two layers' worth of ReLU features (n, p) that share 64 causes.

    They are correlated and have a mean, as real ones do.
    """
    cause = torch.randn(n, 64, generator=generator)

    def layer() -> torch.Tensor:
        weight = torch.randn(64, p, generator=generator) / 8
        noise = torch.randn(n, p, generator=generator)
        return (cause @ weight + noise).relu()

    return layer(), layer()


def measure(n: int, columns: int, turns: int) -> dict[str, dict[str, Any]]:
    """Return `{contestant: its row of the curve at n rows}`."""
    x, y = features(n, columns, torch.Generator().manual_seed(0))
    calls = {name: functools.partial(form, x, y) for name, form in forms(n).items()}
    exact = reference(x, y)
    errors = {name: abs(call() - exact) for name, call in calls.items()}
    if n >= 5000:
        turns = min(turns, 3)
    times = against(take_turns(calls, turns), OURS)
    return {
        name: {"at": n, **times[name], "memory_mb": peak_mb(call), "error": errors[name]}
        for name, call in calls.items()
    }


def goals_of(curves: dict[str, list[dict]], columns: int) -> list[dict[str, Any]]:
    """Compare with what was to be reached."""
    last = curves[GRAM][-1]
    worst = max(row["error"] for row in curves[OURS])
    return [
        goal(
            f"linear CKA, {last['at']:,} x {columns}: times faster than the Gram form",
            20,
            last["times"],
        ),
        goal(
            "linear CKA: decimal digits that agree with float64, at every size",
            4,
            -math.log10(max(worst, 1e-16)),
        ),
    ]


def main() -> None:
    """Run the benchmark and write the result."""
    parser = options(__doc__, turns=7, sizes=SIZES, turns_help="from 5,000 rows on at most 3")
    parser.add_argument("--columns", type=int, default=512)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    measured = [measure(n, args.columns, args.turns) for n in args.sizes]
    curves = {name: [rows[name] for rows in measured if name in rows] for name in measured[0]}
    goals = goals_of(curves, args.columns)
    panel = {
        "title": f"Linear CKA, N x {args.columns}",
        "size": "rows N",
        "unit": "seconds a call",
        "ours": OURS,
        "curves": curves,
    }
    matrices = f"two N x {args.columns} float32 matrices"
    record(
        "cka",
        f"How long does the linear CKA of {matrices} take, and how exact is it?",
        [panel],
        goals,
        ["ckatorch"] if CKATORCH in curves else [],
        args.out,
        turns=args.turns,
        lean_gram_form_is_faster_at=[row["at"] for row in curves[LEAN_GRAM] if row["times"] < 1],
    )
    exit_if_missed(goals)


if __name__ == "__main__":
    main()
