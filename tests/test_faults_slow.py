"""Which fault is covered by which test, and how many times?

Three minutes. The tests are run, and their cases counted. Each row names tests by file and part of
their names, and they are run here: a row with a test that fails, or with none, is an error. A row's
count is what its tests say they did (`record_property("count", ...)`), and one for each that says
nothing; for bad inputs the length of the table, for random ones the tests times the examples of
each. Where another slow test or a benchmark plants the fault, the count is that of its stored
result. With REPLEARN_RECORD=1 the table is written to benchmarks/results/faults.json.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest
import records

from benchmarks.shared import RESULTS, machine

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]


class Planted(NamedTuple):
    """A fault that tests plant."""

    fault: str
    must_happen: str
    file: str  # of the tests
    tests: str  # by parts of their names, as pytest -k takes them


PLANTED = [
    Planted(
        "a download that is truncated, stalls, crawls, dies, lies or is refused",
        "the next source is asked",
        "tests/test_download.py",
        "next_source or slow_source or server_without_range or right_bytes or only_source",
    ),
    Planted(
        "every source has one of nine faults",
        "nothing under the final name, an error that says what to do; a retry succeeds",
        "tests/test_download.py",
        "nothing_is_left or error_names_every or no_network",
    ),
    Planted(
        "three processes, and four threads, download at once; one process is killed",
        "all others have the whole file",
        "tests/test_download.py",
        "two_processes or two_threads",
    ),
    Planted(
        "a file in the cache is damaged, half copied or runs code when unpickled",
        "it is never trusted",
        "tests/test_download.py",
        "half_copied or damaged_cache or torchvision_batches",
    ),
    Planted(
        "a disk that is full, a read-only home or folder (real mounts)",
        "one sentence; no partial file",
        "tests/test_download.py",
        "disk_that_fills or read_only_home or cannot_be_written",
    ),
    Planted(
        "SIGKILL before every line of a checkpoint's save",
        "the old or the new checkpoint, whole",
        "tests/test_faults.py",
        "killed_at_every_line",
    ),
    Planted(
        "SIGKILL at every moment of every write of a training",
        "it goes on, and ends with the same bytes",
        "tests/test_faults.py",
        "killed_at_every_write",
    ),
    Planted(
        "a save cut off at a byte",
        "the old checkpoint, whole",
        "tests/test_faults.py",
        "ended_at_any_byte",
    ),
    Planted(
        "training on a disk that fills up",
        "one sentence; with room it ends with the same bytes",
        "tests/test_faults.py",
        "disk_that_fills",
    ),
    Planted(
        "a checkpoint is damaged, foreign, or the recipe was changed",
        "the one before is used, or one sentence",
        "tests/test_pretrain.py",
        "damaged or foreign or changed_recipe or full_disk or really_full or unwritable",
    ),
    Planted(
        "hostile pictures, types and addresses sent to the service",
        "a sentence, status 400 to 499",
        "tests/test_serve.py",
        "hostile_picture_gets or other_types or out_of_range or judged_before",
    ),
    Planted(
        "a body that stalls, never ends or declares terabytes; a crowd",
        "408, 413 or 503; the next one is served",
        "tests/test_serve.py",
        "stalls or chunked or crowd or error_inside",
    ),
]


# --- counting
# --------------------------------------------------------------------------------------


class Count(NamedTuple):
    """How often a fault was planted."""

    planted: int
    skipped: int  # tests


def counts_said(case: ElementTree.Element) -> int:
    """Return how many cases a test says it had; one if it says nothing."""
    counts = []
    for one_property in case.iter("property"):
        if one_property.get("name") == "count":
            counts.append(int(one_property.get("value")))
    return sum(counts) if counts else 1


def run_and_count(planted: Planted, folder: Path) -> Count:
    """Run the tests of a row; they have to pass."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [f"--junitxml={report}", "-o", "junit_family=xunit1"]
    command += [planted.file, "-k", planted.tests]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stdout[-3000:]
    total = 0
    skipped = 0
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("skipped") is not None:
            skipped += 1
        else:
            total += counts_said(case)
    return Count(total, skipped)


# --- the table
# -------------------------------------------------------------------------------------


def row(fault: str, must_happen: str, covered_by: str, count: int) -> dict[str, Any]:
    """Return a row as the site reads it."""
    return {
        "fault": fault,
        "what must happen": must_happen,
        "covered by": covered_by,
        "count": count,
    }


def rows_of_inputs() -> list[dict[str, Any]]:
    """Return the rows of bad inputs and of random ones to the core's public functions."""
    import test_properties as properties

    path = "tests/test_properties.py"
    # Values, gradients, scales, constant inputs; and images.
    tests = 4 * len(properties.CASES) + len(properties.CHANGES)
    return [
        row(
            "bad inputs to public functions: NaN, infinities, empty, wrong shape, type, layout, "
            "device, parameter",
            "ValueError or TypeError in a sentence",
            f"{path}: test_bad_inputs_are_refused_in_a_sentence",
            len(properties.BAD),
        ),
        row(
            "random shapes, scales, layouts, fp16, bf16, float32, float64 to every loss, measure "
            "and augmentation",
            "the value of another way to compute it, finite gradients, or the documented error",
            path,
            tests * properties.settings.default.max_examples,
        ),
    ]


def stored(name: str) -> dict[str, Any]:
    """Return a stored result."""
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def rows_of_results() -> list[dict[str, Any]]:
    """Return the rows whose faults another slow test or a benchmark plants."""
    serve = stored("serve")
    fire = serve["under_fire"]
    rows = [
        row(
            "SIGKILL at any moment of a training",
            "the same weights and log, bit by bit",
            "tests/test_kill_slow.py",
            stored("kill")["kills"],
        ),
        row(
            "pictures with bytes changed, cut out, cut off",
            "no 5xx",
            "benchmarks/serve.py",
            sum(fire["damaged_pictures"].values()),
        ),
        row(
            "requests that schemathesis makes up",
            "no 5xx, answers as described",
            "benchmarks/serve.py",
            fire["schemathesis"]["cases"],
        ),
        row(
            "hostile and damaged images, and bodies without an end, good images between them",
            "no 5xx, 95 of 100 good images within a second",
            "tests/test_siege_slow.py",
            stored("siege")["attacks"],
        ),
        row(
            "wrong solutions of exercises",
            "their checker rejects them",
            "tests/test_mutation_slow.py",
            stored("mutation")["total"]["mutants"],
        ),
    ]
    if "soak" in serve:
        load = serve["soak"]
        fault = f"{load['clients']} clients at once for {load['seconds']:.0f} s"
        covered_by = "tests/test_soak_slow.py"
        rows.append(row(fault, "no error, flat memory", covered_by, load["requests"]))
    return rows


@pytest.fixture(scope="module")
def counted():
    """Rows of the table by fault; it is written when all tests have been run."""
    rows: dict[str, dict[str, Any]] = {}
    yield rows
    if len(rows) == len(PLANTED):
        in_order = [rows[planted.fault] for planted in PLANTED]
        record = {
            "question": "which fault is covered by which test, and how many times",
            "command": records.command("faults"),
            "rows": [*rows_of_inputs(), *rows_of_results(), *in_order],
            **machine("pytest", "hypothesis", threads=1),
        }
        records.write("faults", record)


@pytest.mark.parametrize("planted", PLANTED, ids=[planted.fault for planted in PLANTED])
def test_a_fault_is_planted_and_survived(planted, counted, tmp_path):
    count = run_and_count(planted, tmp_path)
    assert count.planted > 0
    covered_by = f"{planted.file}: {planted.tests}"
    counted[planted.fault] = row(planted.fault, planted.must_happen, covered_by, count.planted)
    if count.skipped:
        counted[planted.fault]["skipped"] = count.skipped


def test_all_other_faults_were_planted_elsewhere():
    for one_row in [*rows_of_inputs(), *rows_of_results()]:
        assert one_row["count"] > 0, one_row["fault"]
