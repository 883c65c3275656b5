"""Losses against loops written straight from the papers, against other libraries where installed, and on bad input."""

import math

import pytest
import torch
import torch.nn.functional as F

from replearn import losses

N, D, K = 6, 5, 7


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


# name: (function of tensors only, shapes of its tensors, smallest number of rows, which arguments get a gradient)
CASES = {
    "nt_xent": (losses.nt_xent, [(N, D), (N, D)], 2, (0, 1)),
    "decoupled_contrastive": (losses.decoupled_contrastive, [(N, D), (N, D)], 2, (0, 1)),
    "info_nce": (losses.info_nce, [(N, N)], 2, (0,)),
    "moco": (losses.moco, [(N, D), (N, D), (K, D)], 1, (0,)),
    "clip_loss": (losses.clip_loss, [(N, D), (N, D)], 2, (0, 1)),
    "negative_cosine": (losses.negative_cosine, [(N, D), (N, D)], 1, (0, 1)),
    "barlow_twins": (losses.barlow_twins, [(N, D), (N, D)], 2, (0, 1)),
    "vicreg": (losses.vicreg, [(N, D), (N, D)], 2, (0, 1)),
    "dino": (lambda s, t, c: losses.dino(s, t, center=c), [(N, K), (N, K), (K,)], 1, (0,)),
    "kl_normal": (losses.kl_normal, [(N, D)] * 4, 1, (0, 1, 2, 3)),
}
WITH_TEMPERATURE = {
    "nt_xent": (losses.nt_xent, "temperature"),
    "decoupled_contrastive": (losses.decoupled_contrastive, "temperature"),
    "clip_loss": (losses.clip_loss, "temperature"),
    "moco": (lambda a, b, **t: losses.moco(a, b, b, **t), "temperature"),
    "dino student": (lambda a, b, **t: losses.dino(a, b, center=b[0], **t), "student_temperature"),
    "dino teacher": (lambda a, b, **t: losses.dino(a, b, center=b[0], **t), "teacher_temperature"),
}


def inputs(name, dtype=torch.float64, scale=1.0):
    return [scale * random(*shape, seed=i, dtype=dtype) for i, shape in enumerate(CASES[name][1])]


def cos(a, b):
    return float(a @ b / (a.norm() * b.norm()))


# ---------------------------------------------------------------- loops from the papers


def loop_nt_xent(z1, z2, t, *, decoupled=False):
    z, n, total = torch.cat([z1, z2]), len(z1), 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = [k for k in range(2 * n) if k != i and not (decoupled and k == j)]
        total += math.log(sum(math.exp(cos(z[i], z[k]) / t) for k in others)) - cos(z[i], z[j]) / t
    return total / (2 * n)


@pytest.mark.parametrize("t", [0.1, 0.5, 2.0])
def test_nt_xent_and_decoupled_equal_the_loop(t):
    z1, z2 = random(N, D, seed=1), random(N, D, seed=2)
    assert losses.nt_xent(z1, z2, temperature=t).item() == pytest.approx(
        loop_nt_xent(z1, z2, t), rel=1e-12
    )
    expected = loop_nt_xent(z1, z2, t, decoupled=True)
    assert losses.decoupled_contrastive(z1, z2, temperature=t).item() == pytest.approx(
        expected, rel=1e-12
    )


def test_info_nce_equals_the_loop():
    s = 3 * random(N, N)
    loop = (
        -sum(
            math.log(math.exp(s[i, i]) / sum(math.exp(s[i, j]) for j in range(N))) for i in range(N)
        )
        / N
    )
    assert losses.info_nce(s).item() == pytest.approx(loop, rel=1e-12)


def test_moco_equals_the_loop():
    q, k, queue = inputs("moco")
    loop = 0.0
    for i in range(N):
        pos = math.exp(cos(q[i], k[i]) / 0.2)
        loop -= math.log(pos / (pos + sum(math.exp(cos(q[i], m) / 0.2) for m in queue))) / N
    assert losses.moco(q, k, queue, temperature=0.2).item() == pytest.approx(loop, rel=1e-12)


def test_clip_loss_equals_the_loop():
    a, b = inputs("clip_loss")
    s = [[cos(x, y) / 0.07 for y in b] for x in a]
    rows = sum(math.log(sum(math.exp(s[i][j]) for j in range(N))) - s[i][i] for i in range(N)) / N
    columns = (
        sum(math.log(sum(math.exp(s[j][i]) for j in range(N))) - s[i][i] for i in range(N)) / N
    )
    assert losses.clip_loss(a, b).item() == pytest.approx((rows + columns) / 2, rel=1e-12)


def test_negative_cosine_equals_the_loop():
    p, z = inputs("negative_cosine")
    assert losses.negative_cosine(p, z).item() == pytest.approx(-sum(map(cos, p, z)) / N, rel=1e-12)


def test_barlow_twins_equals_the_loop_with_the_biased_standard_deviation():
    z1, z2 = inputs("barlow_twins")
    a, b = z1 - z1.mean(0), z2 - z2.mean(0)
    loop = 0.0
    for i in range(D):
        for j in range(D):
            c = float(
                (a[:, i] * b[:, j]).sum() / (a[:, i].square().sum() * b[:, j].square().sum()).sqrt()
            )
            loop += (1 - c) ** 2 if i == j else 0.01 * c**2
    assert losses.barlow_twins(z1, z2, off_diagonal=0.01).item() == pytest.approx(
        loop, rel=1e-4
    )  # the 1e-5 inside


def test_vicreg_equals_the_loop_of_the_papers_variant():
    z1, z2 = inputs(
        "vicreg", scale=0.5
    )  # some standard deviations below 1, or the hinge is never tested
    loop = (
        3.0 * sum(float((z1[i, d] - z2[i, d]) ** 2) for i in range(N) for d in range(D)) / (N * D)
    )
    for z in (z1, z2):
        mean = [sum(float(z[i, d]) for i in range(N)) / N for d in range(D)]
        c = [
            [
                sum((float(z[i, d]) - mean[d]) * (float(z[i, e]) - mean[e]) for i in range(N))
                / (N - 1)
                for e in range(D)
            ]
            for d in range(D)
        ]
        loop += 2.0 * sum(max(0.0, 1 - math.sqrt(c[d][d] + 1e-4)) for d in range(D)) / D
        loop += 0.7 * sum(c[d][e] ** 2 for d in range(D) for e in range(D) if d != e) / D
    value = losses.vicreg(z1, z2, similarity=3.0, variance=2.0, covariance=0.7)
    assert value.item() == pytest.approx(loop, rel=1e-12)


def test_dino_equals_the_loop():
    s, t, c = inputs("dino")
    loop = 0.0
    for i in range(N):
        p, q = [math.exp(v / 0.04) for v in (t[i] - c)], [math.exp(v / 0.1) for v in s[i]]
        loop -= sum(a / sum(p) * math.log(b / sum(q)) for a, b in zip(p, q, strict=True)) / N
    assert losses.dino(s, t, center=c).item() == pytest.approx(loop, rel=1e-12)


def test_kl_normal_equals_torch_distributions_one_number_a_sample():
    from torch.distributions import Normal, kl_divergence

    mu, lv, pm, plv = inputs("kl_normal")
    q = Normal(mu, (lv / 2).exp())
    torch.testing.assert_close(
        losses.kl_normal(mu, lv, pm, plv), kl_divergence(q, Normal(pm, (plv / 2).exp())).sum(1)
    )
    torch.testing.assert_close(losses.kl_normal(mu, lv), kl_divergence(q, Normal(0.0, 1.0)).sum(1))
    torch.testing.assert_close(
        losses.kl_normal(mu, lv, prior_mu=pm), kl_divergence(q, Normal(pm, 1.0)).sum(1)
    )
    assert torch.equal(losses.kl_normal(mu, lv, mu, lv), torch.zeros(N, dtype=mu.dtype))


# ---------------------------------------------------------------- other libraries, where installed


@pytest.mark.slow  # imports of several seconds
def test_nt_xent_equals_lightly_and_pytorch_metric_learning():
    z1, z2 = (
        random(32, 16, seed=3, dtype=torch.float32),
        random(32, 16, seed=4, dtype=torch.float32),
    )
    ours = losses.nt_xent(z1, z2, temperature=0.3)
    other = pytest.importorskip("pytorch_metric_learning.losses").NTXentLoss(temperature=0.3)
    torch.testing.assert_close(other(torch.cat([z1, z2]), torch.arange(32).repeat(2)), ours)
    lightly = pytest.importorskip("lightly.loss")
    torch.testing.assert_close(lightly.NTXentLoss(temperature=0.3)(z1, z2), ours)


@pytest.mark.slow
def test_the_other_losses_equal_lightly():
    lightly = pytest.importorskip("lightly.loss")
    z1, z2 = (
        random(32, 16, seed=3, dtype=torch.float32),
        random(32, 16, seed=4, dtype=torch.float32),
    )
    torch.testing.assert_close(
        lightly.DCLLoss(temperature=0.3)(z1, z2),
        losses.decoupled_contrastive(z1, z2, temperature=0.3),
    )
    torch.testing.assert_close(
        lightly.NegativeCosineSimilarity()(z1, z2), losses.negative_cosine(z1, z2)
    )
    torch.testing.assert_close(lightly.BarlowTwinsLoss()(z1, z2), losses.barlow_twins(z1, z2))
    # lightly follows the authors' code, which halves the variance term; the paper, and this package, does not.
    z1, z2 = z1 / 2, z2 / 2
    torch.testing.assert_close(lightly.VICRegLoss()(z1, z2), losses.vicreg(z1, z2, variance=12.5))
    assert abs(lightly.VICRegLoss()(z1, z2) - losses.vicreg(z1, z2)) > 1
    dino = lightly.DINOLoss(output_dim=16)
    dino.center = random(1, 1, 16, seed=5, dtype=torch.float32)
    center = dino.center[0, 0].clone()
    both = (losses.dino(z1, 2 * z2, center=center) + losses.dino(z2, 2 * z1, center=center)) / 2
    torch.testing.assert_close(dino([2 * z1, 2 * z2], [z1, z2]), both)


@pytest.mark.slow
def test_clip_loss_equals_open_clip():
    open_clip = pytest.importorskip("open_clip.loss")
    a, b = (F.normalize(random(32, 16, seed=s, dtype=torch.float32), dim=1) for s in (3, 4))
    torch.testing.assert_close(
        open_clip.ClipLoss()(a, b, torch.tensor(1 / 0.07)), losses.clip_loss(a, b)
    )


# ---------------------------------------------------------------- what is known without computing


@pytest.mark.parametrize("n", [2, 3, 128])
@pytest.mark.parametrize("t", [0.01, 0.5])
def test_values_at_collapse(n, t):
    z = torch.ones(n, 8)
    assert losses.nt_xent(z, z, temperature=t).item() == pytest.approx(
        math.log(2 * n - 1), abs=2e-5
    )
    assert losses.decoupled_contrastive(z, z, temperature=t).item() == pytest.approx(
        math.log(2 * n - 2), abs=2e-5
    )
    assert losses.clip_loss(z, z, temperature=t).item() == pytest.approx(math.log(n), abs=2e-5)
    assert losses.moco(z, z, torch.ones(K, 8), temperature=t).item() == pytest.approx(
        math.log(K + 1), abs=2e-5
    )
    assert losses.info_nce(torch.full((n, n), 3.0)).item() == pytest.approx(math.log(n), abs=1e-6)
    assert losses.negative_cosine(z, z).item() == pytest.approx(-1)
    assert losses.barlow_twins(z, z).item() == pytest.approx(
        8
    )  # no correlation at all: sum of (1 - 0)^2
    assert losses.vicreg(z, z).item() == pytest.approx(
        25 * 2 * 0.99
    )  # std = sqrt(1e-4) in both views
    assert losses.dino(z, z, center=torch.zeros(8)).item() == pytest.approx(math.log(8))


def test_self_pairs_are_masked():
    z = torch.eye(
        N
    )  # perfect: positives 1, everything else 0; were self-pairs counted, the loss would be near log 2
    expected = math.log1p((2 * N - 2) * math.exp(-1 / 0.05))
    assert losses.nt_xent(z, z, temperature=0.05).item() == pytest.approx(expected, abs=1e-6)
    decoupled = losses.decoupled_contrastive(z, z, temperature=0.05)
    assert decoupled.item() == pytest.approx(math.log(2 * N - 2) - 20, abs=1e-4)


def test_barlow_and_vicreg_are_lowest_where_they_should_be():
    white = torch.linalg.qr(random(64, 8) - random(64, 8).mean(0))[0] * math.sqrt(
        63
    )  # unit variance, uncorrelated
    assert losses.barlow_twins(white, white).item() == pytest.approx(0, abs=1e-6)
    assert losses.vicreg(white, white).item() == pytest.approx(0, abs=1e-6)
    assert losses.vicreg(white, white + 1).item() == pytest.approx(25)


def test_infonce_is_one_directional_and_clip_symmetric():
    s = random(N, N)
    assert losses.info_nce(s) != losses.info_nce(s.T)
    a, b = inputs("clip_loss")
    assert losses.clip_loss(a, b).item() == pytest.approx(losses.clip_loss(b, a).item(), rel=1e-12)


def test_clip_temperature_can_be_learned():
    log_t = torch.tensor(math.log(0.07), dtype=torch.float64, requires_grad=True)
    a, b = inputs("clip_loss")
    loss = losses.clip_loss(a, b, temperature=log_t.exp())
    loss.backward()
    assert loss.item() == pytest.approx(losses.clip_loss(a, b).item()) and log_t.grad.abs() > 0


def test_simsiam_target_gets_no_gradient_and_the_predictor_gets_the_right_one():
    weight = random(D, D).requires_grad_()
    x, z = random(N, D, seed=1), random(N, D, seed=2).requires_grad_()
    losses.negative_cosine(x @ weight, z.detach()).backward()
    assert z.grad is None and weight.grad.abs().sum() > 0
    losses.negative_cosine(
        x, z
    ).backward()  # without .detach() it does flow: the ablation of notebook 10
    assert z.grad.abs().sum() > 0


# ---------------------------------------------------------------- gradients, precision, safety


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    function, _, _, differentiable = CASES[name]
    tensors = [x.requires_grad_() for x in inputs(name, scale=0.3)]
    function(*tensors).sum().backward()
    assert tuple(i for i, x in enumerate(tensors) if x.grad is not None) == differentiable
    fixed = [x.detach() for x in tensors]

    def of_the_differentiable(*values):
        return function(
            *[
                values[differentiable.index(i)] if i in differentiable else x
                for i, x in enumerate(fixed)
            ]
        )

    assert torch.autograd.gradcheck(of_the_differentiable, [tensors[i] for i in differentiable])


@pytest.mark.parametrize("name", CASES)
def test_inputs_are_left_alone_and_rows_are_not_ordered(name):
    function, _, _, _ = CASES[name]
    tensors = inputs(name)
    before = [x.clone() for x in tensors]
    value = function(*tensors)
    assert all(map(torch.equal, tensors, before))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    if name == "info_nce":
        torch.testing.assert_close(function(tensors[0][order][:, order]), value)
    elif name == "kl_normal":
        torch.testing.assert_close(function(*[x[order] for x in tensors]), value[order])
    else:
        torch.testing.assert_close(
            function(*[x[order] if len(x) == N else x for x in tensors]), value
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_half_precision_and_autocast_are_computed_in_float32(name, dtype):
    function = CASES[name][0]
    half = inputs(name, dtype=dtype)
    exact = function(*[x.double() for x in half])
    assert function(*half).dtype == torch.float32
    torch.testing.assert_close(function(*half).double(), exact, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=dtype):
        torch.testing.assert_close(
            function(*[x.float() for x in half]).double(), exact, rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(function(*half).double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("name", WITH_TEMPERATURE)
def test_finite_at_temperature_one_hundredth(name, dtype):
    function, argument = WITH_TEMPERATURE[name]
    a = random(64, 16, dtype=dtype).requires_grad_()
    loss = function(
        a, -a.detach(), **{argument: 0.01}
    )  # the worst case: every positive is the farthest point
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(a.grad).all()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("fill", [0.0, 0.1])
def test_zero_rows_and_constant_features_give_numbers(name, fill):
    tensors = [x.requires_grad_() for x in inputs(name, dtype=torch.float32)]
    changed = []
    for x in tensors:
        mask = torch.zeros_like(x, dtype=torch.bool)
        mask[0] = True  # a zero row ...
        if x.ndim == 2:
            mask[:, 1] = True  # ... and a constant feature
        changed.append(x.masked_fill(mask, fill))
    value = CASES[name][0](*changed).sum()
    value.backward()
    assert torch.isfinite(value) and all(
        x.grad is None or torch.isfinite(x.grad).all() for x in tensors
    )


def test_zero_embeddings_give_numbers():
    zero = torch.zeros(4, 3, requires_grad=True)
    for loss in (
        losses.nt_xent,
        losses.decoupled_contrastive,
        losses.clip_loss,
        losses.negative_cosine,
        losses.barlow_twins,
        losses.vicreg,
    ):
        value = loss(zero, zero)
        assert torch.isfinite(value) and torch.isfinite(torch.autograd.grad(value, zero)[0]).all()


def test_fill_diagonal_copies():
    c = torch.ones(3, 3)
    assert losses.fill_diagonal(c, 0).sum() == 6 and c.sum() == 9


# ---------------------------------------------------------------- bad input


def check_message(error):
    assert "expected" in str(error.value) and "found" in str(error.value)


@pytest.mark.parametrize("name", CASES)
def test_bad_tensors_are_refused(name):
    function, shapes, min_rows, _ = CASES[name]
    good = inputs(name)
    for i, x in enumerate(good):

        def with_(bad, i=i):
            return function(*good[:i], bad, *good[i + 1 :])

        for value in (math.nan, math.inf, -math.inf):
            broken = x.clone()
            broken.view(-1)[-1] = value
            with pytest.raises(ValueError) as error:
                with_(broken)
            check_message(error)
        for wrong in (x.long(), x.tolist(), x.numpy(), x > 0):
            with pytest.raises(TypeError) as error:
                with_(wrong)
            check_message(error)
        shapes = [x[..., :-1], x[None], x[:0]] + (
            [x[0], x[:1]] if x.ndim > 1 and x is not good[-1] else []
        )
        for wrong in shapes:
            with pytest.raises(ValueError) as error:
                with_(wrong)
            check_message(error)
        if len(good) > 1:
            with pytest.raises(TypeError, match="dtype"):
                with_(x.float())
    if name not in ("moco", "dino"):
        with pytest.raises(ValueError) as error:  # too few rows on both sides
            function(*[x[: min_rows - 1] for x in good])
        check_message(error)


@pytest.mark.parametrize("name", WITH_TEMPERATURE)
@pytest.mark.parametrize(
    "t", [0.0, -1.0, 1e-9, math.nan, math.inf, torch.tensor(0.0), torch.ones(6)]
)
def test_bad_temperatures_are_refused(name, t):
    function, argument = WITH_TEMPERATURE[name]
    with pytest.raises(ValueError, match="temperature"):
        function(random(N, D), random(N, D, seed=1), **{argument: t})


def test_kl_normal_refuses_what_would_broadcast_or_overflow():
    mu, lv = random(N, D), random(N, D)
    with pytest.raises(ValueError, match="equal shapes"):
        losses.kl_normal(mu, lv, torch.zeros(1, D, dtype=mu.dtype))
    with pytest.raises(ValueError, match="clamp a logvar"):
        losses.kl_normal(mu.float(), lv.float() + 100)


def test_losses_run_under_no_grad_and_keyword_tensors():
    with torch.no_grad():
        assert losses.nt_xent(z1=torch.eye(3), z2=torch.eye(3)).ndim == 0
    with pytest.raises(TypeError):
        losses.nt_xent([1.0], [2.0])
