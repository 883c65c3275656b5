"""Augmentations against torchvision (one image at a time) and colorsys, and what every image draws for itself."""

import colorsys
import inspect
import math

import pytest
import torch
from scipy import stats
from torchvision import transforms as T
from torchvision.transforms import functional as TF

from replearn import augment

TOLERANCE = 1e-5
RANDOM = {
    "crop": lambda x, g: augment.random_resized_crop(x, generator=g),
    "flip": lambda x, g: augment.random_horizontal_flip(x, generator=g),
    "jitter": lambda x, g: augment.color_jitter(x, generator=g),
    "grayscale": lambda x, g: augment.random_grayscale(x, generator=g),
    "blur": lambda x, g: augment.gaussian_blur(x, generator=g),
    "two_views": lambda x, g: augment.two_views(x, blur=0.5, generator=g)[0],
    "multi_crop": lambda x, g: augment.multi_crop(x, n_small=1, blur=0.5, generator=g)[2],
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=24, height=32, width=32, seed=0):
    """Random pictures, the first ones with the corners of color space: black, white, gray, pure colors and ties."""
    x = torch.rand(n, 3, height, width, generator=seeded(seed))
    x[0], x[1], x[2] = 0, 1, x[2, :1]
    x[3] = x[3].round()  # all eight corners of the color cube
    x[4, 0], x[5, 1], x[6, 2] = x[4, 1], x[5, 2], x[6, 0]  # two channels tie
    x[7] = (x[7] * 4).round() / 4
    x[8] = 0.5 + (x[8] - 0.5) * 1e-6  # nearly gray
    return x


def same(images, n=64):
    """One picture n times: whatever differs between the rows of an output was drawn for that row."""
    return images[9:10].repeat(n, 1, 1, 1)


def distance(a, b):
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def oracle(function, images, *parameters):
    return torch.stack(
        [function(x, *(p.item() for p in row)) for x, *row in zip(images, *parameters, strict=True)]
    )


# --- exact, given one parameter per image ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_adjustments_match_torchvision(name):
    x, factor = pictures(), torch.rand(24, generator=seeded(1)) * 2
    factor[9:12] = torch.tensor([0.0, 1.0, 5.0])
    exact, expected = getattr(augment, f"adjust_{name}"), getattr(TF, f"adjust_{name}")
    assert distance(exact(x, factor), oracle(expected, x, factor)) < TOLERANCE
    assert distance(exact(x, 1.3), torch.stack([expected(image, 1.3) for image in x])) < TOLERANCE


def hues(n=24):
    turns = torch.rand(n, generator=seeded(2)) - 0.5
    turns[9:13] = torch.tensor([-0.5, 0.5, 0.0, 1 / 3])
    return turns


def test_hue_matches_torchvision():
    x, turns = pictures(), hues()
    assert distance(augment.adjust_hue(x, turns), oracle(TF.adjust_hue, x, turns)) < TOLERANCE


def test_hue_matches_colorsys():
    x, turns = pictures(24, 5, 7), hues()
    found = augment.adjust_hue(x, turns).permute(0, 2, 3, 1)
    for image, turn, result in zip(
        x.double().permute(0, 2, 3, 1), turns.tolist(), found, strict=True
    ):
        for color, ours in zip(
            image.flatten(0, 1).tolist(), result.flatten(0, 1).tolist(), strict=True
        ):
            hue, saturation, value = colorsys.rgb_to_hsv(*color)
            assert ours == pytest.approx(
                colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), abs=TOLERANCE
            )


def test_hue_once_around_comes_back():
    x = pictures()
    assert distance(augment.adjust_hue(augment.adjust_hue(x, 0.5), 0.5), x) < TOLERANCE
    assert distance(augment.adjust_hue(augment.adjust_hue(x, 0.3), 0.2), x) > 0.1


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (32, 32, (32, 32)),
        (32, 32, (16, 16)),
        (32, 32, (48, 40)),
        (20, 45, (31, 9)),
        (64, 64, (32, 32)),
        (7, 5, (5, 7)),
    ],
)
def test_crop_matches_torchvision(height, width, size):
    x, flip = pictures(24, height, width), torch.rand(24, generator=seeded(3)) < 0.5
    torch.manual_seed(0)
    boxes = torch.tensor([T.RandomResizedCrop.get_params(x, (0.05, 1.0), (0.3, 3.0)) for _ in x])
    boxes[0], boxes[1] = (
        torch.tensor((0, 0, height, width)),
        torch.tensor((height - 1, width - 1, 1, 1)),
    )
    cut = lambda image, *box: TF.resized_crop(image, *box, size, antialias=True)
    expected = oracle(cut, x, *boxes.T)
    assert distance(augment.resized_crop(x, boxes, size), expected) < TOLERANCE
    expected[flip] = expected[flip].flip(3)
    assert distance(augment.resized_crop(x, boxes, size, flip=flip), expected) < TOLERANCE


def test_crop_of_a_large_picture_is_as_exact_as_float32_allows():
    x, boxes = pictures(9, 224, 224), torch.tensor([(11, 7, 150, 203)] * 9)
    exact = torch.stack(
        [
            TF.resized_crop(image, 11, 7, 150, 203, (224, 224), antialias=True)
            for image in x.double()
        ]
    )
    assert (
        distance(augment.resized_crop(x, boxes), exact) < 3e-5
    )  # torchvision's own float32 result is as far away


def test_crop_of_the_whole_picture_and_shifts_change_nothing():
    x = pictures(24, 12, 10)
    assert torch.equal(augment.resized_crop(x, torch.tensor([(0, 0, 12, 10)] * 24)), x)
    assert torch.equal(
        augment.resized_crop(x, torch.tensor([(2, 3, 8, 5)] * 24), (8, 5)), x[:, :, 2:10, 3:8]
    )


def test_crop_takes_fractions_of_a_pixel():
    """A box at fractions of a pixel is the whole-pixel one moved: on a ramp the result moves by exactly that much."""
    ramp = (torch.arange(32.0) / 31).expand(1, 3, 32, 32)
    whole, moved = (
        augment.resized_crop(ramp, torch.tensor([(4, left, 16, 16.0)])) for left in (8, 8.25)
    )
    assert torch.allclose(moved[..., 3:-3] - whole[..., 3:-3], torch.tensor(0.25 / 31), atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "kernel_size"), [(32, 32, 3), (20, 33, 9), (9, 9, 17), (8, 8, 1)]
)
def test_blur_matches_torchvision(height, width, kernel_size):
    x = pictures(24, height, width)
    for sigma in (0.1, 0.7, 2.0):
        expected = torch.stack([TF.gaussian_blur(image, kernel_size, sigma) for image in x])
        assert (
            distance(augment.gaussian_blur(x, p=1, sigma=sigma, kernel_size=kernel_size), expected)
            < TOLERANCE
        )


def test_blur_draws_sigma_for_each_image():
    """What each image got is torchvision's blur at a sigma of its own, and those are uniform in the range."""
    x = same(pictures(16, 12, 12), 200)
    views = augment.gaussian_blur(x, p=1, sigma=(0.3, 1.5), generator=seeded())
    sigmas = torch.linspace(0.3, 1.5, 1201)
    grid = torch.stack([TF.gaussian_blur(x[0], 3, sigma.item()) for sigma in sigmas])
    gaps = torch.cdist(views.flatten(1), grid.flatten(1))
    assert gaps.min(1).values.max() < 0.02
    assert stats.kstest(sigmas[gaps.argmin(1)], "uniform", (0.3, 1.2)).pvalue > 1e-3


def test_gray_matches_torchvision():
    x = pictures()
    assert distance(augment.random_grayscale(x, p=1), TF.rgb_to_grayscale(x, 3)) < TOLERANCE
    assert torch.equal(augment.random_grayscale(x, p=0), x)


# --- the same distributions as torchvision ---------------------------------------------------------------------------


def boxes_drawn(monkeypatch, n, height, width, **options):
    drawn = []
    monkeypatch.setattr(
        augment.resized_crop, "__wrapped__", lambda images, boxes, *_, **__: drawn.append(boxes)
    )
    augment.random_resized_crop(torch.zeros(n, 3, height, width), generator=seeded(4), **options)
    return drawn[0]


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (32, 32, (0.2, 1.0), (3 / 4, 4 / 3)),
        (24, 60, (0.08, 1.0), (3 / 4, 4 / 3)),
        (40, 16, (0.5, 1.0), (0.5, 2.0)),
    ],
)
def test_boxes_are_distributed_as_torchvisions(monkeypatch, height, width, scale, ratio):
    ours = boxes_drawn(monkeypatch, 1500, height, width, scale=scale, ratio=ratio)
    torch.manual_seed(5)
    blank = torch.zeros(3, height, width)
    theirs = torch.tensor(
        [T.RandomResizedCrop.get_params(blank, scale, ratio) for _ in range(1500)]
    ).double()
    for derived in (
        lambda b: b[:, 0],
        lambda b: b[:, 1],
        lambda b: b[:, 2],
        lambda b: b[:, 3],
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 3] / b[:, 2],
    ):
        assert stats.ks_2samp(derived(ours).numpy(), derived(theirs).numpy()).pvalue > 1e-3
    assert torch.allclose(ours.mean(0), theirs.mean(0), atol=0.05 * max(height, width))
    assert torch.equal(ours, ours.floor()) and (ours[:, :2] >= 0).all() and (ours[:, 2:] >= 1).all()
    assert (ours[:, :2] + ours[:, 2:] <= torch.tensor((height, width))).all()


@pytest.mark.parametrize(("height", "width"), [(10, 90), (90, 10)])
def test_boxes_fall_back_to_torchvisions_center(monkeypatch, height, width):
    """No try of this size fits a picture this narrow."""
    ours = boxes_drawn(monkeypatch, 8, height, width, scale=(0.9, 1.0))
    theirs = T.RandomResizedCrop.get_params(
        torch.zeros(3, height, width), (0.9, 1.0), (3 / 4, 4 / 3)
    )
    assert ours.tolist() == [list(map(float, theirs))] * 8


def test_jitter_order_and_factors(monkeypatch):
    """Every order of the four adjustments comes equally often; factors are uniform in torchvision's ranges."""
    calls = {}
    for name in ("brightness", "contrast", "saturation", "hue"):

        def record(images, factor, name=name):
            for row, value in zip(
                images[:, 0, 0, 0].mul(4800).round().int().tolist(), factor.tolist(), strict=True
            ):
                calls.setdefault(row, []).append((name, value))
            return images

        monkeypatch.setattr(getattr(augment, f"adjust_{name}"), "__wrapped__", record)
    numbered = (torch.arange(4800) / 4800)[:, None, None, None].expand(-1, 3, 1, 1)
    augment.color_jitter(
        numbered, brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1, p=0.8, generator=seeded(6)
    )
    assert stats.binomtest(len(calls), 4800, 0.8).pvalue > 1e-3
    orders = {}
    for steps in calls.values():
        order = tuple(name for name, _ in steps)
        orders[order] = orders.get(order, 0) + 1
    assert len(orders) == math.factorial(4) and stats.chisquare(list(orders.values())).pvalue > 1e-3
    ranges = {
        "brightness": (0.6, 1.4),
        "contrast": (0, 2.5),
        "saturation": (0.8, 1.2),
        "hue": (-0.1, 0.1),
    }
    for name, (low, high) in ranges.items():
        values = [value for steps in calls.values() for step, value in steps if step == name]
        assert stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3


def test_jitter_is_one_of_torchvisions_orders():
    """With fixed strengths known from the seed, each output is torchvision's adjustments in one of the 24 orders."""
    x = pictures(16, 6, 6)
    found = augment.color_jitter(x, p=1, generator=seeded(7))
    u = torch.rand(
        (16, 9), generator=seeded(7)
    )  # the documented order of draws: four factors, four ranks, the coin
    low, high = torch.tensor((0.6, 0.6, 0.6, -0.1)), torch.tensor((1.4, 1.4, 1.4, 0.1))
    apply = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for image, row, result in zip(x, u, found, strict=True):
        factors = low + (high - low) * row[:4]
        for k in row[4:8].argsort().tolist():
            image = apply[k](image, factors[k].item())
        assert distance(result, image) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "p"),
    [
        ("random_horizontal_flip", 0.5),
        ("random_grayscale", 0.2),
        ("color_jitter", 0.8),
        ("gaussian_blur", 0.5),
    ],
)
def test_probabilities(name, p):
    x, function = same(pictures(16, 4, 4), 2000), getattr(augment, name)
    changed = lambda **o: (
        ((function(x, generator=seeded(8), **o) - x).abs().amax((1, 2, 3)) > 1e-4).sum().item()
    )
    options = {"sigma": 1.0} if name == "gaussian_blur" else {}
    assert inspect.signature(function).parameters["p"].default == p
    assert stats.binomtest(changed(**options), 2000, p).pvalue > 1e-3
    assert changed(p=0, **options) == 0 and changed(p=1, **options) >= 1990


# --- draws -----------------------------------------------------------------------------------------------------------


def different_rows(views):
    return len(torch.unique(views.flatten(1), dim=0))


@pytest.mark.parametrize("name", RANDOM)
def test_two_images_of_one_batch_get_different_draws(name):
    views = RANDOM[name](same(pictures()), seeded())
    expected = {"flip": 2, "grayscale": 2, "jitter": 45, "blur": 20}.get(name, 60)
    assert different_rows(views) >= expected


def test_one_draw_for_the_batch_would_be_noticed(monkeypatch):
    """The planted fault: what torchvision's v2 transforms do to a batch."""
    x, rand = same(pictures()), torch.rand
    monkeypatch.setattr(
        torch, "rand", lambda shape, **options: rand(shape, **options)[:1].expand(shape)
    )
    for draw in RANDOM.values():
        assert different_rows(draw(x, seeded())) == 1


def test_two_views_differ_from_each_other():
    first, second = augment.two_views(pictures(), blur=0.5, generator=seeded())
    assert (first - second).abs().amax((1, 2, 3))[3:].min() > 0.01


@pytest.mark.parametrize("name", RANDOM)
def test_seeds_repeat_and_leave_the_global_generator_alone(name):
    x, draw = pictures(), RANDOM[name]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = draw(x, seeded(3)), draw(x, seeded(3)), draw(x, seeded(4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    globally = draw(x, None)
    assert not torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(draw(x, None), globally)


# --- what goes in, what comes out --------------------------------------------------------------------------------


def check_views(views, n, height, width, device="cpu"):
    for view in views:
        assert (
            view.shape == (n, 3, height, width)
            and view.dtype == torch.float32
            and view.device.type == device
        )
        assert view.is_contiguous() and not view.requires_grad
        assert 0 <= view.min() and view.max() <= 1


def test_shapes_and_ranges():
    x = pictures(24, 20, 28)
    check_views(augment.two_views(x, blur=1.0, jitter=2.0, grayscale=1.0), 24, 20, 28)
    check_views(augment.two_views(x, size=12), 24, 12, 12)
    check_views(augment.two_views(x[9:10], crop=(0.01, 0.02)), 1, 20, 28)
    check_views(augment.two_views(pictures(24, 1, 1)), 24, 1, 1)
    views = augment.multi_crop(x, n_small=3, small_size=(10, 8), blur=0.5)
    check_views(views[:2], 24, 20, 28)
    check_views(views[2:], 24, 10, 8)
    assert (
        isinstance(views, list) and len(views) == 5 and len(augment.multi_crop(x, n_small=0)) == 2
    )


def test_multi_crop_zooms_in_more():
    """A small crop of a ramp covers at most 14 % of its area, a large one at least that much."""
    ramp = (torch.arange(64.0) / 63).expand(200, 3, 64, 64)
    views = augment.multi_crop(ramp, jitter=0, grayscale=0, generator=seeded())
    covered = [(view.amax((1, 2, 3)) - view.amin((1, 2, 3))).mean() for view in views]
    assert max(covered[2:]) < 0.45 < 0.6 < min(covered[:2])


def test_two_views_switch_off():
    x, off = pictures(), dict(crop=None, jitter=0, grayscale=0, blur=0, flip=0)
    for view in augment.two_views(x, **off):
        assert torch.equal(view, x) and view.data_ptr() != x.data_ptr()
    none = augment.two_views(x, **dict.fromkeys(off))
    assert torch.equal(none[0], x)
    assert torch.equal(augment.two_views(x, **off | {"flip": 1})[0], x.flip(3))
    gray = augment.two_views(x, **off | {"grayscale": 1})[1]
    assert distance(gray, TF.rgb_to_grayscale(x, 3)) < TOLERANCE
    blurred = augment.two_views(x, **off | {"blur": 1})[0]
    assert (blurred - x).abs().amax((1, 2, 3))[9:].median() > 0.01
    jittered = augment.two_views(x, **off | {"jitter": 1.0})[0]
    assert 0.5 < ((jittered - x).abs().amax((1, 2, 3)) > 1e-4).float().mean() < 1


def test_two_views_defaults_are_the_contract():
    defaults = {
        name: p.default for name, p in inspect.signature(augment.two_views).parameters.items()
    }
    contract = dict(crop=(0.2, 1.0), jitter=1.0, grayscale=0.2, blur=0.0, flip=0.5, generator=None)
    assert defaults.items() >= contract.items()


def test_jitter_strength_is_a_multiplier(monkeypatch):
    seen = []
    monkeypatch.setattr(
        augment.color_jitter, "__wrapped__", lambda images, **options: seen.append(options)
    )
    augment.two_views(pictures(), jitter=0.5)
    strengths = [seen[0][name] for name in ("brightness", "contrast", "saturation", "hue")]
    assert strengths == pytest.approx([0.2, 0.2, 0.2, 0.05]) and len(seen) == 2
    augment.two_views(pictures(), jitter=(0.1, 0.2, 0.3, 0.4))
    assert [seen[2][name] for name in ("brightness", "contrast", "saturation", "hue")] == [
        0.1,
        0.2,
        0.3,
        0.4,
    ]


@pytest.mark.parametrize("name", RANDOM)
def test_layouts_and_dtypes_give_the_same(name):
    x, draw = pictures(12).mul(255).round().to(torch.uint8), RANDOM[name]
    expected = draw(x.float() / 255, seeded())
    assert torch.equal(draw(x, seeded()), expected)
    assert torch.equal(draw(x.to(memory_format=torch.channels_last), seeded()), expected)
    strided = (
        torch.empty(12, 32, 32, 3, dtype=torch.uint8)
        .copy_(x.permute(0, 2, 3, 1))
        .permute(0, 3, 1, 2)
    )
    assert torch.equal(draw(strided.float() / 255, seeded()), expected)
    assert torch.equal(draw(x.repeat_interleave(2, 0)[::2], seeded()), expected)
    assert distance(draw(x.double() / 255, seeded()), expected) < TOLERANCE
    for half in (torch.float16, torch.bfloat16):  # computed and returned in float32
        rounded = (x.float() / 255).to(half)
        assert torch.equal(draw(rounded, seeded()), draw(rounded.float(), seeded()))


@pytest.mark.parametrize("name", RANDOM)
def test_input_stays_and_no_gradient_flows(name):
    x = pictures().requires_grad_()
    before, views = x.detach().clone(), RANDOM[name](x, seeded())
    assert torch.equal(x, before) and not views.requires_grad
    with torch.inference_mode():
        assert torch.equal(RANDOM[name](x, seeded()), views)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(RANDOM[name](x, seeded()), views)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", RANDOM)
def test_a_gpu_gives_the_same_views(name):
    x = pictures()
    view = RANDOM[name](x.cuda(), seeded())
    assert view.is_cuda and distance(view.cpu(), RANDOM[name](x, seeded())) < TOLERANCE


# --- bad input ---------------------------------------------------------------------------------------------------

NOT_IMAGES = {
    "three axes": torch.rand(3, 8, 8),
    "one channel": torch.rand(2, 1, 8, 8),
    "four channels": torch.rand(2, 4, 8, 8),
    "channels last": torch.rand(2, 8, 8, 3),
    "empty batch": torch.rand(0, 3, 8, 8),
    "no pixels": torch.rand(2, 3, 8, 0),
    "NaN": torch.full((2, 3, 8, 8), math.nan),
    "infinity": torch.full((2, 3, 8, 8), math.inf),
    "above 1": torch.rand(2, 3, 8, 8) * 255,
    "below 0": torch.rand(2, 3, 8, 8) - 1,
    "int64": torch.ones(2, 3, 8, 8, dtype=torch.int64),
    "int8": torch.ones(2, 3, 8, 8, dtype=torch.int8),
    "bool": torch.ones(2, 3, 8, 8, dtype=torch.bool),
}
TAKES_IMAGES = {
    **{name: lambda x, draw=draw: draw(x, None) for name, draw in RANDOM.items()},
    "resized_crop": lambda x: augment.resized_crop(x, torch.tensor([(0, 0, 2, 2)] * 2)),
    "adjust_contrast": lambda x: augment.adjust_contrast(x, 1.0),
    "adjust_hue": lambda x: augment.adjust_hue(x, 0.1),
    "to_float": augment.to_float,
}


@pytest.mark.parametrize("kind", NOT_IMAGES)
def test_what_is_no_image_is_refused(kind):
    for function in TAKES_IMAGES.values():
        with pytest.raises(ValueError, match=r"images: expected .* found"):
            function(NOT_IMAGES[kind])


X = torch.rand(2, 3, 8, 8)
BAD_PARAMETERS = {
    "scale": [
        lambda v=v: augment.random_resized_crop(X, scale=v)
        for v in ((0.0, 1.0), (0.5, 1.5), (0.9, 0.2), (-0.2, 1), (math.nan, 1), (0.1, 0.2, 0.3))
    ],
    "ratio": [
        lambda v=v: augment.random_resized_crop(X, ratio=v)
        for v in ((0, 1), (2, 1), (-1, 1), (1, math.inf))
    ],
    "size": [
        lambda v=v: augment.random_resized_crop(X, size=v) for v in (0, -4, (8, 0), (1, 2, 3))
    ],
    "flip": [lambda v=v: augment.two_views(X, flip=v) for v in (-0.1, 1.1, math.nan)],
    "p": [
        lambda v=v, f=f: f(X, p=v)
        for v in (-0.1, 1.1, math.nan, (0.1, 0.2))
        for f in (augment.random_grayscale, augment.gaussian_blur, augment.color_jitter)
    ]
    + [lambda: augment.two_views(X, grayscale=2), lambda: augment.two_views(X, blur=-1)],
    "sigma": [
        lambda v=v: augment.gaussian_blur(X, sigma=v)
        for v in (0, (0, 1), (2.0, 0.1), -1, math.nan, (1, math.inf))
    ],
    "kernel_size": [
        lambda v=v: augment.gaussian_blur(X, kernel_size=v) for v in (0, 2, -3, 17, 2.5)
    ],
    "strengths": [
        lambda o=o: augment.color_jitter(X, **o)
        for o in ({"brightness": -0.1}, {"hue": 0.6}, {"contrast": math.nan}, {"saturation": -1})
    ],
    "factor": [
        lambda v=v: augment.adjust_saturation(X, v)
        for v in (-1, math.nan, torch.ones(3), torch.ones(2, 1))
    ]
    + [lambda v=v: augment.adjust_hue(X, v) for v in (0.6, -0.6, torch.tensor([0.1, 0.7]))],
    "boxes": [
        lambda v=v: augment.resized_crop(X, torch.tensor(v))
        for v in (
            [(0, 0, 2, 2)],
            [(0, 0, 2)] * 2,
            [(-1, 0, 2, 2)] * 2,
            [(0, 0, 0.5, 2)] * 2,
            [(7, 0, 2, 2)] * 2,
            [(0, 0, 2, 9)] * 2,
            [(0, 0, math.nan, 2)] * 2,
        )
    ],
}


@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_bad_parameters_are_refused(name):
    for call in BAD_PARAMETERS[name]:
        with pytest.raises(ValueError, match=rf"^{name}.*: expected .* found"):
            call()


def test_lightly_draws_the_same_kind_of_views():
    """The mean color change of our pipeline is that of lightly's SimCLR transform without crop (a coarse check)."""
    transforms = pytest.importorskip("lightly.transforms")
    x, u = same(pictures(), 150), T.ToPILImage()(pictures()[9])
    options = dict(
        input_size=32, cj_strength=0.5, min_scale=0.9999, gaussian_blur=0.0, normalize=None
    )
    theirs = transforms.SimCLRTransform(**options)
    change = torch.stack([theirs(u)[0] for _ in range(150)]).mean((2, 3)) - x.mean((2, 3))
    ours = augment.two_views(x, crop=None, generator=seeded())[0].mean((2, 3)) - x.mean((2, 3))
    assert torch.allclose(ours.std(0), change.std(0), rtol=0.35)
