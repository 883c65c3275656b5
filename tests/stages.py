"""Every check of the project, one stage after the other; `make test` runs it.

    python tests/stages.py           all stages
    python tests/stages.py units     one of them, or several
    python tests/stages.py fast      in two minutes, what most changes break

Streams what each stage prints, then one line a stage with its seconds, then the tests of all stages
added up. NB_WORKERS (2) notebooks run at a time, each with NB_THREADS (1) threads.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
RUFF = [sys.executable, "-m", "ruff"]
NOTEBOOKS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("[0-9][0-9]_*.ipynb", "frontier/F[0-9]_*.ipynb")
    for path in (ROOT / "notebooks").glob(pattern)
)
TOOLS = [
    "tests/test_house.py",
    "tests/test_lint_course.py",
    "tests/test_notebooks.py",
    "tests/test_npm.py",
]
SITE = ["tests/test_site.py", "tests/test_browser.py"]
CORE = [  # those of the core that take seconds
    "tests/test_audit.py",
    "tests/test_augment.py",
    "tests/test_files.py",
    "tests/test_losses.py",
    "tests/test_metrics.py",
    "tests/test_models.py",
    "tests/test_plot.py",
    "tests/test_probe.py",
    "tests/test_shapes.py",
    "tests/test_train.py",
]
NBVAL = [
    "--nbval-lax",
    "--nbval-current-env",
    "--nbval-sanitize-with",
    "tests/nbval_sanitize.cfg",
]
WORKERS = os.environ.get("NB_WORKERS", "2")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
# The lesson as it is read: on the embedded pictures, strictly, whatever lies in the cache folder of
# this machine.
LESSON = {
    "OMP_NUM_THREADS": os.environ.get("NB_THREADS", "1"),
    "REPLEARN_STATIC": "1",
    "REPLEARN_STRICT": "1",
    "REPLEARN_PROFILE": "cpu",
    "REPLEARN_DATA": str(ROOT / "build" / "no-data"),
}


class Stage(NamedTuple):
    """A command, and variables of its environment."""

    command: list[str]
    variables: dict[str, str]


class Result(NamedTuple):
    """What came of a stage: its exit code, its seconds, and how many tests passed and so on."""

    code: int
    seconds: float
    counts: dict[str, int]


STAGES = {
    "lint": Stage([*RUFF, "check", "."], {}),
    "format": Stage([*RUFF, "format", "--check", "."], {}),
    "course": Stage([sys.executable, "-m", "tools.lint_course"], ONE_THREAD),
    "units": Stage(
        [*PYTEST, "tests", *(f"--ignore={path}" for path in (*TOOLS, *SITE)), "-n", "2"],
        ONE_THREAD,
    ),
    "examples": Stage([*PYTEST, "--doctest-modules", "replearn", "-n", "2"], ONE_THREAD),
    "colab": Stage(["bash", "tests/colab.sh"], {}),
    "house": Stage([*PYTEST, *TOOLS], {}),
    "site": Stage([*PYTEST, *SITE], {}),
    "notebooks": Stage(
        [*PYTEST, *NBVAL, "--dist", "loadscope", "-n", WORKERS, *NOTEBOOKS],
        LESSON,
    ),
    "core": Stage([*PYTEST, *CORE, "-m", "not seconds and not slow", "-n", "2"], ONE_THREAD),
    "notebook": Stage([*PYTEST, *NBVAL, *NOTEBOOKS[:1]], LESSON),
}
FAST = ["lint", "format", "course", "core", "notebook"]
EVERYTHING = [name for name in STAGES if name not in ("core", "notebook")]


def run(stage: Stage) -> Result:
    """Run a stage and stream what it prints; the counts are those of pytest's closing line."""
    started = time.perf_counter()
    closing_line = ""
    process = subprocess.Popen(
        stage.command,
        cwd=ROOT,
        env={**os.environ, **stage.variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        print(line, end="", flush=True)
        if re.search(r"\b\d+ (passed|failed|errors?|skipped)\b.* in [\d.]+s", line):
            closing_line = line
    code = process.wait()
    counts = dict(passed=0, failed=0, skipped=0)
    for number, kind in re.findall(r"(\d+) (passed|failed|error|skipped)", closing_line):
        counts["failed" if kind == "error" else kind] += int(number)
    if code != 0 and counts["failed"] == 0:  # no test has failed, but the command
        counts["failed"] = 1
    return Result(code, time.perf_counter() - started, counts)


def main(names: Sequence[str]) -> int:
    """Run the stages with these names; return the exit code."""
    wanted = []
    for name in names:
        wanted += FAST if name == "fast" else [name]
    unknown = sorted(set(wanted) - set(STAGES))
    if unknown:
        sys.exit(f"no stage {', '.join(unknown)}; there are {', '.join(STAGES)}, fast")
    lines = []
    totals = dict(passed=0, failed=0, skipped=0)
    has_failed = False
    for name in wanted or EVERYTHING:
        print(f"\n=== {name} " + "=" * (70 - len(name)), flush=True)
        result = run(STAGES[name])
        has_failed = has_failed or result.code != 0
        for kind, number in result.counts.items():
            totals[kind] += number
        told = [f"{number} {kind}" for kind, number in result.counts.items() if number]
        mark = "✗" if result.code else "✓"
        lines.append(f"{mark} {name:<10} {result.seconds:6.0f} s   {', '.join(told)}")
    print("\n" + "\n".join(lines))
    print(f"\n{totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped")
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
