"""A record of benchmarks/shared.py as part of a page: figures, tables, goals, and what it was measured with."""

import json
import math
import runpy

import curves
import measured
from measured import escape, mark, stored, table


def panels(name):
    """What benchmarks/NAME.py measured: figures, tables, goals, and on what."""
    found = stored(name, "panels")
    parts = [
        part
        for panel in found["panels"]
        for part in (curves.figure(panel), ratios(panel), *errors(panel))
    ]
    said = "\n".join(f"- {goal(one)}" for one in found["goals"])
    return "\n\n".join(part for part in (*parts, said, measured_with(found)) if part)


def ratios(panel):
    """A row a size: our time, and how many times as long every other takes, with the fewest and most of the turns."""
    names = [panel["ours"], *(name for name in panel["curves"] if name != panel["ours"])]
    rows = {}
    for name in names:
        for row in panel["curves"][name]:
            took = (
                curves.duration(row["median_s"])
                if name == panel["ours"]
                else f"{curves.amount(row['times'])}\u00a0× ({spread(row)})"
            )
            memory = row.get("memory_mb")
            rows.setdefault(row["at"], {})[name] = took + (
                f", {memory:,.0f}\u00a0MB" if memory is not None else ""
            )
    lines = [
        [f"{at:,}", *(cells.get(name, "not run") for name in names)]
        for at, cells in sorted(rows.items())
    ]
    return table([escape(panel["size"]), *map(escape, names)], lines)


def errors(panel):
    """How far from the reference all contestants are, at most, if the benchmark says so: nothing or one sentence."""
    most = {}
    for row in (row for rows in panel["curves"].values() for row in rows):
        for name in (name for name in row if name.endswith("_error") and row[name] is not None):
            most[name] = max(most.get(name, 0), row[name])
    said = ", ".join(f"{name[:-6].replace('_', ' ')} {value:.1g}" for name, value in most.items())
    return [f"Largest difference from the reference, of all contestants: {said}."] * bool(said)


def spread(row):
    fewest, most = curves.amount(row["fewest"]), curves.amount(row["most"])
    return fewest if fewest == most else f"{fewest} to {most}"


def goal(found):
    """A goal as a sentence; with more digits where the numbers are near each other."""
    number = f"{found['found']:.{6 if abs(found['found'] - found['least']) < 0.01 * found['least'] else 3}g}"
    said = f"{escape(found['sentence'])}: {number}, expected {found['least']:g} or more."
    why = f" Why: {found['why'].rstrip('.')}." if not found["reached"] and found.get("why") else ""
    return f"{mark(found['reached'])} {said}{escape(why)}"


def measured_with(found):
    """Command, hardware and versions of a record, as a small line; threads where no title of a panel names them."""
    hardware = found["hardware"]
    where = f"{hardware['cpu']}, {hardware['cpus']} CPUs"
    if not any("thread" in panel["title"] for panel in found["panels"]):
        where += f", {hardware['threads']} thread{'s' * (hardware['threads'] != 1)}"
    versions = ", ".join(f"{name}\u00a0{version}" for name, version in found["versions"].items())
    return f"Measured by `{found['command']}` on {escape(where)}; {escape(versions)}."


def goals():
    """All goals of the stored results counted, and those that were missed."""
    records = [
        json.loads(path.read_text("utf-8")) for path in sorted(measured.RESULTS.glob("*.json"))
    ]
    found = [one for record in records for one in record.get("goals", ())]
    missed = [f"- {goal({**one, 'why': ''})}" for one in found if not one["reached"]]
    said = f"Of {len(found)} goals that were set before measuring, {len(found) - len(missed)} are reached"
    return "\n".join([said + ". Missed, more on each below:\n", *missed]) if missed else said + "."


def recipes():
    """Every group of comparable pretraining runs: a picture, its tables, and how kNN grew."""
    module = runpy.run_path(str(measured.ROOT / "scripts" / "recipes_table.py"))
    parts = []
    for about, group in module["results"]().items():
        rows = module["rows"](group)
        figure = f'<figure style="overflow-x:auto">\n{module["picture"](rows)}\n</figure>'
        heading, pictures = module["title"](about)
        parts += [f"## {heading}", f"Pictures: {pictures}.", figure, module["table"](rows)]
        parts.append(growth(module["growth"](group)))
    return "\n\n".join(parts)


def growth(seen):
    """The figure of what recipes_table.growth found."""
    rows = [row for points in seen.values() for row in points]
    most, low, high = (
        max(row[0] for row in rows),
        min(row[2] for row in rows) - 1,
        max(row[3] for row in rows) + 1,
    )
    left, right, top, bottom = curves.LEFT, curves.RIGHT, 30, 240
    x = lambda views: left + (right - left) * views / most
    y = lambda knn: bottom - (bottom - top) * (knn - low) / (high - low)
    step = 5 if high - low > 10 else 2
    marks = range(math.ceil(low / step) * step, math.ceil(high), step)
    parts = curves.axes(
        x,
        y,
        [int(round(most, -5)) // 2 * k for k in range(3)],
        marks,
        top,
        bottom,
        "kNN accuracy (%)",
    )
    looks, ends = curves.look(seen, "course"), {}
    for name in reversed(seen):  # ours is drawn last, on top
        points = [(x(row[0]), y(row[1])) for row in seen[name]]
        band = [(x(row[0]), y(row[2])) for row in seen[name]] + [
            (x(row[0]), y(row[3])) for row in reversed(seen[name])
        ]
        parts += curves.drawn(points, *looks[name], band)
        ends[name] = (*points[-1], name.replace("_", " "))
    parts += curves.labels(ends, looks, top, bottom)
    parts.append(curves.text((left + right) / 2, bottom + 36, "views", "middle"))
    caption = "On the way: kNN on 10,000 training and 2,000 test pictures. Line: mean of the seeds; band: all of them."
    said = "; ".join(
        f"{name.replace('_', ' ')} {row[0][1]:.1f} to {row[-1][1]:.1f} %"
        for name, row in seen.items()
    )
    head = (
        f'<svg viewBox="0 0 {curves.WIDTH} {bottom + 44}" role="img" aria-label="{caption} {said}">'
    )
    caption = f"<figcaption>{caption}</figcaption>"
    return "\n".join(['<figure class="curves">', caption, head, *parts, "</svg>", "</figure>"])
