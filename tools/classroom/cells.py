"""Of a learner's notebook, what one exercise needs: read from its text, nothing is run here."""

import ast
import json
import re

LARGEST = 64 * 2**20  # bytes of a notebook
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)


def read(path):
    """([(kind, source), …], "") of a notebook, or ([], what is wrong with it)."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
            return [], "not a notebook: a link, no file, or too large"
        cells = json.loads(path.read_text("utf-8"))["cells"]
        texts = [(cell["cell_type"], cell["source"]) for cell in cells]
        return [
            (kind, text if isinstance(text, str) else "".join(text)) for kind, text in texts
        ], ""
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        return [], f"not a notebook: {type(error).__name__} ({error})"


def lesson_of(path, cells):
    """The number of the lesson: from `Lesson("06")`, else from a file name 06_….ipynb, else ""."""
    found = [
        match[1]
        for kind, text in cells
        if kind == "code"
        for match in re.finditer(r"""\bLesson\(\s*["']?(\d\d?)["']?\s*\)""", text)
    ]
    return (found or re.findall(r"^(\d\d)(?=\D)", path.name) or [""])[0].zfill(2).replace("00", "")


def slice_of(cells, name):
    """(statements, expression, note): what to run, and what names the function of exercise `name` then.

    The last cell with `….check("name", function)` counts. LookupError says why there is none.
    """
    parsed, found, broken, heading = [], [], "", -1
    for position, (kind, text) in enumerate(cells):
        if kind != "code":
            heading = (
                position
                if heading < 0 and re.search(r"^## Exercises", text, re.MULTILINE)
                else heading
            )
            continue
        tree = parse(text)
        if isinstance(tree, SyntaxError):
            asks = re.search(rf"""\.check\(\s*["']{name}["']""", text)
            broken = (
                f"✗ wrong: the cell cannot be read: {tree.msg}, line {tree.lineno}"
                if asks
                else broken
            )
            continue
        found += [
            (position, index, function) for index, asked, function in checks(tree) if asked == name
        ]
        parsed.append((position, tree.body))
    if not found:
        raise LookupError(broken or f'missing: no cell with lesson.check("{name}", …)')
    position, index, function = found[-1]
    own = next(body for place, body in parsed if place == position)[:index]
    before = [
        statement
        for place, body in parsed
        if place < position
        for statement in body
        if isinstance(statement, (*DEFINITIONS, *IMPORTS)) or _constant(statement, place > heading)
    ]
    wanted, needed = _names([*own, function]), []
    for statement in reversed(before):
        if _binds(statement) & (wanted | {"*"}):
            needed.insert(0, statement)
            wanted |= _names([statement])
    note = (
        f" [{len(found)} cells with this exercise: the last one counts]" if len(found) > 1 else ""
    )
    return [ast.unparse(statement) for statement in needed + own], ast.unparse(function), note


def parse(text):
    """The syntax tree of a cell, without the lines that only IPython understands; or the SyntaxError."""
    try:
        try:
            return ast.parse(text)
        except SyntaxError:
            return ast.parse(re.sub(r"^([ \t]*)[%!?].*$", r"\1pass", text, flags=re.MULTILINE))
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte, brackets without end
        return SyntaxError(str(error))


def checks(tree):
    """(index of the statement, name, function) for every `….check("name", function)` at a module's top level."""
    for index, statement in enumerate(tree.body):
        for node in ast.walk(statement) if not isinstance(statement, DEFINITIONS) else ():
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "attr", "") == "check"
                and len(node.args) == 2
            ):
                if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                    yield index, node.args[0].value, node.args[1]


def _names(nodes):
    return {node.id for root in nodes for node in ast.walk(root) if isinstance(node, ast.Name)}


def _binds(statement):
    """The names that a statement defines."""
    if isinstance(statement, DEFINITIONS):
        return {statement.name}
    if isinstance(statement, IMPORTS):
        return {alias.asname or alias.name.split(".")[0] for alias in statement.names}
    return {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def _constant(statement, in_exercises):
    """An assignment; before the exercises only one that calls nothing, since there the experiments stand."""
    return isinstance(statement, (ast.Assign, ast.AnnAssign)) and (
        in_exercises or not any(isinstance(node, ast.Call) for node in ast.walk(statement))
    )
