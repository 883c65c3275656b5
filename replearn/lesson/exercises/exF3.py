"""Exercises of lesson F3: the loss of noise-contrastive estimation, R^2 up to a rotation.

Shapes: N data and k N samples of noise; N points with d factors and d features.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise

# --- nce_loss ---------------------------------------------------------------------------------


def nce_loss(model_data, noise_data, model_noise, noise_noise):
    """The loss of noise-contrastive estimation: telling N data from k N samples of noise.

    model_data and noise_data: (N,) float32, the log-density of each datum under the model and
    under the noise; model_noise and noise_noise: (kN,) float32, the same of each sample of noise.
    Let G = (log-density of the model) - (log-density of the noise) - log k. Returns the tensor
    () in nats: minus the sum of log sigmoid(G) over the data, minus the sum of log sigmoid(-G)
    over the noise, divided by N.
    """
    n = len(model_data)
    log_k = math.log(len(model_noise) / n)
    data = F.logsigmoid(model_data - noise_data - log_k)  # (N,)
    noise = F.logsigmoid(log_k + noise_noise - model_noise)  # (kN,)
    return -(data.sum() + noise.sum()) / n


def _nce_cases(generator: torch.Generator) -> dict[str, tuple]:
    def densities(n, k, *, shift=0.0, scale=1.0):
        def random(count, mean):
            return mean + scale * torch.randn(count, generator=generator)

        return random(n, shift), random(n, -1.0), random(k * n, -0.5), random(k * n, shift)

    return {
        "one sample of noise for each datum": densities(6, 1),
        "three samples for each datum": densities(5, 3),
        "ten samples for each datum": densities(4, 10),
        "a model with a large normalizer": densities(5, 2, shift=3.0),
        "noise that is easy to tell": densities(4, 5, scale=4.0),
        "log-densities of hundreds": densities(6, 2, scale=150.0),
    }


def _nce_by_softplus(model_data, noise_data, model_noise, noise_noise):
    k = len(model_noise) // len(model_data)
    data = F.softplus(math.log(k) + noise_data - model_data).mean()
    noise = F.softplus(model_noise - noise_noise - math.log(k)).mean()
    return data + k * noise


def _nce_by_cross_entropy(model_data, noise_data, model_noise, noise_noise):
    logits = torch.cat([model_data - noise_data, model_noise - noise_noise])
    logits = logits - math.log(len(model_noise) / len(model_data))
    is_data = torch.cat([torch.ones_like(model_data), torch.zeros_like(model_noise)])
    total = F.binary_cross_entropy_with_logits(logits, is_data, reduction="sum")
    return total / len(model_data)


def _nce_by_shares(model_data, noise_data, model_noise, noise_noise):
    """The log of each share: its own log-density less the log of both together."""
    log_k = math.log(len(model_noise) / len(model_data))
    data = model_data - torch.logaddexp(model_data, noise_data + log_k)
    noise = noise_noise + log_k - torch.logaddexp(model_noise, noise_noise + log_k)
    return -(data.sum() + noise.sum()) / len(data)


def _nce_by_softmax(model_data, noise_data, model_noise, noise_noise):
    log_k = math.log(len(model_noise) / len(model_data))
    data = torch.stack([model_data, noise_data + log_k], 1).log_softmax(1)[:, 0]
    noise = torch.stack([model_noise, noise_noise + log_k], 1).log_softmax(1)[:, 1]
    return -data.mean() - noise.sum() / len(data)


def _nce_by_loop(model_data, noise_data, model_noise, noise_noise):
    n = len(model_data)
    k = len(model_noise) // n
    total = 0.0
    for i in range(n):
        total = total - F.logsigmoid(model_data[i] - noise_data[i] - math.log(k))
        for j in range(i * k, (i + 1) * k):
            total = total - F.logsigmoid(noise_noise[j] - model_noise[j] + math.log(k))
    return total / n


def _nce_without_log_k(model_data, noise_data, model_noise, noise_noise):
    """Without log k, as if there were as much noise as data."""
    data = F.logsigmoid(model_data - noise_data).sum()
    noise = F.logsigmoid(noise_noise - model_noise).sum()
    return -(data + noise) / len(model_data)


def _nce_plus_log_k(model_data, noise_data, model_noise, noise_noise):
    """log k has the wrong sign: as if there were k data for each sample of noise."""
    log_k = math.log(len(model_noise) / len(model_data))
    return nce_loss(model_data + 2 * log_k, noise_data, model_noise + 2 * log_k, noise_noise)


def _nce_minus_k(model_data, noise_data, model_noise, noise_noise):
    """k is subtracted in place of log k."""
    k = len(model_noise) / len(model_data)
    data = F.logsigmoid(model_data - noise_data - k).sum()
    noise = F.logsigmoid(noise_noise - model_noise + k).sum()
    return -(data + noise) / len(model_data)


def _nce_without_noise(model_data, noise_data, model_noise, noise_noise):
    """The sum over the noise is missing, so a larger normalizer is always better."""
    log_k = math.log(len(model_noise) / len(model_data))
    return -F.logsigmoid(model_data - noise_data - log_k).mean()


def _nce_without_data(model_data, noise_data, model_noise, noise_noise):
    """The sum over the data is missing."""
    log_k = math.log(len(model_noise) / len(model_data))
    return -F.logsigmoid(noise_noise - model_noise + log_k).sum() / len(model_data)


def _nce_not_negated(model_data, noise_data, model_noise, noise_noise):
    """The sums are not negated: a gain, not a loss."""
    return -nce_loss(model_data, noise_data, model_noise, noise_noise)


def _nce_mean_over_noise(model_data, noise_data, model_noise, noise_noise):
    """The sum over the noise is divided by k N, so that each sample of noise counts less."""
    log_k = math.log(len(model_noise) / len(model_data))
    data = F.logsigmoid(model_data - noise_data - log_k).mean()
    return -data - F.logsigmoid(noise_noise - model_noise + log_k).mean()


def _nce_mean_of_all(model_data, noise_data, model_noise, noise_noise):
    """Both sums are divided by N + k N, the number of all points."""
    n = len(model_data)
    return nce_loss(model_data, noise_data, model_noise, noise_noise) * n / (n + len(model_noise))


def _nce_same_sign_for_noise(model_data, noise_data, model_noise, noise_noise):
    """log sigmoid(G) for the noise as well: noise is to be taken for data."""
    n = len(model_data)
    log_k = math.log(len(model_noise) / n)
    data = F.logsigmoid(model_data - noise_data - log_k).sum()
    return -(data + F.logsigmoid(model_noise - noise_noise - log_k).sum()) / n


def _nce_swapped(model_data, noise_data, model_noise, noise_noise):
    """Model and noise have changed places in G."""
    return nce_loss(noise_data, model_data, noise_noise, model_noise)


def _nce_without_noise_density(model_data, noise_data, model_noise, noise_noise):
    """G is log p_theta - log k: the density of the noise is left out."""
    return nce_loss(model_data, 0 * noise_data, model_noise, 0 * noise_noise)


def _nce_without_log(model_data, noise_data, model_noise, noise_noise):
    """Probabilities in place of their logarithms."""
    n = len(model_data)
    log_k = math.log(len(model_noise) / n)
    data = torch.sigmoid(model_data - noise_data - log_k).sum()
    return -(data + torch.sigmoid(noise_noise - model_noise + log_k).sum()) / n


NCE_LOSS = Exercise(
    solution=nce_loss,
    cases=_nce_cases,
    difficulty=2,
    minutes=6,
    gradient_of=(0, 2),
    hints=(
        "k is len(model_noise) / len(model_data), and math.log(k) belongs in G for both sums.",
        "log(1 - sigmoid(G)) is log sigmoid(-G): the noise gets the same G with a minus sign.",
        "F.logsigmoid stays finite where torch.sigmoid has become 0. Sum both, and divide by N.",
    ),
    wrong={
        "without log k": _nce_without_log_k,
        "plus log k": _nce_plus_log_k,
        "k in place of log k": _nce_minus_k,
        "without the noise": _nce_without_noise,
        "without the data": _nce_without_data,
        "not negated": _nce_not_negated,
        "mean over the noise": _nce_mean_over_noise,
        "mean over all": _nce_mean_of_all,
        "the same sign for noise": _nce_same_sign_for_noise,
        "model and noise swapped": _nce_swapped,
        "without the noise's density": _nce_without_noise_density,
        "without the logarithm": _nce_without_log,
    },
    alternatives=(
        _nce_by_softplus,
        _nce_by_cross_entropy,
        _nce_by_shares,
        _nce_by_softmax,
        _nce_by_loop,
    ),
)


# --- rotation_r2 ------------------------------------------------------------------------------


def rotation_r2(z, z_true):
    """The share of the variance that is explained after the best rotation and one scale.

    z: (N, d) features and z_true: (N, d) true factors, float32, row by row of the same points.
    Subtract the mean of each column of both. Of all rotations or reflections Q and all numbers a,
    take those for which a z Q comes nearest to z_true in the sum of squares. Returns one number in
    [0, 1]: 1 - (sum of squares of z_true - a z Q) / (sum of squares of z_true).
    """
    z = z - z.mean(dim=0)
    z_true = z_true - z_true.mean(dim=0)
    sigma = torch.linalg.svdvals(z.T @ z_true)  # (d,)
    return (sigma.sum() / (z.norm() * z_true.norm())) ** 2


def _rotation_cases(generator: torch.Generator) -> dict[str, tuple]:
    def random(*shape):
        return torch.randn(*shape, generator=generator)

    def turned(x):
        d = x.shape[1]
        return x @ torch.linalg.qr(random(d, d))[0]

    x = random(40, 3)
    stretched = x * torch.tensor([3.0, 1.0, 0.3])
    flipped = x * torch.tensor([1.0, 1.0, -1.0])
    return {
        "the factors, turned and scaled": (2.5 * turned(x), x),
        "the factors, turned, with noise": (turned(x) + 0.5 * random(40, 3), x),
        "the factors, mirrored, with noise": (0.2 * (flipped + 0.3 * random(40, 3)), x),
        "the factors, each in a unit of its own": (turned(stretched), x),
        "features that share nothing": (random(30, 4), random(30, 4)),
        "means that are far from 0": (turned(x) + 0.4 * random(40, 3) + 4.0, x - 3.0),
        "two factors of very different size": (
            turned(x[:, :2]) + 0.3 * random(40, 2),
            x[:, :2] * torch.tensor([5.0, 0.5]),
        ),
    }


def _centered_pair(z, z_true):
    return z - z.mean(0), z_true - z_true.mean(0)


def _best_turn(z, z_true):
    u, _, vt = torch.linalg.svd(z.T @ z_true)
    return u @ vt


def _explained(fitted, z_true):
    return 1 - (z_true - fitted).square().sum() / z_true.square().sum()


def _rotation_by_definition(z, z_true):
    z, z_true = _centered_pair(z, z_true)
    fitted = z @ _best_turn(z, z_true)
    scale = (fitted * z_true).sum() / fitted.square().sum()
    return _explained(scale * fitted, z_true)


def _rotation_by_numpy(z, z_true):
    z = z.numpy().astype(np.float64)
    z_true = z_true.numpy().astype(np.float64)
    z -= z.mean(axis=0)
    z_true -= z_true.mean(axis=0)
    nuclear = np.linalg.norm(z.T @ z_true, "nuc")
    return float(nuclear**2 / (z**2).sum() / (z_true**2).sum())


def _rotation_by_scipy(z, z_true):
    from scipy.linalg import orthogonal_procrustes

    a, b = (v.double().numpy() - v.double().numpy().mean(0) for v in (z, z_true))
    turn, total = orthogonal_procrustes(a, b)
    scale = total / (a**2).sum()
    return 1 - ((scale * a @ turn - b) ** 2).sum() / (b**2).sum()


def _rotation_by_disparity(z, z_true):
    """SciPy's Procrustes analysis gives what is left."""
    from scipy.spatial import procrustes

    return 1 - procrustes(z_true.double().numpy(), z.double().numpy())[2]


def _rotation_by_eigenvalues(z, z_true):
    """The singular values are the roots of the eigenvalues of M^T M."""
    z, z_true = _centered_pair(z.double(), z_true.double())
    product = z.T @ z_true
    sigma = torch.linalg.eigvalsh(product.T @ product).clamp(min=0).sqrt()
    return sigma.sum().square() / z.square().sum() / z_true.square().sum()


def _rotation_by_traces(z, z_true):
    z, z_true = _centered_pair(z.double(), z_true.double())
    z = z / z.norm()
    z_true = z_true / z_true.norm()
    return torch.trace((z @ _best_turn(z, z_true)).T @ z_true) ** 2


def _rotation_least_squares(z, z_true):
    """Any linear map in place of a rotation: the linear R^2."""
    z, z_true = _centered_pair(z, z_true)
    return _explained(z @ torch.linalg.lstsq(z, z_true).solution, z_true)


def _rotation_not_centered(z, z_true):
    """The means are not subtracted."""
    sigma = torch.linalg.svdvals(z.T @ z_true)
    return (sigma.sum() / (z.norm() * z_true.norm())) ** 2


def _rotation_transposed(z, z_true):
    """The best rotation is applied the wrong way round."""
    z, z_true = _centered_pair(z, z_true)
    fitted = z @ _best_turn(z, z_true).T
    scale = (fitted * z_true).sum() / fitted.square().sum()
    return _explained(scale * fitted, z_true)


def _rotation_without_scale(z, z_true):
    """The scale is not fitted: features of another length count as wrong."""
    z, z_true = _centered_pair(z, z_true)
    return _explained(z @ _best_turn(z, z_true), z_true)


def _rotation_none(z, z_true):
    """Nothing is turned."""
    z, z_true = _centered_pair(z, z_true)
    scale = (z * z_true).sum() / z.square().sum()
    return _explained(scale * z, z_true)


def _rotation_no_reflection(z, z_true):
    """Rotations only: a mirrored copy counts as wrong."""
    z, z_true = _centered_pair(z, z_true)
    product = z.T @ z_true
    sigma = torch.linalg.svdvals(product).clone()
    sigma[-1] = sigma[-1] * torch.sign(torch.linalg.det(product))
    return (sigma.sum() / (z.norm() * z_true.norm())) ** 2


def _rotation_not_squared(z, z_true):
    """The root: a correlation, not a share of variance."""
    return rotation_r2(z, z_true) ** 0.5


def _rotation_frobenius(z, z_true):
    """The length of the product (the root of the sum of squares) in place of the sum of sigma."""
    z, z_true = _centered_pair(z, z_true)
    return ((z.T @ z_true).norm() / (z.norm() * z_true.norm())) ** 2


def _rotation_standardized(z, z_true):
    """Every column is scaled to variance 1 first, which forgives units that differ."""
    z, z_true = _centered_pair(z, z_true)
    return rotation_r2(z / z.std(0), z_true / z_true.std(0))


def _rotation_one_minus(z, z_true):
    """What is not explained."""
    return 1 - rotation_r2(z, z_true)


def _rotation_of_products(z, z_true):
    """CKA: it compares the inner products and forgives rotations, but it is no R^2."""
    z, z_true = _centered_pair(z, z_true)
    across = (z.T @ z_true).square().sum()
    return across / ((z.T @ z).norm() * (z_true.T @ z_true).norm())


ROTATION_R2 = Exercise(
    solution=rotation_r2,
    cases=_rotation_cases,
    difficulty=2,
    minutes=6,
    hints=(
        "Subtract the means first. The best Q makes the trace of Q.T @ z.T @ z_true largest.",
        "With U, sigma, V of the singular value decomposition of z.T @ z_true, the best Q is "
        "U @ V.T, and the trace is sigma.sum().",
        "With the best scale the share is (sigma.sum() / (z.norm() * z_true.norm())) ** 2.",
    ),
    wrong={
        "any linear map": _rotation_least_squares,
        "not centered": _rotation_not_centered,
        "transposed": _rotation_transposed,
        "without the scale": _rotation_without_scale,
        "not turned": _rotation_none,
        "no reflection": _rotation_no_reflection,
        "not squared": _rotation_not_squared,
        "length of the product": _rotation_frobenius,
        "columns scaled": _rotation_standardized,
        "one minus": _rotation_one_minus,
        "CKA": _rotation_of_products,
    },
    alternatives=(
        _rotation_by_definition,
        _rotation_by_numpy,
        _rotation_by_scipy,
        _rotation_by_disparity,
        _rotation_by_eigenvalues,
        _rotation_by_traces,
    ),
)

EXERCISES = [NCE_LOSS, ROTATION_R2]
