"""Side experiments: they find their cells in the lessons, and the record is of this script."""

import ast
import builtins
import json

import pytest

from scripts import side_experiments
from scripts.side_experiments import EXPERIMENTS, code_of, run_cells

PATH = side_experiments.PATH
RECORD = json.loads(PATH.read_text("utf-8")) if PATH.exists() else {}


def test_cells_run_in_order_at_a_seed_with_one_thing_replaced():
    # The second cell is named first.
    parts = ["def invariance(z", "lesson = Lesson("]
    names = run_cells("11", 3, parts, {"torch.randn(2, 300, 8)": "torch.randn(2, 50, 8)"})
    assert names["lesson"].seed == 3
    assert names["lesson"].profile_name == "cpu"
    assert names["z"].shape == (50, 8)
    assert names["invariance"](names["z"], names["z"]) == 1
    assert "encoders" not in names


@pytest.mark.parametrize(
    "parts, replace, message",
    [
        (["nobody wrote this"], {}, "expected one cell with 'nobody wrote this', found 0"),
        (["lesson."], {}, r"expected one cell with 'lesson\.', found \d\d"),
        (["def invariance(z"], {"x = 1": "x = 2"}, "expected 'x = 1' once, found it 0 times"),
    ],
)
def test_code_that_the_lesson_no_longer_has_is_an_error(parts, replace, message):
    with pytest.raises(ValueError, match=message):
        code_of("11", parts, replace)


def undefined(code):
    """The names that code uses and never defines."""
    used = set()
    defined = set(dir(builtins))
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler):
            defined.add(node.name)
    return used - defined


def test_a_cell_that_was_forgotten_is_seen():
    assert undefined("def f(x):\n    return g(x)") == {"g"}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_finds_its_cells_in_the_lesson_of_today(name, monkeypatch):
    class FoundError(Exception):
        pass

    def find(lesson, seed, parts, replace=None):
        assert lesson == EXPERIMENTS[name].lesson
        assert undefined(code_of(lesson, parts, replace)) <= {"Z"}  # which `both_tasks` is given
        raise FoundError

    monkeypatch.setattr(side_experiments, "run_cells", find)
    with pytest.raises(FoundError):
        EXPERIMENTS[name].measure(0)


def test_every_experiment_is_stored_as_the_script_describes_it():
    assert set(RECORD) == set(EXPERIMENTS)
    for name, experiment in EXPERIMENTS.items():
        stored = RECORD[name]
        assert stored["words"] == experiment.words
        assert stored["lesson"] == experiment.lesson
        assert stored["settings"] == experiment.settings
        for values in stored["numbers"].values():
            assert len(values) == len(stored["seeds"])


def test_an_entry_replaces_its_own_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(side_experiments, "PATH", tmp_path / "record.json")
    first, second, *_ = EXPERIMENTS
    for name, text in ((second, "old"), (first, "kept"), (second, "new")):
        side_experiments.store(name, {"question": text})
    stored = json.loads((tmp_path / "record.json").read_text("utf-8"))
    assert list(stored) == [first, second]
    assert stored[first] == {"question": "kept"}
    assert stored[second] == {"question": "new"}


def test_an_experiment_that_does_not_exist_is_named():
    with pytest.raises(SystemExit, match="no experiment nothing; there are shared_votes, "):
        side_experiments.main(["nothing"])
