"""Metrics: features in, numbers out; only alignment, uniformity and mi_lower_bound are differentiable.
N examples; P, Q, D features; K factors. A wrong shape, too few rows or NaN is a ValueError, a bad type a TypeError."""

import math

import torch
import torch.nn.functional as F

from replearn import _check
from replearn.losses import fill_diagonal, full_precision, info_nce, pair, positive


def _same_rows(name_x, x, name_y, y, *, min_rows=2):
    """Raise unless both are finite matrices about the same N examples; their columns may differ."""
    rows = {
        len(_check.finite(name, v, min_rows=min_rows)) for name, v in ((name_x, x), (name_y, y))
    }
    if len(rows) > 1 or x.dtype != y.dtype:
        raise ValueError(
            f"{name_x} and {name_y}: expected equal numbers of rows and equal dtypes, found "
            f"{tuple(x.shape)} {x.dtype} and {tuple(y.shape)} {y.dtype}"
        )


def _centered(x):
    """Subtract the mean, by way of the first row: a constant column becomes exactly 0, not rounding noise."""
    x = x.detach() - x[0].detach()
    return x.sub_(x.mean(0))


def _hsic(x, y, debiased):
    """||x^T y||_F^2 of centered x, y: HSIC up to a factor that cancels in CKA; debiased as in Song et al. 2012."""
    n, p, q = len(x), x.shape[1], y.shape[1]
    if (
        n * (p + q) < p * q
    ):  # few rows of wide features: <x x^T, y y^T> is the same number and cheaper
        total = ((x @ x.T) * (y @ y.T)).cpu().double().sum()
    else:  # float32 products of 8,192 rows at a time, summed in float64
        total = (
            sum((a.T @ b).cpu().double() for a, b in zip(x.split(8192), y.split(8192), strict=True))
            .square()
            .sum()
        )
    if debiased:
        a, b, raw = (
            x.square().sum(1).cpu().double(),
            y.square().sum(1).cpu().double(),
            total,
        )  # (N,), (N,)
        total = raw - n / (n - 2) * (a @ b) + a.sum() * b.sum() / ((n - 1) * (n - 2))
        total *= total.abs() > 10 * torch.finfo(x.dtype).eps * raw  # the rest is rounding noise
    return total.item()


@full_precision
def linear_cka(x, y, *, debiased=False):
    """How alike two representations are: ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F), columns centered.
    x: (N, P), y: (N, Q), N >= 2, debiased 4. Returns a float in [0, 1] (debiased: it can be negative); 0.0 if a side is
    constant. Biased upward unless N >> P, Q. Source: Kornblith et al. 2019, Sec. 3; debiased: Nguyen et al. 2021."""
    _same_rows("x", x, "y", y, min_rows=4 if debiased else 2)
    x, y = (
        v.div_(max(v.amax(), -v.amin(), 1e-30)) for v in (_centered(x), _centered(y))
    )  # squares must not overflow
    xx, yy = _hsic(x, x, debiased), _hsic(y, y, debiased)
    return min(_hsic(x, y, debiased) / math.sqrt(xx * yy), 1.0) if min(xx, yy) > 0 else 0.0


def cca_correlations(x, y, *, ridge=0.0):
    """Canonical correlations: singular values of (S_xx + ridge I)^-1/2 S_xy (S_yy + ridge I)^-1/2, S = covariances.
    x: (N, P), y: (N, Q); ridge >= 0 in units of variance. Returns (min(P, Q, N - 1),) values in [0, 1], largest first.
    P + Q >= N gives 1.0 on pure noise: a ridge or held-out data is the cure. Source: Hotelling 1936; Vinod 1976."""
    _same_rows("x", x, "y", y)
    if not 0 <= ridge < math.inf:
        raise ValueError(f"ridge: expected a finite number, 0 or more, found {ridge}")
    white = []
    for v, centered in ((v, _centered(v.cpu().double())) for v in (x, y)):
        size = centered.abs().max().clamp(min=1e-307)  # so that squares neither overflow nor vanish
        u, s, _ = torch.linalg.svd(centered / size, full_matrices=False)
        null = s <= s[0] * v.shape[1] * min(
            torch.finfo(v.dtype).eps, 1e-7
        )  # no variation, so no correlation
        white.append(
            u * (s / (s.square() + ridge / size / size * (len(v) - 1)).sqrt()).masked_fill(null, 0)
        )
    return torch.linalg.svdvals(white[0].T @ white[1])[: len(x) - 1].clamp(max=1).to(x)


def mcc(z, z_true, *, method="pearson"):
    """Mean |correlation| of each true factor with a latent of its own, under the best one-to-one assignment.
    z: (N, D), posterior means on held-out data; z_true: (N, K); method: "pearson" or "spearman". Returns a float in
    [0, 1]; a constant latent counts 0; compare with noise of equal shape. Source: Hyvärinen & Morioka 2016."""
    from scipy import optimize, stats

    _same_rows("z", z, "z_true", z_true)
    if method not in ("pearson", "spearman"):
        raise ValueError(f'method: expected "pearson" or "spearman", found {method!r}')
    if (z_true == z_true[0]).all(0).any():
        raise ValueError(
            "z_true: expected factors that vary, found a constant column; leave it out"
        )
    z, z_true = (v.detach().cpu().double() for v in (z, z_true))
    z, z_true = (
        torch.from_numpy(stats.rankdata(v, axis=0)) if method == "spearman" else v
        for v in (z, z_true)
    )
    z, z_true = (
        F.normalize(v / v.abs().amax(0).clamp(min=1e-307), dim=0)
        for v in map(_centered, (z, z_true))
    )
    correlation = (z.T @ z_true).abs().numpy()  # (D, K)
    return float(
        correlation[optimize.linear_sum_assignment(correlation, maximize=True)].sum()
        / z_true.shape[1]
    )


@full_precision
def mi_lower_bound(scores, *, bound="infonce"):
    """I(x; y) >= log N - info_nce(S) (infonce), mean S_ii - mean e^(S_ij - 1) (nwj), mean S_ii - log mean e^S_ij (mine)
    scores: (N, N), S_ij = critic of (x_i, y_j), i != j in the means. Returns nats; infonce stays below log N. One batch
    can exceed the truth, the mean over batches cannot (mine: only as N grows). Source: Poole et al. 2019, Sec. 2."""
    loss, n, joint = info_nce(scores), len(scores), scores.diagonal().mean()
    log_mean = fill_diagonal(scores, -math.inf).flatten().logsumexp(0) - math.log(n * (n - 1))
    bounds = {
        "infonce": math.log(n) - loss,
        "nwj": joint - (log_mean - 1).exp(),
        "mine": joint - log_mean,
    }
    if bound not in bounds:
        raise ValueError(f"bound: expected one of {', '.join(bounds)}, found {bound!r}")
    return _check.finite(
        "nwj (e^score overflows: normalize the critic)", bounds[bound][None], ndim=1
    )[0]


@full_precision
def alignment(z1, z2, *, alpha=2):
    """How far apart two views are: mean_i ||z1_i - z2_i||^alpha, rows scaled to length 1; 0 is best.
    z1, z2: (N, D). Returns a number >= 0. Source: Wang & Isola 2020, Sec. 4.1."""
    pair("z1", z1, "z2", z2, min_rows=1)
    positive("alpha", alpha)
    return (F.normalize(z1, dim=1) - F.normalize(z2, dim=1)).norm(dim=1).pow(alpha).mean()


@full_precision
def uniformity(z, *, t=2):
    """How unevenly rows of length 1 fill the sphere: log mean_{i != j} exp(-t ||z_i - z_j||^2); 0 is collapse.
    z: (N, D), N >= 2. Returns a number <= 0, lower is better. Source: Wang & Isola 2020, Sec. 4.1."""
    positive("t", t)
    z = F.normalize(_check.finite("z", z, min_rows=2), dim=1)  # so ||z_i - z_j||^2 = 2 - 2 z_i.z_j
    return fill_diagonal(2 * t * (z @ z.T - 1), -math.inf).flatten().logsumexp(0) - math.log(
        len(z) * (len(z) - 1)
    )


def effective_rank(z):
    """How many directions z uses: exp(-sum_i p_i log p_i), p = singular values of z / their sum.
    z: (N, D); pass z - z.mean(0) to ignore the mean. Returns a float >= 1 (zeros: 0.0). Source: Roy & Vetterli 2007."""
    s = torch.linalg.svdvals(_check.finite("z", z).detach().cpu().double())
    return torch.special.entr(s / s.sum()).sum().exp().item() if s.sum() > 0 else 0.0


def collapse_meter(z):
    """Vital signs of rows scaled to length 1. Healthy: std near std_uniform = 1 / sqrt(D). Collapsed: std 0, rest 1.
    z: (N, D), N >= 2. Returns floats: std (mean over D), std_uniform, effective_rank, mean_cosine (of i != j)."""
    z = F.normalize(_check.finite("z", z, min_rows=2).detach().cpu().double(), dim=1)
    cosine = (z.sum(0).square().sum() - z.square().sum()).item() / (len(z) * (len(z) - 1))
    std = z.std(0, correction=0).mean().item()
    return dict(
        std=std,
        std_uniform=z.shape[1] ** -0.5,
        effective_rank=effective_rank(z),
        mean_cosine=cosine,
    )


@full_precision
def precision_at_k(features, labels, *, k=10, metric="euclidean"):
    """Share of the k nearest other rows that carry the query's label, mean over all N rows as queries.
    features: (N, D); labels: (N,) integers; k < N; metric: "euclidean" or "cosine". Returns a float, a fraction."""
    features = _check.finite("features", features, min_rows=2).detach()
    labels = _check.labels("labels", labels, len(features)).to(features.device)
    if not 1 <= k < len(features) or metric not in ("euclidean", "cosine"):
        raise ValueError(
            f"expected k in 1 to {len(features) - 1} (a query is not its own neighbor) and metric "
            f"'euclidean' or 'cosine', found k={k!r} and metric={metric!r}"
        )
    x, hits = F.normalize(features, dim=1) if metric == "cosine" else features - features.mean(0), 0
    for rows in torch.arange(len(x), device=x.device).split(1024):
        closeness = x[rows] @ x.T if metric == "cosine" else -torch.cdist(x[rows], x)  # (1024, N)
        closeness[torch.arange(len(rows)), rows] = -math.inf
        hits += (labels[closeness.topk(k).indices] == labels[rows, None]).sum().item()
    return hits / (len(x) * k)
