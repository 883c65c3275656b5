"""Runs tests/device_cases.py, where a fake device counts waits, in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.seconds
def test_cases_with_a_fake_device():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    done = subprocess.run(
        [*command, "tests/device_cases.py"], cwd=ROOT, capture_output=True, text=True
    )
    passed = re.search(r"(\d+) passed", done.stdout)
    is_good = done.returncode == 0 and passed is not None and int(passed[1]) > 60
    assert is_good or "cannot register a device" in done.stdout, done.stdout[-5000:]
