"""How soon views are there: the package's pictures in memory against a DataLoader with lightly's transform.

Run: python benchmarks/loader.py      (two minutes, 1 GB of memory; writes benchmarks/results/loader.json)
Seconds from asking for the pictures until batch 1, 4 and 16 of two views is there: from CIFAR-10 in torchvision's
files, from a folder of pictures (which the package decodes the first time, and keeps), and at the start of a later
epoch, pictures in memory, where a DataLoader starts its workers again unless they are kept. The batches are those of
lightly's CIFAR-10 recipe, 128 pictures, on two threads, DataLoaders with 0 or 2 worker processes beside them.
The files are made here, in a temporary folder, of drawn pictures, as large as CIFAR-10's; both sides compute their
checksums, as always. Imports are not counted. Exits with an error if the two sides find different pictures.
"""

import argparse
import hashlib
import os
import pickle
import sys
import tempfile
import time
from pathlib import Path

import torch
from shared import against, record
from step import OURS, TRANSFORM, Pictures, label, load, views_of
from torchvision.datasets import CIFAR10
from torchvision.transforms.functional import to_pil_image

from replearn import data
from replearn.data import cifar10
from replearn.pretrain import LIGHTLY


def write_cifar10(folder, images):
    """Write CIFAR-10's files with other pictures, and tell both readers these files' checksums."""
    batches, names = folder / CIFAR10.base_folder, list(cifar10.BATCHES)
    batches.mkdir()
    rows = images.flatten(1).repeat(1 + 10_000 // len(images), 1)[:10_000].numpy()
    texts = {
        name: pickle.dumps(dict(data=rows, labels=[i % 10 for i in range(10_000)]))
        for name in names
    }
    texts["batches.meta"] = pickle.dumps(dict(label_names=list(cifar10.CLASS_NAMES)))
    sums = {}
    for name, text in texts.items():
        (batches / name).write_bytes(text)
        sums[name] = hashlib.md5(text, usedforsecurity=False).hexdigest()
    cifar10.BATCHES.update({name: sums[name] for name in names})
    CIFAR10.train_list, CIFAR10.test_list = (
        [[name, sums[name]] for name in part] for part in (names[:5], names[5:])
    )
    CIFAR10.meta = CIFAR10.meta | dict(md5=sums["batches.meta"])


def write_folder(folder, pictures):
    """Write PNG files, every tenth into the test split."""
    for i, (image, y) in enumerate(zip(pictures.images, pictures.labels.tolist(), strict=True)):
        path = folder / ("train" if i % 10 else "test") / pictures.class_names[y] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(image).save(path)


def until(starts, marks, turns):
    """Seconds until batch 1, 4, ... of views is there, of {name: function that starts batches}: {name: rows}."""
    seconds = {name: [] for name in starts}
    for turn in range(turns + 1):  # the first warms up
        for name, start in starts.items():
            began = time.perf_counter()
            there = [
                time.perf_counter() - began for _ in zip(range(marks[-1]), start(), strict=False)
            ]
            seconds[name] += [there] * (turn > 0)
            print(f"\rturn {turn} of {turns}: {name:40}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rows = {
        k: against({name: [t[k - 1] for t in times] for name, times in seconds.items()}, OURS)
        for k in marks
    }
    return {name: [dict(at=k, **rows[k][name]) for k in marks] for name in starts}


def check(folder):
    """Exit unless both readers find the same pictures."""
    ours, theirs = (
        data.load("cifar10").images,
        torch.from_numpy(CIFAR10(folder).data).permute(0, 3, 1, 2),
    )
    if not torch.equal(ours, theirs):
        sys.exit("expected the same pictures from replearn and torchvision, found other ones")
    return ours


def loaders(dataset):
    """lightly's side: {name: function that starts batches}; `dataset` makes the data set."""
    return {label(n): lambda n=n: load(dataset(), LIGHTLY.batch_size, n) for n in (0, 2)}


def measure(folder, count, turns):
    """Write the files and time all starts: {what: {name: rows}}."""
    from lightly.data import LightlyDataset

    pictures, path = data.load("shapes", size=count), folder / "pictures"
    write_cifar10(folder, pictures.images)
    write_folder(path, pictures)
    images = check(folder)[:2048]
    memory = Pictures(images)
    kept = load(memory, LIGHTLY.batch_size, 2, persistent=True)
    ours = lambda name: views_of(LIGHTLY, data.load(name).images)

    def first_time():
        for cache in folder.glob("*.npz"):
            cache.unlink()
        return ours(path)

    starts = {
        "CIFAR-10, torchvision's files": {OURS: lambda: ours("cifar10")}
        | loaders(lambda: CIFAR10(folder, transform=TRANSFORM)),
        f"a folder of {count:,} pictures": {
            OURS: lambda: ours(path),
            "replearn, the first time": first_time,
        }
        | loaders(lambda: LightlyDataset(str(path / "train"), transform=TRANSFORM)),
        "a later epoch, 2,048 pictures in memory": {OURS: lambda: views_of(LIGHTLY, images)}
        | loaders(lambda: memory)
        | {label(2) + ", kept": lambda: kept},
    }
    return {what: until(these, (1, 4, 16), turns) for what, these in starts.items()}


def main():
    """Run the benchmark, print and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pictures", type=int, default=10_000, help="in the folder, a tenth of them for tests"
    )
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["REPLEARN_DATA"] = folder
        found = measure(Path(folder), a.pictures, a.turns)
    record(
        "loader",
        "How long does it take until the first views are there, and the next ones?",
        [
            dict(
                title=f"From asking for pictures to views: {what}",
                size="batches of 128 pictures, two views each",
                unit="seconds until they are there",
                ours=OURS,
                curves=curves,
            )
            for what, curves in found.items()
        ],
        (),
        ("torchvision", "lightly", "pillow"),
        a.out,
    )


if __name__ == "__main__":
    main()
