"""Mutants are functions with one mistake, verdicts are right, and every checker rejects a handful.

All mutants of all solutions are judged by tests/test_mutation_slow.py.
"""

import ast
import inspect
import json

import mutants
import pytest
import torch

from benchmarks.shared import RESULTS
from replearn.lesson import exercises
from replearn.lesson.exercises import Exercise
from replearn.lesson.lesson import EVERY_LESSON

ALL = [(lesson, name) for lesson in EVERY_LESSON for name in exercises.names(lesson)]


def scaled_mean(x, temperature):
    """The mean over the rows, divided by the temperature."""
    if temperature < 0.1 and len(x) > 0:
        return x[1:].mean(dim=0)
    return (x - x.detach()[:1] + 1).mean(dim=0) / temperature


def two_cases(generator):
    return {
        "numbers": (torch.randn(4, 3, generator=generator), 0.5),
        "cold": (torch.randn(5, 2, generator=generator), 0.05),
    }


SCALED = Exercise(
    solution=scaled_mean,
    hints=(),
    wrong={},
    alternatives=(),
    gradient_of=(0,),
    cases=two_cases,
)


def mutants_of_scaled_mean():
    return mutants.mutants(inspect.getsource(scaled_mean))


def test_every_mutant_is_another_function_that_compiles():
    sources = mutants_of_scaled_mean()
    solution = ast.unparse(mutants.without_docstring(inspect.getsource(scaled_mean)))
    assert len(sources) > 40
    assert solution not in sources
    trees = {ast.dump(ast.parse(source)) for source in sources}
    assert len(trees) == len(sources)


@pytest.mark.parametrize(
    "piece",
    [
        ".mean(dim=1)",
        ".sum(dim=0)",
        "* temperature",
        "x + x.detach()",
        "x - x[:1]",
        "temperature <= 0.1",
        "return -(",
        "temperature > 0.1",
        "temperature < 0.2",
        "< 0.1 or len(x)",
        "x[2:]",
        "x[0:]",
        "return 2 * (",
        "+ 2)",
        "/ x",
        "(x.detach()[:1] - x + 1)",
        "x[:1].mean",
        "x.detach() - x.detach()[:1]",
        "if True and",
        "return (x - x.detach()[:1] + 1) / temperature",
    ],
)
def test_the_usual_changes_are_among_the_mutants(piece):
    assert any(piece in source for source in mutants_of_scaled_mean())


def test_dropping_no_grad_is_a_mutant():
    sources = mutants.mutants("def f(x):\n    with torch.no_grad():\n        return x + 1\n")
    assert "def f(x):\n    return x + 1" in sources


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("mean(dim=0)", "mean(0)", "equivalent"),
        ("x.detach()[:1]", "x[:1].detach()", "equivalent"),
        ("/ temperature", "* temperature", "rejected"),
        # the value is the same, its gradient is not
        ("x.detach()[:1]", "x[:1]", "rejected"),
        ("x[1:]", "x[9]", "crashed"),
        # within the tolerance of the check, not in ten digits
        ("+ 1)", "+ 1.000001)", "survived"),
    ],
)
def test_the_verdict_on_a_change(old, new, expected):
    source = inspect.getsource(scaled_mean)
    assert old in source
    names = {"torch": torch}
    exec(source.replace(old, new), names)
    assert mutants.verdict(SCALED, names["scaled_mean"]).name == expected


@pytest.mark.parametrize(("lesson", "name"), ALL, ids=["-".join(pair) for pair in ALL])
def test_a_checker_rejects_mutants(lesson, name, monkeypatch):
    monkeypatch.setattr(mutants, "SEEDS", range(1))
    monkeypatch.setattr(mutants, "INPUTS", 20)
    row = mutants.judge_all(exercises.get(lesson, name), limit=8)
    assert row["mutants"] >= 4
    assert row["rejected"] >= row["mutants"] / 2
    assert row["kept"]["survived"] == []


def test_the_committed_result_has_no_survivors():
    record = json.loads((RESULTS / "mutation.json").read_text("utf-8"))
    assert record["total"]["survived"] == 0
    assert record["total"]["mutants"] > 1500
    known = {f"{lesson} {name}" for lesson, name in ALL}
    stored = set(record["exercises"])
    assert stored <= known
    assert {name for name in known if name < "12"} <= stored
