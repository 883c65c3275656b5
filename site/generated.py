"""Tables of the site that are made from executed notebooks and measurements, each time the site is built.

A page holds `<!-- generated: NAME -->`; `fill` puts the Markdown of the function NAME in its place.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def notebooks():
    """Every stored notebook as (stem, cells)."""
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        yield path.stem, json.loads(path.read_text("utf-8"))["cells"]


def lesson_map():
    """The lessons as a table: name, question, minutes, what to know before."""
    rows = ["| Lesson | Its question | Minutes to run, to solve | Before it |", "| --- | --- | --- | --- |"]
    for stem, cells in notebooks():
        head = "".join(cells[0]["source"])
        title, question, before, minutes = (
            re.search(pattern, head, re.MULTILINE)[1].strip()
            for pattern in (r"^# (.+)", r"\*\*The question\.\*\* (.+)", r"\*\*Prerequisites\.\*\* (.+)",
                            r"\*\*Minutes\.\*\* (.+)")
        )  # fmt: skip
        run, solve = re.match(r"(\d+)", minutes)[1], re.search(r"about (\d+) to read", minutes)[1]
        rows.append(f"| [{title}](/notebooks/{stem}.ipynb) | {question} | {run}, {solve} | {before} |")
    return "\n".join(rows)


def printed_claims(cells):
    """(✓ or ✗, sentence, numbers) of each claim in a notebook's stored outputs."""
    text = "\n".join("".join(o.get("text", "")) for c in cells for o in c.get("outputs", ()))
    for mark, line in re.findall(r"^([✓✗]) (.+)$", text, re.MULTILINE):
        sentence, numbers = re.match(r"(.*?)(?: \(([^()]*(?:\([^()]*\)[^()]*)*)\))?$", line).groups()
        yield mark, sentence, numbers or ""


def claims():
    """Every measured sentence of the course with its numbers, and at how many seeds it held."""
    parts = []
    for stem, cells in notebooks():
        found = list(printed_claims(cells))
        path = RESULTS / f"claims_{stem[:2]}.json"
        seeds = json.loads(path.read_text("utf-8"))["claims"] if path.exists() else []
        held = {claim["sentence"]: f"{sum(claim['held'])} of {len(claim['held'])}" for claim in seeds}
        title = re.search(r"^# (.+)", "".join(cells[0]["source"]))[1]
        rows = [f"| {mark} | {escape(sentence)} | {escape(numbers)} | {held.get(sentence, '')} |"
                for mark, sentence, numbers in found]  # fmt: skip
        rows = ["| Held | Claim | As measured, seed 0 | Seeds |", "| --- | --- | --- | --- |", *rows]
        parts.append("\n".join([f"## {title}\n", f"[Open the lesson](/notebooks/{stem}.ipynb)\n", *rows]))
    return "\n\n".join(parts)


def photographs():
    """What the sections "On real photographs" measured."""
    rows = ["| Lesson | Held | Claim | As measured |", "| --- | --- | --- | --- |"]
    for path in sorted(RESULTS.glob("photographs_[0-9][0-9].json")):
        for claim in json.loads(path.read_text("utf-8"))["claims"]:
            numbers = ", ".join(f"{name.replace('_', ' ')} {short(value)}" for name, value in claim["numbers"].items())
            rows.append(f"| {path.stem[-2:]} | {'✓' if claim['holds'] else '✗'} | {escape(claim['sentence'])} "
                        f"| {escape(numbers)} |")  # fmt: skip
    return "\n".join(rows)


def short(value):
    """A number with three digits, or a list of such."""
    return f"[{', '.join(map(short, value))}]" if isinstance(value, list) else f"{value:.3g}"


def speed():
    """Ratios measured side by side in one run, with the spread where it was kept."""
    rows = ["| Question | Beside | Ours is faster by |", "| --- | --- | --- |"]
    augment = json.loads((RESULTS / "augment.json").read_text("utf-8"))
    for name, row in list(augment["variants"].items())[1:]:
        spread = f"{row['ours_is_faster']:.1f} ({row['fewest']:.1f} to {row['most']:.1f})"
        rows.append(f"| two views of a batch of {augment['batch']}, one thread | {escape(name)} | {spread} |")
    for name, row in list(json.loads((RESULTS / "cka.json").read_text("utf-8"))["forms"].items())[1:]:
        rows.append(f"| linear CKA, 10,000 × 512 | {escape(name)} form | {row['times_linear_cka']:.1f} |")
    for name, row in list(json.loads((RESULTS / "cca.json").read_text("utf-8"))["forms"].items())[1:]:
        rows.append(f"| 40 canonical correlations, 5,000 × 40 | {escape(name)} | {row['times_cca_correlations']:.0f} |")
    for setting, solvers in json.loads((RESULTS / "probe.json").read_text("utf-8"))["linear"].items():
        for name, row in list(solvers.items())[1:]:
            rows.append(f"| linear probe, {setting} | {escape(name)} | {row['times_replearn']:.1f} |")
    return "\n".join(rows)


def escape(text):
    """Text that stays as it is in a Markdown table."""
    return re.sub(r"([|*_$<\\\[\]`])", r"\\\1", text)


def fill(text):
    """Replace each marker by the table that it names."""
    makers = {maker.__name__: maker for maker in (lesson_map, claims, photographs, speed)}
    return re.sub(r"<!-- generated: (\w+) -->", lambda match: makers[match[1]](), text)
