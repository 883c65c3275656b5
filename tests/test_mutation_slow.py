"""Does every checker notice when the solution is changed? All mutants of every exercise are judged.

Five to ten minutes on two cores. With REPLEARN_RECORD=1 what came of them is written to
benchmarks/results/mutation.json. What a mutant is and how it is judged: tests/mutants.py.
"""

import time
from typing import Any

import mutants
import pytest
import records

from benchmarks.shared import machine
from replearn.lesson import exercises
from replearn.lesson.exercises import limits
from replearn.lesson.lesson import EVERY_LESSON

pytestmark = pytest.mark.slow
ALL = [(lesson, name) for lesson in EVERY_LESSON for name in exercises.names(lesson)]


@pytest.fixture(scope="module")
def judged():
    """What came of each exercise so far; written when all have been judged."""
    rows: dict[str, dict[str, Any]] = {}
    start = time.perf_counter()
    yield rows
    if len(rows) == len(ALL):
        records.write("mutation", record_of(rows, time.perf_counter() - start))


def record_of(rows: dict[str, dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Return the record of all exercises: sums, rows, versions."""
    first = next(iter(rows.values()))
    total = {key: sum(row[key] for row in rows.values()) for key in first if key != "kept"}
    return {
        "question": "which changes of the reference solutions does each checker reject?",
        "total": total,
        "command": records.command("mutation"),
        "seeds": len(mutants.SEEDS),
        "fresh_inputs": mutants.INPUTS,
        "exercises": rows,
        "seconds": round(seconds),
        **machine(),
    }


@pytest.mark.parametrize(("lesson", "name"), ALL, ids=["-".join(pair) for pair in ALL])
def test_no_mutant_survives(lesson, name, judged, monkeypatch, one_silent_thread):
    monkeypatch.setattr(limits, "LIMIT", 20.0)
    row = mutants.judge_all(exercises.get(lesson, name))
    judged[f"{lesson} {name}"] = row
    assert row["mutants"] > 0
    assert row["kept"]["survived"] == []
