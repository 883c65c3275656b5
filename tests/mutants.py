"""Functions with one small mistake each: made from a solution, and judged by its checker.

A mutant is the solution with one small change: another axis, a mean left out, a sign, + for -, off
by one, a factor of 2, a cut gradient and so on. It has to be rejected at every one of three seeds.
What passes at some seed is run beside the solution on 200 fresh inputs in float64: the same values
and gradients to ten digits make it equivalent; another answer that the task allows is counted
apart; the rest has survived.

tests/test_mutation.py tests this module and tries a few mutants of every exercise,
tests/test_mutation_slow.py tries all of them.
"""

import ast
import copy
import difflib
import inspect
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from replearn.lesson.exercises import Exercise, check

SEEDS = range(3)
INPUTS = 200
MODULES = ("torch", "F", "nn", "math", "np", "torch.linalg", "copy")
OPERATORS = {  # what an operator becomes
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.Pow: "*",
    ast.FloorDiv: "/",
    ast.Mod: "//",
}
COMPARISONS = {
    ast.Lt: ("<=", ">"),
    ast.LtE: ("<", ">="),
    ast.Gt: (">=", "<"),
    ast.GtE: (">", "<="),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
}
TWINS = [  # functions that are taken for each other
    ("mean", "sum"),
    ("max", "min"),
    ("amax", "amin"),
    ("argmax", "argmin"),
    ("exp", "log"),
    ("square", "abs"),
    ("zeros", "ones"),
    ("log_softmax", "softmax"),
    ("sqrt", "square"),
    ("permutations", "combinations"),
]
TWIN_OF: dict[str, str] = {}
for first, second in TWINS:
    TWIN_OF[first] = second
    TWIN_OF[second] = first
# Tasks with more than one right answer.
SEVERAL_ANSWERS = ("swap_head", "parameter_groups", "fools_cka", "breaking_prompts")
# Changes that a task allows: either standard deviation is right, for the task leaves it open.
ALLOWED = {"fix_leak": ("std = x_train.std(dim=0)\n", "unbiased=True")}
KEPT = ("equivalent", "another right answer", "survived")  # verdicts whose mutants are listed


# --- changes of one expression
# ---------------------------------------------------------------------


class Change(NamedTuple):
    """One small mistake in an expression."""

    what: str
    source: str  # of the new expression


def number_changes(value: int | float) -> Iterator[Change]:
    """Off by one (a fraction: half of it, nothing), twice, the other sign."""
    near = (value + 1, value - 1) if isinstance(value, int) else (value / 2, 0.0)
    for other in (*near, 2 * value, -value):
        if other != value:
            yield Change(f"number {value} to {other}", f"({other})")


def call_changes(node: ast.Call) -> Iterator[Change]:
    """Another function, no call at all, one argument less, two arguments swapped."""
    function = ast.unparse(node.func)
    positional = [ast.unparse(argument) for argument in node.args]
    keywords = [f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in node.keywords]
    arguments = positional + keywords
    if isinstance(node.func, ast.Attribute):
        owner = ast.unparse(node.func.value)
        name = node.func.attr
        if name in TWIN_OF:
            twin = TWIN_OF[name]
            yield Change(f"{name} to {twin}", call(f"({owner}).{twin}", arguments))
        is_module = owner in MODULES
        is_starred = bool(positional) and isinstance(node.args[0], ast.Starred)
        if not (is_module and is_starred):
            kept = positional[0] if is_module and positional else owner
            yield Change(f"{name} dropped", f"({kept})")
    elif function in TWIN_OF:
        twin = TWIN_OF[function]
        yield Change(f"{function} to {twin}", call(twin, arguments))
    for i in range(len(arguments)):
        yield Change("argument dropped", call(function, arguments[:i] + arguments[i + 1 :]))
    if len(positional) > 1:
        swapped = [positional[1], positional[0], *arguments[2:]]
        yield Change("arguments swapped", call(function, swapped))


def call(function: str, arguments: Sequence[str]) -> str:
    """Return a call as source."""
    return f"{function}({', '.join(arguments)})"


def operator_changes(node: ast.BinOp) -> Iterator[Change]:
    """Another operator, operands swapped, one of them alone."""
    left = ast.unparse(node.left)
    right = ast.unparse(node.right)
    if type(node.op) in OPERATORS:
        operator = OPERATORS[type(node.op)]
        yield Change(f"operator to {operator}", f"({left}) {operator} ({right})")
    if not isinstance(node.op, ast.Add | ast.Mult):
        swapped = ast.BinOp(node.right, node.op, node.left)
        yield Change("operands swapped", ast.unparse(swapped))
    yield Change("operand dropped", f"({left})")
    yield Change("operand dropped", f"({right})")


def comparison_changes(node: ast.Compare) -> Iterator[Change]:
    """Another comparison of two values, always and never."""
    left = ast.unparse(node.left)
    right = ast.unparse(node.comparators[0])
    for other in COMPARISONS.get(type(node.ops[0]), ()):
        yield Change(f"comparison to {other}", f"({left}) {other} ({right})")
    yield Change("always", "True")
    yield Change("never", "False")


def condition_changes(node: ast.BoolOp) -> Iterator[Change]:
    """`and` for `or`, and one condition less."""
    other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    yield Change("and, or swapped", ast.unparse(ast.BoolOp(other, node.values)))
    for i in range(len(node.values)):
        others = node.values[:i] + node.values[i + 1 :]
        yield Change("condition dropped", ast.unparse(ast.BoolOp(node.op, others)))


def subscript_changes(node: ast.Subscript) -> Iterator[Change]:
    """No index at all, and a slice with its ends exchanged."""
    value = ast.unparse(node.value)
    if not isinstance(node.slice, ast.Slice):
        yield Change("index dropped", f"({value})")
        return
    lower = ast.unparse(node.slice.lower) if node.slice.lower else ""
    upper = ast.unparse(node.slice.upper) if node.slice.upper else ""
    yield Change("slice dropped", f"({value})")
    yield Change("slice turned", f"({value})[{upper}:{lower}]")


def name_changes(name: str, parameters: Sequence[str], gradient: bool) -> Iterator[Change]:
    """Another parameter in its place; the gradient cut."""
    for other in parameters:
        if other != name:
            yield Change(f"{name} to {other}", other)
    if gradient:
        yield Change(f"{name} without gradient", f"({name}).detach()")


def expression_changes(
    node: ast.expr, parameters: Sequence[str], gradient: bool
) -> Iterator[Change]:
    """Return every small change of one expression.

    Args:
        node: The expression.
        parameters: Names of the function's parameters.
        gradient: Whether to cut gradients, too.
    """
    match node:
        case ast.Constant(value=bool()):
            yield Change(f"{node.value} flipped", f"{not node.value}")
        case ast.Constant(value=int() | float()):
            yield from number_changes(node.value)
        case ast.BinOp():
            yield from operator_changes(node)
        case ast.UnaryOp():
            yield Change("sign dropped", f"({ast.unparse(node.operand)})")
        case ast.Compare(ops=[_], comparators=[_]):
            yield from comparison_changes(node)
        case ast.BoolOp():
            yield from condition_changes(node)
        case ast.IfExp():
            yield Change("always the first", f"({ast.unparse(node.body)})")
            yield Change("always the second", f"({ast.unparse(node.orelse)})")
        case ast.Call():
            yield from call_changes(node)
        case ast.Attribute(attr="T"):
            yield Change("transpose dropped", f"({ast.unparse(node.value)})")
        case ast.Subscript():
            yield from subscript_changes(node)
        case ast.ListComp(generators=[ast.comprehension(ifs=[_]) as loop]):
            target = ast.unparse(loop.target)
            items = ast.unparse(loop.iter)
            yield Change("filter dropped", f"[{ast.unparse(node.elt)} for {target} in {items}]")
        case ast.Name() if node.id in parameters:
            yield from name_changes(node.id, parameters, gradient)


def result_changes(node: ast.expr, gradient: bool) -> Iterator[Change]:
    """Change what is returned: sign, a factor of 2, no gradient; nothing for tuples and texts."""
    if isinstance(node, ast.Tuple | ast.Constant | ast.IfExp):
        return
    value = ast.unparse(node)
    yield Change("result negated", f"-({value})")
    yield Change("result doubled", f"2 * ({value})")
    yield Change("result halved", f"({value}) / 2")
    if gradient:
        yield Change("result without gradient", f"({value}).detach()")


# --- changes of a function
# -------------------------------------------------------------------------


class Replace(ast.NodeTransformer):
    """Puts other nodes in the place of one."""

    def __init__(self, old: ast.AST, new: ast.AST | list[ast.stmt]) -> None:
        self.old = old
        self.new = new

    def visit(self, node: ast.AST) -> Any:
        """Return the new nodes for the old one, and everything else as it is."""
        return self.new if node is self.old else self.generic_visit(node)


def changed(tree: ast.Module, index: int, new: ast.AST | list[ast.stmt]) -> str:
    """Return the source of a tree in which node number `index` of ast.walk is another one."""
    tree = copy.deepcopy(tree)
    old = list(ast.walk(tree))[index]
    return ast.unparse(ast.fix_missing_locations(Replace(old, new).visit(tree)))


def changes_of_node(
    node: ast.AST, parameters: Sequence[str], gradient: bool
) -> Iterator[tuple[str, ast.AST | list[ast.stmt]]]:
    """Return every change of a node of a function: (what changes, the new node or nodes)."""
    if isinstance(node, ast.expr):
        is_read = isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
        if is_read:
            for change in expression_changes(node, parameters, gradient):
                yield change.what, ast.parse(change.source, mode="eval").body
    elif isinstance(node, ast.Return):
        if node.value is not None:
            for change in result_changes(node.value, gradient):
                yield change.what, ast.parse(f"return {change.source}").body[0]
    elif isinstance(node, ast.With):
        yield "with dropped", copy.deepcopy(node.body)
    elif isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.If):
        yield "statement dropped", ast.Pass()


def without_docstring(source: str) -> ast.Module:
    """Return the tree of a function's source."""
    tree = ast.parse(textwrap.dedent(source))
    function = tree.body[0]
    if ast.get_docstring(function):
        function.body = function.body[1:]
    return tree


def mutants(source: str, gradient: bool = True) -> dict[str, str]:
    """Return every change of one place of a function; its docstring is left out.

    Args:
        source: Of the function.
        gradient: Cut gradients, too, where the exercise compares them.

    Returns:
        `{source of a changed function: what was changed}`.
    """
    tree = without_docstring(source)
    parameters = [argument.arg for argument in tree.body[0].args.args]
    what_of: dict[str, str] = {}
    for index, node in enumerate(ast.walk(tree)):
        for what, new in changes_of_node(node, parameters, gradient):
            what_of.setdefault(changed(tree, index, new), what)
    what_of.pop(ast.unparse(tree), None)
    return what_of


# --- verdicts
# --------------------------------------------------------------------------------------


def function_of(exercise: Exercise, source: str) -> Callable | None:
    """Return the function that a source defines, among the names of the exercise's module.

    None if it is no Python.
    """
    names = dict(vars(inspect.getmodule(exercise.solution)))
    try:
        exec(compile(source, "<mutant>", "exec"), names)
    except (SyntaxError, ValueError):
        return None
    return names[exercise.name]


def first_difference(exercise: Exercise, function: Callable, seeds: Sequence[int]) -> str | None:
    """Return what tells a function from the solution on fresh inputs; None if nothing does.

    Both get float64, and are compared to ten digits.
    """
    strict = replace(exercise, judge=None, tolerance=1e-10)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # of the inputs, too
    try:
        for seed in seeds:
            result = check(strict, function, seed=seed)
            if not result.right:
                return result.text
        return None
    finally:
        torch.set_default_dtype(dtype)


class Verdict(NamedTuple):
    """What a checker says of a mutant, and what it is."""

    name: str  # rejected, crashed, equivalent, another right answer, survived
    accepted: int  # seeds at which the checker calls it right
    sentence: str


def verdict(exercise: Exercise, function: Callable, source: str = "") -> Verdict:
    """Let the checker judge a mutant, and judge the checker.

    Args:
        exercise: The exercise.
        function: The mutant.
        source: Its source.
    """
    results = [check(exercise, function, seed=seed) for seed in SEEDS]
    accepted = sum(result.right for result in results)
    if accepted == 0:
        crashed = "expected a result, found " in results[0].text
        return Verdict("crashed" if crashed else "rejected", 0, results[0].text)

    cases_a_seed = len(exercise.cases(torch.Generator().manual_seed(0)))
    fresh_seeds = range(1000, 1000 + -(-INPUTS // cases_a_seed))
    difference = first_difference(exercise, function, fresh_seeds)
    if accepted == len(SEEDS) and difference is None:
        return Verdict("equivalent", accepted, "")
    allowed_parts = ALLOWED.get(exercise.name, ())
    is_allowed = exercise.name in SEVERAL_ANSWERS or any(part in source for part in allowed_parts)
    if is_allowed and all(check(exercise, function, seed=seed).right for seed in fresh_seeds):
        return Verdict("another right answer", accepted, difference or "")
    return Verdict("survived", accepted, difference or "right at some seeds only")


def difference_of(before: str, after: str) -> list[str]:
    """Return the changed lines of two sources."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    changed_lines = []
    for line in lines:
        if line.startswith(("+", "-")) and not line.startswith(("+++", "---")):
            changed_lines.append(line)
    return changed_lines


def judge_all(exercise: Exercise, limit: int | None = None) -> dict[str, Any]:
    """Judge the mutants of one exercise.

    Args:
        exercise: The exercise.
        limit: Judge every n-th only, about so many.

    Returns:
        How many mutants got which verdict, and in `kept` those that were not rejected.
    """
    source = inspect.getsource(exercise.solution)
    solution = ast.unparse(without_docstring(source))
    every = list(mutants(source, bool(exercise.gradient_of)).items())
    if limit is not None:
        every = every[:: max(1, len(every) // limit)]
    counts: Counter[str] = Counter()
    kept: dict[str, list[dict]] = {name: [] for name in KEPT}
    for text, what in every:
        function = function_of(exercise, text)
        if function is None:
            continue
        name, accepted, sentence = verdict(exercise, function, text)
        counts[name] += 1
        if name in kept:
            kept[name].append(
                {
                    "change": what,
                    "diff": difference_of(solution, text),
                    "accepted": accepted,
                    "found": sentence,
                }
            )
    row: dict[str, Any] = {
        "mutants": counts.total(),
        "rejected": counts["rejected"] + counts["crashed"],
        "crashed": counts["crashed"],
    }
    for name, entries in kept.items():
        row[name.replace(" ", "_")] = len(entries)
    return row | {"kept": kept}
