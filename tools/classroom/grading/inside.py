"""What runs inside the sandbox: one notebook, and a line of JSON about each of its exercises.

`sandbox` starts it, with the notebook on standard input. The first line names the lesson, or says
why there is none; each further line is the verdict on an exercise. Learners' code runs in this
process and can send whatever it likes in their place.
"""

import contextlib
import json
import linecache
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch

from replearn.lesson import exercises
from replearn.lesson.exercises import limits
from replearn.lesson.exercises.checker import GRADING_SEED, Result, check
from replearn.lesson.lesson import EVERY_LESSON
from tools.classroom.cells import Needed, cells_of, fingerprint, lesson_of, slice_of
from tools.classroom.grading import calls

MEGABYTE = 2**20
LARGEST_FILE = 16 * MEGABYTE
OPEN_FILES = 64
LONGEST_TEXT = 300  # characters of a verdict


class _Silent:
    """Stands for `lesson` in the cells: everything can be called, nothing happens."""

    seed = 0
    device = "cpu"

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def main() -> None:
    """Read the notebook, shut the door behind what is loaded by then, and write the lines."""
    options = json.loads(sys.argv[1])
    content = sys.stdin.buffer.read()
    # What learners print, in C++ too, goes nowhere.
    verdicts = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    torch.set_num_threads(1)
    limits.LIMIT = options["seconds"]
    _limit(options["memory"])

    def tell(**line: Any) -> None:
        verdicts.write(json.dumps(line) + "\n")
        verdicts.flush()

    if options["protected"]:
        try:
            calls.close()
        except OSError as error:
            tell(lesson="", fault=f"not graded: system calls cannot be closed here ({error})")
            return
    try:
        cells = cells_of(content)
    except LookupError as error:
        tell(lesson="", fault=error.args[0][:LONGEST_TEXT])
        return
    lesson = lesson_of(options["name"], cells)
    names = exercises.names(lesson) if lesson in EVERY_LESSON else []
    if not names:
        fault = f"no exercises in lesson {lesson}" if lesson else 'no Lesson("NN") in it'
        tell(lesson="", fault=fault)
        return
    tell(lesson=lesson, fault="")
    for name in names[options["skip"] :]:
        tell(**verdict(cells, lesson, name, seed=options["seed"]))


def _limit(memory: int) -> None:
    """Set the limits that the system keeps; of memory, so many MB beyond what torch has taken."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    # No new process and no thread: all other limits count for a single process.
    most = dict(NPROC=0, FSIZE=LARGEST_FILE, NOFILE=OPEN_FILES, CORE=0)
    # `sandbox` watches the time; this is for a process that outlives it.
    most["CPU"] = int(30 * limits.LIMIT) + 60
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        most["AS"] = pages * resource.getpagesize() + memory * MEGABYTE
    for name, limit in most.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    # Should memory run out all the same, this process is the first that the system ends.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def verdict(
    cells: Sequence[tuple[str, str]], lesson: str, name: str, *, seed: int = GRADING_SEED
) -> dict[str, Any]:
    """Run what an exercise needs of a notebook, and check the answer.

    Args:
        cells: (kind, source) of each cell.
        lesson: Its number in two digits.
        name: The exercise.
        seed: Of the inputs that the answer is tried on.

    Returns:
        The exercise, its score from 0 to 1, a sentence, the name of the known mistake that it is,
        or "", and a fingerprint of the answer, which is "" where nothing was attempted.
    """
    try:
        needed = slice_of(cells, name)
    except LookupError as error:
        return dict(exercise=name, score=0.0, text=error.args[0], answer="", mistake="")
    result = _checked(needed, lesson, name, seed)
    answer = "" if result.text.startswith("not attempted") else fingerprint(needed)
    return dict(
        exercise=name,
        score=result.score,
        text=result.text[:LONGEST_TEXT] + needed.note,
        answer=answer,
        mistake=result.mistake,
    )


def _checked(needed: Needed, lesson: str, name: str, seed: int) -> Result:
    """Return what the checker says of the function that the cells define."""
    torch.manual_seed(seed)
    try:
        with limits.silence(), limits.time_limit():
            function = _function(needed)
        exercise = exercises.get(lesson, name)
        result = check(exercise, function, seed=seed)
    except limits.TimeUp:
        return Result(
            f"✗ wrong: the cell does not come to an end: stopped after {limits.LIMIT:g} s"
        )
    except BaseException as error:  # SystemExit, too: there may be other exercises
        return Result(f"✗ wrong: the cell ends with {type(error).__name__} ({error})")
    if "it does not come to an end" in result.text:
        return Result(result.text)
    return result


def _function(needed: Needed) -> Any:
    """Run the statements one by one, and return what the expression names then."""
    namespace = {"__name__": "__main__", "lesson": _Silent()}
    first_error = None
    for step in needed.steps:
        # With the cell's text, an error can show its line.
        lines = step.text.splitlines(keepends=True)
        linecache.cache[step.place] = (len(step.text), None, lines, step.place)
        try:
            exec(compile(step.module(), step.place, "exec"), namespace)
        except Exception as error:
            # In the notebook it may have run: cells before the exercises are left out here.
            first_error = first_error or error
    try:
        return eval(compile(needed.expression, "<check>", "eval"), namespace)
    except Exception as error:
        raise (first_error or error) from None
