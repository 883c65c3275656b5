"""The rules for the modules of the package, read from their source: nothing is imported."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "replearn"
CORE = "_check audit augment data files losses metrics models plot probe train".split()
NOT_FOR_THE_CORE = ("lesson", "pretrain", "serve")


def core_stands_alone(root: Path) -> Iterator[str]:
    """The core imports neither lessons, nor pretraining, nor serving; not in a function either."""
    modules = find_modules(root)
    forbidden = tuple(f"{PACKAGE}.{name}" for name in NOT_FOR_THE_CORE)
    for module, path in modules.items():
        parts = module.split(".")
        if len(parts) < 2 or parts[1] not in CORE:
            continue
        for imported in sorted(imported_modules(path, module, modules, everywhere=True)):
            if imported.startswith(forbidden):
                yield (
                    f"{path.relative_to(root)}: the core imports {imported}: "
                    "move what both need into the core"
                )


def no_import_circles(root: Path) -> Iterator[str]:
    """No module needs itself to be imported."""
    modules = find_modules(root)
    graph = {
        module: imported_modules(path, module, modules, everywhere=False)
        for module, path in modules.items()
    }
    circle = find_circle(graph)
    if circle:
        path = modules[circle[0]].relative_to(root)
        yield f"{path}: import circle {' → '.join(circle)}: move what both need into a third module"


def no_module_hides_behind_a_function(root: Path) -> Iterator[str]:
    """No module has the name of something that its package exports: one would hide the other."""
    modules = find_modules(root)
    for package, path in modules.items():
        if path.name != "__init__.py":
            continue
        for node in ast.parse(path.read_text("utf-8")).body:
            if not isinstance(node, ast.ImportFrom):
                continue
            for alias in node.names:
                hidden = f"{package}.{alias.asname or alias.name}"
                is_module = f"{_absolute(node, package, path)}.{alias.name}" in modules
                if hidden in modules and not is_module:
                    yield (
                        f"{path.relative_to(root)}: exports {alias.name} and has a module of that "
                        "name: rename the module"
                    )


IMPORT_RULES = (core_stands_alone, no_import_circles, no_module_hides_behind_a_function)


def find_modules(root: Path) -> dict[str, Path]:
    """Return the modules of the package: dotted name → file."""
    modules = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        modules[".".join(parts)] = path
    return modules


def imported_modules(
    path: Path, module: str, modules: dict[str, Path], *, everywhere: bool
) -> set[str]:
    """Return which modules of the package a file imports.

    A package above an imported module is imported as well; that is left out, since every module of
    a package would make a circle with it.

    Args:
        path: The file.
        module: Its dotted name.
        modules: All modules of the package.
        everywhere: Whether imports inside functions count; else only those that run when the file
            is imported.
    """
    imported = set()
    tree = ast.parse(path.read_text("utf-8"))
    statements = ast.walk(tree) if everywhere else _run_on_import(tree)
    for node in statements:
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names if alias.name in modules}
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(node, module, path)
            for alias in node.names:
                submodule = f"{source}.{alias.name}"
                if submodule in modules:
                    imported.add(submodule)
                elif source in modules:
                    imported.add(source)
    return imported


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """Return a circle of a directed graph, its first node again at the end; empty without one."""
    finished: set[str] = set()

    def search(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in finished:
            return []
        for neighbor in sorted(graph.get(node, ())):
            circle = search(neighbor, [*path, node])
            if circle:
                return circle
        finished.add(node)
        return []

    for start in sorted(graph):
        circle = search(start, [])
        if circle:
            return circle
    return []


def _run_on_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements that run when a module is imported: not those inside functions, and not
    those under `if TYPE_CHECKING`."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop(0)
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        for part in ("body", "orelse", "finalbody"):  # of if, with, for, try and class
            waiting += getattr(node, part, [])
        for handler in getattr(node, "handlers", []):
            waiting += handler.body


def _absolute(node: ast.ImportFrom, module: str, path: Path) -> str:
    """Return the dotted name of the module after `from`, of a relative import as well."""
    if node.level == 0:
        return node.module or ""
    parents = module.split(".")
    steps = node.level - 1 if path.name == "__init__.py" else node.level
    if steps:
        parents = parents[:-steps]
    return ".".join([*parents, node.module] if node.module else parents)
