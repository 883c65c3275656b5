"""Measure the released encoders again, on all images, by the probes of this package.

    REPLEARN_DATA=FOLDER python -m scripts.score_released originals [NAME ...]

FOLDER holds cifar10.npz and the weights, NAME.safetensors. `originals` (CIFAR-10 as published) or
`jpeg` (each image re-compressed) says which copy it is; the result becomes the entry of that name
under "measured" in the card, replearn/checkpoints/released/NAME.json. Features are kept piece by
piece in --folder, so that a run that was stopped goes on.
"""

import argparse
import json
import platform
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from benchmarks.shared import cpu_model
from replearn import data, metrics, models, probe
from replearn._progress import Progress
from replearn._shipped import RELEASED
from replearn.files import write_atomically, write_json
from replearn.pretrain.evaluation import few_shot, sgd_probe

PIECE = 2500  # images whose features are one file
L2 = 1e-3  # of the linear probe that is fitted to convergence
VOTES = 20


def features_of(encoder: nn.Module, images: torch.Tensor, folder: Path) -> torch.Tensor:
    """Return the features (N, D), from the folder where they are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = images.split(PIECE)
    progress = Progress(folder.name, len(pieces), unit="piece", keep=False)
    found = []
    for number, piece in enumerate(pieces):
        path = folder / f"{number:03}.safetensors"
        if not path.exists():
            h = probe.extract_features(encoder, piece, batch_size=250)
            write_atomically(path, to_bytes({"h": h}))
        found.append(load_file(path)["h"])
        progress.show(number + 1)
    progress.close()
    return torch.cat(found)


def scores(h: torch.Tensor, y: torch.Tensor, h_test: torch.Tensor, y_test: torch.Tensor) -> dict:
    """Return what the probes of the package say; accuracies are fractions of the test images."""
    sgd, _ = sgd_probe(h, y, h_test, y_test)
    shots = few_shot(h, y, h_test, y_test)
    meter = metrics.collapse_meter(h_test)
    return {
        "linear_probe": round(probe.linear_probe(h, y, h_test, y_test, l2=L2), 4),
        "sgd_probe": round(sgd, 4),
        "knn": round(probe.knn_accuracy(h, y, h_test, y_test, k=VOTES), 4),
        "few_shot": {str(count): round(mean, 4) for count, (mean, _) in shots.items()},
        "effective_rank": round(meter["effective_rank"], 1),
    }


def main() -> None:
    """Measure the encoders that were named, or all released ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("copy", choices=["originals", "jpeg"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--folder", type=Path, default=Path("build/features"))
    args = parser.parse_args()
    names = args.names or sorted(path.stem for path in RELEASED.glob("*.json"))
    train_set = data.load("cifar10")
    test_set = data.load("cifar10", split="test")
    for name in names:
        encoder = models.load(name).to(memory_format=torch.channels_last)
        h, h_test = (
            features_of(encoder, part.images, args.folder / f"{name}-{args.copy}-{split}")
            for split, part in (("train", train_set), ("test", test_set))
        )
        measured = scores(h, train_set.labels, h_test, test_set.labels)
        path = RELEASED / f"{name}.json"
        card = json.loads(path.read_text("utf-8"))
        card["measured"][args.copy] = {
            **measured,
            "pictures": [len(train_set), len(test_set)],
            "device": f"{cpu_model()}, threads: {torch.get_num_threads()}",
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "command": f"python -m scripts.score_released {args.copy} {name}",
        }
        write_json(path, card)
        print(name, args.copy, measured, flush=True)


if __name__ == "__main__":
    main()
