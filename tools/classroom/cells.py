"""What one exercise needs of a learner's notebook: read from its text, nothing is run here."""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

LARGEST = 64 * 2**20  # bytes of a notebook
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)


class Check(NamedTuple):
    """A call `….check("name", function)`.

    Attributes:
        index: Which statement of its cell the call stands in.
        exercise: The name.
        function: The expression that gives the function.
    """

    index: int
    exercise: str
    function: ast.expr


class Needed(NamedTuple):
    """What to run for one exercise.

    Attributes:
        statements: Source code, to be run in order.
        expression: What names the function then.
        note: Something to tell the learner, or "".
    """

    statements: list[str]
    expression: str
    note: str


def read(path: Path) -> tuple[list[tuple[str, str]], str]:
    """Read a notebook that may be anything.

    Returns:
        Its cells as (kind, source) and "", or no cells and what is wrong with the file.
    """
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
            return [], "not a notebook: a link, no file, or too large"
        cells = []
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            kind = cell["cell_type"]
            source = cell["source"]
            cells.append((kind, source if isinstance(source, str) else "".join(source)))
        return cells, ""
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        return [], f"not a notebook: {type(error).__name__} ({error})"


def lesson_of(path: Path, cells: Iterable[tuple[str, str]]) -> str:
    """Return the number of the lesson: from `Lesson("06")`, else from a file name 06_….ipynb.

    Returns:
        Two digits, or "" if neither says so.
    """
    numbers = []
    for kind, text in cells:
        if kind == "code":
            numbers += re.findall(r"""\bLesson\(\s*["']?(\d\d?)["']?\s*\)""", text)
    numbers += re.findall(r"^(\d\d)(?=\D)", path.name)
    if not numbers:
        return ""
    number = numbers[0].zfill(2)
    return "" if number == "00" else number


def slice_of(cells: Sequence[tuple[str, str]], name: str) -> Needed:
    """Find what to run for the exercise `name`.

    The last cell with `….check("name", function)` counts. It needs its own statements before the
    check, and of the cells before it the imports, functions and constants that these name.

    Args:
        cells: (kind, source) of each cell.
        name: The exercise.

    Raises:
        LookupError: There is no such cell, or it cannot be read; the message says which.
    """
    trees = {}  # position of a cell → its statements
    calls = []  # (position of the cell, its check)
    unreadable = ""
    heading = len(cells)  # position of "## Exercises"
    for position, (kind, text) in enumerate(cells):
        if kind != "code":
            if heading == len(cells) and re.search(r"^## Exercises", text, re.MULTILINE):
                heading = position
            continue
        tree = parse(text)
        if isinstance(tree, SyntaxError):
            if re.search(rf"""\.check\(\s*["']{name}["']""", text):
                unreadable = f"✗ wrong: the cell cannot be read: {tree.msg}, line {tree.lineno}"
            continue
        trees[position] = tree.body
        calls += [(position, check) for check in checks(tree) if check.exercise == name]
    if not calls:
        raise LookupError(unreadable or f'missing: no cell with lesson.check("{name}", …)')

    place, check = calls[-1]
    own = trees[place][: check.index]
    # In a notebook without the heading, anything may belong to an exercise.
    exercises_start = heading if heading < len(cells) else -1
    candidates = []
    for position, statements in trees.items():
        if position < place:
            in_exercises = position > exercises_start
            candidates += [one for one in statements if _may_run(one, in_exercises)]

    wanted = _names([*own, check.function])
    needed: list[ast.stmt] = []
    for statement in reversed(candidates):
        if _binds(statement) & (wanted | {"*"}):
            needed.insert(0, statement)
            wanted |= _names([statement])

    note = f" [{len(calls)} cells with this exercise: the last one counts]"
    return Needed(
        statements=[ast.unparse(statement) for statement in needed + own],
        expression=ast.unparse(check.function),
        note=note if len(calls) > 1 else "",
    )


def parse(text: str) -> ast.Module | SyntaxError:
    """Return the syntax tree of a cell, without the lines that only IPython understands; or the
    SyntaxError."""
    try:
        try:
            return ast.parse(text)
        except SyntaxError:
            without_magics = re.sub(r"^([ \t]*)[%!?].*$", r"\1pass", text, flags=re.MULTILINE)
            return ast.parse(without_magics)
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte, brackets without end
        return SyntaxError(str(error))


def checks(tree: ast.Module) -> Iterator[Check]:
    """Yield every `….check("name", function)` that a cell itself makes, not a function in it."""
    for index, statement in enumerate(tree.body):
        if isinstance(statement, DEFINITIONS):
            continue
        for node in ast.walk(statement):
            is_check = isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "check"
            if not is_check or len(node.args) != 2:
                continue
            name, function = node.args
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield Check(index, name.value, function)


def _names(nodes: Iterable[ast.AST]) -> set[str]:
    """Return all names that stand in these pieces of code."""
    names = set()
    for root in nodes:
        names |= {node.id for node in ast.walk(root) if isinstance(node, ast.Name)}
    return names


def _binds(statement: ast.stmt) -> set[str]:
    """Return the names that a statement defines; "*" if nobody knows which."""
    if isinstance(statement, DEFINITIONS):
        return {statement.name}
    if isinstance(statement, IMPORTS):
        return {alias.asname or alias.name.split(".")[0] for alias in statement.names}
    names = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
    return {node.id for node in names if isinstance(node.ctx, ast.Store)}


def _may_run(statement: ast.stmt, in_exercises: bool) -> bool:
    """Say whether a statement may be run for an exercise that names what it defines.

    Imports and definitions may. An assignment may, but before the exercises only one that calls
    nothing: the experiments stand there, and they take minutes.
    """
    if isinstance(statement, (*DEFINITIONS, *IMPORTS)):
        return True
    if not isinstance(statement, (ast.Assign, ast.AnnAssign)):
        return False
    return in_exercises or not any(isinstance(node, ast.Call) for node in ast.walk(statement))
