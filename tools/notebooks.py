"""From the text of a lesson to its executed notebook: generated blocks, pairing, head-less execution, table of claims.

`notebooks/src/NN_name.md` is what people edit. `sync` fills in its generated blocks (badge, set-up cell, solutions) and
carries the text over to `notebooks/NN_name.ipynb` without losing outputs; `execute` runs it in a fresh kernel.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from copy import deepcopy
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

from replearn.lesson import exercises

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
RESULTS = ROOT / "benchmarks" / "results"
CELL_METADATA = ("alt", "mystnb", "tags")
KERNEL = dict(display_name="Python 3", language="python", name="python3")
CELL_SECONDS = 900  # a cell that takes longer is stuck


def address():
    """The project's repository: the one place is [project.urls] in pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"][
        "Repository"
    ].rstrip("/")


def colab(name):
    """The address that opens notebook `name` ("06_simclr") in Colab."""
    return (
        f"{address().replace('https://github.com', 'https://colab.research.google.com/github')}"
        f"/blob/main/notebooks/{name}.ipynb"
    )


def setup_source():
    """The set-up cell: in Colab it installs replearn alone; where replearn is installed it does nothing."""
    return f"""\
# Set-up: in Colab this installs replearn and nothing else.
import importlib.util, sys

if importlib.util.find_spec("replearn") is None:
    if "google.colab" not in sys.modules:
        raise ModuleNotFoundError("replearn is not here: run `make lab` first")
    %pip install --quiet --no-deps git+{address()}
    importlib.invalidate_caches()"""


def sources(numbers=()):
    """The lesson texts, all or those whose number is given ("1", "01"); a number with no text is an error."""
    found = {path.stem[:2]: path for path in sorted((NOTEBOOKS / "src").glob("[0-9][0-9]_*.md"))}
    wanted = [number.zfill(2) for number in numbers] or list(found)
    if missing := [number for number in wanted if number not in found]:
        raise SystemExit(
            f"no lesson {', '.join(missing)}; there are {', '.join(found) or 'none'} in notebooks/src/"
        )
    return [found[number] for number in wanted]


def regenerate(text, name):
    """The text of lesson `name` with its badge, set-up cell and solutions as they should be. Pure and idempotent.

    Marks: `<!-- badge -->` and `<!-- solution NAME -->`, closed by `<!-- /badge -->` and `<!-- /solution -->` (an open
    mark alone is filled in and closed), and the code cell with `:tags: [setup]`.
    """

    def block(match):
        kind, exercise = match["kind"], match["name"]
        if kind == "badge":
            body = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab(name)})"
        else:
            source = exercises.get(name[:2], exercise).source().strip()
            body = f"<details><summary>Solution</summary>\n\n```python\n{source}\n```\n\n</details>"
        return f"<!-- {match['mark']} -->\n\n{body}\n\n<!-- /{kind} -->"

    mark = r"<!-- (?P<mark>(?P<kind>badge|solution)(?: (?P<name>\w+))?) -->"
    text = re.sub(
        mark + r"(?:(?:(?!<!-- (?:badge|solution)).)*?<!-- /(?P=kind) -->)?",
        block,
        text,
        flags=re.DOTALL,
    )
    text = text.replace("```{code-cell} ipython3\n", "```{code-cell}\n")  # as JupyterLab saves it
    cell = re.compile(
        r"(```\{code-cell\}[^\n]*\n:tags: \[[^\]\n]*\bsetup\b[^\]\n]*\]\n)(.*?)(?<=\n)```",
        re.DOTALL,
    )
    return cell.sub(lambda match: f"{match[1]}\n{setup_source()}\n```", text)


def write_atomically(path, text):
    """Write the whole file or nothing."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, "utf-8")
    os.replace(part, path)


def notebook_text(nb):
    """A notebook as the bytes that are stored: the same cells give the same file."""
    import nbformat

    return nbformat.writes(nb, version=4) + "\n"


def clean(nb):
    """Drop what depends on the machine or the moment; ids are made from the cells' text; figures get their alt text."""
    nb.metadata = dict(kernelspec=KERNEL, language_info=dict(name="python"))
    nb.nbformat, nb.nbformat_minor, seen = 4, 5, {}
    for cell in nb.cells:
        digest = hashlib.sha1(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        cell.metadata = {key: cell.metadata[key] for key in CELL_METADATA if key in cell.metadata}
        for output in cell.get("outputs", []):
            if "alt" in cell.metadata and "image/png" in output.get("data", {}):
                output.metadata["image/png"] = dict(alt=cell.metadata["alt"])
    return nb


def same_inputs(a, b):
    """Do two notebooks have the same cells, outputs aside?"""
    return [(c.cell_type, c.source, dict(c.metadata)) for c in a.cells] == [
        (c.cell_type, c.source, dict(c.metadata)) for c in b.cells
    ]


def sync(source):
    """Bring the generated blocks and the paired notebook of one lesson text up to date; return the notebook."""
    import jupytext
    import nbformat
    from jupytext.combine import combine_inputs_with_outputs

    path = NOTEBOOKS / f"{source.stem}.ipynb"
    old = source.read_text("utf-8")
    nb = clean(jupytext.reads(text := regenerate(old, source.stem), fmt="md:myst"))
    stored = clean(nbformat.read(path, as_version=4)) if path.exists() else None
    if stored and not same_inputs(nb, stored) and path.stat().st_mtime > source.stat().st_mtime + 1:
        raise SystemExit(
            f"notebooks/{path.name} was edited after its text. Keep those edits: jupytext --sync "
            f"notebooks/{path.name}. Or drop them: touch notebooks/src/{source.name}"
        )
    if text != old:
        write_atomically(source, text)
    if stored:
        nb = clean(combine_inputs_with_outputs(nb, stored, fmt="md:myst"))
    if not path.exists() or path.read_text("utf-8") != notebook_text(nb):
        write_atomically(path, notebook_text(nb))
    return nb


def execute(nb, name, *, strict=True, **environment):
    """Run a notebook in a fresh kernel; return (seconds, record of `lesson.finish()` or {}, error or None)."""
    import nbclient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    live, codes = sys.stdout.isatty(), sum(cell.cell_type == "code" for cell in nb.cells)
    started, done = time.perf_counter(), 0

    def progress(cell, cell_index, **_):
        nonlocal done
        done += cell.cell_type == "code"
        if live:
            print(
                f"\r{name}  cell {done} of {codes}  {time.perf_counter() - started:.0f} s ",
                end="",
                flush=True,
            )

    with tempfile.TemporaryDirectory() as folder:
        variables = {
            **os.environ,
            "REPLEARN_STATIC": "1",
            "REPLEARN_STRICT": str(int(strict)),
            "REPLEARN_RESULTS": folder,
            **environment,
        }
        client = nbclient.NotebookClient(
            nb,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            resources=dict(metadata=dict(path=str(NOTEBOOKS))),
            record_timing=False,
            coalesce_streams=True,
            store_widget_state=False,
            on_cell_complete=progress,
            extra_arguments=["--log-level=40"],
        )
        error = None
        try:
            client.execute(env=variables)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as failure:
            error = re.sub(r"\x1b\[[\d;]*m", "", str(failure)).strip()
        if live:
            print("\r\033[K", end="")
        results = list(Path(folder).glob("*.json"))
        record = json.loads(results[0].read_text("utf-8")) if results else {}
    return time.perf_counter() - started, record, error


def table(rows):
    """Rows of text as aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


# --- the command line ---


def sync_command(args):
    """Bring generated blocks and paired notebooks up to date."""
    for source in sources(args.lessons):
        sync(source)
        print(f"notebooks/src/{source.name} and notebooks/{source.stem}.ipynb agree")
    return 0


def run_command(args):
    """Execute the notebooks and store their outputs, or measure the claims over seeds and store nothing but those."""
    rows, failed = [("notebook", "seconds", "claims held")], 0
    texts = sources(args.lessons)
    for position, source in enumerate(texts, 1):
        print(f"[{position}/{len(texts)}] {source.stem}", flush=True)
        measured = over_seeds(source, args) if args.seeds else once(source, args)
        failed += not measured[-1]
        rows.append((source.stem, f"{measured[0]:.1f}", measured[1]))
    rows.append(
        (
            "total",
            f"{sum(float(row[1]) for row in rows[1:]):.1f}",
            f"{failed} failed" if failed else "",
        )
    )
    print("\n" + table(rows))
    return int(failed > 0)


def environment(args, **more):
    """Variables for the kernel: the profile only where one was asked for."""
    return more | ({"REPLEARN_PROFILE": args.profile} if args.profile else {})


def once(source, args):
    """Execute one notebook strictly and store it; a notebook that fails is kept under build/failed/ to look at."""
    nb = sync(source)
    seconds, record, error = execute(nb, source.stem, **environment(args))
    text = notebook_text(clean(nb))
    claims = record.get("claims", [])
    if error is None:
        write_atomically(NOTEBOOKS / f"{source.stem}.ipynb", text)
        return seconds, f"{sum(claim['holds'] for claim in claims)} of {len(claims)}", True
    folder = ROOT / "build" / "failed"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{source.stem}.ipynb", text)
    print(
        f"{error}\n{source.stem} failed; what it had reached is in build/failed/{source.stem}.ipynb",
        file=sys.stderr,
    )
    return seconds, "failed", False


def over_seeds(source, args):
    """Execute copies at REPLEARN_SEED = 0 to N-1 and write which claims held to benchmarks/results/claims_NN.json."""
    nb, runs, total = sync(source), [], 0.0
    for seed in range(args.seeds):
        seconds, record, error = execute(
            deepcopy(nb),
            f"{source.stem} seed {seed}",
            strict=False,
            **environment(args, REPLEARN_SEED=str(seed)),
        )
        total += seconds
        if error or not record:
            print(
                error or f"{source.stem}: no result; is lesson.finish() its last cell?",
                file=sys.stderr,
            )
            return total, f"seed {seed} failed", False
        held = sum(claim["holds"] for claim in record["claims"])
        print(
            f"  seed {seed}: {held} of {len(record['claims'])} claims held, {seconds:.0f} s",
            flush=True,
        )
        runs.append(record)
    claims = summary(runs)
    command = f"python -m tools.notebooks run {source.stem[:2]} --seeds {args.seeds}"
    record = dict(
        notebook=source.stem,
        command=command + (f" --profile {args.profile}" if args.profile else ""),
        seeds=list(range(args.seeds)),
        profile=runs[0]["profile"],
        data=runs[0]["data"],
        versions=runs[0]["versions"],
        claims=claims,
    )
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    write_atomically(RESULTS / f"claims_{source.stem[:2]}.json", text)
    always = sum(all(claim["held"]) for claim in claims)
    return total, f"{always} of {len(claims)} at all {args.seeds} seeds", always == len(claims)


def summary(runs):
    """For every claim of any run: whether it held and its numbers, one entry a seed (False, {} where it is missing)."""
    found = [{claim["sentence"]: claim for claim in run["claims"]} for run in runs]
    nothing = dict(holds=False, numbers={})
    return [
        dict(
            sentence=sentence,
            held=[claims.get(sentence, nothing)["holds"] for claims in found],
            numbers=[claims.get(sentence, nothing)["numbers"] for claims in found],
        )
        for sentence in dict.fromkeys(sentence for claims in found for sentence in claims)
    ]


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m tools.notebooks", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in dict(sync=sync_command, run=run_command).items():
        command = commands.add_parser(name, help=function.__doc__)
        command.add_argument(
            "lessons", nargs="*", metavar="NN", help="numbers of lessons (default: all)"
        )
        command.set_defaults(function=function)
    command.add_argument(
        "--profile", choices=("cpu", "gpu"), help="budgets to use (default: by the machine)"
    )
    command.add_argument(
        "--seeds", type=int, default=0, metavar="N", help="measure the claims at seeds 0 to N-1"
    )
    args = parser.parse_args(arguments)
    return args.function(args)


if __name__ == "__main__":
    sys.exit(main())
