"""From a lesson's text to its assignment: the instructor's notebook in nbgrader's format, and the
student's."""

import ast
import re
import textwrap
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from replearn.lesson import exercises
from replearn.lesson.exercises.checker import GRADING_SEED
from tools import notebooks
from tools.classroom.cells import checks, parse
from tools.project import colab

if TYPE_CHECKING:
    from nbformat import NotebookNode

BEGIN = "### BEGIN SOLUTION"
END = "### END SOLUTION"
STUB = "# YOUR CODE HERE\nraise NotImplementedError"
# A student's folder may hold a file replearn.py, and the answers have run in the same kernel: so
# the test looks past the folder and imports the package anew.
TEST = """\
# {points} point{s} x the share of the checks that {function} passes.
### BEGIN HIDDEN TESTS
import os, sys
sys.path[:] = [_ for _ in sys.path if os.path.abspath(_) != os.getcwd()]
for _ in [_ for _ in sys.modules if _.partition(".")[0] == "replearn"]:
    del sys.modules[_]
from replearn.lesson.exercises.points import points
points("{lesson}", "{name}", {function}, {points}{seed})
### END HIDDEN TESTS"""
# Imports that an exercise may need, and none that take long.
QUICK_IMPORT = r"(import|from) (torch|numpy|math|replearn\.lesson)\b"
OPENING = """\
# {title}: exercises

These are the exercises of the lesson {lesson}. Everything they need is explained there.

Write your code where it says so and run the cell: the check under your function tells you at once \
if it is right."""


class Exercise(NamedTuple):
    """What a cell checks: the exercise, and the expression that is its answer."""

    name: str
    function: str


def instructor(
    source: Path, *, full: bool = False, seed: int = GRADING_SEED
) -> tuple["NotebookNode", list[int]]:
    """Make the instructor's notebook of one lesson.

    Args:
        source: The lesson's text.
        full: Whether all cells of the lesson are kept, and not its exercises only.
        seed: Of the inputs that answers are tried on.

    Returns:
        The notebook, and the points of its exercises, in order.

    Raises:
        SystemExit: The lesson breaks the contract for exercises.
    """
    import jupytext

    text = notebooks.regenerate(source.read_text("utf-8"), source.stem)
    nb = notebooks.clean(jupytext.reads(text, fmt="md:myst"))
    lesson = source.stem[:2]
    kept = nb.cells if full else [*_opening(nb.cells, source.stem), *_exercise_section(nb.cells)]
    cells = []
    points = []
    for cell in kept:
        solutions = r"<!-- solution \w+ -->.*?<!-- /solution -->"
        cell.source = re.sub(solutions, "", cell.source, flags=re.DOTALL).strip()
        exercise = _exercise(cell)
        if exercise is None:
            if cell.source:
                cells.append(cell)
            continue
        most = exercises.get(lesson, exercise.name).difficulty
        cell.source = _with_solution(cell.source, source.stem, exercise.name, exercise.function)
        test = _code_cell(
            TEST.format(
                points=most,
                s="" if most == 1 else "s",
                function=exercise.function,
                lesson=lesson,
                name=exercise.name,
                seed="" if seed == GRADING_SEED else f", seed={seed}",
            )
        )
        cells.append(_marked(cell, exercise.name, solution=True))
        cells.append(_marked(test, f"{exercise.name}-points", grade=True, points=most))
        points.append(most)
    nb.cells = cells
    return nb, points


def student(nb: "NotebookNode") -> "NotebookNode":
    """Return a copy without solutions and hidden tests, as `nbgrader generate_assignment` makes it.

    Args:
        nb: The instructor's notebook.
    """
    solution = re.compile(rf"^( *){BEGIN}.*?{END}$", re.DOTALL | re.MULTILINE)
    hidden_tests = re.compile(r"\n### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS$", re.DOTALL)
    nb = deepcopy(nb)
    for cell in nb.cells:
        text = solution.sub(lambda match: textwrap.indent(STUB, match[1]), cell.source)
        cell.source = hidden_tests.sub("", text)
    return nb


# --- which cells ---


def _opening(cells: list["NotebookNode"], name: str) -> list["NotebookNode"]:
    """Return title and link, the set-up cell, a cell with the imports and `lesson = Lesson(…)`."""
    from nbformat.v4 import new_markdown_cell

    whole_text = "\n".join(cell.source for cell in cells)
    title = re.search(r"^# (.*)", whole_text, re.MULTILINE)[1]
    link = colab(name)
    lesson = f"[{name}]({link})" if link else name
    opening = new_markdown_cell(OPENING.format(title=title, lesson=lesson), id="title")

    setup = [cell for cell in cells if "setup" in cell.metadata.get("tags", [])]
    start = _code_cell("\n".join(_opening_statements(cells)))
    return [opening, *(_marked(cell, "setup") for cell in setup), _marked(start, "start")]


def _opening_statements(cells: Iterable["NotebookNode"]) -> list[str]:
    """Return the quick imports of a lesson, each once, and then `lesson = Lesson(…)`."""
    imports: dict[str, None] = {}  # as a set that keeps the order
    starts: dict[str, None] = {}
    for cell in cells:
        tree = parse(cell.source) if cell.cell_type == "code" else None
        if not isinstance(tree, ast.Module):
            continue
        for statement in tree.body:
            line = ast.unparse(statement)
            if re.match(QUICK_IMPORT, line):
                imports[line] = None
            elif re.match(r"lesson = Lesson\(", line):
                starts[line] = None
    return [*imports, *starts]


def _exercise_section(cells: Iterable["NotebookNode"]) -> Iterator["NotebookNode"]:
    """Yield the cells of `## Exercises`, to the next heading of that rank; of the code, checks and
    hints only."""
    inside = False
    for cell in cells:
        if cell.cell_type == "markdown":
            kept = []
            for part in re.split(r"^(?=## )", cell.source, flags=re.MULTILINE):
                if part.startswith("## "):
                    inside = part.startswith("## Exercises")
                if inside:
                    kept.append(part)
            cell.source = "".join(kept)
            yield cell
        elif inside and ("lesson.hint(" in cell.source or _exercise(cell)):
            yield cell


def _exercise(cell: "NotebookNode") -> Exercise | None:
    """Return what the cell checks with `lesson.check("name", function)`, or None."""
    tree = parse(cell.source) if cell.cell_type == "code" else None
    if not isinstance(tree, ast.Module):
        return None
    calls = [Exercise(check.exercise, ast.unparse(check.function)) for check in checks(tree)]
    if len(calls) > 1:
        raise SystemExit(
            f"class: expected one lesson.check in a cell, found {len(calls)}: "
            f"{[tuple(call) for call in calls]}"
        )
    return calls[0] if calls else None


# --- the solution in its cell ---


def _with_solution(text: str, stem: str, name: str, function: str) -> str:
    """Return the stub cell with the solution between nbgrader's marks.

    A stub's comments stay for the student. Where its arguments have other names than the
    solution's, the first line of the answer renames them.

    Args:
        text: The cell with the stub.
        stem: The lesson, "06_simclr".
        name: The exercise.
        function: The name of the stub.
    """
    stub = None
    for statement in ast.parse(text).body:
        if getattr(statement, "name", "") == function:
            stub = statement
            break
    source = exercises.get(stem[:2], name).source()
    solution = ast.parse(source).body[-1]
    stub_arguments = _arguments(stub)
    arguments = _arguments(solution)
    if len(stub_arguments) != len(arguments):
        raise SystemExit(
            f"class: {stem}: expected a function {function}({', '.join(arguments)}) in the cell of "
            f"exercise {name}, found arguments {stub_arguments}"
        )

    # The stub's body, in lines of the cell; it may be on the line of its `def`.
    lines = text.split("\n")
    has_docstring = ast.get_docstring(stub) is not None
    body = stub.body[1:] if has_docstring else stub.body
    first = body[0].lineno - 1 if body else stub.end_lineno
    comments = re.findall(r"#.*", "\n".join(lines[first : stub.end_lineno]))

    # The solution's imports, and its body after the docstring.
    source_lines = source.split("\n")
    imports = [line for line in source_lines[: solution.lineno - 1] if line]
    if ast.get_docstring(solution):
        body_start = solution.body[0].end_lineno
    else:
        body_start = solution.body[0].lineno - 1
    answer = textwrap.dedent("\n".join(source_lines[body_start : solution.end_lineno]))
    code = [*imports]
    if stub_arguments != arguments:
        code.append(f"{', '.join(arguments)} = {', '.join(stub_arguments)}")
    code.append(answer)

    region = textwrap.indent("\n".join([*comments, BEGIN, *code, END]), " " * 4)
    return "\n".join([*lines[:first], region, *lines[stub.end_lineno :]])


def _arguments(function: ast.AST | None) -> list[str]:
    """Return the names of a function's arguments; none if it is no function."""
    if not isinstance(function, ast.FunctionDef):
        return []
    signature = function.args
    arguments = [*signature.posonlyargs, *signature.args, *signature.kwonlyargs]
    return [argument.arg for argument in arguments]


# --- cells ---


def _code_cell(source: str) -> "NotebookNode":
    from nbformat.v4 import new_code_cell

    return new_code_cell(source)


def _marked(
    cell: "NotebookNode",
    name: str,
    *,
    grade: bool = False,
    solution: bool = False,
    points: int | None = None,
) -> "NotebookNode":
    """Give a cell nbgrader's metadata, in place, and return it.

    What is no answer is locked, so that nbgrader restores it before it grades.
    """
    marks = dict(
        grade=grade,
        grade_id=name,
        locked=not solution,
        schema_version=3,
        solution=solution,
        task=False,
    )
    if points is not None:
        marks["points"] = points
    cell.id = name
    cell.metadata = dict(nbgrader=marks)
    return cell
