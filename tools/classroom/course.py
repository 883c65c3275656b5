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

from tools import notebooks as build

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
    from tools.classroom.assignment import STUB, instructor, student

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SystemExit(
            f"class: expected a new or empty folder, found {folder} with something in it"
        )
    (folder / "student").mkdir(parents=True, exist_ok=True)
    seconds = CELL_SECONDS["full" if full else "exercises"]
    command = "python -m tools.classroom class" + (" --full" if full else "")
    build.write_atomically(
        folder / "nbgrader_config.py", CONFIG.format(command=command, stub=STUB, seconds=seconds)
    )
    for source in sources:
        nb, worth = instructor(source, full=full)
        if worth:
            (folder / "source" / source.stem).mkdir(parents=True)
            write = build.write_atomically
            write(folder / "source" / source.stem / f"{source.stem}.ipynb", build.notebook_text(nb))
            write(folder / "student" / f"{source.stem}.ipynb", build.notebook_text(student(nb)))
        yield source.stem, len(worth), sum(worth)
