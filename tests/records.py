"""Slow tests write what they found to benchmarks/results/, for the site, if they are asked to.

REPLEARN_RECORD=1 python -m pytest -m slow tests/test_NAME_slow.py
"""

import os
from typing import Any

from benchmarks.shared import RESULTS
from replearn.files import write_json


def command(name: str) -> str:
    """Return the command that writes the record of tests/test_NAME_slow.py."""
    return f"REPLEARN_RECORD=1 python -m pytest -m slow tests/test_{name}_slow.py"


def wanted() -> bool:
    """Return whether records are to be written."""
    return bool(os.environ.get("REPLEARN_RECORD"))


def write(name: str, record: dict[str, Any]) -> None:
    """Write benchmarks/results/NAME.json, if it is asked for."""
    if wanted():
        write_json(RESULTS / f"{name}.json", record)
