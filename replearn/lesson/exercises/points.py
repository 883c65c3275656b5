"""Partial credit for nbgrader: what the hidden test cell of an assignment calls."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from replearn.lesson import exercises
from replearn.lesson.exercises.checker import GRADING_SEED


def points(
    lesson: str, name: str, fn: Callable, maximum: float, *, seed: int = GRADING_SEED
) -> float:
    """Return the points of a learner's function, and print the sentence about it.

    A float as the last value of a test cell is nbgrader's partial credit; anything on stderr would
    count as 0.

    Args:
        lesson: Its number in two digits.
        name: Of the exercise.
        fn: The learner's function.
        maximum: The points of a right answer.
        seed: Of the inputs that it is tried on; a class may have its own.

    Returns:
        `maximum` times the share of the checks that it passes; 0 if it never ends.

    Raises:
        ValueError: There is no such exercise.

    Example:
        >>> solution = exercises.get("06", "ema_update").solution
        >>> points("06", "ema_update", solution, 2)
        ✓ right: ema_update (5 of 5 checks)
        2.0
    """
    exercise = exercises.get(lesson, name)
    with _descriptors_silenced():
        result = exercises.check(exercise, fn, seed=seed)
    print(result.text)
    if "it does not come to an end" in result.text:
        return 0.0
    return round(maximum * result.score, 4)


@contextlib.contextmanager
def _descriptors_silenced() -> Iterator[None]:
    """Drop what is written past Python, as torch's C++ warnings are; `check` drops the rest."""
    sys.stdout.flush()
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    kept_stdout = os.dup(1)
    kept_stderr = os.dup(2)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept_stdout, 1)
        os.dup2(kept_stderr, 2)
        os.close(nowhere)
        os.close(kept_stdout)
        os.close(kept_stderr)
