"""`python -m tools.classroom`: `class` writes a course, `grade` grades a folder of notebooks."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from replearn import _command
from tools import notebooks

NO_BUBBLEWRAP = (
    "grade: expected bubblewrap, in which notebooks can do no harm, found that it does not work "
    "here ({fault}): install the package bubblewrap, 0.8 or newer, or grade in a container with "
    "--unprotected"
)
UNPROTECTED = (
    "--unprotected: each notebook can read, change and delete whatever you can, and send it away"
)

SEED_OF_A_CLASS = dict(
    type=_command.whole(0, _command.MOST_SEED),
    default=0,
    help="of the inputs that answers are tried on: each class may have its own (default: 0)",
)


def class_command(args: argparse.Namespace) -> int:
    """Write an nbgrader course and student notebooks: the exercises of every lesson."""
    from tools.classroom.course import write_course

    rows = [("notebook", "exercises", "points")]
    sources = notebooks.sources(args.lessons, frontier=False)
    for lesson in write_course(args.folder, sources, full=args.full, seed=args.seed):
        points = str(lesson.points) if lesson.exercises else "no exercises: left out"
        rows.append((lesson.name, str(lesson.exercises), points))
    print(notebooks.aligned(rows))
    print(f"\n{args.folder / 'source'} for nbgrader, {args.folder / 'student'} to hand out")
    return 0


def grade_command(args: argparse.Namespace) -> int:
    """Grade a folder of notebooks: exercise cells only, each notebook behind a wall; no server."""
    from tools.classroom import grading, term
    from tools.classroom.grading import sandbox

    if args.names and not args.leaderboard:
        raise SystemExit("--names: expected a --leaderboard FILE beside it, found none")
    if args.leaderboard:  # before the work, not after it
        term.check_format(args.leaderboard)
    names = term.listed(args.names) if args.names else None
    paths = grading.submissions(args.folder)
    fault = "" if args.unprotected else sandbox.fault()
    if fault:
        raise SystemExit(NO_BUBBLEWRAP.format(fault=fault))
    if args.unprotected:
        print(UNPROTECTED)
    show = _show_on_one_line if sys.stdout.isatty() else _show_nothing
    limits = sandbox.Limits(args.seconds, args.memory, not args.unprotected, args.seed)
    path = args.csv or args.folder / "grades.csv"
    try:
        grades = grading.store(grading.grade(args.folder, paths, limits, show), path)
    except KeyboardInterrupt:
        print(f"\nstopped; the rows so far are in {path}")
        return 130
    except OSError as error:
        raise SystemExit(f"grade: {path} cannot be written: {error.strerror or error}") from None
    show("\r")
    graded = {grade.notebook for grade in grades}
    print(f"{grading.table(grades)}\n\n{len(graded)} notebooks; {path}")
    if args.statistics:
        rows = term.statistics(grades)
        print(f"\n{term.statistics_text(rows)}\n\n{args.statistics}")
        term.write_statistics(args.statistics, rows)
    if args.leaderboard:
        if names is None:
            salt = term.salt_of(args.folder)
            names = term.hashed({grade.student for grade in grades}, salt)
        places = term.leaderboard(grades, names)
        term.write_leaderboard(args.leaderboard, places)
        print(f"\n{len(places)} on the leaderboard, under pseudonyms; {args.leaderboard}")
    return 0


def _show_on_one_line(text: str) -> None:
    print(f"\r\033[K{text}", end="", flush=True)


def _show_nothing(text: str) -> None:
    """Keep silent where the output is a file, in which a line cannot be written over."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _command.Parser(prog="python -m tools.classroom", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    writing = commands.add_parser("class", help=class_command.__doc__)
    writing.set_defaults(function=class_command)
    writing.add_argument("folder", type=Path, help="a new folder")
    writing.add_argument(
        "lessons", nargs="*", metavar="NN", help="numbers of lessons (default: the twelve)"
    )
    writing.add_argument(
        "--full", action="store_true", help="the whole lessons, not their exercises only"
    )

    writing.add_argument("--seed", **SEED_OF_A_CLASS)

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
        "--seconds",
        type=_command.number(0, above=True),
        default=10.0,
        help="time for one exercise (default: 10)",
    )
    grading.add_argument(
        "--memory",
        type=_command.whole(1, 1_000_000),
        default=1024,
        help="MB for one exercise (default: 1024)",
    )
    grading.add_argument("--seed", **SEED_OF_A_CLASS)
    grading.add_argument(
        "--statistics",
        type=Path,
        metavar="FILE",
        help="also count who made which mistake in which exercise: a table, and a CSV file",
    )
    grading.add_argument(
        "--leaderboard",
        type=Path,
        metavar="FILE",
        help="also write the points under pseudonyms, as .md or .csv; for classes that want one",
    )
    grading.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help="a CSV file with the columns student and pseudonym: the leaderboard shows these and "
        "nobody else (default: everybody, by a hash with a salt that stays in FOLDER)",
    )
    grading.add_argument(
        "--unprotected",
        action="store_true",
        help="without bubblewrap, for a container that holds nothing but the notebooks",
    )

    args = parser.parse_args(arguments)
    return _command.run(args.function, args)


if __name__ == "__main__":
    sys.exit(main())
