"""After the build: what a first visit loads and never uses is left out.

The theme ships one script with all 1,400 icons of Font Awesome (1.5 MB, 543 kB compressed), of
which the pages use some twenty; a style sheet with all of Bootstrap (397 kB), of which they use a
third; and the search index with every page, though a search opens the search page, which loads it
as well. If a file of the theme has another form than expected it stays as it is.
"""

import re
from collections.abc import Iterator
from pathlib import Path

SCRIPT = "_static/scripts/fontawesome.js"
# One icon: name:[width,height,[other names],"code","path"], or with two paths.
ICON = re.compile(
    r'"?([a-z0-9-]+)"?:\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\["[^"]*","[^"]*"\])\],?'
)
STYLE = "styles/pydata-sphinx-theme.css"
PARTS_OF_SELECTOR = re.compile(r":(?:not|is|where|has)\((?:[^()]|\([^()]*\))*\)|\[[^\]]*\]")
MADE_BY_SCRIPTS = re.compile(r"(?:bs|DocSearch|dt|highlight)-")  # names put together by scripts
SEARCH_SCRIPT = re.compile(
    r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js"></script>'
)
IMAGE_IN_PAGE = re.compile(r"data:image/[^\"'&]*")


def lighten(app, exception: Exception | None) -> None:
    """Lighten the built site: Sphinx' event build-finished."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    drop_search_scripts(out)
    keep_used_icons(app, out)
    keep_used_rules(app, out)
    for path in out.glob("_static/**/*.map"):  # for people who debug the theme
        path.unlink()


def drop_search_scripts(out: Path) -> None:
    """Take the search index out of every page but the search page."""
    for page in out.rglob("*.html"):
        text = page.read_text("utf-8")
        if page.name != "search.html" and SEARCH_SCRIPT.search(text):
            page.write_text(SEARCH_SCRIPT.sub("", text), "utf-8")


def keep_used_icons(app, out: Path) -> None:
    """Write the script of icons anew, from the theme's original, with those that a page uses."""
    used = names_in_pages(out)
    for folder in app.builder.theme.get_theme_dirs():
        original = Path(folder) / "static" / "scripts" / "fontawesome.js"
        if original.exists():
            (out / SCRIPT).write_text(reduced(original.read_text("utf-8"), used), "utf-8")


def names_in_pages(out: Path) -> set[str]:
    """Return the names of all icons (fa-…) that stand in the built pages and their scripts."""
    scripts = [path for path in out.glob("_static/**/*.js") if path.name != "fontawesome.js"]
    names = set()
    for path in [*out.rglob("*.html"), *scripts]:
        text = IMAGE_IN_PAGE.sub("", path.read_text("utf-8"))
        names |= set(re.findall(r"\bfa-([a-z0-9-]+)", text))
    return names


def reduced(script: str, used: set[str]) -> str:
    """Return the script with the icons of which any name is used."""

    def kept(match: re.Match) -> str:
        names = {match[1], *re.findall(r'"([a-z0-9-]+)"', match[2])}
        return match[0] if names & used else ""

    return ICON.sub(kept, script)


def keep_used_rules(app, out: Path) -> None:
    """Write the theme's style sheet anew, from its original, with the rules that a page can use."""
    known = words_in_pages(out)
    for folder in app.builder.theme.get_theme_dirs():
        original = Path(folder) / "static" / STYLE
        if original.exists():
            text = slimmed(original.read_text("utf-8"), known)
            (out / "_static" / STYLE).write_text(text, "utf-8")


def words_in_pages(out: Path) -> set[str]:
    """Return all that can be the name of a class: words of class attributes and of all scripts."""
    words = set()
    for page in out.rglob("*.html"):
        for classes in re.findall(r'\bclass="([^"]*)"', page.read_text("utf-8")):
            words.update(classes.split())
    for path in out.glob("_static/**/*.js"):
        if path.name not in ("fontawesome.js", "live-data.js") and "mathjax" not in path.parts:
            words.update(re.findall(r"[A-Za-z_][\w-]*", path.read_text("utf-8")))
    return words


def slimmed(style: str, known: set[str]) -> str:
    """Return a style sheet without the rules of which every selector asks for an unknown class.

    Args:
        style: CSS, with or without blocks such as @media.
        known: Names of classes that a page or a script has.
    """
    kept = []
    for head, body in _rules(style):
        if body is None:  # a statement, such as @charset
            kept.append(head)
        elif re.match(r"\s*@(media|supports|container|layer)", head):
            inside = slimmed(body, known)
            if inside.strip():
                kept.append(f"{head}{{{inside}}}")
        elif head.lstrip().startswith("@") or _is_used(head, known):
            kept.append(f"{head}{{{body}}}")
    return "".join(kept)


def _rules(style: str) -> Iterator[tuple[str, str | None]]:
    """Yield what stands before each block of a style sheet, and the block; None for a statement."""
    style = re.sub(r"/\*(?!!).*?\*/", "", style, flags=re.DOTALL)
    start = 0
    while start < len(style):
        end = _position(style, start, "{;")
        if end == len(style) or style[end] == ";":
            yield style[start : end + 1], None
            start = end + 1
            continue
        close = _closing(style, end)
        yield style[start:end], style[end + 1 : close]
        start = close + 1


def _position(style: str, start: int, wanted: str) -> int:
    """Return where one of some letters comes next, outside of quotes; else the length."""
    quote = ""
    for place in range(start, len(style)):
        letter = style[place]
        if quote:
            quote = "" if letter == quote and style[place - 1] != "\\" else quote
        elif letter in "\"'":
            quote = letter
        elif letter in wanted:
            return place
    return len(style)


def _closing(style: str, opening: int) -> int:
    """Return where the block ends that opens here."""
    depth = 1
    place = opening
    while depth and place < len(style):
        place = _position(style, place + 1, "{}")
        depth += 1 if style[place : place + 1] == "{" else -1
    return place


def _is_used(selectors: str, known: set[str]) -> bool:
    """Whether one of some selectors asks for known classes only."""
    selectors = PARTS_OF_SELECTOR.sub("", selectors)
    for selector in selectors.split(","):
        names = re.findall(r"\.(-?[A-Za-z_][\w-]*)", selector)
        if all(name in known or MADE_BY_SCRIPTS.match(name) for name in names):
            return True
    return False
