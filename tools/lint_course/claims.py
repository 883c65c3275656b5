"""A rule for claims: the number that decides one stands in its sentence."""

import ast
import math
import re
from collections.abc import Iterator

from nbformat import NotebookNode

WORDS = {  # words that say a number, and the number
    "half": 0.5,
    "a third": 1 / 3,
    "two thirds": 2 / 3,
    "a quarter": 0.25,
    "three quarters": 0.75,
    "a fifth": 0.2,
    "a tenth": 0.1,
    "a hundredth": 0.01,
    "a thousandth": 0.001,
    "a twentieth": 0.05,
    "three": 3.0,
    "four": 4.0,
    "five": 5.0,
    "six": 6.0,
    "seven": 7.0,
    "eight": 8.0,
    "nine": 9.0,
    "ten": 10.0,
    "twenty": 20.0,
    "a hundred": 100.0,
    "a thousand": 1000.0,
}
# "twice" and the like can stand for a factor of 2, which needs no number.
FREE = {0.0, 1.0, 2.0, 0.5}


def thresholds_stand_in_sentences(nb: NotebookNode) -> Iterator[str]:
    """The threshold of a claim is in its sentence, so that its words are as strong as its test.

    A threshold is a number that the condition of `lesson.claim` compares with, adds or multiplies.
    It may stand in the sentence as it is, in percent or points, as its reciprocal ("a tenth") or
    as a word.
    """
    for cell in nb.cells:
        if cell.cell_type != "code" or ".claim(" not in cell.source:
            continue
        try:
            tree = ast.parse(re.sub(r"^[ \t]*[%!].*$", "", cell.source, flags=re.MULTILINE))
        except SyntaxError:
            continue  # nbval says so
        for call in ast.walk(tree):
            if _is_claim(call):
                yield from _faults_of(call)


def _is_claim(node: ast.AST) -> bool:
    is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return is_method and node.func.attr == "claim" and len(node.args) == 2


def _faults_of(call: ast.Call) -> Iterator[str]:
    sentence, condition = call.args
    words = " ".join(
        node.value
        for node in ast.walk(sentence)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    # Parts of an f-string that are computed may hold the number.
    is_computed = any(isinstance(node, ast.FormattedValue) for node in ast.walk(sentence))
    said = numbers_in(words)
    for threshold in thresholds_in(condition):
        if not is_computed and not any(_same(threshold, number) for number in said):
            yield (
                f"a claim's threshold {threshold:g} does not stand in its sentence "
                f"({words[:60]}…): say it there"
            )


def thresholds_in(condition: ast.AST) -> list[float]:
    """Return the numbers that a condition compares with, adds or multiplies."""
    numbers = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            if not isinstance(node.value, bool) and abs(node.value) not in FREE:
                numbers.append(abs(float(node.value)))
        elif isinstance(node, (ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp)):
            for child in ast.iter_child_nodes(node):
                visit(child)
        # Arguments of calls and indexes are no thresholds.

    visit(condition)
    return numbers


def numbers_in(sentence: str) -> list[float]:
    """Return the numbers that a sentence says, in digits and in words."""
    digits = re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", sentence)
    numbers = [float(text.replace(",", "").rstrip(".")) for text in digits]
    lower = sentence.lower()
    numbers += [value for word, value in WORDS.items() if re.search(rf"\b{word}\b", lower)]
    return numbers


def _same(threshold: float, said: float) -> bool:
    """Return whether a threshold is what was said: as it is, in percent, or one part in so many."""
    forms = [said, said / 100]
    if said:
        forms.append(1 / said)
    rest = [1 - form for form in forms if 0 < form < 1]  # "loses 20 %" for a factor of 0.8
    return any(math.isclose(threshold, form, rel_tol=1e-6) for form in forms + rest)
