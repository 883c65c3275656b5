"""CIFAR-10 from servers that truncate, stall, crawl, lie and die: nothing wrong is ever trusted, a retry succeeds."""

import hashlib
import http.server
import io
import json
import os
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
from pathlib import Path

import numpy as np
import pytest
import torch

from replearn import data
from replearn.data import download as _download
from replearn.data import folder as files

N = 8  # pictures a batch file


def batch(images, labels):
    """Return a batch file as Python 2 wrote it: byte strings, protocol 2, an array of numpy.core."""
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
    """A small CIFAR-10: its pictures, labels, batch files and the bytes of its tar."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, N, 3072), dtype=np.uint8)
    labels = rng.integers(0, 10, (6, N))
    batches = {name: batch(images[i], labels[i].tolist()) for i, name in enumerate(files.BATCHES)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, raw in {
            "../escaped": b"!",
            **{f"cifar-10-batches-py/{k}": v for k, v in batches.items()},
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return images.reshape(6, N, 3, 32, 32), labels, batches, buffer.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """The first part of the path says how this server misbehaves: /half/cifar-10-python.tar.gz."""

    protocol_version = "HTTP/1.0"

    def log_message(self, *_):
        pass

    def do_GET(self):
        behavior, name = self.path.strip("/").split("/")
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.seen[behavior].append(start)
        first = len(self.server.seen[behavior]) == 1
        body = self.server.files[name]
        if behavior in ("404", "500"):
            return self.send_error(int(behavior))
        if behavior == "mute":  # takes the request, never answers
            return self.server.stop.wait(5)
        if behavior == "html":
            body = b"<html>Please log in to this network</html>"
        if behavior == "short":
            body = body[: len(body) // 2]  # and says so
        if behavior == "wrong" or (behavior == "wrong-half" and first):
            body = bytes(b ^ 1 for b in body)
        if behavior in ("norange", "wrongrange", "html", "short"):
            start = 0
        piece = body[start:]
        self.send_response(206 if start or behavior == "wrongrange" else 200)
        if start or behavior == "wrongrange":  # 206, and yet from the beginning
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if behavior != "nolength":
            self.send_header("Content-Length", str(len(piece)))
        self.end_headers()
        if behavior in ("half", "wrong-half") or (behavior == "half-once" and first):
            piece = piece[: len(piece) // 2]
        try:
            if behavior == "reset":
                self.wfile.write(piece[: len(piece) // 2])
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                self.connection.close()  # at once, with an RST
            elif behavior == "stall":
                self.wfile.write(piece[:1000])
                self.server.stop.wait(5)
            elif behavior == "crawl":
                for i in range(0, len(piece), 8000):
                    self.wfile.write(piece[i : i + 8000])
                    if self.server.stop.wait(0.04):
                        return
            else:
                self.wfile.write(piece)
        except OSError:
            pass  # the client has gone


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.seen, httpd.files, httpd.stop, httpd.daemon_threads = (
            defaultdict(list),
            {},
            threading.Event(),
            True,
        )
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield httpd
        httpd.stop.set()
        httpd.shutdown()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REPLEARN_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def serve(server, folder, archive, monkeypatch):
    """Return a function that sets the sources: serve("half", "good")."""
    raw = archive[3]
    server.files[_download.TAR] = raw
    monkeypatch.setitem(_download.FILES, _download.TAR, (len(raw), hashlib.sha256(raw).hexdigest()))
    monkeypatch.setattr(
        files, "BATCHES", {name: hashlib.md5(raw).hexdigest() for name, raw in archive[2].items()}
    )
    monkeypatch.setattr(_download, "STALL", 0.4)
    monkeypatch.setattr(_download, "WINDOW", 0.1)

    def sources(*behaviors, names=(_download.TAR,)):
        server.seen.clear()
        base = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(
            _download, "SOURCES", [(f"{base}/{name}", list(names)) for name in behaviors]
        )

    return sources


def check(archive):
    """Assert that both splits load and are the archive's, to the pixel."""
    images, labels = (torch.from_numpy(x) for x in archive[:2])
    train, test = data.load("cifar10"), data.load("cifar10", split="test")
    assert torch.equal(train.images, images[:5].flatten(0, 1)) and torch.equal(
        train.labels, labels[:5].flatten()
    )
    assert torch.equal(test.images, images[5]) and torch.equal(test.labels, labels[5])
    assert train.class_names == files.CIFAR10 and train.labels.dtype == torch.int64


def test_published_checksums_are_well_formed_and_sources_use_them():
    assert all(len(digest) == 64 and size > 2e7 for size, digest in _download.FILES.values())
    assert all(len(md5) == 32 for md5 in files.BATCHES.values())
    assert all(
        base.startswith("https://") and not base.endswith("/") for base, _ in _download.SOURCES
    )
    assert {name for _, names in _download.SOURCES for name in names} == set(_download.FILES)


def test_download_is_kept_and_needs_no_network_again(serve, server, folder, archive, capsys):
    assert not data.available("cifar10")
    serve("good")
    check(archive)
    assert "127.0.0.1" in capsys.readouterr().err  # the progress bar
    assert server.seen == {"good": [0]} and data.available("cifar10")
    assert sorted(p.name for p in folder.iterdir()) == ["cifar-10-python.tar.gz", "cifar10.npz"]
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
        assert list(folder.iterdir()) == [] and not data.available("cifar10")
    assert server.seen[bad]
    serve("good")
    check(archive)


@pytest.mark.parametrize("bad", [*FAULTS, "crawl", "nolength-half"])
def test_next_source_follows_a_bad_one(bad, serve, server, folder, archive):
    serve(bad, "good") if bad != "nolength-half" else serve("half", "nolength")
    start = time.monotonic()
    check(archive)
    assert bad != "stall" or time.monotonic() - start < 4  # the server would hold on for 5 s
    assert sorted(p.name for p in folder.iterdir()) == ["cifar-10-python.tar.gz", "cifar10.npz"]


def test_next_source_resumes_where_a_dying_one_stopped(serve, server, archive):
    serve("half", "good")
    check(archive)
    assert server.seen["good"] == [len(archive[3]) // 2]


@pytest.mark.parametrize("behavior", ["norange", "wrongrange"])
def test_server_without_range_starts_again(behavior, serve, server, archive):
    serve("half", behavior)
    check(archive)
    assert server.seen[behavior] == [len(archive[3]) // 2]


def test_only_source_dies_once_and_is_resumed(serve, server, archive):
    serve("half-once")
    check(archive)
    assert server.seen["half-once"] == [0, len(archive[3]) // 2]


def test_right_bytes_after_wrong_ones_are_fetched_again(serve, server, archive):
    serve(
        "wrong-half", "good"
    )  # wrong first half, resumed rightly: the checksum refuses the mixture
    check(archive)
    assert server.seen["wrong-half"][0] == 0 and server.seen["good"][0] == len(archive[3]) // 2


def test_slow_source_serves_when_nothing_else_does(serve, server, archive):
    serve("crawl", "404")
    check(archive)
    assert (
        len(server.seen["crawl"]) == 2
        and server.seen["crawl"][1] > 0
        and len(server.seen["404"]) == 1
    )


def test_error_names_every_source_and_the_way_out_and_a_retry_succeeds(
    serve, server, folder, archive
):
    serve("404", "wrong", "half", "stall")
    with pytest.raises(OSError, match="is missing") as error:
        data.load("cifar10")
    text = str(error.value)
    for part in (
        "/404: HTTP Error 404",
        "/wrong: wrong checksum",
        "/half: broken off after",
        "/stall: ",
        "timed out",
        "REPLEARN_DATA",
        str(folder),
        "cifar10/{train,test}/<class>/*.jpg",
        _download.TAR,
    ):
        assert part in text, text
    assert list(folder.iterdir()) == [] and not data.available("cifar10")
    assert max(len(seen) for seen in server.seen.values()) <= 12 and len(server.seen["404"]) == 1
    serve("good")
    check(archive)


def test_no_network_fails_at_once(serve, folder, monkeypatch):
    monkeypatch.setattr(
        _download, "SOURCES", [("http://127.0.0.1:9", [_download.TAR])]
    )  # nothing listens there
    start = time.monotonic()
    with pytest.raises(OSError, match="Without a network: copy a whole cifar-10-python"):
        data.load("cifar10")
    assert time.monotonic() - start < 2 and list(folder.iterdir()) == []


def test_half_copied_archive_is_named_and_replaced(serve, folder, archive):
    folder.mkdir()
    (folder / _download.TAR).write_bytes(archive[3][:5000])
    serve("404")
    with pytest.raises(OSError, match="is damaged"):
        data.load("cifar10")
    serve("good")
    check(archive)


def test_damaged_cache_is_made_anew(serve, folder, archive):
    serve("good")
    check(archive)
    raw = bytearray((folder / "cifar10.npz").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "cifar10.npz").write_bytes(raw)
    with pytest.warns(UserWarning, match=r"cifar10\.npz: damaged"):
        check(archive)
    check(archive)


RUN = """
import sys, json, pathlib
from replearn.data import download as _download
_download.SOURCES, _download.FILES[_download.TAR] = [(sys.argv[1], [_download.TAR])], json.loads(sys.argv[2])
_download.WINDOW = 60
print(_download.download(pathlib.Path(sys.argv[3])))
"""


def process(serve, behavior, folder):
    serve(behavior)
    arguments = [_download.SOURCES[0][0], json.dumps(_download.FILES[_download.TAR]), str(folder)]
    root = str(Path(_download.__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_two_processes_at_once_and_one_killed(serve, server, folder, archive):
    killed, first, second = (process(serve, "crawl", folder) for _ in range(3))
    deadline = time.monotonic() + 20
    while len(list(folder.glob("download-*/*.gz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    for running in (first, second):
        assert _download.TAR in running.communicate(timeout=30)[0] and running.returncode == 0
    assert killed.wait() == -signal.SIGKILL
    assert (folder / _download.TAR).read_bytes() == archive[3]
    (folder / _download.TAR).unlink()
    assert (
        len(list(folder.glob("download-*"))) == 1
    )  # of the killed one: it is never looked at again
    serve("good")
    check(archive)


def test_two_threads_at_once(serve, folder, archive):
    serve("good")
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(data.load("cifar10").images))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(torch.equal(x, results[0]) for x in results)
    assert sorted(p.name for p in folder.iterdir()) == ["cifar-10-python.tar.gz", "cifar10.npz"]


def test_folder_that_cannot_be_written(serve, archive, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("REPLEARN_DATA", str(tmp_path / "file" / "cache"))
    serve("good")
    with pytest.raises(OSError, match=r"expected a writable folder.*set REPLEARN_DATA"):
        data.load("cifar10")


def test_hub_copy(serve, server, folder, archive, monkeypatch):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from PIL import Image

    images, labels = archive[:2]
    for name, batches in zip(_download.PARQUET, (range(5), [5]), strict=True):
        rows = []
        for i in batches:
            for picture, label in zip(images[i], labels[i].tolist(), strict=True):
                Image.fromarray(picture.transpose(1, 2, 0)).save(buffer := io.BytesIO(), "PNG")
                rows.append({"img": {"bytes": buffer.getvalue(), "path": None}, "label": label})
        parquet.write_table(pyarrow.Table.from_pylist(rows), buffer := io.BytesIO())
        server.files[name] = raw = buffer.getvalue()
        monkeypatch.setitem(_download.FILES, name, (len(raw), hashlib.sha256(raw).hexdigest()))
    serve("good", names=_download.PARQUET)
    monkeypatch.setattr(_download, "find_spec", lambda name: None)
    with pytest.raises(OSError, match="skipped, because this copy needs pyarrow"):
        data.load("cifar10")
    monkeypatch.setattr(_download, "find_spec", lambda name: True)
    check(archive)


def test_torchvision_batches(serve, folder, archive):
    serve()
    (folder / "cifar-10-batches-py").mkdir(parents=True)
    for name, raw in archive[2].items():
        (folder / "cifar-10-batches-py" / name).write_bytes(raw)
    check(archive)
    path = folder / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(
        b"cos\nsystem\n(S'touch " + str(folder / "owned").encode() + b"'\ntR."
    )  # a pickle that runs code
    with pytest.raises(ValueError, match="data_batch_3, found it missing or damaged"):
        data.load("cifar10")
    assert not (folder / "owned").exists()
    path.unlink()
    with pytest.raises(ValueError, match="data_batch_3, found it missing or damaged"):
        data.load("cifar10", split="test")


# --- a small disk and a read-only one, in a mount namespace of the test's own -----------------------------------------

FULL = RUN.replace(
    "print(_download.download(pathlib.Path(sys.argv[3])))",
    """
folder = pathlib.Path(sys.argv[3])
try:
    print("served", _download.download(folder))
except OSError as error:
    print(sorted(path.name for path in folder.iterdir()), error)
""",
)
READ_ONLY = """
import pathlib, sys, warnings
from replearn import data
assert data.cache_folder().is_relative_to(pathlib.Path.home()) and not data.available("cifar10")
print(len(data.load("shapes", size=3)), len(data.load("digits", size=3)))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    print(len(data.load(sys.argv[1])), *[str(warning.message) for warning in told])
try:
    data.load("cifar10")
except OSError as error:
    print(error)
"""


def mounted(folder, options, script, *arguments, **variables):
    """What a script prints that sees `folder` as a tmpfs mounted with these options; nobody else does."""
    mount = f'mount -t tmpfs -o {options} none "{folder}"'
    alone = ["unshare", "-rm", "sh", "-c"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*alone, mount], capture_output=True).returncode
    ):
        pytest.skip("needs Linux, where a process may mount a tmpfs for itself")
    environment = {
        k: v for k, v in os.environ.items() if k not in ("REPLEARN_DATA", "XDG_CACHE_HOME")
    } | variables
    environment["PYTHONPATH"] = str(Path(_download.__file__).parents[2])
    command = [*alone, f'{mount} && exec "$@"', "sh", sys.executable, "-c", script, *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("size", ["32k", "1m"])
def test_disk_that_fills_up_during_a_download(size, serve, folder, archive):
    folder.mkdir()
    serve("good")
    told = mounted(
        folder,
        f"size={size}",
        FULL,
        _download.SOURCES[0][0],
        json.dumps(_download.FILES[_download.TAR]),
        str(folder),
    )
    if size == "1m":
        assert told.startswith("served"), told  # the retry, with room
    else:
        assert (
            told.startswith("[] ") and "No space left on device" in told and "REPLEARN_DATA" in told
        ), told


def test_read_only_home(tmp_path):
    from PIL import Image

    home, mine = tmp_path / "home", tmp_path / "mine"
    home.mkdir()
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (mine / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(mine / name / "1.png")
    told = mounted(
        home, "ro", READ_ONLY, str(mine), HOME=str(home), OMP_NUM_THREADS="1"
    ).splitlines()
    assert told[0] == "3 3" and told[1].startswith("2 ") and "not written" in told[1]
    assert "expected a writable folder" in told[2] and "set REPLEARN_DATA to one" in told[2]
