"""The tables of what `recipes.py` measured, and the numbers of its figures.

Run: python -m scripts.recipes_table (prints a table)

Recipes are compared seed by seed: seeds share weights, order and augmentation as far as the recipes
allow. Two or three seeds say little about the spread of one recipe, so one standard deviation is
estimated for all runs of a group, from what is left of each after the effects of its recipe and its
seed (two-way analysis of variance). Behind each difference stands the half-width of its 95 %
interval, by the t distribution.

Of runs that were measured on held-out training images the table also names the recipe to choose;
runs that were measured on the test set choose nothing.

A run is the record of one recipe at one seed. A group holds runs that can be compared, as
`{name of the recipe: {seed: run}}`. The site's page takes its tables from here, and draws.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from replearn.pretrain import Recipe

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "recipes"
# What the runs of a group share.
ABOUT = ("network", "width", "views", "variant", "bf16", "measured_on")
PROBES = ("knn", "linear")
LIGHTLY = "lightly"  # recipes that others are compared with
COURSE = "course"
BASELINES = ("source", "dkobak")  # others' recipes, which are compared with lightly's
IN_CURVES = (COURSE, "lightly_1_temperature", *BASELINES, LIGHTLY)

Run = dict[str, Any]
Group = dict[str, dict[int, Run]]


def results() -> dict[tuple, Group]:
    """Return all stored groups that have lightly's recipe.

    Returns:
        `{(network, width, views, variant, bf16, measured_on): group}`.
    """
    groups: dict[tuple, Group] = {}
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text("utf-8"))
        run = {"bf16": False, "measured_on": "test", **record["recipe"], **record}
        about = tuple(run[key] for key in ABOUT)
        group = groups.setdefault(about, {})
        group.setdefault(run["name"], {})[run["seed"]] = run
    return {about: group for about, group in groups.items() if LIGHTLY in group}


def title(about: tuple) -> tuple[str, str]:
    """Return a group's heading, and what its images are."""
    network, width, views, variant, bf16, measured_on = about
    network = {"resnet18": "ResNet-18", "small_cnn": "small_cnn"}[network]
    heading = f"{network} of width {width}, {views:,.0f} views"
    if bf16:
        heading += ", in bfloat16"
    if measured_on == "validation":
        heading += ", on held-out training pictures"
    return heading, f"CIFAR-10, {variant}"


# --- what a recipe is compared with ---------------------------------------------------------------


def base_of(name: str) -> str:
    """Return the recipe that a recipe is compared with.

    A change of ours is compared with ours, all others with lightly's.
    """
    return COURSE if name.startswith(f"{COURSE}_") else LIGHTLY


def steps_of(group: Group) -> list[str]:
    """Return the recipes from lightly's to ours in the order of the steps."""
    names = [name for name in group if base_of(name) == LIGHTLY and name not in BASELINES]
    if COURSE in names:  # "lightly_1_...", "lightly_2_...", and ours at last
        names.remove(COURSE)
        return [*sorted(names), COURSE]
    return sorted(names)


def step_before(group: Group) -> dict[str, str]:
    """Return the step before each; nothing where there are no steps between the two recipes."""
    steps = steps_of(group)
    if len(steps) <= 2:
        return {}
    return dict(zip(steps[1:], steps[:-1], strict=True))


# --- words ----------------------------------------------------------------------------------------


def words(name: str, group: Group) -> str:
    """Return what sets a recipe apart: a step from the step before it, others from their base."""
    if name == LIGHTLY:
        return "as published"
    if base_of(name) == COURSE:
        return changes(name, COURSE, group) if COURSE in group else ""
    if name in BASELINES:
        return changes(name, LIGHTLY, group)
    steps = steps_of(group)
    before = steps[steps.index(name) - 1]
    text = changes(name, before, group)
    return text if before == LIGHTLY else f"and {text}"


def recipe_of(name: str, group: Group) -> dict[str, Any]:
    """Return the recipe of any of its runs; they differ in the seed only.

    A record from before a field was there gets the field's default.
    """
    first_run = next(iter(group[name].values()))
    return asdict(Recipe()) | first_run["recipe"]


def changes(name: str, base_name: str, group: Group) -> str:
    """Return in words what differs between two recipes."""
    recipe = recipe_of(name, group)
    base = recipe_of(base_name, group)
    skip = {"epochs", "seed"}
    if not recipe["queue"] and recipe["loss"] != "byol":
        skip.add("momentum")  # of the target network, which these two have
    parts = []
    for key, value in recipe.items():
        old = base[key]
        if key not in skip and old != value:
            parts.append(f"{key.replace('_', ' ')} {short(old)} → {short(value)}")
    return ", ".join(parts)


def short(value: Any) -> str:
    """Return a value of a recipe, as short as it can be."""
    if isinstance(value, list):
        return f"({', '.join(f'{number:g}' for number in value)})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:g}"
    return str(value).replace("_", " ")


def spaced(name: str) -> str:
    """Return a recipe's name as words."""
    return name.replace("_", " ")


# --- numbers, in percent and points ---------------------------------------------------------------


def differences(runs: dict[int, Run], base: dict[int, Run], key: str) -> list[float]:
    """Return the differences in points, one a seed that both have."""
    seeds = sorted(runs.keys() & base.keys())
    return [100 * (runs[seed][key] - base[seed][key]) for seed in seeds]


def noise(group: Group, key: str) -> float:
    """Return the 97.5 % quantile of the difference of two runs, in points.

    This is t times sqrt(2) times the standard deviation of what is left of a run after the effects
    of its recipe and its seed; nan if nothing is left.
    """
    import numpy as np
    from scipy.stats import t

    all_seeds = {seed for runs in group.values() for seed in runs}
    design = []
    accuracies = []
    for name, runs in group.items():
        for seed, run in runs.items():
            is_recipe = [name == other for other in group]
            is_seed = [seed == other for other in all_seeds]
            design.append([*is_recipe, *is_seed])
            accuracies.append(100 * run[key])
    x = np.array(design, float)
    y = np.array(accuracies)
    effects, *_ = np.linalg.lstsq(x, y, rcond=None)
    residual = y - x @ effects
    degrees_of_freedom = len(y) - np.linalg.matrix_rank(x)
    if degrees_of_freedom == 0:
        return math.nan
    variance = residual @ residual / degrees_of_freedom
    return float(t.ppf(0.975, degrees_of_freedom) * (2 * variance) ** 0.5)


def rows(group: Group) -> list[dict[str, Any]]:
    """Return one dict a recipe, in the order of the tables.

    Returns:
        Each has name, base, change in words, seeds, `knn` and `linear` (mean, %), and for both keys
        `knn_gain` and `linear_gain`: mean difference to the base in points, and half-width of its
        95 % interval. A step from lightly's recipe to ours also has `knn_step` and `linear_step`,
        the difference to the step before.
    """
    before = step_before(group)
    noise_of = {key: noise(group, key) for key in PROBES}
    recipe_rows = []
    for name, runs in group.items():
        row = {
            "name": name,
            "base": base_of(name),
            "change": words(name, group),
            "seeds": len(runs),
        }
        for key in PROBES:
            row[key] = 100 * sum(run[key] for run in runs.values()) / len(runs)
            for what, base in (("gain", row["base"]), ("step", before.get(name))):
                gains = differences(runs, group.get(base, {}), key)
                if gains and name != base:
                    half_width = noise_of[key] / len(gains) ** 0.5
                    row[f"{key}_{what}"] = (sum(gains) / len(gains), half_width)
        recipe_rows.append(row)

    first = [*steps_of(group), *BASELINES]

    def order(row: dict[str, Any]) -> tuple[int, float]:
        """The steps, the recipes of others, and then the changes of ours, the best first."""
        place = first.index(row["name"]) if row["name"] in first else len(group)
        return place, -row["knn"]

    return sorted(recipe_rows, key=order)


def chosen(recipe_rows: Sequence[dict[str, Any]]) -> str:
    """Return the recipe that gains most on ours in both probes, by the smaller of its two gains.

    Args:
        recipe_rows: What `rows` returned, of runs that were not measured on the test set.

    Returns:
        Its name; that of ours if no change gains in both.
    """
    best = COURSE
    most = 0.0
    for row in recipe_rows:
        if row["base"] != COURSE or "knn_gain" not in row:
            continue
        smaller = min(row[f"{key}_gain"][0] for key in PROBES)
        if smaller > most:
            best = row["name"]
            most = smaller
    return best


def growth(group: Group) -> dict[str, list[tuple[float, float, float, float]]]:
    """Return how kNN accuracy grew in training, for a few recipes that have a name of their own.

    Returns:
        `{name: [(views, mean, lowest, highest)]}`, accuracy in %.
    """
    curves: dict[str, list[tuple[float, float, float, float]]] = {}
    for name in IN_CURVES:
        runs = list(group.get(name, {}).values())
        if not runs:
            continue
        recipe = recipe_of(name, group)
        views_an_epoch = (recipe["n_views"] + recipe["n_small"]) * runs[0]["pictures"]
        curve = []
        for points_of_seeds in zip(*(run["knn_over_time"] for run in runs), strict=True):
            epoch, _ = points_of_seeds[0]
            knn = [100 * accuracy for _, accuracy in points_of_seeds]
            curve.append((epoch * views_an_epoch, sum(knn) / len(knn), min(knn), max(knn)))
        if curve:
            curves[name] = curve
    return curves


def signed(difference: float) -> str:
    """Return points with their sign, never -0.0."""
    return f"{round(difference, 1) + 0.0:+.1f}"


def gain(row: dict[str, Any], key: str, what: str = "gain") -> str:
    """Return a difference as text: to the base, or with what="step" to the step before."""
    if f"{key}_{what}" not in row:
        return ""
    mean, half_width = row[f"{key}_{what}"]
    if math.isnan(half_width):
        return signed(mean)
    return f"{signed(mean)} ± {half_width:.1f}"


# --- the tables -----------------------------------------------------------------------------------


def markdown_tables(recipe_rows: Sequence[dict[str, Any]]) -> str:
    """Return Markdown tables: from lightly's recipe to ours, its single steps, changes of ours.

    Args:
        recipe_rows: What `rows` returned.
    """
    tables = []
    for base, owner in ((LIGHTLY, "lightly's"), (COURSE, "ours")):
        of_base = [row for row in recipe_rows if row["base"] == base]
        if of_base:
            tables.append(f"Differences to {owner}:\n\n{recipe_table(of_base)}")
        steps = [row for row in of_base if "knn_step" in row]
        if steps:
            tables.append(f"Each step on that way to the one before:\n\n{step_table(steps)}")
    return "\n\n".join(tables)


def recipe_table(recipe_rows: Sequence[dict[str, Any]]) -> str:
    """Return the accuracies of recipes with their differences to one base."""
    columns = "Recipe | kNN (%) | Difference | Linear (%) | Difference | Seeds | What is changed"
    lines = [f"| {columns} |", "| --- " * 7 + "|"]
    for row in recipe_rows:
        cells = [
            spaced(row["name"]),
            f"{row['knn']:.1f}",
            gain(row, "knn"),
            f"{row['linear']:.1f}",
            gain(row, "linear"),
            str(row["seeds"]),
            row["change"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def step_table(recipe_rows: Sequence[dict[str, Any]]) -> str:
    """Return what each step adds to the one before."""
    lines = ["| Step | kNN | Linear |", "| --- | --- | --- |"]
    for row in recipe_rows:
        change = row["change"].removeprefix("and ")
        lines.append(f"| {change} | {gain(row, 'knn', 'step')} | {gain(row, 'linear', 'step')} |")
    return "\n".join(lines)


def main() -> None:
    """Print every group of comparable runs."""
    for about, group in results().items():
        heading, images = title(about)
        print(f"\n{heading}; {images}")
        recipe_rows = rows(group)
        for row in recipe_rows:
            step = ""
            if "knn_step" in row:
                step = f"this step {gain(row, 'knn', 'step')}, {gain(row, 'linear', 'step')}: "
            print(
                f"  {row['name']:26} {row['seeds']}  kNN {row['knn']:.1f} {gain(row, 'knn'):12}  "
                f"linear {row['linear']:.1f} {gain(row, 'linear'):12}  {step}{row['change']}"
            )
        *_, measured_on = about
        if measured_on == "validation" and COURSE in group:
            print(f"  to choose, by kNN and the linear probe: {chosen(recipe_rows)}")


if __name__ == "__main__":
    main()
