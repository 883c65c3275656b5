r"""Numbers in, axes out: each function draws one titled figure and returns its axes.

`bars`, `curves` and `heatmap` draw into a figure of your own if they are given its axes as `ax`.
In a notebook a figure appears once, when the cell ends: close the line with a semicolon
(`plot.bars(...);`), or assign the result.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

# The palette of Okabe & Ito 2008, which people with any kind of color vision can tell apart.
COLORS = (
    "#0072B2",  # blue
    "#E69F00",  # orange
    "#009E73",  # green
    "#CC79A7",  # pink
    "#56B4E9",  # sky blue
    "#D55E00",  # vermilion
    "#F0E442",  # yellow
    "#000000",  # black
)
# Lines of a plot differ by more than their color.
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX*"
MOST_MARKED = 20  # points of a line up to which each is marked

WIDTH = 6.4  # inches, of a figure of bars, curves or a heatmap


def style() -> ModuleType:
    """Set the look of the course and return `matplotlib.pyplot`.

    Colors are those of Okabe and Ito; text has 9 points or more, at 100 dots per inch.

    Returns:
        The module `matplotlib.pyplot`, to draw with.

    Example:
        >>> plt = style()
        >>> plt.rcParams["figure.dpi"]
        100.0
    """
    import matplotlib.pyplot as plt

    look = {
        "axes.prop_cycle": plt.cycler(color=COLORS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
        "font.size": 10,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "savefig.dpi": 100,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
    }
    plt.rcParams.update(look)
    return plt


def _axes(ax: "Axes | None", height: float) -> "Axes":
    """Return `ax`, or the axes of a new figure of so many inches in height if it is None."""
    if ax is not None:
        return ax
    _, ax = style().subplots(figsize=(WIDTH, height))
    return ax


def grid(
    images: torch.Tensor,
    *,
    title: str,
    titles: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    ncols: int = 8,
    size: float = 0.75,
) -> "np.ndarray":
    """Draw images in rows and columns.

    Args:
        images: (N, 3, H, W) or (N, 1, H, W), uint8 or floats; floats are clamped to [0, 1].
        title: Stands above the figure.
        titles: N texts, each above its image.
        rows: A label for each row.
        ncols: The most images in a row.
        size: The side of an image in inches.

    Returns:
        An array of axes (rows, columns).

    Raises:
        ValueError: The images have another shape, or the number of titles or rows is wrong.

    Example:
        >>> images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> grid(images, title="Noise", ncols=3).shape
        (2, 3)
    """
    _check_images(images)
    n = len(images)
    ncols = min(ncols, n)
    nrows = -(-n // ncols)  # rounded up
    n_titles = len(titles) if titles else n
    n_rows = len(rows) if rows else nrows
    if n_titles != n or n_rows != nrows:
        raise ValueError(
            f"expected {n} titles and {nrows} rows, found {n_titles}, {len(rows or [])}"
        )

    width = size * ncols + (1.2 if rows else 0.1)
    height = (size + (0.22 if titles else 0.05)) * nrows + 0.35
    figure, axes = style().subplots(nrows, ncols, figsize=(width, height), squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for i, pixels in enumerate(_to_pixels(images)):
        ax = axes.flat[i]
        ax.imshow(pixels, interpolation="nearest")
        ax.set_title(titles[i] if titles else "", fontsize=9, loc="center", pad=2)
    if rows:
        for ax, label in zip(axes[:, 0], rows, strict=True):
            ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return axes


def _check_images(images: torch.Tensor) -> None:
    is_batch = isinstance(images, torch.Tensor) and images.ndim == 4
    if not is_batch or images.shape[1] not in (1, 3) or images.numel() == 0:
        shape = getattr(images, "shape", type(images))
        raise ValueError(f"images: expected (N, 3 or 1, H, W), N >= 1, found {shape}")


def _to_pixels(images: torch.Tensor) -> "np.ndarray":
    """Return images (N, H, W, 3) as floats in [0, 1], as matplotlib takes them."""
    images = images.detach().cpu()
    if images.dtype == torch.uint8:
        images = images / 255
    else:
        images = images.float().clamp(0, 1)
    return images.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()


def neighbors(
    queries: torch.Tensor,
    nearest: torch.Tensor,
    *,
    correct: torch.Tensor | None = None,
    rows: Sequence[str] | None = None,
    title: str = "Left: the query; then its nearest neighbors",
) -> "np.ndarray":
    """Draw each query and, in the same row, its nearest neighbors.

    Args:
        queries: Images (N, 3, H, W), uint8 or floats in [0, 1].
        nearest: Images (N, k, 3, H, W) of the same dtype, the nearest one first.
        correct: Bools (N, k): which neighbors are right. A right one gets a solid green frame, a
            wrong one a dotted red one.
        rows: A label for each query.
        title: Stands above the figure.

    Returns:
        An array of axes (N, 1 + k).

    Example:
        >>> images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> neighbors(images[:2], images[2:].unflatten(0, (2, 2))).shape
        (2, 3)
    """
    k = nearest.shape[1]
    images = torch.cat([queries[:, None], nearest], dim=1).flatten(0, 1)
    axes = grid(images, title=title, rows=rows, ncols=k + 1)
    if correct is None:
        return axes
    for ax, is_right in zip(axes[:, 1:].flat, correct.flatten().tolist(), strict=True):
        if is_right:
            look = {"color": COLORS[2], "linestyle": "-"}
        else:
            look = {"color": COLORS[5], "linestyle": (0, (1, 2.5))}  # dots with gaps
        ax.spines[:].set(visible=True, linewidth=2.5, **look)
    return axes


def bars(
    values: Mapping[str, float],
    *,
    title: str,
    errors: Mapping[str, float] | None = None,
    unit: str = "%",
    label: str = "accuracy",
    chance: float | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw horizontal bars with their values written beside them.

    Args:
        values: A number for each name, from top to bottom. With the unit "%" they are fractions.
        title: Stands above the axes.
        errors: The half-width of the error bar for each name, in the unit of the values; names
            may be missing.
        unit: The unit on the axis; "" for none.
        label: What the values are.
        chance: The value of guessing, drawn as a dashed line.
        ax: The axes to draw into; None makes a new figure.

    Returns:
        The axes.

    Example:
        >>> ax = bars({"pixels": 0.21, "SimCLR": 0.76}, title="Linear probe", chance=0.1)
        >>> ax.get_xlabel()
        'accuracy (%), dashed line: chance'
    """
    ax = _axes(ax, 0.35 * len(values) + 1)
    is_percent = unit == "%"
    factor = 100 if is_percent else 1
    lengths = [value * factor for value in values.values()]
    half_widths = None
    if errors is not None:
        half_widths = [errors.get(name, 0) * factor for name in values]
    drawn = ax.barh(list(values), lengths, xerr=half_widths, capsize=3, color=COLORS[0])
    ax.bar_label(drawn, fmt="%.1f" if is_percent else "%.3g", padding=4, fontsize=9)

    xlabel = label
    if unit:
        xlabel += f" ({unit})"
    if chance is not None:
        xlabel += ", dashed line: chance"
        ax.axvline(chance * factor, color=COLORS[1], linestyle="--")
    ax.set(title=title, xlabel=xlabel)
    ax.margins(x=0.15)
    ax.invert_yaxis()
    return ax


def curves(
    x: Sequence[float],
    lines: Mapping[str, Any],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    log: bool = False,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw lines over a common x, each with its own color, dash and marker.

    Args:
        x: n numbers.
        lines: For each name n numbers y, or a pair (mean, half-width of the band around it) of n
            numbers each.
        title: Stands above the axes.
        xlabel: What x is, with its unit.
        ylabel: What y is, with its unit.
        log: Draw x on a logarithmic scale, with all its values as ticks.
        ax: The axes to draw into; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: A line has another number of points than x.

    Example:
        >>> lines = {"a": [0.1, 0.5], "b": ([0.2, 0.3], [0.01, 0.02])}
        >>> ax = curves([1, 10], lines, title="Accuracy", xlabel="epoch", ylabel="fraction")
        >>> [line.get_label() for line in ax.lines]
        ['a', 'b']
    """
    ax = _axes(ax, 3.4)
    has_markers = len(x) <= MOST_MARKED
    for i, (name, line) in enumerate(lines.items()):
        y, band = line if isinstance(line, tuple) else (line, 0)
        y = torch.as_tensor(y).cpu()
        band = torch.as_tensor(band).cpu()
        color = COLORS[i % len(COLORS)]
        marker = MARKERS[i % len(MARKERS)] if has_markers else ""
        linestyle = DASHES[i % len(DASHES)]
        ax.plot(x, y, label=name, color=color, linestyle=linestyle, marker=marker, markersize=5)
        ax.fill_between(x, y - band, y + band, color=color, alpha=0.2, linewidth=0)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    if log:
        ax.set_xscale("log")
        ax.set_xticks(x, [f"{value:g}" for value in x])  # the values, not powers of ten
        ax.minorticks_off()
    ax.legend()
    return ax


def heatmap(
    matrix: torch.Tensor | Sequence[Sequence[float]],
    rows: Sequence[str],
    cols: Sequence[str],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    label: str,
    fmt: str = "%.2f",
    limits: tuple[float, float] = (0, 1),
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw a matrix as colors, with its values written in the cells.

    Args:
        matrix: Numbers (rows, columns).
        rows: A label for each row, from top to bottom.
        cols: A label for each column, from left to right.
        title: Stands above the axes.
        xlabel: What the columns are.
        ylabel: What the rows are.
        label: What the values are, with their unit: beside the color bar.
        fmt: How a value is written.
        limits: The values of the darkest and the brightest color.
        ax: The axes to draw into; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: The matrix has another shape than the labels.

    Example:
        >>> names = {"xlabel": "layer of A", "ylabel": "layer of B", "label": "CKA"}
        >>> ax = heatmap([[1.0, 0.2]], ["b1"], ["a1", "a2"], title="Two networks", **names)
        >>> [text.get_text() for text in ax.texts]
        ['1.00', '0.20']
    """
    matrix = torch.as_tensor(matrix).detach().cpu()
    shape = (len(rows), len(cols))
    if matrix.shape != shape:
        raise ValueError(f"matrix: expected shape {shape}, found {tuple(matrix.shape)}")
    ax = _axes(ax, 0.35 * len(rows) + 1.5)
    low, high = limits
    image = ax.imshow(matrix.numpy(), cmap="cividis", vmin=low, vmax=high, aspect="auto")
    for i in range(len(rows)):
        for j in range(len(cols)):
            value = matrix[i, j]
            is_dark = value < (low + high) / 2
            color = "white" if is_dark else "black"
            ax.text(j, i, fmt % value, ha="center", va="center", fontsize=9, color=color)
    ax.set_xticks(range(len(cols)), cols)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.figure.colorbar(image, label=label)
    return ax
