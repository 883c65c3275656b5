"""A folder of images: find them, check that they are a data set, decode them.

A folder holds ``{train,test}/<class>/*``, with or without a ``val/`` beside them, or ``<class>/*``.
Without labels it may hold images at any depth, under any names.
"""

import hashlib
import io
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from replearn import image_file
from replearn._progress import Progress
from replearn.data.cache import cached
from replearn.data.imageset import SIDE, SPLITS, TEST, Arrays, fixed_fifth

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


def is_flat(folder: Path) -> bool:
    """Return whether images lie in a folder itself and none in its sub-folders: without classes.

    Args:
        folder: An existing folder.
    """
    suffixes = readable_suffixes()
    found = False
    for place, names in _walk(folder):
        if any(Path(name).suffix.lower() in suffixes for name in names):
            if place != folder:
                return False
            found = True
    return found


def read_folder(
    folder: Path, *, skip_damaged: bool = False, side: int = SIDE, unlabeled: bool = False
) -> Arrays:
    """Return the images of a folder, shuffled, from the cache where nothing has changed.

    What is in the folder and is not read is counted in a warning: "9 files skipped: .heic 5,
    .txt 4".

    Args:
        folder: Holds ``{train,test}/<class>/*`` or ``<class>/*``; in the second case a fixed
            fifth of each class becomes the test split. Of ``train/`` and ``val/`` without
            ``test/``, the second is the test split.
        skip_damaged: Whether files that cannot be decoded are left out with a warning.
        side: Height and width of the images, in pixels.
        unlabeled: Whether all images at any depth are read, and nothing is taken for a class. All
            of them are for training; only ``test/`` and ``val/`` beside ``train/`` are splits of
            their own.

    Returns:
        The images, cropped to the square in the middle and resized to side x side pixels. Without
        labels there are no class names, and every label is 0.

    Raises:
        ValueError: The folder holds no data set, or files are no images, or there are more than
            the memory holds.
    """
    roots = _split_folders(folder)
    has_splits = len(roots) > 1
    if unlabeled:
        image_files, skipped = _find_at_any_depth(folder, roots if has_splits else {})
        _check_unlabeled(folder, image_files)
        roots = dict.fromkeys(range(len(SPLITS)), ".")
        pattern = "*"
    else:
        image_files, skipped = _find(folder, roots)
        _check_classes(folder, roots, image_files)
        pattern = "<class>/*"
    if skipped:
        files = "file" if skipped.total() == 1 else "files"
        kinds = ", ".join(f"{kind} {count}" for kind, count in skipped.most_common())
        warnings.warn(
            f"{folder}: {skipped.total()} {files} skipped: {kinds} (read are "
            f"{pattern}{{{', '.join(readable_suffixes())}}})",
            stacklevel=3,
        )
    _check_memory(folder, len(image_files), side)
    # An image that is changed, added or taken away changes the key.
    listing = repr([tuple(image_file) for image_file in image_files])
    key = hashlib.sha256(f"{skip_damaged} {listing}".encode(errors="surrogatepass")).hexdigest()
    folder_id = hashlib.sha256(bytes(folder)).hexdigest()[:8]
    short_name = bytes(folder.name, "utf-8", "replace")[:LONGEST_NAME].decode(errors="ignore")
    form = "" if side == SIDE else f"-{side}"
    if unlabeled:
        form += "-unlabeled"

    def read() -> Arrays:
        # Shuffled, so that a first part of the data set holds all classes.
        order = np.random.default_rng(0).permutation(len(image_files))
        shuffled = [image_files[i] for i in order]
        paths = [folder / roots[f.part] / f.folder / f.file_name for f in shuffled]
        images, is_whole = _decode_all(paths, skip_damaged=skip_damaged, side=side)
        whole = [f for f, decoded in zip(shuffled, is_whole, strict=True) if decoded]
        part = np.array([image_file.part for image_file in whole])
        if unlabeled:
            return Arrays(images, np.zeros(len(whole), np.int64), part, ())
        names = [image_file.class_name for image_file in whole]
        class_names, labels = np.unique(names, return_inverse=True)
        if not has_splits:
            part = fixed_fifth(labels)
        return Arrays(images, labels, part, tuple(class_names.tolist()))

    return cached(f"{short_name}-{folder_id}{form}.npz", key, read)


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
                if class_folder.suffix.lower() in suffixes:
                    skipped["beside the class folders"] += 1
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
                    found = _image_file(part, class_name, class_folder.name, path)
                    image_files.append(found)
    return sorted(image_files), skipped


def _image_file(part: int, class_name: str, place: str, path: Path) -> ImageFile:
    status = path.stat()
    return ImageFile(part, class_name, place, path.name, status.st_size, status.st_mtime_ns)


def _find_at_any_depth(
    folder: Path, splits: dict[int, str]
) -> tuple[list[ImageFile], Counter[str]]:
    """Return all image files below a folder, sorted, and counts of what is skipped.

    Args:
        folder: Where to look. Folders that are links are not followed: they may lead back here.
        splits: The name of the sub-folder of each split; what is in no such folder is for training.
    """
    suffixes = readable_suffixes()
    part_of = {name: part for part, name in splits.items()}
    image_files = []
    skipped = Counter()
    for place, names in _walk(folder, skipped):
        inner = place.relative_to(folder)
        part = part_of.get(inner.parts[0], 0) if inner.parts else 0
        for name in names:
            path = place / name
            if path.suffix.lower() not in suffixes:
                skipped[path.suffix.lower() or "without a suffix"] += 1
            elif not path.exists():
                skipped["broken links"] += 1
            else:
                image_files.append(_image_file(part, "", inner.as_posix(), path))
    return sorted(image_files), skipped


def _walk(folder: Path, skipped: Counter[str] | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Yield each visible folder below a folder, itself first, with the names of its visible files.

    Args:
        folder: Where to begin.
        skipped: Counts the folders that are links; they are not followed.
    """
    for place, folder_names, file_names in os.walk(folder):
        visible = [name for name in sorted(folder_names) if not _is_hidden(Path(name))]
        links = [name for name in visible if Path(place, name).is_symlink()]
        if skipped is not None and links:
            skipped["linked folders"] += len(links)
        folder_names[:] = [name for name in visible if name not in links]  # where to go on
        yield Path(place), [name for name in sorted(file_names) if not _is_hidden(Path(name))]


def _check_unlabeled(folder: Path, image_files: list[ImageFile]) -> None:
    if not any(image_file.part == 0 for image_file in image_files):
        raise ValueError(
            f"{folder}: expected pictures ({' '.join(readable_suffixes())}) in it or in its "
            f"sub-folders, found {len(image_files)} to train on"
        )


def _check_memory(folder: Path, count: int, side: int) -> None:
    """Raise if the images, once as they are kept and once as they are selected, do not fit."""
    needed = 2 * count * 3 * side**2
    memory = _memory()
    if memory is not None and needed > memory:
        raise ValueError(
            f"{folder}: expected pictures for which the {memory / 1e9:.1f} GB of memory of this "
            f"machine are enough, found {count:,} that take {needed / 1e9:.1f} GB at "
            f"{side} x {side} pixels; choose a smaller side, or a folder with fewer pictures"
        )


def _memory() -> int | None:
    """Return the bytes of memory that this machine has, or None where nobody says."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None


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
            "; where nothing says the class, unlabeled=True (pretrain --unlabeled) reads them all"
        )


def decode(image_files: Sequence[Path | io.BytesIO], *, side: int = SIDE) -> np.ndarray:
    """Decode images on all cores, with a progress bar where there are many.

    Args:
        image_files: Paths, or files in memory; one or more.
        side: Height and width of the result, in pixels.

    Returns:
        (N, 3, side, side), uint8: of each image the square in the middle, resized.

    Raises:
        ValueError: Files are no images, or too large ones. The message names them.
    """
    images, _ = _decode_all(image_files, skip_damaged=False, side=side)
    return images


def _decode_all(
    image_files: Sequence[Path | io.BytesIO], *, skip_damaged: bool, side: int = SIDE
) -> tuple[np.ndarray, list[bool]]:
    """Return the images (n, 3, side, side) that could be decoded, and whether each file could."""
    starts = range(0, len(image_files), CHUNK)
    chunks = [image_files[start : start + CHUNK] for start in starts]
    # One array, filled as they come: a list beside it would need the memory twice.
    images = np.empty((len(image_files), 3, side, side), np.uint8)
    is_whole = []
    faults = []
    with ThreadPoolExecutor() as pool:
        few = len(chunks) < 20
        progress = Progress("reading pictures", len(image_files), unit="picture", silent=few)
        for chunk in pool.map(partial(_decode_chunk, side=side), chunks):
            for result in chunk:
                is_image = isinstance(result, np.ndarray)
                if is_image:
                    images[len(is_whole)] = result.transpose(2, 0, 1)
                else:
                    faults.append(result)
                is_whole.append(is_image)
            progress.show(len(is_whole))
        progress.close()
    if faults and (not skip_damaged or len(faults) == len(is_whole)):
        raise ValueError(
            f"{_listed(faults)}; repair them or take them away, or load with skip_damaged=True"
        )
    if faults:
        warnings.warn(f"damaged files skipped: {_listed(faults)}", stacklevel=6)
        images = images[np.array(is_whole)]
    return images, is_whole


def _listed(faults: list[str]) -> str:
    """Return the first faults in one line each, and how many more there are."""
    more = len(faults) - NAMES_SHOWN
    lines = faults[:NAMES_SHOWN]
    if more > 0:
        lines.append(f"and {more} more")
    return "\n".join(lines)


def _decode_chunk(image_files: Sequence[Path | io.BytesIO], side: int) -> list[np.ndarray | str]:
    return [_decode_one(file, side) for file in image_files]


def _decode_one(file: Path | io.BytesIO, side: int) -> np.ndarray | str:
    """Return (side, side, 3), uint8, or a sentence about what is wrong with the file."""
    try:
        content = file.read_bytes() if isinstance(file, Path) else file.getvalue()
        return image_file.read_square(content, side)
    except image_file.NotAnImage as error:
        return f"{file}: expected a picture, {error}"
    except (OSError, image_file.Unreadable) as error:
        return f"{file}: expected a picture, found {error}"
