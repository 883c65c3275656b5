"""Put one run of tests/versions.sh into benchmarks/results/versions.json, and print it.

    python tests/version_record.py CELL PART REPORT SECONDS

CELL names a set of versions, PART a part of the tests, REPORT is pytest's file of results. It runs
in the environment of the cell, whose versions it notes.
"""

import json
import platform
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from replearn.files import write_json

RESULT = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "versions.json"
SHOWN = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "matplotlib",
    "pillow",
    "ipywidgets",
    "ipython",
    "jupyterlab",
    "scikit-learn",
    "scikit-image",
    "safetensors",
    "onnxruntime",
)


def counts(report: Path) -> dict[str, int]:
    """Return how many tests passed, failed and were skipped; none without a report."""
    tests = {"passed": 0, "failed": 0, "skipped": 0}
    if not report.exists():
        return tests
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            tests["failed"] += 1
        elif case.find("skipped") is not None:
            tests["skipped"] += 1
        else:
            tests["passed"] += 1
    return tests


def versions() -> dict[str, str]:
    """Return the versions of this environment."""
    installed = {package.name.lower(): package.version for package in distributions()}
    shown = {name: installed[name] for name in SHOWN if name in installed}
    return {"python": platform.python_version(), **shown}


def stored() -> dict[str, Any]:
    """Return the record as it is."""
    if RESULT.exists():
        return json.loads(RESULT.read_text("utf-8"))
    return {
        "question": "Does it hold with the oldest and the newest versions, and with Colab's?",
        "command": "bash tests/versions.sh",
        "cells": {},
    }


def main(cell: str, part: str, report: str, seconds: str) -> None:
    """Add one run to the record."""
    record = stored()
    row = record["cells"].setdefault(cell, {"parts": {}})
    row["versions"] = versions()
    row["parts"][part] = {**counts(Path(report)), "seconds": int(seconds)}
    write_json(RESULT, record)
    print(cell, part, *(f"{number} {kind}" for kind, number in row["parts"][part].items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
