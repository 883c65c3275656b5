"""The lesson contract: every notebook has its bones, in order, and outputs that are fit to be shown."""

import json
import re
import statistics
from copy import deepcopy

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import notebooks as build

NOTEBOOKS = sorted((build.ROOT / "notebooks").glob("*.ipynb"))
CHECKED = "nbval-check-output"

BONES = [  # name, kind of cell, pattern; in this order
    ("title “# NN · …”", "markdown", r"^# \d\d · \S"),
    ("badge", "markdown", r"<!-- badge -->"),
    ("Objectives", "markdown", r"^\*\*Objectives"),
    ("Prerequisites", "markdown", r"^\*\*Prerequisites"),
    ("Minutes", "markdown", r"^\*\*Minutes"),
    ("set-up cell", "code", r"^# Set-up"),
    ("Lesson(…)", "code", r"\bLesson\("),
    ("## Predict", "markdown", r"^## Predict"),
    ("lesson.predict", "code", r"\blesson\.predict\("),
    ("lesson.claim", "code", r"\blesson\.claim\("),
    ("## Exercises", "markdown", r"^## Exercises"),
    ("lesson.check", "code", r"\blesson\.check\("),
    ("## On real photographs", "markdown", r"^## On real photographs"),
    ("lesson.photographs", "code", r"\blesson\.photographs\("),
    ("## Pitfalls", "markdown", r"^## Pitfalls"),
    (
        "## What we have seen, what is still open",
        "markdown",
        r"^## What we have seen, what is still open",
    ),
    ("## References", "markdown", r"^## References"),
    ("lesson.finish", "code", r"\blesson\.finish\("),
]


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def readable(outputs):
    """All text of the outputs, without the bytes of pictures."""
    kept = [
        {
            key: value
            for key, value in output.get("data", output).items()
            if not key.startswith("image/")
        }
        for output in outputs
    ]
    return re.sub(r"base64,[\w+/=]+", "", json.dumps(kept, ensure_ascii=False))


def bone_faults(nb):
    """The first bone that is missing or out of order, if any; what moves may stand before or after the claims."""
    if not any(
        re.search(r"\b(Frames(\.\w+)?|live)\(", cell.source)
        for cell in nb.cells
        if cell.cell_type == "code"
    ):
        return ["Frames or live: missing"]
    position = 0
    for name, kind, pattern in BONES:
        here = [
            i
            for i, cell in enumerate(nb.cells[position:], position)
            if cell.cell_type == kind and re.search(pattern, cell.source, re.MULTILINE)
        ]
        if not here:
            return [f"{name}: missing, or not after the bone before it"]
        position = here[0]
    return []


def code_faults(nb):
    """Cells are executed in order, short, and their outputs are fit to be shown."""
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    lines = [cell.source.split("\n") for cell in code if "setup" not in tags(cell)]
    lengths = [sum(bool(line.strip()) for line in cell) for cell in lines]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        yield "cells are not executed once each, in order, in a fresh kernel"
    if statistics.median(lengths) > 10:
        yield f"the median code cell has {statistics.median(lengths)} lines"
    for position, cell in enumerate(code, 1):
        outputs = cell.outputs
        if any(output.output_type == "error" for output in outputs):
            yield f"code cell {position}: stored error"
        if any(output.get("name") == "stderr" for output in outputs):
            yield f"code cell {position}: stored warning: {printed(cell)[:200]}"
        if found := re.search(
            r"/(?:work|root|tmp|home|Users)/\w+|\b0x[0-9a-f]{8,}", readable(outputs)
        ):
            yield f"code cell {position}: what only this machine has: {found[0]}"
        shown = [
            set(output.get("data", {})) for output in outputs
        ]  # HTML (Frames) has its alt text inside
        if any(
            "image/png" in kinds and "text/html" not in kinds for kinds in shown
        ) and not cell.metadata.get("alt"):
            yield f"code cell {position}: a figure without alt text (:alt: in the text)"


def claim_faults(nb):
    """Claims and checks are compared by nbval, hold, and each exercise has its hint and its solution."""
    text = "\n".join(cell.source for cell in nb.cells)
    photographs = False
    for cell in nb.cells:
        photographs |= cell.cell_type == "markdown" and "## On real photographs" in cell.source
        if cell.cell_type != "code":
            continue
        if "✗" in printed(cell) and ".claim(" in cell.source:
            yield f"a claim that does not hold: {printed(cell)}"
        if photographs and CHECKED in tags(cell) and "finish" not in cell.source:
            yield f"tag {CHECKED} on photographs, which not every machine has: {cell.source[:60]}"
        if not photographs and re.search(r"\blesson\.(claim|check)\(", cell.source):
            if CHECKED not in tags(cell):
                yield f"tag {CHECKED} is missing: {cell.source[:60]}"
            if not printed(cell).strip():
                yield f"no stored output: {cell.source[:60]}"
        if (
            re.search(r"\blesson\.claim\(", cell.source)
            and not photographs
            and "✓" not in printed(cell)
        ):
            yield f"no ✓ in the output of a claim: {cell.source[:60]}"
        for name in re.findall(r"\blesson\.check\(\s*[\"'](\w+)", cell.source):
            for needed in (f"<!-- solution {name} -->", f'hint("{name}")'):
                if needed not in text:
                    yield f"exercise {name}: no {needed}"


def tags(cell):
    return cell.metadata.get("tags", [])


def faults(nb):
    return [*bone_faults(nb), *code_faults(nb), *claim_faults(nb)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_lesson_contract(path):
    assert path.stat().st_size <= 1_500_000
    assert not faults(nbformat.read(path, as_version=4))


@pytest.fixture
def model():
    """A notebook with all bones and no fault."""
    checked, picture = (
        {"tags": [CHECKED]},
        new_output("display_data", {"image/png": "iVBORw0KGgo="}),
    )

    def code(source, output="", **metadata):
        outputs = [new_output("stream", text=output)] if output else []
        return new_code_cell(source, outputs=outputs, metadata=metadata)

    cells = [
        new_markdown_cell(
            "# 99 · Sample\n\n<!-- badge -->\n\n**Objectives.**\n\n**Prerequisites.**\n\n**Minutes.**"
        ),
        code("# Set-up: …", tags=["setup"]),
        code('lesson = Lesson("99")'),
        new_markdown_cell("## Predict"),
        code('lesson.predict("?", ["a", "b"])'),
        code('lesson.claim("a", True)', "✓ a\n", **checked),
        code("Frames([])", alt="A slider"),
        new_markdown_cell("## Exercises\n\n<!-- solution f -->"),
        code('lesson.check("f", f)\n# lesson.hint("f")', "f: not attempted\n", **checked),
        new_markdown_cell("## On real photographs"),
        code("photographs = lesson.photographs()", "No photographs here.\n"),
        new_markdown_cell("## Pitfalls"),
        new_markdown_cell("## What we have seen, what is still open\n\n## References"),
        code("lesson.finish()"),
    ]
    cells[6].outputs = [picture]
    for count, cell in enumerate((cell for cell in cells if cell.cell_type == "code"), 1):
        cell.execution_count = count
    return new_notebook(cells=cells)


def test_contract_accepts_the_model(model):
    assert faults(model) == []


def plant(position, **changes):
    def change(nb):
        for name, value in changes.items():
            setattr(nb.cells[position], name, value)

    return change


def stream(text, name="stdout"):
    return [new_output("stream", text=text, name=name)]


def lengthen(nb):
    for cell in nb.cells:
        cell.source += "\nx" * 11


PLANTED = {
    "a bone is missing": lambda nb: nb.cells.pop(3),
    "bones are out of order": lambda nb: nb.cells.insert(3, nb.cells.pop(7)),
    "a cell did not run": plant(5, execution_count=None),
    "cells ran out of order": plant(5, execution_count=9),
    "cells are long": lengthen,
    "a stored error": plant(4, outputs=[new_output("error", ename="E", evalue="", traceback=[])]),
    "a stored warning": plant(4, outputs=stream("careful", "stderr")),
    "a path of the machine": plant(4, outputs=stream("saved to /home/someone/x")),
    "an address in memory": plant(4, outputs=stream("<object at 0x7f7f7f7f7f7f>")),
    "no alt text": plant(6, metadata={}),
    "a claim that fails": plant(5, outputs=stream("✗ a\n")),
    "a claim without output": plant(5, outputs=[]),
    "a claim that nbval skips": plant(5, metadata={}),
    "a check that nbval skips": plant(8, metadata={}),
    "photographs that nbval compares": plant(10, metadata={"tags": [CHECKED]}),
    "no solution": plant(7, source="## Exercises"),
    "no hint": plant(8, source='lesson.check("f", f)'),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_contract_sees_a_planted_fault(model, fault):
    nb = deepcopy(model)
    PLANTED[fault](nb)
    assert faults(nb)
