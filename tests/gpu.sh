#!/usr/bin/env bash
# What only a machine with a GPU can say, in 8 minutes or less on an H100, without a network.
#   bash tests/gpu.sh                         all pieces below
#   bash tests/gpu.sh units                   tests marked `gpu`
#   bash tests/gpu.sh throughput              the engine's speed, and peers on the same card
#   bash tests/gpu.sh lessons [01 04 ...]     lessons at the gpu profile: seconds and claims
#   bash tests/gpu.sh recipe NAME             one recipe at full length
# Options before the piece:
#   --wheels FOLDER   install from there what is missing (ipykernel, nbclient, peers)
#   --parts FOLDER    of `python -m scripts.carry pack`: unpacked once, outside the checkout
#   --data FOLDER     that holds cifar10.npz (default: $REPLEARN_DATA, or where parts are unpacked)
#   --dry             tiny sizes on whatever machine, to try the script itself
#   --again           also what has a record already
#   --minutes N       begin nothing after so many (8); the same command goes on another time
# Each piece writes its record under benchmarks/results/ (or $REPLEARN_RESULTS) and is not run again
# where the record is of the same code, PyTorch and card: a call that was cut off is repeated.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
python=${PYTHON:-python3}
libraries=${TMPDIR:-/tmp}/replearn-wheels

options=()
while [ $# -gt 0 ]; do
    case $1 in
        --wheels)
            "$python" -m pip install --quiet --no-index --find-links "$2" --target "$libraries" \
                $(cd "$2" && ls *.whl | sed 's/-.*//' | sort -u)
            shift 2
            ;;
        --parts | --data | --minutes) options+=("$1" "$2") && shift 2 ;;
        --dry | --again) options+=("$1") && shift ;;
        *) break ;;
    esac
done
[ ! -d "$libraries" ] || export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$libraries"
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m scripts.gpu "${options[@]}" "$@"
