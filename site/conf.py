"""The site without Jupyter Book: `sphinx-build -c site . _build/sphinx`.

Everything is taken from _config.yml.
"""

import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
_book = yaml.safe_load((HERE.parent / "_config.yml").read_text("utf-8"))

project = html_title = _book["title"]
author, copyright = _book["author"], _book["copyright"]
extensions = [
    "myst_nb",
    "sphinx_book_theme",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_external_toc",
    "sphinx_togglebutton",
    *_book["sphinx"]["local_extensions"],
    *_book["sphinx"]["extra_extensions"],
]
html_theme = "sphinx_book_theme"
html_sourcelink_suffix = ""
exclude_patterns = _book["exclude_patterns"]
external_toc_path = str(HERE.parent / "_toc.yml")
external_toc_exclude_missing = _book["only_build_toc_files"]
myst_enable_extensions = _book["parse"]["myst_enable_extensions"]
nb_execution_mode = _book["execute"]["execute_notebooks"]
nb_output_stderr = _book["execute"]["stderr_output"]

globals().update(_book["sphinx"]["config"])
# Jupyter Book counts these paths from the root, Sphinx from this folder.
html_static_path = [str(HERE.parent / path) for path in html_static_path]  # noqa: F821
templates_path = [str(HERE.parent / path) for path in templates_path]  # noqa: F821
bibtex_bibfiles = [str(HERE.parent / path) for path in _book["bibtex_bibfiles"]]
