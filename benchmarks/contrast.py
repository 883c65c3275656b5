"""NT-Xent, forward and backward: the package's against lightly's and pytorch-metric-learning's, over batch sizes.

Run: python benchmarks/contrast.py      (two minutes, 3 GB of memory; writes benchmarks/results/contrast.json)
All get the same float32 embeddings (N pairs, D = 128) in one process, on one thread unless told otherwise; ours takes
turns with one peer at a time. Before it is timed, every contestant is checked against our loss in float64: value within
1e-5 (of itself, where it is above 1), gradient within 1e-6. pytorch-metric-learning compares every positive with every
negative: its memory grows with the third power of N, and it is left out where that is over 4 GB. The other losses join
in where lightly has the same one. A library that is not installed is named and left out. Exits with an error if a
value or a gradient is further off.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from shared import against, goal, peak_mb, record, take_turns

from replearn import losses

OURS, LIGHTLY, METRIC = "replearn", "lightly", "pytorch-metric-learning"
TEMPERATURE, SIZES, LARGEST_GB = 0.5, (64, 128, 256, 512, 1024, 2048), 4


def nt_xent_peers():
    """NT-Xent of the libraries that are installed: {name: loss(z1, z2)}."""
    found = {}
    try:
        from lightly.loss import NTXentLoss

        found[LIGHTLY] = NTXentLoss(TEMPERATURE)
    except ImportError:
        print("lightly is not installed: left out")
    try:
        from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

        found[METRIC] = SelfSupervisedLoss(NTXentLoss(TEMPERATURE))
    except ImportError:
        print("pytorch-metric-learning is not installed: left out")
    return found


def other_losses():
    """Losses that lightly has too: {title: (D, ours, lightly's)}; each library's own settings, made equal."""
    try:
        from lightly import loss as peer
    except ImportError:
        return {}
    return {
        "decoupled contrastive": (
            128,
            partial(losses.decoupled_contrastive, temperature=0.1),
            peer.DCLLoss(0.1),
        ),
        "negative cosine": (128, losses.negative_cosine, peer.NegativeCosineSimilarity()),
        "Barlow Twins": (
            1024,
            partial(losses.barlow_twins, off_diagonal=5e-3),
            peer.BarlowTwinsLoss(5e-3),
        ),
        "VICReg": (
            1024,
            partial(losses.vicreg, variance=12.5),
            peer.VICRegLoss(),
        ),  # lightly halves that term
    }


def embeddings(n, d):
    """Two views of n pictures that agree as a network's do half-way through its training: cosine 0.7."""
    generator = torch.Generator().manual_seed(0)
    z1, noise = torch.randn((2, n, d), generator=generator)
    return z1.requires_grad_(), (z1.detach() + noise).requires_grad_()


def gradient(loss, z1, z2):
    """One forward and backward pass."""
    return torch.autograd.grad(loss(z1, z2), (z1, z2))


def differences(contestants, z1, z2):
    """How far each value and gradient is from ours in float64: {name: dict(value, value_error, ...)}."""
    exact = [z.detach().double().requires_grad_() for z in (z1, z2)]
    value, slopes = float(contestants[OURS](*exact).detach()), gradient(contestants[OURS], *exact)
    return {
        name: dict(
            value=value,
            value_error=abs(float(loss(z1, z2).detach()) - value),
            gradient_error=max(
                float((g - s).abs().max())
                for g, s in zip(gradient(loss, z1, z2), slopes, strict=True)
            ),
            largest_gradient=max(float(s.abs().max()) for s in slopes),
        )
        for name, loss in contestants.items()
    }


def too_large(name, n):
    """Whether pytorch-metric-learning's (2N, 2N (2N - 2)) matrix of positives by negatives is over LARGEST_GB."""
    return (
        name == METRIC and 4 * (2 * n) ** 2 * (2 * n - 2) > LARGEST_GB * 1e9 / 4
    )  # it has four of them at once


def rows_of(contestants, n, d, turns, forward_too):
    """Check and time all contestants at one size; return {"both" and "forward": {name: row}}."""
    z1, z2 = embeddings(n, d)
    apart = differences(contestants, z1, z2)
    far = {
        name: near
        for name, near in apart.items()
        if near["value_error"] > 1e-5 * max(1, abs(near["value"])) or near["gradient_error"] > 1e-6
    }
    if far:
        sys.exit(
            f"N = {n}: expected values within 1e-5 and gradients within 1e-6 of float64, found {far}"
        )
    calls = dict(both={k: partial(gradient, loss, z1, z2) for k, loss in contestants.items()})
    if forward_too:
        calls["forward"] = {k: partial(loss, z1, z2) for k, loss in contestants.items()}
    return {
        what: {
            name: dict(at=n, **row, memory_mb=peak_mb(these[name]), **apart[name])
            for name, row in duels(these, turns).items()
        }
        for what, these in calls.items()
    }


def duels(calls, turns):
    """Ours takes turns with one peer at a time, for whoever comes after gigabytes were freed is slow; {name: row}."""
    rows = {}
    for name, call in calls.items():
        if name != OURS:
            met = take_turns(
                {OURS: calls[OURS], name: call}, min(turns, 3) if name == METRIC else turns
            )
            rows |= {k: row for k, row in against(met, OURS).items() if k not in rows}
    return rows


def curves(found, what):
    """Turn rows of every size into {contestant: rows}."""
    names = dict.fromkeys(name for rows in found for name in rows[what])
    return {name: [rows[what][name] for rows in found if name in rows[what]] for name in names}


def panel(title, contestants, sizes, d, turns, forward_too=False):
    """The panels of one loss."""
    found = []
    for n in sizes:
        print(f"{title}, N = {n}", file=sys.stderr)
        fitting = {name: loss for name, loss in contestants.items() if not too_large(name, n)}
        found.append(rows_of(fitting, n, d, turns, forward_too))
    kinds = {"both": "forward and backward", "forward": "forward alone"}
    return [
        dict(
            title=f"{title}, {kinds[what]}, D = {d}",
            size="pairs in the batch",
            unit="seconds a call",
            ours=OURS,
            curves=curves(found, what),
        )
        for what in found[0]
    ]


def cost_of_checks(n, turns):
    """Share of our forward and backward that the checks of shapes, types and finite values take."""
    z1, z2 = embeddings(n, 128)
    ours = partial(losses.nt_xent, temperature=TEMPERATURE)
    check = partial(losses.pair, "z1", z1, "z2", z2, temperature=TEMPERATURE)
    rows = against(
        take_turns({"checks": check, "all": partial(gradient, ours, z1, z2)}, turns), "checks"
    )
    return 1 / rows["all"]["times"]


def main():
    """Run the benchmark, print and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    contestants = {OURS: partial(losses.nt_xent, temperature=TEMPERATURE)} | nt_xent_peers()
    if len(contestants) == 1:
        sys.exit("expected a peer, found none; run pip install lightly pytorch-metric-learning")
    panels = panel("NT-Xent", contestants, a.sizes, 128, a.turns, forward_too=True)
    for title, (d, ours, theirs) in other_losses().items():
        panels += panel(
            title, {OURS: ours, LIGHTLY: theirs}, [n for n in a.sizes if n <= 1024][::2], d, a.turns
        )
    times = {row["at"]: row["times"] for row in panels[0]["curves"].get(LIGHTLY, ())}
    goals = [
        goal(f"NT-Xent at N = {n}, times lightly's, forward and backward", least, times[n])
        for n, least in ((256, 2), (1024, 1.4))
        if n in times
    ]
    record(
        "contrast",
        "How fast is NT-Xent, forward and backward, and is it the same number?",
        panels,
        goals,
        [name for name in (LIGHTLY, METRIC) if name in contestants],
        a.out,
        share_of_checks={n: cost_of_checks(n, a.turns) for n in a.sizes if n in (64, 256, 1024)},
    )


if __name__ == "__main__":
    main()
