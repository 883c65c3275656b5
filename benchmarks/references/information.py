"""Bounds on mutual information and the geometry of features, against densities, loops and closed forms."""

import math

import torch

from references import normal
from replearn import metrics


def gaussian_pairs(seed, nats, n, dim=20):
    rho = math.sqrt(1 - math.exp(-2 * nats / dim))
    x, noise = normal(seed, 2, n, dim).float()
    return x, rho * x + math.sqrt(1 - rho**2) * noise, rho


def best_scores(seed, nats, n):
    """log p(y|x) / p(y) of every pair (n, n): the critic of lesson 09."""
    x, y, rho = gaussian_pairs(seed, nats, n)
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    return nats + (2 * rho * x @ y.T - rho**2 * squares) / (2 * (1 - rho**2))


def without_the_pair(scores):
    """The estimate with the positive left out of its own denominator."""
    others = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -math.inf)
    return (math.log(len(scores)) - others.logsumexp(1) + scores.diagonal()).mean()


def infonce_densities(seed, n=64):
    from scipy.special import logsumexp
    from scipy.stats import norm

    found, expected, faulty = [], [], []
    for nats in (2, 6, 10):
        x, y, rho = (
            v.double().numpy() if isinstance(v, torch.Tensor) else v
            for v in gaussian_pairs(seed, nats, n)
        )
        ratio = (norm.logpdf(y, rho * x[:, None], math.sqrt(1 - rho**2)) - norm.logpdf(y)).sum(-1)
        expected.append(math.log(n) + (ratio.diagonal() - logsumexp(ratio, 1)).mean())
        scores = best_scores(seed, nats, n)
        found.append(metrics.mi_lower_bound(scores).item())
        faulty.append(without_the_pair(scores).item())
    return found, expected, faulty


def infonce_table(seed):
    found = {}
    for n, batches in {64: 100, 256: 30, 1024: 8, 4096: 1}.items():
        values = [
            (metrics.mi_lower_bound(s), metrics.mi_lower_bound(s / 2))
            for s in (best_scores(1000 * seed + b, 10, n) for b in range(batches))
        ]
        found[n] = torch.tensor(values).mean(0)
    right, wrong = torch.stack(list(found.values())).T
    return right, [4.12, 5.43, 6.62, 7.68], wrong


def infonce_mean(seed, n=64, batches=100):
    """By how many standard errors the mean over batches exceeds the truth, the most for 1 to 10 nats."""
    found, faulty = 0.0, 0.0
    for nats in (1, 2, 4, 6, 8, 10):
        scores = [best_scores(1000 * seed + b, nats, n) for b in range(batches)]
        values = torch.tensor([[metrics.mi_lower_bound(s), without_the_pair(s)] for s in scores])
        right, wrong = ((values.mean(0) - nats) / (values.std(0) / batches**0.5)).tolist()
        found, faulty = max(found, right), max(faulty, wrong)
    return found, 0, faulty


def infonce_ceiling(seed):
    over = lambda s, estimate: (estimate(s) - math.log(len(s))).clamp(min=0)
    scores = [
        best_scores(1000 * seed + b, nats, n)
        for n in (32, 128, 512)
        for nats in (2, 6, 10)
        for b in range(10)
    ]
    scores += [1e4 * torch.eye(64)]  # a perfect score
    return (
        max(over(s, metrics.mi_lower_bound) for s in scores),
        0,
        max(over(s, without_the_pair) for s in scores),
    )


def nwj_and_mine(seed):
    s, n = normal(seed, 1, 8, 8)[0], 8
    joint = sum(s[i, i].item() for i in range(n)) / n
    apart = [math.exp(s[i, j]) for i in range(n) for j in range(n) if i != j]
    expected = [joint - sum(apart) / len(apart) / math.e, joint - math.log(sum(apart) / len(apart))]
    everything = s.exp().mean().item()  # the pairs counted among the separated
    return (
        [metrics.mi_lower_bound(s, bound=bound).item() for bound in ("nwj", "mine")],
        expected,
        [joint - everything / math.e, joint - math.log(everything)],
    )


def alignment_loop(seed):
    z1, z2 = normal(seed, 2, 12, 4)
    unit = lambda v: [x / x.norm() for x in v]
    found = [metrics.alignment(z1, z2, alpha=alpha).item() for alpha in (1, 2, 3)]
    loop = [
        sum(math.dist(a, b) ** alpha for a, b in zip(unit(z1), unit(z2), strict=True)) / 12
        for alpha in (1, 2, 3)
    ]
    raw = [
        sum(math.dist(a, b) ** alpha for a, b in zip(z1, z2, strict=True)) / 12
        for alpha in (1, 2, 3)
    ]
    return found, loop, raw


def uniformity_loop(seed):
    (z,) = normal(seed, 1, 12, 4)
    unit = [x / x.norm() for x in z]
    pairs = [
        math.exp(-2 * math.dist(unit[i], unit[j]) ** 2)
        for i in range(12)
        for j in range(12)
        if i != j
    ]
    with_itself = math.log((sum(pairs) + 12) / 144)
    return metrics.uniformity(z), math.log(sum(pairs) / len(pairs)), with_itself


def effective_rank_known(seed):
    (a, b) = (torch.linalg.qr(v)[0] for v in normal(seed, 2, 40, 6))
    s = 0.7 ** torch.arange(6).double()
    expected, squared = (torch.special.entr(v / v.sum()).sum().exp() for v in (s, s.square()))
    return metrics.effective_rank(a * s @ b.T), expected, squared


def collapse_loop(seed):
    z = normal(seed, 1, 15, 4)[0] + 1
    unit = torch.stack([x / x.norm() for x in z])
    cosines = [float(unit[i] @ unit[j]) for i in range(15) for j in range(15)]
    apart = (sum(cosines) - 15) / (15 * 14)
    spread = unit.numpy().std(0).mean()
    found = metrics.collapse_meter(z)
    return [found["mean_cosine"], found["std"]], [apart, spread], [sum(cosines) / 225, spread]


SELF = "the positive left out of the denominator"
ROWS = [
    dict(
        check=infonce_densities,
        quantity="InfoNCE estimate at 2, 6, 10 nats, N = 64",
        lesson="09",
        fault=SELF,
        allowed=1e-4,
        reference="log densities, stats.norm",
        peer="scipy",
    ),
    dict(
        check=infonce_table,
        quantity="InfoNCE at 10 nats, N = 64, 256, 1,024, 4,096: 4.12, 5.43, 6.62, 7.68",
        lesson="09",
        fault="scores halved",
        allowed=0.08,
        reference="the table of lesson 09",
    ),
    dict(
        check=infonce_mean,
        quantity="InfoNCE's mean over batches above the truth (1 to 10 nats), standard errors",
        lesson="09",
        fault=SELF,
        allowed=3,
        reference="closed form: -d/2 log(1 - rho^2)",
    ),
    dict(
        check=infonce_ceiling,
        quantity="InfoNCE of one batch above log N, nats",
        lesson="09",
        fault=SELF,
        allowed=1e-5,
        reference="closed form: log N",
    ),
    dict(
        check=nwj_and_mine,
        quantity="NWJ and MINE",
        lesson="09",
        fault="pairs counted among the separated",
        allowed=1e-10,
        reference="loop over Poole et al. 2019, Sec. 2",
    ),
    dict(
        check=alignment_loop,
        quantity="alignment, alpha = 1, 2, 3",
        lesson="09",
        fault="rows not of length 1",
        allowed=1e-10,
        reference="loop over Wang & Isola 2020, Sec. 4.1",
    ),
    dict(
        check=uniformity_loop,
        quantity="uniformity, t = 2",
        lesson="09",
        fault="each row paired with itself",
        allowed=1e-10,
        reference="loop over Wang & Isola 2020, Sec. 4.1",
    ),
    dict(
        check=effective_rank_known,
        quantity="effective rank of singular values 0.7^k",
        lesson="01, 10",
        fault="squared singular values",
        allowed=1e-9,
        reference="closed form: exp(entropy), Roy & Vetterli 2007",
    ),
    dict(
        check=collapse_loop,
        quantity="collapse meter: mean cosine, standard deviation",
        lesson="10",
        fault="each row paired with itself",
        allowed=1e-10,
        reference="loop over all pairs",
    ),
]
