"""What our site adds to Sphinx, for Jupyter Book and for plain Sphinx alike.

Addresses from pyproject.toml, MathJax from a local copy (the network only where there is none), alt text and a local
badge in the notebooks.
"""

import json
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

ROOT = Path(__file__).resolve().parents[1]
MATHJAX = "mathjax@3.2.2"
EXTRA = ROOT / "build" / "mathjax"  # its content is laid over the built site as it is
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"


def configure(app, config):
    """Theme options that hold an address, and the path of MathJax."""
    address = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]
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
    """In a notebook: alt text for figures, a folded set-up cell, a local badge. In a page: the generated tables."""
    if not docname.startswith("notebooks/"):
        source[0] = generated.fill(source[0])
        return
    nb = json.loads(source[0].replace(BADGE, "../site/_static/colab-badge.svg"))
    for metadata in (cell["metadata"] for cell in nb["cells"]):
        if "alt" in metadata:
            metadata.setdefault("mystnb", {}).setdefault("image", {})["alt"] = metadata["alt"]
        if "setup" in metadata.get("tags", ()):
            metadata["tags"].append("hide-input")
            metadata.setdefault("mystnb", {})["code_prompt_show"] = "Set-up (for Colab)"
    source[0] = json.dumps(nb)


def drop_thebe(app, pagename, templatename, context, doctree):
    """Jupyter Book adds this script to every page, twice, with an address on the web; nothing here runs code live."""
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "thebe" not in str(script).lower() and "THEBE" not in str(getattr(script, "attributes", {}).get("body"))
    ]


def setup(app):
    app.connect("config-inited", configure, priority=0)
    app.connect("source-read", prepare)
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
