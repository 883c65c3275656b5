"""The exercises of the lessons: those of lesson NN stand in `exNN.py`, in a list `EXERCISES = [Exercise(...), ...]`.

`check` runs a learner's function beside the solution on fresh random inputs and says in one sentence what is wrong.
"""

import importlib
import importlib.util
import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from replearn.lesson.exercises.checker import Result, check

__all__ = ["Exercise", "Result", "check", "get", "names"]


@dataclass(frozen=True)
class Exercise:
    """One exercise; its name is the name of `solution`, whose docstring is the task.

    cases(generator) -> {label: arguments}: fresh inputs; the label completes "on …". gradient_of: positions of the
    arguments whose gradients are compared too, except in the cases `no_gradient`. tolerance: of the largest value.
    judge(found, expected, *arguments) -> None or a sentence: replaces the comparison where several answers are right.
    wrong: {name: function} usual mistakes, 3 or more; alternatives: 2 or more other right ways (both for the tests).
    """

    solution: Callable
    cases: Callable
    hints: tuple
    wrong: dict
    alternatives: tuple
    difficulty: int = 1  # of 3
    minutes: int = 10
    gradient_of: tuple = ()
    no_gradient: tuple = ()
    tolerance: float = 1e-4
    judge: Callable | None = None

    @property
    def name(self):
        return self.solution.__name__

    def source(self):
        """The reference solution as text, with the imports it needs."""
        body = textwrap.dedent(inspect.getsource(self.solution))
        lines = inspect.getsource(inspect.getmodule(self.solution)).splitlines()
        imports = [
            line
            for line in lines
            if re.match(r"(import|from) (?!replearn)", line)
            and re.search(rf"\b{re.escape(line.split()[-1])}\b", body)
        ]
        return "\n".join(imports) + "\n\n\n" * bool(imports) + body.rstrip() + "\n"


def names(lesson):
    """Names of the exercises of a lesson ("06"), in the order of the notebook."""
    return list(_exercises(lesson))


def get(lesson, name):
    """One exercise; ValueError names those that exist."""
    found = _exercises(lesson)
    if name not in found:
        raise ValueError(
            f"no exercise {name!r} in lesson {lesson}; expected one of: {', '.join(found) or 'none yet'}"
        )
    return found[name]


def _exercises(lesson):
    module = f"{__name__}.ex{lesson}"
    if importlib.util.find_spec(module) is None:
        return {}
    return {exercise.name: exercise for exercise in importlib.import_module(module).EXERCISES}
