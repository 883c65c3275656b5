"""The house rules: what belongs together agrees, the package stays thin, the notebooks are as their text says."""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from jupytext.compare import compare_notebooks
from nbformat.v4 import new_code_cell, new_notebook, new_output

from replearn.lesson import exercises
from tools import notebooks as build
from tools import notebooks as makers

ROOT = build.ROOT
SOURCES = sorted((ROOT / "notebooks" / "src").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = build.tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def read(path):
    return (ROOT / path).read_text("utf-8")


# --- files that must agree --------------------------------------------------------------------------------------------


def test_environment_agrees_with_pyproject():
    environment = yaml.safe_load(read("environment.yml"))
    python, pip, rest = environment["dependencies"]
    assert environment["channels"] == ["conda-forge"] and pip == "pip"
    assert python.startswith("python" + PROJECT["requires-python"])
    assert rest == {
        "pip": ["-c constraints.txt", "-e .[lab]"]
    }  # all else is pyproject's, so that nothing can drift
    assert "lab" in PROJECT["optional-dependencies"]


def test_constraints_name_versions_and_no_addresses():
    lines = [line for line in read("constraints.txt").splitlines() if not line.startswith("#")]
    pin = re.compile(r"[a-z0-9._-]+==[\w.+!]+( ; .+)?$")
    assert not [line for line in lines if not pin.match(line)]
    names = {re.split("==", line)[0] for line in lines}
    wanted = sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])
    wanted = {re.match(r"[\w-]+", line)[0].replace("_", "-").lower() for line in wanted} - {
        "replearn"
    }
    assert wanted <= names


def test_versions_agree():
    import replearn

    assert replearn.__version__ == PROJECT["version"]


def test_addresses_agree():
    """Every address of the project is made from the ones in pyproject."""
    allowed = (*PROJECT["urls"].values(), build.address(), build.colab("").split("/notebooks")[0])
    files = [
        *ROOT.glob("*.md"),
        *ROOT.glob("_*.yml"),
        *ROOT.glob("site/*.*"),
        *ROOT.glob(".github/**/*.yml"),
        *SOURCES,
        *NOTEBOOKS,
        *ROOT.glob("replearn/**/*.py"),
    ]
    strangers = []
    for path in files:
        for found in re.findall(r"https?://[\w./-]*\breplearn\b[\w./-]*", path.read_text("utf-8")):
            if not found.startswith(allowed):
                strangers.append(f"{path.relative_to(ROOT)}: {found}")
    assert not strangers


def test_every_linked_paper_is_on_the_reference_page():
    bibliography = read("site/references.bib")
    for path in SOURCES:
        linked = re.findall(
            r"\]\(https://(?:arxiv\.org/abs|doi\.org|openreview\.net)/([^\s]+?)\)(?=[\s.,;)]|$)",
            path.read_text("utf-8"),
            re.MULTILINE,
        )
        assert linked, path.name
        missing = [paper for paper in linked if paper not in bibliography]
        assert not missing, (path.name, missing)


def test_table_of_contents_lists_every_notebook():
    toc = yaml.safe_load(read("_toc.yml"))
    files = [
        toc["root"],
        *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"]),
    ]
    missing = [
        name
        for name in files
        if not any((ROOT / f"{name}{end}").exists() for end in (".md", ".ipynb"))
    ]
    lessons = [name for name in files if name.startswith("notebooks/")]
    assert not missing and lessons == sorted(lessons)
    assert lessons == [f"notebooks/{path.stem}" for path in NOTEBOOKS]


# --- the size and the weight of the package ---------------------------------------------------------------------------


def test_core_is_thin():
    lines = {
        path.name: len(path.read_text("utf-8").splitlines())
        for path in (ROOT / "replearn").glob("*.py")
    }
    assert sum(lines.values()) <= 1_100, lines
    limit = lambda path: 300 if re.match(r"ex\d\d", path.name) else 200
    every = [
        (path, len(path.read_text("utf-8").splitlines()))
        for path in (ROOT / "replearn").rglob("*.py")
    ]
    assert not {str(path): n for path, n in every if n >= limit(path)}


def test_core_imports_neither_lessons_nor_simclr():
    pattern = re.compile(r"^\s*(from|import) replearn(\.| import )(lesson|simclr)\b", re.MULTILINE)
    assert not [
        path.name
        for path in (ROOT / "replearn").glob("*.py")
        if pattern.search(path.read_text("utf-8"))
    ]


def test_import_is_light():
    """`import replearn` and all of its core adds less than a second to `import torch`: median of fresh interpreters."""
    code = """import time, torch
started = time.perf_counter()
import replearn
from replearn import augment, data, losses, metrics, models, probe, train
print(time.perf_counter() - started)"""
    seconds = [
        float(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT)) for _ in range(3)
    ]
    assert statistics.median(seconds) < 1.0


# --- generated blocks and pairing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_generated_blocks_are_current(source):
    text = source.read_text("utf-8")
    assert build.regenerate(text, source.stem) == text, "run: python -m tools.notebooks sync"
    assert text.count("<!-- badge -->") == 1 and build.setup_source() in text


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_says_what_its_text_says(source):
    path = ROOT / "notebooks" / f"{source.stem}.ipynb"
    stored = nbformat.read(path, as_version=4)
    compare_notebooks(build.clean(jupytext.read(source, fmt="md:myst")), stored, fmt="md:myst")
    assert path.read_text("utf-8") == build.notebook_text(build.clean(stored)), (
        "run: python -m tools.notebooks sync"
    )


def test_every_notebook_has_a_text():
    assert [path.stem for path in NOTEBOOKS] == [path.stem for path in SOURCES]


TEXT = """\
---
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# 99 · Sample

<!-- badge -->

Prose that stays.

```{code-cell}
:tags: [setup]

old = 1
```

<!-- solution precision_at_k -->

More prose.

```{code-cell}
:alt: A line
:tags: [nbval-check-output]

print("✓ two is larger than one", 1.5)
```
"""


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """A small project: one lesson text in a folder of its own, with one exercise."""

    def precision_at_k(x):
        """Double it."""
        return 2 * x

    exercise = exercises.Exercise(
        solution=precision_at_k, cases=lambda generator: {}, hints=(), wrong={}, alternatives=()
    )
    monkeypatch.setattr(exercises, "get", lambda lesson, name: exercise)
    for name, folder in dict(ROOT="", NOTEBOOKS="notebooks", RESULTS="results").items():
        monkeypatch.setattr(build, name, tmp_path / folder)
    (tmp_path / "pyproject.toml").write_text(read("pyproject.toml"), "utf-8")
    source = tmp_path / "notebooks" / "src" / "99_sample.md"
    source.parent.mkdir(parents=True)
    source.write_text(TEXT, "utf-8")
    return source


def test_regenerate_fills_blocks_and_keeps_the_rest(sample):
    text = build.regenerate(TEXT, "99_sample")
    assert build.regenerate(text, "99_sample") == text
    assert (
        build.colab("99_sample") in text and build.setup_source() in text and "old = 1" not in text
    )
    assert "return 2 * x" in text and "Prose that stays." in text and "More prose." in text
    broken = text.replace("return 2 * x", "return 3 * x").replace(
        build.address(), "https://elsewhere.example"
    )
    assert build.regenerate(broken, "99_sample") == text


def test_setup_cell_does_nothing_here_and_explains_elsewhere():
    code = build.setup_source()
    assert len(code.splitlines()) <= 10 and "--no-deps" in code and "torch" not in code
    plain = re.sub(r"%pip .*", "installed = True", code)
    exec(plain, names := {})
    assert "installed" not in names
    missing = plain.replace('"replearn"', '"no_such_package"')
    with pytest.raises(ModuleNotFoundError, match="make lab"):
        exec(missing, {})
    sys.modules["google.colab"] = None
    try:
        exec(missing, names := {})
    finally:
        del sys.modules["google.colab"]
    assert names["installed"]


def test_sync_keeps_ids_and_outputs(sample):
    build.sync(sample)
    path = sample.parents[1] / "99_sample.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[-1].outputs = [new_output("stream", text="kept\n")]
    build.write_atomically(path, build.notebook_text(nb))
    before = path.read_bytes()
    build.sync(sample)
    assert path.read_bytes() == before
    sample.write_text(sample.read_text("utf-8").replace("More prose.", "Other prose."), "utf-8")
    os.utime(sample, (time.time() + 5, time.time() + 5))
    after = build.sync(sample)
    assert [cell.id for cell in after.cells if "prose" not in cell.source] == [
        cell.id for cell in nb.cells if "prose" not in cell.source
    ]
    assert after.cells[-1].outputs[0].text == "kept\n"


def test_sync_does_not_drop_edits_of_the_notebook(sample):
    build.sync(sample)
    path = sample.parents[1] / "99_sample.ipynb"
    path.write_text(
        path.read_text("utf-8").replace("More prose.", "Edited in JupyterLab."), "utf-8"
    )
    os.utime(path, (time.time() + 5, time.time() + 5))
    with pytest.raises(SystemExit, match="jupytext --sync"):
        build.sync(sample)
    assert "Edited in JupyterLab." in path.read_text("utf-8")


def test_jupyterlab_opens_a_notebook_that_is_newer_than_its_text(sample):
    """After `run`, and after a checkout in any order, the notebook may be newer; jupytext must not refuse the pair."""
    from jupyter_server.services.contents.largefilemanager import LargeFileManager
    from jupytext.sync_contentsmanager import (
        build_sync_jupytext_contents_manager_class as with_jupytext,
    )

    root = sample.parents[2]
    (root / "jupytext.toml").write_text(read("jupytext.toml"), "utf-8")
    build.sync(sample)
    os.utime(sample, (1e9, 1e9))
    manager = with_jupytext(LargeFileManager)(root_dir=str(root))
    model = manager.get("notebooks/99_sample.ipynb")
    assert [cell["source"] for cell in model["content"]["cells"]] == [
        cell.source for cell in build.sync(sample).cells
    ]
    manager.save(
        model, "notebooks/99_sample.ipynb"
    )  # as the reader does: nothing of the lesson may change
    stored = nbformat.read(sample.parents[1] / "99_sample.ipynb", as_version=4)
    assert build.same_inputs(build.clean(stored), build.sync(sample))


def test_sources_names_what_exists(sample):
    assert build.sources(["99"]) == [sample]
    with pytest.raises(SystemExit, match="no lesson 03; there are 99"):
        build.sources(["3"])


FINISH = """
```{code-cell}
import json, os, pathlib
print(os.environ["REPLEARN_STATIC"], os.environ["REPLEARN_STRICT"])
seed = int(os.environ.get("REPLEARN_SEED", 7))
record = dict(profile=os.environ.get("REPLEARN_PROFILE"), data="none", versions={}, claims=[
    dict(sentence="always", holds=True, numbers={"seed": seed}),
    dict(sentence="not at 1", holds=seed != 1, numbers={})])
pathlib.Path(os.environ["REPLEARN_RESULTS"], "99.json").write_text(json.dumps(record))
```
"""


def test_run_stores_outputs_and_leaves_a_failed_notebook_alone(sample, capsys):
    sample.write_text(TEXT + FINISH, "utf-8")
    assert makers.main(["run", "99", "--profile", "cpu"]) == 0
    assert re.search(r"99_sample +\d+\.\d +2 of 2", capsys.readouterr().out)
    path = sample.parents[1] / "99_sample.ipynb"
    nb = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in nb.cells if cell.cell_type == "code"] == [1, 2, 3]
    assert nb.cells[-1].outputs[0].text == "1 1\n" and "execution" not in nb.cells[-1].metadata
    before = path.read_bytes()
    sample.write_text(
        TEXT + FINISH + "\n```{code-cell}\nraise ValueError('planted')\n```\n", "utf-8"
    )
    os.utime(sample, (time.time() + 5, time.time() + 5))
    assert makers.main(["run", "99"]) == 1
    stdout, stderr = capsys.readouterr()
    assert "planted" in stderr and "1 failed" in stdout
    stored = nbformat.read(path, as_version=4)
    assert [cell.get("outputs") for cell in stored.cells][:-1] == [
        cell.get("outputs") for cell in nbformat.reads(before.decode(), as_version=4).cells
    ]


def test_seeds_list_every_claim_and_store_no_outputs(sample):
    sample.write_text(TEXT + FINISH, "utf-8")
    assert (
        makers.main(["run", "99", "--seeds", "2"]) == 1
    )  # a claim that fails at one seed is a failure
    record = json.loads((sample.parents[2] / "results" / "claims_99.json").read_text("utf-8"))
    assert record["seeds"] == [0, 1] and record["notebook"] == "99_sample"
    assert record["claims"] == [
        dict(sentence="always", held=[True, True], numbers=[{"seed": 0}, {"seed": 1}]),
        dict(sentence="not at 1", held=[True, False], numbers=[{}, {}]),
    ]
    nb = nbformat.read(sample.parents[1] / "99_sample.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in nb.cells)


def test_nbval_ignores_numbers_and_sees_words(tmp_path):
    """The sanitizing rule lets a number differ between machines, but neither a ✗ nor another sentence."""
    cells = {
        "number": ("✓ A wins (a 0.81, b -3e-05)\n", True),
        "mark": ("✗ A wins (a 0.90, b 1)\n", False),
        "words": ("✓ B wins (a 0.90, b 1)\n", False),
    }
    for name, (stored, _) in cells.items():
        cell = new_code_cell(
            'print("✓ A wins (a 0.90, b 1)")', metadata={"tags": ["nbval-check-output"]}
        )
        cell.execution_count = 1
        cell.outputs = [new_output("stream", text=stored)]
        nbformat.write(new_notebook(cells=[cell]), tmp_path / f"{name}.ipynb")
    config = ROOT / "tests" / "nbval_sanitize.cfg"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--nbval-lax",
        "--nbval-current-env",
    ]
    command += [
        "--nbval-sanitize-with",
        str(config),
        "-rA",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
    for name, (_, same) in cells.items():
        assert re.search(
            rf"^{'PASSED' if same else 'FAILED'} .*{name}\.ipynb", output, re.MULTILINE
        ), output


def test_stages_name_existing_files():
    text = read("tests/stages.py")
    for path in re.findall(r'"(tests/[\w.]+)"', text):
        assert Path(ROOT, path).exists()
