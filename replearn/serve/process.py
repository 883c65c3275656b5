"""A trained encoder as a service: images in; features, classes and nearest neighbors out.

`create_app` makes the application from a bundle, `start` runs it in a process of its own and stops
it again, `serve` (`python -m replearn serve FOLDER`) runs it until Ctrl-C. There is no PyTorch in
the process of the service.

The service is for one machine or a trusted network: it has no accounts and no TLS. Put a reverse
proxy that brings these in front of anything public.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from replearn.serve import children

if TYPE_CHECKING:
    from fastapi import FastAPI
    from uvicorn import Server

    from replearn.serve.bundle import Bundle

MISSING = 'serving needs fastapi, uvicorn and onnxruntime: pip install "replearn[serve]"'
STANDARD_INPUT = 0  # its file descriptor
IDLE_SECONDS = 10.0  # for the header of a request to arrive
REQUEST_SECONDS = 60.0  # for a request in all, its answer included


def create_app(bundle: Bundle, *, precision: str | None = None, **limits: float) -> FastAPI:
    """Return a FastAPI application for a bundle.

    Its routes are /embed, /classify and /neighbors, which take an image, /health, and / with a page
    to try it. Every refusal is {"error": sentence}.

    Args:
        bundle: From `open_bundle`.
        precision: What is shown as the form of the encoder; None for that of the bundle.
        **limits: Of `replearn.serve.app.Limits`. `max_bytes` (2,000,000) and `max_pixels`
            (4,000,000) of an image; `workers` (2) images are worked on at a time and `queue` (16)
            wait, all others get a 503 with Retry-After; `body_seconds` (10) for a body to arrive,
            `decode_seconds` (2) for an image to be decoded.

    Returns:
        The application, ready for any ASGI server.

    Raises:
        ValueError: A limit is not a positive number, or fastapi is not installed.
    """
    try:
        from replearn.serve.app import Limits, build
    except ImportError as error:
        raise ValueError(f"{MISSING} ({error})") from error
    return build(bundle, precision or bundle.precision, Limits(**limits))


@contextmanager
def start(
    folder: str | Path, *, port: int = 0, precision: str | None = None, seconds: float = 60.0
) -> Iterator[str]:
    """Run the service of a bundle in a process of its own while the block runs.

    The service also ends when this process does, however that ends::

        with start("runs/shapes/bundle") as address:
            print(urllib.request.urlopen(f"{address}/health").read())

    Args:
        folder: The bundle.
        port: Where it listens; 0 is any free port.
        precision: "int8" or "fp32"; None for what the bundle says.
        seconds: How long to wait for the first answer.

    Yields:
        The address, such as http://127.0.0.1:41234.

    Raises:
        ValueError: The service ended instead; the message has its last words.
        TimeoutError: It did not answer in time.
    """
    command = [sys.executable, "-m", "replearn", "serve", str(folder)]
    command += ["--port", str(port), "--until-stdin-closes"]
    if precision:
        command += ["--precision", precision]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as log_folder:
        log = Path(log_folder) / "log.txt"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=children.environment(),
                **children.own_process_group(),
            )
        try:
            yield _wait_for_address(process, log, time.monotonic() + seconds)
        finally:
            _stop(process)


def serve(
    folder: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    precision: str | None = None,
    workers: int = 2,
    queue: int = 16,
    max_bytes: int = 2_000_000,
    max_pixels: int = 4_000_000,
    decode_seconds: float = 2.0,
    until_stdin_closes: bool = False,
) -> None:
    """Run the service of a bundle in this process until Ctrl-C.

    Args:
        folder: The bundle.
        host: The address to listen at; "0.0.0.0" is the whole network.
        port: The port to listen at; 0 is any free one.
        precision: "int8" or "fp32"; None for what the bundle says.
        workers: Images that are worked on at a time, a thread each.
        queue: Requests that may wait; all others get a 503.
        max_bytes: Of the file of an image; more get a 413.
        max_pixels: Of an image, by its header; more get a 413.
        decode_seconds: For decoding an image; what takes longer is ended and gets a 413.
        until_stdin_closes: Also end when standard input does.

    Raises:
        ValueError: The bundle cannot be opened, a limit is not a positive number, or a package is
            not installed.
        OSError: It cannot listen there.
    """
    try:
        import uvicorn  # noqa: F401  (before the work: _make_server needs it)

        from replearn.serve.bundle import default_precision, open_bundle, read_manifest
    except ImportError as error:
        raise ValueError(f"{MISSING} ({error})") from error
    bundle = open_bundle(folder, precision=precision)
    app = create_app(
        bundle,
        workers=workers,
        queue=queue,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        decode_seconds=decode_seconds,
    )
    with _listen(host, port) as listener:
        server = _make_server(app)
        if until_stdin_closes:
            _end_with_stdin(server)
        # `start` reads this line from the log.
        if precision is None:
            chosen, reason = default_precision(
                read_manifest(Path(folder).expanduser()).get("measured")
            )
            print(f"form: {chosen} ({reason})", flush=True)
        print(f"{folder} ({bundle.precision}) at {_url(listener)}; Ctrl-C stops it", flush=True)
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            print("stopped", flush=True)


def _wait_for_address(process: subprocess.Popen, log: Path, deadline: float) -> str:
    """Wait until the service has printed its address and answers there."""
    no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        # First whether it has ended, then the log: then nothing can be missing from the log.
        has_ended = process.poll() is not None
        printed = log.read_text("utf-8", "replace")
        if has_ended:
            lines = printed.strip().splitlines() or ["it said nothing"]
            last_words = lines[-1].removeprefix("error: ")
            raise ValueError(f"the service ended, exit code {process.returncode}: {last_words}")
        match = re.search(r"at (http://\S+)/;", printed)
        if match:
            address = match[1]
            try:
                no_proxy.open(f"{address}/health", timeout=5).close()
                return address
            except OSError:
                pass  # it listens, but does not answer yet
        time.sleep(0.05)
    raise TimeoutError(
        "the service did not answer in time: give it more seconds=, or see what "
        "`python -m replearn serve FOLDER` says"
    )


def _stop(process: subprocess.Popen) -> None:
    process.stdin.close()  # which ends the service: see _end_with_stdin
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_with_stdin(server: Server) -> None:
    """Stop the server once standard input ends: whoever started us has closed it, or is dead."""

    def watch():
        while os.read(STANDARD_INPUT, 1024):
            pass
        server.should_exit = True
        time.sleep(8)
        os._exit(1)  # it should have ended by now, so something hangs

    threading.Thread(target=watch, daemon=True).start()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
        # asyncio does not set this for a socket that it is given, and then every answer on a kept
        # connection would wait 40 ms for an acknowledgment.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"{host}, port {port}: cannot listen there ({reason}); choose another --port or --host"
        ) from None


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}/"


def _make_server(
    app: FastAPI, *, idle_seconds: float = IDLE_SECONDS, request_seconds: float = REQUEST_SECONDS
) -> Server:
    from replearn.serve.connections import make_server

    return make_server(app, idle_seconds=idle_seconds, request_seconds=request_seconds)
