"""Trainings that do not need one another, several at a time.

The networks of the lessons are small. A second core hardly speeds up one training, and two
trainings beside each other take about as long as one.
"""

import contextlib
import importlib
import io
import multiprocessing
import multiprocessing.connection
import os
import pickle
import random
import sys
import warnings
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

import numpy as np
import torch

from replearn._progress import Progress

Item = TypeVar("Item", bound=Hashable)

# PyTorch imports the first at the first step of an optimizer (2 s), a probe the second (0.7 s).
# What this process has imported its children have, too. What it lacks each would import anew.
IMPORTED_AT_FIRST_USE = ("torch._dynamo", "scipy.optimize")


def side_by_side(
    fn: Callable[[Item], Any], items: Iterable[Item], *, text: str = "runs", workers: int = 1
) -> dict[Item, Any]:
    """Return {item: fn(item)}, computed in several processes.

    Every call starts from the random numbers of this moment, on the CPU, and afterwards they go on
    as after the last item's call. So the results do not depend on `workers`, except for the
    rounding of sums that several threads share, and where `fn` seeds itself they are those of a
    loop. What a call changes in place (a list that it fills) is lost with its process, so
    everything of interest should be returned.

    Where processes cannot be split off (`can_split`), there is one call after the other.

    Args:
        fn: A function of an item. What it prints is printed here, in the order of the items.
        items: What it is called with.
        text: What the progress bar says.
        workers: How many calls at a time, each with one thread; 1 for none beside the other.

    Returns:
        The results, in the order of the items.

    Example:
        >>> side_by_side(lambda n: n**2, [3, 1], workers=2)
        {3: 9, 1: 1}
    """
    items = list(items)
    progress = Progress(text, len(items), unit="run", keep=False)
    try:
        if workers > 1 and len(items) > 1 and can_split():
            answers = _in_processes(fn, items, workers, progress)
        else:
            answers = {}
        results = {}
        first_state = _random_state()
        for item in items:
            if item in answers:
                results[item], printed, state = answers[item]
                print(printed, end="")
                _set_random_state(state)
            else:
                # Also where a process has failed: the error is raised here, with its cause.
                _set_random_state(first_state)
                results[item] = fn(item)
                progress.show(len(results))
        return results
    finally:
        progress.close()


def can_split() -> bool:
    """Whether this process can split others off: on Linux, and not from one that was split off."""
    return sys.platform == "linux" and not multiprocessing.current_process().daemon


def _random_state() -> tuple[Any, ...]:
    """Return the state of the global random generators of PyTorch (CPU), NumPy and Python."""
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002


def _set_random_state(state: tuple[Any, ...]) -> None:
    """Set the generators to what `_random_state` returned."""
    of_torch, of_numpy, of_python = state
    torch.set_rng_state(of_torch)
    np.random.set_state(of_numpy)  # noqa: NPY002
    random.setstate(of_python)


def _in_processes(
    fn: Callable[[Item], Any], items: list[Item], workers: int, progress: Progress
) -> dict[Item, tuple[Any, str, tuple[Any, ...]]]:
    """Return what came back: {item: (result, what was printed, random state at the end)}.

    An item is missing if its process failed, or if its result cannot be sent.
    """
    for module in IMPORTED_AT_FIRST_USE:
        importlib.import_module(module)
    context = multiprocessing.get_context("fork")  # notebook functions cannot be sent to another
    waiting = list(items)
    running = {}  # the end of a pipe: the item and the process at its other end
    answers = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                item = waiting.pop(0)
                reader, writer = context.Pipe(duplex=False)
                args = fn, item, _random_state(), writer
                process = context.Process(target=_answer, args=args, daemon=True)
                with warnings.catch_warnings():
                    # Python warns of locks that another thread of a kernel may hold. It renews
                    # its own in the child, and `_answer` renews tqdm's.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    process.start()
                writer.close()
                running[reader] = item, process
            for reader in multiprocessing.connection.wait(list(running)):
                item, process = running.pop(reader)
                with reader, contextlib.suppress(EOFError):
                    answers[item] = pickle.loads(reader.recv_bytes())
                process.join()
                progress.show(len(items) - len(waiting) - len(running))
    finally:
        for _, process in running.values():
            process.kill()
            process.join()
    return answers


def _answer(
    fn: Callable[[Item], Any],
    item: Item,
    state: tuple[Any, ...],
    writer: multiprocessing.connection.Connection,
) -> None:
    """Call a function and send what it returns and prints; the whole life of a child process."""
    os.environ["REPLEARN_STATIC"] = "1"  # the parent draws the bar
    if "tqdm" in sys.modules:
        # tqdm's own thread, which is not here, may have held the lock in this moment.
        from tqdm.std import TqdmDefaultWriteLock, tqdm

        tqdm.set_lock(TqdmDefaultWriteLock())
    torch.set_num_threads(1)  # those of the parent are not here
    _set_random_state(state)  # Python's own generator is seeded anew in a child
    printed = io.StringIO()
    # An error is not shown here. The parent calls the function again, and gets it there.
    with (
        contextlib.suppress(Exception),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        result = fn(item)
        # Not `writer.send`, for which torch would put tensors into memory that ends with the child.
        writer.send_bytes(pickle.dumps((result, printed.getvalue(), _random_state())))
