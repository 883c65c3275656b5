"""Limits on a learner's function: its printing is kept back, and it is cut off if it never ends."""

import contextlib
import io
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from types import FrameType

LIMIT = 20.0  # seconds a learner's function gets for all its inputs together: loops are slow
LONGEST_PRINT = 1000  # characters of what it prints that are kept


class TimeUp(BaseException):
    """Not an Exception, so that the learner's own `except Exception` does not swallow it."""


class Printed(io.TextIOBase):
    """A stream that keeps the first LONGEST_PRINT characters, whatever is written to it."""

    def __init__(self) -> None:
        self.text = ""
        self._is_open = True

    def writable(self) -> bool:
        """Return True: it takes whatever is printed."""
        return True

    def write(self, text: str) -> int:
        """Keep a text as far as there is room for it."""
        if self._is_open and len(self.text) < LONGEST_PRINT:
            self.text += text[: LONGEST_PRINT - len(self.text)]
            if len(self.text) == LONGEST_PRINT:
                self.text += "…"
        return len(text)

    def clear(self) -> None:
        """Forget what was printed, and listen from here on."""
        self.text = ""
        self._is_open = True

    def close(self) -> None:
        """Listen no more; the text stays, and whoever goes on printing sees no error."""
        self._is_open = False


@contextlib.contextmanager
def silence() -> Iterator[Printed]:
    """Keep what is printed inside the block from being shown, and drop warnings.

    Returns:
        A context manager that yields what was printed, in its attribute `text`.

    Example:
        >>> with silence() as printed:
        ...     print("debug")
        >>> printed.text.strip()
        'debug'
    """
    printed = Printed()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield printed


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
