"""The site as a book: `python -m tools.book pdf` prints it, `python -m tools.book epub` packs it.

The PDF is printed by Chromium from the built site: all pages of the table of contents become one
page, in which links between them are links inside the book. The EPUB is made by Sphinx; formulas
are turned into MathML by MathJax, since a reader of books runs no scripts.
"""

import argparse
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import yaml

from replearn import __version__, _command, files
from tools import npm, project

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

SITE = project.ROOT / "_build" / "html"
FOLDER = project.ROOT / "build"
LEFT_OUT = ("site/progress",)  # pages that are nothing without a script
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --no-pdf-header-footer "
    "--generate-pdf-document-outline --run-all-compositor-stages-before-draw"
)
PATIENCE = 1200  # seconds for printing
FORMULA_SECONDS = 600  # of the page's own clock, in which MathJax sets all formulas
STYLE = """
@page { size: A4; margin: 18mm 16mm; }
article.book-page { break-before: page; }
body { font-size: 10.5pt; }
.book-page figure.live, .headerlink, .copybtn, .page-contents, [data-exercise], [data-filter],
.start, .toctree-wrapper { display: none !important; }
.book-page .cell_output img { max-width: 100%; }
.book-page details > summary { list-style: none; }
"""


# --- one page of all ------------------------------------------------------------------------------


def pages() -> list[str]:
    """Return the names of the pages in the order of the table of contents."""
    toc = yaml.safe_load((project.ROOT / "_toc.yml").read_text("utf-8"))
    names = [toc["root"]]
    for part in toc["parts"]:
        names += [chapter["file"] for chapter in part["chapters"]]
    return [name for name in names if name not in LEFT_OUT]


def assembled(site: Path, names: Sequence[str]) -> str:
    """Return one HTML page with the articles of several, for the folder of the site.

    Every id gets the page's name in front; links between the pages lead to these ids.

    Args:
        site: The folder of a built site.
        names: Of its pages, in the order of the book.

    Raises:
        ValueError: A page is not there.
    """
    slugs = {name: re.sub(r"\W", "-", name) for name in names}
    articles = []
    entries = []
    formulas = ""
    styles: dict[str, None] = {}  # as a set that keeps the order
    for name in names:
        path = site / f"{name}.html"
        if not path.exists():
            raise ValueError(f"{path}: expected a page of the built site, found none: make site")
        soup = _parsed(path.read_text("utf-8"))
        article = soup.find("article")
        article.attrs = {"class": "bd-article book-page", "id": slugs[name]}
        _open_details(article)
        _own_ids(article, slugs[name])
        _mend_links(article, name, slugs)
        for link in soup.find_all("link", rel="stylesheet"):
            styles[_from_root(link["href"], name)] = None
        math = soup.find("script", src=re.compile("mathjax", re.IGNORECASE))
        if math is not None and not formulas:
            settings = soup.find("script", string=re.compile("window.MathJax"))
            formulas = f'{settings or ""}<script src="{_from_root(math["src"], name)}"></script>'
        articles.append(str(article))
        title = article.find("h1")
        entries.append(f'<li><a href="#{slugs[name]}">{_text(title)}</a></li>')
    sheets = "".join(f'<link rel="stylesheet" href="{href}">' for href in styles)
    return f"""<!DOCTYPE html>
<html lang="en" data-theme="light" data-mode="light"><head><meta charset="utf-8">
<title>Representation learning</title>{sheets}<style>{STYLE}</style>{formulas}</head>
<body><main class="bd-main"><div class="bd-content"><div class="bd-article-container">
<article class="bd-article"><h1>Representation learning</h1><p>Version {__version__}</p>
<ol class="book-contents">{"".join(entries)}</ol></article>
{"".join(articles)}
</div></div></main></body></html>"""


def _parsed(text: str) -> "BeautifulSoup":
    from bs4 import BeautifulSoup

    return BeautifulSoup(text, "html.parser")


def _text(title: "Tag") -> str:
    return title.get_text().rstrip("#").strip() if title is not None else ""


def _open_details(article: "Tag") -> None:
    """Open what is folded, since paper cannot; the code that is hidden on purpose stays closed."""
    for details in article.find_all("details"):
        if "hide" not in details.get("class", ()):
            details["open"] = ""


def _own_ids(article: "Tag", slug: str) -> None:
    """Put the page's name before all ids but those inside of a picture, which are its own."""
    for element in article.find_all(id=True):
        if element.find_parent("svg") is None and element.name != "svg":
            element["id"] = f"{slug}--{element['id']}"


def _mend_links(article: "Tag", name: str, slugs: dict[str, str]) -> None:
    """Make links inside of the book of links between its pages; pictures are found from the root.

    A link to a page that is not in the book becomes plain text.
    """
    for image in article.find_all("img", src=True):
        image["src"] = _from_root(image["src"], name)
    for link in article.find_all("a", href=True):
        href = link["href"]
        if re.match(r"[a-z]+:", href) or link.find_parent("svg") is not None:
            continue
        page, _, anchor = href.partition("#")
        target = posixpath.splitext(_from_root(page, name))[0] if page else name
        if target in slugs:
            slug = slugs[target]
            link["href"] = f"#{slug}--{anchor}" if anchor else f"#{slug}"
        else:
            del link["href"]


def _from_root(address: str, name: str) -> str:
    """Return an address of a page as it is seen from the root of the site."""
    if re.match(r"[a-z]+:|//", address):
        return address
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), address))


# --- PDF ------------------------------------------------------------------------------------------


def write_pdf(path: Path, *, site: Path = SITE, names: Sequence[str] | None = None) -> None:
    """Print the built site into one file, whole or not at all.

    Args:
        path: The PDF.
        site: The folder of the built site.
        names: Of its pages; None for all of the table of contents.

    Raises:
        ValueError: There is no browser or no site, or the browser printed nothing.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise ValueError(f"expected a browser ({', '.join(BROWSERS)}), found none; install one")
    page = site / "book.html"
    files.write_atomically(page, assembled(site, names or pages()))
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            printed = Path(folder) / "book.pdf"
            command = [browser, *FLAGS.split(), f"--user-data-dir={folder}/profile"]
            if hasattr(os, "geteuid") and os.geteuid() == 0:
                command.append("--no-sandbox")
            command.append(f"--virtual-time-budget={1000 * FORMULA_SECONDS}")
            command += [f"--print-to-pdf={printed}", page.resolve().as_uri()]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
            if not printed.exists():
                raise ValueError(f"{browser} printed nothing: {done.stderr.strip()[-300:]}")
            files.write_atomically(path, printed.read_bytes())
    finally:
        page.unlink(missing_ok=True)


def counted(path: Path) -> tuple[int, int]:
    """Return how many pages a PDF of Chromium has, and how many links inside of it."""
    content = path.read_bytes()
    sheets = len(re.findall(rb"/Type\s*/Page\b", content))
    return sheets, len(re.findall(rb"/Subtype\s*/Link\b[^>]*?/Dest\b", content))


# --- EPUB -----------------------------------------------------------------------------------------

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="math notranslate nohighlight"(?P<more>[^>]*)>'
    r'(?P<number>(?:\s*<span class="eqno">.*?</span>)?)\s*'
    r"(?P<tex>\\[(\[].*?\\[)\]])\s*</(?P=tag)>",
    re.DOTALL,
)
NODE = """
const texts = JSON.parse(require('fs').readFileSync(0, 'utf8'));
require(process.argv[1]).init({
  loader: {load: ['input/tex-full']},
  tex: {packages: ['base', 'ams', 'boldsymbol', 'mathtools', 'newcommand']},
}).then(mathjax => {
  const made = texts.map(([tex, display]) => mathjax.tex2mml(tex, {display}));
  process.stdout.write(JSON.stringify(made));
}).catch(error => { console.error(String(error)); process.exit(1); });
"""


ABOUT = {
    "description": "Twelve notebooks on representation learning",
    "contributor": "The replearn authors",
    "identifier": f"replearn-{__version__}",
    "scheme": "replearn",
    "uid": "replearn",
}
# What is nothing without a script, and what belongs to the site.
NOT_FOR_READERS = (
    "script, noscript, button, input, link[rel=icon], figure.live, [data-exercise], [data-filter]"
)
# Names in an SVG, which a parser of HTML makes small.
SVG_NAMES = {
    name.lower(): name
    for name in "viewBox preserveAspectRatio clipPath clipPathUnits linearGradient "
    "radialGradient gradientUnits gradientTransform textLength lengthAdjust".split()
}
NO_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def write_epub(path: Path) -> int:
    """Pack the site's pages as EPUB; return how many formulas are in it.

    Raises:
        ValueError: Sphinx has failed, or formulas cannot be set.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sphinx", "-q", "-b", "epub", "-c", "site"]
        for name, value in ABOUT.items():
            command += ["-D", f"epub_{name}={value}"]
        command += [".", folder]
        done = subprocess.run(command, cwd=project.ROOT, capture_output=True, text=True)
        made = list(Path(folder).glob("*.epub"))
        if done.returncode or not made:
            raise ValueError(f"Sphinx could not make the EPUB: {done.stderr.strip()[-500:]}")
        count = with_formulas(made[0], path)
    return count


def with_formulas(source: Path, path: Path) -> int:
    """Copy an EPUB with its formulas as MathML; return how many there are."""
    with zipfile.ZipFile(source) as book:
        content = {entry: book.read(entry) for entry in book.infolist()}
    texts = {}
    formulas: dict[tuple[str, bool], str] = {}
    for entry, data in content.items():
        if entry.filename.endswith(".xhtml"):
            texts[entry.filename] = data.decode("utf-8")
            for match in FORMULA.finditer(texts[entry.filename]):
                formulas[_formula(match)] = ""
    formulas = dict(zip(formulas, mathml(list(formulas)), strict=True))
    known = {entry.filename for entry in content}
    for name, text in texts.items():
        texts[name] = well_formed(_with_mathml(text, formulas), name, known)
    with files.replacing(path) as file, zipfile.ZipFile(file, "w") as book:
        for entry, data in content.items():
            if entry.filename in texts:
                data = texts[entry.filename].encode()
            elif entry.filename.endswith(".opf"):
                data = _declared(data.decode("utf-8"), texts).encode()
            book.writestr(entry, data, entry.compress_type)
    return len(formulas)


def well_formed(text: str, name: str, known: Collection[str]) -> str:
    """Return a page as XML, which readers of books insist on, without what needs a script.

    Args:
        text: The page as Sphinx and the notebooks wrote it, which is HTML.
        name: Of the page in the book.
        known: Names of all files of the book; style sheets that are not there are left out.

    Raises:
        ValueError: The page cannot be made XML.
    """
    soup = _parsed(NO_XML.sub("", text))
    for element in soup.select(NOT_FOR_READERS):
        element.decompose()
    for link in soup.find_all("link", rel="stylesheet"):
        if _from_root(link["href"], name) not in known:
            link.decompose()
    for element in soup.find_all(True):
        element.name = SVG_NAMES.get(element.name, element.name)
        attributes = {}
        for attribute, value in element.attrs.items():
            needs_a_script = attribute.startswith("on") or attribute == "data-frames"
            if not needs_a_script:
                attributes[SVG_NAMES.get(attribute, attribute)] = value
        element.attrs = attributes
        if element.name == "svg":
            element.attrs.setdefault("xmlns", "http://www.w3.org/2000/svg")
    page = str(soup)
    try:
        ElementTree.fromstring(page)
    except ElementTree.ParseError as error:
        raise ValueError(f"{name}: expected a page that is XML, found {error}") from None
    return page


def _formula(match: re.Match) -> tuple[str, bool]:
    """Return the TeX of a formula, and whether it stands by itself."""
    import html

    tex = html.unescape(match["tex"])
    return tex[2:-2].strip(), tex.startswith(r"\[")


def _with_mathml(text: str, formulas: dict[tuple[str, bool], str]) -> str:
    def replaced(match: re.Match) -> str:
        tag, number = match["tag"], match["number"]
        return f'<{tag} class="math">{number}{formulas[_formula(match)]}</{tag}>'

    return FORMULA.sub(replaced, text)


def _declared(package: str, texts: dict[str, str]) -> str:
    """Say in the package's list which pages have formulas or drawings, as EPUB 3 asks for."""
    for name, text in texts.items():
        found = {"mathml": "<math", "svg": "<svg"}
        kinds = " ".join(kind for kind, tag in found.items() if tag in text)
        if kinds:
            item = re.escape(f'href="{posixpath.basename(name)}"')
            item = item if re.search(item, package) else re.escape(f'href="{name}"')
            package = re.sub(rf"(<item [^>]*?){item}", rf'\g<0> properties="{kinds}"', package)
    return package


def mathml(formulas: Sequence[tuple[str, bool]]) -> list[str]:
    """Turn TeX into MathML, by MathJax in node.

    Args:
        formulas: (TeX, whether it stands by itself).

    Raises:
        ValueError: node is not installed, MathJax cannot be fetched, or a formula has a fault.
    """
    node = shutil.which("node")
    if node is None:
        raise ValueError("expected node, which sets the formulas, found none; install it")
    try:
        folder = npm.fetch(npm.MATHJAX_NODE, FOLDER / "mathjax-node")
    except npm.NotFetched as error:
        raise ValueError(str(error)) from None
    command = [node, "-e", NODE, str(folder / "node-main.js")]
    done = subprocess.run(command, input=json.dumps(formulas), capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"MathJax could not set the formulas: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)


# --- the command ----------------------------------------------------------------------------------


def book_command(args: argparse.Namespace) -> int:
    """Make a book of the site."""
    path = args.file or FOLDER / f"representation-learning.{args.format}"
    files.writable_path(path)
    if args.format == "pdf":
        print(f"printing {len(pages())} pages of {SITE}: a few minutes", flush=True)
        write_pdf(path)
        sheets, links = counted(path)
        about: Any = f"{sheets:,} pages, {links:,} links inside"
    else:
        print("packing the pages: a few minutes", flush=True)
        about = f"{write_epub(path):,} formulas"
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {about}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _command.Parser(prog="python -m tools.book", description=__doc__.splitlines()[0])
    parser.add_argument("format", choices=("pdf", "epub"))
    parser.add_argument("--file", type=Path, help="default: build/representation-learning.FORMAT")
    return _command.run(book_command, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
