"""The table of what each number of the course is compared with, from benchmarks/results/correctness.json."""

import json
from pathlib import Path

RESULT = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "correctness.json"


def number(value):
    """Two digits at most, powers of ten as "3e-12"."""
    return f"{value:.0e}".replace("e-0", "e-") if 0 < value < 1e-3 else f"{value:.2g}"


def correctness(escape):
    """A Markdown table, one row a quantity; `escape` keeps a text as it is in such a table."""
    found = json.loads(RESULT.read_text("utf-8"))
    rows = [
        "| Quantity | Lesson | Reference | Largest difference | Allowed | With a planted fault |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in found["rows"]:
        mark = "✓" if row["held"] and row["fault_seen"] else "✗"
        fault = f"{number(row['difference_with_fault'])} ({escape(row['fault'])})"
        rows.append(
            f"| {mark} {escape(row['quantity'])} | {row['lesson']} | {escape(row['reference'])} "
            f"| {number(row['largest_difference'])} | {number(row['allowed'])} | {fault} |"
        )
    absent = (
        [f"\nNot installed where this was run: {', '.join(found['left_out'])}."]
        if found["left_out"]
        else []
    )
    return "\n".join([*rows, *absent])
