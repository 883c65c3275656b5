"""Bounds on mutual information and the geometry of features: densities, loops and closed forms."""

import math
from typing import NamedTuple

import torch
from references import Compared, Row, normal

from replearn import metrics

# --- bounds on mutual information, all in nats
# -----------------------------------------------------


class GaussianPairs(NamedTuple):
    """Pairs of rows, float32 (N, dim) each, whose columns correlate by rho."""

    x: torch.Tensor
    y: torch.Tensor
    rho: float


def gaussian_pairs(seed: int, nats: float, n: int, dim: int = 20) -> GaussianPairs:
    """Draw pairs whose mutual information is so many nats: -dim/2 log(1 - rho^2)."""
    rho = math.sqrt(1 - math.exp(-2 * nats / dim))
    x, noise = normal(seed, 2, n, dim).float()
    return GaussianPairs(x, rho * x + math.sqrt(1 - rho**2) * noise, rho)


def best_scores(seed: int, nats: float, n: int) -> torch.Tensor:
    """Return log p(y|x) / p(y) of every pair (n, n): the critic of lesson 09."""
    x, y, rho = gaussian_pairs(seed, nats, n)
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    return nats + (2 * rho * x @ y.T - rho**2 * squares) / (2 * (1 - rho**2))


def without_the_pair(scores: torch.Tensor) -> torch.Tensor:
    """The usual mistake: the positive left out of its own denominator."""
    diagonal = torch.eye(len(scores), dtype=torch.bool)
    others = scores.masked_fill(diagonal, -math.inf)
    return (math.log(len(scores)) - others.logsumexp(1) + scores.diagonal()).mean()


def infonce_densities(seed: int, n: int = 64) -> Compared:
    """InfoNCE from scipy's log densities, in float64."""
    from scipy.special import logsumexp
    from scipy.stats import norm

    ours = []
    expected = []
    faulty = []
    for nats in (2, 6, 10):
        pairs = gaussian_pairs(seed, nats, n)
        x = pairs.x.double().numpy()
        y = pairs.y.double().numpy()
        conditional = norm.logpdf(y, pairs.rho * x[:, None], math.sqrt(1 - pairs.rho**2))
        log_ratio = (conditional - norm.logpdf(y)).sum(-1)  # (n, n)
        expected.append(math.log(n) + (log_ratio.diagonal() - logsumexp(log_ratio, 1)).mean())
        scores = best_scores(seed, nats, n)
        ours.append(metrics.mi_lower_bound(scores).item())
        faulty.append(without_the_pair(scores).item())
    return Compared(ours, expected, faulty)


def infonce_table(seed: int) -> Compared:
    """The table of lesson 09: the estimate of 10 nats grows with the batch."""
    expected = {64: 4.12, 256: 5.43, 1024: 6.62, 4096: 7.68}
    batches = {64: 100, 256: 30, 1024: 8, 4096: 1}
    means = []
    for n, count in batches.items():
        estimates = []
        for batch in range(count):
            scores = best_scores(1000 * seed + batch, 10, n)
            right = metrics.mi_lower_bound(scores)
            with_half_the_scores = metrics.mi_lower_bound(scores / 2)
            estimates.append((right, with_half_the_scores))
        means.append(torch.tensor(estimates).mean(0))
    ours, faulty = torch.stack(means).T
    return Compared(ours, list(expected.values()), faulty)


def infonce_mean(seed: int, n: int = 64, batches: int = 100) -> Compared:
    """By how many standard errors the mean over batches exceeds the truth, at most."""
    ours = 0.0
    faulty = 0.0
    for nats in (1, 2, 4, 6, 8, 10):
        estimates = []
        for batch in range(batches):
            scores = best_scores(1000 * seed + batch, nats, n)
            estimates.append([metrics.mi_lower_bound(scores), without_the_pair(scores)])
        values = torch.tensor(estimates)  # (batches, 2)
        standard_error = values.std(0) / batches**0.5
        excess, faulty_excess = ((values.mean(0) - nats) / standard_error).tolist()
        ours = max(ours, excess)
        faulty = max(faulty, faulty_excess)
    return Compared(ours, 0, faulty)


def infonce_ceiling(seed: int) -> Compared:
    """By how much the estimate of one batch exceeds log N; perfect scores are among them."""
    batches = [1e4 * torch.eye(64)]
    for n in (32, 128, 512):
        for nats in (2, 6, 10):
            batches += [best_scores(1000 * seed + batch, nats, n) for batch in range(10)]
    ours = torch.tensor(0.0)
    faulty = torch.tensor(0.0)
    for scores in batches:
        ceiling = math.log(len(scores))
        ours = torch.maximum(ours, metrics.mi_lower_bound(scores) - ceiling)
        faulty = torch.maximum(faulty, without_the_pair(scores) - ceiling)
    return Compared(ours, 0, faulty)


def nwj_and_mine(seed: int) -> Compared:
    """Two more bounds as loops over the pairs (Poole et al. 2019)."""
    n = 8
    scores = normal(seed, 1, n, n)[0]
    joint = sum(scores[i, i].item() for i in range(n)) / n
    separated = [math.exp(scores[i, j]) for i in range(n) for j in range(n) if i != j]
    mean_separated = sum(separated) / len(separated)
    mean_of_all = scores.exp().mean().item()  # the mistake: pairs among the separated
    return Compared(
        ours=[metrics.mi_lower_bound(scores, bound=bound).item() for bound in ("nwj", "mine")],
        expected=[joint - mean_separated / math.e, joint - math.log(mean_separated)],
        faulty=[joint - mean_of_all / math.e, joint - math.log(mean_of_all)],
    )


# --- geometry
# --------------------------------------------------------------------------------------


def unit_rows(z: torch.Tensor) -> list[torch.Tensor]:
    """Return the rows, each divided by its length."""
    return [row / row.norm() for row in z]


def alignment_loop(seed: int) -> Compared:
    """The mean distance of pairs to the power of alpha, one pair at a time."""
    z1, z2 = normal(seed, 2, 12, 4)

    def mean_distance(rows1, rows2, alpha: int) -> float:
        pairs = zip(rows1, rows2, strict=True)
        return sum(math.dist(row1, row2) ** alpha for row1, row2 in pairs) / 12

    alphas = (1, 2, 3)
    unit1 = unit_rows(z1)
    unit2 = unit_rows(z2)
    return Compared(
        ours=[metrics.alignment(z1, z2, alpha=alpha).item() for alpha in alphas],
        expected=[mean_distance(unit1, unit2, alpha) for alpha in alphas],
        faulty=[mean_distance(z1, z2, alpha) for alpha in alphas],
    )


def uniformity_loop(seed: int) -> Compared:
    """The logarithm of the mean Gaussian potential, one pair at a time."""
    z = normal(seed, 1, 12, 4)[0]
    rows = unit_rows(z)
    potentials = []
    for i in range(12):
        for j in range(12):
            if i != j:
                potentials.append(math.exp(-2 * math.dist(rows[i], rows[j]) ** 2))
    expected = math.log(sum(potentials) / len(potentials))
    with_itself = math.log((sum(potentials) + 12) / 144)  # each of 12 rows adds exp(0)
    return Compared(metrics.uniformity(z), expected, with_itself)


def effective_rank_known(seed: int) -> Compared:
    """The exponential of the entropy of singular values that are known."""
    factors = normal(seed, 2, 40, 6)
    left, _ = torch.linalg.qr(factors[0])
    right, _ = torch.linalg.qr(factors[1])
    singular_values = 0.7 ** torch.arange(6).double()

    def exponential_of_entropy(values: torch.Tensor) -> torch.Tensor:
        return torch.special.entr(values / values.sum()).sum().exp()

    return Compared(
        metrics.effective_rank(left * singular_values @ right.T),
        exponential_of_entropy(singular_values),
        exponential_of_entropy(singular_values.square()),
    )


def collapse_loop(seed: int) -> Compared:
    """Mean cosine and standard deviation, one pair of rows at a time."""
    n = 15
    z = normal(seed, 1, n, 4)[0] + 1
    unit = torch.stack(unit_rows(z))
    cosines = [float(unit[i] @ unit[j]) for i in range(n) for j in range(n)]
    mean_cosine = (sum(cosines) - n) / (n * (n - 1))
    spread = unit.numpy().std(0).mean()
    meter = metrics.collapse_meter(z)
    return Compared(
        ours=[meter["mean_cosine"], meter["std"]],
        expected=[mean_cosine, spread],
        faulty=[sum(cosines) / n**2, spread],
    )


# --- the rows
# --------------------------------------------------------------------------------------

NO_POSITIVE = "the positive left out of the denominator"
WANG = "loop over Wang & Isola 2020, Sec. 4.1"
ROWS = [
    Row(
        quantity="InfoNCE estimate at 2, 6, 10 nats, N = 64",
        lesson="09",
        check=infonce_densities,
        reference="log densities, stats.norm",
        allowed=1e-4,
        fault=NO_POSITIVE,
        peer="scipy",
    ),
    Row(
        quantity="InfoNCE at 10 nats, N = 64, 256, 1,024, 4,096: 4.12, 5.43, 6.62, 7.68",
        lesson="09",
        check=infonce_table,
        reference="the table of lesson 09",
        allowed=0.08,
        fault="scores halved",
    ),
    Row(
        quantity="InfoNCE's mean over batches above the truth (1 to 10 nats), standard errors",
        lesson="09",
        check=infonce_mean,
        reference="closed form: -d/2 log(1 - rho^2)",
        allowed=3,
        fault=NO_POSITIVE,
    ),
    Row(
        quantity="InfoNCE of one batch above log N, nats",
        lesson="09",
        check=infonce_ceiling,
        reference="closed form: log N",
        allowed=1e-5,
        fault=NO_POSITIVE,
    ),
    Row(
        quantity="NWJ and MINE",
        lesson="09",
        check=nwj_and_mine,
        reference="loop over Poole et al. 2019, Sec. 2",
        allowed=1e-10,
        fault="pairs counted among the separated",
    ),
    Row(
        quantity="alignment, alpha = 1, 2, 3",
        lesson="09",
        check=alignment_loop,
        reference=WANG,
        allowed=1e-10,
        fault="rows not of length 1",
    ),
    Row(
        quantity="uniformity, t = 2",
        lesson="09",
        check=uniformity_loop,
        reference=WANG,
        allowed=1e-10,
        fault="each row paired with itself",
    ),
    Row(
        quantity="effective rank of singular values 0.7^k",
        lesson="01, 10",
        check=effective_rank_known,
        reference="closed form: exp(entropy), Roy & Vetterli 2007",
        allowed=1e-9,
        fault="squared singular values",
    ),
    Row(
        quantity="collapse meter: mean cosine, standard deviation",
        lesson="10",
        check=collapse_loop,
        reference="loop over all pairs",
        allowed=1e-10,
        fault="each row paired with itself",
    ),
]
