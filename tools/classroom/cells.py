"""What one exercise needs of a learner's notebook: read from its text, nothing is run here."""

import ast
import functools
import hashlib
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


class Step(NamedTuple):
    """A statement to run.

    Attributes:
        statement: As a piece of the syntax tree of its cell.
        place: Which cell that is, as Python names a file.
        text: The cell.
    """

    statement: ast.stmt
    place: str
    text: str

    def module(self) -> ast.Module:
        """Return what can be compiled; the lines keep the numbers that they have in the cell."""
        return ast.Module([self.statement], type_ignores=[])


class Needed(NamedTuple):
    """What to run for one exercise.

    Attributes:
        steps: In order.
        expression: What names the function then.
        note: Something to tell the teacher, or "".
    """

    steps: list[Step]
    expression: ast.Expression
    note: str


def content_of(path: Path) -> bytes:
    """Read a file that may be anything.

    Raises:
        LookupError: It cannot be read; the message says why.
    """
    try:
        if path.is_symlink() or not path.is_file():
            raise LookupError("not a notebook: a link or a folder")
        size = path.stat().st_size
        if size > LARGEST:
            limit = f"expected at most {LARGEST / 1e6:.0f} MB, found {size / 1e6:.0f} MB"
            raise LookupError(f"too large: {limit} (clear the outputs and save it again)")
        return path.read_bytes()
    except OSError as error:
        raise LookupError(f"cannot be read: {error.strerror}") from None


def cells_of(content: bytes) -> list[tuple[str, str]]:
    """Return the cells of a notebook as (kind, source).

    Args:
        content: A file that may be anything, in UTF-8, 16 or 32, with or without a mark of it.

    Raises:
        LookupError: It is not a notebook; the message says why.
    """
    try:
        cells = []
        for cell in json.loads(content)["cells"]:
            kind = cell["cell_type"]
            source = cell["source"]
            cells.append((kind, source if isinstance(source, str) else "".join(source)))
        return cells
    except (ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise LookupError(f"not a notebook: {type(error).__name__} ({error})") from None


def lesson_of(name: str, cells: Iterable[tuple[str, str]]) -> str:
    """Return the number of the lesson: from `Lesson("06")`, else from a file name 06_….ipynb.

    Args:
        name: Of the file.
        cells: (kind, source) of each cell.

    Returns:
        Two digits, or "F2" and the like; "" if neither says so.
    """
    numbers = []
    for kind, text in cells:
        if kind == "code":
            numbers += re.findall(r"""\bLesson\(\s*["']?(F\d|\d\d?)["']?\s*\)""", text)
    numbers += re.findall(r"^(F\d|\d\d)(?=\D)", name)
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
    steps = {}  # position of a cell → its statements
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
        place = f"<cell {position + 1}>"
        steps[position] = [Step(statement, place, text) for statement in tree.body]
        calls += [(position, check) for check in checks(tree) if check.exercise == name]
    if not calls:
        raise LookupError(unreadable or f'missing: no cell with lesson.check("{name}", …)')

    last, check = calls[-1]
    own = steps[last][: check.index]
    # In a notebook without the heading, anything may belong to an exercise.
    exercises_start = heading if heading < len(cells) else -1
    candidates = []
    for position, found in steps.items():
        if position < last:
            in_exercises = position > exercises_start
            candidates += [step for step in found if _may_run(step.statement, in_exercises)]

    wanted = _names([*(step.statement for step in own), check.function])
    needed: list[Step] = []
    for step in reversed(candidates):
        if _binds(step.statement) & (wanted | {"*"}):
            needed.append(step)
            wanted |= _names([step.statement])

    note = f" [{len(calls)} cells with this exercise: the last one counts]"
    return Needed(
        steps=[*reversed(needed), *own],
        expression=ast.Expression(check.function),
        note=note if len(calls) > 1 else "",
    )


def fingerprint(needed: Needed) -> str:
    """Return a text that is the same for answers which differ in comments and spaces only.

    Args:
        needed: What is run for the answer.
    """
    digest = hashlib.sha256()
    for root in [*(step.statement for step in needed.steps), needed.expression]:
        for node in ast.walk(root):
            fields = (value for _, value in ast.iter_fields(node))
            plain = [_short(value) for value in fields if not isinstance(value, (ast.AST, list))]
            digest.update(f"{type(node).__name__} {plain}\n".encode("utf-8", "replace"))
    return digest.hexdigest()[:32]


def _short(value: object) -> object:
    """Return what can be printed: Python prints no whole number of many digits but as 0x…."""
    return hex(value) if isinstance(value, int) else value


@functools.lru_cache(maxsize=256)  # each exercise of a notebook looks at all its cells
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
