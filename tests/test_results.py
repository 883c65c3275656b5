"""What benchmarks record: their command, as anybody can type it."""

import importlib
import sys

from tools.project import ROOT


def test_a_benchmark_records_its_command_without_folders(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    shared = importlib.import_module("shared")
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "cka.py"), "--sizes", "300"])
    assert shared.command() == "python benchmarks/cka.py --sizes 300"
