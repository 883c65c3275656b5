"""`python -m tools.classroom`: `class` writes a course, `grade` grades a folder of notebooks."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tools import notebooks


def class_command(args: argparse.Namespace) -> int:
    """Write an nbgrader course and student notebooks: the exercises of every lesson."""
    from tools.classroom.course import write_course

    rows = [("notebook", "exercises", "points")]
    for lesson in write_course(args.folder, notebooks.sources(args.lessons), full=args.full):
        points = str(lesson.points) if lesson.exercises else "no exercises: left out"
        rows.append((lesson.name, str(lesson.exercises), points))
    print(notebooks.aligned(rows))
    print(f"\n{args.folder / 'source'} for nbgrader, {args.folder / 'student'} to hand out")
    return 0


def grade_command(args: argparse.Namespace) -> int:
    """Grade a folder of notebooks: exercise cells only, each in a process of its own; no server."""
    try:
        from tools.classroom import grading
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"grade: needs Linux or macOS (in Windows: WSL), found no module {error.name}"
        ) from None
    show = _show_on_one_line if sys.stdout.isatty() else _show_nothing
    grades = grading.grade(args.folder, seconds=args.seconds, memory=args.memory, tell=show)
    show("\r")
    path = args.csv or args.folder / "grades.csv"
    grading.write_csv(grades, path)
    graded = {grade.notebook for grade in grades}
    print(f"{grading.table(grades)}\n\n{len(graded)} notebooks; {path}")
    return 0


def _show_on_one_line(text: str) -> None:
    print(f"\r\033[K{text}", end="", flush=True)


def _show_nothing(text: str) -> None:
    """Keep silent where the output is a file, in which a line cannot be written over."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.classroom", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    writing = commands.add_parser("class", help=class_command.__doc__)
    writing.set_defaults(function=class_command)
    writing.add_argument("folder", type=Path, help="a new folder")
    writing.add_argument(
        "lessons", nargs="*", metavar="NN", help="numbers of lessons (default: all)"
    )
    writing.add_argument(
        "--full", action="store_true", help="the whole lessons, not their exercises only"
    )

    grading = commands.add_parser("grade", help=grade_command.__doc__)
    grading.set_defaults(function=grade_command)
    grading.add_argument(
        "folder",
        type=Path,
        help="notebooks in it or its folders; the first folder is the student's",
    )
    grading.add_argument(
        "--csv", type=Path, help="the table as a file (default: FOLDER/grades.csv)"
    )
    grading.add_argument(
        "--seconds", type=float, default=10.0, help="time for one exercise (default: 10)"
    )
    grading.add_argument(
        "--memory", type=int, default=1024, help="MB for one exercise (default: 1024)"
    )

    args = parser.parse_args(arguments)
    return args.function(args)


if __name__ == "__main__":
    sys.exit(main())
