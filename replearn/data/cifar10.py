"""CIFAR-10 in whichever form it is on the disk, or else downloaded: 60,000 photographs, 10 classes.

References:
    Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from replearn._folders import cache_folder
from replearn.data.cache import cached
from replearn.data.download import NPM_FILE, TAR, download, remove_leftovers
from replearn.data.folder import decode, read_folder
from replearn.data.imageset import TEST, TRAIN, Arrays

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
BATCH_FOLDER = "cifar-10-batches-py"  # as torchvision unpacks it, and inside the tar
IMAGE_FOLDER = "cifar10"
CACHE_FILE = "cifar10.npz"
BATCHES = {  # torchvision's files and their MD5 sums
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


NPM_PARTS = {  # in npm's package: names of its images, and of its labels
    TRAIN: ([f"data_batch_{i}.png" for i in range(1, 6)], "train_lables.json"),
    TEST: (["test_batch.png"], "test_lables.json"),
}
NPM_SHA256 = {  # of all images, uint8 (60000, 3, 32, 32), and of all labels, uint8 (60000,)
    "images": "2ae5d6db0453753867541f0ccce0b648fcd0aaf596c0ca67c33dc03b3deaf283",
    "labels": "3edb456524d5918aefded81f5aef7c32efab2a788211df998a4eb0c8957baa1f",
}


def on_disk() -> bool:
    """Return whether the cache folder holds CIFAR-10 in one of the forms that `read` knows."""
    forms = (BATCH_FOLDER, IMAGE_FOLDER, CACHE_FILE, TAR, NPM_FILE)
    return any((cache_folder() / form).exists() for form in forms)


def read() -> Arrays:
    """Return CIFAR-10 from torchvision's batch files, a folder of images, our cache or a download.

    Raises:
        ValueError: Files are damaged.
        OSError: The download failed.
    """
    remove_leftovers(cache_folder())
    batch_folder = cache_folder() / BATCH_FOLDER
    if batch_folder.is_dir():
        return _from_batch_folder(batch_folder)
    image_folder = cache_folder() / IMAGE_FOLDER
    if image_folder.is_dir():
        return read_folder(image_folder)
    arrays = cached(CACHE_FILE, "", _downloaded)
    _check(arrays, cache_folder() / CACHE_FILE)
    return arrays


def _check(arrays: Arrays, path: Path) -> None:
    """Raise unless arrays from a file can be CIFAR-10, or a part of it."""
    shape = arrays.images.shape
    count = shape[0]
    is_right = (
        arrays.images.dtype == np.uint8
        and shape[1:] == (3, 32, 32)
        and arrays.labels.shape == arrays.part.shape == (count,)
        and arrays.labels.dtype.kind in "iu"
        and count > 0
        and 0 <= arrays.labels.min() <= arrays.labels.max() < len(CLASS_NAMES)
        and set(np.unique(arrays.part)) <= {TRAIN, TEST}
        and arrays.class_names == CLASS_NAMES
    )
    if not is_right:
        raise ValueError(
            f"{path}: expected CIFAR-10, uint8 (N, 3, 32, 32) with labels from 0 to 9, found "
            f"{arrays.images.dtype} {shape} with labels {arrays.labels.dtype} "
            f"{arrays.labels.shape}; delete it, and it is made anew"
        )


def _downloaded() -> Arrays:
    paths = download(cache_folder())
    if paths[0].name == NPM_FILE:
        return from_npm(*paths)
    if len(paths) == 1:
        return _from_tar(*paths)
    return _from_parquet(*paths)


def _from_batch_folder(folder: Path) -> Arrays:
    def read_file(name: str) -> bytes:
        path = folder / name
        return path.read_bytes() if path.exists() else b""  # nothing has the wrong checksum, too

    return _from_batches(folder, read_file)


def _from_tar(path: Path) -> Arrays:
    with tarfile.open(path) as tar:

        def read_member(name: str) -> bytes:
            # Read in memory: nothing is unpacked onto the disk.
            return tar.extractfile(f"{BATCH_FOLDER}/{name}").read()

        return _from_batches(path, read_member)


def _from_batches(source: Path, read_file: Callable[[str], bytes]) -> Arrays:
    """Return the images of torchvision's batch files.

    `read_file` returns the bytes of the batch file with a given name.
    """
    images = []
    labels = []
    part = []
    for name, md5 in BATCHES.items():
        raw = read_file(name)
        if hashlib.md5(raw, usedforsecurity=False).hexdigest() != md5:
            raise ValueError(
                f"{source}: expected torchvision's {name}, found it missing or damaged; "
                f"delete {source}"
            )
        # A pickle can run any code. This one is what was published, says its checksum.
        batch = pickle.loads(raw, encoding="latin1")
        images.append(batch["data"])  # (n, 3072)
        labels.append(batch["labels"])
        part.append(np.full(len(batch["labels"]), TEST if name == "test_batch" else TRAIN))
    return Arrays(
        np.concatenate(images).reshape(-1, 3, 32, 32),
        np.concatenate(labels),
        np.concatenate(part),
        CLASS_NAMES,
    )


def _from_parquet(train_path: Path, test_path: Path) -> Arrays:
    """Return the images of the copy on Hugging Face: tables of PNG files."""
    from pyarrow.parquet import read_table

    train = read_table(train_path).to_pydict()
    test = read_table(test_path).to_pydict()
    images = decode([io.BytesIO(image["bytes"]) for image in train["img"] + test["img"]])
    labels = np.array(train["label"] + test["label"])
    part = np.repeat((TRAIN, TEST), (len(train["label"]), len(test["label"])))
    return Arrays(images, labels, part, CLASS_NAMES)


def from_npm(path: Path) -> Arrays:
    """Return the images of npm's package: six PNG files, in which every row is an image.

    Args:
        path: The package, as `replearn.data.download.pack` fetches it.

    Returns:
        CIFAR-10 in its official order.

    Raises:
        ValueError: It is something else.
    """
    from PIL import Image  # only this source needs it

    images = []
    labels = []
    part = []
    with tarfile.open(path) as tar:
        for number, (names, labels_name) in NPM_PARTS.items():
            for name in names:
                with Image.open(tar.extractfile(f"package/{name}")) as file:
                    rows = np.asarray(file.convert("RGB"))  # (10000, 1024, 3)
                images.append(rows.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))
            of_part = json.load(tar.extractfile(f"package/{labels_name}"))
            labels.append(np.array(of_part, np.uint8))
            part.append(np.full(len(of_part), number))
    arrays = {"images": np.concatenate(images), "labels": np.concatenate(labels)}
    for name, array in arrays.items():
        if hashlib.sha256(array.tobytes()).hexdigest() != NPM_SHA256[name]:
            raise ValueError(
                f"{path}: expected the {name} of CIFAR-10, found others; delete {path}"
            )
    return Arrays(
        arrays["images"], arrays["labels"].astype(np.int64), np.concatenate(part), CLASS_NAMES
    )
