"""A class: the exercises of every lesson as an nbgrader course, and student notebooks for the way
without a server.

    FOLDER/source/06_simclr/06_simclr.ipynb    the instructor's notebook, from which nbgrader
                                               starts: it has the solutions and hidden tests
    FOLDER/student/06_simclr.ipynb             the same with solutions and tests taken out, for
                                               `grade` or by mail
    FOLDER/nbgrader_config.py                  time limit, stub

An assignment is the exercise section of a lesson with its imports, and a link to the whole lesson:
nbgrader runs all of a notebook, and a lesson's experiments take two minutes. `full=True` makes it
the whole lesson all the same.

The points of an exercise are its difficulty, times the share of the checks that it passes
(`points`). nbgrader runs answers and tests in one kernel: the tests import replearn afresh, which
stops accidents and shadowed names, but a learner who means to can still forge a number there.
nbgrader also runs them with the teacher's rights; `grade FOLDER/submitted` (see `grading`) shuts
them off from the machine. `lesson.solution` and the package on the web show the solutions: what is
taken out here is the text, not the secret.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import replearn
from replearn.files import write_atomically
from replearn.lesson.exercises.checker import GRADING_SEED
from tools.notebooks import notebook_text

CELL_SECONDS = dict(exercises=60, full=900)
CONFIG = '''\
"""nbgrader's settings for this course: {command}"""

c = get_config()  # noqa: F821

c.CourseDirectory.course_id = "replearn"
c.ClearSolutions.code_stub = {{"python": {stub!r}}}
# A cell that takes longer is interrupted, and the rest of the notebook is graded.
c.ExecutePreprocessor.timeout = {seconds}
c.ExecutePreprocessor.interrupt_on_timeout = True
# On a busy machine a cell that was interrupted, such as an import of PyTorch, takes time to end.
c.ExecutePreprocessor.iopub_timeout = 60
'''


class Written(NamedTuple):
    """An assignment that was written: its name, how many exercises it has, and their points."""

    name: str
    exercises: int
    points: int


def write_course(
    folder: Path, sources: Iterable[Path], *, full: bool = False, seed: int = GRADING_SEED
) -> Iterator[Written]:
    """Write the course of these lesson texts, one lesson for each step of the iterator.

    Args:
        folder: A new or an empty folder.
        sources: The texts, as `notebooks.sources` gives them.
        full: Whether an assignment is the whole lesson.
        seed: Of the inputs that nbgrader tries answers on: each class may have its own.

    Yields:
        What was written. A lesson without exercises gets no files.

    Raises:
        SystemExit: The folder is not empty, or a lesson breaks the contract for exercises.
    """
    from tools.classroom.assignment import STUB, instructor, student

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SystemExit(
            f"class: expected a new or empty folder, found {folder} with something in it"
        )
    (folder / "student").mkdir(parents=True, exist_ok=True)
    command = "python -m tools.classroom class"
    if full:
        command += " --full"
    if seed != GRADING_SEED:
        command += f" --seed {seed}"
    config = CONFIG.format(
        command=f"{command} (replearn {replearn.__version__})",
        stub=STUB,
        seconds=CELL_SECONDS["full" if full else "exercises"],
    )
    write_atomically(folder / "nbgrader_config.py", config)
    for source in sources:
        nb, points = instructor(source, full=full, seed=seed)
        if points:
            source_folder = folder / "source" / source.stem
            source_folder.mkdir(parents=True)
            write_atomically(source_folder / f"{source.stem}.ipynb", notebook_text(nb))
            student_text = notebook_text(student(nb))
            write_atomically(folder / "student" / f"{source.stem}.ipynb", student_text)
        yield Written(source.stem, len(points), sum(points))
