"""NT-Xent, forward and backward: the package's against lightly's and pytorch-metric-learning's.

Run: python benchmarks/contrast.py    (two minutes, 3 GB of memory; writes results/contrast.json)
All get the same float32 embeddings (N pairs, D = 128) in one process, on one thread unless told
otherwise, over growing N; ours takes turns with one peer at a time. Before it is timed, every
contestant is checked against our loss in float64: value within 1e-5 (of itself, where it is above
1), gradient within 1e-6. pytorch-metric-learning compares every positive with every negative: its
memory grows with the third power of N, and it is left out where that is over 4 GB. The other losses
join in where lightly has the same one. A library that is not installed is named and left out. Exits
with an error if a value or a gradient is further off.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from shared import against, goal, options, peak_mb, record, take_turns

from replearn import _check, losses

OURS = "replearn"
LIGHTLY = "lightly"
METRIC = "pytorch-metric-learning"
TEMPERATURE = 0.5
SIZES = (64, 128, 256, 512, 1024, 2048)
LARGEST_GB = 4
KINDS = {"both": "forward and backward", "forward": "forward alone"}

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


# --- contestants ----------------------------------------------------------------------------------


def nt_xent_peers() -> dict[str, Loss]:
    """Return NT-Xent of the libraries that are installed."""
    peers: dict[str, Loss] = {}
    try:
        from lightly.loss import NTXentLoss

        peers[LIGHTLY] = NTXentLoss(TEMPERATURE)
    except ImportError:
        print("lightly is not installed: left out")
    try:
        from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

        peers[METRIC] = SelfSupervisedLoss(NTXentLoss(TEMPERATURE))
    except ImportError:
        print("pytorch-metric-learning is not installed: left out")
    return peers


class Pair(NamedTuple):
    """One loss by two libraries, with settings that make them equal."""

    title: str
    dimensions: int
    ours: Loss
    lightly: Loss


def other_losses() -> list[Pair]:
    """Return the losses that lightly has, too."""
    try:
        from lightly import loss as lightly
    except ImportError:
        return []
    return [
        Pair(
            "decoupled contrastive",
            128,
            partial(losses.decoupled_contrastive, temperature=0.1),
            lightly.DCLLoss(0.1),
        ),
        Pair(
            "negative cosine",
            128,
            losses.negative_cosine,
            lightly.NegativeCosineSimilarity(),
        ),
        Pair(
            "Barlow Twins",
            1024,
            partial(losses.barlow_twins, off_diagonal=5e-3),
            lightly.BarlowTwinsLoss(5e-3),
        ),
        Pair(
            "VICReg",
            1024,
            partial(losses.vicreg, variance=12.5),  # lightly halves that term
            lightly.VICRegLoss(),
        ),
    ]


def too_large(name: str, n: int) -> bool:
    """Return whether a peer would need more than LARGEST_GB for n pairs.

    pytorch-metric-learning has four matrices at once, each of 2N positives by 2N (2N - 2)
    negatives.
    """
    if name != METRIC:
        return False
    matrix_bytes = 4 * (2 * n) ** 2 * (2 * n - 2)
    return 4 * matrix_bytes > LARGEST_GB * 1e9


# --- right before fast ----------------------------------------------------------------------------


def embeddings(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two views (n, d) that agree as those of a half-trained network: cosine 0.7."""
    generator = torch.Generator().manual_seed(0)
    z1, noise = torch.randn((2, n, d), generator=generator)
    z2 = z1 + noise
    return z1.requires_grad_(), z2.requires_grad_()


def gradient(loss: Loss, z1: torch.Tensor, z2: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """One forward and backward pass."""
    return torch.autograd.grad(loss(z1, z2), (z1, z2))


def differences(
    contestants: Mapping[str, Loss], z1: torch.Tensor, z2: torch.Tensor
) -> dict[str, dict[str, float]]:
    """Return how far each value and gradient is from ours in float64."""
    exact = [z.detach().double().requires_grad_() for z in (z1, z2)]
    value = float(contestants[OURS](*exact).detach())
    exact_gradient = torch.cat(gradient(contestants[OURS], *exact))
    errors = {}
    for name, loss in contestants.items():
        its_gradient = torch.cat(gradient(loss, z1, z2))
        errors[name] = {
            "value": value,
            "value_error": abs(float(loss(z1, z2).detach()) - value),
            "gradient_error": float((its_gradient - exact_gradient).abs().max()),
            "largest_gradient": float(exact_gradient.abs().max()),
        }
    return errors


def is_far(error: Mapping[str, float]) -> bool:
    """Return whether a value or a gradient is further off than rounding explains."""
    allowed = 1e-5 * max(1, abs(error["value"]))
    return error["value_error"] > allowed or error["gradient_error"] > 1e-6


# --- the measurement ------------------------------------------------------------------------------


def duels(calls: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, dict[str, float]]:
    """Time ours by turns with one peer at a time; return `{name: row}`.

    All together would not be fair: whoever comes after gigabytes were freed is slow.
    """
    rows: dict[str, dict[str, float]] = {}
    for name, call in calls.items():
        if name == OURS:
            continue
        turns_of_this = min(turns, 3) if name == METRIC else turns
        seconds = take_turns({OURS: calls[OURS], name: call}, turns_of_this)
        for contestant, row in against(seconds, OURS).items():
            rows.setdefault(contestant, row)  # ours as it was in its first duel
    return rows


def rows_of(
    contestants: Mapping[str, Loss], n: int, d: int, turns: int, forward_too: bool
) -> dict[str, dict[str, dict]]:
    """Check and time all contestants at one size; return `{"both" and "forward": {name: row}}`."""
    z1, z2 = embeddings(n, d)
    errors = differences(contestants, z1, z2)
    far = {name: error for name, error in errors.items() if is_far(error)}
    if far:
        allowed = "values within 1e-5 and gradients within 1e-6 of float64"
        sys.exit(f"N = {n}: expected {allowed}, found {far}")

    calls = {
        "both": {name: partial(gradient, loss, z1, z2) for name, loss in contestants.items()},
        "forward": {name: partial(loss, z1, z2) for name, loss in contestants.items()},
    }
    if not forward_too:
        del calls["forward"]
    rows: dict[str, dict[str, dict]] = {}
    for kind, calls_of_kind in calls.items():
        rows[kind] = {}
        for name, row in duels(calls_of_kind, turns).items():
            memory = peak_mb(calls_of_kind[name])
            rows[kind][name] = {"at": n, **row, "memory_mb": memory, **errors[name]}
    return rows


def curves(rows_by_size: Sequence[Mapping[str, Mapping]], kind: str) -> dict[str, list[dict]]:
    """Turn rows of every size into `{contestant: rows}`."""
    lines: dict[str, list[dict]] = {}
    for rows in rows_by_size:
        for name, row in rows[kind].items():
            lines.setdefault(name, []).append(row)
    return lines


def panels_of(
    title: str,
    contestants: Mapping[str, Loss],
    sizes: Sequence[int],
    d: int,
    turns: int,
    forward_too: bool = False,
) -> list[dict[str, Any]]:
    """Measure one loss at every size; return its panels."""
    rows_by_size = []
    for n in sizes:
        print(f"{title}, N = {n}", file=sys.stderr)
        fitting = {name: loss for name, loss in contestants.items() if not too_large(name, n)}
        rows_by_size.append(rows_of(fitting, n, d, turns, forward_too))
    return [
        {
            "title": f"{title}, {KINDS[kind]}, D = {d}",
            "size": "pairs in the batch",
            "unit": "seconds a call",
            "ours": OURS,
            "curves": curves(rows_by_size, kind),
        }
        for kind in rows_by_size[0]
    ]


def cost_of_checks(n: int, turns: int) -> float:
    """Return the share of our forward and backward that checks of shapes, types and values take."""
    z1, z2 = embeddings(n, 128)
    ours = partial(losses.nt_xent, temperature=TEMPERATURE)
    calls = {
        "checks": partial(_check.pair, "z1", z1, "z2", z2, temperature=TEMPERATURE),
        "all": partial(gradient, ours, z1, z2),
    }
    rows = against(take_turns(calls, turns), "checks")
    return 1 / rows["all"]["times"]


def goals_of(panel: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare NT-Xent with what was to be reached at two sizes, where they were measured."""
    times = {row["at"]: row["times"] for row in panel["curves"].get(LIGHTLY, ())}
    wanted = {256: 2, 1024: 1.4}
    return [
        goal(f"NT-Xent at N = {n}, times lightly's, forward and backward", least, times[n])
        for n, least in wanted.items()
        if n in times
    ]


def main() -> None:
    """Run the benchmark, print and write the result."""
    args = options(__doc__, turns=5, sizes=SIZES).parse_args()
    torch.set_num_threads(args.threads)
    contestants: dict[str, Loss] = {OURS: partial(losses.nt_xent, temperature=TEMPERATURE)}
    contestants |= nt_xent_peers()
    if len(contestants) == 1:
        sys.exit("expected a peer, found none; run pip install lightly pytorch-metric-learning")

    panels = panels_of("NT-Xent", contestants, args.sizes, 128, args.turns, forward_too=True)
    some_sizes = [n for n in args.sizes if n <= 1024][::2]
    for pair in other_losses():
        both = {OURS: pair.ours, LIGHTLY: pair.lightly}
        panels += panels_of(pair.title, both, some_sizes, pair.dimensions, args.turns)
    record(
        "contrast",
        "How fast is NT-Xent, forward and backward, and is it the same number?",
        panels,
        goals_of(panels[0]),
        [name for name in (LIGHTLY, METRIC) if name in contestants],
        args.out,
        share_of_checks={
            n: cost_of_checks(n, args.turns) for n in args.sizes if n in (64, 256, 1024)
        },
    )


if __name__ == "__main__":
    main()
