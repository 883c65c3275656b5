"""The slides of a lesson as one HTML file: nbconvert's reveal.js slides with reveal.js and MathJax
beside them.

    FOLDER/06_simclr.html …    one file a lesson
    FOLDER/index.html          the list
    FOLDER/reveal, mathjax     what they load: no address on the web, so that they open from a USB
                               stick
"""

import html
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from replearn.files import write_atomically
from tools import notebooks, npm
from tools.slides.cut import HEIGHT, WIDTH, cut, title_of

HERE = Path(__file__).resolve().parent


def _template() -> str:
    """Return nbconvert's template with our style and script in it: a page needs no other file.

    Blocks of nbconvert's own template stand in ours; require.js, jQuery and mermaid, which it would
    load, are not needed.
    """
    text = (HERE / "slides.html.j2").read_text("utf-8")
    parts = {
        "%STYLE%": (HERE / "slides.css").read_text("utf-8"),
        "%SCRIPT%": (HERE / "slides.js").read_text("utf-8"),
        "%WIDTH%": str(WIDTH),
        "%HEIGHT%": str(HEIGHT),
    }
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text


def write_slides(sources: Iterable[Path], folder: Path) -> Iterator[tuple[str, int]]:
    """Write the slides of these lessons, one lesson for each step of the iterator.

    Args:
        sources: The lesson texts, as `notebooks.sources` gives them.
        folder: Where to; it is made if it is missing.

    Yields:
        The name of a lesson, and how many slides it has.

    Raises:
        SystemExit: A lesson has not been executed, or npm could not fetch what the slides load.
    """
    folder.mkdir(parents=True, exist_ok=True)
    build = notebooks.ROOT / "build"
    try:
        reveal = npm.fetch(npm.REVEAL, build / "reveal")
        mathjax = npm.fetch(npm.MATHJAX, build / "mathjax" / "_static" / "mathjax")
    except npm.NotFetched as error:
        raise SystemExit(f"slides: {error}") from None
    _copy_folder(reveal, folder / "reveal")
    _copy_folder(mathjax, folder / "mathjax")
    for source in sources:
        path = notebooks.notebook_of(source)
        if not path.exists():
            command = f"python -m tools.notebooks run {source.stem[:2]}"
            raise SystemExit(f"slides: no notebooks/{path.name}; make it first: {command}")
        page, count = page_of(nbformat.read(path, as_version=4))
        write_atomically(folder / f"{source.stem}.html", page)
        yield source.stem, count
    write_atomically(folder / "index.html", index(folder))


def page_of(nb: NotebookNode) -> tuple[str, int]:
    """Return the HTML of a lesson's executed notebook, and the number of slides."""
    from nbconvert import SlidesExporter

    made, count = cut(nb)
    title = title_of(nb)
    made.metadata["title"] = title
    exporter = SlidesExporter(
        raw_template=_template(),
        reveal_url_prefix="reveal",
        reveal_theme="white",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    page, _ = exporter.from_notebook_node(made, resources=dict(metadata=dict(name=title)))
    return page, count


def index(folder: Path) -> str:
    """Return a page that lists the slides in a folder."""
    rows = []
    for path in sorted(folder.glob("[0-9][0-9]_*.html")):
        title = path.read_text("utf-8").split("<title>", 1)[1].split(" slides</title>", 1)[0]
        rows.append(f'<li><a href="{html.escape(path.name)}">{title}</a></li>')
    page = (HERE / "index.html").read_text("utf-8")
    return page.replace("%ROWS%", "\n".join(rows))


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a folder whole or not at all; its files never change once they are there."""
    if target.exists():
        return
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    partial.rename(target)
