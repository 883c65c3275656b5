"""After the build: what no page uses of the theme is left out, so that a first visit is light.

The theme ships 1.5 MB of icons and 0.4 MB of style rules with every page, of which the course needs a tenth, and the
search index, which only the search page needs.
"""

import re
from pathlib import Path

ICONS, RULES = "scripts/fontawesome.js", "styles/pydata-sphinx-theme.css"
# One icon: name:[width,height,[other names],"code","path"]
ICON = re.compile(
    r'"?([a-z0-9-]+)"?:\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\["[^"]*","[^"]*"\])\],?'
)
INDEX = re.compile(r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js"></script>')
RULE = re.compile(r"([^{}]+)\{((?:[^{}]|\{[^{}]*\})*)\}")


def slim(app, exception):
    """Write both files of the theme anew, from its originals, with what the built pages and scripts mention."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    scripts = [
        path
        for path in out.glob("_static/**/*.js")
        if path.name not in ("fontawesome.js", "tex-chtml-full.js")
    ]
    seen = {
        word for path in [*out.rglob("*.html"), *scripts] for word in words(path.read_text("utf-8"))
    }
    for page in out.rglob("*.html"):
        text = page.read_text("utf-8")
        if page.name != "search.html" and INDEX.search(text):
            page.write_text(INDEX.sub("", text), "utf-8")
    for name, reduce in ((ICONS, icons), (RULES, rules)):
        originals = [
            Path(folder) / "static" / name for folder in app.builder.theme.get_theme_dirs()
        ]
        for original in filter(Path.exists, originals):
            (out / "_static" / name).write_text(reduce(original.read_text("utf-8"), seen), "utf-8")
    for path in out.glob("_static/**/*.map"):  # for people who debug the theme
        path.unlink()


def words(text):
    """Whatever could be the name of a class; the pictures inside the page (data:…) are passed over."""
    return set(re.findall(r"-?[A-Za-z_][\w-]*", re.sub(r"data:image/[^\"'&]*", "", text)))


def icons(script, seen):
    """The script with the icons that are named fa-… in `seen`, by any of their names."""

    def keep(match):
        names = [match[1], *re.findall(r'"([a-z0-9-]+)"', match[2])]
        return match[0] if any(f"fa-{name}" in seen for name in names) else ""

    return ICON.sub(keep, script)


def rules(css, seen):
    """The style sheet without the rules that need a class which is not in `seen`."""

    def keep(match):
        head, body = match[1].strip(), match[2]
        if head.startswith(("@media", "@supports")):
            inner = rules(body, seen)
            return f"{match[1]}{{{inner}}}" if inner.strip() else ""
        if head.startswith("@"):
            return match[0]
        alive = [part for part in re.split(r",(?![^(]*\))", match[1]) if needed(part) <= seen]
        return f"{','.join(alive)}{{{body}}}" if alive else ""

    return RULE.sub(keep, css)


def needed(selector):
    """The classes without which a selector finds nothing."""
    return set(
        re.findall(r"\.(-?[A-Za-z_][\w-]*)", re.sub(r":(?:not|is|where)\([^()]*\)", "", selector))
    )
