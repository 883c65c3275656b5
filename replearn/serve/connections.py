"""Connections that do nothing: how long they may, how many may be open, what the log says of them.

Whoever can reach the service can open connections and stay silent. Each costs a file descriptor,
and without descriptors nobody is answered, `/health` included. So a connection gets some seconds to
send the header of a request, a request gets a minute in all, and when there are too many
connections the one that has been silent for longest makes room. What the log would say again and
again it says once a minute.
"""

import asyncio
import errno
import logging
import os
import time
from typing import Any

from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

BACKLOG = 64  # connections that the system accepts for us before we look at them
RESERVE = 16  # descriptors for all else: the log, a library that opens a file
MOST = 1000  # connections, however many descriptors there are
LEAST = 8
OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
LOG = logging.getLogger("uvicorn.error")


def most_connections() -> int:
    """Return how many connections fit into this process's limit of file descriptors.

    Returns:
        A number from 8 to 1,000.
    """
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return MOST
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MOST
    try:
        in_use = len(os.listdir("/dev/fd"))
    except OSError:
        in_use = 32
    return max(LEAST, min(MOST, limit - in_use - BACKLOG - RESERVE))


class OnceAMinute(logging.Filter):
    """Lets a message of the log pass once a minute, and counts the others.

    Args:
        seconds: How long a minute is.
    """

    MOST_KINDS = 100  # of messages that are remembered

    def __init__(self, seconds: float = 60.0):
        super().__init__()
        self.seconds = seconds
        self._last: dict[tuple[str, str], float] = {}
        self._held_back: dict[tuple[str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a message is written; it says how often it was not before."""
        error = record.exc_info[1] if record.exc_info else None
        kind = (str(record.msg)[:200], repr(error)[:200])
        now = time.monotonic()
        if now - self._last.get(kind, -self.seconds) < self.seconds:
            self._held_back[kind] = self._held_back.get(kind, 0) + 1
            return False
        if len(self._last) >= self.MOST_KINDS:
            self._last.clear()
            self._held_back.clear()
        self._last[kind] = now
        again = self._held_back.pop(kind, 0)
        if again:
            record.msg = f"{record.getMessage()} ({again:,} times more since it was last said)"
            record.args = ()
        return True


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, on connections that end if nothing happens on them."""

    most = MOST
    idle_seconds = 10.0
    request_seconds = 60.0

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take a new connection; if it is one too many, the longest silent one goes."""
        super().connection_made(transport)
        self.since = self.loop.time()
        if len(self.connections) <= self.most:
            return
        still_open = [one for one in self.connections if not one.transport.is_closing()]
        if len(still_open) <= self.most:
            return
        # This one is silent, too: without an older one it goes itself.
        oldest = min((one for one in still_open if one.is_idle), key=_since)
        oldest.transport.abort()
        LOG.warning(
            "more than %d connections at a time: the one that was silent for longest was closed",
            self.most,
        )

    def handle_events(self) -> None:
        """Look at what was received; a new request has its time from here on."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self.since = self.loop.time()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self.since = self.loop.time()
        super().on_response_complete()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered: none has come, or its header is not complete."""
        return self.cycle is None or self.cycle.response_complete

    def end_if_late(self, now: float) -> None:
        """Close the connection if nothing has happened for too long.

        Args:
            now: The time of the event loop.
        """
        limit = self.idle_seconds if self.is_idle else self.request_seconds
        if now - self.since > limit:
            self.transport.abort()


def _since(connection: ImpatientProtocol) -> float:
    return connection.since


class PatientServer(Server):
    """A server that survives a lack of file descriptors, and looks after its connections.

    Args:
        config: With `ImpatientProtocol`, or a class made from it, as its `http`.
    """

    async def startup(self, sockets: Any = None) -> None:
        """Start; once a second silent connections are looked for."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_say_in_a_line)
        for log in (LOG, logging.getLogger("asyncio")):
            if not any(isinstance(one, OnceAMinute) for one in log.filters):
                log.addFilter(OnceAMinute())
        await super().startup(sockets)
        self._sweep(loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self.server_state.connections):
            connection.end_if_late(now)
        loop.call_later(1.0, self._sweep, loop)


def _say_in_a_line(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say in one line that there are no descriptors left; leave all else to the event loop."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in OUT_OF_DESCRIPTORS:
        LOG.warning(
            "no new connection could be accepted (%s): it waits until others have ended; "
            "raise the limit of open files (ulimit -n)",
            error.strerror,
        )
        return
    loop.default_exception_handler(context)


def make_server(app: Any, *, idle_seconds: float, request_seconds: float) -> PatientServer:
    """Return a server whose parts are named, so that it is the same whatever else is installed.

    Args:
        app: The application.
        idle_seconds: Time for the header of a request to arrive.
        request_seconds: Time for a request in all, its answer included.

    Returns:
        The server, not running yet.
    """
    limits = dict(
        most=most_connections(), idle_seconds=idle_seconds, request_seconds=request_seconds
    )
    protocol = type("LimitedProtocol", (ImpatientProtocol,), limits)
    config = Config(
        app,
        http=protocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=3,
    )
    return PatientServer(config)
