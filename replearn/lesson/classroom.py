"""A class: the exercises of every lesson as an nbgrader course, and student notebooks for the way without a server.

    FOLDER/source/06_simclr/06_simclr.ipynb    the instructor's: solutions, hidden tests; what nbgrader starts from
    FOLDER/student/06_simclr.ipynb             the same with solutions and tests taken out, for `grade` or by mail
    FOLDER/nbgrader_config.py                  time limit, stub

An assignment is the exercise section of a lesson with its imports, and a link to the whole lesson: nbgrader runs all of
a notebook, and a lesson's experiments take two minutes. `full=True` makes it the whole lesson all the same.
The points of an exercise are its difficulty, times the share of the checks that it passes (`points`). nbgrader runs
answers and tests in one kernel: the tests import replearn afresh, which stops accidents and shadowed names, but a
learner who means to can still forge a number there. `grade FOLDER/submitted` (see `grading`) checks without that gap.
`lesson.solution` and the package on the web show the solutions: what is taken out here is the text, not the secret.
"""

import contextlib
import os
import sys

from replearn.lesson import build, exercises

CELL_SECONDS = dict(exercises=60, full=900)
CONFIG = '''\
"""nbgrader's settings for this course: {command}"""

c = get_config()  # noqa: F821

c.CourseDirectory.course_id = "replearn"
c.ClearSolutions.code_stub = {{"python": {stub!r}}}
# A cell that takes longer is interrupted, and the rest of the notebook is graded.
c.ExecutePreprocessor.timeout = {seconds}
c.ExecutePreprocessor.interrupt_on_timeout = True
'''


def course(folder, sources, *, full=False):
    """Write the course of these lesson texts; yields (name, number of exercises, points) for each.

    Raises SystemExit if the folder exists and is not empty, or if a lesson breaks the contract for exercises.
    """
    from replearn.lesson.assignment import STUB, instructor, student

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SystemExit(f"class: expected a new or empty folder, found {folder} with something in it")
    (folder / "student").mkdir(parents=True, exist_ok=True)
    seconds = CELL_SECONDS["full" if full else "exercises"]
    command = "python -m replearn.lesson class" + (" --full" if full else "")
    build.write_atomically(folder / "nbgrader_config.py", CONFIG.format(command=command, stub=STUB, seconds=seconds))
    for source in sources:
        nb, worth = instructor(source, full=full)
        if worth:
            (folder / "source" / source.stem).mkdir(parents=True)
            write = build.write_atomically
            write(folder / "source" / source.stem / f"{source.stem}.ipynb", build.notebook_text(nb))
            write(folder / "student" / f"{source.stem}.ipynb", build.notebook_text(student(nb)))
        yield source.stem, len(worth), sum(worth)


def points(lesson, name, fn, maximum):
    """The points of a learner's function: `maximum` times the share of the checks that it passes.

    A float as the last value of a test cell is nbgrader's partial credit; anything on stderr would count as 0.
    """
    with _no_descriptors():
        result = exercises.check(exercises.get(lesson, name), fn, seed=exercises.trial.GRADING_SEED)
    endless = "it does not come to an end" in result.text
    print(result.text)
    return 0.0 if endless else round(maximum * result.score, 4)


@contextlib.contextmanager
def _no_descriptors():
    """Drop what is written past Python, as torch's C++ warnings are; `check` itself drops the rest."""
    sys.stdout.flush(), sys.stderr.flush()
    nowhere, kept = os.open(os.devnull, os.O_WRONLY), [os.dup(1), os.dup(2)]
    try:
        os.dup2(nowhere, 1), os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept[0], 1), os.dup2(kept[1], 2)
        for descriptor in (nowhere, *kept):
            os.close(descriptor)
