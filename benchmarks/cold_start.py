"""How long from nothing to the first figure of notebook 01, and how many megabytes: stage by stage, as `make lab` goes.

Run: python benchmarks/cold_start.py (two minutes, 11 GB of disk meanwhile; writes benchmarks/results/cold_start.json)
Needs uv, git and the network. In a temporary folder, with an empty home and empty caches: clone what is committed here,
environment, JupyterLab, kernel, imports, first figure; everything after the environment a second time, when Python has
compiled what it imports. Megabytes are facts (10^6 bytes); seconds marked `network` are those of this connection.
Exits with an error where a stage fails. It compares nothing: `removable` says what a stage carries without need.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.metadata import distributions
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

from shared import RESULTS, command, machine, write_atomically

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "notebooks/01_representations.ipynb"
KEPT = "PATH SSL_CERT_FILE SSL_CERT_DIR HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy".split()

# Runs in the new environment: a kernel does what a reader does with Shift-Enter, until a picture comes back.
FIRST_FIGURE = """
import json, sys, time
import nbformat
from jupyter_client.manager import start_new_kernel
started = time.perf_counter()
rows = []
def lap(stage):
    global started
    now = time.perf_counter()
    rows.append([stage, now - started])
    started = now
manager, client = start_new_kernel(kernel_name="python3", cwd="notebooks")
said = []
def hook(message):
    said.append(message)
def run(code):
    said.clear()
    reply = client.execute_interactive(code, output_hook=hook, timeout=300)
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(m["content"]["text"] for m in said if m["msg_type"] == "stream")
lap("kernel")
run("import torch"); lap("import torch")
run("import replearn"); lap("import replearn")
run("from replearn.lesson import Frames, Lesson"); lap("replearn.lesson")
first = False
for cell in nbformat.read(sys.argv[1], 4).cells:
    if cell.cell_type == "code" and not first:
        imports = "import matplotlib" in cell.source
        run(cell.source)
        first = any("image/png" in m["content"].get("data", {}) for m in said)
        if imports or first:
            lap("the notebook's other imports" if imports else "first figure")
assert first, "no figure in the notebook"
LOADED = '''
import json, re, resource, sys
maps = open("/proc/self/maps").read() if sys.platform == "linux" else ""
files = {getattr(m, "__file__", None) or "" for m in list(sys.modules.values())} | set(re.findall("/.*", maps))
print(json.dumps([sorted({f.split("site-packages/")[1] for f in files if "site-packages/" in f}),
                  resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 * 1.048576]))'''
files, memory = json.loads(run(LOADED))
client.stop_channels(); manager.shutdown_kernel(now=True)
print(json.dumps(dict(rows=rows, files=files, memory_mb=memory)))
"""


def megabytes(folder):
    """10^6 bytes of the files under a folder; a file with several names counts once."""
    seen = {}
    for path, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(path, name))
            seen[status.st_ino] = status.st_size
    return sum(seen.values()) / 1e6


class Cold:
    """An empty home, and commands that see nothing else of this session; each is timed."""

    def __init__(self, folder):
        self.clone = folder / "clone"
        self.variables = {key: os.environ[key] for key in KEPT if key in os.environ}
        self.variables |= dict(
            HOME=str(folder / "home"), UV_CACHE_DIR=str(folder / "cache"), UV_LINK_MODE="hardlink"
        )
        (folder / "home").mkdir()
        (folder / "home/.gitconfig").write_text(
            "[uploadpack]\nallowFilter = true\n"
        )  # as public hosts do; pip asks

    def run(self, *words, cwd=None):
        """Return what a command prints and its seconds; its error ends the benchmark."""
        started = time.perf_counter()
        done = subprocess.run(
            [*map(str, words)],
            cwd=cwd or self.clone,
            env=self.variables,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(
                f"{' '.join(map(str, words))[:200]}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
            )
        return done.stdout, time.perf_counter() - started


def downloads(cold):
    """{package: megabytes of the wheel} that `uv` fetches for this machine."""
    cold.run(
        "uv",
        "pip",
        "compile",
        "pyproject.toml",
        "--extra",
        "lab",
        "-c",
        "constraints.txt",
        "--quiet",
        "--python",
        ".venv/bin/python",
        "--format",
        "pylock.toml",
        "-o",
        "../pylock.toml",
    )
    packages = tomllib.loads((cold.clone.parent / "pylock.toml").read_text())["packages"]
    return {
        p["name"]: min(file["size"] for file in p.get("wheels") or [p["sdist"]]) / 1e6
        for p in packages
    }


def packages(cold):
    """{package: (its megabytes, its files)}, and the packages that JupyterLab itself asks for."""
    name = lambda text: re.split(r"[^\w.-]", text)[0].lower().replace("_", "-").replace(".", "-")
    rows, needs, closure, new = {}, {}, set(), {"jupyterlab", "ipykernel", "ipywidgets"}
    for found in distributions(
        path=[str(next(cold.clone.glob(".venv/lib/python*/site-packages")))]
    ):
        paths = [path for path in map(found.locate_file, found.files or ()) if path.is_file()]
        rows[name(found.name)] = (
            sum(path.stat().st_size for path in paths) / 1e6,
            {*map(str, found.files or ())},
        )
        needs[name(found.name)] = {
            name(need) for need in found.requires or () if "extra ==" not in need
        }
    while new:
        closure |= new
        new = {need for one in new for need in needs.get(one, ())} - closure
    return rows, closure


def server(cold):
    """Start JupyterLab; return the seconds until it serves notebook 01's page, and end it."""
    started = time.perf_counter()
    flags = "--no-browser --allow-root --port 8931 --ServerApp.port_retries=0 --IdentityProvider.token=cold".split()
    lab = subprocess.Popen(
        [str(cold.clone / ".venv/bin/jupyter"), "lab", *flags],
        cwd=cold.clone,
        env=cold.variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while True:
            with contextlib.suppress(OSError):
                page = f"http://localhost:8931/lab/tree/{NOTEBOOK}?token=cold"
                assert b"jupyter-config-data" in urllib.request.urlopen(page, timeout=30).read()
                return time.perf_counter() - started
            if lab.poll() is not None or time.perf_counter() - started > 120:
                sys.exit("JupyterLab does not answer on port 8931")
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(lab.pid, signal.SIGTERM)
        lab.wait()


def laps(cold):
    """{stage: seconds} from the kernel's start to the first figure, and what the kernel has loaded by then."""
    found = json.loads(
        cold.run(".venv/bin/python", "-c", FIRST_FIGURE, NOTEBOOK)[0].splitlines()[-1]
    )
    return dict(found["rows"]), found


def clones(cold, address):
    """Clone in full, and at depth 1; return both stages' rows."""
    rows = []
    for stage, flags, name in [
        ("git clone", [], "clone"),
        ("git clone --depth 1, instead", ["--depth=1"], "short"),
    ]:
        folder = cold.clone.parent / name
        _, seconds = cold.run("git", "clone", "--quiet", *flags, address, folder, cwd="/")
        rows.append(
            dict(
                stage=stage,
                seconds=seconds,
                network=True,
                downloaded_mb=megabytes(folder / ".git"),
                installed_mb=megabytes(folder),
            )
        )
    return rows


def environment(cold):
    """Make the environment as `make lab` does, twice; return a row for each stage."""
    install = "uv pip install --python .venv/bin/python -e .[lab] -c constraints.txt".split()
    _, made = cold.run("uv", "venv", "--quiet", "--python", sys.executable, ".venv")
    _, seconds = cold.run(*install)
    size, fetched = megabytes(cold.clone / ".venv"), sum(downloads(cold).values())
    shutil.rmtree(cold.clone / ".venv")
    cold.run("uv", "venv", "--quiet", "--python", sys.executable, ".venv")
    _, again = cold.run(*install)
    _, trust = cold.run(".venv/bin/jupyter", "trust", *sorted(cold.clone.glob("notebooks/*.ipynb")))
    return [
        dict(
            stage="environment, uv's cache empty",
            seconds=made + seconds,
            network=True,
            downloaded_mb=fetched,
            installed_mb=size,
        ),
        dict(stage="environment, uv's cache full, instead", seconds=again, network=False),
        dict(stage="trust the notebooks", seconds=trust, network=False),
    ]


def colab(cold, address):
    """What a set-up cell does: pip installs replearn alone. `git clone --filter=blob:none` is how pip fetches it."""
    folder = cold.clone.parent / "colab"
    cold.run("git", "clone", "--quiet", "--filter=blob:none", address, folder / "clone", cwd="/")
    cold.run(sys.executable, "-m", "venv", folder / "venv")
    before = megabytes(folder / "venv")
    install = "install --quiet --no-deps --no-cache-dir".split()
    _, seconds = cold.run(folder / "venv/bin/pip", *install, f"git+{address}", cwd="/")
    return dict(
        stage="Colab's set-up cell: pip install --no-deps",
        seconds=seconds,
        network=True,
        downloaded_mb=megabytes(folder / "clone" / ".git"),
        installed_mb=megabytes(folder / "venv") - before,
    )


def unneeded(cold, loaded, history):
    """Every package of 5 MB or more, and what the first figure does without, largest first."""
    fetched, (found, jupyter) = downloads(cold), packages(cold)
    sizes = {
        name: dict(downloaded_mb=mb, installed_mb=found[name][0])
        for name, mb in fetched.items()
        if name in found
    }
    add = lambda names: {
        key: sum(sizes[n][key] for n in names) for key in ("downloaded_mb", "installed_mb")
    }
    gpu = [name for name in sizes if name.startswith(("nvidia-", "cuda-", "triton"))]
    idle = [
        name for name in sizes if not (name in gpu or name in jupyter or loaded & found[name][1])
    ]
    listed = [
        dict(
            what="CUDA libraries and triton, on a machine without a GPU",
            packages=len(gpu),
            **add(gpu),
        ),
        dict(what="older versions in git's history", downloaded_mb=history, installed_mb=history),
    ]
    listed += [
        dict(what=name, **sizes[name]) for name in idle if sizes[name]["installed_mb"] >= 0.5
    ]
    large = lambda rows: sorted(rows, key=lambda row: -row["installed_mb"])
    whole = [dict(what=name, **row) for name, row in sizes.items() if row["installed_mb"] >= 5]
    return dict(removable=large(listed), packages=large(whole))


def measure(folder, address):
    cold = Cold(folder)
    stages = clones(cold, address)
    rows = environment(cold)
    first, then = server(cold), server(cold)
    once, kernel = laps(cold)
    again, _ = laps(cold)
    stages += [
        *rows,
        dict(stage="JupyterLab serves the page", seconds=first, again_s=then, network=False),
    ]
    stages += [dict(stage=s, seconds=once[s], again_s=again[s], network=False) for s in once]
    stages += [colab(cold, address)]
    history = stages[0]["downloaded_mb"] - stages[1]["downloaded_mb"]
    found = unneeded(cold, set(kernel["files"]), history)
    return dict(stages=stages, kernel_memory_mb=kernel["memory_mb"], **found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--address", default=ROOT.as_uri(), help="clone from there (default: this folder)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "cold_start.json")
    options = parser.parse_args()
    if missing := [name for name in ("git", "uv") if not shutil.which(name)]:
        sys.exit(
            f"cold_start: expected git and uv on the PATH, found no {' and no '.join(missing)}; install it first"
        )
    with tempfile.TemporaryDirectory(prefix="cold", ignore_cleanup_errors=True) as folder:
        tell(
            json.loads(
                json.dumps(measure(Path(folder), options.address)),
                parse_float=lambda n: round(float(n), 3),
            ),
            options.out,
        )  # before the folder goes: to remove 100,000 files takes its time


def tell(found, path_of_result):
    """Add up the way to the first figure, write the record and print it."""
    path = [
        row
        for row in found["stages"]
        if "instead" not in row["stage"] and "Colab" not in row["stage"]
    ]
    total = {
        key: round(sum(row.get(key, 0) for row in path), 1)
        for key in ("seconds", "again_s", "downloaded_mb")
    }
    question = "How long from nothing to the first figure, and how many megabytes?"
    write_atomically(
        path_of_result,
        dict(question=question, command=command(), total=total, **found, **machine()),
    )
    for row in [*found["stages"], dict(stage="in all", **total)]:
        again = f"{row['again_s']:.2f} s again" if "again_s" in row else ""
        sizes = [
            f"{row[key]:9,.1f} MB {key[:-3]}"
            for key in ("downloaded_mb", "installed_mb")
            if key in row
        ]
        print(f"{row['stage']:44}{row['seconds']:8.2f} s  {again:14}", *sizes)


if __name__ == "__main__":
    main()
