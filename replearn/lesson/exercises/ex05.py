"""Exercises of lesson 05: the closed-form KL, reparameterization, free bits against collapse.

Shapes: N pictures, d dimensions of the latent z. logvar is the log of the variance.
"""

import torch

from replearn.lesson.exercises import Exercise


def _posteriors(generator, n, d, mean=1.0, spread=1.0):
    """Random mu and logvar, (N, d) each."""
    mu = mean * torch.randn(n, d, generator=generator)
    logvar = spread * torch.randn(n, d, generator=generator) - 0.5
    return mu, logvar


# --- kl_to_prior ------------------------------------------------------------------------------


def kl_to_prior(mu, logvar):
    """KL(N(mu, diag(exp(logvar))) || N(0, I)) of each picture in nats.

    mu, logvar: (N, d), logvar the log of the *variance*. Returns (N,): a sum over the d dimensions,
    one number a picture. It carries gradients to both (Kingma & Welling 2014, App. B).
    """
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(dim=1)


def _kl_cases(generator: torch.Generator) -> dict[str, tuple]:
    def shifted(shift):
        mu, logvar = _posteriors(generator, 5, 3)
        return mu, logvar + shift

    return {
        "random posteriors": _posteriors(generator, 6, 4),
        "one picture, one dimension": _posteriors(generator, 1, 1),
        "narrow posteriors (logvar about -6)": shifted(-6),
        "wide posteriors (logvar about 3)": shifted(3),
        "the prior itself (the KL is 0)": (torch.zeros(3, 4), torch.zeros(3, 4)),
        "means far from 0": _posteriors(generator, 4, 6, mean=5.0),
    }


def _kl_by_library(mu, logvar):
    posterior = torch.distributions.Normal(mu, (logvar / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    return torch.distributions.kl_divergence(posterior, prior).sum(1)


def _kl_by_loop(mu, logvar):
    rows = []
    for m, v in zip(mu, logvar, strict=True):
        total = 0
        for j in range(len(m)):
            total = total + (m[j] ** 2 + torch.exp(v[j]) - v[j] - 1) / 2
        rows.append(total)
    return torch.stack(rows)


def _kl_in_double(mu, logvar):
    mu = mu.double()
    std = (logvar.double() / 2).exp()
    return (0.5 * (mu**2 + std**2 - 1) - std.log()).sum(-1)


def _kl_by_columns(mu, logvar):
    """Dimension by dimension, each worked out in place on a copy."""
    total = 0
    for m, v in zip(mu.T, logvar.T, strict=True):
        total = total + m.clone().pow_(2).add_(v.exp()).sub_(1).sub_(v).div_(2)
    return total


def _kl_as_list(mu, logvar):
    pairs = zip(mu, logvar, strict=True)
    return [-0.5 * torch.sum(1 + v - m.pow(2) - v.exp()) for m, v in pairs]


def _kl_into_zeros(mu, logvar):
    kl = torch.zeros(len(mu))
    for i in range(len(mu)):
        kl[i] = (mu[i] ** 2 + torch.expm1(logvar[i]) - logvar[i]).sum() / 2
    return kl


def _mean_over_dimensions(mu, logvar):
    """The dimensions are averaged, where their costs add up."""
    return kl_to_prior(mu, logvar) / mu.shape[1]


def _one_number_for_the_batch(mu, logvar):
    """The pictures are averaged, too."""
    return kl_to_prior(mu, logvar).mean()


def _log_sigma(mu, logvar):
    """logvar taken for the log of the standard deviation."""
    return kl_to_prior(mu, 2 * logvar)


def _half_forgotten(mu, logvar):
    """Twice the KL."""
    return 2 * kl_to_prior(mu, logvar)


def _kl_sign(mu, logvar):
    """The negative KL, as it stands in the ELBO."""
    return -kl_to_prior(mu, logvar)


def _one_forgotten(mu, logvar):
    """Without the -1, the prior itself would cost something."""
    return kl_to_prior(mu, logvar) + mu.shape[1] / 2


def _other_direction(mu, logvar):
    """KL(prior || posterior)."""
    return 0.5 * ((1 + mu**2) * (-logvar).exp() - 1 + logvar).sum(1)


def _mu_not_squared(mu, logvar):
    """|mu| in place of mu^2."""
    return 0.5 * (mu.abs() + logvar.exp() - 1 - logvar).sum(1)


def _plus_logvar(mu, logvar):
    """log sigma^2 is added in place of taken away."""
    return kl_to_prior(mu, logvar) + logvar.sum(1)


def _summed_over_pictures(mu, logvar):
    """One number a dimension, not a picture."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(0)


def _sigma_for_variance(mu, logvar):
    """sigma in place of sigma^2: exp(logvar / 2)."""
    return 0.5 * (mu.square() + (logvar / 2).exp() - 1 - logvar).sum(1)


def _kl_in_bits(mu, logvar):
    """In bits, where nats were asked for."""
    return kl_to_prior(mu, logvar) / torch.log(torch.tensor(2.0))


def _kl_without_gradient(mu, logvar):
    """The right value, but no gradient reaches mu."""
    return kl_to_prior(mu.detach(), logvar)


KL = Exercise(
    solution=kl_to_prior,
    cases=_kl_cases,
    difficulty=1,
    minutes=10,
    gradient_of=(0, 1),
    hints=(
        "One dimension costs (mu^2 + sigma^2 - 1 - log sigma^2) / 2.",
        "sigma^2 is logvar.exp(); log sigma^2 is logvar itself.",
        "The dimensions are independent: their costs add up, .sum(dim=1). Keep one number a "
        "picture.",
    ),
    wrong={
        "mean over the dimensions": _mean_over_dimensions,
        "one number for the whole batch": _one_number_for_the_batch,
        "logvar taken for log sigma": _log_sigma,
        "the half forgotten": _half_forgotten,
        "sign": _kl_sign,
        "the 1 forgotten": _one_forgotten,
        "the other direction": _other_direction,
        "mu without square": _mu_not_squared,
        "logvar with the wrong sign": _plus_logvar,
        "sum over the pictures": _summed_over_pictures,
        "sigma in place of the variance": _sigma_for_variance,
        "bits": _kl_in_bits,
        "cut gradient": _kl_without_gradient,
    },
    alternatives=(
        _kl_by_library,
        _kl_by_loop,
        _kl_in_double,
        _kl_by_columns,
        _kl_as_list,
        _kl_into_zeros,
    ),
)


# --- reparameterize ---------------------------------------------------------------------------


def reparameterize(mu, logvar, noise):
    """A sample of N(mu, diag(exp(logvar))) made of given standard normal noise.

    It is differentiable in mu and logvar. mu, logvar, noise: (N, d), logvar the log of the
    *variance*. Returns z, (N, d) (Kingma & Welling 2014, Sec. 2.4).
    """
    return mu + (logvar / 2).exp() * noise


def _reparameterize_cases(generator: torch.Generator) -> dict[str, tuple]:
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


def _sample_by_std(mu, logvar, noise):
    std = torch.exp(logvar).sqrt()
    return torch.addcmul(mu, std, noise)


def _sample_turned_around(mu, logvar, noise):
    return noise * logvar.mul(0.5).exp() + mu


def _sample_in_double(mu, logvar, noise):
    return mu.double() + (logvar.double() / 2).exp() * noise.double()


def _sample_in_place_on_a_copy(mu, logvar, noise):
    return noise.clone().mul_((logvar / 2).exp()).add_(mu)


def _sample_as_list_of_rows(mu, logvar, noise):
    rows = zip(mu, logvar, noise, strict=True)
    return [m + v.exp() ** 0.5 * e for m, v, e in rows]


def _sample_by_transform(mu, logvar, noise):
    return torch.distributions.AffineTransform(mu, (0.5 * logvar).exp())(noise)


def _variance_for_std(mu, logvar, noise):
    """exp(logvar) is the variance; its square root belongs here."""
    return mu + logvar.exp() * noise


def _logvar_for_std(mu, logvar, noise):
    """logvar itself scales the noise."""
    return mu + logvar * noise


def _root_of_logvar(mu, logvar, noise):
    """The square root of the logarithm."""
    return mu + logvar.abs().sqrt() * noise


def _precision_for_std(mu, logvar, noise):
    """The noise is divided by sigma."""
    return mu + noise / (logvar / 2).exp()


def _no_mean(mu, logvar, noise):
    """mu is forgotten."""
    return (logvar / 2).exp() * noise


def _no_noise(mu, logvar, noise):
    """Always the mean: nothing is sampled."""
    return mu + 0 * logvar * noise


def _noise_sign(mu, logvar, noise):
    """As good a sample, but not the one of this noise."""
    return mu - (logvar / 2).exp() * noise


def _noise_of_its_own(mu, logvar, noise):
    """The noise that is given is not used."""
    return mu + (logvar / 2).exp() * torch.randn_like(mu)


def _mean_scaled_too(mu, logvar, noise):
    """mu is multiplied by sigma, too."""
    return (mu + noise) * (logvar / 2).exp()


def _one_noise_for_a_picture(mu, logvar, noise):
    """All dimensions of a picture share the mean of its noise."""
    return mu + (logvar / 2).exp() * noise.mean(1, keepdim=True)


def _no_gradient_to_mu(mu, logvar, noise):
    """The right value, but the mean could not be learned."""
    return mu.detach() + (logvar / 2).exp() * noise


def _no_gradient_to_logvar(mu, logvar, noise):
    """The right value, but the width of the posterior could not be learned."""
    return mu + (logvar.detach() / 2).exp() * noise


def _no_gradient_at_all(mu, logvar, noise):
    """The right value, cut off from both inputs."""
    return (mu + (logvar / 2).exp() * noise).detach()


REPARAMETERIZE = Exercise(
    solution=reparameterize,
    cases=_reparameterize_cases,
    difficulty=1,
    minutes=5,
    gradient_of=(0, 1),
    hints=(
        "If e is standard normal, m + s * e is normal with mean m and standard deviation s.",
        "logvar is log sigma^2, so sigma = exp(logvar / 2).",
        "Use the noise you are given, and nothing that cuts gradients: they must reach mu and "
        "logvar.",
    ),
    wrong={
        "variance in place of the standard deviation": _variance_for_std,
        "logvar in place of the standard deviation": _logvar_for_std,
        "square root of logvar": _root_of_logvar,
        "divided by sigma": _precision_for_std,
        "no mean": _no_mean,
        "no noise": _no_noise,
        "sign of the noise": _noise_sign,
        "noise of its own": _noise_of_its_own,
        "mu scaled, too": _mean_scaled_too,
        "one noise for a picture": _one_noise_for_a_picture,
        "no gradient to mu": _no_gradient_to_mu,
        "no gradient to logvar": _no_gradient_to_logvar,
        "no gradient at all": _no_gradient_at_all,
    },
    alternatives=(
        _sample_by_std,
        _sample_turned_around,
        _sample_in_double,
        _sample_in_place_on_a_copy,
        _sample_as_list_of_rows,
        _sample_by_transform,
    ),
)


# --- free_bits_loss ---------------------------------------------------------------------------


def free_bits_loss(distortion, mu, logvar, floor):
    """The negative ELBO with free bits: mean distortion + sum over dimensions of max(floor, KL).

    KL is the mean KL of the dimension: the means are over the N pictures of the batch. A dimension
    below the floor feels no pull toward the prior (Kingma et al. 2016).
    distortion: (N,) nats; mu, logvar: (N, d); floor >= 0, nats a dimension.
    Returns one number (nats), differentiable in distortion, mu and logvar.
    """
    kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar)  # (N, d)
    return distortion.mean() + kl.mean(dim=0).clamp(min=floor).sum()


def _free_bits_cases(generator: torch.Generator) -> dict[str, tuple]:
    def case(n, d, floor, active=None):
        """Posteriors of which all but the first `active` dimensions have nearly collapsed."""
        mu, logvar = _posteriors(generator, n, d, spread=0.5)
        scale = torch.ones(d)
        if active is not None:
            scale = (torch.arange(d) < active).float() * 1.98 + 0.02
        distortion = 10 * torch.rand(n, generator=generator) + 5
        return distortion, mu * scale, (logvar + 0.5) * scale, floor

    distortion, mu, _, _ = case(6, 4, 0.5)
    zero = torch.zeros_like(mu)
    return {
        "some dimensions above the floor, some below": case(16, 6, 0.3, active=3),
        "all dimensions collapsed": case(8, 5, 0.5, active=0),
        "floor 0 (the plain negative ELBO)": case(8, 4, 0.0),
        "pictures on both sides of the floor": case(32, 4, 0.6),
        "one picture": case(1, 3, 0.25, active=1),
        "the prior itself (d times the floor remains)": (distortion, zero, zero.clone(), 0.5),
    }


def _free_bits_by_relu(distortion, mu, logvar, floor):
    kl = _kl_by_library(mu.reshape(-1, 1), logvar.reshape(-1, 1))
    kl = kl.reshape(mu.shape).mean(0)
    return distortion.mean() + (floor + torch.relu(kl - floor)).sum()


def _free_bits_by_loop(distortion, mu, logvar, floor):
    total = distortion.mean()
    for m, v in zip(mu.T, logvar.T, strict=True):
        cost = (m**2 + v.exp() - 1 - v).mean() / 2
        if cost > floor:
            total = total + cost
        else:
            total = total + 0 * cost + floor
    return total


def _free_bits_by_where(distortion, mu, logvar, floor):
    kl = _kl_matrix(mu.double(), logvar.double()).sum(0) / len(mu)
    return distortion.mean() + torch.where(kl > floor, kl, torch.full_like(kl, floor)).sum()


def _free_bits_by_max(distortion, mu, logvar, floor):
    """Python's max, which returns the floor as a plain number."""
    return distortion.mean() + sum(max(kl, floor) for kl in _kl_matrix(mu, logvar).mean(0))


def _free_bits_by_mask(distortion, mu, logvar, floor):
    """Set in place on a copy, and the distortion averaged last; shape (1,)."""
    kl = _kl_matrix(mu, logvar).mean(0).clone()
    kl[kl < floor] = floor
    return (distortion + kl.sum()).mean().reshape(1)


def _kl_matrix(mu, logvar):
    """The KL of each picture and dimension, (N, d)."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def _no_floor(distortion, mu, logvar, floor):
    """The plain negative ELBO."""
    return distortion.mean() + kl_to_prior(mu, logvar).mean()


def _floor_for_the_sum(distortion, mu, logvar, floor):
    """One floor for all dimensions together."""
    return distortion.mean() + kl_to_prior(mu, logvar).mean().clamp(min=floor)


def _floor_for_every_picture(distortion, mu, logvar, floor):
    """Compared with the floor before the mean over the pictures is taken."""
    return distortion.mean() + _kl_matrix(mu, logvar).clamp(min=floor).sum(1).mean()


def _ceiling(distortion, mu, logvar, floor):
    """min in place of max."""
    return distortion.mean() + _kl_matrix(mu, logvar).mean(0).clamp(max=floor).sum()


def _only_the_excess(distortion, mu, logvar, floor):
    """max(0, KL - floor): the same gradients, another value."""
    return distortion.mean() + (_kl_matrix(mu, logvar).mean(0) - floor).relu().sum()


def _dimensions_averaged(distortion, mu, logvar, floor):
    """A mean over the dimensions in place of the sum."""
    return distortion.mean() + _kl_matrix(mu, logvar).mean(0).clamp(min=floor).mean()


def _pictures_summed(distortion, mu, logvar, floor):
    """N times too large."""
    return len(mu) * free_bits_loss(distortion, mu, logvar, floor)


def _floor_as_weight(distortion, mu, logvar, floor):
    """The floor multiplies the KL, as beta does in a beta-VAE."""
    return distortion.mean() + floor * kl_to_prior(mu, logvar).mean()


def _distortion_summed(distortion, mu, logvar, floor):
    """The distortion is summed over the pictures, the KL is averaged."""
    return free_bits_loss(distortion, mu, logvar, floor) - distortion.mean() + distortion.sum()


def _kl_summed_over_pictures(distortion, mu, logvar, floor):
    """The KL is summed over the pictures, the distortion is averaged."""
    return distortion.mean() + _kl_matrix(mu, logvar).sum(0).clamp(min=floor).sum()


def _floor_added(distortion, mu, logvar, floor):
    """The floor is added to every dimension, also to those above it."""
    return distortion.mean() + (_kl_matrix(mu, logvar).mean(0) + floor).sum()


def _mean_over_the_wrong_axis(distortion, mu, logvar, floor):
    """The KL is averaged over the dimensions of each picture, and summed over the pictures."""
    return distortion.mean() + _kl_matrix(mu, logvar).mean(1).clamp(min=floor).sum()


def _nothing_below_the_floor(distortion, mu, logvar, floor):
    """A dimension below the floor counts 0 in place of the floor."""
    kl = _kl_matrix(mu, logvar).mean(0)
    return distortion.mean() + (kl * (kl > floor)).sum()


def _pull_below_the_floor(distortion, mu, logvar, floor):
    """The right value with the gradient of the plain negative ELBO."""
    value = free_bits_loss(distortion, mu, logvar, floor).detach()
    elbo = _no_floor(distortion, mu, logvar, floor)
    return value + elbo - elbo.detach()


FREE_BITS = Exercise(
    solution=free_bits_loss,
    cases=_free_bits_cases,
    difficulty=2,
    minutes=15,
    gradient_of=(0, 1, 2),
    hints=(
        "Keep the KL as a matrix (N, d) at first: picture by dimension.",
        "Average over the pictures before you compare with the floor: .mean(dim=0) leaves d "
        "numbers.",
        ".clamp(min=floor) is max(floor, ·), and its gradient is 0 below the floor. Then sum over "
        "the dimensions.",
    ),
    wrong={
        "no floor": _no_floor,
        "one floor for all dimensions together": _floor_for_the_sum,
        "floor for every picture": _floor_for_every_picture,
        "a ceiling": _ceiling,
        "only the excess counted": _only_the_excess,
        "mean over the dimensions": _dimensions_averaged,
        "sum over the pictures": _pictures_summed,
        "floor times the KL": _floor_as_weight,
        "distortion summed": _distortion_summed,
        "KL summed over the pictures": _kl_summed_over_pictures,
        "floor added": _floor_added,
        "mean over the wrong axis": _mean_over_the_wrong_axis,
        "nothing counted below the floor": _nothing_below_the_floor,
        "right value, but the pull goes on below the floor": _pull_below_the_floor,
    },
    alternatives=(
        _free_bits_by_relu,
        _free_bits_by_loop,
        _free_bits_by_where,
        _free_bits_by_max,
        _free_bits_by_mask,
    ),
)

EXERCISES = [KL, REPARAMETERIZE, FREE_BITS]
