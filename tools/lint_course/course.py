"""The rules for files of the course that must agree with each other."""

import importlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml

from replearn.lesson import exercises
from replearn.lesson.lesson import LESSONS
from tools import architecture, handout, project
from tools.lint_course.lesson import glossary_block

NAME = "replearn"
# These belong to strangers: nothing may be installed from there, and nothing may lead there.
STRANGERS = (f"github.com/{NAME}", f"{NAME}.github.io")


def lessons_are_pairs(root: Path) -> Iterator[str]:
    """Every notebook has a text, and every text has a notebook."""
    for folder in (root / "notebooks", root / "notebooks" / "frontier"):
        texts = {path.stem for path in (folder / "src").glob("*.md")}
        notebooks = {path.stem for path in folder.glob("*.ipynb")}
        place = folder.relative_to(root)
        for name in sorted(notebooks - texts):
            yield f"{place}/{name}.ipynb: has no text: write {place}/src/{name}.md"
        for name in sorted(texts - notebooks):
            number = name[:2]
            yield (
                f"{place}/src/{name}.md: has no notebook: "
                f"run `python -m tools.notebooks run {number}`"
            )


def table_of_contents_is_whole(root: Path) -> Iterator[str]:
    """The site lists every notebook, in order, and no page that does not exist."""
    toc = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    pages = [toc["root"]]
    for part in toc["parts"]:
        pages += [chapter["file"] for chapter in part["chapters"]]
    for page in pages:
        if not any((root / f"{page}{ending}").exists() for ending in (".md", ".ipynb", ".rst")):
            yield f"_toc.yml: lists {page}, which does not exist: write it or take it off"
    listed = [page for page in pages if page.startswith("notebooks/")]
    stored = []
    for pattern in ("*.ipynb", "frontier/*.ipynb"):
        stored += sorted((root / "notebooks").glob(pattern))
    expected = [f"notebooks/{project.place(path.stem)}" for path in stored]
    if listed != expected:
        missing = ", ".join(sorted(set(expected) - set(listed))) or "none is missing"
        yield f"_toc.yml: does not list every notebook in order ({missing}): add or move lines"


def environment_agrees(root: Path) -> Iterator[str]:
    """environment.yml has the Python of pyproject.toml; all else comes from there, so that nothing
    can drift."""
    environment = yaml.safe_load((root / "environment.yml").read_text("utf-8"))
    python = "python" + project.metadata()["requires-python"]
    expected = ["pip", {"pip": ["-c constraints.txt", "-e .[lab]"]}]
    first, *rest = environment["dependencies"]
    if not first.startswith(python) or rest != expected:
        yield f"environment.yml: its dependencies differ: write {python}, pip and {expected[1]}"
    if environment["channels"] != ["conda-forge"]:
        yield "environment.yml: has other channels: write conda-forge alone"


def constraints_pin_what_is_needed(root: Path) -> Iterator[str]:
    """constraints.txt pins every package that pyproject.toml names, and has no addresses."""
    pinned = set()
    for line in (root / "constraints.txt").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        if not re.match(r"[a-z0-9._-]+==[\w.+!]+( ; .+)?$", line):
            yield f"constraints.txt: “{line}” is no pin: write name==version"
        pinned.add(line.split("==")[0])
    metadata = project.metadata()
    requirements = list(metadata["dependencies"])
    for extra in metadata["optional-dependencies"].values():
        requirements += extra
    for requirement in requirements:
        name = re.match(r"[\w-]+", requirement)[0].replace("_", "-").lower()
        if name not in pinned and name != NAME:
            yield f"constraints.txt: {name} is not pinned: add {name}==version"


def addresses_are_ours(root: Path) -> Iterator[str]:
    """Every address of the project is made from the one in pyproject.toml, if there is one."""
    own = tuple(project.metadata().get("urls", {}).values())
    for place in (project.colab(""), project.kaggle(""), project.binder("")):
        if place is not None:
            own += (place.split("/notebooks")[0].split("?")[0],)
    pattern = rf"https?://[\w./-]*\b{NAME}\b[\w./-]*"
    for path in _tracked_files(root):
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:  # a picture, weights
            continue
        strange = {address for address in re.findall(pattern, text) if not address.startswith(own)}
        strange.update(stranger for stranger in STRANGERS if stranger in text)
        for address in sorted(strange):
            yield (
                f"{path.relative_to(root)}: {address} is no address of the project: take it out, "
                "or set [project.urls] in pyproject.toml and run `python -m tools.notebooks sync`"
            )


def commands_exist(root: Path) -> Iterator[str]:
    """Anybody can type the commands that the pages name and the measurements record."""
    pages = [*root.glob("*.md"), *(root / "site").glob("*.md")]
    for page in sorted(pages):
        if page.name == "CHANGELOG.md":  # it also names commands that are gone
            continue
        for module in re.findall(r"python -m\s+((?:replearn|tools)[\w.]*)", _text(page)):
            if not _is_module(root, module):
                yield f"{page.relative_to(root)}: there is no module {module}: correct the command"
    for path in sorted((root / "benchmarks" / "results").glob("*.json")):
        record = json.loads(path.read_text("utf-8"))
        command = record.get("command") if isinstance(record, dict) else None
        if command is None:
            continue
        name = path.relative_to(root)
        if re.search(r"(?<![\w.])/\w+/", command):
            yield f"{name}: its command has a path of one machine ({command}): take it out"
        command = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command)  # variables of the environment
        command = re.sub(r"^python -m pytest .*?(?=tests/)", "python ", command)
        program = re.match(r"(?:python -m ([\w.]+)|(?:python|bash) ([\w./]+))", command)
        if program is None:
            yield f"{name}: its command is none that anybody can type ({command}): correct it"
        elif program[1] and not _is_module(root, program[1]):
            yield f"{name}: there is no module {program[1]}: correct its command"
        elif program[2] and not (root / program[2]).exists():
            yield f"{name}: there is no {program[2]}: correct its command"


def glossary_is_in_order(root: Path) -> Iterator[str]:
    """The entries are sorted, explain a term once, and name only lessons that use it."""
    lesson_texts = {}
    for path in sorted((root / "notebooks").glob("**/src/??_*.md")):
        words = _text(path).replace("*", "").split()
        lesson_texts[path.name[:2]] = " ".join(words).lower()
    all_texts = " ".join(lesson_texts.values())

    heads = []
    seen = set()
    for entry in glossary_block(_text(root / "site" / "glossary.md")).split("\n\n"):
        terms = [term.lower() for term in re.findall(r"^\w.+", entry, re.MULTILINE)]
        if not terms:
            continue
        heads.append(terms[0])
        for term in terms:
            if term in seen:
                yield f"site/glossary.md: “{term}” is explained twice: take one out"
            seen.add(term)
        lists = " ".join(re.findall(r"Lessons? [\dF]\d(?:, [\dF]\d)*", entry))
        numbers = re.findall(r"[\dF]\d", lists)
        if not numbers and not any(term in all_texts for term in terms):
            yield f"site/glossary.md: no lesson uses “{terms[0]}”: take it out"
        for number in numbers:
            # A lesson that is not on the site yet is passed over.
            text = lesson_texts.get(number)
            if text is not None and not any(term in text for term in terms):
                yield f"site/glossary.md: lesson {number} does not use “{terms[0]}”: correct it"
    if heads != sorted(heads):
        first = next(
            head for head, place in zip(heads, sorted(heads), strict=True) if head != place
        )
        yield f"site/glossary.md: “{first}” is not where the alphabet has it: sort the entries"


def teaching_page_agrees_with_the_exercises(root: Path) -> Iterator[str]:
    """The mistakes that teachers are told of are those that the checker knows, and so are the
    points."""
    page = _text(root / "site" / "teaching.md")
    rows = re.findall(r"^\| (\d\d) `(\w+)` \| (.+?) \| ", page, re.MULTILINE)
    for lesson, name, mistake in rows:
        if name not in exercises.names(lesson):
            yield f"site/teaching.md: lesson {lesson} has no exercise {name}: correct the table"
        elif mistake not in exercises.get(lesson, name).wrong:
            yield (
                f"site/teaching.md: “{mistake}” is no known mistake of {name}: write it as "
                f"replearn/lesson/exercises/ex{lesson}.py does"
            )
    points = 0
    for lesson in LESSONS:
        for name in exercises.names(lesson):
            points += exercises.get(lesson, name).difficulty
    if f"{points} points for the twelve lessons" not in page.replace("\n", " "):
        yield f"site/teaching.md: the exercises have {points} points together: correct the sum"


def handout_is_current(root: Path) -> Iterator[str]:
    """The handout that is stored is made of the formulas, and these name functions that exist."""
    for paper in handout.PAPERS:
        stored = (root / "site" / "_static" / f"formulas-{paper}.pdf").read_bytes()
        if handout.mark().encode() not in stored:
            yield (
                f"site/_static/formulas-{paper}.pdf: has other formulas: "
                "run `python -m tools.handout`"
            )
        if len(stored) >= 200_000:
            yield f"site/_static/formulas-{paper}.pdf: has {len(stored):,} bytes: make it lighter"
    for row in handout.FORMULAS:
        if not row.function:
            continue
        module, _, attribute = row.function.split("(")[0].rpartition(".")
        if not hasattr(importlib.import_module(f"{NAME}.{module}"), attribute):
            yield f"tools/handout.py: there is no {row.function}: correct the row “{row.name}”"


def architecture_is_drawn_from_the_source(root: Path) -> Iterator[str]:
    """The picture in ARCHITECTURE.md shows the imports of today."""
    stored = (root / "site" / "_static" / "architecture.svg").read_text("utf-8")
    if architecture.in_words(architecture.imports()) not in stored:
        yield (
            "site/_static/architecture.svg: shows other imports: run `python -m tools.architecture`"
        )


COURSE_RULES = (
    lessons_are_pairs,
    table_of_contents_is_whole,
    environment_agrees,
    constraints_pin_what_is_needed,
    addresses_are_ours,
    commands_exist,
    glossary_is_in_order,
    teaching_page_agrees_with_the_exercises,
    handout_is_current,
    architecture_is_drawn_from_the_source,
)


def _text(path: Path) -> str:
    return path.read_text("utf-8")


def _tracked_files(root: Path) -> list[Path]:
    """Return the files that git knows; outside a checkout, all files."""
    command = ["git", "-C", str(root), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode != 0:
        return [path for path in sorted(root.rglob("*")) if path.is_file()]
    paths = [root / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]  # one may have been deleted


def _is_module(root: Path, module: str) -> bool:
    """Say whether `python -m MODULE` finds something to run in a checkout."""
    path = root.joinpath(*module.rstrip(".").split("."))
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()
