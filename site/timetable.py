"""Minutes a section of every lesson, counted from the stored notebooks.

The rule is the one that site/teaching.md states: so many words and lines of code a minute, and half
a minute for a formula or a figure.
"""

import math
import re
from collections.abc import Iterable

from tools import project

WORDS_A_MINUTE = 200
CODE_LINES_A_MINUTE = 20
MINUTES_A_FORMULA = 0.5
MINUTES_A_FIGURE = 0.5
# What is not read in class: generated blocks, folded solutions, comments.
ASIDE = re.compile(
    r"<!-- (solution|badge).*?<!-- /\1 -->|<details>.*?</details>|<!--.*?-->", re.DOTALL
)


def sections(cells: list[dict]) -> dict[str, float]:
    """Return {heading: minutes to read} of the sections (##) of a lesson.

    "Exercises" is without the time to solve them; "References" is left out.
    """
    minutes = {}
    section = "Opening"
    for cell in cells:
        if cell["cell_type"] == "code":
            minutes[section] = minutes.get(section, 0) + code_minutes(cell)
            continue
        text = ASIDE.sub("", "".join(cell["source"]))
        for part in re.split(r"^(?=## )", text, flags=re.MULTILINE):
            if part.startswith("## "):
                section = part.splitlines()[0][3:].strip()
            minutes[section] = minutes.get(section, 0) + text_minutes(part)
    minutes.pop("References", None)
    return minutes


def code_minutes(cell: dict) -> float:
    """Return the minutes for a code cell and its figures; the set-up cell is folded on the site."""
    lines = [line for line in "".join(cell["source"]).splitlines() if line.strip()]
    is_folded = "setup" in cell["metadata"].get("tags", ())
    figures = sum("image/png" in output.get("data", {}) for output in cell["outputs"])
    reading = 0 if is_folded else len(lines) / CODE_LINES_A_MINUTE
    return reading + MINUTES_A_FIGURE * figures


def text_minutes(text: str) -> float:
    """Return the minutes for a piece of Markdown."""
    formulas = text.count("$$") // 2
    words = len(re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL).split())
    return words / WORDS_A_MINUTE + MINUTES_A_FORMULA * formulas


def to_solve(cells: list[dict]) -> int:
    """Return the minutes that the exercises of a lesson name for themselves, added up."""
    texts = []
    for cell in cells:
        if cell["cell_type"] == "markdown":
            texts.append(ASIDE.sub("", "".join(cell["source"])))
    exercises = "\n".join(texts).split("\n## Exercises", 1)[-1].split("\n## ", 1)[0]
    return sum(int(number) for number in re.findall(r"(?:about |\()(\d+) minutes", exercises))


def to_run(cells: list[dict]) -> str:
    """Return the minutes that the stored run took, from the lesson's last line, or ""."""
    printed = "".join("".join(output.get("text", "")) for output in cells[-1].get("outputs", ()))
    numbers = re.findall(r"claims held, ([\d.]+) minutes", printed)
    return numbers[0] if numbers else ""


def escape(text: str) -> str:
    """Return a heading that stays as it is in a Markdown table."""
    return re.sub(r"([|*_$`])", r"\\\1", text)


def timetable(notebooks: Iterable[tuple[str, list]]) -> str:
    """Return a table, one row a lesson, of (stem, cells) pairs."""
    rows = [
        "| Lesson | Sections, with minutes to read | Read | Solve | Run |",
        "| --- | --- | --- | --- | --- |",
    ]
    for stem, cells in notebooks:
        listed = []
        total = 0
        for heading, minutes in sections(cells).items():
            rounded = max(1, math.floor(minutes + 0.5))
            listed.append(f"{escape(heading)} {rounded}")
            total += rounded
        link = f"[{stem[:2]}](/notebooks/{project.place(stem)}.ipynb)"
        columns = [link, " · ".join(listed), total, to_solve(cells), to_run(cells)]
        rows.append(f"| {' | '.join(map(str, columns))} |")
    return "\n".join(rows)
