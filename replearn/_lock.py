"""One process at a time: a lock that the operating system releases however its holder ends.

The lock is one of the system (`flock`, on Windows `msvcrt.locking`) on a small file, in which the
holder says who it is. So a process that is killed holds nothing any more, and whoever comes second
can say for whom it would have to wait. On network folders it works as far as the system's own locks
do there.
"""

import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from replearn import _schema

LOCKED_BYTE = 1 << 30  # on Windows a locked byte cannot be read, so it lies behind the words
GRACE = 0.5  # seconds that a new holder gets to write its words over those of the one before
HOLDER = _schema.Record(
    {
        "host": _schema.Text(),
        "pid": _schema.Whole(1, 1 << 32),
        "pid_namespace": _schema.Text(),
        "since": _schema.Text(),
    }
)


class Held(OSError):
    """Another process holds the lock. The text says which, as far as it is known."""


class _Unsupported(Exception):
    """The file system has no locks."""


@contextmanager
def held(path: str | os.PathLike, *, required: bool = False) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        path: The lock's file. Its folder must exist; the file goes at the end.
        required: Raise where the file system has no locks; otherwise there is a warning.

    Raises:
        Held: Another process holds it, or another thread of this one.
        OSError: The file cannot be made.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with held(f"{folder}/run.lock"):
        ...         os.listdir(folder)
        ['run.lock']
    """
    path = Path(path)
    descriptor = _acquire(path, required)
    try:
        yield
    finally:
        if os.name == "nt":  # where a file that is open cannot be removed
            os.close(descriptor)
            with suppress(OSError):  # another process was quicker, and has it now
                os.unlink(path)
        else:
            with suppress(OSError):
                os.unlink(path)
            os.close(descriptor)


def _acquire(path: Path, required: bool) -> int:
    """Return the descriptor of the lock's file, which is locked and has our words in it."""
    dead_holder = None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            is_locked = _lock(descriptor)
        except _Unsupported as error:
            if required:
                os.close(descriptor)
                raise Held(f"nobody knows: {error}") from error
            warnings.warn(
                f"{path.parent}: this folder has no locks ({error}): nothing keeps a second "
                "process from working here at the same time",
                stacklevel=5,
            )
            is_locked = True
        if is_locked:
            # The holder before may have removed the file just before we locked it.
            if _is_at(descriptor, path):
                _write_holder(descriptor)
                return descriptor
            os.close(descriptor)
            continue

        holder = _read_holder(descriptor)
        if not _is_dead(holder):
            os.close(descriptor)
            raise Held(_in_words(holder))
        # Either a living process has just taken over and has not written its words yet, or a child
        # of the dead one has inherited the lock. To that nobody listens: a new file is free.
        if holder == dead_holder and _is_at(descriptor, path):
            os.unlink(path)
        os.close(descriptor)
        dead_holder = holder
        time.sleep(GRACE)


def _lock(descriptor: int) -> bool:
    """Lock an open file; return whether nobody else holds it."""
    if os.name == "nt":
        import msvcrt

        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a network folder, for example
        raise _Unsupported(error.strerror) from error
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one under this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    words = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "pid_namespace": _pid_namespace(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    with suppress(OSError):  # the disk may be full, but the lock holds without words
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(words).encode())


def _read_holder(descriptor: int) -> dict[str, Any] | None:
    """Return what the holder wrote, None if that is nothing, or no such words."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        holder = _schema.parse(os.read(descriptor, 10_000))
    except (OSError, ValueError):
        return None
    return holder if HOLDER.fault(holder) is None else None


def _is_dead(holder: dict[str, Any] | None) -> bool:
    """Whether the holder was a process of this machine that is no more; False if in doubt."""
    if holder is None or os.name == "nt":  # where os.kill ends what it asks about
        return False
    if holder["host"] != socket.gethostname() or holder["pid_namespace"] != _pid_namespace():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _pid_namespace() -> str:
    """Return in which numbering this process has its number: containers have their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _in_words(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "another process"
    return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
