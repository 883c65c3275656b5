"""The site builds twice without a warning and needs nothing from the web.

It is read as files here; test_browser.py opens it in a browser.
"""

import contextlib
import functools
import gzip
import http.server
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from replearn.lesson.lesson import LESSONS
from tools import project

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "site"))
import course  # noqa: E402
import figures  # noqa: E402
import generated  # noqa: E402
import light  # noqa: E402
import live  # noqa: E402, F401  # test_browser.py takes it from here
import measured  # noqa: E402
import panels  # noqa: E402

LISTED = re.findall(r"notebooks/([\w/]+)", (ROOT / "_toc.yml").read_text("utf-8"))
LOADING = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "embed": "src",
}
REMOTE = re.compile(r"(?:@import\s*|url\(\s*)[\"']?(?:https?:)?//[^)\"']+|unpkg\.com|cdn\.[\w.]+")


@functools.cache
def built(kind):
    """(Folder of a fresh build, for all tests of one run; its parent).

    A cached build would not repeat its warnings.
    """
    pytest.importorskip(
        "sphinx_book_theme", reason="the site's packages are not installed: pip install -e .[site]"
    )
    folder = tempfile.TemporaryDirectory(prefix="site-", ignore_cleanup_errors=True)
    out = Path(folder.name)
    if kind == "sphinx":
        html = out
        command = [
            sys.executable,
            "-m",
            "sphinx",
            "-q",
            "-W",
            "--keep-going",
            "-c",
            "site",
            ".",
            str(out),
        ]
    else:
        html = out / "_build" / "html"
        command = [
            str(Path(sys.executable).with_name("jupyter-book")),
            "build",
            ".",
            "-W",
            "--keep-going",
        ]
        command += ["--path-output", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, (done.stdout + done.stderr)[
        -4000:
    ]
    return html, folder


@pytest.fixture(scope="module", params=["jupyter-book", "sphinx"])
def site(request):
    return built(request.param)[0]


class Tags(HTMLParser):
    """All tags of a page."""

    def __init__(self, page=None, text=None):
        super().__init__()
        self.tags = []
        self.feed(page.read_text("utf-8") if text is None else text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, {name: value or "" for name, value in attributes}))


def pages(site):
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


def test_every_page_is_there(site):
    names = {str(path.relative_to(site)) for path in pages(site)}
    stored = {f"notebooks/{name}.html" for name in LISTED}
    assert stored and stored | {"index.html", "search.html", "site/index.html"} <= names
    assert not [
        name for name in names if "/src/" in name or name.startswith(("README", "CONTRIBUTING"))
    ]


def test_nothing_comes_from_the_web(site):
    found = []
    for page in pages(site):
        for tag, attributes in Tags(page).tags:
            address = attributes.get(LOADING.get(tag, ""), "")
            if re.match(r"(https?:)?//", address):
                found.append(f"{page.name}: <{tag} {address}>")
    for path in [*pages(site), *site.rglob("*.css")]:
        if remote := REMOTE.findall(path.read_text("utf-8")):
            found.append(f"{path.name}: {remote[:3]}")
    assert not found


def test_math_is_local(site):
    if not course.has_mathjax():
        pytest.skip("MathJax has no local copy here: it is fetched with npm")
    for page in pages(site):
        text = page.read_text("utf-8")
        scripts = [
            attributes.get("src", "") for tag, attributes in Tags(page).tags if tag == "script"
        ]
        mathjax = [script.split("?")[0] for script in scripts if "mathjax" in script.lower()]
        assert len(mathjax) == (1 if 'class="math' in text else len(mathjax)) <= 1
        assert all((page.parent / script).exists() for script in mathjax)
    assert (
        len(list((site / "_static" / "mathjax" / "output" / "chtml" / "fonts").rglob("*.woff")))
        > 20
    )


def test_no_math_is_left_raw(site):
    for page in pages(site):
        text = re.sub(
            r'<(span|div)[^>]*class="math[^>]*>.*?</\1>',
            "",
            page.read_text("utf-8"),
            flags=re.DOTALL,
        )
        text = re.sub(r"<(script|pre|code)\b.*?</\1>", "", text, flags=re.DOTALL)
        assert r"\(" not in text and r"\[" not in text and "$$" not in text, page.name


def test_colab_buttons_open_existing_notebooks(site):
    """Where the project has an address; else no page leads to Colab."""
    for page in sorted((site / "notebooks").rglob("*.html")):
        links = {attributes.get("href", "") for tag, attributes in Tags(page).tags if tag == "a"}
        colab = {link for link in links if "colab.research.google.com" in link}
        opened = {link.split(f"/blob/{project.tag()}/")[1] for link in colab}
        name = f"notebooks/{project.place(page.stem)}.ipynb"
        assert opened == ({name} if project.colab("") else set())
        assert (ROOT / name).exists()


def test_links_inside_the_site_resolve(site):
    broken = []
    for page in pages(site):
        for tag, attributes in Tags(page).tags:
            link = (
                attributes.get("href" if tag == "a" else LOADING.get(tag, ""), "")
                .split("#")[0]
                .split("?")[0]
            )
            if link and not re.match(r"\w+:|//", link) and not (page.parent / link).exists():
                broken.append(f"{page.relative_to(site)}: {link}")
    assert not broken


def test_every_figure_has_alt_text(site):
    for page in sorted((site / "notebooks").rglob("*.html")):
        figures = [
            attributes
            for tag, attributes in Tags(page).tags
            if tag == "img" and "alt" in attributes
        ]
        assert len(figures) == sum(tag == "img" for tag, _ in Tags(page).tags)
        # Without one of ours, myst-nb takes the file's name.
        assert not [
            f["src"] for f in figures if not f["alt"] or re.search(r"\.(png|jpe?g|svg)$", f["alt"])
        ], page.name


@pytest.mark.parametrize("address", [None, "https://github.com/somebody/course"])
def test_pages_have_buttons_for_a_repository_if_there_is_one(monkeypatch, tmp_path, address):
    urls = f'[project.urls]\nRepository = "{address}"\n' if address else ""
    (tmp_path / "pyproject.toml").write_text(f"[project]\n{urls}")
    monkeypatch.setattr(project, "ROOT", tmp_path)
    monkeypatch.setattr(course, "EXTRA", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    config = SimpleNamespace(html_theme_options={}, html_extra_path=[], mathjax_path="the default")
    course.configure(None, config)
    options = config.html_theme_options
    assert options["use_download_button"]
    assert options.get("repository_url") == address
    assert options.get("repository_branch") == (project.tag() if address else None)
    assert ("use_repository_button" in options) == ("launch_buttons" in options) == bool(address)


@pytest.mark.parametrize("address", [None, "https://github.com/somebody/course"])
def test_the_page_on_colab_says_what_there_is_to_do(monkeypatch, tmp_path, address):
    urls = f'[project.urls]\nRepository = "{address}"\n' if address else ""
    (tmp_path / "pyproject.toml").write_text(f"[project]\n{urls}")
    monkeypatch.setattr(project, "ROOT", tmp_path)
    text = generated.fill("<!-- generated: in_colab -->")
    assert (f"]({address})" in text) == ("button" in text) == bool(address)
    assert ("pip wheel" in text) == (not address)


def test_without_a_local_copy_math_comes_from_the_web(monkeypatch, tmp_path):
    monkeypatch.setattr(course, "EXTRA", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    config = SimpleNamespace(html_theme_options={}, html_extra_path=[], mathjax_path="the default")
    course.configure(None, config)
    assert config.mathjax_path == "the default"
    extra = [Path(folder).name for folder in config.html_extra_path]
    assert extra == ["live"]  # the weights of the live picture, and no MathJax


def test_a_style_sheet_keeps_what_a_page_can_use():
    style = (
        '@charset "utf-8";/*! kept */body{margin:0}.used,.gone{color:red}.gone{color:blue}'
        ".used .gone{color:green}@media (min-width:9px){.gone{top:0}.used:not(.gone){top:1px}}"
        "@media print{.gone{top:2px}}@font-face{font-family:x}.bs-tooltip-auto{top:3px}"
        "@keyframes turn{to{rotate:1turn}}.used:before{content:'}{;'}:is(.gone,.used) a{top:4px}"
    )
    slim = light.slimmed(style, {"used"})
    for kept in (
        '@charset "utf-8";',
        "body{margin:0}",
        ".used,.gone{color:red}",
        "@media (min-width:9px){.used:not(.gone){top:1px}}",
        "@font-face{font-family:x}",
        ".bs-tooltip-auto{top:3px}",
        "@keyframes turn{to{rotate:1turn}}",
        ".used:before{content:'}{;'}",
        ":is(.gone,.used) a{top:4px}",
    ):
        assert kept in slim, kept
    for gone in ("color:blue", "color:green", "top:0", "top:2px"):
        assert gone not in slim, gone
    assert light.slimmed(style, {"used", "gone"}) == style


def test_names_of_classes_are_found_in_pages_and_scripts(tmp_path):
    (tmp_path / "_static").mkdir()
    (tmp_path / "page.html").write_text('<p class="one two-three">no <b id="four"></b></p>')
    (tmp_path / "_static" / "a.js").write_text("x.classList.add('five-six')")
    words = light.words_in_pages(tmp_path)
    assert {"one", "two-three", "five-six"} <= words
    assert not {"four", "no"} & words


# --- from any folder of a host ---


@contextlib.contextmanager
def served(site, below="/some/sub/path/"):
    """The address of a server that has the site below a path and nothing anywhere else."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def translate_path(self, path):
            inside = path.startswith(below)
            return (
                super().translate_path("/" + path[len(below) :])
                if inside
                else str(site / "outside")
            )

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(site))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{below}"
    finally:
        server.shutdown()
        server.server_close()


def links_of(page, text, kind):
    """Addresses that a page or a style sheet asks for or leads to."""
    if kind == "text/css":
        return [
            link
            for link in re.findall(r"url\([\"']?([^)\"']+)", text)
            if not link.startswith("data:")
        ]
    tags = Tags(text=text).tags
    found = [
        attributes.get("href" if tag == "a" else LOADING.get(tag, ""), "")
        for tag, attributes in tags
    ]
    found += re.findall(r'http-equiv="refresh" content="\d+; *url=([^"]+)"', text, re.IGNORECASE)
    return [link for link in found if link and not link.startswith("data:")]


def crawl(start):
    """(Addresses that can be reached from a page on its own host, {broken one: status})."""
    todo, seen, broken = [start], {start}, {}
    while todo:
        page = todo.pop()
        try:
            with urllib.request.urlopen(page, timeout=30) as answer:
                kind = answer.headers.get_content_type()
                text = answer.read().decode("utf-8") if kind in ("text/html", "text/css") else ""
        except urllib.error.HTTPError as error:
            broken[page] = error.code
            continue
        for link in links_of(page, text, kind):
            address = urllib.parse.urljoin(page, link).split("#")[0].split("?")[0]
            if address.startswith("http://127.0.0.1") and address not in seen:
                seen.add(address)
                todo.append(address)
    return seen, broken


def test_site_works_below_any_path_of_a_host(site):
    with served(site) as address:
        seen, broken = crawl(address)
        assert not broken
        wanted = {address + page.relative_to(site).as_posix() for page in pages(site)} - {
            address + "index.html"
        }
        assert (
            wanted - {address + "search.html", address + "genindex.html"} <= seen
            and address + "search.html" in seen
        )


def test_the_crawl_sees_a_broken_link(tmp_path):
    (tmp_path / "index.html").write_text(
        "<a href='there.html#x'>x</a><a href='/absolute.html'>y</a>", "utf-8"
    )
    (tmp_path / "there.html").write_text("<link rel='stylesheet' href='page.css'>", "utf-8")
    (tmp_path / "page.css").write_text("body { background: url('gone.png') }", "utf-8")
    (tmp_path / "absolute.html").write_text("", "utf-8")
    with served(tmp_path) as address:
        _, broken = crawl(address)
    assert {name.rsplit("/", 1)[1] for name in broken} == {"gone.png", "absolute.html"}


# --- what is folded, and what a reader marks ---


@pytest.mark.parametrize(
    "code, words",
    [
        ("import a\nimport b\nfrom c import d\nimport e", "Imports"),
        ("import a\nimport b", None),
        ("import a\nimport b\nimport c\nx = 1", None),
        ("%matplotlib inline\nimport a\nimport b\nimport c", None),
        ("lesson.predict('Which?', ['a', 'b'], answer='a')", "Code of the question"),
        ("", None),
    ],
)
def test_what_is_folded_says_what_it_is(code, words):
    cell = dict(cell_type="code", source=code.splitlines(keepends=True), metadata={})
    assert course.folded_as(cell) == words
    cell["metadata"]["tags"] = ["setup"]
    assert course.folded_as(cell) == "Set-up (for Colab)"
    assert course.folded_as(dict(cell_type="markdown", source=code, metadata={})) is None


def test_no_lesson_shows_the_answer_above_its_question(site):
    """The code of a question is folded, and every exercise has a place to be marked."""
    for page, (_, cells) in zip(
        sorted((site / "notebooks").rglob("*.html")), generated.notebooks(), strict=True
    ):
        text = page.read_text("utf-8")
        asking = ["lesson.predict(" in "".join(cell["source"]) for cell in cells]
        assert 1 <= sum(asking) <= text.count('<fieldset id="predict-'), page.name
        assert text.count("Code of the question") == sum(asking), page.name
        marked = re.findall(r'data-exercise="(\w+)"', text)
        assert marked and set(marked) == set(generated.exercise_names(cells)), page.name


def test_a_live_picture_opens_lessons_01_and_11_and_no_other(site):
    """One copy of the weights, and the changes of the audit in lesson 11 alone."""
    kinds = {"01": "neighbors", "11": "audit"}
    for page in sorted((site / "notebooks").glob("*.html")):
        text, kind = page.read_text("utf-8"), kinds.get(page.name[:2])
        assert re.findall(r'<figure data-live="(\w+)"', text) == [kind] * bool(kind)
        scripts = {"live-data": bool(kind), "live": bool(kind), "live-audit": kind == "audit"}
        for script, used in scripts.items():
            assert text.count(f"/{script}.js") == used, page.name
        if kind:
            start = text.index("<figure data-live")
            assert text.index("The question.") < start < text.index("Objectives")


def test_how_long_a_lesson_takes_is_what_the_notebooks_say(monkeypatch):
    minutes = [facts[2] for facts in LESSONS.values()]
    said = f"A lesson runs in {generated.in_range(min(minutes), max(minutes))} minutes on two CPU "
    assert generated.how_long().startswith(said)

    def lesson(number):
        opening = f"# A lesson\n\n**Minutes.** {number} to run on 2 CPU cores; and so on\n"
        text = dict(cell_type="markdown", metadata={}, source="x " * 8000)
        return [dict(cell_type="markdown", metadata={}, source=opening), text]

    stored = [("01", lesson(1)), ("02", lesson(8)), ("F1", lesson(30))]
    monkeypatch.setattr(generated, "notebooks", lambda: iter(stored))
    assert generated.how_long() == (
        "A lesson runs in 1 to 8 minutes on two CPU cores; reading and solving one takes about 40 "
        "minutes."
    )
    assert generated.minutes(lesson(1)) == "1 minute to run, about 40 to read and solve"


def test_figures_without_a_picture_are_known():
    """In dark mode their paper and ink change places, which makes a negative of a picture."""
    figure = [dict(data={"image/png": ""})]
    for source, expected in {
        "plot.curves(x, y)": True,
        "ax.bar(x, y); image = grid[0]": True,
        "plot.grid(images)": False,
        "left.imshow(picture)": False,
        "card(report, images)": False,
    }.items():
        cell = dict(cell_type="code", source=source, metadata={}, outputs=figure)
        assert course.is_drawing(cell) == expected, source
        nb = json.loads(course.prepared_notebook(json.dumps(dict(cells=[cell]))))
        kind = nb["cells"][0]["metadata"]["mystnb"].get("image", {}).get("classes")
        assert kind == ("drawing" if expected else None)
    assert not course.is_drawing(dict(cell_type="code", source="plot.curves()", outputs=[]))


def test_what_a_cell_prints_in_columns_is_marked():
    printed = '<div class="output stream highlight notranslate"><div><pre><span></span>{}</pre>'
    table = printed.format("name    a    b\nx       1    2\n")
    sentences = printed.format("✓ one is less than two\nTwo  spaces once.\n")
    mark = re.compile("(?s).*")
    assert "stream columns " in course.marked_table(mark.match(table))
    assert course.marked_table(mark.match(sentences)) == sentences


def test_exercises_say_where_they_are_solved(site):
    for page in sorted((site / "notebooks").glob("*.html")):
        text = page.read_text("utf-8")
        start = text.index("Nothing runs on this page")
        assert text.index(">Exercises<") < start < text.index("data-exercise="), page.name


def test_a_long_page_begins_with_its_contents():
    names = [f"part-{i}" for i in range(course.LONG_PAGE)]
    toc = "".join(f'<li><a class="reference internal" href="#{n}">{n}</a></li>' for n in names)
    parts = [f'<section id="{name}">\n<h2>{name}</h2></section>' for name in names]
    body = "<h1>Title</h1>" + "".join(parts)
    text = course.with_contents(body, toc)
    assert text.index("page-contents") < text.index("<section")
    assert text.count('<li><a href="#part-') == course.LONG_PAGE
    short = "<h1>Title</h1>" + "".join(parts[1:])
    assert course.with_contents(short, toc) == short


def test_recipes_have_names_in_words():
    from scripts import recipes

    for name in recipes.recipes():
        assert name.removeprefix("course_") in panels.IN_WORDS, name
    assert panels.recipe_in_words("course_temperature_01") == "temperature 0.1"
    table = panels.named_in_words("| Recipe | kNN |\n| --- | --- |\n| course batch 512 | 46.7 |")
    assert table.endswith("| batches of 512 | 46.7 |") and "| Recipe |" in table


# --- weight ---


def test_a_lesson_weighs_a_megabyte_and_a_half_or_less(site):
    """Counted, uncompressed: the page with the pictures inside it, and the files that it shows."""
    for page in sorted((site / "notebooks").rglob("*.html")):
        shown = {attributes["src"] for tag, attributes in Tags(page).tags if tag == "img"}
        files = [page, *(page.parent / src for src in shown if not src.startswith("data:"))]
        assert sum(path.stat().st_size for path in files) <= 1_500_000, page.name


def loaded_with(page):
    """The page, and all scripts and style sheets that it names."""
    paths = {page}
    for tag, attributes in Tags(page).tags:
        name = attributes.get(LOADING.get(tag, ""), "").split("?")[0]
        if name.endswith((".js", ".css")):
            paths.add((page.parent / name).resolve())
    return paths


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="the last theme for Python 3.10 is another one"
)
def test_first_page_weighs_less_than_200_kilobytes(site):
    """Counted: the page with its scripts and style sheets, compressed as a host sends them, without
    the live picture, which has a limit of its own."""
    paths = loaded_with(site / "site" / "index.html")
    own = {path for path in paths if path.name.startswith("live")}
    assert {path.name for path in own} == {"live.js", "live-data.js"}
    assert sum(len(gzip.compress(path.read_bytes())) for path in own) < 250_000
    paths -= own
    weights = {path.name: len(gzip.compress(path.read_bytes())) for path in paths}
    assert len(weights) > 10
    assert sum(weights.values()) < 200_000, weights


def test_only_icons_that_a_page_uses_are_kept():
    script = (
        'var a={sun:[5,5,[97,"day"],"f1","M1,2z"],"old-moon":[5,5,[],"f2",["a","b"]]},'
        "b={list:[1,2,3]}"
    )
    kept = 'var a={sun:[5,5,[97,"day"],"f1","M1,2z"],},b={list:[1,2,3]}'
    assert light.reduced(script, {"day"}) == kept
    assert light.reduced("another form", set()) == "another form"


def test_icons_are_found_in_pages_and_scripts_but_not_in_images(tmp_path):
    (tmp_path / "_static").mkdir()
    (tmp_path / "page.html").write_text(
        '<i class="fa-solid fa-sun"></i><img src="data:image/png,fa-moon">', "utf-8"
    )
    (tmp_path / "_static" / "own.js").write_text("icon = 'fa-copy'", "utf-8")
    assert light.names_in_pages(tmp_path) == {"solid", "sun", "copy"}


def test_every_icon_of_the_pages_is_in_the_reduced_script(site):
    script = (site / light.SCRIPT).read_text("utf-8")
    # Classes that say how an icon looks, and not which one it is.
    styles = {"solid", "regular", "brands", "lg", "sm", "fw", "spin", "xs", "2x"}
    named = set()
    for page in pages(site):
        for tag, attributes in Tags(page).tags:
            if tag == "i":
                named |= set(re.findall(r"\bfa-([a-z0-9-]+)", attributes.get("class", "")))
    assert named - styles
    for name in named - styles:
        assert re.search(rf'"?{name}"?[:"]', script), name


# --- what the pages say ---


def test_lessons_lead_to_the_glossary_and_back(site):
    ids = {attributes.get("id") for _, attributes in Tags(site / "site" / "glossary.html").tags}
    for page in sorted((site / "notebooks").rglob("*.html")):
        links = [attributes.get("href", "") for tag, attributes in Tags(page).tags if tag == "a"]
        terms = [link.split("#")[1] for link in links if "site/glossary.html#term-" in link]
        assert len(terms) >= 4 and set(terms) <= ids, page.name
    back = {
        attributes.get("href", "") for _, attributes in Tags(site / "site" / "glossary.html").tags
    }
    assert {f"../notebooks/{name}.html" for name in LISTED} <= back


def test_terms_are_linked_once_and_never_inside_a_formula_or_a_link():
    text = (
        "# **Encoder**\n$*encoder*$ `*encoder*` [*encoder*](x) *encoders* and **encoder**, "
        "*unknown* **CKA**"
    )
    cells = [dict(cell_type="markdown", source=[text]), dict(cell_type="code", source="**probe**")]
    course.link_terms(cells)
    linked = "*{term}`encoders <encoder>`* and **encoder**, *unknown* **{term}`CKA <CKA>`**"
    assert cells[0]["source"] == text.replace(
        "*encoders* and **encoder**, *unknown* **CKA**", linked
    )
    assert cells[1]["source"] == "**probe**"


def test_every_paper_on_the_reference_page_has_its_link(site):
    papers = re.findall(
        r'<div class="citation".*?</div>',
        (site / "site" / "references.html").read_text("utf-8"),
        re.S,
    )
    listed = re.findall(r"^@", (ROOT / "site" / "references.bib").read_text("utf-8"), re.MULTILINE)
    assert len(papers) == len(listed) > 50
    assert not [
        paper for paper in papers if 'class="reference external" href="https://' not in paper
    ]


def test_numbers_of_lessons_become_links():
    stem = next(generated.notebooks())[0]
    linked = generated.link_lessons("Lesson 01, lessons 99 (x) and 01; [Lesson 01](a), 01")
    link = f"[01](/notebooks/{stem}.ipynb)"
    assert linked == f"Lesson {link}, lessons 99 (x) and {link}; [Lesson 01](a), 01"
    shelf = "[F2](/notebooks/frontier/F2_shared_worlds.ipynb)"
    assert generated.link_lessons("lessons 01 and F2; F2") == f"lessons {link} and {shelf}; F2"


def test_pages_with_generated_parts_are_made_anew(tmp_path):
    pages = {"results": "<!-- generated: claims -->\n", "text": "nothing is made here\n"}
    for name, text in pages.items():
        (tmp_path / f"{name}.md").write_text(text, "utf-8")
    env = SimpleNamespace(found_docs=set(pages), doc2path=lambda name: str(tmp_path / f"{name}.md"))
    assert course.outdated(None, env, set(), set(), set()) == ["results"]
    connected = []
    course.setup(SimpleNamespace(connect=lambda *event, **_: connected.append(event)))
    assert ("env-get-outdated", course.outdated) in connected


def test_generated_tables_say_what_the_notebooks_printed():
    cards = generated.lesson_map() + generated.lesson_map("frontier")
    for stem, cells in generated.notebooks():
        printed = sum(
            "".join(o.get("text", "")).count("✓ ") for c in cells for o in c.get("outputs", ())
        )
        assert 0 < printed == len(list(generated.printed_claims(cells))), stem
        assert f"/notebooks/{project.place(stem)}.ipynb" in cards
    text = generated.fill(
        "".join(f"<!-- generated: {name} -->" for name in ("claims", "photographs"))
    )
    assert "<!--" not in text and "✗" not in text
    with pytest.raises(KeyError):
        generated.fill("<!-- generated: nothing -->")


def test_a_claim_is_read_as_it_was_printed():
    cells = [{"outputs": [{"text": "✓ 10 % ± 3 (f(x) 2, b 3 %)\n✗ no numbers\nother (a 1)\n"}]}, {}]
    found = list(generated.printed_claims(cells))
    assert found == [("✓", "10 % ± 3", "f(x) 2, b 3 %"), ("✗", "no numbers", "")]


# --- how fast, how right ---


def one_panel(sizes=(32, 1024), memory=True):
    """A made-up panel of three contestants; one of them was not run at the largest size."""

    def rows(times, sizes, **more):
        return [
            dict(
                at=at,
                median_s=0.001 * at * times,
                times=times,
                fewest=times / 1.1,
                most=times * 1.1,
                **more,
            )
            for at in sizes
        ]

    used = dict(memory_mb=0.2, value_error=2e-7) if memory else {}
    slow = rows(300, sizes[:1], **dict(memory_mb=90) if memory else {})
    contestants = {"ours": rows(1, sizes), "theirs, <b>": rows(7, sizes, **used), "slow": slow}
    return dict(
        title="Two & three", size="batch", unit="seconds a call", ours="ours", curves=contestants
    )


def parsed(drawn):
    """A figure of the site as a tree, its SVG, and the words in it."""
    root = ElementTree.fromstring(drawn)
    svg = next(node for node in root.iter() if node.tag.endswith("svg"))
    words = [" ".join(node.itertext()) for node in svg.iter() if node.tag.endswith("text")]
    return root, svg, " ".join(" ".join(words).split())


def test_a_figure_says_what_it_draws():
    drawn = figures.panel_figure(one_panel())
    _, svg, words = parsed(drawn)
    assert "\n\n" not in drawn and svg.get("role") == "img"
    for label in ("ours: 1", "theirs, <b>: 7.0", "slow: 300", "slow: 90", "below 1", "1,024"):
        assert label in words, label
    assert words.count("batch") == 2  # below the times, and below the memory
    alt = svg.get("aria-label").replace("\u00a0", " ")
    assert alt == (
        "Two & three. At 32 (batch): ours takes 32 ms; theirs, <b> 7.0 times; slow 300 times "
        "as long. At 1,024 (batch): ours takes 1.02 s; theirs, <b> 7.0 times as long."
    )


def test_a_figure_has_the_colors_and_the_names_of_its_page():
    drawn = [figures.panel_figure(one_panel(sizes)) for sizes in ((32, 1024), (16, 64))]
    for one in drawn:
        assert "currentColor" in one and figures.INK not in one
        assert "<style" not in one and "<metadata" not in one  # they would hold for the whole page
    names = [set(re.findall(r' id="([^"]+)"', one)) for one in drawn]
    assert names[0] and not names[0] & names[1]
    for one, own in zip(drawn, names, strict=True):
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', one)) == own
    assert figures.panel_figure(one_panel()) == drawn[0]


def test_text_stays_inside_its_figure():
    panel = one_panel((10, 11, 12, 100, 100_000), memory=False)
    _, svg, words = parsed(figures.panel_figure(panel))
    _, _, width, height = map(float, svg.get("viewBox").split())
    for node in svg.iter():
        if node.tag.endswith("text") and node.get("x"):
            assert 0 <= float(node.get("x")) <= width and 0 <= float(node.get("y")) <= height
    assert "100,000" in words and " 11 " not in words  # 10 and 12 leave no room for it


def test_differences_and_growth_are_drawn_with_their_numbers():
    groups = {"to lightly's": [("ours", 5.8, 0.8)], "to ours": [("hue", -3.6, 1.0)], "none": []}
    _, svg, words = parsed(figures.differences_figure(groups))
    assert "ours +5.8 ± 0.8; hue -3.6 ± 1.0" in svg.get("aria-label")
    assert "to lightly's" in words and "hue" in words and "none" not in words
    assert figures.differences_figure({"empty": []}) == ""
    curves = {"course": [(1e5, 40, 39, 41), (2e5, 50, 49, 51)], "a_b": [(1e5, 30, 30, 30)] * 2}
    _, svg, words = parsed(figures.growth_figure(curves))
    assert "course 40.0 to 50.0 %" in svg.get("aria-label") and "a b: 30.0" in words


def test_a_panel_of_one_size_is_a_table_alone():
    panel = one_panel((50_000,))
    assert figures.panel_figure(panel) == "**Two & three**"
    assert panels.ratios(panel).count("\n") == 2


def test_numbers_as_words():
    amounts = [figures.amount(x) for x in (0.066, 0.9949, 0.999, 9.94, 9.96, 2345.6)]
    assert amounts == ["0.07", "0.99", "1.0", "9.9", "10", "2,346"]
    durations = [figures.duration(x).replace("\u00a0", " ") for x in (1.5, 2000, 0.01234, 1e-6)]
    assert durations == ["1.5 s", "2,000 s", "12.3 ms", "1 µs"]


def test_a_record_becomes_figures_tables_and_goals(monkeypatch, tmp_path):
    goals = [
        dict(sentence="lightly | twice", least=2, found=7.04, reached=True),
        dict(sentence="three", least=3, found=2.5, reached=False, why="the disk is slow."),
    ]
    hardware = dict(cpu="a CPU", cpus=2, threads=1, load_average=0.1)
    record = dict(
        question="?",
        command="python benchmarks/augment.py",
        panels=[one_panel()],
        goals=goals,
        versions=dict(torch="2.15.0"),
        hardware=hardware,
    )
    (tmp_path / "augment.json").write_text(json.dumps(record), "utf-8")
    budget = dict(network="small_cnn", batch_size=256, times_the_per_sample_route=4.6, threads=2)
    (tmp_path / "t4_budget_x.json").write_text(json.dumps(budget), "utf-8")
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    monkeypatch.setattr(measured, "to_run", lambda cells: "30.0")
    monkeypatch.setattr(generated, "notebooks", lambda: [("01_representations", [])])
    text = generated.fill("<!-- generated: goals -->\n<!-- generated: panels augment -->").replace(
        "\u00a0", " "
    )
    # Two of the record, one of the training step, one of the course: three are missed.
    assert "Of 4 goals" in text and "1 are reached" in text
    assert "beside torchvision, one picture at a time: 4.6, expected 5 or more." in text
    assert "all lessons in 20 minutes, divided by what they took: 0.667, expected 1" in text
    assert text.count('<figure class="curves">') == 2 and "<summary>All numbers, and" in text
    assert "- ✓ lightly \\| twice: 7.04, expected 2 or more." in text
    assert (
        text.count("- ✗ three: 2.5, expected 3 or more.") == 2
        and text.count("Why: the disk is slow.") == 1
    )
    assert (
        "| 32 | 32 ms | 7.0 × (6.4 to 7.7), 0 MB | 300 × (273 to 330), 90 MB |" in text
        and "| not run |" in text
    )
    assert "on a CPU, 2 CPUs, 1 thread; torch 2.15.0." in text
    assert "Largest difference from the reference, of all contestants: value 2e-07." in text


def test_a_missing_measurement_is_told_on_the_page(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    (tmp_path / "cka.json").write_text("{}", "utf-8")
    text = generated.fill("<!-- generated: panels cka -->\n\n<!-- generated: panels cca -->")
    assert "**Not measured yet.** `benchmarks/results/cka.json` has an older form" in text
    assert "`benchmarks/results/cca.json` is missing; `python benchmarks/cca.py` writes it." in text
    assert capsys.readouterr().err.count("site: not measured yet") == 2


def test_the_long_soak_takes_the_place_of_the_short_load():
    load = dict(clients=8, seconds=30.0, requests=1234)
    found = dict(
        bundles=dict(a=dict(int8=dict(load=load, memory_mb_start=100.0, memory_mb_end=130.0)))
    )
    said = measured.crowd(found)
    assert said == [
        "8 callers at once for 30 seconds",
        "1,234 requests",
        "✗ memory grew by 30.0 MB at most",
    ]
    soak = dict(
        load,
        seconds=120.0,
        memory_mb_most_first_half=90.1,
        memory_mb_most_second_half=90.2,
        problems=[],
    )
    said = measured.crowd(dict(found, soak=soak))
    assert (
        said[0].endswith("120 seconds")
        and said[2] == "✓ memory 90.1 MB at most in the first half, 90.2 after"
    )


def test_the_siege_is_good_without_errors_and_long_waits():
    record = dict(
        attacks=1012,
        attackers=4,
        good=650,
        p95_seconds=0.25,
        by_kind=dict(a=dict(statuses={"200": 5, "413": 1000}), b=dict(statuses={"503": 7})),
    )
    fault, times, outcome = measured.siege(record)
    assert (fault, times) == ("hostile and damaged images, 4 callers at once", "1,012")
    within = "server errors; of 650 good ones between them, 95 in 100 were answered within"
    assert outcome == f"✓ 0 {within} 0.25 s"
    assert measured.siege(record | {"p95_seconds": 1.0})[2] == f"✗ 0 {within} 1.00 s"
    failing = record | {"by_kind": dict(a=dict(statuses={"500": 2, "502": 1}))}
    assert measured.siege(failing)[2] == f"✗ 3 {within} 0.25 s"


def test_every_measurement_of_the_page_is_stored():
    text = generated.fill((ROOT / "site" / "measured.md").read_text("utf-8"))
    assert "<!--" not in text and not re.findall(r"Not measured yet.*", text)


def test_how_fast_weighs_less_than_300_kilobytes(site):
    """Counted as for the first page, with the figures inside the page."""
    paths = loaded_with(site / "site" / "measured.html")
    assert sum(len(gzip.compress(path.read_bytes())) for path in paths) < 300_000


# --- make bench ---


@functools.cache
def bench():
    spec = importlib.util.spec_from_file_location("bench_run", ROOT / "benchmarks" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_benchmark_is_run_or_left_out_with_a_reason():
    scripts = {
        path.stem
        for path in (ROOT / "benchmarks").glob("*.py")
        if "__main__" in path.read_text("utf-8")
    }
    assert scripts - {"run"} == set(bench().MINUTES) | set(bench().LEFT_OUT)
    assert not set(bench().MINUTES) & set(bench().LEFT_OUT)


@pytest.mark.parametrize(
    "name, words",
    [("serve", "serve needs a second interpreter"), ("speed", "no benchmark speed; expected")],
)
def test_a_benchmark_that_cannot_be_run_is_told(name, words):
    with pytest.raises(SystemExit, match=words):
        bench().main([name])


def test_bench_goes_on_after_a_miss_and_after_a_crash(monkeypatch, tmp_path, capfd):
    scripts = {
        "cka": "import sys, json; json.dump(dict(goals=[dict(sentence='20 times', reached=False), "
        "dict(sentence='x', reached=True)]), open('results/cka.json', 'w')); sys.exit(1)",
        "cca": "raise ValueError('no')",
        "knn": "open('results/knn.json', 'w').write('{}')",
    }
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "cca.json").write_text("{}", "utf-8")
    os.utime(
        tmp_path / "results" / "cca.json", (0, 0)
    )  # of an earlier run: not what this one wrote
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(
            f"import os; os.chdir({str(tmp_path)!r}); {text}", "utf-8"
        )
    monkeypatch.setattr(bench(), "HERE", tmp_path)
    monkeypatch.setattr(bench(), "RESULTS", tmp_path / "results")
    assert bench().main(["cka", "cca", "knn"]) == 1
    told = capfd.readouterr().out
    assert "=== 2 of 3: cca" in told and "missed: 20 times" in told
    assert re.search(r"cka +\d+ s  ✗ 1 of 2 goals reached", told)
    assert re.search(r"cca +\d+ s  ✗ broke off without a result \(exit 1\)", told)
    assert re.search(r"knn +\d+ s  ✓ measured", told)
