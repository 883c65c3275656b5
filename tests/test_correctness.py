"""The table of references (benchmarks/correctness.py): what is stored is what the script finds, and faults are seen."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
STORED = json.loads((ROOT / "benchmarks" / "results" / "correctness.json").read_text("utf-8"))


def load(folder):
    """The module correctness.py of a folder; two folders have one."""
    spec = importlib.util.spec_from_file_location(
        f"correctness_of_{folder}", ROOT / folder / "correctness.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / folder))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / folder))
    return module


script = load("benchmarks")
QUICK = [row for row in script.ROWS if not row.get("slow")]
SECONDS_TO_IMPORT = ("lightly", "pytorch-metric-learning", "ckatorch")


def label(row):
    return f"{row['quantity']}, {row.get('peer', '')} {row['reference']}, {row['fault']}"


def test_the_stored_table_has_every_row_and_all_hold():
    assert (
        STORED["left_out"] == []
        and STORED["broken"] == {}
        and len(STORED["rows"]) == len(script.ROWS) >= 40
    )
    for stored, row in zip(STORED["rows"], script.ROWS, strict=True):
        names = ("quantity", "lesson", "fault", "allowed")
        assert [stored[name] for name in names] == [row[name] for name in names]
        assert (
            row.get("peer", "") in stored["reference"] and row["reference"] in stored["reference"]
        )
        assert stored["seeds"] == row.get("seeds", 5)
        assert stored["held"] == (stored["largest_difference"] <= stored["allowed"]) is True, stored
        assert (
            stored["fault_seen"] == (stored["difference_with_fault"] > stored["allowed"]) is True
        ), stored
    assert len(set(map(label, script.ROWS))) == len(script.ROWS)
    assert all(goal["reached"] for goal in STORED["goals"])


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row, id=label(row), marks=[pytest.mark.slow] * (row.get("peer") in SECONDS_TO_IMPORT)
        )
        for row in QUICK
    ],
)
def test_a_row_holds_and_its_planted_fault_is_seen(row, one_silent_thread):
    if "peer" in row and script.version(row["peer"]) is None:
        pytest.skip(f"{row['peer']} is not installed")
    found = script.compare({**row, "seeds": 1})
    assert found["held"] and found["fault_seen"], found


def test_a_fault_in_the_package_fails_the_row(monkeypatch, tmp_path):
    from replearn import losses

    right = losses.nt_xent
    monkeypatch.setattr(
        losses, "nt_xent", lambda z1, z2, *, temperature: right(z1, z2, temperature=2 * temperature)
    )
    row = script.losses.ROWS[0]
    assert not script.compare(row)["held"]
    monkeypatch.setattr(script, "ROWS", [row])
    monkeypatch.setattr(sys, "argv", ["correctness.py", "--out", str(tmp_path / "found.json")])
    with pytest.raises(SystemExit, match="not so: NT-Xent and its gradient"):
        script.main()
    assert not json.loads((tmp_path / "found.json").read_text())["rows"][0]["held"]


def test_a_fault_that_changes_nothing_is_told(capsys):
    blind = dict(script.losses.ROWS[0], check=lambda seed: (1.0, 1.0, 1.0))
    found, _, _ = script.table([blind])
    assert (
        found[0]["held"] and not found[0]["fault_seen"] and capsys.readouterr().out.startswith("✗")
    )


def test_nan_and_other_shapes_never_hold():
    nan = dict(script.losses.ROWS[0], check=lambda seed: (float("nan"), 1.0, 2.0))
    assert not script.compare(nan)["held"]
    with pytest.raises(ValueError, match="one shape"):
        script.difference(torch.zeros(2), torch.zeros(1))


def test_an_absent_library_and_a_row_that_breaks_are_named(monkeypatch):
    known = script.version
    monkeypatch.setattr(
        script, "version", lambda package: None if package == "lightly" else known(package)
    )
    rows = [row for row in script.losses.ROWS if row.get("peer", "lightly") == "lightly"][:4]
    rows.append(dict(rows[0], check=lambda seed: 1 / 0, quantity="broken"))
    found, absent, broken = script.table(rows)
    assert absent == ["lightly"] and len(found) == sum("peer" not in row for row in rows[:-1])
    assert list(broken.values()) == ["ZeroDivisionError: division by zero"]


def test_the_page_has_every_row():
    text = load("site").correctness(lambda text: text.replace("|", r"\|"))
    assert text.count("\n| ✓ ") == len(STORED["rows"]) and "✗" not in text
    assert all(row["quantity"].replace("|", r"\|") in text for row in STORED["rows"])
    assert {line.replace(r"\|", "").count("|") for line in text.splitlines()} == {7}
