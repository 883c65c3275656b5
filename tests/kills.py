"""Ending a process at a moment of a write: what the fast tests and the slow ones share."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from replearn import files


class Kill(NamedTuple):
    """A process that was ended with SIGKILL, and at which moment of which write."""

    moment: str  # one of files.MOMENTS
    file: str  # the name of the file that was written


def kill_at(number: int, work: Callable[[], Any]) -> Kill | None:
    """Do some work in a child of this process, and end it at its n-th moment of a write.

    Args:
        number: n, from 1.
        work: The work.

    Returns:
        Which moment that was; None if the work has fewer, and came to its end.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _die_at(number, writer)
        status = 1
        try:
            work()
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if status == 0:
        return None
    assert os.WIFSIGNALED(status), "the work has failed"
    assert os.WTERMSIG(status) == signal.SIGKILL
    return Kill(*said.split("\n"))


def _die_at(number: int, writer: int) -> None:
    """Put something into the hook of the one writer that counts, and ends this process."""
    moments_left = number

    def at_moment(moment: str, path: Path) -> None:
        nonlocal moments_left
        moments_left -= 1
        if moments_left == 0:
            os.write(writer, f"{moment}\n{path.name}".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    files.at_moment = at_moment


def kill_at_every_moment(
    folder: Path, work: Callable[[Path], Any]
) -> Iterator[tuple[Path, Kill | None]]:
    """Do some work once for each moment of its writes, and end it there.

    Args:
        folder: Where each time gets a folder of its own.
        work: The work; it is told its folder.

    Yields:
        The folder and the kill; at the end the folder of work that came to its end, and None.
    """
    number = 1
    while True:
        own = folder / str(number)
        kill = kill_at(number, lambda own=own: work(own))
        yield own, kill
        if kill is None:
            return
        number += 1
