"""Numbers -> axes. Each function draws one titled figure and returns its axes; `ax=` draws into a figure of your own.

In a notebook the figure appears once, when the cell ends: close the line with `;` (`plot.bars(...);`), or assign it."""

import torch

COLORS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#000000",
)  # Okabe & Ito 2008


def style():
    """Set the course's look (color-blind-safe colors, text of 9 points or more at 100 dpi) and return pyplot."""
    import matplotlib.pyplot as plt

    sizes = {
        "font.size": 10,
        "axes.titlesize": 11,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.fontsize": 9,
    }
    look = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "legend.frameon": False,
    }
    page = {"figure.dpi": 100, "savefig.dpi": 100, "figure.constrained_layout.use": True}
    plt.rcParams.update(sizes | look | page | {"axes.prop_cycle": plt.cycler(color=COLORS)})
    return plt


def grid(images, *, title, titles=None, rows=None, ncols=8, size=0.75):
    """Draw pictures (N, 3 or 1, H, W), uint8 or float in [0, 1], `size` inches each; `rows` are the labels of rows."""
    if (
        not isinstance(images, torch.Tensor)
        or images.ndim != 4
        or images.shape[1] not in (1, 3)
        or not images.numel()
    ):
        raise ValueError(
            f"images: expected (N, 3 or 1, H, W), N >= 1, found {getattr(images, 'shape', type(images))}"
        )
    n, ncols = len(images), min(ncols, len(images))
    nrows = -(-n // ncols)
    if len(titles or images) != n or len(rows or range(nrows)) != nrows:
        raise ValueError(
            f"expected {n} titles and {nrows} rows, found {len(titles or images)}, {len(rows or [])}"
        )
    shape = (
        size * ncols + (1.2 if rows else 0.1),
        (size + (0.22 if titles else 0.05)) * nrows + 0.35,
    )
    figure, axes = style().subplots(nrows, ncols, figsize=shape, squeeze=False)
    images = (
        images.detach().cpu() / 255
        if images.dtype == torch.uint8
        else images.detach().cpu().float().clamp(0, 1)
    )
    for i, ax in enumerate(axes.flat):
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if i < n:
            ax.imshow(images[i].permute(1, 2, 0).expand(-1, -1, 3).numpy(), interpolation="nearest")
            ax.set_title(titles[i] if titles else "", fontsize=9, loc="center", pad=2)
        if rows and i % ncols == 0:
            ax.set_ylabel(rows[i // ncols], rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return axes


def neighbors(
    queries, found, *, correct=None, rows=None, title="Left: the query; then its nearest neighbors"
):
    """Draw queries (N, 3, H, W), then neighbors (N, k, 3, H, W), framed by correct (N, k): solid or dashed."""
    axes = grid(
        torch.cat([queries[:, None], found], 1).flatten(0, 1),
        title=title,
        rows=rows,
        ncols=found.shape[1] + 1,
    )
    for ax, right in (
        [] if correct is None else zip(axes[:, 1:].flat, correct.flatten().tolist(), strict=True)
    ):
        look = (
            dict(color=COLORS[2], linestyle="-")
            if right
            else dict(color=COLORS[5], linestyle=(0, (1, 2.5)))
        )
        ax.spines[:].set(visible=True, linewidth=2.5, **look)
    return axes


def bars(values, *, title, errors=None, unit="%", label="accuracy", chance=None, ax=None):
    """Draw {name: value} as horizontal bars with errors {name: half-width}; with unit "%" values are fractions."""
    ax, factor = (
        ax or style().subplots(figsize=(6.4, 0.35 * len(values) + 1))[1],
        100 if unit == "%" else 1,
    )
    widths = None if errors is None else [errors.get(name, 0) * factor for name in values]
    drawn = ax.barh(
        list(values), [v * factor for v in values.values()], xerr=widths, capsize=3, color=COLORS[0]
    )
    ax.bar_label(drawn, fmt="%.1f" if unit == "%" else "%.3g", padding=4, fontsize=9)
    if chance is not None:
        ax.axvline(chance * factor, color=COLORS[1], linestyle="--")
    ax.set(
        title=title,
        xlabel=label + f" ({unit})" * bool(unit) + ", dashed line: chance" * (chance is not None),
    )
    ax.margins(x=0.15)
    ax.invert_yaxis()
    return ax


def curves(x, lines, *, title, xlabel, ylabel, log=False, ax=None):
    """Draw {name: y, or (mean, half-width of the band)} over x, each line with its own color, dash and marker."""
    ax = ax or style().subplots(figsize=(6.4, 3.4))[1]
    for i, (name, y) in enumerate(lines.items()):
        y, band = (torch.as_tensor(v).cpu() for v in (y if isinstance(y, tuple) else (y, 0)))
        look = dict(color=COLORS[i % 8], linestyle=("-", "--", "-.", ":")[i % 4])
        ax.plot(
            x, y, label=name, marker="osD^vPX*"[i % 8] if len(x) <= 20 else "", markersize=5, **look
        )
        ax.fill_between(x, y - band, y + band, color=COLORS[i % 8], alpha=0.2, linewidth=0)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    if log:  # the values themselves as ticks, not powers of ten
        ax.set_xscale("log")
        ax.set_xticks(x, [f"{v:g}" for v in x])
        ax.minorticks_off()
    ax.legend()
    return ax


def heatmap(
    matrix, rows, cols, *, title, xlabel, ylabel, label, fmt="%.2f", limits=(0, 1), ax=None
):
    """Draw a matrix (rows, cols) with its values written in the cells; label names the quantity of the color bar."""
    if (matrix := torch.as_tensor(matrix).detach().cpu()).shape != (len(rows), len(cols)):
        raise ValueError(
            f"matrix: expected shape {(len(rows), len(cols))}, found {tuple(matrix.shape)}"
        )
    ax = ax or style().subplots(figsize=(6.4, 0.35 * len(rows) + 1.5))[1]
    picture = ax.imshow(
        matrix.numpy(), cmap="cividis", vmin=limits[0], vmax=limits[1], aspect="auto"
    )
    for i, j in torch.cartesian_prod(torch.arange(len(rows)), torch.arange(len(cols))).tolist():
        color = "white" if matrix[i, j] < sum(limits) / 2 else "black"
        ax.text(j, i, fmt % matrix[i, j], ha="center", va="center", fontsize=9, color=color)
    ax.set_xticks(range(len(cols)), cols)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.figure.colorbar(picture, label=label)
    return ax
