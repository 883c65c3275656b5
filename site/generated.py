"""Parts of the site that are made from executed notebooks and measurements at every build.

A page holds `<!-- generated: NAME -->` or `<!-- generated: NAME ARGUMENT -->`; `fill` puts the
Markdown of the function NAME in its place, or a sentence if a measurement is missing.
"""

import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import live
import measured
import panels
import yaml
from measured import escape, markdown_table
from timetable import sections, timetable, to_solve

from replearn import __version__
from tools import project

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def notebooks() -> Iterator[tuple[str, list]]:
    """Yield every notebook of the site as (stem, cells)."""
    for name in re.findall(r"notebooks/([\w/]+)", (ROOT / "_toc.yml").read_text("utf-8")):
        text = (ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8")
        yield Path(name).stem, json.loads(text)["cells"]


def lessons() -> list[tuple[str, list]]:
    """Return the notebooks without those of the frontier shelf."""
    return [(stem, cells) for stem, cells in notebooks() if stem[0].isdigit()]


# --- the lessons ---


def lesson_map(part: str = "lessons") -> str:
    """Return notebooks as a list of cards: name, question, minutes, what to know before.

    Args:
        part: "lessons", or "frontier" for the shelf.
    """
    cards = []
    for stem, cells in notebooks():
        if stem[0].isdigit() != (part == "lessons"):
            continue
        opening = "".join(cells[0]["source"])
        title = line_after(r"# ", opening)
        question = line_after(r".*\*\*The question\.\*\* ", opening)
        question = re.sub(r"\$(\w)\$", r"*\1*", question)  # one letter is no reason to load MathJax
        before = line_after(r"\*\*Prerequisites\.\*\* ", opening)
        parts = [
            f"- [{title}](/notebooks/{project.place(stem)}.ipynb)",
            f"  {question}",
            f"  {minutes(cells)}. To know before: {before}",
        ]
        cards.append("\n\n".join(parts))
    return "{.lessons}\n" + "\n\n".join(cards)


def how_long() -> str:
    """Return how long a lesson takes: to run, as its head says, and to read and to solve, by the
    count of the timetable."""
    runs = [to_run_here(cells) for _, cells in lessons()]
    studies = [to_study(cells) for _, cells in lessons()]
    return (
        f"A lesson runs in {in_range(min(runs), max(runs))} minutes on two CPU cores; reading and "
        f"solving one takes about {in_range(min(studies), max(studies))} minutes."
    )


def to_run_here(cells: list[dict]) -> int:
    """Return the minutes that a lesson takes on two CPU cores, without photographs.

    They stand in its head. What its last cell says is of the run that was stored, with photographs
    and on one thread.
    """
    opening = "".join(cells[0]["source"])
    return int(re.match(r"\d+", line_after(r"\*\*Minutes\.\*\* ", opening))[0])


def to_study(cells: list[dict]) -> int:
    """Return the minutes to read a lesson, without what goes further, and to solve its exercises,
    by the count of the timetable, rounded to tens."""
    reading = 0
    for name, part in sections(cells).items():
        if not name.startswith("Going further"):
            reading += part
    return int(round(reading + to_solve(cells), -1))


def minutes(cells: list[dict]) -> str:
    """Return how long a lesson takes, for its card."""
    run = to_run_here(cells)
    return f"{run} minute{'s' if run > 1 else ''} to run, about {to_study(cells)} to read and solve"


def in_range(least: float, most: float) -> str:
    """Return two whole numbers as a range, or as one where they are equal."""
    low, high = f"{least:.0f}", f"{most:.0f}"
    return low if low == high else f"{low} to {high}"


def exercise_names(cells: list[dict]) -> list[str]:
    """Return the names of a lesson's exercises, in their order, each once."""
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return list(dict.fromkeys(re.findall(r"lesson\.check\(\s*\"(\w+)\"", code)))


def progress() -> str:
    """Return the table that a script fills with what this browser keeps about its reader."""
    lessons = []
    for stem, cells in notebooks():
        title = line_after(r"# ", "".join(cells[0]["source"]))
        address = f"../notebooks/{project.place(stem)}.html"
        names = exercise_names(cells)
        lessons.append(dict(number=stem[:2], title=title, address=address, names=names))
    content = html.escape(json.dumps(lessons, ensure_ascii=False))
    heads = "".join(
        f'<th scope="col">{head}</th>' for head in ("Lesson", "Predictions", "Exercises", "Done")
    )
    return f"""\
<noscript>This page needs JavaScript.</noscript>
<div data-progress="{content}" hidden>
<p role="status"></p>
<div class="pst-scrollable-table-container"><table class="table">
<thead><tr>{heads}</tr></thead><tbody></tbody></table></div>
<p><button type="button" class="btn btn-primary" data-export>Export as JSON</button>
<button type="button" class="btn btn-secondary" data-forget>Forget everything</button></p>
</div>"""


def line_after(start: str, text: str) -> str:
    """Return the rest of the first line that begins with a pattern."""
    return re.search(rf"^{start}(.+)", text, re.MULTILINE)[1].strip()


def printed_claims(cells: list[dict]) -> Iterator[tuple[str, str, str]]:
    """Yield (✓ or ✗, sentence, numbers) of each claim in a notebook's stored outputs."""
    printed = []
    for cell in cells:
        printed += ["".join(output.get("text", "")) for output in cell.get("outputs", ())]
    # The sentence, then perhaps its numbers in parentheses, which may hold parentheses themselves.
    pattern = re.compile(r"(.*?)(?: \(([^()]*(?:\([^()]*\)[^()]*)*)\))?$")
    for sign, line in re.findall(r"^([✓✗]) (.+)$", "\n".join(printed), re.MULTILINE):
        sentence, numbers = pattern.match(line).groups()
        yield sign, sentence, numbers or ""


def seeds_held(number: str) -> dict[str, str]:
    """Return {sentence: "5 of 5"} for the claims of a lesson that were run at several seeds."""
    path = ROOT / "replearn" / "lesson" / "claims" / f"{number}_cpu.json"
    if not path.exists():
        return {}
    held = {}
    for claim in json.loads(path.read_text("utf-8"))["claims"]:
        held[claim["sentence"]] = f"{sum(claim['held'])} of {len(claim['held'])}"
    return held


def claims() -> str:
    """Return every measured sentence with its numbers, and at how many seeds it held."""
    parts = []
    for stem, cells in notebooks():
        title = line_after(r"# ", "".join(cells[0]["source"]))
        held = seeds_held(stem[:2])
        rows = []
        for sign, sentence, numbers in printed_claims(cells):
            rows.append([f"{sign} {escape(sentence)}", escape(numbers), held.get(sentence, "")])
        table = markdown_table(["Claim", "As measured, seed 0", "Held at seeds"], rows)
        link = f"[Open the lesson](/notebooks/{project.place(stem)}.ipynb)"
        parts.append(f"## {title}\n\n{link}\n\n{table}")
    return "\n\n".join(parts)


def photographs() -> str:
    """Return what the sections "On real photographs" measured."""
    rows = []
    for path in sorted(RESULTS.glob("photographs_??.json")):
        for claim in json.loads(path.read_text("utf-8"))["claims"]:
            numbers = []
            for name, value in claim["numbers"].items():
                numbers.append(f"{name.replace('_', ' ')} {three_digits(value)}")
            sentence = f"{measured.mark(claim['holds'])} {escape(claim['sentence'])}"
            rows.append([path.stem[-2:], sentence, escape(", ".join(numbers))])
    return markdown_table(["Lesson", "Claim", "As measured"], rows)


def three_digits(value: float | list) -> str:
    """Return a number with three digits, or a list of such."""
    if isinstance(value, list):
        return f"[{', '.join(three_digits(item) for item in value)}]"
    return f"{value:.3g}"


# --- links ---


def link_lessons(text: str) -> str:
    """Make links of the numbers in "Lesson 02" or "lessons 02 (probes) and 06"."""
    stems = {stem[:2]: stem for stem, _ in notebooks()}

    def link_number(match: re.Match) -> str:
        number = match[0]
        if number not in stems:
            return number
        return f"[{number}](/notebooks/{project.place(stems[number])}.ipynb)"

    def link_phrase(match: re.Match) -> str:
        is_a_link_already = match[0].startswith("[")
        return match[0] if is_a_link_already else re.sub(rf"\b{one}\b", link_number, match[0])

    one = r"[\dF]\d"
    more = rf"(?:(?: \([^()]*\))?(?:, | and | to ){one}\b)*"
    phrase = rf"\[[^\]]*\]\([^)]*\)|\b[Ll]essons? {one}\b{more}"
    return re.sub(phrase, link_phrase, text)


# --- the address ---

WITHOUT_ADDRESS = """\
The course has no address on the web yet that Colab could install it from, so bring it along. In the
project's folder, `pip wheel --no-deps .` makes a file `replearn-….whl`. In Colab open a notebook of
`notebooks/` (*File*, *Upload notebook*), upload the wheel in the panel *Files*, and run
`%pip install --no-deps replearn-*.whl` in a cell at the top. Then run the cells in order. Colab's
own torch and numpy are left alone."""
WITH_ADDRESS = """\
Every lesson has a button that opens it in Colab. Run its cells in order: the first one installs
this version of the course from [its address]({address}), and leaves Colab's own torch and numpy
alone."""


def in_colab() -> str:
    """Return how a lesson is run in Colab, with and without an address of the course."""
    if project.colab("") is None:
        return WITHOUT_ADDRESS
    return WITH_ADDRESS.format(address=project.address())


# --- version, citation, changes ---


def version() -> str:
    """Return which version of the course these pages are."""
    return f"These pages are version {__version__} of the course."


def citation() -> str:
    """Return how to cite the course, in words and for BibTeX, from CITATION.cff."""
    about = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    authors = " and ".join(author["name"] for author in about["authors"])
    fields = {
        "title": about["title"],
        "author": f"{{{authors}}}",  # a name of several words that is not a person's
        "version": __version__,
        "license": " and ".join(about["license"]),
    }
    address = project.address()
    if address is not None:
        fields["url"] = f"{address}/tree/{project.tag()}"
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    bibtex = "\n".join(["@software{replearn,", *lines, "}"])
    place = f" {fields['url']}." if address is not None else ""
    words = f"{authors}. *{about['title']}*. Version {__version__}.{place}"
    return f"{about['message']}\n\n> {words}\n\n```bibtex\n{bibtex}\n```"


def changelog() -> str:
    """Return what has changed, version by version, without the file's own title."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = text[text.index("\n## ") :]
    versions = re.sub(r"^## \[(.+?)\]", r"## \1", versions, flags=re.MULTILINE)
    return re.sub(r"^##", "###", versions, flags=re.MULTILINE).strip()


# --- markers ---


def live_picture() -> str:
    """Return the live picture of the first page."""
    return live.figure("../_static")


def course_timetable() -> str:
    """Return the timetable of all lessons."""
    return timetable(notebooks())


def row_filter() -> str:
    """Return a field that leaves only the rows of the page's tables with some words in them."""
    return """\
<p data-filter hidden><label>Only rows with the words
<input type="search" placeholder="06 temperature" autocomplete="off"></label>
<output></output></p>
<script defer src="../_static/filter.js"></script>"""


def goals() -> str:
    """Return all goals that were set before measuring, and which of them were missed."""
    return panels.goals(lessons())


def how_right() -> str:
    """Return in one sentence how many quantities agree with their references."""
    rows = measured.stored("correctness", "rows")["rows"]
    good = sum(row["held"] and row["fault_seen"] for row in rows)
    return (
        f"{good} of {len(rows)} quantities agree with an independent reference, and each of these "
        "comparisons fails once a fault is planted."
    )


def course_minutes() -> str:
    """Return how long the stored notebooks took."""
    return measured.course(lessons())


MAKERS = {
    "budget": measured.budget,
    "changelog": changelog,
    "citation": citation,
    "claims": claims,
    "cold_start": measured.cold_start,
    "correctness": measured.correctness,
    "course": course_minutes,
    "faults": measured.faults,
    "goals": goals,
    "how_long": how_long,
    "how_right": how_right,
    "in_colab": in_colab,
    "lesson_map": lesson_map,
    "live_picture": live_picture,
    "mutation": measured.mutation,
    "outcomes": measured.outcomes,
    "panels": panels.panels,
    "photographs": photographs,
    "filter": row_filter,
    "progress": progress,
    "recipes": panels.recipes,
    "recipes_figure": panels.recipes_figure,
    "service": measured.service,
    "timetable": course_timetable,
    "version": version,
    "versions": measured.versions,
}


def made(marker: re.Match) -> str:
    """Return the text for one marker."""
    name, *arguments = marker[1].split()
    try:
        return MAKERS[name](*arguments)
    except measured.MissingError as error:
        print(f"site: not measured yet: {error}", file=sys.stderr)
        return f"> **Not measured yet.** {error}"


def fill(text: str) -> str:
    """Replace each marker by what it names, and make links of the lessons' numbers."""
    return link_lessons(re.sub(r"<!-- generated: ([\w ]+) -->", made, text))
