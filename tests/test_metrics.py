"""Metrics against their definitions, other libraries and published values.

For each metric: which invariances hold, which fail, and what happens at the extremes.
"""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytest import approx

from replearn.losses import info_nce
from replearn.metrics import (
    alignment,
    cca_correlations,
    collapse_meter,
    effective_rank,
    linear_cka,
    mcc,
    mi_lower_bound,
    precision_at_k,
    uniformity,
)


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def random_rotation(d, seed):
    return torch.linalg.qr(random(d, d, seed=seed))[0]


def correlated(n, p, q, seed=0):
    """Features x (n, p), and y (n, q): a linear map of x with noise."""
    x = random(n, p, seed=seed)
    y = x @ random(p, q, seed=seed + 1) + random(n, q, seed=seed + 2)
    return x, y


def published_pair():
    """The data of the CKA authors' public demonstration."""
    rng = np.random.RandomState(1337)
    x = rng.randn(100, 10)
    y = rng.randn(100, 10) + x
    return torch.from_numpy(x), torch.from_numpy(y)


def absolute_correlations(z, z_true):
    """|correlation| of each column of z with each column of z_true, by NumPy."""
    d = z.shape[1]
    return np.abs(np.corrcoef(z.numpy().T, z_true.numpy().T)[:d, d:])


# ---------------------------------------------------------------- CKA


def hsic_by_definition(k, m, *, debiased):
    """HSIC of two Gram matrices (n, n); the unbiased estimator is that of Song et al. 2012."""
    n = len(k)
    if not debiased:
        h = np.eye(n) - np.ones((n, n)) / n
        return np.trace(k @ h @ m @ h) / (n - 1) ** 2
    k = k - np.diag(np.diag(k))
    m = m - np.diag(np.diag(m))
    one = np.ones(n)
    total = np.trace(k @ m)
    total += (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    total -= 2 / (n - 2) * (one @ k @ m @ one)
    return total / (n * (n - 3))


def cka_by_definition(x, y, *, debiased=False):
    k = (x.double() @ x.double().T).numpy()
    m = (y.double() @ y.double().T).numpy()
    hsic_km = hsic_by_definition(k, m, debiased=debiased)
    hsic_kk = hsic_by_definition(k, k, debiased=debiased)
    hsic_mm = hsic_by_definition(m, m, debiased=debiased)
    return hsic_km / math.sqrt(hsic_kk * hsic_mm)


def test_cka_has_the_published_values():
    x, y = published_pair()
    assert round(linear_cka(x, y), 5) == 0.55761
    assert round(linear_cka(x, y, debiased=True), 5) == 0.51346


@pytest.mark.parametrize("shape", [(50, 7, 5), (12, 40, 60), (12, 60, 3), (300, 4, 4), (4, 3, 3)])
@pytest.mark.parametrize("debiased", [False, True])
def test_cka_equals_the_definition(shape, debiased):
    x, y = correlated(*shape)
    expected = cka_by_definition(x + 3, y - 1, debiased=debiased)
    assert linear_cka(x + 3, y - 1, debiased=debiased) == approx(expected, abs=1e-9)
    assert linear_cka(x, x, debiased=debiased) == approx(1)


def test_cka_of_many_rows_adds_up_over_blocks():
    x, y = correlated(9000, 4, 3)
    a = x - x.mean(0)
    b = y - y.mean(0)
    expected = (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert linear_cka(x, y) == approx(expected.item(), rel=1e-10)


@pytest.mark.seconds  # an import of several seconds
@pytest.mark.parametrize("debiased", [False, True])
def test_cka_equals_ckatorch(debiased):
    cka_base = pytest.importorskip("ckatorch.core").cka_base
    x, y = correlated(60, 8, 20)
    theirs = cka_base(x, y, unbiased=debiased, method="fro_norm").item()
    assert linear_cka(x, y, debiased=debiased) == approx(theirs, abs=1e-9)


def test_cka_invariances_that_hold_and_those_that_do_not():
    x, y = correlated(200, 10, 12)
    value = linear_cka(x, y)
    rotated = x @ random_rotation(10, seed=9)
    shifted = x + random(1, 10, seed=8)
    for same in (rotated, 1337 * x, -x, shifted):
        assert linear_cka(same, y) == approx(value, abs=1e-9)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert linear_cka(x[order], y[order]) == approx(value, abs=1e-9)
    assert linear_cka(y, x) == approx(value, abs=1e-12)

    linear_map = random(10, 10, seed=7)  # invertible, but no rotation
    assert abs(linear_cka(x @ linear_map, y) - value) > 0.01
    assert linear_cka(x[order], y) < 0.2 < value  # examples no longer in the same order


def test_cka_small_sample_bias_and_its_cure():
    biased = []
    debiased = []
    for seed in range(20):
        x = random(50, 45, seed=seed)
        y = random(50, 45, seed=seed + 100)
        biased.append(linear_cka(x, y))
        debiased.append(linear_cka(x, y, debiased=True))
    assert min(biased) > 0.4
    assert abs(np.mean(debiased)) < 0.02
    assert min(debiased) < 0  # possible, as the truth is 0


def test_cka_is_never_nan():
    for n, seed in itertools.product((4, 5, 6, 10), range(25)):
        x = random(n, 3, seed=seed)
        y = random(n, 2, seed=seed + 50)
        assert -1 <= linear_cka(x, y, debiased=True) <= 1
        assert 0 <= linear_cka(x, y) <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cka_of_constant_features_is_zero(dtype):
    other = random(6, 3, dtype=dtype)
    for value in (0, 0.1, 1e6):
        constant = torch.full((6, 2), value, dtype=dtype)
        assert linear_cka(constant, other) == 0.0
        assert linear_cka(constant, other, debiased=True) == 0.0
    # All examples are equally unlike: nothing is left off the diagonal of the Gram matrix.
    simplex = torch.eye(6, dtype=dtype)
    assert linear_cka(simplex, other, debiased=True) == 0.0


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_cka_neither_overflows_nor_underflows(scale):
    x, y = correlated(100, 5, 5)
    x = x.float()
    y = y.float()
    assert linear_cka(scale * x, y) == approx(linear_cka(x, y), abs=1e-5)


def gram_cka(x, y):
    """Biased CKA by way of the Gram matrices (n, n), in the dtype of x and y."""
    k = x @ x.T
    m = y @ y.T
    k = k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()
    m = m - m.mean(0) - m.mean(1, keepdim=True) + m.mean()
    return ((k * m).sum() / (k.norm() * m.norm())).item()


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_in_float32_is_exact_where_the_gram_form_is_not(debiased):
    x, y = correlated(3000, 32, 32)
    x = x.float() + 100  # features have a mean, as after a ReLU
    y = y.float() + 100
    exact = linear_cka(x.double(), y.double(), debiased=debiased)
    assert linear_cka(x, y, debiased=debiased) == approx(exact, abs=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear_cka(x, y, debiased=debiased) == approx(exact, abs=1e-5)
    if not debiased:
        assert abs(gram_cka(x, y) - exact) > 1e-4


# ---------------------------------------------------------------- CCA


def test_cca_equals_scikit_learn():
    cross_decomposition = pytest.importorskip("sklearn.cross_decomposition")
    x, y = correlated(300, 5, 4)
    theirs = cross_decomposition.CCA(n_components=4, max_iter=5000, tol=1e-12)
    a, b = theirs.fit_transform(x.numpy(), y.numpy())
    expected = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(4)]
    np.testing.assert_allclose(cca_correlations(x, y).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_cca_solves_its_generalized_eigenproblem(ridge):
    linalg = pytest.importorskip("scipy.linalg")
    x, y = correlated(80, 4, 6)
    covariance = np.cov(torch.cat([x, y], 1).numpy().T)
    within = linalg.block_diag(covariance[:4, :4], covariance[4:, 4:])
    between = covariance - within
    eigenvalues = linalg.eigh(between, within + ridge * np.eye(10), eigvals_only=True)
    largest_first = eigenvalues[::-1][:4]
    correlations = cca_correlations(x, y, ridge=ridge)
    np.testing.assert_allclose(correlations.numpy(), largest_first, atol=1e-10)


def test_cca_recovers_planted_correlations_under_any_invertible_map():
    n = 40_000
    planted = torch.tensor([0.9, 0.6, 0.3, 0.0], dtype=torch.float64)
    shared = random(n, 4)
    noise = random(n, 4, seed=1)
    x = shared @ random(4, 4, seed=2) + 5
    y = (planted * shared + (1 - planted**2).sqrt() * noise) @ random(4, 4, seed=3)
    correlations = cca_correlations(x, y)
    torch.testing.assert_close(correlations, planted, atol=0.02, rtol=0)
    unmapped = cca_correlations(shared, y)
    torch.testing.assert_close(unmapped, correlations, atol=1e-9, rtol=0)
    assert correlations.dtype == x.dtype
    assert cca_correlations(x.float(), y.float()).dtype == torch.float32


def test_cca_overfits_noise_when_there_are_few_rows_and_ridge_cures_it():
    x = random(30, 40)
    y = random(30, 50, seed=1)
    perfect = torch.ones(29, dtype=x.dtype)  # N - 1 of them
    torch.testing.assert_close(cca_correlations(x, y), perfect)

    # P + Q = N is enough for a perfect correlation of noise; with one feature less it is not.
    y = random(30, 15, seed=1)
    assert cca_correlations(random(30, 15), y)[0] == approx(1)
    assert cca_correlations(random(30, 14), y)[0] < 0.9999

    y = random(30, 50, seed=1)
    ridged = [cca_correlations(x, y, ridge=r)[0].item() for r in (0.1, 1.0, 10.0, 100.0)]
    assert ridged == sorted(ridged, reverse=True)
    assert ridged[-1] < 0.5


def test_cca_of_features_that_do_not_vary_or_repeat():
    x, y = correlated(50, 3, 3)
    x = x.float()
    y = y.float()
    value = cca_correlations(x, y)
    constant = torch.full((50, 2), 0.1)
    assert torch.equal(cca_correlations(constant, y), torch.zeros(2))
    # A sum of two features adds nothing, not even a direction of rounding noise.
    repeated = torch.cat([x, x[:, :1] + x[:, 1:2], torch.ones(50, 1)], 1)
    torch.testing.assert_close(cca_correlations(repeated, y), value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("ridge", [-1.0, math.nan, math.inf])
def test_cca_refuses_a_bad_ridge(ridge):
    with pytest.raises(ValueError, match="ridge: expected"):
        cca_correlations(*correlated(20, 2, 2), ridge=ridge)


# ---------------------------------------------------------------- MCC


def test_mcc_equals_the_best_permutation():
    z = random(40, 5)
    z_true = random(40, 4, seed=1)
    correlation = absolute_correlations(z, z_true)
    totals = []
    for latents in itertools.permutations(range(5), 4):
        totals.append(sum(correlation[latent, k] for k, latent in enumerate(latents)))
    assert mcc(z, z_true) == approx(max(totals) / 4, abs=1e-12)


def test_mcc_ignores_order_sign_and_scale_and_is_low_for_noise():
    z_true = random(2000, 4)
    scale = torch.tensor([-1.0, 1e-20, 5.0, -1e3])
    shift = torch.tensor([7, 0, 7, 7])
    z = z_true[:, [2, 0, 3, 1]] * scale + shift
    assert mcc(z, z_true) == approx(1)
    assert mcc(random(2000, 4, seed=1), z_true) < 0.06
    rotated = z_true @ random_rotation(4, seed=2)
    assert mcc(rotated, z_true) < 0.9  # a rotation is not recovery
    curved = z_true**9
    assert mcc(curved, z_true, method="spearman") == approx(1)  # it is monotone
    assert mcc(curved, z_true) < 0.9


def test_mcc_spearman_equals_scipy_with_ties():
    stats = pytest.importorskip("scipy.stats")
    z = random(60, 1).round()
    z_true = random(60, 1, seed=1).round() + random(60, 1).round()
    expected = abs(stats.spearmanr(z[:, 0], z_true[:, 0])[0])
    assert mcc(z, z_true, method="spearman") == approx(expected, abs=1e-12)


def test_mcc_is_not_fooled_by_a_collapsed_code_as_the_row_maximum_is():
    z_true = random(500, 4)
    collapsed = z_true[:, :1].repeat(1, 4)  # every latent says the same
    row_maximum = absolute_correlations(collapsed, z_true).max(1).mean()
    assert row_maximum == approx(1)
    assert mcc(collapsed, z_true) < 0.35


def test_mcc_of_constant_or_missing_latents():
    z_true = random(50, 2)
    constant = torch.full((50,), 0.1, dtype=torch.float64)
    half = torch.stack([z_true[:, 0], constant], 1)
    assert mcc(half, z_true) == approx(0.5)  # the constant latent counts 0
    assert mcc(half[:, 1:], z_true) == 0.0
    one_latent = z_true[:, :1]
    assert mcc(one_latent, z_true) == approx(0.5)  # a factor without a latent, too
    with pytest.raises(ValueError, match="constant column"):
        mcc(z_true, half)
    with pytest.raises(ValueError, match="method: expected"):
        mcc(z_true, z_true, method="kendall")


# ---------------------------------------------------------------- mutual information


def gaussian_information(rho):
    """The mutual information of two Gaussians with correlation rho, in nats."""
    return -math.log(1 - rho**2) / 2


def gaussian_scores(n, rho, seed):
    """The log density ratio of correlated Gaussian pairs, which is the best critic there is."""
    x = random(n, seed=seed)
    y = rho * x + math.sqrt(1 - rho**2) * random(n, seed=seed + 10_000)
    x = x[:, None]
    y = y[None]
    exponent = (x**2 * rho**2 + y**2 * rho**2 - 2 * rho * x * y) / (2 * (1 - rho**2))
    return gaussian_information(rho) - exponent


def test_mi_bounds_equal_the_loops():
    n = 6
    scores = random(n, n)
    true_pairs = sum(scores[i, i].item() for i in range(n)) / n
    exponentials = []
    for i, j in itertools.permutations(range(n), 2):
        exponentials.append(math.exp(scores[i, j]))
    mean_exponential = sum(exponentials) / len(exponentials)
    expected = {
        "infonce": math.log(n) - info_nce(scores).item(),
        "mine": true_pairs - math.log(mean_exponential),
        "nwj": true_pairs - mean_exponential / math.e,
    }
    for bound, value in expected.items():
        estimate = mi_lower_bound(scores, bound=bound).item()
        assert estimate == approx(value, rel=1e-12)
    assert mi_lower_bound(scores) == mi_lower_bound(scores, bound="infonce")


@pytest.mark.parametrize("n", [2, 16, 256])
def test_infonce_never_exceeds_log_n(n):
    perfect = torch.eye(n) * 1e4
    assert mi_lower_bound(perfect).item() == approx(math.log(n))
    for seed in range(5):
        scores = 30 * random(n, n, seed=seed, dtype=torch.float32)
        assert mi_lower_bound(scores) <= math.log(n)
    equal = torch.full((n, n), -2.0)
    assert mi_lower_bound(equal).item() == approx(0, abs=1e-6)


@pytest.mark.parametrize("bound", ["infonce", "nwj", "mine"])
def test_mi_bounds_in_the_mean_and_in_one_batch(bound):
    rho = 0.8
    n = 128
    truth = gaussian_information(rho)  # 0.51 nats, far below log 128
    shift = 1.0 if bound == "nwj" else 0.0  # NWJ's best critic is 1 + log ratio
    values = []
    for seed in range(200):
        scores = gaussian_scores(n, rho, seed) + shift
        values.append(mi_lower_bound(scores, bound=bound).item())
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values) - truth) < 0.03 + 3 * error
    bias = 1 / n if bound == "mine" else 0  # the logarithm of a mean over one batch
    assert np.mean(values) < truth + 3 * error + bias
    assert max(values) > truth  # a single batch may exceed the truth


@pytest.mark.parametrize("bound", ["infonce", "nwj", "mine"])
def test_mi_bounds_can_be_trained(bound):
    def estimate(scores):
        return mi_lower_bound(scores, bound=bound)

    assert torch.autograd.gradcheck(estimate, random(4, 4).requires_grad_())


def test_mi_bounds_refuse_bad_scores():
    huge = torch.full((3, 3), 200.0)
    with pytest.raises(ValueError, match="overflows"):
        mi_lower_bound(huge, bound="nwj")
    assert mi_lower_bound(huge, bound="mine").item() == approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="bound: expected"):
        mi_lower_bound(torch.eye(3), bound="smile")
    with pytest.raises(ValueError, match="square"):
        mi_lower_bound(torch.ones(3, 4))


# ---------------------------------------------------------------- alignment, uniformity


def test_alignment_equals_the_loop():
    z1 = random(7, 4)
    z2 = random(7, 4, seed=1)
    unit_1 = z1 / z1.norm(dim=1, keepdim=True)
    unit_2 = z2 / z2.norm(dim=1, keepdim=True)
    for alpha in (1, 2, 3):
        loop = sum(math.dist(unit_1[i], unit_2[i]) ** alpha for i in range(7)) / 7
        assert alignment(z1, z2, alpha=alpha).item() == approx(loop, rel=1e-12)


def test_uniformity_equals_the_loop():
    z = random(7, 4)
    unit = z / z.norm(dim=1, keepdim=True)
    for t in (0.5, 2):
        potentials = []
        for i, j in itertools.combinations(range(7), 2):
            potentials.append(math.exp(-t * math.dist(unit[i], unit[j]) ** 2))
        loop = math.log(sum(potentials) / len(potentials))
        assert uniformity(z, t=t).item() == approx(loop, rel=1e-9)


def test_alignment_and_uniformity_at_their_extremes():
    z = random(500, 64, dtype=torch.float32)
    assert alignment(z, 3 * z).item() == approx(0, abs=1e-9)
    assert alignment(z, -z).item() == approx(4, rel=1e-5)
    assert uniformity(torch.ones(5, 3)).item() == approx(0, abs=1e-5)
    evenly_spread = -4 + 8 / 64  # log E exp(4 cos - 4), with cosines of variance 1 / 64
    assert uniformity(z).item() == approx(evenly_spread, abs=0.02)


def test_alignment_and_uniformity_have_gradients():
    z1 = random(5, 3).requires_grad_()
    z2 = random(5, 3, seed=1)
    assert torch.autograd.gradcheck(alignment, (z1, z2))
    assert torch.autograd.gradcheck(uniformity, z1)
    zero = torch.zeros(4, 3, requires_grad=True)
    total = alignment(zero, zero, alpha=1) + uniformity(zero)
    assert torch.isfinite(torch.autograd.grad(total, zero)[0]).all()


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_alignment_and_uniformity_refuse_bad_parameters(bad):
    z = random(5, 3)
    with pytest.raises(ValueError, match="alpha"):
        alignment(z, z, alpha=bad)
    with pytest.raises(ValueError, match="t: expected"):
        uniformity(z, t=bad)


# ---------------------------------------------------------------- rank, collapse


def test_effective_rank():
    assert effective_rank(torch.eye(8)) == approx(8)
    one_direction = torch.outer(torch.arange(1.0, 6), torch.ones(3))
    assert effective_rank(one_direction) == approx(1)
    assert effective_rank(torch.zeros(4, 3)) == 0.0

    left = torch.linalg.qr(random(50, 5))[0]
    right = torch.linalg.qr(random(20, 5, seed=1))[0]
    five_equal_directions = (left @ right.T).float()
    assert effective_rank(five_equal_directions) == approx(5, abs=1e-3)

    z = random(30, 6)
    p = np.linalg.svd(z.numpy(), compute_uv=False)
    p = p / p.sum()
    assert effective_rank(z) == approx(math.exp(-sum(p * np.log(p))), rel=1e-12)


def test_collapse_meter_tells_healthy_from_collapsed_features():
    d = 64
    healthy = collapse_meter(random(2000, d))
    assert healthy["std"] == approx(healthy["std_uniform"], rel=0.01)
    assert healthy["std_uniform"] == 1 / 8
    assert healthy["effective_rank"] > 0.95 * d
    assert abs(healthy["mean_cosine"]) < 0.01

    almost_one_point = torch.ones(2000, d, dtype=torch.float64) + 1e-6 * random(2000, d)
    collapsed = collapse_meter(almost_one_point)
    assert collapsed["std"] < 1e-6
    assert collapsed["effective_rank"] < 1.01
    assert collapsed["mean_cosine"] == approx(1)

    # Dimensional collapse: the features are spread, but in four directions only.
    four_directions = random(2000, 4) @ random(4, d, seed=1)
    narrow = collapse_meter(four_directions.float().requires_grad_())
    assert narrow["std"] > 0.09
    assert narrow["effective_rank"] == approx(4, abs=0.3)


def test_collapse_meter_equals_the_loop_and_is_never_nan():
    z = F.normalize(random(9, 3), dim=1)
    cosines = [float(z[i] @ z[j]) for i, j in itertools.permutations(range(9), 2)]
    mean_cosine = collapse_meter(5 * z)["mean_cosine"]
    assert mean_cosine == approx(sum(cosines) / 72, abs=1e-12)
    zeros = collapse_meter(torch.zeros(3, 2))
    assert all(math.isfinite(value) for value in zeros.values())


# ---------------------------------------------------------------- precision at k


def closeness(a, b, metric):
    """How close two vectors are: a larger number is closer."""
    if metric == "euclidean":
        return -math.dist(a, b)
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_precision_at_k_equals_the_loop(metric):
    k = 5
    z = random(40, 3) + 1
    y = torch.arange(40) % 3
    total = 0.0
    for i in range(40):
        others = [(closeness(z[i], z[j], metric), j) for j in range(40) if j != i]
        nearest = [j for _, j in sorted(others, reverse=True)[:k]]
        total += sum(y[j].item() == y[i].item() for j in nearest) / k
    assert precision_at_k(z, y, k=k, metric=metric) == approx(total / 40, abs=1e-12)


def test_precision_at_k_equals_scikit_learn_over_several_blocks():
    neighbors = pytest.importorskip("sklearn.neighbors")
    y = torch.arange(2500) * 7 % 4
    # The offset of 1000 would cost float32 distances their digits were it not subtracted.
    z = random(2500, 8, dtype=torch.float32) + 1000
    z[:, 0] += y  # some signal
    theirs = neighbors.NearestNeighbors(n_neighbors=11).fit(z.double().numpy())
    nearest = theirs.kneighbors(return_distance=False)[:, :10]
    expected = (y.numpy()[nearest] == y.numpy()[:, None]).mean()
    assert precision_at_k(z, y, k=10) == approx(expected, abs=2e-4)


def test_precision_at_k_at_its_extremes():
    y = torch.arange(4).repeat_interleave(20)
    assert precision_at_k(F.one_hot(y).float(), y, k=19) == 1.0
    base_rate = 19 / 79  # of all other rows
    assert precision_at_k(torch.zeros(80, 2), y, k=79) == approx(base_rate)


def test_precision_at_k_excludes_a_query_by_its_place_not_by_its_distance():
    twins = torch.tensor([[0.0], [0.0], [5.0], [5.0]])
    assert precision_at_k(twins, torch.tensor([0, 1, 0, 1]), k=1) == 0.0
    assert precision_at_k(twins, torch.tensor([0, 0, 1, 1]), k=1) == 1.0


def test_precision_at_k_by_cosine_ignores_length():
    arrows = torch.tensor([[1.0, 0.0], [9.0, 0.1], [0.0, 1.0], [0.1, 9.0]])
    y = torch.tensor([0, 0, 1, 1])
    assert precision_at_k(arrows, y, k=1, metric="cosine") == 1.0
    assert precision_at_k(arrows, y, k=1) == 0.5  # a long arrow is far from a short one


def test_precision_at_k_refuses_bad_parameters():
    z = torch.zeros(80, 2)
    y = torch.arange(4).repeat_interleave(20)
    for k in (0, -1, 80, 1000):
        with pytest.raises(ValueError, match="expected k in 1 to 79"):
            precision_at_k(z, y, k=k)
    with pytest.raises(ValueError, match="metric"):
        precision_at_k(z, y, metric="manhattan")
    for labels in (y[:-1], y[:, None]):
        with pytest.raises(ValueError, match="labels: expected"):
            precision_at_k(z, labels)
    for labels in (y.float(), y.tolist()):
        with pytest.raises(TypeError, match="labels: expected"):
            precision_at_k(z, labels)


# ---------------------------------------------------------------- bad input, precision


def precision_of_pairs(z):
    return precision_at_k(z, torch.arange(len(z)) // 2, k=2)


def debiased_cka(x, y):
    return linear_cka(x, y, debiased=True)


ALL = {  # name: a function of features, and how many of them it takes
    "uniformity": (uniformity, 1),
    "effective_rank": (effective_rank, 1),
    "collapse": (collapse_meter, 1),
    "mi": (mi_lower_bound, 1),
    "precision": (precision_of_pairs, 1),
    "cka": (linear_cka, 2),
    "debiased": (debiased_cka, 2),
    "mcc": (mcc, 2),
    "cca": (cca_correlations, 2),
    "alignment": (alignment, 2),
}


def assert_refused(function, arguments, errors):
    with pytest.raises(errors) as error:
        function(*arguments)
    assert "expected" in str(error.value)
    assert "found" in str(error.value)


def spoiled(x, value):
    """A copy with one bad entry."""
    x = x.clone()
    x[-1, -1] = value
    return x


@pytest.mark.parametrize("name", ALL)
def test_bad_tensors_are_refused(name):
    function, count = ALL[name]
    good = [random(6, 6, seed=i) for i in range(count)]
    function(*good)
    for i, x in enumerate(good):
        bad = [
            (x[0], ValueError),
            (x[None], ValueError),
            (x[:, :0], ValueError),
            (x.long(), TypeError),
            (x.numpy(), TypeError),
            (spoiled(x, math.nan), ValueError),
            (spoiled(x, math.inf), ValueError),
        ]
        if count == 2:
            bad += [(x[:-1], ValueError), (x.float(), (TypeError, ValueError))]
        for wrong, errors in bad:
            assert_refused(function, [*good[:i], wrong, *good[i + 1 :]], errors)
    too_few = {"debiased": 3, "effective_rank": 0, "alignment": 0}.get(name, 1)
    assert_refused(function, [x[:too_few] for x in good], ValueError)


def as_tensor(value):
    """A metric's result, whatever its kind, as a float64 tensor."""
    if isinstance(value, dict):
        value = list(value.values())
    return torch.as_tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_half_precision_and_autocast_are_computed_in_full(name, dtype):
    function, count = ALL[name]
    half = [random(20, 20, seed=i).to(dtype) for i in range(count)]
    double = [x.double() for x in half]
    single = [x.float() for x in half]
    exact = as_tensor(function(*double))
    rounding = 1e-2 if name == "cca" else 1e-5  # cca_correlations returns its input's dtype
    torch.testing.assert_close(as_tensor(function(*half)), exact, rtol=rounding, atol=rounding)
    with torch.autocast("cpu", dtype=dtype):
        torch.testing.assert_close(as_tensor(function(*single)), exact, rtol=1e-5, atol=1e-5)
