"""A folder of images: find them, check that they are a data set, decode them.

A folder holds ``{train,test}/<class>/*`` or ``<class>/*``.
"""

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from replearn.data.cache import cached
from replearn.data.imageset import SPLITS, Arrays, fixed_fifth

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
MAX_PIXELS = 50_000_000  # a larger image is refused: a small file can unpack to gigabytes
SIDE = 32
CHUNK = (
    100  # images that a thread decodes at a time; one by one, threads mostly wait for each other
)


class ImageFile(NamedTuple):
    """What tells one file from another, and from itself after a change."""

    part: int  # index of its root
    class_name: str
    file_name: str
    size: int  # bytes
    modified: int  # nanoseconds


def read_folder(folder: Path) -> Arrays:
    """Return the images of a folder, shuffled, from the cache where nothing has changed.

    Args:
        folder: Holds ``{train,test}/<class>/*`` or ``<class>/*``; in the second case a fixed
            fifth of each class becomes the test split.

    Returns:
        The images, cropped to the square in the middle and resized to 32 x 32 pixels.

    Raises:
        ValueError: The folder holds no data set, or a file is not an image.
    """
    has_splits = all((folder / split).is_dir() for split in SPLITS[:2])
    roots = SPLITS[:2] if has_splits else (".",)
    image_files = _find(folder, roots)
    _check_classes(folder, roots, image_files)
    # An image that is changed, added or taken away changes the key.
    listing = repr([tuple(image_file) for image_file in image_files])
    key = hashlib.sha256(listing.encode()).hexdigest()
    folder_id = hashlib.sha256(bytes(folder)).hexdigest()[:8]

    def read() -> Arrays:
        # Shuffled, so that a first part of the data set holds all classes.
        order = np.random.default_rng(0).permutation(len(image_files))
        shuffled = [image_files[i] for i in order]
        names = [image_file.class_name for image_file in shuffled]
        class_names, labels = np.unique(names, return_inverse=True)
        if has_splits:
            part = np.array([image_file.part for image_file in shuffled])
        else:
            part = fixed_fifth(labels)
        paths = [folder / roots[f.part] / f.class_name / f.file_name for f in shuffled]
        return Arrays(decode(paths), labels, part, tuple(class_names.tolist()))

    return cached(f"{folder.name}-{folder_id}.npz", key, read)


def _find(folder: Path, roots: Sequence[str]) -> list[ImageFile]:
    """Return the image files in ``folder/<root>/<class>/``, sorted; hidden ones do not count."""
    image_files = []
    for part, root in enumerate(roots):
        for path in (folder / root).glob("[!.]*/[!.]*"):
            if path.suffix.lower() in SUFFIXES:
                status = path.stat()
                image_files.append(
                    ImageFile(part, path.parent.name, path.name, status.st_size, status.st_mtime_ns)
                )
    return sorted(image_files)


def _check_classes(folder: Path, roots: Sequence[str], image_files: list[ImageFile]) -> None:
    """Raise unless there are two classes or more, and images in each of them."""
    class_folders = []  # of each root: the names of its folders
    for root in roots:
        entries = (folder / root).glob("[!.]*")
        class_folders.append({path.name for path in entries if path.is_dir()})
    classes = [set() for _ in roots]  # of each root: the names of its folders that hold images
    for image_file in image_files:
        classes[image_file.part].add(image_file.class_name)

    train = classes[0]
    test = classes[-1]  # the same, where the folder has no splits
    some_are_empty = classes != class_folders
    if some_are_empty or len(train) < 2 or not test or not test <= train:
        raise ValueError(
            f"{folder}: expected pictures ({' '.join(SUFFIXES)}) in every <class>/ or "
            "train/<class>/ and test/<class>/, two classes or more, test ones also in train; "
            f"found the folders {[sorted(names) for names in class_folders]}, and pictures in "
            f"{[sorted(names) for names in classes]}"
        )


def decode(image_files: Sequence[Path | io.BytesIO]) -> np.ndarray:
    """Decode images on all cores, with a progress bar where there are many.

    Args:
        image_files: Paths, or files in memory; one or more.

    Returns:
        (N, 3, 32, 32), uint8: of each image the square in the middle, resized.

    Raises:
        ValueError: A file is not an image, or a too large one. The message names the file.
    """
    from tqdm.auto import tqdm

    starts = range(0, len(image_files), CHUNK)
    chunks = [image_files[start : start + CHUNK] for start in starts]
    with ThreadPoolExecutor() as pool:
        decoded = pool.map(_decode_chunk, chunks)
        bar = tqdm(
            decoded, "reading pictures", len(chunks), unit_scale=CHUNK, disable=len(chunks) < 20
        )
        images = np.concatenate(list(bar))  # (N, 32, 32, 3)
    return images.transpose(0, 3, 1, 2)


def _decode_chunk(image_files: Sequence[Path | io.BytesIO]) -> np.ndarray:
    return np.stack([_decode_one(file) for file in image_files])


def _decode_one(file: Path | io.BytesIO) -> np.ndarray:
    """Return (32, 32, 3), uint8."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            over_8_bits = image.mode[0] in "IF"  # 16 or 32 bits a pixel, or floating-point numbers
            if image.width * image.height > MAX_PIXELS or over_8_bits:
                raise ValueError(
                    f"{image.size} of mode {image.mode}: over {MAX_PIXELS:,} pixels, or over 8 bits"
                )
            # A large JPEG is decoded at a fraction of its size, which is much faster.
            image.draft("RGB", (4 * SIDE, 4 * SIDE))
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(ImageOps.fit(upright, (SIDE, SIDE)))
    except Exception as error:  # Pillow raises many kinds of errors for a damaged file
        raise ValueError(
            f"{file}: expected a picture, found {error}; repair it or take it away"
        ) from error
