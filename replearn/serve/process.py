"""A trained encoder as a service: pictures in; features, classes and nearest neighbors out. No PyTorch in its process.

`create_app` makes it from a bundle, `start` runs it in a process of its own and stops it again, and
`python -m replearn serve FOLDER` runs it until Ctrl-C. For one machine or a trusted network: it has no accounts,
no TLS and no limit on idle connections; put a reverse proxy that brings them in front of anything public.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

MISSING = 'serving needs fastapi, uvicorn and onnxruntime: pip install "replearn[serve]"'


def create_app(bundle, *, precision="int8", **limits):
    """Return a FastAPI app for a bundle: /embed, /classify, /neighbours, /health, and at / a page to try it.

    bundle: from `open_bundle`. limits, of `replearn.serve.app.Desk`: max_bytes=2_000_000 and max_pixels=4_000_000 of
    a picture; workers=2 pictures are worked on at a time and queue=16 wait, all others get a 503 with Retry-After;
    body_seconds=10 for a body to arrive. Every refusal is {"error": sentence}.
    Raises ValueError for a limit that is none, or if fastapi is not installed."""
    try:
        from replearn.serve.app import build
    except ImportError as error:
        raise ValueError(f"{MISSING} ({error})") from error
    return build(bundle, precision, **limits)


@contextmanager
def start(folder, *, port=0, precision="int8", seconds=60.0):
    """Run the service of a bundle in a process of its own: `with start(folder) as address: …`; then it is stopped.

    port 0: any free one. It also ends when this process does, however that ends.
    Raises ValueError if the service ends instead, with its words; TimeoutError if /health is not there in `seconds`."""
    command = [
        sys.executable,
        "-m",
        "replearn",
        "serve",
        str(folder),
        "--port",
        str(port),
        "--precision",
        precision,
        "--until-stdin-closes",
    ]
    where = os.pathsep.join(
        [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    environment = os.environ | dict(
        PYTHONPATH=where, PYTHONUTF8="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"
    )
    # Out of the reach of a Ctrl-C, or of the notebook's stop button, that is meant for this process.
    apart = (
        dict(creationflags=subprocess.CREATE_NEW_PROCESS_GROUP)
        if os.name == "nt"
        else dict(start_new_session=True)
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        log = Path(place) / "log.txt"
        with open(log, "wb") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
                **apart,
            )
        try:
            yield _address(process, log, time.monotonic() + seconds)
        finally:
            _stop(process)


def _address(process, log, deadline):
    """Wait until the service has said its address and answers there."""
    ask = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    ).open  # no proxy between us and ourselves
    while time.monotonic() < deadline:
        ended, said = process.poll() is not None, log.read_text("utf-8", "replace")
        if ended:
            last = (said.strip().splitlines() or ["it said nothing"])[-1].removeprefix("error: ")
            raise ValueError(f"the service ended, exit code {process.returncode}: {last}")
        if found := re.search(r"at (http://\S+)/;", said):
            try:
                ask(f"{found[1]}/health", timeout=5).close()
                return found[1]
            except OSError:  # not yet
                pass
        time.sleep(0.05)
    raise TimeoutError(
        "the service did not answer in time: give it more seconds=, or see what "
        "`python -m replearn serve FOLDER` says"
    )


def _stop(process):
    process.stdin.close()  # the service ends by itself
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_with_stdin(server):
    """Stop the server when standard input ends: the process that started us has closed it, or is dead."""

    def watch():
        while os.read(0, 1024):
            pass
        server.should_exit = True
        time.sleep(8)
        os._exit(1)  # something hangs

    threading.Thread(target=watch, daemon=True).start()


def _listen(host, port):
    try:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
        # asyncio leaves this off for such a socket: answers on a kept connection would wait 40 ms for an ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"{host}, port {port}: cannot listen there ({reason}); choose another --port or --host"
        ) from None


def _server(app):
    """A uvicorn server with named parts, so that it runs the same whatever else is installed."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=3,
        )
    )


def serve(folder, *, host, port, precision, workers, queue, until_stdin_closes):
    try:
        import uvicorn  # noqa: F401

        from replearn.serve.bundle import open_bundle
    except ImportError as error:
        raise ValueError(f"{MISSING} ({error})") from error
    app = create_app(
        open_bundle(folder, precision=precision),
        precision=precision,
        workers=workers,
        queue=queue,
    )
    with _listen(host, port) as listener:
        server = _server(app)
        host, port = listener.getsockname()[:2]
        if until_stdin_closes:
            _end_with_stdin(server)
        print(
            f"{folder} ({precision}) at http://{f'[{host}]' if ':' in host else host}:{port}/; "
            "Ctrl-C stops it",
            flush=True,
        )
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            print("stopped", flush=True)


def _add_serve(commands):  # until __main__ uses replearn.serve.cli
    from replearn.serve.cli import add_serve

    add_serve(commands)
