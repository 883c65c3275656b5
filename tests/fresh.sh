#!/usr/bin/env bash
# The two commands of README.md as a stranger meets them: a clone in an empty folder, an empty home, empty caches, and of
# this shell's variables only PATH and how the network is reached.
#   bash tests/fresh.sh                clone what is committed here; make lab, make test (half an hour, about 11 GB of disk)
#   bash tests/fresh.sh lab [ADDRESS]  make lab only (a minute or two); ADDRESS: clone from there
#   bash tests/fresh.sh test           make test only
# make lab: JupyterLab answers at the address it prints, shows notebook 01 with its stored figures, has a kernel, and stops.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
what=${1:-all} address=${2:-file://$here}
case $what in all | lab | test) ;; *) echo "no part $what; there are lab and test"; exit 2 ;; esac

folder=$(mktemp -d "${TMPDIR:-/tmp}/fresh.XXXXXX")
server=
finish() {
    [ -z "$server" ] || kill -TERM -- "-$server" 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT
mkdir "$folder/home" "$folder/tmp"

clean=(env -i PATH="$PATH" HOME="$folder/home" TMPDIR="$folder/tmp" LANG=C.UTF-8)
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY SSL_CERT_FILE SSL_CERT_DIR NODE_EXTRA_CA_CERTS; do
    [ -z "${!name:-}" ] || clean+=("$name=${!name}")
done

say() { echo "$SECONDS s: $*"; }

"${clean[@]}" git clone --quiet "$address" "$folder/clone"
cd "$folder/clone"
say "cloned $(git rev-parse --short HEAD), $(du -sm .git | cut -f1) MB of history, $(du -sm --exclude=.git . | cut -f1) MB of files"

lab() {
    setsid "${clean[@]}" make lab >"$folder/log" 2>&1 &
    server=$!
    local url=
    until [ -n "$url" ]; do
        kill -0 "$server" 2>/dev/null || { cat "$folder/log"; echo "make lab ended before JupyterLab answered"; return 1; }
        [ "$SECONDS" -lt 1800 ] || { tail -20 "$folder/log"; echo "make lab printed no address in half an hour"; return 1; }
        sleep 1
        url=$(grep -oE 'http://(localhost|127\.0\.0\.1):[0-9]+/[^ ]*token=[0-9a-f]+' "$folder/log" | head -1 || true)
    done
    say "make lab printed its address; environment $(du -sm .venv | cut -f1) MB"
    .venv/bin/python - "$url" <<'PYTHON' || { tail -20 "$folder/log"; return 1; }
import json, sys, time, urllib.error, urllib.parse, urllib.request

page = urllib.parse.urlsplit(sys.argv[1])
def get(path):
    address = f"{page.scheme}://{page.netloc}{path}?{page.query}"
    for _ in range(60):
        try:
            return urllib.request.urlopen(address, timeout=30).read().decode()
        except urllib.error.URLError:
            time.sleep(1)
    sys.exit(f"no answer from {path}")

assert page.path.endswith("/lab/tree/notebooks/01_representations.ipynb"), page.path
assert "jupyter-config-data" in get(page.path), "the page is not JupyterLab's"
assert "python3" in json.loads(get("/api/kernelspecs"))["kernelspecs"], "no Python kernel"
notebook = json.loads(get("/api/contents/notebooks/01_representations.ipynb"))["content"]
outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
figures = sum("image/png" in output.get("data", {}) for output in outputs)
sliders = sum("<input type=\"range\"" in "".join(output.get("data", {}).get("text/html", "")) for output in outputs)
trusted = all(c["metadata"].get("trusted", True) for c in notebook["cells"] if c["cell_type"] == "code")
assert figures >= 5 and trusted, f"expected 5 figures or more and a trusted notebook; found {figures}, trusted: {trusted}"
print(f"JupyterLab answers: notebook 01 is there with {figures} stored figures and {sliders} sliders, and is trusted")
PYTHON
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
[ -z "$(git status --porcelain)" ] || { git status --short; echo "the commands changed or left files that git sees"; exit 1; }
