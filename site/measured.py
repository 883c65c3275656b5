"""Tables of the page "How fast, how right", from benchmarks/results/ and the stored notebooks."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from timetable import to_run

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
COMMANDS = {  # results that no benchmark of the same name writes: what writes them
    "faults": "REPLEARN_RECORD=1 make test-slow",
    "kill": "REPLEARN_RECORD=1 make test-slow",
    "mutation": "REPLEARN_RECORD=1 make test-slow",
    "siege": "REPLEARN_RECORD=1 make test-slow",
    "versions": "bash tests/versions.sh",
}
VERSIONS_SHOWN = (
    "python",
    "torch",
    "torchvision",
    "numpy",
    "matplotlib",
    "ipywidgets",
    "scikit-learn",
)
COLD_START_KEYS = ("seconds", "again_s", "downloaded_mb", "installed_mb")
COURSE_MINUTES = 20  # a goal: the whole course on two cores
SERVICE_GROWTH_MB = 20  # a goal: what the service's memory may grow by
SIEGE_SECONDS = 1.0  # a goal: in which 95 of 100 good images are answered during an attack


class MissingError(Exception):
    """A result that the page shows is not there, or has an older form."""


# --- what all tables need ---


def stored(name: str, key: str) -> dict:
    """Return the stored result NAME; MissingError unless it is there and has the key."""
    path = RESULTS / f"{name}.json"
    record = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if key not in record:
        fault = "has an older form" if path.exists() else "is missing"
        command = COMMANDS.get(name, f"python benchmarks/{name}.py")
        raise MissingError(f"`benchmarks/results/{name}.json` {fault}; `{command}` writes it.")
    return record


def escape(text: str) -> str:
    """Return text that stays as it is in a Markdown table; a number keeps its unit beside it."""
    return re.sub(r"([|*_$<\\\[\]`])", r"\\\1", text).replace(" %", "\u00a0%")


def mark(is_good: bool) -> str:
    """Return ✓ or ✗."""
    return "✓" if is_good else "✗"


def markdown_table(columns: Iterable, rows: Iterable[Iterable]) -> str:
    """Return a Markdown table."""
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def two_digits(value: float | None) -> str:
    """Return a number with two digits or more; nothing for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


# --- fast ---


PER_SAMPLE = "torchvision, one picture at a time"
MADE_BEFORE = "the same step on views made before"
BUDGET_GOALS = {PER_SAMPLE: 5, MADE_BEFORE: 0.9}  # what it is beside: times as many pictures


def budget_rows() -> list[dict]:
    """Return what the training steps of lesson 12 were measured beside, and how they did."""
    rows = []
    for path in sorted(RESULTS.glob("t4_budget_*.json")):
        record = json.loads(path.read_text("utf-8"))
        if "times_the_per_sample_route" in record:
            beside = PER_SAMPLE
            times = record["times_the_per_sample_route"]
        else:
            beside = MADE_BEFORE
            times = record["throughput_of_views_made_before"]
        rows.append({**record, "beside": beside, "times": times})
    return rows


def budget_goals() -> list[dict]:
    """Return the goals of the training steps, in the form of those of a benchmark."""
    goals = []
    for row in budget_rows():
        least = BUDGET_GOALS[row["beside"]]
        sentence = f"training step, {row['network']}, beside {row['beside']}"
        goal = dict(sentence=sentence, least=least, found=row["times"])
        goals.append(goal | dict(reached=row["times"] >= least))
    return goals


def budget() -> str:
    """Return the training step of lesson 12 beside the same without augmentation, and others'."""
    rows = []
    for row in budget_rows():
        least = BUDGET_GOALS[row["beside"]]
        is_reached = mark(row["times"] >= least)
        result = f"{row['times']:.2g}\u00a0× ({is_reached} {least} or more)"
        network = escape(row["network"])
        rows.append([network, row["batch_size"], row["threads"], row["beside"], result])
    columns = ["Network", "Batch", "Threads", "Beside", "Ours, pictures a second"]
    return markdown_table(columns, rows)


def course_goals(notebooks: Iterable[tuple[str, list]]) -> list[dict]:
    """Return the goal for the minutes of the whole course, in the form of those of a benchmark."""
    total = sum(float(to_run(cells)) for _, cells in notebooks)
    if total == 0:
        return []
    sentence = f"all lessons in {COURSE_MINUTES} minutes, divided by what they took"
    found = COURSE_MINUTES / total
    return [dict(sentence=sentence, least=1, found=found, reached=total <= COURSE_MINUTES)]


def course(notebooks: Iterable[tuple[str, list]]) -> str:
    """Return the minutes that each stored notebook took, by its own last line."""
    minutes = {stem: float(to_run(cells)) for stem, cells in notebooks}
    rows = []
    for stem, number in minutes.items():
        rows.append([f"[{stem[:2]}](/notebooks/{stem}.ipynb)", f"{number:.1f}"])
    total = sum(minutes.values())
    goal = f"{mark(total <= COURSE_MINUTES)} {COURSE_MINUTES} minutes or less"
    rows.append(["all, one after the other", f"{total:.1f} ({goal})"])
    return markdown_table(["Lesson", "Minutes"], rows)


def service() -> str:
    """Return how long callers of an exported encoder wait."""
    rows = []
    for name, precisions in stored("serve", "bundles")["bundles"].items():
        for precision, record in precisions.items():
            one_caller = waits(record["one_client"], ("p50", "p95"))
            eight_callers = waits(record["load"], ("p50", "p95", "p99"))
            answers = f"{record['load']['requests_a_second']:,.0f}"
            megabytes = f"{record['model_mb']:.2f}"
            accuracy = f"{record['accuracy']:.1%}"
            row = [escape(name), precision, megabytes, accuracy]
            rows.append([*row, one_caller, eight_callers, answers])
    columns = [
        "Encoder",
        "Precision",
        "Model, MB",
        "Accuracy",
        "1: p50, p95",
        "8: p50, p95, p99",
        "8: answers a second",
    ]
    return markdown_table(columns, rows)


def waits(record: dict, percentiles: Iterable[str]) -> str:
    """Return milliseconds at these percentiles."""
    return ", ".join(f"{record[f'{name}_ms']:.1f}" for name in percentiles)


# --- right ---


def correctness() -> str:
    """Return what each number of the course is compared with, and how far from it it is."""
    record = stored("correctness", "rows")
    rows = []
    for row in record["rows"]:
        is_good = row["held"] and row["fault_seen"]
        fault = f"{tiny(row['difference_with_fault'])} ({escape(row['fault'])})"
        rows.append(
            [
                f"{mark(is_good)} {escape(row['quantity'])}",
                row["lesson"],
                escape(row["reference"]),
                tiny(row["largest_difference"]),
                tiny(row["allowed"]),
                fault,
            ]
        )
    columns = [
        "Quantity",
        "Lesson",
        "Reference",
        "Largest difference",
        "Allowed",
        "With a planted fault",
    ]
    text = markdown_table(columns, rows)
    if record["left_out"]:
        text += f"\n\nNot installed where this was run: {', '.join(record['left_out'])}."
    return text


def tiny(value: float) -> str:
    """Return two digits at most, small numbers as "3e-12"."""
    if 0 < value < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.2g}"


def mutation() -> str:
    """Return how many changed solutions the checkers of the exercises reject."""
    record = stored("mutation", "total")
    total = record["total"]
    changed = f"{total['mutants']:,} of {len(record['exercises'])}"
    rows = [
        ["changed solutions, of how many exercises", changed],
        ["rejected by the checker", f"{total['rejected']:,}"],
        ["accepted, and equal to the solution in values and gradients", total["equivalent"]],
        ["accepted, another answer that the task allows", total["another_right_answer"]],
        ["accepted, and wrong", f"{mark(not total['survived'])} {total['survived']}"],
    ]
    return markdown_table(["What became of them", "Number"], rows)


def faults() -> str:
    """Return which faults were planted, how often, and by which test."""
    rows = []
    for row in stored("faults", "rows")["rows"]:
        test = row["covered by"].split(":")[0]
        fault = escape(row["fault"])
        rows.append([fault, escape(row["what must happen"]), f"{row['count']:,}", f"`{test}`"])
    return markdown_table(["Fault", "What must happen", "Times", "Planted by"], rows)


def outcomes() -> str:
    """Return what the longer runs found: the training that is killed, and the service."""
    killed = stored("kill", "kills")
    rows = []
    times = [(killed, "at any time")]
    if "writes" in killed:
        times.append((killed["writes"], "at every moment of a write"))
    for kills, when in times:
        is_same = mark(kills["same_weights"] and kills["same_log"])
        inside = kills["killed_during_a_save"]
        fault = f"SIGKILL {when} of a training, {inside} of them inside a checkpoint's save"
        outcome = f"{is_same} weights and log the same bytes as without"
        rows.append([fault, kills["kills"], outcome])
    rows += service_faults()
    rows.append(siege(stored("siege", "by_kind")))
    return markdown_table(["Fault", "Times", "What came of it"], rows)


def service_faults() -> list[list]:
    """Return the rows for the service: hostile pictures, made-up requests, a crowd."""
    record = stored("serve", "under_fire")
    by_status = record["under_fire"]["damaged_pictures"]  # {status code: answers}
    made_up = record["under_fire"]["schemathesis"]
    errors = sum(count for status, count in by_status.items() if status.startswith("5"))
    more_errors = made_up["server_errors"]
    return [
        [
            "pictures with bytes changed, cut out, cut off",
            f"{sum(by_status.values()):,}",
            f"{mark(not errors)} {errors} server errors",
        ],
        [
            "requests that schemathesis makes up",
            f"{made_up['cases']:,}",
            f"{mark(not more_errors)} {more_errors} server errors",
        ],
        crowd(record),
    ]


def siege(record: dict) -> list[str]:
    """Return the row for hostile images with good ones between them: errors, and who waited."""
    errors = 0
    for kind in record["by_kind"].values():
        for status, count in kind["statuses"].items():
            if status.startswith("5") and status != "503":  # which is "busy, come back"
                errors += count
    p95 = record["p95_seconds"]
    in_time = p95 < SIEGE_SECONDS
    outcome = (
        f"{mark(not errors and in_time)} {errors} server errors; of {record['good']:,} good ones "
        f"between them, 95 in 100 were answered within {p95:.2f} s"
    )
    fault = f"hostile and damaged images, {record['attackers']} callers at once"
    return [fault, f"{record['attacks']:,}", outcome]


def crowd(record: dict) -> list[str]:
    """Return the row for many callers at once: the long soak, or else the speed table's."""
    if "soak" in record:
        load = record["soak"]
        first = load["memory_mb_most_first_half"]
        second = load["memory_mb_most_second_half"]
        outcome = (
            f"{mark(not load['problems'])} memory {first:.1f} MB at most in the first half, "
            f"{second:.1f} after"
        )
    else:
        served = []
        for precisions in record["bundles"].values():
            served += precisions.values()
        load = served[0]["load"]
        growth = max(row["memory_mb_end"] - row["memory_mb_start"] for row in served)
        is_good = growth < SERVICE_GROWTH_MB
        outcome = f"{mark(is_good)} memory grew by {growth:.1f} MB at most"
    callers = f"{load['clients']} callers at once for {load['seconds']:.0f} seconds"
    return [callers, f"{load['requests']:,} requests", outcome]


# --- cold start, versions ---


def cold_start() -> str:
    """Return seconds and megabytes from the clone to the first figure, and what of it is idle."""
    record = stored("cold_start", "stages")
    rows = []
    for row in record["stages"]:
        name = escape(row["stage"])
        if row["network"]:
            name += " (network)"
        rows.append([name, *(two_digits(row.get(key)) for key in COLD_START_KEYS)])
    total = [two_digits(record["total"].get(key)) for key in COLD_START_KEYS]
    rows.append(['**all but what says "instead", and Colab**', *total])
    columns = ["Stage", "Seconds", "Seconds, second time", "MB downloaded", "MB installed"]
    stages = markdown_table(columns, rows)

    idle = []
    for row in record["removable"][:8]:
        sizes = [two_digits(row[key]) for key in ("downloaded_mb", "installed_mb")]
        idle.append([escape(row["what"]), *sizes])
    unused = markdown_table(["What", "MB downloaded", "MB installed"], idle)
    return f"{stages}\n\nWhat that figure does not need, the largest first:\n\n{unused}"


def versions() -> str:
    """Return what the test suite ran with."""
    cells = stored("versions", "cells")["cells"]
    parts = []  # in the order in which they first appear
    for cell in cells.values():
        parts += [part for part in cell["parts"] if part not in parts]
    shown = []
    for name in VERSIONS_SHOWN:
        if any(name in cell["versions"] for cell in cells.values()):
            shown.append(name)
    rows = []
    for name, cell in cells.items():
        numbers = [cell["versions"].get(package, "") for package in shown]
        rows.append([name, *numbers, *(passed(cell["parts"].get(part)) for part in parts)])
    return markdown_table(["Set", *shown, *parts], rows)


def passed(part: dict | None) -> str:
    """Return how many tests of a part passed, or how many failed."""
    if part is None:
        return "not run"
    if part["failed"]:
        return f"✗ {part['failed']} failed"
    return f"✓ {part['passed']}"
