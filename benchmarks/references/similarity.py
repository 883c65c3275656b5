"""Similarity of representations (CKA, CCA) and recovery of factors (MCC), against libraries and closed forms."""

import itertools
import math

import numpy as np
import torch

from references import normal
from replearn import metrics


def demo():
    """The data of the CKA authors' public demonstration."""
    random = np.random.RandomState(1337)
    x = random.randn(100, 10)
    return torch.from_numpy(x), torch.from_numpy(random.randn(100, 10) + x)


def related(seed, n=60, p=8, q=6):
    """Two views (n, p), (n, q), linearly related, whose columns have a mean."""
    (x,), (w,), (e,) = (
        normal(seed, 1, n, p),
        normal(seed + 100, 1, p, q),
        normal(seed + 200, 1, n, q),
    )
    return x + 1, x @ w + e - 2


def cka_not_centered(x, y):
    return ((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())).item()


def cka_demo(seed):
    return metrics.linear_cka(*demo()), 0.55761, cka_not_centered(*demo())


def cka_demo_debiased(seed):
    return metrics.linear_cka(*demo(), debiased=True), 0.51346, metrics.linear_cka(*demo())


def cka_ckatorch(seed):
    from ckatorch.core import cka_base

    x, y = related(seed)
    return (
        metrics.linear_cka(x, y),
        cka_base(x, y, method="fro_norm").item(),
        cka_not_centered(x, y),
    )


def cka_song(seed):
    def hsic(k, m):  # without diagonals
        n, k, m = len(k), k - k.diagonal().diag(), m - m.diagonal().diag()
        return (
            (k @ m).trace() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()
        ) / (n * (n - 3))

    x, y = related(seed, n=20)
    k, m = x @ x.T, y @ y.T
    expected = hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt()
    return metrics.linear_cka(x, y, debiased=True), expected, metrics.linear_cka(x, y)


def cca_scikit_learn(seed):
    from sklearn.cross_decomposition import CCA

    x, y = related(seed, n=300, p=5, q=4)
    a, b = CCA(4, max_iter=5000, tol=1e-12).fit_transform(x.numpy(), y.numpy())
    expected = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(4)]
    (qx, _), (qy, _) = map(torch.linalg.qr, (x, y))
    return metrics.cca_correlations(x, y), expected, torch.linalg.svdvals(qx.T @ qy)


def absolute_correlations(z, z_true):
    return np.abs(np.corrcoef(z.numpy().T, z_true.numpy().T)[: z.shape[1], z.shape[1] :])


def mcc_permutations(seed):
    z, z_true = normal(seed, 1, 40, 5)[0], normal(seed + 100, 1, 40, 4)[0]
    z[:, 0] += z_true[:, 0] + z_true[:, 1]  # one latent for two factors
    c = absolute_correlations(z, z_true)
    best = (
        max(
            sum(c[i, j] for j, i in enumerate(order))
            for order in itertools.permutations(range(5), 4)
        )
        / 4
    )
    return metrics.mcc(z, z_true), best, c.max(0).mean()


def mcc_spearman(seed):
    from scipy.stats import spearmanr

    (z,), (z_true,) = normal(seed, 1, 50, 1), normal(seed + 100, 1, 50, 1)
    z = (z.round() + z_true.round()) ** 3  # ties, and a curve
    return (
        metrics.mcc(z, z_true, method="spearman"),
        abs(spearmanr(z, z_true)[0]),
        metrics.mcc(z, z_true),
    )


def mcc_rotated(seed):
    white = torch.linalg.qr(normal(seed, 1, 200, 2)[0] @ torch.ones(2, 2).double().tril())[0]
    white = torch.linalg.qr(white - white.mean(0))[0]
    found, expected, signed = [], [], []
    for a in (math.radians(degrees) for degrees in range(0, 181, 15)):
        turn = torch.tensor(
            [[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64
        )
        found.append(metrics.mcc(white @ turn, white))
        expected.append(max(abs(math.cos(a)), abs(math.sin(a))))
        signed.append(max(math.cos(a), 0))  # the sum of two cosines, or of a sine and its opposite
    return found, expected, signed


def mcc_noise(seed, n=1000, draws=1000):
    """|a| + |b| of standard normals lies below s with probability erf(s/2)^2; MCC is half the larger of two sums."""
    from scipy.integrate import quad
    from scipy.special import erf

    pairs = normal(seed, draws, 2, n, 2)
    found = [metrics.mcc(*pair) for pair in pairs]
    row_max = [absolute_correlations(*pair).max(0).mean() for pair in pairs]
    unit = math.sqrt(n - 1)
    return (
        unit * np.mean(found),
        quad(lambda s: 1 - erf(s / 2) ** 4, 0, 20)[0] / 2,
        unit * np.mean(row_max),
    )


ROWS = [
    dict(
        check=cka_demo,
        quantity="linear CKA of the public demonstration, 0.55761",
        lesson="03",
        seeds=1,
        fault="columns not centered",
        allowed=5e-6,
        reference="value published with Kornblith et al. 2019",
    ),
    dict(
        check=cka_demo_debiased,
        quantity="debiased CKA of the public demonstration, 0.51346",
        lesson="03",
        seeds=1,
        fault="not debiased",
        allowed=5e-6,
        reference="value published with Kornblith et al. 2019",
    ),
    dict(
        check=cka_ckatorch,
        quantity="linear CKA",
        lesson="03",
        fault="columns not centered",
        allowed=1e-9,
        reference="cka_base, fro_norm",
        peer="ckatorch",
    ),
    dict(
        check=cka_song,
        quantity="debiased CKA",
        lesson="03",
        fault="not debiased",
        allowed=1e-9,
        reference="Gram matrices, Song et al. 2012, Eq. 5",
    ),
    dict(
        check=cca_scikit_learn,
        quantity="canonical correlations",
        lesson="03, 07",
        fault="columns not centered",
        allowed=1e-6,
        reference="CCA, tol 1e-12",
        peer="scikit-learn",
    ),
    dict(
        check=mcc_permutations,
        quantity="MCC of 5 latents and 4 factors",
        lesson="08",
        fault="row maximum in place of an assignment",
        allowed=1e-12,
        reference="the best of all 120 permutations",
    ),
    dict(
        check=mcc_spearman,
        quantity="MCC by ranks, with ties",
        lesson="08",
        fault="Pearson in place of Spearman",
        allowed=1e-12,
        reference="stats.spearmanr",
        peer="scipy",
    ),
    dict(
        check=mcc_rotated,
        quantity="MCC of two factors rotated by 0 to 180 degrees",
        lesson="08",
        fault="signed correlations",
        allowed=1e-9,
        reference="closed form: max(|cos a|, |sin a|)",
    ),
    dict(
        check=mcc_noise,
        quantity="MCC of noise, 2 latents, in units of 1 / sqrt(N - 1)",
        lesson="08",
        allowed=0.05,
        fault="row maximum in place of an assignment",
        reference="closed form: integral of (1 - erf(s/2)^4) / 2",
    ),
]
