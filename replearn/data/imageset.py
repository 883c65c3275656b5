"""What a data set is, and how one is loaded by its name.

Shapes: N images of 3 channels, H = W = 32 pixels if nothing else is asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from replearn._command import did_you_mean

SPLITS = ("train", "test", "val")
TRAIN = SPLITS.index("train")
TEST = SPLITS.index("test")
SIDE = 32  # pixels, where nothing else is asked for
LEAST_SIDE = 16
MOST_SIDE = 512


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their labels, and what else is known about each of them.

    Attributes:
        images: (N, 3, H, W), uint8.
        labels: (N,), int64, indexes into `class_names`; None where nobody says the classes.
        class_names: One name for each class; none without labels.
        factors: What the images were drawn from, where that is known: a name and its values (N,).
        captions: One sentence for each image, or none at all.

    Example:
        >>> images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
        >>> pets = ImageSet(images, torch.tensor([0, 1, 1, 0]), ("cat", "dog"))
        >>> pets.subset(pets.labels == 1).labels
        tensor([1, 1])
    """

    images: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]
    factors: dict[str, Tensor] = field(default_factory=dict)
    captions: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, index: int | slice | Sequence[int] | np.ndarray | Tensor) -> "ImageSet":
        """Return some of the images with all that belongs to them.

        Args:
            index: A slice, a mask (N,), or one or more indexes, in any order.

        Returns:
            A new set. Its tensors are copies, on the same device.

        Raises:
            IndexError: An index is out of range.
        """
        if isinstance(index, Tensor):
            index = index.cpu()
        rows = torch.arange(len(self))[index].reshape(-1)
        captions = tuple(self.captions[row] for row in rows.tolist()) if self.captions else ()

        def select(x: Tensor) -> Tensor:
            return x[rows.to(x.device)]

        return self._map(select, captions)

    def to(self, device: str | torch.device) -> "ImageSet":
        """Return the same images, labels and factors on another device.

        Args:
            device: Where the tensors go.

        Returns:
            A new set. Tensors that are on this device already are shared with the old one.
        """

        def move(x: Tensor) -> Tensor:
            return x.to(device)

        return self._map(move, self.captions)

    def require_labels(self, name: str) -> Tensor:
        """Return the labels, for what cannot do without them.

        Args:
            name: What the error calls the set.

        Returns:
            The labels (N,).

        Raises:
            ValueError: There are none.

        Example:
            >>> ImageSet(torch.zeros(4, 3, 32, 32), None, ()).require_labels("test")
            Traceback (most recent call last):
            ValueError: test: expected pictures with labels, found 4 without; load a folder with ...
        """
        if self.labels is None:
            raise ValueError(
                f"{name}: expected pictures with labels, found {len(self):,} without; load a "
                "folder with a sub-folder for each class"
            )
        return self.labels

    @property
    def chance(self) -> float:
        """What guessing gets right: the share of the most frequent class, a fraction.

        Example:
            >>> ImageSet(torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 1, 1]), ("a", "b")).chance
            0.75
        """
        labels = self.require_labels("chance")
        return labels.bincount().max().item() / len(labels)

    def _map(self, change: Callable[[Tensor], Tensor], captions: tuple[str, ...]) -> "ImageSet":
        factors = {name: change(values) for name, values in self.factors.items()}
        labels = None if self.labels is None else change(self.labels)
        return ImageSet(change(self.images), labels, self.class_names, factors, captions)


class Arrays(NamedTuple):
    """What a source returns: a whole data set, all of its splits together.

    Attributes:
        images: (N, 3, side, side), uint8.
        labels: (N,), integers, indexes into `class_names`; 0 without meaning if there are none.
        part: (N,), which split an image belongs to, as an index into `SPLITS`.
        class_names: One name for each class; none if nobody says the classes.
    """

    images: np.ndarray
    labels: np.ndarray
    part: np.ndarray
    class_names: tuple[str, ...]


def _sources() -> dict[str, ModuleType]:
    """Return the modules of the data sets that are read, each with `read()` and `on_disk()`.

    They import this module, so this module imports them late.
    """
    from replearn.data import cifar10, digits, pneumonia

    return {"digits": digits, "cifar10": cifar10, "pneumonia": pneumonia}


def _is_folder(name: object) -> bool:
    if not isinstance(name, str | Path) or name == "":  # Path("") would be the working folder
        return False
    try:
        return Path(name).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # too long, the home of nobody, no path at all
        return False


def available(name: str | Path) -> bool:
    """Return whether `load(name)` needs no network.

    Args:
        name: As in `load`.

    Returns:
        True where the images are drawn, are on the disk, or come with an installed package. False
        also for a name that `load` does not know.

    Example:
        >>> available("shapes")
        True
    """
    if name == "shapes":
        return True
    sources = _sources()
    if name in sources:
        return sources[name].on_disk()
    return _is_folder(name)


def load(
    name: str | Path,
    *,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    skip_damaged: bool = False,
    side: int = SIDE,
    unlabeled: bool = False,
    **options: float,
) -> ImageSet:
    """Return one split of a data set, as RGB images of 32 x 32 pixels or another size.

    The data sets are "shapes" (drawn), "digits" (scikit-learn's scans), "cifar10" (photographs,
    downloaded where they are not on the disk), "pneumonia" (MedMNIST's chest X-rays, which have
    to be on the disk), and your own images in a folder. A folder holds
    ``{train,test}/<class>/*``, with or without a ``val/`` beside them, or ``<class>/*``; in the
    second case a fixed fifth of each class is the test split.

    Args:
        name: One of these names, or the path of a folder.
        split: "train" or "test"; "pneumonia" has a "val", too, and a folder may have one.
        size: How many images, 1 or more. None stands for all of them, and for 10,000 shapes.
        seed: Which images a `size` below all selects, and which shapes are drawn. Each class gets
            its share of the selection, and of any first part of it.
        skip_damaged: Of a folder: whether files that cannot be decoded are left out with a
            warning. Without it they are an error that lists them.
        side: Height and width of the images in pixels, 16 to 512. A folder and "shapes" have
            images of any size, the others of 32 pixels only.
        unlabeled: Of a folder: whether all images at any depth are read, without labels. All of
            them are for training; only ``test/`` and ``val/`` beside ``train/`` are splits of
            their own.
        **options: Passed on to `replearn.data.shapes.render`; other data sets take none.

    Returns:
        The images with labels and class names; shapes also have factors and captions.

    Raises:
        ValueError: The name, the split, the size or the side is not one of these, the data set is
            smaller than `size`, or files are damaged.
        TypeError: There are options for a data set that takes none.
        OSError: The download failed, or the files have to be copied by hand; the message says how.

    Example:
        >>> shapes = load("shapes", size=4)
        >>> shapes.images.shape
        torch.Size([4, 3, 32, 32])
    """
    sources = _sources()
    is_folder = name != "shapes" and name not in sources and _is_folder(name)
    splits = SPLITS if name == "pneumonia" or is_folder else SPLITS[:2]
    if split not in splits:
        raise ValueError(f"split: expected one of {splits}, found {split!r}")
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ValueError(
            f"size: expected a whole number of 1 or more, or None for all pictures, found {size!r}"
        )
    if not isinstance(side, int) or not LEAST_SIDE <= side <= MOST_SIDE:
        raise ValueError(
            f"side: expected a whole number of pixels from {LEAST_SIDE} to {MOST_SIDE}, found "
            f"{side!r}"
        )
    if unlabeled and not is_folder:
        raise ValueError(f"unlabeled: expected the path of a folder of pictures, found {name!r}")
    if name == "shapes":
        from replearn.data import shapes

        # Even seeds draw training images and odd ones test images, so that no image is in both.
        shapes_seed = 2 * seed + (1 if split == "test" else 0)
        if side != SIDE:
            options["side"] = side
        return shapes.render(size or 10_000, seed=shapes_seed, **options)

    if name not in sources and not is_folder:
        raise ValueError(
            "name: expected shapes, digits, cifar10, pneumonia or a folder of pictures, "
            f"found {str(name)!r}{did_you_mean(str(name), ('shapes', *sources))}"
        )
    if options:
        raise TypeError(f"{name}: expected no further options, found {sorted(options)}")
    if name in sources:
        if side != SIDE:
            raise ValueError(
                f"side: expected {SIDE}, the size of the pictures of {name}, found {side}; a "
                "folder of pictures and shapes have any"
            )
        arrays = sources[name].read()
    else:
        from replearn.data.folder import read_folder

        folder = Path(name).expanduser().resolve()
        arrays = read_folder(folder, skip_damaged=skip_damaged, side=side, unlabeled=unlabeled)
    return _select(name, arrays, split, size, seed)


def _select(name: str | Path, arrays: Arrays, split: str, size: int | None, seed: int) -> ImageSet:
    """Return `size` images of a split (all of it for None)."""
    index = np.flatnonzero(arrays.part == SPLITS.index(split))
    labels = arrays.labels.astype(np.int64)
    least = size or 1
    if len(index) < least:
        raise ValueError(
            f"{name}: expected {least} or more pictures in the {split} split, found {len(index)}"
        )
    if size is not None:
        order = stratified_order(labels[index], seed)
        index = index[order[:size]]
    images = torch.from_numpy(arrays.images[index]).contiguous()
    if not arrays.class_names:
        return ImageSet(images, None, ())
    return ImageSet(images, torch.from_numpy(labels[index]), arrays.class_names)


def rank_in_class(labels: np.ndarray, seed: int | Sequence[int]) -> np.ndarray:
    """Return the rank of each image in its class after a shuffle.

    The images with rank 0 to n - 1 are a random selection of n images of each class.

    Args:
        labels: (N,), integers, 0 or more.
        seed: Of the shuffle, as `numpy.random.default_rng` takes it.

    Returns:
        (N,): 0, 1, 2, ... in each class.

    Example:
        >>> ranks = rank_in_class(np.array([3, 3, 5, 3]), seed=0)
        >>> sorted(ranks[[0, 1, 3]].tolist()), ranks[2].item()
        ([0, 1, 2], 0)
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    shuffled_labels = labels[shuffled]
    rank = np.empty(len(labels), dtype=np.int64)
    present = np.flatnonzero(np.bincount(labels))  # much quicker than np.unique
    for label in present:
        members = shuffled[shuffled_labels == label]
        rank[members] = np.arange(len(members))
    return rank


def stratified_order(labels: np.ndarray, seed: int | Sequence[int]) -> np.ndarray:
    """Return all indexes, shuffled, so that each class has its share of any first part.

    Args:
        labels: (N,), integers, 0 or more.
        seed: Of the shuffle, as `numpy.random.default_rng` takes it.

    Returns:
        (N,): the numbers 0 to N - 1 in this order.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1])
        >>> labels[stratified_order(labels, seed=0)]
        array([0, 1, 0, 0, 1, 0])
    """
    counts = np.bincount(labels)
    position = (rank_in_class(labels, seed) + 0.5) / counts[labels]  # in its class, between 0 and 1
    return np.argsort(position, kind="stable")


def fixed_fifth(labels: np.ndarray) -> np.ndarray:
    """Return the parts of a data set that comes without splits: a fifth of each class is for tests.

    Args:
        labels: (N,), integers, 0 or more.

    Returns:
        (N,): `TRAIN` or `TEST`, the same in each call. A class of one image has it in `TRAIN`.

    Example:
        >>> np.bincount(fixed_fifth(np.zeros(10, dtype=int)))
        array([8, 2])
    """
    return np.where(rank_in_class(labels, 0) % 5 == 1, TEST, TRAIN)
