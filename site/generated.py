"""Parts of the site that are made from executed notebooks and measurements at every build.

A page holds `<!-- generated: NAME -->` or `<!-- generated: NAME ARGUMENT -->`; `fill` puts the
Markdown of the function NAME in its place, or a sentence if a measurement is missing.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import measured
import panels
from measured import escape, markdown_table
from timetable import timetable

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def notebooks() -> Iterator[tuple[str, list]]:
    """Yield every notebook of the site as (stem, cells)."""
    for name in re.findall(r"notebooks/(\w+)", (ROOT / "_toc.yml").read_text("utf-8")):
        text = (ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8")
        yield name, json.loads(text)["cells"]


# --- the lessons ---


def lesson_map() -> str:
    """Return the lessons as a table: name, question, minutes, what to know before."""
    rows = []
    for stem, cells in notebooks():
        opening = "".join(cells[0]["source"])
        title = line_after(r"# ", opening)
        minutes = line_after(r"\*\*Minutes\.\*\* ", opening)
        to_run = re.match(r"(\d+)", minutes)[1]
        to_read = re.search(r"about (\d+) to read", minutes)[1]
        question = line_after(r".*\*\*The question\.\*\* ", opening)
        question = re.sub(r"\$(\w)\$", r"*\1*", question)  # one letter is no reason to load MathJax
        before = line_after(r"\*\*Prerequisites\.\*\* ", opening)
        link = f"[{title}](/notebooks/{stem}.ipynb)"
        rows.append([link, question, f"{to_run} + {to_read}", before])
    return markdown_table(["Lesson", "Its question", "Minutes", "Before it"], rows)


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
        parts.append(f"## {title}\n\n[Open the lesson](/notebooks/{stem}.ipynb)\n\n{table}")
    return "\n\n".join(parts)


def photographs() -> str:
    """Return what the sections "On real photographs" measured."""
    rows = []
    for path in sorted(RESULTS.glob("photographs_[0-9][0-9].json")):
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
        return f"[{number}](/notebooks/{stems[number]}.ipynb)" if number in stems else number

    def link_phrase(match: re.Match) -> str:
        is_a_link_already = match[0].startswith("[")
        return match[0] if is_a_link_already else re.sub(r"\b\d\d\b", link_number, match[0])

    phrase = r"\[[^\]]*\]\([^)]*\)|\b[Ll]essons? \d\d\b(?:(?: \([^()]*\))?(?:, | and | to )\d\d\b)*"
    return re.sub(phrase, link_phrase, text)


# --- markers ---


def course_timetable() -> str:
    """Return the timetable of all lessons."""
    return timetable(notebooks())


def course_minutes() -> str:
    """Return how long the stored notebooks took."""
    return measured.course(notebooks())


MAKERS = {
    "budget": measured.budget,
    "claims": claims,
    "cold_start": measured.cold_start,
    "correctness": measured.correctness,
    "course": course_minutes,
    "faults": measured.faults,
    "goals": panels.goals,
    "lesson_map": lesson_map,
    "mutation": measured.mutation,
    "outcomes": measured.outcomes,
    "panels": panels.panels,
    "photographs": photographs,
    "recipes": panels.recipes,
    "service": measured.service,
    "timetable": course_timetable,
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
