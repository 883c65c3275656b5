"""Whatever goes into a public function, the right value or the documented error comes out; never a crash, never a NaN.

Random shapes, dtypes, layouts, scales, NaN, infinities: a short, repeatable search here, a long one with
`HYPOTHESIS_PROFILE=thorough pytest tests/test_properties.py`. The second half is a table of bad inputs.
"""

import inspect
import itertools
import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replearn import audit, augment, data, losses, metrics, models, plot, probe, train

QUIET = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))
settings.register_profile("short", derandomize=True, max_examples=12, **QUIET)
settings.register_profile("thorough", max_examples=1000, **QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))
HALF = (torch.float16, torch.bfloat16)
LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "transposed": lambda x: x.mT.contiguous().mT if x.ndim > 1 else x,
    "every other": lambda x: x.repeat_interleave(2, 0)[::2],
    "a part": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- features in, numbers out -----------------------------------------------------------------------------------------


def unit(z):
    return z / z.norm(dim=1, keepdim=True)


def softmax_loss(scores, right, left_out=()):
    """-log softmax at the right column, row by row."""
    rows = [
        [j for j in range(scores.shape[1]) if (i, j) not in left_out] for i in range(len(scores))
    ]
    return sum(
        scores[i, rows[i]].logsumexp(0) - scores[i, right[i]] for i in range(len(scores))
    ) / len(scores)


def contrast(z1, z2, temperature, decoupled=False):
    z, n = unit(torch.cat([z1, z2])), len(z1)
    partner = [(i + n) % (2 * n) for i in range(2 * n)]
    out = {(i, i) for i in range(2 * n)} | {(i, partner[i]) for i in range(2 * n) if decoupled}
    return softmax_loss(z @ z.T / temperature, partner, out)


def moco(query, key, queue):
    query, key, queue = unit(query), unit(key), unit(queue)
    return softmax_loss(
        torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], 1) / 0.1, [0] * len(query)
    )


def clip(a, b):
    scores = unit(a) @ unit(b).T / 0.07
    return (softmax_loss(scores, range(len(a))) + softmax_loss(scores.T, range(len(a)))) / 2


def barlow(a, b):
    c = (
        F.batch_norm(a, None, None, training=True).T
        @ F.batch_norm(b, None, None, training=True)
        / len(a)
    )
    eye = torch.eye(len(c))
    return ((c - eye).square() * (eye + 5e-3 * (1 - eye))).sum()


def vicreg(a, b):
    parts = [
        25 * (1 - (z.var(0) + 1e-4).sqrt()).relu().mean()
        + (torch.cov(z.T).view(z.shape[1], -1).square().sum() - z.var(0).square().sum())
        / z.shape[1]
        for z in (a, b)
    ]
    return 25 * (a - b).square().mean() + sum(parts)


def dino(student, teacher, center):
    return -(((teacher - center) / 0.04).softmax(1) * (student / 0.1).log_softmax(1)).sum(1).mean()


def kl(mu, logvar, prior_mu, prior_logvar):
    q, p = (
        torch.distributions.Normal(m, (v / 2).exp())
        for m, v in ((mu, logvar), (prior_mu, prior_logvar))
    )
    return torch.distributions.kl_divergence(q, p).sum(1)


def cka(x, y):
    h = torch.eye(len(x)) - 1 / len(x)
    k, m = h @ x @ x.T @ h, h @ y @ y.T @ h
    return (k * m).sum() / (k.norm() * m.norm())


def mcc(z, true):
    c = torch.corrcoef(torch.cat([z, true], 1).T)[: z.shape[1], z.shape[1] :].abs()
    c = c if c.shape[0] >= c.shape[1] else c.T
    most = max(
        sum(c[i, k] for k, i in enumerate(p))
        for p in itertools.permutations(range(len(c)), c.shape[1])
    )
    return most / true.shape[1]


def others(scores):
    return scores[~torch.eye(len(scores), dtype=torch.bool)]


def squares(z):
    """||z_i - z_j||^2 of all pairs i != j."""
    return others((z[:, None] - z).square().sum(2))


def effective_rank(z):
    s = torch.linalg.eigvalsh(z @ z.T if len(z) < z.shape[1] else z.T @ z).clamp(min=0).sqrt()
    return torch.special.entr(s / s.sum()).sum().exp()


def meter(z):
    z = unit(z)
    return torch.stack(
        [
            z.std(0, correction=0).mean(),
            torch.tensor(z.shape[1] ** -0.5),
            effective_rank(z),
            others(z @ z.T).mean(),
        ]
    )


def classes(n):
    return torch.arange(n) % 2


def proba(z, other):
    """The probabilities of a probe, a row a picture."""
    return probe.LinearProbe(max_iter=30).fit(z, classes(len(z))).predict_proba(other)


class Case(NamedTuple):
    """A function of features; shapes by letters: N rows, D columns, E other columns, M other rows."""

    call: object
    shapes: str
    oracle: object = None
    low: float = -math.inf
    high: float = math.inf
    rows: int = 2
    grad: bool = False


CASES = {
    "nt_xent": Case(losses.nt_xent, "ND ND", lambda a, b: contrast(a, b, 0.5), low=0, grad=True),
    "decoupled_contrastive": Case(
        losses.decoupled_contrastive, "ND ND", lambda a, b: contrast(a, b, 0.1, True), grad=True
    ),
    "info_nce": Case(
        losses.info_nce, "NN", lambda s: softmax_loss(s, range(len(s))), low=0, grad=True
    ),
    "moco": Case(losses.moco, "ND ND MD", moco, low=0, rows=1, grad=True),
    "clip_loss": Case(losses.clip_loss, "ND ND", clip, low=0, grad=True),
    "negative_cosine": Case(
        losses.negative_cosine,
        "ND ND",
        lambda p, z: -(unit(p) * unit(z)).sum(1).mean(),
        -1.01,
        1.01,
        rows=1,
        grad=True,
    ),
    "barlow_twins": Case(losses.barlow_twins, "ND ND", barlow, low=0, grad=True),
    "vicreg": Case(losses.vicreg, "ND ND", vicreg, low=0, grad=True),
    "dino": Case(
        lambda s, t, c: losses.dino(s, t, center=c), "ND ND D", dino, low=0, rows=1, grad=True
    ),
    "kl_normal": Case(losses.kl_normal, "ND ND ND ND", kl, low=-1e-3, rows=1, grad=True),
    "linear_cka": Case(metrics.linear_cka, "ND NE", cka, 0, 1),
    "linear_cka debiased": Case(
        lambda x, y: metrics.linear_cka(x, y, debiased=True), "ND NE", None, high=1, rows=4
    ),
    "cca_correlations": Case(metrics.cca_correlations, "ND NE", None, 0, 1),
    "mcc": Case(metrics.mcc, "ND NE", mcc, 0, 1.0001),
    "mcc spearman": Case(
        lambda z, t: metrics.mcc(z, t, method="spearman"), "ND NE", None, 0, 1.0001, rows=9
    ),
    "mi_lower_bound": Case(
        metrics.mi_lower_bound,
        "NN",
        lambda s: math.log(len(s)) - softmax_loss(s, range(len(s))),
        grad=True,
    ),
    "mi_lower_bound nwj": Case(
        lambda s: metrics.mi_lower_bound(s, bound="nwj"),
        "NN",
        lambda s: s.diagonal().mean() - (others(s) - 1).exp().mean(),
        grad=True,
    ),
    "mi_lower_bound mine": Case(
        lambda s: metrics.mi_lower_bound(s, bound="mine"),
        "NN",
        lambda s: s.diagonal().mean() - others(s).exp().mean().log(),
        grad=True,
    ),
    "alignment": Case(
        metrics.alignment,
        "ND ND",
        lambda a, b: (unit(a) - unit(b)).square().sum(1).mean(),
        0,
        4.001,
        rows=1,
        grad=True,
    ),
    "uniformity": Case(
        metrics.uniformity,
        "ND",
        lambda z: (-2 * squares(unit(z))).exp().mean().log(),
        -8.001,
        1e-5,
        grad=True,
    ),
    "effective_rank": Case(metrics.effective_rank, "ND", effective_rank, 0, rows=1),
    "collapse_meter": Case(
        lambda z: torch.tensor(list(metrics.collapse_meter(z).values())), "ND", meter, -1.001
    ),
    "precision_at_k": Case(
        lambda z: metrics.precision_at_k(z, classes(len(z)), k=1), "ND", None, 0, 1
    ),
    "linear_probe": Case(
        lambda z, t: probe.linear_probe(z, classes(len(z)), t, classes(len(t))), "ND MD", None, 0, 1
    ),
    "predict_proba": Case(proba, "ND MD", None, 0, 1),
    "linear_regression_r2": Case(probe.linear_regression_r2, "ND NE ND NE", None, high=1),
    "knn_predict": Case(
        lambda z, t: probe.knn_predict(z, classes(len(z)), t, k=1), "ND MD", None, 0, 1, rows=1
    ),
    "knn_accuracy": Case(
        lambda z, t: probe.knn_accuracy(z, classes(len(z)), t, classes(len(t)), k=1),
        "ND MD",
        None,
        0,
        1,
        rows=1,
    ),
    "invariance": Case(
        audit.invariance,
        "ND ND",
        lambda z, w: 1 - (w - z).square().sum(1).mean() / squares(z).mean(),
        high=1,
    ),
}


@st.composite
def features(draw, case, scales=(0.05, 1.0, 4.0)):
    """Random tensors for a case: sizes, dtype, scale, layout; the values come from a seed, which is quick."""
    sizes = dict(N=draw(st.integers(max(case.rows, 2), 9)), M=draw(st.integers(2, 5)))
    sizes |= {letter: draw(st.integers(1, 4)) for letter in "DE"}
    sizes["N"] = max(sizes["N"], case.rows)
    if "mcc" in case.call.__name__ or case.oracle is mcc:
        sizes["N"] = max(sizes["N"], 4)
    dtype = draw(st.sampled_from((torch.float32, torch.float64, *HALF)))
    layout, scale = draw(st.sampled_from(sorted(LAYOUTS))), draw(st.sampled_from(scales))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    shapes = [[sizes[letter] for letter in shape] for shape in case.shapes.split()]
    values = [
        scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    ]
    return [LAYOUTS[layout](x.to(dtype)) for x in values]


def numbers(result):
    return torch.as_tensor(result).detach().double()


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_values_are_right_and_inputs_stay(name, data):
    case = CASES[name]
    inputs = data.draw(features(case))
    before = [x.clone() for x in inputs]
    found = numbers(case.call(*inputs))
    assert found.isfinite().all() and (found >= case.low).all() and (found <= case.high).all(), (
        found
    )
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))
    if case.oracle:
        torch.set_default_dtype(torch.float64)
        try:
            expected = torch.as_tensor(case.oracle(*(x.double() for x in inputs)))
        finally:
            torch.set_default_dtype(torch.float32)
        size = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(found, expected.double(), rtol=0, atol=2e-3 * size)


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_gradients_are_finite_or_none_is_asked_for(name, data):
    case = CASES[name]
    inputs = [x.detach().requires_grad_() for x in data.draw(features(case))]
    result = case.call(*inputs)
    assert getattr(result, "requires_grad", False) == case.grad
    if case.grad:
        result.sum().backward()
        assert inputs[0].grad is not None and all(
            x.grad is None or x.grad.isfinite().all() for x in inputs
        )


SCALES = [10.0**e for e in (-44, -30, -12, -6, 3, 10, 18, 20, 30, 37)]


def assert_in_range_or_refused(case, inputs):
    try:
        found = numbers(case.call(*inputs))
    except (ValueError, TypeError) as error:
        assert "expected" in str(error)
    else:
        assert not found.isnan().any() and (found >= case.low).all() and (found <= case.high).all()


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_extreme_scales_give_a_number_or_an_error(name, data):
    inputs = [
        x.clamp(torch.finfo(x.dtype).min, torch.finfo(x.dtype).max).float()
        for x in data.draw(features(CASES[name], SCALES))
    ]
    assert_in_range_or_refused(CASES[name], inputs)


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_repeated_and_constant_rows_give_a_number_or_an_error(name, data):
    inputs = data.draw(features(CASES[name]))
    fill = data.draw(st.sampled_from((0.0, 1.0, -3.0, 1 / 3)))
    which = data.draw(st.integers(0, len(inputs)))  # one argument, or all of them
    inputs = [
        torch.full_like(x, fill) if which in (i, len(inputs)) else x for i, x in enumerate(inputs)
    ]
    assert_in_range_or_refused(CASES[name], inputs)


# --- pictures in, pictures out ----------------------------------------------------------------------------------------

CHANGES = {
    "to_float": lambda x, g: augment.to_float(x),
    "resized_crop": lambda x, g: augment.resized_crop(
        x, torch.tensor([0, 0, 1, 3]).expand(len(x), 4)
    ),
    "random_resized_crop": lambda x, g: augment.random_resized_crop(x, generator=g, flip=0.5),
    "random_horizontal_flip": lambda x, g: augment.random_horizontal_flip(x, generator=g),
    "adjust_brightness": lambda x, g: augment.adjust_brightness(x, 1.7),
    "adjust_saturation": lambda x, g: augment.adjust_saturation(x, 9.0),
    "adjust_contrast": lambda x, g: augment.adjust_contrast(x, torch.linspace(0, 3, len(x))),
    "adjust_hue": lambda x, g: augment.adjust_hue(x, torch.linspace(-0.5, 0.5, len(x))),
    "color_jitter": lambda x, g: augment.color_jitter(x, generator=g, p=1.0),
    "random_grayscale": lambda x, g: augment.random_grayscale(x, generator=g, p=0.5),
    "gaussian_blur": lambda x, g: augment.gaussian_blur(x, generator=g, p=1.0),
    "two_views": lambda x, g: torch.cat(augment.two_views(x, blur=0.5, generator=g)),
    "multi_crop": lambda x, g: augment.multi_crop(x, n_small=1, small_size=7, generator=g)[-1],
}
CHANGES |= {
    f"audit: {name}": lambda x, g, change=change: change(augment.to_float(x))
    for name, change in audit.CHANGES.items()
}


@st.composite
def pictures(draw):
    """Pictures of any size from 3 x 3 up, byte or float, in any layout."""
    shape = (draw(st.integers(1, 4)), 3, draw(st.integers(3, 12)), draw(st.integers(3, 12)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    kind = draw(
        st.sampled_from(("uint8", "float32", "float64", "float16", "bfloat16", "black", "white"))
    )
    values = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    if kind in ("black", "white"):
        values.fill_(255 * (kind == "white"))
    elif kind != "uint8":
        values = (values / 255).to(getattr(torch, kind)).requires_grad_(draw(st.booleans()))
    layout = draw(st.sampled_from((*sorted(LAYOUTS), "channels last")))
    return (
        values.to(memory_format=torch.channels_last)
        if layout == "channels last"
        else LAYOUTS[layout](values)
    )


@pytest.mark.parametrize("name", CHANGES)
@given(x=pictures(), seed=st.integers(0, 99))
def test_pictures_stay_pictures_and_seeds_repeat(name, x, seed):
    before = x.detach().clone()
    if name == "audit: blurred" and min(x.shape[2:]) < 3:
        return
    first, again = (CHANGES[name](x, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert first.dtype == torch.float32 and first.shape[1] == 3 and len(first) % len(x) == 0
    assert 0 <= first.min() and first.max() <= 1 and not first.requires_grad  # NaN fails, too
    assert torch.equal(first, again) and torch.equal(x, before)


# --- the rest: loops, networks, data, figures -------------------------------------------------------------------------


@given(
    steps=st.integers(0, 500),
    warmup=st.integers(0, 50),
    ends=st.tuples(*[st.floats(-9, 9)] * 2),
    data=st.data(),
)
def test_cosine_stays_between_its_ends(steps, warmup, ends, data):
    start, end = ends
    value = train.cosine(
        data.draw(st.integers(warmup, 600)), steps, start=start, end=end, warmup=warmup
    )
    assert min(ends) - 1e-9 <= value <= max(ends) + 1e-9
    assert math.isclose(
        train.cosine(max(steps, warmup + 1), steps, start=start, end=end, warmup=warmup),
        end,
        abs_tol=1e-9,
    )


@given(n=st.integers(2, 60), data=st.data(), epochs=st.integers(1, 3))
def test_batches_visit_each_picture_at_most_once_an_epoch(n, data, epochs):
    size = data.draw(st.integers(2, n))
    steps = list(train.batches(n, size, epochs * (n // size), torch.Generator().manual_seed(0)))
    for epoch in range(epochs):
        seen = torch.cat(steps[epoch * (n // size) : (epoch + 1) * (n // size)])
        assert (
            len(seen.unique()) == len(seen) == n // size * size
            and seen.min() >= 0
            and seen.max() < n
        )


@given(
    momentum=st.floats(0, 1),
    seed=st.integers(0, 99),
    dtype=st.sampled_from((torch.float32, torch.float64, *HALF)),
)
def test_ema_is_its_formula(momentum, seed, dtype):
    torch.manual_seed(seed)
    target, online = (torch.nn.BatchNorm1d(3).to(dtype) for _ in range(2))
    for p in (*target.parameters(), *online.parameters(), online.running_mean):
        torch.nn.init.normal_(p)
    expected = momentum * target.weight.double() + (1 - momentum) * online.weight.double()
    train.ema_update(target, online, momentum=momentum)
    torch.testing.assert_close(
        target.weight.double(), expected, atol=0.02 if dtype in HALF else 1e-6, rtol=0
    )
    assert torch.equal(target.running_mean, online.running_mean)


@given(n=st.integers(1, 20), index=st.lists(st.integers(-1, 0), max_size=6), mask=st.booleans())
def test_subsets_are_those_of_a_list(n, index, mask):
    names = tuple(map(str, range(n)))
    whole = data.ImageSet(
        torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1),
        torch.arange(n),
        names,
        dict(f=torch.arange(n)),
        names,
    )
    index = torch.arange(n) % 2 == 0 if mask else [i % n for i in index]
    expected = [i for i in range(n) if i % 2 == 0] if mask else index
    part = whole.subset(index)
    assert (
        part.labels.tolist()
        == part.factors["f"].tolist()
        == part.images.flatten().tolist()
        == expected
    )
    assert part.captions == tuple(map(str, expected)) and len(part) == len(expected)


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=30), seed=st.integers(0, 9))
def test_places_count_up_in_every_class(labels, seed):
    labels = np.array(labels)
    places = data.place(labels, seed)
    assert all(
        sorted(places[labels == c]) == list(range((labels == c).sum()))
        for c in set(labels.tolist())
    )


@pytest.mark.parametrize(
    "build, dim", [(lambda: models.small_cnn(4), 64), (lambda: models.resnet18(8), 64)]
)
def test_encoders_take_any_size_on_any_device(build, dim):
    for n, side in ((1, 32), (3, 16), (2, 33)):
        assert build().eval()(torch.rand(n, 3, side, side)).shape == (n, dim)
        assert build().to("meta")(torch.empty(max(n, 2), 3, side, side, device="meta")).shape == (
            max(n, 2),
            dim,
        )
    assert models.feature_dim(build()) == dim
    assert models.projector(dim, hidden=8, out_dim=5).to("meta")(
        torch.empty(2, dim, device="meta")
    ).shape == (2, 5)
    assert models.decoder(6, width=2).to("meta")(torch.empty(2, 6, device="meta")).shape == (
        2,
        3,
        32,
        32,
    )


@given(x=pictures(), seed=st.integers(0, 99))
def test_features_of_any_pictures(x, seed):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(x[0].numel(), 4))
    expected = net((x.detach().double() / (255 if x.dtype == torch.uint8 else 1)).float())
    found = probe.extract_features(net, x, batch_size=1 + seed % 3)
    torch.testing.assert_close(
        found, expected.detach(), atol=2e-2 if x.dtype in HALF else 1e-4, rtol=0
    )
    assert not found.requires_grad


@settings(max_examples=3)
@given(
    values=st.dictionaries(st.text("abc", min_size=1), st.floats(-1e6, 1e6), min_size=1, max_size=3)
)
def test_figures_of_any_numbers(values):
    plt = plot.style()
    axes = (
        plot.bars(values, title="t", chance=0.1),
        plot.heatmap(
            [list(values.values())],
            ["row"],
            list(values),
            title="t",
            xlabel="x",
            ylabel="y",
            label="l",
        ),
    )
    lines = plot.curves(
        range(len(values)), dict(a=list(values.values())), title="t", xlabel="x", ylabel="y"
    )
    assert all(ax.get_title(loc="left") == "t" for ax in (*axes, lines))
    for ax in (*axes, lines):
        ax.figure.canvas.draw()
    plt.close("all")


# --- bad inputs -------------------------------------------------------------------------------------------------------


def spoiled(x, value):
    x = x.clone()
    x.view(-1)[-1] = value
    return x


SPOIL = {
    "NaN": lambda x: spoiled(x, math.nan),
    "infinity": lambda x: spoiled(x, math.inf),
    "minus infinity": lambda x: spoiled(x, -math.inf),
    "no rows": lambda x: x[:0],
    "no columns": lambda x: x[..., :0],
    "an axis less": lambda x: x[0],
    "an axis more": lambda x: x[None],
    "integers": lambda x: x.long(),
    "booleans": lambda x: x > 0,
    "complex": lambda x: x + 0j,
    "a list": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "a text": lambda x: "features",
    "a number": lambda x: 1.0,
    "None": lambda x: None,
    "on meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "8-bit floats": lambda x: x.to(torch.float8_e4m3fn),
}
PICTURES = {
    "three axes": lambda x: x[0],
    "one channel": lambda x: x[:, :1],
    "channels last": lambda x: x.permute(0, 2, 3, 1),
    "no pictures": lambda x: x[:0],
    "no width": lambda x: x[..., :0],
    "whole numbers": lambda x: (x * 255).long(),
    "above 1": lambda x: x + 1,
    "below 0": lambda x: x - 1,
    "NaN": lambda x: spoiled(x, math.nan),
    "infinity": lambda x: spoiled(x, math.inf),
    "booleans": lambda x: x > 0.5,
    "a text": lambda x: "pictures",
    "None": lambda x: None,
    "on meta": lambda x: x.to("meta"),
}


def _features_table():
    generator = torch.Generator().manual_seed(0)
    sizes = dict(N=6, M=5, D=3, E=2)
    for name, case in CASES.items():
        good = [
            torch.randn([sizes[c] for c in shape], generator=generator)
            for shape in case.shapes.split()
        ]
        for i, (how, spoil) in itertools.product(range(len(good)), SPOIL.items()):
            if (name, how) == ("kl_normal", "None") and i >= 2:
                continue  # then the prior is the standard normal
            bad = [*good[:i], spoil(good[i]), *good[i + 1 :]]
            yield f"{name}: argument {i + 1}: {how}", lambda case=case, bad=bad: case.call(*bad)
        if len(good) > 1 and "M" not in case.shapes:
            more = [torch.cat([good[0], good[0]]), *good[1:]]
            yield (
                f"{name}: more rows than the others",
                lambda case=case, more=more: case.call(*more),
            )


def _pictures_table():
    x = torch.rand((4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    several = CHANGES | {"audit": lambda x, g: audit.audit(net, x)}
    for name, how in itertools.product(several, PICTURES):
        yield f"{name}: {how}", lambda name=name, how=how: several[name](PICTURES[how](x), None)
    options = {
        augment.random_resized_crop: dict(
            scale=[(1, 0.2), (0, 1), (0.1, 2), "no", (0.1, math.nan)],
            flip=[-0.1, 2],
            ratio=[(2, 1), (0, 1), (-1, 1)],
            size=[0, -3, (4, 0), math.nan, (1, 2, 3)],
        ),
        augment.random_horizontal_flip: dict(p=[-0.1, 1.1, math.nan]),
        augment.color_jitter: dict(
            p=[-0.1, 1.1],
            brightness=[-1, math.nan],
            contrast=[-1],
            saturation=[-1],
            hue=[0.6, -0.1],
        ),
        augment.random_grayscale: dict(p=[-0.1, 1.1, math.nan, [0.1, 0.2]]),
        augment.gaussian_blur: dict(
            p=[2], sigma=[0, (2, 1), -1, math.nan], kernel_size=[0, 2, -1, 17, 3.5]
        ),
        augment.two_views: dict(
            crop=[(1, 0.2)], grayscale=[2], blur=[2], flip=[-1], jitter=[-1, (1, 1, 1), math.nan]
        ),
        augment.multi_crop: dict(small_crop=[(0, 2)], small_size=[0], crop=[(1, 0.1)]),
    }
    for function, table in options.items():
        for key, value in ((key, value) for key, values in table.items() for value in values):
            yield (
                f"{function.__name__}: {key}={value}",
                lambda f=function, k=key, v=value: f(x, **{k: v}),
            )
    for function, values in {
        augment.adjust_brightness: (-1, math.nan, [1, 2]),
        augment.adjust_saturation: (-1,),
        augment.adjust_contrast: (-0.1,),
        augment.adjust_hue: (0.6, -0.7, math.nan),
    }.items():
        for value in values:
            yield f"{function.__name__}: {value}", lambda f=function, v=value: f(x, v)
    for box in (
        [0, 0, 0, 4],
        [-1, 0, 4, 4],
        [0, 0, 9, 4],
        [5, 0, 4, 4],
        [math.nan, 0, 4, 4],
        [0, 0, 4],
    ):
        yield (
            f"resized_crop: {box}",
            lambda box=box: augment.resized_crop(x, torch.tensor(box).expand(4, -1)),
        )


def _parameters_table():
    z, s, y = torch.randn(6, 3), torch.randn(6, 6), classes(6)
    for name, value in itertools.product(
        ("nt_xent", "decoupled_contrastive", "clip_loss", "moco"),
        (0, -1, 1e-9, math.nan, math.inf, torch.ones(2)),
    ):
        f = getattr(losses, name)
        more = (z,) if name == "moco" else ()
        yield (
            f"{name}: temperature {value}",
            lambda f=f, v=value, more=more: f(z, z, *more, temperature=v),
        )
    for name, call in {
        "dino: student_temperature": lambda: losses.dino(z, z, center=z[0], student_temperature=0),
        "dino: teacher_temperature": lambda: losses.dino(z, z, center=z[0], teacher_temperature=-1),
        "dino: center too long": lambda: losses.dino(z, z, center=z.flatten()),
        "positive": lambda: losses.positive("x", -1),
        "positive: two": lambda: losses.positive("x", torch.ones(2)),
        "pair: dtypes": lambda: losses.pair("a", z, "b", z.double()),
        "kl_normal: overflow": lambda: losses.kl_normal(z, z + 1000),
        "info_nce: (6, 3)": lambda: losses.info_nce(z),
        "cca: ridge -1": lambda: metrics.cca_correlations(z, z, ridge=-1),
        "cca: ridge NaN": lambda: metrics.cca_correlations(z, z, ridge=math.nan),
        "cka: dtypes": lambda: metrics.linear_cka(z, z.double()),
        "cka: debiased, 3 rows": lambda: metrics.linear_cka(z[:3], z[:3], debiased=True),
        "mcc: method": lambda: metrics.mcc(z, z, method="kendall"),
        "mcc: constant": lambda: metrics.mcc(z, z * 0),
        "mi: bound": lambda: metrics.mi_lower_bound(s, bound="smile"),
        "mi: nwj overflows": lambda: metrics.mi_lower_bound(s + 1000, bound="nwj"),
        "alignment: alpha": lambda: metrics.alignment(z, z, alpha=0),
        "uniformity: t": lambda: metrics.uniformity(z, t=-2),
        "precision: k 0": lambda: metrics.precision_at_k(z, y, k=0),
        "precision: k N": lambda: metrics.precision_at_k(z, y, k=6),
        "precision: metric": lambda: metrics.precision_at_k(z, y, k=1, metric="l1"),
        "precision: labels": lambda: metrics.precision_at_k(z, y[:5], k=1),
        "precision: float labels": lambda: metrics.precision_at_k(z, y.float(), k=1),
        "probe: l2 0": lambda: probe.linear_probe(z, y, z, y, l2=0),
        "probe: l2 NaN": lambda: probe.linear_probe(z, y, z, y, l2=math.nan),
        "probe: one class": lambda: probe.linear_probe(z, y * 0, z, y),
        "probe: labels": lambda: probe.linear_probe(z, y[:5], z, y),
        "probe: columns": lambda: probe.linear_probe(z, y, z[:, :2], y),
        "probe: score": lambda: probe.linear_probe(z, y, z, y[:3]),
        "probe: bool labels": lambda: probe.linear_probe(z, y > 0, z, y),
        "probe: list": lambda: probe.linear_probe(z, y.tolist(), z, y),
        "r2: columns": lambda: probe.linear_regression_r2(z, z, z[:, :2], z),
        "r2: constant": lambda: probe.linear_regression_r2(z, z, z, z * 0),
        "r2: l2": lambda: probe.linear_regression_r2(z, z, z, z, l2=0),
        "knn: k 0": lambda: probe.knn_predict(z, y, z, k=0),
        "knn: k N + 1": lambda: probe.knn_predict(z, y, z, k=7),
        "knn: temperature": lambda: probe.knn_predict(z, y, z, k=1, temperature=0),
        "knn: labels": lambda: probe.knn_predict(z, y[:2], z, k=1),
        "extract: NaN features": lambda: probe.extract_features(
            torch.nn.Flatten(), torch.full((2, 3, 4, 4), math.nan)
        ),
        "extract: an encoder that makes NaN": lambda: probe.extract_features(
            torch.nn.Sequential(
                torch.nn.Flatten(), torch.nn.LogSigmoid(), torch.nn.Threshold(0, math.nan)
            ),
            torch.rand(2, 3, 4, 4),
        ),
        "extract: no batch axis left": lambda: probe.extract_features(
            torch.nn.Flatten(0), torch.rand(2, 3, 4, 4)
        ),
        "ema: -0.1": lambda: train.ema_update(
            torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), momentum=-0.1
        ),
        "ema: 1.1": lambda: train.ema_update(
            torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), momentum=1.1
        ),
        "ema: NaN": lambda: train.ema_update(
            torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), momentum=math.nan
        ),
        "batches: 1": lambda: next(train.batches(10, 1, 1)),
        "batches: 11 of 10": lambda: next(train.batches(10, 11, 1)),
        "fit: NaN": lambda: train.fit(
            lambda x: x.mean() * math.nan,
            [torch.nn.Linear(1, 1)],
            torch.rand(4, 3, 2, 2),
            steps=1,
            batch_size=2,
        ),
        "resnet18: width 7": lambda: models.resnet18(7),
        "resnet18: width 0": lambda: models.resnet18(0),
        "build_encoder: network": lambda: models.build_encoder("vgg11", 8),
        "card": lambda: models.card("nobody"),
        "load: encoder": lambda: models.load("nobody"),
        "load: name": lambda: data.load("imagenet"),
        "load: split": lambda: data.load("digits", split="all"),
        "load: size 0": lambda: data.load("digits", size=0),
        "load: size 1.5": lambda: data.load("digits", size=1.5),
        "load: too many": lambda: data.load("digits", size=10**6),
        "load: None": lambda: data.load(None),
        "load: options": lambda: data.load("digits", spurious=1),
        "load: spurious": lambda: data.load("shapes", size=2, spurious=2),
        "audit: 19 pictures": lambda: audit.audit(torch.nn.Flatten(), torch.rand(19, 3, 8, 8)),
        "audit: labels": lambda: audit.audit(
            torch.nn.Flatten(), torch.rand(21, 3, 8, 8), y, changes={}
        ),
        "audit: one class": lambda: audit.audit(
            torch.nn.Flatten(), torch.rand(21, 3, 8, 8), classes(21) * 0, changes={}
        ),
        "grid: three axes": lambda: plot.grid(torch.rand(3, 4, 4), title="t"),
        "grid: two channels": lambda: plot.grid(torch.rand(1, 2, 4, 4), title="t"),
        "grid: none": lambda: plot.grid(torch.rand(0, 3, 4, 4), title="t"),
        "grid: a list": lambda: plot.grid([], title="t"),
        "grid: titles": lambda: plot.grid(torch.rand(2, 3, 4, 4), title="t", titles=["a"]),
        "grid: rows": lambda: plot.grid(torch.rand(2, 3, 4, 4), title="t", rows=["a", "b"]),
        "heatmap: shape": lambda: plot.heatmap(
            torch.rand(2, 2), ["a"], ["b"], title="", xlabel="", ylabel="", label=""
        ),
    }.items():
        yield name, call


BAD = dict([*_features_table(), *_pictures_table(), *_parameters_table()])


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
    outcomes = {name: outcome(call) for name, call in list(BAD.items())[part::8]}
    assert not {name: what for name, what in outcomes.items() if what}, (
        "each must be a ValueError or a TypeError"
    )


def test_there_are_two_hundred_bad_inputs_or_more():
    assert len(BAD) == len(set(BAD)) >= 200, len(BAD)


def same_at(scale, call, dtype=torch.float32, tolerance=1e-3):
    """A value that does not depend on the scale of its inputs is the same at this one, or the input is refused."""
    x = torch.randn((6, 3), generator=torch.Generator().manual_seed(0), dtype=dtype)
    y = torch.randn((6, 3), generator=torch.Generator().manual_seed(1), dtype=dtype)
    try:
        found = numbers(call(scale * x, scale * y))
    except (ValueError, TypeError) as error:
        return "expected" in str(error)
    return torch.allclose(found, numbers(call(x, y)), atol=tolerance)


def is_number(call):
    """A call gives finite numbers, or refuses in a sentence."""
    try:
        return bool(numbers(call()).isfinite().all())
    except (ValueError, TypeError) as error:
        return "expected" in str(error)


MENDED = {  # faults that these tests found, each with the input that showed it
    "dino: float32 logits of 1e37 give NaN": lambda: is_number(
        lambda: losses.dino(
            1e37 * torch.eye(4),
            1e37 * torch.tensor([2.0, -2, 1, 0]).expand(4, 4),
            center=torch.zeros(4),
        )
    ),
    "vicreg: float32 features of 1e20 give infinity or NaN": lambda: is_number(
        lambda: losses.vicreg(1e20 * torch.eye(4), 1e20 * torch.eye(4).flip(0))
    ),
    "nt_xent: float32 features of 1e20 count as zero vectors": lambda: same_at(
        1e20, losses.nt_xent
    ),
    "cca_correlations: float64 features of 1e-300 crash": lambda: same_at(
        1e-300, metrics.cca_correlations, torch.float64
    ),
    "mcc: float64 features of 1e-300 give more than 1": lambda: same_at(
        1e-300, metrics.mcc, torch.float64
    ),
    "linear_regression_r2: float64 features of 1e300 give NaN": lambda: same_at(
        1e300, lambda x, y: probe.linear_regression_r2(x, y, x, y), torch.float64
    ),
    "invariance: features of 1e-8 give minus infinity": lambda: same_at(1e-8, audit.invariance),
    "finite: a meta tensor is a RuntimeError": lambda: is_number(
        lambda: metrics.effective_rank(torch.ones(3, 2, device="meta"))
    ),
    "finite: a sparse tensor is a NotImplementedError": lambda: is_number(
        lambda: metrics.effective_rank(torch.ones(3, 2).to_sparse())
    ),
    "finite: an 8-bit float is a NotImplementedError": lambda: is_number(
        lambda: metrics.effective_rank(torch.ones(3, 2).to(torch.float8_e4m3fn))
    ),
    "full_precision: a meta tensor is a RuntimeError": lambda: is_number(
        lambda: losses.negative_cosine(torch.ones(3, 2, device="meta"), torch.ones(3, 2))
    ),
    "to_float: a meta tensor is a NotImplementedError": lambda: is_number(
        lambda: augment.to_float(torch.rand(2, 3, 4, 4, device="meta"))
    ),
    "to_float: a sparse tensor is a RuntimeError": lambda: (
        augment.to_float(torch.full((2, 3, 4, 4), 0.5).to_sparse()).eq(0.5).all()
    ),
    "to_float: None is a RuntimeError": lambda: is_number(lambda: augment.to_float(None)),
    "multi_crop: `size` cannot be given": lambda: (
        len(augment.multi_crop(torch.rand(2, 3, 8, 8), size=8)) == 6
    ),
}


@pytest.mark.parametrize("fault", MENDED)
def test_mended_faults(fault):
    assert MENDED[fault]()


def test_a_function_that_lets_bad_input_pass_is_seen():
    assert outcome(lambda: 1.0) == "returned 1.0" and outcome(lambda: [][0]).startswith(
        "IndexError"
    )


def forgotten():
    """{module: public functions and classes that no line of this file names}."""
    text = inspect.getsource(inspect.getmodule(forgotten))
    elsewhere = {
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
    }  # no tensors to spoil: their own test files have all there is
    every = {
        module: {
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and callable(value)
            and getattr(value, "__module__", None) == module.__name__
        }
        for module in (augment, data, losses, metrics, models, probe, train, plot, audit)
    }
    missing = {
        module.__name__: {
            name
            for name in names - elsewhere
            if not re.search(rf"\b{module.__name__.split('.')[1]}\.{name}\b", text)
        }
        for module, names in every.items()
    }
    return {module: names for module, names in missing.items() if names}


def test_no_public_function_is_forgotten(monkeypatch):
    assert not forgotten()
    core = {f"replearn.{path.stem}" for path in Path(losses.__file__).parent.glob("[!_]*.py")}
    assert core == {
        module.__name__ for module in (augment, data, losses, metrics, models, probe, train, plot)
    }

    def vicre(a, b):  # a part of a name that is there
        return a - b

    vicre.__module__ = losses.__name__
    monkeypatch.setattr(losses, "vicre", vicre, raising=False)
    assert forgotten() == {"replearn.losses": {"vicre"}}
