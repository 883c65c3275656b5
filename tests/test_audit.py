"""The audit card: the score against its definition, bad input, and one call on any encoder."""

import json
import math

import pytest
import torch
from torch import nn

from replearn import data, models
from replearn.audit import CHANGES, audit, card, invariance


class Mean(nn.Module):
    """The mean color of a picture: blind to moves, wide awake to color."""

    def forward(self, x):
        return x.mean((2, 3))


@pytest.fixture(scope="module")
def pictures():
    return data.load("shapes", size=60, seed=3)


def test_invariance_is_its_definition():
    z, noise = torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(0)).double()
    changed = z + 0.3 * noise
    moved = sum(float(((changed[i] - z[i]) ** 2).sum()) for i in range(30)) / 30
    apart = [float(((z[i] - z[j]) ** 2).sum()) for i in range(30) for j in range(30) if i != j]
    assert invariance(z, changed) == pytest.approx(1 - moved * len(apart) / sum(apart), abs=1e-12)
    assert invariance(z, z) == 1 and invariance(7 * z + 100, 7 * changed + 100) == pytest.approx(
        invariance(z, changed)
    )


def test_invariance_is_one_minus_the_total_sobol_index():
    """f = a + 2 b with independent a, b of variance 1: the total index of a is 1/5, of b 4/5."""
    a, b, a2, b2 = torch.randn(4, 200_000, 1, generator=torch.Generator().manual_seed(1)).double()
    assert 1 - invariance(a + 2 * b, a2 + 2 * b) == pytest.approx(0.2, abs=0.01)
    assert 1 - invariance(a + 2 * b, a + 2 * b2) == pytest.approx(0.8, abs=0.02)


def test_constant_features():
    z = torch.ones(5, 3)
    assert invariance(z, z) == 1.0
    assert invariance(z, z + 1) == -math.inf


@pytest.mark.parametrize(
    "z, changed, error",
    [
        (torch.randn(5, 3), torch.randn(4, 3), "expected equal shapes"),
        (torch.randn(1, 3), torch.randn(1, 3), "2 or more rows"),
        (torch.full((5, 3), math.nan), torch.randn(5, 3), "NaN"),
        (torch.randn(5, 3), torch.full((5, 3), math.inf), "infinity"),
    ],
)
def test_invariance_refuses(z, changed, error):
    with pytest.raises(ValueError, match=error):
        invariance(z, changed)


def test_changes_change_every_picture_and_keep_the_range(pictures):
    x = pictures.images.float() / 255
    for name, change in CHANGES.items():
        before, y = x.clone(), change(x)
        assert y.shape == x.shape and 0 <= y.min() and y.max() <= 1, name
        assert (y != x).flatten(1).any(1).all(), name
        assert torch.equal(x, before), name
        assert torch.equal(change(x), y), f"{name}: the same twice"


def test_scores_are_what_the_encoder_sees(pictures):
    scores = audit(Mean(), pictures.images)["invariance"]
    assert scores["mirrored"] == pytest.approx(1) and scores["other hue"] < 0.5 < scores["noise"]


def test_audit_leaves_the_encoder_alone_and_is_json(pictures):
    encoder = models.small_cnn(8).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    report = audit(encoder, pictures.images, pictures.labels)
    assert encoder.training and all(
        torch.equal(before[n], v) for n, v in encoder.state_dict().items()
    )
    assert json.loads(json.dumps(report))["pictures"] == 60
    assert report == audit(encoder, pictures.images, pictures.labels)


def test_knn_and_wrong_pairs(pictures):
    report = audit(models.small_cnn(8), pictures.images, pictures.labels)
    assert 0 <= report["knn"] <= 1 and 0 < len(report["wrong"]) <= 8
    assert all(pictures.labels[i] != pictures.labels[j] for i, j in report["wrong"])
    assert len({frozenset(pair) for pair in report["wrong"]}) == len(report["wrong"])


def test_the_vote_is_that_of_knn_predict(pictures):
    from replearn.audit import _leave_one_out
    from replearn.probe import knn_predict

    z = torch.nn.functional.normalize(
        torch.randn(40, 6, generator=torch.Generator().manual_seed(2)), dim=1
    )
    y = torch.arange(40) % 3
    rows = torch.arange(40)
    said = [knn_predict(z[rows != i], y[rows != i], z[i : i + 1], k=7).item() for i in range(40)]
    expected = (torch.tensor(said) == y).double().mean().item()
    assert _leave_one_out((z @ z.T).fill_diagonal_(-2), y, 7) == pytest.approx(expected)


@pytest.mark.parametrize(
    "images, labels, error",
    [
        (slice(10), None, "expected 21 or more"),
        (slice(60), torch.zeros(60, dtype=torch.long), "two classes"),
        (slice(60), torch.zeros(59, dtype=torch.long), "one label a row"),
    ],
)
def test_audit_refuses(pictures, images, labels, error):
    with pytest.raises(ValueError, match=error):
        audit(Mean(), pictures.images[images], labels)


def test_card_is_a_figure(pictures):
    report = audit(Mean(), pictures.images, pictures.labels)
    figure = card(report, pictures.images, title="Mean color")
    text = [t.get_text() for ax in figure.axes for t in ax.texts]
    assert f"{report['invariance']['gray']:.2f}" in text
    card(audit(Mean(), pictures.images), pictures.images)  # without labels
