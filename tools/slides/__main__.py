"""`python -m tools.slides`: write the slides of the lessons, from the stored notebooks."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from replearn import _command
from tools import notebooks


def write_command(args: argparse.Namespace) -> int:
    """Write the slides of the lessons, from the stored notebooks: HTML that needs no network."""
    from tools.slides.page import write_slides

    sources = notebooks.sources(args.lessons, frontier=False)
    if not args.lessons:  # all that have been executed
        sources = [source for source in sources if notebooks.notebook_of(source).exists()]
    rows = [("lesson", "slides")]
    for name, count in write_slides(sources, args.folder):
        rows.append((name, str(count)))
    print(f"{notebooks.aligned(rows)}\n\nOpen {args.folder / 'index.html'}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _command.Parser(prog="python -m tools.slides", description=__doc__)
    parser.add_argument(
        "lessons", nargs="*", metavar="NN", help="numbers of lessons (default: the twelve)"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("build/slides"), help="where to (default: build/slides)"
    )
    return _command.run(write_command, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
