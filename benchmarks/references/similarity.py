"""Similarity of representations (CKA, CCA) and recovery of factors (MCC)."""

import itertools
import math

import numpy as np
import torch
from references import Compared, Row, normal

from replearn import metrics

# --- CKA
# -------------------------------------------------------------------------------------------


def public_demonstration() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the data of the CKA authors' public demonstration, (100, 10) each."""
    random = np.random.RandomState(1337)
    x = random.randn(100, 10)
    y = random.randn(100, 10) + x
    return torch.from_numpy(x), torch.from_numpy(y)


def related_views(
    seed: int, n: int = 60, p: int = 8, q: int = 6
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two views (n, p) and (n, q), linearly related, whose columns have a mean."""
    x = normal(seed, 1, n, p)[0]
    weight = normal(seed + 100, 1, p, q)[0]
    noise = normal(seed + 200, 1, n, q)[0]
    return x + 1, x @ weight + noise - 2


def cka_not_centered(x: torch.Tensor, y: torch.Tensor) -> float:
    """The usual mistake: the formula without centering the columns."""
    return ((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())).item()


def cka_demonstration(seed: int) -> Compared:
    """The authors publish this value."""
    x, y = public_demonstration()
    return Compared(metrics.linear_cka(x, y), 0.55761, cka_not_centered(x, y))


def cka_demonstration_debiased(seed: int) -> Compared:
    """The authors publish this value, too."""
    x, y = public_demonstration()
    return Compared(metrics.linear_cka(x, y, debiased=True), 0.51346, metrics.linear_cka(x, y))


def cka_ckatorch(seed: int) -> Compared:
    """ckatorch's linear CKA, in its feature-space form."""
    from ckatorch.core import cka_base

    x, y = related_views(seed)
    return Compared(
        metrics.linear_cka(x, y),
        cka_base(x, y, method="fro_norm").item(),
        cka_not_centered(x, y),
    )


def unbiased_hsic(k: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """HSIC of two Gram matrices (N, N) as in Song et al. 2012, Eq. 5: without their diagonals."""
    n = len(k)
    k = k - k.diagonal().diag()
    m = m - m.diagonal().diag()
    products = (k @ m).trace()
    sums = k.sum() * m.sum() / ((n - 1) * (n - 2))
    mixed = 2 / (n - 2) * (k @ m).sum()
    return (products + sums - mixed) / (n * (n - 3))


def cka_song(seed: int) -> Compared:
    """Debiased CKA from Gram matrices."""
    x, y = related_views(seed, n=20)
    k = x @ x.T
    m = y @ y.T
    expected = unbiased_hsic(k, m) / (unbiased_hsic(k, k) * unbiased_hsic(m, m)).sqrt()
    return Compared(metrics.linear_cka(x, y, debiased=True), expected, metrics.linear_cka(x, y))


# --- CCA
# -------------------------------------------------------------------------------------------


def cca_scikit_learn(seed: int) -> Compared:
    """scikit-learn's power iteration, one pair of directions after another."""
    from sklearn.cross_decomposition import CCA

    x, y = related_views(seed, n=300, p=5, q=4)
    model = CCA(4, max_iter=5000, tol=1e-12)
    scores_x, scores_y = model.fit_transform(x.numpy(), y.numpy())
    expected = [np.corrcoef(scores_x[:, i], scores_y[:, i])[0, 1] for i in range(4)]
    basis_x, _ = torch.linalg.qr(x)
    basis_y, _ = torch.linalg.qr(y)
    not_centered = torch.linalg.svdvals(basis_x.T @ basis_y)
    return Compared(metrics.cca_correlations(x, y), expected, not_centered)


# --- MCC
# -------------------------------------------------------------------------------------------


def absolute_correlations(z: torch.Tensor, z_true: torch.Tensor) -> np.ndarray:
    """Return |correlation| of every latent with every factor, (latents, factors)."""
    latents = z.shape[1]
    correlations = np.corrcoef(z.numpy().T, z_true.numpy().T)
    return np.abs(correlations[:latents, latents:])


def mcc_permutations(seed: int) -> Compared:
    """MCC as the best of all ways to give each of 4 factors one of 5 latents."""
    z = normal(seed, 1, 40, 5)[0]
    z_true = normal(seed + 100, 1, 40, 4)[0]
    z[:, 0] += z_true[:, 0] + z_true[:, 1]  # one latent for two factors
    correlations = absolute_correlations(z, z_true)
    best = 0.0
    for latents in itertools.permutations(range(5), 4):
        total = sum(correlations[latent, factor] for factor, latent in enumerate(latents))
        best = max(best, total / 4)
    row_maximum = correlations.max(0).mean()
    return Compared(metrics.mcc(z, z_true), best, row_maximum)


def mcc_spearman(seed: int) -> Compared:
    """One latent and one factor with ties, related by a curve: scipy's rank correlation."""
    from scipy.stats import spearmanr

    z = normal(seed, 1, 50, 1)[0]
    z_true = normal(seed + 100, 1, 50, 1)[0]
    z = (z.round() + z_true.round()) ** 3
    return Compared(
        metrics.mcc(z, z_true, method="spearman"),
        abs(spearmanr(z, z_true)[0]),
        metrics.mcc(z, z_true),
    )


def mcc_rotated(seed: int) -> Compared:
    """Two white factors, rotated: every correlation is a cosine or a sine of the angle."""
    mixed = normal(seed, 1, 200, 2)[0] @ torch.ones(2, 2).double().tril()
    white, _ = torch.linalg.qr(mixed)
    white, _ = torch.linalg.qr(white - white.mean(0))
    ours = []
    expected = []
    signed = []
    for degrees in range(0, 181, 15):
        cosine = math.cos(math.radians(degrees))
        sine = math.sin(math.radians(degrees))
        rotation = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
        ours.append(metrics.mcc(white @ rotation, white))
        expected.append(max(abs(cosine), abs(sine)))
        # Without absolute values: the better of two cosines and of a sine and its opposite.
        signed.append(max(cosine, 0))
    return Compared(ours, expected, signed)


def mcc_noise(seed: int, n: int = 1000, draws: int = 1000) -> Compared:
    """MCC of unrelated factors and latents, in units of 1 / sqrt(N - 1).

    |a| + |b| of standard normals lies below s with probability erf(s/2)^2, and the MCC is half the
    larger of two such sums.
    """
    from scipy.integrate import quad
    from scipy.special import erf

    def exceeded(s: float) -> float:
        return 1 - erf(s / 2) ** 4

    pairs = normal(seed, draws, 2, n, 2)
    ours = [metrics.mcc(z, z_true) for z, z_true in pairs]
    row_maximum = [absolute_correlations(z, z_true).max(0).mean() for z, z_true in pairs]
    unit = math.sqrt(n - 1)
    expected, _ = quad(exceeded, 0, 20)
    return Compared(unit * np.mean(ours), expected / 2, unit * np.mean(row_maximum))


# --- the rows
# --------------------------------------------------------------------------------------

PUBLISHED = "value published with Kornblith et al. 2019"
ROWS = [
    Row(
        quantity="linear CKA of the public demonstration, 0.55761",
        lesson="03",
        check=cka_demonstration,
        reference=PUBLISHED,
        allowed=5e-6,
        fault="columns not centered",
        seeds=1,
    ),
    Row(
        quantity="debiased CKA of the public demonstration, 0.51346",
        lesson="03",
        check=cka_demonstration_debiased,
        reference=PUBLISHED,
        allowed=5e-6,
        fault="not debiased",
        seeds=1,
    ),
    Row(
        quantity="linear CKA",
        lesson="03",
        check=cka_ckatorch,
        reference="cka_base, fro_norm",
        allowed=1e-9,
        fault="columns not centered",
        peer="ckatorch",
    ),
    Row(
        quantity="debiased CKA",
        lesson="03",
        check=cka_song,
        reference="Gram matrices, Song et al. 2012, Eq. 5",
        allowed=1e-9,
        fault="not debiased",
    ),
    Row(
        quantity="canonical correlations",
        lesson="03, 07",
        check=cca_scikit_learn,
        reference="CCA, tol 1e-12",
        allowed=1e-6,
        fault="columns not centered",
        peer="scikit-learn",
    ),
    Row(
        quantity="MCC of 5 latents and 4 factors",
        lesson="08",
        check=mcc_permutations,
        reference="the best of all 120 permutations",
        allowed=1e-12,
        fault="row maximum in place of an assignment",
    ),
    Row(
        quantity="MCC by ranks, with ties",
        lesson="08",
        check=mcc_spearman,
        reference="stats.spearmanr",
        allowed=1e-12,
        fault="Pearson in place of Spearman",
        peer="scipy",
    ),
    Row(
        quantity="MCC of two factors rotated by 0 to 180 degrees",
        lesson="08",
        check=mcc_rotated,
        reference="closed form: max(|cos a|, |sin a|)",
        allowed=1e-9,
        fault="signed correlations",
    ),
    Row(
        quantity="MCC of noise, 2 latents, in units of 1 / sqrt(N - 1)",
        lesson="08",
        check=mcc_noise,
        reference="closed form: integral of (1 - erf(s/2)^4) / 2",
        allowed=0.05,
        fault="row maximum in place of an assignment",
    ),
]
