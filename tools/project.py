"""Where the parts of a checkout lie, and the addresses that the project has.

The project may have no public home. Then there is nothing to install from or to link to, and the
functions below say so by returning None.
"""

import re
from pathlib import Path
from typing import Any

from replearn import __version__

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
GITHUB = "https://github.com/"


def metadata() -> dict[str, Any]:
    """Return the `[project]` table of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    return tomllib.loads(text)["project"]


def address() -> str | None:
    """Return the address of the project's repository, or None if it has none.

    It stands in one place, `[project.urls]` of pyproject.toml; badges, set-up cells and the buttons
    of the site are made from it.
    """
    urls = metadata().get("urls", {})
    if "Repository" not in urls:
        return None
    return urls["Repository"].rstrip("/")


def tag() -> str:
    """Return the tag in the repository that holds this version of the course.

    Badges, set-up cells and launch buttons lead to the tag and not to a branch, so that an old
    notebook never meets new code.
    """
    return f"v{__version__}"


def place(name: str) -> str:
    """Return where a notebook lies inside of `notebooks/`, without its ending.

    The notebooks of the frontier shelf have a folder of their own.

    Args:
        name: The notebook without its ending.

    Example:
        >>> place("06_simclr"), place("F2_shared_worlds")
        ('06_simclr', 'frontier/F2_shared_worlds')
    """
    return f"frontier/{name}" if re.match(r"F\d_", name) else name


def colab(name: str) -> str | None:
    """Return the address that opens a notebook in Colab.

    Args:
        name: The notebook without its ending, "06_simclr".

    Returns:
        The address, or None if the project has no repository on GitHub, from which Colab reads.
    """
    inside = _on_github()
    if inside is None:
        return None
    path = f"{inside}/blob/{tag()}/notebooks/{place(name)}.ipynb"
    return f"https://colab.research.google.com/github/{path}"


def kaggle(name: str) -> str | None:
    """Return the address that copies a notebook to Kaggle, as `colab` does for Colab."""
    inside = _on_github()
    if inside is None:
        return None
    source = f"{GITHUB}{inside}/blob/{tag()}/notebooks/{place(name)}.ipynb"
    return f"https://www.kaggle.com/kernels/welcome?src={source}"


def binder(name: str) -> str | None:
    """Return the address that opens a notebook in Binder, whose machine environment.yml makes."""
    inside = _on_github()
    if inside is None:
        return None
    return f"https://mybinder.org/v2/gh/{inside}/{tag()}?labpath=notebooks/{place(name)}.ipynb"


def _on_github() -> str | None:
    """Return ACCOUNT/NAME of the project's repository, or None if it has none on GitHub."""
    repository = address()
    if repository is None or not repository.startswith(GITHUB):
        return None
    return repository.removeprefix(GITHUB)
