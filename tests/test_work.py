"""`make lab`: learners work in copies, and neither saving nor `git pull` touches anything else."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tools import work

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["01_first", "02_second"]


@pytest.fixture
def course(tmp_path):
    """A small course: two notebooks with their texts, and the rule by which they are paired."""
    import jupytext
    import nbformat

    folder = tmp_path / "notebooks"
    (folder / "src").mkdir(parents=True)
    shutil.copy(ROOT / "jupytext.toml", tmp_path)
    header = "---\nkernelspec: {display_name: Python 3, language: python, name: python3}\n---\n\n"
    for name in NAMES:
        text = f'{header}# {name}\n\n```{{code-cell}}\n"""A docstring."""\n```\n'
        (folder / "src" / f"{name}.md").write_text(text, "utf-8")
        nbformat.write(jupytext.reads(text, fmt="md:myst"), folder / f"{name}.ipynb")
    return tmp_path


def state(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_copies_are_made_once(course):
    original = course / "notebooks" / "01_first.ipynb"
    copied, outdated = work.make_copies(course / "notebooks", course / "work")
    assert (copied, outdated) == (NAMES, [])
    assert (course / "work" / "01_first.ipynb").read_bytes() == original.read_bytes()
    (course / "work" / "01_first.ipynb").write_text("my own", "utf-8")
    (course / "work" / "02_second.ipynb").unlink()
    copied, outdated = work.make_copies(course / "notebooks", course / "work")
    assert (copied, outdated) == (["02_second"], [])
    assert (course / "work" / "01_first.ipynb").read_text("utf-8") == "my own"


def test_a_newer_original_is_named_and_fresh_copies_keep_the_old(course, monkeypatch, capsys):
    monkeypatch.setattr(work, "ROOT", course)
    monkeypatch.setattr(work, "trust", lambda path: None)
    folder = course / "work"
    assert work.main([str(folder)]) == 0
    assert "2 lessons copied to work/" in capsys.readouterr().out
    mine = folder / "01_first.ipynb"
    mine.write_text("my own", "utf-8")
    original = course / "notebooks" / "01_first.ipynb"
    original.write_text(original.read_text("utf-8").replace("docstring", "better docstring"))

    work.main([str(folder)])
    assert capsys.readouterr().out.startswith("Newer than your copy: 01_first. `make lab FRESH=1`")
    assert mine.read_text("utf-8") == "my own"

    work.main(["--fresh", str(folder)])
    work.main(["--fresh", str(folder)])
    assert mine.read_bytes() == original.read_bytes()
    kept = sorted((folder / "earlier").glob("*/01_first.ipynb"))
    assert len(kept) == 2 and kept[0].read_text("utf-8") == "my own"
    capsys.readouterr()
    work.main([str(folder)])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("root", ["work", "."])
def test_saving_a_copy_in_jupyterlab_leaves_the_source_alone(course, root):
    """Also where JupyterLab was started in the folder of the project."""
    from jupyter_server.services.contents.largefilemanager import LargeFileManager
    from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class

    work.make_copies(course / "notebooks", course / "work")
    before = state(course / "notebooks")
    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)(
        root_dir=str(course / root)
    )
    path = "01_first.ipynb" if root == "work" else "work/01_first.ipynb"
    model = manager.get(path)
    model["content"]["cells"].append(
        dict(cell_type="code", source="mine = 1", metadata={}, outputs=[], execution_count=None)
    )
    manager.save(model, path)
    assert "mine = 1" in (course / "work" / "01_first.ipynb").read_text("utf-8")
    assert state(course / "notebooks") == before
    assert not list((course / "work").rglob("*.md"))


def test_saving_the_original_writes_its_text(course):
    """What `make edit` is for, and what would be seen above if copies were paired."""
    from jupyter_server.services.contents.largefilemanager import LargeFileManager
    from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class

    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)(root_dir=str(course))
    model = manager.get("notebooks/01_first.ipynb")
    model["content"]["cells"][-1]["source"] = "mine = 1"
    manager.save(model, "notebooks/01_first.ipynb")
    assert "mine = 1" in (course / "notebooks" / "src" / "01_first.md").read_text("utf-8")


def test_copies_are_signed(course, monkeypatch):
    import nbformat
    from nbformat.sign import NotebookNotary

    monkeypatch.setenv("JUPYTER_DATA_DIR", str(course / "jupyter"))
    work.make_copies(course / "notebooks", course / "work")
    copy = course / "work" / "01_first.ipynb"
    assert not NotebookNotary().check_signature(nbformat.read(copy, as_version=4))
    work.trust(copy)
    assert NotebookNotary().check_signature(nbformat.read(copy, as_version=4))


def test_git_sees_no_copies_and_no_runs():
    names = ["work/01_first.ipynb", "work/earlier/x/01_first.ipynb", "runs/shapes/log", "bundle/x"]
    done = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip("not a checkout")
    assert done.stdout.split() == names


@pytest.mark.parametrize(
    "target, flags, expected",
    [
        ("lab", [], r"tools\.work \n.*--ServerApp\.root_dir=work .*/lab/tree/01_representations\."),
        ("lab", ["FRESH=1", "LESSON=06_simclr"], r"tools\.work --fresh\n.*/lab/tree/06_simclr\."),
        ("edit", [], r"jupyter lab (?!.*root_dir).*/lab/tree/notebooks/01_representations\."),
    ],
)
def test_what_make_does(target, flags, expected):
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    command = ["make", "-n", "-o", ".venv/.lab", target, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert re.search(expected, done.stdout, re.DOTALL), done.stdout + done.stderr


def test_the_class_kit_reads_the_source_and_no_copy(monkeypatch, tmp_path):
    """Even a copy that stands where the stored notebooks stand changes no assignment."""
    from tools import notebooks
    from tools.classroom import assignment

    (source,) = notebooks.sources(["01"])
    before = json.dumps(assignment.instructor(source)[0])
    folder = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks" / "src", folder / "src")
    (folder / "01_representations.ipynb").write_text("{}", "utf-8")
    monkeypatch.setattr(notebooks, "NOTEBOOKS", folder)
    (source,) = notebooks.sources(["01"])
    assert json.dumps(assignment.instructor(source)[0]) == before
