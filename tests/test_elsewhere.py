"""Where else the course runs and is read: environment.yml, the page to cite it, the book."""

import re
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

import replearn
from tools import book, notebooks, project

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "site"))


# --- conda and Binder ---


def environment():
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))


def test_the_environment_installs_what_make_lab_installs():
    """Its packages are those of pyproject.toml, with the versions of constraints.txt."""
    *packages, by_pip = environment()["dependencies"]
    assert by_pip == {"pip": ["-c constraints.txt", "-e .[lab]"]}
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert '-e ".[$*]" -c constraints.txt' in makefile and "lab: .venv/.lab" in makefile
    assert "lab" in project.metadata()["optional-dependencies"]
    assert (ROOT / "constraints.txt").exists()
    assert [re.match(r"[a-z]+", package)[0] for package in packages] == ["python", "pip"]


def test_the_environment_takes_the_pythons_that_the_package_takes():
    (python,) = [line for line in environment()["dependencies"] if str(line).startswith("python")]
    lowest = project.metadata()["requires-python"]
    assert python.startswith(f"python{lowest},<")
    highest = tuple(map(int, python.split("<")[1].split(".")))
    assert (3, 13) < highest  # Colab's
    assert environment()["channels"] == ["conda-forge"]


# --- version, citation, changes ---


@pytest.mark.parametrize("address", [None, "https://github.com/somebody/course"])
def test_the_citation_has_the_version_and_the_address_if_there_is_one(
    monkeypatch, tmp_path, address
):
    generated = pytest.importorskip("generated")
    urls = f'[project.urls]\nRepository = "{address}"\n' if address else ""
    (tmp_path / "pyproject.toml").write_text(f"[project]\n{urls}")
    monkeypatch.setattr(project, "ROOT", tmp_path)
    text = generated.citation()
    assert f"version = {{{replearn.__version__}}}" in text
    assert "author = {{The replearn authors}}" in text
    assert ("url = {https://github.com/somebody/course/tree/v" in text) == bool(address)
    assert replearn.__version__ in generated.version()


def test_the_changes_keep_their_order_below_the_pages_heading():
    generated = pytest.importorskip("generated")
    text = generated.changelog()
    source = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## (.+)", source, re.MULTILINE)
    plain = [re.sub(r"[\[\]]", "", version) for version in versions]
    assert plain and re.findall(r"^### (.+)", text, re.MULTILINE) == plain
    assert not re.search(r"^##? ", text, re.MULTILINE)


# --- the book ---

PAGE = """<html><head><link rel="stylesheet" href="../_static/course.css">
{scripts}</head><body><nav id="menu"></nav><article class="bd-article">
<h1>{title}<a class="headerlink" href="#top">#</a></h1>
<section id="top"><p>{text}</p></section></article></body></html>"""
MATH = """<script>window.MathJax = {}</script>
<script defer src="../_static/mathjax/tex.js?v=1"></script>"""


@pytest.fixture
def small_site(tmp_path):
    """A site of two pages that are in the book, and one that is not."""
    pytest.importorskip("bs4")
    texts = {
        "site/index": '<a href="../notebooks/01_x.html#top">one</a> <a href="#top">here</a>',
        "notebooks/01_x": """<a href="../site/index.html">back</a>
<a href="../site/progress.html">mine</a> <a href="https://example.org/a#b">out</a>
<img src="../_images/a.png">
<svg id="s"><path id="p"/><use href="#p"/></svg>
<details><summary>Solution</summary></details><details class="hide"><summary>Imports</summary>
</details>""",
    }
    for name, text in texts.items():
        path = tmp_path / f"{name}.html"
        path.parent.mkdir(exist_ok=True)
        scripts = MATH if name.startswith("notebooks") else ""
        path.write_text(PAGE.format(scripts=scripts, title=name, text=text), "utf-8")
    return tmp_path


def test_the_book_is_one_page_whose_links_stay_inside(small_site):
    text = book.assembled(small_site, ["site/index", "notebooks/01_x"])
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    inside = re.findall(r'<a [^>]*href="#([^"]+)"', text)
    assert inside and set(inside) <= set(ids)
    assert '<a href="#notebooks-01_x--top">one</a>' in text
    assert '<a href="#site-index--top">here</a>' in text
    assert '<a href="#site-index">back</a>' in text
    assert "progress" not in text, "what is not in the book is not linked"
    assert 'href="https://example.org/a#b"' in text
    assert 'src="_images/a.png"' in text
    assert '<use href="#p"' in text and 'id="p"' in text, "pictures keep their own names"
    assert text.count('<details open="">') == 1 and '<details class="hide">' in text
    assert 'src="_static/mathjax/tex.js?v=1"' in text and "window.MathJax" in text
    assert text.count("_static/course.css") == 1
    assert 'id="menu"' not in text
    with pytest.raises(ValueError, match="expected a page of the built site, found none"):
        book.assembled(small_site, ["site/nothing"])


def test_the_book_has_the_pages_of_the_table_of_contents():
    pytest.importorskip("yaml")
    names = book.pages()
    assert names[0] == "site/index"
    lessons = [name for name in names if name.startswith("notebooks/")]
    assert lessons == [f"notebooks/{project.place(path.stem)}" for path in notebooks.sources()]
    assert "site/progress" not in names
    for name in names:
        assert list(ROOT.glob(f"{name}.*")), name


def test_without_a_browser_the_book_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(book, "BROWSERS", ("no-such-browser",))
    with pytest.raises(ValueError, match="expected a browser"):
        book.write_pdf(tmp_path / "book.pdf")
    assert not list(tmp_path.iterdir())


def test_formulas_of_an_epub_become_mathml_and_are_declared(monkeypatch, tmp_path):
    inline = '<span class="math notranslate nohighlight">\\(a &lt; b\\)</span>'
    display = '<div class="math notranslate nohighlight" id="e">\n<span class="eqno">(1)</span>'
    display += "\\[x^2\\]</div>"
    with zipfile.ZipFile(tmp_path / "raw.epub", "w") as raw:
        raw.writestr("mimetype", "application/epub+zip")
        raw.writestr("a.xhtml", f"<body><p>{inline} {inline}</p>{display}</body>")
        raw.writestr("b.xhtml", "<p>no formula</p>")
        raw.writestr("content.opf", '<item href="a.xhtml" id="i"/><item href="b.xhtml" id="j"/>')
    asked = []

    def set_formulas(formulas):
        asked.extend(formulas)
        return [f"<math>{tex}</math>".replace("<b", "&lt; b") for tex, _ in formulas]

    monkeypatch.setattr(book, "mathml", set_formulas)
    assert book.with_formulas(tmp_path / "raw.epub", tmp_path / "made.epub") == 2
    assert asked == [("a < b", False), ("x^2", True)]
    with zipfile.ZipFile(tmp_path / "made.epub") as made:
        assert made.namelist()[0] == "mimetype"
        page = made.read("a.xhtml").decode()
        assert page.count("<math>") == 3 and "\\(" not in page and "(1)" in page
        package = made.read("content.opf").decode()
    assert 'href="a.xhtml" properties="mathml" id="i"' in package
    assert 'href="b.xhtml" id="j"' in package


def test_pages_of_an_epub_are_xml_and_need_no_script():
    pytest.importorskip("bs4")
    page = """<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml"><head><meta charset="utf-8"><title>a &amp; b</title>
<link rel="stylesheet" href="../_static/here.css"><link rel="stylesheet" href="../_static/gone.css">
<link rel="icon" href="data:,"></head><body><p>one<br>two &nbsp; 1 < 2 \x1b[0m
<figure class="live"><canvas data-picture></canvas></figure>
<script src="../_static/live.js"></script>
<figure data-frames="{&quot;a&quot;: 1}" onkeydown="stop()"><img src="data:," alt="a"><br>
<label>query <input type="range" min="0"><output>star</output></label></figure>
<svg viewBox="0 0 1 1"><clipPath id="c"></clipPath><path d="M0"/></svg>
<details open><summary>s</summary></details></body></html>"""
    with pytest.raises(ElementTree.ParseError):
        ElementTree.fromstring(page)
    made = book.well_formed(page, "notebooks/a.xhtml", {"_static/here.css"})
    tree = ElementTree.fromstring(made)
    for words in ("script", "live", "data-frames", "onkeydown", "<input", "gone.css", "icon"):
        assert words not in made, words
    for words in ("here.css", 'viewBox="0 0 1 1"', "<clipPath", 'alt="a"', "star", "a &amp; b"):
        assert words in made, words
    assert tree.find(".//{http://www.w3.org/2000/svg}clipPath") is not None


def test_pages_and_links_of_a_pdf_are_counted(tmp_path):
    path = tmp_path / "book.pdf"
    path.write_bytes(
        b"%PDF-1.4\n<</Type /Pages\n/Kids []>>\n<</Type /Page\n/Contents 1>>\n<</Type /Page>>\n"
        b"<</Type /Annot\n/Subtype /Link\n/Rect [1 2]\n/Dest /a>>\n"
        b"<</Type /Annot\n/Subtype /Link\n/A <</URI (https://example.org)>>>>\n"
        b"<</Title (an entry of the outline)\n/Dest /a>>\n"
    )
    assert book.counted(path) == (2, 1)
