"""What our site adds to Sphinx, for Jupyter Book and for plain Sphinx alike.

Addresses from pyproject.toml, MathJax from a local copy (the network only where there is none), alt text, a local badge
and links to the glossary in the notebooks.
"""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

sys.path.insert(0, str(Path(__file__).resolve().parent))
import generated
import slim

ROOT = Path(__file__).resolve().parents[1]
MATHJAX = "mathjax@3.2.2"
EXTRA = ROOT / "build" / "mathjax"  # its content is laid over the built site as it is
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
# In the page, not a file: a browser asks for /favicon.ico otherwise, outside the site where that lies below a path.
ICON = """<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
%3Crect width='16' height='16' rx='3' fill='%230072b2'/%3E%3Cpath d='M4 4h8L6 12h6' fill='none' stroke='white' \
stroke-width='2'/%3E%3C/svg%3E">"""


def configure(app, config):
    """Theme options that hold an address, and the path of MathJax."""
    address = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"][
        "Repository"
    ]
    config.html_theme_options = {
        **config.html_theme_options,
        "repository_url": address,
        "repository_branch": "main",
        "path_to_docs": "",
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
        "use_repository_button": True,
        "use_issues_button": True,
        "use_download_button": True,
        "search_bar_text": "Search the course",
        "navbar_persistent": [],  # else a second search box in a bar of its own
    }
    if fetch_mathjax():
        # Not html_static_path: there every script is also loaded by its own tag.
        config.html_extra_path = [*config.html_extra_path, str(EXTRA)]
        config.mathjax_path = "mathjax/tex-chtml-full.js"


def fetch_mathjax():
    """Is there a local copy of MathJax (script and fonts)? Fetches it once with npm where there is one."""
    target = EXTRA / "_static" / "mathjax"
    if target.exists():
        return True
    if not shutil.which("npm"):
        return False
    EXTRA.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=EXTRA.parent) as folder:
        try:
            command = ["npm", "pack", "--silent", MATHJAX]
            subprocess.run(command, cwd=folder, check=True, timeout=120, capture_output=True)
        except (subprocess.SubprocessError, OSError):
            return False
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            wanted = [
                member
                for member in archive.getmembers()
                if member.name in ("package/LICENSE", "package/es5/tex-chtml-full.js")
                or member.name.startswith("package/es5/output/chtml/fonts/")
            ]
            archive.extractall(folder, members=wanted)
        shutil.move(f"{folder}/package/LICENSE", f"{folder}/package/es5/LICENSE")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(f"{folder}/package/es5", target)
    return True


def prepare(app, docname, source):
    """In a notebook: alt text, a folded set-up cell, a local badge, glossary links. In a page: generated text."""
    if not docname.startswith("notebooks/"):
        source[0] = generated.fill(source[0])
        return
    nb = json.loads(source[0].replace(BADGE, "../site/_static/colab-badge.svg"))
    link_terms(nb["cells"])
    for metadata in (cell["metadata"] for cell in nb["cells"]):
        if "alt" in metadata:
            metadata.setdefault("mystnb", {}).setdefault("image", {})["alt"] = metadata["alt"]
        if "setup" in metadata.get("tags", ()):
            metadata["tags"].append("hide-input")
            metadata.setdefault("mystnb", {})["code_prompt_show"] = "Set-up (for Colab)"
    source[0] = json.dumps(nb)


def terms():
    """The words that the glossary explains."""
    block = (ROOT / "site" / "glossary.md").read_text("utf-8").split("```")[1]
    return re.findall(r"^\w.+", block.split("\n", 1)[1], re.MULTILINE)


def link_terms(cells):
    """In a lesson's texts, where a term of the glossary first stands in bold or italics: a link to its entry."""
    entries = {form.lower(): term for term in terms() for form in (term + "s", term)}
    words = "|".join(re.escape(form) for form in sorted(entries, key=len, reverse=True))
    keep = r"(?P<keep>```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\[[^\]]*\]\([^)]*\)|<[^>]*>|^#.*?$)"
    pattern = re.compile(
        rf"{keep}|(?<![\w*])(?P<mark>\*\*?)(?P<word>{words})(?P=mark)(?![\w*])", re.I | re.S | re.M
    )
    linked = set()

    def link(match):
        term = entries.get((match["word"] or "").lower())
        if term is None or term in linked:
            return match[0]
        linked.add(term)
        return f"{match['mark']}{{term}}`{match['word']} <{term}>`{match['mark']}"

    for cell in cells:
        if cell["cell_type"] == "markdown":
            cell["source"] = pattern.sub(link, "".join(cell["source"]))


def mend(app, pagename, templatename, context, doctree):
    """What a screen reader hears: a folded cell's handle says its own words, the papers are the items of their list."""
    if "body" in context:
        body = context["body"].replace('<summary aria-label="Toggle hidden content">', "<summary>")
        context["body"] = body.replace(' role="doc-biblioentry"', ' role="listitem"')


def drop_unused(app, pagename, templatename, context, doctree):
    """Leave out scripts and styles that a page does not need, since the first page must be light; add the icon.

    Thebe, which Jupyter Book adds to every page, with an address on the web: no code runs live here. sphinx-design:
    no page uses it. Notebook styles and MathJax: only where there is a notebook, or a formula.
    """
    body = context.get("body", "")
    unused = ["thebe", "sphinx-design", "design-tabs"]
    unused += [] if pagename.startswith("notebooks/") else ["mystnb."]
    unused += [] if 'class="math' in body else ["mathjax"]

    def needed(file):
        text = f"{file} {getattr(file, 'filename', '')} {getattr(file, 'attributes', {}).get('body')}".lower()
        return not any(name in text for name in unused)

    for files in ("script_files", "css_files"):
        context[files] = list(filter(needed, context[files]))
    context["metatags"] = context.get("metatags", "") + ICON


def outdated(app, env, added, changed, removed):
    """Pages with generated parts: Sphinx does not see that the results they are made of have changed."""
    return [
        name
        for name in env.found_docs
        if "<!-- generated:" in Path(env.doc2path(name)).read_text("utf-8")
    ]


def setup(app):
    app.connect("config-inited", configure, priority=0)
    app.connect("env-get-outdated", outdated)
    app.connect("source-read", prepare)
    app.connect("html-page-context", drop_unused, priority=900)
    app.connect("html-page-context", mend)
    app.connect("build-finished", slim.slim)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
