"""Does JupyterLab, at the address that `make lab` prints, show notebook 01 as it is stored?

`tests/fresh.sh` calls it: python tests/fresh_jupyterlab.py ADDRESS
"""

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

NOTEBOOK = "01_representations.ipynb"


def answer(page: urllib.parse.SplitResult, path: str) -> str:
    """Return what the server says at a path, with the token of its page; wait a minute for it."""
    address = f"{page.scheme}://{page.netloc}{path}?{page.query}"
    for _ in range(60):
        try:
            return urllib.request.urlopen(address, timeout=30).read().decode()
        except urllib.error.URLError:
            time.sleep(1)
    sys.exit(f"no answer from {path}")


def main(address: str) -> None:
    """Check the page, its kernel and its notebook; exit with a sentence at the first that fails."""
    page = urllib.parse.urlsplit(address)
    if not page.path.endswith(f"/lab/tree/{NOTEBOOK}"):
        sys.exit(f"expected a page with notebook 01, found {page.path}")
    if "jupyter-config-data" not in answer(page, page.path):
        sys.exit("the page is not JupyterLab's")
    if "python3" not in json.loads(answer(page, "/api/kernelspecs"))["kernelspecs"]:
        sys.exit("there is no Python kernel")

    notebook = json.loads(answer(page, f"/api/contents/{NOTEBOOK}"))["content"]
    figures = 0
    sliders = 0
    is_trusted = True
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        is_trusted = is_trusted and cell["metadata"].get("trusted", True)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            figures += "image/png" in data
            sliders += '<input type="range"' in "".join(data.get("text/html", ""))
    if figures < 5 or not is_trusted:
        sys.exit(
            "expected 5 figures or more and a trusted notebook; "
            f"found {figures}, trusted: {is_trusted}"
        )
    print(
        f"JupyterLab answers: notebook 01 is there with {figures} stored figures and {sliders} "
        "sliders, and is trusted"
    )


if __name__ == "__main__":
    main(sys.argv[1])
