"""Plots: what is drawn is what was given.

Titles, axis labels and readable text are always there, and a call makes one figure.
"""

import io
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from replearn import plot


@pytest.fixture(autouse=True)
def closed():
    plt.close("all")
    yield
    plt.close("all")


def random_images(n, channels=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, 6, 5), dtype=torch.uint8, generator=generator)


LABELS = {"xlabel": "steps", "ylabel": "accuracy (fraction)"}


def draw_grid(**options):
    titles = list("abcde")
    return plot.grid(random_images(5), ncols=3, titles=titles, rows=["x", "y"], **options)


def draw_neighbors(**options):
    nearest = random_images(6).reshape(2, 3, 3, 6, 5)
    return plot.neighbors(random_images(2), nearest, **options)


def draw_bars(**options):
    return plot.bars({"a": 0.1, "b": 0.7}, errors={"b": 0.1}, chance=0.1, **options)


def draw_curves(**options):
    with_band = (torch.tensor([0.2, 0.3, 0.4]), [0.05, 0.05, 0.01])
    lines = {"a": [0.1, 0.2, 0.3], "b": with_band}
    return plot.curves([1, 10, 100], lines, log=True, **LABELS, **options)


def draw_heatmap(**options):
    return plot.heatmap(torch.eye(2), ["a", "b"], ["c", "d"], label="CKA", **LABELS, **options)


DRAW = {
    "grid": draw_grid,
    "neighbors": draw_neighbors,
    "bars": draw_bars,
    "curves": draw_curves,
    "heatmap": draw_heatmap,
}


def texts_of(figure):
    """All texts of a figure that are seen."""
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


# ---------------------------------------------------------------- every plot


@pytest.mark.parametrize("name", DRAW)
def test_each_call_makes_one_titled_figure_in_readable_text(name):
    DRAW[name](title="What we see")
    assert len(plt.get_fignums()) == 1, "a notebook would show the figure twice"
    figure = plt.gcf()
    figure.canvas.draw()
    texts = texts_of(figure)
    assert "What we see" in [text.get_text() for text in texts]
    assert min(text.get_fontsize() for text in texts) >= 9


@pytest.mark.parametrize("name", DRAW)
def test_nothing_is_cut_off_and_the_file_is_small(name):
    DRAW[name](title="What we see")
    figure = plt.gcf()
    figure.canvas.draw()
    width, height = figure.get_size_inches()
    (left, bottom), (right, top) = figure.get_tightbbox().get_points()  # inches of all that is seen
    assert min(left, bottom) > -0.02
    assert right < width + 0.02
    assert top < height + 0.02
    png = io.BytesIO()
    figure.savefig(png)
    assert len(png.getvalue()) < 60_000


@pytest.mark.parametrize("name", ["bars", "curves", "heatmap"])
def test_axes_are_labeled(name):
    axes = DRAW[name](title="What we see")
    assert axes.get_xlabel()
    if name != "bars":  # the names of bars need no label
        assert axes.get_ylabel()


@pytest.mark.parametrize("name", ["bars", "curves", "heatmap"])
def test_ax_draws_into_a_figure_of_your_own(name):
    figure, ax = plt.subplots()
    assert DRAW[name](title="Here", ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize("name", ["grid", "bars", "curves", "heatmap"])  # neighbors has one
def test_a_title_is_required(name):
    with pytest.raises(TypeError, match="title"):
        DRAW[name]()


# ---------------------------------------------------------------- images


def test_grid_shows_the_pixels_of_uint8_and_float_images():
    images = random_images(5)
    for same in (images, images / 255, (images / 255).requires_grad_()):
        axes = plot.grid(same, title="t", ncols=3)
        assert axes.shape == (2, 3)
        assert not axes[1, 2].images
        shown = torch.from_numpy(axes[1, 0].images[0].get_array().data.copy())
        torch.testing.assert_close(shown, images[3].permute(1, 2, 0) / 255)
    too_bright = plot.grid(images / 100, title="t")
    assert too_bright[0, 0].images[0].get_array().max() <= 1
    assert plot.grid(random_images(2), title="t").shape == (1, 2)  # no empty columns


def test_grid_shows_gray_images():
    axes = plot.grid(random_images(1, channels=1) / 255, title="t")
    shown = axes[0, 0].images[0].get_array()
    assert shown.shape == (6, 5, 3)
    assert (shown[..., 0] == shown[..., 2]).all()


def test_grid_puts_titles_and_row_labels_where_they_belong():
    axes = draw_grid(title="t")
    assert [ax.get_title() for ax in axes.flat] == ["a", "b", "c", "d", "e", ""]
    assert [ax.get_ylabel() for ax in axes.flat] == ["x", "", "", "y", "", ""]


@pytest.mark.parametrize(
    "images, options, message",
    [
        (torch.zeros(3, 6, 5), {}, r"images: expected \(N, 3 or 1, H, W\)"),
        (torch.zeros(2, 6, 5, 3), {}, r"found torch.Size\(\[2, 6, 5, 3\]\)"),
        (torch.zeros(0, 3, 6, 5), {}, "N >= 1"),
        ([1, 2], {}, "list"),
        (torch.zeros(4, 3, 6, 5), {"titles": ["a"]}, "expected 4 titles and 1 rows, found 1"),
        (torch.zeros(4, 3, 6, 5), {"rows": ["a", "b"]}, "expected 4 titles and 1 rows, found 4, 2"),
    ],
)
def test_grid_rejects(images, options, message):
    with pytest.raises(ValueError, match=message):
        plot.grid(images, title="t", **options)


def test_neighbors_frames_say_right_and_wrong_without_color_too():
    correct = torch.tensor([[True, False, True], [False, False, True]])
    axes = draw_neighbors(correct=correct)
    assert axes.shape == (2, 4)
    for i in range(2):
        assert not axes[i, 0].spines["left"].get_visible()  # the query has no frame
        for j in range(3):
            frame = axes[i, j + 1].spines["left"]
            is_right = bool(correct[i, j])
            assert frame.get_visible()
            assert (frame.get_linestyle() == "-") == is_right
            color = plot.COLORS[2] if is_right else plot.COLORS[5]
            assert to_rgb(frame.get_edgecolor()) == to_rgb(color)


# ---------------------------------------------------------------- numbers


def test_bars_show_the_values_in_percent():
    ax = draw_bars(title="t")
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([10, 70])
    assert {"10.0", "70.0"} <= {text.get_text() for text in ax.texts}
    assert ax.get_xlabel() == "accuracy (%), dashed line: chance"
    assert ax.lines[-1].get_xdata()[0] == 10


def test_bars_without_a_unit():
    ax = plot.bars({"a": 12.34}, unit="", label="effective rank", title="t")
    assert ax.get_xlabel() == "effective rank"
    assert ax.texts[0].get_text() == "12.3"


def test_curves_differ_by_more_than_color_and_draw_the_band():
    ax = draw_curves(title="t")
    looks = {(line.get_linestyle(), line.get_marker()) for line in ax.lines}
    assert len(looks) == 2
    assert ax.lines[1].get_ydata().tolist() == pytest.approx([0.2, 0.3, 0.4])
    outline = ax.collections[1].get_paths()[0].vertices[:, 1]
    assert min(outline) == pytest.approx(0.15)
    assert max(outline) == pytest.approx(0.41)


def test_curves_on_a_logarithmic_scale_name_their_own_values():
    ax = draw_curves(title="t")
    assert ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "10", "100"]


def test_curves_reject_lines_of_another_length():
    with pytest.raises(ValueError, match="same first dimension"):
        plot.curves([1, 2], {"a": [1, 2, 3]}, title="t", **LABELS)


def test_heatmap_writes_each_value_and_rejects_other_shapes():
    matrix = [[0.0, 0.25, 1.0]]
    ax = plot.heatmap(matrix, ["a"], ["x", "y", "z"], title="t", label="CKA", **LABELS)
    assert [text.get_text() for text in ax.texts] == ["0.00", "0.25", "1.00"]
    # Readable on dark cells and on light ones.
    assert [text.get_color() for text in ax.texts] == ["white", "white", "black"]
    with pytest.raises(ValueError, match=r"expected shape \(1, 2\), found \(2, 2\)"):
        plot.heatmap(torch.eye(2), ["a"], ["x", "y"], title="t", label="CKA", **LABELS)


# ---------------------------------------------------------------- look


def test_the_palette_is_okabe_and_itos():
    palette = set()
    for color in plot.COLORS:
        palette.add(tuple(round(255 * channel) for channel in to_rgb(color)))
    assert palette == {
        (0, 0, 0),
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
    }


def test_the_import_is_light():
    code = "import sys, replearn.plot; assert not {'matplotlib', 'seaborn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
