"""The audit: the score against its definition, bad input, and one call on any encoder."""

import itertools
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from replearn import data, models
from replearn.audit import CHANGES, audit, card, invariance
from replearn.probe import knn_predict, knn_vote


class Mean(nn.Module):
    """The mean color of an image: it does not see moves, but every change of color."""

    def forward(self, x):
        return x.mean((2, 3))


@pytest.fixture(scope="module")
def image_set():
    return data.load("shapes", size=60, seed=3)


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def squared_distance(a, b):
    return float((a - b).square().sum())


# ---------------------------------------------------------------- invariance


def test_invariance_is_its_definition():
    z, noise = normal(2, 30, 5, seed=0).double()
    changed = z + 0.3 * noise
    moved = [squared_distance(z[i], changed[i]) for i in range(30)]
    apart = [squared_distance(z[i], z[j]) for i, j in itertools.permutations(range(30), 2)]
    mean_moved = sum(moved) / len(moved)
    mean_apart = sum(apart) / len(apart)
    score = invariance(z, changed)
    assert score == pytest.approx(1 - mean_moved / mean_apart, abs=1e-12)
    assert invariance(z, z) == 1
    assert invariance(7 * z + 100, 7 * changed + 100) == pytest.approx(score)


def test_invariance_is_one_minus_the_total_sobol_index():
    """f = a + 2 b with independent a, b of variance 1: the total index of a is 1/5, of b 4/5."""
    a, b, new_a, new_b = normal(4, 200_000, 1, seed=1).double()
    z = a + 2 * b
    assert 1 - invariance(z, new_a + 2 * b) == pytest.approx(0.2, abs=0.01)
    assert 1 - invariance(z, a + 2 * new_b) == pytest.approx(0.8, abs=0.02)


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


@pytest.mark.parametrize("name", CHANGES)
def test_changes_change_every_image_and_keep_the_range(image_set, name):
    change = CHANGES[name]
    images = image_set.images.float() / 255
    before = images.clone()
    changed = change(images)
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert (changed != images).flatten(1).any(1).all()
    assert torch.equal(images, before)
    assert torch.equal(change(images), changed), "the same change twice must give the same"


# ---------------------------------------------------------------- audit


def test_scores_are_what_the_encoder_sees(image_set):
    scores = audit(Mean(), image_set.images)["invariance"]
    assert scores["mirrored"] == pytest.approx(1)
    assert scores["other hue"] < 0.5 < scores["noise"]


def test_audit_leaves_the_encoder_alone_and_is_json(image_set):
    encoder = models.small_cnn(8).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    report = audit(encoder, image_set.images, image_set.labels)
    assert encoder.training
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert json.loads(json.dumps(report))["pictures"] == 60
    assert report == audit(encoder, image_set.images, image_set.labels)


def test_knn_and_wrong_pairs(image_set):
    labels = image_set.labels
    report = audit(models.small_cnn(8), image_set.images, labels)
    pairs = report["wrong"]
    assert 0 <= report["knn"] <= 1
    assert 0 < len(pairs) <= 8
    assert all(labels[query] != labels[neighbor] for query, neighbor in pairs)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)


def test_wrong_pairs_are_the_closest_ones(image_set):
    encoder = models.small_cnn(8).eval()
    pairs = audit(encoder, image_set.images, image_set.labels)["wrong"]
    with torch.no_grad():
        z = F.normalize(encoder(image_set.images / 255), dim=1)
    cosine = (z @ z.T).fill_diagonal_(-2)
    closeness = [cosine[pair].item() for pair in pairs]
    assert closeness == pytest.approx(sorted(closeness, reverse=True), abs=1e-6)
    for query, neighbor in pairs:
        assert cosine[query, neighbor].item() == pytest.approx(cosine[query].max().item(), abs=1e-6)


def test_the_vote_is_that_of_knn_predict():
    z = F.normalize(normal(40, 6, seed=2), dim=1)
    y = torch.arange(40) % 3
    rows = torch.arange(40)
    expected = []
    for i in range(40):
        others = rows != i
        expected.append(knn_predict(z[others], y[others], z[i : i + 1], k=7).item())
    cosine = (z @ z.T).fill_diagonal_(-2)
    assert knn_vote(cosine, y, k=7).tolist() == expected


def test_knn_is_the_accuracy_of_that_vote(image_set):
    encoder = models.small_cnn(8).eval()
    with torch.no_grad():
        z = F.normalize(encoder(image_set.images / 255), dim=1)
    voted = knn_vote((z @ z.T).fill_diagonal_(-2), image_set.labels, k=7)
    expected = (voted == image_set.labels).double().mean().item()
    report = audit(encoder, image_set.images, image_set.labels, k=7)
    assert report["knn"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "count, labels, error",
    [
        (10, None, "expected 21 or more"),
        (60, torch.zeros(60, dtype=torch.long), "two classes"),
        (60, torch.zeros(59, dtype=torch.long), "one label a row"),
    ],
)
def test_audit_refuses(image_set, count, labels, error):
    with pytest.raises(ValueError, match=error):
        audit(Mean(), image_set.images[:count], labels)


# ---------------------------------------------------------------- card


def test_card_is_a_figure(image_set):
    report = audit(Mean(), image_set.images, image_set.labels)
    figure = card(report, image_set.images, title="Mean color")
    written = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert f"{report['invariance']['gray']:.2f}" in written


def test_card_without_labels_draws_no_pairs(image_set):
    figure = card(audit(Mean(), image_set.images), image_set.images)
    assert len(figure.axes) == 1


def test_card_of_a_constant_encoder_has_an_end(image_set):
    report = audit(Mean(), image_set.images) | {"invariance": {"gray": -math.inf}}
    figure = card(report, image_set.images)
    figure.canvas.draw()
    assert figure.axes[0].texts[0].get_text() == "-inf"
