"""A folder of images: find them, check that they are a data set, decode them.

A folder holds ``{train,test}/<class>/*``, with or without a ``val/`` beside them, or ``<class>/*``.
"""

import hashlib
import io
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from replearn import image_file
from replearn.data.cache import cached
from replearn.data.imageset import SPLITS, TEST, Arrays, fixed_fifth

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jfif",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
)
MORE_SUFFIXES = (".avif", ".heic", ".heif")  # where Pillow can, with a plug-in or without
LEFT_BY_SYSTEMS = ("__macosx", "@eadir", "thumbs.db", "desktop.ini")
LONGEST_NAME = 100  # bytes of a folder's name that the name of its file in the cache repeats
NAMES_SHOWN = 10  # of damaged files
SIDE = 32
CHUNK = (
    100  # images that a thread decodes at a time; one by one, threads mostly wait for each other
)


class ImageFile(NamedTuple):
    """What tells one file from another, and from itself after a change."""

    part: int  # index into SPLITS, or 0 where the folder has no splits
    class_name: str
    folder: str  # between the root and the file; the class name, as the disk spells it
    file_name: str
    size: int  # bytes
    modified: int  # nanoseconds


def readable_suffixes() -> tuple[str, ...]:
    """Return the suffixes of files that are read as images on this machine."""
    from PIL import Image

    Image.init()
    registered = Image.registered_extensions()
    return SUFFIXES + tuple(suffix for suffix in MORE_SUFFIXES if suffix in registered)


def read_folder(folder: Path, *, skip_damaged: bool = False) -> Arrays:
    """Return the images of a folder, shuffled, from the cache where nothing has changed.

    What is in the folder and is not read is counted in a warning: "9 files skipped: .heic 5,
    .txt 4".

    Args:
        folder: Holds ``{train,test}/<class>/*`` or ``<class>/*``; in the second case a fixed
            fifth of each class becomes the test split. Of ``train/`` and ``val/`` without
            ``test/``, the second is the test split.
        skip_damaged: Whether files that cannot be decoded are left out with a warning.

    Returns:
        The images, cropped to the square in the middle and resized to 32 x 32 pixels.

    Raises:
        ValueError: The folder holds no data set, or files are no images.
    """
    roots = _split_folders(folder)
    has_splits = len(roots) > 1
    image_files, skipped = _find(folder, roots)
    _check_classes(folder, roots, image_files)
    if skipped:
        files = "file" if skipped.total() == 1 else "files"
        kinds = ", ".join(f"{kind} {count}" for kind, count in skipped.most_common())
        warnings.warn(
            f"{folder}: {skipped.total()} {files} skipped: {kinds} (read are "
            f"<class>/*{{{', '.join(readable_suffixes())}}})",
            stacklevel=3,
        )
    # An image that is changed, added or taken away changes the key.
    listing = repr([tuple(image_file) for image_file in image_files])
    key = hashlib.sha256(f"{skip_damaged} {listing}".encode(errors="surrogatepass")).hexdigest()
    folder_id = hashlib.sha256(bytes(folder)).hexdigest()[:8]
    short_name = bytes(folder.name, "utf-8", "replace")[:LONGEST_NAME].decode(errors="ignore")

    def read() -> Arrays:
        # Shuffled, so that a first part of the data set holds all classes.
        order = np.random.default_rng(0).permutation(len(image_files))
        shuffled = [image_files[i] for i in order]
        paths = [folder / roots[f.part] / f.folder / f.file_name for f in shuffled]
        images, is_whole = _decode_all(paths, skip_damaged=skip_damaged)
        whole = [f for f, decoded in zip(shuffled, is_whole, strict=True) if decoded]
        names = [image_file.class_name for image_file in whole]
        class_names, labels = np.unique(names, return_inverse=True)
        if has_splits:
            part = np.array([image_file.part for image_file in whole])
        else:
            part = fixed_fifth(labels)
        return Arrays(images, labels, part, tuple(class_names.tolist()))

    return cached(f"{short_name}-{folder_id}.npz", key, read)


def _split_folders(folder: Path) -> dict[int, str]:
    """Return the folder of each split, by its index in SPLITS; only {0: "."} if there are none.

    Upper and lower case are the same, and "val" may be written out.
    """
    spelled = {"validation": "val", "valid": "val"}
    folders = {}
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        name = spelled.get(name, name)
        if path.is_dir() and name in SPLITS:
            folders[SPLITS.index(name)] = path.name
    if len(folders) == 2 and set(folders) == {SPLITS.index("train"), SPLITS.index("val")}:
        folders[TEST] = folders.pop(SPLITS.index("val"))
        warnings.warn(
            f"{folder}: found no test/ beside train/: {folders[TEST]}/ is taken as the test split",
            stacklevel=4,
        )
    if SPLITS.index("train") in folders and TEST in folders:
        return dict(sorted(folders.items()))
    return {0: "."}


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in LEFT_BY_SYSTEMS


def _find(folder: Path, roots: dict[int, str]) -> tuple[list[ImageFile], Counter[str]]:
    """Return the image files in ``folder/<root>/<class>/``, sorted, and counts of what is skipped.

    Hidden files and what operating systems leave behind count neither way.
    """
    suffixes = readable_suffixes()
    image_files = []
    skipped = Counter()
    for part, root in roots.items():
        for class_folder in _visible(folder / root):
            if not class_folder.is_dir():
                continue
            # "e with an accent" can be spelled as one letter or as two, and looks the same.
            class_name = unicodedata.normalize("NFC", class_folder.name)
            for path in _visible(class_folder):
                if path.is_dir():
                    inside = [p for p in path.rglob("*") if p.suffix.lower() in suffixes]
                    if inside:
                        skipped[f"in the sub-folder {class_folder.name}/{path.name}"] += len(inside)
                elif path.suffix.lower() not in suffixes:
                    skipped[path.suffix.lower() or "without a suffix"] += 1
                elif not path.exists():
                    skipped["broken links"] += 1
                else:
                    status = path.stat()
                    image_files.append(
                        ImageFile(
                            part,
                            class_name,
                            class_folder.name,
                            path.name,
                            status.st_size,
                            status.st_mtime_ns,
                        )
                    )
    return sorted(image_files), skipped


def _visible(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if not _is_hidden(path)]


def _check_classes(folder: Path, roots: dict[int, str], image_files: list[ImageFile]) -> None:
    """Raise unless there are two classes or more, and images in each of them."""
    class_folders = {}  # of each root: the names of its folders
    classes = {}  # of each root: the names of its folders that hold images
    for part, root in roots.items():
        class_folders[part] = {
            unicodedata.normalize("NFC", path.name)
            for path in _visible(folder / root)
            if path.is_dir()
        }
        classes[part] = {f.class_name for f in image_files if f.part == part}

    train = classes[0]
    test = classes[TEST] if TEST in classes else train
    culprits = []
    for part, root in roots.items():
        empty = sorted(class_folders[part] - classes[part])
        if empty:
            where = "" if root == "." else f" of {root}/"
            culprits.append(f"no pictures in {', '.join(f'{name}/' for name in empty)}{where}")
        strange = sorted(classes[part] - train)
        if strange:
            culprits.append(f"{', '.join(strange)} in {root}/ but not in {roots[0]}/")
    if len(train) < 2:
        culprits.append(f"{len(train)} classes with pictures")
    if culprits or not test:
        found = [sorted(names) for names in class_folders.values()]
        with_images = [sorted(names) for names in classes.values()]
        raise ValueError(
            f"{folder}: expected pictures ({' '.join(readable_suffixes())}) in every <class>/ or "
            "train/<class>/ and test/<class>/, two classes or more, test ones also in train; "
            f"found {'; '.join(culprits)}: found the folders {found}, and pictures in {with_images}"
        )


def decode(image_files: Sequence[Path | io.BytesIO]) -> np.ndarray:
    """Decode images on all cores, with a progress bar where there are many.

    Args:
        image_files: Paths, or files in memory; one or more.

    Returns:
        (N, 3, 32, 32), uint8: of each image the square in the middle, resized.

    Raises:
        ValueError: Files are no images, or too large ones. The message names them.
    """
    images, _ = _decode_all(image_files, skip_damaged=False)
    return images


def _decode_all(
    image_files: Sequence[Path | io.BytesIO], *, skip_damaged: bool
) -> tuple[np.ndarray, list[bool]]:
    """Return the images (n, 3, 32, 32) that could be decoded, and whether each file could."""
    from tqdm.auto import tqdm

    starts = range(0, len(image_files), CHUNK)
    chunks = [image_files[start : start + CHUNK] for start in starts]
    with ThreadPoolExecutor() as pool:
        decoded = pool.map(_decode_chunk, chunks)
        bar = tqdm(
            decoded, "reading pictures", len(chunks), unit_scale=CHUNK, disable=len(chunks) < 20
        )
        results = [result for chunk in bar for result in chunk]
    images = [result for result in results if isinstance(result, np.ndarray)]
    faults = [result for result in results if isinstance(result, str)]
    if faults and (not skip_damaged or not images):
        raise ValueError(
            f"{_listed(faults)}; repair them or take them away, or load with skip_damaged=True"
        )
    if faults:
        warnings.warn(f"damaged files skipped: {_listed(faults)}", stacklevel=6)
    is_whole = [isinstance(result, np.ndarray) for result in results]
    return np.stack(images).transpose(0, 3, 1, 2), is_whole


def _listed(faults: list[str]) -> str:
    """Return the first faults in one line each, and how many more there are."""
    more = len(faults) - NAMES_SHOWN
    lines = faults[:NAMES_SHOWN]
    if more > 0:
        lines.append(f"and {more} more")
    return "\n".join(lines)


def _decode_chunk(image_files: Sequence[Path | io.BytesIO]) -> list[np.ndarray | str]:
    return [_decode_one(file) for file in image_files]


def _decode_one(file: Path | io.BytesIO) -> np.ndarray | str:
    """Return (32, 32, 3), uint8, or a sentence about what is wrong with the file."""
    try:
        content = file.read_bytes() if isinstance(file, Path) else file.getvalue()
        return image_file.read_square(content, SIDE)
    except image_file.NotAnImage as error:
        return f"{file}: expected a picture, {error}"
    except (OSError, image_file.Unreadable) as error:
        return f"{file}: expected a picture, found {error}"
