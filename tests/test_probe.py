"""Feature extraction leaves the encoder alone; the probes agree with scikit-learn and with loops from the formulas."""

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
    linear_probe,
    linear_regression_r2,
)


def blobs(n, d, *, labels=(0, 1, 2), noise=1.0, seed=0):
    """Overlapping Gaussian classes (N, d) with the given label values, and their labels (N,)."""
    g = torch.Generator().manual_seed(seed)
    target = torch.arange(n) % len(labels)
    centers = torch.randn(len(labels), d, generator=torch.Generator().manual_seed(99))
    z = centers[target] + noise * torch.randn(n, d, generator=g)
    return z, torch.tensor(labels)[target]


def objective(coef, intercept, z, y, l2):
    """The probe's objective, written once more from its definition, in float64."""
    coef, intercept, z = (torch.as_tensor(t).double() for t in (coef, intercept, z))
    target = (y[:, None] == y.unique()).int().argmax(1)
    return F.cross_entropy(z @ coef.T + intercept, target) + l2 / 2 * coef.square().sum()


def encoder(**batchnorm):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, **batchnorm), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()
    )


@pytest.fixture
def images():
    return torch.randint(
        0, 256, (10, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


# ---------------------------------------------------------------- extract_features


def test_features_are_those_of_eval_mode_whatever_the_batch_size(images):
    net = encoder().eval()
    with torch.no_grad():
        expected = net(images / 255)
    net.train()  # BatchNorm and dropout on, as in the middle of training
    for batch_size in (1, 3, 10, 512):
        torch.testing.assert_close(extract_features(net, images, batch_size=batch_size), expected)
    torch.testing.assert_close(extract_features(net, images / 255), expected)
    assert not torch.allclose(net(images / 255), expected, atol=0.1), (
        "this encoder must tell train from eval"
    )


def test_the_encoder_is_bit_identical_afterwards(images):
    net = nn.Sequential(encoder(), nn.BatchNorm1d(288))
    net.train()
    net[0][1].eval()  # a part frozen on purpose inside a network that trains
    net[0][3].p = 0.25
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flags = [module.training for module in net.modules()]
    assert any(flags) and not all(flags)
    extract_features(net, images, batch_size=4)
    assert [module.training for module in net.modules()] == flags
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_train_and_eval_flags_survive_an_encoder_that_fails(images):
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("out of memory")

    net = nn.Sequential(encoder(), Fails())
    flags = [module.training for module in net.modules()]
    with pytest.raises(RuntimeError, match="out of memory"):
        extract_features(net, images)
    assert [module.training for module in net.modules()] == flags


def test_features_are_float32_and_ready_for_autograd(images):
    h = extract_features(encoder().double(), images)
    assert h.dtype == torch.float32 and h.shape == (10, 288) and not h.requires_grad
    weight = torch.zeros(288, requires_grad=True)
    (h @ weight).sum().backward()  # fails on features made in inference mode
    assert torch.equal(
        extract_features(nn.Flatten(), images), images.flatten(1) / 255
    )  # an encoder of no weights
    vectors = torch.randn(5, 4)
    assert torch.equal(extract_features(nn.Identity(), vectors), vectors)


@pytest.mark.parametrize(
    "net, bad, error, message",
    [
        (encoder(), np.zeros((2, 3, 8, 8)), TypeError, "expected a torch.Tensor, found ndarray"),
        (encoder(), torch.zeros(2, 3, 8, 8, dtype=torch.int64), TypeError, "int64"),
        (encoder(), torch.zeros(3, 8, 8), ValueError, r"expected 4 axes, found shape \(3, 8, 8\)"),
        (encoder(), torch.zeros(0, 3, 8, 8), ValueError, r"found shape \(0, 3, 8, 8\)"),
        (
            encoder(),
            torch.zeros(0, 3, 8, 8, dtype=torch.uint8),
            ValueError,
            r"found shape \(0, 3, 8, 8\)",
        ),
        (encoder(), torch.full((2, 3, 8, 8), math.nan), ValueError, "NaN"),
        (
            encoder()[:2],
            torch.zeros(2, 3, 8, 8),
            ValueError,
            r"features: expected 2 axes, found shape \(2, 8, 6, 6\)",
        ),
        (nn.Flatten(0, 1), torch.zeros(2, 3), ValueError, "features: expected 2 axes"),
        (nn.Unflatten(1, (3, 8)), torch.zeros(1, 24), ValueError, "features: expected 2 axes"),
    ],
)
def test_extract_features_rejects(net, bad, error, message):
    with pytest.raises(error, match=message):
        extract_features(net, bad)


def test_extract_features_rejects_a_wrong_number_of_rows_and_nan_features(images):
    class Tokens(nn.Module):
        def forward(self, x):
            return x.flatten(2).flatten(0, 1)  # (3N, HW): tokens in the place of pictures

    class Diverged(nn.Module):
        def forward(self, x):
            return x.flatten(1) * math.nan

    with pytest.raises(
        ValueError, match=r"expected 10 rows, one a picture, found features \(30, 64\)"
    ):
        extract_features(Tokens(), images)
    with pytest.raises(ValueError, match="features: expected finite values"):
        extract_features(Diverged(), images)


# ---------------------------------------------------------------- LinearProbe


@pytest.mark.parametrize("labels", [(0, 1, 2), (-3, 7, 40, 41), (5, 2)])
@pytest.mark.parametrize("n, d", [(120, 5), (40, 60)], ids=["n>d", "n<d"])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_linear_probe_equals_scikit_learn(labels, n, d, l2):
    z, y = blobs(n, d, labels=labels, noise=3.0)
    z[:, 0] += 5  # the bias must absorb it free of charge
    ours = LinearProbe(l2=l2, standardize=False).fit(z, y)
    two = len(labels) == 2
    c = (2 if two else 1) / (n * l2)
    theirs = LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=1000).fit(
        z.double().numpy(), y.numpy()
    )
    coef = ours.coef_[1:] - ours.coef_[:1] if two else ours.coef_
    intercept = ours.intercept_[1:] - ours.intercept_[:1] if two else ours.intercept_
    np.testing.assert_allclose(coef, theirs.coef_, atol=5e-4 * np.abs(theirs.coef_).max())
    shift = (
        theirs.intercept_.mean() if not two else 0
    )  # a shift common to all classes changes nothing
    scale = max(1, np.abs(theirs.intercept_).max())
    np.testing.assert_allclose(
        intercept - intercept.mean() * (not two), theirs.intercept_ - shift, atol=5e-4 * scale
    )
    assert ours.classes_.tolist() == theirs.classes_.tolist() == sorted(labels)
    test, y_test = blobs(500, d, labels=labels, noise=3.0, seed=1)
    test[:, 0] += 5
    np.testing.assert_allclose(
        ours.predict_proba(test), theirs.predict_proba(test.double().numpy()), atol=1e-3
    )
    assert (ours.predict(test).numpy() == theirs.predict(test.double().numpy())).mean() >= 0.998
    assert ours.score(test, y_test) == pytest.approx(
        theirs.score(test.double().numpy(), y_test.numpy()), abs=2e-3
    )


def test_the_optimum_has_no_gradient_and_no_better_neighbor():
    z, y = blobs(300, 10, labels=(4, 5, 6, 9), noise=2.0)
    fit = LinearProbe(l2=0.01, standardize=False).fit(z, y)
    coef, intercept = fit.coef_.clone().requires_grad_(), fit.intercept_.clone().requires_grad_()
    loss = objective(coef, intercept, z, y, 0.01)
    loss.backward()
    assert coef.grad.abs().max() < 1e-6 and intercept.grad.abs().max() < 1e-6
    for seed in range(5):
        step = 1e-3 * torch.randn(
            coef.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        assert objective(coef + step, intercept, z, y, 0.01) > loss


@pytest.mark.parametrize(
    "n", [500, 3000], ids=["float64", "float32"]
)  # large sets are fitted in float32
def test_objective_is_no_worse_than_scikit_learn_on_ill_conditioned_features(n):
    z, y = blobs(n, 100, labels=tuple(range(10)), noise=2.0)
    z = z * torch.logspace(0, -2, 100)  # a spectrum like that of real features
    ours = LinearProbe(l2=1e-4, standardize=False).fit(z, y)
    theirs = LogisticRegression(C=1 / (n * 1e-4), max_iter=3000, tol=1e-6).fit(z.numpy(), y.numpy())
    found, expected = (objective(m.coef_, m.intercept_, z, y, 1e-4) for m in (ours, theirs))
    assert found <= 1.0001 * expected
    assert found >= 0.999 * expected, "scikit-learn has not converged, or the objectives differ"


def test_standardize_is_scikit_learns_scaler_folded_into_the_weights():
    z, y = blobs(200, 6, noise=3.0)
    z = z * torch.tensor([1e-3, 1, 10, 100, 1, 1]) + torch.tensor([0, 1e3, 0, 0, 5, 5])
    scaler = StandardScaler().fit(z.double().numpy())
    scaled = torch.from_numpy(scaler.transform(z.double().numpy()))
    on_scaled = LinearProbe(standardize=False).fit(scaled, y)
    ours = LinearProbe().fit(z, y)
    torch.testing.assert_close(
        ours.coef_, on_scaled.coef_ / torch.from_numpy(scaler.scale_), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(
        ours.predict_proba(z), on_scaled.predict_proba(scaled), rtol=0, atol=1e-5
    )
    raw = LinearProbe(standardize=False).fit(z, y)
    assert not torch.allclose(raw.predict_proba(z), ours.predict_proba(z), atol=1e-2)


def test_dead_and_constant_features_carry_no_weight():
    z, y = blobs(100, 4)
    constants = torch.tensor([0.0, 0.1, 1e6]).expand(100, 3)
    fit, without = LinearProbe().fit(torch.cat([z, constants], 1), y), LinearProbe().fit(z, y)
    torch.testing.assert_close(fit.coef_[:, :4], without.coef_, rtol=1e-4, atol=1e-6)
    assert fit.coef_[:, 4:].abs().max() < 1e-6
    collapsed = LinearProbe().fit(
        torch.ones(90, 4), y[:90]
    )  # nothing to read: the class frequencies remain
    torch.testing.assert_close(
        collapsed.predict_proba(z)[0], torch.full((3,), 1 / 3, dtype=torch.float64)
    )


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
    with pytest.warns(UserWarning, match="not converged after max_iter = 2"):
        LinearProbe(max_iter=2).fit(z, y)


def test_linear_probe_counts_labels_unseen_in_training_as_wrong():
    z, y = blobs(90, 4, noise=0.01)
    assert linear_probe(z, y, z, y) == 1.0
    assert linear_probe(z[y < 2], y[y < 2], z, y) == pytest.approx(2 / 3)
    assert LinearProbe().fit(z, y).predict(z).dtype == torch.int64


@pytest.mark.parametrize(
    "kwargs, z, y, error, message",
    [
        (dict(l2=0), torch.randn(4, 2), torch.tensor([0, 1, 0, 1]), ValueError, "l2: expected > 0"),
        (
            dict(l2=math.nan),
            torch.randn(4, 2),
            torch.tensor([0, 1, 0, 1]),
            ValueError,
            "l2: expected > 0",
        ),
        (
            {},
            torch.randn(4, 2),
            torch.tensor([3, 3, 3, 3]),
            ValueError,
            r"two or more classes, found only \[3\]",
        ),
        ({}, torch.randn(4, 2), torch.tensor([0, 1, 0]), ValueError, r"expected shape \(4,\)"),
        (
            {},
            torch.randn(4, 2),
            torch.tensor([0.0, 1, 0, 1]),
            TypeError,
            "expected an integer tensor",
        ),
        ({}, torch.randn(1, 2), torch.tensor([0]), ValueError, "expected 2 or more rows"),
        ({}, torch.randn(0, 2), torch.zeros(0, dtype=torch.int64), ValueError, "or more rows"),
        ({}, torch.randn(4, 2, 2), torch.tensor([0, 1, 0, 1]), ValueError, "expected 2 axes"),
        (
            {},
            torch.tensor([[0.0], [math.inf]]),
            torch.tensor([0, 1]),
            ValueError,
            "NaN or infinity",
        ),
        (
            {},
            torch.ones(4, 2, dtype=torch.int64),
            torch.tensor([0, 1, 0, 1]),
            TypeError,
            "floating-point",
        ),
        ({}, np.zeros((4, 2)), torch.tensor([0, 1, 0, 1]), TypeError, "expected a torch.Tensor"),
    ],
)
def test_linear_probe_rejects(kwargs, z, y, error, message):
    with pytest.raises(error, match=message):
        LinearProbe(**kwargs).fit(z, y)


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
        cosines = [float(query @ row / (query.norm() * row.norm())) for row in z_train.double()]
        votes = {}
        for i in sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]:
            votes[int(y_train[i])] = votes.get(int(y_train[i]), 0) + math.exp(
                cosines[i] / temperature
            )
        predicted.append(max(votes, key=votes.get))
    return torch.tensor(predicted)


@pytest.mark.parametrize("k, temperature", [(1, 0.1), (5, 0.1), (20, 0.07), (20, 10.0), (60, 0.5)])
def test_knn_equals_the_loop_and_scikit_learn(k, temperature):
    labels = (-2, 3, 8)
    z, y = blobs(60, 6, labels=labels, noise=2.0)
    test, _ = blobs(80, 6, labels=labels, noise=2.0, seed=1)
    ours = knn_predict(z, y, test, k=k, temperature=temperature)
    assert torch.equal(ours, knn_loop(z, y, test, k, temperature))
    theirs = KNeighborsClassifier(
        k, metric="cosine", weights=lambda d: np.exp((1 - d) / temperature)
    )
    assert (
        ours.tolist()
        == theirs.fit(z.double().numpy(), y.numpy()).predict(test.double().numpy()).tolist()
    )


def test_knn_weights_and_temperature_matter():
    angle = torch.tensor([0.1, 0.8, 0.9])
    z, y = torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([7, 1, 1])
    query = torch.tensor([[2.0, 0.0]])
    assert (
        knn_predict(z, y, query, k=3, temperature=0.1).item() == 7
    )  # one near neighbor outvotes two far ones
    assert knn_predict(z, y, query, k=3, temperature=100.0).item() == 1  # nearly a plain majority


def test_knn_in_chunks_equals_scikit_learn():
    z, y = blobs(6000, 8, labels=tuple(range(10)), noise=2.0)
    test, y_test = blobs(
        3001, 8, labels=tuple(range(10)), noise=2.0, seed=1
    )  # 2^24 / 6000 = 2796 rows a chunk
    theirs = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.1))
    expected = theirs.fit(z.double().numpy(), y.numpy()).predict(test.double().numpy())
    ours = knn_predict(z, y, test)
    assert len(ours) == 3001 and (ours.numpy() == expected).mean() > 0.999
    assert knn_accuracy(z, y, test, y_test) == pytest.approx(
        (expected == y_test.numpy()).mean(), abs=1e-3
    )


def test_knn_extremes():
    z, y = blobs(30, 4, noise=0.01)
    assert knn_accuracy(z * 1e-3, y, z * 1e3, y, k=10) == 1.0  # length does not count
    assert (
        knn_accuracy(z, y, z, y, k=10, temperature=1e-3) == 1.0
    )  # exp(1/0.001) alone would overflow
    assert knn_accuracy(z[y < 2], y[y < 2], z, y, k=10) == pytest.approx(
        2 / 3
    )  # a class unseen in training
    assert knn_predict(z, torch.full_like(y, 9), z, k=30).unique().tolist() == [
        9
    ]  # one class is allowed
    z[0] = 0  # a dead representation has no direction; it is still a row
    assert 0 <= knn_accuracy(z, y, z, y, k=5) <= 1
    assert torch.equal(knn_predict(z, y, z, k=5), knn_predict(z, y, z, k=5))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(k=31), ValueError, "expected 1 <= k <= N = 30"),
        (dict(k=0), ValueError, "found k = 0"),
        (dict(temperature=0.0), ValueError, "temperature > 0"),
        (dict(temperature=math.nan), ValueError, "temperature > 0"),
        (
            dict(z_test=torch.randn(5, 1), y_test=torch.zeros(5).long()),
            ValueError,
            "expected equal shapes",
        ),
        (dict(z_test=torch.randn(0, 4), y_test=torch.zeros(0).long()), ValueError, "or more rows"),
        (dict(z_test=torch.full((30, 4), math.nan)), ValueError, "z_test: expected finite values"),
        (
            dict(z_train=torch.full((30, 4), math.inf)),
            ValueError,
            "z_train: expected finite values",
        ),
        (dict(y_train=torch.zeros(29).long()), ValueError, r"y_train: expected shape \(30,\)"),
        (dict(y_train=torch.zeros(30)), TypeError, "y_train: expected an integer tensor"),
        (dict(y_test=torch.zeros(1).long()), ValueError, r"y_test: expected shape \(30,\)"),
    ],
)
def test_knn_rejects(change, error, message):
    z, y = blobs(30, 4)
    case = dict(z_train=z, y_train=y, z_test=z, y_test=y, k=5) | change
    with pytest.raises(error, match=message):
        knn_accuracy(**case)


# ---------------------------------------------------------------- linear_regression_r2


@pytest.mark.parametrize("n, d", [(100, 5), (30, 50)], ids=["n>d", "n<d"])
@pytest.mark.parametrize("targets", [0, 1, 3])
def test_r2_equals_scikit_learn_ridge(n, d, targets):
    z, _ = blobs(n + 40, d, noise=2.0)
    z = z * torch.linspace(0.1, 10, d)
    y = z[:, :3] @ torch.randn(
        3, targets or 1, generator=torch.Generator().manual_seed(3)
    ) + torch.randn(n + 40, 1)
    y = y if targets else y[:, 0]
    scaler = StandardScaler().fit(z[:n].double())
    theirs = Ridge(alpha=n * 0.01).fit(scaler.transform(z[:n].double()), y[:n].double())
    expected = r2_score(y[n:].double(), theirs.predict(scaler.transform(z[n:].double())))
    assert linear_regression_r2(z[:n], y[:n], z[n:], y[n:], l2=0.01) == pytest.approx(
        expected, abs=1e-6
    )


def test_r2_limits():
    z, _ = blobs(400, 5)
    linear, square, noise = (
        z @ torch.randn(5, 2),
        z[:, 0].square() - z[:, 0].square().mean(),
        torch.randn(400),
    )
    assert linear_regression_r2(z[:300], linear[:300], z[300:], linear[300:], l2=1e-6) > 0.9999
    assert linear_regression_r2(z[:300], noise[:300], z[300:], noise[300:]) < 0.1
    assert linear_regression_r2(z[:300], square[:300], z[300:], square[300:]) < 0.9


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
    z, y = torch.randn(10, 3), torch.randn(10)
    with pytest.raises(error, match=message):
        linear_regression_r2(**(dict(z_train=z, y_train=y, z_test=z, y_test=y) | change))


def test_probing_a_shuffled_label_is_at_chance_on_held_out_data():
    z, y = blobs(600, 10, noise=2.0)
    shuffled = y[torch.randperm(600, generator=torch.Generator().manual_seed(0))]
    assert linear_probe(z[:400], y[:400], z[400:], y[400:]) > 0.6
    assert linear_probe(z[:400], shuffled[:400], z[400:], shuffled[400:]) < 0.45
