"""The views made for torch.compile (benchmarks/fused_views.py) are those of the core, by seed."""

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from test_augment import distance, make_images, seeded

from replearn import augment

PATH = Path(__file__).parent.parent / "benchmarks" / "fused_views.py"
SPEC = importlib.util.spec_from_file_location("fused_views", PATH)
fused_views = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fused_views)


def check(images, view=fused_views.view, **options):
    fused_generator = seeded(1)
    core_generator = seeded(1)
    fused = fused_views.two_views(images, generator=fused_generator, view=view, **options)
    core_options = {"blur": 0.5, **options}
    core = augment.two_views(images, generator=core_generator, **core_options)
    for ours, expected in zip(fused, core, strict=True):
        assert distance(ours, expected) < 1e-5
        assert ours.is_contiguous()
        assert ours.min() >= 0
        assert ours.max() <= 1
    assert torch.equal(fused_generator.get_state(), core_generator.get_state())


@pytest.mark.parametrize(
    ("n", "height", "width"), [(9, 32, 32), (70, 32, 32), (32, 8, 8), (9, 20, 45), (9, 64, 64)]
)
def test_they_equal_the_cores(n, height, width):
    check(make_images(n, height, width))
    check(make_images(n, height, width).mul(255).to(torch.uint8))


def test_they_equal_the_cores_where_no_try_of_a_crop_fits():
    check(make_images(9, 10, 90), crop=(0.9, 1.0))


@pytest.mark.parametrize(
    "options",
    [
        dict(blur=0),
        dict(blur=1),
        dict(jitter=0),
        dict(jitter=2),
        dict(grayscale=0),
        dict(grayscale=1),
        dict(flip=0),
        dict(flip=1),
        dict(crop=(0.05, 0.2)),
        dict(crop=(1.0, 1.0)),
    ],
)
def test_they_equal_the_cores_with_options(options):
    check(make_images(40), **options)


def test_every_order_of_the_adjustments_has_its_slots():
    """4,800 images of four pixels draw each of the 24 orders about 160 times."""
    images = torch.rand(4800, 3, 2, 2, generator=seeded())
    check(images, crop=(1.0, 1.0), jitter=2, grayscale=0, blur=0)


@pytest.mark.seconds
@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")),
    reason="torch.compile needs a C++ compiler",
)
def test_compiled_they_equal_the_cores():
    check(make_images(40).mul(255).to(torch.uint8), fused_views.compiled())
