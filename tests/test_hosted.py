"""What a lesson gets from the machine: packages in Colab, and a folder for tomorrow."""

import subprocess
import sys
import types
from importlib.util import find_spec

import pytest

from replearn.lesson import hosted


@pytest.fixture
def in_colab(monkeypatch, tmp_path):
    """Colab, whose Drive is at tmp_path / "drive" once it is mounted."""
    mounted = []

    def mount(path):
        mounted.append(path)
        hosted.DRIVE.mkdir(parents=True)

    drive = types.ModuleType("google.colab.drive")
    drive.mount = mount
    colab = types.ModuleType("google.colab")
    colab.drive = drive
    google = types.ModuleType("google")
    google.colab = colab
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setattr(hosted, "DRIVE", tmp_path / "drive" / "MyDrive")
    return mounted


def answering(monkeypatch, answer):
    """Let `input` give this answer, or raise it; return the questions that are asked."""
    asked = []

    def ask(question):
        asked.append(question)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr("builtins.input", ask)
    return asked


@pytest.fixture
def installing(monkeypatch, tmp_path):
    """A pip that writes an empty module; returns the commands."""
    commands = []

    def run(command, **_):
        commands.append(command)
        (tmp_path / "brought_by_pip.py").write_text("")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(hosted.subprocess, "run", run)
    monkeypatch.syspath_prepend(tmp_path)
    return commands


def test_what_is_there_is_not_installed(installing, capsys):
    assert hosted.have("json", "torch")
    assert not installing
    assert capsys.readouterr().out == ""


def test_on_a_machine_of_ones_own_nothing_is_installed(installing, capsys):
    assert not hosted.have("json", "brought_by_pip")
    assert not installing
    assert "%pip install brought_by_pip, then" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["Colab", "Kaggle"])
def test_a_hosted_machine_gets_what_is_missing(where, installing, monkeypatch, capsys):
    if where == "Colab":
        monkeypatch.setitem(sys.modules, "google.colab", None)
    else:
        monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert find_spec("brought_by_pip") is None
    assert hosted.have("json", "brought_by_pip")
    (command,) = installing
    assert command[1:] == ["-m", "pip", "install", "--quiet", "brought_by_pip"]
    assert capsys.readouterr().out == "Installing brought_by_pip …\n"


def test_where_pip_fails_the_lesson_says_so(in_colab, installing, capsys):
    assert not hosted.have("not_to_be_had")
    assert installing
    assert "Left out. To see it: %pip install not_to_be_had" in capsys.readouterr().out


def test_a_short_run_gets_a_temporary_folder_and_no_question(in_colab, monkeypatch, capsys):
    asked = answering(monkeypatch, "y")
    folder = hosted.folder_to_keep("lesson", long_run=False)
    assert folder.is_dir()
    assert not asked
    assert not in_colab
    assert "lost when the session ends" in capsys.readouterr().out


def test_before_a_long_run_colab_is_asked_for_drive(in_colab, monkeypatch, capsys):
    asked = answering(monkeypatch, " Yes")
    folder = hosted.folder_to_keep("lesson", long_run=True)
    assert folder == hosted.DRIVE / "lesson"
    assert folder.is_dir()
    assert len(asked) == 1
    assert in_colab == [str(hosted.DRIVE.parent)]
    assert "Google Drive" in capsys.readouterr().out


def test_a_day_later_the_mounted_drive_is_used_without_a_question(in_colab, monkeypatch):
    asked = answering(monkeypatch, "n")
    (hosted.DRIVE / "lesson").mkdir(parents=True)
    (hosted.DRIVE / "lesson" / "checkpoint").write_text("of yesterday")
    for long_run in (True, False):  # with a GPU, or without one
        folder = hosted.folder_to_keep("lesson", long_run=long_run)
        assert (folder / "checkpoint").read_text() == "of yesterday"
    assert not asked


@pytest.mark.parametrize("answer", ["n", "", EOFError(), RuntimeError("no input here")])
def test_without_a_yes_nothing_is_mounted(answer, in_colab, monkeypatch, capsys):
    answering(monkeypatch, answer)
    folder = hosted.folder_to_keep("lesson", long_run=True)
    assert folder.is_dir()
    assert not in_colab
    assert "lost when the session ends" in capsys.readouterr().out


def test_a_drive_that_cannot_be_mounted_does_not_stop_the_lesson(in_colab, monkeypatch, capsys):
    answering(monkeypatch, "y")

    def refuse(path):
        raise ValueError("mount failed\nand a long story")

    monkeypatch.setattr(sys.modules["google.colab"].drive, "mount", refuse)
    assert hosted.folder_to_keep("lesson", long_run=True).is_dir()
    told = capsys.readouterr().out
    assert "could not be mounted: mount failed\n" in told
    assert "a long story" not in told


def test_elsewhere_a_long_run_is_kept_beside_the_notebook(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert hosted.folder_to_keep("lesson", long_run=True) == tmp_path.resolve() / "lesson"
    short = hosted.folder_to_keep("lesson", long_run=False)
    assert short.is_dir()
    assert short.parent != tmp_path.resolve()
