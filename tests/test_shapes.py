"""Images drawn from known factors: what the factors say is what the pixels show."""

import colorsys
import math

import pytest
import torch

from replearn.data import shapes


def factors_of_one(**changes):
    """Factors of a single image: a plain red square in the middle, unless changed."""
    factors = dict(
        shape=1, texture=0, hue=0.0, background_hue=0.5, size=0.6, rotation=0.0, x=0.0, y=0.0
    )
    factors.update(changes)
    return {name: torch.tensor([value]) for name, value in factors.items()}


def drawn(**changes):
    """Return one image (3, 32, 32), floats in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    return shapes.draw(factors_of_one(**changes), generator)[0].float() / 255


def is_bright(image, threshold=0.45):
    """Return (32, 32): where the object is, which is brighter than any background."""
    return image.amax(0) > threshold


def area(bright):
    """Return the area of a mask in the units of the factors, in which the image is 2 x 2."""
    return bright.float().mean().item() * 4


# --- render ---------------------------------------------------------------------------------------


def test_same_seed_same_pictures_other_seed_other_pictures():
    first = shapes.render(50, seed=3)
    again = shapes.render(50, seed=3)
    other = shapes.render(50, seed=4)
    assert torch.equal(first.images, again.images)
    assert first.captions == again.captions
    assert not torch.equal(first.images, other.images)


def test_what_comes_back():
    rendered = shapes.render(200, seed=0)
    assert rendered.images.shape == (200, 3, 32, 32)
    assert rendered.images.dtype == torch.uint8
    assert torch.equal(rendered.labels, rendered.factors["shape"])
    assert rendered.labels.dtype == torch.int64
    names = set(rendered.factors)
    assert {"shape", "color", "background", "texture", "hue", "background_hue"} < names
    assert {"size", "rotation", "x", "y"} < names
    assert all(len(values) == 200 for values in rendered.factors.values())
    assert len(rendered.captions) == 200


def test_captions_name_the_factors():
    rendered = shapes.render(100, seed=1)
    for i, caption in enumerate(rendered.captions):
        shape = shapes.SHAPES[rendered.factors["shape"][i]]
        color = shapes.COLORS[rendered.factors["color"][i]]
        texture = shapes.TEXTURES[rendered.factors["texture"][i]]
        background = shapes.COLORS[rendered.factors["background"][i]]
        is_large = bool(rendered.factors["size"][i] > 0.65)
        assert caption.endswith(f"{color} {shape} on a {texture} {background} background")
        assert caption.startswith("a large") == is_large
        assert caption.startswith("a small") != is_large


def test_spurious_ties_the_background_to_the_class():
    free = shapes.render(500, seed=0)
    tied = shapes.render(500, seed=0, spurious=1.0)
    columns = [tied.factors[name] for name in ("background", "texture", "shape")]
    triples = torch.stack(columns, 1).unique(dim=0)
    backgrounds = triples[:, :2].unique(dim=0)
    # Each class has one background, and each background belongs to one class.
    assert len(triples) == len(backgrounds) == 10
    by_chance = free.factors["background"] == free.factors["shape"] % 6
    assert by_chance.float().mean() < 0.3


@pytest.mark.parametrize(
    "bad", [dict(size=0), dict(size=10, spurious=1.5), dict(size=10, spurious=-0.1)]
)
def test_bad_input(bad):
    with pytest.raises(ValueError, match="expected size from 1 to 2,000,000 and spurious in"):
        shapes.render(**bad)


# --- draw -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", range(len(shapes.SHAPES)))
def test_object_is_bright_on_dark_and_covers_what_its_size_says(kind):
    covered = area(is_bright(drawn(shape=kind)))
    # Between a thin moon and a square that fills its circle.
    assert 0.1 < covered / 0.6**2 < 2.6


def test_square_has_its_exact_area():
    half_way = is_bright(drawn(size=0.6), threshold=0.5)
    assert area(half_way) == pytest.approx(2 * 0.6**2, rel=0.08)


def test_position_moves_the_object():
    def middle_column(image):
        profile = is_bright(image).float().mean(0)  # (32,), one number a column
        return (profile * torch.arange(32)).sum() / profile.sum()

    shift = middle_column(drawn(x=0.25)) - middle_column(drawn())
    assert shift.item() == pytest.approx(0.25 * 16, abs=0.4)


def test_rotation_turns_the_object():
    bar = shapes.SHAPES.index("bar")
    quarter = is_bright(drawn(shape=bar, rotation=math.pi / 2))
    upright = is_bright(drawn(shape=bar))
    assert (quarter == upright.T).float().mean() > 0.97


def test_hue_against_colorsys():
    hue = torch.rand(20, generator=torch.Generator().manual_seed(0))
    rgb = shapes._rgb(hue, torch.full((20,), 0.7), torch.full((20,), 0.9))
    expected = torch.tensor([colorsys.hsv_to_rgb(h, 0.7, 0.9) for h in hue.tolist()])
    torch.testing.assert_close(rgb, expected, atol=1e-5, rtol=0)


def test_classes_differ_only_where_the_object_is():
    circle = drawn(shape=0)
    square = drawn(shape=1)
    assert torch.equal(circle[:, :2], square[:, :2])
    assert not torch.equal(circle, square)
