#!/usr/bin/env bash
# The lesson layer and three notebooks with the package versions of Colab (2026-08): ipywidgets 7.7.1,
# IPython 7.34, matplotlib 3.10.
# It runs in an environment of its own, .venv-colab; torch is the release of .venv, from uv's cache:
# seconds on the second use.
set -euo pipefail
cd "$(dirname "$0")/.."

main=.venv/bin/python
colab=.venv-colab/bin/python
uv=$(command -v uv || echo .venv-uv/bin/uv)
pins="ipywidgets==7.7.1 ipython==7.34.0 ipykernel==6.17.1 traitlets==5.7.1 jupyter-client==7.4.9 tornado==6.4.2 matplotlib==3.10.0"
torch=$("$main" -c '
from importlib.metadata import version
print(*(f"{name}=={version(name)}" for name in ("torch", "torchvision")))')

export UV_LINK_MODE=hardlink  # torch is 5 GB

tools="nbclient nbformat pytest pytest-xdist selenium"
stamp=.venv-colab/.pins
if [ "$(cat "$stamp" 2>/dev/null)" != "$pins $torch $tools" ]; then
    echo "A second environment is made in .venv-colab: about 6 GB, shared with uv's cache where the disk allows it."
    "$uv" venv --quiet --allow-existing --python "$main" .venv-colab
    "$uv" pip install --python "$colab" $pins $torch -e . $tools
    echo "$pins $torch $tools" >"$stamp"
fi

export OMP_NUM_THREADS=1
"$colab" -c '
import sys, IPython, ipywidgets, matplotlib, torch
print("Python", sys.version.split()[0])
for module in (IPython, ipywidgets, matplotlib, torch):
    print(module.__name__, module.__version__)'
tests="tests/test_lesson.py tests/test_frames.py tests/test_exercises.py"
"$colab" -m pytest -q --disable-warnings -p no:cacheprovider -n 2 $tests "$@"

unset OMP_NUM_THREADS
export REPLEARN_STATIC=1 REPLEARN_STRICT=1 REPLEARN_PROFILE=cpu REPLEARN_DATA="$PWD/build/no-data"
"$colab" - 03_cka 05_vae 08_identifiability <<'EOF'
import sys

import nbformat
from nbclient import NotebookClient

for name in sys.argv[1:]:
    notebook = nbformat.read(f"notebooks/{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    print(notebook.cells[-1].outputs[0].text.strip(), flush=True)
EOF
