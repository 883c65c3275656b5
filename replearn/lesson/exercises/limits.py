"""Limits on a learner's function: what it prints is dropped, and it is cut off if it never ends."""

import contextlib
import io
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from types import FrameType

LIMIT = 5.0  # seconds a learner's function gets for all its inputs together


class TimeUp(BaseException):
    """Not an Exception, so that the learner's own `except Exception` does not swallow it."""


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Drop what is printed or warned inside the block.

    Example:
        >>> with silence():
        ...     print("debug")
    """
    nowhere = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Cut the block off after LIMIT seconds, where the system can (main thread, not Windows).

    On a busy machine the block may hardly have run by then: it gets up to four times as long.

    Raises:
        TimeUp: The time is up.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not hasattr(signal, "setitimer") or not in_main_thread:
        yield
        return

    wall_start = time.perf_counter()
    processor_start = time.process_time()

    def stop(_: int, frame: FrameType | None) -> None:
        hardly_ran = time.process_time() - processor_start < LIMIT / 2
        if hardly_ran and time.perf_counter() - wall_start < 4 * LIMIT:
            signal.setitimer(signal.ITIMER_REAL, LIMIT / 2)
        elif _is_importing(frame):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
        else:
            raise TimeUp

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether an import is under way: one that is cut in two would break the kernel."""
    while frame is not None:
        if "importlib._bootstrap" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False
