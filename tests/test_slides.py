"""Slides, handout, the teachers' page: what they hold, that they need no network, how slides look in a browser."""

import base64
import importlib
import io
import json
import re
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from replearn.lesson import Frames, exercises
from tools import handout
from tools import notebooks as build
from tools.slides import __main__ as cli
from tools.slides import cut as slides

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "site"))
import timetable  # noqa: E402

LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
TEACHING = (ROOT / "site" / "teaching.md").read_text("utf-8")


def png(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (0, 114, 178)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def figure(width, height, alt):
    return new_output(
        "display_data", {"image/png": png(width, height)}, metadata={"image/png": dict(alt=alt)}
    )


def printed(text):
    return new_output("stream", text=text)


@pytest.fixture(scope="module")
def lesson():
    """A lesson with one of everything."""
    frames = Frames(
        [Image.new("RGB", (300, 200), (40 * i, 90, 90)) for i in range(4)],
        slider="angle",
        alt="A square",
    )
    moving = new_output("execute_result", frames._repr_mimebundle_())
    wide = (
        r"$$x = \underbrace{"
        + " + ".join(rf"\text{{a long word number {i}}}" for i in range(12))
        + r"}_{y}$$"
    )
    return new_notebook(
        cells=[
            new_markdown_cell(
                "# 06 · A title\n\n<!-- badge -->\n\n[![Badge](https://a.b/c.svg)](https://d.e)\n\n"
                "<!-- /badge -->\n\n> **The question.** Why $z$?\n\n**Prerequisites.** None.\n\n"
                "**Minutes.** 2."
            ),
            new_code_cell("import sys  # set-up", metadata=dict(tags=["setup"])),
            new_code_cell("lesson = Lesson('06')", outputs=[printed("header")]),
            new_markdown_cell("## Predict\n\nCommit to a guess."),
            new_code_cell(
                "lesson.predict('?', ['a'], answer='secret')", outputs=[printed("( ) a")]
            ),
            new_markdown_cell(
                f"## The idea\n\nA sentence before.\n\n{wide}\n\nIt costs $a < b$ and | more."
            ),
            new_code_cell("def shown(x):\n    return x"),
            new_code_cell("draw()", outputs=[figure(900, 400, "Bars: 1 & 2")]),
            new_markdown_cell(
                "A reading of the result.\n\n" + "\n\n".join("word " * 150 for _ in range(5))
            ),
            new_markdown_cell("### It moves\n\nMove the slider."),
            new_code_cell("Frames(...)", outputs=[moving]),
            new_markdown_cell("## Exercises\n\n### Exercise 1\n\nWrite it."),
            new_code_cell(
                "def nt_xent(z1): ...\n\nlesson.check('nt_xent', nt_xent)",
                outputs=[printed("not attempted")],
            ),
            new_code_cell("# lesson.hint('nt_xent')"),
            new_markdown_cell(
                "<!-- solution nt_xent -->\n\n<details><summary>Solution</summary>\n\ngiven away\n\n"
                "</details>\n\n<!-- /solution -->\n\n## On real photographs\n\nIt holds there too."
            ),
            new_code_cell("if photographs is not None: pass", outputs=[printed("No photographs")]),
            new_markdown_cell("## Pitfalls\n\n- one\n- two\n\n## References\n\n- somebody, 2020"),
            new_code_cell("lesson.finish()", outputs=[printed("Lesson 06: 1 of 1 claims held")]),
        ]
    )


@pytest.fixture(scope="module")
def page(lesson):
    pytest.importorskip("nbconvert", reason="nbconvert is not installed: pip install -e .[lab]")
    from tools.slides import page as slides_page

    return slides_page.page_of(lesson)


class Tags(HTMLParser):
    """All tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, {name: value or "" for name, value in attributes}))


def body(text):
    return text.split("<body", 1)[1]


def test_what_is_no_use_on_a_wall_is_left_out(page):
    shown = re.sub(r"<script.*?</script>", "", body(page[0]), flags=re.DOTALL)
    for text in (
        "a.b/c.svg",
        "Prerequisites",
        "Minutes",
        "set-up",
        "header",
        "hint(",
        "given away",
        "not attempted",
        "No photographs",
        "somebody",
        "claims held",
        "secret",
    ):
        assert text not in shown, text
    for text in (
        "06 · A title",
        "The question",
        "Commit to a guess",
        "( ) a",
        "It moves",
        "lesson",
        "check",
        "It holds there too",
        "Pitfalls",
        "two",
    ):
        assert text in shown, text


def test_code_is_folded_above_a_result_and_shown_where_there_is_none(page):
    folded = re.findall(r'<details class="code">.*?</details>', page[0], re.DOTALL)
    assert len(folded) == 2  # the figure and the Frames; a question shows no code at all
    assert not any("shown" in code for code in folded) and "shown" in page[0]


def test_nothing_comes_from_the_web(page):
    found = [
        f"<{tag} {attributes}>"
        for tag, attributes in Tags(page[0]).tags
        if re.match(r"(https?:)?//", attributes.get(LOADING.get(tag, ""), ""))
    ]
    assert not found
    scripts = [
        attributes["src"]
        for tag, attributes in Tags(page[0]).tags
        if tag == "script" and "src" in attributes
    ]
    assert scripts == [
        "mathjax/tex-chtml-full.js",
        "reveal/dist/reveal.js",
        "reveal/plugin/notes/notes.js",
    ]
    styles = re.findall(r"<style.*?</style>", page[0], re.DOTALL)
    assert not [
        style for style in styles if re.search(r"@import|url\(\s*[\"']?(https?:)?//", style)
    ]


def test_a_figure_keeps_its_words_and_a_slider_its_frames(page):
    pictures = [attributes for tag, attributes in Tags(page[0]).tags if tag == "img"]
    assert [picture["alt"] for picture in pictures] == ["Bars: 1 & 2", "A square: 3"]
    assert "data-frames=" in page[0] and 'type="range"' in page[0]


def test_every_slide_of_every_lesson_has_room_for_what_is_on_it():
    for path in LESSONS:
        found = list(slides.blocks(nbformat.read(path, as_version=4).cells))
        made = slides.pack(found)
        assert 20 < len(made) < 80, path.stem
        full = [
            [part for part in parts if part in found] for _, parts in made
        ]  # without the line that says where
        crowded = [parts for parts in full if slides.least(parts) > slides.ROOM]
        assert not [
            parts for parts in crowded if len([part for part in parts if not part.level]) > 1
        ], path.stem
        placed = [part.cell for parts in full for part in parts]
        assert placed == [block.cell for block in found]  # everything once, in order
        text = json.dumps([cell.source for cell in placed])
        assert (
            "<details><summary>Solution" not in text
            and "lesson.hint" not in text
            and "References" not in text
        )


def test_a_sentence_stays_with_its_figure():
    def text(height, level=0):
        return slides.Block(new_markdown_cell(f"{'#' * level} x"), height, level)

    def drawn(height):
        return slides.Block(new_code_cell("draw()"), height, figure=height, spare=0.35 * height)

    before, picture = text(100), drawn(400)
    (_, first), (_, second) = slides.pack([text(80, 2), text(300), before, picture])
    assert [part.height for part in first] == [80, 300] and second[1:] == [before, picture]
    # A figure shrinks a little before it goes to a slide of its own.
    assert len(slides.pack([text(80, 2), text(250), drawn(450)])) == 1
    assert len(slides.pack([text(80, 2), text(350), text(100), drawn(450)])) == 2


def test_a_large_figure_shrinks_to_its_share_of_the_slide(lesson):
    made, _ = slides.cut(lesson)
    sizes = [
        output.metadata["image/png"]
        for cell in made.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("metadata", {})
    ]
    assert [size["alt"] for size in sizes] == ["Bars: 1 & 2"]
    assert sizes[0]["width"] / sizes[0]["height"] == pytest.approx(900 / 400, rel=0.01)
    assert (
        slides.SHRINK * slides.HIGHEST <= sizes[0]["height"] + 1
        and sizes[0]["height"] <= slides.HIGHEST
    )


@pytest.mark.parametrize(
    "size, shown", [((900, 400), (1160, 516)), ((100, 50), (560, 280)), ((300, 900), (187, 560))]
)
def test_a_figure_fills_its_box_and_no_more(size, shown):
    output = figure(*size, "alt")
    assert slides._resized(output, slides.ENLARGE) == shown[1]
    assert output.metadata["image/png"] == dict(alt="alt", width=shown[0], height=shown[1])


def test_without_npm_and_without_a_copy_the_command_says_so(monkeypatch, tmp_path, capsys):
    pytest.importorskip("nbconvert", reason="nbconvert is not installed: pip install -e .[lab]")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="npm, which fetches it, is not installed"):
        cli.main([LESSONS[0].stem[:2], "--folder", str(tmp_path / "out")])


# --- in a browser, from file:// ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deck(page, tmp_path_factory):
    """A folder with the slides of the small lesson and of one real one, and what they load."""
    from tools.slides import page as slides_page

    folder = tmp_path_factory.mktemp("slides")
    try:
        list(slides_page.write(build.sources(["05"]), folder))
    except SystemExit as error:
        pytest.skip(str(error))
    (folder / "small.html").write_text(page[0], "utf-8")
    return folder


@pytest.fixture(scope="module")
def browser(chromium):
    return chromium("window-size=1280,860")


def opened(browser, path):
    """Open slides and wait until their formulas stand; return what the console complains about."""
    browser.get_log("browser")
    browser.get(path.as_uri())
    deadline = time.monotonic() + 60
    while not browser.execute_script(
        "return typeof Reveal != 'undefined' && Reveal.isReady() && !!window.MathJax"
        " && !!document.querySelector('mjx-container')"
    ):
        assert time.monotonic() < deadline, (
            f"{path.name} does not get ready: {browser.get_log('browser')}"
        )
        time.sleep(0.1)
    time.sleep(0.5)
    return [
        entry["message"]
        for entry in browser.get_log("browser")
        if entry["level"] in ("SEVERE", "WARNING")
    ]


SEEN = """
Reveal.slide(...Object.values(Reveal.getIndices(Reveal.getSlides()[arguments[0]])).slice(0, 2));
const slide = Reveal.getCurrentSlide(), parts = [...slide.children].filter((part) => !part.matches('aside'));
fit();
return [slide.scrollHeight - slide.clientHeight, slide.scrollWidth - slide.clientWidth, +parts[0].style.zoom,
        Math.max(0, ...[...slide.querySelectorAll('mjx-container[display]')].map((m) => m.scrollWidth - m.clientWidth)),
        slide.innerText]
"""


@pytest.mark.parametrize("name", ["small", "05_vae"])
def test_every_slide_fits_the_screen_and_the_console_is_silent(deck, browser, name):
    assert opened(browser, deck / f"{name}.html") == []
    count = browser.execute_script("return Reveal.getTotalSlides()")
    assert count == browser.execute_script("return Reveal.getSlides().length") > 5
    for number in range(count):
        high, wide, zoom, formula, text = browser.execute_script(SEEN, number)
        assert high <= 1 and wide <= 1 and zoom >= 0.7 and formula <= 1, (
            number,
            high,
            wide,
            zoom,
            formula,
            text[:80],
        )
        assert text.strip() and "$$" not in text and r"\frac" not in text


def test_the_number_of_slides_is_the_one_that_was_told(deck, browser, page):
    opened(browser, deck / "small.html")
    assert browser.execute_script("return Reveal.getTotalSlides()") == page[1]
    assert "05 · Variational autoencoders" in (deck / "index.html").read_text("utf-8")


def test_keys_move_the_slides_and_on_a_slider_only_the_slider(deck, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    opened(browser, deck / "small.html")
    where = "return JSON.stringify(Reveal.getIndices())"
    start = browser.execute_script(where)
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.SPACE)
    assert browser.execute_script(where) != start
    browser.find_element(By.TAG_NAME, "body").send_keys("c")
    assert browser.execute_script(
        "return [...document.querySelectorAll('details.code')].every((code) => code.open)"
    )
    browser.execute_script(
        "const s = Reveal.getSlides().find((one) => one.querySelector('[type=range]'));"
        "Reveal.slide(...Object.values(Reveal.getIndices(s)).slice(0, 2));"
    )
    place, slider = (
        browser.execute_script(where),
        browser.find_element(By.CSS_SELECTOR, "[type=range]"),
    )
    picture = "return [...document.querySelectorAll('figure img')].map((one) => one.src).join()"
    before = browser.execute_script(picture)
    slider.send_keys(Keys.ARROW_RIGHT)
    assert browser.execute_script(where) == place and browser.execute_script(picture) != before
    box = browser.execute_script(
        "const b = arguments[0].getBoundingClientRect(); return [b.top, b.bottom]", slider
    )
    assert 0 < box[0] < box[1] < 860


# --- the handout ------------------------------------------------------------------------------------------------------


def test_every_function_of_the_handout_exists():
    for _, name, _, function in handout.FORMULAS:
        module, _, attribute = function.split("(")[0].rpartition(".")
        assert not function or hasattr(importlib.import_module(f"replearn.{module}"), attribute), (
            name
        )


def test_the_stored_handout_is_the_one_of_these_formulas():
    for paper in handout.PAPERS:
        stored = (ROOT / "site" / "_static" / f"formulas-{paper}.pdf").read_bytes()
        assert handout.mark().encode() in stored, "make it again: python -m tools.handout"
        assert len(stored) < 200_000


def test_the_handout_is_one_page_of_letters(tmp_path, capsys):
    assert handout.main(["--folder", str(tmp_path)]) == 0
    for paper, (width, height) in handout.PAPERS.items():
        made = (tmp_path / f"formulas-{paper}.pdf").read_bytes()
        assert len(re.findall(rb"/Type /Page\b", made)) == 1 and b"/Subtype /Image" not in made
        box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", made).groups()
        assert [float(side) * 25.4 / 72 for side in box] == pytest.approx([width, height], abs=0.1)
    assert not list(tmp_path.glob("*.part"))


def test_a_formula_too_wide_or_a_page_too_full_is_refused(tmp_path, monkeypatch):
    row = ("01", "long", "$" + "+".join("abcdefghij" * 3) + "$", "")
    monkeypatch.setattr(handout, "FORMULAS", [row])
    with pytest.raises(ValueError, match=r"long: expected a formula of \d+ mm or less"):
        handout.write(tmp_path)
    monkeypatch.setattr(handout, "FORMULAS", [("01", "one", "$x$", "")] * 60)
    with pytest.raises(ValueError, match="expected a column of"):
        handout.write(tmp_path)
    assert not list(tmp_path.iterdir())


# --- the teachers' page -----------------------------------------------------------------------------------------------


def test_every_mistake_on_the_page_is_a_known_wrong_answer():
    rows = re.findall(r"^\| (\d\d) `(\w+)` \| (.+?) \| ", TEACHING, re.MULTILINE)
    assert {row[0] for row in rows} >= {path.stem[:2] for path in LESSONS}
    for lesson, name, wrong in rows:
        assert wrong in exercises.get(lesson, name).wrong, (lesson, name, wrong)


def test_every_lesson_has_two_exam_questions_with_answers_and_one_to_discuss():
    exam = TEACHING.split("## Exam questions")[1].split("\n## ")[0]
    discuss = TEACHING.split("## Questions to discuss")[1].split("\n## ")[0]
    for number in (f"{n:02d}" for n in range(1, 13)):
        part = exam.split(f"### {number} · ")[1].split("\n### ")[0]
        questions, answers = (
            re.findall(r"^\*\*\d\.\*\* \[\d\]", part, re.MULTILINE),
            part.count("```{dropdown} Answer"),
        )
        assert len(questions) == answers >= 2, number
        assert f"- **{number}.** " in discuss


def test_the_points_on_the_page_are_those_of_the_exercises():
    worth = sum(
        exercises.get(lesson, name).difficulty
        for lesson in (f"{n:02d}" for n in range(1, 13))
        for name in exercises.names(lesson)
    )
    assert f"{worth} points for the twelve lessons" in TEACHING.replace("\n", " ")


def test_minutes_are_counted_by_the_stated_rule():
    code = dict(
        cell_type="code", metadata={}, source="a\n\nb\n", outputs=[{"data": {"image/png": ""}}]
    )
    cells = [
        dict(cell_type="markdown", metadata={}, source="# 01 · Title\n" + "word " * 396),
        dict(
            cell_type="markdown",
            metadata={},
            source="end\n\n## First $x$\n$$a b c$$\n" + "word " * 197,
        ),
        code,
        dict(
            cell_type="markdown",
            metadata={},
            source="## Exercises\nabout 15 minutes, then (5 minutes, easy)\n"
            "<!-- solution a -->about 90 minutes<!-- /solution -->\n## Later\nabout 60 minutes\n## References\n"
            + "word "
            * 999,
        ),
    ]
    minutes = timetable.sections(cells)
    assert minutes["Opening"] == pytest.approx(401 / 200)
    assert minutes["First $x$"] == pytest.approx(200 / 200 + 0.5 + 2 / 20 + 0.5)
    assert timetable.to_solve(cells) == 20 and "References" not in minutes
    table = timetable.timetable(
        (path.stem, json.loads(path.read_text("utf-8"))["cells"]) for path in LESSONS
    )
    for line, path in zip(table.splitlines()[2:], LESSONS, strict=True):
        read, solve, run = line.split(" | ")[2:5]
        assert path.stem in line and 20 < int(read) < 90 and 0 < int(solve) < 90, line
        assert float(run.rstrip(" |") or 0) < 15  # nothing: not executed yet
