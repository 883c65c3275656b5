"""Execute lessons on real CIFAR-10 photographs and keep what they measured: JSON and figures.

    REPLEARN_DATA=folder-that-holds-cifar10 python -m scripts.photographs 01 06
    … python -m scripts.photographs --variant "JPEG, about 30 dB PSNR"     # how your copy differs

Without a number every lesson is executed. Writes benchmarks/results/photographs_NN.json (the claims
of the section "On real photographs", with numbers) and photographs_NN_K.png; with --store also the
notebook, if every claim holds.
"""

import argparse
import base64
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from benchmarks.shared import RESULTS
from replearn import data
from replearn.files import write_atomically, write_json
from tools import notebooks

HEADING = "## On real photographs"


def section_cells(nb: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return the code cells from the heading to the next one of its level."""
    inside = False
    cells = []
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            headings = [line for line in cell.source.splitlines() if line.startswith("## ")]
            if headings:
                inside = any(line.startswith(HEADING) for line in headings)
        elif cell.cell_type == "code" and inside:
            cells.append(cell)
    return cells


def printed_by(outputs: list[Mapping[str, Any]]) -> str:
    """Return all that cells printed."""
    return "".join(output.get("text", "") for output in outputs)


def figures_of(outputs: list[Mapping[str, Any]]) -> list[bytes]:
    """Return the figures that cells showed, as PNG."""
    figures = []
    for output in outputs:
        content = output.get("data", {})
        if "image/png" in content:
            figures.append(base64.b64decode(content["image/png"]))
    return figures


def measure(source: Path, variant: str, *, store: bool) -> None:
    """Execute one lesson, print its claims about photographs, and write them and the figures.

    Args:
        source: The lesson's text.
        variant: How this copy of CIFAR-10 differs from the original.
        store: Keep the executed notebook as well, if all of its claims hold.

    Raises:
        SystemExit: The notebook stopped with an error.
    """
    name = source.stem
    number = name[:2]
    nb = notebooks.sync(source)
    execution = notebooks.execute(nb, name, strict=False)
    if execution.error:
        sys.exit(f"{name}: {execution.error}")

    outputs = [output for cell in section_cells(nb) for output in cell.outputs]
    printed = printed_by(outputs)
    record = execution.record
    claims = [claim for claim in record["claims"] if claim["sentence"] in printed]
    for k, figure in enumerate(figures_of(outputs), 1):
        (RESULTS / f"photographs_{number}_{k}.png").write_bytes(figure)
    result = {
        "command": f"python -m scripts.photographs {number}",
        "data": f"CIFAR-10 ({variant})",
        "claims": claims,
        "profile": record["profile"],
        "seconds_of_the_notebook": round(execution.seconds),
        "cpu_count": os.cpu_count(),
        "versions": record["versions"],
    }
    write_json(RESULTS / f"photographs_{number}.json", result)
    if store and all(claim["holds"] for claim in record["claims"]):
        text = notebooks.notebook_text(notebooks.clean(nb))
        write_atomically(notebooks.notebook_of(source), text)
    print(name, f"{execution.seconds:.0f} s", flush=True)
    for claim in claims:
        mark = "✓" if claim["holds"] else "✗"
        print(f"  {mark} {claim['sentence']}")


def main() -> None:
    """Execute the lessons whose numbers were given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lessons", nargs="*")
    parser.add_argument(
        "--variant",
        default="as published",
        help="how this copy of the photographs differs from the original",
    )
    parser.add_argument("--store", action="store_true", help="store the executed notebooks, too")
    args = parser.parse_args()
    if not data.available("cifar10"):
        sys.exit("CIFAR-10 is not on this disk: set REPLEARN_DATA to a folder that holds it")
    for source in notebooks.sources(args.lessons):
        measure(source, args.variant, store=args.store)


if __name__ == "__main__":
    main()
