#!/usr/bin/env bash
# The class kit with the real nbgrader: generate, release, submit, autograde, export; then the grades
# are checked, by tests/nbgrader_steps.py.
#   bash tests/nbgrader.sh       lesson 06, and a class of honest and hostile students
#   bash tests/nbgrader.sh 12    that lesson: all right, everything as handed out, another right way,
#                                and each usual mistake that the exercises know
# It runs in an environment of its own, .venv-nbgrader: nbgrader's pins are not ours. torch is the
# release of .venv, from uv's cache.
set -euo pipefail
cd "$(dirname "$0")/.."

lesson=${1:-06}
name=$(basename "$(ls notebooks/src/"$lesson"_*.md)" .md)
root=$PWD
main=$root/.venv/bin/python
bin=$root/.venv-nbgrader/bin
uv=$(command -v uv || echo .venv-uv/bin/uv)
needs="nbgrader>=0.9.5 ipykernel"
torch=$("$main" -c '
from importlib.metadata import version
print(*(f"{name}=={version(name)}" for name in ("torch", "torchvision")))')

export UV_LINK_MODE=hardlink OMP_NUM_THREADS=1 JUPYTER_PLATFORM_DIRS=1 NO_COLOR=1
stamp=.venv-nbgrader/.pins
if [ "$(cat "$stamp" 2>/dev/null)" != "$needs $torch" ]; then
    "$uv" venv --quiet --allow-existing --python "$main" .venv-nbgrader
    "$uv" pip install --quiet --python "$bin/python" $needs $torch -e .
    echo "$needs $torch" >"$stamp"
fi

course=$(mktemp -d)
trap 'rm -rf "$course"' EXIT
export PATH=$bin:$PATH
export JUPYTER_CONFIG_DIR=$course/.config JUPYTER_DATA_DIR=$course/.data IPYTHONDIR=$course/.ipython

"$main" -m tools.classroom class "$course/class" "$lesson"
cd "$course/class"
nbgrader --version
nbgrader generate_assignment "$name"
"$bin/python" "$root/tests/nbgrader_steps.py" submit "$name"
# One submission ends its kernel: nbgrader reports it, grades the others and returns an error.
nbgrader autograde "$name" --ExecutePreprocessor.timeout="${NBGRADER_SECONDS:-30}" || true
nbgrader export --to grades.csv
"$bin/python" "$root/tests/nbgrader_steps.py" grades "$name"
# Where bubblewrap does not work, the class below is our own: it may run without.
protection=()
bwrap --unshare-all --ro-bind / / true 2>/dev/null || protection=(--unprotected)
(cd "$root" && "$main" -m tools.classroom grade "$course/class/submitted" \
    --csv "$course/class/isolated.csv" "${protection[@]}")
"$bin/python" "$root/tests/nbgrader_steps.py" isolated "$name"
