#!/usr/bin/env bash
# The class kit with the real nbgrader: generate, release, submit, autograde, export; then the grades are checked.
# `bash tests/nbgrader.sh` takes lesson 06 and a class of honest and hostile students; with a number (`… 12`), that lesson:
# all right, everything as handed out, another right way, and each usual mistake that the exercises know.
# An environment of its own, .venv-nbgrader: nbgrader's pins are not ours. torch is the release of .venv, from uv's cache.
set -euo pipefail
cd "$(dirname "$0")/.."

lesson=${1:-06}
name=$(basename "$(ls notebooks/src/"$lesson"_*.md)" .md)
root=$PWD
main=$root/.venv/bin/python
bin=$root/.venv-nbgrader/bin
uv=$(command -v uv || echo .venv-uv/bin/uv)
needs="nbgrader>=0.9.5 ipykernel"
torch=$("$main" -c 'from importlib.metadata import version as v; print("torch==" + v("torch"), "torchvision==" + v("torchvision"))')

export UV_LINK_MODE=hardlink OMP_NUM_THREADS=1 JUPYTER_PLATFORM_DIRS=1 NO_COLOR=1
stamp=.venv-nbgrader/.pins
if [ "$(cat "$stamp" 2>/dev/null)" != "$needs $torch" ]; then
    "$uv" venv --quiet --allow-existing --python "$main" .venv-nbgrader
    "$uv" pip install --quiet --python "$bin/python" $needs $torch -e .
    echo "$needs $torch" >"$stamp"
fi

course=$(mktemp -d)
trap 'rm -rf "$course"' EXIT
export PATH=$bin:$PATH JUPYTER_CONFIG_DIR=$course/.config JUPYTER_DATA_DIR=$course/.data IPYTHONDIR=$course/.ipython

cat >"$course/steps.py" <<'PY'
"""What a class does between nbgrader's commands, and what must come out."""
import csv
import sys
from pathlib import Path

import nbformat

from replearn.lesson import exercises
from replearn.lesson.exercises import checker as trial

STEP, NAME = sys.argv[1:]
LESSON, NOTEBOOK = NAME[:2], f"{NAME}/{NAME}.ipynb"
NT_XENT, MASK, EMA = "def nt_xent_exercise(z1, z2, temperature):\n", "def mask_self_pairs(similarity):\n", \
    "def ema_update(target_parameters, online_parameters, momentum):\n"
OVERFLOW = NT_XENT + """
    z = F.normalize(torch.cat([z1, z2]))
    e = (z @ z.T / temperature).exp()
    return -(e.diagonal(len(z1)).repeat(2) / (e.sum(1) - e.diagonal())).log().mean()
"""
NOISY = MASK + """
    import sys, os, warnings
    print("thinking", file=sys.stderr)
    os.write(2, b"still thinking")
    warnings.warn("careful")
    return similarity.masked_fill(torch.eye(len(similarity)).bool(), -torch.inf)
"""
FORGED = """
class lesson:
    check = hint = lambda *_: print("right")
import sys, types, replearn.lesson.exercises as exercises
exercises.check = exercises.checker.check = lambda *_, **__: types.SimpleNamespace(score=1.0, right=True, text="right")
fake = sys.modules["replearn.lesson.exercises.points"] = types.ModuleType("classroom")
fake.points = lambda *_: 2.0
"""
KEEP = object()  # the instructor's solution
# student: (nt_xent, mask_self_pairs, ema_update) instead of the stub cells (None: the stub), points, what `grade` gives
CLASS = {
    "right": ((KEEP, KEEP, KEEP), 4.0, 4.0),
    "wrong": ((NT_XENT + "    return (z1 * z2).sum()", MASK + "    return similarity * 0",
               EMA + "    return online_parameters"), None, None),
    "half": ((OVERFLOW, NOISY, None), 2 * 5 / 6 + 1, 2 * 5 / 6 + 1),
    "crashing": ((NT_XENT + "    return 1 / 0", "raise ValueError('no')\n" + MASK + "    return 1", KEEP), 1.0, 1.0),
    "endless": ((NT_XENT + "    while True: pass", MASK + "    return 0\nwhile True: pass", KEEP), 1.0, 1.0),
    "ending": ((NT_XENT + "    import os; os._exit(0)", KEEP, KEEP), 0.0, 2.0),
    "forging": ((FORGED + NT_XENT + "    return 0", FORGED + MASK + "    return 0", KEEP), 1.0, 1.0),
}


def plain():
    """The students of any lesson; what a mistake is worth says the checker, here, without nbgrader."""
    every = [exercises.get(LESSON, name) for name in exercises.names(LESSON)]
    most = float(sum(exercise.difficulty for exercise in every))
    found = {"right": ([KEEP] * len(every), most, most), "empty": ([None] * len(every), 0.0, 0.0)}

    def add(student, kind, names):
        functions = [getattr(exercise, kind)[name] for exercise, name in zip(every, names)]
        worth = [e.difficulty * exercises.check(e, f, seed=trial.GRADING_SEED).score for e, f in zip(every, functions)]
        assert kind == "alternatives" or all(w < e.difficulty for e, w in zip(every, worth)), "a mistake is right"
        found[student] = ([f"from replearn.lesson.exercises import get\n{e.name} = get({LESSON!r}, {e.name!r})"
                           f".{kind}[{name!r}]" for e, name in zip(every, names)], sum(worth), sum(worth))

    add("another", "alternatives", [0] * len(every))
    for i in range(min(len(exercise.wrong) for exercise in every)):
        add(f"wrong {i + 1}", "wrong", [list(exercise.wrong)[i] for exercise in every])
    return found


if LESSON != "06":
    CLASS = plain()
NAMES = exercises.names(LESSON)


def read(path):
    return nbformat.read(path, as_version=4)


def texts(nb):
    return [cell.source for cell in nb.cells]


def submit():
    """Our student notebook is nbgrader's; hand in one notebook a student."""
    released = read(Path("release") / NOTEBOOK)
    assert texts(released) == texts(read(f"student/{NAME}.ipynb")), "our student version is not nbgrader's"
    assert "SOLUTION" not in str(released) and "HIDDEN" not in str(released)
    assert LESSON != "06" or "F.cross_entropy" not in str(released)
    solved = read(Path("source") / NOTEBOOK)
    for student, (answers, *_) in CLASS.items():
        nb, wanted = read(Path("release") / NOTEBOOK), dict(zip(NAMES, answers, strict=True))
        for cell, solution in zip(nb.cells, solved.cells, strict=True):
            name = cell.metadata.get("nbgrader", {}).get("grade_id")
            if wanted.get(name) is KEEP:
                cell.source = solution.source
            elif wanted.get(name):
                check = next(line for line in cell.source.splitlines() if line.startswith("lesson.check"))
                cell.source = f"{wanted[name]}\n{check}"
            elif student == "forging" and str(name).endswith("-points"):
                cell.source = "2.0"
        path = Path("submitted") / student / NOTEBOOK
        path.parent.mkdir(parents=True)
        nbformat.write(nb, path)


def total(path, column):
    found = {}
    for row in csv.DictReader(open(path, encoding="utf-8")):
        found[row["student"] if column == "points" else row["student_id"]] = 0.0
    for row in csv.DictReader(open(path, encoding="utf-8")):
        found[row["student"] if column == "points" else row["student_id"]] += float(row[column] or 0)
    return found


def compare(found, which):
    wrong = []
    for student, (_, *expected) in CLASS.items():
        wanted, mine = expected[which], found.get(student)
        # A wrong answer may pass some of an exercise's checks (momentum 0 copies the online weights).
        good = mine is not None and (mine <= 1.5 if wanted is None else abs(mine - wanted) < 0.01)
        print(f"{'✓' if good else '✗'} {student:<10} {mine} points" + ("" if good else f", expected {wanted}"))
        wrong += [] if good else [student]
    sys.exit(f"other grades than expected: {', '.join(wrong)}" if wrong else 0)


if STEP == "submit":
    submit()
elif STEP == "grades":
    compare(total("grades.csv", "score"), 0)
else:
    compare(total("isolated.csv", "points"), 1)
PY

"$main" -m tools.classroom class "$course/class" "$lesson"
cd "$course/class"
nbgrader --version
nbgrader generate_assignment "$name"
"$bin/python" "$course/steps.py" submit "$name"
# One submission ends its kernel: nbgrader reports it, grades the others and returns an error.
nbgrader autograde "$name" --ExecutePreprocessor.timeout="${NBGRADER_SECONDS:-30}" || true
nbgrader export --to grades.csv
"$bin/python" "$course/steps.py" grades "$name"
"$main" -m tools.classroom grade submitted --csv isolated.csv
"$bin/python" "$course/steps.py" isolated "$name"
