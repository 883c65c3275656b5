"""Grade a folder of notebooks without a server: exercise cells only, one process for each notebook.

Of a notebook only what an exercise needs is run: the cell with its `lesson.check("name", fn)`, and
the imports, functions and constants of the cells before it that this cell names. So a whole lesson
is graded in seconds. What is protected, and what is not, says `sandbox`.
"""

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from replearn.files import write_atomically
from replearn.lesson import exercises
from tools import notebooks
from tools.classroom.cells import content_of
from tools.classroom.grading.sandbox import Limits, NoVerdict, Run

COLUMNS = ("student", "notebook", "exercise", "score", "points", "message")
ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".xz", ".bz2")
LONGEST_MESSAGE = 300  # characters
NAMED_COPIES = 3  # students who are named in the row of one who has the same answer
MOST_LEVELS = 20  # of folders within folders
MOST_OF_ONE = 100  # files of a student
TOO_DEEP = f"more than {MOST_LEVELS} folders within each other: not looked into"
TOO_MANY = f"more than {MOST_OF_ONE} files to grade: the others are left out"


@dataclass(frozen=True)
class Grade:
    """One line of the table.

    Attributes:
        student: The first folder below the one that is graded, or the file's name.
        notebook: The path from there.
        exercise: Its name, or "" where there is no telling which.
        score: From 0 to 1.
        points: The score times the exercise's difficulty.
        message: What the checker says, or what happened.
        answer: The same text for equal answers, or "".
        lesson: Its number in two digits, or "" where there is no telling which.
        mistake: The name of the known mistake that the answer equals, or "".
    """

    student: str
    notebook: str
    exercise: str
    score: float
    points: float
    message: str
    answer: str = ""
    lesson: str = ""
    mistake: str = ""


class Verdict(NamedTuple):
    """What is known of one exercise of a submission, see `Grade`."""

    lesson: str
    exercise: str
    score: float
    message: str
    answer: str = ""
    mistake: str = ""


def submissions(folder: Path) -> list[Path]:
    """Return what is to be graded: notebooks, archives, and students' folders without either.

    Args:
        folder: Notebooks lie in it or in its folders.

    Raises:
        SystemExit: There is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise SystemExit(f"grade: expected a folder of notebooks, found {found}: {folder}")
    paths = []
    for path, is_folder in _below(folder):
        hidden = re.search(r"(^|/)(\.|__MACOSX)", path.relative_to(folder).as_posix())
        if not hidden and (is_folder or path.suffix.lower() in (".ipynb", *ARCHIVES)):
            paths.append(path)
    students = {path.relative_to(folder).parts[0] for path in paths}
    for path in folder.iterdir():
        hidden = path.name.startswith((".", "__MACOSX"))
        if path.is_dir() and not hidden and path.name not in students:
            paths.append(path)
    if not paths:
        raise SystemExit(f"grade: no notebook (*.ipynb) in {folder} or its folders")
    return sorted(paths)


def _below(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the files and links in a folder and in its folders, with False; and with True the
    folders that are not looked into, because they cannot be opened or lie too deep."""
    waiting = [(folder, 0)]
    while waiting:
        place, level = waiting.pop()
        if level > MOST_LEVELS:
            yield place, True
            continue
        try:
            with os.scandir(place) as entries:
                found = list(entries)
        except OSError:
            yield place, True
            continue
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                waiting.append((Path(entry.path), level + 1))
            else:
                yield Path(entry.path), False


def grade(
    folder: Path,
    paths: Sequence[Path],
    limits: Limits,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Grade]:
    """Yield the grades of all exercises, whatever the files hold.

    Args:
        folder: The folder that is graded.
        paths: What `submissions` has found in it.
        limits: What a notebook may take.
        tell: Is called with a line on how far it is.
    """
    files_of: Counter[str] = Counter()
    for position, path in enumerate(paths, 1):
        inside = path.relative_to(folder)
        tell(f"[{position}/{len(paths)}] {_plain(inside)}")
        student = inside.parts[0] if len(inside.parts) > 1 or path.is_dir() else path.stem
        files_of[student] += 1
        if files_of[student] > MOST_OF_ONE + 1:
            continue
        verdicts: Iterable[Verdict]
        if files_of[student] > MOST_OF_ONE:
            verdicts = [Verdict("", "", 0.0, TOO_MANY)]
        elif len(inside.parts) > MOST_LEVELS:
            verdicts = [Verdict("", "", 0.0, TOO_DEEP)]
        else:
            verdicts = _verdicts(path, limits)
        for verdict in verdicts:
            exercise = verdict.exercise
            worth = exercises.get(verdict.lesson, exercise).difficulty if exercise else 0
            yield Grade(
                student=_plain(student),
                notebook=_plain(inside),
                exercise=exercise,
                score=round(verdict.score, 4),
                points=round(verdict.score * worth, 2),
                message=_plain(verdict.message),
                answer=verdict.answer,
                lesson=verdict.lesson,
                mistake=verdict.mistake,
            )


def _verdicts(path: Path, limits: Limits) -> Iterator[Verdict]:
    """Yield what is known of each exercise of a submission."""
    if path.suffix.lower() in ARCHIVES and not path.is_dir():
        message = f"a {path.suffix.lower()} file: unpack it, then grade again"
        yield Verdict("", "", 0.0, message)
        return
    if path.suffix.lower() != ".ipynb":
        yield Verdict("", "", 0.0, f"no notebook in the folder; {_found_in(path)}")
        return
    try:
        content = content_of(path)
    except LookupError as error:
        yield Verdict("", "", 0.0, error.args[0])
        return
    lesson = ""
    names: list[str] = []
    done = 0
    while not lesson or done < len(names):
        with Run(content, path.name, done, limits) as run:
            try:
                found = run.lesson()
                if not lesson:
                    lesson = found
                    names = exercises.names(lesson)
                for name in names[done:]:
                    found = run.verdict(name)
                    # The process may send any name: only those of the exercise count.
                    is_known = found["mistake"] in exercises.get(lesson, name).wrong
                    yield Verdict(
                        lesson=lesson,
                        exercise=name,
                        score=found["score"],
                        message=found["text"],
                        answer=found["answer"],
                        mistake=found["mistake"] if is_known else "",
                    )
                    done += 1
            except NoVerdict as error:
                # The exercises after the one that has ended the process get a new one.
                name = names[done] if lesson else ""
                yield Verdict(lesson, name, 0.0, error.args[0])
                if not lesson:
                    return
                done += 1


def _found_in(folder: Path) -> str:
    """Say what lies in a student's folder that has no notebook."""
    if folder.is_symlink():
        return "it is a link"
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        return f"it cannot be opened: {error.strerror}"
    return f"found {', '.join(names)}" if names else "it is empty"


def _plain(text: object) -> str:
    """Return one printable line of bounded length."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return " ".join(text.encode("utf-8", "replace").decode().split())[:LONGEST_MESSAGE]


def with_copies_named(grades: Sequence[Grade]) -> list[Grade]:
    """Return the grades, with a word where several students have the same answer.

    Args:
        grades: All of them.
    """
    owners: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in grades:
        if one.answer and one.student not in owners[one.exercise, one.answer]:
            owners[one.exercise, one.answer].append(one.student)
    named = []
    for one in grades:
        others = [name for name in owners[one.exercise, one.answer] if name != one.student]
        if one.answer and others:
            more = len(others) - NAMED_COPIES
            names = ", ".join(others[:NAMED_COPIES]) + (f" and {more} more" if more > 0 else "")
            one = replace(one, message=f"{one.message} [the same answer as {names}]")
        named.append(one)
    return named


def store(grades: Iterable[Grade], path: Path) -> list[Grade]:
    """Write each row when it comes, so that a run which is cut off leaves the others.

    Args:
        grades: The rows.
        path: A CSV file. At the end it is replaced by the whole table, in which copies are named.

    Returns:
        The rows of the whole table.

    Raises:
        OSError: The file cannot be written.
    """
    write_atomically(path, _csv([COLUMNS]))
    rows = []
    with open(path, "a", encoding="utf-8", newline="") as file:
        for one in grades:
            rows.append(one)
            file.write(_csv([_cells(one)]))
            file.flush()
    rows = with_copies_named(rows)
    write_atomically(path, _csv([COLUMNS, *map(_cells, rows)]))
    return rows


def _cells(grade: Grade) -> list:
    """Return a row; what a spreadsheet would take for a formula gets an apostrophe."""
    values = asdict(grade)
    cells = [values[column] for column in COLUMNS]
    return [f"'{cell}" if str(cell).startswith(("=", "+", "-", "@")) else cell for cell in cells]


def _csv(rows: Iterable[Sequence]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def table(grades: Iterable[Grade]) -> str:
    """Return the grades as aligned columns.

    Args:
        grades: The rows.
    """
    rows = [COLUMNS]
    for one in grades:
        score = f"{one.score:.2f}"
        points = f"{one.points:g}"
        exercise = one.exercise or "–"
        rows.append((one.student, one.notebook, exercise, score, points, one.message))
    return notebooks.aligned(rows)
