"""Losses against loops written straight from the papers, other libraries, and on bad input."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from replearn import losses
from scripts.side_experiments import code_of

N = 6  # images
D = 5  # numbers in an embedding
K = 7  # entries of a queue, outputs of a head


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


class Case(NamedTuple):
    """A loss, and what the tests have to know about it."""

    function: Callable
    shapes: list[tuple[int, ...]]  # of its tensors
    min_rows: int
    differentiable: tuple[int, ...]  # which of its tensors get a gradient


def dino(student, teacher, center):
    return losses.dino(student, teacher, center=center)


CASES = {
    "nt_xent": Case(losses.nt_xent, [(N, D), (N, D)], 2, (0, 1)),
    "decoupled_contrastive": Case(losses.decoupled_contrastive, [(N, D), (N, D)], 2, (0, 1)),
    "info_nce": Case(losses.info_nce, [(N, N)], 2, (0,)),
    "moco": Case(losses.moco, [(N, D), (N, D), (K, D)], 1, (0,)),
    "clip_loss": Case(losses.clip_loss, [(N, D), (N, D)], 2, (0, 1)),
    "negative_cosine": Case(losses.negative_cosine, [(N, D), (N, D)], 1, (0, 1)),
    "barlow_twins": Case(losses.barlow_twins, [(N, D), (N, D)], 2, (0, 1)),
    "vicreg": Case(losses.vicreg, [(N, D), (N, D)], 2, (0, 1)),
    "dino": Case(dino, [(N, K), (N, K), (K,)], 1, (0,)),
    "kl_normal": Case(losses.kl_normal, [(N, D)] * 4, 1, (0, 1, 2, 3)),
}


def moco_with_keys_as_queue(query, key, *, temperature):
    return losses.moco(query, key, key, temperature=temperature)


def dino_with_student_temperature(student, teacher, *, temperature):
    return losses.dino(student, teacher, center=teacher[0], student_temperature=temperature)


def dino_with_teacher_temperature(student, teacher, *, temperature):
    return losses.dino(student, teacher, center=teacher[0], teacher_temperature=temperature)


WITH_TEMPERATURE = {
    "nt_xent": losses.nt_xent,
    "decoupled_contrastive": losses.decoupled_contrastive,
    "clip_loss": losses.clip_loss,
    "moco": moco_with_keys_as_queue,
    "dino student": dino_with_student_temperature,
    "dino teacher": dino_with_teacher_temperature,
}


def inputs(name, dtype=torch.float64, scale=1.0):
    """Random tensors for a loss."""
    tensors = []
    for seed, shape in enumerate(CASES[name].shapes):
        tensors.append(scale * random(*shape, seed=seed, dtype=dtype))
    return tensors


def cos(a, b):
    return float(a @ b / (a.norm() * b.norm()))


# --- loops from the papers ---


def loop_nt_xent(z1, z2, t, *, decoupled=False):
    z = torch.cat([z1, z2])
    n = len(z1)
    total = 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        denominator = 0.0
        for k in range(2 * n):
            if k == i or (decoupled and k == j):
                continue
            denominator += math.exp(cos(z[i], z[k]) / t)
        total += math.log(denominator) - cos(z[i], z[j]) / t
    return total / (2 * n)


@pytest.mark.parametrize("t", [0.1, 0.5, 2.0])
def test_nt_xent_and_decoupled_equal_the_loop(t):
    z1 = random(N, D, seed=1)
    z2 = random(N, D, seed=2)
    loss = losses.nt_xent(z1, z2, temperature=t)
    assert loss.item() == pytest.approx(loop_nt_xent(z1, z2, t), rel=1e-12)
    loss = losses.decoupled_contrastive(z1, z2, temperature=t)
    assert loss.item() == pytest.approx(loop_nt_xent(z1, z2, t, decoupled=True), rel=1e-12)


def test_info_nce_equals_the_loop():
    s = 3 * random(N, N)
    loop = 0.0
    for i, row in enumerate(s.tolist()):
        denominator = sum(math.exp(score) for score in row)
        loop -= math.log(math.exp(row[i]) / denominator) / N
    assert losses.info_nce(s).item() == pytest.approx(loop, rel=1e-12)


def test_moco_equals_the_loop():
    query, key, queue = inputs("moco")
    loop = 0.0
    for i in range(N):
        positive = math.exp(cos(query[i], key[i]) / 0.2)
        negatives = sum(math.exp(cos(query[i], other) / 0.2) for other in queue)
        loop -= math.log(positive / (positive + negatives)) / N
    loss = losses.moco(query, key, queue, temperature=0.2)
    assert loss.item() == pytest.approx(loop, rel=1e-12)


def test_clip_loss_equals_the_loop():
    image_z, text_z = inputs("clip_loss")
    loop = 0.0
    for i in range(N):
        to_texts = sum(math.exp(cos(image_z[i], text) / 0.07) for text in text_z)
        to_images = sum(math.exp(cos(image, text_z[i]) / 0.07) for image in image_z)
        partner = cos(image_z[i], text_z[i]) / 0.07
        loop += (math.log(to_texts) - partner) / (2 * N)
        loop += (math.log(to_images) - partner) / (2 * N)
    assert losses.clip_loss(image_z, text_z).item() == pytest.approx(loop, rel=1e-12)


def test_negative_cosine_equals_the_loop():
    p, z = inputs("negative_cosine")
    loop = -sum(cos(p[i], z[i]) for i in range(N)) / N
    assert losses.negative_cosine(p, z).item() == pytest.approx(loop, rel=1e-12)


def test_barlow_twins_equals_the_loop_with_the_biased_standard_deviation():
    z1, z2 = inputs("barlow_twins")
    a = z1 - z1.mean(0)
    b = z2 - z2.mean(0)
    loop = 0.0
    for i in range(D):
        for j in range(D):
            covariance = (a[:, i] * b[:, j]).sum()
            variances = a[:, i].square().sum() * b[:, j].square().sum()
            c = float(covariance / variances.sqrt())
            loop += (1 - c) ** 2 if i == j else 0.01 * c**2
    loss = losses.barlow_twins(z1, z2, off_diagonal=0.01)
    assert loss.item() == pytest.approx(loop, rel=1e-4)  # ours adds 1e-5 to the variances


def loop_covariance(z):
    """The covariance matrix, as a list of lists, with N - 1 in the denominator."""
    centered = []  # D lists of N numbers
    for column in z.T.tolist():
        mean = sum(column) / N
        centered.append([value - mean for value in column])
    c = [[0.0] * D for _ in range(D)]
    for d in range(D):
        for e in range(D):
            for i in range(N):
                c[d][e] += centered[d][i] * centered[e][i] / (N - 1)
    return c


def test_vicreg_equals_the_loop_of_the_papers_variant():
    # Some standard deviations have to be below 1, or the hinge is never tested.
    z1, z2 = inputs("vicreg", scale=0.5)
    loop = 0.0
    for i in range(N):
        for d in range(D):
            distance = float(z1[i, d] - z2[i, d])
            loop += 3.0 * distance**2 / (N * D)
    for z in (z1, z2):
        c = loop_covariance(z)
        for d in range(D):
            std = math.sqrt(c[d][d] + 1e-4)
            loop += 2.0 * max(0.0, 1 - std) / D
            for e in range(D):
                if d != e:
                    loop += 0.7 * c[d][e] ** 2 / D
    loss = losses.vicreg(z1, z2, similarity=3.0, variance=2.0, covariance=0.7)
    assert loss.item() == pytest.approx(loop, rel=1e-12)


def test_dino_equals_the_loop():
    student, teacher, center = inputs("dino")
    loop = 0.0
    for i in range(N):
        p = [math.exp(value / 0.04) for value in teacher[i] - center]
        q = [math.exp(value / 0.1) for value in student[i]]
        for k in range(K):
            target = p[k] / sum(p)
            prediction = q[k] / sum(q)
            loop -= target * math.log(prediction) / N
    assert losses.dino(student, teacher, center=center).item() == pytest.approx(loop, rel=1e-12)


def test_kl_normal_equals_torch_distributions_one_number_a_sample():
    from torch.distributions import Normal, kl_divergence

    mu, logvar, prior_mu, prior_logvar = inputs("kl_normal")
    q = Normal(mu, (logvar / 2).exp())
    prior = Normal(prior_mu, (prior_logvar / 2).exp())
    kl = losses.kl_normal(mu, logvar, prior_mu, prior_logvar)
    torch.testing.assert_close(kl, kl_divergence(q, prior).sum(1))
    kl = losses.kl_normal(mu, logvar)
    torch.testing.assert_close(kl, kl_divergence(q, Normal(0.0, 1.0)).sum(1))
    kl = losses.kl_normal(mu, logvar, prior_mu=prior_mu)
    torch.testing.assert_close(kl, kl_divergence(q, Normal(prior_mu, 1.0)).sum(1))
    kl = losses.kl_normal(mu, logvar, mu, logvar)
    assert torch.equal(kl, torch.zeros(N, dtype=mu.dtype))


# --- other libraries, where installed ---


def two_batches():
    z1 = random(32, 16, seed=3, dtype=torch.float32)
    z2 = random(32, 16, seed=4, dtype=torch.float32)
    return z1, z2


@pytest.mark.seconds  # imports of several seconds
def test_nt_xent_equals_pytorch_metric_learning():
    metric_losses = pytest.importorskip("pytorch_metric_learning.losses")
    z1, z2 = two_batches()
    images = torch.arange(32).repeat(2)
    theirs = metric_losses.NTXentLoss(temperature=0.3)(torch.cat([z1, z2]), images)
    torch.testing.assert_close(theirs, losses.nt_xent(z1, z2, temperature=0.3))


@pytest.mark.seconds
def test_contrastive_losses_equal_lightly():
    lightly = pytest.importorskip("lightly.loss")
    z1, z2 = two_batches()
    theirs = lightly.NTXentLoss(temperature=0.3)(z1, z2)
    torch.testing.assert_close(theirs, losses.nt_xent(z1, z2, temperature=0.3))
    theirs = lightly.DCLLoss(temperature=0.3)(z1, z2)
    torch.testing.assert_close(theirs, losses.decoupled_contrastive(z1, z2, temperature=0.3))


@pytest.mark.seconds
def test_losses_without_negatives_equal_lightly():
    lightly = pytest.importorskip("lightly.loss")
    z1, z2 = two_batches()
    theirs = lightly.NegativeCosineSimilarity()(z1, z2)
    torch.testing.assert_close(theirs, losses.negative_cosine(z1, z2))
    theirs = lightly.BarlowTwinsLoss()(z1, z2)
    torch.testing.assert_close(theirs, losses.barlow_twins(z1, z2))


@pytest.mark.seconds
def test_vicreg_with_half_the_variance_term_equals_lightly():
    """Lightly follows the authors' code, which halves the variance term. The paper does not."""
    lightly = pytest.importorskip("lightly.loss")
    z1, z2 = two_batches()
    z1 = z1 / 2
    z2 = z2 / 2
    theirs = lightly.VICRegLoss()(z1, z2)
    torch.testing.assert_close(theirs, losses.vicreg(z1, z2, variance=12.5))
    assert abs(theirs - losses.vicreg(z1, z2)) > 1


@pytest.mark.seconds
def test_dino_both_ways_equals_lightly():
    lightly = pytest.importorskip("lightly.loss")
    student, teacher = two_batches()
    z1 = student / 2
    z2 = teacher / 2
    theirs = lightly.DINOLoss(output_dim=16)
    theirs.center = random(1, 1, 16, seed=5, dtype=torch.float32)
    center = theirs.center[0, 0].clone()  # the call moves it
    one_way = losses.dino(z1, 2 * z2, center=center)
    other_way = losses.dino(z2, 2 * z1, center=center)
    value = theirs([2 * z1, 2 * z2], [z1, z2])
    torch.testing.assert_close(value, (one_way + other_way) / 2)


@pytest.mark.seconds
def test_clip_loss_equals_open_clip():
    open_clip = pytest.importorskip("open_clip.loss")
    image_z, text_z = two_batches()
    image_z = F.normalize(image_z, dim=1)
    text_z = F.normalize(text_z, dim=1)
    theirs = open_clip.ClipLoss()(image_z, text_z, torch.tensor(1 / 0.07))
    torch.testing.assert_close(theirs, losses.clip_loss(image_z, text_z))


@pytest.mark.seconds
def test_siglip_loss_of_lesson_07_equals_open_clip():
    open_clip = pytest.importorskip("open_clip.loss")
    names = {"torch": torch, "F": F}
    exec(code_of("07", ["def siglip_loss("]), names)
    image_z, text_z = two_batches()
    ours = names["siglip_loss"](image_z, 3 * text_z, torch.tensor(10.0).log(), torch.tensor(-10.0))
    of_unit_length = [F.normalize(z, dim=1) for z in (image_z, text_z)]
    theirs = open_clip.SigLipLoss()(*of_unit_length, torch.tensor(10.0), torch.tensor(-10.0))
    torch.testing.assert_close(ours, theirs)


# --- what is known without computing ---


@pytest.mark.parametrize("n", [2, 3, 128])
@pytest.mark.parametrize("t", [0.01, 0.5])
def test_values_of_contrastive_losses_at_collapse(n, t):
    z = torch.ones(n, 8)
    loss = losses.nt_xent(z, z, temperature=t)
    assert loss.item() == pytest.approx(math.log(2 * n - 1), abs=2e-5)
    loss = losses.decoupled_contrastive(z, z, temperature=t)
    assert loss.item() == pytest.approx(math.log(2 * n - 2), abs=2e-5)
    loss = losses.clip_loss(z, z, temperature=t)
    assert loss.item() == pytest.approx(math.log(n), abs=2e-5)
    loss = losses.moco(z, z, torch.ones(K, 8), temperature=t)
    assert loss.item() == pytest.approx(math.log(K + 1), abs=2e-5)
    loss = losses.info_nce(torch.full((n, n), 3.0))
    assert loss.item() == pytest.approx(math.log(n), abs=1e-6)


@pytest.mark.parametrize("n", [2, 3, 128])
def test_values_of_the_other_losses_at_collapse(n):
    z = torch.ones(n, 8)
    assert losses.negative_cosine(z, z).item() == pytest.approx(-1)
    # Nothing correlates: a sum of eight times (1 - 0)^2.
    assert losses.barlow_twins(z, z).item() == pytest.approx(8)
    # The standard deviation is sqrt(1e-4) in both views.
    assert losses.vicreg(z, z).item() == pytest.approx(25 * 2 * 0.99)
    loss = losses.dino(z, z, center=torch.zeros(8))
    assert loss.item() == pytest.approx(math.log(8))


def test_self_pairs_are_masked():
    """Positives have cosine 1, all others 0. With self-pairs the loss would be near log 2."""
    z = torch.eye(N)
    expected = math.log1p((2 * N - 2) * math.exp(-1 / 0.05))
    assert losses.nt_xent(z, z, temperature=0.05).item() == pytest.approx(expected, abs=1e-6)
    decoupled = losses.decoupled_contrastive(z, z, temperature=0.05)
    assert decoupled.item() == pytest.approx(math.log(2 * N - 2) - 20, abs=1e-4)


def test_barlow_and_vicreg_are_lowest_where_they_should_be():
    z = random(64, 8)
    white = torch.linalg.qr(z - z.mean(0))[0] * math.sqrt(63)  # unit variance, uncorrelated
    assert losses.barlow_twins(white, white).item() == pytest.approx(0, abs=1e-6)
    assert losses.vicreg(white, white).item() == pytest.approx(0, abs=1e-6)
    assert losses.vicreg(white, white + 1).item() == pytest.approx(25)


def test_infonce_is_one_directional_and_clip_symmetric():
    scores = random(N, N)
    assert losses.info_nce(scores) != losses.info_nce(scores.T)
    image_z, text_z = inputs("clip_loss")
    there = losses.clip_loss(image_z, text_z).item()
    back = losses.clip_loss(text_z, image_z).item()
    assert there == pytest.approx(back, rel=1e-12)


def test_clip_temperature_can_be_learned():
    log_t = torch.tensor(math.log(0.07), dtype=torch.float64, requires_grad=True)
    image_z, text_z = inputs("clip_loss")
    loss = losses.clip_loss(image_z, text_z, temperature=log_t.exp())
    loss.backward()
    assert loss.item() == pytest.approx(losses.clip_loss(image_z, text_z).item())
    assert log_t.grad.abs() > 0


def test_simsiam_target_gets_no_gradient_and_the_predictor_gets_the_right_one():
    weight = random(D, D).requires_grad_()
    x = random(N, D, seed=1)
    z = random(N, D, seed=2).requires_grad_()
    losses.negative_cosine(x @ weight, z.detach()).backward()
    assert z.grad is None
    assert weight.grad.abs().sum() > 0
    # Without .detach() it does flow, which is the ablation of notebook 10.
    losses.negative_cosine(x, z).backward()
    assert z.grad.abs().sum() > 0


# --- gradients, precision, safety ---


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    case = CASES[name]
    tensors = [x.requires_grad_() for x in inputs(name, scale=0.3)]
    case.function(*tensors).sum().backward()
    with_gradient = [i for i, x in enumerate(tensors) if x.grad is not None]
    assert tuple(with_gradient) == case.differentiable

    def of_the_differentiable(*values):
        arguments = [x.detach() for x in tensors]
        for i, value in zip(case.differentiable, values, strict=True):
            arguments[i] = value
        return case.function(*arguments)

    differentiable = [tensors[i] for i in case.differentiable]
    assert torch.autograd.gradcheck(of_the_differentiable, differentiable)


@pytest.mark.parametrize("name", CASES)
def test_inputs_are_left_alone(name):
    tensors = inputs(name)
    before = [x.clone() for x in tensors]
    CASES[name].function(*tensors)
    assert all(map(torch.equal, tensors, before))


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_the_rows_does_not_matter(name):
    function = CASES[name].function
    tensors = inputs(name)
    value = function(*tensors)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    reordered = [x[order] if len(x) == N else x for x in tensors]
    if name == "info_nce":  # rows and columns are images
        reordered = [tensors[0][order][:, order]]
    if name == "kl_normal":  # a number for each row
        value = value[order]
    torch.testing.assert_close(function(*reordered), value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_half_precision_and_autocast_are_computed_in_float32(name, dtype):
    function = CASES[name].function
    half = inputs(name, dtype=dtype)
    single = [x.float() for x in half]
    exact = function(*[x.double() for x in half])
    assert function(*half).dtype == torch.float32
    torch.testing.assert_close(function(*half).double(), exact, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=dtype):
        torch.testing.assert_close(function(*single).double(), exact, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(function(*half).double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("name", WITH_TEMPERATURE)
def test_finite_at_temperature_one_hundredth(name, dtype):
    z1 = random(64, 16, dtype=dtype).requires_grad_()
    z2 = -z1.detach()  # the worst case: every positive is the farthest point
    loss = WITH_TEMPERATURE[name](z1, z2, temperature=0.01)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z1.grad).all()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("fill", [0.0, 0.1])
def test_zero_rows_and_constant_features_give_numbers(name, fill):
    tensors = [x.requires_grad_() for x in inputs(name, dtype=torch.float32)]
    changed = []
    for x in tensors:
        mask = torch.zeros_like(x, dtype=torch.bool)
        mask[0] = True  # a zero row
        if x.ndim == 2:
            mask[:, 1] = True  # a constant feature
        changed.append(x.masked_fill(mask, fill))
    value = CASES[name].function(*changed).sum()
    value.backward()
    assert torch.isfinite(value)
    for x in tensors:
        assert x.grad is None or torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    "name",
    [
        "nt_xent",
        "decoupled_contrastive",
        "clip_loss",
        "negative_cosine",
        "barlow_twins",
        "vicreg",
    ],
)
def test_zero_embeddings_give_numbers(name):
    zero = torch.zeros(4, 3, requires_grad=True)
    value = CASES[name].function(zero, zero)
    assert torch.isfinite(value)
    assert torch.isfinite(torch.autograd.grad(value, zero)[0]).all()


def test_fill_diagonal_copies():
    c = torch.ones(3, 3)
    assert losses.fill_diagonal(c, 0).sum() == 6
    assert c.sum() == 9


# --- bad input ---


def check_refused(name, position, bad, error_type):
    """Put a bad tensor in the place of a good one: the loss has to say what it expected."""
    arguments = inputs(name)
    arguments[position] = bad
    with pytest.raises(error_type, match=r"expected .* found"):
        CASES[name].function(*arguments)


EVERY_TENSOR = [(name, i) for name, case in CASES.items() for i in range(len(case.shapes))]


@pytest.mark.parametrize(("name", "position"), EVERY_TENSOR)
def test_what_is_not_finite_is_refused(name, position):
    for value in (math.nan, math.inf, -math.inf):
        broken = inputs(name)[position]
        broken.view(-1)[-1] = value
        check_refused(name, position, broken, ValueError)


@pytest.mark.parametrize(("name", "position"), EVERY_TENSOR)
def test_what_is_no_float_tensor_is_refused(name, position):
    x = inputs(name)[position]
    for wrong in (x.long(), x.tolist(), x.numpy(), x > 0):
        check_refused(name, position, wrong, TypeError)


@pytest.mark.parametrize(("name", "position"), EVERY_TENSOR)
def test_other_shapes_are_refused(name, position):
    tensors = inputs(name)
    x = tensors[position]
    wrong_shapes = [x[..., :-1], x[None], x[:0]]
    is_last = position == len(tensors) - 1  # a queue may have one row
    if x.ndim > 1 and not is_last:
        wrong_shapes += [x[0], x[:1]]
    for wrong in wrong_shapes:
        check_refused(name, position, wrong, ValueError)


WITH_A_PARTNER = [(name, i) for name, i in EVERY_TENSOR if len(CASES[name].shapes) > 1]


@pytest.mark.parametrize(("name", "position"), WITH_A_PARTNER)
def test_two_dtypes_are_refused(name, position):
    tensors = inputs(name)
    tensors[position] = tensors[position].float()
    with pytest.raises(TypeError, match="dtype"):
        CASES[name].function(*tensors)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("moco", "dino")])
def test_too_few_rows_are_refused(name):
    case = CASES[name]
    too_few = [x[: case.min_rows - 1] for x in inputs(name)]
    with pytest.raises(ValueError, match=r"expected .* found"):
        case.function(*too_few)


@pytest.mark.parametrize("name", WITH_TEMPERATURE)
@pytest.mark.parametrize(
    "t", [0.0, -1.0, 1e-9, math.nan, math.inf, torch.tensor(0.0), torch.ones(6)]
)
def test_bad_temperatures_are_refused(name, t):
    with pytest.raises(ValueError, match="temperature"):
        WITH_TEMPERATURE[name](random(N, D), random(N, D, seed=1), temperature=t)


def test_kl_normal_refuses_what_would_broadcast_or_overflow():
    mu = random(N, D)
    logvar = random(N, D)
    with pytest.raises(ValueError, match="equal shapes"):
        losses.kl_normal(mu, logvar, torch.zeros(1, D, dtype=mu.dtype))
    with pytest.raises(ValueError, match="clamp a logvar"):
        losses.kl_normal(mu.float(), logvar.float() + 100)


def test_losses_run_under_no_grad_and_keyword_tensors():
    with torch.no_grad():
        assert losses.nt_xent(z1=torch.eye(3), z2=torch.eye(3)).ndim == 0
    with pytest.raises(TypeError):
        losses.nt_xent([1.0], [2.0])
