"""How soon views are there: the package's images in memory against a DataLoader with lightly.

Run: python benchmarks/loader.py      (two minutes, 1 GB of memory; writes results/loader.json)
Seconds from asking for the images until batch 1, 4 and 16 of two views is there: from CIFAR-10 in
torchvision's files, from a folder of images (which the package decodes the first time, and keeps),
and at the start of a later epoch, images in memory, where a DataLoader starts its workers again
unless they are kept. The batches are those of lightly's CIFAR-10 recipe, 128 images, on two
threads, DataLoaders with 0 or 2 worker processes beside them. The files are made here, in a
temporary folder, of drawn images, as large as CIFAR-10's; both sides compute their checksums, as
always. Imports are not counted. Exits with an error if the two sides find different images.
"""

import hashlib
import itertools
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from shared import against, options, record, show_turn
from step import OURS, TRANSFORM, PILImages, label, loader_of, views_of
from torchvision.datasets import CIFAR10
from torchvision.transforms.functional import to_pil_image

from replearn import data
from replearn.data import cifar10
from replearn.pretrain import LIGHTLY

MARKS = (1, 4, 16)  # batches
BATCH_FILE_ROWS = 10_000  # images in one of CIFAR-10's files
MEMORY_ROWS = 2048  # images of the later epoch

Start = Callable[[], Iterable]  # starts batches of views


# --- the files
# -------------------------------------------------------------------------------------


def write_cifar10(folder: Path, images: torch.Tensor) -> None:
    """Write CIFAR-10's files with other images, and tell both readers these files' checksums."""
    batches = folder / CIFAR10.base_folder
    batches.mkdir()
    repeats = 1 + BATCH_FILE_ROWS // len(images)
    rows = images.flatten(1).repeat(repeats, 1)[:BATCH_FILE_ROWS].numpy()
    labels = [i % 10 for i in range(BATCH_FILE_ROWS)]
    contents = {name: pickle.dumps({"data": rows, "labels": labels}) for name in cifar10.BATCHES}
    contents["batches.meta"] = pickle.dumps({"label_names": list(cifar10.CLASS_NAMES)})

    checksums = {}
    for name, content in contents.items():
        (batches / name).write_bytes(content)
        checksums[name] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    for name in cifar10.BATCHES:
        cifar10.BATCHES[name] = checksums[name]
    *train_names, test_name = cifar10.BATCHES
    CIFAR10.train_list = [[name, checksums[name]] for name in train_names]
    CIFAR10.test_list = [[test_name, checksums[test_name]]]
    CIFAR10.meta = CIFAR10.meta | {"md5": checksums["batches.meta"]}


def write_folder(folder: Path, image_set: data.ImageSet) -> None:
    """Write PNG files, every tenth into the test split."""
    labels = image_set.labels.tolist()
    for i, image in enumerate(image_set.images):
        split = "train" if i % 10 else "test"
        path = folder / split / image_set.class_names[labels[i]] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(image).save(path)


def read_by_both(folder: Path) -> torch.Tensor:
    """Return the training images; exit unless both readers find the same."""
    ours = data.load("cifar10").images
    theirs = torch.from_numpy(CIFAR10(folder).data).permute(0, 3, 1, 2)
    if not torch.equal(ours, theirs):
        sys.exit("expected the same images from replearn and torchvision, found other ones")
    return ours


# --- the measurement
# -------------------------------------------------------------------------------


def seconds_to_batches(start: Start, count: int) -> list[float]:
    """Start batches; return the seconds until each of the first `count` is there."""
    began = time.perf_counter()
    batches = itertools.islice(start(), count)
    return [time.perf_counter() - began for _ in batches]


def measure(starts: Mapping[str, Start], turns: int) -> dict[str, list[dict]]:
    """Time all starts by turns; return `{name: a row for each of MARKS}`."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in starts}
    for turn in range(turns + 1):  # the first warms up
        for name, start in starts.items():
            seconds_of_turn = seconds_to_batches(start, MARKS[-1])
            if turn > 0:
                seconds[name].append(seconds_of_turn)
            show_turn(turn, turns, name)
    print(file=sys.stderr)
    curves: dict[str, list[dict]] = {name: [] for name in starts}
    for mark in MARKS:
        until_mark = {name: [turn[mark - 1] for turn in seconds[name]] for name in starts}
        for name, row in against(until_mark, OURS).items():
            curves[name].append({"at": mark, **row})
    return curves


def our_views(name: str | Path) -> Iterable:
    """Load images, and start batches of views."""
    return views_of(LIGHTLY, data.load(name).images)


def their_views(make_dataset: Callable[[], Any], workers: int) -> Iterable:
    """Make a data set, and start batches by lightly's recipe."""
    return loader_of(make_dataset(), LIGHTLY.batch_size, workers)


def loaders(make_dataset: Callable[[], Any]) -> dict[str, Start]:
    """Return lightly's side with 0 and 2 workers."""
    return {label(n): partial(their_views, make_dataset, n) for n in (0, 2)}


def measure_all(folder: Path, count: int, turns: int) -> dict[str, dict[str, list[dict]]]:
    """Write the files and time all starts: `{what: {name: rows}}`."""
    from lightly.data import LightlyDataset

    image_set = data.load("shapes", size=count)
    images_folder = folder / "pictures"
    write_cifar10(folder, image_set.images)
    write_folder(images_folder, image_set)
    images = read_by_both(folder)[:MEMORY_ROWS]
    in_memory = PILImages(images)
    kept = loader_of(in_memory, LIGHTLY.batch_size, 2, persistent=True)

    def first_time() -> Iterable:
        for cache in folder.glob("*.npz"):
            cache.unlink()
        return our_views(images_folder)

    def kept_loader() -> Iterable:
        return kept

    def memory_dataset() -> PILImages:
        return in_memory

    torchvision_files = partial(CIFAR10, folder, transform=TRANSFORM)
    lightly_folder = partial(LightlyDataset, str(images_folder / "train"), transform=TRANSFORM)
    starts: dict[str, dict[str, Start]] = {
        "CIFAR-10, torchvision's files": {
            OURS: partial(our_views, "cifar10"),
            **loaders(torchvision_files),
        },
        f"a folder of {count:,} pictures": {
            OURS: partial(our_views, images_folder),
            "replearn, the first time": first_time,
            **loaders(lightly_folder),
        },
        "a later epoch, 2,048 pictures in memory": {
            OURS: partial(views_of, LIGHTLY, images),
            **loaders(memory_dataset),
            f"{label(2)}, kept": kept_loader,
        },
    }
    return {what: measure(starts_of_one, turns) for what, starts_of_one in starts.items()}


def panels_of(measured: Mapping[str, Mapping[str, Sequence]]) -> list[dict[str, Any]]:
    """Return a panel for each source of images."""
    return [
        {
            "title": f"From asking for pictures to views: {what}",
            "size": "batches of 128 pictures, two views each",
            "unit": "seconds until they are there",
            "ours": OURS,
            "curves": curves,
        }
        for what, curves in measured.items()
    ]


def main() -> None:
    """Run the benchmark, print and write the result."""
    parser = options(__doc__, turns=2, threads=2)
    parser.add_argument(
        "--pictures",
        type=int,
        default=10_000,
        help="in the folder, a tenth of them for tests; 2,400 or more, for 16 batches",
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["REPLEARN_DATA"] = folder
        measured = measure_all(Path(folder), args.pictures, args.turns)
    record(
        "loader",
        "How long does it take until the first views are there, and the next ones?",
        panels_of(measured),
        packages=("torchvision", "lightly", "pillow"),
        path=args.out,
    )


if __name__ == "__main__":
    main()
