"""Augmentations against torchvision, one image at a time, and what every image draws for itself."""

import colorsys
import inspect
import math
from functools import partial

import pytest
import torch
from scipy import stats
from torchvision import transforms as T
from torchvision.transforms import functional as TF

from replearn import augment

TOLERANCE = 1e-5


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_images(n=24, height=32, width=32, seed=0):
    """Random images, the first ones at the corners of color space: black, gray, pure colors."""
    x = torch.rand(n, 3, height, width, generator=seeded(seed))
    x[0] = 0
    x[1] = 1
    x[2] = x[2, :1].clone()  # gray
    x[3] = x[3].round()  # all eight corners of the color cube
    x[4, 0] = x[4, 1]  # two channels tie
    x[5, 1] = x[5, 2]
    x[6, 2] = x[6, 0]
    x[7] = (x[7] * 4).round() / 4
    x[8] = 0.5 + (x[8] - 0.5) * 1e-6  # nearly gray
    return x


def repeated(images, n=64):
    """One image n times: whatever differs between the rows of an output was drawn for that row."""
    return images[9:10].repeat(n, 1, 1, 1)


def distance(a, b):
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def one_by_one(function, images, *parameters):
    """Apply a function to each image with its own row of parameters."""
    results = []
    for image, *row in zip(images, *parameters, strict=True):
        numbers = [parameter.item() for parameter in row]
        results.append(function(image, *numbers))
    return torch.stack(results)


def first_view(images, *, generator):
    return augment.two_views(images, blur=0.5, generator=generator)[0]


def small_view(images, *, generator):
    return augment.multi_crop(images, n_small=1, blur=0.5, generator=generator)[2]


RANDOM = {
    "crop": augment.random_resized_crop,
    "flip": augment.random_horizontal_flip,
    "jitter": augment.color_jitter,
    "grayscale": augment.random_grayscale,
    "blur": augment.gaussian_blur,
    "two_views": first_view,
    "multi_crop": small_view,
}


# --- exact, given one parameter per image ---


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_adjustments_match_torchvision(name):
    x = make_images()
    factor = torch.rand(24, generator=seeded(1)) * 2
    factor[9:12] = torch.tensor([0.0, 1.0, 5.0])
    ours = getattr(augment, f"adjust_{name}")
    theirs = getattr(TF, f"adjust_{name}")
    assert distance(ours(x, factor), one_by_one(theirs, x, factor)) < TOLERANCE
    expected = torch.stack([theirs(image, 1.3) for image in x])
    assert distance(ours(x, 1.3), expected) < TOLERANCE


def hue_turns(n=24):
    turns = torch.rand(n, generator=seeded(2)) - 0.5
    turns[9:13] = torch.tensor([-0.5, 0.5, 0.0, 1 / 3])
    return turns


def test_hue_matches_torchvision():
    x = make_images()
    turns = hue_turns()
    expected = one_by_one(TF.adjust_hue, x, turns)
    assert distance(augment.adjust_hue(x, turns), expected) < TOLERANCE


def test_hue_matches_colorsys():
    x = make_images(24, 5, 7)
    turns = hue_turns()
    turned = augment.adjust_hue(x, turns).permute(0, 2, 3, 1).flatten(1, 2)
    colors = x.double().permute(0, 2, 3, 1).flatten(1, 2)  # (N, H * W, 3)
    for i, turn in enumerate(turns.tolist()):
        for color, result in zip(colors[i].tolist(), turned[i].tolist(), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*color)
            expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
            assert result == pytest.approx(expected, abs=TOLERANCE)


def test_hue_once_around_comes_back():
    x = make_images()
    around = augment.adjust_hue(augment.adjust_hue(x, 0.5), 0.5)
    assert distance(around, x) < TOLERANCE
    half = augment.adjust_hue(augment.adjust_hue(x, 0.3), 0.2)
    assert distance(half, x) > 0.1


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
    x = make_images(24, height, width)
    flip = torch.rand(24, generator=seeded(3)) < 0.5
    torch.manual_seed(0)
    boxes = [T.RandomResizedCrop.get_params(image, (0.05, 1.0), (0.3, 3.0)) for image in x]
    boxes = torch.tensor(boxes)
    boxes[0] = torch.tensor((0, 0, height, width))
    boxes[1] = torch.tensor((height - 1, width - 1, 1, 1))

    crop = partial(TF.resized_crop, size=size, antialias=True)
    expected = one_by_one(crop, x, *boxes.T)
    assert distance(augment.resized_crop(x, boxes, size), expected) < TOLERANCE
    expected[flip] = expected[flip].flip(3)
    assert distance(augment.resized_crop(x, boxes, size, flip=flip), expected) < TOLERANCE


def test_crop_of_a_large_image_is_as_exact_as_float32_allows():
    x = make_images(9, 224, 224)
    box = (11, 7, 150, 203)
    expected = [TF.resized_crop(image, *box, (224, 224), antialias=True) for image in x.double()]
    ours = augment.resized_crop(x, torch.tensor([box] * 9))
    # torchvision's own float32 result is as far away
    assert distance(ours, torch.stack(expected)) < 3e-5


def test_crop_of_the_whole_image_and_shifts_change_nothing():
    x = make_images(24, 12, 10)
    whole = torch.tensor([(0, 0, 12, 10)] * 24)
    assert torch.equal(augment.resized_crop(x, whole), x)
    shifted = torch.tensor([(2, 3, 8, 5)] * 24)
    assert torch.equal(augment.resized_crop(x, shifted, (8, 5)), x[:, :, 2:10, 3:8])


def test_crop_takes_fractions_of_a_pixel():
    """On a ramp, a box that is moved by a fraction of a pixel moves the result by exactly that."""
    ramp = (torch.arange(32.0) / 31).expand(1, 3, 32, 32)
    whole = augment.resized_crop(ramp, torch.tensor([(4, 8, 16, 16.0)]))
    moved = augment.resized_crop(ramp, torch.tensor([(4, 8.25, 16, 16.0)]))
    change = moved[..., 3:-3] - whole[..., 3:-3]
    assert torch.allclose(change, torch.tensor(0.25 / 31), atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "kernel_size"), [(32, 32, 3), (20, 33, 9), (9, 9, 17), (8, 8, 1)]
)
def test_blur_matches_torchvision(height, width, kernel_size):
    x = make_images(24, height, width)
    for sigma in (0.1, 0.7, 2.0):
        expected = torch.stack([TF.gaussian_blur(image, kernel_size, sigma) for image in x])
        ours = augment.gaussian_blur(x, p=1, sigma=sigma, kernel_size=kernel_size)
        assert distance(ours, expected) < TOLERANCE


def test_blur_draws_sigma_for_each_image():
    """Each image got torchvision's blur at a sigma of its own, and those fill the range evenly."""
    x = repeated(make_images(16, 12, 12), 200)
    views = augment.gaussian_blur(x, p=1, sigma=(0.3, 1.5), generator=seeded())
    sigmas = torch.linspace(0.3, 1.5, 1201)
    grid = torch.stack([TF.gaussian_blur(x[0], 3, sigma.item()) for sigma in sigmas])
    gaps = torch.cdist(views.flatten(1), grid.flatten(1))
    assert gaps.min(1).values.max() < 0.02
    assert stats.kstest(sigmas[gaps.argmin(1)], "uniform", (0.3, 1.2)).pvalue > 1e-3


def test_gray_matches_torchvision():
    x = make_images()
    assert distance(augment.random_grayscale(x, p=1), TF.rgb_to_grayscale(x, 3)) < TOLERANCE
    assert torch.equal(augment.random_grayscale(x, p=0), x)


# --- the same distributions as torchvision ---


def boxes_drawn(monkeypatch, n, height, width, **options):
    """Return the boxes (n, 4) that random_resized_crop draws."""
    drawn = []

    def record(x, boxes, size, flip):
        drawn.append(boxes)
        return x

    monkeypatch.setattr(augment, "_resized_crop", record)
    blank = torch.zeros(n, 3, height, width)
    augment.random_resized_crop(blank, generator=seeded(4), **options)
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
    theirs = [T.RandomResizedCrop.get_params(blank, scale, ratio) for _ in range(1500)]
    theirs = torch.tensor(theirs).double()

    def with_area_and_ratio(boxes):
        area = boxes[:, 2] * boxes[:, 3]
        aspect = boxes[:, 3] / boxes[:, 2]
        return torch.column_stack((boxes, area, aspect)).numpy()

    columns = zip(with_area_and_ratio(ours).T, with_area_and_ratio(theirs).T, strict=True)
    for our_column, their_column in columns:
        assert stats.ks_2samp(our_column, their_column).pvalue > 1e-3
    assert torch.allclose(ours.mean(0), theirs.mean(0), atol=0.05 * max(height, width))
    assert torch.equal(ours, ours.floor())
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 2:] >= 1).all()
    assert (ours[:, :2] + ours[:, 2:] <= torch.tensor((height, width))).all()


@pytest.mark.parametrize(("height", "width"), [(10, 90), (90, 10)])
def test_boxes_fall_back_to_torchvisions_center(monkeypatch, height, width):
    """No try of this size fits an image this narrow."""
    ours = boxes_drawn(monkeypatch, 8, height, width, scale=(0.9, 1.0))
    blank = torch.zeros(3, height, width)
    theirs = T.RandomResizedCrop.get_params(blank, (0.9, 1.0), (3 / 4, 4 / 3))
    assert ours.tolist() == [list(map(float, theirs))] * 8


def test_boxes_have_a_pixel_or_more(monkeypatch):
    """The widest box that this ratio allows in a column of pixels has a height of half a pixel."""
    boxes = boxes_drawn(monkeypatch, 8, 90, 1, scale=(0.9, 1.0), ratio=(3, 4))
    assert boxes.tolist() == [[44.0, 0.0, 1.0, 1.0]] * 8


def test_jitter_order_and_factors(monkeypatch):
    """Every order of the four adjustments comes equally often; factors fill their ranges evenly."""
    n = 4800
    calls = {}  # number of an image -> [(adjustment, factor), ...] in the order of the calls

    def recorder(name):
        def record(x, factor):
            numbers = x[:, 0, 0, 0].mul(n).round().int().tolist()
            for number, value in zip(numbers, factor.tolist(), strict=True):
                calls.setdefault(number, []).append((name, value))
            return x

        return record

    ranges = {
        "brightness": (0.6, 1.4),
        "contrast": (0, 2.5),
        "saturation": (0.8, 1.2),
        "hue": (-0.1, 0.1),
    }
    monkeypatch.setattr(augment, "_ADJUSTMENTS", [recorder(name) for name in ranges])
    strengths = dict(brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1)
    numbered = (torch.arange(n) / n)[:, None, None, None].expand(-1, 3, 1, 1)
    augment.color_jitter(numbered, **strengths, p=0.8, generator=seeded(6))

    assert stats.binomtest(len(calls), n, 0.8).pvalue > 1e-3
    orders = {}
    for steps in calls.values():
        order = tuple(name for name, _ in steps)
        orders[order] = orders.get(order, 0) + 1
    assert len(orders) == math.factorial(4)
    assert stats.chisquare(list(orders.values())).pvalue > 1e-3
    for name, (low, high) in ranges.items():
        values = [value for steps in calls.values() for step, value in steps if step == name]
        assert stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3


def test_the_adjustments_stand_in_the_order_of_their_strengths():
    names = [function.__name__ for function in augment._ADJUSTMENTS]
    assert names == [f"_adjust_{name}_" for name in ("brightness", "contrast", "saturation", "hue")]


def test_jitter_is_one_of_torchvisions_orders():
    """Each output is torchvision's adjustments, by the factors and in the order of the draws."""
    x = make_images(16, 6, 6)
    jittered = augment.color_jitter(x, p=1, generator=seeded(7))
    u = torch.rand((16, 9), generator=seeded(7))  # four factors, four ranks, the coin
    low = torch.tensor((0.6, 0.6, 0.6, -0.1))
    high = torch.tensor((1.4, 1.4, 1.4, 0.1))
    factors = low + (high - low) * u[:, :4]
    order = u[:, 4:8].argsort(1)
    adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for i, image in enumerate(x):
        for k in order[i].tolist():
            image = adjust[k](image, factors[i, k].item())
        assert distance(jittered[i], image) < TOLERANCE


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
    x = repeated(make_images(16, 4, 4), 2000)
    function = getattr(augment, name)
    options = {"sigma": 1.0} if name == "gaussian_blur" else {}

    def number_changed(**probability):
        result = function(x, generator=seeded(8), **options, **probability)
        return ((result - x).abs().amax((1, 2, 3)) > 1e-4).sum().item()

    assert inspect.signature(function).parameters["p"].default == p
    assert stats.binomtest(number_changed(), 2000, p).pvalue > 1e-3
    assert number_changed(p=0) == 0
    assert number_changed(p=1) >= 1990


# --- draws ---


def different_rows(views):
    return len(torch.unique(views.flatten(1), dim=0))


@pytest.mark.parametrize("name", RANDOM)
def test_two_images_of_one_batch_get_different_draws(name):
    views = RANDOM[name](repeated(make_images()), generator=seeded())
    expected = {"flip": 2, "grayscale": 2, "jitter": 45, "blur": 20}.get(name, 60)
    assert different_rows(views) >= expected


def test_one_draw_for_the_batch_would_be_noticed(monkeypatch):
    """The planted fault is what torchvision's v2 transforms do to a batch."""
    rand = torch.rand

    def one_row_for_all(shape, **options):
        return rand(shape, **options)[:1].expand(shape)

    x = repeated(make_images())
    monkeypatch.setattr(torch, "rand", one_row_for_all)
    for function in RANDOM.values():
        assert different_rows(function(x, generator=seeded())) == 1


def test_two_views_differ_from_each_other():
    first, second = augment.two_views(make_images(), blur=0.5, generator=seeded())
    assert (first - second).abs().amax((1, 2, 3))[3:].min() > 0.01


@pytest.mark.parametrize("name", RANDOM)
def test_seeds_repeat_and_leave_the_global_generator_alone(name):
    x = make_images()
    function = RANDOM[name]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = function(x, generator=seeded(3))
    again = function(x, generator=seeded(3))
    other = function(x, generator=seeded(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)

    torch.manual_seed(1)
    from_global = function(x, generator=None)
    assert not torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(function(x, generator=None), from_global)


# --- what goes in, what comes out ---


def check_views(views, n, height, width):
    for view in views:
        assert view.shape == (n, 3, height, width)
        assert view.dtype == torch.float32
        assert view.device.type == "cpu"
        assert view.is_contiguous()
        assert not view.requires_grad
        assert view.min() >= 0
        assert view.max() <= 1


def test_shapes_and_ranges():
    x = make_images(24, 20, 28)
    check_views(augment.two_views(x, blur=1.0, jitter=2.0, grayscale=1.0), 24, 20, 28)
    check_views(augment.two_views(x, size=12), 24, 12, 12)
    check_views(augment.two_views(x[9:10], crop=(0.01, 0.02)), 1, 20, 28)
    check_views(augment.two_views(make_images(24, 1, 1)), 24, 1, 1)
    views = augment.multi_crop(x, n_small=3, small_size=(10, 8), blur=0.5)
    check_views(views[:2], 24, 20, 28)
    check_views(views[2:], 24, 10, 8)
    assert isinstance(views, list)
    assert len(views) == 5
    assert len(augment.multi_crop(x, n_small=0)) == 2


def test_multi_crop_zooms_in_more():
    """A small crop of a ramp covers at most 14 % of its area, a large one at least that much."""
    ramp = (torch.arange(64.0) / 63).expand(200, 3, 64, 64)
    views = augment.multi_crop(ramp, jitter=0, grayscale=0, generator=seeded())
    covered = [(view.amax((1, 2, 3)) - view.amin((1, 2, 3))).mean() for view in views]
    assert max(covered[2:]) < 0.45
    assert min(covered[:2]) > 0.6


def test_two_views_switch_off():
    x = make_images()
    off = dict(crop=None, jitter=0, grayscale=0, blur=0, flip=0)
    for view in augment.two_views(x, **off):
        assert torch.equal(view, x)
        assert view.data_ptr() != x.data_ptr()
    with_none = augment.two_views(x, **dict.fromkeys(off))
    assert torch.equal(with_none[0], x)


def test_two_views_switch_single_steps_on():
    x = make_images()
    off = dict(crop=None, jitter=0, grayscale=0, blur=0, flip=0)

    def with_one_step(**step):
        return augment.two_views(x, **{**off, **step})

    assert torch.equal(with_one_step(flip=1)[0], x.flip(3))
    gray = with_one_step(grayscale=1)[1]
    assert distance(gray, TF.rgb_to_grayscale(x, 3)) < TOLERANCE
    blurred = with_one_step(blur=1)[0]
    assert (blurred - x).abs().amax((1, 2, 3))[9:].median() > 0.01
    jittered = with_one_step(jitter=1.0)[0]
    share_changed = ((jittered - x).abs().amax((1, 2, 3)) > 1e-4).float().mean()
    assert 0.5 < share_changed < 1


def test_two_views_defaults_are_the_contract():
    parameters = inspect.signature(augment.two_views).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    contract = dict(crop=(0.2, 1.0), jitter=1.0, grayscale=0.2, blur=0.0, flip=0.5, generator=None)
    assert defaults.items() >= contract.items()


def test_jitter_strength_is_a_multiplier(monkeypatch):
    taken = []

    def record(x, u, strengths, p):
        taken.append(strengths.tolist())

    monkeypatch.setattr(augment, "_jitter_rows_", record)
    augment.two_views(make_images(), jitter=0.5)
    augment.two_views(make_images(), jitter=(0.1, 0.2, 0.3, 0.4))
    assert taken == [pytest.approx([0.2, 0.2, 0.2, 0.05]), pytest.approx([0.1, 0.2, 0.3, 0.4])]


def test_color_jitter_takes_its_strengths_by_name(monkeypatch):
    drawn = []

    def record(x, strengths, p, generator):
        drawn.append((strengths, p))

    monkeypatch.setattr(augment, "_color_jitter_", record)
    augment.color_jitter(make_images(), hue=0.4, saturation=0.3, contrast=0.2, brightness=0.1)
    assert drawn == [((0.1, 0.2, 0.3, 0.4), 0.8)]


@pytest.mark.parametrize("name", RANDOM)
def test_layouts_and_dtypes_give_the_same(name):
    x = make_images(12).mul(255).round().to(torch.uint8)
    function = RANDOM[name]
    expected = function(x.float() / 255, generator=seeded())
    rows_last = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    every_other = x.repeat_interleave(2, 0)[::2]
    assert torch.equal(function(x, generator=seeded()), expected)
    channels_last = x.to(memory_format=torch.channels_last)
    assert torch.equal(function(channels_last, generator=seeded()), expected)
    assert torch.equal(function(rows_last.float() / 255, generator=seeded()), expected)
    assert torch.equal(function(every_other, generator=seeded()), expected)
    assert distance(function(x.double() / 255, generator=seeded()), expected) < TOLERANCE
    for dtype in (torch.float16, torch.bfloat16):  # computed and returned in float32
        half = (x.float() / 255).to(dtype)
        assert torch.equal(
            function(half, generator=seeded()), function(half.float(), generator=seeded())
        )


@pytest.mark.parametrize("name", RANDOM)
def test_input_stays_and_no_gradient_flows(name):
    x = make_images().requires_grad_()
    before = x.detach().clone()
    function = RANDOM[name]
    views = function(x, generator=seeded())
    assert torch.equal(x, before)
    assert not views.requires_grad
    with torch.inference_mode():
        assert torch.equal(function(x, generator=seeded()), views)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(function(x, generator=seeded()), views)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", RANDOM)
def test_a_gpu_gives_the_same_views(name):
    x = make_images()
    view = RANDOM[name](x.cuda(), generator=seeded())
    assert view.is_cuda
    assert distance(view.cpu(), RANDOM[name](x, generator=seeded())) < TOLERANCE


def test_every_public_function_has_its_own_name_and_docstring():
    """Help on a function must not be that of another one: once three of them were `adjust`."""
    docstrings = set()
    for name, function in inspect.getmembers(augment, inspect.isfunction):
        if name.startswith("_") or function.__module__ != augment.__name__:
            continue
        assert function.__name__ == name
        assert "Returns:" in function.__doc__
        assert ">>>" in function.__doc__
        docstrings.add(function.__doc__)
    assert len(docstrings) == 15


# --- bad input ---

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
TAKES_IMAGES = [
    *(partial(function, generator=None) for function in RANDOM.values()),
    partial(augment.resized_crop, boxes=torch.tensor([(0, 0, 2, 2)] * 2)),
    partial(augment.adjust_brightness, factor=1.0),
    partial(augment.adjust_contrast, factor=1.0),
    partial(augment.adjust_saturation, factor=1.0),
    partial(augment.adjust_hue, factor=0.1),
    augment.to_float,
]


@pytest.mark.parametrize("kind", NOT_IMAGES)
def test_what_is_no_image_is_refused(kind):
    for function in TAKES_IMAGES:
        with pytest.raises(ValueError, match=r"images: expected .* found"):
            function(NOT_IMAGES[kind])


X = torch.rand(2, 3, 8, 8)
NAN = math.nan
FACTORS = [-1, NAN, math.inf, torch.ones(3), torch.ones(2, 1)]
PROBABILITIES = [-0.1, 1.1, NAN, (0.1, 0.2)]
BOXES = [
    [(0, 0, 2, 2)],
    [(0, 0, 2)] * 2,
    [(-1, 0, 2, 2)] * 2,
    [(0, 0, 0.5, 2)] * 2,
    [(7, 0, 2, 2)] * 2,
    [(0, 0, 2, 9)] * 2,
    [(0, 0, NAN, 2)] * 2,
]
SCALES = [(0.0, 1.0), (0.5, 1.5), (0.9, 0.2), (-0.2, 1), (NAN, 1), (0.1, 0.2, 0.3)]
# What the error names, the function, its argument, and the values that it must refuse.
BAD_PARAMETERS = [
    ("scale", augment.random_resized_crop, "scale", SCALES),
    ("ratio", augment.random_resized_crop, "ratio", [(0, 1), (2, 1), (-1, 1), (1, math.inf)]),
    ("size", augment.random_resized_crop, "size", [0, -4, (8, 0), (1, 2, 3)]),
    ("flip", augment.two_views, "flip", [-0.1, 1.1, NAN]),
    ("p", augment.random_grayscale, "p", PROBABILITIES),
    ("p", augment.gaussian_blur, "p", PROBABILITIES),
    ("p", augment.color_jitter, "p", PROBABILITIES),
    ("p", augment.two_views, "grayscale", [2]),
    ("p", augment.two_views, "blur", [-1]),
    ("sigma", augment.gaussian_blur, "sigma", [0, (0, 1), (2, 0.1), -1, NAN, (1, math.inf)]),
    ("kernel_size", augment.gaussian_blur, "kernel_size", [0, 2, -3, 17, 2.5]),
    ("strengths", augment.color_jitter, "brightness", [-0.1, math.inf]),
    ("strengths", augment.color_jitter, "hue", [0.6]),
    ("strengths", augment.color_jitter, "contrast", [NAN]),
    ("strengths", augment.color_jitter, "saturation", [-1]),
    ("strengths", augment.two_views, "jitter", [(0.4, 0.4, 0.4), -1]),
    ("factor", augment.adjust_brightness, "factor", FACTORS),
    ("factor", augment.adjust_contrast, "factor", FACTORS),
    ("factor", augment.adjust_saturation, "factor", FACTORS),
    ("factor", augment.adjust_hue, "factor", [0.6, -0.6, torch.tensor([0.1, 0.7])]),
    ("boxes", augment.resized_crop, "boxes", [torch.tensor(boxes) for boxes in BOXES]),
]


@pytest.mark.parametrize(("said", "function", "argument", "values"), BAD_PARAMETERS)
def test_bad_parameters_are_refused(said, function, argument, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"^{said}.*: expected .* found"):
            function(X, **{argument: value})


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        (augment.adjust_brightness, "0", r"1e\+06"),
        (augment.adjust_contrast, "0", r"1e\+06"),
        (augment.adjust_saturation, "0", r"1e\+06"),
        (augment.adjust_hue, r"-0\.5", r"0\.5"),
    ],
)
def test_a_wrong_factor_is_told_that_one_number_would_do(function, low, high):
    expected = rf"factor: expected one number or one per image \(2\) in \[{low}, {high}\], found "
    with pytest.raises(ValueError, match=expected + r"-3\.0"):
        function(X, -3)
    with pytest.raises(ValueError, match=expected + r"\[0\.1, 0\.2, 0\.3\]"):
        function(X, torch.tensor((0.1, 0.2, 0.3), dtype=torch.float64))


def test_a_wrong_flip_is_told_that_one_bool_would_do():
    boxes = torch.tensor([(0, 0, 2, 2)] * 2)
    with pytest.raises(ValueError, match=r"flip: expected one number or one per image \(2\)"):
        augment.resized_crop(X, boxes, flip=torch.tensor([True, False, True]))


def test_a_wrong_range_is_told_that_it_must_rise():
    with pytest.raises(ValueError, match=r"scale: expected one number or a rising pair .* \[0\.9,"):
        augment.two_views(X, crop=(0.9, 0.2))


def test_lightly_draws_the_same_kind_of_views():
    """Without crops, our views change the mean color as much as lightly's SimCLR transform does."""
    transforms = pytest.importorskip("lightly.transforms")
    image = make_images()[9]
    options = dict(
        input_size=32, cj_strength=0.5, min_scale=0.9999, gaussian_blur=0.0, normalize=None
    )
    transform = transforms.SimCLRTransform(**options)
    pil_image = T.ToPILImage()(image)
    theirs = torch.stack([transform(pil_image)[0] for _ in range(150)])
    ours = augment.two_views(repeated(make_images(), 150), crop=None, generator=seeded())[0]
    mean_color = image.mean((1, 2))
    our_change = ours.mean((2, 3)) - mean_color
    their_change = theirs.mean((2, 3)) - mean_color
    assert torch.allclose(our_change.std(0), their_change.std(0), rtol=0.35)
