"""Feature extraction leaves the encoder alone; probes agree with scikit-learn and the formulas."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import nn

from replearn.probe import (
    LinearProbe,
    extract_features,
    knn_accuracy,
    knn_predict,
    knn_vote,
    linear_probe,
    linear_regression_r2,
    standardization,
)


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blobs(n, d, *, labels=(0, 1, 2), noise=1.0, seed=0):
    """Overlapping Gaussian classes (N, d) with the given label values, and their labels (N,)."""
    target = torch.arange(n) % len(labels)
    centers = normal(len(labels), d, seed=99)
    z = centers[target] + noise * normal(n, d, seed=seed)
    return z, torch.tensor(labels)[target]


def objective(probe, z, y, l2):
    """What a probe minimizes, written once more from its definition, in float64."""
    coef = torch.as_tensor(probe.coef_).double()
    intercept = torch.as_tensor(probe.intercept_).double()
    return loss(coef, intercept, z, y, l2)


def loss(coef, intercept, z, y, l2):
    target = (y[:, None] == y.unique()).int().argmax(1)
    cross_entropy = F.cross_entropy(z.double() @ coef.T + intercept, target)
    return cross_entropy + l2 / 2 * coef.square().sum()


def small_encoder():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()
    )


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8, generator=generator)


# ---------------------------------------------------------------- extract_features


def test_features_are_those_of_eval_mode_whatever_the_batch_size(images):
    net = small_encoder().eval()
    with torch.no_grad():
        expected = net(images / 255)
    net.train()  # BatchNorm and dropout on, as in the middle of training
    for batch_size in (1, 3, 10, 512):
        torch.testing.assert_close(extract_features(net, images, batch_size=batch_size), expected)
    torch.testing.assert_close(extract_features(net, images / 255), expected)
    in_train_mode = net(images / 255)
    assert not torch.allclose(in_train_mode, expected, atol=0.1), (
        "this encoder must tell train from eval"
    )


def test_the_encoder_is_bit_identical_afterwards(images):
    net = nn.Sequential(small_encoder(), nn.BatchNorm1d(288))
    net.train()
    batch_norm = net[0][1]
    batch_norm.eval()  # a part frozen on purpose inside a network that trains
    dropout = net[0][3]
    dropout.p = 0.25
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flags = [module.training for module in net.modules()]
    assert any(flags)
    assert not all(flags)
    extract_features(net, images, batch_size=4)
    assert [module.training for module in net.modules()] == flags
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    for parameter in net.parameters():
        assert parameter.grad is None
        assert parameter.requires_grad


class Fails(nn.Module):
    def forward(self, x):
        raise RuntimeError("out of memory")


def test_train_and_eval_flags_survive_an_encoder_that_fails(images):
    net = nn.Sequential(small_encoder(), Fails())
    flags = [module.training for module in net.modules()]
    with pytest.raises(RuntimeError, match="out of memory"):
        extract_features(net, images)
    assert [module.training for module in net.modules()] == flags


def test_images_survive_an_encoder_that_works_in_place():
    images = normal(4, 3, 8, 8, seed=0).sigmoid()
    before = images.clone()
    extract_features(nn.Sequential(nn.Threshold(0.5, 0.0, inplace=True), nn.Flatten()), images)
    assert torch.equal(images, before)


def test_features_are_float32_and_ready_for_autograd(images):
    h = extract_features(small_encoder().double(), images)
    assert h.dtype == torch.float32
    assert h.shape == (10, 288)
    assert not h.requires_grad
    weight = torch.zeros(288, requires_grad=True)
    (h @ weight).sum().backward()  # fails on features made in inference mode


def test_encoders_of_no_weights(images):
    assert torch.equal(extract_features(nn.Flatten(), images), images.flatten(1) / 255)
    vectors = torch.randn(5, 4)
    assert torch.equal(extract_features(nn.Identity(), vectors), vectors)


@pytest.mark.parametrize(
    "bad, error, message",
    [
        (np.zeros((2, 3, 8, 8)), TypeError, "expected a torch.Tensor, found ndarray"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), TypeError, "int64"),
        (torch.zeros(3, 8, 8), ValueError, r"expected 4 axes, found shape \(3, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), ValueError, r"found shape \(0, 3, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8).byte(), ValueError, r"found shape \(0, 3, 8, 8\)"),
        (torch.full((2, 3, 8, 8), math.nan), ValueError, "NaN"),
    ],
)
def test_extract_features_rejects_bad_images(bad, error, message):
    with pytest.raises(error, match=message):
        extract_features(small_encoder(), bad)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x.float(), "from 0 to 1, or bytes from 0 to 255, found 0 to 255; divide by 255"),
        (lambda x: (x / 255 - 0.5) / 0.25, "found -2 to 2"),
        (lambda x: x.permute(0, 2, 3, 1), r"found \(10, 8, 8, 3\), channels last"),
        (lambda x: (x / 255).permute(0, 2, 3, 1), "channels last"),
    ],
)
def test_images_in_another_range_or_order_are_refused(images, change, message):
    with pytest.raises(ValueError, match=message):
        extract_features(small_encoder(), change(images))


def test_images_that_were_divided_twice_get_a_warning(images):
    with pytest.warns(UserWarning, match="divided by 255 twice"):
        extract_features(small_encoder(), images / 255 / 255)
    extract_features(small_encoder(), torch.zeros(2, 3, 8, 8))  # black is nothing to warn of


class Tokens(nn.Module):
    """Tokens in the place of images: features (3N, HW)."""

    def forward(self, x):
        return x.flatten(2).flatten(0, 1)


class Diverged(nn.Module):
    def forward(self, x):
        return x.flatten(1) * math.nan


@pytest.mark.parametrize(
    "net, inputs, message",
    [
        (small_encoder()[:2], (2, 3, 8, 8), r"expected 2 axes, found shape \(2, 8, 6, 6\)"),
        (nn.Flatten(0, 1), (2, 3), "features: expected 2 axes"),
        (nn.Unflatten(1, (3, 8)), (1, 24), "features: expected 2 axes"),
        (Tokens(), (10, 3, 8, 8), r"expected 10 rows, one a picture, found features \(30, 64\)"),
        (Diverged(), (10, 3, 8, 8), "features: expected finite values"),
    ],
)
def test_extract_features_rejects_bad_features(net, inputs, message):
    with pytest.raises(ValueError, match=message):
        extract_features(net, torch.zeros(inputs))


# ---------------------------------------------------------------- standardization


def test_standardization_gives_mean_0_and_variance_1():
    z = 3 * normal(50, 4, seed=0) + torch.tensor([0.0, 1, 10, 100])
    mean, scale = standardization(z)
    scaler = StandardScaler().fit(z.double().numpy())
    np.testing.assert_allclose(mean, scaler.mean_, rtol=1e-5)
    np.testing.assert_allclose(scale, 1 / scaler.scale_, rtol=1e-4)
    assert mean.dtype == scale.dtype == torch.float32
    assert standardization(z.double())[1].dtype == torch.float64


def test_standardization_leaves_dead_features_alone():
    z = normal(50, 3, seed=0)
    z[:, 1] = 0.1
    z[:, 2] = 0
    mean, scale = standardization(z)
    assert scale[1:].tolist() == [1, 1]
    assert ((z - mean) * scale)[:, 1:].abs().max() < 1e-6
    assert standardization(z, unit_variance=False)[1].tolist() == [1, 1, 1]


# ---------------------------------------------------------------- LinearProbe


@pytest.mark.parametrize("labels", [(0, 1, 2), (-3, 7, 40, 41)])
@pytest.mark.parametrize("n, d", [(120, 5), (40, 60)], ids=["n>d", "n<d"])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_linear_probe_equals_scikit_learn(labels, n, d, l2):
    z, y = blobs(n, d, labels=labels, noise=3.0)
    z[:, 0] += 5  # the bias must absorb it free of charge
    ours = LinearProbe(l2=l2, standardize=False).fit(z, y)
    theirs = fitted_by_scikit_learn(z, y, C=1 / (n * l2))
    assert_close_to_largest(ours.coef_, theirs.coef_)
    # A shift common to all classes changes nothing.
    intercept = ours.intercept_ - ours.intercept_.mean()
    assert_close_to_largest(intercept, theirs.intercept_ - theirs.intercept_.mean())
    assert_same_predictions(ours, theirs, labels, d)


@pytest.mark.parametrize("n, d", [(120, 5), (40, 60)], ids=["n>d", "n<d"])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_linear_probe_of_two_classes_equals_scikit_learn(n, d, l2):
    """Scikit-learn fits one row of weights then, the difference of our two."""
    labels = (5, 2)
    z, y = blobs(n, d, labels=labels, noise=3.0)
    z[:, 0] += 5
    ours = LinearProbe(l2=l2, standardize=False).fit(z, y)
    theirs = fitted_by_scikit_learn(z, y, C=2 / (n * l2))
    assert_close_to_largest(ours.coef_[1:] - ours.coef_[:1], theirs.coef_)
    assert_close_to_largest(ours.intercept_[1:] - ours.intercept_[:1], theirs.intercept_)
    assert_same_predictions(ours, theirs, labels, d)


def fitted_by_scikit_learn(z, y, **options):
    theirs = LogisticRegression(solver="newton-cg", tol=1e-10, max_iter=1000, **options)
    return theirs.fit(z.double().numpy(), y.numpy())


def assert_close_to_largest(ours, theirs):
    """Equal to 5e-4 of the largest number, or of 1 for intercepts, which can all be near 0."""
    largest = np.abs(theirs).max()
    if theirs.ndim == 1:
        largest = max(1, largest)
    np.testing.assert_allclose(ours, theirs, atol=5e-4 * largest)


def assert_same_predictions(ours, theirs, labels, d):
    assert ours.classes_.tolist() == theirs.classes_.tolist() == sorted(labels)
    z, y = blobs(500, d, labels=labels, noise=3.0, seed=1)
    z[:, 0] += 5
    z_numpy = z.double().numpy()
    np.testing.assert_allclose(ours.predict_proba(z), theirs.predict_proba(z_numpy), atol=1e-3)
    assert (ours.predict(z).numpy() == theirs.predict(z_numpy)).mean() >= 0.998
    assert ours.score(z, y) == pytest.approx(theirs.score(z_numpy, y.numpy()), abs=2e-3)


def test_the_optimum_has_no_gradient_and_no_better_neighbor():
    z, y = blobs(300, 10, labels=(4, 5, 6, 9), noise=2.0)
    fit = LinearProbe(l2=0.01, standardize=False).fit(z, y)
    coef = fit.coef_.clone().requires_grad_()
    intercept = fit.intercept_.clone().requires_grad_()
    lowest = loss(coef, intercept, z, y, 0.01)
    lowest.backward()
    assert coef.grad.abs().max() < 1e-6
    assert intercept.grad.abs().max() < 1e-6
    for seed in range(5):
        step = 1e-3 * normal(*coef.shape, seed=seed)
        assert loss(coef + step, intercept, z, y, 0.01) > lowest


@pytest.mark.parametrize("n", [500, 3000], ids=["float64", "float32"])  # large sets: float32
def test_objective_is_no_worse_than_scikit_learn_on_ill_conditioned_features(n):
    z, y = blobs(n, 100, labels=tuple(range(10)), noise=2.0)
    z = z * torch.logspace(0, -2, 100)  # a spectrum like that of real features
    ours = LinearProbe(l2=1e-4, standardize=False).fit(z, y)
    theirs = LogisticRegression(C=1 / (n * 1e-4), max_iter=3000, tol=1e-6).fit(z.numpy(), y.numpy())
    our_loss = objective(ours, z, y, 1e-4)
    their_loss = objective(theirs, z, y, 1e-4)
    assert our_loss <= 1.0001 * their_loss
    assert our_loss >= 0.999 * their_loss, "scikit-learn has not converged, or objectives differ"


def test_standardize_is_scikit_learns_scaler_folded_into_the_weights():
    z, y = blobs(200, 6, noise=3.0)
    z = z * torch.tensor([1e-3, 1, 10, 100, 1, 1]) + torch.tensor([0, 1e3, 0, 0, 5, 5])
    scaler = StandardScaler().fit(z.double().numpy())
    scaled = torch.from_numpy(scaler.transform(z.double().numpy()))
    on_scaled = LinearProbe(standardize=False).fit(scaled, y)
    ours = LinearProbe().fit(z, y)
    expected_coef = on_scaled.coef_ / torch.from_numpy(scaler.scale_)
    torch.testing.assert_close(ours.coef_, expected_coef, rtol=1e-4, atol=1e-6)
    expected_proba = on_scaled.predict_proba(scaled)
    torch.testing.assert_close(ours.predict_proba(z), expected_proba, rtol=0, atol=1e-5)
    raw = LinearProbe(standardize=False).fit(z, y)
    assert not torch.allclose(raw.predict_proba(z), ours.predict_proba(z), atol=1e-2)


def test_dead_and_constant_features_carry_no_weight():
    z, y = blobs(100, 4)
    constants = torch.tensor([0.0, 0.1, 1e6]).expand(100, 3)
    fit = LinearProbe().fit(torch.cat([z, constants], 1), y)
    without = LinearProbe().fit(z, y)
    torch.testing.assert_close(fit.coef_[:, :4], without.coef_, rtol=1e-4, atol=1e-6)
    assert fit.coef_[:, 4:].abs().max() < 1e-6


def test_of_collapsed_features_the_class_frequencies_remain():
    z, y = blobs(90, 4)
    collapsed = LinearProbe().fit(torch.ones(90, 4), y)
    thirds = torch.full((3,), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(collapsed.predict_proba(z)[0], thirds)


def test_fit_is_deterministic_and_indifferent_to_grad_mode_and_dtype():
    z, y = blobs(150, 20, noise=3.0)
    first = LinearProbe().fit(z, y)
    assert torch.equal(first.coef_, LinearProbe().fit(z, y).coef_)
    assert torch.equal(first.coef_, LinearProbe().fit(z.double(), y.int()).coef_)
    assert torch.equal(first.coef_, LinearProbe().fit(z.clone().requires_grad_(), y).coef_)
    with torch.inference_mode():
        assert torch.equal(first.coef_, LinearProbe().fit(z, y).coef_)
    assert first.coef_.requires_grad is False
    half = LinearProbe().fit(z.half(), y)
    assert half.score(z.half(), y) == pytest.approx(first.score(z, y), abs=0.02)


def test_a_fit_cut_short_warns():
    z, y = blobs(150, 20, noise=3.0)
    with pytest.warns(UserWarning, match="not converged after max_iter = 2") as warned:
        LinearProbe(max_iter=2).fit(z, y)
    assert warned[0].filename == __file__  # it points at the line that called fit


def test_linear_probe_counts_labels_unseen_in_training_as_wrong():
    z, y = blobs(90, 4, noise=0.01)
    seen = y < 2
    assert linear_probe(z, y, z, y) == 1.0
    assert linear_probe(z[seen], y[seen], z, y) == pytest.approx(2 / 3)
    assert LinearProbe().fit(z, y).predict(z).dtype == torch.int64


FOUR_ROWS = torch.randn(4, 2)
TWO_CLASSES = torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    "z, y, error, message",
    [
        (FOUR_ROWS, torch.tensor([3, 3, 3, 3]), ValueError, r"two or more .*found only \[3\]"),
        (FOUR_ROWS, torch.tensor([0, 1, 0]), ValueError, r"expected shape \(4,\)"),
        (FOUR_ROWS, TWO_CLASSES.float(), TypeError, "expected an integer tensor"),
        (torch.randn(1, 2), torch.tensor([0]), ValueError, "expected 2 or more rows"),
        (torch.randn(0, 2), torch.zeros(0, dtype=torch.int64), ValueError, "or more rows"),
        (torch.randn(4, 2, 2), TWO_CLASSES, ValueError, "expected 2 axes"),
        (torch.tensor([[0.0], [math.inf]]), torch.tensor([0, 1]), ValueError, "NaN or infinity"),
        (torch.ones(4, 2, dtype=torch.int64), TWO_CLASSES, TypeError, "floating-point"),
        (np.zeros((4, 2)), TWO_CLASSES, TypeError, "expected a torch.Tensor"),
    ],
)
def test_linear_probe_rejects(z, y, error, message):
    with pytest.raises(error, match=message):
        LinearProbe().fit(z, y)


@pytest.mark.parametrize("l2", [0, math.nan])
def test_linear_probe_rejects_a_bad_penalty(l2):
    with pytest.raises(ValueError, match="l2: expected > 0"):
        LinearProbe(l2=l2).fit(FOUR_ROWS, TWO_CLASSES)


def test_prediction_rejects_other_columns_and_other_label_counts():
    z, y = blobs(30, 4)
    fit = LinearProbe().fit(z, y)
    for bad in (z[:, :3], z[:, :1], torch.randn(5)):
        with pytest.raises(ValueError, match=r"expected (equal shapes|2 axes)"):
            fit.predict(bad)
    with pytest.raises(ValueError, match=r"expected shape \(30,\)"):
        fit.score(z, y[:1])


# ---------------------------------------------------------------- kNN


def knn_loop(z_train, y_train, z_test, k, temperature):
    """Wu et al. 2018, section 3.4, one test vector and one neighbor at a time."""
    predicted = []
    for query in z_test.double():
        neighbors = []
        for row, label in zip(z_train.double(), y_train.tolist(), strict=True):
            neighbors.append((float(F.cosine_similarity(query, row, dim=0)), label))
        nearest = sorted(neighbors, reverse=True)[:k]
        votes = dict.fromkeys(y_train.tolist(), 0.0)
        for cosine, label in nearest:
            votes[label] += math.exp(cosine / temperature)
        predicted.append(max(votes, key=votes.get))
    return torch.tensor(predicted)


def knn_by_scikit_learn(z_train, y_train, z_test, k, temperature):
    def weights(cosine_distance):
        return np.exp((1 - cosine_distance) / temperature)

    theirs = KNeighborsClassifier(k, metric="cosine", weights=weights)
    theirs.fit(z_train.double().numpy(), y_train.numpy())
    return torch.from_numpy(theirs.predict(z_test.double().numpy()))


@pytest.mark.parametrize("k, temperature", [(1, 0.1), (5, 0.1), (20, 0.07), (20, 10.0), (60, 0.5)])
def test_knn_equals_the_loop_and_scikit_learn(k, temperature):
    labels = (-2, 3, 8)
    z, y = blobs(60, 6, labels=labels, noise=2.0)
    queries, _ = blobs(80, 6, labels=labels, noise=2.0, seed=1)
    ours = knn_predict(z, y, queries, k=k, temperature=temperature)
    assert torch.equal(ours, knn_loop(z, y, queries, k, temperature))
    assert torch.equal(ours, knn_by_scikit_learn(z, y, queries, k, temperature))
    cosine = F.normalize(queries, dim=1) @ F.normalize(z, dim=1).T
    assert torch.equal(ours, knn_vote(cosine, y, k=k, temperature=temperature))


def test_knn_weights_and_temperature_matter():
    """One near neighbor outvotes two far ones; at a high temperature it is a plain majority."""
    angle = torch.tensor([0.1, 0.8, 0.9])
    z = torch.stack([angle.cos(), angle.sin()], 1)
    y = torch.tensor([7, 1, 1])
    query = torch.tensor([[2.0, 0.0]])
    assert knn_predict(z, y, query, k=3, temperature=0.1).item() == 7
    assert knn_predict(z, y, query, k=3, temperature=100.0).item() == 1


def test_knn_in_chunks_equals_scikit_learn():
    labels = tuple(range(10))
    z, y = blobs(6000, 8, labels=labels, noise=2.0)
    # 2^24 / 6000 = 2796 rows a chunk: there are two of them.
    queries, y_queries = blobs(3001, 8, labels=labels, noise=2.0, seed=1)
    expected = knn_by_scikit_learn(z, y, queries, 20, 0.1)
    ours = knn_predict(z, y, queries)
    assert len(ours) == 3001
    assert (ours == expected).double().mean() > 0.999
    expected_accuracy = (expected == y_queries).double().mean().item()
    assert knn_accuracy(z, y, queries, y_queries) == pytest.approx(expected_accuracy, abs=1e-3)


def test_knn_extremes():
    z, y = blobs(30, 4, noise=0.01)
    assert knn_accuracy(z * 1e-3, y, z * 1e3, y, k=10) == 1.0  # length does not count
    # exp(1 / 0.001) alone would overflow.
    assert knn_accuracy(z, y, z, y, k=10, temperature=1e-3) == 1.0


def test_knn_counts_labels_unseen_in_training_as_wrong():
    z, y = blobs(30, 4, noise=0.01)
    seen = y < 2
    assert knn_accuracy(z[seen], y[seen], z, y, k=10) == pytest.approx(2 / 3)
    one_class = torch.full_like(y, 9)
    assert knn_predict(z, one_class, z, k=30).unique().tolist() == [9]


def test_knn_of_a_dead_representation():
    z, y = blobs(30, 4, noise=0.01)
    z[0] = 0  # it has no direction; it is still a row
    assert 0 <= knn_accuracy(z, y, z, y, k=5) <= 1
    assert torch.equal(knn_predict(z, y, z, k=5), knn_predict(z, y, z, k=5))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(k=31), ValueError, "expected 1 <= k <= N = 30"),
        (dict(k=0), ValueError, "found k = 0"),
        (dict(temperature=0.0), ValueError, "temperature > 0"),
        (dict(temperature=math.nan), ValueError, "temperature > 0"),
        (dict(z_test=torch.randn(30, 1)), ValueError, "expected equal shapes"),
        (dict(z_test=torch.randn(0, 4)), ValueError, "or more rows"),
        (dict(z_test=torch.full((30, 4), math.nan)), ValueError, "z_test: expected finite"),
        (dict(z_train=torch.full((30, 4), math.inf)), ValueError, "z_train: expected finite"),
        (dict(y_train=torch.zeros(29).long()), ValueError, r"y_train: expected shape \(30,\)"),
        (dict(y_train=torch.zeros(30)), TypeError, "y_train: expected an integer tensor"),
        (dict(y_test=torch.zeros(1).long()), ValueError, r"y_test: expected shape \(30,\)"),
    ],
)
def test_knn_rejects(change, error, message):
    z, y = blobs(30, 4)
    arguments = dict(z_train=z, y_train=y, z_test=z, y_test=y, k=5) | change
    with pytest.raises(error, match=message):
        knn_accuracy(**arguments)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(k=7), ValueError, "expected 1 <= k <= N = 6"),
        (dict(temperature=0.0), ValueError, "temperature > 0"),
        (dict(cosine=torch.full((2, 6), math.nan)), ValueError, "cosine: expected finite"),
        (dict(labels=torch.zeros(5).long()), ValueError, r"labels: expected shape \(6,\)"),
        (dict(labels=torch.zeros(6)), TypeError, "labels: expected an integer tensor"),
    ],
)
def test_knn_vote_rejects(change, error, message):
    arguments = dict(cosine=torch.rand(2, 6), labels=torch.arange(6), k=3) | change
    with pytest.raises(error, match=message):
        knn_vote(**arguments)


# ---------------------------------------------------------------- linear_regression_r2


@pytest.mark.parametrize("n, d", [(100, 5), (30, 50)], ids=["n>d", "n<d"])
@pytest.mark.parametrize("targets", [0, 1, 3])
def test_r2_equals_scikit_learn_ridge(n, d, targets):
    z, _ = blobs(n + 40, d, noise=2.0)
    z = z * torch.linspace(0.1, 10, d)
    y = z[:, :3] @ normal(3, targets or 1, seed=3) + normal(n + 40, 1, seed=4)
    if targets == 0:
        y = y[:, 0]  # a vector is one target, too
    ours = linear_regression_r2(z[:n], y[:n], z[n:], y[n:], l2=0.01)

    z = z.double().numpy()
    y = y.double().numpy()
    scaler = StandardScaler().fit(z[:n])
    theirs = Ridge(alpha=n * 0.01).fit(scaler.transform(z[:n]), y[:n])
    expected = r2_score(y[n:], theirs.predict(scaler.transform(z[n:])))
    assert ours == pytest.approx(expected, abs=1e-6)


def held_out_r2(z, y, **options):
    return linear_regression_r2(z[:300], y[:300], z[300:], y[300:], **options)


def test_r2_limits():
    z, _ = blobs(400, 5)
    linear = z @ normal(5, 2, seed=5)
    noise = normal(400, seed=6)
    square = z[:, 0].square()
    assert held_out_r2(z, linear, l2=1e-6) > 0.9999
    assert held_out_r2(z, noise) < 0.1
    assert held_out_r2(z, square - square.mean()) < 0.9


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(y_test=torch.ones(10)), ValueError, "found a constant one"),
        (dict(y_train=torch.ones(9)), ValueError, "expected equal shapes"),
        (dict(y_test=torch.ones(1)), ValueError, "expected equal shapes"),
        (dict(y_train=torch.ones(10, 2)), ValueError, "expected equal shapes"),
        (dict(y_train=torch.zeros(10).long()), TypeError, "y_train: expected floating-point"),
        (dict(y_train=[1.0] * 10), TypeError, "y_train: expected a torch.Tensor"),
        (dict(z_test=torch.randn(10, 1)), ValueError, "expected equal shapes"),
        (dict(z_train=torch.full((10, 3), math.nan)), ValueError, "z_train: expected finite"),
        (dict(l2=0.0), ValueError, "l2: expected > 0"),
    ],
)
def test_r2_rejects(change, error, message):
    z = torch.randn(10, 3)
    y = torch.randn(10)
    arguments = dict(z_train=z, y_train=y, z_test=z, y_test=y) | change
    with pytest.raises(error, match=message):
        linear_regression_r2(**arguments)


def test_probing_a_shuffled_label_is_at_chance_on_held_out_data():
    z, y = blobs(600, 10, noise=2.0)
    shuffled = y[torch.randperm(600, generator=torch.Generator().manual_seed(0))]
    assert linear_probe(z[:400], y[:400], z[400:], y[400:]) > 0.6
    assert linear_probe(z[:400], shuffled[:400], z[400:], shuffled[400:]) < 0.45
