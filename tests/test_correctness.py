"""The table of references: what is stored is what its script finds, and faults are seen."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from replearn import losses

ROOT = Path(__file__).parents[1]
STORED = json.loads((ROOT / "benchmarks" / "results" / "correctness.json").read_text("utf-8"))


def load(path):
    """Import a file as a script is run: its folder is the first place that it imports from."""
    spec = importlib.util.spec_from_file_location(f"file_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


correctness = load(ROOT / "benchmarks" / "correctness.py")
FIRST_LOSS = correctness.losses.ROWS[0]
SECONDS_TO_IMPORT = ("lightly", "pytorch-metric-learning", "ckatorch")


def label(row):
    return f"{row.quantity}, {row.peer or ''} {row.reference}, {row.fault}"


def quick_rows():
    """The rows that take less than seconds, as parameters of a test."""
    parameters = []
    for row in correctness.ROWS:
        if not row.slow:
            marks = [pytest.mark.seconds] if row.peer in SECONDS_TO_IMPORT else []
            parameters.append(pytest.param(row, id=label(row), marks=marks))
    return parameters


# --- what is stored -------------------------------------------------------------------------------


def test_the_stored_table_is_complete():
    assert STORED["left_out"] == []
    assert STORED["broken"] == {}
    assert len(STORED["rows"]) == len(correctness.ROWS) >= 40
    assert all(goal["reached"] for goal in STORED["goals"])


def test_no_two_rows_have_the_same_words():
    labels = {label(row) for row in correctness.ROWS}
    assert len(labels) == len(correctness.ROWS)


@pytest.mark.parametrize(
    ("stored", "row"),
    list(zip(STORED["rows"], correctness.ROWS, strict=False)),
    ids=[label(row) for row in correctness.ROWS[: len(STORED["rows"])]],
)
def test_a_stored_row_is_that_of_the_script_and_holds(stored, row):
    assert stored["quantity"] == row.quantity
    assert stored["lesson"] == row.lesson
    assert stored["fault"] == row.fault
    assert stored["allowed"] == row.allowed
    assert stored["seeds"] == row.seeds
    assert row.reference in stored["reference"]
    assert row.peer is None or row.peer in stored["reference"]
    assert stored["held"] is True
    assert stored["largest_difference"] <= stored["allowed"]
    assert stored["fault_seen"] is True
    assert stored["difference_with_fault"] > stored["allowed"]


def test_the_page_has_every_row():
    measured = load(ROOT / "site" / "measured.py")
    text = measured.correctness()
    assert text.count("\n| ✓ ") == len(STORED["rows"])
    assert "✗" not in text
    for row in STORED["rows"]:
        assert measured.escape(row["quantity"]) in text
    for line in text.splitlines():
        assert line.replace(r"\|", "").count("|") == 7


# --- the script -----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", quick_rows())
def test_a_row_holds_and_its_planted_fault_is_seen(row, one_silent_thread):
    if row.peer is not None and correctness.version(row.peer) is None:
        pytest.skip(f"{row.peer} is not installed")
    line = correctness.compare(replace(row, seeds=1))
    assert line["held"], line
    assert line["fault_seen"], line


def test_a_fault_in_the_package_fails_the_row(monkeypatch, tmp_path):
    nt_xent = losses.nt_xent

    def at_twice_the_temperature(z1, z2, *, temperature):
        return nt_xent(z1, z2, temperature=2 * temperature)

    monkeypatch.setattr(losses, "nt_xent", at_twice_the_temperature)
    assert not correctness.compare(FIRST_LOSS)["held"]

    result = tmp_path / "result.json"
    monkeypatch.setattr(correctness, "ROWS", [FIRST_LOSS])
    monkeypatch.setattr(sys, "argv", ["correctness.py", "--out", str(result)])
    with pytest.raises(SystemExit, match="not so: NT-Xent and its gradient"):
        correctness.main()
    assert not json.loads(result.read_text("utf-8"))["rows"][0]["held"]


def row_with(check, **changes):
    """A row whose check is another one."""
    return replace(FIRST_LOSS, check=check, **changes)


def test_a_fault_that_changes_nothing_is_told(capsys):
    def blind(seed):
        return correctness.losses.Compared(ours=1.0, expected=1.0, faulty=1.0)

    lines, _, _ = correctness.compare_all([row_with(blind)])
    assert lines[0]["held"]
    assert not lines[0]["fault_seen"]
    assert capsys.readouterr().out.startswith("✗")


def test_nan_never_holds():
    def not_a_number(seed):
        return correctness.losses.Compared(ours=float("nan"), expected=1.0, faulty=2.0)

    assert not correctness.compare(row_with(not_a_number))["held"]


def test_other_shapes_are_an_error():
    with pytest.raises(ValueError, match="one shape"):
        correctness.difference(torch.zeros(2), torch.zeros(1))


def test_an_absent_library_and_a_row_that_breaks_are_named(monkeypatch):
    version = correctness.version

    def version_without_lightly(package):
        return None if package == "lightly" else version(package)

    def breaks(seed):
        return 1 / 0

    monkeypatch.setattr(correctness, "version", version_without_lightly)
    rows = [row for row in correctness.losses.ROWS if row.peer in (None, "lightly")][:4]
    without_peer = [row for row in rows if row.peer is None]
    result = correctness.compare_all([*rows, row_with(breaks, quantity="broken")])
    assert result.absent == ["lightly"]
    assert len(result.lines) == len(without_peer)
    assert list(result.broken.values()) == ["ZeroDivisionError: division by zero"]
