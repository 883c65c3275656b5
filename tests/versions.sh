#!/usr/bin/env bash
# Core, lesson layer, engine and notebook 01 with other versions of Python and of what we depend on.
#   bash tests/versions.sh                    every cell of the matrix
#   bash tests/versions.sh oldest             one cell: oldest, oldest-3.11, newest-3.11, newest or colab
#   bash tests/versions.sh oldest core        one part of it: install, core, lesson, engine or notebook
#   bash tests/versions.sh newest clean       removes its environment
# oldest: the lowest release of each package that pyproject.toml allows. newest: the highest;
# constraints.txt is not asked. Each has an environment in build/versions (about 5 GB, hard-linked from
# uv's cache). A Python that cannot be had is skipped, in CI it is an error. Counts and versions are
# put into benchmarks/results/versions.json.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=$(command -v uv || echo .venv-uv/bin/uv)
tools=$(grep -oE '"(hypothesis|nbval|psutil|pytest)>=[0-9.]+"' pyproject.toml | tr '"\n' '  ')
eval "$(grep -E '^pins=' tests/colab.sh)"
colab="$pins torch==2.11.0 torchvision==0.26.0 numpy==2.1.3"  # of 2026-08
export UV_LINK_MODE=hardlink  # torch is 5 GB

files() {  # part -> its test files
    case $1 in
        core)
            set -- audit augment cka_golden data files losses metrics models plot probe properties \
                shapes train
            ;;
        lesson) set -- exercises frames lesson ;;
        engine) set -- pretrain pretrain_evaluation serve_export serve ;;
    esac
    printf 'tests/test_%s.py ' "$@"
}

# 3.10 -> an interpreter: one that lies here, pyenv's, or one that uv fetches
find_python() {
    "$uv" python find --no-python-downloads "$1" 2>/dev/null && return
    local here
    for here in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        [ -x "$here" ] && { echo "$here"; return; }
    done
    "$uv" python install --quiet "$1" 2>/dev/null && "$uv" python find "$1"
}

install() {  # cell, Python, what uv is told
    local python told
    [ -x "$bin" ] || {
        python=$(find_python "$2") || return 1
        "$uv" venv --quiet --allow-existing --python "$python" "build/versions/$1"
    }
    told="${*:3} $tools $(cksum pyproject.toml)"
    [ "$(cat "build/versions/$1/.told" 2>/dev/null)" = "$told" ] && return
    "$uv" pip install --quiet --python "$bin" $tools "${@:3}" || {
        echo "$1: uv could not install it" >&2
        exit 1
    }
    echo "$told" >"build/versions/$1/.told"
}

# cell, part: run the tests, put their counts into the record, return pytest's answer
check() {
    local answer=0
    local report="build/versions/$1-$2.xml"
    local started=$SECONDS
    local pytest="$bin -m pytest -q -p no:cacheprovider --junit-xml=$report"
    if [ "$2" = notebook ]; then
        REPLEARN_STATIC=1 REPLEARN_STRICT=1 REPLEARN_PROFILE=cpu \
            REPLEARN_DATA="$PWD/build/no-data" PYTHONWARNINGS=ignore \
            $pytest --nbval-lax --nbval-current-env \
            --nbval-sanitize-with tests/nbval_sanitize.cfg \
            notebooks/01_representations.ipynb || answer=$?
    else
        OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} \
            $pytest --disable-warnings $(files "$2") || answer=$?
    fi
    "$bin" tests/version_record.py "$1" "$2" "$report" $((SECONDS - started))
    return $answer
}

matrix() {  # cell, part
    bin=build/versions/$1/bin/python
    if [ "$2" = clean ]; then
        rm -rf "build/versions/$1" build/versions/"$1"-*.xml
        return
    fi
    local version told part
    local answer=0
    case $1 in
        oldest) version=3.10 told="-e .[lab,serve] --resolution=lowest-direct" ;;
        oldest-3.11) version=3.11 told="-e .[lab,serve] --resolution=lowest-direct" ;;
        newest-3.11) version=3.11 told="-e .[lab,serve] --resolution=highest" ;;
        newest) version=3.13 told="-e .[lab,serve] --resolution=highest" ;;
        colab) version=3.13 told="-e .[serve] nbclient nbformat $colab" ;;
        *)
            echo "no cell $1; there are oldest, oldest-3.11, newest-3.11, newest and colab"
            return 2
            ;;
    esac
    install "$1" "$version" $told || {
        echo "$1: skipped, no Python $version here and uv could not fetch one"
        [ -z "${CI:-}" ]; return
    }
    [ "$2" = install ] && return
    for part in ${2/all/core lesson engine notebook}; do
        check "$1" "$part" || answer=1
    done
    return $answer
}

case ${2:-all} in
    all | install | clean | core | lesson | engine | notebook) ;;
    *)
        echo "no part $2; there are install, core, lesson, engine, notebook and clean"
        exit 2
        ;;
esac
answer=0
for cell in ${1:-oldest oldest-3.11 newest-3.11 newest colab}; do
    matrix "$cell" "${2:-all}" || answer=1
done
exit $answer
