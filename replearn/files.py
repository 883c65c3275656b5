"""Files that are whole at any moment: one atomic write, one error that says what to do.

A process can be killed, a disk can fill up, two notebooks can write the same file at once. What is
written here is either the whole old file or the whole new one, in each of these cases.
"""

import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

# The moments of a write, in their order. At each of them `at_moment` is called, which does nothing:
# a test puts something in its place that ends the process.
MOMENTS = ("before", "in the middle", "written", "before the rename", "renamed")


def at_moment(moment: str, path: Path) -> None:
    """Do nothing: the place where tests end the process.

    Args:
        moment: One of `MOMENTS`.
        path: What is being written.
    """


REASONS = {
    errno.EEXIST: "there is a file of this name",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EISDIR: "there is a folder of this name",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no permission to write",
    errno.EPERM: "no permission to write",
    errno.EROFS: "the disk is read-only",
}


@contextmanager
def replacing(
    path: str | os.PathLike, *, previous: str | os.PathLike | None = None
) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of another one when the block ends.

    What the block writes goes to a file beside the target. At the end it is pushed to the disk
    and then renamed, which the operating system does in one step. If the block raises, the old
    file stays. Writers at the same time do not disturb each other: the last one to finish wins.

    Args:
        path: The file to write. Its folder must exist.
        previous: A second path; the file that is replaced is kept under it. Between the two
            renames there is a moment in which the old file exists only there.

    Yields:
        The new file, open for writing bytes.

    Raises:
        OSError: The disk is full, or the folder cannot be written to. The old file is still there.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "note.txt") as file:
        ...         _ = file.write(b"kept")
        ...     (Path(folder) / "note.txt").read_text()
        'kept'
    """
    path = Path(path)
    _check_replaceable(path)
    # A name that nobody else uses, and a short one: the target's may be as long as names can be.
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    at_moment("before", path)
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        at_moment("written", path)
        if previous is not None:
            with suppress(FileNotFoundError):  # there may be no file yet that could be kept
                os.replace(path, previous)
        at_moment("before the rename", path)
        os.replace(partial, path)
        at_moment("renamed", path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomically(
    path: str | os.PathLike, content: str | bytes, *, previous: str | os.PathLike | None = None
) -> Path:
    """Write a whole file or nothing, as `replacing` does.

    Args:
        path: The file to write. Its folder must exist.
        content: Text, written as UTF-8 with line ends as they are, or bytes.
        previous: A second path; the file that is replaced is kept under it.

    Returns:
        The path that was written.

    Raises:
        OSError: The disk is full, or the folder cannot be written to. The old file is still there.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(Path(folder) / "note.txt", "kept").read_text()
        'kept'
    """
    with replacing(path, previous=previous) as file:
        _write_in_halves(file, content, Path(path))
    return Path(path)


def append(path: str | os.PathLike, text: str) -> None:
    """Append text to a file, which is made if it is missing.

    A process that is killed meanwhile leaves a part of the text: whoever reads the file has to do
    without a line that has no end.

    Args:
        path: The file. Its folder must exist.
        text: Whole lines, written as UTF-8 with line ends as they are.

    Raises:
        OSError: The disk is full, or the file cannot be written to.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     append(Path(folder) / "log", "one\\n")
        ...     append(Path(folder) / "log", "two\\n")
        ...     (Path(folder) / "log").read_text().split()
        ['one', 'two']
    """
    path = Path(path)
    at_moment("before", path)
    with open(path, "ab") as file:
        _write_in_halves(file, text, path)
    at_moment("written", path)


def _write_in_halves(file: BinaryIO, content: str | bytes, path: Path) -> None:
    """Write text or bytes; between the halves there is a moment for tests."""
    data = content.encode() if isinstance(content, str) else content
    view = memoryview(data)
    half = len(view) // 2
    file.write(view[:half])
    file.flush()
    at_moment("in the middle", path)
    file.write(view[half:])


def write_json(path: str | os.PathLike, record: Any, *, indent: int = 1) -> Path:
    """Write a record as JSON, whole or not at all.

    Args:
        path: The file to write. Its folder is made if it is missing.
        record: Whatever JSON can hold. NaN and infinity are not JSON.
        indent: Spaces a level.

    Returns:
        The path that was written.

    Raises:
        ValueError: The record holds NaN or infinity.
        TypeError: The record holds something else that JSON does not know.
        OSError: The disk is full, or the folder cannot be written to.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_json(Path(folder) / "new" / "scores.json", {"knn": 0.61})
        ...     json.loads(path.read_text())
        {'knn': 0.61}
    """
    path = Path(path)
    text = json.dumps(record, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomically(path, text)


@contextmanager
def explained(folder: str | os.PathLike, what: str = "write") -> Iterator[None]:
    """Turn an OSError inside the block into one sentence: where, why, what to do.

    Args:
        folder: Where the block writes to.
        what: What it does there, as it reads after "could not".

    Raises:
        OSError: With that sentence.

    Example:
        >>> with explained("/no/such/folder", "save the run"):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        OSError: /no/such/folder: could not save the run: the disk is full; what was saved before \
is kept: make room or choose another folder, then run the same again to go on from there
    """
    try:
        yield
    except OSError as error:
        reason = REASONS.get(error.errno, error.strerror or str(error))
        raise OSError(
            f"{folder}: could not {what}: {reason}{_free_space(folder)}; what was saved before is "
            "kept: make room or choose another folder, then run the same again to go on from there"
        ) from error


def writable_folder(folder: str | os.PathLike) -> Path:
    """Make a folder and try writing to it, so that a mistake shows before the work and not after.

    Args:
        folder: The folder; `~` is the home folder.

    Returns:
        Its path.

    Raises:
        OSError: It cannot be made or written to.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     writable_folder(Path(folder) / "runs" / "first").is_dir()
        True
    """
    folder = Path(folder).expanduser()
    with explained(folder, "write to this folder"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"replearn")
            file.flush()  # only now does a full disk say so
    return folder


def writable_path(path: str | os.PathLike) -> Path:
    """Make a file's folder and see that a file can be written there, before the work.

    Args:
        path: Of the file; `~` is the home folder.

    Returns:
        Its path.

    Raises:
        OSError: The folder cannot be written to, or there is something else under this path.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     writable_path(Path(folder) / "new" / "scores.json").name
        'scores.json'
    """
    path = Path(path).expanduser()
    _check_replaceable(path)
    writable_folder(path.parent)
    return path


def _check_replaceable(path: Path) -> None:
    """Raise where there is a folder or a device, which must not be replaced.

    /dev/stdout is a link, which may lead to a file: a file in its place would break every program.
    """
    is_device = path.exists() and not path.is_file()
    if is_device or path.parent.resolve() == Path("/dev"):
        found = "a folder" if path.is_dir() else "a device or a pipe"
        raise OSError(f"{path}: expected the path of a file to write, found {found}; give another")


def _free_space(folder: str | os.PathLike) -> str:
    """Say how much room a folder has, or nothing where it does not exist."""
    try:
        return f" ({shutil.disk_usage(folder).free / 1e6:,.0f} MB free)"
    except OSError:
        return ""
