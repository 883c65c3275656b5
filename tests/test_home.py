"""`make home`: one command gives the course its address everywhere, or takes it away again."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tools import home, notebooks, project

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "https://github.com/somebody/course"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of what has addresses in it: pyproject.toml, README.md and two lessons."""
    folder = tmp_path / "notebooks"
    (folder / "src").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("01_representations", "06_simclr"):
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", folder)
        shutil.copy(ROOT / "notebooks" / "src" / f"{name}.md", folder / "src")
    monkeypatch.setattr(project, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", folder)
    home.main([""])  # the same start, whether the course has a home by now or not
    return tmp_path


def texts(folder):
    return {
        str(path.relative_to(folder)): path.read_text("utf-8")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_one_command_sets_every_address(checkout, capsys):
    before = texts(checkout)
    assert home.main([f"{ADDRESS}.git/"]) == 0
    after = texts(checkout)
    tag = project.tag()
    assert project.address() == ADDRESS
    for name in ("01_representations", "06_simclr"):
        link = (
            f"https://colab.research.google.com/github/somebody/course/blob/{tag}/notebooks/{name}"
        )
        for file in (f"notebooks/{name}.ipynb", f"notebooks/src/{name}.md"):
            assert f"{link}.ipynb)" in after[file]
            assert f"git+{ADDRESS}@{tag}" in after[file]
        assert f"({link}.ipynb " in after["README.md"]
        inside = f"somebody/course/blob/{tag}/notebooks/{name}.ipynb"
        kaggle = f"https://www.kaggle.com/kernels/welcome?src=https://github.com/{inside}"
        binder = f"mybinder.org/v2/gh/somebody/course/{tag}?labpath=notebooks/{name}.ipynb"
        assert f"({kaggle})" in after[f"notebooks/src/{name}.md"]
        assert f"(https://{binder})" in after[f"notebooks/src/{name}.md"]
        assert f"({kaggle} " in after["README.md"]
    assert f"git clone --branch {tag} {ADDRESS}\ncd course\n" in after["README.md"]
    assert home.readme_is_current(after["README.md"])
    assert not home.readme_is_current(before["README.md"])
    assert f"git tag {tag}" in capsys.readouterr().out

    home.main([ADDRESS])
    assert texts(checkout) == after, "a second time changes nothing"
    home.main(["https://example.org/another/home"])
    assert not [name for name, text in texts(checkout).items() if "somebody/course" in text]
    for place in ("colab.research", "kaggle", "binder"):
        assert place not in texts(checkout)["README.md"], "they read from GitHub alone"
    home.main([""])
    assert texts(checkout) == before, "an empty address takes everything away"


def test_outputs_stay(checkout):
    path = checkout / "notebooks" / "01_representations.ipynb"
    count = path.read_text("utf-8").count("image/png")
    home.main([ADDRESS])
    assert path.read_text("utf-8").count("image/png") == count > 5


@pytest.mark.parametrize(
    "address",
    [
        "github.com/somebody/course",
        "http://github.com/somebody/course",
        "https://github.com",
        "https://me:secret@github.com/somebody/course",
        'https://github.com/a/b"\nx = "1',
        "https://github.com/a b/c",
    ],
)
def test_what_is_no_address_is_refused_and_nothing_is_written(checkout, address):
    before = texts(checkout)
    with pytest.raises(SystemExit, match="expected an address such as https"):
        home.main([address])
    assert texts(checkout) == before


def test_the_command_says_what_it_needs():
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    # Under "make test" the inner make would print the folders that it enters and leaves.
    command = ["make", "--no-print-directory", "-n", "home"]
    command += [f"MAKEFILES={ROOT}/none", "-o", ".venv/.lab"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "make home URL=https://github.com/ACCOUNT/NAME" in done.stdout + done.stderr
    done = subprocess.run([*command, f"URL={ADDRESS}"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith(f'-m tools.home "{ADDRESS}"\n'), done.stderr


def test_the_stored_readme_has_the_address_of_the_project():
    assert home.readme_is_current((ROOT / "README.md").read_text("utf-8"))
