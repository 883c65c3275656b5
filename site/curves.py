"""A record of benchmarks/shared.py as part of a page: each panel a figure (SVG) with a table, then the goals.

A figure shows how many times as long as ours a call takes (logarithmic; ours is 1, the band holds every turn) and,
where it was measured, memory. Black is the page's text color, so that a figure fits light and dark mode.
"""

import html
import math
import textwrap

# Okabe & Ito 2008, without black, which is ours, and yellow, which is hard to see on white
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("", "6 3", "2 3", "8 3 2 3", "4 4", "1 4")
WIDTH, LEFT, RIGHT, STEP = 440, 46, 274, 15  # the picture; the plot's edges; a line of a label


# --- numbers as words -------------------------------------------------------------------------------------------------


def amount(value):
    """A number with two or three digits: 0.87, 7.0, 24, 1,234."""
    return f"{value:.2f}" if value < 0.995 else f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"


def duration(seconds):
    """Seconds as s, ms or µs."""
    factor, unit = (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "µs")
    value = seconds * factor
    return (f"{value:.3g}" if value < 1000 else f"{value:,.0f}") + "\u00a0" + unit


def alt(panel):
    """The figure in words: every contestant at the smallest and at the largest size."""
    ours = {row["at"]: row for row in panel["curves"][panel["ours"]]}
    sentences = [panel["title"] + "."]
    for at in sorted({min(ours), max(ours)}):
        others = "; ".join(
            f"{name} {amount(row['times'])} times"
            for name, rows in panel["curves"].items()
            for row in rows
            if name != panel["ours"] and row["at"] == at
        )
        took = f"{panel['ours']} takes {duration(ours[at]['median_s'])}"
        sentences.append(
            f"At {at:,} ({panel['size']}): {took}" + (f"; {others} as long." if others else ".")
        )
    return " ".join(sentences)


# --- the figure -------------------------------------------------------------------------------------------------------


def scale(low, high, start, end):
    """A function from [low, high], logarithmic, to [start, end]."""
    return lambda value: start + (end - start) * math.log(value / low) / math.log(high / low)


def ticks(low, high):
    """Six round numbers in [low, high] or fewer: 1, 1.5, 2, 3, 5, 7, or 1, 2, 5, or powers of ten."""
    powers = [10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    for factors, every in (
        ((1, 1.5, 2, 3, 5, 7), 1),
        ((1, 2, 5), 1),
        ((1, 3), 1),
        ((1,), 1),
        ((1,), 2),
    ):
        found = [
            power * factor
            for power in powers[::every]
            for factor in factors
            if low <= power * factor <= high
        ]
        if len(found) <= 6:
            break
    return found


def text(x, y, words, anchor="start", weight="normal"):
    words = html.escape(words)
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="13.5" font-weight="{weight}" '
        f'fill="currentColor">{words}</text>'
    )


def line(x1, y1, x2, y2, opacity=0.2, width=1):
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" '
        f'stroke-width="{width}" opacity="{opacity}"/>'
    )


def spread_out(centers, heights, top, bottom):
    """Move labels (given from top to bottom) apart until none covers another, inside [top, bottom] if there is room."""
    placed, free = [], top
    for center, height in zip(centers, heights, strict=True):
        placed.append(max(center, free + height / 2))
        free = placed[-1] + height / 2
    end = max(bottom, top + sum(heights))
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], end - heights[i] / 2)
        end = placed[i] - heights[i] / 2
    return placed


def look(names, ours):
    """{contestant: (color, dashes, width)}."""
    others = [name for name in names if name != ours]
    looks = {name: (COLORS[i % 6], DASHES[i % 6], 2) for i, name in enumerate(others)}
    return {ours: ("currentColor", "", 3)} | looks


def drawn(points, color, dash, width, band=()):
    """One contestant: its band, its line, its points."""
    path, edge = (" ".join(f"{x:.1f},{y:.1f}" for x, y in ends) for ends in (points, band))
    stroke = f'stroke="{color}" stroke-width="{width}" stroke-dasharray="{dash}"'
    parts = [f'<polygon points="{edge}" fill="{color}" opacity="0.18"/>'] * bool(band)
    parts.append(f'<polyline points="{path}" fill="none" {stroke}/>')
    return parts + [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{width + 1}" fill="{color}"/>' for x, y in points
    ]


def labels(ends, looks, top, bottom):
    """At the right the name of every line, joined to its end: ends = {contestant: (x, y, words)}."""
    names = sorted(ends, key=lambda name: ends[name][1])
    lines = [textwrap.wrap(ends[name][2], 20) for name in names]
    places = spread_out(
        [ends[n][1] for n in names], [STEP * len(words) + 3 for words in lines], top, bottom
    )
    parts = []
    for name, words, place in zip(names, lines, places, strict=True):
        x, y, color = *ends[name][:2], looks[name][0]
        path = f"M{x:.1f},{y:.1f} L{RIGHT + 10},{place:.1f} h4"
        parts.append(f'<path d="{path}" fill="none" stroke="{color}" opacity="0.7"/>')
        first = place - STEP * len(words) / 2 + 12
        parts += [
            text(
                RIGHT + 18,
                first + STEP * i,
                word,
                weight="bold" if name == next(iter(looks)) else "normal",
            )
            for i, word in enumerate(words)
        ]
    return parts


def axes(x, y, sizes, marks, top, bottom, title):
    """Grid lines with their numbers, and what they count, above."""
    parts = [text(0, top - 10, title)]
    for mark in marks:
        parts += [
            line(LEFT, y(mark), RIGHT, y(mark)),
            text(LEFT - 6, y(mark) + 4, f"{mark:,g}", "end"),
        ]
    last = -math.inf
    for at in reversed(sizes):  # the largest is always named
        words = f"{at:,}"
        if abs(last - x(at)) > 7 * len(words) + 5:
            parts.append(text(x(at), bottom + 17, words, "middle"))
            last = x(at)
        parts.append(line(x(at), bottom, x(at), bottom + 4, 0.6))
    return [*parts, line(LEFT, bottom, RIGHT, bottom, 0.6)]


def times_axes(panel, looks, x, sizes, top, bottom):
    """How many times as long as ours."""
    rows = [row for rows in panel["curves"].values() for row in rows]
    low, high = min(row["fewest"] for row in rows) / 1.2, max(row["most"] for row in rows) * 1.2
    low, high = min(low, 0.45), max(high, 2.2)  # a small difference looks small
    y = scale(low, high, bottom, top)
    parts = axes(
        x,
        y,
        sizes,
        ticks(low, high),
        top,
        bottom,
        f"times as long as {panel['ours']} ({panel['unit']})",
    )
    ends = {}
    for name in reversed(looks):  # ours is drawn last, on top
        rows = sorted(panel["curves"][name], key=lambda row: row["at"])
        points = [(x(row["at"]), y(row["times"])) for row in rows]
        band = [(x(r["at"]), y(r["fewest"])) for r in rows] + [
            (x(r["at"]), y(r["most"])) for r in reversed(rows)
        ]
        parts += drawn(points, *looks[name], band)
        ends[name] = (
            *points[-1],
            f"{name}:\u00a0{'1' if name == panel['ours'] else amount(rows[-1]['times'])}",
        )
    return parts + labels(ends, looks, top, bottom)


def brief(name, names):
    """A contestant's name to its first comma, where no other begins like it."""
    short = name.split(",")[0]
    return name if sum(other.split(",")[0] == short for other in names) > 1 else short


def memory_axes(panel, looks, x, sizes, top, bottom):
    """Megabytes at the peak of a call; what is below one is drawn as one."""
    curves = {
        name: [
            (r["at"], max(1, r["memory_mb"]))
            for r in sorted(panel["curves"][name], key=lambda r: r["at"])
            if r.get("memory_mb") is not None
        ]
        for name in looks
    }
    curves = {name: rows for name, rows in curves.items() if rows}
    low, high = 0.8, 1.2 * max(mb for rows in curves.values() for _, mb in rows)
    y = scale(low, high, bottom, top)
    parts = axes(x, y, sizes, ticks(low, high), top, bottom, "MB at the peak of a call")
    ends = {}
    for name, rows in reversed(curves.items()):
        points = [(x(at), y(mb)) for at, mb in rows]
        parts += drawn(points, *looks[name])
        last = f"{rows[-1][1]:,.0f}" if rows[-1][1] > 1 else "below\u00a01"
        ends[name] = (*points[-1], f"{brief(name, curves)}:\u00a0{last}")
    return parts + labels(ends, looks, top, bottom)


def figure(panel):
    """The panel as HTML without an empty line; of one size the table says all."""
    looks = look(panel["curves"], panel["ours"])
    rows = [row for rows in panel["curves"].values() for row in rows]
    sizes = sorted({row["at"] for row in rows})
    if len(sizes) == 1:
        return f"**{panel['title']}**"
    x = scale(sizes[0], sizes[-1], LEFT + 14, RIGHT - 8)
    parts, bottom = times_axes(panel, looks, x, sizes, 30, 240), 240
    if any((row.get("memory_mb") or 0) > 1 for row in rows):
        parts, bottom = parts + memory_axes(panel, looks, x, sizes, 305, 435), 435
    parts.append(text((LEFT + RIGHT) / 2, bottom + 36, panel["size"], "middle"))
    head = f'<svg viewBox="0 0 {WIDTH} {bottom + 44}" role="img" aria-label="{html.escape(alt(panel))}">'
    caption = f"<figcaption>{html.escape(panel['title'])}</figcaption>"
    return "\n".join(['<figure class="curves">', caption, head, *parts, "</svg>", "</figure>"])
