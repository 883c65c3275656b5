"""PneumoniaMNIST: chest X-rays of children, 28 x 28 pixels, in one file that has to be on the disk.

References:
    Yang et al. 2023, "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical
    image classification", Scientific Data 10.
"""

from pathlib import Path

import numpy as np

from replearn._folders import cache_folder
from replearn.data.imageset import SPLITS, Arrays

FILE = "pneumoniamnist.npz"
MEDMNIST_FOLDER = Path("~/.medmnist")  # where the package medmnist puts what it downloads
CLASS_NAMES = ("normal", "pneumonia")


def _path() -> Path | None:
    """Return where the file is, or None."""
    for folder in (cache_folder(), MEDMNIST_FOLDER.expanduser()):
        path = folder / FILE
        if path.exists():
            return path
    return None


def on_disk() -> bool:
    """Return whether the file is in the cache folder, or where the package medmnist puts it."""
    return _path() is not None


def read() -> Arrays:
    """Return the X-rays with their three splits; two pixels on each side repeat the edge.

    Raises:
        OSError: The file is not on the disk.
        ValueError: The file is damaged.
    """
    path = _path()
    if path is None:
        raise OSError(
            f"pneumonia: expected {FILE} in {cache_folder()}, found none; copy it there, or run "
            """python -c "import medmnist; medmnist.PneumoniaMNIST('train', download=True)"."""
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            scans = [file[f"{split}_images"] for split in SPLITS]  # each (n, 28, 28)
            labels = [file[f"{split}_labels"].reshape(-1) for split in SPLITS]
        for images in scans:
            if images.shape[1:] != (28, 28) or images.dtype != np.uint8:
                raise ValueError(f"images of {images.dtype} {images.shape[1:]}, not uint8 (28, 28)")
        framed = np.pad(np.concatenate(scans), ((0, 0), (2, 2), (2, 2)), mode="edge")
        images = framed[:, None].repeat(3, axis=1)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(
            f"{path}: expected MedMNIST's arrays, found it damaged ({error}); replace it"
        ) from error
    part = np.repeat(range(len(SPLITS)), [len(y) for y in labels])
    return Arrays(images, np.concatenate(labels), part, CLASS_NAMES)
