"""From a lesson's text to its notebook: generated blocks, pairing, running, the set-up cell."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from replearn.lesson import exercises
from tools import notebooks, project

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "https://github.com/somebody/course"
TAG = project.tag()
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
    monkeypatch.setattr(project, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(notebooks, "CLAIMS", tmp_path / "claims")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    source = tmp_path / "notebooks" / "src" / "99_sample.md"
    source.parent.mkdir(parents=True)
    source.write_text(TEXT, "utf-8")
    return source


@pytest.fixture
def with_address(tmp_path, monkeypatch):
    """A project that has an address."""
    text = f'[project]\nname = "replearn"\n[project.urls]\nRepository = "{ADDRESS}/"\n'
    (tmp_path / "pyproject.toml").write_text(text, "utf-8")
    monkeypatch.setattr(project, "ROOT", tmp_path)


@pytest.fixture
def without_address(tmp_path, monkeypatch):
    """A project that has none."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "replearn"\n', "utf-8")
    monkeypatch.setattr(project, "ROOT", tmp_path)


def is_newer(path):
    """Give a file a time after now, so that it counts as edited later."""
    os.utime(path, (time.time() + 5, time.time() + 5))


def notebook_of(source):
    return source.parents[1] / f"{source.stem}.ipynb"


# --- generated blocks ---


def test_regenerate_fills_blocks_and_keeps_the_rest(sample):
    text = notebooks.regenerate(TEXT, "99_sample")
    assert notebooks.regenerate(text, "99_sample") == text
    assert notebooks.setup_source() in text
    assert "old = 1" not in text
    assert "return 2 * x" in text
    assert "Prose that stays." in text
    assert "More prose." in text
    broken = text.replace("return 2 * x", "return 3 * x").replace("make lab", "make tea")
    assert notebooks.regenerate(broken, "99_sample") == text


def test_with_an_address_there_is_a_badge_and_an_installation(sample, with_address):
    without = sample.read_text("utf-8")
    text = notebooks.regenerate(without, "99_sample")
    link = f"https://colab.research.google.com/github/somebody/course/blob/{TAG}/notebooks/"
    assert f"[![Open in Colab]({notebooks.COLAB_BADGE})]({link}99_sample.ipynb)" in text
    assert f"[![Open in Kaggle]({notebooks.KAGGLE_BADGE})](https://www.kaggle.com/" in text
    assert f"[![Open in Binder]({notebooks.BINDER_BADGE})](https://mybinder.org/" in text
    assert f"    %pip install --quiet --no-deps git+{ADDRESS}@{TAG}\n" in text
    assert notebooks.regenerate(text, "99_sample") == text


def test_without_an_address_nothing_is_linked_and_nothing_is_installed(sample, without_address):
    assert project.address() is None
    assert project.colab("99_sample") is None
    text = notebooks.regenerate(TEXT, "99_sample")
    assert "<!-- badge -->\n\n<!-- /badge -->" in text
    assert "http" not in text and "git+" not in text


def test_colab_opens_notebooks_from_github_alone(tmp_path, monkeypatch):
    text = '[project]\n[project.urls]\nRepository = "https://example.org/course"\n'
    (tmp_path / "pyproject.toml").write_text(text, "utf-8")
    monkeypatch.setattr(project, "ROOT", tmp_path)
    assert project.address() == "https://example.org/course"
    for place in (project.colab, project.kaggle, project.binder):
        assert place("06_simclr") is None


def test_an_address_that_changes_changes_every_block(sample, with_address):
    """Even where the notebook was executed after its text was written."""
    notebooks.sync(sample)
    (sample.parents[2] / "pyproject.toml").write_text('[project]\nname = "replearn"\n', "utf-8")
    is_newer(notebook_of(sample))
    notebooks.sync(sample)
    assert ADDRESS not in sample.read_text("utf-8") + notebook_of(sample).read_text("utf-8")


# --- the set-up cell ---


def run_setup_cell(install=lambda: None):
    """Run the set-up cell; return the names it defines. `install` stands for pip."""
    names = {"install": install}
    pip = r"\1installed = not install()"
    plain = re.sub(r"^( *)%pip .*", pip, notebooks.setup_source(), flags=re.M)
    exec(plain, names)
    return names


@pytest.fixture
def in_colab(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", None)


@pytest.fixture(params=["Colab", "Kaggle"])
def elsewhere(request, monkeypatch):
    """A machine of others, on which the set-up cell may install."""
    if request.param == "Colab":
        monkeypatch.setitem(sys.modules, "google.colab", None)
    else:
        monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")


@pytest.fixture(params=["nothing", "a folder"])
def without_replearn(request, tmp_path, monkeypatch):
    """A Python that has no replearn, or a mere folder of that name, as beside a clone."""
    empty = tmp_path / "empty"
    empty.mkdir()
    if request.param == "a folder":
        (empty / "replearn").mkdir()
    outside = [path for path in sys.path if not Path(path or ".", "replearn").exists()]
    monkeypatch.setattr(sys, "path", [str(empty), *outside])
    # An editable installation has a finder of its own.
    finders = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
    monkeypatch.setattr(sys, "meta_path", finders)
    for name in list(sys.modules):
        if name.partition(".")[0] == "replearn":
            monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    yield empty
    sys.modules.pop("replearn", None)


@pytest.mark.parametrize("place", ["with_address", "without_address"])
def test_setup_cell_does_nothing_where_replearn_is(request, place):
    request.getfixturevalue(place)
    code = notebooks.setup_source()
    assert len(code.splitlines()) <= 14
    assert "--no-deps" in code and "torch" not in code
    before = sys.modules["replearn"]
    assert "installed" not in run_setup_cell()
    assert sys.modules["replearn"] is before


@pytest.mark.parametrize("place", ["with_address", "without_address"])
def test_setup_cell_says_what_to_do_outside_colab(request, place, without_replearn):
    request.getfixturevalue(place)
    with pytest.raises(ModuleNotFoundError, match=r"^replearn is not here: run `make lab` first$"):
        run_setup_cell()


def test_setup_cell_installs_elsewhere(with_address, elsewhere, without_replearn):
    """What pip has installed is found at once, whatever lay here before."""

    def install():
        package = without_replearn / "replearn" / "lesson"
        package.mkdir(parents=True)
        (package.parent / "__init__.py").write_text("found = True\n")
        (package / "__init__.py").write_text("")

    assert run_setup_cell(install)["installed"]
    assert importlib.import_module("replearn").found
    assert "installed" not in run_setup_cell()
    sys.modules.pop("replearn.lesson", None)


def test_setup_cell_stops_where_pip_has_failed(with_address, in_colab, without_replearn):
    """pip's magic only prints its error: without this, the next cell would be the one to stop."""
    with pytest.raises(ModuleNotFoundError, match="could not install replearn: the line above"):
        run_setup_cell()


def test_setup_cell_says_what_to_do_in_colab(without_address, in_colab, without_replearn):
    with pytest.raises(ModuleNotFoundError, match=r"upload its wheel .*, then this cell again$"):
        run_setup_cell()


# --- text and notebook ---


def test_sync_keeps_ids_and_outputs(sample):
    notebooks.sync(sample)
    path = notebook_of(sample)
    nb = nbformat.read(path, as_version=4)
    nb.cells[-1].outputs = [new_output("stream", text="kept\n")]
    path.write_text(notebooks.notebook_text(nb), "utf-8")
    before = path.read_bytes()
    notebooks.sync(sample)
    assert path.read_bytes() == before

    sample.write_text(sample.read_text("utf-8").replace("More prose.", "Other prose."), "utf-8")
    is_newer(sample)
    after = notebooks.sync(sample)
    ids_before = [cell.id for cell in nb.cells if "prose" not in cell.source]
    ids_after = [cell.id for cell in after.cells if "prose" not in cell.source]
    assert ids_after == ids_before
    assert after.cells[-1].outputs[0].text == "kept\n"


def test_sync_does_not_drop_edits_of_the_notebook(sample):
    notebooks.sync(sample)
    path = notebook_of(sample)
    edited = path.read_text("utf-8").replace("More prose.", "Edited in JupyterLab.")
    path.write_text(edited, "utf-8")
    is_newer(path)
    with pytest.raises(SystemExit, match="jupytext --sync"):
        notebooks.sync(sample)
    assert "Edited in JupyterLab." in path.read_text("utf-8")


def on_the_shelf(source):
    """Move the text of the sample to the frontier shelf, and return its new path."""
    shelf = source.parents[1] / "frontier"
    (shelf / "src").mkdir(parents=True)
    shutil.copy(ROOT / "notebooks" / "frontier" / "jupytext.toml", shelf)
    return source.rename(shelf / "src" / "F9_sample.md")


@pytest.mark.parametrize("place", [lambda source: source, on_the_shelf])
def test_jupyterlab_opens_a_notebook_that_is_newer_than_its_text(place, sample):
    """After `run`, and after a checkout in any order, the notebook may be newer; jupytext must not
    refuse the pair."""
    from jupyter_server.services.contents.largefilemanager import LargeFileManager
    from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class

    root = sample.parents[2]
    sample = place(sample)
    name = f"notebooks/{project.place(sample.stem)}.ipynb"
    shutil.copy(ROOT / "jupytext.toml", root)
    notebooks.sync(sample)
    os.utime(sample, (1e9, 1e9))
    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)(root_dir=str(root))
    model = manager.get(name)
    opened = [cell["source"] for cell in model["content"]["cells"]]
    assert opened == [cell.source for cell in notebooks.sync(sample).cells]
    # As the reader does: nothing of the lesson may change, and the text is saved beside it.
    sample.write_text("", "utf-8")
    manager.save(model, name)
    assert "Prose that stays." in sample.read_text("utf-8")
    stored = nbformat.read(notebook_of(sample), as_version=4)
    assert notebooks.same_inputs(notebooks.clean(stored), notebooks.sync(sample))


def test_sources_names_what_exists(sample):
    assert notebooks.sources(["99"]) == [sample]
    with pytest.raises(SystemExit, match="found 3; there are 99"):
        notebooks.sources(["3"])


def test_the_frontier_shelf_is_found_by_number_and_among_all(sample, with_address):
    shelf = sample.parents[1] / "frontier" / "src" / "F9_sample.md"
    shelf.parent.mkdir(parents=True)
    shelf.write_text(TEXT, "utf-8")
    assert notebooks.sources() == [sample, shelf]
    assert notebooks.sources(frontier=False) == [sample]
    assert notebooks.sources(["f9"], frontier=False) == [shelf]
    notebooks.sync(shelf)
    assert notebooks.notebook_of(shelf) == sample.parents[1] / "frontier" / "F9_sample.ipynb"
    assert notebooks.notebook_of(shelf).exists()
    assert f"/blob/{TAG}/notebooks/frontier/F9_sample.ipynb" in shelf.read_text("utf-8")


# --- running ---


def test_run_stores_outputs_and_leaves_a_failed_notebook_alone(sample, capsys):
    sample.write_text(TEXT + FINISH, "utf-8")
    assert notebooks.main(["run", "99", "--profile", "cpu"]) == 0
    assert re.search(r"99_sample +\d+\.\d +2 of 2", capsys.readouterr().out)
    path = notebook_of(sample)
    nb = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in nb.cells if cell.cell_type == "code"] == [1, 2, 3]
    assert nb.cells[-1].outputs[0].text == "1 1\n"
    assert "execution" not in nb.cells[-1].metadata

    failing = TEXT + FINISH + "\n```{code-cell}\nraise ValueError('planted')\n```\n"
    sample.write_text(failing, "utf-8")
    is_newer(sample)
    assert notebooks.main(["run", "99"]) == 1
    stdout, stderr = capsys.readouterr()
    assert "planted" in stderr
    assert "1 failed" in stdout
    stored = nbformat.read(path, as_version=4)
    outputs = [cell.get("outputs") for cell in stored.cells]
    assert outputs[:-1] == [cell.get("outputs") for cell in nb.cells]


def test_seeds_list_every_claim_and_store_no_outputs(sample):
    sample.write_text(TEXT + FINISH, "utf-8")
    # A claim that fails at one seed is a failure.
    assert notebooks.main(["run", "99", "--seeds", "2", "--profile", "cpu"]) == 1
    record = json.loads((sample.parents[2] / "claims" / "99_cpu.json").read_text("utf-8"))
    assert record["seeds"] == [0, 1]
    assert record["notebook"] == "99_sample"
    assert record["command"] == "python -m tools.notebooks run 99 --seeds 2 --profile cpu"
    assert record["claims"] == [
        dict(sentence="always", held=[True, True], numbers=[{"seed": 0}, {"seed": 1}]),
        dict(sentence="not at 1", held=[True, False], numbers=[{}, {}]),
    ]
    nb = nbformat.read(notebook_of(sample), as_version=4)
    assert not any(cell.get("outputs") for cell in nb.cells)


def test_a_claim_that_one_seed_does_not_reach_did_not_hold_there():
    first = dict(claims=[dict(sentence="a", holds=True, numbers={"x": 1})])
    second = dict(claims=[dict(sentence="b", holds=True, numbers={"y": 2})])
    assert notebooks.claims_by_seed([first, second]) == [
        dict(sentence="a", held=[True, False], numbers=[{"x": 1}, {}]),
        dict(sentence="b", held=[False, True], numbers=[{}, {"y": 2}]),
    ]


def test_aligned_columns():
    assert notebooks.aligned([("a", "bb", ""), ("long", "b", "c")]) == "a     bb\nlong  b   c"


def test_nbval_ignores_numbers_and_sees_words(tmp_path):
    """The sanitizing rule lets a number differ between machines, but neither a ✗ nor another
    sentence."""
    stored_outputs = {
        "number": ("✓ A wins (a 0.81, b -3e-05)\n", "PASSED"),
        "mark": ("✗ A wins (a 0.90, b 1)\n", "FAILED"),
        "words": ("✓ B wins (a 0.90, b 1)\n", "FAILED"),
    }
    for name, (stored, _) in stored_outputs.items():
        source = 'print("✓ A wins (a 0.90, b 1)")'
        cell = new_code_cell(source, metadata={"tags": ["nbval-check-output"]})
        cell.execution_count = 1
        cell.outputs = [new_output("stream", text=stored)]
        nbformat.write(new_notebook(cells=[cell]), tmp_path / f"{name}.ipynb")
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA"]
    nbval = ["--nbval-lax", "--nbval-current-env", "--nbval-sanitize-with"]
    config = str(ROOT / "tests" / "nbval_sanitize.cfg")
    command = [*pytest_command, *nbval, config, "--rootdir", str(tmp_path), str(tmp_path)]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
    for name, (_, result) in stored_outputs.items():
        assert re.search(rf"^{result} .*{name}\.ipynb", output, re.MULTILINE), output
