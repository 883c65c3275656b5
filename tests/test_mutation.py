"""The mutation engine changes functions, its verdicts are right, and every checker rejects a handful of mutants.

All mutants of all solutions, with the survivors, are the work of `python benchmarks/mutation.py`.
"""

import ast
import inspect
import json
import sys
from pathlib import Path

import pytest
import torch

from replearn.lesson import exercises
from replearn.lesson import lesson as core
from replearn.lesson.exercises import Exercise

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import mutation  # noqa: E402

ALL = [(lesson, name) for lesson in core.LESSONS for name in exercises.names(lesson)]


def scaled_mean(x, temperature):
    """The mean over the rows, divided by the temperature."""
    if temperature < 0.1 and len(x) > 0:
        return x[1:].mean(dim=0)
    return (x - x.detach()[:1] + 1).mean(dim=0) / temperature


SCALED = Exercise(
    solution=scaled_mean,
    hints=(),
    wrong={},
    alternatives=(),
    gradient_of=(0,),
    cases=lambda generator: {
        "numbers": (torch.randn(4, 3, generator=generator), 0.5),
        "cold": (torch.randn(5, 2, generator=generator), 0.05),
    },
)


def verdict_of(change):
    """The verdict on `scaled_mean` after one replacement in its text."""
    source = inspect.getsource(scaled_mean)
    assert change[0] in source
    space = dict(torch=torch)
    exec(source.replace(*change), space)
    return mutation.verdict(SCALED, space["scaled_mean"])[0]


def test_every_mutant_is_another_function_that_compiles():
    source = inspect.getsource(scaled_mean)
    found = mutation.mutants(source)
    plain = ast.parse(source)
    plain.body[0].body.pop(0)
    assert len(found) > 40 and ast.unparse(plain) not in found
    assert len({ast.dump(ast.parse(text)) for text in found}) == len(found)


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
    assert any(piece in text for text in mutation.mutants(inspect.getsource(scaled_mean))), piece


def test_dropping_no_grad_is_a_mutant():
    found = mutation.mutants("def f(x):\n    with torch.no_grad():\n        return x + 1\n")
    assert "def f(x):\n    return x + 1" in found


def test_verdicts():
    assert verdict_of(("mean(dim=0)", "mean(0)")) == "equivalent"
    assert verdict_of(("x.detach()[:1]", "x[:1].detach()")) == "equivalent"
    assert verdict_of(("/ temperature", "* temperature")) == "rejected"
    assert verdict_of(("x.detach()[:1]", "x[:1]")) == "rejected", (
        "the value is the same, its gradient is not"
    )
    assert verdict_of(("x[1:]", "x[9]")) == "crashed"
    assert verdict_of(("+ 1)", "+ 1.000001)")) == "survived", (
        "within the tolerance of the check, not in ten digits"
    )


@pytest.mark.parametrize("lesson, name", ALL, ids=["-".join(pair) for pair in ALL])
def test_a_checker_rejects_mutants(lesson, name, monkeypatch):
    monkeypatch.setattr(mutation, "SEEDS", range(1))
    monkeypatch.setattr(mutation, "INPUTS", 20)
    found = mutation.measure(exercises.get(lesson, name), limit=8)
    assert found["mutants"] >= 4 and found["rejected"] >= found["mutants"] / 2
    assert not found["kept"]["survived"], found["kept"]["survived"]


def test_the_committed_result_has_no_survivors():
    record = json.loads(mutation.RESULTS.read_text("utf-8"))
    assert record["total"]["survived"] == 0 and record["total"]["mutants"] > 1500
    expected = {f"{lesson} {name}" for lesson, name in ALL}
    assert set(record["exercises"]) <= expected
    assert {name for name in expected if name < "12"} <= set(record["exercises"])
