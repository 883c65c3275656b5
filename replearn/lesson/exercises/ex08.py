"""Exercises of lesson 08: MCC by assignment, the conditional prior's KL, designing u.

Shapes: N data points; D latents that were learned; K true factors; n latents of a
simulation.
"""

import math
from itertools import permutations

import torch

from replearn.lesson.exercises import Exercise

# --- mcc --------------------------------------------------------------------------------------


def mcc(z, z_true):
    """Mean |Pearson correlation| of each true factor with a latent of its own.

    Of all ways to give each factor a latent of its own, the one with the largest mean counts.

    Args:
        z: learned latents, (N, D), float32. A constant latent has correlation 0 with everything.
        z_true: true factors, (N, K), float32, K <= D <= 6, so that all assignments can be tried.

    Returns:
        The mean over the K factors, one number in [0, 1] (a float or a tensor without dimensions).
    """
    z = z - z.mean(0)
    z_true = z_true - z_true.mean(0)
    lengths = z.norm(dim=0)[:, None] * z_true.norm(dim=0)  # (D, K)
    correlation = (z.T @ z_true).abs() / lengths.clamp(min=1e-12)
    factors = torch.arange(z_true.shape[1])
    means = []
    for latents in permutations(range(z.shape[1]), len(factors)):
        means.append(correlation[list(latents), factors].mean())
    return max(means)


def _mcc_cases(generator: torch.Generator) -> dict[str, tuple]:
    def normal(*shape):
        return torch.randn(shape, generator=generator)

    true = normal(60, 3)
    spare = normal(60, 3)
    order = torch.randperm(3, generator=generator)
    one = normal(80, 1)
    noise = normal(90, 3)
    white = torch.linalg.qr(noise - noise.mean(0)).Q  # three columns without correlation
    greedy = white @ torch.tensor([[0.75, 0.7], [0.65, 0.1], [0.0, 0.7]])
    reordered = true[:, order] * torch.tensor([-2.0, 0.5, 3.0])
    noisy = (normal(50, 4), normal(50, 2))
    copied = torch.cat([one, -2 * one + 0.01 * normal(80, 1)], 1)
    more_latents = torch.cat([spare, true[:, :2] + 0.3 * spare[:, :2]], 1)
    constant = torch.cat([true[:, :1], torch.full((60, 1), 3.0)], 1)
    return {
        "latents in another order, some turned around": (reordered, true),
        "noisy latents": noisy,
        "one factor copied into both latents": (copied, torch.cat([one, normal(80, 1)], 1)),
        "two latents that prefer the same factor": (greedy, white[:, :2]),
        "more latents than factors": (more_latents, true[:, :2]),
        "a large offset and a large scale": (200 + 50 * (true + spare), true - 30),
        "a constant latent": (constant, true[:, :2]),
    }


def _cosines(z, z_true):
    """Inner products of columns, divided by the columns' lengths, (D, K)."""
    lengths = z.norm(dim=0)[:, None] * z_true.norm(dim=0)
    return z.T @ z_true / lengths.clamp(min=1e-12)


def _correlations(z, z_true):
    """|Pearson correlation| of each latent with each factor, (D, K)."""
    return _cosines(z - z.mean(0), z_true - z_true.mean(0)).abs()


def _best_assignment(scores):
    """The largest mean that a one-to-one assignment reaches."""
    factors = torch.arange(scores.shape[1])
    return max(
        scores[list(latents), factors].mean()
        for latents in permutations(range(len(scores)), len(factors))
    )


def _best_mean_from(scores, factor=0, taken=()):
    """The best assignment by recursion over the factors; `taken` are latents given away."""
    factors = scores.shape[1]
    if factor == factors:
        return 0.0
    means = []
    for latent in range(len(scores)):
        if latent not in taken:
            rest = _best_mean_from(scores, factor + 1, (*taken, latent))
            means.append(scores[latent, factor] / factors + rest)
    return max(means)


def _mcc_by_recursion(z, z_true):
    return _best_mean_from(_correlations(z, z_true))


def _mcc_by_scipy(z, z_true):
    from scipy.optimize import linear_sum_assignment

    correlation = _correlations(z, z_true)
    latents, factors = linear_sum_assignment(correlation.numpy(), maximize=True)
    return correlation[latents, factors].mean()


def _best_latent_for_each_factor(z, z_true):
    """One latent may serve two factors."""
    return _correlations(z, z_true).amax(0).mean()


def _best_factor_for_each_latent(z, z_true):
    """The mean is over the latents, and one factor may serve two of them."""
    return _correlations(z, z_true).amax(1).mean()


def _greedy(z, z_true):
    """The largest correlation first, then the largest of what is left."""
    correlation = _correlations(z, z_true)
    total = 0.0
    for _ in range(z_true.shape[1]):
        latent, factor = divmod(int(correlation.argmax()), correlation.shape[1])
        total = total + correlation[latent, factor].clone()
        correlation[latent] = -1
        correlation[:, factor] = -1
    return total / z_true.shape[1]


def _mcc_by_numpy(z, z_true):
    import numpy as np

    z = z.double().numpy()
    z_true = z_true.double().numpy()
    latents = z.shape[1]
    factors = z_true.shape[1]
    best = 0.0
    with np.errstate(all="ignore"):
        correlation = np.corrcoef(np.hstack([z, z_true]), rowvar=False)
    correlation = np.nan_to_num(np.abs(correlation[:latents, latents:]))
    for chosen in permutations(range(latents), factors):
        total = 0.0
        for factor, latent in enumerate(chosen):
            total += correlation[latent, factor]
        best = max(best, total / factors)
    return best


def _mcc_by_standard_units(z, z_true):
    z = (z - z.mean(0)) / z.std(0).clamp(min=1e-9)
    z_true = (z_true - z_true.mean(0)) / z_true.std(0)
    correlation = torch.einsum("nd,nk->dk", z, z_true).abs() / (len(z) - 1)
    return _best_assignment(correlation).item()


def _no_assignment(z, z_true):
    """Latent i is compared with factor i."""
    return _correlations(z, z_true).diagonal().mean()


def _sign_kept(z, z_true):
    """A latent that is turned around counts as a bad one."""
    return _best_assignment(_cosines(z - z.mean(0), z_true - z_true.mean(0)))


def _mcc_not_centered(z, z_true):
    """Cosines in place of correlations."""
    return _best_assignment(_cosines(z, z_true).abs())


def _covariance(z, z_true):
    """Not divided by the lengths of the columns."""
    products = (z - z.mean(0)).T @ (z_true - z_true.mean(0))
    return _best_assignment(products.abs() / len(z))


def _nan_for_constant(z, z_true):
    """A constant latent has correlation 0 / 0."""
    d = z.shape[1]
    correlation = torch.corrcoef(torch.cat([z, z_true], 1).T)[:d, d:]
    return _best_assignment(correlation.abs())


def _squared(z, z_true):
    """The mean of the squared correlations."""
    return _best_assignment(_correlations(z, z_true) ** 2)


def _absolute_value_last(z, z_true):
    """Signs cancel in the mean, and its absolute value comes too late."""
    cosines = _cosines(z - z.mean(0), z_true - z_true.mean(0))
    factors = torch.arange(z_true.shape[1])
    means = []
    for latents in permutations(range(z.shape[1]), len(factors)):
        means.append(cosines[list(latents), factors].mean().abs())
    return max(means)


def _mean_over_latents(z, z_true):
    """The sum is divided by D, not by K."""
    return mcc(z, z_true) * z_true.shape[1] / z.shape[1]


def _ranks(z, z_true):
    """Spearman's correlation, which sees the order of the values only."""
    return mcc(z.argsort(0).argsort(0).float(), z_true.argsort(0).argsort(0).float())


def _first_latents_only(z, z_true):
    """Tries all orders of the first K latents, and leaves out the others."""
    return mcc(z[:, : z_true.shape[1]], z_true)


def _sum_of_correlations(z, z_true):
    """K times too large."""
    return mcc(z, z_true) * z_true.shape[1]


MCC = Exercise(
    solution=mcc,
    cases=_mcc_cases,
    difficulty=2,
    minutes=12,
    hints=(
        "Center both, divide the inner products of their columns by the columns' lengths: "
        "correlations (D, K).",
        "An assignment picks one latent for each factor and none twice: "
        "itertools.permutations(range(D), K).",
        "Take the assignment with the largest mean. Clamp the lengths, or a constant latent gives "
        "NaN.",
    ),
    wrong={
        "best latent for each factor (one latent may serve twice)": _best_latent_for_each_factor,
        "best factor for each latent": _best_factor_for_each_latent,
        "greedy": _greedy,
        "no assignment at all": _no_assignment,
        "sign kept": _sign_kept,
        "not centered": _mcc_not_centered,
        "covariance": _covariance,
        "NaN for a constant latent": _nan_for_constant,
        "sum in place of mean": _sum_of_correlations,
        "squared correlations": _squared,
        "absolute value of the mean": _absolute_value_last,
        "divided by the number of latents": _mean_over_latents,
        "correlation of ranks": _ranks,
        "only the first K latents": _first_latents_only,
    },
    alternatives=(_mcc_by_recursion, _mcc_by_scipy, _mcc_by_numpy, _mcc_by_standard_units),
)


# --- conditional_kl ---------------------------------------------------------------------------


def conditional_kl(mu, logvar, prior_mu, prior_logvar):
    """KL( q(z|x,u) || p(z|u) ) of two diagonal Gaussians, for each of the N data points, in nats.

    Args:
        mu, logvar: mean and log-variance of q, each (N, D), float32.
        prior_mu, prior_logvar: those of the prior of each point's segment, each (N, D), float32.

    Returns:
        A tensor (N,), the sum over the D latents, with gradients for all four arguments.
    """
    variance = logvar.exp()
    prior_variance = prior_logvar.exp()
    scaled = (variance + (mu - prior_mu) ** 2) / prior_variance
    return 0.5 * (prior_logvar - logvar + scaled - 1).sum(1)


def _kl_cases(generator: torch.Generator) -> dict[str, tuple]:
    def four(n, d):
        return tuple(torch.randn(4, n, d, generator=generator))

    mu, logvar, prior_mu, prior_logvar = four(5, 2)
    zero = torch.zeros(5, 2)
    return {
        "random Gaussians": four(6, 3),
        "one point, one latent": four(1, 1),
        "q equal to the prior (0 nats)": (mu, logvar, mu.clone(), logvar.clone()),
        "a standard normal prior": (mu, logvar, zero, zero.clone()),
        "equal means": (prior_mu, logvar, prior_mu.clone(), prior_logvar),
        "a narrow q in a wide prior": (mu, logvar - 4, prior_mu, prior_logvar + 2),
    }


def _kl_by_torch(mu, logvar, prior_mu, prior_logvar):
    q = torch.distributions.Normal(mu, (logvar / 2).exp())
    p = torch.distributions.Normal(prior_mu, (prior_logvar / 2).exp())
    return torch.distributions.kl_divergence(q, p).sum(1)


def _kl_by_ratio(mu, logvar, prior_mu, prior_logvar):
    log_ratio = logvar - prior_logvar
    distance = (mu - prior_mu).square() * torch.exp(-prior_logvar)
    return (distance + torch.expm1(log_ratio) - log_ratio).sum(-1) / 2


def _kl_by_loops(mu, logvar, prior_mu, prior_logvar):
    points = []
    for n in range(len(mu)):
        total = 0.0
        for d in range(mu.shape[1]):
            log_ratio = prior_logvar[n, d] - logvar[n, d]
            distance = (mu[n, d] - prior_mu[n, d]) ** 2
            scaled = (logvar[n, d].exp() + distance) / prior_logvar[n, d].exp()
            total = total + (log_ratio + scaled - 1) / 2
        points.append(total)
    return torch.stack(points)


def _kl_by_independent_normals(mu, logvar, prior_mu, prior_logvar):
    from torch.distributions import Independent, Normal, kl_divergence

    q = Independent(Normal(mu.double(), (logvar.double() / 2).exp()), 1)
    p = Independent(Normal(prior_mu.double(), (prior_logvar.double() / 2).exp()), 1)
    return kl_divergence(q, p)


def _kl_of_each_latent(mu, logvar, prior_mu, prior_logvar):
    """Twice the KL of each point and latent, (N, D)."""
    distance = (mu - prior_mu) ** 2
    return prior_logvar - logvar + (logvar.exp() + distance) / prior_logvar.exp() - 1


def _prior_ignored(mu, logvar, prior_mu, prior_logvar):
    """The KL to the standard normal prior of lesson 05."""
    zero = torch.zeros_like(mu)
    return conditional_kl(mu, logvar, zero, zero)


def _kl_swapped(mu, logvar, prior_mu, prior_logvar):
    """KL(p || q)."""
    return conditional_kl(prior_mu, prior_logvar, mu, logvar)


def _no_half(mu, logvar, prior_mu, prior_logvar):
    """Twice too large."""
    return _kl_of_each_latent(mu, logvar, prior_mu, prior_logvar).sum(1)


def _latents_averaged(mu, logvar, prior_mu, prior_logvar):
    """A mean over the latents, where their costs add up."""
    return 0.5 * _kl_of_each_latent(mu, logvar, prior_mu, prior_logvar).mean(1)


def _batch_summed(mu, logvar, prior_mu, prior_logvar):
    """One number for all points."""
    return 0.5 * _kl_of_each_latent(mu, logvar, prior_mu, prior_logvar).sum()


def _log_std(mu, logvar, prior_mu, prior_logvar):
    """exp(2 logvar) as the variance: logvar is taken for the log of the standard deviation."""
    variance = (2 * logvar).exp()
    prior_variance = (2 * prior_logvar).exp()
    scaled = (variance + (mu - prior_mu) ** 2) / prior_variance
    return 0.5 * (prior_logvar - logvar + scaled - 1).sum(1)


def _prior_variance_under_mean_only(mu, logvar, prior_mu, prior_logvar):
    """Only the distance of the means is divided by the prior's variance."""
    distance = (mu - prior_mu) ** 2 / prior_logvar.exp()
    return 0.5 * (prior_logvar - logvar + logvar.exp() + distance - 1).sum(1)


def _one_forgotten(mu, logvar, prior_mu, prior_logvar):
    """Without the -1, the KL of two equal Gaussians is not 0."""
    return conditional_kl(mu, logvar, prior_mu, prior_logvar) + mu.shape[1] / 2


def _logarithm_turned(mu, logvar, prior_mu, prior_logvar):
    """logvar - prior_logvar in place of prior_logvar - logvar."""
    return conditional_kl(mu, logvar, prior_mu, prior_logvar) + (logvar - prior_logvar).sum(1)


def _averaged_over_points(mu, logvar, prior_mu, prior_logvar):
    """One number, the mean over the points."""
    return conditional_kl(mu, logvar, prior_mu, prior_logvar).mean()


def _distance_not_squared(mu, logvar, prior_mu, prior_logvar):
    """The distance of the means, not its square."""
    scaled = (logvar.exp() + (mu - prior_mu).abs()) / prior_logvar.exp()
    return 0.5 * (prior_logvar - logvar + scaled - 1).sum(1)


def _prior_without_gradient(mu, logvar, prior_mu, prior_logvar):
    """The right value, but the prior of a segment could not be learned."""
    return conditional_kl(mu, logvar, prior_mu.detach(), prior_logvar.detach())


KL = Exercise(
    solution=conditional_kl,
    cases=_kl_cases,
    difficulty=2,
    minutes=10,
    gradient_of=(0, 1, 2, 3),
    hints=(
        "Start from lesson 05: 1/2 sum(-logvar + variance + mu^2 - 1) is the case prior_mu = 0, "
        "prior_logvar = 0.",
        "Measure z in units of the prior: (z - prior_mu) / prior_std. Its variance is "
        "variance / prior_variance.",
        "What is left of the logarithm is prior_logvar - logvar. Sum over the latents, keep the "
        "points apart.",
    ),
    wrong={
        "prior ignored": _prior_ignored,
        "KL(p || q)": _kl_swapped,
        "no half": _no_half,
        "mean over the latents": _latents_averaged,
        "one number for the batch": _batch_summed,
        "logvar taken for log std": _log_std,
        "prior's variance only under the mean": _prior_variance_under_mean_only,
        "prior without gradient": _prior_without_gradient,
        "the -1 forgotten": _one_forgotten,
        "logarithm of the ratio turned around": _logarithm_turned,
        "mean over the points": _averaged_over_points,
        "distance of the means not squared": _distance_not_squared,
    },
    alternatives=(_kl_by_torch, _kl_by_ratio, _kl_by_loops, _kl_by_independent_normals),
)


# --- choose_u ---------------------------------------------------------------------------------


def choose_u(z, candidates):
    """Name of the one auxiliary variable that meets all three conditions.

    1. Enough segments: at least 2 n + 1 of them, for n latents.
    2. Independent inside: for every two latents, the mean over the segments of |correlation|
       within a segment is below 0.3.
    3. Variances that change, each in its own way: of the log-variances (segments, n), each column
       minus its mean, the smallest singular value / sqrt(segments) is above 0.3.

    Args:
        z: latents of a simulation, (N, n), float32.
        candidates: a dict {name: u}; u (N,), int64, is the segment of each point. The numbers of
            the segments may be any integers.

    Returns:
        A name, str.
    """
    for name, u in candidates.items():
        segments = [z[u == label] for label in u.unique()]
        inside = torch.stack([torch.corrcoef(s.T).abs() for s in segments]).mean(0)
        inside = inside - inside.diagonal().diag()
        log_variance = torch.stack([s.var(0).log() for s in segments])
        singular_values = torch.linalg.svdvals(log_variance - log_variance.mean(0))
        change = singular_values.min() / len(segments) ** 0.5
        if len(segments) >= 2 * z.shape[1] + 1 and inside.max() < 0.3 and change > 0.3:
            return name


def _simulated(
    generator, n, segments, points, *, spread=2.4, change_range=(0.8, 9.0), correlation=0.0
):
    """Latents whose variances differ between the segments, and the segment of each point.

    spread: the log-variances run from -spread to spread. change_range: what condition 3 measures
    lies in it. correlation: how much of latent 0 is added to latent 1.
    """
    logs = torch.linspace(-spread, spread, segments)
    least, most = change_range
    change = 0
    while not least < change < most:  # by chance the variances might rise and fall together
        orders = [torch.randperm(segments, generator=generator) for _ in range(n)]
        order = torch.stack(orders, 1)  # (segments, n)
        change = torch.linalg.svdvals(logs[order]).min() / segments**0.5
    u = torch.arange(segments).repeat_interleave(points)
    noise = torch.randn(len(u), n, generator=generator)
    noise[:, 1] += correlation * noise[:, 0]
    return (logs[order] / 2).exp()[u] * noise, u


def _candidates(generator):
    """Auxiliary variables, made of the latents z and of the true segments u: {name: function}."""

    def good(z, u):
        """The true segments: all three conditions hold."""
        return u

    def few(z, u):
        """Four segments, by which latent is larger and by how large the first one is."""
        size = z.abs()
        second_is_larger = torch.where(size[:, 0] > size[:, 1], 0, 1)
        return second_is_larger + 2 * (size[:, 0] > size[:, 0].median())

    def split_by_sign(z, u, first, second):
        """Each segment in two, by whether two latents have one sign: a correlation of 0.45."""
        same_sign = z[:, first] * z[:, second] > 0
        return 2 * u + (same_sign ^ (torch.rand(len(z), generator=generator) < 0.15))

    def side(z, u):
        """Inside, the first two latents depend on each other."""
        return split_by_sign(z, u, 0, 1)

    def side_1_3(z, u):
        """Inside, the first and the third latent depend on each other."""
        return split_by_sign(z, u, 0, 2)

    def side_2_3(z, u):
        """Inside, the second and the third latent depend on each other."""
        return split_by_sign(z, u, 1, 2)

    def gain(z, u):
        """Groups of equal size by the length of z: all variances rise and fall together."""
        rank = z.norm(dim=1).argsort().argsort()
        return rank * (len(u.unique()) + 2) // len(z)

    def coin(z, u):
        """Segments that were drawn at random: nothing changes between them."""
        return u[torch.randperm(len(u), generator=generator)]

    def coin_120(z, u):
        """The same, in segments of 120 points."""
        return coin(z, torch.arange(len(u)) // 120)

    def odd(z, u):
        """The true segments under other numbers."""
        return torch.randperm(12, generator=generator)[u] * 17 - 40

    def five(z, u):
        """Five neighboring segments in one: too few for three latents."""
        return u // 5

    makers = (good, few, side, side_1_3, side_2_3, gain, coin, coin_120, odd, five)
    return {maker.__name__: maker for maker in makers}


def _choose_cases(generator: torch.Generator) -> dict[str, tuple]:
    def simulated(*sizes, **options):
        return _simulated(generator, *sizes, **options)

    # label: (latents and segments), {name that the learner sees: how the candidate is made}
    problems = {
        "too few segments beside a good u": (
            simulated(2, 12, 150),
            dict(person="few", session="good"),
        ),
        "a u that says nothing beside a good one": (
            simulated(2, 12, 600),
            dict(coin="coin_120", day="good"),
        ),
        "variances that rise and fall together beside a good u": (
            simulated(2, 14, 150),
            dict(gain="gain", room="good"),
        ),
        "latents that depend on each other inside beside a good u": (
            simulated(2, 12, 150),
            dict(side="side", site="good"),
        ),
        "five candidates, numbered oddly": (
            simulated(2, 12, 150),
            dict(side="side", gain="gain", coin="coin", scene="odd", person="few"),
        ),
        "a good u of five segments, just enough for two latents": (
            simulated(2, 5, 300),
            dict(coin="coin", shift="good"),
        ),
        "a good u that changes little and leaves a correlation of 0.2": (
            simulated(2, 20, 150, spread=1.2, change_range=(0.42, 0.55), correlation=0.22),
            dict(coin="coin", week="good"),
        ),
        "three latents, of which another two depend on each other inside": (
            simulated(3, 12, 200),
            dict(bus="side_2_3", plane="side_1_3", train="good"),
        ),
        "three latents: five segments are not enough": (
            simulated(3, 24, 120),
            dict(wing="five", ward="good", coin="coin"),
        ),
    }
    make = _candidates(generator)
    scale = torch.tensor([1.0, 8.0, 3.0])  # no condition depends on the latents' units
    cases = {}
    for label, ((z, u), makers) in problems.items():
        candidates = {}
        for name, maker in makers.items():
            candidates[name] = make[maker](z, u)
        cases[label] = (z * scale[: z.shape[1]], candidates)
    return cases


def _segments(z, u):
    return [z[u == label] for label in u.unique()]


def _mean_correlations(segments):
    """Mean over the segments of |correlation| within one, (n, n), 0 on the diagonal."""
    correlations = [torch.corrcoef(segment.T).abs() for segment in segments]
    mean = torch.stack(correlations).mean(0)
    return mean - mean.diagonal().diag()


def _correlation_inside(segments):
    """The largest one of two latents (condition 2)."""
    return _mean_correlations(segments).max()


def _log_variances(segments):
    """(segments, n), each column minus its mean."""
    logs = torch.stack([segment.var(0).log() for segment in segments])
    return logs - logs.mean(0)


def _change(segments):
    """How much the variances change, each in its own way (condition 3)."""
    return torch.linalg.svdvals(_log_variances(segments)).min() / len(segments) ** 0.5


def _enough(segments):
    return len(segments) >= 2 * segments[0].shape[1] + 1


def _first_that_fits(z, candidates, fits):
    """Name of the first candidate for which fits(segments) holds; the first one if none does."""
    for name, u in candidates.items():
        if fits(_segments(z, u)):
            return name
    return next(iter(candidates))


def _choose_by_eigenvalues(z, candidates):
    n = z.shape[1]
    for name, u in candidates.items():
        labels, index = u.unique(return_inverse=True)
        count = len(labels)
        logs = []
        inside = 0.0
        for i in range(count):
            segment = z[index == i] - z[index == i].mean(0)
            covariance = segment.T @ segment / (len(segment) - 1)
            logs.append(covariance.diagonal().log())
            std = covariance.diagonal().sqrt()
            inside = inside + (covariance / std / std[:, None]).abs() / count
        smallest = torch.linalg.eigvalsh(torch.cov(torch.stack(logs).T, correction=0))[0]
        if count > 2 * n and (inside - torch.eye(n)).max() < 0.3 and smallest > 0.09:
            return name
    return None


def _choose_by_norm(z, candidates):
    def fits(segments):
        correlations = [torch.corrcoef(segment.T).abs() for segment in segments]
        above_diagonal = torch.stack(correlations).mean(0).triu(1)
        smallest = torch.linalg.matrix_norm(_log_variances(segments), ord=-2)
        changes = smallest > 0.3 * len(segments) ** 0.5
        return len(segments) > 2 * z.shape[1] and changes and above_diagonal.max() < 0.3

    return _first_that_fits(z, candidates, fits)


def _choose_by_numpy(z, candidates):
    import numpy as np

    z = z.double().numpy()
    n = z.shape[1]
    names = []
    for name in candidates:
        u = candidates[name].numpy()
        labels = sorted(set(u.tolist()))
        correlations = []
        logs = []
        for label in labels:
            segment = z[u == label]
            correlations.append(np.abs(np.corrcoef(segment, rowvar=False)))
            logs.append([math.log(segment[:, i].var()) for i in range(n)])
        mean = np.mean(correlations, axis=0)
        pairs = [mean[i, j] for i in range(n) for j in range(i)]
        logs = np.array(logs)
        smallest = np.linalg.svd(logs - logs.mean(0), compute_uv=False)[-1]
        change = smallest / math.sqrt(len(labels))
        if len(labels) >= 2 * n + 1 and max(pairs) < 0.3 and change > 0.3:
            names.append(name)
    return names[0]


def _choose_by_loops(z, candidates):
    n = z.shape[1]
    chosen = None
    for name, u in candidates.items():
        rows_of = {}
        for row, label in zip(z, u.tolist(), strict=True):
            rows_of.setdefault(label, []).append(row)
        segments = [torch.stack(rows) for rows in rows_of.values()]
        independent = True
        for i in range(n):
            for j in range(i + 1, n):
                total = 0.0
                for segment in segments:
                    pair = segment[:, [i, j]].T
                    total += abs(torch.corrcoef(pair)[0, 1].item())
                if total / len(segments) >= 0.3:
                    independent = False
        change = _change(segments)
        if independent and change > 0.3 and len(segments) > 2 * n:
            chosen = name
    return chosen


def _choose_first(z, candidates):
    """The first name, whatever it is."""
    return next(iter(candidates))


def _choose_last(z, candidates):
    """The last name, whatever it is."""
    return list(candidates)[-1]


def _choose_most_segments(z, candidates):
    """The more segments the better."""
    return max(candidates, key=lambda name: len(candidates[name].unique()))


def _choose_by_number_only(z, candidates):
    """Condition 1 alone."""
    return _first_that_fits(z, candidates, _enough)


def _choose_n_plus_1(z, candidates):
    """n + 1 segments are taken for enough."""

    def fits(segments):
        enough = len(segments) >= z.shape[1] + 1
        return enough and _correlation_inside(segments) < 0.3 and _change(segments) > 0.3

    return _first_that_fits(z, candidates, fits)


def _choose_by_each_variance(z, candidates):
    """Each variance changes, but perhaps all of them together."""

    def fits(segments):
        least = _log_variances(segments).std(0).min()
        return _enough(segments) and _correlation_inside(segments) < 0.3 and least > 0.3

    return _first_that_fits(z, candidates, fits)


def _choose_without_independence(z, candidates):
    """Conditions 1 and 3: independence inside is not asked for."""

    def fits(segments):
        return _enough(segments) and _change(segments) > 0.3

    return _first_that_fits(z, candidates, fits)


def _choose_with(z, candidates, inside=_correlation_inside, change=_change):
    """The first that fits, with condition 2 or 3 measured in another way."""

    def fits(segments):
        return _enough(segments) and inside(segments) < 0.3 and change(segments) > 0.3

    return _first_that_fits(z, candidates, fits)


def _choose_by_first_pair(z, candidates):
    """Of all pairs of latents, only the first two are looked at."""
    return _choose_with(z, candidates, inside=lambda segments: _mean_correlations(segments)[0, 1])


def _choose_by_neighbors(z, candidates):
    """Only latents that stand next to each other are looked at, not the first and the last."""

    def inside(segments):
        return _mean_correlations(segments).diagonal(1).max()

    return _choose_with(z, candidates, inside=inside)


def _choose_by_mean_over_pairs(z, candidates):
    """A mean over the pairs of latents hides one pair that depends."""

    def inside(segments):
        mean = _mean_correlations(segments)
        return mean.sum() / (len(mean) * (len(mean) - 1))

    return _choose_with(z, candidates, inside=inside)


def _choose_by_signed_correlation(z, candidates):
    """Without the absolute value, correlations of both signs cancel in the mean."""

    def inside(segments):
        mean = torch.stack([torch.corrcoef(segment.T) for segment in segments]).mean(0)
        return (mean - mean.diagonal().diag()).abs().max()

    return _choose_with(z, candidates, inside=inside)


def _choose_by_pooled_correlation(z, candidates):
    """The correlation over all points says nothing of the inside of a segment."""

    def inside(segments):
        return _mean_correlations([torch.cat(segments)]).max()

    return _choose_with(z, candidates, inside=inside)


def _choose_without_root(z, candidates):
    """The singular value is not divided, and grows with the number of segments."""

    def change(segments):
        return torch.linalg.svdvals(_log_variances(segments)).min()

    return _choose_with(z, candidates, change=change)


def _choose_by_largest_singular_value(z, candidates):
    """The largest singular value is large also if all variances change together."""

    def change(segments):
        return torch.linalg.svdvals(_log_variances(segments)).max() / len(segments) ** 0.5

    return _choose_with(z, candidates, change=change)


def _choose_by_uncentered_logs(z, candidates):
    """The columns keep their means, which depend on the units of the latents."""

    def change(segments):
        logs = torch.stack([segment.var(0).log() for segment in segments])
        return torch.linalg.svdvals(logs).min() / len(segments) ** 0.5

    return _choose_with(z, candidates, change=change)


CHOOSE = Exercise(
    solution=choose_u,
    cases=_choose_cases,
    difficulty=3,
    minutes=20,
    hints=(
        "Cut z into segments first: [z[u == label] for label in u.unique()].",
        "torch.corrcoef(segment.T) has the correlations inside, of all pairs of latents; the ones "
        "on its diagonal do not count.",
        "torch.linalg.svdvals(logs - logs.mean(0)).min() is near 0 when nothing changes, and also "
        "when all variances change by the same factor.",
    ),
    wrong={
        "the first": _choose_first,
        "the last": _choose_last,
        "the most segments": _choose_most_segments,
        "only the number of segments": _choose_by_number_only,
        "n + 1 segments are enough": _choose_n_plus_1,
        "each variance changes, perhaps together": _choose_by_each_variance,
        "independence inside not asked for": _choose_without_independence,
        "only the first two latents compared": _choose_by_first_pair,
        "only neighboring latents compared": _choose_by_neighbors,
        "mean over the pairs of latents": _choose_by_mean_over_pairs,
        "correlations of both signs averaged": _choose_by_signed_correlation,
        "correlation over all points": _choose_by_pooled_correlation,
        "singular value not divided by the root": _choose_without_root,
        "largest singular value": _choose_by_largest_singular_value,
        "log-variances not centered": _choose_by_uncentered_logs,
    },
    alternatives=(_choose_by_eigenvalues, _choose_by_norm, _choose_by_numpy, _choose_by_loops),
)

EXERCISES = [MCC, KL, CHOOSE]
