"""Copies of the lessons to work in, so that nobody who learns edits the source of the course.

`make lab` makes them once in `work/`, which git ignores, and opens JupyterLab there. `make lab
FRESH=1` makes new ones and keeps the old. Authors use `make edit`, where saving a notebook also
writes its text.
"""

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from replearn.files import write_atomically, write_json
from tools.project import ROOT

ORIGINALS = ".originals.json"  # which state of each lesson a copy was made of: {name: SHA-256}


def make_copies(source: Path, work: Path, *, fresh: bool = False) -> tuple[list[str], list[str]]:
    """Copy the notebooks that have no copy yet.

    Args:
        source: The folder of the stored notebooks.
        work: The folder of the copies; it is made.
        fresh: Whether all are copied. The old copies go to `work/earlier/DATE/`.

    Returns:
        The names of the new copies, and those of the copies whose original has changed since.

    Example:
        >>> make_copies(Path("notebooks"), Path("work"))  # doctest: +SKIP
        (['01_representations', '02_linear_probing', ...], [])
    """
    work.mkdir(parents=True, exist_ok=True)
    record = work / ORIGINALS
    originals = json.loads(record.read_text("utf-8")) if record.exists() else {}
    if fresh:
        _put_aside(work)
    copied = []
    outdated = []
    shelf = sorted(source.glob("frontier/F[0-9]_*.ipynb"))
    for path in [*sorted(source.glob("[0-9][0-9]_*.ipynb")), *shelf]:
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        copy = work / path.name
        if not copy.exists():
            write_atomically(copy, content)
            originals[path.stem] = digest
            copied.append(path.stem)
        elif originals.get(path.stem) != digest:
            outdated.append(path.stem)
    write_json(record, originals)
    return copied, outdated


def _put_aside(work: Path) -> None:
    """Move all copies into a folder that is named after the moment."""
    copies = sorted(work.glob("*.ipynb"))
    if not copies:
        return
    folder = work / "earlier" / datetime.now().strftime("%Y-%m-%d %H.%M.%S.%f")
    folder.mkdir(parents=True)
    for copy in copies:
        shutil.move(copy, folder / copy.name)


def trust(notebook: Path) -> None:
    """Sign a notebook, or JupyterLab would strip the sliders out of its stored outputs."""
    import nbformat
    from nbformat.sign import NotebookNotary

    NotebookNotary().sign(nbformat.read(notebook, as_version=4))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.work", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "work")
    parser.add_argument("--fresh", action="store_true", help="new copies; the old ones are kept")
    args = parser.parse_args(arguments)
    copied, outdated = make_copies(ROOT / "notebooks", args.folder, fresh=args.fresh)
    for name in copied:
        trust(args.folder / f"{name}.ipynb")
    if copied:
        print(f"{len(copied)} lessons copied to {args.folder.name}/: these copies are yours.")
    if outdated:
        print(
            f"Newer than your copy: {', '.join(outdated)}. `make lab FRESH=1` makes new copies and "
            "keeps yours in work/earlier/."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
