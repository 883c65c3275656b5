"""Which fault is covered by which test, and how many times? The tests are run here, and the cases counted.

Run: python benchmarks/faults.py      (three minutes; writes benchmarks/results/faults.json)
Each row names tests by file and part of their names, and they are run: a row with a test that fails, or with none, is
an error. A row's count is what its tests say they did (`record_property("count", …)`), and one for each that says
nothing; for bad inputs the length of the table, for random ones the tests times the examples of each. Where a benchmark
plants the fault, the count is that of its stored result.
"""

import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from shared import RESULTS, machine, write_atomically

ROOT = Path(__file__).resolve().parents[1]
PLANTED = [  # fault, what must happen, file, tests by parts of their names
    (
        "a download that is truncated, stalls, crawls, dies, lies or is refused",
        "the next source is asked",
        "test_download",
        "next_source or slow_source or server_without_range or right_bytes or only_source",
    ),
    (
        "every source has one of nine faults",
        "nothing under the final name, an error that says what to do; a retry succeeds",
        "test_download",
        "nothing_is_left or error_names_every or no_network",
    ),
    (
        "three processes, and four threads, download at once; one process is killed",
        "all others have the whole file",
        "test_download",
        "two_processes or two_threads",
    ),
    (
        "a file in the cache is damaged, half copied or runs code when unpickled",
        "it is never trusted",
        "test_download",
        "half_copied or damaged_cache or torchvision_batches",
    ),
    (
        "a disk that is full, a read-only home or folder (real mounts)",
        "one sentence; no partial file",
        "test_download",
        "disk_that_fills or read_only_home or cannot_be_written",
    ),
    (
        "SIGKILL before every line of a checkpoint's save",
        "the old or the new checkpoint, whole",
        "test_faults",
        "killed_at_every_line",
    ),
    ("a save cut off at a byte", "the old checkpoint, whole", "test_faults", "ended_at_any_byte"),
    (
        "training on a disk that fills up",
        "one sentence; with room it ends with the same bytes",
        "test_faults",
        "disk_that_fills",
    ),
    (
        "a checkpoint is damaged, foreign, or the recipe was changed",
        "the one before is used, or one sentence",
        "test_simclr",
        "damaged or foreign or changed_recipe or full_disk or really_full or unwritable",
    ),
    (
        "hostile pictures, types and addresses sent to the service",
        "a sentence, status 400 to 499",
        "test_simclr_serve",
        "hostile_picture_gets or other_types or out_of_range or judged_before",
    ),
    (
        "a body that stalls, never ends or declares terabytes; a crowd",
        "408, 413 or 503; the next one is served",
        "test_simclr_serve",
        "stalls or chunked or crowd or error_inside",
    ),
]


def planted(path, tests):
    """Run tests of a file; return (how many cases they say they had, how many were skipped)."""
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            "-o",
            "junit_family=xunit1",
            f"tests/{path}.py",
            "-k",
            tests,
        ]
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            sys.exit(f"tests/{path}.py, {tests}:\n{done.stdout[-3000:]}")
        cases = list(ElementTree.parse(report).iter("testcase"))
    skipped = sum(case.find("skipped") is not None for case in cases)
    said = [
        [int(x.get("value")) for x in case.iter("property") if x.get("name") == "count"]
        for case in cases
    ]
    return sum(sum(one) if one else 1 for one in said) - skipped, skipped


def inputs():
    """Return the rows of bad inputs and of random ones to the core's public functions."""
    sys.path.insert(0, str(ROOT / "tests"))
    import test_properties as properties

    path, several = "tests/test_properties.py", {}
    examples = properties.settings.default.max_examples
    for name in ("CASES", "CHANGES"):
        several[name] = len(getattr(properties, name))
    given = (
        several["CASES"] * 4 + several["CHANGES"]
    )  # tests_values, _gradients, _scales, _constant; pictures
    return [
        (
            "bad inputs to public functions: NaN, infinities, empty, wrong shape, type, layout, device, parameter",
            "ValueError or TypeError in a sentence",
            f"{path}: test_bad_inputs_are_refused_in_a_sentence",
            len(properties.BAD),
        ),
        (
            "random shapes, scales, layouts, fp16, bf16, float32, float64 to every loss, measure and augmentation",
            "the value of another way to compute it, finite gradients, or the documented error",
            path,
            given * examples,
        ),
    ]


def measured():
    """Return the rows whose faults a benchmark plants."""
    kill, serve = (
        json.loads((RESULTS / f"{name}.json").read_text("utf-8")) for name in ("kill", "serve")
    )
    mutation = json.loads((RESULTS / "mutation.json").read_text("utf-8"))["total"]
    fire = serve["under_fire"]
    rows = [
        (
            "SIGKILL at any moment of a training",
            "the same weights and log, bit by bit",
            "benchmarks/kill.py",
            kill["kills"],
        ),
        (
            "pictures with bytes changed, cut out, cut off",
            "no 5xx",
            "benchmarks/serve.py",
            sum(fire["damaged_pictures"].values()),
        ),
        (
            "requests that schemathesis makes up",
            "no 5xx, answers as described",
            "benchmarks/serve.py",
            fire["schemathesis"]["cases"],
        ),
        (
            "wrong solutions of exercises",
            "their checker rejects them",
            "benchmarks/mutation.py",
            mutation["mutants"],
        ),
    ]
    if "soak" in serve:
        rows.append(
            (
                f"{serve['soak']['clients']} clients at once for {serve['soak']['seconds']:.0f} s",
                "no error, flat memory",
                "benchmarks/soak.py",
                serve["soak"]["requests"],
            )
        )
    return rows


def main():
    """Run, count and write."""
    rows = [
        dict(zip(("fault", "what must happen", "covered by", "count"), row, strict=True))
        for row in [*inputs(), *measured()]
    ]
    for fault, must, path, tests in PLANTED:
        count, skipped = planted(path, tests)
        rows.append(
            {
                "fault": fault,
                "what must happen": must,
                "covered by": f"tests/{path}.py: {tests}",
                "count": count,
            }
            | (dict(skipped=skipped) if skipped else {})
        )
        print(f"{count:6}  {fault}", flush=True)
    if empty := [row["fault"] for row in rows if not row["count"]]:
        sys.exit(f"no test has run for: {'; '.join(empty)}")
    question = "which fault is covered by which test, and how many times"
    write_atomically(
        RESULTS / "faults.json",
        dict(
            question=question,
            command="python benchmarks/faults.py",
            rows=rows,
            **machine("pytest", "hypothesis", threads=1),
        ),
    )


if __name__ == "__main__":
    main()
