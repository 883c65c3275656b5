"""Tables of the page "How fast, how right", from benchmarks/results/, the stored notebooks and the tests."""

import json
import re
import runpy
from pathlib import Path

from timetable import to_run

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHOWN = (
    "python",
    "torch",
    "torchvision",
    "numpy",
    "matplotlib",
    "ipywidgets",
    "scikit-learn",
)  # of the version matrix
KEYS = ("seconds", "again_s", "downloaded_mb", "installed_mb")  # of the cold start
MINUTES, GROWTH = 20, 20  # goals: the whole course on two cores; megabytes the service may grow by


class MissingError(Exception):
    """A result that the page shows is not there, or has an older form."""


def stored(name, key):
    """The result NAME, which has the key."""
    path = RESULTS / f"{name}.json"
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if key not in found:
        what = "has an older form" if path.exists() else "is missing"
        command = "bash tests/versions.sh" if name == "versions" else f"python benchmarks/{name}.py"
        raise MissingError(f"`benchmarks/results/{name}.json` {what}; `{command}` writes it.")
    return found


def escape(text):
    """Text that stays as it is in a Markdown table; a number and its unit stay on one line."""
    return re.sub(r"([|*_$<\\\[\]`])", r"\\\1", text).replace(" %", "\u00a0%")


def mark(good):
    return "✓" if good else "✗"


def table(columns, rows):
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


# --- fast -------------------------------------------------------------------------------------------------------------


def budget():
    """The training step of lesson 12 beside itself without augmentation, and with torchvision's."""
    rows = []
    for path in sorted(RESULTS.glob("t4_budget_*.json")):
        row = json.loads(path.read_text("utf-8"))
        beside, times, least = (
            "the same step on views made before",
            row["throughput_of_views_made_before"],
            0.9,
        )
        if "times_the_per_sample_route" in row:
            beside, times, least = (
                "torchvision, one picture at a time",
                row["times_the_per_sample_route"],
                5,
            )
        found = f"{times:.2g}\u00a0× ({mark(times >= least)} {least} or more)"
        rows.append([escape(row["network"]), row["batch_size"], row["threads"], beside, found])
    return table(["Network", "Batch", "Threads", "Beside", "Ours, pictures a second"], rows)


def course(notebooks):
    """Minutes that each stored notebook took, by its own last line."""
    minutes = {stem: float(to_run(cells)) for stem, cells in notebooks}
    total = sum(minutes.values())
    rows = [[f"[{stem[:2]}](/notebooks/{stem}.ipynb)", f"{m:.1f}"] for stem, m in minutes.items()]
    reached = f"{mark(total <= MINUTES)} {MINUTES} minutes or less"
    return table(
        ["Lesson", "Minutes"], [*rows, ["all, one after the other", f"{total:.1f} ({reached})"]]
    )


def service():
    """How long callers of an exported encoder wait."""
    rows = []
    for name, precisions in stored("serve", "bundles")["bundles"].items():
        for precision, row in precisions.items():
            alone, crowd = row["one_client"], row["load"]
            waits = (
                ", ".join(f"{who[f'{p}_ms']:.1f}" for p in which)
                for who, which in ((alone, ("p50", "p95")), (crowd, ("p50", "p95", "p99")))
            )
            answers = f"{crowd['requests_a_second']:,.0f}"
            rows.append([escape(name), precision, f"{row['model_mb']:.2f}", *waits, answers])
    columns = (
        "Encoder",
        "Precision",
        "Model, MB",
        "1: p50, p95",
        "8: p50, p95, p99",
        "8: answers a second",
    )
    return table(columns, rows)


# --- right ------------------------------------------------------------------------------------------------------------


def correctness():
    """The table of site/correctness.py."""
    stored("correctness", "rows")
    # by path: with benchmarks/ among the places to import from, the name would be that of benchmarks/correctness.py
    return runpy.run_path(str(Path(__file__).with_name("correctness.py")))["correctness"](escape)


def mutation():
    """How many changed solutions the checkers of the exercises reject."""
    found = stored("mutation", "total")
    total = found["total"]
    rows = [
        [
            "changed solutions, of how many exercises",
            f"{total['mutants']:,} of {len(found['exercises'])}",
        ],
        ["rejected by the checker", f"{total['rejected']:,}"],
        ["accepted, and equal to the solution in values and gradients", total["equivalent"]],
        ["accepted, another answer that the task allows", total["another_right_answer"]],
        ["accepted, and wrong", f"{mark(not total['survived'])} {total['survived']}"],
    ]
    return table(["What became of them", "Number"], rows)


def faults():
    """Which faults were planted, how often, and by what; a row with a test that fails is never stored."""
    rows = [
        [
            escape(row["fault"]),
            escape(row["what must happen"]),
            f"{row['count']:,}",
            f"`{row['covered by'].split(':')[0]}`",
        ]
        for row in stored("faults", "rows")["rows"]
    ]
    return table(["Fault", "What must happen", "Times", "Planted by"], rows)


def outcomes():
    """What the longer runs found: the training that is killed, and the service."""
    killed = stored("kill", "kills")
    same = mark(killed["same_weights"] and killed["same_log"])
    what = f"SIGKILL while training, {killed['killed_during_a_save']} of them inside a save"
    rows = [
        [what, killed["kills"], f"{same} weights and log the same bytes as without"],
        *service_faults(),
    ]
    return table(["Fault", "Times", "What came of it"], rows)


def service_faults():
    """The rows for the service: hostile pictures, made-up requests, a crowd."""
    found = stored("serve", "under_fire")
    pictures, made_up = found["under_fire"]["damaged_pictures"], found["under_fire"]["schemathesis"]
    crashed = sum(count for status, count in pictures.items() if status[0] == "5")
    rows = [
        [
            "pictures with bytes changed, cut out, cut off",
            f"{sum(pictures.values()):,}",
            f"{mark(not crashed)} {crashed} server errors",
        ],
        [
            "requests that schemathesis makes up",
            f"{made_up['cases']:,}",
            f"{mark(not made_up['server_errors'])} {made_up['server_errors']} server errors",
        ],
    ]
    return [*rows, crowd(found)]


def crowd(found):
    """The row for many callers at once: the long soak if it was run, else the load of the speed table."""
    if "soak" in found:
        soak = found["soak"]
        first, second = (soak[f"memory_mb_most_{half}_half"] for half in ("first", "second"))
        said = f"{mark(not soak['problems'])} memory {first:.1f} MB at most in the first half, {second:.1f} after"
    else:
        served = [row for precisions in found["bundles"].values() for row in precisions.values()]
        soak = served[0]["load"]
        grown = max(row["memory_mb_end"] - row["memory_mb_start"] for row in served)
        said = f"{mark(grown < GROWTH)} memory grew by {grown:.1f} MB at most"
    callers = f"{soak['clients']} callers at once for {soak['seconds']:.0f} seconds"
    return [callers, f"{soak['requests']:,} requests", said]


# --- cold start, versions ---------------------------------------------------------------------------------------------


def cold_start():
    """Seconds and megabytes from the clone to the first figure, and what of it the figure does not need."""
    found = stored("cold_start", "stages")
    rows = [
        [
            escape(row["stage"]) + " (network)" * row["network"],
            *(short(row.get(key)) for key in KEYS),
        ]
        for row in found["stages"]
    ]
    rows.append(
        [
            '**all but what says "instead", and Colab**',
            *(short(found["total"].get(key)) for key in KEYS),
        ]
    )
    stages = table(
        ["Stage", "Seconds", "Seconds, second time", "MB downloaded", "MB installed"], rows
    )
    idle = [
        [escape(row["what"]), *(short(row[key]) for key in KEYS[2:])]
        for row in found["removable"][:8]
    ]
    idle = table(["What", "MB downloaded", "MB installed"], idle)
    return f"{stages}\n\nWhat that figure does not need, the largest first:\n\n{idle}"


def short(value):
    """A number with two digits or more; nothing for none."""
    return "" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def versions():
    """What the test suite ran with."""
    cells = stored("versions", "cells")["cells"]
    parts = list(dict.fromkeys(part for cell in cells.values() for part in cell["parts"]))
    shown = [name for name in SHOWN if any(name in cell["versions"] for cell in cells.values())]
    rows = [
        [
            name,
            *(cell["versions"].get(package, "") for package in shown),
            *(passed(cell["parts"].get(part)) for part in parts),
        ]
        for name, cell in cells.items()
    ]
    return table(["Set", *shown, *parts], rows)


def passed(part):
    """How many tests of a part passed, or how many failed."""
    if part is None:
        return "not run"
    return f"✗ {part['failed']} failed" if part["failed"] else f"✓ {part['passed']}"
