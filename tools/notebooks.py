"""From the text of a lesson to its executed notebook.

`notebooks/src/NN_name.md` is what people edit. `sync` fills in its generated blocks (badge, set-up
cell, solutions) and carries the text over to `notebooks/NN_name.ipynb` without losing outputs;
`execute` runs it in a fresh kernel. The frontier shelf, F1 to F5, is the same in
`notebooks/frontier/`.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from replearn import _command
from replearn.files import write_atomically, write_json
from replearn.lesson import exercises
from tools import project
from tools.project import ROOT, address, binder, colab, kaggle, tag

if TYPE_CHECKING:  # they take half a second to import, and `sources` does not need them
    from nbformat import NotebookNode

NOTEBOOKS = ROOT / "notebooks"
RESULTS = ROOT / "benchmarks" / "results"
CLAIMS = ROOT / "replearn" / "lesson" / "claims"  # `lesson.claim` shows them
CELL_METADATA = ("alt", "mystnb", "tags")  # what a stored cell keeps
KERNEL = dict(display_name="Python 3", language="python", name="python3")
CELL_SECONDS = 900  # a cell that takes longer is stuck

COLAB_BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
KAGGLE_BADGE = "https://kaggle.com/static/images/open-in-kaggle.svg"
BINDER_BADGE = "https://mybinder.org/badge_logo.svg"
# Where a folder named replearn lies beside the notebook, as the folder of a clone does, Python
# takes it for an empty package. So both cells look for a part of the real one, and forget that one.
SETUP_WITH_ADDRESS = """\
# Set-up: in Colab and Kaggle this installs replearn and nothing else.
import importlib, os, sys
from importlib.util import find_spec

if not (find_spec("replearn") and find_spec("replearn.lesson")):
    sys.modules.pop("replearn", None)  # an empty folder of that name
    here = {{*sys.modules, *os.environ}}
    if not here & {{"google.colab", "KAGGLE_KERNEL_RUN_TYPE"}}:
        raise ModuleNotFoundError("replearn is not here: run `make lab` first")
    %pip install --quiet --no-deps git+{address}@{tag}
    importlib.invalidate_caches()
    if not (find_spec("replearn") and find_spec("replearn.lesson")):
        raise ModuleNotFoundError("pip could not install replearn: the line above says "
            "why; if the address is out of date, open the notebook from the course's page")"""
SETUP_WITHOUT_ADDRESS = """\
# Set-up: where replearn is installed, this does nothing.
import sys
from importlib.util import find_spec

if not (find_spec("replearn") and find_spec("replearn.lesson")):
    sys.modules.pop("replearn", None)  # an empty folder of that name
    if "google.colab" not in sys.modules:
        raise ModuleNotFoundError("replearn is not here: run `make lab` first")
    raise ModuleNotFoundError("replearn is not here: upload its wheel (from `pip wheel "
        "--no-deps .`), run `%pip install --no-deps replearn-*.whl`, then this cell again")"""


# --- the text of a lesson ---


def setup_source() -> str:
    """Return the set-up cell; where replearn is installed it does nothing.

    In Colab and Kaggle it installs replearn alone, from the project's address. A project without
    one has nothing to install from, and the cell says what to do instead.
    """
    repository = address()
    if repository is None:
        return SETUP_WITHOUT_ADDRESS
    return SETUP_WITH_ADDRESS.format(address=repository, tag=tag())


def sources(numbers: Sequence[str] = (), *, frontier: bool = True) -> list[Path]:
    """Return the paths of the lesson texts.

    Args:
        numbers: Numbers of lessons, "1", "01" or "F2"; none means all.
        frontier: Whether the frontier shelf is among all.

    Raises:
        SystemExit: There is no text with one of these numbers.
    """
    by_number = {}
    for pattern in ("src/[0-9][0-9]_*.md", "frontier/src/F[0-9]_*.md"):
        for path in sorted(NOTEBOOKS.glob(pattern)):
            by_number[path.stem[:2]] = path
    wanted = [number.zfill(2).upper() for number in numbers]
    missing = [number for number, key in zip(numbers, wanted, strict=True) if key not in by_number]
    if missing:
        there = ", ".join(by_number) or "none"
        raise SystemExit(
            f"expected numbers of lessons, found {', '.join(missing)}; there are {there} in "
            "notebooks/"
        )
    if not numbers:
        wanted = [number for number in by_number if frontier or number.isdigit()]
    return [by_number[number] for number in wanted]


def notebook_of(source: Path) -> Path:
    """Return the path of the notebook that belongs to a lesson's text."""
    return source.parents[1] / f"{source.stem}.ipynb"


def regenerate(text: str, name: str) -> str:
    """Return the text of a lesson with its badge, set-up cell and solutions as they should be.

    The marks are `<!-- badge -->` and `<!-- solution NAME -->`, closed by `<!-- /badge -->` and
    `<!-- /solution -->` (an open mark alone is filled in and closed), and the code cell with
    `:tags: [setup]`. Nothing is written, and a second call changes nothing.

    Args:
        text: MyST Markdown.
        name: The lesson, "06_simclr".
    """
    opening = r"<!-- (?P<mark>(?P<kind>badge|solution)(?: (?P<exercise>\w+))?) -->"
    body_and_closing = r"(?:(?!<!-- (?:badge|solution)).)*?<!-- /(?P=kind) -->"
    blocks = re.compile(f"{opening}(?:{body_and_closing})?", re.DOTALL)
    setup_cell = re.compile(
        r"(```\{code-cell\}[^\n]*\n:tags: \[[^\]\n]*\bsetup\b[^\]\n]*\]\n)(.*?)(?<=\n)```",
        re.DOTALL,
    )

    def filled(match: re.Match) -> str:
        if match["kind"] == "badge":
            body = _badge(name)
        else:
            body = _solution(name[:2], match["exercise"])
        parts = [f"<!-- {match['mark']} -->", body, f"<!-- /{match['kind']} -->"]
        return "\n\n".join(part for part in parts if part)

    text = blocks.sub(filled, text)
    text = text.replace("```{code-cell} ipython3\n", "```{code-cell}\n")  # as JupyterLab saves it
    return setup_cell.sub(lambda match: f"{match[1]}\n{setup_source()}\n```", text)


def _badge(name: str) -> str:
    """Return the badges that open a notebook elsewhere; empty if it has no address there."""
    places = [
        ("Open in Colab", COLAB_BADGE, colab(name)),
        ("Open in Kaggle", KAGGLE_BADGE, kaggle(name)),
        ("Open in Binder", BINDER_BADGE, binder(name)),
    ]
    return "\n".join(f"[![{words}]({badge})]({link})" for words, badge, link in places if link)


def _solution(lesson: str, exercise: str) -> str:
    source = exercises.get(lesson, exercise).source().strip()
    code = f"```python\n{source}\n```"
    return f"<details><summary>Solution</summary>\n\n{code}\n\n</details>"


# --- its notebook ---


def notebook_text(nb: "NotebookNode") -> str:
    """Return a notebook as it is stored: the same cells give the same text."""
    import nbformat

    return nbformat.writes(nb, version=4) + "\n"


def clean(nb: "NotebookNode") -> "NotebookNode":
    """Drop, in place, what depends on the machine or the moment; return the same notebook.

    The cells' ids are made from their text, and the figures get the alt text of their cell.
    """
    nb.metadata = dict(kernelspec=KERNEL, language_info=dict(name="python"))
    nb.nbformat = 4
    nb.nbformat_minor = 5
    times_seen: dict[str, int] = {}
    for cell in nb.cells:
        digest = hashlib.sha1(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        times_seen[digest] = times_seen.get(digest, 0) + 1
        cell.id = digest if times_seen[digest] == 1 else f"{digest}-{times_seen[digest]}"
        cell.metadata = {key: cell.metadata[key] for key in CELL_METADATA if key in cell.metadata}
        for output in cell.get("outputs", []):
            if "alt" in cell.metadata and "image/png" in output.get("data", {}):
                output.metadata["image/png"] = dict(alt=cell.metadata["alt"])
    return nb


def same_inputs(a: "NotebookNode", b: "NotebookNode") -> bool:
    """Say whether two notebooks have the same cells, outputs aside."""
    return _inputs(a) == _inputs(b)


def _inputs(nb: "NotebookNode") -> list[tuple[str, str, dict]]:
    return [(cell.cell_type, cell.source, dict(cell.metadata)) for cell in nb.cells]


def sync(source: Path) -> "NotebookNode":
    """Bring the generated blocks and the paired notebook of one lesson text up to date.

    Args:
        source: The text. It is written only if a generated block has changed.

    Returns:
        The notebook, with the outputs that were stored.

    Raises:
        SystemExit: The notebook has edits that its text does not have.
    """
    import jupytext
    import nbformat
    from jupytext.combine import combine_inputs_with_outputs

    path = notebook_of(source)
    old_text = source.read_text("utf-8")
    text = regenerate(old_text, source.stem)
    nb = clean(jupytext.reads(text, fmt="md:myst"))
    stored = clean(nbformat.read(path, as_version=4)) if path.exists() else None
    if stored and not same_inputs(nb, stored):
        # A notebook that says what its text said before the blocks were renewed is no edit.
        before = clean(jupytext.reads(old_text, fmt="md:myst"))
        is_newer = path.stat().st_mtime > source.stat().st_mtime + 1
        if is_newer and not same_inputs(before, stored):
            edited = f"notebooks/{project.place(path.stem)}.ipynb"
            raise SystemExit(
                f"{edited} was edited after its text. Keep those edits: "
                f"jupytext --sync {edited}. Or drop them: "
                f"touch {Path(edited).parent}/src/{source.name}"
            )
    if text != old_text:
        write_atomically(source, text)
    if stored:
        nb = clean(combine_inputs_with_outputs(nb, stored, fmt="md:myst"))
    if not path.exists() or path.read_text("utf-8") != notebook_text(nb):
        write_atomically(path, notebook_text(nb))
    return nb


# --- running it ---


class Execution(NamedTuple):
    """What came of running a notebook.

    Attributes:
        seconds: How long it took.
        record: What `lesson.finish()` wrote; empty if the notebook did not get there.
        error: Why it stopped, or None.
        cells: (seconds, first words of its code) of each cell that ran.
    """

    seconds: float
    record: dict[str, Any]
    error: str | None
    cells: list[tuple[float, str]]

    def slowest(self, count: int = 6) -> str:
        """Return the cells that took longest, in words."""
        cells = sorted(self.cells, reverse=True)[:count]
        return ", ".join(f"{seconds:.0f} s “{code}”" for seconds, code in cells)


def execute(nb: "NotebookNode", name: str, *, strict: bool = True, **environment: str) -> Execution:
    """Run a notebook in a fresh kernel; its outputs are stored in it.

    Args:
        nb: The notebook. It is changed in place.
        name: What the line of progress calls it.
        strict: Whether a claim that does not hold stops the notebook.
        **environment: Variables for the kernel, over those of this process.
    """
    import nbclient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    started = time.perf_counter()
    is_terminal = sys.stdout.isatty()
    error = None
    cells: list[tuple[float, str]] = []
    show_progress = _progress(nb, name) if is_terminal else None

    def after_cell(cell: "NotebookNode", cell_index: int, **_: Any) -> None:
        if cell.cell_type == "code":
            seconds = time.perf_counter() - started - sum(seconds for seconds, _ in cells)
            cells.append((seconds, " ".join(cell.source.split())[:40]))
        if show_progress:
            show_progress(cell)

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
            startup_timeout=CELL_SECONDS,  # on a busy machine a kernel takes its time
            kernel_name="python3",
            resources=dict(metadata=dict(path=str(NOTEBOOKS))),
            record_timing=False,
            coalesce_streams=True,
            store_widget_state=False,
            on_cell_executed=after_cell,
            extra_arguments=["--log-level=40"],
        )
        try:
            client.execute(env=variables)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as failure:
            error = re.sub(r"\x1b\[[\d;]*m", "", str(failure)).strip()  # without colors
        if is_terminal:
            print("\r\033[K", end="")
        records = list(Path(folder).glob("*.json"))
        record = json.loads(records[0].read_text("utf-8")) if records else {}
    return Execution(time.perf_counter() - started, record, error, cells)


def _progress(nb: "NotebookNode", name: str) -> Callable[["NotebookNode"], None]:
    """Return what is called after each cell: it writes one line over and over."""
    total = sum(cell.cell_type == "code" for cell in nb.cells)
    started = time.perf_counter()
    done = 0

    def show(cell: "NotebookNode") -> None:
        nonlocal done
        done += cell.cell_type == "code"
        seconds = time.perf_counter() - started
        print(f"\r{name}  cell {done} of {total}  {seconds:.0f} s ", end="", flush=True)

    return show


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of text as a table whose columns are aligned."""
    rows = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


# --- the command line ---


class Outcome(NamedTuple):
    """One line of the table that `run` prints."""

    seconds: float
    claims_held: str
    succeeded: bool


def sync_command(args: argparse.Namespace) -> int:
    """Bring generated blocks and paired notebooks up to date."""
    for source in sources(args.lessons):
        sync(source)
        print(f"{source.name} and {source.stem}.ipynb agree")
    return 0


def run_command(args: argparse.Namespace) -> int:
    """Execute the notebooks and store their outputs, or measure the claims over seeds and store
    nothing but those."""
    texts = sources(args.lessons)
    outcomes = []
    for position, source in enumerate(texts, 1):
        print(f"[{position}/{len(texts)}] {source.stem}", flush=True)
        if args.seeds:
            outcomes.append(run_over_seeds(source, args.seeds, args.profile))
        else:
            outcomes.append(run_and_store(source, args.profile))

    rows = [("notebook", "seconds", "claims held")]
    for source, outcome in zip(texts, outcomes, strict=True):
        rows.append((source.stem, f"{outcome.seconds:.1f}", outcome.claims_held))
    total = sum(round(outcome.seconds, 1) for outcome in outcomes)
    failed = sum(not outcome.succeeded for outcome in outcomes)
    rows.append(("total", f"{total:.1f}", f"{failed} failed" if failed else ""))
    print("\n" + aligned(rows))
    return int(failed > 0)


def run_and_store(source: Path, profile: str | None) -> Outcome:
    """Execute one notebook strictly and store it.

    A notebook that fails is kept under build/failed/, to be looked at; the stored one stays.
    """
    nb = sync(source)
    execution = execute(nb, source.stem, **_profile_variable(profile))
    text = notebook_text(clean(nb))
    if execution.error is None:
        write_atomically(notebook_of(source), text)
        claims = execution.record.get("claims", [])
        held = sum(claim["holds"] for claim in claims)
        print(f"  slowest cells: {execution.slowest()}", flush=True)
        return Outcome(execution.seconds, f"{held} of {len(claims)}", True)
    folder = ROOT / "build" / "failed"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{source.stem}.ipynb", text)
    where = f"build/failed/{source.stem}.ipynb"
    print(
        f"{execution.error}\n{source.stem} failed; what it had reached is in {where}",
        file=sys.stderr,
    )
    return Outcome(execution.seconds, "failed", False)


def run_over_seeds(source: Path, seeds: int, profile: str | None) -> Outcome:
    """Execute copies of one notebook at REPLEARN_SEED = 0 to `seeds` - 1, and write which claims
    held to replearn/lesson/claims/NN_PROFILE.json."""
    nb = sync(source)
    number = source.stem[:2]
    records = []
    total = 0.0
    for seed in range(seeds):
        execution = execute(
            deepcopy(nb),
            f"{source.stem} seed {seed}",
            strict=False,
            REPLEARN_SEED=str(seed),
            **_profile_variable(profile),
        )
        total += execution.seconds
        if execution.error or not execution.record:
            unfinished = f"{source.stem}: no result; is lesson.finish() its last cell?"
            print(execution.error or unfinished, file=sys.stderr)
            return Outcome(total, f"seed {seed} failed", False)
        claims = execution.record["claims"]
        held = sum(claim["holds"] for claim in claims)
        print(
            f"  seed {seed}: {held} of {len(claims)} claims held, {execution.seconds:.0f} s",
            flush=True,
        )
        for claim in claims:
            if not claim["holds"]:
                print(f"    ✗ {claim['sentence']} {claim['numbers']}", flush=True)
        if seed == 0:
            print(f"    slowest cells: {execution.slowest()}", flush=True)
        records.append(execution.record)

    claims = claims_by_seed(records)
    command = f"python -m tools.notebooks run {number} --seeds {seeds}"
    if profile:
        command += f" --profile {profile}"
    summary = dict(
        notebook=source.stem,
        command=command,
        seeds=list(range(seeds)),
        profile=records[0]["profile"],
        data=records[0]["data"],
        versions=records[0]["versions"],
        claims=claims,
    )
    write_json(CLAIMS / f"{number}_{summary['profile']}.json", summary)
    always = sum(all(claim["held"]) for claim in claims)
    told = f"{always} of {len(claims)} at all {seeds} seeds"
    return Outcome(total, told, always == len(claims))


def _profile_variable(profile: str | None) -> dict[str, str]:
    """Return the kernel's variable for a profile; none where the machine is to choose."""
    return {"REPLEARN_PROFILE": profile} if profile else {}


def claims_by_seed(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for every claim of any run, whether it held and its numbers, one entry a seed.

    Args:
        records: What `lesson.finish()` wrote, one record a seed. A claim that is missing in one of
            them did not hold there and has no numbers.
    """
    runs = [{claim["sentence"]: claim for claim in record["claims"]} for record in records]
    sentences: dict[str, None] = {}  # in the order of the lesson, each once
    for run in runs:
        sentences.update(dict.fromkeys(run))
    missing = dict(holds=False, numbers={})
    rows = []
    for sentence in sentences:
        claims = [run.get(sentence, missing) for run in runs]
        held = [claim["holds"] for claim in claims]
        numbers = [claim["numbers"] for claim in claims]
        rows.append(dict(sentence=sentence, held=held, numbers=numbers))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _command.Parser(prog="python -m tools.notebooks", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    syncing = commands.add_parser("sync", help=sync_command.__doc__)
    syncing.set_defaults(function=sync_command)

    running = commands.add_parser("run", help=run_command.__doc__)
    running.set_defaults(function=run_command)
    running.add_argument(
        "--profile", choices=("cpu", "gpu"), help="budgets to use (default: by the machine)"
    )
    running.add_argument(
        "--seeds",
        type=_command.whole(1, 100),
        default=0,
        metavar="N",
        help="measure the claims at seeds 0 to N-1",
    )

    for command in (syncing, running):
        command.add_argument(
            "lessons", nargs="*", metavar="NN", help="numbers of lessons (default: all)"
        )
    args = parser.parse_args(arguments)
    return _command.run(args.function, args)


if __name__ == "__main__":
    sys.exit(main())
