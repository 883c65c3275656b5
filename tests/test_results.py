"""What a lesson says of real photographs is what the committed measurement says."""

import json
import re
import subprocess
import sys
from functools import partial

import pytest

from benchmarks import shared
from tools import notebooks

MEASURED = sorted(notebooks.RESULTS.glob("photographs_??.json"))
TYPED = (
    r"(REPLEARN_RECORD=1 )?"
    r"(python benchmarks/|python -m (replearn|scripts|tools|pytest)|bash tests/)"
)


def quoted(text):
    """The percentages in a text, as numbers."""
    return {float(number) for number in re.findall(r"(\d+(?:\.\d)?) ?%", text)}


def section(number):
    """The prose of a lesson's section on real photographs."""
    (path,) = notebooks.sources([number])
    after_heading = path.read_text("utf-8").split("## On real photographs")[1]
    text = after_heading.split("\n## ")[0]
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def measured(path):
    """Every measured share in percent, rounded to whole numbers and to one decimal."""
    shares = set()
    for claim in json.loads(path.read_text("utf-8"))["claims"]:
        for value in claim["numbers"].values():
            values = value if isinstance(value, list) else [value]
            for share in values:
                shares |= {float(f"{100 * share:.0f}"), float(f"{100 * share:.1f}")}
    return shares


def distance(percentage, percentages):
    """How far a number is from the nearest one of several."""
    return min(abs(percentage - other) for other in percentages)


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_photograph_sentence_quotes_the_measurement(path):
    percentages = quoted(section(path.stem[-2:]))
    assert len(percentages - {10.0, 95.0}) >= 3
    known = measured(path) | {10.0}  # 10 % is chance
    for percentage in percentages:
        # half of the last digit covers the two ways to round a number that ends in 5
        assert distance(percentage, known) < 0.051


def test_a_wrong_number_is_seen():
    assert distance(99.9, measured(MEASURED[0])) > 0.051


def stored_commands():
    """The commands in all stored results, by file."""
    commands = {}
    for path in sorted(notebooks.RESULTS.glob("*.json")):
        record = json.loads(path.read_text("utf-8"))
        if "command" in record:
            commands[path.name] = record["command"]
    return commands


@pytest.mark.parametrize(("name", "command"), stored_commands().items())
def test_commands_are_those_that_anybody_can_type(name, command):
    assert re.match(TYPED, command)
    assert not re.search(r"(?<![\w.])/\w+/", command), "a path of one machine"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("benchmarks/cka.py", "python benchmarks/cka.py --sizes 300"),
        ("scripts/ladder.py", "python -m scripts.ladder --sizes 300"),
    ],
)
def test_a_script_records_its_command_without_folders(script, expected, monkeypatch):
    path = notebooks.ROOT / script
    assert path.exists()
    monkeypatch.setattr(sys, "argv", [str(path), "--sizes", "300"])
    assert shared.command() == expected


# --- what the benchmarks share --------------------------------------------------------------------


def test_turns_give_one_time_each_and_the_factor_of_the_middle_one():
    calls = []
    functions = {name: partial(calls.append, name) for name in ("ours", "theirs")}
    seconds = shared.take_turns(functions, turns=3, least=0)
    assert calls == ["ours", "theirs"] * 4  # a first turn warms up
    assert [len(times) for times in seconds.values()] == [3, 3]
    rows = shared.against({"ours": [1.0, 2.0, 4.0], "theirs": [3.0, 4.0, 20.0]}, "ours")
    assert rows["theirs"]["times"] == 3
    assert rows["theirs"]["fewest"] == 2
    assert rows["theirs"]["most"] == 5
    assert rows["theirs"]["median_s"] == 4
    assert rows["ours"]["times"] == 1


def test_a_missed_goal_ends_a_benchmark_with_an_error(capsys):
    reached = shared.goal("twice as fast", 2, 2.0)
    missed = shared.goal("twice as fast", 2, 1.5, why="a busy machine")
    shared.exit_if_missed([reached])
    with pytest.raises(SystemExit) as stopped:
        shared.exit_if_missed([reached, missed])
    assert stopped.value.code == 1
    assert missed["why"] == "a busy machine"
    told = "✓ twice as fast: 2, expected 2 or more\n✗ twice as fast: 1.5, expected 2 or more\n"
    assert capsys.readouterr().out == told


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_peak_of_a_call_is_its_memory():
    # A process of its own, as every benchmark has: another test's thread that gives memory back
    # during the call would hide what the call takes.
    program = (
        "from functools import partial\n"
        "from benchmarks import shared\n"
        "print(shared.peak_mb(partial(bytearray, 50_000_000)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        cwd=notebooks.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert 40 < float(told.stdout) < 100
