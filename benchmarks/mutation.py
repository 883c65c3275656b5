"""Does every checker notice when the solution is changed? Mutate each reference solution, and let its checker judge.

Run: python benchmarks/mutation.py      (5 to 10 minutes; writes benchmarks/results/mutation.json)
A mutant is the solution with one small change: another axis, a mean left out, a sign, + for -, off by one, a factor of
2, a cut gradient … It has to be rejected at every one of three seeds. What passes at some seed is run beside the
solution on 200 fresh inputs in float64: the same values and gradients to ten digits make it equivalent; another answer
that the task allows is counted apart; the rest has survived. Exits with an error if anything has survived.
"""

import argparse
import ast
import copy
import difflib
import inspect
import json
import platform
import sys
import textwrap
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from shared import cpu_model, write_atomically

from replearn.lesson import exercises
from replearn.lesson import lesson as core
from replearn.lesson.exercises import check
from replearn.lesson.exercises import limits as guard

RESULTS = Path(__file__).parent / "results" / "mutation.json"
SEEDS, INPUTS = range(3), 200
MODULES = ("torch", "F", "nn", "math", "np", "torch.linalg", "copy")
OPERATORS = {
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
TWINS = [
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
TWIN = {a: b for pair in TWINS for a, b in (pair, pair[::-1])}
SEVERAL = (
    "swap_head",
    "parameter_groups",
    "fools_cka",
    "breaking_prompts",
)  # tasks with more than one right answer
ALLOWED = {
    "fix_leak": ("std = x_train.std(dim=0)\n", "unbiased=True")
}  # either standard deviation: the task leaves it open


def number_rewrites(value):
    """Off by one, twice, none, the other sign."""
    near = (value + 1, value - 1) if isinstance(value, int) else (value / 2, 0.0)
    return [
        f"number {value} to {other}|({other})"
        for other in (*near, 2 * value, -value)
        if other != value
    ]


def call_rewrites(node, text):
    """Another function, no call at all, one argument less, two arguments swapped."""
    function, arguments = text(node.func), [text(part) for part in node.args]
    keywords = [f"{k.arg}={text(k.value)}" for k in node.keywords]
    build = lambda f, parts: f"{f}({', '.join(parts)})"
    if isinstance(node.func, ast.Attribute):
        owner, name = text(node.func.value), node.func.attr
        if name in TWIN:
            yield f"{name} to {TWIN[name]}|" + build(
                f"({owner}).{TWIN[name]}", arguments + keywords
            )
        if not (owner in MODULES and arguments and isinstance(node.args[0], ast.Starred)):
            yield f"{name} dropped|({arguments[0] if owner in MODULES and arguments else owner})"
    elif function in TWIN:
        yield f"{function} to {TWIN[function]}|" + build(TWIN[function], arguments + keywords)
    for i in range(len(arguments + keywords)):
        yield "argument dropped|" + build(
            function, [a for j, a in enumerate(arguments + keywords) if j != i]
        )
    if len(arguments) > 1:
        yield "arguments swapped|" + build(
            function, [arguments[1], arguments[0], *arguments[2:], *keywords]
        )


def rewrites(node, parameters, gradient):
    """Every small change of one expression, as "what changes|its new source"."""
    text = ast.unparse
    match node:
        case ast.Constant(value=bool()):
            yield f"{node.value} flipped|{not node.value}"
        case ast.Constant(value=int() | float()):
            yield from number_rewrites(node.value)
        case ast.BinOp(left=left, op=op, right=right):
            if type(op) in OPERATORS:
                yield f"operator to {OPERATORS[type(op)]}|({text(left)}) {OPERATORS[type(op)]} ({text(right)})"
            if not isinstance(op, ast.Add | ast.Mult):
                yield f"operands swapped|{text(ast.BinOp(right, op, left))}"
            yield from (f"operand dropped|({text(left)})", f"operand dropped|({text(right)})")
        case ast.UnaryOp(operand=operand):
            yield f"sign dropped|({text(operand)})"
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            for other in COMPARISONS.get(type(op), ()):
                yield f"comparison to {other}|({text(left)}) {other} ({text(right)})"
            yield from ("always|True", "never|False")
        case ast.BoolOp(op=op, values=values):
            other = ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            yield f"and, or swapped|{text(other)}"
            for i in range(len(values)):
                yield f"condition dropped|{text(ast.BoolOp(op, [v for j, v in enumerate(values) if j != i]))}"
        case ast.IfExp(body=body, orelse=orelse):
            yield from (f"always the first|({text(body)})", f"always the second|({text(orelse)})")
        case ast.Call():
            yield from call_rewrites(node, text)
        case ast.Attribute(value=value, attr="T"):
            yield f"transpose dropped|({text(value)})"
        case ast.Subscript(value=value, slice=ast.Slice(lower=lower, upper=upper)):
            low, high = ("" if part is None else text(part) for part in (lower, upper))
            yield from (
                f"slice dropped|({text(value)})",
                f"slice turned|({text(value)})[{high}:{low}]",
            )
        case ast.Subscript(value=value):
            yield f"index dropped|({text(value)})"
        case ast.ListComp(elt=elt, generators=[ast.comprehension(ifs=[_]) as loop]):
            yield f"filter dropped|[{text(elt)} for {text(loop.target)} in {text(loop.iter)}]"
        case ast.Name(id=name) if name in parameters:
            yield from (f"{name} to {other}|{other}" for other in parameters if other != name)
            yield from [f"{name} without gradient|({name}).detach()"] * gradient


def result_rewrites(node, gradient):
    """Changes of what is returned: sign, a factor of 2, no gradient; nothing for tuples and texts."""
    if not isinstance(node, ast.Tuple | ast.Constant | ast.IfExp):
        value = ast.unparse(node)
        yield from (
            f"result negated|-({value})",
            f"result doubled|2 * ({value})",
            f"result halved|({value}) / 2",
        )
        yield from [f"result without gradient|({value}).detach()"] * gradient


class Put(ast.NodeTransformer):
    """Replace one node by others."""

    def __init__(self, old, new):
        self.old, self.new = old, new

    def visit(self, node):
        return self.new if node is self.old else self.generic_visit(node)


def changed(tree, index, new):
    """A copy of the tree in which node number `index` of ast.walk is another one."""
    tree = copy.deepcopy(tree)
    return ast.unparse(ast.fix_missing_locations(Put(list(ast.walk(tree))[index], new).visit(tree)))


def mutants(source, gradient=True):
    """{source of a changed function: what was changed} for every change of one place; the docstring is left out.

    gradient: cut gradients too, where the exercise compares them."""
    tree = ast.parse(textwrap.dedent(source))
    function, found = tree.body[0], {}
    function.body = function.body[1:] if ast.get_docstring(function) else function.body
    parameters = [argument.arg for argument in function.args.args]
    split = lambda change: change.split("|", 1)
    for index, node in enumerate(ast.walk(tree)):
        if isinstance(node, ast.expr) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            for what, code in map(split, rewrites(node, parameters, gradient)):
                found.setdefault(changed(tree, index, ast.parse(code, mode="eval").body), what)
        elif isinstance(node, ast.Return) and node.value is not None:
            for what, code in map(split, result_rewrites(node.value, gradient)):
                found.setdefault(changed(tree, index, ast.parse(f"return {code}").body[0]), what)
        elif isinstance(node, ast.With):
            found.setdefault(changed(tree, index, copy.deepcopy(node.body)), "with dropped")
        elif isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.If):
            found.setdefault(changed(tree, index, ast.Pass()), "statement dropped")
    found.pop(ast.unparse(tree), None)
    return found


def function_of(exercise, source):
    """The function that a source text defines, among the names of the exercise's module; None if it is no Python."""
    space = dict(vars(inspect.getmodule(exercise.solution)))
    try:
        exec(compile(source, "<mutant>", "exec"), space)
    except (SyntaxError, ValueError):
        return None
    return space[exercise.name]


def first_difference(exercise, fn, rounds):
    """What tells `fn` from the solution on fresh inputs, in float64 and to ten digits; None if nothing does."""
    strict, before = replace(exercise, judge=None, tolerance=1e-10), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # of the inputs, too
    try:
        return next(
            (result.text for seed in rounds if not (result := check(strict, fn, seed=seed)).right),
            None,
        )
    finally:
        torch.set_default_dtype(before)


def verdict(exercise, fn, text=""):
    """("rejected" | "crashed" | "equivalent" | "another right answer" | "survived", accepted seeds, a sentence)."""
    results = [check(exercise, fn, seed=seed) for seed in SEEDS]
    accepted = sum(result.right for result in results)
    if not accepted:
        crash = "expected a result, found " in results[0].text
        return "crashed" if crash else "rejected", 0, results[0].text
    rounds = range(1000, 1000 + -(-INPUTS // len(exercise.cases(torch.Generator().manual_seed(0)))))
    different = first_difference(exercise, fn, rounds)
    if accepted == len(SEEDS) and different is None:
        return "equivalent", accepted, ""
    allowed = exercise.name in SEVERAL or any(
        part in text for part in ALLOWED.get(exercise.name, ())
    )
    if allowed and all(check(exercise, fn, seed=seed).right for seed in rounds):
        return "another right answer", accepted, different or ""
    return "survived", accepted, different or "right at some seeds only"


def difference_of(before, after):
    """The changed lines of two sources."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def measure(exercise, limit=None):
    """Judge all mutants of one exercise (or every n-th, at most `limit`): counts, and what was not rejected."""
    source = inspect.getsource(exercise.solution)
    every = list(mutants(source, bool(exercise.gradient_of)).items())
    every = every[:: max(1, len(every) // limit)] if limit else every
    plain = ast.parse(textwrap.dedent(source))
    plain.body[0].body = plain.body[0].body[1:]
    counts, kept = (
        Counter(),
        {name: [] for name in ("equivalent", "another right answer", "survived")},
    )
    for text, what in every:
        if (fn := function_of(exercise, text)) is None:
            continue
        name, accepted, sentence = verdict(exercise, fn, text)
        counts[name] += 1
        if name in kept:
            kept[name].append(
                dict(
                    change=what,
                    diff=difference_of(ast.unparse(plain), text),
                    accepted=accepted,
                    found=sentence,
                )
            )
    return dict(
        mutants=counts.total(),
        rejected=counts["rejected"] + counts["crashed"],
        crashed=counts["crashed"],
        **{name.replace(" ", "_"): len(entries) for name, entries in kept.items()},
        kept=kept,
    )


def summary(found, seconds):
    """The record of all exercises: sums, rows, versions."""
    total = {
        key: sum(row[key] for row in found.values())
        for key in next(iter(found.values()))
        if key != "kept"
    }
    return dict(
        question="which changes of the reference solutions does each checker reject?",
        total=total,
        command="python benchmarks/mutation.py",
        seeds=len(SEEDS),
        fresh_inputs=INPUTS,
        exercises=found,
        seconds=round(seconds),
        cpu=cpu_model(),
        python=platform.python_version(),
        torch=torch.__version__,
    )


def main():
    """Measure the checkers and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "lessons",
        nargs="*",
        metavar="NN",
        help="numbers of lessons (default: all; writes the file)",
    )
    args = parser.parse_args()
    guard.LIMIT, start, found = 20.0, time.perf_counter(), {}
    torch.set_num_threads(1)
    for lesson in args.lessons or core.LESSONS:
        for name in exercises.names(lesson):
            found[f"{lesson} {name}"] = row = measure(exercises.get(lesson, name))
            print(
                f"{lesson} {name}:",
                ", ".join(f"{k} {v}" for k, v in row.items() if k != "kept"),
                flush=True,
            )
            for entry in row["kept"]["survived"]:
                print("  survived:", *entry["diff"], "  ", entry["found"], flush=True)
    record = summary(found, time.perf_counter() - start)
    if not args.lessons:
        write_atomically(RESULTS, record)
    print(json.dumps(record["total"]))
    sys.exit(record["total"]["survived"] > 0)


if __name__ == "__main__":
    main()
