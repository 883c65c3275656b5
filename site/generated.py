"""Tables of the site that are made from executed notebooks and measurements, each time the site is built.

A page holds `<!-- generated: NAME -->` or `<!-- generated: NAME ARGUMENT -->`; `fill` puts the Markdown of the function
NAME in its place, or a sentence if a measurement is missing.
"""

import json
import re
import sys
from pathlib import Path

import measured
import panels
from measured import escape
from timetable import timetable

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def notebooks():
    """Every notebook of the site as (stem, cells)."""
    for name in re.findall(r"notebooks/(\w+)", (ROOT / "_toc.yml").read_text("utf-8")):
        yield name, json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8"))["cells"]


def lesson_map():
    """The lessons as a table: name, question, minutes, what to know before."""
    rows = ["| Lesson | Its question | Minutes | Before it |", "| --- | --- | --- | --- |"]
    for stem, cells in notebooks():
        head = "".join(cells[0]["source"])
        title, question, before, minutes = (
            re.search(pattern, head, re.MULTILINE)[1].strip()
            for pattern in (
                r"^# (.+)",
                r"\*\*The question\.\*\* (.+)",
                r"\*\*Prerequisites\.\*\* (.+)",
                r"\*\*Minutes\.\*\* (.+)",
            )
        )
        question = re.sub(r"\$(\w)\$", r"*\1*", question)  # one letter is no reason to load MathJax
        run, solve = re.match(r"(\d+)", minutes)[1], re.search(r"about (\d+) to read", minutes)[1]
        rows.append(
            f"| [{title}](/notebooks/{stem}.ipynb) | {question} | {run} + {solve} | {before} |"
        )
    return "\n".join(rows)


def printed_claims(cells):
    """(✓ or ✗, sentence, numbers) of each claim in a notebook's stored outputs."""
    text = "\n".join("".join(o.get("text", "")) for c in cells for o in c.get("outputs", ()))
    for mark, line in re.findall(r"^([✓✗]) (.+)$", text, re.MULTILINE):
        sentence, numbers = re.match(
            r"(.*?)(?: \(([^()]*(?:\([^()]*\)[^()]*)*)\))?$", line
        ).groups()
        yield mark, sentence, numbers or ""


def claims():
    """Every measured sentence of the course with its numbers, and at how many seeds it held."""
    parts = []
    for stem, cells in notebooks():
        found = list(printed_claims(cells))
        path = RESULTS / f"claims_{stem[:2]}.json"
        seeds = json.loads(path.read_text("utf-8"))["claims"] if path.exists() else []
        held = {
            claim["sentence"]: f"{sum(claim['held'])} of {len(claim['held'])}" for claim in seeds
        }
        title = re.search(r"^# (.+)", "".join(cells[0]["source"]))[1]
        rows = [
            f"| {mark} {escape(sentence)} | {escape(numbers)} | {held.get(sentence, '')} |"
            for mark, sentence, numbers in found
        ]
        rows = ["| Claim | As measured, seed 0 | Held at seeds |", "| --- | --- | --- |", *rows]
        parts.append(
            "\n".join([f"## {title}\n", f"[Open the lesson](/notebooks/{stem}.ipynb)\n", *rows])
        )
    return "\n\n".join(parts)


def photographs():
    """What the sections "On real photographs" measured."""
    rows = ["| Lesson | Claim | As measured |", "| --- | --- | --- |"]
    for path in sorted(RESULTS.glob("photographs_[0-9][0-9].json")):
        for claim in json.loads(path.read_text("utf-8"))["claims"]:
            numbers = ", ".join(
                f"{name.replace('_', ' ')} {short(value)}"
                for name, value in claim["numbers"].items()
            )
            rows.append(
                f"| {path.stem[-2:]} | {'✓' if claim['holds'] else '✗'} {escape(claim['sentence'])} "
                f"| {escape(numbers)} |"
            )
    return "\n".join(rows)


def short(value):
    """A number with three digits, or a list of such."""
    return f"[{', '.join(map(short, value))}]" if isinstance(value, list) else f"{value:.3g}"


def link_lessons(text):
    """The numbers in "Lesson 02" or "lessons 02 (probes) and 06" as links to the lessons that are there."""
    stems = {stem[:2]: stem for stem, _ in notebooks()}

    def link(match):
        return (
            f"[{match[0]}](/notebooks/{stems[match[0]]}.ipynb)" if match[0] in stems else match[0]
        )

    phrase = r"\[[^\]]*\]\([^)]*\)|\b[Ll]essons? \d\d\b(?:(?: \([^()]*\))?(?:, | and | to )\d\d\b)*"
    return re.sub(
        phrase,
        lambda match: match[0] if match[0][0] == "[" else re.sub(r"\b\d\d\b", link, match[0]),
        text,
    )


MAKERS = {
    maker.__name__: maker
    for maker in (
        lesson_map,
        claims,
        photographs,
        panels.panels,
        panels.goals,
        panels.recipes,
        measured.budget,
        measured.service,
        measured.correctness,
        measured.mutation,
        measured.faults,
        measured.outcomes,
        measured.cold_start,
        measured.versions,
    )
}
MAKERS |= {
    "timetable": lambda: timetable(notebooks()),
    "course": lambda: measured.course(notebooks()),
}


def made(marker):
    """The text for one marker."""
    name, *arguments = marker[1].split()
    try:
        return MAKERS[name](*arguments)
    except measured.MissingError as error:
        print(f"site: not measured yet: {error}", file=sys.stderr)
        return f"> **Not measured yet.** {error}"


def fill(text):
    """Replace each marker by what it names; link every lesson's number."""
    return link_lessons(re.sub(r"<!-- generated: ([\w ]+) -->", made, text))
