"""The published values of Kornblith et al.'s public demo: NumPy seed 1337, two matrices (100, 10) that share a half."""

import numpy as np
import pytest
import torch

from replearn import metrics


@pytest.fixture
def pair():
    random = np.random.RandomState(1337)
    x = random.randn(100, 10)
    return x, random.randn(100, 10) + x


def rbf_gram(x, share=0.5):
    """exp(-d^2 / (2 s^2)), s = share * sqrt(median of all d^2)."""
    d2 = np.square(x[:, None] - x[None]).sum(-1)
    return np.exp(-d2 / (2 * share**2 * np.median(d2)))


def gram_cka(k, m):
    h = np.eye(len(k)) - 1 / len(k)
    k, m = h @ k @ h, h @ m @ h
    return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


def test_linear_cka(pair):
    x, y = map(torch.from_numpy, pair)
    assert metrics.linear_cka(x, y) == pytest.approx(0.55761, abs=5e-6)
    assert metrics.linear_cka(x, y, debiased=True) == pytest.approx(0.51346, abs=5e-6)
    assert metrics.linear_cka(x, y) == pytest.approx(gram_cka(*(v @ v.T for v in pair)), abs=1e-12)


def test_rbf_cka(pair):
    assert gram_cka(*map(rbf_gram, pair)) == pytest.approx(0.65483, abs=5e-6)


def test_mean_squared_canonical_correlation(pair):
    """The demo does not center here; `cca_correlations` does, which moves the third digit."""
    qx, qy = (np.linalg.qr(v)[0] for v in pair)
    assert np.square(qx.T @ qy).sum() / 10 == pytest.approx(0.54312, abs=5e-6)
    centered = metrics.cca_correlations(*map(torch.from_numpy, pair)).square().mean().item()
    assert centered != pytest.approx(0.54312, abs=5e-6) and centered == pytest.approx(
        0.543, abs=0.01
    )
