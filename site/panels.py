"""A record of `benchmarks/shared.py` as part of a page: figures, tables, goals, and its machine."""

import json
import math
import re
import sys
from collections.abc import Iterable

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
    shown = []
    folded_parts = []
    for panel in record["panels"]:
        shown.append(figures.panel_figure(panel))
        folded_parts.append(f"{panel['title']}:")
        folded_parts.append(ratios(panel))
        folded_parts.append(largest_errors(panel))
    shown.append("\n".join(f"- {goal_sentence(goal)}" for goal in record["goals"]))
    folded_parts.append(measured_with(record))
    shown.append(folded("All numbers, and the machine", folded_parts))
    return "\n\n".join(part for part in shown if part)


def folded(summary: str, parts: Iterable[str]) -> str:
    """Return parts of a page behind a handle that says what they are."""
    inside = "\n\n".join(part for part in parts if part)
    return f"<details><summary>{summary}</summary>\n\n{inside}\n\n</details>"


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


def every_goal(notebooks: Iterable[tuple[str, list]]) -> list[dict]:
    """Return all goals: those of the stored results, of the training step and of the course."""
    every = []
    for path in sorted(measured.RESULTS.glob("*.json")):
        every += json.loads(path.read_text("utf-8")).get("goals", ())
    return [*every, *measured.budget_goals(), *measured.course_goals(notebooks)]


def goals(notebooks: Iterable[tuple[str, list]]) -> str:
    """Return a figure of all goals, how many were reached, and those that were missed."""
    every = every_goal(notebooks)
    missed = [goal for goal in every if not goal["reached"]]
    reached = len(every) - len(missed)
    sentence = f"Of {len(every)} goals that were set before measuring, {reached} are reached"
    figure = figures.goals_figure(every)
    if not missed:
        return f"{sentence}.\n\n{figure}"
    lines = [f"- {goal_sentence({**goal, 'why': ''})}" for goal in missed]
    return "\n".join([f"{sentence}. Missed, more on each below:\n", *lines, f"\n{figure}"])


# --- the comparison of recipes ---


IN_WORDS = {  # recipe: what a reader calls it
    "adamw": "AdamW",
    "average": "mean of past weights",
    "batch_256": "batches of 256",
    "batch_512": "batches of 512",
    "batch_512_adamw": "batches of 512, AdamW",
    "batch_512_double_lr": "batches of 512, double rate",
    "batch_512_half_lr": "batches of 512, half the rate",
    "blur": "with blur",
    "byol": "BYOL",
    "course": "ours",
    "deep_head": "three layers in the head",
    "dkobak": "dkobak's",
    "double_lr": "double learning rate",
    "fastsiam": "FastSiam, four views",
    "grayscale_01": "fewer gray views",
    "half_lr": "half the learning rate",
    "lightly": "lightly's",
    "lightly_1_temperature": "lightly's + temperature 0.2",
    "lightly_2_loss": "… + decoupled loss",
    "lightly_3_crop": "… + larger crops",
    "lightly_4_hidden": "… + wider head",
    "lr_007": "learning rate 0.07",
    "lr_014": "learning rate 0.14",
    "momentum": "queue of keys (MoCo)",
    "multi_crop": "more small views",
    "narrow_head": "narrow head",
    "no_warmup": "no warm-up",
    "nt_xent": "NT-Xent, not decoupled",
    "simsiam": "SimSiam",
    "source": "the source's",
    "stem": "ImageNet's stem",
    "strong_jitter": "stronger color changes",
    "temperature_01": "temperature 0.1",
    "temperature_015": "temperature 0.15",
    "temperature_03": "temperature 0.3",
    "temperature_05": "temperature 0.5",
    "views_4": "four views, all pairs",
    "views_4_mean": "four views, mean target",
    "views_8": "eight views, all pairs",
    "views_8_mean": "eight views, mean target",
    "weak_jitter": "weaker color changes",
    "wide_z": "wider z",
}


def recipe_in_words(name: str) -> str:
    """Return what a reader calls a recipe; changes of ours are named by the changes alone."""
    changes = name.removeprefix("course_").split("_and_")
    return ", ".join(IN_WORDS.get(change, change.replace("_", " ")) for change in changes)


def recipes_figure() -> str:
    """Return the figure of the largest group of comparable runs, in which the most is decided."""
    groups = [recipes_table.rows(group) for group in recipes_table.results().values()]
    return differences(max(groups, key=len)) if groups else ""


def recipes() -> str:
    """Return every group of comparable pretraining runs: a figure, how kNN grew, its tables."""
    parts = []
    largest = recipes_figure()
    for about, group in recipes_table.results().items():
        rows = recipes_table.rows(group)
        heading, images = recipes_table.title(about)
        parts.append(f"### {heading}")
        parts.append(f"Pictures: {images}.")
        figure = differences(rows)
        if figure != largest:  # that one opens the page
            parts.append(figure)
        parts.append(figures.growth_figure(recipes_table.growth(group), in_words=recipe_in_words))
        parts.append(folded("All numbers", [named_in_words(recipes_table.markdown_tables(rows))]))
    return "\n\n".join(part for part in parts if part)


def named_in_words(tables: str) -> str:
    """Return the tables with the recipes' names, in their first column, in words."""

    def renamed(match: re.Match) -> str:
        return f"| {escape(recipe_in_words(match[1].replace(' ', '_')))} |"

    return re.sub(r"^\| ([a-z][a-z0-9 ]*) \|", renamed, tables, flags=re.MULTILINE)


def differences(rows: list[dict]) -> str:
    """Return the figure of the kNN differences, for all rows whose interval is known."""
    groups = {heading: [] for heading in DIFFERENCES.values()}
    for row in rows:
        mean, half_width = row.get("knn_gain", (0.0, math.nan))
        if not math.isnan(half_width):
            name = recipe_in_words(row["name"])
            groups[DIFFERENCES[row["base"]]].append((name, mean, half_width))
    return figures.differences_figure(groups)
