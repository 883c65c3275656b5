"""Pictures for the lessons, each data set one uint8 tensor in memory. N pictures, H = W = 32 pixels."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SPLITS = ("train", "test", "val")
ON_DISK = {
    "cifar10": ("cifar-10-batches-py", "cifar10", "cifar10.npz", "cifar-10-python.tar.gz"),
    "pneumonia": ("pneumoniamnist.npz", Path.home() / ".medmnist" / "pneumoniamnist.npz"),
}


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
        where = torch.arange(len(self))[
            index.cpu() if isinstance(index, Tensor) else index
        ].reshape(-1)
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
        raise ValueError(
            f"size: expected a whole number of 1 or more, or None for all pictures, found {size!r}"
        )
    if name == "shapes":
        from replearn.data import shapes

        return shapes.render(
            size or 10_000, seed=2 * seed + (split == "test"), **options
        )  # no seed is in both splits
    from replearn.data import folder as files

    sources = {"digits": _digits, "cifar10": files.cifar10, "pneumonia": _pneumonia}
    if name not in sources and not (
        isinstance(name, str | Path) and Path(name).expanduser().is_dir()
    ):
        raise ValueError(
            f"name: expected shapes, digits, cifar10, pneumonia or a folder of pictures, found {name!r}"
        )
    if options:
        raise TypeError(f"{name}: expected no further options, found {sorted(options)}")
    read = sources.get(name) or (lambda: files.read_folder(Path(name).expanduser().resolve()))
    images, labels, part, names = read()
    index, labels = np.flatnonzero(part == SPLITS.index(split)), labels.astype(np.int64)
    if len(index) < (size or 1):
        raise ValueError(
            f"{name}: expected {size or 1} or more pictures in the {split} split, found {len(index)}"
        )
    if size is not None:
        y = labels[index]
        index = index[np.argsort((place(y, seed) + 0.5) / np.bincount(y)[y], kind="stable")[:size]]
    return ImageSet(
        torch.from_numpy(images[index]).contiguous(), torch.from_numpy(labels[index]), names
    )


def place(labels, seed):
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
    images = (
        torch.nn.functional.interpolate(images, size=32, mode="bilinear").round().to(torch.uint8)
    )
    return images.numpy().repeat(3, axis=1), labels, place(labels, 0) % 5 == 1, tuple("0123456789")


def _pneumonia():
    path = next(
        (
            cache_folder() / file
            for file in ON_DISK["pneumonia"]
            if (cache_folder() / file).exists()
        ),
        None,
    )
    if path is None:
        raise OSError(
            f"pneumonia: expected pneumoniamnist.npz in {cache_folder()}, found none; copy it there, or run "
            """python -c "import medmnist; medmnist.PneumoniaMNIST('train', download=True)"."""
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            images = np.concatenate([file[f"{split}_images"] for split in SPLITS])  # (N, 28, 28)
            labels = [file[f"{split}_labels"].reshape(-1) for split in SPLITS]
        images = np.pad(images, ((0, 0), (2, 2), (2, 2)), mode="edge")[:, None].repeat(3, axis=1)
    except Exception as error:
        raise ValueError(
            f"{path}: expected MedMNIST's arrays, found it damaged ({error}); replace it"
        ) from error
    return (
        images,
        np.concatenate(labels),
        np.repeat(range(3), [len(y) for y in labels]),
        ("normal", "pneumonia"),
    )
