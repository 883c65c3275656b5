"""Guards around a learner's function: nothing it prints is shown, and it is cut off if it never ends."""

import contextlib
import io
import signal
import threading
import time
import warnings

LIMIT = 5.0  # seconds a learner's function gets for all its inputs together


class TimeUp(BaseException):
    """Not an Exception, so that the learner's own `except Exception` does not swallow it."""


@contextlib.contextmanager
def silence():
    """Drop what is printed or warned."""
    nowhere = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def time_limit():
    """Raise TimeUp after LIMIT seconds, where the system can (main thread, not Windows)."""
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    wall, processor = time.perf_counter(), time.process_time()

    def stop(_, frame):
        # On a busy machine the function may hardly have run yet: then it gets up to four times as long.
        if time.process_time() - processor < LIMIT / 2 and time.perf_counter() - wall < 4 * LIMIT:
            signal.setitimer(signal.ITIMER_REAL, LIMIT / 2)
            return
        while frame is not None:
            if (
                "importlib._bootstrap" in frame.f_code.co_filename
            ):  # an import cut in two would break the kernel: wait
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                return
            frame = frame.f_back
        raise TimeUp

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
