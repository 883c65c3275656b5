"""`python -m tools.classroom`: `class` writes a course, `grade` grades a folder of notebooks."""

import argparse
import sys
from pathlib import Path

from tools import notebooks as build


def classroom(args):
    """Write an nbgrader course and student notebooks: the exercises of every lesson."""
    from tools.classroom import course

    rows = [("notebook", "exercises", "points")]
    for name, number, worth in course.course(
        args.folder, build.sources(args.lessons), full=args.full
    ):
        rows.append((name, str(number), str(worth) if number else "no exercises: left out"))
    print(build.table(rows))
    print(f"\n{args.folder / 'source'} for nbgrader, {args.folder / 'student'} to hand out")
    return 0


def grade(args):
    """Grade a folder of notebooks: exercise cells only, each in a process of its own; no server."""
    try:
        from tools.classroom import grading
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"grade: needs Linux or macOS (in Windows: WSL), found no module {error.name}"
        ) from None
    show = (
        (lambda text: print(f"\r\033[K{text}", end="", flush=True))
        if sys.stdout.isatty()
        else (lambda text: None)
    )
    grades = grading.grade(args.folder, seconds=args.seconds, memory=args.memory, tell=show)
    show("\r")
    path = args.csv or args.folder / "grades.csv"
    grading.write_csv(grades, path)
    print(f"{grading.table(grades)}\n\n{len({one.notebook for one in grades})} notebooks; {path}")
    return 0


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tools.classroom", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("class", help=classroom.__doc__)
    command.add_argument("folder", type=Path, help="a new folder")
    command.add_argument(
        "lessons", nargs="*", metavar="NN", help="numbers of lessons (default: all)"
    )
    command.add_argument(
        "--full", action="store_true", help="the whole lessons, not their exercises only"
    )
    command.set_defaults(function=classroom)
    command = commands.add_parser("grade", help=grade.__doc__)
    command.add_argument(
        "folder",
        type=Path,
        help="notebooks in it or its folders; the first folder is the student's",
    )
    command.add_argument(
        "--csv", type=Path, help="the table as a file (default: FOLDER/grades.csv)"
    )
    command.add_argument(
        "--seconds", type=float, default=10.0, help="time for one exercise (default: 10)"
    )
    command.add_argument(
        "--memory", type=int, default=1024, help="MB for one exercise (default: 1024)"
    )
    command.set_defaults(function=grade)
    args = parser.parse_args(arguments)
    return args.function(args)


if __name__ == "__main__":
    sys.exit(main())
