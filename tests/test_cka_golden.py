"""The published values of Kornblith et al.'s public demo.

Its data: NumPy's generator with seed 1337, two matrices (100, 10), the second one the first plus
as much noise.
"""

import numpy as np
import pytest
import torch
from pytest import approx

from replearn.metrics import cca_correlations, linear_cka


@pytest.fixture
def pair():
    random = np.random.RandomState(1337)
    x = random.randn(100, 10)
    y = random.randn(100, 10) + x
    return x, y


def rbf_gram(x, share=0.5):
    """exp(-d^2 / (2 s^2)), where s = share * sqrt(median of all d^2)."""
    squared_distances = np.square(x[:, None] - x[None]).sum(-1)
    width = share**2 * np.median(squared_distances)
    return np.exp(-squared_distances / (2 * width))


def gram_cka(k, m):
    """CKA of two Gram matrices."""
    h = np.eye(len(k)) - 1 / len(k)
    k = h @ k @ h
    m = h @ m @ h
    return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


def test_linear_cka(pair):
    x, y = pair
    biased = linear_cka(torch.from_numpy(x), torch.from_numpy(y))
    debiased = linear_cka(torch.from_numpy(x), torch.from_numpy(y), debiased=True)
    assert biased == approx(0.55761, abs=5e-6)
    assert debiased == approx(0.51346, abs=5e-6)
    assert biased == approx(gram_cka(x @ x.T, y @ y.T), abs=1e-12)


def test_rbf_cka(pair):
    x, y = pair
    assert gram_cka(rbf_gram(x), rbf_gram(y)) == approx(0.65483, abs=5e-6)


def test_mean_squared_canonical_correlation(pair):
    """The demo does not center here; `cca_correlations` does, which moves the third digit."""
    x, y = pair
    basis_x, _ = np.linalg.qr(x)
    basis_y, _ = np.linalg.qr(y)
    uncentered = np.square(basis_x.T @ basis_y).sum() / 10
    assert uncentered == approx(0.54312, abs=5e-6)
    correlations = cca_correlations(torch.from_numpy(x), torch.from_numpy(y))
    centered = correlations.square().mean().item()
    assert centered != approx(0.54312, abs=5e-6)
    assert centered == approx(0.543, abs=0.01)
