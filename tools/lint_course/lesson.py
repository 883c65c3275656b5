"""The rules for one lesson: its text, its executed notebook, and what other pages say of it."""

import json
import re
import statistics
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import jupytext
import nbformat
from jupytext.compare import NotebookDifference, compare_notebooks
from nbformat import NotebookNode

from tools import notebooks, project
from tools.lint_course.claims import thresholds_stand_in_sentences

LARGEST_BYTES = 1_500_000  # of a stored notebook
LONGEST_MEDIAN = 10  # lines of the median code cell
CHECKED = "nbval-check-output"  # nbval runs such a cell again and compares what it prints
RUN = "run `python -m tools.notebooks run NN`"

BONES = (  # what it is, kind of cell, pattern; in this order
    ("the title “# NN · …”", "markdown", r"^# [\dF]\d · \S"),
    ("the mark <!-- badge -->", "markdown", r"<!-- badge -->"),
    ("**Objectives**", "markdown", r"^\*\*Objectives"),
    ("**Prerequisites**", "markdown", r"^\*\*Prerequisites"),
    ("**Minutes**", "markdown", r"^\*\*Minutes"),
    ("the set-up cell", "code", r"^# Set-up"),
    ("Lesson(…)", "code", r"\bLesson\("),
    ("## Predict", "markdown", r"^## Predict"),
    ("lesson.predict", "code", r"\blesson\.predict\("),
    ("lesson.claim", "code", r"\blesson\.claim\("),
    ("## Exercises", "markdown", r"^## Exercises"),
    ("lesson.check", "code", r"\blesson\.check\("),
    ("## On real photographs", "markdown", r"^## On real photographs"),
    ("lesson.photographs", "code", r"\blesson\.photographs\("),
    ("## Pitfalls", "markdown", r"^## Pitfalls"),
    (
        "## What we have seen, what is still open",
        "markdown",
        r"^## What we have seen, what is still open",
    ),
    ("## References", "markdown", r"^## References"),
    ("lesson.finish", "code", r"\blesson\.finish\("),
)

# Words that need no entry in the glossary: bold for its own sake (factors, rows of a table, whole
# statements), and what everybody calls a thing.
PLAIN_WORDS = {
    *"pixels random supervised color background size rotation near far linear nonlinear".split(),
    *"crop p50 p95 CPU CPUs GPU GPUs MB JPEG JSON NaN PyTorch ReLU ReLUs OpenCLIP".split(),
    *"PneumoniaMNIST McAllester LeCun SIGKILL".split(),
    "sum of all squared covariances",
    "the directions with",
    "identifiable up to",
    "no blur",
    "linear (SGD)",
    "kNN accuracy",
}


SEEDS = 5
# A notebook of the frontier shelf.
FRONTIER_EXERCISES = 2
FRONTIER_CLAIMS = 3
FRONTIER_MINUTES = 30

# Sections that need no questions: the prediction asks one, and Exercises and what stands beside the
# lesson ask in their own way.
NOT_CORE = "Predict|Exercises|Going further|On real|Pitfalls|What we have seen|References"
CHECK_YOURSELF = "**Check yourself.** Choose an answer to open it."
QUESTIONS = 2

# Words of a sentence about a measurement that the notebook does not show.
ASIDE = r"outside this notebook|measured once|tried once|not part of this notebook|in a trial"


class Lesson:
    """A lesson of a checkout, read when it is asked for.

    Args:
        root: The folder of the checkout.
        name: The lesson, "06_simclr".
    """

    def __init__(self, root: Path, name: str):
        self.root = root
        self.name = name
        self.number = name[:2]
        self.path = root / "notebooks" / f"{project.place(name)}.ipynb"
        self.source = self.path.parent / "src" / f"{name}.md"
        self.is_frontier = not self.number.isdigit()

    @cached_property
    def text(self) -> str:
        """The text that people edit."""
        return self.source.read_text("utf-8")

    @cached_property
    def notebook(self) -> NotebookNode:
        """The executed notebook."""
        return nbformat.read(self.path, as_version=4)

    def page(self, name: str) -> str:
        """Return the text of a page of the site."""
        return (self.root / "site" / name).read_text("utf-8")


def lesson_faults(lesson: Lesson) -> Iterator[str]:
    """Yield the faults of one lesson, by all rules."""
    text_name = lesson.source.relative_to(lesson.root).as_posix()
    notebook_name = lesson.path.relative_to(lesson.root).as_posix()
    if not lesson.path.exists():
        yield f"{notebook_name}: missing: {RUN.replace('NN', lesson.number)}"
        return
    for rule in NOTEBOOK_RULES:
        for fault in rule(lesson.notebook):
            yield f"{notebook_name}: {fault.replace('NN`', f'{lesson.number}`')}"
    for fault in thresholds_stand_in_sentences(lesson.notebook):
        yield f"{notebook_name}: {fault}"
    for fault in photographs_are_shown(lesson.notebook):
        yield f"{notebook_name}: {fault.replace('NN`', f'{lesson.number}`')}"
    for fault in claims_hold_at_every_seed(lesson):
        yield f"{text_name}: {fault}"
    for rule in (*LESSON_RULES, *(FRONTIER_RULES if lesson.is_frontier else TWELVE_RULES)):
        for fault in rule(lesson):
            yield f"{text_name}: {fault.replace('NN`', f'{lesson.number}`')}"


# --- rules for the notebook ---


def bones_in_order(nb: NotebookNode) -> Iterator[str]:
    """Every lesson has the same parts, in the same order."""
    position = 0
    for name, kind, pattern in BONES:
        places = []
        for index, cell in enumerate(nb.cells[position:], position):
            if cell.cell_type == kind and re.search(pattern, cell.source, re.MULTILINE):
                places.append(index)
        if not places:
            yield f"{name} is missing, or not after the part before it: see CONTRIBUTING.md"
            return  # all parts after it would be out of order, too
        position = places[0]


def something_moves(nb: NotebookNode) -> Iterator[str]:
    """Every lesson has a figure to move, before or after its claims."""
    if not any(re.search(r"\b(Frames(\.\w+)?|live)\(", cell.source) for cell in _code(nb)):
        yield "nothing moves: add a figure with Frames(…) or live(…)"


def executed_in_order(nb: NotebookNode) -> Iterator[str]:
    """The outputs come from one run from top to bottom."""
    counts = [cell.execution_count for cell in _code(nb)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"the cells were not executed once each, in order, in a fresh kernel: {RUN}"


def short_cells(nb: NotebookNode) -> Iterator[str]:
    """Code comes in pieces of one idea."""
    lengths = []
    for cell in _code(nb):
        if "setup" not in _tags(cell):
            lengths.append(sum(bool(line.strip()) for line in cell.source.split("\n")))
    median = statistics.median(lengths)
    if median > LONGEST_MEDIAN:
        yield f"the median code cell has {median} lines, more than {LONGEST_MEDIAN}: split some"


def nothing_went_wrong(nb: NotebookNode) -> Iterator[str]:
    """No error and no warning is stored."""
    for position, cell in enumerate(_code(nb), 1):
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"code cell {position} has stored an error: mend it and {RUN}"
            if output.get("name") == "stderr":
                warning = output.text[:200]
                yield f"code cell {position} has stored a warning ({warning}): mend it and {RUN}"


def nothing_of_this_machine(nb: NotebookNode) -> Iterator[str]:
    """No output shows a path of the machine, or an address in its memory."""
    pattern = r"/(?:work|root|tmp|home|Users)/\w+|\b0x[0-9a-f]{8,}"
    for position, cell in enumerate(_code(nb), 1):
        traces = re.findall(pattern, _printed_text(cell))
        if traces:
            yield f"code cell {position} shows what only this machine has ({traces[0]}): hide it"


def figures_have_alt_text(nb: NotebookNode) -> Iterator[str]:
    """Every figure has words for those who cannot see it. `Frames` has them inside its HTML."""
    for position, cell in enumerate(_code(nb), 1):
        for output in cell.outputs:
            kinds = output.get("data", {})
            if "image/png" in kinds and "text/html" not in kinds and not cell.metadata.get("alt"):
                yield f"code cell {position} has a figure without words: add :alt: to the cell"
                break


def claims_and_checks_are_compared(nb: NotebookNode) -> Iterator[str]:
    """Claims hold, and nbval compares what claims and checks print.

    On photographs it does not, since not every machine has them.
    """
    on_photographs = False
    for cell in nb.cells:
        if cell.cell_type == "markdown" and "## On real photographs" in cell.source:
            on_photographs = True
        if cell.cell_type != "code":
            continue
        printed = _stream_text(cell)
        start = cell.source[:60]
        is_claim = ".claim(" in cell.source
        if is_claim and "✗" in printed:
            yield f"a claim does not hold ({printed.strip()}): say what was measured"
        if on_photographs:
            if CHECKED in _tags(cell) and "finish" not in cell.source:
                yield f"not every machine has photographs: take the tag {CHECKED} off {start}"
            continue
        if not re.search(r"\blesson\.(claim|check)\(", cell.source):
            continue
        if CHECKED not in _tags(cell):
            yield f"a claim or check is not compared: add the tag {CHECKED} to {start}"
        if not printed.strip():
            yield f"a claim or check has no stored output ({start}): {RUN}"
        elif re.search(r"\blesson\.claim\(", cell.source) and "✓" not in printed:
            yield f"a claim has printed no ✓ ({start}): {RUN}"


def exercises_are_whole(nb: NotebookNode) -> Iterator[str]:
    """Each exercise has its hint and its solution."""
    whole_text = "\n".join(cell.source for cell in nb.cells)
    for cell in _code(nb):
        for name in re.findall(r"\blesson\.check\(\s*[\"'](\w+)", cell.source):
            for needed in (f"<!-- solution {name} -->", f'hint("{name}")'):
                if needed not in whole_text:
                    yield f"exercise {name} is not whole: add {needed}"


NOTEBOOK_RULES = (
    bones_in_order,
    something_moves,
    executed_in_order,
    short_cells,
    nothing_went_wrong,
    nothing_of_this_machine,
    figures_have_alt_text,
    claims_and_checks_are_compared,
    exercises_are_whole,
)


def _code(nb: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _stream_text(cell: NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def _printed_text(cell: NotebookNode) -> str:
    """Return all that the outputs say, without the bytes of pictures."""
    kept = []
    for output in cell.outputs:
        data = output.get("data", output)
        kept.append({kind: text for kind, text in data.items() if not kind.startswith("image/")})
    return re.sub(r"base64,[\w+/=]+", "", json.dumps(kept, ensure_ascii=False))


# --- rules for the text, and for what belongs to it ---


def notebook_is_light(lesson: Lesson) -> Iterator[str]:
    """A notebook opens fast."""
    size = lesson.path.stat().st_size
    if size > LARGEST_BYTES:
        yield f"its notebook has {size:,} bytes, more than {LARGEST_BYTES:,}: show fewer pictures"


def generated_blocks_are_current(lesson: Lesson) -> Iterator[str]:
    """Badge, set-up cell and solutions are those that `sync` makes."""
    is_current = notebooks.regenerate(lesson.text, lesson.name) == lesson.text
    if not is_current or notebooks.setup_source() not in lesson.text:
        yield "a generated block is not current: run `python -m tools.notebooks sync NN`"
    if lesson.text.count("<!-- badge -->") != 1:
        yield "expected the mark <!-- badge --> once: see CONTRIBUTING.md"


def notebook_says_what_its_text_says(lesson: Lesson) -> Iterator[str]:
    """Text and notebook are a pair, and the notebook is stored as `sync` stores it."""
    stored = lesson.notebook
    from_text = notebooks.clean(jupytext.reads(lesson.text, fmt="md:myst"))
    try:
        compare_notebooks(from_text, stored, fmt="md:myst")
    except NotebookDifference:
        yield "its notebook says something else: run `python -m tools.notebooks sync NN`"
        return
    copy = nbformat.read(lesson.path, as_version=4)  # `clean` works in place
    if lesson.path.read_text("utf-8") != notebooks.notebook_text(notebooks.clean(copy)):
        yield "its notebook is not stored cleanly: run `python -m tools.notebooks sync NN`"


def papers_are_on_the_reference_page(lesson: Lesson) -> Iterator[str]:
    """Every paper that a lesson links stands in the bibliography."""
    hosts = r"(?:arxiv\.org/abs|doi\.org|openreview\.net)"
    pattern = rf"\]\(https://{hosts}/([^\s]+?)\)(?=[\s.,;)]|$)"
    papers = re.findall(pattern, lesson.text, re.MULTILINE)
    if not papers:
        yield "links no paper: add the sources of what it says"
    bibliography = lesson.page("references.bib")
    for paper in papers:
        if paper not in bibliography:
            yield f"the paper {paper} is not listed: add it to site/references.bib"


def words_are_in_the_glossary(lesson: Lesson) -> Iterator[str]:
    """The glossary explains what a lesson has in bold, and names such as kNN or InfoNCE."""
    terms = {term.lower() for term in glossary_terms(lesson.page("glossary.md"))}
    words = set()
    for term in terms:
        words.update(re.split("[- ]", term))
    text = _prose(lesson.text)

    unknown = set()
    for phrase in re.findall(r"\*\*([^*]+)\*\*", text):
        phrase = " ".join(phrase.split())
        is_term = phrase[0].islower() and len(phrase.split()) <= 4 and phrase[-1] != "."
        if is_term and phrase.lower() not in terms:
            unknown.add(phrase)
    for name in re.findall(r"\b[a-z]?[A-Z][a-z]?[A-Z][A-Za-z]*\b", text):
        singular = name.lower().rstrip("s")
        if name.lower() not in words and singular not in words:
            unknown.add(name)
    for word in sorted(unknown - PLAIN_WORDS):
        yield f"“{word}” is not in the glossary: explain it in site/glossary.md"


def core_sections_end_in_questions(lesson: Lesson) -> Iterator[str]:
    """Every section of the lesson proper ends in two short questions, which answer back.

    The answers of a question are folded one by one: the handle is the answer, and what is inside
    begins with ✓ or ✗ and says why. One answer is right.
    """
    text = re.sub(r"```.*?```", "", lesson.text, flags=re.DOTALL)
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title = section.split("\n")[0]
        if re.match(NOT_CORE, title):
            continue
        _, mark, end = section.partition(CHECK_YOURSELF)
        questions = _questions(end)
        is_last = end.rstrip("+ \n").endswith("</details>")  # "+++" begins the next cell
        if not mark or len(questions) != QUESTIONS or not is_last:
            yield (
                f"“{title}” does not end in {QUESTIONS} questions, found {len(questions)}: write "
                f"them below “{CHECK_YOURSELF}”, and nothing after them"
            )
        for question, signs in questions.items():
            if signs.count("✓") != 1 or signs.count("✗") != len(signs) - 1 or len(signs) < 2:
                yield (
                    f"the answers to “{question[:60]}…” begin with {' '.join(signs)}: expected ✓ "
                    "once and ✗ for each other, with a sentence that says why"
                )


def _questions(text: str) -> dict[str, list[str]]:
    """Return the questions below "Check yourself", and how the text of each answer begins."""
    pattern = (
        r"<details><summary>(?:(?!</summary>).)+</summary>\s*(\S+)"
        r"(?:(?!</details>).)*\w(?:(?!</details>).)*</details>"
    )
    found: dict[str, list[str]] = {}
    place = 0
    question = ""
    for answer in re.finditer(pattern, text, re.DOTALL):
        question = " ".join(text[place : answer.start()].split()) or question
        found.setdefault(question, []).append(answer[1])
        place = answer.end()
    return found


def photographs_are_shown(nb: NotebookNode) -> Iterator[str]:
    """The stored section on real photographs has a figure and claims, so that readers see them."""
    code_cells = _photograph_cells(nb)
    printed = "".join(_stream_text(cell) for cell in code_cells)
    has_figure = any(
        "image/png" in output.get("data", {}) for cell in code_cells for output in cell.outputs
    )
    store = "store it with `python -m scripts.photographs NN --store`"
    if "No photographs" in printed or not has_figure:
        yield f"the section on real photographs shows no figure: {store}"
    if "✓" not in printed:
        yield f"the section on real photographs shows no claim: {store}"


def _photograph_cells(nb: NotebookNode) -> list[NotebookNode]:
    """Return the code cells of the section on real photographs."""
    inside = False
    code_cells = []
    for cell in nb.cells:
        if cell.cell_type == "markdown" and re.search(r"^## ", cell.source, re.MULTILINE):
            inside = "## On real photographs" in cell.source
        elif cell.cell_type == "code" and inside:
            code_cells.append(cell)
    return code_cells


def claims_hold_at_every_seed(lesson: Lesson) -> Iterator[str]:
    """What a lesson claims, photographs aside, was measured at five seeds and held at each."""
    measure = f"`python -m tools.notebooks run {lesson.number} --seeds {SEEDS} --profile cpu`"
    path = lesson.root / "replearn" / "lesson" / "claims" / f"{lesson.number}_cpu.json"
    if not path.exists():
        yield f"its claims were not measured over seeds: {measure}"
        return
    record = {}
    for claim in json.loads(path.read_text("utf-8"))["claims"]:
        record[claim["sentence"]] = claim["held"]

    photographs = _photograph_cells(lesson.notebook)
    for cell in _code(lesson.notebook):
        if ".claim(" not in cell.source or cell in photographs:
            continue
        for line in _stream_text(cell).splitlines():
            if not line.startswith("✓ "):
                continue
            # The numbers follow the sentence, in parentheses.
            known = [words for words in record if f"{line} (".startswith(f"✓ {words} (")]
            if not known:
                yield f"a claim was not measured over seeds ({line[2:62]}…): {measure}"
                continue
            held = record[max(known, key=len)]
            if len(held) < SEEDS:
                yield f"a claim was measured at {len(held)} seeds ({line[2:62]}…): {measure}"
            elif not all(held):
                yield (
                    f"a claim held at {sum(held)} of {len(held)} seeds ({line[2:62]}…): say what "
                    f"is true at each, and {measure}"
                )


def photographs_quote_the_measurement(lesson: Lesson) -> Iterator[str]:
    """What a lesson says of real photographs is what the stored measurement says."""
    path = lesson.root / "benchmarks" / "results" / f"photographs_{lesson.number}.json"
    if not path.exists():
        return
    record = json.loads(path.read_text("utf-8"))
    is_original = record["data"] == "CIFAR-10 (as published)"
    if not is_original:
        yield f"expected the original CIFAR-10, found {record['data']} in {path.name}"
    section = lesson.text.split("## On real photographs")[1].split("\n## ")[0]
    prose = re.sub(r"```.*?```", "", section, flags=re.DOTALL)
    quoted = {float(number) for number in re.findall(r"(\d+(?:\.\d)?) ?%", prose)}
    chance = 10.0  # of a guess among ten classes
    level = 95.0  # of an interval
    if len(quoted - {chance, level}) < 3:
        yield f"quotes fewer than three numbers from photographs: read them in {path.name}"
    measured = measured_percentages(record) | {chance}
    for number in sorted(quoted):
        # Half of the last digit covers the two ways to round a number that ends in 5.
        if min(abs(number - value) for value in measured) >= 0.051:
            yield f"{number:g} % of photographs was not measured: see {path.name}"


def measured_percentages(record: dict) -> set[float]:
    """Return every share that a stored measurement has in its claims, in percent.

    Each stands there twice, rounded to a whole number and to one decimal.
    """
    shares = []
    for claim in record["claims"]:
        for value in claim["numbers"].values():
            shares += value if isinstance(value, list) else [value]
    percentages = set()
    for share in shares:
        percentages.add(float(f"{100 * share:.0f}"))
        percentages.add(float(f"{100 * share:.1f}"))
    return percentages


def side_experiments_are_stored(lesson: Lesson) -> Iterator[str]:
    """What a lesson says was measured outside its notebook is stored, and so are its numbers.

    Photographs have a rule and records of their own.
    """
    path = lesson.root / "benchmarks" / "results" / "side_experiments.json"
    record = json.loads(path.read_text("utf-8")) if path.exists() else {}
    entries = {name: entry for name, entry in record.items() if entry["lesson"] == lesson.number}
    photographs = _section(lesson.text, "## On real photographs", "\n## ")
    prose = " ".join(_prose(lesson.text.replace(photographs, "")).split())
    # A sentence may end in a parenthesis, and "et al." ends none.
    ends = r"(?:(?<=[.!?])(?<!al\.)|(?<=[.!?]\)))\s(?=[A-Z(*-])"

    carried = set()
    for sentence in re.split(ends, prose):
        if not re.search(ASIDE, sentence, re.IGNORECASE):
            continue
        names = [name for name, entry in entries.items() if entry["words"] in sentence]
        carried.update(names)
        if not names:
            yield (
                f"nothing stored shows what was measured aside ({sentence[:80]}…): add it to "
                "scripts/side_experiments.py, or measure it in a cell"
            )
            continue
        known = [value for name in names for value in _known_numbers(entries[name])]
        if re.search(r"\d (%|points)", sentence):  # "45 to 61 %" has one unit for two numbers
            known += [100 * value for value in known]
        for number in re.findall(r"\d[\d,]*(?:\.\d+)?", sentence):
            if not any(_rounds_to(value, number.replace(",", "")) for value in known):
                yield f"{number} was not measured by {', '.join(names)}: see {path.name}"
    for name in sorted(set(entries) - carried):
        yield (
            f"no sentence rests on {name} of {path.name}: expected one with "
            f"“{entries[name]['words']}” that says it was measured outside this notebook"
        )


def _known_numbers(entry: dict) -> list[float]:
    """Return what an entry of the side experiments measured, its means, and its settings."""
    known = [*entry["settings"].values(), *entry["seeds"], len(entry["seeds"])]
    for of_seeds in entry["numbers"].values():
        values = []
        for value in of_seeds:
            values += value if isinstance(value, list) else [value]
        known += [*values, statistics.mean(values)]
    return [abs(value) for value in known]  # a sentence says "lower by 0.1"


def _rounds_to(value: float, number: str) -> bool:
    """Return whether a value is a number in digits, up to half of the last digit and a little."""
    decimals = len(number.partition(".")[2])
    return abs(value - float(number)) <= 0.51 * 10**-decimals


def teachers_have_questions(lesson: Lesson) -> Iterator[str]:
    """A lesson has two exam questions with answers, a question to discuss, and known mistakes."""
    page = lesson.page("teaching.md")
    exam = _section(page, "## Exam questions", "\n## ")
    part = _section(exam, f"### {lesson.number} · ", "\n### ")
    questions = re.findall(r"^\*\*\d\.\*\* \[\d\]", part, re.MULTILINE)
    answers = part.count("```{dropdown} Answer")
    if len(questions) < 2 or len(questions) != answers:
        yield (
            f"found {len(questions)} exam questions and {answers} answers in site/teaching.md: "
            "write two or more, each with its answer"
        )
    if f"- **{lesson.number}.** " not in _section(page, "## Questions to discuss", "\n## "):
        yield "has no question to discuss: add one to site/teaching.md"
    if not re.search(rf"^\| {lesson.number} `\w+` \| ", page, re.MULTILINE):
        yield "has no common mistakes: add rows to the table of site/teaching.md"


def frontier_is_short(lesson: Lesson) -> Iterator[str]:
    """A notebook of the shelf has two exercises, three claims or more, and says it is short."""
    code = "\n".join(cell.source for cell in _code(lesson.notebook))
    checks = set(re.findall(r"\blesson\.check\(\s*[\"'](\w+)", code))
    if len(checks) != FRONTIER_EXERCISES:
        yield f"has {len(checks)} exercises, expected {FRONTIER_EXERCISES}: write or drop some"
    measured = code.split("lesson.photographs(")[0].count("lesson.claim(")
    if measured < FRONTIER_CLAIMS:
        yield f"has {measured} claims, expected {FRONTIER_CLAIMS} or more: measure more"
    said = r"^\*\*Minutes\.\*\* 1 to run.*about (\d+) to read"
    minutes = re.search(said, lesson.text, re.MULTILINE)
    if minutes is None or int(minutes[1]) > FRONTIER_MINUTES:
        yield (
            "does not say “1 to run …; about N to read and solve”, with N up to "
            f"{FRONTIER_MINUTES}: write it, or make the notebook shorter"
        )


LESSON_RULES = (
    notebook_is_light,
    generated_blocks_are_current,
    notebook_says_what_its_text_says,
    papers_are_on_the_reference_page,
    words_are_in_the_glossary,
    core_sections_end_in_questions,
    photographs_quote_the_measurement,
    side_experiments_are_stored,
)
TWELVE_RULES = (teachers_have_questions,)
FRONTIER_RULES = (frontier_is_short,)


def glossary_terms(page: str) -> list[str]:
    """Return the words that the glossary explains, as it writes them."""
    return re.findall(r"^\w.+", glossary_block(page), re.MULTILINE)


def glossary_block(page: str) -> str:
    """Return the part of the glossary with its entries, which an empty line separates."""
    return page.split("```")[1].split("\n", 1)[1]


def _prose(text: str) -> str:
    """Return a lesson's text without code, formulas, addresses and references."""
    text = text.split("\n## References")[0]
    no_prose = r"```.*?```|<!--.*?-->|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)"
    return re.sub(no_prose, " ", text, flags=re.DOTALL)


def _section(text: str, start: str, end: str) -> str:
    """Return what stands between two pieces of text; empty if the first is missing."""
    _, _, rest = text.partition(start)
    return rest.split(end)[0]
