"""Traffic for the service: images, whole and damaged, and clients that ask without a pause.

benchmarks/serve.py and the soak test (tests/test_soak_slow.py) use it. It imports nothing from its
own folder, so that tests can import it as `benchmarks.traffic`.
"""

import http.client
import io
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch


def encoded(image: torch.Tensor, kind: str, **settings: Any) -> bytes:
    """Return an image uint8 (3, H, W) as the bytes of a file; kind: "PNG", "JPEG" or "WEBP"."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.numpy().transpose(1, 2, 0)).save(file, kind, **settings)
    return file.getvalue()


def damaged(content: bytes, random_source: random.Random) -> bytes:
    """Change some bytes of a file, and perhaps cut some out of it, or cut it off."""
    changed = bytearray(content)
    for _ in range(random_source.choice((1, 3, 30))):
        changed[random_source.randrange(len(changed))] = random_source.randrange(256)
    start, end = sorted(random_source.randrange(len(changed)) for _ in range(2))
    cut_off = changed[:start]
    cut_out = changed[:start] + changed[end:]
    return bytes(random_source.choice((changed, cut_off, cut_out)))


def connect(address: str) -> http.client.HTTPConnection:
    """Return a connection to a service at "http://host:port"."""
    return http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)


def status_of(
    connection: http.client.HTTPConnection, path: str, body: bytes, content_type: str
) -> int:
    """Send one request, read the answer, return its status."""
    connection.request("POST", path, body, {"Content-Type": content_type})
    answer = connection.getresponse()
    answer.read()
    return answer.status


class Answer(NamedTuple):
    """What a client notes."""

    status: int
    milliseconds: float  # from the first byte sent to the last one read


def client(
    address: str,
    bodies: Sequence[bytes],
    stop: threading.Event,
    seed: int,
    answers: list[Answer],
) -> None:
    """Ask /classify until `stop`, again as soon as there is an answer; append what came."""
    random_source = random.Random(seed)
    connection = connect(address)
    while not stop.is_set():
        body = random_source.choice(bodies)
        begin = time.perf_counter()
        status = status_of(connection, "/classify", body, "image/png")
        answers.append(Answer(status, 1e3 * (time.perf_counter() - begin)))
    connection.close()


def load(address: str, bodies: Sequence[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """Let clients ask at once for so many seconds; return what they measure together.

    Returns:
        Requests, statuses, requests a second, and of the answers with status 200 the 50th, 95th and
        99th percentile and the largest of the milliseconds.
    """
    stop = threading.Event()
    answers_by_client: list[list[Answer]] = [[] for _ in range(clients)]
    threads = []
    for seed, answers_of_one in enumerate(answers_by_client):
        arguments = (address, bodies, stop, seed, answers_of_one)
        threads.append(threading.Thread(target=client, args=arguments))
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begin

    answers = [answer for answers_of_one in answers_by_client for answer in answers_of_one]
    times = sorted(answer.milliseconds for answer in answers if answer.status == 200)
    summary = {
        "clients": clients,
        "seconds": round(elapsed, 1),
        "requests": len(answers),
        "statuses": dict(Counter(answer.status for answer in answers)),
        "requests_a_second": round(len(answers) / elapsed, 1),
    }
    for percent in (50, 95, 99):
        place = min(len(times) - 1, len(times) * percent // 100)
        summary[f"p{percent}_ms"] = round(times[place], 2)
    summary["max_ms"] = round(times[-1], 2)
    return summary
