"""After the build: what a first visit loads and never uses is left out.

The theme ships one script with all 1,400 icons of Font Awesome (1.5 MB, 543 kB compressed), of
which the pages use some twenty, and loads the search index with every page, though a search opens
the search page, which loads it as well. If a file of the theme has another form than expected it
stays as it is.
"""

import re
from pathlib import Path

SCRIPT = "_static/scripts/fontawesome.js"
# One icon: name:[width,height,[other names],"code","path"], or with two paths.
ICON = re.compile(
    r'"?([a-z0-9-]+)"?:\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\["[^"]*","[^"]*"\])\],?'
)
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
