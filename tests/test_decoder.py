"""Decoding in a process of its own: the same pixels, and an end to whatever takes too long."""

import gc
import os
import signal
import threading
import time

import numpy as np
import pytest
from PIL import Image
from test_serve import GOOD, HOSTILE, IMAGES, JPEG, MODES, SIDE, WEBP, encode

from replearn.serve import decoder as module
from replearn.serve.decode import Refused, decode_image
from replearn.serve.decoder import Decoder, DecoderPool

MAX_PIXELS = 4_000_000
PATIENCE = 120.0  # seconds for what takes milliseconds: no machine is that slow


@pytest.fixture(scope="module")
def decoder():
    one = Decoder(SIDE, MAX_PIXELS, PATIENCE)
    yield one
    one.end()


@pytest.fixture(scope="module")
def endless():
    """A picture that takes many seconds, within the limits of those who ask for it."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 3000, 3000), np.uint8)
    honest = encode(noise, "JPEG", progressive=True)
    last_scan = honest[honest.rindex(b"\xff\xda") : -2]
    return honest[:-2] + 50 * last_scan + honest[-2:]


def test_the_pixels_are_those_of_the_function(decoder):
    for content in (GOOD, JPEG, WEBP, *(content for content, _ in MODES.values())):
        assert np.array_equal(decoder.decode(content), decode_image(content, SIDE))


@pytest.mark.parametrize("name", HOSTILE)
def test_the_refusals_are_those_of_the_function(decoder, name):
    content = HOSTILE[name][0]
    if name == "too many bytes":  # which the length of the body says before
        return
    with pytest.raises(Refused) as expected:
        decode_image(content, SIDE)
    with pytest.raises(Refused) as found:
        decoder.decode(content)
    assert (found.value.status, str(found.value)) == (expected.value.status, str(expected.value))


def test_a_picture_larger_than_a_pipe_comes_through(decoder):
    noise = np.random.default_rng(0).integers(0, 256, (3, 700, 700), np.uint8)
    content = encode(noise)
    assert len(content) > 1_000_000
    assert np.array_equal(decoder.decode(content), decode_image(content, SIDE))


def watched(workers=1, seconds=1.0, max_pixels=10**8):
    pool = DecoderPool(workers, SIDE, max_pixels, seconds)
    return pool, pool._idle[-1]


def test_a_picture_that_takes_too_long_is_ended_and_the_next_is_decoded(endless):
    pool, decoder = watched()
    for _ in range(2):
        before = decoder._process
        with pytest.raises(Refused, match="within 1 s, found that it takes longer") as refused:
            pool.decode(endless)
        assert refused.value.status == 413
        assert before.returncode is not None
        decoder._seconds = PATIENCE
        assert np.array_equal(pool.decode(GOOD), decode_image(GOOD, SIDE))
        decoder._seconds = 1.0


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_process_that_hangs_is_ended():
    pool, decoder = watched()
    decoder._seconds = PATIENCE
    pool.decode(GOOD)
    decoder._seconds = 0.5
    os.kill(decoder._process.pid, signal.SIGSTOP)
    with pytest.raises(Refused, match="takes too long"):
        pool.decode(GOOD)
    decoder._seconds = PATIENCE
    assert pool.decode(GOOD).shape == (3, SIDE, SIDE)


def test_the_others_are_decoded_meanwhile(endless):
    pool, _ = watched(workers=2, seconds=PATIENCE)
    stopped = threading.Event()

    def attack():
        with pytest.raises(Refused):
            pool.decode(endless)
        stopped.set()

    attacker = threading.Thread(target=attack)
    attacker.start()
    while len(pool._idle) == 2:
        time.sleep(0.01)
    (idle,) = pool._idle
    (busy,) = (one for one in gc.get_objects() if type(one) is Decoder and _is_busy(one, pool))
    for _ in range(20):
        assert pool.decode(GOOD).shape == (3, SIDE, SIDE)
    assert not stopped.is_set()
    busy._process.kill()
    attacker.join(60)
    assert stopped.is_set() and idle is not busy


def _is_busy(one, pool):
    return one._deadline is not None and one not in pool._idle


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_process_that_breaks_down_is_a_damaged_picture_or_nothing(decoder):
    decoder.decode(GOOD)
    decoder._process.kill()
    decoder._process.wait()
    assert decoder.decode(GOOD).shape == (3, SIDE, SIDE)  # it had ended between two pictures
    os.kill(decoder._process.pid, signal.SIGSTOP)
    threading.Timer(0.2, decoder._process.kill).start()
    with pytest.raises(Refused, match="broken down") as refused:
        decoder.decode(GOOD)
    assert refused.value.status == 400
    assert decoder.decode(GOOD).shape == (3, SIDE, SIDE)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the limit is for Linux")
def test_a_picture_that_takes_too_much_memory_is_refused():
    small = Decoder(SIDE, MAX_PIXELS, PATIENCE, bytes_of_memory=6_000_000)
    with pytest.raises(Refused, match="fits into the memory") as refused:
        small.decode(encode(Image.new("RGBA", (1900, 1900))))
    assert refused.value.status == 413
    assert small.decode(GOOD).shape == (3, SIDE, SIDE)
    small.end()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        module.ANSWER.pack(200, 10**9),
        module.ANSWER.pack(200, 5) + b"hello",
        module.ANSWER.pack(200, 3 * SIDE**2) + b"too short",
        module.ANSWER.pack(413, 10**9),
        module.ANSWER.pack(200, 0),
        module.ANSWER.pack(999, 2) + b"ok",
    ],
)
def test_what_a_broken_decoder_says_is_not_believed(monkeypatch, answer):
    program = (
        "import os, sys, time\n"
        f"os.write(1, {module.READY!r})\n"
        "os.read(0, 4)\n"
        f"os.write(1, {answer!r})\n"
    )
    start = module.subprocess.Popen

    def start_another(command, **options):
        return start([command[0], "-c", program], **options)

    monkeypatch.setattr(module.subprocess, "Popen", start_another)
    broken = Decoder(SIDE, MAX_PIXELS, PATIENCE)
    with pytest.raises(Refused, match="broken down"):
        broken.decode(GOOD)
    broken.end()


def test_without_processes_a_503_until_there_are_some(monkeypatch):
    decoder = Decoder(SIDE, MAX_PIXELS, PATIENCE)
    monkeypatch.setattr(module.sys, "executable", "/nothing/here")
    with pytest.raises(Refused, match="no process could be started") as refused:
        decoder.decode(GOOD)
    assert refused.value.status == 503
    monkeypatch.setattr(module.sys, "executable", "/bin/false" if os.name != "nt" else "where")
    with pytest.raises(Refused, match="it ended at once"):
        decoder.decode(GOOD)
    monkeypatch.undo()
    assert decoder.decode(GOOD).shape == (3, SIDE, SIDE)
    decoder.end()


def test_processes_end_with_whoever_started_them():
    pool, decoder = watched(seconds=PATIENCE)
    process = decoder._process
    pool.decode(GOOD)
    watcher = next(one for one in threading.enumerate() if one.name == "decoders")
    before = {one for one in threading.enumerate() if one.name == "decoders"}
    assert watcher in before
    del pool, decoder
    gc.collect()
    process.wait(60)


def test_images_do_not_change_each_other(decoder):
    for image in IMAGES[:20]:
        assert np.array_equal(decoder.decode(encode(image)), image)
