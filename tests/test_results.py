"""What a lesson says of real photographs is what the committed measurement says."""

import importlib
import json
import re
import sys

import pytest

from tools import notebooks as build

MEASURED = sorted(build.RESULTS.glob("photographs_[0-9][0-9].json"))


def quoted(text):
    """The percentages in a text, as numbers."""
    return {float(number) for number in re.findall(r"(\d+(?:\.\d)?) ?%", text)}


def section(number):
    (path,) = (build.NOTEBOOKS / "src").glob(f"{number}_*.md")
    text = path.read_text("utf-8").split("## On real photographs")[1].split("\n## ")[0]
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)  # the prose


def measured(path):
    """Every measured share in percent, rounded to whole numbers and to one decimal."""
    claims = json.loads(path.read_text("utf-8"))["claims"]
    values = [value for claim in claims for value in claim["numbers"].values()]
    shares = [100 * v for value in values for v in (value if isinstance(value, list) else [value])]
    return {float(f"{share:.{digits}f}") for share in shares for digits in (0, 1)}


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_photograph_sentence_quotes_the_measurement(path):
    found = quoted(section(path.stem[-2:]))
    assert len(found - {10.0, 95.0}) >= 3
    # 10 % is chance; half of the last digit covers the two ways to round a number that ends in 5
    assert all(min(abs(q - m) for m in measured(path) | {10.0}) < 0.051 for q in found), (
        found,
        measured(path),
    )


def test_a_wrong_number_is_seen():
    path = MEASURED[0]
    assert min(abs(99.9 - m) for m in measured(path)) > 0.051


def test_commands_are_those_that_anybody_can_type():
    for path in sorted(build.RESULTS.glob("*.json")):
        command = json.loads(path.read_text("utf-8")).get("command", "python benchmarks/")
        assert re.match(r"(python benchmarks/|python -m replearn|bash tests/)", command), (
            f"{path.name}: {command}"
        )
        assert not re.search(r"(?<![\w.])/\w+/", command), (
            f"{path.name}: a path of one machine in {command}"
        )


def test_a_benchmark_records_its_command_without_folders(monkeypatch):
    monkeypatch.syspath_prepend(build.ROOT / "benchmarks")
    shared = importlib.import_module("shared")
    monkeypatch.setattr(sys, "argv", [str(build.ROOT / "benchmarks" / "cka.py"), "--sizes", "300"])
    assert shared.command() == "python benchmarks/cka.py --sizes 300"
