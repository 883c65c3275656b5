"""The service: what it answers, what it refuses, crowds and bodies that stall, its own process."""

import base64
import hashlib
import http.client
import io
import itertools
import json
import logging
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from replearn.__main__ import main  # noqa: E402
from replearn.serve import bundle, decode, demo, process, schemas  # noqa: E402

CLASS_NAMES = ("circle", "square", "star")
SIDE = 32
DIM = 24
PATIENCE = 120.0  # seconds for what takes one or two: no machine is that slow
KEPT = 300  # training images in the bundle
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (KEPT, 3, SIDE, SIDE), dtype=np.uint8)
WEIGHTS = RNG.normal(size=(192, DIM)).astype(np.float32)


def embed(images):
    """Means of 4 x 4 pixels, times a random matrix: float32 (N, DIM)."""
    blocks = images.astype(np.float32).reshape(len(images), 3, 8, 4, 8, 4)
    x = blocks.mean((3, 5)) / 255
    return x.reshape(len(x), 192) @ WEIGHTS


def fake_bundle(**changes):
    h = embed(IMAGES)
    made = bundle.Bundle(
        embed=embed,
        class_names=CLASS_NAMES,
        weight=RNG.normal(0, 0.02, (3, DIM)).astype(np.float32),
        bias=np.float32([0, 0.5, 1]),
        features=h / np.linalg.norm(h, axis=1, keepdims=True),
        labels=np.arange(KEPT) % 3,
        images=IMAGES,
        side=SIDE,
        card=dict(architecture=["small_cnn", 4]),
    )
    return replace(made, **changes)


def encode(image, kind="PNG", **options):
    """Return an image, uint8 (3, H, W) or of PIL, as the bytes of a file."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image.transpose(1, 2, 0))
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_chunk(kind, data):
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def bomb(side=20_000):
    """A whole PNG of 1-bit pixels: 50 kB that become 50 MB, and 400 MB as PIL keeps them."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (1 + side // 8)), 1)
    signature = b"\x89PNG\r\n\x1a\n"
    return (
        signature + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    )


GOOD = encode(IMAGES[0])
JPEG = encode(IMAGES[0], "JPEG")
WEBP = encode(IMAGES[0], "WEBP")
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>'
BOMB = bomb()
HOSTILE = {  # what is sent: its bytes, status and words of the refusal
    "nothing": (b"", 400, "the body is empty"),
    "a bomb": (BOMB, 413, "too large: expected at most 4,000,000 pixels, found"),
    "a PNG cut short": (GOOD[:-900], 400, "truncated or damaged"),
    "a JPEG cut short": (JPEG[: len(JPEG) // 2], 400, "truncated or damaged"),
    "a PNG's first bytes": (GOOD[:20], 400, "truncated or damaged"),
    "a damaged PNG": (GOOD[:60] + bytes(40) + GOOD[100:], 400, "truncated or damaged"),
    "a GIF": (encode(IMAGES[0], "GIF"), 400, "expected a whole PNG, JPEG or WebP"),
    "an SVG": (SVG, 400, "expected a whole PNG"),
    "text": (b"hello", 400, "found 5 bytes that begin with b'hello'"),
    "a zip": (b"PK\x03\x04" + bytes(500), 400, "expected a whole PNG"),
    "a WebP cut short": (WEBP[:60], 400, "truncated or damaged"),
    "a TIFF named PNG": (encode(IMAGES[0], "TIFF"), 400, "expected a whole PNG"),
    "too many bytes": (GOOD + bytes(2_000_000), 413, "expected at most 2,000,000 bytes"),
}


def ask(address, path="/embed", body=GOOD, content_type="image/png"):
    """Return (status, headers, answer); a body of None is a GET."""
    method = "GET" if body is None else "POST"
    headers = {"Content-Type": content_type} if content_type else {}
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.headers, json.loads(response.read())
    finally:
        connection.close()


def assert_refused(answered, status, words):
    """Check that an answer is a refusal with this status and these words in its sentence."""
    found_status, _, answer = answered
    assert found_status == status, answered
    assert list(answer) == ["error"], answered
    assert words in answer["error"], answered


@contextmanager
def served_here(some_bundle=None, patience=None, **limits):
    """The service in a thread of this process."""
    app = process.create_app(some_bundle or fake_bundle(), **limits)
    server = process._make_server(app, **(patience or {}))
    with process._listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def test_answers_on_a_kept_connection_do_not_wait_for_an_acknowledgment():
    with process._listen("127.0.0.1", 0) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        with client, accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.fixture(scope="module")
def here():
    with served_here() as address:
        yield address


def embed_as_onnx():
    """Return `embed` as the bytes of an ONNX file."""
    from onnx import TensorProto, helper, numpy_helper

    def tensor(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("AveragePool", ["images"], ["p"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["features"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        inputs=[tensor("images", ["n", 3, SIDE, SIDE])],
        outputs=[tensor("features", ["n", DIM])],
        initializer=[numpy_helper.from_array(WEIGHTS, "w")],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle on the disk, as `export` writes it; its network is `embed`."""
    from safetensors.numpy import save

    some = fake_bundle()
    index = save(
        dict(
            head_weight=some.weight,
            head_bias=some.bias,
            features=some.features.astype(np.float16),
            labels=some.labels.astype(np.int64),
            images=some.images,
        )
    )
    contents = dict.fromkeys(bundle.FILES, b"x")
    contents |= dict.fromkeys(bundle.MODELS.values(), embed_as_onnx())
    contents[bundle.INDEX] = index

    place = tmp_path_factory.mktemp("serve") / "bundle"
    place.mkdir()
    for name, content in contents.items():
        (place / name).write_bytes(content)
    manifest = dict(
        format=bundle.FORMAT,
        class_names=CLASS_NAMES,
        side=SIDE,
        feature_dim=DIM,
        card=some.card,
        files={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    )
    manifest["sha256"] = bundle.digest(manifest)
    (place / bundle.MANIFEST).write_text(json.dumps(manifest))
    return place


@pytest.fixture(scope="module")
def own_process(folder):
    """The address of the service in a process of its own."""
    with process.start(folder) as address:
        yield address


# --- decoding ---


@pytest.mark.parametrize("kind, options", [("PNG", {}), ("WEBP", {"lossless": True})])
def test_a_picture_of_the_right_size_comes_out_as_it_is(kind, options):
    content = encode(IMAGES[1], kind, **options)
    assert np.array_equal(decode.decode_image(content, SIDE), IMAGES[1])


def flat(mode, color):
    return Image.new(mode, (40, 40), color)


SIXTEEN = Image.fromarray(np.full((40, 40), 0x80FF, np.uint16))
PALETTE = Image.new("P", (40, 40), 1)
PALETTE.putpalette([0, 0, 0, 200, 100, 50])
RGB = flat("RGB", (9, 8, 7))
WHITE = (255, 255, 255)
MODES = {  # mode: an image of one color, that color on white
    "RGBA": (encode(flat("RGBA", (0, 0, 0, 0))), WHITE),
    "RGBA-half": (encode(flat("RGBA", (255, 0, 0, 128))), (255, 127, 127)),
    "LA": (encode(flat("LA", (0, 0))), WHITE),
    "L": (encode(flat("L", 77)), (77, 77, 77)),
    "1": (encode(flat("1", 1)), WHITE),
    "16-bit": (encode(SIXTEEN), (128, 128, 128)),
    "palette": (encode(PALETTE), (200, 100, 50)),
    "palette-tRNS": (encode(PALETTE, transparency=1), WHITE),
    "CMYK": (encode(flat("CMYK", (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
    "RGB-tRNS": (encode(RGB, transparency=(9, 8, 7)), WHITE),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_picture_becomes_rgb_on_white(mode):
    content, color = MODES[mode]
    image = decode.decode_image(content, SIDE)
    assert image.shape == (3, SIDE, SIDE)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - np.reshape(color, (3, 1, 1))).max() <= 3


def test_a_picture_lying_on_its_side_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    content = encode(IMAGES[2], exif=exif)
    upright = np.rot90(IMAGES[2], -1, axes=(1, 2))
    assert np.array_equal(decode.decode_image(content, SIDE), upright)


def test_the_central_square_is_taken_and_averaged():
    wide = np.zeros((3, 64, 192), np.uint8)
    wide[0] = 255
    wide[0, :, 64:128] = 0  # red on the left and on the right only
    wide[1, ::2, 64:128:2] = 255  # between them a chessboard of single pixels, green and black
    wide[1, 1::2, 65:128:2] = 255
    red, green, _ = decode.decode_image(encode(wide), SIDE)
    assert red[:, 1:-1].max() == 0  # the outermost columns mix in a little of their neighbors
    assert abs(green.mean() - 127.5) < 2
    assert green.std() < 20


def test_the_size_is_judged_before_anything_is_unpacked(monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("unpacked"))
    for content, words in ((BOMB, "too large"), (bomb(2001), "found 2001 x 2001 = 4,004,001")):
        with pytest.raises(decode.Refused, match=words) as refused:
            decode.decode_image(content, SIDE)
        assert refused.value.status == 413


# --- answers ---


def test_embed_answers_what_the_bundle_computes(here):
    status, _, answer = ask(here)
    assert status == 200
    assert answer["dimension"] == DIM
    assert np.array_equal(np.float32(answer["feature"]), embed(IMAGES[:1])[0])


def test_classify_answers_the_softmax_of_the_linear_head():
    some = fake_bundle()
    with served_here(some) as address:
        for image in IMAGES[:5]:
            _, _, answer = ask(address, "/classify", encode(image))
            logits = (some.weight @ embed(image[None])[0] + some.bias).astype(float)
            p = np.exp(logits) / np.exp(logits).sum()
            assert answer["class_name"] == CLASS_NAMES[p.argmax()]
            assert list(answer["probabilities"]) == list(CLASS_NAMES)
            assert np.allclose(list(answer["probabilities"].values()), p, atol=1e-5)
            assert p.max() < 0.99  # else the softmax would hardly be tested


def test_neighbors_are_the_nearest_by_cosine_the_nearest_first(here):
    some = fake_bundle()
    cosine = some.features @ some.features[3]
    order = np.argsort(-cosine)
    assert order[0] == 3
    for k in (1, 100, 25, 7):
        _, _, answer = ask(here, f"/neighbors?k={k}&pictures=true", encode(IMAGES[3]))
        assert [n["index"] for n in answer] == order[:k].tolist()
    assert np.allclose([n["cosine"] for n in answer], np.sort(cosine)[::-1][:7], atol=1e-5)
    assert [n["class_name"] for n in answer] == [CLASS_NAMES[n["index"] % 3] for n in answer]
    sent = base64.b64decode(answer[1]["picture"].removeprefix("data:image/png;base64,"))
    assert np.array_equal(decode.decode_image(sent, SIDE), IMAGES[answer[1]["index"]])


def test_without_parameters_there_are_five_neighbors_and_no_pictures(here):
    _, _, answer = ask(here, "/neighbors")
    assert len(answer) == 5
    assert "picture" not in answer[0]


def test_neighbors_are_put_in_order_by_us(monkeypatch):
    from replearn.serve.app import find_neighbors

    some = fake_bundle()
    argpartition = np.argpartition

    def in_the_worst_order(x, last):  # NumPy promises no order within the first `last`
        index = argpartition(x, last)
        first, rest = np.split(index, [last + 1])
        return np.concatenate([first[np.argsort(-x[first])], rest])

    monkeypatch.setattr(np, "argpartition", in_the_worst_order)
    neighbors = find_neighbors(some, some.features[3], 7)
    nearest = np.argsort(-(some.features @ some.features[3]))[:7]
    assert [n["index"] for n in neighbors] == nearest.tolist()


@pytest.mark.parametrize("k", ["0", "-1", "101", "many", "1.5", "", "9" * 30])
def test_a_number_of_neighbors_out_of_range_is_named(here, k):
    assert_refused(ask(here, f"/neighbors?k={k}"), 422, "k: ")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_picture_gets_a_sentence(here, name):
    content, status, words = HOSTILE[name]
    assert_refused(ask(here, "/classify", content), status, words)


def test_other_types_and_addresses_get_a_sentence(here):
    how_to_send = "found text/plain; send the bytes of the file as the body, not a form"
    assert_refused(ask(here, content_type="text/plain"), 415, how_to_send)
    assert_refused(ask(here, content_type=None), 415, "found none")
    assert_refused(ask(here, "/nothing"), 404, "/nothing")
    assert_refused(ask(here, body=None), 405, "GET /embed: Method Not Allowed")
    assert ask(here, content_type="IMAGE/PNG; charset=binary")[0] == 200


def test_health_counts_the_requests():
    with served_here(precision="fp32") as address:
        ask(address)
        ask(address, body=b"")
        _, _, answer = ask(address, "/health", None)
    assert 0 <= answer.pop("seconds_up") < 600
    assert answer == dict(
        status="ok", precision="fp32", network="small_cnn 4", requests=2, refused=0
    )


def test_an_error_inside_is_a_sentence_and_the_next_request_is_served():
    def broken_for_black(images):
        if images.max() == 0:
            raise RuntimeError("secret")
        return embed(images)

    with served_here(fake_bundle(embed=broken_for_black)) as address:
        black = encode(IMAGES[0] * 0)
        assert_refused(ask(address, body=black), 500, "its log says more")
        assert ask(address)[0] == 200


@pytest.mark.parametrize(
    "name, value",
    [("workers", 0), ("queue", -1), ("max_bytes", 0), ("body_seconds", float("nan"))],
)
def test_limits_that_are_none(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected a positive number, found {value}"):
        process.create_app(fake_bundle(), **{name: value})


# --- the description of the service ---


def test_openapi_has_an_example_of_every_answer(here):
    openapi = ask(here, "/openapi.json", None)[2]
    assert set(openapi["paths"]) == {"/embed", "/classify", "/neighbors", "/health"}
    for path in ("/embed", "/classify", "/neighbors"):
        post = openapi["paths"][path]["post"]
        refused = {str(status) for status in schemas.REFUSALS}
        if path != "/neighbors":
            refused.remove("422")  # no parameters
        assert set(post["responses"]) == {"200", *refused}
        assert set(post["requestBody"]["content"]) == set(schemas.IMAGE_TYPES)
        for status in refused:
            example = post["responses"][status]["content"]["application/json"]["example"]
            assert schemas.Problem(**example).error
    for name in ("Embedding", "Classification", "Neighbor", "Health"):
        example = openapi["components"]["schemas"][name]["example"]
        assert getattr(schemas, name)(**example)


def test_the_page_loads_nothing_from_elsewhere(here):
    with urllib.request.urlopen(here) as response:
        policy = response.headers["Content-Security-Policy"]
        html = response.read().decode()
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    assert script == demo.SCRIPT
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "https:" not in html
    assert "http:" not in html
    assert "src=" not in html.replace("<img id", "")


def test_the_page_says_what_openapi_says(here):
    with urllib.request.urlopen(here) as response:
        html = response.read().decode()
    assert "POST /neighbors" in html
    assert "&quot;class_name&quot;: &quot;star&quot;" in html
    for status in schemas.REFUSALS:
        assert str(status) in html
    assert "null" not in html  # an answer without an example
    assert 'lang="en"' in html
    assert '<label for="file">' in html


# --- bodies that do not end, and crowds ---


def send_raw(address, header, parts):
    """Send a POST in parts, as they are; return all that comes back."""
    host, port = address.removeprefix("http://").split(":")
    head = f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n{header}\r\n\r\n"
    received = b""
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode())
        try:
            for part in parts:
                connection.sendall(part)
            while piece := connection.recv(65536):
                received += piece
        except ConnectionError:
            pass
    return received.decode("latin-1")


def chunk(content):
    """Return bytes as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(content), content)


LAST_CHUNK = b"0\r\n\r\n"


def test_a_body_that_stalls_gets_a_408_and_makes_room_for_the_next():
    with served_here(body_seconds=0.2, workers=1, queue=0) as address:
        answer = send_raw(address, "Content-Length: 1000", [GOOD[:100]])
        assert answer.startswith("HTTP/1.1 408")
        assert "found 100 bytes" in answer
        assert "connection: close" in answer.lower()
        answer = send_raw(address, "Transfer-Encoding: chunked", [chunk(b"hello")])
        assert answer.startswith("HTTP/1.1 408")
        assert ask(address)[0] == 200


@pytest.mark.parametrize(
    "header, piece",
    [("Content-Length: 9999", b"x"), ("Transfer-Encoding: chunked", chunk(b"x"))],
)
def test_a_body_that_drips_is_cut_off_though_it_never_stalls(header, piece):
    dripped_to_its_end = []

    def drip():
        for _ in range(2000):  # 100 seconds or more
            time.sleep(0.05)
            yield piece
        dripped_to_its_end.append(True)

    with served_here(body_seconds=0.4, workers=1, queue=0) as address:
        send_raw(address, header, drip())
        assert not dripped_to_its_end
        assert ask(address)[0] == 200


def test_a_chunked_body_is_counted_as_it_comes():
    piece = chunk(bytes(1024))
    with served_here(max_bytes=10_000, body_seconds=3600) as address:
        header = "Transfer-Encoding: chunked\r\nConnection: close"
        answer = send_raw(address, header, [chunk(GOOD), LAST_CHUNK])
        assert answer.startswith("HTTP/1.1 200")

        # Too long, and read to its end before it is refused.
        answer = send_raw(address, "Transfer-Encoding: chunked", [piece] * 30 + [LAST_CHUNK])
        assert answer.startswith("HTTP/1.1 413")
        assert "found 30,720 or more" in answer

        # Without an end: cut off, or this call would never return.
        send_raw(address, "Transfer-Encoding: chunked", itertools.repeat(piece))
        assert ask(address)[0] == 200

        # Declared to be much too long: not waited for.
        answer = send_raw(address, f"Content-Length: {10**12}", [])
        assert answer.startswith("HTTP/1.1 413")
        assert ask(address, body=bytes(150_000))[0] == 413


def test_a_crowd_waits_or_is_told_to_come_back():
    workers, queue, requests = 2, 6, 30
    refused = requests - workers - queue
    everyone_is_here = threading.Event()
    all_work = threading.Event()  # before that, one of the decoding processes may still start
    lock = threading.Lock()
    working = 0
    most_working = 0
    seen = []

    def slow(images):
        nonlocal working, most_working
        with lock:
            working += 1
            most_working = max(most_working, working)
            if working == workers:
                all_work.set()
        all_work.wait(60)
        everyone_is_here.wait(60)
        time.sleep(0.01)
        with lock:
            working -= 1
        return embed(images)

    def ask_once(address):
        answered = ask(address)
        status, headers, _ = answered
        if status == 503:
            assert_refused(answered, 503, "busy: 2 pictures are being worked on and 6 wait")
        with lock:
            seen.append((status, headers["Retry-After"]))
            if len(seen) == refused:  # all others wait inside
                everyone_is_here.set()

    with served_here(fake_bundle(embed=slow), workers=workers, queue=queue) as address:
        with ThreadPoolExecutor(requests) as pool:
            list(pool.map(ask_once, [address] * requests))
        assert ask(address)[0] == 200
    assert seen == [(503, "1")] * refused + [(200, None)] * (workers + queue)
    assert most_working == workers


# --- connections that do nothing, and no descriptors left ---


def connect(address):
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def is_closed_by_the_other_side(connection, drip=b""):
    """Whether a connection, to which a byte now and then may be sent, is closed some day."""
    deadline = time.monotonic() + PATIENCE
    connection.settimeout(0.2)
    while time.monotonic() < deadline:
        try:
            if drip:
                connection.sendall(drip)
            if not connection.recv(100):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_a_connection_without_a_request_is_closed():
    with served_here(patience=dict(idle_seconds=1.0)) as address:
        with connect(address) as silent, connect(address) as drips, connect(address) as used:
            used.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert used.recv(1000).startswith(b"HTTP/1.1 200")
            drips.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
            assert is_closed_by_the_other_side(drips, b"x")  # a header that never ends
            assert is_closed_by_the_other_side(silent)
            assert is_closed_by_the_other_side(used, b"G")  # nor does that of a second request
        assert ask(address)[0] == 200


def test_a_request_that_takes_too_long_is_cut_off():
    slow = threading.Event()

    def waits(images):
        slow.wait(PATIENCE)
        return embed(images)

    some = fake_bundle(embed=waits)
    with served_here(some, patience=dict(request_seconds=1.0), workers=1) as address:
        with connect(address) as connection:
            head = "POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            head += f"Content-Length: {len(GOOD)}\r\n\r\n"
            connection.sendall(head.encode() + GOOD)
            assert is_closed_by_the_other_side(connection)
        slow.set()


FLOOD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), 4096))
from replearn.__main__ import main
main(sys.argv[2:])
"""


@pytest.mark.skipif(os.name == "nt", reason="needs a limit of open files")
@pytest.mark.parametrize("limit", [256, 72])
def test_a_flood_of_silent_connections_leaves_health_and_a_short_log(folder, tmp_path, limit):
    """With 256 descriptors silent connections make room; with 72 the descriptors do run out."""
    command = [sys.executable, "-c", FLOOD, str(limit), "serve", str(folder), "--port", "0"]
    log = tmp_path / "log.txt"
    with open(log, "wb") as output:
        service = subprocess.Popen(
            [*command, "--until-stdin-closes"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    silent = []
    try:
        address = process._wait_for_address(service, log, time.monotonic() + 300).rstrip("/")
        for _ in range(400):
            silent.append(connect(address))
        began = time.monotonic()
        while limit < 100 and time.monotonic() - began < 2:
            time.sleep(0.1)  # as long as the descriptors are gone
        statuses = []
        for _ in range(20):
            status, _, answer = ask(address, "/health", None)
            statuses.append((status, answer["status"]))
        assert statuses == [(200, "ok")] * 20
        assert ask(address)[0] == 200
    finally:
        for connection in silent:
            connection.close()
        service.stdin.close()
        service.wait(60)
    text = log.read_text()
    assert len(text) < 3000, text[:2000]
    assert "Traceback" not in text
    if limit > 100:
        assert text.count("connections at a time") <= 2
    else:
        assert text.count("no new connection could be accepted") <= 2


def test_the_log_says_a_thing_once_a_minute():
    from replearn.serve.connections import OnceAMinute

    once = OnceAMinute(seconds=0.2)

    def record(text, *arguments):
        return logging.LogRecord("x", logging.WARNING, "x", 1, text, arguments, None)

    passed = [once.filter(record("bad request %d", i)) for i in range(5)]
    assert passed == [True, False, False, False, False]
    assert once.filter(record("another"))
    time.sleep(0.25)
    later = record("bad request %d", 9)
    assert once.filter(later)
    assert later.getMessage() == "bad request 9 (4 times more since it was last said)"


def test_the_size_limit_is_an_option_and_its_refusal_says_so(folder, capsys):
    with served_here(max_bytes=100) as address:
        assert_refused(ask(address), 413, "or start the service with larger --max-bytes")
    for option, value in (("--max-bytes", "0"), ("--max-pixels", "-1")):
        with pytest.raises(SystemExit, match="2"):
            main(["serve", str(folder), option, value])
        sentence = f"argument {option}: expected a whole number of 1 or more, found '{value}'"
        assert sentence in capsys.readouterr().err


# --- in a process of its own ---


def test_the_process_answers_as_the_bundle_does(own_process, folder):
    opened = bundle.open_bundle(folder)
    feature = np.float32(ask(own_process)[2]["feature"])
    assert np.array_equal(feature, opened.embed(IMAGES[:1])[0])
    assert ask(own_process, "/health", None)[2]["precision"] == "int8"
    assert ask(own_process, "/classify", encode(IMAGES[5]))[2]["class_name"] in CLASS_NAMES


def test_the_service_does_not_load_torch(tmp_path):
    modules = "import sys\nfrom replearn.serve import app, bundle, process\n"
    command = (  # it ends at once: there is no bundle in this folder
        "import sys\nfrom replearn.__main__ import main\n"
        f"try: main(['serve', {str(tmp_path)!r}])\nexcept SystemExit: pass\n"
    )
    for code in (modules, command):
        code += "print('torch' in sys.modules)"
        printed = subprocess.check_output([sys.executable, "-c", code], text=True)
        assert printed.strip() == "False"


def test_hostile_pictures_leave_the_process_up_and_its_memory_flat(folder):
    psutil = pytest.importorskip("psutil")
    before = {child.pid for child in psutil.Process().children()}
    with process.start(folder) as address:
        (service,) = [p for p in psutil.Process().children() if p.pid not in before]

        def send(name):
            content, status, _ = HOSTILE[name]
            answered = ask(address, "/classify", content)
            assert answered[0] == status, (name, answered)

        def send_all(rounds):
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(send, list(HOSTILE) * rounds))

        send_all(4)  # to warm up
        start = service.memory_info().rss
        send_all(-(-300 // len(HOSTILE)))
        assert ask(address)[0] == 200
        assert service.memory_info().rss - start < 20e6
    assert not service.is_running()


def test_the_service_dies_with_whoever_started_it(folder):
    code = f"""
import time
from replearn.serve import start
with start({str(folder)!r}, seconds=300) as address:
    print(address, flush=True)
    time.sleep(99)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        address = parent.stdout.readline().strip()
        assert ask(address)[0] == 200
        parent.kill()
    deadline = time.monotonic() + 30
    with pytest.raises(OSError):
        while time.monotonic() < deadline:
            ask(address)
            time.sleep(0.1)


def test_a_service_that_cannot_start_says_why(tmp_path):
    refusal = r"exit code 1: .*expected a bundle"
    with pytest.raises(ValueError, match=refusal), process.start(tmp_path):
        pass
    with pytest.raises(SystemExit, match=r"error: .*expected a bundle"):
        main(["serve", str(tmp_path)])


def test_a_port_that_is_taken_or_none_is_named(own_process):
    taken = int(own_process.rsplit(":", 1)[1])
    for port in (taken, 70_000):
        with pytest.raises(OSError, match=f"port {port}: cannot listen there"):
            process._listen("127.0.0.1", port)


def test_time_runs_out_with_a_sentence(folder):
    refusal = "did not answer in time"
    with pytest.raises(TimeoutError, match=refusal), process.start(folder, seconds=0):
        pass


def test_serving_without_its_packages_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "replearn.serve.app")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ValueError, match=r'pip install "replearn\[serve\]"'):
        process.create_app(fake_bundle())


def heed_ctrl_c():
    """A shell makes what it starts in the background ignore Ctrl-C; children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_it_quietly(folder):
    command = [sys.executable, "-m", "replearn", "serve", str(folder)]
    command += ["--port", "0", "--precision", "fp32"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    ) as service:
        address = re.search(r"at (http://\S+)/;", service.stdout.readline())[1]
        assert ask(address)[0] == 200  # it listens already, and answers once it runs
        service.send_signal(signal.SIGINT)
        out, err = service.communicate(timeout=30)
    assert service.returncode == 0
    assert out == "stopped\n"
    assert err == ""
