#!/usr/bin/env bash
# The two commands of README.md as a stranger meets them: a clone in an empty folder, an empty home,
# empty caches, and of this shell's variables only PATH and how the network is reached.
#   bash tests/fresh.sh                clone what is committed here; make lab, make test (half an
#                                      hour, about 11 GB of disk)
#   bash tests/fresh.sh lab [ADDRESS]  make lab only (a minute or two); ADDRESS: clone from there
#   bash tests/fresh.sh test           make test only
# make lab: JupyterLab answers at the address it prints, shows notebook 01 with its stored figures,
# has a kernel, and stops.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
what=${1:-all} address=${2:-file://$here}
case $what in
    all | lab | test) ;;
    *) echo "no part $what; there are lab and test"; exit 2 ;;
esac

folder=$(mktemp -d "${TMPDIR:-/tmp}/fresh.XXXXXX")
server=
finish() {
    [ -z "$server" ] || kill -TERM -- "-$server" 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT
mkdir "$folder/home" "$folder/tmp"

clean=(env -i PATH="$PATH" HOME="$folder/home" TMPDIR="$folder/tmp" LANG=C.UTF-8)
network="http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY"
certificates="SSL_CERT_FILE SSL_CERT_DIR NODE_EXTRA_CA_CERTS"
for name in $network $certificates; do
    [ -z "${!name:-}" ] || clean+=("$name=${!name}")
done

say() { echo "$SECONDS s: $*"; }

"${clean[@]}" git clone --quiet "$address" "$folder/clone"
cd "$folder/clone"
history=$(du -sm .git | cut -f1) files=$(du -sm --exclude=.git . | cut -f1)
say "cloned $(git rev-parse --short HEAD), $history MB of history, $files MB of files"

lab() {
    setsid "${clean[@]}" make lab >"$folder/log" 2>&1 &
    server=$!
    local url=
    until [ -n "$url" ]; do
        if ! kill -0 "$server" 2>/dev/null; then
            cat "$folder/log"
            echo "make lab ended before JupyterLab answered"
            return 1
        fi
        if [ "$SECONDS" -ge 1800 ]; then
            tail -20 "$folder/log"
            echo "make lab printed no address in half an hour"
            return 1
        fi
        sleep 1
        url=$(grep -oE 'http://(localhost|127\.0\.0\.1):[0-9]+/[^ ]*token=[0-9a-f]+' "$folder/log" | head -1 || true)
    done
    say "make lab printed its address; environment $(du -sm .venv | cut -f1) MB"
    .venv/bin/python tests/fresh_jupyterlab.py "$url" || { tail -20 "$folder/log"; return 1; }
    kill -TERM -- "-$server"
    wait "$server" 2>/dev/null || true
    server=
    say "make lab works"
}

check() {
    "${clean[@]}" make test
    say "make test works"
}

[ "$what" = test ] || lab
[ "$what" = lab ] || check
if [ -n "$(git status --porcelain)" ]; then
    git status --short
    echo "the commands changed or left files that git sees"
    exit 1
fi
