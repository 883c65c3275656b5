"""Is every number of the course right? Each by the package and by a reference, and with a fault.

Run: python benchmarks/correctness.py     (a minute; writes benchmarks/results/correctness.json)
A reference is another library, a published value, a closed form or a loop straight from the paper.
A row holds if the largest difference over its seeds (5 where anything is random) is at most the
allowed one; it means something if the planted fault, a mistake that people make, differs by more
than that at every seed. Losses are compared with their gradients. Both get the same float64 numbers
(float32 where a package function computes in it), on one thread. A library that is absent is left
out and named. Exits with an error if a row does not hold or a planted fault is not seen.
"""

import argparse
import importlib.metadata
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from references import Row, information, losses, models, probes, processes, similarity
from shared import RESULTS, command, goal, machine

from replearn.files import write_json

ROWS: list[Row] = [
    *similarity.ROWS,
    *information.ROWS,
    *losses.ROWS,
    *models.ROWS,
    *probes.ROWS,
    *processes.ROWS,
]
PEERS = sorted({row.peer for row in ROWS if row.peer is not None})


def version(package: str) -> str | None:
    """Return the version of a package, or None where it is absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def reference_of(row: Row) -> str:
    """Return the library, its version and the name in it; or the paper or form."""
    if row.peer is None:
        return row.reference
    return f"{row.peer} {version(row.peer)}: {row.reference}"


def difference(a: Any, b: Any) -> float:
    """Return the largest absolute difference of two numbers or tensors of one shape."""
    a = torch.as_tensor(a, dtype=torch.float64).detach()
    b = torch.as_tensor(b, dtype=torch.float64).detach()
    if a.shape != b.shape:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"expected two values of one shape to compare, found {shapes}")
    return (a - b).abs().max().item()


def compare(row: Row) -> dict[str, Any]:
    """Compare one row at all its seeds; return its line of the table.

    `largest_difference` is that over the seeds, `difference_with_fault` the smallest over them.
    """
    start = time.perf_counter()
    results = [row.check(seed) for seed in range(row.seeds)]
    largest = max(difference(result.ours, result.expected) for result in results)
    planted = min(difference(result.faulty, result.expected) for result in results)
    first = torch.as_tensor(results[0].ours, dtype=torch.float64)
    if first.numel() == 1:
        value = first.item()
    else:
        value = f"tensor of {first.numel():,} numbers"
    return {
        "quantity": row.quantity,
        "lesson": row.lesson,
        "reference": reference_of(row),
        "seeds": row.seeds,
        "value": value,
        "largest_difference": largest,
        "allowed": row.allowed,
        "held": largest <= row.allowed,
        "fault": row.fault,
        "difference_with_fault": planted,
        "fault_seen": planted > row.allowed,
        "seconds": round(time.perf_counter() - start, 2),
    }


class Comparison(NamedTuple):
    """What came of all rows."""

    lines: list[dict[str, Any]]
    absent: list[str]  # libraries
    broken: dict[str, str]  # {row: what it raised}


def compare_all(rows: Sequence[Row]) -> Comparison:
    """Compare every row whose library is there, and print a line for each."""
    peers = {row.peer for row in rows if row.peer is not None}
    absent = {peer for peer in peers if version(peer) is None}
    lines = []
    broken = {}
    for row in rows:
        if row.peer in absent:
            continue
        try:
            line = compare(row)
        except Exception as problem:
            # Another version of a library, say; the other rows are still worth having.
            broken[f"{row.quantity} ({reference_of(row)})"] = f"{type(problem).__name__}: {problem}"
            continue
        print(as_text(line), flush=True)
        lines.append(line)
    return Comparison(lines, sorted(absent), broken)


def is_good(line: dict[str, Any]) -> bool:
    """Return whether a row holds and would see its fault."""
    return line["held"] and line["fault_seen"]


def as_text(line: dict[str, Any]) -> str:
    """Return a line of the table to be printed."""
    mark = "✓" if is_good(line) else "✗"
    return (
        f"{mark} {line['quantity']} ({line['reference']}): "
        f"{line['largest_difference']:.2g}, allowed {line['allowed']:g}; "
        f"{line['fault']}: {line['difference_with_fault']:.2g}  [{line['seconds']} s]"
    )


def chosen_rows(part: str, quick: bool) -> list[Row]:
    """Return the rows whose quantity or reference holds a text; with `quick` none of the slow."""
    rows = []
    for row in ROWS:
        about = f"{row.quantity} {reference_of(row)}"
        if part.lower() in about.lower() and not (quick and row.slow):
            rows.append(row)
    return rows


def main() -> None:
    """Compare, and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="without the rows that train networks or start processes",
    )
    parser.add_argument(
        "--only", default="", help="the rows whose quantity or reference holds this text"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "correctness.json")
    args = parser.parse_args()
    rows = chosen_rows(args.only, args.quick)
    if not rows:
        expected = "a part of a quantity or a reference"
        sys.exit(f"--only: expected {expected}, found none with {args.only!r}")
    torch.set_num_threads(1)
    lines, absent, broken = compare_all(rows)
    if absent:
        print(f"left out, not installed: {', '.join(absent)}")
    held = sum(line["held"] for line in lines)
    seen = sum(line["fault_seen"] for line in lines)
    goals = [
        goal("rows within the allowed difference", len(lines) + len(broken), held),
        goal("planted faults seen", len(lines), seen),
    ]
    result = {
        "question": "how far is each number of the course from a reference?",
        "command": command(),
        "rows": lines,
        "left_out": absent,
        "broken": broken,
        "goals": goals,
        **machine(*(peer for peer in PEERS if peer not in absent)),
    }
    write_json(args.out, result)
    bad = [line["quantity"] for line in lines if not is_good(line)]
    bad += [f"{row} broke off, {problem}" for row, problem in broken.items()]
    if bad:
        expected = "every row to hold and every planted fault to be seen"
        sys.exit(f"expected {expected}; not so: {'; '.join(bad)}")


if __name__ == "__main__":
    main()
