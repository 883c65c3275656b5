"""The table and the picture of what `recipes.py` measured. Run: python -m scripts.recipes_table (prints the table)

Recipes are compared seed by seed: seeds share weights, order and augmentation as far as the recipes allow. Two or three
seeds say little about the spread of one recipe, so one standard deviation is estimated for all runs of a group, from
what is left of each after the effects of its recipe and its seed (two-way analysis of variance). Behind each difference
stands the half-width of its 95 % interval, by the t distribution.
"""

import json
import math
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "recipes"
ABOUT = ("network", "width", "views", "variant", "bf16")
PROBES = "knn", "linear"
SHOWN = "#0072b2", "#d55e00"  # to lightly's, to ours


def results():
    """Return {(network, width, views, variant, bf16): {name: {seed: record}}} of all stored runs."""
    found = {}
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text("utf-8"))
        record = {"bf16": False, **record["recipe"], **record}
        group = found.setdefault(tuple(record[key] for key in ABOUT), {})
        group.setdefault(record["name"], {})[record["seed"]] = record
    return {about: group for about, group in found.items() if "lightly" in group}


def differences(runs, base, key):
    """Return the differences in points, one a seed that both have."""
    return [100 * (runs[seed][key] - base[seed][key]) for seed in sorted(runs.keys() & base.keys())]


def base_of(name):
    """Return the recipe that a recipe is compared with: a change of ours with ours, all others with lightly's."""
    return "course" if name.startswith("course_") else "lightly"


def way(group):
    """Return the recipes from lightly's to ours in the order of the steps."""
    names = (name for name in group if base_of(name) == "lightly" and name != "source")
    return sorted(names, key=lambda name: (name == "course", name))


def words(name, group):
    """Return what sets a recipe apart: a step on the way to ours from the step before it, others from their base."""
    one = lambda which: next(iter(group[which].values()))["recipe"]
    if name == "lightly":
        return "as published"
    if base_of(name) == "course":
        return changed(one(name), one("course")) if "course" in group else ""
    steps = way(group)
    last = "lightly" if name == "source" else steps[steps.index(name) - 1]
    return ("and " if last != "lightly" else "") + changed(one(name), one(last))


def changed(recipe, base):
    """Return in words what differs between two recipes."""
    skip = {"epochs", "seed", "momentum" if not recipe["queue"] else ""}
    pairs = (
        (k.replace("_", " "), base[k], v)
        for k, v in recipe.items()
        if k not in skip and base.get(k, v) != v
    )
    return ", ".join(f"{name} {short(old)} → {short(new)}" for name, old, new in pairs)


def short(value):
    """A value of a recipe, as short as it can be."""
    text = f"({', '.join(f'{v:g}' for v in value)})" if isinstance(value, list) else value
    return f"{text:g}" if isinstance(text, int | float) else str(text).replace("_", " ")


def noise(group, key):
    """Return the 97.5 % quantile of the difference of two runs, in points: t times sqrt(2) times the standard deviation
    of what is left of a run after the effects of its recipe and its seed; nan if nothing is left."""
    import numpy as np
    from scipy.stats import t

    runs = [
        (name, seed, 100 * record[key])
        for name, records in group.items()
        for seed, record in records.items()
    ]
    recipes, seeds, y = zip(*runs, strict=True)
    design = np.array(
        [
            [*(name == other for other in group), *(seed == other for other in set(seeds))]
            for name, seed in zip(recipes, seeds, strict=True)
        ],
        float,
    )
    left = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    freedom = len(y) - np.linalg.matrix_rank(design)
    return (
        float(t.ppf(0.975, freedom) * (2 * left @ left / freedom) ** 0.5) if freedom else math.nan
    )


def rows(group):
    """Return one dict a recipe: name, base, change in words, seeds, knn and linear (mean, %), and for both keys
    `knn_gain` and `linear_gain`: (mean difference to the base in points, half-width of its 95 % interval); for a step
    from lightly's recipe to ours also `knn_step` and `linear_step`, the difference to the step before."""
    found = [
        dict(name=name, base=base_of(name), change=words(name, group), seeds=len(runs))
        for name, runs in group.items()
    ]
    steps = way(group)
    before = dict(zip(steps[1:], steps, strict=False)) if len(steps) > 2 else {}
    for key in PROBES:
        half = noise(group, key)
        for row in found:
            runs = group[row["name"]]
            row[key] = 100 * sum(record[key] for record in runs.values()) / len(runs)
            for what, base in (("gain", row["base"]), ("step", before.get(row["name"]))):
                gain = differences(runs, group.get(base, {}), key)
                if gain and row["name"] != base:
                    row[f"{key}_{what}"] = sum(gain) / len(gain), half / len(gain) ** 0.5
    places = {name: place for place, name in enumerate([*steps, "source"])}
    return sorted(found, key=lambda row: (places.get(row["name"], len(group)), -row["knn"]))


def growth(group):
    """Return {name: [(views, mean, lowest, highest)]}, kNN accuracy in % while training, of those recipes that have a
    name of their own and of the first step from lightly's to ours."""
    found = {}
    for name in ("course", "lightly_1_temperature", "source", "lightly"):
        runs = list(group.get(name, {}).values())
        for points in zip(*(run["knn_over_time"] for run in runs), strict=True):
            views = points[0][0] * (2 + runs[0]["recipe"]["n_small"]) * runs[0]["pictures"]
            knn = [100 * accuracy for _, accuracy in points]
            found.setdefault(name, []).append((views, sum(knn) / len(knn), min(knn), max(knn)))
    return found


def title(about):
    """Return a group's heading, and what its pictures are."""
    network, width, views, variant, bf16 = about
    kind = {"resnet18": "ResNet-18", "small_cnn": "small_cnn"}[network]
    return (
        f"{kind} of width {width}, {views:,.0f} views{', in bfloat16' * bf16}",
        f"CIFAR-10, {variant}",
    )


def gain(row, key, what="gain"):
    """Return a difference as text: to the base, or with what="step" to the step before."""
    mean, half = row.get(f"{key}_{what}", (math.nan, math.nan))
    return (
        ""
        if math.isnan(mean)
        else points(mean)
        if math.isnan(half)
        else f"{points(mean)} ± {half:.1f}"
    )


def points(difference):
    """A difference with its sign, never -0.0."""
    return f"{round(difference, 1) + 0.0:+.1f}"


def picture(found):
    """Return the kNN differences with their intervals as SVG: to lightly's recipe above, to ours below."""
    shown = [row for row in found if not math.isnan(row.get("knn_gain", (0, math.nan))[1])]
    if not shown:
        return ""
    ends = [
        mean + sign * half for mean, half in (row["knn_gain"] for row in shown) for sign in (-1, 1)
    ] + [0]
    low, high = min(ends), max(ends)
    x = lambda points: 250 + 420 * (points - low) / (high - low)
    lines, y, base = [], 0, None
    heads = {
        "lightly": "kNN accuracy, points above or below lightly's recipe",
        "course": "ours with a change, to ours",
    }
    for row in shown:
        if row["base"] != base:
            base, y = row["base"], y + 30
            lines.append(f'<text x="250" y="{y}" font-weight="bold">{heads[base]}</text>')
        y += 22
        mean, half = row["knn_gain"]
        color = SHOWN[base == "course"]
        lines += [
            f'<text x="240" y="{y + 4}" text-anchor="end">{row["name"].replace("_", " ")}</text>',
            f'<path d="M{x(mean - half):.1f} {y}H{x(mean + half):.1f}" stroke="{color}" stroke-width="2"/>',
            f'<circle cx="{x(mean):.1f}" cy="{y}" r="4" fill="{color}"/>',
            f'<text x="685" y="{y + 4}">{points(mean)}</text>',
        ]
    zero = f'<path d="M{x(0):.1f} 36V{y + 10}" stroke="#777" stroke-dasharray="3 3"/>'
    alt = "; ".join(f"{row['name'].replace('_', ' ')} {gain(row, 'knn')}" for row in shown)
    return (
        f'<svg viewBox="0 0 740 {y + 20}" role="img" aria-label="Differences in kNN accuracy: {alt}" '
        'style="width:100%;min-width:560px;max-width:740px;background:#fff;color:#000" font-family="sans-serif" '
        f'font-size="13">{zero}{"".join(lines)}</svg>'
    )


def table(found):
    """Return the rows as Markdown tables: from lightly's recipe to ours, its single steps, ours with one change."""
    head = f"| Recipe | kNN (%) | Difference | Linear (%) | Difference | Seeds | What is changed |\n{'| --- ' * 7}|"
    parts = []
    for base, of in dict(lightly="lightly's", course="ours").items():
        lines = [
            f"| {row['name'].replace('_', ' ')} | {row['knn']:.1f} | {gain(row, 'knn')} | {row['linear']:.1f} | "
            f"{gain(row, 'linear')} | {row['seeds']} | {row['change']} |"
            for row in found
            if row["base"] == base
        ]
        parts += [f"Differences to {of}:\n\n{head}\n" + "\n".join(lines)] if lines else []
        lines = [
            "| {} | {} | {} |".format(
                row["change"].removeprefix("and "), *(gain(row, k, "step") for k in PROBES)
            )
            for row in found
            if row["base"] == base and "knn_step" in row
        ]
        parts += (
            [
                "Each step on that way to the one before:\n\n| Step | kNN | Linear |\n| --- | --- | --- |\n"
                + "\n".join(lines)
            ]
            if lines
            else []
        )
    return "\n\n".join(parts)


def main():
    """Print every group of comparable runs."""
    for about, group in results().items():
        print("\n{}; {}".format(*title(about)))
        for row in rows(group):
            step = f"this step {gain(row, 'knn', 'step')}, {gain(row, 'linear', 'step')}: " * (
                "knn_step" in row
            )
            print(
                f"  {row['name']:26} {row['seeds']}  kNN {row['knn']:.1f} {gain(row, 'knn'):12}  "
                f"linear {row['linear']:.1f} {gain(row, 'linear'):12}  {step}{row['change']}"
            )


if __name__ == "__main__":
    main()
