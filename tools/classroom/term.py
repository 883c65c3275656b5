"""A class over a term: a leaderboard under pseudonyms, and which mistake was made how often.

Both are made from the rows of `grade`, and only where they are asked for. A leaderboard never holds
a student's name: pseudonyms come from a list of the teacher's, or from a hash with a salt that
stays beside the grades. Without the salt nobody can find a name by trying all of them.
"""

import csv
import hashlib
import hmac
import io
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from replearn.files import write_atomically
from replearn.lesson import exercises
from tools import notebooks
from tools.classroom.grading import Grade

SALT = ".leaderboard-salt"  # in the folder that is graded, which students never see
BIRDS = (
    "avocet bittern bunting curlew dipper dunlin egret falcon finch gannet goshawk grebe heron "
    "hoopoe ibis jackdaw kestrel kinglet lapwing lark linnet magpie merlin nightjar oriole osprey "
    "petrel pipit plover puffin rail raven redstart robin ruff sandpiper serin shrike siskin skua "
    "snipe sparrow starling stork swallow swift tern thrush treecreeper turnstone wagtail warbler "
    "waxwing wheatear whimbrel wigeon woodcock wren wryneck"
).split()
FEWEST_DIGITS = 3  # behind the bird; more where two students would have the same pseudonym
FORMATS = (".md", ".csv")


class Place(NamedTuple):
    """A row of a leaderboard.

    Attributes:
        rank: From 1; the same where the points are.
        name: A pseudonym.
        points: Of all exercises; of several notebooks with the same one, the best.
        right: Exercises that are right in every check.
    """

    rank: int
    name: str
    points: float
    right: int


class Statistic(NamedTuple):
    """What became of one exercise.

    Attributes:
        exercise: Its name.
        students: Who handed in a notebook with it.
        right: How many of them have every check right.
        not_attempted: How many left it empty.
        score: The mean score, from 0 to 1.
        mistakes: {the name of a known mistake: how many made it}, the most frequent first.
    """

    exercise: str
    students: int
    right: int
    not_attempted: int
    score: float
    mistakes: dict[str, int]


# --- pseudonyms -----------------------------------------------------------------------------------


def salt_of(folder: Path) -> bytes:
    """Return the salt of a folder of submissions; the first time it is drawn and kept there.

    Args:
        folder: What is graded. The same folder gives the same pseudonyms over the term.
    """
    path = folder / SALT
    if not path.exists():
        write_atomically(path, secrets.token_hex(32) + "\n")
        path.chmod(0o600)
    return path.read_text("ascii").strip().encode()


def hashed(students: Iterable[str], salt: bytes) -> dict[str, str]:
    """Return a pseudonym for each student, by a hash that only the salt's owner can repeat.

    Args:
        students: Names.
        salt: From `salt_of`.

    Returns:
        {name: pseudonym}, all different.

    Example:
        >>> hashed(["ada", "bob"], b"salt") == hashed(["bob", "ada"], b"salt")
        True
    """
    students = sorted(set(students))
    digits = FEWEST_DIGITS
    while True:
        pseudonyms = {student: _pseudonym(student, salt, digits) for student in students}
        if len(set(pseudonyms.values())) == len(students):
            return pseudonyms
        digits += 1


def _pseudonym(student: str, salt: bytes, digits: int) -> str:
    code = hmac.new(salt, student.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
    bird = BIRDS[int(code[-8:], 16) % len(BIRDS)]
    return f"{bird}-{code[:digits]}"


def listed(path: Path) -> dict[str, str]:
    """Read a teacher's list: who wants to be on the leaderboard, and under which pseudonym.

    Args:
        path: A CSV file with the columns `student` and `pseudonym`.

    Returns:
        {name: pseudonym}. Whoever is not in it is not shown.

    Raises:
        ValueError: A column is missing, a pseudonym is empty, or two are the same.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if "student" not in columns or "pseudonym" not in columns:
            raise ValueError(
                f"{path}: expected the columns student and pseudonym, found "
                f"{', '.join(columns) or 'none'}"
            )
        rows = [(row["student"] or "", (row["pseudonym"] or "").strip()) for row in reader]
    pseudonyms = dict(rows)
    if len(pseudonyms) < len(rows):
        raise ValueError(f"{path}: expected one line for each student, found several for one")
    counts = Counter(pseudonyms.values())
    for student, pseudonym in pseudonyms.items():
        if not pseudonym or counts[pseudonym] > 1:
            found = f"{pseudonym!r} for several" if pseudonym else "none"
            raise ValueError(
                f"{path}: expected a pseudonym of its own for {student}, found {found}; write one, "
                "or take the line out for whoever does not want to be shown"
            )
    return pseudonyms


# --- the leaderboard ------------------------------------------------------------------------------


def check_format(path: Path) -> Path:
    """Return a path for a leaderboard.

    Raises:
        ValueError: Its name does not say which form it shall have.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"--leaderboard: expected a name that ends in .md or .csv, found {path}")
    return path


def leaderboard(grades: Iterable[Grade], pseudonyms: dict[str, str]) -> list[Place]:
    """Return the places of all students who have a pseudonym and points, the best first.

    Args:
        grades: The rows of `grade`.
        pseudonyms: {student: pseudonym}.
    """
    best: dict[str, dict[tuple, Grade]] = defaultdict(dict)
    for one in grades:
        if one.student not in pseudonyms or not one.exercise:
            continue
        key = (one.lesson, one.exercise)
        before = best[one.student].get(key)
        if before is None or one.points > before.points:
            best[one.student][key] = one
    totals = []
    for student, answers in best.items():
        points = round(sum(one.points for one in answers.values()), 2)
        right = sum(one.score == 1.0 for one in answers.values())
        if points > 0:
            totals.append((points, right, pseudonyms[student]))
    totals.sort(key=lambda total: (-total[0], total[2]))  # names by the alphabet where points tie
    places = []
    for points, right, name in totals:
        rank = 1 + sum(other > points for other, _, _ in totals)
        places.append(Place(rank, name, points, right))
    return places


def write_leaderboard(path: Path, places: Sequence[Place]) -> None:
    """Write a leaderboard, whole or not at all.

    Args:
        path: Of `check_format`.
        places: From `leaderboard`.

    Raises:
        OSError: The file cannot be written.
    """
    header = ("place", "name", "points", "right")
    rows = [(place.rank, place.name, f"{place.points:g}", place.right) for place in places]
    if path.suffix.lower() == ".csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        write_atomically(path, text.getvalue())
        return
    lines = [f"| {' | '.join(header)} |", "| ---: | --- | ---: | ---: |"]
    for row in rows:
        cells = [str(cell).replace("|", "/") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    write_atomically(path, "\n".join(lines) + "\n")


# --- what went wrong ------------------------------------------------------------------------------


def statistics(grades: Iterable[Grade]) -> list[Statistic]:
    """Count for each exercise who has it right, who left it empty, and who made which mistake.

    Args:
        grades: The rows of `grade`. Of several notebooks of one student the best answer counts.

    Returns:
        A row an exercise, in the order of the lessons.
    """
    best: dict[tuple, dict[str, Grade]] = defaultdict(dict)
    for one in grades:
        if not one.exercise:
            continue
        answers = best[one.lesson, one.exercise]
        before = answers.get(one.student)
        if before is None or one.score > before.score:
            answers[one.student] = one
    rows = []
    for lesson, exercise in sorted(best, key=_position):
        answers = best[lesson, exercise].values()
        made = Counter(one.mistake for one in answers if one.mistake)
        rows.append(
            Statistic(
                exercise=exercise,
                students=len(answers),
                right=sum(one.score == 1.0 for one in answers),
                not_attempted=sum(one.message.startswith("not attempted") for one in answers),
                score=sum(one.score for one in answers) / len(answers),
                mistakes=dict(made.most_common()),
            )
        )
    return rows


def _position(key: tuple[str, str]) -> tuple[str, int]:
    """Return where an exercise stands in the course."""
    lesson, exercise = key
    return lesson, exercises.names(lesson).index(exercise)


def statistics_text(rows: Sequence[Statistic]) -> str:
    """Return the statistics as aligned columns, with the three most frequent mistakes.

    Args:
        rows: From `statistics`.
    """
    table = [("exercise", "students", "right", "empty", "score", "mistakes")]
    for row in rows:
        made = [f"{name} {count}" for name, count in row.mistakes.items()]
        table.append(
            (
                row.exercise,
                str(row.students),
                str(row.right),
                str(row.not_attempted),
                f"{row.score:.2f}",
                ", ".join(made[:3]) or "–",
            )
        )
    return notebooks.aligned(table)


def write_statistics(path: Path, rows: Sequence[Statistic]) -> None:
    """Write the statistics as CSV, a line for each exercise and mistake.

    Args:
        path: The file.
        rows: From `statistics`.

    Raises:
        OSError: The file cannot be written.
    """
    header = ("exercise", "students", "right", "not attempted", "score", "mistake", "made by")
    table = [header]
    for row in rows:
        counts = [row.exercise, row.students, row.right, row.not_attempted, round(row.score, 4)]
        for mistake, made_by in row.mistakes.items() or {"": 0}.items():
            table.append((*counts, mistake, made_by))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    write_atomically(path, text.getvalue())
