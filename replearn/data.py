"""Pictures for the lessons, each data set one uint8 tensor in memory. N pictures, H = W = 32 pixels."""

import hashlib
import io
import os
import pickle
import sys
import tarfile
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SPLITS = ("train", "test", "val")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {  # torchvision's files and their MD5 sums
    "data_batch_1": "c99cafc152244af753f735de768cd75f", "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751", "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb", "test_batch": "40351d587109b95175f43aff81a1287e"}
ON_DISK = {"cifar10": ("cifar-10-batches-py", "cifar10", "cifar10.npz", "cifar-10-python.tar.gz"),
           "pneumonia": ("pneumoniamnist.npz", Path.home() / ".medmnist" / "pneumoniamnist.npz")}
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
MAX_PIXELS = 50_000_000  # a larger picture is refused: a small file can unpack to gigabytes


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Pictures: uint8 images (N, 3, H, W), int64 labels (N,), class names, factors (each (N,)) and captions."""

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    factors: dict[str, Tensor] = field(default_factory=dict)
    captions: tuple[str, ...] = ()

    def __len__(self):
        return len(self.images)

    def subset(self, index):
        """Return some of the pictures; `index` is a slice, or a list or tensor of indexes, or a mask."""
        where = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index].reshape(-1)
        captions = tuple(self.captions[i] for i in where.tolist()) if self.captions else ()
        return self._map(lambda x: x[where.to(x.device)], captions)

    def to(self, device):
        """Return the same pictures, labels and factors on another device."""
        return self._map(lambda x: x.to(device), self.captions)

    def _map(self, f, captions):
        factors = {name: f(values) for name, values in self.factors.items()}
        return ImageSet(f(self.images), f(self.labels), self.class_names, factors, captions)


def cache_folder():
    """Return the folder for data sets: $REPLEARN_DATA, or `replearn` in the platform's cache folder."""
    home = {"win32": "~/AppData/Local", "darwin": "~/Library/Caches"}.get(sys.platform, "~/.cache")
    base = Path(os.environ.get("XDG_CACHE_HOME") or home) / "replearn"
    return Path(os.environ.get("REPLEARN_DATA") or base).expanduser()


def available(name):
    """Return whether `load(name)` needs no network: its pictures are on disk, or come with a package."""
    found = any((cache_folder() / file).exists() for file in ON_DISK.get(str(name), ()))
    return found or name in ("shapes", "digits") or Path(name).expanduser().is_dir()


def load(name, *, split="train", size=None, seed=0, **options):
    """Return "shapes", "digits", "cifar10", "pneumonia" or a folder of pictures (its path) as an ImageSet, 32 x 32 RGB.

    A folder holds {train,test}/<class>/* or <class>/* (then a fixed fifth of each class is the test split).
    size: how many (None: all; shapes: 10,000), drawn by `seed`, each class in its share, also in any first part.
    options: for `shapes.render`. Raises ValueError for bad input, OSError where a download fails.
    """
    if split not in (splits := SPLITS if name == "pneumonia" else SPLITS[:2]):
        raise ValueError(f"split: expected one of {splits}, found {split!r}")
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ValueError(f"size: expected a whole number of 1 or more, or None for all pictures, found {size!r}")
    if name == "shapes":
        from replearn import shapes

        return shapes.render(size or 10_000, seed=2 * seed + (split == "test"), **options)  # no seed is in both splits
    sources = {"digits": _digits, "cifar10": _cifar10, "pneumonia": _pneumonia}
    if name not in sources and not (isinstance(name, str | Path) and Path(name).expanduser().is_dir()):
        raise ValueError(f"name: expected shapes, digits, cifar10, pneumonia or a folder of pictures, found {name!r}")
    if options:
        raise TypeError(f"{name}: expected no further options, found {sorted(options)}")
    images, labels, part, names = sources[name]() if name in sources else _folder(Path(name).expanduser().resolve())
    index, labels = np.flatnonzero(part == SPLITS.index(split)), labels.astype(np.int64)
    if len(index) < (size or 1):
        raise ValueError(f"{name}: expected {size or 1} or more pictures in the {split} split, found {len(index)}")
    if size is not None:
        y = labels[index]
        index = index[np.argsort((_place(y, seed) + 0.5) / np.bincount(y)[y], kind="stable")[:size]]
    return ImageSet(torch.from_numpy(images[index]).contiguous(), torch.from_numpy(labels[index]), names)


def _place(labels, seed):
    """Return each picture's place (0, 1, ...) in its class after a seeded shuffle."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # class after class, shuffled within
    counts, place = np.bincount(labels), np.empty_like(labels)
    place[order] = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels[order]]
    return place


# Every source returns images uint8 (N, 3, 32, 32), labels int64 (N,), part (N,) (which of SPLITS) and class names.
def _digits():
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(scans * (255 / 16)).reshape(-1, 1, 8, 8)  # 17 levels of gray
    images = torch.nn.functional.interpolate(images, size=32, mode="bilinear").round().to(torch.uint8)
    return images.numpy().repeat(3, axis=1), labels, _place(labels, 0) % 5 == 1, tuple("0123456789")


def _pneumonia():
    path = next((cache_folder() / file for file in ON_DISK["pneumonia"] if (cache_folder() / file).exists()), None)
    if path is None:
        raise OSError(f"pneumonia: expected pneumoniamnist.npz in {cache_folder()}, found none; copy it there, or run "
                      """python -c "import medmnist; medmnist.PneumoniaMNIST('train', download=True)".""")
    try:
        with np.load(path, allow_pickle=False) as file:
            images = np.concatenate([file[f"{split}_images"] for split in SPLITS])  # (N, 28, 28)
            labels = [file[f"{split}_labels"].reshape(-1) for split in SPLITS]
        images = np.pad(images, ((0, 0), (2, 2), (2, 2)), mode="edge")[:, None].repeat(3, axis=1)
    except Exception as error:
        raise ValueError(f"{path}: expected MedMNIST's arrays, found it damaged ({error}); replace it") from error
    return images, np.concatenate(labels), np.repeat(range(3), [len(y) for y in labels]), ("normal", "pneumonia")


def _cifar10():
    folder = cache_folder()
    if (batches := folder / "cifar-10-batches-py").is_dir():
        return _batches(batches, lambda name: b"".join(path.read_bytes() for path in batches.glob(name)))
    return _folder(folder / "cifar10") if (folder / "cifar10").is_dir() else _cached("cifar10.npz", "", _downloaded)


def _batches(source, read):
    batches = []
    for name, md5 in BATCHES.items():
        raw = read(name)
        if hashlib.md5(raw, usedforsecurity=False).hexdigest() != md5:
            raise ValueError(f"{source}: expected torchvision's {name}, found it missing or damaged; delete {source}")
        batches.append(pickle.loads(raw, encoding="latin1"))  # could run any code, were it not for the checksum
    images, labels = (np.concatenate([batch[key] for batch in batches]) for key in ("data", "labels"))
    return images.reshape(-1, 3, 32, 32), labels, np.arange(len(labels)) >= len(labels) * 5 // 6, CIFAR10


def _downloaded():
    from replearn._download import download

    path, *others = download(cache_folder())
    if not others:
        with tarfile.open(path) as tar:  # read in memory: nothing is unpacked onto the disk
            return _batches(path, lambda name: tar.extractfile(f"cifar-10-batches-py/{name}").read())
    from pyarrow.parquet import read_table

    train, test = (read_table(file).to_pydict() for file in (path, *others))
    images = _decode([io.BytesIO(picture["bytes"]) for picture in train["img"] + test["img"]])
    labels = np.array(train["label"] + test["label"])
    return images, labels, np.arange(len(labels)) >= len(train["label"]), CIFAR10


def _folder(folder):
    roots = SPLITS[:2] if all((folder / name).is_dir() for name in SPLITS[:2]) else (".",)
    kinds = [{path.name for path in (folder / root).glob("[!.]*") if path.is_dir()} for root in roots]
    files = sorted((part, path.parent.name, path.name, (stat := path.stat()).st_size, stat.st_mtime_ns)
                   for part, root in enumerate(roots) for path in (folder / root).glob("[!.]*/[!.]*")
                   if path.suffix.lower() in SUFFIXES)
    found = [{file[1] for file in files if file[0] == part} for part in range(len(roots))]
    if found != kinds or len(found[0]) < 2 or not found[0] >= found[-1] > set():
        raise ValueError(f"{folder}: expected pictures ({' '.join(SUFFIXES)}) in every <class>/ or train/<class>/ and "
                         f"test/<class>/, two classes or more, test ones also in train; found the folders "
                         f"{[sorted(names) for names in kinds]}, and pictures in {[sorted(names) for names in found]}")
    key = hashlib.sha256(repr(files).encode()).hexdigest()  # a picture that changes, comes or goes changes it
    files = [files[i] for i in np.random.default_rng(0).permutation(len(files))]  # so that a first part has all classes

    def read():
        names, labels = np.unique([file[1] for file in files], return_inverse=True)
        part = np.array([file[0] for file in files]) if len(roots) > 1 else _place(labels, 0) % 5 == 1
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
                    raise ValueError(f"{image.size} of mode {image.mode}: over {MAX_PIXELS:,} pixels, or over 8 bits")
                image.draft("RGB", (128, 128))  # a large JPEG is decoded at a fraction of its size, much faster
                return np.asarray(ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (32, 32)))  # center
        except Exception as error:
            raise ValueError(f"{file}: expected a picture, found {error}; repair it or take it away") from error

    chunks = [files[start : start + 100] for start in range(0, len(files), 100)]  # one by one, threads mostly wait
    with ThreadPoolExecutor() as pool:
        done = pool.map(lambda chunk: np.stack([picture(file) for file in chunk]), chunks)
        bar = tqdm(done, "reading pictures", len(chunks), unit_scale=100, disable=len(chunks) < 20)
        return np.concatenate(list(bar)).transpose(0, 3, 1, 2)


def _cached(name, key, read):
    path = cache_folder() / name
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
        with tempfile.TemporaryDirectory(dir=path.parent) as temp:  # whole or not at all, and no file is shared
            np.savez(Path(temp) / name, images=images, labels=labels, part=part, names=names, key=key)
            os.replace(Path(temp) / name, path)
    except OSError as error:
        warnings.warn(f"{path}: not written ({error}), so the next call takes as long", stacklevel=2)
    return images, labels, part, names
