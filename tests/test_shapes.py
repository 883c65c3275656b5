import math

import pytest
import torch

from replearn.data import shapes


def test_same_seed_same_pictures_other_seed_other_pictures():
    first, again, other = (
        shapes.render(50, seed=3),
        shapes.render(50, seed=3),
        shapes.render(50, seed=4),
    )
    assert torch.equal(first.images, again.images) and first.captions == again.captions
    assert not torch.equal(first.images, other.images)


def test_what_comes_back():
    found = shapes.render(200, seed=0)
    assert found.images.shape == (200, 3, 32, 32) and found.images.dtype == torch.uint8
    assert torch.equal(found.labels, found.factors["shape"]) and found.labels.dtype == torch.int64
    assert {"shape", "color", "background", "texture", "hue", "background_hue"} < set(found.factors)
    assert {"size", "rotation", "x", "y"} < set(found.factors)
    assert (
        all(len(values) == 200 for values in found.factors.values()) and len(found.captions) == 200
    )


def test_captions_name_the_factors():
    found = shapes.render(100, seed=1)
    for i, caption in enumerate(found.captions):
        shape, color = (
            shapes.SHAPES[found.factors["shape"][i]],
            shapes.COLORS[found.factors["color"][i]],
        )
        assert f"{color} {shape} on a" in caption
        assert caption.startswith("a large") == bool(found.factors["size"][i] > 0.65)


def one(**changes):
    """Factors of a single picture: a plain red square in the middle, unless changed."""
    factors = dict(
        shape=1, texture=0, hue=0.0, background_hue=0.5, size=0.6, rotation=0.0, x=0.0, y=0.0
    )
    return {name: torch.tensor([value]) for name, value in {**factors, **changes}.items()}


def drawn(**changes):
    return shapes.draw(one(**changes), torch.Generator().manual_seed(0))[0].float() / 255


@pytest.mark.parametrize("kind", range(len(shapes.SHAPES)))
def test_object_is_bright_on_dark_and_covers_what_its_size_says(kind):
    bright = drawn(shape=kind).amax(0) > 0.45
    area = bright.float().mean().item() * 4  # in units where the picture is [-1, 1] x [-1, 1]
    assert 0.1 < area / 0.6**2 < 2.6  # between a thin moon and a square that fills its circle


def test_square_has_its_exact_area():
    bright = drawn(size=0.6).amax(0) > 0.5  # half-way
    assert bright.float().mean().item() * 4 == pytest.approx(2 * 0.6**2, rel=0.08)


def test_position_and_rotation_move_the_object():
    columns = lambda image: (image.amax(0) > 0.45).float().mean(0)
    middle = lambda profile: (profile * torch.arange(32)).sum() / profile.sum()
    shift = middle(columns(drawn(x=0.25))) - middle(columns(drawn()))
    assert shift.item() == pytest.approx(0.25 * 16, abs=0.4)
    quarter = drawn(shape=9, rotation=math.pi / 2).amax(0) > 0.45
    upright = drawn(shape=9).amax(0) > 0.45
    assert (quarter == upright.T).float().mean() > 0.97


def test_hue_against_colorsys():
    import colorsys

    hue = torch.rand(20, generator=torch.Generator().manual_seed(0))
    found = shapes._rgb(hue, torch.full((20,), 0.7), torch.full((20,), 0.9))
    expected = torch.tensor([colorsys.hsv_to_rgb(h, 0.7, 0.9) for h in hue.tolist()])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_spurious_ties_the_background_to_the_class():
    free, tied = shapes.render(500, seed=0), shapes.render(500, seed=0, spurious=1.0)
    rows = torch.stack(
        [tied.factors[name] for name in ("background", "texture", "shape")], 1
    ).unique(dim=0)
    assert (
        len(rows) == len(rows[:, :2].unique(dim=0)) == 10
    )  # a class a background, and a background a class
    assert (free.factors["background"] == free.factors["shape"] % 6).float().mean() < 0.3


def test_classes_differ_only_where_the_object_is():
    circle, square = drawn(shape=0), drawn(shape=1)
    assert torch.equal(circle[:, :2], square[:, :2]) and not torch.equal(circle, square)


@pytest.mark.parametrize(
    "bad", [dict(size=0), dict(size=10, spurious=1.5), dict(size=10, spurious=-0.1)]
)
def test_bad_input(bad):
    with pytest.raises(ValueError, match="expected size >= 1 and spurious in"):
        shapes.render(**bad)
