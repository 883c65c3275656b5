"""Execute lessons on real CIFAR-10 photographs and keep what they measured: JSON and figures in benchmarks/results/.

    REPLEARN_DATA=folder-that-holds-cifar10 python -m scripts.photographs 01 06   # no number: every lesson
    … python -m scripts.photographs --variant "JPEG, about 30 dB PSNR"            # say how your copy differs

Writes photographs_NN.json (the claims of the section "On real photographs", with numbers) and photographs_NN_K.png.
"""

import argparse
import base64
import json
import os
import sys

import nbformat

from replearn import data
from tools import notebooks as build


def section(nb):
    """The code cells from the heading "On real photographs" to the next heading of its level."""
    inside, cells = False, []
    for cell in nb.cells:
        if cell.cell_type == "markdown" and "\n## " in f"\n{cell.source}":
            inside = "## On real photographs" in cell.source
        if inside and cell.cell_type == "code":
            cells.append(cell)
    return cells


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lessons", nargs="*")
    parser.add_argument(
        "--variant",
        default="original",
        help="how this copy of the pictures differs from the original",
    )
    arguments = parser.parse_args()
    if not data.available("cifar10"):
        sys.exit("CIFAR-10 is not on this disk: set REPLEARN_DATA to a folder that holds it")
    for source in build.sources(arguments.lessons):
        name = source.stem
        nb = nbformat.read(build.NOTEBOOKS / f"{name}.ipynb", 4)
        seconds, record, error = build.execute(nb, name, strict=False)
        if error:
            sys.exit(f"{name}: {error}")
        outputs, number = [output for cell in section(nb) for output in cell.outputs], name[:2]
        printed = "".join(output.get("text", "") for output in outputs)
        claims = [claim for claim in record["claims"] if claim["sentence"] in printed]
        pictures = [
            output["data"]["image/png"]
            for output in outputs
            if "image/png" in output.get("data", {})
        ]
        for k, picture in enumerate(pictures, 1):
            (build.RESULTS / f"photographs_{number}_{k}.png").write_bytes(base64.b64decode(picture))
        report = dict(
            command=f"python -m scripts.photographs {number}",
            data=f"CIFAR-10 ({arguments.variant})",
            claims=claims,
            profile=record["profile"],
            seconds_of_the_notebook=round(seconds),
            cpu_count=os.cpu_count(),
            versions=record["versions"],
        )
        path = build.RESULTS / f"photographs_{number}.json"
        path.with_suffix(".partial").write_text(
            json.dumps(report, indent=1, ensure_ascii=False) + "\n"
        )
        path.with_suffix(".partial").replace(path)
        print(
            name,
            f"{seconds:.0f} s",
            *(f"\n  {'✓' if c['holds'] else '✗'} {c['sentence']}" for c in claims),
        )


if __name__ == "__main__":
    main()
