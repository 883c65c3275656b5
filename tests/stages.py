"""Every check of the project, one stage after the other; `make test` runs it. `python tests/stages.py units` runs one.

Streams what each stage prints, then one line a stage with its seconds, then the tests of all stages added up.
NB_WORKERS (2) notebooks run at a time, each with NB_THREADS (1) threads.
"""

import glob
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
NOTEBOOKS = sorted(glob.glob("notebooks/[0-9][0-9]_*.ipynb", root_dir=ROOT))
HOUSE = [
    "tests/test_house.py",
    "tests/test_contract.py",
    "tests/test_site.py",
    "tests/test_browser.py",
]
NBVAL = [
    "--nbval-lax",
    "--nbval-current-env",
    "--nbval-sanitize-with",
    "tests/nbval_sanitize.cfg",
    "--dist",
    "loadscope",
    "-n",
    os.environ.get("NB_WORKERS", "2"),
]

STAGES = {  # name: command, variables
    "lint": ([sys.executable, "-m", "ruff", "check", "."], {}),
    "units": (
        [*PYTEST, "tests", *(f"--ignore={path}" for path in HOUSE), "-n", "2"],
        {"OMP_NUM_THREADS": "1"},
    ),
    "colab": (["bash", "tests/colab.sh"], {}),
    "house": ([*PYTEST, *HOUSE[:2]], {}),
    "site": ([*PYTEST, *HOUSE[2:]], {}),
    # The lesson as it is read: on the embedded pictures, strictly, whatever lies in this machine's cache folder.
    "notebooks": (
        [*PYTEST, *NBVAL, *NOTEBOOKS],
        {
            "OMP_NUM_THREADS": os.environ.get("NB_THREADS", "1"),
            "REPLEARN_STATIC": "1",
            "REPLEARN_STRICT": "1",
            "REPLEARN_PROFILE": "cpu",
            "REPLEARN_DATA": str(ROOT / "build" / "no-data"),
        },
    ),
}


def run(command, variables):
    """Stream a command's output; return its exit code, its seconds and the counts of pytest's closing line."""
    started, closing = time.perf_counter(), ""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        print(line, end="", flush=True)
        if re.search(r"\b\d+ (passed|failed|errors?|skipped)\b.* in [\d.]+s", line):
            closing = line
    counts = {
        kind: int(number)
        for number, kind in re.findall(r"(\d+) (passed|failed|error|skipped)", closing)
    }
    return process.wait(), time.perf_counter() - started, counts


def main(names):
    if unknown := set(names) - set(STAGES):
        sys.exit(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    rows, totals, broken = [], dict(passed=0, failed=0, skipped=0), False
    for name in names or STAGES:
        print(f"\n=== {name} " + "=" * (70 - len(name)), flush=True)
        code, seconds, counts = run(*STAGES[name])
        broken |= code != 0
        failed = counts.get("failed", 0) + counts.get("error", 0)
        counts = dict(
            passed=counts.get("passed", 0),
            failed=failed or int(code != 0),
            skipped=counts.get("skipped", 0),
        )
        totals = {kind: totals[kind] + counts[kind] for kind in totals}
        shown = ", ".join(f"{number} {kind}" for kind, number in counts.items() if number)
        rows.append(f"{'✗' if code else '✓'} {name:<10} {seconds:6.0f} s   {shown}")
    print("\n" + "\n".join(rows))
    print(f"\n{totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
