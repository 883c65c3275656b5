"""Decoding in processes that can be ended.

What a picture costs is counted before it is decoded (`replearn.image_file`), as far as we know how.
Decoders are large programs, and somebody will find a file that keeps one busy in a way that nobody
counts, or that makes it crash. So each worker of the service has a process of its own for decoding,
with a limit on its memory. One that overruns its seconds is ended, and a new one takes its place.

The two talk through pipes, and the service believes nothing it is told there without a look at it:
whoever has broken a decoder may speak in its place.

    request: 4 bytes with the length, the file
    answer: 4 bytes with the status, 4 bytes with the length, the pixels or a sentence

A status of 200 goes with pixels, uint8 (3, side, side), any other one with a sentence in UTF-8.
"""

import contextlib
import os
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from typing import BinaryIO

import numpy as np

from replearn.serve import children
from replearn.serve.decode import Refused, decode_image

START_SECONDS = 60.0  # that a new process may take until it is ready; usually a fifth of a second
BYTES_A_PIXEL = 64  # of memory while one is decoded, with several copies of it
BYTES_BESIDE = 128_000_000
LONGEST_SENTENCE = 4000  # bytes
REFUSALS = (400, 413)  # what `decode_image` refuses with
READY = b"ready"
REQUEST = struct.Struct("<I")
ANSWER = struct.Struct("<II")


class Decoder:
    """One process that decodes, one image after the other; it is started anew where it has ended.

    Args:
        side: Height and width of the results, in pixels.
        max_pixels: Of an image, by its header.
        seconds: For one image.
        bytes_of_memory: That decoding may take; None for what `max_pixels` need.
    """

    def __init__(
        self, side: int, max_pixels: int, seconds: float, *, bytes_of_memory: int | None = None
    ):
        if bytes_of_memory is None:
            bytes_of_memory = max_pixels * BYTES_A_PIXEL + BYTES_BESIDE
        self._arguments = [str(side), str(max_pixels), str(bytes_of_memory)]
        self._side = side
        self._seconds = seconds
        self._process: subprocess.Popen | None = None
        self._is_ready = False
        self._deadline: float | None = None  # of what it is doing, by time.monotonic
        self._overran = False
        self._lock = threading.Lock()  # of the two above

    def start(self) -> None:
        """Start the process, and do not wait until it is ready.

        Raises:
            OSError: The system starts no more processes, or has no descriptors.
        """
        self._is_ready = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "replearn.serve.decoder", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what a library says of a picture is not for our log
            bufsize=0,
            env=children.environment(),
            **children.own_process_group(),
        )
        # However the decoder goes: when it is collected, or when this process ends.
        self._end = weakref.finalize(self, _end, self._process)

    def decode(self, content: bytes) -> np.ndarray:
        """Decode an image as `replearn.serve.decode.decode_image` does.

        Args:
            content: The bytes of the file.

        Returns:
            RGB, uint8 (3, side, side).

        Raises:
            Refused: As `decode_image` does; also with status 413 if it takes too long or too much
                memory, 400 if the process breaks, and 503 if there is no process.
        """
        try:
            self._make_ready()
        except OSError as error:
            self.end()
            raise Refused(
                503,
                f"no process could be started that decodes pictures ({error.strerror or error}); "
                "try again in a second",
            ) from error
        try:
            with self._at_most(self._seconds):
                _write(self._process.stdin, REQUEST.pack(len(content)) + content)
                status, length = ANSWER.unpack(_read(self._process.stdout, ANSWER.size))
                is_image = status == 200
                if not self._is_answer(status, length):
                    raise EOFError(f"no answer: status {status}, {length} bytes")
                answer = _read(self._process.stdout, length)
        except (OSError, EOFError) as error:
            raise self._refusal() from error
        if not is_image:
            raise Refused(status, answer.decode("utf-8", "replace"))
        return np.frombuffer(answer, np.uint8).reshape(3, self._side, self._side)

    def end_if_late(self, now: float) -> None:
        """End the process if it overruns; called by another thread than `decode`.

        Args:
            now: By `time.monotonic`.
        """
        with self._lock:
            if self._deadline is not None and now > self._deadline:
                self._overran = True
                self._process.kill()

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._end()
            self._process = None

    def _make_ready(self) -> None:
        """Have a process that waits for a request."""
        if self._process is None or self._process.poll() is not None:
            self.end()
            self.start()
        if self._is_ready:
            return
        try:
            with self._at_most(START_SECONDS):
                said = _read(self._process.stdout, len(READY))
        except EOFError:
            said = b""
        if said != READY:
            raise OSError("it ended at once")
        self._is_ready = True

    @contextlib.contextmanager
    def _at_most(self, seconds: float):
        """Let another thread end the process if the block takes too long."""
        self._overran = False
        self._deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            with self._lock:
                self._deadline = None

    def _is_answer(self, status: int, length: int) -> bool:
        if status == 200:
            return length == 3 * self._side**2
        return status in REFUSALS and length <= LONGEST_SENTENCE

    def _refusal(self) -> Refused:
        """Return why the process has not answered; it is ended, and a new one is started."""
        overran = self._overran
        self.end()
        with contextlib.suppress(OSError):  # then the next picture tries again
            self.start()
        if overran:
            return Refused(
                413,
                f"the picture takes too long: expected to decode it within {self._seconds:g} s, "
                "found that it takes longer, and stopped; send a smaller one, saved anew as a "
                "plain PNG or JPEG, or start the service with larger --decode-seconds",
            )
        return Refused(
            400,
            "the picture is damaged: the process that decoded it has broken down; send it saved "
            "anew as a plain PNG or JPEG",
        )


class DecoderPool:
    """A process for each of the service's workers, and a thread that ends those that overrun.

    Args:
        workers: How many images are decoded at a time.
        side: Height and width of the results, in pixels.
        max_pixels: Of an image, by its header.
        seconds: For one image.

    Raises:
        OSError: The system starts no more processes, or has no descriptors.
    """

    def __init__(self, workers: int, side: int, max_pixels: int, seconds: float):
        decoders = [Decoder(side, max_pixels, seconds) for _ in range(workers)]
        for decoder in decoders:
            decoder.start()
        self._idle = deque(decoders)
        closed = threading.Event()
        threading.Thread(
            target=_watch, args=(decoders, seconds / 8, closed), daemon=True, name="decoders"
        ).start()
        weakref.finalize(self, closed.set)

    def decode(self, content: bytes) -> np.ndarray:
        """Decode an image in the process that was busy last; see `Decoder.decode`.

        Args:
            content: The bytes of the file.

        Returns:
            RGB, uint8 (3, side, side).

        Raises:
            Refused: As `Decoder.decode`.
        """
        decoder = self._idle.pop()  # never empty: no more threads than decoders call this
        try:
            return decoder.decode(content)
        finally:
            self._idle.append(decoder)


def _watch(decoders: list[Decoder], interval: float, closed: threading.Event) -> None:
    while not closed.wait(interval):
        for decoder in decoders:
            decoder.end_if_late(time.monotonic())


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.stdin.close()
    process.stdout.close()
    process.wait()


# --- in the process -------------------------------------------------------------------------------


def answer_requests(side: int, max_pixels: int, bytes_of_memory: int) -> None:
    """Decode one image after the other until standard input ends.

    Args:
        side: Height and width of the results, in pixels.
        max_pixels: Of an image, by its header.
        bytes_of_memory: Beyond what the process has now.
    """
    # A library that prints would disturb the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    requests = os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)
    _load_decoders()
    _limit_memory(bytes_of_memory)
    _write(answers, READY)
    while True:
        try:
            (length,) = REQUEST.unpack(_read(requests, REQUEST.size))
            content = _read(requests, length)
        except EOFError:
            return
        try:
            image = decode_image(content, side, max_pixels=max_pixels)
            _write(answers, ANSWER.pack(200, image.nbytes) + image.tobytes())
        except Refused as error:
            sentence = str(error).encode("utf-8", "replace")[:LONGEST_SENTENCE]
            _write(answers, ANSWER.pack(error.status, len(sentence)) + sentence)


def _load_decoders() -> None:
    """Load what Pillow loads with its first image, so that the limit is for images alone."""
    from PIL import Image

    Image.preinit()
    Image.init()


def _limit_memory(bytes_of_memory: int) -> None:
    """Limit the memory of this process, where the system can: on Linux."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[0])
        limit = pages * resource.getpagesize() + bytes_of_memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):
        return


def _read(stream: BinaryIO, length: int) -> bytes:
    """Read so many bytes from a pipe."""
    content = bytearray()
    while len(content) < length:
        piece = stream.read(min(length - len(content), 1 << 20))
        if not piece:
            raise EOFError(f"expected {length} bytes, found {len(content)}")
        content += piece
    return bytes(content)


def _write(stream: BinaryIO, content: bytes) -> None:
    """Write all bytes to a pipe, which takes a part at a time."""
    view = memoryview(content)
    while view:
        view = view[stream.write(view) :]


if __name__ == "__main__":
    answer_requests(*map(int, sys.argv[1:]))
