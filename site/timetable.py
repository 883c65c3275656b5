"""Minutes a section of every lesson, counted from the stored notebooks by the rule that site/teaching.md states."""

import math
import re

WORDS, CODE, FORMULA, FIGURE = (
    200,
    20,
    0.5,
    0.5,
)  # words and lines of code in a minute; minutes for one of the others
ASIDE = r"<!-- (solution|badge).*?<!-- /\1 -->|<details>.*?</details>|<!--.*?-->"  # what is not read in class


def sections(cells):
    """{heading: minutes to read} of the sections (##) of a lesson; "Exercises" without the time to solve them."""
    minutes, section = {}, "Opening"
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            shown = "setup" not in cell["metadata"].get(
                "tags", ()
            )  # the set-up cell is folded on the site
            lines = shown * sum(bool(line.strip()) for line in source.splitlines())
            figures = sum("image/png" in output.get("data", {}) for output in cell["outputs"])
            minutes[section] = minutes.get(section, 0) + lines / CODE + FIGURE * figures
            continue
        for part in re.split(
            r"^(?=## )", re.sub(ASIDE, "", source, flags=re.DOTALL), flags=re.MULTILINE
        ):
            section = part.splitlines()[0][3:].strip() if part.startswith("## ") else section
            formulas = part.count("$$") // 2
            words = len(re.sub(r"\$\$.*?\$\$", "", part, flags=re.DOTALL).split())
            minutes[section] = minutes.get(section, 0) + words / WORDS + FORMULA * formulas
    return {name: minutes[name] for name in minutes if name != "References"}


def to_solve(cells):
    """Minutes that the exercises of a lesson name for themselves, added up."""
    texts = (
        re.sub(ASIDE, "", "".join(c["source"]), flags=re.DOTALL)
        for c in cells
        if c["cell_type"] == "markdown"
    )
    after = "\n".join(texts).split("\n## Exercises", 1)[-1].split("\n## ", 1)[0]
    return sum(map(int, re.findall(r"(?:about |\()(\d+) minutes", after)))


def to_run(cells):
    """Minutes that the stored run took, from the last line of the lesson; "" if it has none."""
    found = re.findall(r"claims held, ([\d.]+) minutes", "".join(text(cells[-1])))
    return found[0] if found else ""


def text(cell):
    """The printed output of a cell."""
    return "".join("".join(output.get("text", "")) for output in cell.get("outputs", ()))


def escape(text):
    """A heading that stays as it is in a Markdown table."""
    return re.sub(r"([|*_$`])", r"\\\1", text)


def timetable(notebooks):
    """A table, one row a lesson, of (stem, cells) pairs."""
    rows = [
        "| Lesson | Sections, with minutes to read | Read | Solve | Run |",
        "| --- | --- | --- | --- | --- |",
    ]
    for stem, cells in notebooks:
        found = {
            name: max(1, math.floor(minutes + 0.5)) for name, minutes in sections(cells).items()
        }
        listed = " · ".join(f"{escape(name)} {minutes}" for name, minutes in found.items())
        rows.append(
            f"| [{stem[:2]}](/notebooks/{stem}.ipynb) | {listed} | {sum(found.values())} | {to_solve(cells)} "
            f"| {to_run(cells)} |"
        )
    return "\n".join(rows)
