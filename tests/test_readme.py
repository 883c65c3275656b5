"""The commands of README.md, typed line by line in a checkout whose environment is there.

What takes minutes is shortened by the commands' own options, which are added to the line; the line
itself is typed as it stands. `make test` is what runs this test, so it is only looked at.
`tests/fresh.sh` does the rest: it makes the environment.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 300  # seconds for what takes a few on a quiet machine
SHORTER = {  # start of a line: what is added to it
    "make test": "-n",
    ".venv/bin/python -m replearn pretrain": "--minutes 0.1 --size 512 --test-size 128",
    ".venv/bin/python -m replearn evaluate": "--size 512 --test-size 256",
    ".venv/bin/python -m replearn export": "--size 512 --test-size 128",
    ".venv/bin/python -m replearn serve": "--port 0",
}
STAMPS = (".lab", ".test", ".site")  # what make lab, make test and make site leave in .venv
SERVERS = {  # start of a line that runs until it is stopped: what is asked there
    "make lab": "/api/status",
    ".venv/bin/python -m replearn serve": "/health",
}


def lines_of(text):
    """The lines of all shell blocks, without their comments; the address's block is left out."""
    text = re.sub(r"<!-- home -->.*?<!-- /home -->", "", text, flags=re.DOTALL)
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [re.sub(r"\s+#.*", "", line) for line in "".join(blocks).splitlines()]
    return [line for line in lines if line]


def first(start, table):
    """The value of the first key with which a line starts."""
    return next((value for key, value in table.items() if start.startswith(key)), None)


@pytest.fixture
def checkout(tmp_path):
    """The files that git knows, and an environment as `make lab` leaves it: this one."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not shutil.which("make"):
        pytest.skip("not a checkout, or make is not installed")
    folder = tmp_path / "course"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    environment = folder / ".venv"
    environment.mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name not in STAMPS:
            (environment / part.name).symlink_to(part)
    for stamp in STAMPS:
        (environment / stamp).touch()
    uv = folder / ".venv-uv" / "bin" / "uv"  # nothing is to be installed
    uv.parent.mkdir(parents=True)
    uv.touch()
    return folder


def typed(line, folder):
    """Start a line in a shell, as it stands, with its shorter form's options behind it."""
    jupyter = {
        name: str(folder.parent / name)
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    # PYTHONPATH: an editable installation may lead to another checkout than this copy.
    variables = {**os.environ, **jupyter, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    variables |= {"MAKEFLAGS": "", "BROWSER": "true"}
    return subprocess.Popen(
        f"{line} {first(line, SHORTER) or ''}",
        shell=True,
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def answer(process, path, output):
    """What a server says at a path of the address that it prints."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        line = process.stdout.readline()
        assert line, "".join(output)
        output.append(line)
        address = re.search(r"(http://127\.0\.0\.1:\d+)(?:/\S*\?(token=\w+))?", line)
        if address:
            break
    query = f"?{address[2]}" if address[2] else ""
    for _ in range(PATIENCE):
        try:
            return urllib.request.urlopen(f"{address[1]}{path}{query}", timeout=30).status
        except OSError:
            time.sleep(1)
    raise AssertionError(f"no answer at {address[1]}{path}: {''.join(output)}")


@pytest.mark.seconds
def test_every_line_works_as_it_stands(checkout):
    lines = lines_of((checkout / "README.md").read_text("utf-8"))
    assert len(lines) >= 6
    for start in (*SERVERS, *SHORTER):
        assert any(line.startswith(start) for line in lines), f"README.md has no line {start}"
    for line in lines:
        process = typed(line, checkout)
        output = []
        try:
            if first(line, SERVERS):
                assert answer(process, first(line, SERVERS), output) == 200, line
            else:
                text, _ = process.communicate(timeout=2 * PATIENCE)
                assert process.returncode == 0, f"{line}\n{text[-2000:]}"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.stdout.close()
            process.wait(PATIENCE)
    assert (checkout / "work" / "01_representations.ipynb").exists()
    assert (checkout / "bundle" / "bundle.json").exists()


def test_every_command_of_the_readme_is_one_that_can_be_typed_after_make_lab():
    """No bare `python` or `pip`, which are not those of the environment that make lab makes."""
    text = (ROOT / "README.md").read_text("utf-8")
    before_conda, _, after_conda = text.partition("With conda:")
    prose = before_conda + after_conda.partition("Another Python")[2]
    bare = re.findall(r"(?:`|^)((?:python|pip|jupyter|accelerate)\s[^`\n]*)", prose, re.MULTILINE)
    assert not bare


@pytest.mark.parametrize("backend", ["", "cpu"])
def test_make_asks_uv_for_the_build_of_pytorch_and_says_where_it_is_from(checkout, backend):
    (checkout / ".venv" / ".lab").unlink()
    uv = checkout / ".venv-uv" / "bin" / "uv"
    uv.write_text('#!/bin/sh\necho "asked: $*"\nexit 2\n', "utf-8")
    uv.chmod(0o755)
    # A PATH without uv, which the Makefile would take instead.
    parts = [part for part in os.environ["PATH"].split(":") if not (Path(part) / "uv").exists()]
    variables = {**os.environ, "PATH": ":".join(parts), "MAKEFLAGS": ""}
    command = ["make", "lab", f"TORCH={backend}"]
    done = subprocess.run(command, cwd=checkout, env=variables, capture_output=True, text=True)
    assert done.returncode and "asked: pip install " in done.stdout
    for words in ("--torch-backend cpu", "comes from its makers' own index"):
        assert (words in done.stdout) == bool(backend)
    assert not (checkout / ".venv" / ".lab").exists(), "nothing counts as installed"


def test_the_check_sees_a_line_that_fails(checkout):
    process = typed(".venv/bin/python -m replearn pretrain --recipe nothing", checkout)
    text, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0 and "nothing" in text
