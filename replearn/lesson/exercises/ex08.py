"""Exercises of lesson 08: MCC by assignment, the conditional prior's KL, designing u."""

from itertools import permutations

import torch

from replearn.lesson.exercises import Exercise


def mcc(z, z_true):
    """Mean |Pearson correlation| of each true factor with a latent of its own, under the best one-to-one assignment.

    z: (N, D), z_true: (N, K), K <= D <= 6, so that all assignments can be tried. A constant latent counts 0. Returns
    one number in [0, 1].
    """
    z, z_true = z - z.mean(0), z_true - z_true.mean(0)
    lengths = z.norm(dim=0)[:, None] * z_true.norm(dim=0)  # (D, K)
    correlation = (z.T @ z_true).abs() / lengths.clamp(min=1e-12)
    factors = range(z_true.shape[1])
    return max(
        torch.stack(
            [correlation[latent, k] for latent, k in zip(chosen, factors, strict=True)]
        ).mean()
        for chosen in permutations(range(z.shape[1]), len(factors))
    )


def _mcc_cases(generator):
    def normal(*shape):
        return torch.randn(shape, generator=generator)

    true, spare = normal(60, 3), normal(60, 3)
    order = torch.randperm(3, generator=generator)
    one = normal(80, 1)
    noise = normal(90, 3)
    white = torch.linalg.qr(noise - noise.mean(0)).Q  # three columns without correlation
    greedy = white @ torch.tensor([[0.75, 0.7], [0.65, 0.1], [0.0, 0.7]])
    return {
        "latents in another order, some turned around": (
            true[:, order] * torch.tensor([-2.0, 0.5, 3.0]),
            true,
        ),
        "noisy latents": (normal(50, 4), normal(50, 2)),
        "one factor copied into both latents": (
            torch.cat([one, -2 * one + 0.01 * normal(80, 1)], 1),
            torch.cat([one, normal(80, 1)], 1),
        ),
        "two latents that prefer the same factor": (greedy, white[:, :2]),
        "more latents than factors": (
            torch.cat([spare, true[:, :2] + 0.3 * spare[:, :2]], 1),
            true[:, :2],
        ),
        "a large offset and a large scale": (200 + 50 * (true + spare), true - 30),
        "a constant latent": (torch.cat([true[:, :1], torch.full((60, 1), 3.0)], 1), true[:, :2]),
    }


def _correlations(z, z_true, center=True, absolute=True):
    if center:
        z, z_true = z - z.mean(0), z_true - z_true.mean(0)
    c = z.T @ z_true / (z.norm(dim=0)[:, None] * z_true.norm(dim=0)).clamp(min=1e-12)
    return c.abs() if absolute else c


def _assign(c):
    return max(
        torch.stack([c[i, k] for k, i in enumerate(p)]).mean()
        for p in permutations(range(len(c)), c.shape[1])
    )


def _greedy(z, z_true):
    c, total = _correlations(z, z_true).clone(), 0.0
    for _ in range(z_true.shape[1]):
        i, k = divmod(int(c.argmax()), c.shape[1])
        total = total + c[i, k].clone()
        c[i], c[:, k] = -1, -1
    return total / z_true.shape[1]


def _best_from(c, k=0, taken=()):
    """Mean by recursion over the factors."""
    if k == c.shape[1]:
        return 0.0
    return max(
        c[i, k] / c.shape[1] + _best_from(c, k + 1, (*taken, i))
        for i in range(len(c))
        if i not in taken
    )


def _scipy_assignment(z, z_true):
    from scipy.optimize import linear_sum_assignment

    c = _correlations(z, z_true)
    rows, columns = linear_sum_assignment(c.numpy(), maximize=True)
    return c[rows, columns].mean()


MCC = Exercise(
    solution=mcc,
    cases=_mcc_cases,
    difficulty=2,
    minutes=12,
    hints=(
        "Center both, divide the inner products of their columns by the columns' lengths: correlations (D, K).",
        "An assignment picks one latent for each factor and none twice: itertools.permutations(range(D), K).",
        "Take the assignment with the largest mean. Clamp the lengths, or a constant latent gives NaN.",
    ),
    wrong={
        "best latent for each factor (one latent may serve twice)": lambda z, t: (
            _correlations(z, t).amax(0).mean()
        ),
        "best factor for each latent": lambda z, t: _correlations(z, t).amax(1).mean(),
        "greedy": _greedy,
        "no assignment at all": lambda z, t: _correlations(z, t).diagonal().mean(),
        "sign kept": lambda z, t: _assign(_correlations(z, t, absolute=False)),
        "not centered": lambda z, t: _assign(_correlations(z, t, center=False)),
        "covariance": lambda z, t: _assign(((z - z.mean(0)).T @ (t - t.mean(0))).abs() / len(z)),
        "NaN for a constant latent": lambda z, t: _assign(
            torch.corrcoef(torch.cat([z, t], 1).T)[: z.shape[1], z.shape[1] :].abs()
        ),
        "sum in place of mean": lambda z, t: mcc(z, t) * t.shape[1],
    },
    alternatives=(lambda z, t: _best_from(_correlations(z, t)), _scipy_assignment),
)


def conditional_kl(mu, logvar, prior_mu, prior_logvar):
    """KL( q(z|x,u) || p(z|u) ) of two diagonal Gaussians, for each of the N data points, in nats.

    mu, logvar: mean and log-variance of q, prior_mu, prior_logvar: those of the prior of each point's segment; all
    (N, D). Returns (N,), the sum over the D latents; differentiable in all four.
    """
    variance, prior_variance = logvar.exp(), prior_logvar.exp()
    scaled = (variance + (mu - prior_mu) ** 2) / prior_variance
    return 0.5 * (prior_logvar - logvar + scaled - 1).sum(1)


def _kl_cases(generator):
    def four(n, d, spread=1.0):
        mu, logvar, prior_mu, prior_logvar = torch.randn(4, n, d, generator=generator) * spread
        return mu, logvar, prior_mu, prior_logvar

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


def _kl_formula(
    *, half=0.5, reduce=lambda t: t.sum(1), swap=False, use_prior=True, square=True, var=None
):
    var = var or (lambda logvar: logvar.exp())

    def kl(mu, logvar, prior_mu, prior_logvar):
        if swap:
            mu, logvar, prior_mu, prior_logvar = prior_mu, prior_logvar, mu, logvar
        if not use_prior:
            prior_mu, prior_logvar = torch.zeros_like(mu), torch.zeros_like(mu)
        distance = (mu - prior_mu) ** 2 if square else (mu - prior_mu).abs()
        return half * reduce(
            prior_logvar - logvar + (var(logvar) + distance) / var(prior_logvar) - 1
        )

    return kl


def _kl_torch(mu, logvar, prior_mu, prior_logvar):
    q = torch.distributions.Normal(mu, (logvar / 2).exp())
    p = torch.distributions.Normal(prior_mu, (prior_logvar / 2).exp())
    return torch.distributions.kl_divergence(q, p).sum(1)


KL = Exercise(
    solution=conditional_kl,
    cases=_kl_cases,
    difficulty=2,
    minutes=10,
    gradient_of=(0, 1, 2, 3),
    hints=(
        "Start from lesson 05: 1/2 sum(-logvar + variance + mu^2 - 1) is the case prior_mu = 0, prior_logvar = 0.",
        "Measure z in units of the prior: (z - prior_mu) / prior_std. Its variance is variance / prior_variance.",
        "What is left of the logarithm is prior_logvar - logvar. Sum over the latents, keep the points apart.",
    ),
    wrong={
        "prior ignored": _kl_formula(use_prior=False),
        "KL(p || q)": _kl_formula(swap=True),
        "no half": _kl_formula(half=1.0),
        "mean over the latents": _kl_formula(reduce=lambda t: t.mean(1)),
        "one number for the batch": _kl_formula(reduce=lambda t: t.sum()),
        "logvar taken for log std": _kl_formula(var=lambda logvar: (2 * logvar).exp()),
        "prior's variance only under the mean": lambda mu, logvar, prior_mu, prior_logvar: (
            0.5
            * (
                prior_logvar - logvar + logvar.exp() + (mu - prior_mu) ** 2 / prior_logvar.exp() - 1
            ).sum(1)
        ),
        "prior without gradient": lambda mu, logvar, prior_mu, prior_logvar: conditional_kl(
            mu, logvar, prior_mu.detach(), prior_logvar.detach()
        ),
    },
    alternatives=(
        _kl_torch,
        lambda mu, logvar, prior_mu, prior_logvar: (
            (
                (mu - prior_mu).square() * torch.exp(-prior_logvar)
                + torch.expm1(logvar - prior_logvar)
                - (logvar - prior_logvar)
            ).sum(-1)
            / 2
        ),
    ),
)


def choose_u(z, candidates):
    """Name of the one auxiliary variable that makes the latents identifiable: it meets all three conditions.

    z: (N, k) latents of a simulation; candidates: {name: (N,) integers, the segment of each point; any integers}.
    1. Enough segments: at least 2 k + 1.
    2. Independent inside: the mean over segments of |correlation| within a segment is below 0.3 for every two latents.
    3. Variances that change, each in its own way: of the log-variances (segments, k), each column minus its mean, the
       smallest singular value / sqrt(segments) is above 0.3.
    """
    for name, u in candidates.items():
        segments = [z[u == label] for label in u.unique()]
        inside = torch.stack([torch.corrcoef(s.T).abs() for s in segments]).mean(0)
        inside = inside - inside.diagonal().diag()
        log_variance = torch.stack([s.var(0).log() for s in segments])
        change = (
            torch.linalg.svdvals(log_variance - log_variance.mean(0)).min() / len(segments) ** 0.5
        )
        if len(segments) >= 2 * z.shape[1] + 1 and inside.max() < 0.3 and change > 0.3:
            return name


def _choose_cases(generator):
    def simulated(k, segments, points, spread=2.4, least=0.8, most=9.0, tied=0.0):
        logs, change = torch.linspace(-spread, spread, segments), 0
        while not least < change < most:  # by chance the variances might rise and fall together
            order = torch.stack(
                [torch.randperm(segments, generator=generator) for _ in range(k)], 1
            )
            change = torch.linalg.svdvals(logs[order]).min() / segments**0.5
        u = torch.arange(segments).repeat_interleave(points)
        noise = torch.randn(len(u), k, generator=generator)
        noise[:, 1] += tied * noise[:, 0]
        return (logs[order] / 2).exp()[u] * noise, u

    def groups(score, n):  # n groups of equal size, in the order of the score
        return score.argsort().argsort() * n // len(score)

    def few(z, u):
        return torch.where(z[:, 0].abs() > z[:, 1].abs(), 0, 1) + 2 * (
            z[:, 0].abs() > z[:, 0].abs().median()
        )

    def side(
        z, u
    ):  # inside, the two latents mostly have the same sign or opposite ones: a correlation of 0.45
        return 2 * u + ((z[:, 0] * z[:, 1] > 0) ^ (torch.rand(len(z), generator=generator) < 0.15))

    good = lambda z, u: u
    gain = lambda z, u: groups(z.norm(dim=1), len(u.unique()) + 2)
    coin = lambda z, u: u[torch.randperm(len(u), generator=generator)]
    odd = lambda z, u: torch.randperm(12, generator=generator)[u] * 17 - 40
    problems = {
        "too few segments beside a good u": (simulated(2, 12, 150), dict(person=few, session=good)),
        "a u that says nothing beside a good one": (
            simulated(2, 12, 600),
            dict(coin=lambda z, u: coin(z, torch.arange(len(u)) // 120), day=good),
        ),
        "variances that rise and fall together beside a good u": (
            simulated(2, 14, 150),
            dict(gain=gain, room=good),
        ),
        "latents that depend on each other inside beside a good u": (
            simulated(2, 12, 150),
            dict(side=side, site=good),
        ),
        "five candidates, numbered oddly": (
            simulated(2, 12, 150),
            dict(side=side, gain=gain, coin=coin, scene=odd, person=few),
        ),
        "a good u of five segments, just enough for two latents": (
            simulated(2, 5, 300),
            dict(coin=coin, shift=good),
        ),
        "a good u that changes little and leaves a correlation of 0.2": (
            simulated(2, 20, 150, 1.2, 0.42, 0.55, 0.22),
            dict(coin=coin, week=good),
        ),
        "three latents: five segments are not enough": (
            simulated(3, 24, 120),
            dict(wing=lambda z, u: u // 5, ward=good, coin=coin),
        ),
    }
    scale = torch.tensor([1.0, 8.0, 3.0])  # no condition depends on the latents' units
    return {
        label: (z * scale[: z.shape[1]], {name: make(z, u) for name, make in candidates.items()})
        for label, ((z, u), candidates) in problems.items()
    }


def _measures(z, u):
    segments = [z[u == label] for label in u.unique()]
    inside = torch.stack([torch.corrcoef(s.T).abs() for s in segments]).mean(0)
    logs = torch.stack([s.var(0).log() for s in segments])
    return len(segments), inside[0, 1], logs


def _pick(test):
    def choose(z, candidates):
        fits = [name for name, u in candidates.items() if test(z, u, *_measures(z, u))]
        return fits[0] if fits else next(iter(candidates))

    return choose


def _choose_eigen(z, candidates):
    for name, u in candidates.items():
        labels, index = u.unique(return_inverse=True)
        means, inside, n = [], 0.0, len(labels)
        for i in range(n):
            part = z[index == i] - z[index == i].mean(0)
            covariance = part.T @ part / (len(part) - 1)
            means.append(covariance.diagonal().log())
            scale = covariance.diagonal().sqrt()
            inside = inside + (covariance / scale / scale[:, None]).abs() / n
        smallest = torch.linalg.eigvalsh(torch.cov(torch.stack(means).T, correction=0))[0]
        if n > 2 * z.shape[1] and (inside - torch.eye(z.shape[1])).max() < 0.3 and smallest > 0.09:
            return name
    return None


CHOOSE = Exercise(
    solution=choose_u,
    cases=_choose_cases,
    difficulty=3,
    minutes=20,
    hints=(
        "Cut z into segments first: [z[u == label] for label in u.unique()].",
        "torch.corrcoef(segment.T) has the correlations inside; the ones on its diagonal do not count.",
        "torch.linalg.svdvals(logs - logs.mean(0)).min() is near 0 when nothing changes, and also when all "
        "variances change by the same factor.",
    ),
    wrong={
        "the first": lambda z, candidates: next(iter(candidates)),
        "the last": lambda z, candidates: list(candidates)[-1],
        "the most segments": lambda z, candidates: max(
            candidates, key=lambda name: len(candidates[name].unique())
        ),
        "only the number of segments": _pick(lambda z, u, n, inside, logs: n >= 2 * z.shape[1] + 1),
        "k + 1 segments are enough": _pick(
            lambda z, u, n, inside, logs: (
                n >= z.shape[1] + 1
                and inside < 0.3
                and (torch.linalg.svdvals(logs - logs.mean(0)).min() / n**0.5 > 0.3)
            )
        ),
        "each variance changes, perhaps together": _pick(
            lambda z, u, n, inside, logs: (
                n >= 2 * z.shape[1] + 1 and inside < 0.3 and logs.std(0).min() > 0.3
            )
        ),
        "independence inside not asked for": _pick(
            lambda z, u, n, inside, logs: (
                n >= 2 * z.shape[1] + 1
                and (torch.linalg.svdvals(logs - logs.mean(0)).min() / n**0.5 > 0.3)
            )
        ),
    },
    alternatives=(
        _choose_eigen,
        _pick(
            lambda z, u, n, inside, logs: (
                n > 2 * z.shape[1]
                and torch.linalg.matrix_norm(logs - logs.mean(0), ord=-2) > 0.3 * n**0.5
                and max(
                    torch.stack([torch.corrcoef(z[u == i].T).abs() for i in u.unique()])
                    .mean(0)
                    .triu(1)
                    .flatten()
                )
                < 0.3
            )
        ),
    ),
)

EXERCISES = [MCC, KL, CHOOSE]
