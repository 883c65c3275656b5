"""How long from nothing to the first figure of notebook 01, and how many megabytes: stage by stage.

Run: python benchmarks/cold_start.py (two minutes, 11 GB of disk; writes results/cold_start.json)
Needs uv, git and the network. In a temporary folder, with an empty home and empty caches, the way
of `make lab`: clone what is committed here, environment, JupyterLab, kernel, imports, first figure;
everything after the environment a second time, when Python has compiled what it imports. Megabytes
are facts (10^6 bytes); seconds marked `network` are those of this connection. Exits with an error
where a stage fails. It compares nothing: `removable` says what a stage carries without need.
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
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, NamedTuple

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

from shared import RESULTS, command, machine

from replearn.files import write_json

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "notebooks/01_representations.ipynb"
PORT = 8931
LARGE_MB = 5  # packages from this size on are listed
IDLE_MB = 0.5  # packages that the figure does not need, from this size on
SIZES = ("downloaded_mb", "installed_mb")
KEPT_VARIABLES = (
    "PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)

# Runs in the new environment: a kernel does what a reader does with Shift-Enter, until there is an
# image. Prints one line of JSON.
FIRST_FIGURE = """
import json
import sys
import time

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
messages = []

def run(code):
    messages.clear()
    reply = client.execute_interactive(code, output_hook=messages.append, timeout=300)
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")

lap("kernel")
run("import torch")
lap("import torch")
run("import replearn")
lap("import replearn")
run("from replearn.lesson import Frames, Lesson")
lap("replearn.lesson")
has_figure = False
for cell in nbformat.read(sys.argv[1], 4).cells:
    if cell.cell_type != "code":
        continue
    run(cell.source)
    has_figure = any("image/png" in m["content"].get("data", {}) for m in messages)
    if has_figure:
        lap("first figure")
        break
    if "import matplotlib" in cell.source:
        lap("the notebook's other imports")
assert has_figure, "no figure in the notebook"

LOADED = '''
import json
import re
import resource
import sys

files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
if sys.platform == "linux":
    files |= set(re.findall("/.*", open("/proc/self/maps").read()))
names = {name.split("site-packages/")[1] for name in files if "site-packages/" in name}
memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 * 1.048576
print(json.dumps([sorted(names), memory_mb]))
'''
files, memory_mb = json.loads(run(LOADED))
client.stop_channels()
manager.shutdown_kernel(now=True)
print(json.dumps({"rows": rows, "files": files, "memory_mb": memory_mb}))
"""


# --- an empty machine
# ------------------------------------------------------------------------------


def megabytes(folder: Path) -> float:
    """Return 10^6 bytes of the files under a folder; a file with several names counts once."""
    size_of_inode = {}
    for path, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(path, name))
            size_of_inode[status.st_ino] = status.st_size
    return sum(size_of_inode.values()) / 1e6


class Cold:
    """An empty home, and commands that see nothing else of this session; each is timed."""

    def __init__(self, folder: Path) -> None:
        self.clone = folder / "clone"
        home = folder / "home"
        home.mkdir()
        # As public hosts do, which pip asks for.
        (home / ".gitconfig").write_text("[uploadpack]\nallowFilter = true\n")
        self.variables = {key: os.environ[key] for key in KEPT_VARIABLES if key in os.environ}
        self.variables["HOME"] = str(home)
        self.variables["UV_CACHE_DIR"] = str(folder / "cache")
        self.variables["UV_LINK_MODE"] = "hardlink"

    def run(self, *words: str | Path, cwd: str | Path | None = None) -> tuple[str, float]:
        """Return what a command prints and its seconds; its error ends the benchmark."""
        started = time.perf_counter()
        done = subprocess.run(
            [str(word) for word in words],
            cwd=cwd or self.clone,
            env=self.variables,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            line = " ".join(map(str, words))[:200]
            sys.exit(f"{line}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
        return done.stdout, time.perf_counter() - started

    def seconds(self, *words: str | Path, cwd: str | Path | None = None) -> float:
        """Return the seconds of a command."""
        _, seconds = self.run(*words, cwd=cwd)
        return seconds


# --- stages
# ----------------------------------------------------------------------------------------


def clone_row(cold: Cold, stage: str, address: str, folder: Path, *flags: str) -> dict[str, Any]:
    """Clone; return the stage's row."""
    seconds = cold.seconds("git", "clone", "--quiet", *flags, address, folder, cwd="/")
    return {
        "stage": stage,
        "seconds": seconds,
        "network": True,
        "downloaded_mb": megabytes(folder / ".git"),
        "installed_mb": megabytes(folder),
    }


def environment_rows(cold: Cold) -> list[dict[str, Any]]:
    """Make the environment as `make lab` does, twice; return a row for each stage."""
    make = ("uv", "venv", "--quiet", "--python", sys.executable, ".venv")
    install = "uv pip install --python .venv/bin/python -e .[lab] -c constraints.txt".split()
    first = cold.seconds(*make) + cold.seconds(*install)
    installed_mb = megabytes(cold.clone / ".venv")
    downloaded_mb = sum(download_sizes(cold).values())
    shutil.rmtree(cold.clone / ".venv")
    cold.run(*make)
    again = cold.seconds(*install)
    notebooks = sorted(cold.clone.glob("notebooks/*.ipynb"))
    trust = cold.seconds(".venv/bin/jupyter", "trust", *notebooks)
    return [
        {
            "stage": "environment, uv's cache empty",
            "seconds": first,
            "network": True,
            "downloaded_mb": downloaded_mb,
            "installed_mb": installed_mb,
        },
        {"stage": "environment, uv's cache full, instead", "seconds": again, "network": False},
        {"stage": "trust the notebooks", "seconds": trust, "network": False},
    ]


def serve_lab(cold: Cold) -> float:
    """Start JupyterLab; return the seconds until it serves notebook 01's page, and end it."""
    page = f"http://localhost:{PORT}/lab/tree/{NOTEBOOK}?token=cold"
    flags = ["--no-browser", "--allow-root", "--port", str(PORT), "--ServerApp.port_retries=0"]
    started = time.perf_counter()
    lab = subprocess.Popen(
        [cold.clone / ".venv/bin/jupyter", "lab", *flags, "--IdentityProvider.token=cold"],
        cwd=cold.clone,
        env=cold.variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while True:
            with contextlib.suppress(OSError):
                text = urllib.request.urlopen(page, timeout=30).read()
                assert b"jupyter-config-data" in text
                return time.perf_counter() - started
            if lab.poll() is not None or time.perf_counter() - started > 120:
                sys.exit(f"JupyterLab does not answer on port {PORT}")
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(lab.pid, signal.SIGTERM)
        lab.wait()


class FirstFigure(NamedTuple):
    """From the kernel's start to the first figure."""

    seconds: dict[str, float]  # by stage
    files: set[str]  # that the kernel has loaded by then, as in site-packages
    memory_mb: float


def first_figure(cold: Cold) -> FirstFigure:
    """Run notebook 01 until there is a figure."""
    printed, _ = cold.run(".venv/bin/python", "-c", FIRST_FIGURE, NOTEBOOK)
    answer = json.loads(printed.splitlines()[-1])
    return FirstFigure(dict(answer["rows"]), set(answer["files"]), answer["memory_mb"])


def colab_row(cold: Cold, address: str) -> dict[str, Any]:
    """What a set-up cell does: pip installs replearn alone.

    `git clone --filter=blob:none` is how pip fetches it.
    """
    folder = cold.clone.parent / "colab"
    cold.run("git", "clone", "--quiet", "--filter=blob:none", address, folder / "clone", cwd="/")
    cold.run(sys.executable, "-m", "venv", folder / "venv")
    before = megabytes(folder / "venv")
    install = (folder / "venv/bin/pip", "install", "--quiet", "--no-deps", "--no-cache-dir")
    seconds = cold.seconds(*install, f"git+{address}", cwd="/")
    return {
        "stage": "Colab's set-up cell: pip install --no-deps",
        "seconds": seconds,
        "network": True,
        "downloaded_mb": megabytes(folder / "clone" / ".git"),
        "installed_mb": megabytes(folder / "venv") - before,
    }


# --- what is not needed
# ----------------------------------------------------------------------------


def download_sizes(cold: Cold) -> dict[str, float]:
    """Return `{package: megabytes of the wheel}` that `uv` fetches for this machine."""
    lock = cold.clone.parent / "pylock.toml"
    compile_lock = "uv pip compile pyproject.toml --extra lab -c constraints.txt --quiet".split()
    for_this = "--python .venv/bin/python --format pylock.toml -o".split()
    cold.run(*compile_lock, *for_this, lock)
    sizes = {}
    for package in tomllib.loads(lock.read_text())["packages"]:
        files = package.get("wheels") or [package["sdist"]]
        sizes[package["name"]] = min(file["size"] for file in files) / 1e6
    return sizes


class Package(NamedTuple):
    """An installed package."""

    installed_mb: float
    files: set[str]
    needs: set[str]  # other packages


def plain_name(requirement: str) -> str:
    """Return the name that a requirement begins with, as package indexes spell it."""
    name = re.split(r"[^\w.-]", requirement)[0]
    return name.lower().replace("_", "-").replace(".", "-")


def package_of(distribution: Distribution) -> Package:
    """Measure an installed package."""
    files = distribution.files or ()
    paths = [Path(str(distribution.locate_file(file))) for file in files]
    requirements = [text for text in distribution.requires or () if "extra ==" not in text]
    return Package(
        installed_mb=sum(path.stat().st_size for path in paths if path.is_file()) / 1e6,
        files={str(file) for file in files},
        needs={plain_name(text) for text in requirements},
    )


def with_needs(names: Iterable[str], packages: dict[str, Package]) -> set[str]:
    """Return these packages and all that they need."""
    closure: set[str] = set()
    new = set(names)
    while new:
        closure |= new
        needs = [packages[name].needs for name in new if name in packages]
        new = set().union(*needs) - closure
    return closure


def largest_first(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort rows by what is installed."""
    return sorted(rows, key=lambda row: -row["installed_mb"])


def unneeded(cold: Cold, loaded: set[str], history_mb: float) -> dict[str, list[dict]]:
    """Return every large package, and what the first figure does without, largest first.

    Args:
        cold: Where things were installed.
        loaded: Files that the first figure needs.
        history_mb: What older versions in git's history take.
    """
    site_packages = next(cold.clone.glob(".venv/lib/python*/site-packages"))
    packages = {}
    for distribution in distributions(path=[str(site_packages)]):
        packages[plain_name(distribution.name)] = package_of(distribution)
    of_jupyter = with_needs(["jupyterlab", "ipykernel", "ipywidgets"], packages)

    sizes: dict[str, dict[str, float]] = {}
    for name, downloaded_mb in download_sizes(cold).items():
        if name in packages:
            installed_mb = packages[name].installed_mb
            sizes[name] = {"downloaded_mb": downloaded_mb, "installed_mb": installed_mb}
    of_gpu = [name for name in sizes if name.startswith(("nvidia-", "cuda-", "triton"))]
    for_gpu = {
        "what": "CUDA libraries and triton, on a machine without a GPU",
        "packages": len(of_gpu),
    }
    for key in SIZES:
        for_gpu[key] = sum(sizes[name][key] for name in of_gpu)
    history = {
        "what": "older versions in git's history",
        "downloaded_mb": history_mb,
        "installed_mb": history_mb,
    }
    removable = [for_gpu, history]
    large = []
    for name, size in sizes.items():
        row = {"what": name, **size}
        is_idle = not (name in of_gpu or name in of_jupyter or loaded & packages[name].files)
        if is_idle and size["installed_mb"] >= IDLE_MB:
            removable.append(row)
        if size["installed_mb"] >= LARGE_MB:
            large.append(row)
    return {"removable": largest_first(removable), "packages": largest_first(large)}


# --- the result
# ------------------------------------------------------------------------------------


def measure(folder: Path, address: str) -> dict[str, Any]:
    """Go through all stages in an empty folder."""
    cold = Cold(folder)
    short_clone = folder / "short"
    full = clone_row(cold, "git clone", address, cold.clone)
    short = clone_row(cold, "git clone --depth 1, instead", address, short_clone, "--depth=1")
    environment = environment_rows(cold)
    lab_seconds = serve_lab(cold)
    lab_again = serve_lab(cold)
    once = first_figure(cold)
    again = first_figure(cold)
    stages = [full, short, *environment]
    stages.append(
        {
            "stage": "JupyterLab serves the page",
            "seconds": lab_seconds,
            "again_s": lab_again,
            "network": False,
        }
    )
    for stage, seconds in once.seconds.items():
        stages.append(
            {
                "stage": stage,
                "seconds": seconds,
                "again_s": again.seconds[stage],
                "network": False,
            }
        )
    stages.append(colab_row(cold, address))
    history_mb = full["downloaded_mb"] - short["downloaded_mb"]
    return {
        "stages": stages,
        "kernel_memory_mb": once.memory_mb,
        **unneeded(cold, once.files, history_mb),
    }


def total_of(stages: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Add up the way to the first figure, without what is done instead of another stage."""
    way = [row for row in stages if "instead" not in row["stage"] and "Colab" not in row["stage"]]
    return {
        key: round(sum(row.get(key, 0) for row in way), 1)
        for key in ("seconds", "again_s", "downloaded_mb")
    }


def rounded(value: Any) -> Any:
    """Return a record with its fractions rounded to three digits."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return round(value, 3) if isinstance(value, float) else value


def row_as_text(row: dict[str, Any]) -> str:
    """Return a stage as a line."""
    again = f"{row['again_s']:.2f} s again" if "again_s" in row else ""
    text = f"{row['stage']:44}{row['seconds']:8.2f} s  {again:14}"
    for key in SIZES:
        if key in row:
            text += f" {row[key]:9,.1f} MB {key.removesuffix('_mb')}"
    return text


def tell(measured: dict[str, Any], path: Path) -> None:
    """Write the record and print it."""
    total = total_of(measured["stages"])
    result = {
        "question": "How long from nothing to the first figure, and how many megabytes?",
        "command": command(),
        "total": total,
        **measured,
        **machine(),
    }
    write_json(path, result)
    for row in [*measured["stages"], {"stage": "in all", **total}]:
        print(row_as_text(row))


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--address", default=ROOT.as_uri(), help="clone from there (default: this folder)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "cold_start.json")
    args = parser.parse_args()
    missing = [name for name in ("git", "uv") if not shutil.which(name)]
    if missing:
        absent = " and no ".join(missing)
        sys.exit(
            f"cold_start: expected git and uv on the PATH, found no {absent}; install it first"
        )
    with tempfile.TemporaryDirectory(prefix="cold", ignore_cleanup_errors=True) as folder:
        # Told before the folder goes: to remove 100,000 files takes its time.
        tell(rounded(measure(Path(folder), args.address)), args.out)


if __name__ == "__main__":
    main()
