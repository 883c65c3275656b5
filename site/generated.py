"""Tables of the site that are made from executed notebooks and measurements, each time the site is built.

A page holds `<!-- generated: NAME -->`; `fill` puts the Markdown of the function NAME in its place.
"""

import json
import re
from pathlib import Path

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
            for pattern in (r"^# (.+)", r"\*\*The question\.\*\* (.+)", r"\*\*Prerequisites\.\*\* (.+)",
                            r"\*\*Minutes\.\*\* (.+)")
        )  # fmt: skip
        question = re.sub(r"\$(\w)\$", r"*\1*", question)  # one letter is no reason to load MathJax
        run, solve = re.match(r"(\d+)", minutes)[1], re.search(r"about (\d+) to read", minutes)[1]
        rows.append(f"| [{title}](/notebooks/{stem}.ipynb) | {question} | {run} + {solve} | {before} |")
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
        rows = [f"| {mark} {escape(sentence)} | {escape(numbers)} | {held.get(sentence, '')} |"
                for mark, sentence, numbers in found]  # fmt: skip
        rows = ["| Claim | As measured, seed 0 | Held at seeds |", "| --- | --- | --- |", *rows]
        parts.append("\n".join([f"## {title}\n", f"[Open the lesson](/notebooks/{stem}.ipynb)\n", *rows]))
    return "\n\n".join(parts)


def photographs():
    """What the sections "On real photographs" measured."""
    rows = ["| Lesson | Claim | As measured |", "| --- | --- | --- |"]
    for path in sorted(RESULTS.glob("photographs_[0-9][0-9].json")):
        for claim in json.loads(path.read_text("utf-8"))["claims"]:
            numbers = ", ".join(f"{name.replace('_', ' ')} {short(value)}" for name, value in claim["numbers"].items())
            rows.append(f"| {path.stem[-2:]} | {'✓' if claim['holds'] else '✗'} {escape(claim['sentence'])} "
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
    for path in sorted(RESULTS.glob("t4_budget_*.json")):
        row = json.loads(path.read_text("utf-8"))
        where = f"a training step of SimCLR, {row['network']}, {row['threads']} thread{'s' * (row['threads'] > 1)}"
        if "times_the_per_sample_route" in row:
            beside, times = "one picture at a time, torchvision", row["times_the_per_sample_route"]
        else:
            beside, times = "the same step on views made before", row["throughput_of_views_made_before"]
        rows.append(f"| {escape(where)} | {beside} | {times:.2g} |")
    return "\n".join(rows)


def service():
    """How long callers of an exported encoder wait."""
    found = json.loads((RESULTS / "serve.json").read_text("utf-8"))
    columns = "Encoder", "Precision", "Model, MB", "1: p50, p95", "8: p50, p95, p99", "8: answers a second"
    rows = [f"| {' | '.join(columns)} |", "| --- | --- | --- | --- | --- | --- |"]
    for name, precisions in found["bundles"].items():
        for precision, row in precisions.items():
            alone, crowd = row["one_client"], row["load"]
            waits = (", ".join(f"{who[f'{p}_ms']:.1f}" for p in which)
                     for who, which in ((alone, ("p50", "p95")), (crowd, ("p50", "p95", "p99"))))  # fmt: skip
            rows.append(f"| {escape(name)} | {precision} | {row['model_mb']:.2f} | {' | '.join(waits)} | "
                        f"{crowd['requests_a_second']:.0f} |")  # fmt: skip
    return "\n".join(rows)


def escape(text):
    """Text that stays as it is in a Markdown table; a number and its unit stay on one line."""
    return re.sub(r"([|*_$<\\\[\]`])", r"\\\1", text).replace(" %", "\u00a0%")


def link_lessons(text):
    """The numbers in "Lesson 02" or "lessons 02 (probes) and 06" as links to the lessons that are there."""
    stems = {stem[:2]: stem for stem, _ in notebooks()}

    def link(match):
        return f"[{match[0]}](/notebooks/{stems[match[0]]}.ipynb)" if match[0] in stems else match[0]

    phrase = r"\[[^\]]*\]\([^)]*\)|\b[Ll]essons? \d\d\b(?:(?: \([^()]*\))?(?:, | and | to )\d\d\b)*"
    return re.sub(phrase, lambda match: match[0] if match[0][0] == "[" else re.sub(r"\b\d\d\b", link, match[0]), text)


def fill(text):
    """Replace each marker by the table that it names; link every lesson's number."""
    makers = {maker.__name__: maker for maker in (lesson_map, claims, photographs, speed, service)}
    makers["timetable"] = lambda: timetable(notebooks())
    return link_lessons(re.sub(r"<!-- generated: (\w+) -->", lambda match: makers[match[1]](), text))
