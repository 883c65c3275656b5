"""Slides, handout, timetable: what they hold, that they need no network, how slides look."""

import base64
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

from replearn.lesson import Frames
from tools import handout, notebooks
from tools.slides import __main__ as command
from tools.slides import cut

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "site"))
import timetable  # noqa: E402

LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


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
    images = [Image.new("RGB", (300, 200), (40 * i, 90, 90)) for i in range(4)]
    frames = Frames(images, slider="angle", alt="A square")
    moving = new_output("execute_result", frames._repr_mimebundle_())
    words = " + ".join(rf"\text{{a long word number {i}}}" for i in range(12))
    wide = rf"$$x = \underbrace{{{words}}}_{{y}}$$"
    long_text = "\n\n".join("word " * 150 for _ in range(5))
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
            new_markdown_cell(f"A reading of the result.\n\n{long_text}"),
            new_markdown_cell(
                "**Check yourself.** Choose.\n\nHow many apples?\n\n"
                "<details><summary>three</summary>\n\n✓ Yes.\n\n</details>\n\n"
                "### It moves\n\nMove the slider."
            ),
            new_code_cell("Frames(...)", outputs=[moving]),
            new_markdown_cell("## Exercises\n\n### Exercise 1\n\nWrite it."),
            new_code_cell(
                "def nt_xent(z1): ...\n\nlesson.check('nt_xent', nt_xent)",
                outputs=[printed("not attempted")],
            ),
            new_code_cell("# lesson.hint('nt_xent')"),
            new_markdown_cell(
                "<!-- solution nt_xent -->\n\n<details><summary>Solution</summary>\n\n"
                "given away\n\n</details>\n\n<!-- /solution -->\n\n"
                "## On real photographs\n\nIt holds there too."
            ),
            new_code_cell("if photographs is not None: pass", outputs=[printed("No photographs")]),
            new_markdown_cell("## Pitfalls\n\n- one\n- two\n\n## References\n\n- somebody, 2020"),
            new_code_cell("lesson.finish()", outputs=[printed("Lesson 06: 1 of 1 claims held")]),
        ]
    )


@pytest.fixture(scope="module")
def page(lesson):
    pytest.importorskip("nbconvert", reason="nbconvert is not installed: pip install -e .[lab]")
    from tools.slides.page import page_of

    return page_of(lesson)


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
        "Check yourself",
        "apples",
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
    scripts = []
    for tag, attributes in Tags(page[0]).tags:
        loaded = attributes.get(LOADING.get(tag, ""), "")
        assert not re.match(r"(https?:)?//", loaded), (tag, attributes)
        if tag == "script" and "src" in attributes:
            scripts.append(attributes["src"])
    assert scripts == [
        "mathjax/tex-chtml-full.js",
        "reveal/dist/reveal.js",
        "reveal/plugin/notes/notes.js",
    ]
    for style in re.findall(r"<style.*?</style>", page[0], re.DOTALL):
        assert not re.search(r"@import|url\(\s*[\"']?(https?:)?//", style)


def test_a_figure_keeps_its_words_and_a_slider_its_frames(page):
    images = [attributes for tag, attributes in Tags(page[0]).tags if tag == "img"]
    assert [image["alt"] for image in images] == ["Bars: 1 & 2", "A square: 3"]
    assert "data-frames=" in page[0] and 'type="range"' in page[0]


def test_every_slide_of_every_lesson_has_room_for_what_is_on_it():
    for path in LESSONS:
        blocks = list(cut.blocks(nbformat.read(path, as_version=4).cells))
        slides = cut.pack(blocks)
        # Lesson 12 is the build of the whole course, and four of its sections are optional.
        most = 110 if path.stem.startswith("12") else 90
        assert 20 < len(slides) < most, path.stem
        placed = []
        for slide in slides:
            own = [block for block in slide.blocks if block in blocks]  # not the line "where"
            placed += [block.cell for block in own]
            content = [block for block in own if not block.level]
            # One block may be larger than a slide, which scrolls then; never two together.
            assert cut.least_height(own) <= cut.ROOM or len(content) <= 1, path.stem
        assert placed == [block.cell for block in blocks]  # everything once, in order
        text = json.dumps([cell.source for cell in placed])
        assert "<details><summary>Solution" not in text
        assert "lesson.hint" not in text
        assert "References" not in text


def text_block(height, level=0):
    return cut.Block(new_markdown_cell(f"{'#' * level} x"), height, level)


def figure_block(height):
    return cut.Block(new_code_cell("draw()"), height, figure=height, spare=0.35 * height)


def test_a_sentence_stays_with_its_figure():
    sentence = text_block(100)
    drawn = figure_block(400)
    first, second = cut.pack([text_block(80, 2), text_block(300), sentence, drawn])
    assert [block.height for block in first.blocks] == [80, 300]
    assert second.blocks[1:] == [sentence, drawn]


def test_a_figure_shrinks_a_little_before_it_goes_to_a_slide_of_its_own():
    heading = text_block(80, 2)
    assert len(cut.pack([heading, text_block(250), figure_block(450)])) == 1
    assert len(cut.pack([heading, text_block(350), text_block(100), figure_block(450)])) == 2


def test_a_large_figure_shrinks_to_its_share_of_the_slide(lesson):
    made, _ = cut.cut(lesson)
    sizes = []
    for cell in made.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("metadata", {}):
                sizes.append(output.metadata["image/png"])
    (size,) = sizes
    assert size["alt"] == "Bars: 1 & 2"
    assert size["width"] / size["height"] == pytest.approx(900 / 400, rel=0.01)
    assert cut.SHRINK * cut.LARGEST_HEIGHT <= size["height"] + 1
    assert size["height"] <= cut.LARGEST_HEIGHT


@pytest.mark.parametrize(
    "size, shown", [((900, 400), (1160, 516)), ((100, 50), (560, 280)), ((300, 900), (187, 560))]
)
def test_a_figure_fills_its_box_and_no_more(size, shown):
    output = figure(*size, "alt")
    assert cut._resize(output, cut.ENLARGE) == shown[1]
    assert output.metadata["image/png"] == dict(alt="alt", width=shown[0], height=shown[1])


def test_without_npm_and_without_a_copy_the_command_says_so(monkeypatch, tmp_path, capsys):
    pytest.importorskip("nbconvert", reason="nbconvert is not installed: pip install -e .[lab]")
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="npm, which fetches it, is not installed"):
        command.main([LESSONS[0].stem[:2], "--folder", str(tmp_path / "out")])


# --- in a browser, from file:// ---


@pytest.fixture(scope="module")
def deck(page, tmp_path_factory):
    """A folder with the slides of the small lesson and of one real one, and what they load."""
    from tools.slides.page import write_slides

    folder = tmp_path_factory.mktemp("slides")
    try:
        list(write_slides(notebooks.sources(["05"]), folder))
    except SystemExit as error:
        pytest.skip(str(error))
    (folder / "small.html").write_text(page[0], "utf-8")
    return folder


@pytest.fixture(scope="module")
def browser(chromium):
    return chromium("window-size=1280,860")


READY = """return typeof Reveal != 'undefined' && Reveal.isReady() && !!window.MathJax
    && !!document.querySelector('mjx-container')"""


def opened(browser, path):
    """Open slides and wait until their formulas stand; return what the console complains about."""
    browser.get_log("browser")
    browser.get(path.as_uri())
    deadline = time.monotonic() + 60
    while not browser.execute_script(READY):
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
const slide = Reveal.getCurrentSlide();
const parts = [...slide.children].filter((part) => !part.matches('aside'));
fit();
const formulas = [...slide.querySelectorAll('mjx-container[display]')];
return [
  slide.scrollHeight - slide.clientHeight,
  slide.scrollWidth - slide.clientWidth,
  +parts[0].style.zoom,
  Math.max(0, ...formulas.map((m) => m.scrollWidth - m.clientWidth)),
  slide.innerText,
]
"""


@pytest.mark.parametrize("name", ["small", "05_vae"])
def test_every_slide_fits_the_screen_and_the_console_is_silent(deck, browser, name):
    assert opened(browser, deck / f"{name}.html") == []
    count = browser.execute_script("return Reveal.getTotalSlides()")
    assert count == browser.execute_script("return Reveal.getSlides().length") > 5
    for number in range(count):
        high, wide, zoom, formula, text = browser.execute_script(SEEN, number)
        seen = (number, high, wide, zoom, formula, text[:80])
        assert high <= 1 and wide <= 1 and zoom >= 0.7 and formula <= 1, seen
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
    place = browser.execute_script(where)
    slider = browser.find_element(By.CSS_SELECTOR, "[type=range]")
    shown = "return [...document.querySelectorAll('figure img')].map((one) => one.src).join()"
    before = browser.execute_script(shown)
    slider.send_keys(Keys.ARROW_RIGHT)
    assert browser.execute_script(where) == place
    assert browser.execute_script(shown) != before
    top, bottom = browser.execute_script(
        "const b = arguments[0].getBoundingClientRect(); return [b.top, b.bottom]", slider
    )
    assert 0 < top < bottom < 860


# --- the handout ---


def test_the_handout_is_one_page_of_letters(tmp_path, capsys):
    assert handout.main(["--folder", str(tmp_path)]) == 0
    for paper, (width, height) in handout.PAPERS.items():
        made = (tmp_path / f"formulas-{paper}.pdf").read_bytes()
        assert len(re.findall(rb"/Type /Page\b", made)) == 1 and b"/Subtype /Image" not in made
        box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", made).groups()
        assert [float(side) * 25.4 / 72 for side in box] == pytest.approx([width, height], abs=0.1)
    assert not list(tmp_path.glob("*.partial"))


def test_a_formula_too_wide_or_a_page_too_full_is_refused(tmp_path, monkeypatch):
    too_wide = "$" + "+".join("abcdefghij" * 3) + "$"
    monkeypatch.setattr(handout, "FORMULAS", [handout.Formula("01", "long", too_wide)])
    with pytest.raises(ValueError, match=r"long: expected a formula of \d+ mm or less"):
        handout.write(tmp_path)
    monkeypatch.setattr(handout, "FORMULAS", [handout.Formula("01", "one", "$x$")] * 60)
    with pytest.raises(ValueError, match="expected a column of"):
        handout.write(tmp_path)
    assert not list(tmp_path.iterdir())


# --- the timetable ---


def markdown(source):
    return dict(cell_type="markdown", metadata={}, source=source)


def test_minutes_are_counted_by_the_stated_rule():
    figure_cell = dict(
        cell_type="code", metadata={}, source="a\n\nb\n", outputs=[{"data": {"image/png": ""}}]
    )
    exercises = (
        "## Exercises\nabout 15 minutes, then (5 minutes, easy)\n"
        "<!-- solution a -->about 90 minutes<!-- /solution -->\n"
        "## Later\nabout 60 minutes\n## References\n" + "word " * 999
    )
    cells = [
        markdown("# 01 · Title\n" + "word " * 396),
        markdown("end\n\n## First $x$\n$$a b c$$\n" + "word " * 197),
        figure_cell,
        markdown(exercises),
    ]
    minutes = timetable.sections(cells)
    assert minutes["Opening"] == pytest.approx(401 / 200)
    assert minutes["First $x$"] == pytest.approx(200 / 200 + 0.5 + 2 / 20 + 0.5)
    assert timetable.to_solve(cells) == 20
    assert "References" not in minutes


def test_the_timetable_has_plausible_minutes_for_every_lesson():
    lessons = []
    for path in LESSONS:
        lessons.append((path.stem, json.loads(path.read_text("utf-8"))["cells"]))
    rows = timetable.timetable(lessons).splitlines()[2:]
    for row, path in zip(rows, LESSONS, strict=True):
        read, solve, run = row.split(" | ")[2:5]
        assert path.stem in row
        most = 110 if path.stem.startswith("12") else 90  # four of its sections are optional
        assert 20 < int(read) < most, row
        assert 0 < int(solve) < 90, row
        assert float(run.rstrip(" |") or 0) < 15, row  # nothing: not executed yet
