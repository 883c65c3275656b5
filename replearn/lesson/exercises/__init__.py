"""The exercises of the lessons: those of lesson NN stand in `exNN.py`, in a list `EXERCISES`.

`check` runs a learner's function beside the solution on fresh random inputs, and says in one
sentence what is wrong.
"""

import importlib
import importlib.util
import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from replearn.lesson.exercises.checker import Result, check

__all__ = ["Exercise", "Result", "check", "get", "names"]


@dataclass(frozen=True)
class Exercise:
    """One exercise. Its name is the name of its solution, whose docstring is the task.

    Attributes:
        solution (Callable): The reference solution.
        cases (Callable): Called with a generator, returns fresh inputs as {label: arguments}. The
            label completes the words "on ...".
        hints (tuple): Two or three, each one telling more.
        wrong (dict): Usual mistakes, {name: function}, three or more; for the tests.
        alternatives (tuple): Other right ways to write it, two or more; for the tests.
        difficulty (int): 1 to 3.
        minutes (int): That it takes.
        gradient_of (tuple): Positions of the arguments whose gradients are compared too.
        no_gradient (tuple): Labels of cases in which no gradients are compared.
        tolerance (float): Of values, as a fraction of the largest one.
        judge (Callable or None): judge(answer, expected, *arguments) returns None or a sentence. It
            replaces the comparison where several answers are right.
    """

    solution: Callable
    cases: Callable
    hints: tuple
    wrong: dict
    alternatives: tuple
    difficulty: int = 1
    minutes: int = 10
    gradient_of: tuple = ()
    no_gradient: tuple = ()
    tolerance: float = 1e-4
    judge: Callable[..., str | None] | None = None

    @property
    def name(self) -> str:
        """The name of the solution, by which learners call the exercise."""
        return self.solution.__name__

    def source(self) -> str:
        """Return the solution as text, with the imports that it needs.

        Example:
            >>> print(get("09", "infonce_bound").source().split("def ")[0].strip())
            import math
            import torch
            import torch.nn.functional as F
        """
        body = textwrap.dedent(inspect.getsource(self.solution)).rstrip() + "\n"
        imports = _imports_for(body, inspect.getmodule(self.solution))
        if not imports:
            return body
        return "\n".join(imports) + "\n\n\n" + body


def _imports_for(body: str, module: ModuleType) -> list[str]:
    """Return the import lines of a module whose names a piece of its source uses.

    Imports of this package are left out: a solution does without.
    """
    imports = []
    for line in inspect.getsource(module).splitlines():
        if re.match(r"(import|from) (?!replearn)", line):
            name = line.split()[-1]
            if re.search(rf"\b{re.escape(name)}\b", body):
                imports.append(line)
    return imports


def names(lesson: str) -> list[str]:
    """Return the names of a lesson's exercises, in the order of the notebook.

    Args:
        lesson: Its number in two digits, or "F2" and the like.

    Example:
        >>> names("06")
        ['nt_xent', 'mask_self_pairs', 'ema_update']
    """
    return list(_exercises(lesson))


def get(lesson: str, name: str) -> Exercise:
    """Return one exercise.

    Args:
        lesson: Its number in two digits, or "F2" and the like.
        name: Of the exercise.

    Raises:
        ValueError: There is none of this name; the message names those that there are.

    Example:
        >>> get("06", "ema_update").difficulty
        1
    """
    exercises = _exercises(lesson)
    if name not in exercises:
        known = ", ".join(exercises) or "none yet"
        raise ValueError(f"no exercise {name!r} in lesson {lesson}; expected one of: {known}")
    return exercises[name]


def _exercises(lesson: str) -> dict[str, Any]:
    module = f"{__name__}.ex{lesson}"
    if importlib.util.find_spec(module) is None:
        return {}
    return {exercise.name: exercise for exercise in importlib.import_module(module).EXERCISES}
