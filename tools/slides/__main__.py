"""`python -m tools.slides`: write the slides of the lessons, from the stored notebooks."""

import argparse
import sys
from pathlib import Path

from tools import notebooks as build


def slides(args):
    """Write the slides of the lessons, from the stored notebooks: HTML that needs no network."""
    from tools.slides import page as slides_page

    rows, sources = [("lesson", "slides")], build.sources(args.lessons)
    if not args.lessons:  # all that have been executed
        sources = [
            source for source in sources if (build.NOTEBOOKS / f"{source.stem}.ipynb").exists()
        ]
    for name, count in slides_page.write(sources, args.folder):
        rows.append((name, str(count)))
    print(f"{build.table(rows)}\n\nOpen {args.folder / 'index.html'}")
    return 0


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tools.slides", description=__doc__)
    parser.add_argument(
        "lessons", nargs="*", metavar="NN", help="numbers of lessons (default: all)"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("build/slides"), help="where to (default: build/slides)"
    )
    return slides(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
