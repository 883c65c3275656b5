"""`python -m tools.lint_course`: check the house rules of the course, or of some lessons."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from replearn import _command
from tools import notebooks
from tools.lint_course.course import COURSE_RULES
from tools.lint_course.imports import IMPORT_RULES
from tools.lint_course.lesson import Lesson, lesson_faults


def all_faults(root: Path, names: Sequence[str], *, lessons_only: bool) -> Iterator[str]:
    """Yield the faults of some lessons, and those of all other rules unless `lessons_only`.

    Args:
        root: The folder of the checkout.
        names: Names of lessons, "06_simclr".
        lessons_only: Whether to leave out the rules that are not about a single lesson.
    """
    for name in names:
        yield from lesson_faults(Lesson(root, name))
    if lessons_only:
        return
    for rule in (*COURSE_RULES, *IMPORT_RULES):
        yield from rule(root)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _command.Parser(prog="python -m tools.lint_course", description=__doc__)
    parser.add_argument(
        "lessons",
        nargs="*",
        metavar="NN",
        help="numbers of lessons (default: all of them, and the rules for the whole course)",
    )
    return _command.run(check_command, parser.parse_args(arguments))


def check_command(args: argparse.Namespace) -> int:
    """Print the faults; return 1 if there are any."""
    names = [source.stem for source in notebooks.sources(args.lessons)]
    faults = list(all_faults(notebooks.ROOT, names, lessons_only=bool(args.lessons)))
    for fault in faults:
        print(fault)
    print(f"{len(faults) or 'no'} faults in {len(names)} lessons")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
