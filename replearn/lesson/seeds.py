"""What a claim's numbers were at several seeds, from the measurements that come with the package.

`replearn/lesson/claims/NN_PROFILE.json` is written by `python -m tools.notebooks run NN --seeds 5`.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from replearn.lesson.formatting import to_text

FOLDER = Path(__file__).parent / "claims"
WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 10: "ten"}


@cache
def measured_claims(number: str, profile: str) -> dict[str, dict]:
    """Return {sentence: its record} of a lesson at a profile; empty if it was not measured.

    Args:
        number: Of the lesson, "06".
        profile: "cpu" or "gpu".

    Returns:
        Records with `held`, a list of bool, and `numbers`, a list of {name: value}; an entry a
        seed.
    """
    path = FOLDER / f"{number}_{profile}.json"
    if not path.exists():
        return {}
    claims = json.loads(path.read_text("utf-8"))["claims"]
    return {claim["sentence"]: claim for claim in claims}


def over_seeds(record: dict, units: dict[str, str]) -> str:
    """Return in words what a claim's numbers were over the seeds.

    Args:
        record: Of `measured_claims`.
        units: {name of a number: its unit}; "%" says that it is a fraction. Only these are named.

    Returns:
        For example "five seeds: frozen 61 to 68 %". A claim that did not hold at all of them says
        so. Lists, and numbers that are missing at a seed, are left out.

    Example:
        >>> numbers = [{"accuracy": 0.61}, {"accuracy": 0.684}]
        >>> over_seeds({"held": [True, True], "numbers": numbers}, {"accuracy": "%"})
        'two seeds: accuracy 61 to 68 %'
    """
    held = record["held"]
    count = WORDS.get(len(held), str(len(held)))
    parts = []
    for name, unit in units.items():
        values = [numbers.get(name) for numbers in record["numbers"]]
        if all(_is_number(value) for value in values):
            parts.append(f"{name.replace('_', ' ')} {_range_text(values, unit)}")
    if not all(held):
        parts.insert(0, f"held at {sum(held)}")
    return f"{count} seeds: {', '.join(parts)}" if parts else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _range_text(values: list[float], unit: str) -> str:
    """Return "61 to 68 %"; ends that look the same get more digits, and equal ones stand once."""
    low = min(values)
    high = max(values)
    if unit == "%":
        ends = [f"{100 * low:.0f}", f"{100 * high:.0f}"]
    else:
        ends = [to_text(low), to_text(high)]
    if ends[0] == ends[1] and low != high:
        ends = [to_text(low, unit), to_text(high, unit)]
        ends = [end.removesuffix(f" {unit}") for end in ends]
    text = ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
    return f"{text} {unit}" if unit else text
