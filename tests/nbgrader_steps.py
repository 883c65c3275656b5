"""What a class does between nbgrader's commands, and what must come out.

`tests/nbgrader.sh` calls it in the folder of the course: python nbgrader_steps.py STEP LESSON. It
runs in an environment that has nbgrader and replearn, but nothing of the tests.
"""

import csv
import sys
from pathlib import Path

import nbformat

from replearn.lesson import exercises
from replearn.lesson.exercises import checker

STEP, NAME = sys.argv[1:]
LESSON = NAME[:2]
NOTEBOOK = f"{NAME}/{NAME}.ipynb"

NT_XENT = "def nt_xent_exercise(z1, z2, temperature):\n"
MASK = "def mask_self_pairs(similarity):\n"
EMA = "def ema_update(target_parameters, online_parameters, momentum):\n"
OVERFLOW = f"""{NT_XENT}
    z = F.normalize(torch.cat([z1, z2]))
    e = (z @ z.T / temperature).exp()
    return -(e.diagonal(len(z1)).repeat(2) / (e.sum(1) - e.diagonal())).log().mean()
"""
NOISY = f"""{MASK}
    import sys, os, warnings
    print("thinking", file=sys.stderr)
    os.write(2, b"still thinking")
    warnings.warn("careful")
    return similarity.masked_fill(torch.eye(len(similarity)).bool(), -torch.inf)
"""
FORGED = """
class lesson:
    check = hint = lambda *_: print("right")
import sys, types, replearn.lesson.exercises as exercises
verdict = types.SimpleNamespace(score=1.0, right=True, text="right")
exercises.check = exercises.checker.check = lambda *_, **__: verdict
fake = sys.modules["replearn.lesson.exercises.points"] = types.ModuleType("classroom")
fake.points = lambda *_: 2.0
"""
KEEP = object()  # the instructor's solution
STUB = None  # the cell as it was handed out

# student: (answers to nt_xent, mask_self_pairs and ema_update, points by nbgrader, by `grade`)
# None for points: a wrong answer may pass some of the checks.
CLASS_OF_06 = {
    "right": ((KEEP, KEEP, KEEP), 4.0, 4.0),
    "wrong": (
        (
            NT_XENT + "    return (z1 * z2).sum()",
            MASK + "    return similarity * 0",
            EMA + "    return online_parameters",
        ),
        None,
        None,
    ),
    "half": ((OVERFLOW, NOISY, STUB), 2 * 5 / 6 + 1, 2 * 5 / 6 + 1),
    "crashing": (
        (NT_XENT + "    return 1 / 0", f"raise ValueError('no')\n{MASK}    return 1", KEEP),
        1.0,
        1.0,
    ),
    "endless": (
        (NT_XENT + "    while True: pass", f"{MASK}    return 0\nwhile True: pass", KEEP),
        1.0,
        1.0,
    ),
    "ending": ((NT_XENT + "    import os; os._exit(0)", KEEP, KEEP), 0.0, 2.0),
    "forging": (
        (f"{FORGED}{NT_XENT}    return 0", f"{FORGED}{MASK}    return 0", KEEP),
        1.0,
        1.0,
    ),
}


def class_of(lesson):
    """Return the students of any lesson: all right, all stubs, another way, and the mistakes.

    What a mistake is worth says the checker, here, without nbgrader.
    """
    all_exercises = [exercises.get(lesson, name) for name in exercises.names(lesson)]
    most = float(sum(exercise.difficulty for exercise in all_exercises))
    students = {
        "right": ([KEEP] * len(all_exercises), most, most),
        "empty": ([STUB] * len(all_exercises), 0.0, 0.0),
    }

    def add(student, kind, choices):
        """Add a student whose answers are these known ones of each exercise."""
        answers = []
        total = 0.0
        for exercise, choice in zip(all_exercises, choices, strict=True):
            function = getattr(exercise, kind)[choice]
            verdict = exercises.check(exercise, function, seed=checker.GRADING_SEED)
            if kind == "wrong":
                assert verdict.score < 1, f"a mistake is right: {exercise.name}, {choice}"
            total += exercise.difficulty * verdict.score
            answers.append(
                "from replearn.lesson.exercises import get\n"
                f"{exercise.name} = get({lesson!r}, {exercise.name!r}).{kind}[{choice!r}]"
            )
        students[student] = (answers, total, total)

    add("another", "alternatives", [0] * len(all_exercises))
    for number in range(min(len(exercise.wrong) for exercise in all_exercises)):
        mistakes = [list(exercise.wrong)[number] for exercise in all_exercises]
        add(f"wrong {number + 1}", "wrong", mistakes)
    return students


def read(path):
    return nbformat.read(path, as_version=4)


def texts(nb):
    return [cell.source for cell in nb.cells]


def submit(students):
    """Check that our student notebook is nbgrader's; hand in one notebook a student."""
    released = read(Path("release") / NOTEBOOK)
    ours = read(f"student/{NAME}.ipynb")
    assert texts(released) == texts(ours), "our student version is not nbgrader's"
    assert "SOLUTION" not in str(released) and "HIDDEN" not in str(released)
    assert LESSON != "06" or "F.cross_entropy" not in str(released)
    solved = read(Path("source") / NOTEBOOK)
    for student, (answers, *_) in students.items():
        nb = read(Path("release") / NOTEBOOK)
        answer_to = dict(zip(exercises.names(LESSON), answers, strict=True))
        for cell, solution in zip(nb.cells, solved.cells, strict=True):
            grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
            answer = answer_to.get(grade_id)
            if answer is KEEP:
                cell.source = solution.source
            elif answer:
                lines = cell.source.splitlines()
                check = next(line for line in lines if line.startswith("lesson.check"))
                cell.source = f"{answer}\n{check}"
            elif student == "forging" and str(grade_id).endswith("-points"):
                cell.source = "2.0"
        path = Path("submitted") / student / NOTEBOOK
        path.parent.mkdir(parents=True)
        nbformat.write(nb, path)


def totals(path, student_column, points_column):
    """Return the points of each student in a table of grades."""
    points = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            student = row[student_column]
            points[student] = points.get(student, 0.0) + float(row[points_column] or 0)
    return points


def compare(points, expected):
    """Print each student's points; exit with a sentence if some are not as expected."""
    wrong = []
    for student, most in expected.items():
        given = points.get(student)
        if given is None:
            is_right = False
        elif most is None:
            # A wrong answer may pass some of an exercise's checks (momentum 0 copies the online
            # weights).
            is_right = given <= 1.5
        else:
            is_right = abs(given - most) < 0.01
        told = "" if is_right else f", expected {most}"
        print(f"{'✓' if is_right else '✗'} {student:<10} {given} points{told}")
        if not is_right:
            wrong.append(student)
    if wrong:
        sys.exit(f"other grades than expected: {', '.join(wrong)}")


def main():
    students = CLASS_OF_06 if LESSON == "06" else class_of(LESSON)
    if STEP == "submit":
        submit(students)
    elif STEP == "grades":
        expected = {student: by_nbgrader for student, (_, by_nbgrader, _) in students.items()}
        compare(totals("grades.csv", "student_id", "score"), expected)
    elif STEP == "isolated":
        expected = {student: by_grade for student, (_, _, by_grade) in students.items()}
        compare(totals("isolated.csv", "student", "points"), expected)
    else:
        sys.exit(f"no step {STEP}; there are submit, grades and isolated")


if __name__ == "__main__":
    main()
