"""The service of notebook 12: pictures in, answers out; hostile pictures, stalled bodies, crowds; its own process."""

import base64
import hashlib
import http.client
import io
import itertools
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from replearn.__main__ import main  # noqa: E402
from replearn.serve import bundle  # noqa: E402
from replearn.serve import decode as pictures  # noqa: E402
from replearn.serve import demo as page
from replearn.serve import process as serve
from replearn.serve import schemas as answers

NAMES, SIDE, D, M = ("circle", "square", "star"), 32, 24, 300
RNG = np.random.default_rng(0)
KEPT = RNG.integers(0, 256, (M, 3, SIDE, SIDE), dtype=np.uint8)
WEIGHTS = RNG.normal(size=(192, D)).astype(np.float32)


def embed(images):
    """Means of 4 x 4 pixels, times a random matrix: float32 (N, D)."""
    x = images.astype(np.float32).reshape(len(images), 3, 8, 4, 8, 4).mean((3, 5)) / 255
    return x.reshape(len(x), 192) @ WEIGHTS


def fake(**changes):
    h = embed(KEPT)
    return bundle.Bundle(
        embed=embed,
        class_names=NAMES,
        weight=RNG.normal(0, 0.02, (3, D)).astype(np.float32),
        bias=np.float32([0, 0.5, 1]),
        features=h / np.linalg.norm(h, axis=1, keepdims=True),
        labels=np.arange(M) % 3,
        images=KEPT,
        side=SIDE,
        card=dict(architecture=["small_cnn", 4]),
    )._replace(**changes)


def coded(image, kind="PNG", **options):
    file = io.BytesIO()
    (Image.fromarray(image.transpose(1, 2, 0)) if isinstance(image, np.ndarray) else image).save(
        file, kind, **options
    )
    return file.getvalue()


def bomb(side=20_000):
    """A whole PNG of 1-bit pixels: 50 kB that become 50 MB, and 400 MB as PIL keeps them."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (1 + side // 8)), 1)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


GOOD, BOMB = coded(KEPT[0]), bomb()
JPEG = coded(KEPT[0], "JPEG")
HOSTILE = {  # what is sent: status and words of the refusal
    "nothing": (b"", 400, "the body is empty"),
    "a bomb": (BOMB, 413, "too large: expected at most 4,000,000 pixels, found"),
    "a PNG cut short": (GOOD[:-900], 400, "truncated or damaged"),
    "a JPEG cut short": (JPEG[: len(JPEG) // 2], 400, "truncated or damaged"),
    "a PNG's first bytes": (GOOD[:20], 400, "truncated or damaged"),
    "a damaged PNG": (GOOD[:60] + bytes(40) + GOOD[100:], 400, "truncated or damaged"),
    "a GIF": (coded(KEPT[0], "GIF"), 400, "expected a whole PNG, JPEG or WebP"),
    "an SVG": (
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
        400,
        "expected a whole PNG",
    ),
    "text": (b"hello", 400, "found 5 bytes that begin with b'hello'"),
    "a zip": (b"PK\x03\x04" + bytes(500), 400, "expected a whole PNG"),
    "a WebP cut short": (coded(KEPT[0], "WEBP")[:60], 400, "truncated or damaged"),
    "a TIFF named PNG": (coded(KEPT[0], "TIFF"), 400, "expected a whole PNG"),
    "too many bytes": (GOOD + bytes(2_000_000), 413, "expected at most 2,000,000 bytes"),
}


def ask(address, path="/embed", body=GOOD, kind="image/png", method=None, **headers):
    """Return (status, headers, answer)."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    try:
        given = {**({"Content-Type": kind} if kind else {}), **headers}
        connection.request(method or ("GET" if body is None else "POST"), path, body, given)
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())
    finally:
        connection.close()


def refusal(answer, status, words):
    """Check that an answer is a refusal with this status and these words in its sentence."""
    assert answer[0] == status and list(answer[2]) == ["error"] and words in answer[2]["error"], (
        answer
    )


@contextmanager
def local(some=None, **limits):
    """The service in a thread of this process."""
    server = serve._server(serve.create_app(some or fake(), **limits))
    with serve._listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def test_answers_on_a_kept_connection_do_not_wait_for_an_acknowledgment():
    with serve._listen("127.0.0.1", 0) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        with client, accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.fixture(scope="module")
def here():
    with local() as address:
        yield address


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle on the disk, as `export` writes it; its network is `embed`."""
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import save

    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    nodes = [
        helper.make_node("AveragePool", ["images"], ["p"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["features"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("images", ["n", 3, SIDE, SIDE])],
        [value("features", ["n", D])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    some, place = fake(), tmp_path_factory.mktemp("serve") / "bundle"
    index = save(
        dict(
            head_weight=some.weight,
            head_bias=some.bias,
            features=some.features.astype(np.float16),
            labels=some.labels.astype(np.int64),
            images=some.images,
        )
    )
    place.mkdir()
    files = (
        dict.fromkeys(bundle.FILES, b"x")
        | {name: model for name in bundle.MODELS.values()}
        | {bundle.INDEX: index}
    )
    for name, content in files.items():
        (place / name).write_bytes(content)
    about = dict(
        format=bundle.FORMAT,
        class_names=NAMES,
        side=SIDE,
        feature_dim=D,
        card=some.card,
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
    (place / bundle.ABOUT).write_text(json.dumps(about | {"sha256": bundle.digest(about)}))
    return place


@pytest.fixture(scope="module")
def process(folder):
    with serve.start(folder) as address:
        yield address


# Pictures


@pytest.mark.parametrize("kind, options", [("PNG", {}), ("WEBP", {"lossless": True})])
def test_a_picture_of_the_right_size_comes_out_as_it_is(kind, options):
    assert np.array_equal(pictures.read(coded(KEPT[1], kind, **options), SIDE), KEPT[1])


def flat(mode, color, **info):
    image = Image.new(mode, (40, 40), color)
    image.info.update(info)
    return image


SIXTEEN = Image.fromarray(np.full((40, 40), 0x80FF, np.uint16))
PALETTE = Image.new("P", (40, 40), 1)
PALETTE.putpalette([0, 0, 0, 200, 100, 50])


@pytest.mark.parametrize(
    "content, color",
    [
        (coded(flat("RGBA", (0, 0, 0, 0))), (255, 255, 255)),
        (coded(flat("RGBA", (255, 0, 0, 128))), (255, 127, 127)),
        (coded(flat("LA", (0, 0))), (255, 255, 255)),
        (coded(flat("L", 77)), (77, 77, 77)),
        (coded(flat("1", 1)), (255, 255, 255)),
        (coded(SIXTEEN), (128, 128, 128)),
        (coded(PALETTE), (200, 100, 50)),
        (coded(PALETTE, transparency=1), (255, 255, 255)),
        (coded(flat("CMYK", (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
        (coded(flat("RGB", (9, 8, 7)), transparency=(9, 8, 7)), (255, 255, 255)),
    ],
    ids="RGBA RGBA-half LA L 1 16-bit palette palette-tRNS CMYK RGB-tRNS".split(),
)
def test_every_kind_of_picture_becomes_rgb_on_white(content, color):
    x = pictures.read(content, SIDE)
    assert x.shape == (3, SIDE, SIDE) and x.dtype == np.uint8
    assert np.abs(x.astype(int) - np.reshape(color, (3, 1, 1))).max() <= 3


def test_a_picture_lying_on_its_side_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    content = coded(Image.fromarray(KEPT[2].transpose(1, 2, 0)), exif=exif)
    assert np.array_equal(pictures.read(content, SIDE), np.rot90(KEPT[2], -1, axes=(1, 2)))


def test_the_central_square_is_taken_and_averaged():
    wide = np.zeros((3, 64, 192), np.uint8)
    wide[0], wide[:, :, 64:128] = 255, 0
    wide[1, ::2, 64:128:2] = wide[1, 1::2, 65:128:2] = (
        255  # a chessboard of single pixels, green and black
    )
    x = pictures.read(coded(wide), SIDE)
    assert x[0, :, 1:-1].max() == 0  # the outermost columns mix in a little of their neighbors
    assert abs(x[1].mean() - 127.5) < 2 and x[1].std() < 20


def test_the_size_is_judged_before_anything_is_unpacked(monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("unpacked"))
    for content, words in ((BOMB, "too large"), (bomb(2001), "found 2001 x 2001 = 4,004,001")):
        with pytest.raises(pictures.Refused, match=words) as found:
            pictures.read(content, SIDE)
        assert found.value.status == 413


# Answers


def test_embed_answers_what_the_bundle_computes(here):
    status, _, found = ask(here)
    assert status == 200 and found["dimension"] == D
    assert np.array_equal(np.float32(found["feature"]), embed(KEPT[:1])[0])


def test_classify_answers_the_softmax_of_the_linear_head():
    some = fake()
    with local(some) as address:
        for i in range(5):
            found = ask(address, "/classify", coded(KEPT[i]))[2]
            logits = (some.weight @ embed(KEPT[i : i + 1])[0] + some.bias).astype(float)
            p = np.exp(logits) / np.exp(logits).sum()
            assert found["class_name"] == NAMES[p.argmax()] and list(
                found["probabilities"]
            ) == list(NAMES)
            assert (
                np.allclose(list(found["probabilities"].values()), p, atol=1e-5) and p.max() < 0.99
            )


def test_neighbors_are_the_nearest_by_cosine_the_nearest_first(here):
    some = fake()
    cosine = some.features @ some.features[3]
    for k in (1, 100, 25, 7):
        found = ask(here, f"/neighbours?k={k}&pictures=true", coded(KEPT[3]))[2]
        assert [n["index"] for n in found] == np.argsort(-cosine)[:k].tolist() and found[0][
            "index"
        ] == 3
    assert np.allclose([n["cosine"] for n in found], np.sort(cosine)[::-1][:7], atol=1e-5)
    assert [n["class_name"] for n in found] == [NAMES[n["index"] % 3] for n in found]
    sent = base64.b64decode(found[1]["picture"].removeprefix("data:image/png;base64,"))
    assert np.array_equal(pictures.read(sent, SIDE), KEPT[found[1]["index"]])
    assert len(ask(here, "/neighbours")[2]) == 5 and "picture" not in ask(here, "/neighbours")[2][0]


def test_neighbors_are_put_in_order_by_us(monkeypatch):
    from replearn.serve import app as desk

    some, parted = fake(), np.argpartition

    def unsorted(
        x, last
    ):  # NumPy promises no order within the first `last`; here it is the worst there is
        found = parted(x, last)
        return np.concatenate(
            [found[: last + 1][np.argsort(-x[found[: last + 1]])], found[last + 1 :]]
        )

    monkeypatch.setattr(np, "argpartition", unsorted)
    found = desk.neighbors(some, some.features, some.features[3], 7, False)
    assert [n["index"] for n in found] == np.argsort(-(some.features @ some.features[3]))[
        :7
    ].tolist()


@pytest.mark.parametrize("k", ["0", "-1", "101", "many", "1.5", "", "9" * 30])
def test_a_number_of_neighbors_out_of_range_is_named(here, k):
    refusal(ask(here, f"/neighbours?k={k}"), 422, "k: ")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_picture_gets_a_sentence(here, name):
    content, status, words = HOSTILE[name]
    refusal(ask(here, "/classify", content), status, words)


def test_other_types_and_addresses_get_a_sentence(here):
    refusal(ask(here, kind="text/plain"), 415, "found text/plain")
    refusal(ask(here, kind=None), 415, "found none")
    refusal(ask(here, "/nothing"), 404, "/nothing")
    refusal(ask(here, body=None), 405, "GET /embed: Method Not Allowed")
    assert ask(here, kind="IMAGE/PNG; charset=binary")[0] == 200


def test_health_counts_the_requests():
    with local(precision="fp32") as address:
        ask(address), ask(address, body=b"")
        found = ask(address, "/health", None)[2]
    assert 0 <= found.pop("seconds_up") < 600
    assert found == dict(status="ok", precision="fp32", network="small_cnn 4", requests=2)


def test_an_error_inside_is_a_sentence_and_the_next_request_is_served(caplog):
    def broken(images):
        raise RuntimeError("secret") if images.max() == 0 else None

    some = fake(embed=lambda images: embed(images) if images.max() else broken(images))
    with local(some) as address:
        refusal(ask(address, body=coded(KEPT[0] * 0)), 500, "its log says more")
        assert ask(address)[0] == 200


def test_limits_that_are_none():
    for limits in (
        dict(workers=0),
        dict(queue=-1),
        dict(max_bytes=0),
        dict(body_seconds=float("nan")),
    ):
        with pytest.raises(ValueError, match=f"{next(iter(limits))}: expected"):
            serve.create_app(fake(), **limits)


# The description of it all


def test_openapi_has_an_example_of_every_answer(here):
    openapi = ask(here, "/openapi.json", None)[2]
    assert set(openapi["paths"]) == {"/embed", "/classify", "/neighbours", "/health"}
    for path in ("/embed", "/classify", "/neighbours"):
        post = openapi["paths"][path]["post"]
        refused = {str(s) for s in answers.REFUSALS} - ({"422"} if path != "/neighbours" else set())
        assert set(post["responses"]) == {"200", *refused} and set(
            post["requestBody"]["content"]
        ) == set(answers.TYPES)
        for status in refused:
            example = post["responses"][status]["content"]["application/json"]["example"]
            assert answers.Problem(**example).error
    for name in ("Embedding", "Classification", "Neighbor", "Health"):
        getattr(answers, name)(**openapi["components"]["schemas"][name]["example"])


def test_the_page_loads_nothing_from_elsewhere(here):
    import urllib.request

    with urllib.request.urlopen(here) as answer:
        policy, html = answer.headers["Content-Security-Policy"], answer.read().decode()
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    assert (
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
        and script == page.SCRIPT
    )
    assert (
        "https:" not in html and "http:" not in html and "src=" not in html.replace("<img id", "")
    )
    for words in (
        "POST /neighbours",
        "&quot;class_name&quot;: &quot;star&quot;",
        *(str(s) for s in answers.REFUSALS),
    ):
        assert words in html
    assert "null" not in html and 'lang="en"' in html and '<label for="file">' in html


# Bodies that do not end, and crowds


def raw(address, head, parts):
    """Send bytes as they are; return all that comes back."""
    (host, port), back = address.removeprefix("http://").split(":"), b""
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n{head}\r\n\r\n".encode()
        )
        try:
            for part in parts:
                connection.sendall(part)
            while piece := connection.recv(65536):
                back += piece
        except ConnectionError:
            pass
    return back.decode("latin-1")


def test_a_body_that_stalls_gets_a_408_and_its_place_is_free_again():
    with local(body_seconds=0.2, workers=1, queue=0) as address:
        back = raw(address, "Content-Length: 1000", [GOOD[:100]])
        assert (
            back.startswith("HTTP/1.1 408")
            and "found 100 bytes" in back
            and "connection: close" in back.lower()
        )
        assert raw(address, "Transfer-Encoding: chunked", [b"5\r\nhello\r\n"]).startswith(
            "HTTP/1.1 408"
        )
        assert ask(address)[0] == 200


@pytest.mark.parametrize(
    "head, piece", [("Content-Length: 9999", b"x"), ("Transfer-Encoding: chunked", b"1\r\nx\r\n")]
)
def test_a_body_that_drips_is_cut_off_though_it_never_stalls(head, piece):
    began, most = time.monotonic(), 20

    def drip():
        while time.monotonic() - began < most:
            time.sleep(0.05)
            yield piece

    with local(body_seconds=0.4, workers=1, queue=0) as address:
        raw(address, head, drip())
        assert time.monotonic() - began < most / 2 and ask(address)[0] == 200


def test_a_chunked_body_is_counted_as_it_comes():
    piece = b"400\r\n" + bytes(1024) + b"\r\n"
    with local(max_bytes=10_000, body_seconds=60) as address:
        good = b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)
        assert raw(address, "Transfer-Encoding: chunked\r\nConnection: close", [good]).startswith(
            "HTTP/1.1 200"
        )
        back = raw(address, "Transfer-Encoding: chunked", [piece] * 30 + [b"0\r\n\r\n"])
        assert (
            back.startswith("HTTP/1.1 413") and "found 30,720 or more" in back
        )  # read to its end first
        began = time.monotonic()
        raw(address, "Transfer-Encoding: chunked", itertools.repeat(piece))  # without end: cut off
        assert ask(address)[0] == 200 and time.monotonic() - began < 50
        assert raw(address, f"Content-Length: {10**12}", []).startswith(
            "HTTP/1.1 413"
        )  # not waited for
        assert ask(address, body=bytes(150_000))[0] == 413


def test_a_crowd_waits_or_is_told_to_come_back():
    gate, lock, working, peak = threading.Event(), threading.Lock(), 0, 0

    def slow(images):
        nonlocal working, peak
        with lock:
            working += 1
            peak = max(peak, working)
        gate.wait(60)
        time.sleep(0.01)
        with lock:
            working -= 1
        return embed(images)

    def one(address):
        status, headers, answer = ask(address)
        if status == 503:
            refusal(
                (status, headers, answer), 503, "busy: 2 pictures are being worked on and 6 wait"
            )
        with lock:
            seen.append((status, headers["Retry-After"]))
            if len(seen) == 22:  # all others wait inside
                gate.set()

    seen = []
    with local(fake(embed=slow), workers=2, queue=6) as address:
        with ThreadPoolExecutor(30) as pool:
            list(pool.map(one, [address] * 30))
        assert ask(address)[0] == 200
    assert seen == [(503, "1")] * 22 + [(200, None)] * 8 and peak == 2


# In a process of its own


def test_the_process_answers_as_the_bundle_does(process, folder):
    some = bundle.open_bundle(folder)
    assert np.array_equal(np.float32(ask(process)[2]["feature"]), some.embed(KEPT[:1])[0])
    assert ask(process, "/health", None)[2]["precision"] == "int8"
    assert ask(process, "/classify", coded(KEPT[5]))[2]["class_name"] in NAMES


def test_the_service_does_not_load_torch():
    code = (
        "import sys\nfrom replearn.serve import app, bundle, process\nprint('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_hostile_pictures_leave_the_process_up_and_its_memory_flat(folder):
    psutil = pytest.importorskip("psutil")
    before = {p.pid for p in psutil.Process().children()}
    with serve.start(folder) as address:
        (own,) = [p for p in psutil.Process().children() if p.pid not in before]

        def send(rounds):
            with ThreadPoolExecutor(4) as pool:
                for name, answer in pool.map(
                    lambda name: (name, ask(address, "/classify", HOSTILE[name][0])),
                    list(HOSTILE) * rounds,
                ):
                    assert answer[0] == HOSTILE[name][1], (name, answer)

        send(4)
        start = own.memory_info().rss
        send(-(-300 // len(HOSTILE)))
        assert ask(address)[0] == 200 and own.memory_info().rss - start < 20e6
    assert not own.is_running()


def test_the_service_dies_with_whoever_started_it(folder):
    code = f"""import time, replearn.serve.process as s
with s.start({str(folder)!r}, seconds=300) as address:
    print(address, flush=True)
    time.sleep(99)"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        address = parent.stdout.readline().strip()
        assert ask(address)[0] == 200
        parent.kill()
    deadline = time.monotonic() + 30
    with pytest.raises(OSError):
        while time.monotonic() < deadline:
            ask(address)
            time.sleep(0.1)


def test_a_service_that_cannot_start_says_why(tmp_path, process):
    with (
        pytest.raises(ValueError, match=r"exit code 1: .*expected a bundle"),
        serve.start(tmp_path),
    ):
        pass
    port = int(process.rsplit(":", 1)[1])
    with pytest.raises(OSError, match=f"port {port}: cannot listen there"):
        serve._listen("127.0.0.1", port)
    with pytest.raises(OSError, match="port 70000: cannot listen there"):
        serve._listen("127.0.0.1", 70_000)
    with pytest.raises(SystemExit, match=r"error: .*expected a bundle"):
        main(["serve", str(tmp_path)])


def test_time_runs_out_with_a_sentence(folder):
    with (
        pytest.raises(TimeoutError, match="did not answer in time"),
        serve.start(folder, seconds=0),
    ):
        pass


def test_serving_without_its_packages_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "replearn.serve.app")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ValueError, match=r'pip install "replearn\[serve\]"'):
        serve.create_app(fake())


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_it_quietly(folder):
    command = [
        sys.executable,
        "-m",
        "replearn",
        "serve",
        str(folder),
        "--port",
        "0",
        "--precision",
        "fp32",
    ]
    # A shell ignores Ctrl-C in what it starts in the background, and the service would inherit that.
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed
    ) as own:
        address = re.search(r"at (http://\S+)/;", own.stdout.readline())[1]
        while True:  # it listens already, and answers once it runs
            if ask(address)[0] == 200:
                break
        own.send_signal(signal.SIGINT)
        out, err = own.communicate(timeout=30)
    assert own.returncode == 0 and out == "stopped\n" and err == ""
