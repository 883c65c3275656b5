"""Figures of the measured pages: drawn by matplotlib, put into the page as SVG.

A figure takes the page's text color, so that it fits light and dark mode, and the page's font. Its
alternative text says in words what it shows.
"""

import html
import io
import math
import re
import textwrap
from collections.abc import Callable

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

# Okabe & Ito 2008, without black, which is ours, and yellow, which is hard to see on white.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 4)))
MARKERS = "sD^vPX"
INK = "#010203"  # stands for the page's text color until the figure is SVG
WIDTH = 6.0  # inches
LOOK = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "font.size": 10,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


# --- numbers as words ---


def amount(value: float) -> str:
    """Return a number with two or three digits: 0.87, 7.0, 24, 1,234."""
    if value < 0.995:
        return f"{value:.2f}"
    if value < 9.95:
        return f"{value:.1f}"
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Return seconds as s, ms or µs, with three digits."""
    if seconds >= 1:
        value, unit = seconds, "s"
    elif seconds >= 1e-3:
        value, unit = 1e3 * seconds, "ms"
    else:
        value, unit = 1e6 * seconds, "µs"
    digits = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{digits}\u00a0{unit}"


def panel_in_words(panel: dict) -> str:
    """Return a panel's alternative text: every contestant at the smallest and the largest size."""
    name_of_ours = panel["ours"]
    ours = {row["at"]: row for row in panel["curves"][name_of_ours]}
    sentences = [f"{panel['title']}."]
    for size in sorted({min(ours), max(ours)}):
        others = []
        for name, rows in panel["curves"].items():
            if name == name_of_ours:
                continue
            others += [f"{name} {amount(row['times'])} times" for row in rows if row["at"] == size]
        took = f"{name_of_ours} takes {duration(ours[size]['median_s'])}"
        compared = f"; {'; '.join(others)} as long" if others else ""
        sentences.append(f"At {size:,} ({panel['size']}): {took}{compared}.")
    return " ".join(sentences)


# --- from matplotlib to the page ---


def as_html(figure: Figure, *, alt: str, caption: str) -> str:
    """Return a figure as HTML without an empty line, which would end an HTML block in Markdown."""
    stream = io.StringIO()
    # Names inside the SVG are made from this; they must differ between the figures of a page.
    salt = {"svg.hashsalt": f"{caption} {alt}"}
    with matplotlib.rc_context(LOOK | salt):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    _, view_box, body = re.split(r'(viewBox="[^"]+")', stream.getvalue(), maxsplit=1)
    body = body[body.index(">") + 1 :]
    # A style element would hold for the whole page; the figure gets what it says as its own style.
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL)
    body = re.sub(r' id="([^"]+)"', lambda match: _kept_id(match, body), body)
    body = body.replace(INK, "currentColor")
    head = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {view_box} role="img" '
        f'style="stroke-linejoin: round" aria-label="{html.escape(alt)}">'
    )
    lines = [
        '<figure class="curves">',
        f"<figcaption>{html.escape(caption)}</figcaption>",
        '<div class="pst-scrollable-table-container">',  # on a phone; the theme knows the name
        head,
        *(line for line in body.splitlines() if line.strip()),
        "</div>",
        "</figure>",
    ]
    return "\n".join(lines)


def _kept_id(match: re.Match, body: str) -> str:
    """Keep the id of what is referred to; all others would stand twice on a page of two figures."""
    return match[0] if f"#{match[1]}" in body else ""


def _new_figure(heights: list[float]) -> tuple[Figure, list[Axes]]:
    """Return a figure with one axes above the other, of these heights in inches."""
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    return figure, list(axes)


def _looks(names: list[str], ours: str) -> dict[str, dict]:
    """Return {contestant: how its line looks}; ours is black (white in dark mode) and on top."""
    looks = {ours: dict(color=INK, linestyle="-", marker="o", linewidth=2.4, zorder=5)}
    others = [name for name in names if name != ours]
    for i, name in enumerate(others):
        looks[name] = dict(
            color=COLORS[i % len(COLORS)],
            linestyle=DASHES[i % len(DASHES)],
            marker=MARKERS[i % len(MARKERS)],
            linewidth=1.6,
        )
    return looks


def _log_ticks(axis, low: float, high: float) -> None:
    """Put plain numbers on a logarithmic axis: few of them, also where it spans no power of ten."""
    decades = math.log10(high / low)
    factors = (1, 1.5, 2, 3, 5, 7) if decades < 0.9 else (1, 2, 5) if decades < 2 else (1,)
    axis.set_major_locator(LogLocator(subs=factors, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _size_ticks(axes: Axes, sizes: list[int], label: str) -> None:
    """Name the measured sizes on a logarithmic x axis, but none that would cover its neighbor."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    span = math.log(sizes[-1] / sizes[0])
    named = []
    room_ends = math.inf
    for size in reversed(sizes):  # the largest is always named
        place = math.log(size / sizes[0]) / span
        half_width = 0.011 * len(f"{size:,}")
        if place + half_width < room_ends:
            named.append(size)
            room_ends = place - half_width
    axes.set_xticks(named, [f"{size:,}" for size in named])
    axes.set_xlabel(label)


def _legend(axes: Axes, labels: dict[str, str]) -> None:
    """Name the lines beside the axes, in this order, each with its last value."""
    lines = {line.get_gid(): line for line in axes.get_lines() if line.get_gid() in labels}
    axes.legend(
        [lines[name] for name in labels],
        list(labels.values()),
        loc="upper left",
        bbox_to_anchor=(1.0, 1.02),
        fontsize=9.5,
    )


# --- the figures ---


def panel_figure(panel: dict) -> str:
    """Return a panel of `benchmarks/shared.py` as a figure.

    Above: how many times as long as ours a call takes; below, where it was measured: memory.

    Args:
        panel: A dict with title, size, unit, ours and curves; see `benchmarks/shared.py: record`.

    Returns:
        HTML. Of a single size only the title: there the table says all.
    """
    rows = [row for curve in panel["curves"].values() for row in curve]
    sizes = sorted({row["at"] for row in rows})
    if len(sizes) == 1:
        return f"**{panel['title']}**"
    has_memory = any((row.get("memory_mb") or 0) > 1 for row in rows)
    with matplotlib.rc_context(LOOK):
        figure, axes = _new_figure([3.0, 2.2] if has_memory else [3.0])
        looks = _looks(list(panel["curves"]), panel["ours"])
        _draw_times(axes[0], panel, looks)
        if has_memory:
            _draw_memory(axes[1], panel, looks)
        for one in axes:
            _size_ticks(one, sizes, panel["size"])
    return as_html(figure, alt=panel_in_words(panel), caption=panel["title"])


def _draw_times(axes: Axes, panel: dict, looks: dict[str, dict]) -> None:
    labels = {}
    for name, look in looks.items():
        rows = sorted(panel["curves"][name], key=lambda row: row["at"])
        sizes = [row["at"] for row in rows]
        fewest = [row["fewest"] for row in rows]
        most = [row["most"] for row in rows]
        axes.plot(sizes, [row["times"] for row in rows], gid=name, markersize=5, **look)
        axes.fill_between(sizes, fewest, most, color=look["color"], alpha=0.18, linewidth=0)
        last = "1" if name == panel["ours"] else amount(rows[-1]["times"])
        labels[name] = f"{_wrapped(name)}: {last}"
    rows = [row for curve in panel["curves"].values() for row in curve]
    # Wide limits, so that a small difference looks small.
    low = min(0.45, min(row["fewest"] for row in rows) / 1.2)
    high = max(2.2, max(row["most"] for row in rows) * 1.2)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    _log_ticks(axes.yaxis, low, high)
    axes.set_title(f"times as long as {panel['ours']} ({panel['unit']})")
    axes.grid(axis="y", color=INK, alpha=0.2)
    _legend(axes, labels)


def _draw_memory(axes: Axes, panel: dict, looks: dict[str, dict]) -> None:
    """Megabytes at the peak of a call; what is below one is drawn as one."""
    labels = {}
    highest = 1.0
    for name, look in looks.items():
        measured = [row for row in panel["curves"][name] if row.get("memory_mb") is not None]
        if not measured:
            continue
        measured.sort(key=lambda row: row["at"])
        megabytes = [max(1.0, row["memory_mb"]) for row in measured]
        axes.plot([row["at"] for row in measured], megabytes, gid=name, markersize=5, **look)
        last = f"{megabytes[-1]:,.0f}" if megabytes[-1] > 1 else "below 1"
        labels[name] = f"{_wrapped(name)}: {last}"
        highest = max(highest, *megabytes)
    axes.set_yscale("log")
    axes.set_ylim(0.8, 1.2 * highest)
    _log_ticks(axes.yaxis, 0.8, 1.2 * highest)
    axes.set_title("MB at the peak of a call")
    axes.grid(axis="y", color=INK, alpha=0.2)
    _legend(axes, labels)


def _wrapped(name: str, width: int = 22) -> str:
    """Return a name in lines of at most so many letters."""
    return "\n".join(textwrap.wrap(name, width))


def growth_figure(
    curves: dict[str, list[tuple]],
    ours: str = "course",
    in_words: Callable[[str], str] = lambda name: name.replace("_", " "),
) -> str:
    """Return how the kNN accuracy of recipes grew while they trained.

    Args:
        curves: {recipe: [(views, mean, lowest, highest)]}, accuracies in percent.
        ours: The recipe that is drawn on top.
        in_words: Gives what a reader calls a recipe.

    Returns:
        HTML.
    """
    caption = (
        "On the way: kNN on 10,000 training and 2,000 other pictures. "
        "Line: mean of the seeds; band: all of them."
    )
    ends = []
    with matplotlib.rc_context(LOOK):
        figure, (axes,) = _new_figure([3.2])
        labels = {}
        for name, look in _looks(list(curves), ours).items():
            views, means, lowest, highest = zip(*curves[name], strict=True)
            axes.plot(views, means, gid=name, markersize=4, **look)
            axes.fill_between(views, lowest, highest, color=look["color"], alpha=0.18, linewidth=0)
            label = in_words(name)
            labels[name] = f"{_wrapped(label)}: {means[-1]:.1f}"
            ends.append(f"{label} {means[0]:.1f} to {means[-1]:.1f} %")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel("views")
        axes.set_title("kNN accuracy (%)")
        axes.grid(axis="y", color=INK, alpha=0.2)
        _legend(axes, labels)
    return as_html(figure, alt=f"{caption} {'; '.join(ends)}", caption=caption)


def goals_figure(goals: list[dict]) -> str:
    """Return how far each goal was exceeded or missed.

    Args:
        goals: Each with its `sentence`, and the numbers `found` and `least`.

    Returns:
        HTML; an empty text if there is none.
    """
    if not goals:
        return ""
    caption = "What was measured, as a multiple of what had been set as the goal"
    words = []
    with matplotlib.rc_context(LOOK):
        figure, (axes,) = _new_figure([0.42 * len(goals) + 0.7])
        for place, goal in enumerate(goals):
            share = goal["found"] / goal["least"]
            color = COLORS[1] if goal["reached"] else COLORS[0]
            axes.plot(share, place, color=color, marker="o" if goal["reached"] else "X")
            words.append(f"{goal['sentence']} {share:.2g}")
        labels = [_wrapped(goal["sentence"], width=38) for goal in goals]
        axes.set_yticks(range(len(goals)), labels, fontsize=8)
        axes.set_ylim(len(goals) - 0.5, -0.5)
        axes.set_xscale("log")
        _log_ticks(axes.xaxis, *axes.get_xlim())
        axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel("times the goal; 1 or more: reached")
        axes.grid(axis="y", color=INK, alpha=0.15)
        axes.tick_params(axis="y", length=0)
    return as_html(figure, alt=f"{caption}: {'; '.join(words)}", caption=caption)


def differences_figure(groups: dict[str, list[tuple[str, float, float]]]) -> str:
    """Return differences with their intervals, one axes a group.

    Args:
        groups: {heading: [(recipe, difference in points, half-width of its interval)]}.

    Returns:
        HTML; an empty text if there is nothing to draw.
    """
    groups = {heading: rows for heading, rows in groups.items() if rows}
    if not groups:
        return ""
    words = []
    caption = "Differences in kNN accuracy, in points, with their 95 % intervals"
    with matplotlib.rc_context(LOOK):
        figure, axes = _new_figure([0.26 * len(rows) + 0.7 for rows in groups.values()])
        for one, (heading, rows), color in zip(axes, groups.items(), COLORS[1::-1], strict=False):
            for place, (name, mean, half_width) in enumerate(rows):
                one.errorbar(mean, place, xerr=half_width, fmt="o", color=color, markersize=5)
                words.append(f"{name} {mean:+.1f} ± {half_width:.1f}")
            one.set_yticks(range(len(rows)), [name for name, _, _ in rows])
            one.set_ylim(len(rows) - 0.5, -0.5)
            one.axvline(0, color=INK, linewidth=0.8, linestyle=":")
            one.set_title(heading)
            one.grid(axis="x", color=INK, alpha=0.15)
            one.tick_params(axis="y", length=0)
        lows, highs = zip(*(one.get_xlim() for one in axes), strict=True)
        for one in axes:
            one.set_xlim(min(lows), max(highs))
    return as_html(figure, alt=f"{caption}: {'; '.join(words)}", caption=caption)
