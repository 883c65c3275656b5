"""The house as a whole: a light import, a wheel with what works from a wheel, stages that exist."""

import importlib.util
import json
import re
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_IN_A_WHEEL = ("tools", "scripts", "tests", "benchmarks", "notebooks", "site")


def load_stages():
    spec = importlib.util.spec_from_file_location("stages", ROOT / "tests" / "stages.py")
    stages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stages)
    return stages


def test_import_is_light():
    """`import replearn` and all of its core adds less than a second of computing to `import torch`:
    the median of fresh interpreters, however busy the machine is."""
    code = (
        "import time, torch\n"
        "started = time.process_time()\n"
        "import replearn\n"
        "from replearn import augment, data, losses, metrics, models, probe, train\n"
        "print(time.process_time() - started)\n"
    )
    seconds = []
    for _ in range(3):
        printed = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT)
        seconds.append(float(printed))
    assert statistics.median(seconds) < 1.0


@pytest.mark.seconds
def test_the_wheel_has_what_works_from_a_wheel(tmp_path):
    """The package with its weights, and nothing that only a checkout can do."""
    pytest.importorskip("setuptools", minversion="77")
    code = (
        "import os, sys\n"
        "from setuptools.build_meta import build_wheel\n"
        "print(build_wheel(sys.argv[1]))\n"
    )
    # setuptools builds in the folder itself: so the tracked files are copied to one of its own.
    copy = tmp_path / "copy"
    copy.mkdir()
    archive = subprocess.run(
        ["git", "ls-files", "-z", "replearn", "pyproject.toml", "README.md", "LICENSE", "tools"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if archive.returncode != 0:
        pytest.skip("not a checkout of git")
    for name in archive.stdout.split("\0"):
        if name and (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    for name in ("scripts", "tests", "benchmarks"):
        (copy / name).mkdir()
        (copy / name / "module.py").write_text("")
    build = [sys.executable, "-c", code, str(tmp_path)]
    built = subprocess.run(build, cwd=copy, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]

    (wheel,) = tmp_path.glob("replearn-*-py3-none-any.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    for path in (copy / "replearn").rglob("*"):
        if path.suffix in (".py", ".json", ".safetensors"):
            assert path.relative_to(copy).as_posix() in packed
    assert any(name.startswith("replearn/checkpoints/") for name in packed)
    assert not [name for name in packed if name.split("/")[0] in NOT_IN_A_WHEEL]
    metadata = next(name for name in packed if name.endswith("METADATA"))
    assert "Project-URL" not in zipfile.ZipFile(wheel).read(metadata).decode()


def test_stages_name_existing_files():
    text = (ROOT / "tests" / "stages.py").read_text("utf-8")
    for path in re.findall(r'"(tests/[\w.]+)"', text):
        assert (ROOT / path).exists(), path


def test_every_test_file_is_in_a_stage_of_make_test():
    """A file that one stage leaves out stands in another."""
    stages = load_stages()
    units = stages.STAGES["units"].command
    left_out = {word.removeprefix("--ignore=") for word in units if word.startswith("--ignore=")}
    elsewhere = set()
    for name in stages.EVERYTHING:
        if name != "units":
            elsewhere.update(stages.STAGES[name].command)
    assert left_out <= elsewhere


@pytest.mark.parametrize(
    "commands, code, told",
    [
        ({"good": "print('2 passed in 0.1s')"}, 0, "2 passed, 0 failed, 0 skipped"),
        ({"good": "", "bad": "raise SystemExit(3)"}, 1, "0 passed, 1 failed, 0 skipped"),
    ],
)
def test_stages_add_up_and_fail_where_one_fails(monkeypatch, capsys, commands, code, told):
    stages = load_stages()
    made = {
        name: stages.Stage([sys.executable, "-c", source], {}) for name, source in commands.items()
    }
    monkeypatch.setattr(stages, "STAGES", made)
    monkeypatch.setattr(stages, "EVERYTHING", list(made))
    assert stages.main([]) == code
    printed = capsys.readouterr().out
    assert printed.endswith(told + "\n")
    for name in commands:
        assert f"=== {name} ===" in printed


def test_an_unknown_stage_is_told(capsys):
    with pytest.raises(SystemExit, match="no stage speed; there are lint, format"):
        load_stages().main(["speed"])


def test_hooks_of_pre_commit_need_no_network():
    yaml = pytest.importorskip("yaml")
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    for hook in config["repos"][0]["hooks"]:
        assert hook["language"] == "system", json.dumps(hook)
