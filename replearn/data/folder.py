"""Pictures from files: CIFAR-10 however it is on the disk, folders of pictures, and the cache of what was decoded.

Each function returns images uint8 (N, 3, 32, 32), labels (N,), part (N,), which of data.SPLITS, and the class names.
"""

import hashlib
import io
import os
import pickle
import tarfile
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from replearn import data

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {  # torchvision's files and their MD5 sums
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
MAX_PIXELS = 50_000_000  # a larger picture is refused: a small file can unpack to gigabytes


def cifar10():
    folder = data.cache_folder()
    if (batches := folder / "cifar-10-batches-py").is_dir():
        return _batches(
            batches, lambda name: b"".join(path.read_bytes() for path in batches.glob(name))
        )
    return (
        read_folder(folder / "cifar10")
        if (folder / "cifar10").is_dir()
        else _cached("cifar10.npz", "", _downloaded)
    )


def _batches(source, read):
    batches = []
    for name, md5 in BATCHES.items():
        raw = read(name)
        if hashlib.md5(raw, usedforsecurity=False).hexdigest() != md5:
            raise ValueError(
                f"{source}: expected torchvision's {name}, found it missing or damaged; delete {source}"
            )
        batches.append(
            pickle.loads(raw, encoding="latin1")
        )  # could run any code, were it not for the checksum
    images, labels = (
        np.concatenate([batch[key] for batch in batches]) for key in ("data", "labels")
    )
    return (
        images.reshape(-1, 3, 32, 32),
        labels,
        np.arange(len(labels)) >= len(labels) * 5 // 6,
        CIFAR10,
    )


def _downloaded():
    from replearn.data.download import download

    path, *others = download(data.cache_folder())
    if not others:
        with tarfile.open(path) as tar:  # read in memory: nothing is unpacked onto the disk
            return _batches(
                path, lambda name: tar.extractfile(f"cifar-10-batches-py/{name}").read()
            )
    from pyarrow.parquet import read_table

    train, test = (read_table(file).to_pydict() for file in (path, *others))
    images = _decode([io.BytesIO(picture["bytes"]) for picture in train["img"] + test["img"]])
    labels = np.array(train["label"] + test["label"])
    return images, labels, np.arange(len(labels)) >= len(train["label"]), CIFAR10


def read_folder(folder):
    roots = data.SPLITS[:2] if all((folder / name).is_dir() for name in data.SPLITS[:2]) else (".",)
    kinds = [
        {path.name for path in (folder / root).glob("[!.]*") if path.is_dir()} for root in roots
    ]
    files = sorted(
        (part, path.parent.name, path.name, (stat := path.stat()).st_size, stat.st_mtime_ns)
        for part, root in enumerate(roots)
        for path in (folder / root).glob("[!.]*/[!.]*")
        if path.suffix.lower() in SUFFIXES
    )
    found = [{file[1] for file in files if file[0] == part} for part in range(len(roots))]
    if found != kinds or len(found[0]) < 2 or not found[0] >= found[-1] > set():
        raise ValueError(
            f"{folder}: expected pictures ({' '.join(SUFFIXES)}) in every <class>/ or train/<class>/ and "
            f"test/<class>/, two classes or more, test ones also in train; found the folders "
            f"{[sorted(names) for names in kinds]}, and pictures in {[sorted(names) for names in found]}"
        )
    key = hashlib.sha256(
        repr(files).encode()
    ).hexdigest()  # a picture that changes, comes or goes changes it
    files = [
        files[i] for i in np.random.default_rng(0).permutation(len(files))
    ]  # so that a first part has all classes

    def read():
        names, labels = np.unique([file[1] for file in files], return_inverse=True)
        part = (
            np.array([file[0] for file in files])
            if len(roots) > 1
            else data.place(labels, 0) % 5 == 1
        )
        images = _decode([folder.joinpath(roots[file[0]], *file[1:3]) for file in files])
        return images, labels, part, tuple(names.tolist())

    return _cached(f"{folder.name}-{hashlib.sha256(bytes(folder)).hexdigest()[:8]}.npz", key, read)


def _decode(files):
    from PIL import Image, ImageOps
    from tqdm.auto import tqdm

    def picture(file):
        try:
            with Image.open(file) as image:
                if image.width * image.height > MAX_PIXELS or image.mode[0] in "IF":
                    raise ValueError(
                        f"{image.size} of mode {image.mode}: over {MAX_PIXELS:,} pixels, or over 8 bits"
                    )
                image.draft(
                    "RGB", (128, 128)
                )  # a large JPEG is decoded at a fraction of its size, much faster
                return np.asarray(
                    ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (32, 32))
                )  # center
        except Exception as error:
            raise ValueError(
                f"{file}: expected a picture, found {error}; repair it or take it away"
            ) from error

    chunks = [
        files[start : start + 100] for start in range(0, len(files), 100)
    ]  # one by one, threads mostly wait
    with ThreadPoolExecutor() as pool:
        done = pool.map(lambda chunk: np.stack([picture(file) for file in chunk]), chunks)
        bar = tqdm(done, "reading pictures", len(chunks), unit_scale=100, disable=len(chunks) < 20)
        return np.concatenate(list(bar)).transpose(0, 3, 1, 2)


def _cached(name, key, read):
    path = data.cache_folder() / name
    try:
        with np.load(path, allow_pickle=False) as kept:  # a zip file: a checksum guards each array
            if kept["key"] == key:
                return kept["images"], kept["labels"], kept["part"], tuple(kept["names"].tolist())
    except Exception as error:  # a cache is never a reason to fail
        if path.exists():
            warnings.warn(f"{path}: damaged, and made anew ({error})", stacklevel=2)
    images, labels, part, names = read()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=path.parent
        ) as temp:  # whole or not at all, and no file is shared
            np.savez(
                Path(temp) / name, images=images, labels=labels, part=part, names=names, key=key
            )
            os.replace(Path(temp) / name, path)
    except OSError as error:
        warnings.warn(
            f"{path}: not written ({error}), so the next call takes as long", stacklevel=2
        )
    return images, labels, part, names
