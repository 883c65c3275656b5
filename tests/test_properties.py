"""Whatever goes into a public function, the right value or the documented error comes out.

Never a crash, never a NaN. The first half searches random shapes, dtypes, layouts, scales, NaN and
infinities: a short, repeatable search here, a long one with
`HYPOTHESIS_PROFILE=thorough pytest tests/test_properties.py`. The second half is a table of bad
inputs.
"""

import inspect
import itertools
import math
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from replearn import _check, audit, augment, data, losses, metrics, models, plot, probe, train

QUIET = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))
settings.register_profile("short", derandomize=True, max_examples=12, **QUIET)
settings.register_profile("thorough", max_examples=1000, **QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

HALF = (torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- layouts: the same numbers, in another order in memory ----------------------------------------


def transposed(x):
    return x.mT.contiguous().mT if x.ndim > 1 else x


def every_other_row(x):
    return x.repeat_interleave(2, 0)[::2]


def part_of_wider(x):
    width = x.shape[-1]
    return torch.cat([x, x], -1)[..., :width]


LAYOUTS = {
    "contiguous": torch.Tensor.contiguous,
    "transposed": transposed,
    "every other": every_other_row,
    "a part": part_of_wider,
}


# --- another way to compute each function: loops, other formulas, torch's own ---------------------


def unit(z):
    return z / z.norm(dim=1, keepdim=True)


def off_diagonal(scores):
    return scores[~torch.eye(len(scores), dtype=torch.bool)]


def squared_distances(z):
    """||z_i - z_j||^2 of all pairs i != j."""
    return off_diagonal((z[:, None] - z).square().sum(2))


def softmax_loss(scores, right, left_out=()):
    """-log softmax at the right column, row by row."""
    total = 0
    for i in range(len(scores)):
        columns = [j for j in range(scores.shape[1]) if (i, j) not in left_out]
        total = total + scores[i, columns].logsumexp(0) - scores[i, right[i]]
    return total / len(scores)


def contrast_by_rows(z1, z2, temperature, decoupled):
    z = unit(torch.cat([z1, z2]))
    n = len(z1)
    partner = [(i + n) % (2 * n) for i in range(2 * n)]
    left_out = {(i, i) for i in range(2 * n)}
    if decoupled:
        left_out |= set(enumerate(partner))
    return softmax_loss(z @ z.T / temperature, partner, left_out)


def nt_xent_by_rows(z1, z2):
    return contrast_by_rows(z1, z2, temperature=0.5, decoupled=False)


def decoupled_by_rows(z1, z2):
    return contrast_by_rows(z1, z2, temperature=0.1, decoupled=True)


def info_nce_by_rows(scores):
    return softmax_loss(scores, range(len(scores)))


def moco_by_rows(query, key, queue):
    query = unit(query)
    to_key = (query * unit(key)).sum(1, keepdim=True)
    to_queue = query @ unit(queue).T
    return softmax_loss(torch.cat([to_key, to_queue], 1) / 0.1, [0] * len(query))


def clip_by_rows(image_z, text_z):
    scores = unit(image_z) @ unit(text_z).T / 0.07
    return (info_nce_by_rows(scores) + info_nce_by_rows(scores.T)) / 2


def negative_cosine_by_units(p, z):
    return -(unit(p) * unit(z)).sum(1).mean()


def barlow_by_batch_norm(z1, z2):
    z1 = F.batch_norm(z1, None, None, training=True)
    z2 = F.batch_norm(z2, None, None, training=True)
    correlation = z1.T @ z2 / len(z1)
    eye = torch.eye(len(correlation))
    weight = eye + 5e-3 * (1 - eye)
    return ((correlation - eye).square() * weight).sum()


def vicreg_by_cov(z1, z2):
    total = 25 * (z1 - z2).square().mean()
    for z in (z1, z2):
        d = z.shape[1]
        variance = z.var(0)
        covariance = torch.cov(z.T).view(d, -1)
        total = total + 25 * (1 - (variance + 1e-4).sqrt()).relu().mean()
        total = total + (covariance.square().sum() - variance.square().sum()) / d
    return total


def dino_by_softmax(student, teacher, center):
    target = ((teacher - center) / 0.04).softmax(1)
    return -(target * (student / 0.1).log_softmax(1)).sum(1).mean()


def kl_by_torch(mu, logvar, prior_mu, prior_logvar):
    q = torch.distributions.Normal(mu, (logvar / 2).exp())
    p = torch.distributions.Normal(prior_mu, (prior_logvar / 2).exp())
    return torch.distributions.kl_divergence(q, p).sum(1)


def cka_by_gram(x, y):
    h = torch.eye(len(x)) - 1 / len(x)
    k = h @ x @ x.T @ h
    m = h @ y @ y.T @ h
    return (k * m).sum() / (k.norm() * m.norm())


def mcc_by_permutations(z, z_true):
    d = z.shape[1]
    correlation = torch.corrcoef(torch.cat([z, z_true], 1).T)[:d, d:].abs()
    if correlation.shape[0] < correlation.shape[1]:
        correlation = correlation.T
    n_many, n_few = correlation.shape
    totals = []
    for chosen in itertools.permutations(range(n_many), n_few):
        totals.append(sum(correlation[i, k] for k, i in enumerate(chosen)))
    return max(totals) / z_true.shape[1]


def infonce_bound(scores):
    return math.log(len(scores)) - info_nce_by_rows(scores)


def nwj_bound(scores):
    return scores.diagonal().mean() - (off_diagonal(scores) - 1).exp().mean()


def mine_bound(scores):
    return scores.diagonal().mean() - off_diagonal(scores).exp().mean().log()


def alignment_by_units(z1, z2):
    return (unit(z1) - unit(z2)).square().sum(1).mean()


def uniformity_by_pairs(z):
    return (-2 * squared_distances(unit(z))).exp().mean().log()


def effective_rank_by_eigenvalues(z):
    gram = z @ z.T if len(z) < z.shape[1] else z.T @ z
    s = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    return torch.special.entr(s / s.sum()).sum().exp()


def meter_by_pairs(z):
    z = unit(z)
    std = z.std(0, correction=0).mean()
    std_uniform = torch.tensor(z.shape[1] ** -0.5)
    mean_cosine = off_diagonal(z @ z.T).mean()
    return torch.stack([std, std_uniform, effective_rank_by_eigenvalues(z), mean_cosine])


def invariance_by_pairs(z, z_changed):
    moved = (z_changed - z).square().sum(1).mean()
    return 1 - moved / squared_distances(z).mean()


# --- the functions, as functions of features alone ------------------------------------------------


def classes(n):
    return torch.arange(n) % 2


def dino(student, teacher, center):
    return losses.dino(student, teacher, center=center)


def collapse_meter(z):
    return torch.tensor(list(metrics.collapse_meter(z).values()))


def precision_at_1(z):
    return metrics.precision_at_k(z, classes(len(z)), k=1)


def linear_probe(z, z_test):
    return probe.linear_probe(z, classes(len(z)), z_test, classes(len(z_test)))


def predict_proba(z, z_test):
    fitted = probe.LinearProbe(max_iter=30).fit(z, classes(len(z)))
    return fitted.predict_proba(z_test)


def knn_predict(z, z_test):
    return probe.knn_predict(z, classes(len(z)), z_test, k=1)


def knn_accuracy(z, z_test):
    return probe.knn_accuracy(z, classes(len(z)), z_test, classes(len(z_test)), k=1)


def knn_vote(cosine):
    return probe.knn_vote(cosine, classes(len(cosine)), k=1)


def label_of_largest(cosine):
    return classes(len(cosine))[cosine.argmax(1)]


def standardized(z):
    mean, scale = probe.standardization(z)
    return (z - mean) * scale


class Case(NamedTuple):
    """A function of features; shapes by letters: N rows, D columns, E other columns, M other rows.

    `low` and `high` are the limits of its values, `rows` the fewest rows, and `grad` tells if it
    is differentiable.
    """

    call: Callable
    shapes: str
    oracle: Callable | None = None
    low: float = -math.inf
    high: float = math.inf
    rows: int = 2
    grad: bool = False


loss_case = partial(Case, grad=True)

CASES = {
    "nt_xent": loss_case(losses.nt_xent, "ND ND", nt_xent_by_rows, low=0),
    "decoupled_contrastive": loss_case(losses.decoupled_contrastive, "ND ND", decoupled_by_rows),
    "info_nce": loss_case(losses.info_nce, "NN", info_nce_by_rows, low=0),
    "moco": loss_case(losses.moco, "ND ND MD", moco_by_rows, low=0, rows=1),
    "clip_loss": loss_case(losses.clip_loss, "ND ND", clip_by_rows, low=0),
    "negative_cosine": loss_case(
        losses.negative_cosine, "ND ND", negative_cosine_by_units, -1.01, 1.01, rows=1
    ),
    "barlow_twins": loss_case(losses.barlow_twins, "ND ND", barlow_by_batch_norm, low=0),
    "vicreg": loss_case(losses.vicreg, "ND ND", vicreg_by_cov, low=0),
    "dino": loss_case(dino, "ND ND D", dino_by_softmax, low=0, rows=1),
    "kl_normal": loss_case(losses.kl_normal, "ND ND ND ND", kl_by_torch, low=-1e-3, rows=1),
    "linear_cka": Case(metrics.linear_cka, "ND NE", cka_by_gram, 0, 1),
    "linear_cka debiased": Case(
        partial(metrics.linear_cka, debiased=True), "ND NE", high=1, rows=4
    ),
    "cca_correlations": Case(metrics.cca_correlations, "ND NE", None, 0, 1),
    "mcc": Case(metrics.mcc, "ND NE", mcc_by_permutations, 0, 1.0001, rows=4),
    "mcc spearman": Case(partial(metrics.mcc, method="spearman"), "ND NE", None, 0, 1.0001, rows=9),
    "mi_lower_bound": loss_case(metrics.mi_lower_bound, "NN", infonce_bound),
    "mi_lower_bound nwj": loss_case(partial(metrics.mi_lower_bound, bound="nwj"), "NN", nwj_bound),
    "mi_lower_bound mine": loss_case(
        partial(metrics.mi_lower_bound, bound="mine"), "NN", mine_bound
    ),
    "alignment": loss_case(metrics.alignment, "ND ND", alignment_by_units, 0, 4.001, rows=1),
    "uniformity": loss_case(metrics.uniformity, "ND", uniformity_by_pairs, -8.001, 1e-5),
    "effective_rank": Case(metrics.effective_rank, "ND", effective_rank_by_eigenvalues, 0, rows=1),
    "collapse_meter": Case(collapse_meter, "ND", meter_by_pairs, -1.001),
    "precision_at_k": Case(precision_at_1, "ND", None, 0, 1),
    "linear_probe": Case(linear_probe, "ND MD", None, 0, 1),
    "predict_proba": Case(predict_proba, "ND MD", None, 0, 1),
    "linear_regression_r2": Case(probe.linear_regression_r2, "ND NE ND NE", high=1),
    "knn_predict": Case(knn_predict, "ND MD", None, 0, 1, rows=1),
    "knn_accuracy": Case(knn_accuracy, "ND MD", None, 0, 1, rows=1),
    "knn_vote": Case(knn_vote, "NN", label_of_largest, 0, 1),
    "invariance": Case(audit.invariance, "ND ND", invariance_by_pairs, high=1),
}


# --- features in, numbers out ---------------------------------------------------------------------


@st.composite
def features(draw, case, scales=(0.05, 1.0, 4.0)):
    """Random tensors for a case: sizes, dtype, scale, layout.

    The values come from a seed, which is quicker than to draw each of them.
    """
    sizes = {
        "N": draw(st.integers(max(case.rows, 2), 9)),
        "M": draw(st.integers(2, 5)),
        "D": draw(st.integers(1, 4)),
        "E": draw(st.integers(1, 4)),
    }
    dtype = draw(st.sampled_from((torch.float32, torch.float64, *HALF)))
    layout = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))]
    scale = draw(st.sampled_from(scales))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    tensors = []
    for letters in case.shapes.split():
        shape = [sizes[letter] for letter in letters]
        values = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        tensors.append(layout(values.to(dtype)))
    return tensors


def numbers(result):
    return torch.as_tensor(result).detach().double()


def in_float64(function, inputs):
    """Call a function with all its tensors, and those that it makes, in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        return torch.as_tensor(function(*[x.double() for x in inputs])).double()
    finally:
        torch.set_default_dtype(torch.float32)


def assert_in_range(case, values):
    assert not values.isnan().any()
    assert (values >= case.low).all(), values
    assert (values <= case.high).all(), values


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_values_are_right_and_inputs_stay(name, data):
    case = CASES[name]
    inputs = data.draw(features(case))
    before = [x.clone() for x in inputs]
    values = numbers(case.call(*inputs))
    assert values.isfinite().all()
    assert_in_range(case, values)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))
    if case.oracle is not None:
        expected = in_float64(case.oracle, inputs)
        size = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(values, expected, rtol=0, atol=2e-3 * size)


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_gradients_are_finite_or_none_is_asked_for(name, data):
    case = CASES[name]
    inputs = [x.detach().requires_grad_() for x in data.draw(features(case))]
    result = case.call(*inputs)
    assert getattr(result, "requires_grad", False) == case.grad
    if case.grad:
        result.sum().backward()
        assert inputs[0].grad is not None
        for x in inputs:
            assert x.grad is None or x.grad.isfinite().all()


SCALES = [10.0**exponent for exponent in (-44, -30, -12, -6, 3, 10, 18, 20, 30, 37)]


def assert_in_range_or_refused(case, inputs):
    try:
        values = numbers(case.call(*inputs))
    except (ValueError, TypeError) as error:
        assert "expected" in str(error)
    else:
        assert_in_range(case, values)


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_extreme_scales_give_a_number_or_an_error(name, data):
    inputs = []
    for x in data.draw(features(CASES[name], SCALES)):
        limits = torch.finfo(x.dtype)
        inputs.append(x.clamp(limits.min, limits.max).float())
    assert_in_range_or_refused(CASES[name], inputs)


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_repeated_and_constant_rows_give_a_number_or_an_error(name, data):
    inputs = data.draw(features(CASES[name]))
    fill = data.draw(st.sampled_from((0.0, 1.0, -3.0, 1 / 3)))
    every = len(inputs)
    which = data.draw(st.integers(0, every))  # one argument, or all of them
    for i, x in enumerate(inputs):
        if which in (i, every):
            inputs[i] = torch.full_like(x, fill)
    assert_in_range_or_refused(CASES[name], inputs)


@given(data=st.data())
def test_standardized_features_have_mean_0_and_variance_1_or_are_constant(data):
    (z,) = data.draw(features(Case(standardized, "ND")))
    z = z.double()
    if data.draw(st.booleans()):
        z[:, 0] = 1 / 3
    result = standardized(z)
    assert result.mean(0).abs().max() < 1e-9
    constant = (z == z[0]).all(0)
    expected = torch.where(constant, 0.0, 1.0).double()
    torch.testing.assert_close(result.var(0, correction=0), expected, atol=1e-9, rtol=0)


# --- images in, images out ------------------------------------------------------------------------


def to_float(images, generator):
    return augment.to_float(images)


def resized_crop(images, generator):
    box = torch.tensor([0, 0, 1, 3])
    return augment.resized_crop(images, box.expand(len(images), 4))


def random_resized_crop(images, generator):
    return augment.random_resized_crop(images, generator=generator, flip=0.5)


def random_horizontal_flip(images, generator):
    return augment.random_horizontal_flip(images, generator=generator)


def adjust_brightness(images, generator):
    return augment.adjust_brightness(images, 1.7)


def adjust_saturation(images, generator):
    return augment.adjust_saturation(images, 9.0)


def adjust_contrast(images, generator):
    return augment.adjust_contrast(images, torch.linspace(0, 3, len(images)))


def adjust_hue(images, generator):
    return augment.adjust_hue(images, torch.linspace(-0.5, 0.5, len(images)))


def color_jitter(images, generator):
    return augment.color_jitter(images, generator=generator, p=1.0)


def random_grayscale(images, generator):
    return augment.random_grayscale(images, generator=generator, p=0.5)


def gaussian_blur(images, generator):
    return augment.gaussian_blur(images, generator=generator, p=1.0)


def two_views(images, generator):
    return torch.cat(augment.two_views(images, blur=0.5, generator=generator))


def views_from(images, generator):
    numbers = augment.draw_views(len(images), blur=True, generator=generator)
    return augment.views_from(images, numbers, blur=0.5)


def multi_crop(images, generator):
    return augment.multi_crop(images, n_small=1, small_size=7, generator=generator)[-1]


def audit_change(change, images, generator):
    return change(augment.to_float(images))


CHANGES = {
    "to_float": to_float,
    "resized_crop": resized_crop,
    "random_resized_crop": random_resized_crop,
    "random_horizontal_flip": random_horizontal_flip,
    "adjust_brightness": adjust_brightness,
    "adjust_saturation": adjust_saturation,
    "adjust_contrast": adjust_contrast,
    "adjust_hue": adjust_hue,
    "color_jitter": color_jitter,
    "random_grayscale": random_grayscale,
    "gaussian_blur": gaussian_blur,
    "two_views": two_views,
    "views_from": views_from,
    "multi_crop": multi_crop,
}
for change_name, change in audit.CHANGES.items():
    CHANGES[f"audit: {change_name}"] = partial(audit_change, change)

KINDS = ("uint8", "float32", "float64", "float16", "bfloat16", "black", "white")


@st.composite
def random_images(draw):
    """Images of any size from 3 x 3 up, byte or float, in any layout."""
    shape = (draw(st.integers(1, 4)), 3, draw(st.integers(3, 12)), draw(st.integers(3, 12)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    kind = draw(st.sampled_from(KINDS))
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    if kind == "black":
        images.fill_(0)
    elif kind == "white":
        images.fill_(255)
    elif kind != "uint8":
        dtype = getattr(torch, kind)
        images = (images / 255).to(dtype).requires_grad_(draw(st.booleans()))
    layout = draw(st.sampled_from((*sorted(LAYOUTS), "channels last")))
    if layout == "channels last":
        return images.to(memory_format=torch.channels_last)
    return LAYOUTS[layout](images)


@pytest.mark.parametrize("name", CHANGES)
@given(images=random_images(), seed=st.integers(0, 99))
def test_images_stay_images_and_seeds_repeat(name, images, seed):
    if name == "audit: blurred" and min(images.shape[2:]) < 3:
        return
    before = images.detach().clone()
    changed = CHANGES[name](images, torch.Generator().manual_seed(seed))
    again = CHANGES[name](images, torch.Generator().manual_seed(seed))
    assert changed.dtype == torch.float32
    assert not changed.requires_grad
    assert changed.shape[1] == 3
    assert len(changed) % len(images) == 0
    assert changed.min() >= 0  # NaN fails every comparison
    assert changed.max() <= 1
    assert torch.equal(changed, again)
    assert torch.equal(images, before)


# --- the rest: loops, networks, data, figures -----------------------------------------------------


@given(
    steps=st.integers(0, 500),
    warmup=st.integers(0, 50),
    ends=st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
    data=st.data(),
)
def test_cosine_stays_between_its_ends(steps, warmup, ends, data):
    start, end = ends
    schedule = partial(train.cosine, start=start, end=end, warmup=warmup)
    value = schedule(data.draw(st.integers(warmup, 600)), steps)
    assert min(ends) - 1e-9 <= value <= max(ends) + 1e-9
    last = schedule(max(steps, warmup + 1), steps)
    assert math.isclose(last, end, abs_tol=1e-9)


@given(n=st.integers(2, 60), data=st.data(), epochs=st.integers(1, 3))
def test_batches_visit_each_image_at_most_once_an_epoch(n, data, epochs):
    size = data.draw(st.integers(2, n))
    a_epoch = n // size  # full batches
    generator = torch.Generator().manual_seed(0)
    batches = list(train.batches(n, size, epochs * a_epoch, generator))
    for epoch in range(epochs):
        seen = torch.cat(batches[epoch * a_epoch : (epoch + 1) * a_epoch])
        assert len(seen) == a_epoch * size
        assert len(seen.unique()) == len(seen)
        assert seen.min() >= 0
        assert seen.max() < n


@given(
    momentum=st.floats(0, 1),
    seed=st.integers(0, 99),
    dtype=st.sampled_from((torch.float32, torch.float64, *HALF)),
)
def test_ema_is_its_formula(momentum, seed, dtype):
    torch.manual_seed(seed)
    target = nn.BatchNorm1d(3).to(dtype)
    online = nn.BatchNorm1d(3).to(dtype)
    for tensor in (*target.parameters(), *online.parameters(), online.running_mean):
        nn.init.normal_(tensor)
    expected = momentum * target.weight.double() + (1 - momentum) * online.weight.double()
    train.ema_update(target, online, momentum=momentum)
    tolerance = 0.02 if dtype in HALF else 1e-6
    torch.testing.assert_close(target.weight.double(), expected, atol=tolerance, rtol=0)
    assert torch.equal(target.running_mean, online.running_mean)


@given(n=st.integers(1, 20), index=st.lists(st.integers(-1, 0), max_size=6), mask=st.booleans())
def test_subsets_are_those_of_a_list(n, index, mask):
    captions = tuple(str(i) for i in range(n))
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1)
    labels = torch.arange(n)
    whole = data.ImageSet(images, labels, captions, {"f": torch.arange(n)}, captions)
    if mask:
        index = torch.arange(n) % 2 == 0
        expected = list(range(0, n, 2))
    else:
        index = [i % n for i in index]
        expected = index
    part = whole.subset(index)
    assert len(part) == len(expected)
    assert part.images.flatten().tolist() == expected
    assert part.labels.tolist() == expected
    assert part.factors["f"].tolist() == expected
    assert part.captions == tuple(str(i) for i in expected)


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=30), seed=st.integers(0, 9))
def test_ranks_count_up_in_every_class(labels, seed):
    labels = np.array(labels)
    rank = data.rank_in_class(labels, seed)
    for label in np.unique(labels):
        members = labels == label
        assert sorted(rank[members]) == list(range(members.sum()))


@pytest.mark.parametrize("build", [partial(models.small_cnn, 4), partial(models.resnet18, 8)])
def test_encoders_take_any_size_on_any_device(build):
    for n, side in ((1, 32), (3, 16), (2, 33)):
        assert build().eval()(torch.rand(n, 3, side, side)).shape == (n, 64)
        n = max(n, 2)  # BatchNorm trains on two or more
        assert build().to("meta")(torch.empty(n, 3, side, side, device="meta")).shape == (n, 64)
    assert models.feature_dim(build()) == 64


def test_projector_and_decoder_work_on_any_device():
    projector = models.projector(64, hidden=8, out_dim=5).to("meta")
    assert projector(torch.empty(2, 64, device="meta")).shape == (2, 5)
    decoder = models.decoder(6, width=2).to("meta")
    assert decoder(torch.empty(2, 6, device="meta")).shape == (2, 3, 32, 32)


@given(images=random_images(), seed=st.integers(0, 99))
def test_features_of_any_images(images, seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 4))
    scale = 255 if images.dtype == torch.uint8 else 1
    expected = net((images.detach().double() / scale).float()).detach()
    h = probe.extract_features(net, images, batch_size=1 + seed % 3)
    tolerance = 2e-2 if images.dtype in HALF else 1e-4
    torch.testing.assert_close(h, expected, atol=tolerance, rtol=0)
    assert not h.requires_grad


named_values = st.dictionaries(
    st.text("abc", min_size=1), st.floats(-1e6, 1e6), min_size=1, max_size=3
)


@settings(max_examples=3)
@given(values=named_values)
def test_figures_of_any_numbers(values):
    plt = plot.style()
    names = {"xlabel": "x", "ylabel": "y"}
    rows = [list(values.values())]
    figures = [
        plot.bars(values, title="t", chance=0.1),
        plot.heatmap(rows, ["row"], list(values), title="t", label="l", **names),
        plot.curves(range(len(values)), {"a": rows[0]}, title="t", **names),
    ]
    for ax in figures:
        assert ax.get_title(loc="left") == "t"
        ax.figure.canvas.draw()
    plt.close("all")


# --- bad inputs -----------------------------------------------------------------------------------
# Each is a name and a call that has to be refused: BAD = {name: call}.


def with_last(x, value):
    """A copy whose last number is another one."""
    x = x.clone()
    x.view(-1)[-1] = value
    return x


def bad_features(x):
    """{what is wrong: features that no function can take}, made of good ones."""
    return {
        "NaN": with_last(x, math.nan),
        "infinity": with_last(x, math.inf),
        "minus infinity": with_last(x, -math.inf),
        "no rows": x[:0],
        "no columns": x[..., :0],
        "an axis less": x[0],
        "an axis more": x[None],
        "integers": x.long(),
        "booleans": x > 0,
        "complex": x + 0j,
        "a list": x.tolist(),
        "numpy": x.numpy(),
        "a text": "features",
        "a number": 1.0,
        "None": None,
        "on meta": x.to("meta"),
        "sparse": x.to_sparse(),
        "8-bit floats": x.to(torch.float8_e4m3fn),
    }


def bad_images(images):
    """{what is wrong: images that no function can take}, made of good ones."""
    return {
        "three axes": images[0],
        "one channel": images[:, :1],
        "channels last": images.permute(0, 2, 3, 1),
        "no pictures": images[:0],
        "no width": images[..., :0],
        "whole numbers": (images * 255).long(),
        "above 1": images + 1,
        "below 0": images - 1,
        "NaN": with_last(images, math.nan),
        "infinity": with_last(images, math.inf),
        "booleans": images > 0.5,
        "a text": "pictures",
        "None": None,
        "on meta": images.to("meta"),
    }


def features_table():
    """Every argument of every function of features, spoiled in every way."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"N": 6, "M": 5, "D": 3, "E": 2}
    for name, case in CASES.items():
        good = []
        for letters in case.shapes.split():
            shape = [sizes[letter] for letter in letters]
            good.append(torch.randn(shape, generator=generator))
        for i in range(len(good)):
            for how, spoiled in bad_features(good[i]).items():
                if name == "kl_normal" and how == "None" and i >= 2:
                    continue  # then the prior is the standard normal
                arguments = [*good[:i], spoiled, *good[i + 1 :]]
                yield f"{name}: argument {i + 1}: {how}", partial(case.call, *arguments)
        if len(good) > 1 and "M" not in case.shapes:
            twice_the_rows = torch.cat([good[0], good[0]])
            call = partial(case.call, twice_the_rows, *good[1:])
            yield f"{name}: more rows than the others", call


def standardization_table():
    z = torch.randn((6, 3), generator=torch.Generator().manual_seed(0))
    for how, spoiled in bad_features(z).items():
        yield f"standardization: {how}", partial(probe.standardization, spoiled)
    yield "standardization: spread", partial(probe.standardization, 3e38 * z.sign())


def audit_by_linear(images, generator):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    return audit.audit(encoder, images)


def images_table():
    """Every function of images, with images that are spoiled in every way."""
    images = torch.rand((4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    functions = CHANGES | {"audit": audit_by_linear}
    for name, function in functions.items():
        for how, spoiled in bad_images(images).items():
            yield f"{name}: {how}", partial(function, spoiled, None)


BAD_OPTIONS = {
    augment.random_resized_crop: {
        "scale": [(1, 0.2), (0, 1), (0.1, 2), "no", (0.1, math.nan)],
        "flip": [-0.1, 2],
        "ratio": [(2, 1), (0, 1), (-1, 1)],
        "size": [0, -3, (4, 0), math.nan, (1, 2, 3)],
    },
    augment.random_horizontal_flip: {"p": [-0.1, 1.1, math.nan]},
    augment.color_jitter: {
        "p": [-0.1, 1.1],
        "brightness": [-1, math.nan],
        "contrast": [-1],
        "saturation": [-1],
        "hue": [0.6, -0.1],
    },
    augment.random_grayscale: {"p": [-0.1, 1.1, math.nan, [0.1, 0.2]]},
    augment.gaussian_blur: {
        "p": [2],
        "sigma": [0, (2, 1), -1, math.nan],
        "kernel_size": [0, 2, -1, 17, 3.5],
    },
    augment.two_views: {
        "crop": [(1, 0.2)],
        "grayscale": [2],
        "blur": [2],
        "flip": [-1],
        "jitter": [-1, (1, 1, 1), math.nan],
    },
    augment.multi_crop: {"small_crop": [(0, 2)], "small_size": [0], "crop": [(1, 0.1)]},
}
BAD_FACTORS = {
    augment.adjust_brightness: [-1, math.nan, [1, 2]],
    augment.adjust_saturation: [-1],
    augment.adjust_contrast: [-0.1],
    augment.adjust_hue: [0.6, -0.7, math.nan],
}
BAD_BOXES = [
    [0, 0, 0, 4],
    [-1, 0, 4, 4],
    [0, 0, 9, 4],
    [5, 0, 4, 4],
    [math.nan, 0, 4, 4],
    [0, 0, 4],
]


def augmentation_table():
    """Every augmentation, with parameters out of range."""
    images = torch.rand((4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    for function, options in BAD_OPTIONS.items():
        for option, values in options.items():
            for value in values:
                name = f"{function.__name__}: {option}={value}"
                yield name, partial(function, images, **{option: value})
    for function, values in BAD_FACTORS.items():
        for value in values:
            yield f"{function.__name__}: {value}", partial(function, images, value)
    for n in (0, -1, 2.5, None):
        yield f"draw_views: {n}", partial(augment.draw_views, n)
    good = augment.draw_views(4)
    bad_numbers = {"too few": good[:3], "one column less": good[:, 1:], "none": None}
    bad_numbers |= {"NaN": good * math.nan, "above 1": good + 1, "float32": good.float()}
    for name, numbers in bad_numbers.items():
        yield f"views_from: numbers {name}", partial(augment.views_from, images, numbers)
    for box in BAD_BOXES:
        boxes = torch.tensor(box).expand(4, -1)
        yield f"resized_crop: {box}", partial(augment.resized_crop, images, boxes)


def temperature_table():
    z = torch.randn(6, 3)
    temperatures = (0, -1, 1e-9, math.nan, math.inf, torch.ones(2))
    inputs = {
        losses.nt_xent: (z, z),
        losses.decoupled_contrastive: (z, z),
        losses.clip_loss: (z, z),
        losses.moco: (z, z, z),
    }
    for function, arguments in inputs.items():
        for temperature in temperatures:
            name = f"{function.__name__}: temperature {temperature}"
            yield name, partial(function, *arguments, temperature=temperature)


def losses_table():
    z = torch.randn(6, 3)
    dino = partial(losses.dino, z, z)
    return {
        "dino: student_temperature": partial(dino, center=z[0], student_temperature=0),
        "dino: teacher_temperature": partial(dino, center=z[0], teacher_temperature=-1),
        "dino: center too long": partial(dino, center=z.flatten()),
        "positive": partial(_check.positive, "x", -1),
        "positive: two": partial(_check.positive, "x", torch.ones(2)),
        "pair: dtypes": partial(_check.pair, "a", z, "b", z.double()),
        "kl_normal: overflow": partial(losses.kl_normal, z, z + 1000),
        "info_nce: (6, 3)": partial(losses.info_nce, z),
    }


def metrics_table():
    z = torch.randn(6, 3)
    scores = torch.randn(6, 6)
    y = classes(6)
    return {
        "cca: ridge -1": partial(metrics.cca_correlations, z, z, ridge=-1),
        "cca: ridge NaN": partial(metrics.cca_correlations, z, z, ridge=math.nan),
        "cka: dtypes": partial(metrics.linear_cka, z, z.double()),
        "cka: debiased, 3 rows": partial(metrics.linear_cka, z[:3], z[:3], debiased=True),
        "mcc: method": partial(metrics.mcc, z, z, method="kendall"),
        "mcc: constant": partial(metrics.mcc, z, z * 0),
        "mi: bound": partial(metrics.mi_lower_bound, scores, bound="smile"),
        "mi: nwj overflows": partial(metrics.mi_lower_bound, scores + 1000, bound="nwj"),
        "alignment: alpha": partial(metrics.alignment, z, z, alpha=0),
        "uniformity: t": partial(metrics.uniformity, z, t=-2),
        "precision: k 0": partial(metrics.precision_at_k, z, y, k=0),
        "precision: k N": partial(metrics.precision_at_k, z, y, k=6),
        "precision: metric": partial(metrics.precision_at_k, z, y, k=1, metric="l1"),
        "precision: labels": partial(metrics.precision_at_k, z, y[:5], k=1),
        "precision: float labels": partial(metrics.precision_at_k, z, y.float(), k=1),
    }


def probe_table():
    z = torch.randn(6, 3)
    y = classes(6)
    narrow = z[:, :2]
    linear_probe = probe.linear_probe
    r2 = probe.linear_regression_r2
    return {
        "probe: l2 0": partial(linear_probe, z, y, z, y, l2=0),
        "probe: l2 NaN": partial(linear_probe, z, y, z, y, l2=math.nan),
        "probe: one class": partial(linear_probe, z, y * 0, z, y),
        "probe: labels": partial(linear_probe, z, y[:5], z, y),
        "probe: columns": partial(linear_probe, z, y, narrow, y),
        "probe: score": partial(linear_probe, z, y, z, y[:3]),
        "probe: bool labels": partial(linear_probe, z, y > 0, z, y),
        "probe: list": partial(linear_probe, z, y.tolist(), z, y),
        "r2: columns": partial(r2, z, z, narrow, z),
        "r2: constant": partial(r2, z, z, z, z * 0),
        "r2: l2": partial(r2, z, z, z, z, l2=0),
        "knn: k 0": partial(probe.knn_predict, z, y, z, k=0),
        "knn: k N + 1": partial(probe.knn_predict, z, y, z, k=7),
        "knn: temperature": partial(probe.knn_predict, z, y, z, k=1, temperature=0),
        "knn: labels": partial(probe.knn_predict, z, y[:2], z, k=1),
        "vote: k 0": partial(probe.knn_vote, z, y[:3], k=0),
        "vote: k N + 1": partial(probe.knn_vote, z, y[:3], k=4),
        "vote: temperature": partial(probe.knn_vote, z, y[:3], k=1, temperature=-1),
        "vote: labels": partial(probe.knn_vote, z, y, k=1),
        "vote: float labels": partial(probe.knn_vote, z, y[:3].float(), k=1),
    }


class MakesNaN(nn.Module):
    def forward(self, x):
        return x.flatten(1) * math.nan


def encoders_table():
    images = torch.rand(2, 3, 4, 4)
    extract = probe.extract_features
    twenty_one = torch.rand(21, 3, 8, 8)
    pixels = nn.Flatten()
    return {
        "extract: NaN features": partial(extract, pixels, images * math.nan),
        "extract: an encoder that makes NaN": partial(extract, MakesNaN(), images),
        "extract: no batch axis left": partial(extract, nn.Flatten(0), images),
        "audit: 19 pictures": partial(audit.audit, pixels, twenty_one[:19]),
        "audit: labels": partial(audit.audit, pixels, twenty_one, classes(6), changes={}),
        "audit: one class": partial(audit.audit, pixels, twenty_one, classes(21) * 0, changes={}),
        "resnet18: width 7": partial(models.resnet18, 7),
        "resnet18: width 0": partial(models.resnet18, 0),
        "build_encoder: network": partial(models.build_encoder, "vgg11", 8),
        "card": partial(models.card, "nobody"),
        "load: encoder": partial(models.load, "nobody"),
    }


def first_batch(n, size):
    return next(train.batches(n, size, 1))


def loss_of_nan(images):
    return images.mean() * math.nan


def training_table():
    net = nn.Linear(2, 2)
    images = torch.rand(4, 3, 2, 2)
    return {
        "ema: -0.1": partial(train.ema_update, net, net, momentum=-0.1),
        "ema: 1.1": partial(train.ema_update, net, net, momentum=1.1),
        "ema: NaN": partial(train.ema_update, net, net, momentum=math.nan),
        "batches: 1": partial(first_batch, 10, 1),
        "batches: 11 of 10": partial(first_batch, 10, 11),
        "fit: NaN": partial(train.fit, loss_of_nan, [net], images, steps=1, batch_size=2),
    }


def data_table():
    return {
        "load: name": partial(data.load, "imagenet"),
        "load: split": partial(data.load, "digits", split="all"),
        "load: size 0": partial(data.load, "digits", size=0),
        "load: size 1.5": partial(data.load, "digits", size=1.5),
        "load: too many": partial(data.load, "digits", size=10**6),
        "load: None": partial(data.load, None),
        "load: options": partial(data.load, "digits", spurious=1),
        "load: spurious": partial(data.load, "shapes", size=2, spurious=2),
    }


def plot_table():
    images = torch.rand(2, 3, 4, 4)
    empty_names = dict(title="", xlabel="", ylabel="", label="")
    matrix = torch.rand(2, 2)
    return {
        "grid: three axes": partial(plot.grid, images[0], title="t"),
        "grid: two channels": partial(plot.grid, images[:, :2], title="t"),
        "grid: none": partial(plot.grid, images[:0], title="t"),
        "grid: a list": partial(plot.grid, [], title="t"),
        "grid: titles": partial(plot.grid, images, title="t", titles=["a"]),
        "grid: rows": partial(plot.grid, images, title="t", rows=["a", "b"]),
        "heatmap: shape": partial(plot.heatmap, matrix, ["a"], ["b"], **empty_names),
    }


TABLES = [
    *features_table(),
    *standardization_table(),
    *images_table(),
    *augmentation_table(),
    *temperature_table(),
    *losses_table().items(),
    *metrics_table().items(),
    *probe_table().items(),
    *encoders_table().items(),
    *training_table().items(),
    *data_table().items(),
    *plot_table().items(),
]
BAD: dict[str, Callable[[], Any]] = dict(TABLES)


def outcome(call):
    """None if the call refuses in a sentence, else what it did."""
    try:
        result = call()
    except (ValueError, TypeError) as error:
        return None if str(error) else "no sentence"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"returned {result}"


@pytest.mark.parametrize("part", range(8))
def test_bad_inputs_are_refused_in_a_sentence(part):
    accepted = {}
    for name, call in list(BAD.items())[part::8]:
        what_it_did = outcome(call)
        if what_it_did is not None:
            accepted[name] = what_it_did
    assert not accepted, "each must be a ValueError or a TypeError"


def test_there_are_two_hundred_bad_inputs_or_more():
    assert len(BAD) >= 200
    assert len(BAD) == len(TABLES), "two entries have the same name"


def test_a_function_that_lets_bad_input_pass_is_seen():
    assert outcome(partial(float, 1)) == "returned 1.0"
    assert outcome([].pop).startswith("IndexError")


# --- faults that these tests found, each with the input that showed it ----------------------------


def is_number_or_refused(call):
    """A call gives finite numbers, or refuses in a sentence."""
    try:
        return bool(numbers(call()).isfinite().all())
    except (ValueError, TypeError) as error:
        return "expected" in str(error)


def dino_of_large_logits():
    teacher = 1e37 * torch.tensor([2.0, -2, 1, 0]).expand(4, 4)
    return losses.dino(1e37 * torch.eye(4), teacher, center=torch.zeros(4))


EYE = torch.eye(4)
META = torch.ones(3, 2, device="meta")
MENDED = {
    "dino: float32 logits of 1e37 gave NaN": dino_of_large_logits,
    "vicreg: float32 features of 1e20 gave infinity or NaN": partial(
        losses.vicreg, 1e20 * EYE, 1e20 * EYE.flip(0)
    ),
    "finite: a meta tensor was a RuntimeError": partial(metrics.effective_rank, META),
    "finite: a sparse tensor was a NotImplementedError": partial(
        metrics.effective_rank, EYE.to_sparse()
    ),
    "finite: an 8-bit float was a NotImplementedError": partial(
        metrics.effective_rank, EYE.to(torch.float8_e4m3fn)
    ),
    "full_precision: a meta tensor was a RuntimeError": partial(
        losses.negative_cosine, META, torch.ones(3, 2)
    ),
    "to_float: a meta tensor was a NotImplementedError": partial(
        augment.to_float, torch.rand(2, 3, 4, 4, device="meta")
    ),
    "to_float: None was a RuntimeError": partial(augment.to_float, None),
}


@pytest.mark.parametrize("fault", MENDED)
def test_mended_faults(fault):
    assert is_number_or_refused(MENDED[fault])


def r2_on_training_data(x, y):
    return probe.linear_regression_r2(x, y, x, y)


MENDED_SCALES = {  # the fault: a function that ignores the scale of its inputs, a scale, a dtype
    "nt_xent: float32 features of 1e20 counted as zero vectors": (
        losses.nt_xent,
        1e20,
        torch.float32,
    ),
    "cca_correlations: float64 features of 1e-300 crashed": (
        metrics.cca_correlations,
        1e-300,
        torch.float64,
    ),
    "mcc: float64 features of 1e-300 gave more than 1": (metrics.mcc, 1e-300, torch.float64),
    "linear_regression_r2: float64 features of 1e300 gave NaN": (
        r2_on_training_data,
        1e300,
        torch.float64,
    ),
    "invariance: features of 1e-8 gave minus infinity": (audit.invariance, 1e-8, torch.float32),
}


@pytest.mark.parametrize("fault", MENDED_SCALES)
def test_mended_scales(fault):
    """The value is the same at this scale as at 1, or the input is refused."""
    function, scale, dtype = MENDED_SCALES[fault]
    x = torch.randn((6, 3), generator=torch.Generator().manual_seed(0), dtype=dtype)
    y = torch.randn((6, 3), generator=torch.Generator().manual_seed(1), dtype=dtype)
    expected = numbers(function(x, y))
    try:
        scaled = numbers(function(scale * x, scale * y))
    except (ValueError, TypeError) as error:
        assert "expected" in str(error)
    else:
        torch.testing.assert_close(scaled, expected, atol=1e-3, rtol=1e-5)


def test_sparse_images_are_made_dense():
    images = torch.full((2, 3, 4, 4), 0.5)
    assert torch.equal(augment.to_float(images.to_sparse()), images)


def test_multi_crop_takes_a_size():
    assert len(augment.multi_crop(torch.rand(2, 3, 8, 8), size=8)) == 6


# --- nothing is forgotten -------------------------------------------------------------------------

CORE = (augment, data, losses, metrics, models, probe, train, plot, audit)
NO_TENSORS_TO_SPOIL = {  # their own test files have all there is
    "save",
    "cache_folder",
    "available",
    "amp_dtype",
    "set_seed",
    "neighbors",
    "card",
    "style",
    "Center",
    "full_precision",
    "fill_diagonal",
    "comparable_rows",  # tests/test_numerics.py
    "unit_rows",
    "data_name",
    "labeled_data_name",
    "load_head",  # tests/test_finetune.py
    "save_head",
    "to_torchvision",  # tests/test_models.py
    "from_torchvision",
}


def public_names(module):
    """The names of the functions and classes that a module, or a package, defines itself."""
    names = set()
    for name, value in vars(module).items():
        defined_in = getattr(value, "__module__", None) or ""
        is_own = defined_in == module.__name__ or defined_in.startswith(f"{module.__name__}.")
        if callable(value) and is_own and not name.startswith("_"):
            names.add(value.__name__)
    return names


def forgotten():
    """{module: public functions and classes that no line of this file names}."""
    text = inspect.getsource(inspect.getmodule(forgotten))
    missing = {}
    for module in CORE:
        short_name = module.__name__.split(".")[1]
        for name in public_names(module) - NO_TENSORS_TO_SPOIL:
            if not re.search(rf"\b{short_name}\.{name}\b", text):
                missing.setdefault(module.__name__, set()).add(name)
    return missing


def test_no_public_function_is_forgotten():
    assert not forgotten()


def test_no_module_of_the_core_is_forgotten():
    package = Path(losses.__file__).parent
    modules = {f"replearn.{path.stem}" for path in package.glob("[!_]*.py")}
    tested = {module.__name__ for module in CORE}
    # `data` is a package; `files` and `image_file` take no tensors.
    assert modules == tested - {"replearn.data"} | {"replearn.files", "replearn.image_file"}


def test_a_forgotten_function_is_seen(monkeypatch):
    def vicre(a, b):  # a part of a name that is there
        return a - b

    vicre.__module__ = losses.__name__
    monkeypatch.setattr(losses, "vicre", vicre, raising=False)
    assert forgotten() == {"replearn.losses": {"vicre"}}
