"""What was decoded once is kept in the cache folder, so that the next call reads one file."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from replearn import files
from replearn._folders import cache_folder
from replearn.data.imageset import Arrays


def cached(name: str, key: str, read: Callable[[], Arrays]) -> Arrays:
    """Return what `read()` returns, from a file where it was kept before.

    A cache is never a reason to fail: where it is damaged or cannot be written, this costs a
    warning and the time of `read`.

    Args:
        name: Of the file in the cache folder; it ends in ".npz".
        key: What the arrays were made from. A file that was kept under another key is replaced.
        read: Makes the arrays.

    Returns:
        The arrays.
    """
    path = cache_folder() / name
    arrays = _kept(path, key)
    if arrays is None:
        arrays = read()
        _keep(path, key, arrays)
    return arrays


def _kept(path: Path, key: str) -> Arrays | None:
    """Return what was kept under this key, or None."""
    try:
        # The file is a zip archive, which has a checksum for each array.
        with np.load(path, allow_pickle=False) as file:
            if file["key"] != key:
                return None
            names = tuple(file["names"].tolist())
            return Arrays(file["images"], file["labels"], file["part"], names)
    except Exception as error:  # a damaged file can raise anything
        if os.path.exists(path):  # Path.exists raises for some names
            warnings.warn(f"{path}: damaged, and made anew ({error})", stacklevel=3)
        return None


def _keep(path: Path, key: str, arrays: Arrays) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as file:
            np.savez(
                file,
                images=arrays.images,
                labels=arrays.labels,
                part=arrays.part,
                names=arrays.class_names,
                key=key,
            )
    except (OSError, ValueError) as error:  # ValueError: a name that the disk cannot spell
        warnings.warn(
            f"{path}: not written ({error}), so the next call takes as long", stacklevel=3
        )
