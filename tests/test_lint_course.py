"""The linter of the course: it accepts a lesson without faults and sees each that is planted."""

import copy
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import handout, notebooks, project
from tools.lint_course import __main__ as command
from tools.lint_course import claims, course, imports, lesson

ROOT = Path(__file__).resolve().parents[1]
CHECKED = lesson.CHECKED
NAME = "06_simclr"


# --- the notebook ---


def notebook_faults(nb):
    return [fault for rule in lesson.NOTEBOOK_RULES for fault in rule(nb)]


def code(source, output="", **metadata):
    outputs = [new_output("stream", text=output)] if output else []
    return new_code_cell(source, outputs=outputs, metadata=metadata)


@pytest.fixture
def model():
    """A notebook with all parts and no fault."""
    checked = {"tags": [CHECKED]}
    head = (
        "# 99 · Sample\n\n<!-- badge -->\n\n**Objectives.**\n\n**Prerequisites.**\n\n**Minutes.**"
    )
    figure = code("Frames([])", alt="A slider")
    figure.outputs = [new_output("display_data", {"image/png": "iVBORw0KGgo="})]
    photograph = copy.deepcopy(figure.outputs[0])
    cells = [
        new_markdown_cell(head),
        code("# Set-up: …", tags=["setup"]),
        code('lesson = Lesson("99")'),
        new_markdown_cell("## Predict"),
        code('lesson.predict("?", ["a", "b"])'),
        code('lesson.claim("a", True)', "✓ a\n", **checked),
        figure,
        new_markdown_cell("## Exercises\n\n<!-- solution f -->"),
        code('lesson.check("f", f)\n# lesson.hint("f")', "f: not attempted\n", **checked),
        new_markdown_cell("## On real photographs"),
        code("photographs = lesson.photographs()", "✓ a\n"),
        new_markdown_cell("## Pitfalls"),
        new_markdown_cell("## What we have seen, what is still open\n\n## References"),
        code("lesson.finish()"),
    ]
    cells[10].outputs.append(photograph)
    cells[10].metadata["alt"] = "Photographs"
    code_cells = [cell for cell in cells if cell.cell_type == "code"]
    for count, cell in enumerate(code_cells, 1):
        cell.execution_count = count
    return new_notebook(cells=cells)


def test_the_model_has_no_fault(model):
    assert notebook_faults(model) == []


def remove_a_bone(nb):
    nb.cells.pop(3)


def move_a_bone(nb):
    nb.cells.insert(3, nb.cells.pop(7))


def stop_what_moves(nb):
    nb.cells[6].source = "plt.plot([])"


def lengthen(nb):
    for cell in nb.cells:
        cell.source += "\nx" * 11


def change(position, **attributes):
    """Return a function that plants these attributes in a cell."""

    def plant(nb):
        for name, value in attributes.items():
            setattr(nb.cells[position], name, value)

    return plant


def stream(text, name="stdout"):
    return [new_output("stream", text=text, name=name)]


ERROR = new_output("error", ename="E", evalue="", traceback=[])
PLANTED = {  # fault: (what plants it, what the linter says)
    "a bone is missing": (remove_a_bone, "## Predict is missing"),
    "bones are out of order": (move_a_bone, "missing, or not after the part before it"),
    "nothing moves": (stop_what_moves, "nothing moves"),
    "a cell did not run": (change(5, execution_count=None), "not executed once each"),
    "cells ran out of order": (change(5, execution_count=9), "not executed once each"),
    "cells are long": (lengthen, "median code cell has"),
    "a stored error": (change(4, outputs=[ERROR]), "code cell 3 has stored an error"),
    "a stored warning": (change(4, outputs=stream("careful", "stderr")), "stored a warning"),
    "a path of the machine": (change(4, outputs=stream("saved to /home/someone/x")), "/home/some"),
    "an address in memory": (change(4, outputs=stream("<object at 0x7f7f7f7f7f7f>")), "0x7f7f"),
    "no alt text": (change(6, metadata={}), "code cell 5 has a figure without words"),
    "a claim that fails": (change(5, outputs=stream("✗ a\n")), "does not hold"),
    "a claim without output": (change(5, outputs=[]), "no stored output"),
    "a claim without a mark": (change(5, outputs=stream("a\n")), "printed no ✓"),
    "a claim that nbval skips": (change(5, metadata={}), "is not compared"),
    "a check that nbval skips": (change(8, metadata={}), "is not compared"),
    "photographs that nbval compares": (change(10, metadata={"tags": [CHECKED]}), "take the tag"),
    "no solution": (change(7, source="## Exercises"), "add <!-- solution f -->"),
    "no hint": (change(8, source='lesson.check("f", f)'), re.escape('add hint("f")')),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_planted_in_a_notebook_is_seen(model, fault):
    plant, message = PLANTED[fault]
    plant(model)
    faults = notebook_faults(model)
    assert [found for found in faults if re.search(message, found)], faults


PHOTOGRAPHS = {  # fault: (outputs of the cell with photographs, what the linter says)
    "not there": (stream("No photographs: none on this disk.\n"), "shows no figure"),
    "no figure": (stream("✓ a\n"), "shows no figure"),
    "no claim": ([new_output("display_data", {"image/png": "iVBORw0KGgo="})], "shows no claim"),
}


@pytest.mark.parametrize("fault", PHOTOGRAPHS)
def test_photographs_that_are_not_shown_are_seen(model, fault):
    assert list(lesson.photographs_are_shown(model)) == []
    outputs, message = PHOTOGRAPHS[fault]
    model.cells[10].outputs = outputs
    assert [found for found in lesson.photographs_are_shown(model) if message in found]


SEEDS = {  # fault: (record of the claim's sentence and seeds, what the linter says)
    "another sentence": (dict(sentence="b", held=[True] * 5), "was not measured over seeds (a…)"),
    "two seeds": (dict(sentence="a", held=[True] * 2), "was measured at 2 seeds"),
    "a seed at which it fails": (dict(sentence="a", held=[True] * 4 + [False]), "held at 4 of 5"),
}


@pytest.mark.parametrize("fault", SEEDS)
def test_a_claim_without_five_seeds_is_seen(model, tmp_path, fault):
    found = lesson.Lesson(tmp_path, NAME)
    found.notebook = model
    assert "were not measured" in next(lesson.claims_hold_at_every_seed(found))
    path = tmp_path / "replearn" / "lesson" / "claims" / "06_cpu.json"
    path.parent.mkdir(parents=True)
    record, message = SEEDS[fault]
    path.write_text(json.dumps({"claims": [dict(sentence="a", held=[True] * 5)]}))
    assert list(lesson.claims_hold_at_every_seed(found)) == []
    path.write_text(json.dumps({"claims": [record]}))
    (message_found,) = lesson.claims_hold_at_every_seed(found)
    assert message in message_found


SHELF = {  # fault: (what is left of the code, the text, what the linter says)
    "an exercise too few": (dict(checks=1), "1 to run; about 25 to read", "has 1 exercises"),
    "an exercise too many": (dict(checks=3), "1 to run; about 25 to read", "has 3 exercises"),
    "a claim too few": (dict(claims=2), "1 to run; about 25 to read", "has 2 claims"),
    "too long": ({}, "1 to run; about 45 to read", "make the notebook shorter"),
    "too slow": ({}, "2 to run; about 25 to read", "make the notebook shorter"),
}


@pytest.mark.parametrize("fault", [None, *SHELF])
def test_a_notebook_of_the_shelf_is_small(tmp_path, fault):
    counts, minutes, message = SHELF.get(fault, ({}, "1 to run; about 25 to read", ""))
    counts = dict(checks=2, claims=3) | counts
    lines = [f'lesson.check("f{i}", f)' for i in range(counts["checks"])]
    lines += ['lesson.claim("a", True)'] * counts["claims"]
    lines += ["lesson.photographs()", 'lesson.claim("photographs", True)']
    found = lesson.Lesson(tmp_path, "F9_sample")
    assert found.is_frontier and found.source.parent == tmp_path / "notebooks" / "frontier" / "src"
    found.notebook = new_notebook(cells=[new_code_cell("\n".join(lines))])
    found.text = f"**Minutes.** {minutes} and solve."
    faults = list(lesson.frontier_is_short(found))
    assert [message in words for words in faults] == ([True] if fault else [])


# --- the text, and what belongs to it ---


@pytest.fixture
def tree(tmp_path):
    """A checkout with two of our lessons and what belongs to them."""
    copied = [
        "README.md",
        "environment.yml",
        "constraints.txt",
        "site/references.bib",
        "site/glossary.md",
        "site/teaching.md",
        "site/_static/architecture.svg",
        "benchmarks/cka.py",
        "benchmarks/results/cka.json",
        "benchmarks/results/photographs_06.json",
        "replearn/lesson/claims/01_cpu.json",
        "replearn/lesson/claims/06_cpu.json",
    ]
    for paper in handout.PAPERS:
        copied.append(f"site/_static/formulas-{paper}.pdf")
    for name in ("01_representations", NAME):
        copied += [f"notebooks/{name}.ipynb", f"notebooks/src/{name}.md"]
    for name in copied:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("tools/notebooks", "tools/classroom/__main__", "tools/slides/__main__"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    toc = "root: README\nparts:\n- chapters:\n  - file: notebooks/01_representations\n"
    (tmp_path / "_toc.yml").write_text(f"{toc}  - file: notebooks/{NAME}\n")
    # The pair is up to date, whoever works on the exercises meanwhile.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
        notebooks.sync(tmp_path / "notebooks" / "src" / f"{NAME}.md")
    return tmp_path


def replace(tree, name, old, new):
    """Put other words into a file of the tree."""
    path = tree / name
    text = path.read_text("utf-8")
    assert old in text, (name, old)
    path.write_text(text.replace(old, new), "utf-8")


SOURCE = f"notebooks/src/{NAME}.md"
NOTEBOOK = f"notebooks/{NAME}.ipynb"
QUESTION = """\
Which views should be alike after training?

<details><summary>two views of one picture</summary>

✓ Everything else in the batch is a stranger.

</details>
<details><summary>two views of the same class</summary>

✗ No label is used, so nobody knows the classes.

</details>
"""
LESSON_FAULTS = {  # fault: (rule, file, old words, new words, what the linter says)
    "a solution that is not the package's": (
        lesson.generated_blocks_are_current,
        (SOURCE, "z = F.normalize(", "z = F.normalise("),
        "a generated block is not current: run `python -m tools.notebooks sync",
    ),
    "another set-up cell": (
        lesson.generated_blocks_are_current,
        (SOURCE, "make lab", "make tea"),
        "a generated block is not current",
    ),
    "no badge": (
        lesson.generated_blocks_are_current,
        (SOURCE, "<!-- badge -->", ""),
        "expected the mark <!-- badge --> once",
    ),
    "a notebook that says something else": (
        lesson.notebook_says_what_its_text_says,
        (NOTEBOOK, "Can a network learn", "May a network learn"),
        "its notebook says something else",
    ),
    "a notebook that JupyterLab has saved": (
        lesson.notebook_says_what_its_text_says,
        (NOTEBOOK, '"nbformat_minor": 5', '"nbformat_minor": 5, "x": 1'),
        "not stored cleanly",
    ),
    "a paper that is not listed": (
        lesson.papers_are_on_the_reference_page,
        (SOURCE, "## References", "[a](https://arxiv.org/abs/9999.00001)\n\n## References"),
        r"the paper 9999\.00001 is not listed: add it to site/references\.bib",
    ),
    "a bold term that nobody explains": (
        lesson.words_are_in_the_glossary,
        (SOURCE, "## Predict", "A **frobnicated view**.\n\n## Predict"),
        "“frobnicated view” is not in the glossary",
    ),
    "a name that nobody explains": (
        lesson.words_are_in_the_glossary,
        (SOURCE, "## Predict", "As in FbNet.\n\n## Predict"),
        "“FbNet” is not in the glossary",
    ),
    "a section without questions": (
        lesson.core_sections_end_in_questions,
        (SOURCE, "## Exercises", "## One thing more\n\nText.\n\n## Exercises"),
        "“One thing more” does not end in 2 questions, found 0",
    ),
    "a section with one question": (
        lesson.core_sections_end_in_questions,
        (SOURCE, QUESTION, ""),
        "“Two views of each picture” does not end in 2 questions, found 1",
    ),
    "an answer that says nothing": (
        lesson.core_sections_end_in_questions,
        (SOURCE, "✓ Everything else in the batch is a stranger.", "Right."),
        "begin with .*: expected ✓ once and ✗ for each other",
    ),
    "text below the questions": (
        lesson.core_sections_end_in_questions,
        (SOURCE, "## Exercises", "One thing more.\n\n## Exercises"),
        "found 2: write them below .* and nothing after them",
    ),
    "two right answers": (
        lesson.core_sections_end_in_questions,
        (SOURCE, "✗ No label is used", "✓ No label is used"),
        "begin with ✓ ✓: expected ✓ once",
    ),
    "a number that was not measured": (
        lesson.photographs_quote_the_measurement,
        (SOURCE, "## On real photographs", "## On real photographs\n\nIt has 99.9 %."),
        r"99\.9 % of photographs was not measured: see photographs_06\.json",
    ),
    "a measurement that nothing stored shows": (
        lesson.side_experiments_are_stored,
        (SOURCE, "## Predict", "It falls (measured outside this notebook).\n\n## Predict"),
        r"nothing stored shows what was measured aside \(It falls",
    ),
    "an answer that is missing": (
        lesson.teachers_have_questions,
        ("site/teaching.md", "```{dropdown} Answer", "```{dropdown} Anser"),
        "found 2 exam questions and 0 answers",
    ),
    "no question to discuss": (
        lesson.teachers_have_questions,
        ("site/teaching.md", "- **06.** ", "- "),
        "has no question to discuss",
    ),
    "no common mistakes": (
        lesson.teachers_have_questions,
        ("site/teaching.md", "| 06 `", "| 99 `"),
        "has no common mistakes",
    ),
}


@pytest.mark.parametrize("fault", LESSON_FAULTS)
def test_a_fault_planted_in_a_text_is_seen(tree, fault):
    rule, words, message = LESSON_FAULTS[fault]
    before = set(rule(lesson.Lesson(tree, NAME)))
    replace(tree, *words)
    new_faults = set(rule(lesson.Lesson(tree, NAME))) - before
    assert [found for found in new_faults if re.search(message, found)], new_faults


def test_a_heavy_notebook_is_seen(tree):
    rule = lesson.notebook_is_light
    assert not list(rule(lesson.Lesson(tree, NAME)))
    with open(tree / NOTEBOOK, "a") as file:
        file.write(" " * lesson.LARGEST_BYTES)
    assert "show fewer pictures" in next(rule(lesson.Lesson(tree, NAME)))


def test_too_few_numbers_from_photographs_are_seen(tree):
    text = "## On real photographs\n\nIt is 10 %.\n\n## Pitfalls\n"
    (tree / SOURCE).write_text(text, "utf-8")
    (fault,) = lesson.photographs_quote_the_measurement(lesson.Lesson(tree, NAME))
    assert fault.startswith("quotes fewer than three numbers")


ASIDE = "With more steps (measured outside this notebook at seeds 0 and 1) it reads 45 to 61 %."
ASIDES = {  # fault: (old words, new words, what the linter says)
    "another number": ("61 %", "62 %", "62 was not measured by longer: see side_exp"),
    "a share without its unit": (" %", "", "61 was not measured by longer"),
    "other words": ("more steps", "fewer steps", "no sentence rests on longer of side_exp"),
    "no longer said to be aside": (" outside this notebook", "", "no sentence rests on longer"),
}


@pytest.mark.parametrize("fault", ASIDES)
def test_a_sentence_that_differs_from_its_side_experiment_is_seen(tree, fault):
    numbers = {"linear": [0.452, 0.6061], "each": [[0.1, 0.2], [0.3, 0.4]]}
    longer = dict(lesson="06", words="With more steps", settings={}, seeds=[0, 1], numbers=numbers)
    other = longer | dict(lesson="01")
    path = tree / "benchmarks" / "results" / "side_experiments.json"
    path.write_text(json.dumps(dict(longer=longer, other=other)))
    replace(tree, SOURCE, "## Predict", f"{ASIDE}\n\n## Predict")
    rule = lesson.side_experiments_are_stored
    assert list(rule(lesson.Lesson(tree, NAME))) == []
    old, new, message = ASIDES[fault]
    replace(tree, SOURCE, ASIDE, ASIDE.replace(old, new))
    assert [found for found in rule(lesson.Lesson(tree, NAME)) if message in found]


def test_photographs_are_no_side_experiment(tree):
    words = "## On real photographs\n\nMeasured once. Two et al. (1936) say 3."
    replace(tree, SOURCE, "## On real photographs", words)
    assert not list(lesson.side_experiments_are_stored(lesson.Lesson(tree, NAME)))


def test_a_percentage_is_known_with_and_without_its_decimal():
    record = dict(claims=[dict(numbers=dict(a=0.4567, b=[0.5, 0.6]))])
    assert lesson.measured_percentages(record) == {45.7, 46.0, 50.0, 60.0}


# --- files that must agree ---


def test_a_lesson_without_its_twin_is_seen(tree):
    assert not list(course.lessons_are_pairs(tree))
    (tree / "notebooks" / "src" / "01_representations.md").unlink()
    (tree / NOTEBOOK).unlink()
    text_fault, notebook_fault = course.lessons_are_pairs(tree)
    assert text_fault.startswith("notebooks/01_representations.ipynb: has no text")
    assert notebook_fault.startswith(f"{SOURCE}: has no notebook")


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("- file: notebooks/06_simclr\n", "", "does not list every notebook in order .*06_simclr"),
        ("notebooks/06_simclr", "notebooks/07_nothing", "lists notebooks/07_nothing, which does"),
    ],
)
def test_a_wrong_table_of_contents_is_seen(tree, old, new, message):
    assert not list(course.table_of_contents_is_whole(tree))
    replace(tree, "_toc.yml", old, new)
    assert re.search(message, next(course.table_of_contents_is_whole(tree)))


COURSE_FAULTS = {  # fault: (rule, (file, old words, new words), what the linter says)
    "another Python": (
        course.environment_agrees,
        ("environment.yml", "python>=3.10", "python>=3.9"),
        "environment.yml: its dependencies differ",
    ),
    "another channel": (
        course.environment_agrees,
        ("environment.yml", "conda-forge", "defaults"),
        "environment.yml: has other channels",
    ),
    "a package without a version": (
        course.constraints_pin_what_is_needed,
        ("constraints.txt", "safetensors==", "safetensors>="),
        "constraints.txt: “safetensors>=.*” is no pin",
    ),
    "a package that is not pinned": (
        course.constraints_pin_what_is_needed,
        ("constraints.txt", "\nsafetensors==", "\nunsafetensors=="),
        "constraints.txt: safetensors is not pinned",
    ),
    "a link to a stranger": (
        course.addresses_are_ours,
        ("README.md", "# Rep", f"https://{course.STRANGERS[0]}/x\n# Rep"),
        "README.md: .* is no address of the project",
    ),
    "an installation from a stranger": (
        course.addresses_are_ours,
        (SOURCE, "import sys\n", f"%pip install {course.STRANGERS[1]}\n"),
        f"{SOURCE}: .* is no address of the project",
    ),
    "a command that is gone": (
        course.commands_exist,
        ("site/teaching.md", "python -m tools.classroom", "python -m tools.schoolroom"),
        "site/teaching.md: there is no module tools.schoolroom",
    ),
    "a measurement by a script that is gone": (
        course.commands_exist,
        ("benchmarks/results/cka.json", "benchmarks/cka.py", "benchmarks/old.py"),
        "cka.json: there is no benchmarks/old.py",
    ),
    "a measurement by a path of one machine": (
        course.commands_exist,
        ("benchmarks/results/cka.json", "python benchmarks/cka.py", "python /home/me/cka.py"),
        "cka.json: its command has a path of one machine",
    ),
    "a glossary that is not sorted": (
        course.glossary_is_in_order,
        ("site/glossary.md", "\nalignment\n", "\nzalignment\n"),
        "is not where the alphabet has it",
    ),
    "a term that is explained twice": (
        course.glossary_is_in_order,
        ("site/glossary.md", "\nalignment\n", "\nalignment\naugmentation\n"),
        "“augmentation” is explained twice",
    ),
    "a term that its lesson does not use": (
        course.glossary_is_in_order,
        ("site/glossary.md", "\nalignment\n", "\nalignment\n: Lesson 06.\n\nalignments of stars\n"),
        "lesson 06 does not use “alignment",
    ),
    "a term that no lesson uses": (
        course.glossary_is_in_order,
        ("site/glossary.md", "\nalignment\n", "\nalgae\n: They grow.\n\nalignment\n"),
        "no lesson uses “algae”",
    ),
    "a mistake that the checker does not know": (
        course.teaching_page_agrees_with_the_exercises,
        ("site/teaching.md", "| 06 `nt_xent` | ", "| 06 `nt_xent` | un"),
        "“un.*” is no known mistake of nt_xent",
    ),
    "a mistake in an exercise that is gone": (
        course.teaching_page_agrees_with_the_exercises,
        ("site/teaching.md", "| 06 `nt_xent` | ", "| 06 `nt_zent` | "),
        "lesson 06 has no exercise nt_zent",
    ),
    "a wrong sum of points": (
        course.teaching_page_agrees_with_the_exercises,
        ("site/teaching.md", "points for the twelve", "apples for the twelve"),
        r"the exercises have \d+ points together",
    ),
}


@pytest.mark.parametrize("fault", COURSE_FAULTS)
def test_a_fault_planted_in_the_course_is_seen(tree, fault):
    rule, words, message = COURSE_FAULTS[fault]
    before = set(rule(tree))
    replace(tree, *words)
    new_faults = set(rule(tree)) - before
    assert [found for found in new_faults if re.search(message, found)], new_faults


def test_the_projects_own_address_is_no_fault(tree, tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    address = f"https://github.com/somebody/{course.NAME}"
    urls = f'[project]\n[project.urls]\nRepository = "{address}"\n'
    (home / "pyproject.toml").write_text(urls)
    (tree / "README.md").write_text(f"See {address}/issues.\n")
    assert [fault for fault in course.addresses_are_ours(tree) if "README" in fault]
    monkeypatch.setattr(project, "ROOT", home)
    assert not [fault for fault in course.addresses_are_ours(tree) if "README" in fault]


def test_an_old_handout_is_seen(tree, monkeypatch):
    assert not list(course.handout_is_current(tree))
    row = handout.Formula("01", "one", "$x$", "metrics.no_such_function")
    monkeypatch.setattr(handout, "FORMULAS", [row])
    *stored, function = course.handout_is_current(tree)
    assert len(stored) == 2 and all("run `python -m tools.handout`" in fault for fault in stored)
    assert "there is no metrics.no_such_function" in function


# --- imports ---


@pytest.fixture
def package(tmp_path):
    """A function that writes the modules of a small package: name → source."""

    def write(**sources):
        for name, source in sources.items():
            path = tmp_path / "replearn" / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        for folder in {path.parent for path in tmp_path.rglob("*.py")}:
            (folder / "__init__.py").touch()
        return tmp_path

    return write


@pytest.mark.parametrize(
    "source",
    [
        "import replearn.lesson.frames",
        "from replearn.lesson import frames",
        "from .lesson import frames",
        "def draw():\n    from replearn.lesson.frames import Frames",
    ],
)
def test_a_core_that_leans_on_a_lesson_is_seen(package, source):
    root = package(plot=source, lesson__frames="from replearn import plot\nFrames = 1")
    (fault,) = imports.core_stands_alone(root)
    assert fault.startswith("replearn/plot.py: the core imports replearn.lesson.frames")


@pytest.mark.parametrize(
    "sources, circle",
    [
        (dict(a="from replearn import b", b="import replearn.a"), "a → replearn.b → replearn.a"),
        (dict(a="from . import b", b="if True:\n    from .a import x"), "a → replearn.b"),
        (dict(a="try:\n    from . import b\nexcept OSError: pass", b="from . import a"), "a → "),
        (dict(p__a="from ..b import x", b="from replearn.p.a import y"), "b → replearn.p.a"),
    ],
)
def test_an_import_circle_is_seen(package, sources, circle):
    (fault,) = imports.no_import_circles(package(**sources))
    assert f"import circle replearn.{circle}" in fault


@pytest.mark.parametrize(
    "source",
    [
        "def late():\n    from replearn import a",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from replearn import a",
        "import os",
    ],
)
def test_an_import_that_waits_makes_no_circle(package, source):
    root = package(a="from replearn import b", b=source)
    assert not list(imports.no_import_circles(root))


def test_a_module_behind_a_function_of_its_name_is_seen(package):
    root = package(p__evaluate="def evaluate(): ...", p__other="")
    init = root / "replearn" / "p" / "__init__.py"
    init.write_text("from replearn.p import other\nfrom replearn.p.evaluate import evaluate\n")
    (fault,) = imports.no_module_hides_behind_a_function(root)
    assert "replearn/p/__init__.py: exports evaluate and has a module of that name" in fault


# --- the command ---


def test_the_command_prints_the_faults_of_one_lesson(tree, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "ROOT", tree)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tree / "notebooks")
    replace(tree, "_toc.yml", "06_simclr", "06_nothing")  # not of this lesson
    replace(tree, "site/teaching.md", "- **06.** ", "- ")
    assert command.main(["6"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{SOURCE}: has no question to discuss: ") for line in printed)
    assert not any("_toc.yml" in line for line in printed)
    assert re.fullmatch(r"\d+ faults in 1 lessons", printed[-1])


def test_the_command_is_content_with_a_lesson_without_faults(tree, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "ROOT", tree)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tree / "notebooks")
    assert command.main(["06"]) == 0, capsys.readouterr().out
    assert capsys.readouterr().out == "no faults in 1 lessons\n"


def test_a_missing_notebook_is_one_fault(tree):
    (tree / NOTEBOOK).unlink()
    (fault,) = lesson.lesson_faults(lesson.Lesson(tree, NAME))
    assert fault == f"{NOTEBOOK}: missing: run `python -m tools.notebooks run 06`"


def test_every_fault_says_where_and_what_to_do(tree):
    replace(tree, "_toc.yml", "06_simclr", "06_nothing")
    replace(tree, "constraints.txt", "safetensors==", "safetensors>=")
    replace(tree, "site/teaching.md", "- **06.** ", "- ")
    record = json.loads((tree / "benchmarks/results/cka.json").read_text("utf-8"))
    record["command"] = "make bench"
    (tree / "benchmarks/results/cka.json").write_text(json.dumps(record), "utf-8")
    nb = nbformat.read(tree / NOTEBOOK, as_version=4)
    nb.cells.pop()
    nbformat.write(nb, tree / NOTEBOOK)
    faults = list(command.all_faults(tree, [NAME], lessons_only=False))
    assert len(faults) >= 5
    for fault in faults:
        file, wrong, todo = re.match(r"([\w./-]+): (.+): (.+)$", fault, re.DOTALL).groups()
        assert (tree / file).exists() or "/" in file, fault
        assert len(wrong) > 5 and len(todo) > 5, fault


# --- the thresholds of claims ---


def claim_faults(sentence, condition):
    """What the rule says of a claim."""
    source = f"lesson.claim({sentence!r}, {condition}, a=a)"
    return list(claims.thresholds_stand_in_sentences(new_notebook(cells=[new_code_cell(source)])))


@pytest.mark.parametrize(
    "sentence, condition",
    [
        ("a beats b by 20 points", "a > b + 0.20"),
        ("a is above 45 %", "a > 0.45"),
        ("less than a quarter is left", "a < b / 4"),
        ("the loss is below 1e-5", "loss < 1e-5"),
        ("it loses 20 %", "a < 0.8 * b"),
        ("more than b", "a > b"),
        ("more than three codes", "codes > 3"),
        ("one in 60", "a > 1 / 60"),
        ("an index is no threshold", "table['a'][3] > f(b, 7)"),
        ("twice as much", "a > 2 * b"),
    ],
)
def test_a_threshold_that_is_said_is_no_fault(sentence, condition):
    assert claim_faults(sentence, condition) == []


@pytest.mark.parametrize(
    "sentence, condition, threshold",
    [
        ("a beats b", "a > b + 0.20", "0.2"),
        ("near chance, 17 %", "a < 0.45", "0.45"),
        ("a beats b by 10 points", "(a > b + 0.10) & (a > 0.3)", "0.3"),
        ("a beats b by 10 points and c", "a > b + 0.1 and a > c + 0.05", "0.05"),
    ],
)
def test_a_threshold_that_is_not_said_is_a_fault(sentence, condition, threshold):
    faults = claim_faults(sentence, condition)
    assert len(faults) == 1
    assert f"threshold {threshold} does not stand in its sentence ({sentence[:20]}" in faults[0]
