"""What our site adds to Sphinx, for Jupyter Book and for plain Sphinx alike.

Links to the project's repository where it has one, MathJax from a local copy, alternative text of
figures, links from the lessons to the glossary, generated parts of pages, and a light first page.
"""

import ast
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import generated
import light
import live

from replearn import __version__
from tools import notebooks, npm, project

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
EXTRA = ROOT / "build" / "mathjax"  # its content is laid over the built site as it is
LIVE = ROOT / "build" / "live"  # so is this
LIVE_PICTURES = {  # the lessons that a live picture opens
    "notebooks/01_representations": live.figure,
    "notebooks/11_invariance_audit": live.audit_figure,
}
BADGES = {  # a badge on the web: the site's own, which needs no network
    notebooks.COLAB_BADGE: "site/_static/colab-badge.svg",
    notebooks.KAGGLE_BADGE: "site/_static/kaggle-badge.svg",
    notebooks.BINDER_BADGE: "site/_static/binder-badge.svg",
}
# In the page and not a file: a browser asks for /favicon.ico otherwise, which lies outside the site
# where the site lies below a path.
ICON = (
    '<link rel="icon" href="data:image/svg+xml,'
    "%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect width='16' height='16' rx='3' fill='%230072b2'/%3E"
    "%3Cpath d='M4 4h8L6 12h6' fill='none' stroke='white' stroke-width='2'/%3E"
    '%3C/svg%3E" />'
)

# --- configuration ---


def configure(app, config) -> None:
    """Set the theme's options and the path of MathJax: Sphinx' event config-inited."""
    options = {
        **config.html_theme_options,
        "use_download_button": True,
        "search_bar_text": "Search the course",
        "navbar_persistent": [],  # else a second search box in a bar of its own
        "extra_footer": f"<p>Version {__version__}</p>",
    }
    address = project.address()
    if address is not None:
        options |= {
            "repository_url": address,
            "repository_branch": project.tag(),
            "path_to_docs": "",
            "launch_buttons": {
                "colab_url": "https://colab.research.google.com",
                "binderhub_url": "https://mybinder.org",
                "notebook_interface": "jupyterlab",
            },
            "use_repository_button": True,
            "use_issues_button": True,
        }
    config.html_theme_options = options
    live.write(LIVE / "_static" / "live-data.js")
    config.html_extra_path = [*config.html_extra_path, str(LIVE)]
    if has_mathjax():
        # Not html_static_path: there every script is also loaded by its own tag.
        config.html_extra_path = [*config.html_extra_path, str(EXTRA)]
        config.mathjax_path = "mathjax/tex-chtml-full.js"


def has_mathjax() -> bool:
    """Return whether there is a local copy of MathJax; npm fetches it once, where npm is."""
    try:
        npm.fetch(npm.MATHJAX, EXTRA / "_static" / "mathjax")
    except npm.NotFetched:
        return False
    return True


# --- the text of a page ---


def prepare(app, docname: str, source: list[str]) -> None:
    """Change a page's source before it is read: Sphinx' event source-read."""
    if docname.startswith("notebooks/"):
        root = "../" * docname.count("/")
        figure = LIVE_PICTURES.get(docname)
        live_picture = figure(f"{root}_static") if figure else ""
        source[0] = prepared_notebook(source[0], live_picture, root=root)
    else:
        source[0] = generated.fill(source[0])


def prepared_notebook(text: str, live_picture: str = "", *, root: str = "../") -> str:
    """Return a notebook with alt text, folded cells, a local badge, glossary links, places to mark
    exercises, and perhaps a live picture below its question."""
    for on_the_web, ours in BADGES.items():
        text = text.replace(on_the_web, root + ours)
    nb = json.loads(text)
    link_terms(nb["cells"])
    for cell in nb["cells"]:
        metadata = cell["metadata"]
        for_myst = metadata.setdefault("mystnb", {})
        if "alt" in metadata:
            for_myst.setdefault("image", {})["alt"] = metadata["alt"]
        if is_drawing(cell):
            for_myst.setdefault("image", {})["classes"] = "drawing"
        prompt = folded_as(cell)
        if prompt:
            metadata.setdefault("tags", []).append("hide-input")
            for_myst["code_prompt_show"] = prompt
        if cell["cell_type"] == "markdown":
            cell["source"] = with_exercise_marks("".join(cell["source"]))
    if live_picture:
        opening = nb["cells"][0]
        question = r"^> \*\*The question\.\*\*.*$"
        opening["source"] = re.sub(
            question,
            lambda match: f"{match[0]}\n\n{live_picture}",
            opening["source"],
            count=1,
            flags=re.MULTILINE,
        )
    return json.dumps(nb)


SHOWS_PICTURES = re.compile(r"\b(?:grid|neighbors|imshow|card|gallery)\(")


def is_drawing(cell: dict) -> bool:
    """Return whether a code cell's figures are lines, bars or numbers alone.

    Their paper and ink change places in dark mode. A picture in a figure would be a negative then.
    """
    shown = [output.get("data", {}) for output in cell.get("outputs", ())]
    has_figure = any("image/png" in data for data in shown)
    return has_figure and not SHOWS_PICTURES.search("".join(cell["source"]))


LONG_IMPORTS = 4  # so many lines of imports and nothing else are folded


def folded_as(cell: dict) -> str | None:
    """Return the words on the handle of a code cell that is folded, or None for all others.

    Folded are the set-up, long lists of imports, and the code of a question, which repeats it.
    """
    code = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return None
    if "setup" in cell["metadata"].get("tags", ()):
        return "Set-up (for Colab)"
    if "lesson.predict(" in code:
        return "Code of the question"
    try:
        statements = ast.parse(code).body
    except SyntaxError:  # a magic of IPython
        return None
    all_imports = all(isinstance(node, ast.Import | ast.ImportFrom) for node in statements)
    if statements and all_imports and len(code.splitlines()) >= LONG_IMPORTS:
        return "Imports"
    return None


WHERE_TO_SOLVE = """
Nothing runs on this page. To solve the exercises, open the notebook: [How to use the
course](/site/how-to-use.md) says where. There each is checked at once."""


def with_exercise_marks(text: str) -> str:
    """Return a text of a lesson with a place before each solution where a reader can mark the
    exercise as right, and with a sentence that says where exercises are solved."""
    place = r'<div data-exercise="\1"></div>\n\n\g<0>'
    text = re.sub(r"<!-- solution (\w+) -->", place, text)
    return re.sub(r"^## Exercises$", rf"\g<0>\n{WHERE_TO_SOLVE}", text, flags=re.MULTILINE)


def terms() -> list[str]:
    """Return the words that the glossary explains."""
    glossary = (HERE / "glossary.md").read_text("utf-8").split("```")[1]
    entries = glossary.split("\n", 1)[1]
    return re.findall(r"^\w.+", entries, re.MULTILINE)


def link_terms(cells: list[dict]) -> None:
    """Make a link of each glossary term where it first stands in bold or italics in a lesson."""
    entries = {}  # what a text may say, in lower case: the term that the glossary has
    for term in terms():
        entries[f"{term}s".lower()] = term
    for term in terms():
        entries[term.lower()] = term
    words = "|".join(re.escape(form) for form in sorted(entries, key=len, reverse=True))
    # Code, formulas, links, tags and headings are passed over.
    untouched = r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\[[^\]]*\]\([^)]*\)|<[^>]*>|^#.*?$"
    pattern = re.compile(
        rf"{untouched}|(?<![\w*])(?P<mark>\*\*?)(?P<word>{words})(?P=mark)(?![\w*])",
        re.IGNORECASE | re.DOTALL | re.MULTILINE,
    )
    linked = set()

    def link(match: re.Match) -> str:
        word = match["word"]
        term = entries.get(word.lower()) if word else None
        if term is None or term in linked:
            return match[0]
        linked.add(term)
        return f"{match['mark']}{{term}}`{word} <{term}>`{match['mark']}"

    for cell in cells:
        if cell["cell_type"] == "markdown":
            cell["source"] = pattern.sub(link, "".join(cell["source"]))


def outdated(app, env, added, changed, removed) -> list[str]:
    """Return the pages with generated parts: Sphinx' event env-get-outdated.

    Sphinx does not see that the results they are made of have changed.
    """
    names = []
    for name in env.found_docs:
        if "<!-- generated:" in Path(env.doc2path(name)).read_text("utf-8"):
            names.append(name)
    return names


# --- the page as HTML ---


def mend(app, pagename, templatename, context, doctree) -> None:
    """Mend what a screen reader hears: Sphinx' event html-page-context.

    The handle of a folded cell says its own words, papers are the items of their list, and a figure
    that scrolls on a phone can be reached by the keyboard: the theme sees to that for what has the
    class `output`.
    """
    if "body" in context:
        body = context["body"].replace('<summary aria-label="Toggle hidden content">', "<summary>")
        body = body.replace(' role="doc-biblioentry"', ' role="listitem"')
        figure = r'^<img [^>]*src="\.\./_images/[^>]*/>$'
        body = re.sub(figure, r'<div class="output">\g<0></div>', body, flags=re.MULTILINE)
        body = re.sub(r'<div class="output stream .*?</pre>', marked_table, body, flags=re.DOTALL)
        context["body"] = with_contents(body, context.get("toc", ""))


def marked_table(printed: re.Match) -> str:
    """Return what a cell printed, with a class of its own if it has columns: they do not wrap."""
    columns = re.findall(r"^.*\S {2,}\S.*$", re.sub(r"<[^>]*>", "", printed[0]), re.MULTILINE)
    if len(columns) < 2:
        return printed[0]
    return printed[0].replace('class="output stream ', 'class="output stream columns ', 1)


LONG_PAGE = 6  # sections; a page of so many begins with its contents, where no sidebar has them


def with_contents(body: str, toc: str) -> str:
    """Return a long page with its contents, folded, below its title; a style sheet shows them on a
    narrow screen only."""
    sections = re.findall(
        r'<a class="reference internal" href="(#[^"]+)">(.*?)</a>', toc, re.DOTALL
    )
    headings = set(re.findall(r'<section id="([^"]+)">\s*(?:<span[^>]*></span>)*<h2>', body))
    listed = [(link, title) for link, title in sections if link[1:] in headings]
    if len(listed) < LONG_PAGE:
        return body
    items = "".join(f'<li><a href="{link}">{title}</a></li>' for link, title in listed)
    contents = (
        f'<details class="page-contents"><summary>Contents</summary><ul>{items}</ul></details>'
    )
    return body.replace("</h1>", f"</h1>\n{contents}", 1)


def drop_unused(app, pagename, templatename, context, doctree) -> None:
    """Leave out scripts and styles that a page does not need: Sphinx' event html-page-context.

    Thebe, which Jupyter Book adds to every page with an address on the web: no code runs live here.
    sphinx-design: no page uses it. Styles of notebooks and MathJax: only where there is a notebook
    or a formula; colors of code and a button to copy it only where there is code; what folds only
    where something folds.
    """
    body = context.get("body", "")
    unused = ["thebe", "sphinx-design", "design-tabs"]
    if not pagename.startswith("notebooks/"):
        unused.append("mystnb.")
        if pagename != "site/progress":
            unused.append("progress.js")
    if 'class="math' not in body:
        unused.append("mathjax")
    if 'class="highlight' not in body:
        unused += ["copybutton", "clipboard", "pygments"]
    if "toggle" not in body and "dropdown" not in body:
        unused.append("toggle")

    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context[kind] if not mentions(file, unused)]
    context["metatags"] = context.get("metatags", "") + ICON


def mentions(file, names: list[str]) -> bool:
    """Return whether one of Sphinx' scripts or style sheets has one of these names in it."""
    attributes = getattr(file, "attributes", {})
    text = f"{file} {getattr(file, 'filename', '')} {attributes.get('body')}".lower()
    return any(name in text for name in names)


def setup(app) -> dict[str, bool]:
    """Connect all of this to Sphinx."""
    app.connect("config-inited", configure, priority=0)
    app.connect("env-get-outdated", outdated)
    app.connect("source-read", prepare)
    app.connect("html-page-context", drop_unused, priority=900)
    app.connect("html-page-context", mend)
    app.connect("build-finished", light.lighten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
