"""Plots: what is drawn is what was given; titles, axis labels and readable text are always there; one figure a call."""

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


def pictures(n, channels=3):
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, 6, 5), dtype=torch.uint8, generator=g)


LINES = {"a": [0.1, 0.2, 0.3], "b": (torch.tensor([0.2, 0.3, 0.4]), [0.05, 0.05, 0.01])}
NAMES = {"xlabel": "steps", "ylabel": "accuracy (fraction)"}
DRAW = {
    "grid": lambda **k: plot.grid(pictures(5), ncols=3, titles=list("abcde"), rows=["x", "y"], **k),
    "neighbors": lambda **k: plot.neighbors(pictures(2), pictures(6).reshape(2, 3, 3, 6, 5), **k),
    "bars": lambda **k: plot.bars({"a": 0.1, "b": 0.7}, errors={"b": 0.1}, chance=0.1, **k),
    "curves": lambda **k: plot.curves([1, 10, 100], LINES, log=True, **NAMES, **k),
    "heatmap": lambda **k: plot.heatmap(
        torch.eye(2), ["a", "b"], ["c", "d"], label="CKA", **NAMES, **k
    ),
}


@pytest.mark.parametrize("name", DRAW)
def test_each_call_makes_one_titled_figure_in_readable_text(name):
    axes = DRAW[name](title="What we see")
    assert len(plt.get_fignums()) == 1, "a notebook would show the figure twice"
    figure = plt.gcf()
    figure.canvas.draw()
    texts = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
    assert "What we see" in [t.get_text() for t in texts]
    assert min(t.get_fontsize() for t in texts) >= 9
    (left, bottom), (right, top) = (
        figure.get_tightbbox().get_points()
    )  # in inches, of all that is drawn
    width, height = figure.get_size_inches()
    assert min(left, bottom) > -0.02 and right < width + 0.02 and top < height + 0.02, (
        "something is cut off"
    )
    png = io.BytesIO()
    figure.savefig(png)
    assert len(png.getvalue()) < 60_000
    if name not in ("grid", "neighbors"):
        assert axes.get_xlabel() and (name == "bars" or axes.get_ylabel())


@pytest.mark.parametrize("name", ["bars", "curves", "heatmap"])
def test_ax_draws_into_a_figure_of_your_own(name):
    figure, ax = plt.subplots()
    assert DRAW[name](title="Here", ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize("name", DRAW)
def test_a_title_is_required(name):
    if name != "neighbors":  # has one of its own
        with pytest.raises(TypeError, match="title"):
            DRAW[name]()


def test_grid_shows_the_pixels_of_uint8_float_and_gray_pictures():
    images = pictures(5)
    for given in (images, images / 255, (images / 255).requires_grad_()):
        axes = plot.grid(given, title="t", ncols=3)
        assert axes.shape == (2, 3) and not axes[1, 2].images
        shown = torch.from_numpy(axes[1, 0].images[0].get_array().data.copy())
        torch.testing.assert_close(shown, images[3].permute(1, 2, 0) / 255)
    gray = plot.grid(pictures(1, 1) / 255, title="t")[0, 0].images[0].get_array()
    assert gray.shape == (6, 5, 3) and (gray[..., 0] == gray[..., 2]).all()
    assert plot.grid(pictures(2) / 100, title="t")[0, 0].images[0].get_array().max() <= 1
    assert plot.grid(pictures(2), title="t").shape == (1, 2)  # no empty columns


def test_grid_puts_titles_and_row_labels_where_they_belong():
    axes = DRAW["grid"](title="t")
    assert [ax.get_title() for ax in axes.flat] == ["a", "b", "c", "d", "e", ""]
    assert [ax.get_ylabel() for ax in axes.flat] == ["x", "", "", "y", "", ""]


@pytest.mark.parametrize(
    "images, extra, message",
    [
        (torch.zeros(3, 6, 5), {}, r"images: expected \(N, 3 or 1, H, W\)"),
        (torch.zeros(2, 6, 5, 3), {}, r"found torch.Size\(\[2, 6, 5, 3\]\)"),
        (torch.zeros(0, 3, 6, 5), {}, "N >= 1"),
        ([1, 2], {}, "list"),
        (torch.zeros(4, 3, 6, 5), {"titles": ["a"]}, "expected 4 titles and 1 rows, found 1"),
        (torch.zeros(4, 3, 6, 5), {"rows": ["a", "b"]}, "expected 4 titles and 1 rows, found 4, 2"),
    ],
)
def test_grid_rejects(images, extra, message):
    with pytest.raises(ValueError, match=message):
        plot.grid(images, title="t", **extra)


def test_neighbors_frames_say_right_and_wrong_without_color_too():
    correct = torch.tensor([[True, False, True], [False, False, True]])
    axes = plot.neighbors(pictures(2), pictures(6).reshape(2, 3, 3, 6, 5), correct=correct)
    assert axes.shape == (2, 4)
    for i in range(2):
        assert not axes[i, 0].spines["left"].get_visible()  # the query has no frame
        for j in range(3):
            spine = axes[i, j + 1].spines["left"]
            assert spine.get_visible() and (spine.get_linestyle() == "-") == bool(correct[i, j])
            assert to_rgb(spine.get_edgecolor()) == to_rgb(plot.COLORS[2 if correct[i, j] else 5])


def test_bars_show_the_values_in_percent():
    ax = DRAW["bars"](title="t")
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([10, 70])
    assert {"10.0", "70.0"} <= {t.get_text() for t in ax.texts}
    assert (
        ax.get_xlabel() == "accuracy (%), dashed line: chance" and ax.lines[-1].get_xdata()[0] == 10
    )
    ranks = plot.bars({"a": 12.34}, unit="", label="effective rank", title="t")
    assert ranks.get_xlabel() == "effective rank" and ranks.texts[0].get_text() == "12.3"


def test_curves_differ_by_more_than_color_and_draw_the_band():
    ax = DRAW["curves"](title="t")
    assert len({(line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 2
    assert ax.lines[1].get_ydata().tolist() == pytest.approx([0.2, 0.3, 0.4])
    low, high = (f(ax.collections[1].get_paths()[0].vertices[:, 1]) for f in (min, max))
    assert (low, high) == pytest.approx((0.15, 0.41))
    assert [t.get_text() for t in ax.get_xticklabels()] == [
        "1",
        "10",
        "100",
    ] and ax.get_xscale() == "log"
    with pytest.raises(ValueError, match="same first dimension"):
        plot.curves([1, 2], {"a": [1, 2, 3]}, title="t", **NAMES)


def test_heatmap_writes_each_value_and_rejects_other_shapes():
    ax = plot.heatmap([[0.0, 0.25, 1.0]], ["a"], ["x", "y", "z"], title="t", label="CKA", **NAMES)
    assert [t.get_text() for t in ax.texts] == ["0.00", "0.25", "1.00"]
    assert [t.get_color() for t in ax.texts] == [
        "white",
        "white",
        "black",
    ]  # readable on dark and on light
    with pytest.raises(ValueError, match=r"expected shape \(1, 2\), found \(2, 2\)"):
        plot.heatmap(torch.eye(2), ["a"], ["x", "y"], title="t", label="CKA", **NAMES)


def test_the_palette_is_okabe_and_itos_and_the_import_is_light():
    rgb = {tuple(round(255 * c) for c in to_rgb(color)) for color in plot.COLORS}
    assert rgb == {
        (0, 0, 0),
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
    }
    code = "import sys, replearn.plot; assert not {'matplotlib', 'seaborn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
