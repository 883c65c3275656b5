"""From a lesson's text to its assignment: the instructor's notebook in nbgrader's format, and the student's."""

import ast
import re
import textwrap
from copy import deepcopy

from replearn.lesson import exercises
from tools import notebooks as build
from tools.classroom.cells import checks, parse

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = "# YOUR CODE HERE\nraise NotImplementedError"
TEST = """\
# {worth} point{s} x the share of the checks that {function} passes.
### BEGIN HIDDEN TESTS
import os, sys
sys.path[:] = [_ for _ in sys.path if os.path.abspath(_) != os.getcwd()]
for _ in [_ for _ in sys.modules if _.partition(".")[0] == "replearn"]:
    del sys.modules[_]
from replearn.lesson.exercises.points import points
points("{lesson}", "{name}", {function}, {worth})
### END HIDDEN TESTS"""
LIGHT = r"(import|from) (torch|numpy|math|replearn\.lesson)\b"  # imports an exercise may need, and none that take long


def instructor(source, *, full=False):
    """(the instructor's notebook of one lesson text, the points of its exercises); full: all cells of the lesson."""
    import jupytext

    nb = build.clean(
        jupytext.reads(build.regenerate(source.read_text("utf-8"), source.stem), fmt="md:myst")
    )
    cells, worth = [], []
    for cell in nb.cells if full else [*_opening(nb.cells, source.stem), *_section(nb.cells)]:
        cell.source = re.sub(
            r"<!-- solution \w+ -->.*?<!-- /solution -->", "", cell.source, flags=re.DOTALL
        ).strip()
        found = _exercise(cell)
        if not found:
            cells += [cell] if cell.source else []
            continue
        name, function = found
        most, lesson = exercises.get(source.stem[:2], name).difficulty, source.stem[:2]
        cell.source = _with_solution(cell.source, source.stem, name, function)
        test = _code(
            TEST.format(
                worth=most, s="s" * (most != 1), function=function, lesson=lesson, name=name
            )
        )
        cells += [
            _mark(cell, name, solution=True),
            _mark(test, f"{name}-points", grade=True, points=most),
        ]
        worth.append(most)
    nb.cells = cells
    return nb, worth


def student(nb):
    """The notebook without solutions and hidden tests, as `nbgrader generate_assignment` makes it."""
    nb = deepcopy(nb)
    for cell in nb.cells:
        cell.source = re.sub(
            rf"^( *){BEGIN}.*?{END}$",
            lambda match: textwrap.indent(STUB, match[1]),
            cell.source,
            flags=re.DOTALL | re.MULTILINE,
        )
        cell.source = re.sub(
            r"\n### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS$", "", cell.source, flags=re.DOTALL
        )
    return nb


def _opening(cells, name):
    """Title and link, the set-up cell, one cell with the imports and `lesson = Lesson(…)`."""
    from nbformat.v4 import new_markdown_cell

    title = re.search(r"^# (.*)", "\n".join(cell.source for cell in cells), re.MULTILINE)[1]
    words = f"""# {title}: exercises

These are the exercises of the lesson [{name}]({build.colab(name)}). Everything they need is explained there.

Write your code where it says so and run the cell: the check under your function tells you at once if it is right."""
    setup = [_mark(cell, "setup") for cell in cells if "setup" in cell.metadata.get("tags", [])]
    lines = {}
    for cell in cells:
        tree = parse(cell.source) if cell.cell_type == "code" else None
        for statement in getattr(tree, "body", ()):
            line = ast.unparse(statement)
            if re.match(LIGHT, line) or re.match(r"lesson = Lesson\(", line):
                lines[line] = line.startswith("lesson")
    start = _code("\n".join(sorted(lines, key=lines.get)))
    return [new_markdown_cell(words, id="title"), *setup, _mark(start, "start")]


def _section(cells):
    """The cells of `## Exercises`, to the next heading of that rank; of the code, checks and hints only."""
    inside = False
    for cell in cells:
        if cell.cell_type == "markdown":
            kept = []
            for part in re.split(r"^(?=## )", cell.source, flags=re.MULTILINE):
                inside = part.startswith("## Exercises") or (inside and not part.startswith("## "))
                kept += [part] if inside else []
            cell.source = "".join(kept)
            yield cell
        elif inside and ("lesson.hint(" in cell.source or _exercise(cell)):
            yield cell


def _exercise(cell):
    """(name, function) of the cell's `lesson.check("name", function)`, or None."""
    tree = parse(cell.source) if cell.cell_type == "code" else None
    calls = checks(tree) if isinstance(tree, ast.Module) else ()
    found = [(name, ast.unparse(function)) for _, name, function in calls]
    if len(found) > 1:
        raise SystemExit(f"class: expected one lesson.check in a cell, found {len(found)}: {found}")
    return found[0] if found else None


def _with_solution(text, stem, name, function):
    """The stub cell with the solution between nbgrader's marks; a stub's comments stay for the student."""
    stub = next(
        (node for node in ast.parse(text).body if getattr(node, "name", "") == function), None
    )
    solution = ast.parse(source := exercises.get(stem[:2], name).source()).body[-1]
    mine, theirs = _arguments(stub), _arguments(solution)
    if len(mine) != len(theirs):
        raise SystemExit(
            f"class: {stem}: expected a function {function}({', '.join(theirs)}) in the cell of exercise "
            f"{name}, found arguments {mine}"
        )
    lines, answer, body = (
        text.split("\n"),
        source.split("\n"),
        stub.body[ast.get_docstring(stub) is not None :],
    )
    first = body[0].lineno - 1 if body else stub.end_lineno
    after = (
        solution.body[0].end_lineno if ast.get_docstring(solution) else solution.body[0].lineno - 1
    )
    imports = [line for line in answer[: solution.lineno - 1] if line]
    renamed = [f"{', '.join(theirs)} = {', '.join(mine)}"] if mine != theirs else []
    code = "\n".join(
        [*imports, *renamed, textwrap.dedent("\n".join(answer[after : solution.end_lineno]))]
    )
    told = re.findall(r"#.*", "\n".join(lines[first : stub.end_lineno]))
    region = textwrap.indent("\n".join([*told, BEGIN, code, END]), " " * 4)
    return "\n".join([*lines[:first], region, *lines[stub.end_lineno :]])


def _arguments(function):
    if not isinstance(function, ast.FunctionDef):
        return []
    return [
        one.arg
        for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    ]


def _code(source):
    from nbformat.v4 import new_code_cell

    return new_code_cell(source)


def _mark(cell, name, *, grade=False, solution=False, **points):
    """nbgrader's metadata; what is no answer is locked, so that nbgrader restores it before it grades."""
    cell.id, cell.metadata = (
        name,
        dict(
            nbgrader=dict(
                grade=grade,
                grade_id=name,
                locked=not solution,
                schema_version=3,
                solution=solution,
                task=False,
                **points,
            )
        ),
    )
    return cell
