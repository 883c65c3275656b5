"""The pieces of `bash tests/gpu.sh`: each writes a record, and is skipped where it has one.

Run: bash tests/gpu.sh [--dry] [units|throughput|lessons NN...|recipe NAME]
A piece runs in a process of its own, so that one that fails costs no other. After --minutes (8)
nothing is begun any more, and the same command goes on another time. What a record is of
(code, PyTorch, card, sizes) stands in its `key`; one of something else is replaced. Exits with an
error if a piece failed.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.shared import RESULTS, cpu_model
from replearn.files import write_json
from replearn.lesson.lesson import EVERY_LESSON, FRONTIER

ROOT = Path(__file__).resolve().parents[1]
DRY_CELLS = 3  # of a lesson in a dry run: set-up, the lesson's header, its budgets
FULL_VIEWS = 20e6  # of a recipe at full length


def card() -> str:
    """Return the name of the GPU, or of the CPU where there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_model()


def code_fingerprint() -> str:
    """Return a fingerprint of everything that a result depends on: the package and the scripts."""
    digest = hashlib.sha256()
    for folder in ("replearn", "benchmarks", "scripts", "notebooks/src"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".md", ".safetensors"):
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def environment(args: argparse.Namespace) -> dict[str, str]:
    """Return the variables of a piece's process."""
    variables = {**os.environ, "REPLEARN_STATIC": "1", "MPLBACKEND": "Agg"}
    data = data_folder(args)
    if data is not None:
        variables["REPLEARN_DATA"] = str(data)
    return variables


def data_folder(args: argparse.Namespace) -> Path | None:
    """Return the folder with CIFAR-10, unpacked there if parts were given; None: no such folder."""
    if args.data is not None:
        return args.data
    if args.parts is not None:
        from scripts.carry import unpack

        target = Path(tempfile.gettempdir()) / "replearn-data"  # outside the checkout
        return unpack([args.parts], target).parent
    named = os.environ.get("REPLEARN_DATA")
    return Path(named) if named else None


def called(
    command: Sequence[str], variables: dict[str, str], args: argparse.Namespace
) -> tuple[int, str]:
    """Run a command, show what it prints, and return its exit status and its last lines.

    When the time is over it is killed, which its status says: -9.
    """
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    at_the_end = threading.Timer(max(1.0, args.deadline - time.monotonic()), process.kill)
    at_the_end.start()
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    status = process.wait()
    at_the_end.cancel()
    return status, "".join(lines[-40:])


# --- pieces ---------------------------------------------------------------------------------------
# Each takes the arguments and returns what its record says, `ok` among it.


def units(args: argparse.Namespace) -> dict[str, Any]:
    """Run the tests marked `gpu`; without a GPU they are skipped, which counts as not run."""
    command = ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    code, text = called(command, environment(args), args)
    counts = {}
    for number, kind in re.findall(r"(\d+) (passed|failed|error|skipped)", text):
        counts[kind] = int(number)
    return {"ok": code == 0, "counts": counts, "reasons": re.findall(r"SKIPPED .*", text)[:5]}


def throughput(args: argparse.Namespace) -> dict[str, Any]:
    """Time the engine beside its floor, and everything beside its peers."""
    variables = environment(args)
    budget = ["-m", "scripts.t4_budget", "--rounds", "5"]
    if args.dry:
        budget = ["-m", "scripts.t4_budget", "--device", "cpu", "--rounds", "1", "--network"]
        budget += ["small_cnn", "--width", "2", "--batch-size", "8", "--pictures", "64"]
    peers = ["benchmarks/gpu.py", *(["--dry"] if args.dry else [])]
    started = time.time()
    code_of_budget, _ = called(budget, variables, args)
    code_of_peers, _ = called(peers, variables, args)
    # A goal that the budget misses is a result, and no failure as long as it was written.
    budgets = [path for path in RESULTS.glob("t4_budget_*.json") if path.stat().st_mtime > started]
    return {
        "ok": code_of_peers == 0 and bool(budgets),
        "exit": {"budget": code_of_budget, "peers": code_of_peers},
        "written": [path.name for path in budgets],
    }


def lesson(number: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run a lesson's code as a plain script at the gpu profile."""
    variables = environment(args)
    variables |= {"REPLEARN_STRICT": "0", "REPLEARN_PROFILE": "cpu" if args.dry else "gpu"}
    code = code_of_lesson(number, DRY_CELLS if args.dry else None)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / f"lesson_{number}.py"
        script.write_text(code, "utf-8")
        results = Path(folder) / "results"
        results.mkdir()
        started = time.perf_counter()
        variables["REPLEARN_RESULTS"] = str(results)
        status, text = called([str(script)], variables, args)
        seconds = time.perf_counter() - started
        path = results / f"{number}.json"
        record = json.loads(path.read_text("utf-8")) if path.exists() else {}
    claims = record.get("claims", [])
    failed = [claim["sentence"] for claim in claims if not claim["holds"]]
    for sentence in failed:
        print(f"✗ {sentence}", flush=True)
    is_whole = bool(record) or args.dry
    found = {"ok": status == 0 and is_whole and not failed, "seconds": seconds, "claims": claims}
    if status != 0:
        found["error"] = text[-2000:]
    return found


def code_of_lesson(number: str, cells: int | None = None) -> str:
    """Return the code of a lesson's notebook as one script, without IPython's own commands."""
    folder = "frontier" if number in FRONTIER else "."
    (path,) = (ROOT / "notebooks" / folder).glob(f"{number}_*.ipynb")
    notebook = json.loads(path.read_text("utf-8"))
    sources = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    lines = []
    for source in sources[:cells]:
        for line in source.splitlines():
            is_magic = line.lstrip().startswith(("%", "!"))
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{indent}pass" if is_magic else line)
        lines.append("")
    return "\n".join(lines)


def recipe(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train one recipe at full length; a run that was cut off goes on from its checkpoint."""
    folder = Path(tempfile.gettempdir()) / "replearn-recipes"  # lasts as long as the machine
    command = [
        "-m",
        "scripts.recipes",
        "--test",  # the recipe was chosen before: its number is set beside published ones
        "--recipes",
        name,
        "--seeds",
        "0",
        "--variant",
        args.variant,
    ]
    minutes = (args.deadline - time.monotonic()) / 60
    command += ["--folder", str(folder), "--minutes", f"{max(0.1, minutes - 0.5):.2f}"]
    if args.dry:
        folder_of_trial = tempfile.mkdtemp()
        command += ["--views", "512", "--size", "128", "--network", "small_cnn", "--width", "2"]
        command += ["--folder", folder_of_trial]
    else:
        command += ["--views", str(FULL_VIEWS)]
    code, text = called(command, environment(args), args)
    return {"ok": code == 0, "last_lines": text.splitlines()[-3:]}


# --- records --------------------------------------------------------------------------------------


def run(
    name: str,
    piece: Callable[[], dict[str, Any]],
    key: dict[str, Any],
    args: argparse.Namespace,
) -> bool:
    """Run a piece unless its record is there; return whether it was or is all right."""
    path = RESULTS / f"gpu_{name}.json"
    if path.exists() and not args.again:
        stored = json.loads(path.read_text("utf-8"))
        if stored["key"] == key and stored["ok"]:
            print(f"✓ {name}: has a record, {path.name}")
            return True
    if time.monotonic() > args.deadline:
        print(f"✗ {name}: not begun, the time is over; the same command goes on")
        return False
    print(f"\n=== {name}", flush=True)
    started = time.perf_counter()
    found = piece()
    seconds = time.perf_counter() - started
    write_json(path, {"piece": name, "key": key, "seconds_in_all": round(seconds, 1), **found})
    print(f"{'✓' if found['ok'] else '✗'} {name}: {seconds:.0f} s", flush=True)
    return found["ok"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, run the pieces and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry", action="store_true", help="tiny sizes, on whatever machine")
    parser.add_argument("--again", action="store_true", help="also what has a record")
    parser.add_argument("--minutes", type=float, default=8, help="then what is left waits")
    parser.add_argument("--parts", type=Path, help="what scripts.carry packed")
    parser.add_argument("--data", type=Path, help="folder of cifar10.npz")
    parser.add_argument("--variant", default="CIFAR-10 as published", help="the images, in words")
    parser.add_argument("piece", nargs="?", choices=("units", "throughput", "lessons", "recipe"))
    parser.add_argument("names", nargs="*", help="numbers of lessons, or a recipe")
    args = parser.parse_args(arguments)
    args.deadline = time.monotonic() + 60 * args.minutes
    if not args.dry and not torch.cuda.is_available():
        sys.exit("error: no CUDA GPU here; --dry tries the script with tiny sizes on any machine")

    pieces: dict[str, Callable[[], dict[str, Any]]] = {}
    if args.piece in (None, "units"):
        pieces["units"] = lambda: units(args)
    if args.piece in (None, "throughput"):
        pieces["throughput"] = lambda: throughput(args)
    if args.piece in (None, "lessons"):
        numbers = args.names if args.piece == "lessons" and args.names else list(EVERY_LESSON)
        unknown = sorted(set(numbers) - set(EVERY_LESSON))
        if unknown:
            known = ", ".join(EVERY_LESSON)
            sys.exit(f"error: no lesson {', '.join(unknown)}; there are {known}")
        for number in numbers:
            pieces[f"lesson_{number}"] = lambda number=number: lesson(number, args)
    if args.piece in (None, "recipe"):
        names = args.names if args.piece == "recipe" and args.names else ["course"]
        for name in names:
            pieces[f"recipe_{name}"] = lambda name=name: recipe(name, args)

    key = {
        "code": code_fingerprint(),
        "torch": torch.__version__,
        "card": card(),
        "dry": args.dry,
    }
    failed = [name for name, piece in pieces.items() if not run(name, piece, key, args)]
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
