"""Exercises of lesson 05: the closed-form KL, reparameterization, free bits against posterior collapse."""

import torch

from replearn.lesson.exercises import Exercise


def kl_to_prior(mu, logvar):
    """KL(N(mu, diag(exp(logvar))) || N(0, I)) of each picture in nats (Kingma & Welling 2014, App. B).

    mu, logvar: (N, d), logvar the log of the *variance*. Returns (N,): a sum over the d dimensions, one number a
    picture. It carries gradients to both.
    """
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(dim=1)


def _posteriors(generator, n, d, mean=1.0, spread=1.0):
    return mean * torch.randn(n, d, generator=generator), spread * torch.randn(
        n, d, generator=generator
    ) - 0.5


def _kl_cases(generator):
    return {
        "random posteriors": _posteriors(generator, 6, 4),
        "one picture, one dimension": _posteriors(generator, 1, 1),
        "narrow posteriors (logvar about -6)": tuple(
            x - shift for x, shift in zip(_posteriors(generator, 5, 3), (0, 6), strict=True)
        ),
        "wide posteriors (logvar about 3)": tuple(
            x + shift for x, shift in zip(_posteriors(generator, 5, 3), (0, 3), strict=True)
        ),
        "the prior itself (the KL is 0)": (torch.zeros(3, 4), torch.zeros(3, 4)),
        "means far from 0": _posteriors(generator, 4, 6, mean=5.0),
    }


def _kl_library(mu, logvar):
    posterior = torch.distributions.Normal(mu, (logvar / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    return torch.distributions.kl_divergence(posterior, prior).sum(1)


def _kl_loop(mu, logvar):
    rows = []
    for m, v in zip(mu, logvar, strict=True):
        rows.append(sum((m[j] ** 2 + torch.exp(v[j]) - v[j] - 1) / 2 for j in range(len(m))))
    return torch.stack(rows)


KL = Exercise(
    solution=kl_to_prior,
    cases=_kl_cases,
    difficulty=1,
    minutes=10,
    gradient_of=(0, 1),
    hints=(
        "One dimension costs (mu^2 + sigma^2 - 1 - log sigma^2) / 2.",
        "sigma^2 is logvar.exp(); log sigma^2 is logvar itself.",
        "The dimensions are independent: their costs add up, .sum(dim=1). Keep one number a picture.",
    ),
    wrong={
        "mean over the dimensions": lambda mu, logvar: kl_to_prior(mu, logvar) / mu.shape[1],
        "one number for the whole batch": lambda mu, logvar: kl_to_prior(mu, logvar).mean(),
        "logvar taken for log sigma": lambda mu, logvar: kl_to_prior(mu, 2 * logvar),
        "the half forgotten": lambda mu, logvar: 2 * kl_to_prior(mu, logvar),
        "sign": lambda mu, logvar: -kl_to_prior(mu, logvar),
        "the 1 forgotten": lambda mu, logvar: kl_to_prior(mu, logvar) + mu.shape[1] / 2,
        "the other direction": lambda mu, logvar: (
            0.5 * ((1 + mu**2) * (-logvar).exp() - 1 + logvar).sum(1)
        ),
        "mu without square": lambda mu, logvar: 0.5 * (mu.abs() + logvar.exp() - 1 - logvar).sum(1),
        "cut gradient": lambda mu, logvar: kl_to_prior(mu.detach(), logvar),
    },
    alternatives=(_kl_library, _kl_loop),
)


def reparameterize(mu, logvar, noise):
    """A sample of N(mu, diag(exp(logvar))) made of given standard normal noise, differentiable in mu and logvar.

    mu, logvar, noise: (N, d), logvar the log of the *variance*. Returns z, (N, d) (Kingma & Welling 2014, Sec. 2.4).
    """
    return mu + (logvar / 2).exp() * noise


def _reparameterize_cases(generator):
    def case(n, d, shift=0.0, spread=1.0):
        mu, logvar = _posteriors(generator, n, d, spread=spread)
        return mu, logvar + shift, torch.randn(n, d, generator=generator)

    mu, logvar, noise = case(5, 3)
    return {
        "random posteriors": case(6, 4),
        "one picture, one dimension": case(1, 1),
        "a narrow posterior (logvar about -8)": case(4, 3, shift=-8.0),
        "a wide posterior (logvar about 3)": case(4, 3, shift=3.0),
        "no noise (the sample is mu)": (mu, logvar, torch.zeros_like(noise)),
        "variance 1 (logvar 0)": (mu, torch.zeros_like(mu), noise),
    }


def _reparameterize_std(mu, logvar, noise):
    std = torch.exp(logvar).sqrt()
    return torch.addcmul(mu, std, noise)


REPARAMETERIZE = Exercise(
    solution=reparameterize,
    cases=_reparameterize_cases,
    difficulty=1,
    minutes=5,
    gradient_of=(0, 1),
    hints=(
        "If e is standard normal, m + s * e is normal with mean m and standard deviation s.",
        "logvar is log sigma^2, so sigma = exp(logvar / 2).",
        "Use the noise you are given, and nothing that cuts gradients: they must reach mu and logvar.",
    ),
    wrong={
        "variance in place of the standard deviation": lambda mu, logvar, noise: (
            mu + logvar.exp() * noise
        ),
        "logvar in place of the standard deviation": lambda mu, logvar, noise: mu + logvar * noise,
        "square root of logvar": lambda mu, logvar, noise: mu + logvar.abs().sqrt() * noise,
        "no mean": lambda mu, logvar, noise: (logvar / 2).exp() * noise,
        "no noise": lambda mu, logvar, noise: mu + 0 * logvar * noise,
        "sign of the noise": lambda mu, logvar, noise: mu - (logvar / 2).exp() * noise,
        "noise of its own": lambda mu, logvar, noise: (
            mu + (logvar / 2).exp() * torch.randn_like(mu)
        ),
        "no gradient to logvar": lambda mu, logvar, noise: mu + (logvar.detach() / 2).exp() * noise,
        "no gradient at all": lambda mu, logvar, noise: (mu + (logvar / 2).exp() * noise).detach(),
    },
    alternatives=(
        _reparameterize_std,
        lambda mu, logvar, noise: noise * logvar.mul(0.5).exp() + mu,
    ),
)


def free_bits_loss(distortion, mu, logvar, floor):
    """The negative ELBO with free bits: mean distortion + sum over dimensions of max(floor, mean KL of the dimension).

    distortion: (N,) nats; mu, logvar: (N, d); floor >= 0, nats a dimension. The means are over the N pictures of the
    batch. A dimension below the floor feels no pull toward the prior (Kingma et al. 2016).
    Returns one number (nats), differentiable in distortion, mu and logvar.
    """
    kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar)  # (N, d)
    return distortion.mean() + kl.mean(dim=0).clamp(min=floor).sum()


def _free_bits_cases(generator):
    def case(n, d, floor, active=None):
        mu, logvar = _posteriors(generator, n, d, spread=0.5)
        scale = (
            torch.ones(d) if active is None else (torch.arange(d) < active).float() * 1.98 + 0.02
        )
        return (
            10 * torch.rand(n, generator=generator) + 5,
            mu * scale,
            (logvar + 0.5) * scale,
            floor,
        )

    distortion, mu, _, _ = case(6, 4, 0.5)
    return {
        "some dimensions above the floor, some below": case(16, 6, 0.3, active=3),
        "all dimensions collapsed": case(8, 5, 0.5, active=0),
        "floor 0 (the plain negative ELBO)": case(8, 4, 0.0),
        "pictures on both sides of the floor": case(32, 4, 0.6),
        "one picture": case(1, 3, 0.25, active=1),
        "the prior itself (d times the floor remains)": (
            distortion,
            torch.zeros_like(mu),
            torch.zeros_like(mu),
            0.5,
        ),
    }


def _free_bits_relu(distortion, mu, logvar, floor):
    kl = _kl_library(mu.reshape(-1, 1), logvar.reshape(-1, 1)).reshape(mu.shape).mean(0)
    return distortion.mean() + (floor + torch.relu(kl - floor)).sum()


def _free_bits_loop(distortion, mu, logvar, floor):
    total = distortion.mean()
    for m, v in zip(mu.T, logvar.T, strict=True):
        cost = (m**2 + v.exp() - 1 - v).mean() / 2
        total = total + (cost if cost > floor else 0 * cost + floor)
    return total


def _kl_matrix(mu, logvar):
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


FREE_BITS = Exercise(
    solution=free_bits_loss,
    cases=_free_bits_cases,
    difficulty=2,
    minutes=15,
    gradient_of=(0, 1, 2),
    hints=(
        "Keep the KL as a matrix (N, d) at first: picture by dimension.",
        "Average over the pictures before you compare with the floor: .mean(dim=0) leaves d numbers.",
        ".clamp(min=floor) is max(floor, ·), and its gradient is 0 below the floor. Then sum over the dimensions.",
    ),
    wrong={
        "no floor": lambda distortion, mu, logvar, floor: (
            distortion.mean() + kl_to_prior(mu, logvar).mean()
        ),
        "one floor for all dimensions together": lambda distortion, mu, logvar, floor: (
            distortion.mean() + kl_to_prior(mu, logvar).mean().clamp(min=floor)
        ),
        "floor for every picture": lambda distortion, mu, logvar, floor: (
            distortion.mean() + _kl_matrix(mu, logvar).clamp(min=floor).sum(1).mean()
        ),
        "a ceiling": lambda distortion, mu, logvar, floor: (
            distortion.mean() + _kl_matrix(mu, logvar).mean(0).clamp(max=floor).sum()
        ),
        "only the excess counted": lambda distortion, mu, logvar, floor: (
            distortion.mean() + (_kl_matrix(mu, logvar).mean(0) - floor).relu().sum()
        ),
        "mean over the dimensions": lambda distortion, mu, logvar, floor: (
            distortion.mean() + _kl_matrix(mu, logvar).mean(0).clamp(min=floor).mean()
        ),
        "sum over the pictures": lambda distortion, mu, logvar, floor: (
            len(mu) * free_bits_loss(distortion, mu, logvar, floor)
        ),
        "floor times the KL": lambda distortion, mu, logvar, floor: (
            distortion.mean() + floor * kl_to_prior(mu, logvar).mean()
        ),
        "right value, but the pull goes on below the floor": lambda distortion, mu, logvar, floor: (
            free_bits_loss(distortion, mu, logvar, floor).detach()
            + (v := distortion.mean() + kl_to_prior(mu, logvar).mean())
            - v.detach()
        ),
    },
    alternatives=(_free_bits_relu, _free_bits_loop),
)

EXERCISES = [KL, REPARAMETERIZE, FREE_BITS]
