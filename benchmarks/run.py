"""All benchmarks that suit this machine, one after the other; `make bench` runs it.

Run: python benchmarks/run.py              (three quarters of an hour; each writes its file in benchmarks/results/)
     python benchmarks/run.py cka cca      (two of them)
Timings need a machine that does nothing else meanwhile. A goal that is missed, or a benchmark that breaks, is told in
the table at the end, and the rest goes on. Exits with an error if a benchmark broke off without a result.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
MINUTES = dict(
    augment=2,
    contrast=2,
    cka=2,
    cca=2,
    probe=2,
    knn=1,
    step=4,
    loader=2,
    t4_budget=1,
    export=2,
    correctness=1,
    mutation=8,
    soak=3,
    kill=15,
    faults=3,
)  # on two CPU cores
LEFT_OUT = {
    "cold_start": "downloads gigabytes into empty caches",
    "serve": "needs a second interpreter with schemathesis (--schemathesis)",
    "recipes": "needs a GPU for hours",
    "photographs": "needs CIFAR-10 (REPLEARN_DATA)",
    "medical": "needs CIFAR-10 and PneumoniaMNIST (REPLEARN_DATA)",
    "recipes_table": "measures nothing: it prints what recipes.py found",
    "encoders": "trains the shipped encoders of photographs anew, from CIFAR-10 (REPLEARN_DATA)",
    "checkpoints": "trains the shipped encoders of shapes anew",
    "ladder": "is about the pictures `shapes`, not about speed",
}


def chosen(names):
    """The benchmarks to run, in order; SystemExit with a sentence for a name that is none of them."""
    for name in names:
        if name in LEFT_OUT:
            sys.exit(
                f"{name} {LEFT_OUT[name]}: start it yourself, python benchmarks/{name}.py --help says how"
            )
        if name not in MINUTES:
            sys.exit(f"no benchmark {name}; expected some of {', '.join(MINUTES)}")
    return list(names) or list(MINUTES)


def written(since):
    """The results that were written after `since`."""
    paths = [path for path in sorted(RESULTS.glob("*.json")) if path.stat().st_mtime >= since]
    return [json.loads(path.read_text("utf-8")) for path in paths]


def outcome(code, results):
    """(Did it break?, what to say), from the exit status and the results."""
    if not results:
        return True, f"✗ broke off without a result (exit {code})"
    goals = [goal for result in results for goal in result.get("goals", ())]
    missed = [goal["sentence"] for goal in goals if not goal["reached"]]
    said = f"{len(goals) - len(missed)} of {len(goals)} goals reached" if goals else "measured"
    said += "".join(f"\n{'':28}missed: {sentence}" for sentence in missed)
    return False, f"{'✗' if code or missed else '✓'} {said}" + (
        f" (exit {code})" if code and not missed else ""
    )


def run(name):
    """Run one benchmark; return (broke?, its row of the table)."""
    started, clock = time.time(), time.perf_counter()
    code = subprocess.run([sys.executable, str(HERE / f"{name}.py")], cwd=HERE.parent).returncode
    broke, said = outcome(code, written(started))
    return broke, f"{name:14}{time.perf_counter() - clock:9.0f} s  {said}"


def main(names):
    todo, rows, broken = chosen(names), [], False
    if not names:
        print("left out:", *(f"  {name}: {why}" for name, why in LEFT_OUT.items()), sep="\n")
    try:
        for i, name in enumerate(todo):
            left = sum(MINUTES[later] for later in todo[i:])
            print(
                f"\n=== {i + 1} of {len(todo)}: {name}, about {MINUTES[name]} of {left} minutes left",
                flush=True,
            )
            broke, row = run(name)
            broken |= broke
            rows.append(row)
    except KeyboardInterrupt:
        rows.append(f"stopped before the end; not run: {', '.join(todo[len(rows) :])}")
    print("\n" + "\n".join(rows))
    return int(broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
