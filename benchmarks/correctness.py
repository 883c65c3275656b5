"""Is every number of the course right? Each quantity by the package and by a reference, and with a fault planted in it.

Run: python benchmarks/correctness.py     (about a minute; writes benchmarks/results/correctness.json)
A reference is another library, a published value, a closed form or a loop straight from the paper. A row holds if the
largest difference over its seeds (5 where anything is random) is at most the allowed one; it means something if the
planted fault, a mistake that people make, differs by more than that at every seed. Losses are compared with their
gradients. Both get the same float64 numbers (float32 where a package function computes in it), on one thread. A
library that is absent is left out and named. Exits with an error if a row does not hold or a planted fault is not seen.
"""

import argparse
import importlib.metadata
import sys
import time
from pathlib import Path

import torch
from references import information, losses, models, probes, processes, similarity
from shared import RESULTS, command, goal, machine, write_atomically

ROWS = [
    row
    for part in (similarity, information, losses, models, probes, processes)
    for row in part.ROWS
]
PEERS = sorted({row["peer"] for row in ROWS if "peer" in row})


def version(package):
    """The version of a package, or None where it is absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def reference(row):
    """Library, its version and the name in it; or the paper or form."""
    return (
        f"{row['peer']} {version(row['peer'])}: {row['reference']}"
        if "peer" in row
        else row["reference"]
    )


def difference(a, b):
    """The largest absolute difference of two numbers or tensors of one shape."""
    a, b = (torch.as_tensor(v, dtype=torch.float64).detach() for v in (a, b))
    if a.shape != b.shape:
        raise ValueError(
            f"expected two values of one shape to compare, found {tuple(a.shape)} and {tuple(b.shape)}"
        )
    return (a - b).abs().max().item()


def compare(row):
    """One row of the table: the largest difference over the seeds, and the smallest with the planted fault."""
    start, seeds = time.perf_counter(), row.get("seeds", 5)
    found, expected, faulty = zip(*map(row["check"], range(seeds)), strict=True)
    largest = max(map(difference, found, expected))
    planted = min(map(difference, faulty, expected))
    first = torch.as_tensor(found[0], dtype=torch.float64)
    return dict(
        quantity=row["quantity"],
        lesson=row["lesson"],
        reference=reference(row),
        seeds=seeds,
        value=first.item() if first.numel() == 1 else f"tensor of {first.numel():,} numbers",
        largest_difference=largest,
        allowed=row["allowed"],
        held=largest <= row["allowed"],
        fault=row["fault"],
        difference_with_fault=planted,
        fault_seen=planted > row["allowed"],
        seconds=round(time.perf_counter() - start, 2),
    )


def table(rows):
    """Compare every row whose library is there, one line each; return them, the libraries left out, what broke."""
    found, broken, absent = (
        [],
        {},
        {row["peer"] for row in rows if "peer" in row and version(row["peer"]) is None},
    )
    for row in rows:
        if row.get("peer") in absent:
            continue
        try:
            new = compare(row)
        except (
            Exception
        ) as problem:  # another version of a library, say; the other rows are still worth having
            broken[f"{row['quantity']} ({reference(row)})"] = f"{type(problem).__name__}: {problem}"
            continue
        print(
            f"{'✓' if new['held'] and new['fault_seen'] else '✗'} {new['quantity']} ({new['reference']}): "
            f"{new['largest_difference']:.2g}, allowed {new['allowed']:g}; {new['fault']}: "
            f"{new['difference_with_fault']:.2g}  [{new['seconds']} s]",
            flush=True,
        )
        found.append(new)
    return found, sorted(absent), broken


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="without the rows that train networks or start processes",
    )
    parser.add_argument(
        "--only", default="", help="the rows whose quantity or reference holds this text"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "correctness.json")
    a = parser.parse_args()
    rows = [row for row in ROWS if a.only.lower() in f"{row['quantity']} {reference(row)}".lower()]
    rows = [row for row in rows if not (a.quick and row.get("slow"))]
    if not rows:
        sys.exit(
            f"--only: expected a part of a quantity or a reference, found none with {a.only!r}"
        )
    torch.set_num_threads(1)
    found, absent, broken = table(rows)
    if absent:
        print(f"left out, not installed: {', '.join(absent)}")
    goals = [
        goal(
            "rows within the allowed difference",
            len(found) + len(broken),
            sum(row["held"] for row in found),
        ),
        goal("planted faults seen", len(found), sum(row["fault_seen"] for row in found)),
    ]
    about = machine(*(p for p in PEERS if p not in absent))
    write_atomically(
        a.out,
        dict(
            question="how far is each number of the course from a reference?",
            command=command(),
            rows=found,
            left_out=absent,
            broken=broken,
            goals=goals,
            **about,
        ),
    )
    bad = [row["quantity"] for row in found if not (row["held"] and row["fault_seen"])]
    bad += [f"{row} broke off, {problem}" for row, problem in broken.items()]
    if bad:
        sys.exit(
            f"expected every row to hold and every planted fault to be seen; not so: {'; '.join(bad)}"
        )


if __name__ == "__main__":
    main()
