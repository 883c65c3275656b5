"""Metrics against their definitions, other libraries and published values; which invariances hold and which fail."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from replearn import losses, metrics


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def correlated(n, p, q, seed=0):
    x = random(n, p, seed=seed)
    return x, x @ random(p, q, seed=seed + 1) + random(n, q, seed=seed + 2)


def published_pair():
    """The data of the CKA authors' public demonstration."""
    rng = np.random.RandomState(1337)
    x = rng.randn(100, 10)
    y = rng.randn(100, 10) + x
    return torch.from_numpy(x), torch.from_numpy(y)


# ---------------------------------------------------------------- CKA


def hsic_by_definition(k, m, *, debiased):
    n = len(k)
    if not debiased:
        h = np.eye(n) - np.ones((n, n)) / n
        return np.trace(k @ h @ m @ h) / (n - 1) ** 2
    k, m = (
        k - np.diag(np.diag(k)),
        m - np.diag(np.diag(m)),
    )  # the unbiased estimator of Song et al. 2012
    one = np.ones(n)
    return (
        np.trace(k @ m)
        + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ m @ one)
    ) / (n * (n - 3))


def cka_by_definition(x, y, *, debiased=False):
    k, m = ((v.double() @ v.double().T).numpy() for v in (x, y))
    km, kk, mm = (hsic_by_definition(a, b, debiased=debiased) for a, b in ((k, m), (k, k), (m, m)))
    return km / math.sqrt(kk * mm)


def test_cka_has_the_published_values():
    x, y = published_pair()
    assert round(metrics.linear_cka(x, y), 5) == 0.55761
    assert round(metrics.linear_cka(x, y, debiased=True), 5) == 0.51346


@pytest.mark.parametrize("shape", [(50, 7, 5), (12, 40, 60), (12, 60, 3), (300, 4, 4), (4, 3, 3)])
@pytest.mark.parametrize("debiased", [False, True])
def test_cka_equals_the_definition(shape, debiased):
    x, y = correlated(*shape)
    expected = cka_by_definition(x + 3, y - 1, debiased=debiased)
    assert metrics.linear_cka(x + 3, y - 1, debiased=debiased) == pytest.approx(expected, abs=1e-9)
    assert metrics.linear_cka(x, x, debiased=debiased) == pytest.approx(1)


def test_cka_of_many_rows_adds_up_over_blocks():
    x, y = correlated(9000, 4, 3)
    a, b = x - x.mean(0), y - y.mean(0)
    expected = (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert metrics.linear_cka(x, y) == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.slow  # an import of several seconds
@pytest.mark.parametrize("debiased", [False, True])
def test_cka_equals_ckatorch(debiased):
    cka_base = pytest.importorskip("ckatorch.core").cka_base
    x, y = correlated(60, 8, 20)
    other = cka_base(x, y, unbiased=debiased, method="fro_norm").item()
    assert metrics.linear_cka(x, y, debiased=debiased) == pytest.approx(other, abs=1e-9)


def test_cka_invariances_that_hold_and_those_that_do_not():
    x, y = correlated(200, 10, 12)
    value, q = metrics.linear_cka(x, y), torch.linalg.qr(random(10, 10, seed=9))[0]
    for same in (x @ q, 1337 * x, -x, x + random(1, 10, seed=8)):  # rotation, scale, sign, shift
        assert metrics.linear_cka(same, y) == pytest.approx(value, abs=1e-9)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert metrics.linear_cka(x[order], y[order]) == pytest.approx(value, abs=1e-9)
    assert metrics.linear_cka(y, x) == pytest.approx(value, abs=1e-12)
    assert (
        abs(metrics.linear_cka(x @ random(10, 10, seed=7), y) - value) > 0.01
    )  # a general invertible map
    assert metrics.linear_cka(x[order], y) < 0.2 < value  # examples no longer in the same order


def test_cka_small_sample_bias_and_its_cure():
    values = [
        (metrics.linear_cka(x, y), metrics.linear_cka(x, y, debiased=True))
        for x, y in ((random(50, 45, seed=s), random(50, 45, seed=s + 100)) for s in range(20))
    ]
    biased, debiased = zip(*values, strict=True)
    assert (
        min(biased) > 0.4 and abs(np.mean(debiased)) < 0.02 and min(debiased) < 0
    )  # negative is possible


def test_cka_is_never_nan():
    for n, seed in itertools.product((4, 5, 6, 10), range(25)):
        x, y = random(n, 3, seed=seed), random(n, 2, seed=seed + 50)
        assert (
            -1 <= metrics.linear_cka(x, y, debiased=True) <= 1
            and 0 <= metrics.linear_cka(x, y) <= 1
        )
    other = random(6, 3)
    for dtype in (torch.float32, torch.float64):
        for constant in (torch.zeros(6, 2), torch.full((6, 2), 0.1), torch.full((6, 2), 1e6)):
            for debiased in (False, True):
                assert (
                    metrics.linear_cka(constant.to(dtype), other.to(dtype), debiased=debiased)
                    == 0.0
                )
        simplex = torch.eye(
            6, dtype=dtype
        )  # all examples equally unlike: nothing left off the diagonal
        assert metrics.linear_cka(simplex, other.to(dtype), debiased=True) == 0.0


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_cka_neither_overflows_nor_underflows(scale):
    x, y = (v.float() for v in correlated(100, 5, 5))
    assert metrics.linear_cka(scale * x, y) == pytest.approx(metrics.linear_cka(x, y), abs=1e-5)


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_in_float32_is_exact_where_the_gram_form_is_not(debiased):
    x, y = (v.float() for v in correlated(3000, 32, 32))
    x, y = x + 100, y + 100  # features have a mean, as after a ReLU
    exact = metrics.linear_cka(x.double(), y.double(), debiased=debiased)
    assert metrics.linear_cka(x, y, debiased=debiased) == pytest.approx(exact, abs=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert metrics.linear_cka(x, y, debiased=debiased) == pytest.approx(exact, abs=1e-5)
    if not debiased:
        k, m = (g - g.mean(0) - g.mean(1, keepdim=True) + g.mean() for g in (x @ x.T, y @ y.T))
        assert abs((k * m).sum() / (k.norm() * m.norm()) - exact) > 1e-4


# ---------------------------------------------------------------- CCA


def test_cca_equals_scikit_learn():
    cross_decomposition = pytest.importorskip("sklearn.cross_decomposition")
    x, y = correlated(300, 5, 4)
    a, b = cross_decomposition.CCA(n_components=4, max_iter=5000, tol=1e-12).fit_transform(
        x.numpy(), y.numpy()
    )
    expected = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(4)]
    np.testing.assert_allclose(metrics.cca_correlations(x, y).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_cca_solves_its_generalized_eigenproblem(ridge):
    linalg = pytest.importorskip("scipy.linalg")
    x, y = correlated(80, 4, 6)
    s = np.cov(torch.cat([x, y], 1).numpy().T)
    diagonal = linalg.block_diag(s[:4, :4], s[4:, 4:]) + ridge * np.eye(10)
    off = s - linalg.block_diag(s[:4, :4], s[4:, 4:])
    expected = linalg.eigh(off, diagonal, eigvals_only=True)[::-1][:4]
    np.testing.assert_allclose(
        metrics.cca_correlations(x, y, ridge=ridge).numpy(), expected, atol=1e-10
    )


def test_cca_recovers_planted_correlations_under_any_invertible_map():
    planted, n = torch.tensor([0.9, 0.6, 0.3, 0.0], dtype=torch.float64), 40_000
    a, noise = random(n, 4), random(n, 4, seed=1)
    x, y = (
        a @ random(4, 4, seed=2) + 5,
        (planted * a + (1 - planted**2).sqrt() * noise) @ random(4, 4, seed=3),
    )
    found = metrics.cca_correlations(x, y)
    torch.testing.assert_close(found, planted, atol=0.02, rtol=0)
    torch.testing.assert_close(metrics.cca_correlations(a, y), found, atol=1e-9, rtol=0)
    assert (
        found.dtype == x.dtype
        and metrics.cca_correlations(x.float(), y.float()).dtype == torch.float32
    )


def test_cca_overfits_noise_when_there_are_few_rows_and_ridge_cures_it():
    x, y = random(30, 40), random(30, 50, seed=1)
    torch.testing.assert_close(
        metrics.cca_correlations(x, y), torch.ones(29, dtype=x.dtype)
    )  # 29 = N - 1 of them
    assert metrics.cca_correlations(random(30, 15), random(30, 15, seed=1))[0] == pytest.approx(
        1
    )  # P + Q = N
    assert metrics.cca_correlations(random(30, 14), random(30, 15, seed=1))[0] < 0.9999
    ridged = [metrics.cca_correlations(x, y, ridge=r)[0].item() for r in (0.1, 1.0, 10.0, 100.0)]
    assert ridged == sorted(ridged, reverse=True) and ridged[-1] < 0.5


def test_cca_of_features_that_do_not_vary_or_repeat():
    x, y = correlated(50, 3, 3)
    x, y = x.float(), y.float()
    value = metrics.cca_correlations(x, y)
    assert torch.equal(metrics.cca_correlations(torch.full((50, 2), 0.1), y), torch.zeros(2))
    repeated = metrics.cca_correlations(
        torch.cat([x, x[:, :1] + x[:, 1:2], torch.ones(50, 1)], 1), y
    )
    torch.testing.assert_close(
        repeated, value, atol=1e-5, rtol=0
    )  # a copy adds nothing, not even a rounding direction


@pytest.mark.parametrize("ridge", [-1.0, math.nan, math.inf])
def test_cca_refuses_a_bad_ridge(ridge):
    with pytest.raises(ValueError, match="ridge: expected"):
        metrics.cca_correlations(*correlated(20, 2, 2), ridge=ridge)


# ---------------------------------------------------------------- MCC


def test_mcc_equals_the_best_permutation():
    z, z_true = random(40, 5), random(40, 4, seed=1)
    c = np.abs(np.corrcoef(z.numpy().T, z_true.numpy().T)[:5, 5:])
    best = (
        max(
            sum(c[i, j] for j, i in enumerate(order))
            for order in itertools.permutations(range(5), 4)
        )
        / 4
    )
    assert metrics.mcc(z, z_true) == pytest.approx(best, abs=1e-12)


def test_mcc_ignores_order_sign_and_scale_and_is_low_for_noise():
    z_true = random(2000, 4)
    z = z_true[:, [2, 0, 3, 1]] * torch.tensor([-1.0, 1e-20, 5.0, -1e3]) + torch.tensor(
        [7, 0, 7, 7]
    )
    assert metrics.mcc(z, z_true) == pytest.approx(1)
    assert metrics.mcc(random(2000, 4, seed=1), z_true) < 0.06
    assert (
        metrics.mcc(z_true @ torch.linalg.qr(random(4, 4, seed=2))[0], z_true) < 0.9
    )  # a rotation is not recovery
    curved = z_true**9
    assert metrics.mcc(curved, z_true, method="spearman") == pytest.approx(
        1
    )  # any monotone map, by rank
    assert metrics.mcc(curved, z_true) < 0.9


def test_mcc_spearman_equals_scipy_with_ties():
    stats = pytest.importorskip("scipy.stats")
    a, b = random(60, 1).round(), random(60, 1, seed=1).round() + random(60, 1).round()
    assert metrics.mcc(a, b, method="spearman") == pytest.approx(
        abs(stats.spearmanr(a[:, 0], b[:, 0])[0]), abs=1e-12
    )


def test_mcc_is_not_fooled_by_a_collapsed_code_as_the_row_maximum_is():
    z_true = random(500, 4)
    collapsed = z_true[:, :1].repeat(1, 4)  # every latent says the same
    row_max = np.abs(np.corrcoef(collapsed.numpy().T, z_true.numpy().T)[:4, 4:]).max(1).mean()
    assert row_max == pytest.approx(1) and metrics.mcc(collapsed, z_true) < 0.35


def test_mcc_of_constant_or_missing_latents():
    z_true = random(50, 2)
    half = torch.stack([z_true[:, 0], torch.full((50,), 0.1, dtype=torch.float64)], 1)
    assert metrics.mcc(half, z_true) == pytest.approx(0.5)  # the constant latent counts 0
    assert metrics.mcc(half[:, 1:], z_true) == 0.0
    assert metrics.mcc(z_true[:, :1], z_true) == pytest.approx(
        0.5
    )  # a factor without a latent counts 0
    with pytest.raises(ValueError, match="constant column"):
        metrics.mcc(z_true, half)
    with pytest.raises(ValueError, match="method: expected"):
        metrics.mcc(z_true, z_true, method="kendall")


# ---------------------------------------------------------------- mutual information


def gaussian_scores(n, rho, seed):
    """The log density ratio of correlated Gaussian pairs, and so the best critic there is; I = -log(1 - rho^2) / 2."""
    x = random(n, seed=seed)
    y = rho * x + math.sqrt(1 - rho**2) * random(n, seed=seed + 10_000)
    x, y = x[:, None], y[None]
    return -math.log(1 - rho**2) / 2 - (x**2 * rho**2 + y**2 * rho**2 - 2 * rho * x * y) / (
        2 * (1 - rho**2)
    )


def test_mi_bounds_equal_the_loops():
    s, n = random(6, 6), 6
    joint = sum(s[i, i].item() for i in range(n)) / n
    others = [math.exp(s[i, j]) for i in range(n) for j in range(n) if i != j]
    expected = {
        "infonce": math.log(n) - losses.info_nce(s).item(),
        "mine": joint - math.log(sum(others) / len(others)),
        "nwj": joint - sum(others) / len(others) / math.e,
    }
    for bound, value in expected.items():
        assert metrics.mi_lower_bound(s, bound=bound).item() == pytest.approx(value, rel=1e-12)
    assert metrics.mi_lower_bound(s) == metrics.mi_lower_bound(s, bound="infonce")


@pytest.mark.parametrize("n", [2, 16, 256])
def test_infonce_never_exceeds_log_n(n):
    perfect = torch.eye(n) * 1e4
    assert metrics.mi_lower_bound(perfect).item() == pytest.approx(math.log(n))
    for seed in range(5):
        assert metrics.mi_lower_bound(
            30 * random(n, n, seed=seed, dtype=torch.float32)
        ) <= math.log(n)
    assert metrics.mi_lower_bound(torch.full((n, n), -2.0)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("bound", ["infonce", "nwj", "mine"])
def test_mi_bounds_in_the_mean_and_in_one_batch(bound):
    rho, n = 0.8, 128
    truth = -math.log(1 - rho**2) / 2  # 0.51 nats, far below log 128
    shift = 1.0 if bound == "nwj" else 0.0  # NWJ's best critic is 1 + log ratio
    values = [
        metrics.mi_lower_bound(gaussian_scores(n, rho, s) + shift, bound=bound).item()
        for s in range(200)
    ]
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values) - truth) < 0.03 + 3 * error
    bias = 1 / n if bound == "mine" else 0  # the logarithm of a mean over one batch
    assert np.mean(values) < truth + 3 * error + bias
    assert max(values) > truth  # a single batch may exceed the truth


def test_mi_bounds_can_be_trained_and_refuse_bad_scores():
    for bound in ("infonce", "nwj", "mine"):
        s = random(4, 4).requires_grad_()
        assert torch.autograd.gradcheck(lambda s, b=bound: metrics.mi_lower_bound(s, bound=b), s)
    with pytest.raises(ValueError, match="overflows"):
        metrics.mi_lower_bound(torch.full((3, 3), 200.0), bound="nwj")
    assert metrics.mi_lower_bound(torch.full((3, 3), 200.0), bound="mine").item() == pytest.approx(
        0, abs=1e-4
    )
    with pytest.raises(ValueError, match="bound: expected"):
        metrics.mi_lower_bound(torch.eye(3), bound="smile")
    with pytest.raises(ValueError, match="square"):
        metrics.mi_lower_bound(torch.ones(3, 4))


# ---------------------------------------------------------------- alignment, uniformity, rank, collapse


def test_alignment_and_uniformity_equal_the_loops():
    z1, z2 = random(7, 4), random(7, 4, seed=1)
    a, b = z1 / z1.norm(dim=1, keepdim=True), z2 / z2.norm(dim=1, keepdim=True)
    for alpha in (1, 2, 3):
        loop = sum(math.dist(a[i], b[i]) ** alpha for i in range(7)) / 7
        assert metrics.alignment(z1, z2, alpha=alpha).item() == pytest.approx(loop, rel=1e-12)
    for t in (0.5, 2):
        pairs = [math.exp(-t * math.dist(a[i], a[j]) ** 2) for i in range(7) for j in range(i)]
        assert metrics.uniformity(z1, t=t).item() == pytest.approx(
            math.log(sum(pairs) / len(pairs)), rel=1e-9
        )


def test_alignment_and_uniformity_at_their_extremes():
    z = random(500, 64, dtype=torch.float32)
    assert metrics.alignment(z, 3 * z).item() == pytest.approx(0, abs=1e-9)
    assert metrics.alignment(z, -z).item() == pytest.approx(4, rel=1e-5)
    assert metrics.uniformity(torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-5)
    assert metrics.uniformity(z).item() == pytest.approx(
        -4 + 8 / 64, abs=0.02
    )  # log E exp(4 cos - 4)
    assert torch.autograd.gradcheck(
        metrics.alignment, (random(5, 3).requires_grad_(), random(5, 3, seed=1))
    )
    assert torch.autograd.gradcheck(metrics.uniformity, random(5, 3).requires_grad_())
    zero = torch.zeros(4, 3, requires_grad=True)
    total = metrics.alignment(zero, zero, alpha=1) + metrics.uniformity(zero)
    assert torch.isfinite(torch.autograd.grad(total, zero)[0]).all()
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="alpha"):
            metrics.alignment(z, z, alpha=bad)
        with pytest.raises(ValueError, match="t: expected"):
            metrics.uniformity(z, t=bad)


def test_effective_rank():
    assert metrics.effective_rank(torch.eye(8)) == pytest.approx(8)
    assert metrics.effective_rank(
        torch.outer(torch.arange(1.0, 6), torch.ones(3))
    ) == pytest.approx(1)
    assert metrics.effective_rank(torch.zeros(4, 3)) == 0.0
    planted = (
        torch.linalg.qr(random(50, 5))[0] @ torch.linalg.qr(random(20, 5, seed=1))[0].T
    )  # five equal directions
    assert metrics.effective_rank(planted.float()) == pytest.approx(5, abs=1e-3)
    z = random(30, 6)
    p = np.linalg.svd(z.numpy(), compute_uv=False)
    p = p / p.sum()
    assert metrics.effective_rank(z) == pytest.approx(math.exp(-sum(p * np.log(p))), rel=1e-12)


def test_collapse_meter():
    d = 64
    healthy, collapsed = (
        random(2000, d),
        torch.ones(2000, d, dtype=torch.float64) + 1e-6 * random(2000, d),
    )
    narrow = random(2000, 4) @ random(
        4, d, seed=1
    )  # dimensional collapse: spread, but in four directions only
    meter = metrics.collapse_meter(healthy)
    assert (
        meter["std"] == pytest.approx(meter["std_uniform"], rel=0.01)
        and meter["std_uniform"] == 1 / 8
    )
    assert meter["effective_rank"] > 0.95 * d and abs(meter["mean_cosine"]) < 0.01
    meter = metrics.collapse_meter(collapsed)
    assert (
        meter["std"] < 1e-6
        and meter["effective_rank"] < 1.01
        and meter["mean_cosine"] == pytest.approx(1)
    )
    meter = metrics.collapse_meter(narrow.float().requires_grad_())
    assert meter["std"] > 0.09 and meter["effective_rank"] == pytest.approx(4, abs=0.3)
    z = F.normalize(random(9, 3), dim=1)
    loop = sum(float(z[i] @ z[j]) for i in range(9) for j in range(9) if i != j) / 72
    assert metrics.collapse_meter(5 * z)["mean_cosine"] == pytest.approx(loop, abs=1e-12)
    assert all(math.isfinite(v) for v in metrics.collapse_meter(torch.zeros(3, 2)).values())


# ---------------------------------------------------------------- precision at k


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_precision_at_k_equals_the_loop(metric):
    z, y, k = random(40, 3) + 1, torch.arange(40) % 3, 5
    total = 0.0
    for i in range(40):
        others = [j for j in range(40) if j != i]
        if metric == "euclidean":
            others.sort(key=lambda j, i=i: math.dist(z[i], z[j]))
        else:
            others.sort(key=lambda j, i=i: -float(z[i] @ z[j] / (z[i].norm() * z[j].norm())))
        total += sum(y[j].item() == y[i].item() for j in others[:k]) / k
    assert metrics.precision_at_k(z, y, k=k, metric=metric) == pytest.approx(total / 40, abs=1e-12)


def test_precision_at_k_equals_scikit_learn_over_several_blocks():
    neighbors = pytest.importorskip("sklearn.neighbors")
    y = torch.arange(2500) * 7 % 4
    z = random(2500, 8, dtype=torch.float32) + 1000
    z[:, 0] += (
        y  # some signal; the offset of 1000 would cost float32 distances their digits were it not subtracted
    )
    found = (
        neighbors.NearestNeighbors(n_neighbors=11)
        .fit(z.double().numpy())
        .kneighbors(return_distance=False)[:, :10]
    )
    expected = (y.numpy()[found] == y.numpy()[:, None]).mean()
    assert metrics.precision_at_k(z, y, k=10) == pytest.approx(expected, abs=2e-4)


def test_precision_at_k_at_its_extremes():
    y = torch.arange(4).repeat_interleave(20)
    assert metrics.precision_at_k(F.one_hot(y).float(), y, k=19) == 1.0
    assert metrics.precision_at_k(torch.zeros(80, 2), y, k=79) == pytest.approx(
        19 / 79
    )  # all rows: the base rate
    twins = torch.tensor(
        [[0.0], [0.0], [5.0], [5.0]]
    )  # a query is excluded by its place, not by its distance 0
    assert metrics.precision_at_k(twins, torch.tensor([0, 1, 0, 1]), k=1) == 0.0
    assert metrics.precision_at_k(twins, torch.tensor([0, 0, 1, 1]), k=1) == 1.0
    rays = torch.tensor([[1.0, 0.0], [9.0, 0.1], [0.0, 1.0], [0.1, 9.0]])
    assert metrics.precision_at_k(rays, torch.tensor([0, 0, 1, 1]), k=1, metric="cosine") == 1.0
    assert (
        metrics.precision_at_k(rays, torch.tensor([0, 0, 1, 1]), k=1) == 0.5
    )  # a long arrow is far from a short one
    for k in (0, -1, 80, 1000):
        with pytest.raises(ValueError, match="expected k in 1 to 79"):
            metrics.precision_at_k(torch.zeros(80, 2), y, k=k)
    with pytest.raises(ValueError, match="metric"):
        metrics.precision_at_k(torch.zeros(80, 2), y, metric="manhattan")
    wrong = [
        (y[:-1], ValueError),
        (y[:, None], ValueError),
        (y.float(), TypeError),
        (y.tolist(), TypeError),
    ]
    for labels, error in wrong:
        with pytest.raises(error, match="labels: expected"):
            metrics.precision_at_k(torch.zeros(80, 2), labels)


# ---------------------------------------------------------------- bad input, precision

ONE = {
    "uniformity": metrics.uniformity,
    "effective_rank": metrics.effective_rank,
    "collapse": metrics.collapse_meter,
    "mi": metrics.mi_lower_bound,
    "precision": lambda z: metrics.precision_at_k(z, torch.arange(len(z)), k=2),
}
TWO = {
    "cka": metrics.linear_cka,
    "debiased": lambda x, y: metrics.linear_cka(x, y, debiased=True),
    "mcc": metrics.mcc,
    "cca": metrics.cca_correlations,
    "alignment": metrics.alignment,
}
ALL = {**{name: (f, 1) for name, f in ONE.items()}, **{name: (f, 2) for name, f in TWO.items()}}


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
        ]
        for value in (math.nan, math.inf):
            broken = x.clone()
            broken[-1, -1] = value
            bad.append((broken, ValueError))
        if count == 2:
            bad += [(x[:-1], ValueError), (x.float(), (TypeError, ValueError))]
        for wrong, kind in bad:
            with pytest.raises(kind) as error:
                function(*good[:i], wrong, *good[i + 1 :])
            assert "expected" in str(error.value) and "found" in str(error.value)
    too_few = {"debiased": 3, "effective_rank": 0, "alignment": 0}.get(name, 1)
    with pytest.raises(ValueError) as error:
        function(*[x[:too_few] for x in good])
    assert "expected" in str(error.value) and "found" in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_half_precision_and_autocast_are_computed_in_full(name, dtype):
    function, count = ALL[name]
    half = [random(20, 20, seed=i).to(dtype) for i in range(count)]

    def numbers(*tensors):
        value = function(*tensors)
        return torch.as_tensor(
            list(value.values()) if isinstance(value, dict) else value, dtype=torch.float64
        )

    exact = numbers(*[x.double() for x in half])
    rounding = 1e-2 if name == "cca" else 1e-5  # cca_correlations returns its input's dtype
    torch.testing.assert_close(numbers(*half), exact, rtol=rounding, atol=rounding)
    with torch.autocast("cpu", dtype=dtype):
        torch.testing.assert_close(numbers(*[x.float() for x in half]), exact, rtol=1e-5, atol=1e-5)
