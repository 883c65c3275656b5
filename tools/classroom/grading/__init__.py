"""Grade a folder of notebooks without a server: exercise cells only, each in a process of its own, one table.

Of a notebook only what an exercise needs is run: the cell with its `lesson.check("name", function)`, and the imports,
functions and constants of the cells before it that this cell names. So a whole lesson is graded in seconds.
What is protected, and what is not, says `proxy`.
"""

import csv
import io
import re
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from replearn.files import write_atomically
from replearn.lesson import exercises
from replearn.lesson.exercises import limits as guard
from replearn.lesson.lesson import LESSONS
from tools import notebooks
from tools.classroom.cells import lesson_of, read, slice_of
from tools.classroom.grading.fork_server import Nursery
from tools.classroom.grading.proxy import Proxy


@dataclass(frozen=True)
class Grade:
    """One line of the table: score in [0, 1], points = score x difficulty, message of the checker."""

    student: str
    notebook: str
    exercise: str
    score: float
    points: float
    message: str


def grade(folder, *, seconds=10.0, memory=1024, tell=lambda text: None):
    """Grades of all exercises of all notebooks under `folder`; the first folder's name is the student's.

    seconds: for the cells and the checks of one exercise together. memory: MB that it may take beyond torch itself.
    Raises SystemExit if there is no such folder, or no notebook in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise SystemExit(f"grade: expected a folder of notebooks, found {found}: {folder}")
    paths = sorted(folder.rglob("*.ipynb"))
    paths = [
        path
        for path in paths
        if not re.search(r"(^|/)(\.|__MACOSX)", path.relative_to(folder).as_posix())
    ]
    if not paths:
        raise SystemExit(f"grade: no notebook (*.ipynb) in {folder} or its folders")
    guard.LIMIT, grades = max(guard.LIMIT, seconds), []
    with Nursery() as nursery:
        for position, path in enumerate(paths, 1):
            tell(f"[{position}/{len(paths)}] {path.relative_to(folder)}")
            grades += _notebook(
                path, folder, lambda: Proxy(nursery, seconds=seconds, memory=memory)
            )
    return grades


def _notebook(path, folder, start):
    """The grades of one notebook, one an exercise of its lesson, whatever the file holds."""
    inside = path.relative_to(folder)
    student = inside.parts[0] if len(inside.parts) > 1 else path.stem

    def row(exercise, score, message):
        worth = exercises.get(lesson, exercise).difficulty if exercise else 0
        texts = _plain(student), _plain(inside), exercise
        return Grade(*texts, round(score, 4), round(score * worth, 2), _plain(message))

    cells, fault = read(path)
    lesson = lesson_of(path, cells)
    names = exercises.names(lesson) if lesson in LESSONS else []
    if not names:
        unknown = (
            f"no exercises in lesson {lesson}"
            if lesson
            else 'no Lesson("NN") in it: which lesson is it?'
        )
        return [row("", 0.0, fault or unknown)]
    grades = []
    for name in names:
        try:
            if fault:
                raise LookupError(fault)
            steps, expression, note = slice_of(cells, name)
            proxy = start()
            score, message = proxy.grade(exercises.get(lesson, name), lesson, steps, expression)
            proxy.close()
            grades.append(row(name, score, message + note))
        except LookupError as error:
            grades.append(row(name, 0.0, error.args[0]))
    return grades


def _plain(text):
    """One printable line of at most 300 characters."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return " ".join(text.encode("utf-8", "replace").decode().split())[:300]


def table(grades):
    """The grades as aligned columns, and a line with the sum."""
    rows = [[field.name for field in fields(Grade)]]
    rows += [
        [g.student, g.notebook, g.exercise or "–", f"{g.score:.2f}", f"{g.points:g}", g.message]
        for g in grades
    ]
    return notebooks.aligned(rows)


def write_csv(grades, path):
    """All grades as CSV, whole or not at all; what a spreadsheet would take for a formula gets an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Grade)])
    for one in grades:
        writer.writerow(
            [f"'{cell}" if str(cell)[:1] in tuple("=+-@") else cell for cell in astuple(one)]
        )
    write_atomically(Path(path), text.getvalue())
