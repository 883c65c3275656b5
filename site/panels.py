"""A record of `benchmarks/shared.py` as part of a page: figures, tables, goals, and its machine."""

import json
import math
import sys

import figures
import measured
from measured import escape, mark, markdown_table, stored

sys.path.insert(0, str(measured.ROOT))
from scripts import recipes_table

DIFFERENCES = {  # recipe that others are compared with: heading of their figure
    "lightly": "kNN accuracy, points above or below lightly's recipe",
    "course": "ours with one change, points above or below ours",
}


# --- a benchmark ---


def panels(name: str) -> str:
    """Return what benchmarks/NAME.py measured: figures, tables, goals, and on what machine."""
    record = stored(name, "panels")
    parts = []
    for panel in record["panels"]:
        parts.append(figures.panel_figure(panel))
        parts.append(ratios(panel))
        parts.append(largest_errors(panel))
    parts.append("\n".join(f"- {goal_sentence(goal)}" for goal in record["goals"]))
    parts.append(measured_with(record))
    return "\n\n".join(part for part in parts if part)


def ratios(panel: dict) -> str:
    """Return a table, a row a size: our time, and how many times as long every other takes."""
    ours = panel["ours"]
    names = [ours, *(name for name in panel["curves"] if name != ours)]
    cells = {}  # size -> contestant -> text
    for name in names:
        for row in panel["curves"][name]:
            cells.setdefault(row["at"], {})[name] = ratio_cell(row, is_ours=name == ours)
    lines = []
    for size in sorted(cells):
        lines.append([f"{size:,}", *(cells[size].get(name, "not run") for name in names)])
    return markdown_table([escape(panel["size"]), *map(escape, names)], lines)


def ratio_cell(row: dict, *, is_ours: bool) -> str:
    """Return one measurement: a time if it is ours, else a ratio with the range of its turns."""
    if is_ours:
        text = figures.duration(row["median_s"])
    else:
        text = f"{figures.amount(row['times'])}\u00a0× ({spread(row)})"
    if row.get("memory_mb") is not None:
        text += f", {row['memory_mb']:,.0f}\u00a0MB"
    return text


def spread(row: dict) -> str:
    """Return the range from the fewest to the most of all turns."""
    fewest = figures.amount(row["fewest"])
    most = figures.amount(row["most"])
    return fewest if fewest == most else f"{fewest} to {most}"


def largest_errors(panel: dict) -> str:
    """Return how far from the reference all contestants are at most, if the benchmark says so."""
    largest = {}
    for curve in panel["curves"].values():
        for row in curve:
            for name, value in row.items():
                if name.endswith("_error") and value is not None:
                    largest[name] = max(largest.get(name, 0), value)
    if not largest:
        return ""
    words = []
    for name, value in largest.items():
        quantity = name.removesuffix("_error").replace("_", " ")
        words.append(f"{quantity} {value:.1g}")
    return f"Largest difference from the reference, of all contestants: {', '.join(words)}."


def goal_sentence(goal: dict) -> str:
    """Return a goal as a sentence, with more digits where its two numbers are near each other."""
    is_near = abs(goal["found"] - goal["least"]) < 0.01 * goal["least"]
    number = f"{goal['found']:.6g}" if is_near else f"{goal['found']:.3g}"
    sentence = f"{escape(goal['sentence'])}: {number}, expected {goal['least']:g} or more."
    if not goal["reached"] and goal.get("why"):
        sentence += escape(f" Why: {goal['why'].rstrip('.')}.")
    return f"{mark(goal['reached'])} {sentence}"


def measured_with(record: dict) -> str:
    """Return command, hardware and versions of a record as one line.

    The number of threads is left out where the titles of the panels name it.
    """
    hardware = record["hardware"]
    machine = f"{hardware['cpu']}, {hardware['cpus']} CPUs"
    if not any("thread" in panel["title"] for panel in record["panels"]):
        plural = "" if hardware["threads"] == 1 else "s"
        machine += f", {hardware['threads']} thread{plural}"
    versions = ", ".join(f"{name}\u00a0{version}" for name, version in record["versions"].items())
    return f"Measured by `{record['command']}` on {escape(machine)}; {escape(versions)}."


def goals() -> str:
    """Return how many goals of all stored results were reached, and those that were missed."""
    every = []
    for path in sorted(measured.RESULTS.glob("*.json")):
        every += json.loads(path.read_text("utf-8")).get("goals", ())
    missed = [goal for goal in every if not goal["reached"]]
    reached = len(every) - len(missed)
    sentence = f"Of {len(every)} goals that were set before measuring, {reached} are reached"
    if not missed:
        return f"{sentence}."
    lines = [f"- {goal_sentence({**goal, 'why': ''})}" for goal in missed]
    return "\n".join([f"{sentence}. Missed, more on each below:\n", *lines])


# --- the comparison of recipes ---


def recipes() -> str:
    """Return every group of comparable pretraining runs: a figure, its tables, how kNN grew."""
    parts = []
    for about, group in recipes_table.results().items():
        rows = recipes_table.rows(group)
        heading, images = recipes_table.title(about)
        parts.append(f"## {heading}")
        parts.append(f"Pictures: {images}.")
        parts.append(differences(rows))
        parts.append(recipes_table.markdown_tables(rows))
        parts.append(figures.growth_figure(recipes_table.growth(group)))
    return "\n\n".join(part for part in parts if part)


def differences(rows: list[dict]) -> str:
    """Return the figure of the kNN differences, for all rows whose interval is known."""
    groups = {heading: [] for heading in DIFFERENCES.values()}
    for row in rows:
        mean, half_width = row.get("knn_gain", (0.0, math.nan))
        if not math.isnan(half_width):
            name = row["name"].replace("_", " ")
            groups[DIFFERENCES[row["base"]]].append((name, mean, half_width))
    return figures.differences_figure(groups)
